"""Where two runs differ, and what distortion costs one: numbers that can be counted by hand."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from competition.common.errors import UserError
from competition.common.files import read_json, write_arrays, write_json
from competition.data.arrays import PreparedData, ScoredSet
from competition.evaluation import gap as gap_module
from competition.evaluation.compare import compare_runs
from competition.evaluation.evaluate import score_predictions
from competition.evaluation.gap import explain_gap
from competition.evaluation.metrics import mcnemar
from competition.paths import SPLITS, Paths

LABELS = np.arange(12) % 3
FAMILIES = np.array(["noise"] * 6 + ["pixelate"] * 6)
SCORED = ScoredSet(
    "test",
    dict.fromkeys(("clean", "revealed", "microscope"), np.zeros((12, 1, 1, 3), np.uint8)),
    LABELS,
    np.zeros(12, bool),
    {"microscope": FAMILIES},
)


def answer(*wrong: int) -> np.ndarray:
    """Return probabilities (1, 12, 3) that are right but for these images, taken for the next."""
    predictions = LABELS.copy()
    predictions[list(wrong)] = (predictions[list(wrong)] + 1) % 3
    return np.asarray(np.eye(3, dtype=np.float32)[predictions][None])


def make_scored_run(
    paths: Paths,
    name: str,
    predictions: dict[str, np.ndarray],
    splits: str = "s",
    **settings: float,
) -> None:
    facts = {"splits": splits, "class_names": ["a", "b", "c"], "settings": settings}
    write_json(paths.runs / name / "config.json", facts)
    scores = score_predictions(SCORED, predictions, seed=0)
    metrics = {"test": scores, "distortion": "d"}
    write_json(paths.runs / name / "metrics.json", metrics)
    known = {"labels": LABELS, "wrong_labels": SCORED.surely_wrong}
    write_arrays(paths.runs / name / "predictions_test.npz", **known, **predictions)


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    paths = Paths(tmp_path, "cells")
    first = {"clean": answer(0), "revealed": answer(0, 3, 4), "microscope": answer(0, 1, 2, 7)}
    make_scored_run(paths, "one_001", first, rate=0.123456, same=1.0)
    make_scored_run(paths, "two_001", {"clean": answer(5, 6)}, rate=0.5, same=1.0)
    write_arrays(paths.data / SPLITS, test=100 + np.arange(12), fingerprint=np.array("s"))
    return paths


def lines_of(text: str, start: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines() if line.strip().startswith(start)]


def test_settings_scores_and_images_that_differ_are_listed(paths: Paths) -> None:
    text = compare_runs(paths, ("one_001", "two_001"))
    assert lines_of(text, "rate") == [["rate", "0.1235", "0.5"]]
    assert not lines_of(text, "same")
    assert lines_of(text, "clean") == [["clean", "91.7", "83.3", "-8.3", "2", "1", "1.000"]]
    assert not lines_of(text, "revealed")  # the second was not scored on it
    images = pd.read_csv(paths.experiments / "comparisons" / "one_001_and_two_001.csv")
    assert images["index"].tolist() == [100, 105, 106]
    assert images["right"].tolist() == ["two_001", "one_001", "one_001"]
    assert images["one_001"].tolist() == ["b", "c", "a"]


def test_the_chance_is_the_two_sided_binomial_of_the_images_in_which_runs_differ() -> None:
    first = np.array([True] * 9 + [False] + [True] * 20)
    second = np.array([False] * 9 + [True] * 21)
    assert mcnemar(first, second) == pytest.approx(2 * (1 + 10) / 2**10)
    assert mcnemar(first, first) == 1.0
    versions = np.array([2, 1, 0]), np.array([1, 0, 0])  # of three images, how many are right
    assert mcnemar(*versions, alternative="greater") == 1 / 4


def test_runs_of_other_splits_and_unknown_ones_are_not_compared(paths: Paths) -> None:
    make_scored_run(paths, "far_001", {"clean": answer()}, splits="other")
    with pytest.raises(UserError, match="have other splits"):
        compare_runs(paths, ("one_001", "far_001"))
    with pytest.raises(UserError, match="'one_002'; did you mean 'one_001'"):
        compare_runs(paths, ("one_002", "two_001"))
    with pytest.raises(UserError, match="--split with the settings of that run"):
        compare_runs(paths, ("far_001", "far_001"))


@pytest.fixture
def prepared_cells(paths: Paths, prepared: PreparedData, monkeypatch: pytest.MonkeyPatch) -> None:
    """Data of twelve images, as if prepared."""
    data = PreparedData(paths.data, prepared.training, SCORED, SCORED, ("a",), "s", "d", "v")
    write_json(paths.data / "prepared" / "prepared.json", {})
    monkeypatch.setattr(gap_module, "find_prepared", lambda folder: data)


@pytest.mark.usefixtures("prepared_cells")
def test_points_lost_are_counted_by_kind_of_distortion_and_by_class(paths: Paths) -> None:
    text = explain_gap(paths, "one_001")
    assert "91.7 % on clean, 75.0 % on revealed test images, a gap of 16.7 points" in text
    assert lines_of(text, "noise")[0] == ["noise", "6", "83.3", "50.0", "+33.3"]
    assert lines_of(text, "pixelate")[0] == ["pixelate", "6", "100.0", "83.3", "+16.7"]
    assert lines_of(text, "a ")[0] == ["a", "4", "75.0", "50.0", "+8.3", "b"]
    assert lines_of(text, "c ")[0] == ["c", "4", "100.0", "100.0", "+0.0", "-"]
    assert "noise costs 33.3 points: raise augmentation.noise" in text
    assert "without RandAugment" not in text
    config = paths.runs / "one_001" / "config.json"
    settings = {"settings": {"augmentation.num_operations": 0}}
    write_json(config, read_json(config) | settings)
    assert "--set augmentation=strong comes first" in explain_gap(paths, "one_001")
    folder = paths.experiments / "comparisons"
    assert "noise costs" in (folder / "one_001_gap.md").read_text("utf-8")


@pytest.mark.usefixtures("prepared_cells")
def test_a_gap_needs_the_same_images_and_their_distorted_versions(paths: Paths) -> None:
    with pytest.raises(UserError, match="was not scored on revealed"):
        explain_gap(paths, "two_001")
    file = paths.runs / "one_001" / "metrics.json"
    write_json(file, read_json(file) | {"distortion": "other"})
    with pytest.raises(UserError, match="was scored on other images"):
        explain_gap(paths, "one_001")


def test_every_advice_is_about_a_kind_of_distortion_and_settings_that_exist() -> None:
    from competition.common.settings import list_fields
    from competition.config import Config
    from competition.distortion.profiles import PROFILE, TABLES

    kinds = {PROFILE, *(family for table in TABLES.values() for family in table)}
    assert gap_module.PRACTICE.keys() <= kinds
    for advice in [*gap_module.PRACTICE.values(), gap_module.ANYTHING]:
        named = [word.strip(".,()") for word in advice.split() if word.startswith("augmentation.")]
        assert named
        assert set(named) <= list_fields(Config()).keys()
