"""Augmentation of whole batches, with a draw per image.

An image meets, in this order: flips, transposition, rotation and zoom; a shift that leaves black;
RandAugment; a turn of hue and a shift of its channels; blur; noise; cutout; GridMask; and last
MixUp and CutMix with another image of the batch, which has been through its own. `AUGMENTATIONS`,
at the end of this file, has a row for each. RandAugment (https://arxiv.org/abs/1909.13719) draws
from the ten operations of KerasCV's; a magnitude means the same as in `distortion`.

All geometry composes into one warp, and all tone operations into one table of 256 entries per image
and channel. That implies an order: geometry first, then the tone operations as drawn, on the warped
image's histograms and means. A loss of resolution is the last of the warp. Colour degeneration
mixes channels and so fits no table. It comes before the tables where it was drawn before every tone
operation, else after them.

AugMix (https://arxiv.org/abs/1912.02781) is left out: its three chains are three warps and three
tables per image.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
from keras import ops

from competition.augmentation import operations, rand_augment
from competition.augmentation.operations import Tensor
from competition.augmentation.rand_augment import Operation
from competition.common.tensorflow_workarounds import compile_apart, fused
from competition.config import AugmentationConfig

# Evenly drawn numbers in 0..1 for each of an image's RandAugment operations.
OPERATION_DRAWS = ("operation", "operation_on", "sign", "even")

# Of GridMask, as a share of the image's side: the paper's, which draws evenly up to 1.
SMALLEST_PERIOD = 96 / 224


@functools.lru_cache(maxsize=1)  # a search tries many, and each takes 35 MB
def compile_augmentation(
    config: AugmentationConfig, image_shape: tuple[int, ...], num_classes: int
) -> Callable[[Any, Any, Any], Any]:
    """Return the compiled augmentation: (state, images, labels) -> (images, labels).

    state: (2,) uint32, which decides all draws. images: (n, h, w, 3) uint8 -> float32 in 0..255.
    labels: (n, K) float32. The latest one is kept for as long as this process lives, outside of
    any model.
    """
    seed = keras.random.SeedGenerator(0)

    def augment_by(state: Tensor, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        with keras.StatelessScope([(seed.state, state)]):
            return augment_batch(images, labels, config, seed)

    kinds = ((2,), "uint32"), ((None, *image_shape), "uint8"), ((None, num_classes), "float32")
    return compile_apart(augment_by, *kinds)


def augment_batch(
    images: Tensor,
    labels: Tensor,
    config: AugmentationConfig,
    seed: keras.random.SeedGenerator,
) -> tuple[Tensor, Tensor]:
    """Return images (n, h, w, 3) in 0..255 as float32 and labels (n, K), both augmented.

    seed: the only source of randomness; one state of it gives the same images.
    """
    draws = draw(ops.shape(images), config, seed)
    images = augment(images, draws, config)
    if config.cutmix or config.mixup:
        return mix(images, labels, draws, config)
    return images, labels


def draw(
    shape: tuple[Any, ...], config: AugmentationConfig, seed: keras.random.SeedGenerator
) -> dict[str, Tensor]:
    """Return every random number for a batch of `shape` (n, h, w, 3).

    EVEN_DRAWS: (n,) each. OPERATION_DRAWS: (n, num_operations) each. `strength` and `second` have
    the same shape, and are drawn around the magnitude, in 0..1. `field` (h * w, 3) is standard
    normal noise. All images read it, each from its own `noise_offset` on: a field per image would
    cost more than all the rest.
    """
    count = shape[0]
    number = config.num_operations
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
    """Return `images` (n, h, w, 3) in 0..255 as float32 after all but mixing, as `draws` say."""
    steps = dict.fromkeys(
        step for row in AUGMENTATIONS if getattr(config, row.setting) for step in row.steps
    )
    if warp not in steps:  # which reads bytes faster than floats
        images = ops.cast(images, "float32")
    for step in steps:
        images = step(images, draws, config)
    return images


def warp(images: Tensor, draws: dict[str, Tensor], config: AugmentationConfig) -> Tensor:
    """Return `images` after all geometry: each pixel is read once, from its source."""
    chosen = choose_operations(draws, config)
    x, y, visible = _find_sources(draws, chosen, config, *images.shape[1:3])
    return _read(images, x, y, visible, config.interpolation)


def choose_operations(draws: dict[str, Tensor], config: AugmentationConfig) -> list[Operation]:
    """Return each image's RandAugment operations, in the order in which they were drawn."""
    chosen = []
    for index in range(config.num_operations):
        drawn = {name: draws[name][:, index] for name in (*OPERATION_DRAWS, "strength", "second")}
        number = ops.cast(ops.floor(drawn["operation"] * len(rand_augment.OPERATIONS)), "int32")
        operation = Operation(
            chosen=ops.where(drawn["operation_on"] < config.rate, number, -1),
            strength=drawn["strength"],
            second=drawn["second"],
            signed=ops.where(drawn["sign"] < 0.5, -drawn["strength"], drawn["strength"]),
            even=config.magnitude * _signed(drawn["even"]),
        )
        chosen.append(operation)
    return chosen


@fused
def _find_sources(
    draws: dict[str, Tensor],
    chosen: list[Operation],
    config: AugmentationConfig,
    height: int,
    width: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the source x and y of each pixel, and 0 for black pixels else 1, (n, h, w) float32."""
    x = ops.arange(width, dtype="float32")[None, None, :]
    y = ops.arange(height, dtype="float32")[None, :, None]
    if config.resize:
        loss = _occasional(draws, "resize", config, config.resize * draws["resize"])[:, None, None]
        x = operations.coarsen(x, width, loss)
        y = operations.coarsen(y, height, loss)
    outside: list[Tensor] = []
    side = (height, width)
    if chosen:
        matrices = [rand_augment.shear_and_translate(operation, *side) for operation in chosen]
        x, y = _follow(functools.reduce(ops.matmul, matrices), x, y, outside, side, config.fill)
    if config.black_shift:
        reach = ops.where(draws["shift_on"] < config.black_shift_rate, config.black_shift, 0.0)
        x = x - ops.round(reach * _signed(draws["shift_x"]) * width)[:, None, None]
        y = y - ops.round(reach * _signed(draws["shift_y"]) * height)[:, None, None]
        outside.append(~operations.is_inside(x, y, *side))
    x, y = _follow(_turn(draws, config, side), x, y, outside, side, config.fill)
    black = functools.reduce(ops.logical_or, outside, ops.zeros_like(x, dtype="bool"))
    return x, y, ops.cast(~black, "float32")


@fused
def _read(images: Tensor, x: Tensor, y: Tensor, visible: Tensor, interpolation: str) -> Tensor:
    return operations.sample(images, x, y, interpolation) * visible[..., None]


def _follow(
    matrix: Tensor, x: Tensor, y: Tensor, outside: list[Tensor], side: tuple[int, int], fill: str
) -> tuple[Tensor, Tensor]:
    """Return where `matrix` leads, mirrored into the image; with constant fill `outside` grows."""
    x, y = operations.place(matrix, x, y)
    if fill == "constant":
        outside.append(~operations.is_inside(x, y, *side))
    return operations.mirror(x, side[1]), operations.mirror(y, side[0])


def _turn(draws: dict[str, Tensor], config: AugmentationConfig, side: tuple[int, int]) -> Tensor:
    return operations.turn_about_center(
        flip_x=(draws["flip_x"] < 0.5) & config.flips,
        flip_y=(draws["flip_y"] < 0.5) & config.flips,
        transpose=(draws["transpose"] < 0.5) & config.transposition,
        angle=2 * math.pi * config.rotation * _signed(draws["rotation"]),
        zoom=1.0 + config.zoom * _occasional(draws, "zoom", config, _signed(draws["zoom"])),
        side=side,
    )


def change_colors(images: Tensor, draws: dict[str, Tensor], config: AugmentationConfig) -> Tensor:
    """Return float32 `images` after RandAugment's tones and colours, turn of hue and shift."""
    angle = _occasional(draws, "hue", config, 2 * math.pi * config.hue * _signed(draws["hue"]))
    matrix = operations.hue_turn(angle)
    if chosen := choose_operations(draws, config):
        first, last = rand_augment.color_shares(chosen)
        grey = operations.mix_and_round(images, operations.degeneration(first))
        images = rand_augment.apply_tables(grey, chosen)
        matrix = ops.matmul(matrix, operations.degeneration(last))
    drawn = ops.stack([_signed(draws[name]) for name in ("red", "green", "blue")], axis=-1)
    shift = _occasional(draws, "channel_shift", config, 255.0 * config.channel_shift * drawn)
    return operations.mix_colors(images, matrix, shift)


def _blur(images: Tensor, draws: dict[str, Tensor], config: AugmentationConfig) -> Tensor:
    return operations.blur(images, _occasional(draws, "blur", config, config.blur * draws["blur"]))


def _noise(images: Tensor, draws: dict[str, Tensor], config: AugmentationConfig) -> Tensor:
    offset = ops.cast(ops.floor(draws["noise_offset"] * draws["field"].shape[0]), "int32")
    deviation = _occasional(draws, "noise", config, 255.0 * config.noise * draws["noise"])
    return operations.add_noise(images, draws["field"], offset, deviation)


def _cutout(images: Tensor, draws: dict[str, Tensor], config: AugmentationConfig) -> Tensor:
    side = _occasional(draws, "cutout", config, config.cutout * (0.5 + 0.5 * draws["cutout"]))
    return operations.cut_out(images, draws["cutout_x"], draws["cutout_y"], side)


def _grid_mask(images: Tensor, draws: dict[str, Tensor], config: AugmentationConfig) -> Tensor:
    period = SMALLEST_PERIOD + (1.0 - SMALLEST_PERIOD) * draws["grid_mask"]
    side = _occasional(draws, "grid_mask", config, ops.full_like(period, config.grid_mask))
    return operations.mask_grid(images, period, draws["grid_mask_x"], draws["grid_mask_y"], side)


def mix(
    images: Tensor, labels: Tensor, draws: dict[str, Tensor], config: AugmentationConfig
) -> tuple[Tensor, Tensor]:
    """Return `images` and `labels` (n, K), float32, mixed by CutMix and MixUp with their partners.

    The share of either is drawn evenly, the papers' Beta(1, 1). An image may be its own partner.
    """
    partner = ops.floor(draws["partner"] * ops.cast(ops.shape(images)[0], "float32"))
    share = ops.where(draws["mixup_on"] < config.mixup, draws["mixup"], 0.0)
    side = ops.where(draws["cutmix_on"] < config.cutmix, ops.sqrt(draws["cutmix"]), 0.0)
    center = draws["cutmix_x"], draws["cutmix_y"]
    return operations.mix(images, labels, ops.cast(partner, "int32"), share, *center, side)


def _occasional(
    draws: dict[str, Tensor], name: str, config: AugmentationConfig, values: Tensor
) -> Tensor:
    """Return `values` (n,) or (n, 3) where the draw `<name>_on` lets it happen, else 0."""
    happens = draws[f"{name}_on"] < config.occasional_rate
    return ops.where(happens if len(values.shape) == 1 else happens[:, None], values, 0.0)


def _signed(draw: Tensor) -> Tensor:
    """Return evenly drawn -1..1 of evenly drawn 0..1."""
    return 2.0 * draw - 1.0


class Row(NamedTuple):
    """One augmentation, which is left out where `setting` is 0 or False.

    families: the kinds of change that it brings. The profile `unseen` may hold none of them
    (`distortion.corruptions.UNSEEN`). steps: the functions that apply it, or none where `mix`
    does. draws: the evenly drawn numbers in 0..1 that it needs per image; `_on` decides whether it
    happens.
    """

    setting: str
    families: tuple[str, ...]
    steps: tuple[Callable[[Tensor, dict[str, Tensor], AugmentationConfig], Tensor], ...]
    draws: tuple[str, ...] = ()


# The order is that of the steps, and of the draws within the random numbers of a batch.
AUGMENTATIONS = (
    Row("num_operations", ("affine_warp", "tone_curve", "color_mixing"), (warp, change_colors)),
    Row("flips", ("affine_warp",), (warp,), ("flip_x", "flip_y")),
    Row("transposition", ("affine_warp",), (warp,), ("transpose",)),
    Row("rotation", ("affine_warp",), (warp,), ("rotation",)),
    Row("zoom", ("affine_warp",), (warp,), ("zoom", "zoom_on")),
    Row("resize", ("pixelation",), (warp,), ("resize", "resize_on")),
    Row("black_shift", ("affine_warp", "hidden_part"), (warp,), ("shift_x", "shift_y", "shift_on")),
    Row("hue", ("color_mixing",), (change_colors,), ("hue", "hue_on")),
    Row("channel_shift", ("tone_curve",), (change_colors,),
        ("red", "green", "blue", "channel_shift_on")),
    Row("blur", ("blur",), (_blur,), ("blur", "blur_on")),
    Row("noise", ("noise",), (_noise,), ("noise", "noise_on", "noise_offset")),
    Row("cutout", ("hidden_part",), (_cutout,), ("cutout", "cutout_x", "cutout_y", "cutout_on")),
    Row("grid_mask", ("hidden_part",), (_grid_mask,),
        ("grid_mask", "grid_mask_x", "grid_mask_y", "grid_mask_on")),
    Row("cutmix", ("hidden_part", "blended_images"), (),
        ("partner", "cutmix", "cutmix_x", "cutmix_y", "cutmix_on")),
    Row("mixup", ("blended_images",), (), ("mixup", "mixup_on")),
)  # fmt: skip
EVEN_DRAWS = tuple(name for row in AUGMENTATIONS for name in row.draws)
