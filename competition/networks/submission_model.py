"""The submitted network, its test-time views and `Model`; packaging copies this file verbatim as `model.py`.

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

# Each view maps (n, h, w, ...) to the same shape, h = w: a cell has no up, no down and no handedness.
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
    input_shape: tuple[int, ...], include_top: bool = False, weights: None = None
) -> keras.Model:
    """Return the project's own backbone: a strided stem and four stages of two convolutions, 1.2 million parameters."""
    return _plain_cnn(input_shape, filters=(32, 64, 128, 256), convolutions=2)


def build_tiny_cnn(
    input_shape: tuple[int, ...], include_top: bool = False, weights: None = None
) -> keras.Model:
    """Return a backbone for tests: two stages of one convolution."""
    return _plain_cnn(input_shape, filters=(8, 16), convolutions=1)


def _plain_cnn(
    input_shape: tuple[int, ...], filters: tuple[int, ...], convolutions: int
) -> keras.Model:
    inputs = keras.Input(input_shape)
    x = keras.layers.Rescaling(1 / 127.5, offset=-1)(inputs)
    x = _convolve(x, filters[0], strides=2)
    for width in filters:
        for _ in range(convolutions):
            x = _convolve(x, width)
        x = keras.layers.MaxPooling2D()(x)
    return keras.Model(inputs, x)


def _convolve(x: Any, filters: int, strides: int = 1) -> Any:
    x = keras.layers.Conv2D(filters, 3, strides=strides, padding="same", use_bias=False)(x)
    return keras.layers.ReLU()(keras.layers.BatchNormalization()(x))


LOCAL_BUILDERS = {"custom_cnn": build_custom_cnn, "tiny_cnn": build_tiny_cnn}


def build_backbone(
    builder: str, arguments: dict[str, Any], input_shape: tuple[int, ...]
) -> keras.Model:
    """Return a backbone with random weights that takes pixels in 0..255; `builder` may be any of keras.applications."""
    build = LOCAL_BUILDERS.get(builder) or getattr(keras.applications, builder)
    return build(input_shape=input_shape, include_top=False, weights=None, **arguments)


def build_network(spec: dict[str, Any]) -> keras.Model:
    """Return the network (n, h, w, 3) in 0..255 -> (n, classes) probabilities, with random weights.

    spec: builder, arguments, picture_shape [h, w, 3], input_size (0: no resizing), head_units, dropout, num_classes.
    """
    inputs = keras.Input(tuple(spec["picture_shape"]))
    size = spec["input_size"] or spec["picture_shape"][0]
    x = inputs if size == spec["picture_shape"][0] else keras.layers.Resizing(size, size)(inputs)
    x = build_backbone(spec["builder"], spec["arguments"], (size, size, 3))(x)
    return keras.Model(inputs, build_head(keras.layers.GlobalAveragePooling2D()(x), spec))


def build_head(x: Any, spec: dict[str, Any]) -> Any:
    """Return probabilities (n, classes) of the backbone's pooled output (n, d)."""
    x = keras.layers.Dense(spec["head_units"], activation="relu")(x)
    x = keras.layers.Dropout(spec["dropout"])(x)
    return keras.layers.Dense(spec["num_classes"], activation="softmax")(x)


def predict_views(
    network: keras.Model,
    images: np.ndarray,
    views: int,
    batch_size: int,
    track: Callable[[Iterable[int]], Iterable[int]] = iter,
    convert: Callable[[np.ndarray], np.ndarray] = np.asarray,
) -> np.ndarray:
    """Return the probabilities (views, n, classes) float32 of the first `views` views; the first is the picture itself.

    images: (n, h, w, 3) in 0..255 once `convert` has had a batch of them. One view of one batch is in memory at a time,
    and every batch has the same shape, so that a picture's numbers do not depend on its neighbours. track: wraps the
    loop over batches, for progress.
    """
    result = np.empty((views, len(images), network.output_shape[-1]), np.float32)
    for start in track(range(0, len(images), batch_size)):
        batch = convert(images[start : start + batch_size]).astype(np.float32, copy=False)
        padding = [(0, batch_size - len(batch))] + [(0, 0)] * 3
        full = np.pad(batch, padding) if len(batch) < batch_size else batch
        pixels = np.ascontiguousarray(full).view("V12")[
            ..., 0
        ]  # three float32 as one item: mirrored in half the time
        for index, view in enumerate(VIEWS[:views]):
            turned = np.ascontiguousarray(view(pixels)).view(np.float32).reshape(full.shape)
            predicted = network.predict_on_batch(turned)
            result[index, start : start + len(batch)] = np.asarray(predicted)[: len(batch)]
    return result


def check_pictures(images: Any) -> np.ndarray:
    """Return what a server hands over as an array; raises ValueError where it is no batch of RGB pictures."""
    images = np.asarray(images)
    if (
        images.ndim != 4
        or images.shape[-1] != 3
        or 0 in images.shape[1:]
        or images.dtype.kind not in "buif"
    ):
        raise ValueError(
            f"Received {images.dtype} of shape {images.shape}; expected numbers (n, height, width, 3), pictures in RGB."
        )
    return images


def as_pictures(images: np.ndarray, shape: Sequence[int], notes: "Counter[str]") -> np.ndarray:
    """Return pictures (n, h, w, 3) in 0..255, float32 or uint8, of `shape` (h, w, 3).

    uint8 is 0..255; of other numbers, a picture whose maximum is at most 1 counts as 0..1, and NaN becomes black.
    Another size is resized. notes: counts the pictures that each of these befell.
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
    """What the competition's server runs: `Model().predict(X)`, with files beside this one.

    config.json: class_names, views, batch_size and members, each a network's spec and its weights' file.
    """

    def __init__(self, folder: Path = Path(__file__).resolve().parent) -> None:  # noqa: B008  (a constant)
        self.config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        self.networks = []
        for member in self.config["members"]:
            network = build_network(member["network"])
            network.load_weights(folder / member["weights"])
            self.networks.append(network)

    def predict_proba(self, X: Any) -> np.ndarray:  # noqa: N803  (the server's name)
        """Return the probabilities (n, classes) float32 of pictures X (n, h, w, 3), averaged over members and views."""
        images, views, batch_size = (
            check_pictures(X),
            self.config["views"],
            self.config["batch_size"],
        )
        shape = self.config["members"][0]["network"]["picture_shape"]
        members = []
        for network in self.networks:
            notes: Counter[str] = Counter()
            convert = partial(as_pictures, shape=shape, notes=notes)
            members.append(
                predict_views(network, images, views, batch_size, convert=convert).mean(axis=0)
            )
        for note, count in notes.items():
            warnings.warn(f"{count} of {len(images)} pictures {note}.", stacklevel=2)
        return np.mean(members, axis=0)

    def predict(self, X: Any) -> np.ndarray:  # noqa: N803
        """Return the labels (n,) int64 of pictures X (n, h, w, 3) with values in 0..255."""
        return self.predict_proba(X).argmax(axis=1).astype(np.int64)
