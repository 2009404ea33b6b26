"""The metrics that may decide a competition: one row each, with its direction and its format."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from competition.common.errors import UserError, unknown


@dataclass(frozen=True)
class Metric:
    """One metric.

    title: its name for people. compute: labels (n,) in 0..K-1 and probabilities (n, K) -> value.
    greater_is_better: its direction. needs_probabilities: it cannot be computed from labels alone.
    needs_all_classes: it says little where a class has no image. is_calibrated: one temperature is
    fitted to the probabilities first. low, high: the bounds of its values. is_share: people read
    it in percent.
    """

    name: str
    title: str
    compute: Callable[[np.ndarray, np.ndarray], float]
    greater_is_better: bool = True
    needs_probabilities: bool = False
    needs_all_classes: bool = False
    is_calibrated: bool = False
    low: float = 0.0
    high: float = 1.0
    is_share: bool = False

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


def _accuracy(labels: np.ndarray, probabilities: np.ndarray) -> float:
    return float(np.mean(probabilities.argmax(axis=1) == labels))


def _balanced_accuracy(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Return the mean recall over the classes that occur in `labels`.

    scikit-learn's balanced_accuracy_score is the same, but warns where others are predicted.
    """
    from sklearn.metrics import recall_score

    predicted, present = probabilities.argmax(axis=1), np.unique(labels)
    return float(recall_score(labels, predicted, labels=present, average="macro"))


def _f1_macro(labels: np.ndarray, probabilities: np.ndarray) -> float:
    from sklearn.metrics import f1_score

    classes = np.arange(probabilities.shape[1])
    predicted = probabilities.argmax(axis=1)
    return float(f1_score(labels, predicted, average="macro", labels=classes, zero_division=0))


def _log_loss(labels: np.ndarray, probabilities: np.ndarray) -> float:
    from sklearn.metrics import log_loss

    exact = probabilities.astype(np.float64)  # whose rows shall sum to 1 in this precision
    exact /= exact.sum(axis=1, keepdims=True)
    return float(log_loss(labels, exact, labels=np.arange(exact.shape[1])))


def _auc(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Return the mean over the classes that occur in `labels` of each one's AUC against the rest.

    It equals scikit-learn's roc_auc_score(multi_class="ovr"), by the ranks of Mann and Whitney
    (1947). That takes a ninth of the time, which counts in a bootstrap.
    """
    from scipy.stats import rankdata

    present = np.unique(labels)
    members = labels[:, None] == present
    ranks = np.where(members, rankdata(probabilities[:, present], axis=0), 0).sum(axis=0)
    count = members.sum(axis=0)
    pairs = count * (len(labels) - count)
    return float(np.mean((ranks - count * (count + 1) / 2) / pairs))


def _kappa(weights: str | None) -> Callable[[np.ndarray, np.ndarray], float]:
    def compute(labels: np.ndarray, probabilities: np.ndarray) -> float:
        from sklearn.metrics import cohen_kappa_score

        predicted, classes = probabilities.argmax(axis=1), np.arange(probabilities.shape[1])
        return float(cohen_kappa_score(labels, predicted, labels=classes, weights=weights))

    return compute


METRICS = {
    metric.name: metric
    for metric in (
        Metric("accuracy", "accuracy", _accuracy, is_share=True),
        Metric("balanced_accuracy", "balanced accuracy", _balanced_accuracy, is_share=True),
        Metric("f1_macro", "macro F1", _f1_macro, is_share=True),
        Metric(
            "log_loss",
            "log-loss",
            _log_loss,
            greater_is_better=False,
            needs_probabilities=True,
            is_calibrated=True,
            high=math.inf,
        ),
        Metric("auc", "AUC", _auc, needs_probabilities=True, needs_all_classes=True),
        Metric("kappa", "Cohen's kappa", _kappa(None), low=-1.0),
        Metric("quadratic_kappa", "quadratic weighted kappa", _kappa("quadratic"), low=-1.0),
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
