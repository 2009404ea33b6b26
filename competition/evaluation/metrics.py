"""Scores of predicted probabilities against labels, and the names of accuracies."""

from pathlib import Path
from typing import Any

import numpy as np

from competition.common.files import read_json
from competition.distortion.profiles import PROFILE, VERSIONS
from competition.metric import ACCURACY, Metric
from competition.paths import METRICS
from competition.scoring import OF_LABELS, count_confusion
from competition.training.runs import list_runs

TTA = "augmented"  # the key of scores with test-time augmentation, beside `plain` with one view
TTA_VERSIONS = (PROFILE, "clean")  # versions that are predicted with all views
DRAWS = 300  # of a bootstrap that computes the metric anew for each
ACCURACIES = {
    **{version: (version, "plain") for version in VERSIONS},
    **{f"{version} TTA": (version, TTA) for version in TTA_VERSIONS},
}
"""Name of an accuracy -> where it stands in the scores of a split: version and `plain` or TTA."""
SCORES_SHAPE = {str: {"plain": {"accuracy": float, "interval": [float]}}}
METRICS_SHAPE: dict[str, Any] = {
    "selection_score": float,
    "select_by": str,
    "metric": str,
    "temperature": float,
    "validation": SCORES_SHAPE,
    "test": SCORES_SHAPE,
    "views": int,
    "distortion": str,
    "parameters": int,
    "zip_megabytes": float,
    "milliseconds": object,
    "not_scored": [str],
    "test_looks": int,
}


def read_metrics(run: Path, *keys: str) -> dict[str, Any]:
    """Return a run's metrics.json; raises DamagedFileError where it lacks one of `keys`."""
    cure = "delete it, and score the run anew with --evaluate."
    return dict(read_json(run / METRICS, METRICS_SHAPE, cure, keys))


def list_scored(runs: Path) -> list[Path]:
    """Return the folders of the runs that are scored, by name."""
    return [run for run in list_runs(runs) if (run / METRICS).is_file()]


def collect_values(scores: dict[str, Any], metric: Metric) -> dict[str, float]:
    """Return a metric's values on a split that were scored, by name: `revealed`, `revealed TTA`.

    scores: a split's in metrics.json, version -> `plain` (one view), `augmented` -> scores.
    """
    return {
        name: scores[version][views][metric.name]
        for name, (version, views) in ACCURACIES.items()
        if views in scores.get(version, {})
    }


def final_scores(scores: dict[str, Any]) -> dict[str, Any]:
    """Return the scores of a version with test-time augmentation, or with one view without that."""
    return dict(scores.get(TTA, scores["plain"]))


def score(
    labels: np.ndarray, probabilities: np.ndarray, metric: Metric = ACCURACY
) -> dict[str, Any]:
    """Return the scores of probabilities (n, K) against labels (n,) in 0..K-1.

    accuracy, balanced_accuracy, f1_macro, f1_weighted: in 0..1. recall: K numbers in 0..1, 0 for a
    class without images. confusion: K rows (true classes) of K counts (predicted ones). The value
    of `metric` stands under its name.
    """
    predicted, count = probabilities.argmax(axis=1), probabilities.shape[1]
    confusion = count_confusion(labels.astype(np.int64), predicted, count)
    usual = ("accuracy", "balanced_accuracy", "f1_macro", "f1_weighted")
    return {
        **{name: OF_LABELS[name](confusion) for name in usual},
        metric.name: metric.compute(labels, probabilities),
        "recall": (confusion.diagonal() / np.maximum(confusion.sum(axis=1), 1)).tolist(),
        "confusion": confusion.tolist(),
    }


def bootstrap_interval(
    labels: np.ndarray, probabilities: np.ndarray, seed: int, metric: Metric = ACCURACY
) -> tuple[float, float]:
    """Return the 95 % percentile interval of a metric's value over resampled images.

    labels: (n,). probabilities: (n, K). It is the bootstrap of Efron and Tibshirani (1993). Of the
    accuracy, resampled sums of 0 and 1 are binomial.
    """
    generator, count = np.random.default_rng(seed), len(labels)
    if metric == ACCURACY:
        share = metric.compute(labels, probabilities)
        values = generator.binomial(count, share, 2000) / count
    else:
        draws = generator.integers(count, size=(DRAWS, count))
        values = np.array([metric.compute(labels[draw], probabilities[draw]) for draw in draws])
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def draw_gains(
    labels: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    metric: Metric,
    draws: int,
    seed: int,
    images: np.ndarray | None = None,
) -> tuple[float, np.ndarray]:
    """Return the gain of probabilities `first` over `second`, and the gains (draws,) by chance.

    labels: (n,). first, second: (n, K), of the same images, which the bootstrap of Efron and
    Tibshirani (1993) draws in pairs. images: (n,), the image of each row, where rows of one image
    are drawn together (None: each row is another one).
    """
    images = np.arange(len(labels)) if images is None else images
    counts = np.unique(images, return_counts=True)[1]
    rows = np.split(np.argsort(images, kind="stable"), np.cumsum(counts)[:-1])
    drawn = np.random.default_rng(seed).integers(len(rows), size=(draws, len(rows)))
    gain, *gains = [
        metric.score(labels[draw], first[draw]) - metric.score(labels[draw], second[draw])
        for draw in (
            np.concatenate([rows[number] for number in numbers])
            for numbers in (range(len(rows)), *drawn)
        )
    ]
    return gain, np.array(gains)


def mcnemar(first: np.ndarray, second: np.ndarray, alternative: str = "two-sided") -> float:
    """Return the p-value of McNemar's exact test (1947): the chance of so unlike answers by luck.

    first, second: (n,), how much of the same images each got right: bool, or the number of their
    versions. alternative: `greater` for the chance that the first is that much better, or more.
    """
    from scipy.stats import binomtest

    only_first, only_second = int((first > second).sum()), int((second > first).sum())
    if not only_first + only_second:
        return 1.0
    both = only_first + only_second
    return float(binomtest(only_first, both, alternative=alternative).pvalue)
