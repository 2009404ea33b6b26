"""Studies resume, retry what was interrupted, record failures, and refuse other data."""

import dataclasses
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import pytest
from optuna.trial import TrialState

from competition import search as module
from competition.callbacks import SCORE
from competition.config import Config, replace
from competition.files import InputError, read_json
from competition.search import SearchJob, count_finished, open_study, search
from competition.training import TrainingData
from competition.weights import RANDOM, Weights
from tests.test_training import make_data


@pytest.fixture
def job(tmp_path: Path) -> SearchJob:
    config = replace(Config(), {"model.backbone": "tiny_cnn", "search.trials": 3})
    return SearchJob(config, RANDOM, tmp_path, f"sqlite:///{tmp_path}/study.db", "data-1")


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[Config]:
    """Replace training by a score that is best at the highest dropout; return the settings that were tried."""
    seen: list[Config] = []

    def train(config: Config, data: TrainingData, weights: Weights, folder: Path, deadline: Any) -> None:
        seen.append(config)

    def read_state(folder: Path) -> dict[str, Any]:
        times = {"first_step_seconds": 3.0, "step_seconds": 1.0}
        return {"history": [{"stage": "from scratch", SCORE: seen[-1].model.dropout, **times}]}

    monkeypatch.setattr(module, "train", train)
    monkeypatch.setattr(module, "read_state", read_state)
    return seen


def test_the_first_trial_is_the_settings_as_they_stand(job: SearchJob, trained: list[Config]) -> None:
    search(job, make_data())
    assert trained[0].model.dropout == job.config.model.dropout
    assert trained[0].training.limit == job.config.search.trial_pictures
    assert len(trained) == 3


def test_a_finished_study_goes_on_only_for_more_trials(job: SearchJob, trained: list[Config]) -> None:
    best = search(job, make_data())
    assert search(job, make_data()) == best
    assert len(trained) == 3
    more = dataclasses.replace(job, config=replace(job.config, {"search.trials": 5}))
    search(more, make_data())
    assert len(trained) == 5
    assert best["model.dropout"] == max(config.model.dropout for config in trained[:3])


def test_results_lie_in_files(job: SearchJob, trained: list[Config]) -> None:
    best = search(job, make_data())
    kept = read_json(job.folder / "tiny_cnn_best.json")
    assert kept["settings"] == best
    assert kept["data"] == "data-1"
    assert len(pd.read_csv(job.folder / "tiny_cnn_trials.csv")) == 3


def test_an_interrupted_trial_is_tried_again_with_its_settings(job: SearchJob, trained: list[Config]) -> None:
    study = open_study(job)
    running = study.ask()
    settings = module.suggest(running, job.space)
    search(job, make_data())
    study = open_study(job)
    assert count_finished(study) == 3
    assert study.trials[running.number].state == TrialState.FAIL
    assert [trial.params for trial in study.trials].count(settings) == 2


def test_a_trial_that_fails_is_recorded_with_its_reason_and_the_study_goes_on(
    job: SearchJob, trained: list[Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    succeed = vars(module)["train"]

    def fail_first(*arguments: Any) -> None:
        succeed(*arguments)
        if len(trained) == 1:
            raise InputError("The loss became NaN.")

    monkeypatch.setattr(module, "train", fail_first)
    search(job, make_data())
    study = open_study(job)
    assert [trial.state for trial in study.trials] == [TrialState.FAIL, TrialState.COMPLETE, TrialState.COMPLETE]
    assert study.trials[0].user_attrs["reason"] == "The loss became NaN."


def test_a_search_without_one_success_says_why(job: SearchJob, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any) -> None:
        raise MemoryError("no room for this batch")

    monkeypatch.setattr(module, "train", fail)
    with pytest.raises(InputError, match="no room for this batch"):
        search(job, make_data())


def test_a_study_of_other_data_is_refused(job: SearchJob, trained: list[Config]) -> None:
    search(job, make_data())
    with pytest.raises(InputError, match=r"belongs to other data.*--force"):
        search(dataclasses.replace(job, fingerprint="data-2"), make_data())
    assert len(trained) == 3


def test_a_storage_out_of_reach_is_named(job: SearchJob) -> None:
    with pytest.raises(InputError, match=r"/no/such/folder.*nothing was lost"):
        search(dataclasses.replace(job, storage="sqlite:////no/such/folder/study.db"), make_data())


def test_the_second_stage_is_searched_only_from_pretrained_weights(job: SearchJob) -> None:
    pretrained = dataclasses.replace(job, weights=Weights(Path("weights.h5"), "imagenet")).space
    keys = {"training.fine_tuning_learning_rate", "training.fine_tuning_l2", "training.unfreeze"}
    assert set(pretrained) - set(job.space) == keys
    settings = module.suggest(optuna.create_study().ask(), pretrained)
    assert replace(Config(), settings).training.unfreeze == settings["training.unfreeze"]


def test_what_the_user_set_is_not_searched(job: SearchJob, trained: list[Config]) -> None:
    config = replace(job.config, {"model.l2": 0.005})
    search(dataclasses.replace(job, config=config, fixed=frozenset({"model.l2"})), make_data())
    assert {settings.model.l2 for settings in trained} == {0.005}


def test_a_study_of_other_settings_is_another_study(job: SearchJob, trained: list[Config]) -> None:
    search(job, make_data())
    search(dataclasses.replace(job, config=replace(job.config, {"training.optimizer": "lion"})), make_data())
    assert [settings.training.optimizer for settings in trained] == ["adam"] * 3 + ["lion"] * 3
