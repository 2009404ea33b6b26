"""Scores against hand-made numbers."""

import numpy as np
import pytest

from competition.metrics import bootstrap_interval, score

LABELS = np.array([0, 0, 0, 1, 1, 2])
PROBABILITIES = np.eye(3)[[0, 0, 1, 1, 1, 0]]


def test_scores_are_those_of_the_confusion_matrix() -> None:
    result = score(LABELS, PROBABILITIES)
    assert result["confusion"] == [[2, 1, 0], [0, 2, 0], [1, 0, 0]]
    assert result["accuracy"] == pytest.approx(4 / 6)
    assert result["recall"] == pytest.approx([2 / 3, 1, 0])
    assert result["balanced_accuracy"] == pytest.approx((2 / 3 + 1 + 0) / 3)
    f1 = np.array([2 / 3, 0.8, 0])
    assert result["f1_macro"] == pytest.approx(f1.mean())
    assert result["f1_weighted"] == pytest.approx((f1 * [3, 2, 1]).sum() / 6)


def test_the_interval_holds_the_mean_and_narrows_with_more_pictures() -> None:
    few, many = (bootstrap_interval(np.tile([1, 1, 1, 0], count), seed=0) for count in (10, 1000))
    assert few[0] < 0.75 < few[1]
    assert many[1] - many[0] < (few[1] - few[0]) / 5
    assert bootstrap_interval(np.ones(50), seed=0) == (1.0, 1.0)
