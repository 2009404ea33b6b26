"""Ensembles: averages of runs, scored and packaged like a run."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from competition.common.errors import UserError
from competition.common.files import read_json, write_arrays, write_json
from competition.config import Config, LimitsConfig
from competition.evaluation.ensemble import (
    Candidate,
    make_best_ensemble,
    make_ensemble,
    members_of,
    select_members,
)
from competition.evaluation.leaderboard import read_rows
from competition.evaluation.metrics import draw_gains
from competition.metric import ACCURACY, METRICS

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


def make_candidate(name: str, right: float | np.ndarray, **costs: float) -> Candidate:
    """Return a candidate with probability `right` (or one each) for the true class of LABELS."""
    right = np.broadcast_to(right, len(LABELS))
    probabilities = np.repeat((1 - right[:, None]) / 2, 3, axis=1)
    probabilities[np.arange(len(LABELS)), LABELS] = right
    facts = {"seconds": 10.0, "megabytes": 5.0} | costs
    return Candidate(name, LABELS, probabilities, **facts)


# Each is right on a third of the images, and the last one on one more.
A, B, C = (
    make_candidate(name, np.where(np.arange(12) // 4 == third, 0.9, 0.3))
    for third, name in enumerate(("a_001", "b_001", "c_001"))
)
C.probabilities[0] = np.roll((0.4, 0.3, 0.3), LABELS[0])


def test_the_best_ensemble_begins_with_the_best_run_and_adds_what_helps_most() -> None:
    first, *others = select_members([A, B, C], LimitsConfig(), 25, ACCURACY)
    assert (first, sorted(others)) == ("c_001", ["a_001", "b_001"])
    assert select_members([A, B], LimitsConfig(), 25, ACCURACY) == ("a_001", "b_001")


def test_a_run_counts_as_often_as_it_was_selected() -> None:
    strong = make_candidate("s_001", np.where(np.arange(12) < 9, 0.6, 0.3))
    weak = make_candidate("w_001", np.where(np.arange(12) < 9, 0.05, 0.5))
    assert select_members([strong, weak], LimitsConfig(), 25, ACCURACY) == (
        "s_001",
        "s_001",
        "w_001",
    )


def test_a_run_that_is_best_alone_stays_alone() -> None:
    assert select_members([make_candidate("a_001", 0.9), B], LimitsConfig(), 25, ACCURACY) == (
        "a_001",
    )


@pytest.mark.parametrize(
    ("limits", "most", "size"),
    [
        (LimitsConfig(), 25, 3),
        (LimitsConfig(seconds=25), 25, 2),
        (LimitsConfig(zip_megabytes=5), 25, 1),
        (LimitsConfig(zip_megabytes=4), 25, 1),
        (LimitsConfig(), 1, 1),
    ],
)
def test_an_ensemble_keeps_within_the_limits_of_the_server(
    limits: LimitsConfig, most: int, size: int
) -> None:
    assert len(set(select_members([A, B, C], limits, most, ACCURACY))) == size


def test_a_run_that_does_not_fit_never_takes_the_place_of_one_that_does() -> None:
    slow = make_candidate("slow_001", 0.95, seconds=1000)
    assert set(select_members([slow, A, B], LimitsConfig(), 25, ACCURACY)) == {"a_001", "b_001"}


def test_a_gain_is_drawn_over_the_same_images() -> None:
    generator = np.random.default_rng(0)
    labels = np.arange(300) % 3
    right = np.eye(3)[labels]
    wrong = np.roll(right, 1, axis=1)
    often = np.where(generator.random((300, 1)) < 0.9, right, wrong)
    better = np.where(generator.random((300, 1)) < 0.5, right, often)
    gain, drawn = draw_gains(labels, often, often, ACCURACY, draws=500, seed=0)
    assert (gain, drawn.tolist()) == (0, [0] * 500)
    gain, drawn = draw_gains(labels, better, often, ACCURACY, draws=500, seed=0)
    low, high = np.quantile(drawn, [0.025, 0.975])
    assert 0 < low < gain < high < 2 * gain
    assert gain == pytest.approx((better == right).all(1).mean() - (often == right).all(1).mean())


def test_the_best_ensemble_is_a_run_that_knows_its_gain(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a_001", "b_001", "c_001", "other_001"):
        changes = {"distortion": "e"} if name == "other_001" else {}
        make_scored_run(tmp_path, name, 0.9, **changes)
        selection = 0.6 if name == "other_001" else 0.7
        metrics = json.loads((tmp_path / name / "metrics.json").read_text())
        metrics |= {"selection_score": selection}
        metrics |= {"milliseconds": None} if name == "c_001" else {}
        write_json(tmp_path / name / "metrics.json", metrics)
    facts = {"labels": LABELS, "wrong_labels": np.zeros(12, bool)}
    for name, one in (("a_001", A), ("b_001", B)):
        views = np.stack([one.probabilities] * 2)
        for split in ("validation", "test"):
            path = tmp_path / name / f"predictions_{split}.npz"
            write_arrays(path, **facts, clean=views, revealed=views)
    run = make_best_ensemble(tmp_path, "s", Config(), 25)
    assert read_json(run / "config.json")["shares"] == {"a_001": 0.5, "b_001": 0.5}
    metrics = read_json(run / "metrics.json")
    assert metrics["gain"]["over"] == "a_001"
    assert metrics["gain"]["gain"] == pytest.approx(1 / 3)
    assert metrics["gain"]["interval"][0] > 0
    output = capsys.readouterr().out
    assert "other_001 is left out: a_001, other_001 differ in distortion" in output
    assert "c_001 is left out: its speed is not known" in output
    assert "a_001 + b_001. Selection 66.7, that of the best single run a_001 70.0" in output
    assert make_best_ensemble(tmp_path, "s", Config(), 1) == tmp_path / "a_001"


def test_the_metric_of_the_competition_chooses_the_members() -> None:
    bold = make_candidate("bold_001", np.where(np.arange(12) < 10, 0.99, 0.001))
    sure = make_candidate("sure_001", np.where(np.arange(12) < 9, 0.7, 0.3))
    limits = LimitsConfig()
    assert select_members([bold, sure], limits, 1, ACCURACY)[0] == "bold_001"
    assert select_members([bold, sure], limits, 1, METRICS["log_loss"])[0] == "sure_001"


def test_the_best_ensemble_of_no_run_is_refused(tmp_path: Path) -> None:
    make_scored_run(tmp_path, "a_001", 0.9, splits="t")
    metrics = json.loads((tmp_path / "a_001/metrics.json").read_text())
    write_json(tmp_path / "a_001/metrics.json", metrics | {"selection_score": 0.5})
    with pytest.raises(UserError, match=r"no scored run on these data.* --train --backbone"):
        make_best_ensemble(tmp_path, "s", Config(), 25)


def test_an_ensemble_named_twice_counts_a_run_twice(tmp_path: Path) -> None:
    first, second = (
        make_scored_run(tmp_path, name, right) for name, right in (("a_001", 0.9), ("b_001", 0.3))
    )
    run = make_ensemble(tmp_path, ("a_001", "b_001", "a_001"), "s", seed=0)
    with np.load(run / "predictions_test.npz") as stored:
        np.testing.assert_allclose(stored["clean"], (2 * first + second) / 3, rtol=1e-6)
    metrics = read_json(run / "metrics.json")
    assert (metrics["parameters"], metrics["zip_megabytes"]) == (20, 3)
    assert read_json(run / "config.json")["network"]["builder"] == "2 a_001 + b_001"
