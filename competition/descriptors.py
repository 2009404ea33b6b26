"""What tells cells apart however they are turned: colours, grain at several scales, and rings about the nucleus."""

import numpy as np

from competition.embedding import batches, shrink

# Side in pixels at which pictures are described.
SIDE = 48
SCALES = 3
RINGS = 12
# Share of half the side that the rings reach; the last one takes in all beyond.
REACH = 1.25


def describe(images: np.ndarray) -> np.ndarray:
    """Return one row of numbers per picture that hardly change when it is turned or mirrored.

    images: (n, h, w, 3) uint8. Result: (n, d) float32 in grey levels. No weights are needed.
    """
    rows = []
    for batch in batches(images, "describing pictures"):
        small = shrink(batch, SIDE)
        rows.append(np.hstack([_measure_grain(small), _measure_rings(small)]))
    return np.concatenate(rows).astype(np.float32)


def _measure_grain(images: np.ndarray) -> np.ndarray:
    """Return means and deviations of the colours, and of what is lost at each halving of the side: (n, d)."""
    parts = [images.mean((1, 2)), images.std((1, 2))]
    for _ in range(SCALES):
        height, width = (length // 2 * 2 for length in images.shape[1:3])
        images = images[:, :height, :width]
        coarse = images.reshape(len(images), height // 2, 2, width // 2, 2, 3).mean((2, 4))
        detail = np.abs(images - coarse.repeat(2, 1).repeat(2, 2))
        parts += [detail.mean((1, 2)), detail.std((1, 2)), coarse.std((1, 2))]
        images = coarse
    return np.hstack(parts)


def _measure_rings(images: np.ndarray) -> np.ndarray:
    """Return the colours' means and deviations in rings about the middle of what is darker than usual: (n, d)."""
    count, height, width, _ = images.shape
    grey = images.mean(-1)
    dark = np.maximum(np.median(grey, (1, 2), keepdims=True) - grey, 0) + 1e-3
    dark /= dark.sum((1, 2), keepdims=True)
    rows, columns = np.mgrid[:height, :width]
    row, column = ((dark * places).sum((1, 2))[:, None, None] for places in (rows, columns))
    step = REACH * min(height, width) / 2 / RINGS
    ring = np.minimum(np.hypot(rows - row, columns - column) / step, RINGS - 1).astype(np.int64)
    numbers = (ring + RINGS * np.arange(count)[:, None, None]).ravel()
    size = np.maximum(np.bincount(numbers, minlength=count * RINGS), 1)
    parts = []
    for values in images.reshape(-1, 3).T:
        mean = np.bincount(numbers, values, count * RINGS) / size
        square = np.bincount(numbers, np.square(values), count * RINGS) / size
        parts += [mean, np.sqrt(np.maximum(square - np.square(mean), 0))]
    return np.hstack([part.reshape(count, RINGS) for part in parts])
