"""Scores against hand-made numbers."""

import numpy as np
import pytest

from competition.evaluation.metrics import (
    bootstrap_interval,
    collect_accuracies,
    score,
    score_families,
)

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


def test_the_interval_holds_the_mean_and_narrows_with_more_images() -> None:
    few = bootstrap_interval(np.tile([1, 1, 1, 0], 10), seed=0)
    many = bootstrap_interval(np.tile([1, 1, 1, 0], 1000), seed=0)
    assert few[0] < 0.75 < few[1]
    assert many[1] - many[0] < (few[1] - few[0]) / 5
    assert bootstrap_interval(np.ones(50), seed=0) == (1.0, 1.0)


def test_each_family_has_scores_of_its_own() -> None:
    families = np.array(["blur", "noise", "blur", "noise", "blur", "noise"])
    result = score_families(LABELS, PROBABILITIES.argmax(axis=1), families)
    assert list(result) == ["blur", "noise"]
    assert result["blur"] == {
        "images": 3,
        "accuracy": pytest.approx(2 / 3),
        "balanced_accuracy": 0.75,
    }
    assert result["noise"]["balanced_accuracy"] == pytest.approx((1 + 1 + 0) / 3)


def test_a_small_set_may_lack_a_class_that_is_predicted(recwarn: pytest.WarningsRecorder) -> None:
    result = score(LABELS[:5], PROBABILITIES[[5, 0, 1, 3, 4]])
    assert result["recall"] == pytest.approx([1, 1, 0])
    odd = score(np.array([0, 0, 1]), np.eye(3)[[0, 2, 1]])
    assert odd["balanced_accuracy"] == pytest.approx((0.5 + 1) / 2)
    assert not recwarn.list


def test_accuracies_have_one_name_for_one_view_and_another_for_several() -> None:
    scores = {
        "clean": {"plain": {"accuracy": 0.9}},
        "revealed": {"plain": {"accuracy": 0.7}, "augmented": {"accuracy": 0.8}, "families": {}},
    }
    assert collect_accuracies(scores) == {"clean": 0.9, "revealed": 0.7, "revealed TTA": 0.8}
