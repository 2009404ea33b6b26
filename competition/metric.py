"""The metrics that may decide a competition: one row each, with its direction and its format.

The server's scoring program computes them by their names, here as there.
"""

import math
from dataclasses import dataclass

import numpy as np

from competition.common.errors import UserError, unknown
from competition.scoring import OF_LABELS, OF_PROBABILITIES, count_confusion


@dataclass(frozen=True)
class Metric:
    """One metric.

    title: its name for people. greater_is_better: its direction. needs_all_classes: it says little
    where a class has no image. is_calibrated: one temperature is fitted to the probabilities first.
    low, high: the bounds of its values. is_share: people read it in percent.
    """

    name: str
    title: str
    greater_is_better: bool = True
    needs_all_classes: bool = False
    is_calibrated: bool = False
    low: float = 0.0
    high: float = 1.0
    is_share: bool = False

    @property
    def needs_probabilities(self) -> bool:
        """Whether it cannot be computed from labels alone."""
        return self.name in OF_PROBABILITIES

    def compute(self, labels: np.ndarray, probabilities: np.ndarray) -> float:
        """Return its value for labels (n,) in 0..K-1 and probabilities (n, K)."""
        if self.needs_probabilities:  # exact ones, so that those of an image sum to 1
            return OF_PROBABILITIES[self.name](labels, probabilities.astype(np.float64))
        predicted, count = probabilities.argmax(axis=1), probabilities.shape[1]
        return OF_LABELS[self.name](count_confusion(labels.astype(np.int64), predicted, count))

    def score(self, labels: np.ndarray, probabilities: np.ndarray) -> float:
        """Return the metric, or its negative where less is better, so that more is better."""
        return self.flip(self.compute(labels, probabilities))

    def flip(self, number: float) -> float:
        """Return the score of a value, or the value of a score."""
        return number if self.greater_is_better else -number

    def format(self, value: float) -> str:
        """Return a value for people: a share in percent, without the sign."""
        return f"{100 * value:.1f}" if self.is_share else f"{value:.4f}"

    def with_unit(self, value: float) -> str:
        """Return a value for people, with the sign of percent where it is a share."""
        return f"{self.format(value)} %" if self.is_share else self.format(value)

    @property
    def description(self) -> str:
        """Its title and how to read it, for people."""
        direction = "" if self.greater_is_better else ", less is better"
        return f"{self.title}{' in percent' if self.is_share else direction}"

    @property
    def column(self) -> str:
        """Its column in history.csv, where it is the selection score of an epoch."""
        return f"val_{self.name}"


METRICS = {
    metric.name: metric
    for metric in (
        Metric("accuracy", "accuracy", is_share=True),
        Metric("balanced_accuracy", "balanced accuracy", is_share=True),
        Metric("f1_macro", "macro F1", is_share=True),
        Metric("log_loss", "log-loss", greater_is_better=False, is_calibrated=True, high=math.inf),
        Metric("auc", "AUC", needs_all_classes=True),
        Metric("kappa", "Cohen's kappa", low=-1.0),
        Metric("quadratic_kappa", "quadratic weighted kappa", low=-1.0),
    )
}
ACCURACY = METRICS["accuracy"]


def get_metric(name: str) -> Metric:
    """Return a metric; raises UserError for an unknown name."""
    if name not in METRICS:
        raise UserError(unknown("metric", name, METRICS))
    return METRICS[name]


def require_classes(
    metric: Metric, labels: np.ndarray, class_names: tuple[str, ...], where: str
) -> None:
    """Raise UserError where `labels` (n,) lack a class, and the metric needs all of them."""
    absent = [name for number, name in enumerate(class_names) if number not in labels]
    if metric.needs_all_classes and absent:
        raise UserError(
            f"--metric {metric.name} compares each class with the rest, and {where} has no image "
            f"of {', '.join(absent)}; give more images of it, leave the class out, "
            "or choose another metric."
        )
