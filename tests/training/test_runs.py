"""Surely wrong labels: replaced in training and validation where asked, scored with and without in the test part."""

from pathlib import Path

import numpy as np
import pytest

from competition.config import Config, with_settings
from competition.data.arrays import Dataset
from competition.data.prepare import prepare
from competition.data.splits import make_splits
from competition.evaluation.predict import _scores
from tests.factories import draw_blobs


@pytest.mark.parametrize("setting", ["keep", "relabel"])
def test_labels_are_replaced_only_where_asked_and_never_in_the_test_part(
    setting: str, tmp_path: Path
) -> None:
    images, labels = draw_blobs(120, 3, seed=0)
    dataset, numbers = Dataset(images, labels, ("a", "b", "c")), np.arange(120)
    doubtful = np.where(numbers % 10 < 3, (labels + 1) % 3, -1)
    config = with_settings(Config(), {"cleaning.wrong_labels": setting})
    splits = make_splits(dataset, np.ones(120, bool), numbers, doubtful, config)
    prepared = prepare(dataset, splits, config, tmp_path / "prepared")
    expected = labels if setting == "keep" else np.where(doubtful < 0, labels, doubtful)
    np.testing.assert_array_equal(prepared.training.labels, expected[splits.train])
    np.testing.assert_array_equal(prepared.validation.labels, expected[splits.validation])
    np.testing.assert_array_equal(prepared.test.labels, labels[splits.test])
    np.testing.assert_array_equal(prepared.test.doubtful, doubtful[splits.test] >= 0)


def test_accuracy_is_told_with_and_without_doubtful_labels() -> None:
    labels, doubtful = np.array([0, 1, 1, 0]), np.array([False, False, True, False])
    views = np.eye(2)[[0, 1, 0, 1]][None]
    scores = _scores(labels, doubtful, views, seed=0)
    for kind in ("plain", "augmented"):
        assert scores[kind]["accuracy"] == pytest.approx(2 / 4)
        assert scores[kind]["accuracy_without_doubtful"] == pytest.approx(2 / 3)
