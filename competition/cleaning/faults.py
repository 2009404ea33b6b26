"""Faults that a picture shows by itself: blank, broken, noise."""

from dataclasses import dataclass

import numpy as np

from competition.cleaning.embedding import batches, find_distances, shrink
from competition.config import CleaningConfig

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
        parts.append(
            (
                measure_contrast(batch),
                *edges,
                measure_roughness(batch),
                grey.mean(1),
                np.ptp(grey, 1),
            )
        )
    return Measures(*(np.concatenate(part) for part in zip(*parts, strict=True)))


def find_faults(measures: Measures, config: CleaningConfig) -> dict[str, np.ndarray]:
    """Return a mask (n,) for each of `blank`, `broken` and `noise`; no picture has two of them."""
    blank = measures.contrast < config.blank_contrast
    broken = (measures.flat_edge >= config.broken_share) | (
        measures.repeated_edge >= config.repeated_share
    )
    broken &= ~blank
    noise = ~blank & ~broken & (measures.roughness > config.noise_roughness)
    return {"blank": blank, "broken": broken, "noise": noise}


def measure_contrast(images: np.ndarray) -> np.ndarray:
    """Return the largest standard deviation of a channel, in grey levels: (n, h, w, 3) uint8 -> (n,) float32."""
    pixels = images.reshape(len(images), -1, 3).astype(np.float32)
    pixels -= pixels.mean(1, keepdims=True)
    contrast: np.ndarray = np.sqrt(np.einsum("npc,npc->nc", pixels, pixels) / pixels.shape[1]).max(
        1
    )
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
    share = np.where(differ.any(1), differ[:, ::-1].argmax(1) / differ.shape[1], 0).astype(
        np.float32
    )
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


# Of fewer pictures, nobody can tell what is usual.
MINIMUM = 30


@dataclass(frozen=True)
class Oddity:
    """One picture's oddity: `issue` names its kind, the score is 0..1, from hardly odd to very."""

    index: int
    issue: str
    score: float
    reason: str


def find_oddities(
    measures: Measures, points: np.ndarray, indices: np.ndarray, config: CleaningConfig, seed: int
) -> list[Oddity]:
    """Return what is odd among some pictures `indices` (m,) of those measured, with points (n, d) of the
    embedding.

    `odd_brightness`: the mean brightness strays from the usual. `low_information`: darkest and brightest spot are
    close, or neighbouring pixels hardly differ, as in a blurred picture. `odd_picture`: the point lies far from
    its neighbours. Deviations are from the median, in units of the median absolute deviation of a normal
    distribution. A picture has the
    first of these that it shows. Of each kind, at most a share `odd_share` of the pictures, the oddest, is returned.
    """
    if len(indices) < MINIMUM:
        return []
    brightness, span, roughness = (
        values[indices]
        for values in (measures.brightness, measures.span, measures.roughness + 1e-6)
    )
    distance = find_distances(points[indices], config.odd_neighbour, seed) + 1e-6
    usual = [float(np.median(values)) for values in (brightness, span, roughness, distance)]
    limit = config.odd_deviation
    flat = config.odd_span * usual[1] / np.maximum(span, 1e-3)
    kinds = {
        "odd_brightness": np.abs(measure_deviation(brightness)) / limit,
        "low_information": np.maximum(flat, -measure_deviation(np.log(roughness)) / limit),
        "odd_picture": measure_deviation(np.log(distance)) / limit,
    }
    kinds["low_information"][kinds["odd_brightness"] > 1] = 0
    kinds["odd_picture"][np.maximum(kinds["odd_brightness"], kinds["low_information"]) > 1] = 0
    reasons = {
        "odd_brightness": lambda place: (
            f"mean brightness {brightness[place]:.0f}; {usual[0]:.0f} is usual"
        ),
        "low_information": lambda place: (
            f"darkest and brightest spot differ by {span[place]:.0f} grey levels, {usual[1]:.0f} are usual; "
            f"neighbouring pixels differ {roughness[place] / usual[2]:.2f} times as much as usual"
        ),
        "odd_picture": lambda place: (
            f"{distance[place] / usual[3]:.1f} times as far from its neighbours as usual"
        ),
    }
    most = max(1, round(config.odd_share * len(indices)))
    return [
        Oddity(
            int(indices[place]),
            kind,
            round(1 - 1 / (1 + float(strength[place])), 3),
            reasons[kind](place),
        )
        for kind, strength in kinds.items()
        for place in np.argsort(-strength, kind="stable")[:most]
        if strength[place] > 1
    ]


def measure_deviation(values: np.ndarray) -> np.ndarray:
    """Return by how many robust standard deviations, 1.4826 median absolute deviations, values (n,) exceed the median.

    See Iglewicz and Hoaglin (1993).
    """
    strays = values - np.median(values)
    deviation: np.ndarray = strays / (1.4826 * np.median(np.abs(strays)) + 1e-6)
    return deviation
