"""Copies: images equal to another, or nearly so once turned, shifted and fitted in brightness."""

import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from competition.common.console import progress
from competition.config import CleaningConfig

# Side in pixels below which different cells cannot be told from near copies.
SMALLEST_SIDE = 48
# Side in pixels at which candidates are looked for.
SMALL_SIDE = 24
# Frequencies along an axis that tell images of that side apart.
NUM_FREQUENCIES = 8
# Amplitude, of an image of unit norm, below which a frequency is noise.
FLOOR = 0.14
# Likeness in small that a copy may lose, for each share of the side by which it may be shifted.
LOSS_BY_SHIFT = 5.0
# Candidates whose details are less alike, once aligned, get no closer look.
ALIGNED_CORRELATION = 0.8
# Turns that are this much less alike in small than the best one are looked at too.
TURN_MARGIN = 0.01
# Detail lies between these sigmas, in pixels: noise and compression are finer, and all cells share
# the coarser.
FINE = 1.0
COARSE = 3.0
# Grey levels by which the coarser image may differ at any place; noise that is clipped at white
# makes for up to 15.
COARSE_DIFFERENCE = 16
# Share of the mean power of details that is added to the power of each place.
LEAST_POWER = 0.3
# Grey levels from black and white within which brightening or darkening may have clipped a pixel.
CLIPPED = 3
BATCH_SIZE = 1024
# Counter-clockwise, in the order of `_turn`.
TURNS = (
    "",
    "rotated by 90 degrees",
    "rotated by 180 degrees",
    "rotated by 270 degrees",
    "flipped along the diagonal",
    "flipped top to bottom",
    "flipped along the other diagonal",
    "flipped left to right",
)


@dataclass(frozen=True)
class Copy:
    """Image `index` is a copy in the group whose first image is `original`.

    exact: equal to an earlier image. score: 1, or the share of the fine details that both show.
    how: the image of the group that it was made from, and the way.
    """

    index: int
    original: int
    exact: bool
    score: float
    how: str


@dataclass(frozen=True)
class Match:
    """The transformation that makes an image from another one.

    turn: a place in TURNS. down, right: pixels. brighter: grey levels.
    """

    score: float
    turn: int
    down: int
    right: int
    brighter: float

    def describe(self, source: int) -> str:
        """Return how the image was made from image `source`."""
        steps = [TURNS[self.turn]] if self.turn else []
        if self.down or self.right:
            steps.append(f"shifted by ({self.down}, {self.right})")
        if abs(self.brighter) >= 1:
            direction = "brighter" if self.brighter > 0 else "darker"
            steps.append(f"{abs(self.brighter):.0f} grey levels {direction}")
        return f"image {source} " + (", ".join(steps) or "with other noise or compression")


def find_copies(images: np.ndarray, sound: np.ndarray, config: CleaningConfig) -> list[Copy]:
    """Return the copies among images (n, h, w, 3) uint8, h = w, ordered by index.

    sound: (n,) bool, the images to look at. Spoiled images, and those that share one unrelated
    image, must not be among them: they are alike without being copies.
    A copy of a copy belongs to the group too; each group's first image is no copy.
    """
    firsts = _find_equal(images, np.flatnonzero(sound))
    different = firsts == np.arange(len(images))
    matches = find_matches(images, np.flatnonzero(sound & different), config)
    equal = np.stack([firsts[~different], np.flatnonzero(~different)], 1)
    originals, sources = _trace(
        np.concatenate([equal, np.array(list(matches), np.int64).reshape(-1, 2)]), len(images)
    )
    copies = []
    for index in np.flatnonzero(sources >= 0).tolist():
        source = int(sources[index])
        original = int(originals[index])
        if firsts[index] == source:
            copies.append(Copy(index, original, True, 1.0, f"image {source}, pixel by pixel"))
        else:
            match = matches.get((source, index)) or match_images(
                images[source], images[index], config.copy_shift
            )
            copies.append(Copy(index, original, False, match.score, match.describe(source)))
    return copies


def group_copies(copies: list[Copy], count: int) -> np.ndarray:
    """Return groups (count,) int64: the index of the first of all copies of one image."""
    groups = np.arange(count)
    for copy in copies:
        groups[copy.index] = copy.original
    return groups


def find_matches(
    images: np.ndarray, indices: np.ndarray, config: CleaningConfig
) -> dict[tuple[int, int], Match]:
    """Return the pairs of near copies, lower index first, among images that all differ.

    images: (n, h, w, 3) uint8. indices: (m,), the images to look at. Images of less than
    SMALLEST_SIDE pixels show too little detail and have none.
    """
    if min(images.shape[1:3]) < SMALLEST_SIDE:
        return {}
    small = _shrink_all(images, indices, config.copy_shift)
    pairs = _find_neighbours(small, config.copy_neighbours)
    enough = 1 - LOSS_BY_SHIFT * config.copy_shift / min(images.shape[1:3])
    matches = {}
    for start in progress(range(0, len(pairs), BATCH_SIZE), "comparing copies", unit="batch"):
        batch = pairs[start : start + BATCH_SIZE]
        likeness = _compare_small(small, batch)
        alike = likeness.max(1) > enough
        for pair, row in zip(batch[alike], likeness[alike], strict=True):
            first, second = indices[pair].tolist()
            turns = np.flatnonzero(row > row.max() - TURN_MARGIN).tolist()
            match = match_images(images[first], images[second], config.copy_shift, turns)
            if match.score >= config.copy_score:
                matches[first, second] = match
    return matches


def match_images(
    source: np.ndarray, copy: np.ndarray, reach: int, turns: Sequence[int] = range(len(TURNS))
) -> Match:
    """Return the transformation of `source` that gives `copy`, both (h, w, 3) uint8.

    turns: the turns to try. reach: largest shift along each axis, in pixels.
    The images are aligned by the cross-correlation of their details. Each channel is fitted by a
    gain and an offset, with both images clipped where either is. The score is the share of the fine
    details that both show: 0, with no fit, where they cannot be aligned.
    """
    detail = _extract_detail(copy)
    aligned = [
        (*_align(_extract_detail(_turn(source, turn)), detail, copy.shape, reach), turn)
        for turn in turns
    ]
    likeness, down, right, turn = max(aligned)
    if likeness <= ALIGNED_CORRELATION:
        return Match(0.0, turn, down, right, 0.0)
    moved, still = _overlap(_turn(source, turn), copy, down, right, reach)
    score = _compare_details(*_fit(moved, still))
    return Match(score, turn, down, right, brighter=float(still.mean() - moved.mean()))


def _find_equal(images: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """Return for each image the first of `indices` with the same pixels, or itself: (n,) int64."""
    firsts = np.arange(len(images))
    seen: dict[bytes, int] = {}
    for index in indices.tolist():
        firsts[index] = seen.setdefault(hashlib.sha256(images[index].tobytes()).digest(), index)
    return firsts


def _trace(pairs: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return for each image the first of its group, and the image a step nearer to it or -1.

    Both (count,).
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import breadth_first_order, connected_components

    def join(edges: np.ndarray) -> Any:
        return coo_array(
            (np.ones(len(edges), np.int8), tuple(edges.T)), shape=(count + 1, count + 1)
        ).tocsr()

    _, groups = connected_components(join(pairs), directed=False)
    _, firsts, members = np.unique(groups[:count], return_index=True, return_inverse=True)
    # One more node, from which all groups are reached.
    roots = np.stack([np.full(len(firsts), count), firsts], 1)
    _, sources = breadth_first_order(join(np.concatenate([pairs, roots])), count, directed=False)
    return firsts[members], np.where(sources[:count] == count, -1, sources[:count])


def _turn(image: np.ndarray, turn: int) -> np.ndarray:
    """Return the image (h, w, ...) after one of TURNS."""
    return np.rot90(image if turn < 4 else image.swapaxes(0, 1), turn % 4)


def _shrink_all(images: np.ndarray, indices: np.ndarray, reach: int) -> np.ndarray:
    """Return the inner parts of images small, in grey, with zero mean and unit norm.

    (m, s, t) float16.
    """
    height, width = images.shape[1:3]
    block = max(1, min(height, width) // SMALL_SIDE)
    rows = (height - 2 * reach) // block
    columns = (width - 2 * reach) // block
    top = (height - rows * block) // 2
    left = (width - columns * block) // 2
    inner = images[:, top : top + rows * block, left : left + columns * block]
    small = np.empty((len(indices), rows, columns), np.float16)
    for start in progress(range(0, len(indices), 128), "looking for copies", unit="batch"):
        batch = inner[indices[start : start + 128]]
        blocks = batch.reshape(len(batch), rows, block, columns, block, 3)
        grey = blocks.mean((2, 4, 5), dtype=np.float32)
        grey -= grey.mean((1, 2), keepdims=True)
        norm = np.linalg.norm(grey, axis=(1, 2), keepdims=True)
        small[start : start + 128] = grey / np.maximum(norm, 1e-3)
    return small


def _find_neighbours(small: np.ndarray, count: int) -> np.ndarray:
    """Return the pairs (m, 2), first < second, of images (n, s, t) with alike spectra.

    Each image is paired with its `count` nearest.
    """
    from sklearn.neighbors import NearestNeighbors

    if len(small) < 2:
        return np.empty((0, 2), np.int64)
    parts = np.array_split(small, -(-len(small) // BATCH_SIZE))
    spectra = np.concatenate([_describe_spectrum(part) for part in parts])
    search = NearestNeighbors(n_neighbors=min(count, len(small) - 1), algorithm="brute")
    neighbours = search.fit(spectra).kneighbors(return_distance=False)
    pairs = np.stack([np.arange(len(small)).repeat(neighbours.shape[1]), neighbours.ravel()], 1)
    return np.unique(np.sort(pairs, 1), axis=0)


def _describe_spectrum(small: np.ndarray) -> np.ndarray:
    """Return the lowest frequencies' logarithmic amplitudes (n, d).

    They are the same for all turns and shifts of an image.
    """
    from scipy.fft import fft2

    window = _make_window(*small.shape[1:])
    size = min(NUM_FREQUENCIES, min(small.shape[1:]) // 2)
    amplitudes = np.log(np.abs(fft2(small * window)[:, :size]) + FLOOR)
    mirrored = amplitudes[:, :, :size] + amplitudes[:, :, -np.arange(size)]
    rows, columns = np.triu_indices(size)
    return np.asarray(mirrored[:, rows, columns] + mirrored[:, columns, rows])


def _compare_small(small: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Return the correlation of each pair's second image with each turn of the first: (m, 8)."""
    first, second = (small[indices].astype(np.float32) for indices in pairs.T)
    likeness = np.empty((len(pairs), len(TURNS)), np.float32)
    for turn in range(len(TURNS)):
        turned = np.moveaxis(_turn(np.moveaxis(first, 0, -1), turn), -1, 0)
        likeness[:, turn] = np.einsum("nhw,nhw->n", turned, second)
    return likeness


def _extract_detail(image: np.ndarray) -> np.ndarray:
    """Return the spectrum (h, w // 2 + 1) of the green channel's fine detail, of unit norm."""
    from scipy.fft import rfft2

    window, passed = _make_filter(*image.shape[:2])
    green = image[..., 1].astype(np.float32)
    spectrum = rfft2((green - green.mean()) * window) * passed
    return np.asarray(spectrum / max(float(np.linalg.norm(spectrum)), 1e-3))


def _align(
    source: np.ndarray, copy: np.ndarray, shape: tuple[int, ...], reach: int
) -> tuple[float, int, int]:
    """Return the correlation of two details, and the pixels down and right that align them.

    shape: of the images. reach: largest shift. Half of a spectrum has half of the power: doubling
    makes good for it, near enough.
    """
    from scipy.fft import irfft2

    products = irfft2(copy * source.conj(), s=shape[:2]) * (shape[0] * shape[1] / 2)
    shifts = np.arange(-reach, reach + 1)
    products = products[np.ix_(shifts, shifts)]
    down, right = np.unravel_index(products.argmax(), products.shape)
    return float(products.max()), int(down) - reach, int(right) - reach


def _make_window(height: int, width: int) -> np.ndarray:
    """Return a window (h, w) float32 that hides the border."""
    rows, columns = (np.hanning(length + 2)[1:-1] for length in (height, width))
    return np.outer(rows, columns).astype(np.float32)


@functools.cache
def _make_filter(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a window (h, w), and the share (h, w // 2 + 1) of each frequency that is detail."""
    square = np.add.outer(np.square(np.fft.fftfreq(height)), np.square(np.fft.rfftfreq(width)))
    fine, coarse = (np.exp(-2 * np.square(np.pi * sigma) * square) for sigma in (FINE, COARSE))
    return _make_window(height, width), (fine - coarse).astype(np.float32)


def _overlap(
    source: np.ndarray, copy: np.ndarray, down: int, right: int, reach: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the area that both images show for certain, `copy` being `source` shifted.

    Two (h', w', 3) float32.
    """
    height, width = copy.shape[:2]
    moved = source[reach - down : height - reach - down, reach - right : width - reach - right]
    still = copy[reach : height - reach, reach : width - reach]
    return moved.astype(np.float32), still.astype(np.float32)


def _fit(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return `first` in the brightness of `second`, and `second`, clipped to their common range."""
    usable = (np.minimum(first, second) > CLIPPED) & (np.maximum(first, second) < 255 - CLIPPED)
    usable |= usable.mean((0, 1)) < 0.05
    weight = usable / usable.sum((0, 1), dtype=np.float32)
    both = np.stack([first, second])
    means = np.einsum("hwc,ahwc->ac", weight, both)
    variances = np.einsum("hwc,ahwc->ac", weight, np.square(both - means[:, None, None]))
    deviations = np.sqrt(np.maximum(variances, 1e-3))
    gain = deviations[1] / deviations[0]
    offset = means[1] - gain * means[0]
    low = np.maximum(0, offset)
    high = np.minimum(255, 255 * gain + offset)
    return np.clip(gain * first + offset, low, high), np.clip(second, low, high)


def _compare_details(first: np.ndarray, second: np.ndarray) -> float:
    """Return the share of one image's fine details (h, w, 3) that the other shows.

    It is the covariance divided by the smaller variance: 1 for a copy with added noise, where the
    correlation would fall. Places count by the inverse of their power, lest outlines, which cells
    have in common, outweigh the rest. It is 0 where coarse details differ.
    """
    from scipy.ndimage import gaussian_filter

    both = np.stack([first, second])
    fine, coarse = (
        gaussian_filter(both, (0, sigma, sigma, 0), truncate=2.5) for sigma in (FINE, COARSE)
    )
    if np.abs(coarse[0] - coarse[1]).mean(-1).max() > COARSE_DIFFERENCE:
        return 0.0
    detail = both - coarse
    power = gaussian_filter(np.square(fine - coarse).mean((0, 3)), (FINE + COARSE) / 2, truncate=2)
    weight = 1 / (power + LEAST_POWER * power.mean() + 1e-6)
    products = np.einsum("hw,ahwc,bhwc->ab", weight, detail, detail, optimize=True)
    return float(np.clip(products[0, 1] / max(min(products[0, 0], products[1, 1]), 1e-3), 0, 1))
