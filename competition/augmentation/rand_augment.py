"""RandAugment's ten operations, for a whole batch with another operation per image.

A magnitude means the same as in KerasCV, and in `distortion`. Tone operations change tables
(n, 3, 256), which map each value of a channel to its new one. Beside the tables they need only the
counts of the values.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from keras import ops

from competition.augmentation.operations import Tensor, affine
from competition.common.tensorflow_workarounds import fused

LEVELS = 256


class Operation(NamedTuple):
    """One RandAugment operation per image; all fields are (n,).

    chosen: index into OPERATIONS, -1 for none. strength, second: 0..1 around the magnitude. signed:
    strength in either direction. even: evenly drawn from minus to plus the magnitude.
    """

    chosen: Tensor
    strength: Tensor
    second: Tensor
    signed: Tensor
    even: Tensor

    def is_chosen(self, name: str) -> Tensor:
        """Return (n,) bool: whether an image gets the operation `name`."""
        return self.chosen == OPERATIONS.index(name)


def shear_and_translate(operation: Operation, height: int, width: int) -> Tensor:
    """Return matrices (n, 3, 3): of geometric operations, and the identity for others.

    A shear looks `signed` pixels further per row or column from the top left; a translation moves
    the content by `even` of the side.
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


def apply_tables(images: Tensor, operations: list[Operation]) -> Tensor:
    """Apply each image's tone operations, in their order, through one table; images: uint8."""
    return look_up(build_tables(count(images), operations), images)


@fused
def count(images: Tensor) -> Tensor:
    """Return (n, 3, 256) int32: how often each value occurs in each channel of `images` uint8."""
    slots = _find_slots(images)
    return _sum_slots(slots, ops.ones_like(slots), ops.shape(images)[0])


def _find_slots(images: Tensor) -> Tensor:
    """Return int32 like `images`: each value's place in flattened tables (n, 3, 256)."""
    first = ops.arange(ops.shape(images)[0] * 3, dtype="int32") * LEVELS
    return ops.cast(images, "int32") + ops.reshape(first, (-1, 1, 1, 3))


def _sum_slots(slots: Tensor, counts: Tensor, num_images: Any) -> Tensor:
    total = ops.segment_sum(
        ops.reshape(counts, (-1,)), ops.reshape(slots, (-1,)), num_images * 3 * LEVELS
    )
    return ops.reshape(total, (-1, 3, LEVELS))


@fused
def build_tables(counts: Tensor, operations: list[Operation]) -> Tensor:
    """Return the tables (n, 3, 256) float32 of all operations, one after the other."""
    table = ops.zeros_like(counts, dtype="float32") + ops.arange(LEVELS, dtype="float32")
    for operation in operations:
        table = change_tables(table, counts, operation)
    return table


@fused
def look_up(tables: Tensor, images: Tensor) -> Tensor:
    """Return the tables' entry for each value of `images` uint8."""
    return ops.take(ops.reshape(tables, (-1,)), _find_slots(images), axis=0)


def change_tables(table: Tensor, counts: Tensor, operation: Operation) -> Tensor:
    """Return the tables after one more operation; only tone operations change them."""
    result = table
    for name, change in TONES.items():
        result = ops.where(
            operation.is_chosen(name)[:, None, None], change(table, counts, operation), result
        )
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
    values = ops.cast(ops.round(table), "int32")
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
    """Add 110 times the strength, then invert values of at least 255 - 255 times `second`."""
    brighter = ops.minimum(table + 110.0 * operation.strength[:, None, None], 255.0)
    return ops.where(
        brighter < 255.0 - 255.0 * operation.second[:, None, None], brighter, 255.0 - brighter
    )


def adjust_contrast(table: Tensor, counts: Tensor, operation: Operation) -> Tensor:
    """Multiply distances from each channel's mean by 1 + `even`."""
    weights = ops.cast(counts, "float32")
    mean = ops.sum(table * weights, axis=-1, keepdims=True) / ops.sum(
        weights, axis=-1, keepdims=True
    )
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


def color_shares(operations: list[Operation]) -> tuple[Tensor, Tensor]:
    """Return the shares of colour lost before the tone operations and after them, (n,) each.

    A degeneration counts as before when no tone operation stands in front of it.
    """
    first = last = ops.ones_like(operations[0].strength)
    toned = ops.zeros_like(first, dtype="bool")
    for operation in operations:
        kept = ops.where(operation.is_chosen("degenerate_color"), 1.0 - operation.strength, 1.0)
        first = ops.where(toned, first, first * kept)
        last = ops.where(toned, last * kept, last)
        toned = toned | ((operation.chosen >= 0) & (operation.chosen < len(TONES)))
    return 1.0 - first, 1.0 - last
