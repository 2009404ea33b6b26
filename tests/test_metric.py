"""The metrics against scikit-learn's functions and hand-made numbers."""

import warnings

import numpy as np
import pytest
from sklearn import metrics as scikit_learn

from competition.common.errors import UserError
from competition.metric import METRICS, require_classes

GENERATOR = np.random.default_rng(0)
LABELS = GENERATOR.integers(0, 4, 200)
PROBABILITIES = GENERATOR.dirichlet(np.ones(4), 200)
PROBABILITIES[np.arange(200), LABELS] += 0.4
PROBABILITIES /= PROBABILITIES.sum(axis=1, keepdims=True)
ANSWERS = PROBABILITIES.argmax(axis=1)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("accuracy", scikit_learn.accuracy_score(LABELS, ANSWERS)),
        ("balanced_accuracy", scikit_learn.balanced_accuracy_score(LABELS, ANSWERS)),
        ("f1_macro", scikit_learn.f1_score(LABELS, ANSWERS, average="macro")),
        ("log_loss", scikit_learn.log_loss(LABELS, PROBABILITIES)),
        ("auc", scikit_learn.roc_auc_score(LABELS, PROBABILITIES, multi_class="ovr")),
        ("kappa", scikit_learn.cohen_kappa_score(LABELS, ANSWERS)),
        (
            "quadratic_kappa",
            scikit_learn.cohen_kappa_score(LABELS, ANSWERS, weights="quadratic"),
        ),
    ],
)
def test_each_metric_equals_that_of_scikit_learn_and_does_not_warn(
    name: str, expected: float
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = METRICS[name].compute(LABELS, PROBABILITIES.astype(np.float32))
    assert found == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("name", METRICS)
def test_more_of_a_score_is_better_and_a_value_comes_back(name: str) -> None:
    metric = METRICS[name]
    worse = np.roll(PROBABILITIES, 1, axis=0)
    score = metric.score(LABELS, PROBABILITIES)
    assert score > metric.score(LABELS, worse)
    assert metric.flip(score) == metric.compute(LABELS, PROBABILITIES)
    assert metric.low <= metric.flip(score) <= metric.high


def test_the_auc_of_two_classes_is_that_of_the_second() -> None:
    labels, two = LABELS % 2, PROBABILITIES[:, :2] / PROBABILITIES[:, :2].sum(axis=1, keepdims=True)
    expected = scikit_learn.roc_auc_score(labels, two[:, 1])
    assert METRICS["auc"].compute(labels, two) == pytest.approx(expected)


def test_ties_count_half_in_the_auc() -> None:
    assert METRICS["auc"].compute(np.array([0, 1, 0]), np.full((3, 2), 0.5)) == 0.5


def test_a_metric_that_needs_every_class_names_those_that_are_missing() -> None:
    labels = np.array([0, 2, 2])
    require_classes(METRICS["log_loss"], labels, ("red", "green", "blue"), "the test split")
    with pytest.raises(UserError, match=r"the test split has no image of green; give more"):
        require_classes(METRICS["auc"], labels, ("red", "green", "blue"), "the test split")


def test_shares_are_shown_in_percent_and_other_values_as_they_are() -> None:
    assert METRICS["f1_macro"].format(0.876) == "87.6"
    assert METRICS["log_loss"].format(0.876) == "0.8760"
