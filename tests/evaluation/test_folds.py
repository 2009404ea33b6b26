"""Cross-validation: out-of-fold predictions, and the time that folds take."""

from pathlib import Path

import numpy as np
import pytest

from competition.common.errors import UserError
from competition.common.files import read_json, write_arrays, write_json
from competition.data.arrays import PreparedData, Splits
from competition.evaluation.ensemble import make_fold_ensemble, members_of
from competition.evaluation.folds import read_folds, write_out_of_fold
from competition.fold_tasks import folds_share

INDICES = (np.array([1, 4, 8]), np.array([0, 5, 9]))
LABELS = np.arange(10) % 3


def write_folds(folder: Path, splits: str = "s") -> list[Path]:
    """Write the files of two scored folds; each network is sure of the label of INDICES."""
    runs = [folder / f"a_00{fold}" for fold in (1, 2)]
    for run, indices in zip(runs, INDICES, strict=True):
        run.mkdir(parents=True)
        facts = {"labels": LABELS[indices], "wrong_labels": np.zeros(3, bool)}
        predictions = np.eye(3, dtype=np.float32)[LABELS[indices]][None]
        write_arrays(
            run / "predictions_validation.npz", **facts, clean=predictions, revealed=predictions
        )
        test = np.full((2, 3, 3), 1 / 3, np.float32)
        write_arrays(run / "predictions_test.npz", **facts, clean=test, revealed=test)
        metrics = {"views": 2, "distortion": "fold's", "select_by": "clean+revealed"}
        metrics |= {"parameters": 5, "zip_megabytes": 2.0, "milliseconds": 1.0, "not_scored": []}
        write_json(run / "metrics.json", metrics)
    write_out_of_fold(folder / "oof.npz", runs, INDICES, ("clean", "revealed"), ("a", "b", "c"))
    facts = {"run": "a_001", "splits": splits, "runs": [run.name for run in runs]}
    write_json(folder / "folds.json", facts)
    return runs


def test_out_of_fold_answers_stand_in_the_order_of_the_training_file(tmp_path: Path) -> None:
    write_folds(tmp_path)
    with np.load(tmp_path / "oof.npz") as stored:
        assert stored["indices"].tolist() == [0, 1, 4, 5, 8, 9]
        assert stored["labels"].tolist() == LABELS[stored["indices"]].tolist()
        assert (stored["probabilities"].argmax(axis=2) == stored["labels"]).all()
        assert stored["class_names"].tolist() == ["a", "b", "c"]


def test_an_ensemble_of_folds_is_scored_by_the_network_that_never_saw_the_image(
    prepared: PreparedData, tmp_path: Path
) -> None:
    folds = write_folds(tmp_path / "folds")
    splits = Splits(np.array([0, 1, 4]), np.array([5, 8]), np.arange(3), "s")
    arguments = tmp_path / "runs", tmp_path / "folds", splits, prepared
    run = make_fold_ensemble(*arguments, seed=0)
    assert [member.resolve() for member in members_of(run)] == folds
    with np.load(run / "predictions_validation.npz") as stored:
        assert stored["labels"].tolist() == LABELS[[5, 8]].tolist()
    metrics = read_json(run / "metrics.json")
    assert (metrics["selection_score"], metrics["distortion"]) == (1.0, prepared.distortion_hash)
    assert (metrics["parameters"], metrics["milliseconds"]) == (10, 2.0)
    assert read_json(run / "config.json")["splits"] == "s"
    assert make_fold_ensemble(*arguments, seed=0) == run


def test_folds_of_other_splits_or_none_are_refused(tmp_path: Path) -> None:
    write_folds(tmp_path / "folds", splits="t")
    for folder in (tmp_path / "folds", tmp_path / "none"):
        with pytest.raises(UserError, match=r"no complete folds of these data; add --folds K"):
            read_folds(folder, "s")


def test_each_fold_has_the_time_of_a_backbone() -> None:
    costs = {"small": 1.0, "large": 3.0}  # the large one is packaged, and counts twice: 7 in all
    assert folds_share(costs, "large", folds=0) == 0
    assert folds_share(costs, "large", folds=5) == 15 / 22
