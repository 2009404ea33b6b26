"""Scores of predicted probabilities against labels.

`ALEXNET` is what MedMNIST-C relates errors on blood cells to (Di Salvo et al., https://arxiv.org/abs/2406.17536;
`medmnistc/utils/baselines.py`): AlexNet's balanced errors on BloodMNIST's test pictures at 224 pixels, clean and in the
mean over five severities of each corruption.
"""

from typing import Any

import numpy as np

ALEXNET = {
    "clean": 0.01837,
    "pixelate": 0.05976,
    "jpeg_compression": 0.13976,
    "defocus_blur": 0.22400,
    "motion_blur": 0.18452,
    "brightness_up": 0.06946,
    "brightness_down": 0.07901,
    "contrast_up": 0.05215,
    "contrast_down": 0.07966,
    "saturate": 0.03479,
    "stain_deposit": 0.18536,
    "bubble": 0.12899,
}


def score(labels: np.ndarray, probabilities: np.ndarray) -> dict[str, Any]:
    """Return the scores of probabilities (n, K) against labels (n,) in 0..K-1.

    accuracy, balanced_accuracy, f1_macro, f1_weighted in 0..1; recall: K numbers; confusion: K rows (true) of K counts.
    """
    from sklearn.metrics import confusion_matrix, f1_score

    predicted = probabilities.argmax(axis=1)
    classes = np.arange(probabilities.shape[1])
    confusion = confusion_matrix(labels, predicted, labels=classes)
    present = np.maximum(confusion.sum(axis=1), 1)
    return {
        "accuracy": float(np.mean(labels == predicted)),
        "balanced_accuracy": balanced_accuracy(labels, predicted),
        "f1_macro": float(
            f1_score(labels, predicted, labels=classes, average="macro", zero_division=0)
        ),
        "f1_weighted": float(
            f1_score(labels, predicted, labels=classes, average="weighted", zero_division=0)
        ),
        "recall": (confusion.diagonal() / present).tolist(),
        "confusion": confusion.tolist(),
    }


def balanced_accuracy(labels: np.ndarray, predicted: np.ndarray) -> float:
    """Return the mean over the classes that occur in `labels` (n,) of the share that is predicted right."""
    return float(
        np.mean([np.mean(predicted[labels == label] == label) for label in np.unique(labels)])
    )


def score_families(
    labels: np.ndarray, predicted: np.ndarray, families: np.ndarray
) -> dict[str, dict[str, float]]:
    """Return each family's number of pictures, accuracy and balanced accuracy; families: (n,) str."""
    chosen = {str(family): families == family for family in np.unique(families)}
    return {
        family: {
            "pictures": int(mask.sum()),
            "accuracy": float(np.mean(labels[mask] == predicted[mask])),
            "balanced_accuracy": balanced_accuracy(labels[mask], predicted[mask]),
        }
        for family, mask in chosen.items()
    }


def relative_errors(clean: float, corrupted: dict[str, float]) -> dict[str, float]:
    """Return MedMNIST-C's two means over its corruptions, of balanced errors as multiples of AlexNet's.

    clean, corrupted (by name): balanced accuracies. `error`: of each corruption's error; `added_error`: of what it adds
    to the clean error. Theirs are of every picture in every severity, ours of pictures that each drew one.
    """
    names = [name for name in corrupted if name in ALEXNET]
    errors, reference = (
        np.array([table[name] for name in names]) for table in (corrupted, ALEXNET)
    )
    error = float(np.mean((1 - errors) / reference))
    return {
        "error": error,
        "added_error": float(np.mean((clean - errors) / (reference - ALEXNET["clean"]))),
    }


def bootstrap_interval(correct: np.ndarray, seed: int, draws: int = 2000) -> tuple[float, float]:
    """Return the 95 % percentile interval of the mean of `correct` (n,) in 0..1 (Efron and Tibshirani, 1993)."""
    generator = np.random.default_rng(seed)
    means = generator.binomial(len(correct), float(np.mean(correct)), draws) / len(correct)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)
