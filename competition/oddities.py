"""Single pictures that are unlike the rest: flagged for a look, and kept."""

from dataclasses import dataclass

import numpy as np

from competition.config import CleaningConfig
from competition.embedding import find_distances
from competition.faults import Measures

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
        values[indices] for values in (measures.brightness, measures.span, measures.roughness + 1e-6)
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
        "odd_brightness": lambda place: f"mean brightness {brightness[place]:.0f}; {usual[0]:.0f} is usual",
        "low_information": lambda place: (
            f"darkest and brightest spot differ by {span[place]:.0f} grey levels, {usual[1]:.0f} are usual; "
            f"neighbouring pixels differ {roughness[place] / usual[2]:.2f} times as much as usual"
        ),
        "odd_picture": lambda place: f"{distance[place] / usual[3]:.1f} times as far from its neighbours as usual",
    }
    most = max(1, round(config.odd_share * len(indices)))
    return [
        Oddity(int(indices[place]), kind, round(1 - 1 / (1 + float(strength[place])), 3), reasons[kind](place))
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
