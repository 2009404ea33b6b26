"""The operations of the augmentation on a batch of images: warps, colour, blur, noise, mixtures.

They are pure functions that run on every backend of Keras, eager and compiled. Images are
(n, h, w, 3) in 0..255; arguments said to be (n,) are float32 with one value per image.
"""

from typing import Any

import numpy as np
from keras import ops

from competition.common.tensorflow_workarounds import fused

Tensor = Any
YIQ = np.array([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
GREY = np.tile(YIQ[0], (3, 1)).astype("float32")
QUARTER_TURN = (np.linalg.inv(YIQ) @ [[0, 0, 0], [0, 0, -1], [0, 1, 0]] @ YIQ).astype("float32")


# Geometry: 3x3 matrices that lead from a pixel (x, y, 1) of the result to its place in the source.


def affine(*entries: Tensor) -> Tensor:
    """Return (n, 3, 3) of the two upper rows' six entries, each (n,)."""
    one, zero = ops.ones_like(entries[0]), ops.zeros_like(entries[0])
    return ops.reshape(ops.stack([*entries, zero, zero, one], axis=1), (-1, 3, 3))


def turn_about_center(
    flip_x: Tensor, flip_y: Tensor, transpose: Tensor, angle: Tensor, zoom: Tensor, side: Any
) -> Tensor:
    """Return matrices (n, 3, 3) that zoom and rotate, then transpose, then mirror.

    flip_x, flip_y, transpose: (n,) bool. angle: (n,) radians. zoom: (n,), 2 for twice as large.
    side: (height, width) of the images.
    """
    cosine = ops.cos(angle) / zoom
    sine = ops.sin(angle) / zoom
    sign_x, sign_y = (1.0 - 2.0 * ops.cast(flip, "float32") for flip in (flip_x, flip_y))
    a = ops.where(transpose, -sine, cosine) * sign_x
    b = ops.where(transpose, cosine, -sine) * sign_y
    c = ops.where(transpose, cosine, sine) * sign_x
    d = ops.where(transpose, sine, cosine) * sign_y
    y, x = (0.5 * (size - 1) for size in side)
    return affine(a, b, x - a * x - b * y, c, d, y - c * x - d * y)


def place(matrix: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return where `matrix` (n, 3, 3) leads from the places x, y, broadcastable to (n, h, w)."""
    across, down, move = (matrix[:, :2, column][:, :, None, None] for column in range(3))
    new_x = across[:, 0] * x + down[:, 0] * y + move[:, 0]
    new_y = across[:, 1] * x + down[:, 1] * y + move[:, 1]
    return new_x, new_y


def mirror(places: Tensor, size: int) -> Tensor:
    """Fold places into 0..size-1, each border pixel standing twice (abc|cba)."""
    turns = ops.floor((places + 0.5) / (2 * size))
    folded = size - ops.abs(places + 0.5 - turns * (2 * size) - size) - 0.5
    return ops.clip(folded, 0.0, size - 1.0)


def coarsen(places: Tensor, size: int, loss: Tensor) -> Tensor:
    """Return places 0..size-1 moved to the middles of fewer cells: a share `loss` of them is lost.

    loss: (n, 1, 1). An image that is read there is sampled down, without smoothing, and up again to
    the nearest.
    """
    cells = ops.round(size * (1.0 - loss))
    return (ops.floor((places + 0.5) * cells / size) + 0.5) * size / cells - 0.5


def is_inside(x: Tensor, y: Tensor, height: int, width: int) -> Tensor:
    """Return whether places lie on the image, its border pixels' outer halves included."""
    return (x >= -0.5) & (x < width - 0.5) & (y >= -0.5) & (y < height - 0.5)


def sample(images: Tensor, x: Tensor, y: Tensor, interpolation: str) -> Tensor:
    """Return the colours (n, h, w, 3) at places x in 0..w-1 and y in 0..h-1, (n, h, w) each."""
    height, width = images.shape[1:3]
    pixels = ops.reshape(images, (-1, 3))
    start = ops.arange(ops.shape(images)[0], dtype="int32")[:, None, None] * (height * width)

    def read(column: Tensor, row: Tensor) -> Tensor:
        return ops.cast(ops.take(pixels, start + row * width + column, axis=0), "float32")

    if interpolation == "nearest":
        return read(ops.cast(ops.floor(x + 0.5), "int32"), ops.cast(ops.floor(y + 0.5), "int32"))
    left = ops.cast(x, "int32")
    top = ops.cast(y, "int32")
    right = ops.minimum(left + 1, width - 1)
    bottom = ops.minimum(top + 1, height - 1)
    share_x = (x - ops.floor(x))[..., None]
    share_y = (y - ops.floor(y))[..., None]
    above = read(left, top) * (1 - share_x) + read(right, top) * share_x
    below = read(left, bottom) * (1 - share_x) + read(right, bottom) * share_x
    return above * (1 - share_y) + below * share_y


# Colour: matrices (n, 3, 3) that mix channels.


def degeneration(share: Tensor) -> Tensor:
    """Return the matrices that blend with the grey image; a share (n,) of 1 is all grey."""
    share = share[:, None, None]
    return (1.0 - share) * np.eye(3, dtype="float32") + share * GREY


def hue_turn(angle: Tensor) -> Tensor:
    """Return the matrices that turn YIQ's two colour axes by `angle` (n,) radians; luma stays."""
    cosine = ops.cos(angle)[:, None, None]
    sine = ops.sin(angle)[:, None, None]
    return GREY + cosine * (np.eye(3, dtype="float32") - GREY) + sine * QUARTER_TURN


@fused
def mix_colors(images: Tensor, matrix: Tensor, shift: Tensor) -> Tensor:
    """Return each pixel's colour times `matrix` (n, 3, 3), plus `shift` (n, 3), within 0..255."""
    return _mix(images, matrix, shift)


@fused
def mix_and_round(images: Tensor, matrix: Tensor) -> Tensor:
    """Return each pixel's colour times `matrix` (n, 3, 3) as uint8."""
    return ops.cast(ops.round(_mix(images, matrix, ops.zeros_like(matrix[:, 0]))), "uint8")


def _mix(images: Tensor, matrix: Tensor, shift: Tensor) -> Tensor:
    channels = (
        images[..., index : index + 1] * matrix[:, None, None, :, index] for index in range(3)
    )
    return ops.clip(sum(channels) + shift[:, None, None, :], 0.0, 255.0)


# Pixels: operations that look at neighbours or places.


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
    return ops.moveaxis(
        sum(weight * part for weight, part in zip(weighted, parts, strict=True)), 0, axis
    )


@fused
def add_noise(images: Tensor, field: Tensor, offset: Tensor, deviation: Tensor) -> Tensor:
    """Add Gaussian noise of `deviation` (n,).

    It is read from `field` (h * w, 3), from the pixel `offset` (n,) int32 on.
    """
    height, width = images.shape[1:3]
    pixels = ops.reshape(ops.arange(height * width, dtype="int32"), (1, height, width))
    noise = ops.take(field, (pixels + offset[:, None, None]) % (height * width), axis=0)
    return ops.clip(images + deviation[:, None, None, None] * noise, 0.0, 255.0)


@fused
def cut_out(images: Tensor, center_x: Tensor, center_y: Tensor, side: Tensor) -> Tensor:
    """Blacken a square of `side` about a centre; a side of 0 changes nothing.

    All are (n,), as shares of the image's sides. DeVries and Taylor, Cutout,
    https://arxiv.org/abs/1708.04552.
    """
    return ops.where(_cross(*_find_box(images, center_x, center_y, side))[..., None], 0.0, images)


def _find_box(images: Tensor, center_x: Tensor, center_y: Tensor, side: Tensor) -> list[Tensor]:
    """Return the rows (n, h) and the columns (n, w) that a square covers, as masks."""
    centers = zip(_middles(images), (center_y, center_x), strict=True)
    return [ops.abs(places - center[:, None]) < side[:, None] / 2 for places, center in centers]


def _middles(images: Tensor) -> list[Tensor]:
    """Return the middles of rows (1, h) and of columns (1, w), as shares of the sides."""
    return [(ops.arange(size, dtype="float32")[None] + 0.5) / size for size in images.shape[1:3]]


def _cross(rows: Tensor, columns: Tensor) -> Tensor:
    return rows[:, :, None] & columns[:, None, :]


@fused
def mask_grid(
    images: Tensor, period: Tensor, offset_x: Tensor, offset_y: Tensor, side: Tensor
) -> Tensor:
    """Blacken a grid of squares, one per `period` (n,), a share of the image's sides.

    offset_x, offset_y, side: (n,) shares of the period; a side of 0 changes nothing. Chen et al.,
    GridMask, https://arxiv.org/abs/2001.04086.
    """
    offsets = zip(_middles(images), (offset_y, offset_x), strict=True)
    rows, columns = (
        (places / period[:, None] + offset[:, None]) % 1.0 < side[:, None]
        for places, offset in offsets
    )
    return ops.where(_cross(rows, columns)[..., None], 0.0, images)


@fused
def mix(
    images: Tensor,
    labels: Tensor,
    partner: Tensor,
    share: Tensor,
    center_x: Tensor,
    center_y: Tensor,
    side: Tensor,
) -> tuple[Tensor, Tensor]:
    """Return images and labels (n, K) mixed with those of each image's partner in the batch.

    partner: (n,) int32. A `share` (n,) of the partner is blended into the whole image (Zhang et
    al., MixUp, https://arxiv.org/abs/1710.09412), and a square of it, as in `cut_out`, is pasted
    (Yun et al., CutMix, https://arxiv.org/abs/1905.04899). Both are off at 0. The labels are mixed
    by the shares of the pixels; of a square, the part within the image counts.
    """
    rows, columns = _find_box(images, center_x, center_y, side)
    weight = ops.where(_cross(rows, columns), 1.0, share[:, None, None])
    height, width = (ops.mean(ops.cast(covered, "float32"), axis=1) for covered in (rows, columns))
    area = height * width
    weight_of_label = (area + (1.0 - area) * share)[:, None]
    return _blend(images, partner, weight[..., None]), _blend(labels, partner, weight_of_label)


def _blend(values: Tensor, partner: Tensor, weight: Tensor) -> Tensor:
    return (1.0 - weight) * values + weight * ops.take(values, partner, axis=0)
