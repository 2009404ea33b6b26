"""Faults of single images: blank, broken or noise by themselves; odd compared with the usual."""

from dataclasses import dataclass

import numpy as np

from competition.cleaning.embedding import batches, find_distances, shrink
from competition.cleaning.issues import KINDS, Issue, make_issue
from competition.config import CleaningConfig

# Side in pixels at which an image's darkest and brightest spots are looked for.
SPOT_SIDE = 48
# Fewer images tell nothing of the usual ones.
FEWEST_IMAGES = 30


@dataclass(frozen=True)
class Measures:
    """Measures of each image by itself, (n,) float32 each; see the functions `measure_...`.

    brightness: mean of all values, 0..255.
    span: from the darkest to the brightest spot, in grey levels.
    """

    contrast: np.ndarray
    flat_edge: np.ndarray
    repeated_edge: np.ndarray
    roughness: np.ndarray
    brightness: np.ndarray
    span: np.ndarray


def measure_images(images: np.ndarray, config: CleaningConfig) -> Measures:
    """Measure images (n, h, w, 3) uint8, in one pass."""
    measured = []
    for batch in batches(images, "looking for faults"):
        grey = shrink(batch, SPOT_SIDE).mean(-1).reshape(len(batch), -1)
        measured.append(
            (
                measure_contrast(batch),
                measure_flat_edge(batch, config.flat_tolerance, config.flat_elsewhere),
                measure_repeated_edge(batch),
                measure_roughness(batch),
                grey.mean(1),
                np.ptp(grey, 1),
            )
        )
    return Measures(*map(np.concatenate, zip(*measured, strict=True)))


def find_faults(measures: Measures, labels: np.ndarray, config: CleaningConfig) -> list[Issue]:
    """Return the images that are `blank`, `broken` or `noise`, each with the first of these.

    labels: (n,) int64. Classes look like a fault by nature where nearly all of their images have
    it, and hardly any image of the others. Their images are kept.
    """
    broken = measures.flat_edge >= config.broken_share
    broken |= measures.repeated_edge >= config.repeated_share
    masks = {
        "blank": measures.contrast < config.blank_contrast,
        "broken": broken,
        "noise": measures.roughness > config.noise_roughness,
    }
    first = np.select([*masks.values()], [*masks], "")
    faulty = first != ""
    typical = _find_faulty_classes(faulty, labels, config.class_faults)[labels]
    issues = []
    for index in np.flatnonzero(faulty).tolist():
        kind = str(first[index])
        if typical[index]:
            reason = f"{KINDS[kind].text} So are nearly all images of its class, and of no other."
            issues.append(make_issue(index, kind, reason=reason, action="keep"))
        else:
            issues.append(make_issue(index, kind))
    return issues


def _find_faulty_classes(faulty: np.ndarray, labels: np.ndarray, share: float) -> np.ndarray:
    """Return the mask (K,) bool of the classes to which a fault belongs; none where it is unclear.

    It is clear where each class has the fault in at least `share` of its images or in at most
    1 - `share` of them. It is unclear where all classes have it.
    """
    counts = np.maximum(np.bincount(labels), 1)
    shares = np.bincount(labels, faulty) / counts
    has_it = shares >= share
    is_clear = (has_it | (shares <= 1 - share)).all() and not has_it.all()
    return has_it if is_clear else np.zeros_like(has_it)


def find_odd_images(
    measures: Measures, points: np.ndarray, indices: np.ndarray, config: CleaningConfig, seed: int
) -> list[Issue]:
    """Return the odd ones among the images `indices` (m,).

    points: (n, d), of the embedding of all images.
    `odd_brightness`: the mean brightness is far from the usual.
    `low_information`: the darkest and the brightest spot are close, or neighbouring pixels hardly
    differ, as in a blurred image.
    `odd_image`: the point lies far from its neighbours.
    Deviations are from the median, see `measure_deviation`. An image has the first of these that it
    shows. Of each kind, at most a share `odd_share` of the images is returned, the oddest ones.
    """
    if len(indices) < FEWEST_IMAGES:
        return []
    brightness = measures.brightness[indices]
    span = measures.span[indices]
    roughness = measures.roughness[indices] + 1e-6
    distance = find_distances(points[indices], config.odd_neighbour, seed) + 1e-6
    usual_brightness = float(np.median(brightness))
    usual_span = float(np.median(span))
    relative_roughness = roughness / np.median(roughness)
    relative_distance = distance / np.median(distance)
    # How odd each image is: beyond 1 it is flagged.
    flatness = config.odd_span * usual_span / np.maximum(span, 1e-3)
    smoothness = -measure_deviation(np.log(roughness)) / config.odd_deviation
    oddities = {
        "odd_brightness": np.abs(measure_deviation(brightness)) / config.odd_deviation,
        "low_information": np.maximum(flatness, smoothness),
        "odd_image": measure_deviation(np.log(distance)) / config.odd_deviation,
    }
    reasons = {
        "odd_brightness": lambda place: (
            f"mean brightness {brightness[place]:.0f}; {usual_brightness:.0f} is usual"
        ),
        "low_information": lambda place: (
            f"darkest and brightest spot differ by {span[place]:.0f} grey levels, "
            f"{usual_span:.0f} are usual; neighbouring pixels differ "
            f"{relative_roughness[place]:.2f} times as much as usual"
        ),
        "odd_image": lambda place: (
            f"{relative_distance[place]:.1f} times as far from its neighbours as usual"
        ),
    }
    most = max(1, round(config.odd_share * len(indices)))
    flagged = np.zeros(len(indices), bool)
    issues = []
    for kind, oddity in oddities.items():
        oddity = np.where(flagged, 0, oddity)
        flagged |= oddity > 1
        for place in np.argsort(-oddity, kind="stable")[:most].tolist():
            if oddity[place] > 1:
                score = 1 - 1 / (1 + float(oddity[place]))
                issues.append(make_issue(int(indices[place]), kind, score, reasons[kind](place)))
    return issues


def measure_contrast(images: np.ndarray) -> np.ndarray:
    """Return the largest standard deviation of a channel, in grey levels.

    (n, h, w, 3) uint8 -> (n,) float32.
    """
    pixels = images.reshape(len(images), -1, 3).astype(np.float32)
    pixels -= pixels.mean(1, keepdims=True)
    variances = np.einsum("npc,npc->nc", pixels, pixels) / pixels.shape[1]
    return np.asarray(np.sqrt(variances).max(1))


def measure_flat_edge(images: np.ndarray, tolerance: float, elsewhere: float) -> np.ndarray:
    """Return the share of rows, from the bottom up, that one colour fills: (n,) float32.

    A truncated file decodes like that. A row is of the colour if no channel differs from it by more
    than `tolerance` grey levels. A plain background goes on beside the cell and does not count: of
    the median row above, less than the share `elsewhere` may be of about that colour. A last block
    may be decoded in part. So where the edge is exactly of one colour, only the upper half of the
    rows above counts.
    """
    share = np.zeros(len(images), np.float32)
    last = images[:, -1].astype(np.int16)
    is_flat = (np.abs(last - last[:, :1]) <= tolerance).all((1, 2))
    for index in np.flatnonzero(is_flat):
        difference = np.abs(images[index].astype(np.int16) - last[index, 0]).max(-1)
        touched = np.flatnonzero((difference > tolerance).any(1))
        decoded = touched[-1] + 1 if len(touched) else 0
        asked = decoded if difference[decoded:].any() else (decoded + 1) // 2
        above = difference[:asked]
        if decoded and np.median((above <= 3 * tolerance).mean(1)) < elsewhere:
            share[index] = 1 - decoded / len(difference)
    return share


def measure_repeated_edge(images: np.ndarray) -> np.ndarray:
    """Return the share of rows, from the bottom up, that equal the last one: (n,) float32.

    It is 0 where the last row is of one colour.
    """
    differ = (images != images[:, -1:]).any((2, 3))
    equal = differ[:, ::-1].argmax(1) / differ.shape[1]
    is_varied = np.ptp(images[:, -1], axis=1).max(-1) > 0
    return np.where(differ.any(1) & is_varied, equal, 0).astype(np.float32)


def measure_roughness(images: np.ndarray) -> np.ndarray:
    """Return how much neighbouring pixels differ, 0 for the smoothest, 1 for independent ones.

    (n, h, w, 3) uint8 -> (n,) float32. It is half the mean squared difference of neighbours over
    the variance (von Neumann's ratio). The smoother of the two directions counts, so that stripes
    are not taken for noise.
    """
    grey = np.einsum("nhwc->nhw", images.astype(np.float32))
    down, right = (np.square(np.diff(grey, axis=axis)).mean((1, 2)) for axis in (1, 2))
    variance = np.maximum(grey.var((1, 2)), 1e-6)
    return np.asarray(np.minimum(down, right) / (2 * variance))


def measure_deviation(values: np.ndarray) -> np.ndarray:
    """Return by how many robust standard deviations values (n,) exceed their median.

    One is 1.4826 median absolute deviations; see Iglewicz and Hoaglin (1993).
    """
    difference = values - np.median(values)
    return np.asarray(difference / (1.4826 * np.median(np.abs(difference)) + 1e-6))
