"""Faults that a picture shows by itself (blank, broken, noise)."""

import numpy as np

from competition.config import CleaningConfig
from competition.features import batches


def find_faults(images: np.ndarray, config: CleaningConfig) -> dict[str, np.ndarray]:
    """Return a mask (n,) for each of `blank`, `broken` and `noise`; no picture has two of them."""
    tolerance, elsewhere = config.flat_tolerance, config.flat_elsewhere
    parts = [
        (measure_contrast(batch), measure_flat_edge(batch, tolerance, elsewhere), measure_roughness(batch))
        for batch in batches(images, "looking for faults")
    ]
    contrast, flat_edge, roughness = (np.concatenate(part) for part in zip(*parts, strict=True))
    blank = contrast < config.blank_contrast
    broken = ~blank & (flat_edge >= config.broken_share)
    return {"blank": blank, "broken": broken, "noise": ~blank & ~broken & (roughness > config.noise_roughness)}


def measure_contrast(images: np.ndarray) -> np.ndarray:
    """Return the largest standard deviation of a channel, in grey levels: (n, h, w, 3) uint8 -> (n,) float32."""
    pixels = images.reshape(len(images), -1, 3).astype(np.float32)
    pixels -= pixels.mean(1, keepdims=True)
    contrast: np.ndarray = np.sqrt(np.einsum("npc,npc->nc", pixels, pixels) / pixels.shape[1]).max(1)
    return contrast


def measure_flat_edge(images: np.ndarray, tolerance: float, elsewhere: float) -> np.ndarray:
    """Return the share of rows that one colour fills from the bottom up, as a truncated file decodes: (n,) float32.

    Rows are of the colour when no channel strays from it by more than `tolerance` grey levels. A plain background does
    not count, since it goes on beside the cell: less than the share `elsewhere` of the median row above may be of
    about that colour.
    """
    strays = np.abs(images.astype(np.int16) - images[:, -1:, :1]).max(-1)
    height = strays.shape[1]
    touched = (strays > tolerance).any(2)
    decoded = np.where(touched.any(1), height - touched[:, ::-1].argmax(1), 0)
    similar = (strays <= 3 * tolerance).mean(2)
    share = np.zeros(len(images), np.float32)
    for index in np.flatnonzero((decoded > 0) & (decoded < height)):
        if np.median(similar[index, : decoded[index]]) < elsewhere:
            share[index] = 1 - decoded[index] / height
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
