"""Surely wrong labels: the test split is scored with and without them."""

import numpy as np
import pytest

from competition.data.arrays import ScoredSet
from competition.evaluation.evaluate import score_predictions


def test_accuracy_is_told_with_and_without_wrong_labels() -> None:
    surely_wrong = np.array([False, False, True, False])
    scored = ScoredSet("test", {}, np.array([0, 1, 1, 0]), surely_wrong)
    views = np.eye(2)[[[0, 1, 0, 1], [0, 1, 0, 1]]]
    scores = score_predictions(scored, {"clean": views}, seed=0)["clean"]
    for kind in ("plain", "augmented"):
        assert scores[kind]["accuracy"] == pytest.approx(2 / 4)
        assert scores[kind]["accuracy_without_wrong_labels"] == pytest.approx(2 / 3)
