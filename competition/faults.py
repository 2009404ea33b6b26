"""Faults that a picture shows by itself: blank, broken, noise."""

from dataclasses import dataclass

import numpy as np

from competition.config import CleaningConfig
from competition.embedding import batches, shrink

# Side in pixels at which a picture's darkest and brightest spots are looked for.
SPOT_SIDE = 48


@dataclass(frozen=True)
class Measures:
    """What each picture shows by itself, (n,) float32 each; see the functions `measure_...`.

    brightness: mean of all values, 0..255. span: between the darkest and the brightest spot, in grey levels.
    """

    contrast: np.ndarray
    flat_edge: np.ndarray
    repeated_edge: np.ndarray
    roughness: np.ndarray
    brightness: np.ndarray
    span: np.ndarray


def measure_pictures(images: np.ndarray, config: CleaningConfig) -> Measures:
    """Measure pictures (n, h, w, 3) uint8, in one pass."""
    parts = []
    for batch in batches(images, "looking for faults"):
        grey = shrink(batch, SPOT_SIDE).mean(-1).reshape(len(batch), -1)
        flat_edge = measure_flat_edge(batch, config.flat_tolerance, config.flat_elsewhere)
        edges = flat_edge, measure_repeated_edge(batch)
        parts.append((measure_contrast(batch), *edges, measure_roughness(batch), grey.mean(1), np.ptp(grey, 1)))
    return Measures(*(np.concatenate(part) for part in zip(*parts, strict=True)))


def find_faults(measures: Measures, config: CleaningConfig) -> dict[str, np.ndarray]:
    """Return a mask (n,) for each of `blank`, `broken` and `noise`; no picture has two of them."""
    blank = measures.contrast < config.blank_contrast
    broken = (measures.flat_edge >= config.broken_share) | (measures.repeated_edge >= config.repeated_share)
    broken &= ~blank
    noise = ~blank & ~broken & (measures.roughness > config.noise_roughness)
    return {"blank": blank, "broken": broken, "noise": noise}


def measure_contrast(images: np.ndarray) -> np.ndarray:
    """Return the largest standard deviation of a channel, in grey levels: (n, h, w, 3) uint8 -> (n,) float32."""
    pixels = images.reshape(len(images), -1, 3).astype(np.float32)
    pixels -= pixels.mean(1, keepdims=True)
    contrast: np.ndarray = np.sqrt(np.einsum("npc,npc->nc", pixels, pixels) / pixels.shape[1]).max(1)
    return contrast


def measure_flat_edge(images: np.ndarray, tolerance: float, elsewhere: float) -> np.ndarray:
    """Return the share of rows that one colour fills from the bottom up, as a truncated file decodes: (n,) float32.

    Rows are of the colour when no channel strays from it by more than `tolerance` grey levels. A plain background does
    not count, since it goes on beside the cell: less than the share `elsewhere` of the median row above may be of about
    that colour. Where it is exactly of one colour, only the upper half of the rows above is asked, since of the lower
    half a last block may be decoded in part.
    """
    share = np.zeros(len(images), np.float32)
    last = images[:, -1].astype(np.int16)
    for index in np.flatnonzero((np.abs(last - last[:, :1]) <= tolerance).all((1, 2))):
        strays = np.abs(images[index].astype(np.int16) - last[index, 0]).max(-1)
        touched = np.flatnonzero((strays > tolerance).any(1))
        decoded = touched[-1] + 1 if len(touched) else 0
        above = strays[:decoded] if strays[decoded:].any() else strays[: (decoded + 1) // 2]
        if decoded and np.median((above <= 3 * tolerance).mean(1)) < elsewhere:
            share[index] = 1 - decoded / len(strays)
    return share


def measure_repeated_edge(images: np.ndarray) -> np.ndarray:
    """Return the share of rows, from the bottom up, that equal the last one, if not of one colour: (n,) float32."""
    differ = (images != images[:, -1:]).any((2, 3))
    share = np.where(differ.any(1), differ[:, ::-1].argmax(1) / differ.shape[1], 0).astype(np.float32)
    share[np.ptp(images[:, -1], axis=1).max(-1) == 0] = 0
    return share


def measure_roughness(images: np.ndarray) -> np.ndarray:
    """Return how much neighbouring pixels differ, 0 for the smoothest, 1 for independent ones: (n,) float32.

    It is half the mean squared difference of neighbours over the variance (von Neumann's ratio), along the smoother
    of the two directions, so that stripes are not taken for noise.
    """
    grey = np.einsum("nhwc->nhw", images.astype(np.float32))
    variance = grey.var((1, 2))
    down, right = (np.square(np.diff(grey, axis=axis)).mean((1, 2)) for axis in (1, 2))
    ratio: np.ndarray = np.minimum(down, right) / (2 * np.maximum(variance, 1e-6))
    return ratio
