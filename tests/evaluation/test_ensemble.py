"""Ensembles: averages of runs, scored and packaged like a run."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from competition.common.errors import UserError
from competition.common.files import write_arrays, write_json
from competition.evaluation.ensemble import make_ensemble, members_of
from competition.evaluation.leaderboard import read_rows

LABELS = np.arange(12) % 3


def make_scored_run(runs: Path, name: str, right: float, **changes: Any) -> np.ndarray:
    """Write the files of a scored run; return its probabilities, `right` for the true class."""
    run = runs / name
    run.mkdir(parents=True)
    views = np.full((2, 12, 3), (1 - right) / 2, np.float32)
    views[:, np.arange(12), LABELS] = right
    facts = {"labels": LABELS, "wrong_labels": np.zeros(12, bool)}
    for split in ("validation", "test"):
        write_arrays(run / f"predictions_{split}.npz", **facts, clean=views, revealed=views)
    (run / "network.weights.h5").write_text("")
    config = {
        "splits": "s",
        "distortion": "d",
        "class_names": list("abc"),
        "network": {"image_shape": [8, 8, 3]},
    }
    write_json(run / "config.json", config | changes)
    metrics = {
        "views": 2,
        "distortion": "d",
        "select_by": "clean+revealed",
        "parameters": 10,
        "zip_megabytes": 1.5,
        "milliseconds": 2.0,
        "not_scored": [],
    }
    write_json(run / "metrics.json", metrics)
    return views


def test_an_ensemble_averages_probabilities_and_is_a_row(tmp_path: Path) -> None:
    views = [
        make_scored_run(tmp_path, name, right) for name, right in (("a_001", 0.9), ("b_001", 0.2))
    ]
    run = make_ensemble(tmp_path, ("a_001", "b_001"), "s", seed=0)
    assert run == tmp_path / "ensemble_001"
    assert make_ensemble(tmp_path, ("a_001", "b_001"), "s", seed=0) == run
    assert members_of(run) == [tmp_path / "a_001", tmp_path / "b_001"]
    assert members_of(tmp_path / "a_001") == [tmp_path / "a_001"]
    with np.load(run / "predictions_test.npz") as stored:
        np.testing.assert_allclose(stored["revealed"], np.mean(views, axis=0))
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["selection_score"] == 1.0
    assert metrics["milliseconds"] == 4.0
    for name in ("a_001", "b_001"):
        (tmp_path / name / "metrics.json").unlink()
    row = read_rows(tmp_path).iloc[0]
    assert (row["run"], row["backbone"], row["parameters"], row["zip MB"]) == (
        "ensemble_001",
        "a_001 + b_001",
        20,
        3,
    )
    assert row["test revealed TTA"] == 1.0


def test_an_ensemble_has_the_versions_and_views_that_all_its_members_have(tmp_path: Path) -> None:
    views = make_scored_run(tmp_path, "a_001", 0.9)
    make_scored_run(tmp_path, "b_001", 0.2)
    facts = {"labels": LABELS, "wrong_labels": np.zeros(12, bool)}
    path = tmp_path / "b_001" / "predictions_test.npz"
    write_arrays(path, **facts, revealed=views[:1], unseen=views)
    part = json.loads((tmp_path / "b_001" / "metrics.json").read_text())
    left_out = {"not_scored": ["test clean"], "milliseconds": None}
    write_json(tmp_path / "b_001" / "metrics.json", part | left_out)
    run = make_ensemble(tmp_path, ("a_001", "b_001"), "s", seed=0)
    metrics = json.loads((run / "metrics.json").read_text())
    assert list(metrics["test"]) == ["revealed"]
    assert list(metrics["test"]["revealed"]) == ["plain"]
    assert set(metrics["validation"]) == {"clean", "revealed"}
    assert metrics["not_scored"] == ["test clean"]
    assert metrics["milliseconds"] is None


@pytest.mark.parametrize(
    ("names", "changes", "sentence"),
    [
        (("a_001",), {}, "two runs or more"),
        (("a_001", "a_001"), {}, "two runs or more"),
        (("a_001", "c_001"), {}, "There is no scored run 'c_001' .* known are a_001, b_001"),
        (("a_001", "b_001"), {"splits": "t"}, "b_001 was trained on other splits"),
        (("a_001", "b_001"), {"class_names": ["x"]}, "differ in class names"),
        (("a_001", "b_001"), {"network": {"image_shape": [9, 9, 3]}}, "differ in image shape"),
    ],
)
def test_what_does_not_average_is_refused(
    names: tuple[str, ...], changes: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    make_scored_run(tmp_path, "a_001", 0.9)
    make_scored_run(tmp_path, "b_001", 0.2, **changes)
    with pytest.raises(UserError, match=sentence):
        make_ensemble(tmp_path, names, "s", seed=0)
    assert not list(tmp_path.glob("ensemble*"))
