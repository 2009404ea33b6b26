"""Faults that a picture shows by itself (blank, broken, noise), and exact copies."""

import hashlib

import numpy as np

from competition.config import CleaningConfig
from competition.features import batches


def find_faults(images: np.ndarray, config: CleaningConfig) -> dict[str, np.ndarray]:
    """Return a mask (n,) for each of `blank`, `broken` and `noise`; no picture has two of them."""
    parts = [
        (measure_contrast(batch), measure_flat_edge(batch, config.flat_tolerance), measure_roughness(batch))
        for batch in batches(images, "looking for faults")
    ]
    contrast, flat_edge, roughness = (np.concatenate(part) for part in zip(*parts, strict=True))
    blank = contrast < config.blank_contrast
    broken = ~blank & (flat_edge >= config.broken_share)
    return {"blank": blank, "broken": broken, "noise": ~blank & ~broken & (roughness > config.noise_roughness)}


def measure_contrast(images: np.ndarray) -> np.ndarray:
    """Return the largest standard deviation of a channel, in grey levels: (n, h, w, 3) uint8 -> (n,) float32."""
    return images.std((1, 2), dtype=np.float32).max(1)


def measure_flat_edge(images: np.ndarray, tolerance: float) -> np.ndarray:
    """Return the share of rows that one colour fills from the bottom up, as a truncated file decodes: (n,) float32.

    Rows are of the colour when no channel strays by more than `tolerance` grey levels. A plain background does not
    count, since it goes on beside the cell: most of the row above the fill has to be of another colour.
    """
    strays = np.abs(images.astype(np.int16) - images[:, -1:, :1]).max(-1) > tolerance
    touched = strays.any(2)[:, ::-1]
    height = touched.shape[1]
    flat = np.where(touched.any(1), touched.argmax(1), height)
    above = strays[np.arange(len(images)), height - 1 - np.minimum(flat, height - 1)]
    share: np.ndarray = np.where(above.mean(1) > 0.5, flat / height, 0).astype(np.float32)
    return share


def measure_roughness(images: np.ndarray) -> np.ndarray:
    """Return how much neighbouring pixels differ, 0 for the smoothest, 1 for independent ones: (n,) float32.

    It is half the mean squared difference of neighbours over the variance (von Neumann's ratio), along the smoother
    of the two directions, so that stripes are not taken for noise.
    """
    pixels = images.astype(np.float32)
    variance = pixels.var((1, 2)).sum(1)
    down, right = (np.square(np.diff(pixels, axis=axis)).mean((1, 2)).sum(1) for axis in (1, 2))
    ratio: np.ndarray = np.minimum(down, right) / (2 * np.maximum(variance, 1e-6))
    return ratio


def group_copies(images: np.ndarray) -> np.ndarray:
    """Return groups (n,) int64: the index of the first picture with exactly the same pixels."""
    first: dict[bytes, int] = {}
    groups = [first.setdefault(hashlib.sha256(image.tobytes()).digest(), index) for index, image in enumerate(images)]
    return np.array(groups, np.int64)
