"""Scores against hand-made numbers."""

import numpy as np
import pytest

from competition.evaluation.metrics import (
    ALEXNET,
    bootstrap_interval,
    relative_errors,
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


def test_the_interval_holds_the_mean_and_narrows_with_more_pictures() -> None:
    few, many = (bootstrap_interval(np.tile([1, 1, 1, 0], count), seed=0) for count in (10, 1000))
    assert few[0] < 0.75 < few[1]
    assert many[1] - many[0] < (few[1] - few[0]) / 5
    assert bootstrap_interval(np.ones(50), seed=0) == (1.0, 1.0)


def test_each_family_has_scores_of_its_own() -> None:
    families = np.array(["blur", "noise", "blur", "noise", "blur", "noise"])
    result = score_families(LABELS, PROBABILITIES.argmax(axis=1), families)
    assert list(result) == ["blur", "noise"]
    assert result["blur"] == {
        "pictures": 3,
        "accuracy": pytest.approx(2 / 3),
        "balanced_accuracy": 0.75,
    }
    assert result["noise"]["balanced_accuracy"] == pytest.approx((1 + 1 + 0) / 3)


def test_a_network_as_bad_as_alexnet_has_relative_errors_of_one() -> None:
    same = {name: 1 - error for name, error in ALEXNET.items() if name != "clean"}
    result = relative_errors(
        1 - ALEXNET["clean"], same | {"noise": 0.1}
    )  # which MedMNIST-C does not have
    assert result == {"error": pytest.approx(1), "added_error": pytest.approx(1)}


def test_relative_errors_are_means_of_ratios() -> None:
    result = relative_errors(1.0, {"bubble": 1 - 0.12899 / 2, "saturate": 1 - 3 * 0.03479})
    assert result["error"] == pytest.approx((0.5 + 3) / 2)
    added = [0.12899 / 2 / (0.12899 - 0.01837), 3 * 0.03479 / (0.03479 - 0.01837)]
    assert result["added_error"] == pytest.approx(np.mean(added))
