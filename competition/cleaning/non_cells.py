"""Non-cells: clusters of the map that share one unrelated image and carry every label."""

from dataclasses import dataclass

import numpy as np

from competition.cleaning.embedding import batches, shrink
from competition.cleaning.issues import Issue, make_issue
from competition.config import CleaningConfig

# Side in pixels at which images are compared with a cluster's mean.
DETAIL_SIDE = 48
# Side of the blur that is taken from them, in these pixels.
BLUR_SIDE = 9
REFINEMENTS = 3
MAXIMUM_AVERAGED = 4_096  # images that a mean is taken over
CHUNK = 1_024  # images worked on at once
# Factor by which a cluster may miss the limits on some of the images, to be compared with all.
SLACK = 2.0
NEIGHBOURS = 10
MAXIMUM_ASKED = 512  # images of a cluster whose neighbours are looked at
# Least share by which neighbours must agree on labels beyond chance, over all images.
LEAST_SKILL = 0.2


@dataclass(frozen=True)
class Template:
    """The detail that a cluster's members share: its mean (p,) and its trust per pixel, 0..1."""

    mean: np.ndarray
    trust: np.ndarray

    def score(self, details: np.ndarray) -> np.ndarray:
        """Return the correlation of each image's details (n, p) with the shared ones: (n,)."""
        shared = self.trust * self.mean
        power = self.trust @ np.square(self.mean)
        scores = np.empty(len(details), np.float32)
        for start in range(0, len(details), CHUNK):
            part = details[start : start + CHUNK].astype(np.float32)
            norm = np.sqrt(np.square(part) @ self.trust * power + 1e-6)
            scores[start : start + CHUNK] = part @ shared / norm
        return scores


@dataclass(frozen=True)
class NonCells:
    """One kind of non-cell: the indices of its members (m,), and how sure each is (m,), 0..1.

    reason: the feature that they share, for people.
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
) -> list[Issue]:
    """Return the non-cells among the images `indices` (m,).

    images: (n, h, w, 3) uint8. labels: (n,). points: (n, d), of an embedding. coordinates: (n, 2),
    of a map.
    """
    labels = labels[indices]
    details = extract_details(images, indices)
    clusters = find_clusters(coordinates[indices], config.cluster_size)
    found = find_shared_images(details, labels, clusters, config)
    taken = np.zeros(len(indices), bool)
    for kind in found:
        taken[kind.members] = True
    rest = [members[~taken[members]] for members in clusters]
    found += find_meaningless_clusters(points[indices], labels, rest, config)
    return [
        make_issue(index, "non_cell", score, kind.reason)
        for kind in found
        for index, score in zip(indices[kind.members].tolist(), kind.scores.tolist(), strict=True)
    ]


def find_shared_images(
    details: np.ndarray, labels: np.ndarray, clusters: list[np.ndarray], config: CleaningConfig
) -> list[NonCells]:
    """Return the kinds of non-cells that are cells blended over one fixed image.

    details: (n, p). labels: (n,). clusters: the indices of each cluster's members.
    A cluster of cells averages to a blur, one of cells blended over a fixed image to that image.
    Such a mean is compared with every image, wherever it lies on the map. So members outside of the
    cluster are found, and cells inside of it are spared. The members are no kind of cell if they
    carry the labels in the proportions of the rest and stand apart: kinds of cells merge into one
    another.
    """
    found: list[NonCells] = []
    taken = np.zeros(len(details), bool)
    sample = np.arange(0, len(details), _step(len(details)))
    few = details[sample].astype(np.float32)
    for cluster in clusters:
        drawn = details[cluster[:: _step(len(cluster))]]
        if taken[cluster].mean() > 0.5 or measure_sharing(drawn) < config.sharing:
            continue
        # Most clusters fail by far, on some of the images already.
        likeness = _learn_template(drawn).score(few)
        if not _is_apart(likeness, labels[sample], taken[sample], config, SLACK):
            continue
        scores = _compare(details, cluster, taken, config)
        members = (scores > config.correlation) & ~taken
        many = members.sum() >= config.cluster_size
        apart = _is_apart(scores, labels, taken, config)
        if many and apart and measure_sharing(details[members]) >= config.members_sharing:
            distance = measure_label_distance(labels, members)
            reason = (
                f"shows the same image as {members.sum() - 1} others, whose labels are those of "
                f"the rest (distance {distance:.2f})"
            )
            found.append(NonCells(np.flatnonzero(members), scores[members], reason))
            taken |= members
    return found


def find_meaningless_clusters(
    points: np.ndarray, labels: np.ndarray, clusters: list[np.ndarray], config: CleaningConfig
) -> list[NonCells]:
    """Return the clusters apart from the rest whose labels have nothing to do with the images.

    points: (n, d), of the embedding. labels: (n,). clusters: the indices of each cluster's members.
    Such a cluster carries the labels in the proportions of the rest; a kind of cell does not.
    Neighbours in it share a label no more often than by chance; cells of another stain still do.
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
            reason = f"one of {len(cluster)} apart, whose labels are no better than chance"
            found.append(NonCells(cluster, np.full(len(cluster), inside), reason))
            taken[cluster] = True
    return found


def find_clusters(coordinates: np.ndarray, smallest: int) -> list[np.ndarray]:
    """Return the indices of each cluster of a map (n, 2), largest first.

    HDBSCAN (Campello et al., 2013), by excess of mass for broad ones and by leaves for the finest;
    the whole map is not a cluster. Images at one place count once: of very many, the map lays only
    some out one by one.
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
    """Return the differences of some images from their blur: (m, p) int8, in grey levels.

    images: (n, h, w, 3) uint8. indices: (m,), the images to look at.
    """
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
    """Return the share of the details (n, p) that all have in common.

    It is 0 for unrelated images and 1 for equal ones: the root of the ratio of the mean's power to
    the mean power, less its value by chance.
    """
    drawn = _thin_out(details)
    power = max(float(np.square(drawn).mean()), 1e-6)
    return float(np.sqrt(max(0.0, np.square(drawn.mean(0)).mean() / power - 1 / len(drawn))))


def measure_label_distance(labels: np.ndarray, members: np.ndarray) -> float:
    """Return the total variation distance of the members' label shares from the others': 0..1.

    labels: (n,). members: (n,) bool. The distance that chance alone is expected to give so few
    members is subtracted.
    """
    size = int(labels.max()) + 1
    mine, rest = (
        np.bincount(labels[mask], minlength=size) / max(1, mask.sum())
        for mask in (members, ~members)
    )
    chance = np.sqrt(2 / np.pi * rest * (1 - rest) / max(1, members.sum())).sum() / 2
    return float(np.abs(mine - rest).sum() / 2 - chance)


def _compare(
    details: np.ndarray, cluster: np.ndarray, taken: np.ndarray, config: CleaningConfig
) -> np.ndarray:
    """Return each image's correlation (n,) with the detail that a cluster shares.

    The cluster grows into all images that share it, except those `taken`; each round learns anew.
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
    """Return the shares of a cluster's neighbours that have the same label, and that lie in it."""
    from sklearn.neighbors import NearestNeighbors

    drawn = cluster[:: -(-len(cluster) // MAXIMUM_ASKED)]
    count = min(NEIGHBOURS, len(points) - 1)
    search = NearestNeighbors(algorithm="brute").fit(points)
    nearest = search.kneighbors(points[drawn], count + 1, return_distance=False)[:, 1:]
    same = (labels[nearest] == labels[drawn, None]).mean()
    return float(same), float(np.isin(nearest, cluster).mean())


def _is_apart(
    scores: np.ndarray,
    labels: np.ndarray,
    taken: np.ndarray,
    config: CleaningConfig,
    slack: float = 1,
) -> bool:
    """Tell whether few images are ambiguous, and the members carry the labels of the rest."""
    members = (scores > config.correlation) & ~taken
    ambiguous = (np.abs(scores - config.correlation) < config.margin) & ~taken
    if ambiguous.sum() > slack * config.maximum_in_margin * members.sum():
        return False
    return measure_label_distance(labels, members) < slack * config.label_distance


def _learn_template(details: np.ndarray) -> Template:
    drawn = _thin_out(details)
    mean = drawn.mean(0)
    power = np.square(mean)
    return Template(mean, power / (power + drawn.var(0) + 1e-6))


def _thin_out(details: np.ndarray) -> np.ndarray:
    """Return at most MAXIMUM_AVERAGED of the rows, evenly taken, as float32."""
    return details[:: _step(len(details))].astype(np.float32)


def _step(count: int) -> int:
    return max(1, -(-count // MAXIMUM_AVERAGED))
