"""Whether a network has learnt anything: its accuracy against always naming the commonest class."""

import math

import numpy as np

CONFIDENCE = 1.96  # standard errors of an accuracy: 95 %


def chance_level(labels: np.ndarray) -> float:
    """Return the accuracy of naming the commonest class of labels (n,) always, 0..1."""
    return float(np.bincount(labels).max() / len(labels))


def beats_chance(accuracy: float, labels: np.ndarray) -> bool:
    """Tell whether an accuracy on labels (n,) is above the chance level by its 95 % interval."""
    error = math.sqrt(accuracy * (1 - accuracy) / len(labels))
    return accuracy - CONFIDENCE * error > chance_level(labels)
