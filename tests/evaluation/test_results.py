"""The runs of one data set: which count, which is chosen, and whether it is worth anything."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from competition.common.errors import UserError
from competition.common.files import read_json, write_json
from competition.data.arrays import Dataset, PreparedData
from competition.evaluation.results import choose_run, claim_folder, describe_worth, runs_of

DATASET = Dataset(np.zeros((2, 4, 4, 3), np.uint8), np.array([0, 1]), ("a", "b"))
OTHER = Dataset(np.ones((2, 4, 4, 3), np.uint8), np.array([0, 1]), ("a", "b"))
SOURCE = Path("mine.npz")


def write_run(runs: Path, name: str, selection: float, splits: str = "s", **metrics: Any) -> Path:
    """Write what the choice of a run reads of it."""
    run = runs / name
    run.mkdir(parents=True)
    (run / "network.weights.h5").write_text("")
    write_json(run / "config.json", {"splits": splits, "network": {"builder": name[:-4]}})
    facts = {"selection_score": selection, "select_by": "clean+revealed", "not_scored": []}
    write_json(run / "metrics.json", facts | metrics)
    return run


def test_a_folder_is_claimed_for_the_first_data_and_found_again(tmp_path: Path) -> None:
    for _ in range(2):
        claim_folder(tmp_path, DATASET, SOURCE, force=False)
    assert read_json(tmp_path / "data.json")["data"] == DATASET.fingerprint


def test_results_of_other_data_are_refused_in_one_sentence_unless_forced(tmp_path: Path) -> None:
    claim_folder(tmp_path, DATASET, SOURCE, force=False)
    with pytest.raises(
        UserError, match=r"another data set than mine\.npz .* --name, or use"
    ) as told:
        claim_folder(tmp_path, OTHER, SOURCE, force=False)
    assert "\n" not in str(told.value)
    assert read_json(tmp_path / "data.json")["data"] == DATASET.fingerprint
    claim_folder(tmp_path, OTHER, SOURCE, force=True)
    assert read_json(tmp_path / "data.json")["data"] == OTHER.fingerprint


@pytest.mark.parametrize("force", [True, False])
def test_results_of_an_earlier_version_are_refused_in_one_sentence(
    force: bool, tmp_path: Path
) -> None:
    write_json(tmp_path / "data.json", {"data": DATASET.fingerprint})  # as that version wrote it
    with pytest.raises(UserError, match="of an earlier version of this program") as told:
        claim_folder(tmp_path, DATASET, SOURCE, force)
    assert "\n" not in str(told.value)


def test_runs_are_those_of_these_splits_that_are_trained(
    prepared: PreparedData, tmp_path: Path
) -> None:
    write_run(tmp_path, "tiny_cnn_002", 0.5)
    write_run(tmp_path, "tiny_cnn_001", 0.5)
    write_run(tmp_path, "custom_cnn_001", 0.5)
    write_run(tmp_path, "tiny_cnn_003", 0.5, splits="others")
    (write_run(tmp_path, "tiny_cnn_004", 0.5) / "network.weights.h5").unlink()
    names = [run.name for run in runs_of(tmp_path, prepared)]
    assert names == ["custom_cnn_001", "tiny_cnn_001", "tiny_cnn_002"]
    names = [run.name for run in runs_of(tmp_path, prepared, "tiny_cnn")]
    assert names == ["tiny_cnn_001", "tiny_cnn_002"]


def test_the_best_run_by_the_selection_score_is_chosen(
    prepared: PreparedData, tmp_path: Path
) -> None:
    write_run(tmp_path, "tiny_cnn_001", 0.6)
    write_run(tmp_path, "tiny_cnn_002", 0.7)
    write_run(tmp_path, "custom_cnn_001", 0.8)
    write_run(tmp_path, "ensemble_001", 0.9)
    write_run(tmp_path, "tiny_cnn_003", 0.95, splits="others")
    write_run(tmp_path, "tiny_cnn_004", 0.99, select_by="clean")
    for final, expected in (("tiny_cnn", "tiny_cnn_002"), ("best", "custom_cnn_001")):
        assert choose_run(tmp_path, prepared, "clean+revealed", final).name == expected
    assert choose_run(tmp_path, prepared, "clean", "best").name == "tiny_cnn_004"


def test_the_run_is_chosen_among_those_of_the_metric(
    prepared: PreparedData, tmp_path: Path
) -> None:
    write_run(tmp_path, "tiny_cnn_001", 0.8)
    with pytest.raises(UserError, match="trained by the metric log_loss; add --metric with one of"):
        choose_run(tmp_path, prepared, "clean+revealed", "best", "log_loss")
    write_run(tmp_path, "tiny_cnn_002", -0.7, metric="log_loss")
    write_run(tmp_path, "tiny_cnn_003", -0.6, metric="log_loss")
    chosen = choose_run(tmp_path, prepared, "clean+revealed", "best", "log_loss")
    assert chosen.name == "tiny_cnn_003"
    assert choose_run(tmp_path, prepared, "clean+revealed", "best").name == "tiny_cnn_001"


def test_where_no_run_fits_the_error_says_what_to_add(
    prepared: PreparedData, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="train one: --train --backbone tiny_cnn"):
        choose_run(tmp_path, prepared, "clean", "tiny_cnn")
    write_run(tmp_path, "custom_cnn_001", 0.8)
    with pytest.raises(UserError, match="train one: --train --backbone tiny_cnn"):
        choose_run(tmp_path, prepared, "clean+revealed", "tiny_cnn")
    with pytest.raises(UserError, match="add --select-by with one of clean\\+revealed"):
        choose_run(tmp_path, prepared, "unseen", "best")


def test_the_loss_of_a_worthless_run_is_told_as_it_is(tmp_path: Path) -> None:
    bad = write_run(tmp_path, "tiny_cnn_002", -1.25, beats_chance=False, metric="log_loss")
    assert "ITS SELECTION SCORE OF 1.2500 IS" in describe_worth(bad)


def test_a_run_at_chance_is_called_worthless_in_capitals(tmp_path: Path) -> None:
    good = write_run(tmp_path, "tiny_cnn_001", 0.8, beats_chance=True)
    assert describe_worth(good) == ""
    bad = write_run(tmp_path, "tiny_cnn_002", 0.21, beats_chance=False)
    assert describe_worth(bad).startswith(
        "tiny_cnn_002 IS WORTH NOTHING: ITS SELECTION SCORE OF 0.2100"
    )
    assert "--time-budget" in describe_worth(bad)
