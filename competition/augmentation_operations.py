"""What `augmentation` does to a batch: warps, tone tables, colour, blur, noise and cutout, as pure functions.

Every function takes what was drawn as arguments of one value a picture, and runs on every backend of Keras, eager and
compiled. Pictures are (n, h, w, 3) float32 in 0..255, `(n,)` arguments are float32.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

Tensor = Any
LEVELS = 256
YIQ = np.array([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
GREY = np.tile(YIQ[0], (3, 1)).astype("float32")
QUARTER_TURN = (np.linalg.inv(YIQ) @ [[0, 0, 0], [0, 0, -1], [0, 1, 0]] @ YIQ).astype("float32")


def fused(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Compile `function` on its own by XLA on TensorFlow, which runs a fit on a CPU without it.

    Fusing all into one program would be slower: XLA then computes each pixel of a step anew for all that read it.
    """

    @functools.cache
    def compiled() -> Callable[..., Tensor]:
        if keras.backend.backend() != "tensorflow":
            return function
        import tensorflow

        result: Callable[..., Tensor] = tensorflow.function(function, jit_compile=True)
        return result

    @functools.wraps(function)
    def call(*arguments: Any) -> Tensor:
        return compiled()(*arguments)

    return call


class Operation(NamedTuple):
    """One RandAugment operation of every picture; all fields are (n,).

    chosen: index into OPERATIONS, -1 for none. strength, second: 0..1 around the magnitude. signed: strength in either
    direction. even: evenly drawn from minus to plus the magnitude. What each operation makes of them is KerasCV's.
    """

    chosen: Tensor
    strength: Tensor
    second: Tensor
    signed: Tensor
    even: Tensor

    def is_chosen(self, name: str) -> Tensor:
        """Return (n,) bool: which pictures get the operation `name`."""
        return self.chosen == OPERATIONS.index(name)


# Geometry: 3x3 matrices that lead from a pixel (x, y, 1) of the result to the place in the source to look at.


def affine(*entries: Tensor) -> Tensor:
    """Return (n, 3, 3) of the two upper rows' six entries, each (n,)."""
    one, zero = ops.ones_like(entries[0]), ops.zeros_like(entries[0])
    return ops.reshape(ops.stack([*entries, zero, zero, one], axis=1), (-1, 3, 3))


def shear_and_translate(operation: Operation, height: int, width: int) -> Tensor:
    """Return the matrices (n, 3, 3) of the pictures whose operation is geometric, else the identity.

    A shear looks `signed` pixels further for every row or column from the top left; a translation moves the content
    by `even` of the side.
    """
    shear_x, shear_y, move_x, move_y = (
        ops.where(operation.is_chosen(name), value, 0.0)
        for name, value in (
            ("shear_x", operation.signed),
            ("shear_y", operation.signed),
            ("translate_x", operation.even * -width),
            ("translate_y", operation.even * -height),
        )
    )
    one = ops.ones_like(shear_x)
    return affine(one, shear_x, move_x, shear_y, one, move_y)


def turn_about_center(
    flip_x: Tensor, flip_y: Tensor, transpose: Tensor, angle: Tensor, zoom: Tensor, side: Any
) -> Tensor:
    """Return matrices (n, 3, 3) that zoom (2: twice as large) and rotate (radians), then transpose, then mirror.

    flip_x, flip_y, transpose: (n,) bool. side: (height, width) of the pictures.
    """
    cosine, sine = ops.cos(angle) / zoom, ops.sin(angle) / zoom
    sign_x, sign_y = (1.0 - 2.0 * ops.cast(flip, "float32") for flip in (flip_x, flip_y))
    left, right = ops.where(transpose, -sine, cosine), ops.where(transpose, cosine, -sine)
    below_left, below_right = ops.where(transpose, cosine, sine), ops.where(transpose, sine, cosine)
    a, b, c, d = left * sign_x, right * sign_y, below_left * sign_x, below_right * sign_y
    y, x = (0.5 * (size - 1) for size in side)
    return affine(a, b, x - a * x - b * y, c, d, y - c * x - d * y)


def place(matrix: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return where `matrix` (n, 3, 3) leads from the places x, y, broadcastable to (n, h, w)."""
    entry = lambda row, column: matrix[:, row, column][:, None, None]  # noqa: E731
    return (
        entry(0, 0) * x + entry(0, 1) * y + entry(0, 2),
        entry(1, 0) * x + entry(1, 1) * y + entry(1, 2),
    )


def mirror(places: Tensor, size: int) -> Tensor:
    """Fold places into 0..size-1, each border pixel standing twice (abc|cba)."""
    turns = ops.floor((places + 0.5) / (2 * size))
    folded = size - ops.abs(places + 0.5 - turns * (2 * size) - size) - 0.5
    return ops.clip(folded, 0.0, size - 1.0)


def is_inside(x: Tensor, y: Tensor, height: int, width: int) -> Tensor:
    """Tell which places lie on the picture, its border pixels' outer halves included."""
    return (x >= -0.5) & (x < width - 0.5) & (y >= -0.5) & (y < height - 0.5)


def sample(images: Tensor, x: Tensor, y: Tensor, interpolation: str) -> Tensor:
    """Return the colours of `images` at places x in 0..w-1 and y in 0..h-1, (n, h, w) -> (n, h, w, 3)."""
    height, width = images.shape[1:3]
    pixels = ops.reshape(images, (-1, 3))
    start = ops.arange(ops.shape(images)[0], dtype="int32")[:, None, None] * (height * width)

    def read(column: Tensor, row: Tensor) -> Tensor:
        return ops.cast(ops.take(pixels, start + row * width + column, axis=0), "float32")

    if interpolation == "nearest":
        return read(ops.cast(ops.floor(x + 0.5), "int32"), ops.cast(ops.floor(y + 0.5), "int32"))
    left, top = ops.cast(x, "int32"), ops.cast(y, "int32")
    right, bottom = ops.minimum(left + 1, width - 1), ops.minimum(top + 1, height - 1)
    share_x, share_y = (x - ops.floor(x))[..., None], (y - ops.floor(y))[..., None]
    above = read(left, top) * (1 - share_x) + read(right, top) * share_x
    below = read(left, bottom) * (1 - share_x) + read(right, bottom) * share_x
    return above * (1 - share_y) + below * share_y


# Tone: tables (n, 3, 256) of what becomes of each value of a channel, beside how often the value occurs.


def apply_tables(images: Tensor, operations: list[Operation]) -> Tensor:
    """Apply each picture's tone operations, in their order, through one table; values are rounded to whole ones."""
    slots = find_slots(images)
    return look_up(build_tables(count(slots, ops.shape(images)[0]), operations), slots)


@fused
def find_slots(images: Tensor) -> Tensor:
    """Return int32 like `images`: where each rounded value stands in a flattened array of tables (n, 3, 256)."""
    first = ops.arange(ops.shape(images)[0] * 3, dtype="int32") * LEVELS
    return ops.cast(images + 0.5, "int32") + ops.reshape(first, (-1, 1, 1, 3))


@fused
def count(slots: Tensor, num_images: Any) -> Tensor:
    """Return (n, 3, 256) int32: how often each value occurs."""
    return _sum_slots(slots, ops.ones_like(slots), num_images)


def _sum_slots(slots: Tensor, counts: Tensor, num_images: Any) -> Tensor:
    total = ops.segment_sum(ops.reshape(counts, (-1,)), ops.reshape(slots, (-1,)), num_images * 3 * LEVELS)
    return ops.reshape(total, (-1, 3, LEVELS))


@fused
def build_tables(counts: Tensor, operations: list[Operation]) -> Tensor:
    """Return the tables (n, 3, 256) float32 of all operations, one after the other."""
    table = ops.zeros_like(counts, dtype="float32") + ops.arange(LEVELS, dtype="float32")
    for operation in operations:
        table = change_tables(table, counts, operation)
    return table


@fused
def look_up(tables: Tensor, slots: Tensor) -> Tensor:
    """Return what the tables hold at `slots`."""
    return ops.take(ops.reshape(tables, (-1,)), slots, axis=0)


def change_tables(table: Tensor, counts: Tensor, operation: Operation) -> Tensor:
    """Return the tables after one more operation; those whose operation is of another kind stay."""
    result = table
    for name, change in TONES.items():
        result = ops.where(operation.is_chosen(name)[:, None, None], change(table, counts, operation), result)
    return result


def auto_contrast(table: Tensor, counts: Tensor, operation: Operation) -> Tensor:
    """Stretch each channel to 0..255; a flat channel stays."""
    low = ops.min(ops.where(counts > 0, table, 255.0), axis=-1, keepdims=True)
    high = ops.max(ops.where(counts > 0, table, 0.0), axis=-1, keepdims=True)
    stretched = (table - low) * (255.0 / ops.maximum(high - low, 1e-3))
    return ops.where(high > low, ops.clip(stretched, 0.0, 255.0), table)


def equalize(table: Tensor, counts: Tensor, operation: Operation) -> Tensor:
    """Flatten each channel's histogram, by the table that PIL's `ImageOps.equalize` uses."""
    num_images = ops.shape(table)[0]
    slots = ops.reshape(ops.arange(num_images * 3, dtype="int32") * LEVELS, (-1, 3, 1))
    values = ops.cast(table + 0.5, "int32")
    histogram = _sum_slots(values + slots, counts, num_images)
    highest = ops.max(ops.where(counts > 0, values, 0), axis=-1, keepdims=True)
    levels = ops.arange(LEVELS, dtype="int32")
    last = ops.sum(ops.where(levels == highest, histogram, 0), axis=-1, keepdims=True)
    step = (ops.sum(histogram, axis=-1, keepdims=True) - last) // 255
    before = ops.cumsum(histogram, axis=-1) - histogram
    equal = ops.minimum((before + step // 2) // ops.maximum(step, 1), 255)
    equal = ops.where(step > 0, equal, levels)
    return ops.cast(ops.take(ops.reshape(equal, (-1,)), values + slots, axis=0), "float32")


def solarize(table: Tensor, counts: Tensor, operation: Operation) -> Tensor:
    """Add 110 times the strength, then invert what is at least 255 less 255 times the second strength."""
    brighter = ops.minimum(table + 110.0 * operation.strength[:, None, None], 255.0)
    return ops.where(brighter < 255.0 - 255.0 * operation.second[:, None, None], brighter, 255.0 - brighter)


def adjust_contrast(table: Tensor, counts: Tensor, operation: Operation) -> Tensor:
    """Multiply distances from each channel's mean by 1 + `even`."""
    weights = ops.cast(counts, "float32")
    mean = ops.sum(table * weights, axis=-1, keepdims=True) / ops.sum(weights, axis=-1, keepdims=True)
    return ops.clip((table - mean) * (1.0 + operation.even[:, None, None]) + mean, 0.0, 255.0)


def adjust_brightness(table: Tensor, counts: Tensor, operation: Operation) -> Tensor:
    """Add 255 times `even`."""
    return ops.clip(table + 255.0 * operation.even[:, None, None], 0.0, 255.0)


TONES: dict[str, Callable[[Tensor, Tensor, Operation], Tensor]] = {
    "auto_contrast": auto_contrast,
    "equalize": equalize,
    "solarize": solarize,
    "contrast": adjust_contrast,
    "brightness": adjust_brightness,
}
OPERATIONS = (*TONES, "degenerate_color", "shear_x", "shear_y", "translate_x", "translate_y")


# Colour: matrices (n, 3, 3) that mix channels.


def degeneration(share: Tensor) -> Tensor:
    """Return the matrices that blend with the grey picture; a share (n,) of 1 is all grey."""
    share = share[:, None, None]
    return (1.0 - share) * np.eye(3, dtype="float32") + share * GREY


def color_shares(operations: list[Operation]) -> tuple[Tensor, Tensor]:
    """Return how much colour each picture loses before its tone operations and after, (n,) each.

    A degeneration counts as before when no tone operation stands in front of it.
    """
    first, last = (ops.ones_like(operations[0].strength) for _ in range(2))
    toned = ops.zeros_like(first, dtype="bool")
    for operation in operations:
        kept = ops.where(operation.is_chosen("degenerate_color"), 1.0 - operation.strength, 1.0)
        first, last = ops.where(toned, first, first * kept), ops.where(toned, last * kept, last)
        toned = toned | ((operation.chosen >= 0) & (operation.chosen < len(TONES)))
    return 1.0 - first, 1.0 - last


def hue_turn(angle: Tensor) -> Tensor:
    """Return the matrices that turn the plane of YIQ's two colour axes by `angle` (n,) radians; luma stays."""
    cosine, sine = (function(angle)[:, None, None] for function in (ops.cos, ops.sin))
    return GREY + cosine * (np.eye(3, dtype="float32") - GREY) + sine * QUARTER_TURN


@fused
def mix_colors(images: Tensor, matrix: Tensor, shift: Tensor) -> Tensor:
    """Return each pixel's colour times `matrix` (n, 3, 3), plus `shift` (n, 3), within 0..255."""
    channels = (images[..., index : index + 1] * matrix[:, None, None, :, index] for index in range(3))
    return ops.clip(sum(channels) + shift[:, None, None, :], 0.0, 255.0)


# Pixels: what looks at neighbours or places.


def blur(images: Tensor, sigma: Tensor) -> Tensor:
    """Blur by a Gaussian of `sigma` (n,) pixels, cut off at two pixels; 0 changes nothing."""
    return _blur_along(_blur_along(images, sigma, 1), sigma, 2)


@fused
def _blur_along(images: Tensor, sigma: Tensor, axis: int) -> Tensor:
    weights = [ops.exp(-0.5 * (distance / ops.maximum(sigma, 0.05)) ** 2) for distance in range(3)]
    total = weights[0] + 2 * weights[1] + 2 * weights[2]
    padding = [(2, 2) if current == axis else (0, 0) for current in range(4)]
    padded = ops.moveaxis(ops.pad(images, padding, mode="symmetric"), axis, 0)
    parts = [padded[start : start + images.shape[axis]] for start in range(5)]
    weighted = [(weights[abs(start - 2)] / total)[None, :, None, None] for start in range(5)]
    return ops.moveaxis(sum(weight * part for weight, part in zip(weighted, parts, strict=True)), 0, axis)


@fused
def add_noise(images: Tensor, field: Tensor, offset: Tensor, deviation: Tensor) -> Tensor:
    """Add Gaussian noise of `deviation` (n,), read from `field` (h * w, 3) from the pixel `offset` (n,) int32 on."""
    height, width = images.shape[1:3]
    pixels = ops.reshape(ops.arange(height * width, dtype="int32"), (1, height, width))
    noise = ops.take(field, (pixels + offset[:, None, None]) % (height * width), axis=0)
    return ops.clip(images + deviation[:, None, None, None] * noise, 0.0, 255.0)


@fused
def cut_out(images: Tensor, center_x: Tensor, center_y: Tensor, side: Tensor) -> Tensor:
    """Blacken a square of `side` about a centre, all (n,) as shares of the picture's sides; 0 changes nothing."""
    height, width = images.shape[1:3]
    x, y = ((ops.arange(size, dtype="float32") + 0.5) / size for size in (width, height))
    inside_x, inside_y = (
        ops.abs(places[None] - center[:, None]) < side[:, None] / 2 for places, center in ((x, center_x), (y, center_y))
    )
    return ops.where((inside_y[:, :, None] & inside_x[:, None, :])[..., None], 0.0, images)
