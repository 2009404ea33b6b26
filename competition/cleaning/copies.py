"""Copies: pictures equal to another one, or nearly so once turned, shifted and fitted in brightness."""

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
# Side in pixels at which candidates are looked for, and how many of its frequencies along an axis tell pictures apart.
SMALL_SIDE = 24
NUM_FREQUENCIES = 8
# Amplitude, of a picture of unit norm, below which a frequency is noise.
FLOOR = 0.14
# Likeness in small that a copy may lose, for each share of the side by which it may be shifted.
LOSS_BY_SHIFT = 5.0
# Candidates whose details are less alike, once aligned, get no closer look.
ALIGNED_CORRELATION = 0.8
# Turns that are this much less alike in small than the best one are looked at too.
TURN_MARGIN = 0.01
# Detail lies between these sigmas, in pixels: finer is noise and compression, coarser is what all cells share.
FINE, COARSE = 1.0, 3.0
# Grey levels by which what is coarser may differ at any place; noise that is clipped at white makes for up to 15.
COARSE_DIFFERENCE = 16
# Of the mean power of details: what places with less of it are taken to have.
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
    """Picture `index` shows what `original` shows, the first picture of its group.

    exact: equal to an earlier picture. score: 1, or the share of the fine details that both show. how: from which
    picture of the group it was made, and by what.
    """

    index: int
    original: int
    exact: bool
    score: float
    how: str


@dataclass(frozen=True)
class Match:
    """How a picture is made from another one: turned (a place in TURNS), moved by pixels, brighter by grey levels."""

    score: float
    turn: int
    down: int
    right: int
    brighter: float

    def describe(self, source: int) -> str:
        """Return what was done to picture `source`."""
        steps = [TURNS[self.turn]] if self.turn else []
        if self.down or self.right:
            steps.append(f"shifted by ({self.down}, {self.right})")
        if abs(self.brighter) >= 1:
            steps.append(
                f"{abs(self.brighter):.0f} grey levels {'brighter' if self.brighter > 0 else 'darker'}"
            )
        return f"picture {source} " + (", ".join(steps) or "with other noise or compression")


def find_copies(images: np.ndarray, sound: np.ndarray, config: CleaningConfig) -> list[Copy]:
    """Return the copies among the pictures (n, h, w, 3) uint8 of the mask `sound` (n,), ordered by index.

    A copy of a copy belongs to the group too; each group's first picture is no copy. Spoiled pictures, and those that
    share one unrelated picture, must not be `sound`: they are alike without being copies.
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
        source, original = int(sources[index]), int(originals[index])
        if firsts[index] == source:
            copies.append(Copy(index, original, True, 1.0, f"picture {source}, pixel by pixel"))
        else:
            match = matches.get((source, index)) or match_pictures(
                images[source], images[index], config.copy_shift
            )
            copies.append(
                Copy(index, original, False, round(match.score, 3), match.describe(source))
            )
    return copies


def group_copies(copies: list[Copy], count: int) -> np.ndarray:
    """Return groups (count,) int64: the index of the first picture that shows the same."""
    groups = np.arange(count)
    for copy in copies:
        groups[copy.index] = copy.original
    return groups


def find_matches(
    images: np.ndarray, indices: np.ndarray, config: CleaningConfig
) -> dict[tuple[int, int], Match]:
    """Return the pairs of near copies, lower index first, among the pictures `indices`, which all differ.

    Pictures of less than SMALLEST_SIDE pixels show too little detail for it, and have none.
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
            match = match_pictures(images[first], images[second], config.copy_shift, turns)
            if match.score >= config.copy_score:
                matches[first, second] = match
    return matches


def match_pictures(
    source: np.ndarray, copy: np.ndarray, reach: int, turns: Sequence[int] = range(len(TURNS))
) -> Match:
    """Return how to make `copy` from `source`, both (h, w, 3) uint8, in the best of `turns` and shifts up to `reach`.

    The pictures are aligned by the cross-correlation of their details, and each channel is fitted by a gain and an
    offset, with both pictures clipped where either is. The score is the share of the fine details that both show: 0,
    with no fit, where they cannot be aligned.
    """
    possible = [turn for turn in turns if turn in _list_turns(source.shape)]
    detail = _extract_detail(copy)
    aligned = [
        (*_align(_extract_detail(_turn(source, turn)), detail, copy.shape, reach), turn)
        for turn in possible
    ]
    likeness, down, right, turn = max(aligned)
    if likeness <= ALIGNED_CORRELATION:
        return Match(0.0, turn, down, right, 0.0)
    moved, still = _overlap(_turn(source, turn), copy, down, right, reach)
    return Match(
        _compare_details(*_fit(moved, still)), turn, down, right, float(still.mean() - moved.mean())
    )


def _find_equal(images: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """Return for each picture the first of `indices` with the same pixels, or itself: (n,) int64."""
    firsts = np.arange(len(images))
    seen: dict[bytes, int] = {}
    for index in indices.tolist():
        firsts[index] = seen.setdefault(hashlib.sha256(images[index].tobytes()).digest(), index)
    return firsts


def _trace(pairs: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return for each picture the first of its group, and the one a step nearer to that, or -1: (count,) each."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import breadth_first_order, connected_components

    def join(edges: np.ndarray) -> Any:
        return coo_array(
            (np.ones(len(edges), np.int8), tuple(edges.T)), shape=(count + 1, count + 1)
        ).tocsr()

    _, groups = connected_components(join(pairs), directed=False)
    _, firsts, members = np.unique(groups[:count], return_index=True, return_inverse=True)
    roots = np.stack(
        [np.full(len(firsts), count), firsts], 1
    )  # one more node, from which all groups are reached
    _, sources = breadth_first_order(join(np.concatenate([pairs, roots])), count, directed=False)
    return firsts[members], np.where(sources[:count] == count, -1, sources[:count])


def _list_turns(shape: tuple[int, ...]) -> Sequence[int]:
    """Return the turns that keep the shape (h, w, ...) of a picture: those by halves, where it is not square."""
    return range(len(TURNS)) if shape[0] == shape[1] else (0, 2, 5, 7)


def _turn(image: np.ndarray, turn: int) -> np.ndarray:
    """Return the picture (h, w, ...) after one of TURNS."""
    return np.rot90(image if turn < 4 else image.swapaxes(0, 1), turn % 4)


def _shrink_all(images: np.ndarray, indices: np.ndarray, reach: int) -> np.ndarray:
    """Return the inner parts of the pictures in grey and small, with zero mean and unit norm: (m, s, t) float16."""
    height, width = images.shape[1:3]
    block = max(1, min(height, width) // SMALL_SIDE)
    rows, columns = ((length - 2 * reach) // block for length in (height, width))
    top, left = (height - rows * block) // 2, (width - columns * block) // 2
    small = np.empty((len(indices), rows, columns), np.float16)
    for start in progress(range(0, len(indices), 128), "looking for copies", unit="batch"):
        batch = images[
            indices[start : start + 128], top : top + rows * block, left : left + columns * block
        ]
        grey = batch.reshape(len(batch), rows, block, columns, block, 3).mean(
            (2, 4, 5), dtype=np.float32
        )
        grey -= grey.mean((1, 2), keepdims=True)
        small[start : start + 128] = grey / np.maximum(
            np.linalg.norm(grey, axis=(1, 2), keepdims=True), 1e-3
        )
    return small


def _find_neighbours(small: np.ndarray, count: int) -> np.ndarray:
    """Return the pairs (m, 2), first < second, of each picture (n, s, t) and its `count` nearest in the spectrum."""
    from sklearn.neighbors import NearestNeighbors

    if len(small) < 2:
        return np.empty((0, 2), np.int64)
    spectra = np.concatenate(
        [_describe_spectrum(part) for part in np.array_split(small, -(-len(small) // BATCH_SIZE))]
    )
    search = NearestNeighbors(n_neighbors=min(count, len(small) - 1), algorithm="brute").fit(
        spectra
    )
    neighbours = search.kneighbors(return_distance=False)
    pairs = np.stack([np.arange(len(small)).repeat(neighbours.shape[1]), neighbours.ravel()], 1)
    return np.unique(np.sort(pairs, 1), axis=0)


def _describe_spectrum(small: np.ndarray) -> np.ndarray:
    """Return the lowest frequencies' logarithmic amplitudes (n, d), the same for all turns and shifts of a picture."""
    from scipy.fft import fft2

    window = np.outer(*(np.hanning(length + 2)[1:-1] for length in small.shape[1:])).astype(
        np.float32
    )
    size = min(NUM_FREQUENCIES, min(small.shape[1:]) // 2)
    amplitudes = np.log(np.abs(fft2(small * window)[:, :size]) + FLOOR)
    mirrored = amplitudes[:, :, :size] + amplitudes[:, :, -np.arange(size)]
    rows, columns = np.triu_indices(size)
    return np.asarray(mirrored[:, rows, columns] + mirrored[:, columns, rows])


def _compare_small(small: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Return the correlation of each pair's second picture with the first in each turn: (m, 8), -1 where none."""
    first, second = (small[indices].astype(np.float32) for indices in pairs.T)
    likeness = np.full((len(pairs), len(TURNS)), -1, np.float32)
    for turn in _list_turns(small.shape[1:]):
        likeness[:, turn] = np.einsum(
            "nhw,nhw->n", _turn(np.moveaxis(first, 0, -1), turn).transpose(2, 0, 1), second
        )
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
    """Return the correlation of two details, and the pixels down and right by which `copy` is shifted, up to `reach`.

    Half of a spectrum has half of the power: doubling makes good for it, near enough.
    """
    from scipy.fft import irfft2

    products = irfft2(copy * source.conj(), s=shape[:2]) * (shape[0] * shape[1] / 2)
    shifts = np.arange(-reach, reach + 1)
    products = products[np.ix_(shifts, shifts)]
    down, right = np.unravel_index(products.argmax(), products.shape)
    return float(products.max()), int(down) - reach, int(right) - reach


@functools.cache
def _make_filter(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a window (h, w) that hides the border, and the share (h, w // 2 + 1) of each frequency that is detail."""
    window = np.outer(*(np.hanning(length + 2)[1:-1] for length in (height, width))).astype(
        np.float32
    )
    square = np.add.outer(np.square(np.fft.fftfreq(height)), np.square(np.fft.rfftfreq(width)))
    fine, coarse = (np.exp(-2 * np.square(np.pi * sigma) * square) for sigma in (FINE, COARSE))
    return window, (fine - coarse).astype(np.float32)


def _overlap(
    source: np.ndarray, copy: np.ndarray, down: int, right: int, reach: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return what both pictures show for certain, where `copy` is `source` shifted: two (h', w', 3) float32."""
    height, width = copy.shape[:2]
    moved = source[reach - down : height - reach - down, reach - right : width - reach - right]
    return moved.astype(np.float32), copy[reach : height - reach, reach : width - reach].astype(
        np.float32
    )


def _fit(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return `first` in the brightness of `second`, and both clipped to the values that both can have."""
    usable = (np.minimum(first, second) > CLIPPED) & (np.maximum(first, second) < 255 - CLIPPED)
    usable |= usable.mean((0, 1)) < 0.05
    weight = usable / usable.sum((0, 1), dtype=np.float32)
    means = [np.einsum("hwc,hwc->c", weight, image) for image in (first, second)]
    variances = [
        np.einsum("hwc,hwc->c", weight, np.square(image - mean))
        for image, mean in zip((first, second), means, strict=True)
    ]
    gain = np.sqrt(np.maximum(variances[1], 1e-3) / np.maximum(variances[0], 1e-3))
    offset = means[1] - gain * means[0]
    low, high = np.maximum(0, offset), np.minimum(255, 255 * gain + offset)
    return np.clip(gain * first + offset, low, high), np.clip(second, low, high)


def _compare_details(first: np.ndarray, second: np.ndarray) -> float:
    """Return the share of the fine details (h, w, 3) of one picture that the other shows; 0 if coarse ones differ.

    It is the slope of the regression of one on the other, divided by the smaller variance: 1 for a copy with added
    noise, where the correlation would fall. Places count by the inverse of their power, lest outlines, which cells
    have in common, outweigh the rest.
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
