"""Scores of predicted probabilities against labels."""

from typing import Any

import numpy as np


def score(labels: np.ndarray, probabilities: np.ndarray) -> dict[str, Any]:
    """Return the scores of probabilities (n, K) against labels (n,) in 0..K-1.

    accuracy, balanced_accuracy, f1_macro, f1_weighted in 0..1; recall: K numbers; confusion: K rows (true) of K counts.
    """
    from sklearn.metrics import balanced_accuracy_score, confusion_matrix, f1_score

    predicted = probabilities.argmax(axis=1)
    classes = np.arange(probabilities.shape[1])
    confusion = confusion_matrix(labels, predicted, labels=classes)
    present = np.maximum(confusion.sum(axis=1), 1)
    return {
        "accuracy": float(np.mean(labels == predicted)),
        "balanced_accuracy": float(balanced_accuracy_score(labels, predicted)),
        "f1_macro": float(f1_score(labels, predicted, labels=classes, average="macro", zero_division=0)),
        "f1_weighted": float(f1_score(labels, predicted, labels=classes, average="weighted", zero_division=0)),
        "recall": (confusion.diagonal() / present).tolist(),
        "confusion": confusion.tolist(),
    }


def bootstrap_interval(correct: np.ndarray, seed: int, draws: int = 2000) -> tuple[float, float]:
    """Return the 95 % percentile interval of the mean of `correct` (n,) in 0..1 (Efron and Tibshirani, 1993)."""
    generator = np.random.default_rng(seed)
    means = generator.binomial(len(correct), float(np.mean(correct)), draws) / len(correct)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)
