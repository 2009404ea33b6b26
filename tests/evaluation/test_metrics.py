"""Scores against hand-made numbers."""

import numpy as np
import pytest

from competition.evaluation.metrics import (
    bootstrap_interval,
    collect_values,
    score,
)
from competition.metric import ACCURACY, METRICS

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


@pytest.mark.parametrize("name", METRICS)
def test_the_interval_holds_the_value_and_narrows_with_more_images(name: str) -> None:
    generator = np.random.default_rng(0)
    labels = np.arange(1000) % 3
    probabilities = generator.dirichlet(np.ones(3), 1000)
    probabilities[np.arange(1000), labels] += 0.3
    few, many = (
        bootstrap_interval(labels[:count], probabilities[:count], seed=0, metric=METRICS[name])
        for count in (40, 1000)
    )
    assert many[0] < METRICS[name].compute(labels, probabilities) < many[1]
    assert many[1] - many[0] < (few[1] - few[0]) / 3


def test_no_mistake_leaves_no_interval() -> None:
    labels = np.arange(50) % 2
    assert bootstrap_interval(labels, np.eye(2)[labels], seed=0) == (1.0, 1.0)


def test_the_value_of_another_metric_stands_under_its_name_beside_the_usual_ones() -> None:
    smoothed = (PROBABILITIES + 0.1) / 1.3
    result = score(LABELS, smoothed, METRICS["log_loss"])
    own = smoothed[np.arange(6), LABELS]
    assert result["log_loss"] == pytest.approx(-np.log(own).mean())
    assert result | {"log_loss": 0} == score(LABELS, smoothed) | {"log_loss": 0}


def test_a_small_set_may_lack_a_class_that_is_predicted(recwarn: pytest.WarningsRecorder) -> None:
    result = score(LABELS[:5], PROBABILITIES[[5, 0, 1, 3, 4]])
    assert result["recall"] == pytest.approx([1, 1, 0])
    odd = score(np.array([0, 0, 1]), np.eye(3)[[0, 2, 1]])
    assert odd["balanced_accuracy"] == pytest.approx((0.5 + 1) / 2)
    assert not recwarn.list


def test_accuracies_have_one_name_for_one_view_and_another_for_several() -> None:
    scores = {
        "clean": {"plain": {"accuracy": 0.9}},
        "revealed": {"plain": {"accuracy": 0.7}, "augmented": {"accuracy": 0.8}},
    }
    assert collect_values(scores, ACCURACY) == {"clean": 0.9, "revealed": 0.7, "revealed TTA": 0.8}
