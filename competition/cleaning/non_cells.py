"""Pictures that are no cells: clusters of the map whose members share one unrelated picture and carry every label."""

from dataclasses import dataclass, replace

import numpy as np

from competition.cleaning.embedding import batches, shrink
from competition.config import CleaningConfig

# Side in pixels at which pictures are compared with a cluster's mean, and the blur that is taken from them.
DETAIL_SIDE = 48
BLUR_SIDE = 9
REFINEMENTS = 3
# Pictures that a mean is taken over, at most; and pictures worked on at once.
ENOUGH = 4_096
CHUNK = 1_024
# By how much a cluster may miss the limits on some of the pictures, to be compared with all of them.
SLACK = 2.0
# How many neighbours are asked of how many pictures of a cluster; and the least that labels and neighbours must have
# to do with each other, beyond chance, over all pictures.
NEIGHBOURS = 10
ENOUGH_TO_LOOK = 512
LEAST_SKILL = 0.2


@dataclass(frozen=True)
class Template:
    """What a cluster's members share: mean detail (p,) and how far to trust each pixel of it (p,), 0..1."""

    mean: np.ndarray
    trust: np.ndarray

    def score(self, details: np.ndarray) -> np.ndarray:
        """Return the correlation of each picture's details (n, p) with the shared ones: (n,) in -1..1."""
        shared, power = self.trust * self.mean, self.trust @ np.square(self.mean)
        scores = np.empty(len(details), np.float32)
        for start in range(0, len(details), CHUNK):
            part = details[start : start + CHUNK].astype(np.float32)
            scores[start : start + CHUNK] = (
                part @ shared / np.sqrt(np.square(part) @ self.trust * power + 1e-6)
            )
        return scores


@dataclass(frozen=True)
class NonCells:
    """One kind of non-cell: the indices of its members (m,), and how surely each is one (m,), 0..1.

    reason: what they have in common, for people.
    """

    members: np.ndarray
    scores: np.ndarray
    reason: str


def find_non_cells(
    images: np.ndarray,
    labels: np.ndarray,
    points: np.ndarray,
    coordinates: np.ndarray,
    indices: np.ndarray,
    config: CleaningConfig,
) -> list[NonCells]:
    """Return the kinds of non-cells among some pictures.

    images (n, h, w, 3), labels (n,), points (n, d) of an embedding, coordinates (n, 2) of a map; indices (m,): those
    of the pictures that are looked at.
    """
    details, labels, points = extract_details(images, indices), labels[indices], points[indices]
    clusters = find_clusters(coordinates[indices], config.cluster_size)
    found = find_shared_pictures(details, labels, clusters, config)
    taken = np.zeros(len(indices), bool)
    for kind in found:
        taken[kind.members] = True
    found += find_meaningless_clusters(
        points, labels, [part[~taken[part]] for part in clusters], config
    )
    return [replace(kind, members=indices[kind.members]) for kind in found]


def find_shared_pictures(
    details: np.ndarray, labels: np.ndarray, clusters: list[np.ndarray], config: CleaningConfig
) -> list[NonCells]:
    """Return the kinds of non-cells that are cells blended over one fixed picture, by details (n, p).

    A cluster of cells averages to a blur, one of cells blended over a fixed picture to that picture. Such a mean is
    compared with every picture, wherever the map has put it, so members outside of the cluster are found, and cells
    inside of it are spared. What is found is no kind of cell if it carries the labels in the proportions of the rest
    and stands apart from the rest: kinds of cells merge into one another.
    """
    found: list[NonCells] = []
    taken = np.zeros(len(details), bool)
    sample = np.arange(0, len(details), _step(len(details)))
    few = details[sample].astype(np.float32)
    for cluster in clusters:
        drawn = details[cluster[:: _step(len(cluster))]]
        if taken[cluster].mean() > 0.5 or measure_sharing(drawn) < config.sharing:
            continue
        # Most clusters fail by far, on some of the pictures already.
        if not _is_apart(
            _learn_template(drawn).score(few), labels[sample], taken[sample], config, SLACK
        ):
            continue
        scores = _compare(details, cluster, taken, config)
        members = (scores > config.correlation) & ~taken
        many = members.sum() >= config.cluster_size
        apart = _is_apart(scores, labels, taken, config)
        if many and apart and measure_sharing(details[members]) >= config.members_sharing:
            distance = measure_label_distance(labels, members)
            reason = (
                f"shows the same picture as {members.sum() - 1} others, whose labels are those of the rest "
                f"(distance {distance:.2f})"
            )
            found.append(NonCells(np.flatnonzero(members), scores[members], reason))
            taken |= members
    return found


def find_meaningless_clusters(
    points: np.ndarray, labels: np.ndarray, clusters: list[np.ndarray], config: CleaningConfig
) -> list[NonCells]:
    """Return the clusters, apart from the rest of the points (n, d), in which labels have nothing to do with pictures.

    Such a cluster carries the labels in the proportions of the rest, as a kind of cell does not, and neighbours in it
    share a label no more often than chance has it, as cells of another stain or microscope still do.
    """
    if not clusters:
        return []
    everything = np.arange(len(labels))
    chance = float(np.square(np.bincount(labels) / max(1, len(labels))).sum())
    usual = _look_around(points, labels, everything)[0] - chance
    found: list[NonCells] = []
    taken = np.zeros(len(labels), bool)
    for cluster in clusters:
        cluster = cluster[~taken[cluster]]
        if not config.cluster_size <= len(cluster) < len(labels) / 2 or usual < LEAST_SKILL:
            continue
        distance = measure_label_distance(labels, np.isin(everything, cluster))
        if distance > config.label_distance:
            continue
        agreement, inside = _look_around(points, labels, cluster)
        if (agreement - chance) / usual < config.skill and inside > config.apart:
            reason = (
                f"one of {len(cluster)} apart from the rest, whose labels are no better than chance"
            )
            found.append(NonCells(cluster, np.full(len(cluster), inside), reason))
            taken[cluster] = True
    return found


def find_clusters(coordinates: np.ndarray, smallest: int) -> list[np.ndarray]:
    """Return the indices of each cluster of a map (n, 2), largest first: broad ones and the finest parts of them.

    HDBSCAN (Campello et al., 2013), by excess of mass and by leaves; the whole map is not a cluster. Pictures at one
    place count once, since a map of very many has only some of them laid out one by one.
    """
    from sklearn.cluster import HDBSCAN

    places, place_of = np.unique(coordinates, axis=0, return_inverse=True)
    if len(places) < 2 * smallest:
        return []
    clusters = []
    for method in ("eom", "leaf"):
        search = HDBSCAN(min_cluster_size=smallest, cluster_selection_method=method, copy=True)
        numbers = search.fit_predict(places)[place_of]
        clusters += [np.flatnonzero(numbers == number) for number in range(numbers.max() + 1)]
    return sorted(clusters, key=len, reverse=True)


def extract_details(images: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """Return what a blur takes away from some pictures in grey, in grey levels: (m, p) int8 of (n, h, w, 3) uint8."""
    from scipy.ndimage import uniform_filter

    height, width = shrink(images[:1], DETAIL_SIDE).shape[1:3]
    details = np.empty((len(indices), height * width), np.int8)
    start = 0
    for part in batches(indices, "looking for non-cells", CHUNK):
        grey = shrink(images[part], DETAIL_SIDE).mean(-1)
        detail = np.round(grey - uniform_filter(grey, (0, BLUR_SIDE, BLUR_SIDE)))
        details[start : start + len(part)] = np.clip(detail, -127, 127).reshape(len(part), -1)
        start += len(part)
    return details


def measure_sharing(details: np.ndarray) -> float:
    """Return the share of the details (n, p) that all have in common: 0 for unrelated pictures, 1 for equal ones.

    It is the root of the ratio of the mean's power to the mean power, less what chance leaves of it.
    """
    drawn = _thin_out(details)
    power = float(np.square(drawn).mean())
    return float(
        np.sqrt(max(0.0, np.square(drawn.mean(0)).mean() / max(power, 1e-6) - 1 / len(drawn)))
    )


def measure_label_distance(labels: np.ndarray, members: np.ndarray) -> float:
    """Return the total variation distance, up to 1, between the labels' shares among `members` and among the rest.

    What chance alone is expected to give so few members is taken off.
    """
    size, number = int(labels.max()) + 1, max(1, int(members.sum()))
    mine, rest = (
        np.bincount(labels[part], minlength=size) / max(1, part.sum())
        for part in (members, ~members)
    )
    chance = np.sqrt(2 / np.pi * rest * (1 - rest) / number).sum() / 2
    return float(np.abs(mine - rest).sum() / 2 - chance)


def _compare(
    details: np.ndarray, cluster: np.ndarray, taken: np.ndarray, config: CleaningConfig
) -> np.ndarray:
    """Return each picture's correlation (n,) with the detail that a cluster shares.

    The cluster grows into all pictures, but those `taken`, that share it, and each round learns anew from them.
    """
    members = np.isin(np.arange(len(details)), cluster) & ~taken
    for _ in range(REFINEMENTS):
        scores = _learn_template(details[members]).score(details)
        members = (scores > config.correlation) & ~taken
        if not members.any():
            break
    return scores


def _look_around(
    points: np.ndarray, labels: np.ndarray, cluster: np.ndarray
) -> tuple[float, float]:
    """Return how many neighbours of a cluster's members have the same label, and how many lie in it, as shares."""
    drawn = cluster[:: -(-len(cluster) // ENOUGH_TO_LOOK)]
    powers, count = np.square(points).sum(1), min(NEIGHBOURS, len(points) - 1)
    shares = []
    for start in range(0, len(drawn), 64):
        part = drawn[start : start + 64]
        distances = powers - 2 * points[part] @ points.T
        distances[np.arange(len(part)), part] = np.inf
        nearest = np.argpartition(distances, count - 1, 1)[:, :count]
        shares.append([labels[nearest] == labels[part, None], np.isin(nearest, cluster)])
    same, inside = np.concatenate(shares, 1).mean((1, 2))
    return float(same), float(inside)


def _is_apart(
    scores: np.ndarray,
    labels: np.ndarray,
    taken: np.ndarray,
    config: CleaningConfig,
    slack: float = 1,
) -> bool:
    """Tell whether few pictures are nearly members, or hardly, and the members carry the labels of the rest."""
    members = (scores > config.correlation) & ~taken
    doubtful = (np.abs(scores - config.correlation) < config.margin) & ~taken
    few = doubtful.sum() <= slack * config.maximum_in_margin * members.sum()
    return bool(few and measure_label_distance(labels, members) < slack * config.label_distance)


def _learn_template(details: np.ndarray) -> Template:
    drawn = _thin_out(details)
    mean, spread = drawn.mean(0), drawn.var(0)
    return Template(mean, np.square(mean) / (np.square(mean) + spread + 1e-6))


def _thin_out(details: np.ndarray) -> np.ndarray:
    """Return at most ENOUGH of the rows, evenly taken, as float32."""
    return details[:: _step(len(details))].astype(np.float32)


def _step(count: int) -> int:
    return max(1, -(-count // ENOUGH))
