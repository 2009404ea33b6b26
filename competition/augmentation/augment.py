"""Augmentation of whole batches, within the training model or compiled beside it, with a draw for every picture.

What a picture meets, in this order: flips, transposition, rotation and zoom; a shift that leaves black; RandAugment;
a turn of hue and a shift of its channels; blur; noise; cutout; GridMask; and last MixUp and CutMix with another picture
of the batch, which has been through its own. RandAugment (https://arxiv.org/abs/1909.13719) draws from the ten
operations of KerasCV's, with the same meaning of magnitude (see `distortion`).

All geometry composes into one warp and all tone operations into one table of 256 entries a picture and channel, which
implies an order: geometry first, then the tone operations as drawn, on the warped picture's histograms and means. A
loss of resolution is the last of the warp. Colour degeneration, which mixes channels and so fits no table, comes before
the tables where it was drawn before every tone operation, else after them.

AugMix (https://arxiv.org/abs/1912.02781) is left out: its three chains are three warps and three tables a picture.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from competition.augmentation import operations as image_operations
from competition.augmentation import rand_augment
from competition.augmentation.operations import Tensor
from competition.augmentation.rand_augment import Operation
from competition.config import AugmentationConfig

# Evenly drawn numbers in 0..1 that every picture gets, by name; those ending in `_on` decide whether it happens.
EVEN_DRAWS = (
    *("flip_x", "flip_y", "transpose", "rotation", "zoom", "zoom_on", "resize", "resize_on"),
    *("shift_x", "shift_y", "shift_on"),
    *("hue", "hue_on", "red", "green", "blue", "channel_shift_on"),
    *(
        "blur",
        "blur_on",
        "noise",
        "noise_on",
        "noise_offset",
        "cutout",
        "cutout_x",
        "cutout_y",
        "cutout_on",
    ),
    *("grid_mask", "grid_mask_x", "grid_mask_y", "grid_mask_on"),
    *("partner", "cutmix", "cutmix_x", "cutmix_y", "cutmix_on", "mixup", "mixup_on"),
)
# The same for each of a picture's RandAugment operations.
OPERATION_DRAWS = ("operation", "operation_on", "sign", "even")

SMALLEST_PERIOD = (
    96 / 224
)  # of GridMask, as a share of the picture's side: the paper's, which draws evenly up to 1


@functools.cache
def compile_augmentation(
    config: AugmentationConfig, picture_shape: tuple[int, ...], num_classes: int
) -> Callable[[Any, Any, Any], Any]:
    """Return what does as the layer in training to uint8 pictures and labels; a first argument, (2,) uint32, says how.

    It is compiled once a process, and outside of any model. Within one, TensorFlow on a CPU would compile it for each
    model and keep it for good: half a second and 2.4 MB.
    """
    layer = Augmentation(config, 0)

    def augment_by(state: Tensor, images: Tensor, labels: Tensor) -> Any:
        with keras.StatelessScope([(layer.seed_generator.state, state)]):
            return layer(images, labels, training=True)

    kinds = ((2,), "uint32"), ((None, *picture_shape), "uint8"), ((None, num_classes), "float32")
    return image_operations.compile_once(augment_by, *kinds)


class Augmentation(keras.layers.Layer):
    """Pictures (n, h, w, 3) uint8 or float in 0..255, labels (n, K) -> both float32, pictures in 0..255.

    Augments when called with `training=True`, and mixes the labels where `config` says so; otherwise it only casts.
    seed_generator: its only source of randomness; the same state gives the same pictures.
    """

    def __init__(self, config: AugmentationConfig, seed: int) -> None:
        super().__init__(name="augmentation", dtype="float32", trainable=False)
        self.config = config
        self.seed_generator = keras.random.SeedGenerator(seed)

    def call(self, images: Tensor, labels: Tensor, training: bool = False) -> Any:
        if training:
            draws = draw(ops.shape(images), self.config, self.seed_generator)
            images = augment(images, draws, self.config)
            if self.config.cutmix or self.config.mixup:
                images, labels = mix(images, labels, draws, self.config)
        return ops.cast(images, "float32"), labels

    def compute_output_shape(self, images_shape: Any, labels_shape: Any) -> Any:
        return images_shape, labels_shape


def draw(
    shape: tuple[Any, ...], config: AugmentationConfig, seed: keras.random.SeedGenerator
) -> dict[str, Tensor]:
    """Return every random number for a batch of `shape` (n, h, w, 3).

    Those of EVEN_DRAWS are (n,); those of OPERATION_DRAWS (n, num_operations), as are `strength` and `second`, drawn
    around the magnitude, in 0..1. `field` (h * w, 3) is standard normal: noise that all pictures read, each from its
    own `noise_offset` on, since a field for every picture would cost more than all the rest.
    """
    count, number = shape[0], config.num_operations
    even = keras.random.uniform((count, len(EVEN_DRAWS) + number * len(OPERATION_DRAWS)), seed=seed)
    draws = {name: even[:, column] for column, name in enumerate(EVEN_DRAWS)}
    if number:
        for index, name in enumerate(OPERATION_DRAWS):
            start = len(EVEN_DRAWS) + index * number
            draws[name] = even[:, start : start + number]
        normal = keras.random.normal(
            (count, 2 * number), config.magnitude, config.magnitude_deviation, seed=seed
        )
        strength = ops.clip(normal, 0.0, 1.0)
        draws |= {"strength": strength[:, :number], "second": strength[:, number:]}
    if config.noise:
        draws["field"] = keras.random.normal((shape[1] * shape[2], 3), seed=seed)
    return draws


def augment(images: Tensor, draws: dict[str, Tensor], config: AugmentationConfig) -> Tensor:
    """Return `images` (n, h, w, 3) in 0..255, changed as `draws` say, as float32 in 0..255."""
    chosen = choose_operations(draws, config)
    result = warp(images, draws, chosen, config) if _moves(config) else ops.cast(images, "float32")
    angle = _occasional(draws, "hue", config, 2 * math.pi * config.hue * _signed(draws["hue"]))
    matrix = image_operations.hue_turn(angle)
    if chosen:
        first, last = (
            image_operations.degeneration(share) for share in rand_augment.color_shares(chosen)
        )
        result = rand_augment.apply_tables(image_operations.mix_and_round(result, first), chosen)
        matrix = ops.matmul(matrix, last)
    if chosen or config.hue or config.channel_shift:
        result = image_operations.mix_colors(result, matrix, _channel_shift(draws, config))
    for setting, step in OCCASIONAL.items():
        if getattr(config, setting):
            result = step(result, draws, config)
    return result


def choose_operations(draws: dict[str, Tensor], config: AugmentationConfig) -> list[Operation]:
    """Return each picture's RandAugment operations, in the order in which they were drawn."""
    return [_choose(draws, config, index) for index in range(config.num_operations)]


def _choose(draws: dict[str, Tensor], config: AugmentationConfig, index: int) -> Operation:
    drawn = {name: draws[name][:, index] for name in (*OPERATION_DRAWS, "strength", "second")}
    chosen = ops.cast(ops.floor(drawn["operation"] * len(rand_augment.OPERATIONS)), "int32")
    return Operation(
        chosen=ops.where(drawn["operation_on"] < config.rate, chosen, -1),
        strength=drawn["strength"],
        second=drawn["second"],
        signed=ops.where(drawn["sign"] < 0.5, -drawn["strength"], drawn["strength"]),
        even=config.magnitude * _signed(drawn["even"]),
    )


def _moves(config: AugmentationConfig) -> bool:
    mirrors = config.flips or config.transposition
    return mirrors or any(
        (config.num_operations, config.rotation, config.zoom, config.resize, config.black_shift)
    )


def warp(
    images: Tensor, draws: dict[str, Tensor], chosen: list[Operation], config: AugmentationConfig
) -> Tensor:
    """Return `images` after all geometry, read once: each pixel is followed back from the last step to the first."""
    x, y, visible = _find_sources(draws, chosen, config, *images.shape[1:3])
    return _read(images, x, y, visible, config.interpolation)


@image_operations.fused
def _find_sources(
    draws: dict[str, Tensor],
    chosen: list[Operation],
    config: AugmentationConfig,
    height: int,
    width: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return where each pixel of the result is read, x and y, and whether it is not black, all (n, h, w) float32."""
    x, y = (
        ops.arange(width, dtype="float32")[None, None, :],
        ops.arange(height, dtype="float32")[None, :, None],
    )
    if config.resize:
        loss = _occasional(draws, "resize", config, config.resize * draws["resize"])[:, None, None]
        x, y = image_operations.coarsen(x, width, loss), image_operations.coarsen(y, height, loss)
    outside: list[Tensor] = []
    if chosen:
        matrices = [
            rand_augment.shear_and_translate(operation, height, width) for operation in chosen
        ]
        x, y = _follow(
            functools.reduce(ops.matmul, matrices), x, y, outside, (height, width), config.fill
        )
    if config.black_shift:
        move_x, move_y = _black_shift(draws, config)
        x, y = (
            x - ops.round(move_x * width)[:, None, None],
            y - ops.round(move_y * height)[:, None, None],
        )
        outside.append(~image_operations.is_inside(x, y, height, width))
    x, y = _follow(
        _turn(draws, config, (height, width)), x, y, outside, (height, width), config.fill
    )
    black = functools.reduce(ops.logical_or, outside, ops.zeros_like(x, dtype="bool"))
    return x, y, ops.cast(~black, "float32")


@image_operations.fused
def _read(images: Tensor, x: Tensor, y: Tensor, visible: Tensor, interpolation: str) -> Tensor:
    return image_operations.sample(images, x, y, interpolation) * visible[..., None]


def _follow(
    matrix: Tensor, x: Tensor, y: Tensor, outside: list[Tensor], side: tuple[int, int], fill: str
) -> tuple[Tensor, Tensor]:
    """Return where `matrix` leads, folded into the picture; with constant fill `outside` gains what left it."""
    x, y = image_operations.place(matrix, x, y)
    if fill == "constant":
        outside.append(~image_operations.is_inside(x, y, *side))
    return image_operations.mirror(x, side[1]), image_operations.mirror(y, side[0])


def _black_shift(draws: dict[str, Tensor], config: AugmentationConfig) -> list[Tensor]:
    """Return how far the content moves right and down, (n,) each, as shares of the side."""
    happens = draws["shift_on"] < config.black_shift_rate
    return [
        ops.where(happens, config.black_shift * _signed(draws[name]), 0.0)
        for name in ("shift_x", "shift_y")
    ]


def _turn(draws: dict[str, Tensor], config: AugmentationConfig, side: tuple[int, int]) -> Tensor:
    zoom = 1.0 + config.zoom * _occasional(draws, "zoom", config, _signed(draws["zoom"]))
    return image_operations.turn_about_center(
        flip_x=(draws["flip_x"] < 0.5) & config.flips,
        flip_y=(draws["flip_y"] < 0.5) & config.flips,
        transpose=(draws["transpose"] < 0.5) & config.transposition,
        angle=2 * math.pi * config.rotation * _signed(draws["rotation"]),
        zoom=zoom,
        side=side,
    )


def _channel_shift(draws: dict[str, Tensor], config: AugmentationConfig) -> Tensor:
    shifts = ops.stack([_signed(draws[name]) for name in ("red", "green", "blue")], axis=-1)
    return _occasional(draws, "channel_shift", config, 255.0 * config.channel_shift * shifts)


def _blur(images: Tensor, draws: dict[str, Tensor], config: AugmentationConfig) -> Tensor:
    return image_operations.blur(
        images, _occasional(draws, "blur", config, config.blur * draws["blur"])
    )


def _noise(images: Tensor, draws: dict[str, Tensor], config: AugmentationConfig) -> Tensor:
    offset = ops.cast(ops.floor(draws["noise_offset"] * draws["field"].shape[0]), "int32")
    deviation = _occasional(draws, "noise", config, 255.0 * config.noise * draws["noise"])
    return image_operations.add_noise(images, draws["field"], offset, deviation)


def _cutout(images: Tensor, draws: dict[str, Tensor], config: AugmentationConfig) -> Tensor:
    side = _occasional(draws, "cutout", config, config.cutout * (0.5 + 0.5 * draws["cutout"]))
    return image_operations.cut_out(images, draws["cutout_x"], draws["cutout_y"], side)


def _grid_mask(images: Tensor, draws: dict[str, Tensor], config: AugmentationConfig) -> Tensor:
    period = SMALLEST_PERIOD + (1.0 - SMALLEST_PERIOD) * draws["grid_mask"]
    side = _occasional(draws, "grid_mask", config, ops.full_like(period, config.grid_mask))
    return image_operations.mask_grid(
        images, period, draws["grid_mask_x"], draws["grid_mask_y"], side
    )


# What comes last, in this order; a step whose setting is 0 is left out.
OCCASIONAL: dict[str, Callable[[Tensor, dict[str, Tensor], AugmentationConfig], Tensor]] = {
    "blur": _blur,
    "noise": _noise,
    "cutout": _cutout,
    "grid_mask": _grid_mask,
}


def mix(
    images: Tensor, labels: Tensor, draws: dict[str, Tensor], config: AugmentationConfig
) -> tuple[Tensor, Tensor]:
    """Return `images` and `labels` (n, K), float32, mixed by CutMix and MixUp with partners that `draws` name.

    The share of either is drawn evenly, the papers' Beta(1, 1); a partner may be the picture itself.
    """
    partner = ops.floor(draws["partner"] * ops.cast(ops.shape(images)[0], "float32"))
    share = ops.where(draws["mixup_on"] < config.mixup, draws["mixup"], 0.0)
    side = ops.where(draws["cutmix_on"] < config.cutmix, ops.sqrt(draws["cutmix"]), 0.0)
    center = draws["cutmix_x"], draws["cutmix_y"]
    return image_operations.mix(images, labels, ops.cast(partner, "int32"), share, *center, side)


def _occasional(
    draws: dict[str, Tensor], name: str, config: AugmentationConfig, values: Tensor
) -> Tensor:
    """Return `values` (n,) or (n, 3) where the draw `<name>_on` says that it happens, else 0."""
    happens = draws[f"{name}_on"] < config.occasional_rate
    return ops.where(happens if len(values.shape) == 1 else happens[:, None], values, 0.0)


def _signed(draw: Tensor) -> Tensor:
    """Return evenly drawn -1..1 of evenly drawn 0..1."""
    return 2.0 * draw - 1.0


# The kinds of change that each setting brings where it is not 0 (RandAugment's ten operations are all in the first).
# No profile that stands for what was not practised may hold one of them: `corruptions.UNSEEN`.
FAMILIES = {
    "num_operations": ("tone_curve", "color_mixing", "affine_warp"),
    "flips": ("affine_warp",),
    "transposition": ("affine_warp",),
    "rotation": ("affine_warp",),
    "zoom": ("affine_warp",),
    "black_shift": ("affine_warp", "hidden_part"),
    "hue": ("color_mixing",),
    "channel_shift": ("tone_curve",),
    "noise": ("noise",),
    "blur": ("blur",),
    "cutout": ("hidden_part",),
    "grid_mask": ("hidden_part",),
    "resize": ("pixelation",),
    "cutmix": ("hidden_part", "blended_pictures"),
    "mixup": ("blended_pictures",),
}


def contained_families(config: AugmentationConfig) -> set[str]:
    """Return the kinds of change that pictures meet with `config`."""
    return {
        family
        for setting, families in FAMILIES.items()
        if getattr(config, setting)
        for family in families
    }
