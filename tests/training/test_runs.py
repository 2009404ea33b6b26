"""Runs: found again by what they were made of, gone on with after a crash, never trained twice."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from competition.common.errors import TrialFailedError
from competition.common.files import read_json
from competition.config import Config, training_settings, with_settings
from competition.data.arrays import PreparedData
from competition.networks.weights import RANDOM, Weights
from competition.time_budget import Slot, TrainingTime
from competition.training import runs as runs_module
from competition.training.keepers import PREDICTIONS, Checkpoint
from competition.training.runs import (
    find_run,
    fingerprint_run,
    is_trained,
    load_run,
    make_run_folder,
    read_history,
    train_run,
)
from competition.training.train import predict
from tests.factories import CONFIG

QUICK = with_settings(CONFIG, {"training.frozen_epochs": 0, "training.fine_tuning_epochs": 2})


class KilledError(Exception):
    """Stands for the end of the process."""


@pytest.fixture
def train_nothing(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let training add one row to the weights as they are; the names of the runs it trained."""
    trained: list[str] = []

    def train(
        config: Config, data: Any, weights: Weights, keeper: Checkpoint, time_for: TrainingTime
    ) -> None:
        trained.append(keeper.title)
        keeper.add_epoch(
            {
                "stage": "a",
                "epoch": 0,
                "progress": 1.0,
                "loss": 1.0,
                "val_accuracy": 0.5,
                "seconds": 1.0,
            },
            keeper.network,
            np.zeros((2, 3), np.float32),
        )

    monkeypatch.setattr(runs_module, "train", train)
    return trained


def test_a_run_leaves_its_settings_history_predictions_and_network(
    prepared: PreparedData, tmp_path: Path
) -> None:
    run = train_run(QUICK, prepared, RANDOM, tmp_path)
    assert run == tmp_path / "tiny_cnn_001"
    assert is_trained(run)
    facts = read_json(run / "config.json")
    assert facts["splits"] == prepared.fingerprint
    assert facts["settings"]["training.fine_tuning_epochs"] == 2
    assert facts["class_names"] == ["a", "b", "c"]
    assert facts["time_budget_seconds"] is None
    assert read_json(run / "environment.json").keys() >= {"python", "keras", "device"}
    assert read_history(run)["epoch"].tolist() == [0, 1]
    predictions = predict(load_run(run), prepared.training.validation_images)
    np.testing.assert_allclose(np.load(run / PREDICTIONS), predictions, atol=1e-6)
    assert not (run / "checkpoint").exists()


def test_a_trained_run_is_found_again_and_another_experiment_is_not(
    prepared: PreparedData, pretrained: Weights, tmp_path: Path, train_nothing: list[str]
) -> None:
    for _ in range(2):
        assert train_run(CONFIG, prepared, RANDOM, tmp_path).name == "tiny_cnn_001"
    assert train_nothing == ["tiny_cnn_001"]
    other = with_settings(CONFIG, {"training.label_smoothing": 0.3})
    assert train_run(other, prepared, RANDOM, tmp_path).name == "tiny_cnn_002"
    assert train_run(CONFIG, prepared, pretrained, tmp_path).name == "tiny_cnn_003"
    changed = replace(prepared, fingerprint="t")
    assert train_run(CONFIG, changed, RANDOM, tmp_path).name == "tiny_cnn_004"
    assert train_run(CONFIG, prepared, RANDOM, tmp_path).name == "tiny_cnn_001"
    assert len(train_nothing) == 4


def test_a_budget_and_only_the_settings_of_training_make_another_run(
    prepared: PreparedData,
) -> None:
    def hash_of(changes: dict[str, Any], budget: float = 0.0, sharing: str = "") -> str:
        time_for = TrainingTime(Slot(0, 1), 1, budget, sharing) if budget else None
        return fingerprint_run(with_settings(CONFIG, changes), prepared, RANDOM, time_for)

    assert hash_of({}) == hash_of({"search.trials": 3, "evaluation.tta_views": 1})
    others = {
        hash_of({}, 60.0),
        hash_of({}, 90.0),
        hash_of({}, 90.0, "with others"),
        hash_of({"seed": 1}),
        hash_of({"metric": "auc"}),
    }
    assert len({hash_of({})} | others) == 6
    assert hash_of({}) == hash_of({"metric": "accuracy"})
    assert "metric" not in training_settings(CONFIG), "runs of earlier versions are found again"


def test_force_trains_a_finished_run_anew_and_goes_on_with_an_interrupted_one(
    prepared: PreparedData, tmp_path: Path, train_nothing: list[str]
) -> None:
    first = train_run(CONFIG, prepared, RANDOM, tmp_path)
    assert train_run(CONFIG, prepared, RANDOM, tmp_path, force=True).name == "tiny_cnn_002"
    (first / "network.weights.h5").unlink()
    (tmp_path / "tiny_cnn_002/network.weights.h5").unlink()
    fingerprint = fingerprint_run(CONFIG, prepared, RANDOM, None)
    assert find_run(tmp_path, "tiny_cnn", fingerprint, force=True).name == "tiny_cnn_002"


def test_numbers_go_on_after_the_last_run_of_a_backbone(tmp_path: Path) -> None:
    assert make_run_folder(tmp_path, "tiny_cnn").name == "tiny_cnn_001"
    for name in ("tiny_cnn_001", "tiny_cnn_012", "custom_cnn_099", "tiny_cnn_notes"):
        (tmp_path / name).mkdir(exist_ok=True)
    assert make_run_folder(tmp_path, "tiny_cnn").name == "tiny_cnn_013"


def test_runs_that_begin_at_the_same_moment_have_folders_of_their_own(tmp_path: Path) -> None:
    with ThreadPoolExecutor(16) as pool:
        named = list(
            pool.map(lambda _: make_run_folder(tmp_path / "runs", "tiny_cnn").name, range(64))
        )
    assert sorted(named) == [f"tiny_cnn_{number:03d}" for number in range(1, 65)]


def test_an_interrupted_run_goes_on_in_its_folder_from_its_checkpoint(
    prepared: PreparedData,
    tmp_path: Path,
    train_nothing: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    whole: Callable[..., None] = vars(runs_module)["train"]
    begun: list[list[str]] = []

    def die(config: Config, data: Any, weights: Weights, keeper: Checkpoint, *others: Any) -> None:
        begun.append(keeper.state["stages"])
        keeper.finish_stage(f"stage {len(begun)}")
        if len(begun) < 3:
            raise KilledError
        whole(config, data, weights, keeper, *others)

    monkeypatch.setattr(runs_module, "train", die)
    for _ in range(2):
        with pytest.raises(KilledError):
            train_run(CONFIG, prepared, RANDOM, tmp_path)
        assert not is_trained(tmp_path / "tiny_cnn_001")
    assert train_run(CONFIG, prepared, RANDOM, tmp_path).name == "tiny_cnn_001"
    assert begun == [[], ["stage 1"], ["stage 1", "stage 2"]]
    output = capsys.readouterr().out
    assert output.count("tiny_cnn_001: starts, random weights") == 1
    assert output.count("tiny_cnn_001: resumes, random weights") == 2


def test_a_training_that_diverges_leaves_no_checkpoint_to_diverge_from_again(
    prepared: PreparedData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def diverge(config: Config, data: Any, weights: Weights, keeper: Checkpoint, *_: Any) -> None:
        keeper.finish_stage("frozen")
        raise TrialFailedError("a lower rate is needed")

    monkeypatch.setattr(runs_module, "train", diverge)
    with pytest.raises(TrialFailedError):
        train_run(CONFIG, prepared, RANDOM, tmp_path)
    assert not (tmp_path / "tiny_cnn_001/checkpoint").exists()
