"""Wrong labels: labels that predictions from the other images contradict."""

from dataclasses import dataclass

import numpy as np

from competition.cleaning.embedding import batches, shrink, take_components
from competition.config import CleaningConfig

# Of fewer images nothing can be said.
FEWEST_IMAGES = 50
# The second pass learns without the labels that the first found to be wrong rather than right; a
# third would grow sure of right ones.
PASSES = 2
MORE_WRONG = 0.5
# Penalty on the weights of the kernel's columns, as a share of their mean power; less is lost in
# rounding.
RIDGE = 1e-5
# Squared width of the kernel, in mean squared distances of two images.
KERNEL_WIDTH = 2.0
ROWS_AT_ONCE = 4096

# Side in pixels at which images are described.
SIDE = 48
SCALES = 3
RINGS = 12
# Share of half the side that the rings reach; the last one takes in all beyond.
REACH = 1.25


@dataclass(frozen=True)
class WrongLabel:
    """An image whose label looks wrong, surely or perhaps.

    suggestion: the label that fits better. confidence: its probability.
    """

    index: int
    suggestion: int
    confidence: float
    sure: bool


def find_wrong_labels(
    views: list[np.ndarray],
    labels: np.ndarray,
    groups: np.ndarray,
    config: CleaningConfig,
    seed: int,
) -> list[WrongLabel]:
    """Return the images whose labels look wrong, by index.

    views: descriptions of the images, (n, d) float32 each. Each is learnt from by itself; the
    probabilities are pooled. labels: (n,) int64. groups: (n,) int64, equal for copies of one image,
    which are never predicted from each other.
    A label is flagged if it is not the most probable one and looks so wrong that at most the share
    `config.false_alarms` of such labels is expected to be right. It is surely wrong if that share is
    at most `config.sure_false_alarms`. Where classes look alike, no label is flagged; never are all
    labels of a class.
    """
    classes, numbers = np.unique(labels, return_inverse=True)
    if len(labels) < FEWEST_IMAGES or len(classes) < 2:
        return []
    folds = cut_folds(groups, config.label_folds, seed)
    opinions = [_predict_by_view(view, numbers, folds, config, seed) for view in views]
    probabilities = pool_opinions(opinions)
    suggestions = probabilities.argmax(1)
    alarms = estimate_false_alarms(probabilities, numbers)
    looks_wrong = (suggestions != numbers) & (alarms <= config.false_alarms)
    return [
        WrongLabel(
            index,
            suggestion=int(classes[suggestions[index]]),
            confidence=float(probabilities[index].max()),
            sure=bool(alarms[index] <= config.sure_false_alarms),
        )
        for index in np.flatnonzero(_spare_classes(looks_wrong, numbers)).tolist()
    ]


def cut_folds(groups: np.ndarray, number: int, seed: int) -> np.ndarray:
    """Return the fold (n,) of each image, 0 to number - 1: whole groups, drawn at random."""
    _, member_of = np.unique(groups, return_inverse=True)
    drawn = np.random.default_rng(seed).permutation(member_of.max() + 1) % number
    return np.asarray(drawn[member_of])


def predict_out_of_fold(
    points: np.ndarray,
    labels: np.ndarray,
    folds: np.ndarray,
    trusted: np.ndarray,
    num_landmarks: int,
    seed: int,
) -> np.ndarray:
    """Return the probabilities (n, K) of the labels 0..K-1 of each of (n, d) points, learnt in the other folds.

    Ridge regression of the one-hot labels on the similarities to some of the points (Nystroem's method, Williams and
    Seeger, 2001), whose normal equations are summed fold by fold, so that each fold's are the total less its own; then
    one logistic regression turns scores into probabilities. trusted: (n,) bool, the labels to learn from.
    """
    from sklearn.linear_model import LogisticRegression

    kernel = _Kernel(points, num_landmarks, seed)
    targets = np.eye(labels.max() + 1, dtype=np.float32)[labels]
    parts = [np.flatnonzero(folds == fold) for fold in range(folds.max() + 1)]
    sums = [_sum_products(kernel, points, targets, part[trusted[part]]) for part in parts]
    scores = np.empty_like(targets)
    for part, own in zip(parts, sums, strict=True):
        weights = _solve(sum(sums) - own, targets.shape[1])
        for rows in _cut(part):
            scores[rows] = kernel(points[rows]) @ weights
    scores /= scores[trusted].std()
    calibration = LogisticRegression(C=100, max_iter=300).fit(scores[trusted], labels[trusted])
    probabilities: np.ndarray = calibration.predict_proba(scores)
    return probabilities


def pool_opinions(opinions: list[np.ndarray]) -> np.ndarray:
    """Return the geometric mean of probabilities (n, K), scaled to sum to 1."""
    pooled = np.exp(np.mean([np.log(np.maximum(opinion, 1e-9)) for opinion in opinions], 0))
    return pooled / pooled.sum(1, keepdims=True)


def estimate_false_alarms(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return for each image the share of right labels among all that look at least as wrong as its own: (n,).

    How wrong a label looks is how improbable it is. If all labels were right, and the probabilities (n, K) hold, the
    labels less probable than t would number the sum of all probabilities under t; the share is that over their actual
    number (Storey, 2002), made to grow with the probability.
    """
    own = probabilities[np.arange(len(labels)), labels]
    order = np.argsort(own)
    ascending = np.sort(probabilities, axis=None)
    expected = np.concatenate([[0], np.cumsum(ascending)])[
        np.searchsorted(ascending, own[order], side="right")
    ]
    share = expected / np.arange(1, len(own) + 1)
    result = np.empty(len(own))
    result[order] = np.minimum.accumulate(share[::-1])[::-1]
    return result


def _predict_by_view(
    features: np.ndarray, labels: np.ndarray, folds: np.ndarray, config: CleaningConfig, seed: int
) -> np.ndarray:
    """Return the probabilities (n, K) that one view gives, learnt without the labels that it finds doubtful."""
    points = take_components(features / (features.std(0) + 1e-6), seed, config.label_components)
    trusted = np.ones(len(labels), bool)
    for _ in range(PASSES):
        probabilities = predict_out_of_fold(
            points, labels, folds, trusted, config.label_landmarks, seed
        )
        trusted = ~_spare_classes(
            estimate_false_alarms(probabilities, labels) <= MORE_WRONG, labels
        )
    return probabilities


def _spare_classes(doubted: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the mask (n,) without the classes of which it would leave no label."""
    return doubted & np.isin(labels, labels[~doubted])


class _Kernel:
    """Gaussian similarities of points (n, d) to landmarks drawn from them, and a column of ones: (n, m + 1) float32."""

    def __init__(self, points: np.ndarray, number: int, seed: int) -> None:
        self.landmarks = points[np.random.default_rng(seed).permutation(len(points))[:number]]
        self.powers = np.square(self.landmarks).sum(1)
        self.width = KERNEL_WIDTH * 2 * float(points.var(0).sum()) + 1e-6

    def __call__(self, points: np.ndarray) -> np.ndarray:
        distances = np.square(points).sum(1)[:, None] + self.powers - 2 * points @ self.landmarks.T
        return np.hstack([np.exp(-distances / self.width), np.ones((len(points), 1), np.float32)])


def _cut(rows: np.ndarray) -> list[np.ndarray]:
    return [rows[start : start + ROWS_AT_ONCE] for start in range(0, len(rows), ROWS_AT_ONCE)]


def _sum_products(
    kernel: _Kernel, points: np.ndarray, targets: np.ndarray, rows: np.ndarray
) -> np.ndarray:
    """Return the products of the kernel's columns with each other and, in the last columns, with the targets."""
    total = np.zeros((len(kernel.landmarks) + 1, len(kernel.landmarks) + 1 + targets.shape[1]))
    for part in _cut(rows):
        columns = kernel(points[part])
        total += columns.T @ np.hstack([columns, targets[part]])
    return total


def _solve(products: np.ndarray, num_targets: int) -> np.ndarray:
    from scipy.linalg import solve

    power = products[:, :-num_targets]
    penalty = RIDGE * power.trace() / len(power) * np.eye(len(power))
    weights: np.ndarray = solve(power + penalty, products[:, -num_targets:], assume_a="pos").astype(
        np.float32
    )
    return weights


def describe(images: np.ndarray) -> np.ndarray:
    """Return one row of numbers per image that hardly change when it is turned or mirrored.

    images: (n, h, w, 3) uint8. Result: (n, d) float32 in grey levels. No weights are needed.
    """
    rows = []
    for batch in batches(images, "describing images"):
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
