"""Pictures that are no cells: clusters of the map whose members share one unrelated picture and carry every label."""

from dataclasses import dataclass

import numpy as np

from competition.config import CleaningConfig
from competition.features import batches, shrink

# Side in pixels at which pictures are compared with a cluster's mean, and the blur that is taken from them.
DETAIL_SIDE = 48
BLUR_SIDE = 9
REFINEMENTS = 3


@dataclass(frozen=True)
class Template:
    """What a cluster's members share: mean detail (p,) and how far to trust each pixel of it (p,), 0..1."""

    mean: np.ndarray
    trust: np.ndarray

    def score(self, details: np.ndarray) -> np.ndarray:
        """Return the correlation of each picture's details (n, p) with the shared ones: (n,) in -1..1."""
        shared, power = self.trust * self.mean, self.trust @ np.square(self.mean)
        parts = (details[start : start + 1024] for start in range(0, len(details), 1024))
        return np.concatenate([part @ shared / np.sqrt(np.square(part) @ self.trust * power + 1e-6) for part in parts])


@dataclass(frozen=True)
class NonCells:
    """One kind of non-cell: its members (n,) bool, and each picture's correlation with what they share (n,).

    label_distance: see `measure_label_distance`. doubtful: pictures that are nearly members, or hardly, per member.
    """

    members: np.ndarray
    scores: np.ndarray
    label_distance: float
    doubtful: float


def find_non_cells(
    images: np.ndarray, labels: np.ndarray, coordinates: np.ndarray, config: CleaningConfig
) -> list[NonCells]:
    """Return the kinds of non-cells among pictures (n, h, w, 3) with a map (n, 2).

    A cluster of cells averages to a blur, one of cells blended over a fixed picture to that picture. Such a mean is
    compared with every picture, wherever the map has put it, so members outside of the cluster are found, and cells
    inside of it are spared. What is found is no kind of cell if it carries the labels in the proportions of the rest
    and stands apart from the rest: kinds of cells merge into one another.
    """
    details = extract_details(images)
    found: list[NonCells] = []
    taken = np.zeros(len(images), bool)
    for cluster in find_clusters(coordinates, config.cluster_size):
        if taken[cluster].mean() > 0.5 or measure_sharing(details[cluster]) < config.sharing:
            continue
        kind = _gather(details, labels, cluster, taken, config)
        apart = kind.label_distance < config.label_distance and kind.doubtful < config.doubtful
        if apart and kind.members.sum() >= config.cluster_size:
            found.append(kind)
            taken |= kind.members
    return found


def find_clusters(coordinates: np.ndarray, smallest: int) -> list[np.ndarray]:
    """Return the indices of each cluster of a map (n, 2), largest first: broad ones and the finest parts of them.

    HDBSCAN (Campello et al., 2013), by excess of mass and by leaves; the whole map is not a cluster.
    """
    from sklearn.cluster import HDBSCAN

    if len(coordinates) < 2 * smallest:
        return []
    clusters = []
    for method in ("eom", "leaf"):
        search = HDBSCAN(min_cluster_size=smallest, cluster_selection_method=method, copy=True)
        numbers = search.fit_predict(coordinates)
        clusters += [np.flatnonzero(numbers == number) for number in range(numbers.max() + 1)]
    return sorted(clusters, key=len, reverse=True)


def extract_details(images: np.ndarray) -> np.ndarray:
    """Return what a blur takes away from the pictures in grey: (n, h, w, 3) uint8 -> (n, p) float32."""
    from scipy.ndimage import uniform_filter

    parts = []
    for batch in batches(images, "looking for non-cells"):
        grey = shrink(batch, DETAIL_SIDE).mean(-1)
        detail = grey - uniform_filter(grey, (0, BLUR_SIDE, BLUR_SIDE))
        parts.append(detail.reshape(len(batch), -1))
    return np.concatenate(parts)


def measure_sharing(details: np.ndarray) -> float:
    """Return the share of the details (n, p) that all have in common: 0 for unrelated pictures, 1 for equal ones.

    It is the root of the ratio of the mean's power to the mean power, less what chance leaves of it.
    """
    power = float(np.square(details).mean())
    return float(np.sqrt(max(0.0, np.square(details.mean(0)).mean() / max(power, 1e-6) - 1 / len(details))))


def measure_label_distance(labels: np.ndarray, members: np.ndarray) -> float:
    """Return the total variation distance, up to 1, between the labels' shares among `members` and among the rest.

    What chance alone is expected to give so few members is taken off.
    """
    size, number = int(labels.max()) + 1, max(1, int(members.sum()))
    mine, rest = (np.bincount(labels[part], minlength=size) / max(1, part.sum()) for part in (members, ~members))
    chance = np.sqrt(2 / np.pi * rest * (1 - rest) / number).sum() / 2
    return float(np.abs(mine - rest).sum() / 2 - chance)


def _gather(
    details: np.ndarray, labels: np.ndarray, cluster: np.ndarray, taken: np.ndarray, config: CleaningConfig
) -> NonCells:
    """Grow a cluster into all pictures, but those `taken`, that share its detail, learning anew from each round's."""
    members = np.isin(np.arange(len(details)), cluster) & ~taken
    for _ in range(REFINEMENTS):
        scores = _learn_template(details[members]).score(details)
        members = (scores > config.correlation) & ~taken
        if not members.any():
            break
    doubtful = (np.abs(scores - config.correlation) < config.margin) & ~taken
    distance = measure_label_distance(labels, members)
    return NonCells(members, scores, distance, float(doubtful.sum() / max(1, members.sum())))


def _learn_template(details: np.ndarray) -> Template:
    mean, spread = details.mean(0), details.var(0)
    return Template(mean, np.square(mean) / (np.square(mean) + spread + 1e-6))
