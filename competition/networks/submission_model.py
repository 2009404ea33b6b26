"""The submitted network, its test-time views and `Model`; packaging copies this file as `model.py`.

It stands alone (standard library, numpy and keras) and runs on Keras 3.4.1 as well as on today's.
"""

import json
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np

# Each view maps (n, h, w, ...) to the same shape, h = w: a cell looks alike from every side.
VIEWS: tuple[Callable[[np.ndarray], np.ndarray], ...] = (
    lambda x: x,
    lambda x: x[:, :, ::-1],
    lambda x: x[:, ::-1],
    lambda x: x[:, ::-1, ::-1],
    lambda x: x.swapaxes(1, 2),
    lambda x: x[:, :, ::-1].swapaxes(1, 2),
    lambda x: x[:, ::-1].swapaxes(1, 2),
    lambda x: x[:, ::-1, ::-1].swapaxes(1, 2),
)


def build_custom_cnn(
    input_shape: tuple[int | None, ...], include_top: bool = False, weights: None = None
) -> keras.Model:
    """Return the project's own backbone, with 1.2 million parameters.

    It has a strided stem and four stages of two convolutions.
    """
    return _plain_cnn(input_shape, filters=(32, 64, 128, 256), convolutions=2)


def build_tiny_cnn(
    input_shape: tuple[int | None, ...], include_top: bool = False, weights: None = None
) -> keras.Model:
    """Return a backbone for tests: two stages of one convolution."""
    return _plain_cnn(input_shape, filters=(8, 16), convolutions=1)


# EfficientNet-Lite0 by rows: expansion, filters, blocks, strides of the first one, kernel's side.
LITE0_ROWS = (
    (1, 16, 1, 1, 3),
    (6, 24, 2, 2, 3),
    (6, 40, 2, 2, 5),
    (6, 80, 3, 2, 3),
    (6, 112, 3, 1, 5),
    (6, 192, 4, 2, 5),
    (6, 320, 1, 1, 3),
)


def build_efficientnet_lite0(
    input_shape: tuple[int | None, ...], include_top: bool = False, weights: None = None
) -> keras.Model:
    """Return EfficientNet-Lite0: EfficientNetB0 with ReLU6, and without squeeze-and-excitation.

    Source: github.com/tensorflow/tpu, models/official/efficientnet/lite (Liu 2020).
    """
    inputs = keras.Input(input_shape)
    x = keras.layers.Rescaling(1 / 128, offset=-127 / 128)(inputs)
    x = _convolve(x, 32, strides=2, ceiling=6)
    for expansion, filters, blocks, strides, side in LITE0_ROWS:
        for block in range(blocks):
            x = _invert_residual(x, expansion, filters, 1 if block else strides, side)
    return keras.Model(inputs, _convolve(x, 1280, side=1, ceiling=6))


def _invert_residual(x: Any, expansion: int, filters: int, strides: int, side: int) -> Any:
    kept, channels = x, x.shape[-1]
    if expansion > 1:
        x = _convolve(x, expansion * channels, side=1, ceiling=6)
    x = keras.layers.DepthwiseConv2D(side, strides=strides, padding="same", use_bias=False)(x)
    x = keras.layers.ReLU(6)(keras.layers.BatchNormalization()(x))
    x = keras.layers.BatchNormalization()(keras.layers.Conv2D(filters, 1, use_bias=False)(x))
    return keras.layers.Add()([kept, x]) if (strides, filters) == (1, channels) else x


def _plain_cnn(
    input_shape: tuple[int | None, ...], filters: tuple[int, ...], convolutions: int
) -> keras.Model:
    inputs = keras.Input(input_shape)
    x = keras.layers.Rescaling(1 / 127.5, offset=-1)(inputs)
    x = _convolve(x, filters[0], strides=2)
    for width in filters:
        for _ in range(convolutions):
            x = _convolve(x, width)
        x = keras.layers.MaxPooling2D()(x)
    return keras.Model(inputs, x)


def _convolve(
    x: Any, filters: int, strides: int = 1, side: int = 3, ceiling: float | None = None
) -> Any:
    x = keras.layers.Conv2D(filters, side, strides=strides, padding="same", use_bias=False)(x)
    return keras.layers.ReLU(ceiling)(keras.layers.BatchNormalization()(x))


LOCAL_BUILDERS = {
    "custom_cnn": build_custom_cnn,
    "efficientnet_lite0": build_efficientnet_lite0,
    "tiny_cnn": build_tiny_cnn,
}


def ignore_keras_json() -> None:
    """Let networks be channels last and float32, whatever a user's keras.json says."""
    keras.config.set_image_data_format("channels_last")
    keras.config.set_floatx("float32")


def build_backbone(
    builder: str, arguments: dict[str, Any], input_shape: tuple[int | None, ...]
) -> keras.Model:
    """Return a backbone with random weights that takes pixels in 0..255.

    builder: a name in LOCAL_BUILDERS or in keras.applications.
    """
    ignore_keras_json()
    build = LOCAL_BUILDERS.get(builder) or getattr(keras.applications, builder)
    return build(input_shape=input_shape, include_top=False, weights=None, **arguments)


def build_network(spec: dict[str, Any]) -> keras.Model:
    """Return the network (n, h, w, 3) in 0..255 -> (n, classes) probabilities, with random weights.

    spec: builder, arguments, image_shape [h, w, 3], input_size (0: no resizing), head_units,
    dropout, num_classes.
    """
    ignore_keras_json()
    inputs = keras.Input(tuple(spec["image_shape"]))
    size = spec["input_size"] or spec["image_shape"][0]
    x = inputs if size == spec["image_shape"][0] else keras.layers.Resizing(size, size)(inputs)
    x = build_backbone(spec["builder"], spec["arguments"], (None, None, 3))(x)
    return keras.Model(inputs, build_head(keras.layers.GlobalAveragePooling2D()(x), spec))


def build_head(x: Any, spec: dict[str, Any]) -> Any:
    """Return probabilities (n, classes) of the backbone's pooled output (n, d)."""
    x = keras.layers.Dense(spec["head_units"], activation="relu")(x)
    x = keras.layers.Dropout(spec["dropout"])(x)
    return keras.layers.Dense(spec["num_classes"], activation="softmax", dtype="float32")(x)


def predict_views(
    network: keras.Model,
    images: np.ndarray,
    views: int,
    batch_size: int,
    track: Callable[[Iterable[int]], Iterable[int]] = iter,
    convert: Callable[[np.ndarray], np.ndarray] = np.asarray,
    first_view: int = 0,
) -> np.ndarray:
    """Return the probabilities (views, n, classes) float32 of the first `views` views.

    The first view is the image itself. images: (n, h, w, 3), in 0..255 after `convert`, which takes
    them batch by batch. One view of one batch is in memory at a time. Every batch has the same
    shape, so that an image's numbers do not depend on its neighbours. track: wraps the loop over
    batches, for progress. first_view: the views before it are left out.
    """
    result = np.empty((views - first_view, len(images), network.output_shape[-1]), np.float32)
    for start in track(range(0, len(images), batch_size)):
        batch = convert(images[start : start + batch_size]).astype(np.float32, copy=False)
        padding = [(0, batch_size - len(batch))] + [(0, 0)] * 3
        full = np.pad(batch, padding) if len(batch) < batch_size else batch
        for index, view in enumerate(VIEWS[first_view:views]):
            predicted = network.predict_on_batch(np.ascontiguousarray(view(full)))
            result[index, start : start + len(batch)] = np.asarray(predicted)[: len(batch)]
    return result


def temper(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Return the probabilities (n, classes) float32 whose logits are divided by `temperature`.

    Guo et al. 2017, On Calibration of Modern Neural Networks (arXiv 1706.04599).
    """
    largest = probabilities.max(axis=1, keepdims=True).astype(np.float64)
    powers = (probabilities / largest) ** (1 / temperature)
    return (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)


def check_images(images: Any) -> np.ndarray:
    """Return the server's images as an array; raises ValueError where they are no RGB images."""
    images = np.asarray(images)
    is_rgb = images.ndim == 4 and images.shape[-1] == 3 and 0 not in images.shape[1:]
    if not is_rgb or images.dtype.kind not in "buif":
        raise ValueError(
            f"Received {images.dtype} of shape {images.shape}; "
            "expected numbers (n, height, width, 3), images in RGB."
        )
    return images


def convert_images(images: np.ndarray, shape: Sequence[int], notes: "Counter[str]") -> np.ndarray:
    """Return images (n, h, w, 3) in 0..255, float32 or uint8, of `shape` (h, w, 3).

    uint8 is 0..255. Among other numbers, NaN becomes black, and an image whose maximum is at most 1
    counts as 0..1. Another size is resized. notes: counts the images that were changed, by change.
    """
    if images.dtype != np.uint8:
        images = _in_byte_range(images.astype(np.float32), notes)
    if images.shape[1:] != tuple(shape) and len(images):
        notes[f"are resized from {images.shape[1:3]} to {tuple(shape[:2])}"] += len(images)
        resized = keras.ops.image.resize(images.astype(np.float32), tuple(shape[:2]))
        images = np.asarray(keras.ops.convert_to_numpy(resized))
    return images.reshape(-1, *shape)


def _in_byte_range(images: np.ndarray, notes: "Counter[str]") -> np.ndarray:
    if broken := int(np.isnan(images).any(axis=(1, 2, 3)).sum()):
        notes["hold NaN, which counts as black"] += broken
    images = np.clip(np.nan_to_num(images, nan=0.0), 0, 255)  # infinities too
    largest = images.max(axis=(1, 2, 3))
    unit = (largest > 0) & (largest <= 1)
    if unit.any():
        notes["hold no value above 1 and are taken as 0..1"] += int(unit.sum())
        images[unit] *= 255
    return images


class Model:
    """The class that the server loads, with its files beside this one: `Model().predict(X)`.

    config.json: class_names, views, batch_size and members, each with a network's spec, the file of
    its weights and its share in the average.
    """

    def __init__(self, folder: Path = Path(__file__).resolve().parent) -> None:  # noqa: B008  (a constant)
        self.config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        self.networks = []
        for member in self.config["members"]:
            self.networks.append(build_network(member["network"]))
            self.networks[-1].load_weights(folder / member["weights"])

    def predict_proba(self, X: Any) -> np.ndarray:  # noqa: N803  (the server's name)
        """Return the probabilities (n, classes) float32 of images X (n, h, w, 3).

        They are averaged over views, and over members by their shares, and then calibrated by
        `temperature`, where config.json has one.
        """
        images = check_images(X)
        shape = self.config["members"][0]["network"]["image_shape"]
        size = self.config["views"], self.config["batch_size"]
        members = []
        for network in self.networks:
            notes: Counter[str] = Counter()
            convert = partial(convert_images, shape=shape, notes=notes)
            members.append(predict_views(network, images, *size, convert=convert).mean(axis=0))
        for note, count in notes.items():
            warnings.warn(f"{count} of {len(images)} images {note}.", stacklevel=2)
        shares = [member.get("share", 1) for member in self.config["members"]]
        average = np.average(members, axis=0, weights=shares).astype(np.float32)
        temperature = self.config.get("temperature", 1)
        return average if temperature == 1 else temper(average, temperature)

    def predict(self, X: Any) -> np.ndarray:  # noqa: N803
        """Return the labels (n,) int64 of images X (n, h, w, 3) with values in 0..255."""
        return self.predict_proba(X).argmax(axis=1).astype(np.int64)
