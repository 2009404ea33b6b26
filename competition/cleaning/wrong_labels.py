"""Wrong labels: labels that predictions from the other images contradict."""

from dataclasses import dataclass

import numpy as np

from competition.cleaning.embedding import batches, shrink, take_components
from competition.config import CleaningConfig
from competition.data.arrays import one_hot

# Of fewer images nothing can be said.
FEWEST_IMAGES = 50
# The second pass learns without the labels that the first doubts: stricter doubts would leave wrong
# labels of look-alike classes in, a third pass would grow sure of right ones.
PASSES = 2
DOUBTED = 0.65  # highest share of right labels in them
RIDGE = 0.2  # penalty on the weights in the kernel's feature space
# Squared width of the kernel, in mean squared distances of two images.
KERNEL_WIDTH = 4.0

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
    views: list[np.ndarray], labels: np.ndarray, config: CleaningConfig, seed: int
) -> list[WrongLabel]:
    """Return the images whose labels look wrong, by index.

    views: descriptions of the images, (n, d) float32 each, without copies of one image. Each is
    learnt from by itself; the probabilities are pooled. labels: (n,) int64.
    A label is flagged if it is not the most probable one and looks so wrong that at most the share
    `config.false_alarms` of such labels is expected to be right. It is surely wrong if that share
    is at most `config.sure_false_alarms`. Where classes look the same, no label is flagged; never
    are all labels of a class.
    """
    classes, numbers = np.unique(labels, return_inverse=True)
    if len(labels) < FEWEST_IMAGES or len(classes) < 2:
        return []
    probabilities = predict_labels(views, numbers, config, seed)
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


def predict_labels(
    views: list[np.ndarray], labels: np.ndarray, config: CleaningConfig, seed: int
) -> np.ndarray:
    """Return probabilities (n, K) of the labels 0..K-1 by all views, see `find_wrong_labels`."""
    return pool_opinions([_predict_by_view(view, labels, config, seed) for view in views])


def predict_out_of_fold(
    points: np.ndarray, labels: np.ndarray, trusted: np.ndarray, config: CleaningConfig, seed: int
) -> np.ndarray:
    """Return probabilities (n, K) of the labels 0..K-1, each learnt in the other folds.

    points: (n, d) float32. labels: (n,). trusted: (n,) bool, the labels to learn from.
    Ridge regression of the one-hot labels in the feature space of a Gaussian kernel, approximated
    by its similarities to some of the points (Nystroem's method, Williams and Seeger, 2001). One
    logistic regression turns the scores into probabilities.
    """
    from sklearn.kernel_approximation import Nystroem
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.model_selection import KFold, cross_val_predict

    gamma = 1 / (KERNEL_WIDTH * 2 * float(points.var(0).sum()) + 1e-6)
    landmarks = min(config.label_landmarks, len(points))
    kernel = Nystroem(gamma=gamma, n_components=landmarks, random_state=seed)
    folds = KFold(config.label_folds, shuffle=True, random_state=seed).split(points)
    scores = cross_val_predict(
        Ridge(RIDGE, copy_X=False),  # the rows of a fold are a copy already
        kernel.fit_transform(points),
        one_hot(labels, int(labels.max()) + 1),
        cv=[(rows[trusted[rows]], held_out) for rows, held_out in folds],
    )
    scores /= scores[trusted].std()
    calibration = LogisticRegression(C=100, max_iter=300).fit(scores[trusted], labels[trusted])
    return np.asarray(calibration.predict_proba(scores))


def pool_opinions(opinions: list[np.ndarray]) -> np.ndarray:
    """Return the geometric mean of probabilities (n, K), scaled to sum to 1.

    It is a logarithmic opinion pool (Genest and Zidek, 1986).
    """
    pooled = np.exp(np.mean([np.log(np.maximum(opinion, 1e-9)) for opinion in opinions], 0))
    return np.asarray(pooled / pooled.sum(1, keepdims=True))


def estimate_false_alarms(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return for each image the share of right labels among all that look as wrong or worse: (n,).

    The less probable a label is, the more wrong it looks. If all labels were right and the
    probabilities (n, K) true, the labels less probable than t would number the sum of all
    probabilities below t. The share is that sum over their actual number (Storey, 2002), made to
    grow with the probability.
    """
    own = probabilities[np.arange(len(labels)), labels]
    order = np.argsort(own)
    ascending = np.sort(probabilities, axis=None)
    sums = np.concatenate([[0], np.cumsum(ascending)])
    expected = sums[np.searchsorted(ascending, own[order], side="right")]
    share = expected / np.arange(1, len(own) + 1)
    result = np.empty(len(own))
    result[order] = np.minimum.accumulate(share[::-1])[::-1]
    return result


def _predict_by_view(
    view: np.ndarray, labels: np.ndarray, config: CleaningConfig, seed: int
) -> np.ndarray:
    """Return the probabilities (n, K) by one view, learnt without the labels that look wrong."""
    points = take_components(view / (view.std(0) + 1e-6), seed, config.label_components)
    trusted = np.ones(len(labels), bool)
    for _ in range(PASSES):
        probabilities = predict_out_of_fold(points, labels, trusted, config, seed)
        doubted = estimate_false_alarms(probabilities, labels) <= DOUBTED
        trusted = ~_spare_classes(doubted, labels)
    return probabilities


def _spare_classes(mask: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the mask (n,) without the classes that it covers whole."""
    return mask & np.isin(labels, labels[~mask])


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
    """Return means and deviations of the colours, and of the loss at each halving of the side.

    (n, h, w, 3) -> (n, d).
    """
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
    """Return the colours' means and deviations in rings about the middle of the dark parts.

    (n, h, w, 3) -> (n, d). Dark is what is darker than the median.
    """
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
