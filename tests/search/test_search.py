"""The objective and what a search leaves: settings tried, failures with their reasons, pruning, and the results."""

import dataclasses
import time
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import pytest
from optuna.trial import TrialState

from competition.common.errors import UserError
from competition.common.files import read_json
from competition.config import PRESETS, Config, SearchConfig, with_settings
from competition.networks.weights import RANDOM, Weights
from competition.search.rounds import FINALS, TRIALS, Effort, SearchJob
from competition.search.search import _settle, conclude, search, suggest
from competition.search.study import open_study, resume_study
from competition.search.trial import Outcome, Trainer
from tests.factories import make_data


@pytest.fixture
def job(tmp_path: Path) -> SearchJob:
    config = with_settings(Config(), {"model.backbone": "tiny_cnn", "search.trials": 3})
    return SearchJob(config, RANDOM, tmp_path, {"splits": "data-1"}, "tensorflow")


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[Config]:
    """Replace training by a score that is best at the highest dropout; return the settings that were tried."""
    seen: list[Config] = []

    def train(self: Trainer, config: Config, report: Any) -> Outcome:
        seen.append(config)
        report(config.model.dropout, 1)
        return Outcome(config.model.dropout, 3.0, 1.0)

    monkeypatch.setattr(Trainer, "train", train)
    monkeypatch.setattr(
        "keras.utils.clear_session", lambda **_: None
    )  # half a second for nothing here
    monkeypatch.setattr(
        "competition.search.search.CONFIDENCE", 0.0
    )  # of so few pictures nothing could be said
    return seen


def run(job: SearchJob) -> None:
    for part in job.parts:
        resume_study(part)
    search(job, make_data(), job.folder / "features")


def test_the_first_trial_is_the_settings_as_they_stand(
    job: SearchJob, trained: list[Config]
) -> None:
    run(job)
    assert trained[0].model.dropout == job.config.model.dropout
    assert trained[0].training.limit == job.config.search.trial_images // 4
    assert trained[0].model.input_size == job.side // 2
    assert len(trained) == 3


@pytest.mark.parametrize(
    ("pictures", "trial", "final"), [(2000, 500, 2000), (400, 250, 400), (60, 60, 60)]
)
def test_from_random_weights_a_trial_sees_enough_pictures_to_learn_from(
    pictures: int, trial: int, final: int
) -> None:
    effort = Effort(SearchConfig(trial_images=pictures), pretrained=False)
    assert (effort.pictures(TRIALS), effort.pictures(FINALS)) == (trial, final)


def test_the_second_trial_is_the_seeds_settings(job: SearchJob, trained: list[Config]) -> None:
    run(dataclasses.replace(job, config=with_settings(job.config, {"search.trials": 4})))
    assert [config.model.l2 for config in trained[:2]] == [
        job.config.model.l2,
        PRESETS["baseline"]["model.l2"],
    ]
    assert trained[1].model.dropout == job.config.model.dropout


def test_a_finished_study_goes_on_only_for_more_trials(
    job: SearchJob, trained: list[Config]
) -> None:
    run(job)
    run(job)
    assert len(trained) == 3
    run(dataclasses.replace(job, config=with_settings(job.config, {"search.trials": 4})))
    assert len(trained) == 4
    assert len({(config.model.dropout, config.model.l2) for config in trained}) == 4


def test_a_finished_study_needs_no_features_any_more(
    job: SearchJob, trained: list[Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    run(job)
    monkeypatch.setattr(
        "competition.search.search._make_trainer",
        lambda *_: pytest.fail("a trainer with features was made"),
    )
    run(job)
    assert len(trained) == 3


def test_results_lie_in_files(job: SearchJob, trained: list[Config]) -> None:
    run(job)
    best = conclude(job)
    assert best["selection_score"] == max(config.model.dropout for config in trained)
    assert best["settings"] == {}, "smaller pictures alone decide nothing"
    assert read_json(job.folder / "tiny_cnn_best.json") == best
    assert best["data"] == "data-1"
    assert best["seconds"] is None, "a step at half the side tells little of one at full size"
    assert len(pd.read_csv(job.folder / "tiny_cnn_trials.csv")) == 3
    assert (job.folder / "tiny_cnn.md").is_file()


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (UserError("The loss became NaN."), "The loss became NaN."),
        (MemoryError(), "MemoryError"),
        (None, "nan"),
    ],
)
def test_a_trial_that_fails_is_recorded_with_its_reason_and_the_study_goes_on(
    error: Exception | None,
    reason: str,
    job: SearchJob,
    trained: list[Config],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    succeed = Trainer.train

    def fail_first(*arguments: Any) -> Any:
        result = succeed(*arguments)
        if len(trained) > 1:
            return result
        if error:
            raise error
        return Outcome(float("nan"), 3.0, 1.0)

    monkeypatch.setattr(Trainer, "train", fail_first)
    run(job)
    trials = open_study(job).trials
    assert [trial.state for trial in trials] == [
        TrialState.FAIL,
        TrialState.COMPLETE,
        TrialState.COMPLETE,
    ]
    assert reason in trials[0].user_attrs["reason"]


def test_a_full_disk_ends_the_search_and_its_trial_is_tried_again(
    job: SearchJob, trained: list[Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train", fail)
        with pytest.raises(OSError, match="No space left"):
            run(job)
    run(job)
    assert [trial.state for trial in open_study(job).trials] == [TrialState.FAIL] + [
        TrialState.COMPLETE
    ] * 3
    assert trained[0].model.dropout == job.config.model.dropout


def test_a_search_without_one_success_says_why(
    job: SearchJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any) -> None:
        raise MemoryError("no room for this batch")

    monkeypatch.setattr(Trainer, "train", fail)
    run(job)
    with pytest.raises(UserError, match="no room for this batch"):
        conclude(job)


def test_trials_that_learnt_nothing_change_no_settings(
    job: SearchJob, trained: list[Config], capsys: pytest.CaptureFixture[str]
) -> None:
    run(job)
    assert conclude(dataclasses.replace(job, chance=0.9))["settings"] == {}
    assert "no better than naming one class always (0.9000)" in capsys.readouterr().out


@pytest.mark.parametrize(("pictures", "stays"), [(50, True), (5000, False)])
def test_settings_stay_as_given_where_chance_may_explain_what_is_better(
    job: SearchJob,
    trained: list[Config],
    pictures: int,
    stays: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("competition.search.search.CONFIDENCE", 1.96)
    part = dataclasses.replace(job, fixed=frozenset(set(job.whole_space) - {"model.dropout"}))
    study = optuna.create_study(direction="maximize")
    for score, dropout in ((0.83, 0.4), (0.8, job.config.model.dropout)):
        study.enqueue_trial({"model.dropout": dropout})
        trial = study.ask()
        suggest(trial, part.space)
        trial.set_user_attr("validation pictures", pictures)
        study.tell(trial, score)
    trials = study.trials
    assert _settle(part, trials) is trials[1 if stays else 0]
    assert ("these stay" in capsys.readouterr().out) == stays


def test_a_search_without_time_tries_the_settings_as_given(
    job: SearchJob, trained: list[Config]
) -> None:
    run(dataclasses.replace(job, deadlines={TRIALS: time.monotonic()}))
    assert conclude(job)["settings"] == {}
    assert [config.model.dropout for config in trained] == [job.config.model.dropout]


def test_a_hopeless_trial_is_given_up_but_never_the_first(
    job: SearchJob, trained: list[Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(optuna.Trial, "should_prune", lambda trial: len(trained) != 2)
    run(job)
    best = conclude(job)
    trials = open_study(job).trials
    assert [trial.state for trial in trials] == [
        TrialState.COMPLETE,
        TrialState.COMPLETE,
        TrialState.PRUNED,
    ]
    assert trials[2].value == trained[2].model.dropout
    assert pd.read_csv(job.folder / "tiny_cnn_trials.csv")["value"].notna().all()
    assert best["trials"] == 2
    assert best["selection_score"] == max(config.model.dropout for config in trained[:2])


def test_the_second_stage_is_searched_only_from_pretrained_weights(job: SearchJob) -> None:
    space = dataclasses.replace(job, weights=Weights(Path("weights.h5"), "imagenet")).space
    keys = {"training.fine_tuning_learning_rate", "training.fine_tuning_l2", "training.unfreeze"}
    assert set(space) - set(job.space) == keys
    settings = suggest(optuna.create_study().ask(), space)
    assert with_settings(Config(), settings).training.unfreeze == settings["training.unfreeze"]


def test_two_stage_trials_keep_the_best_head_but_for_the_first(
    job: SearchJob,
    pretrained: Weights,
) -> None:
    changes = {"search.fine_tuning_trials": 3, "search.trial_images": 60, "training.batch_size": 16}
    job = dataclasses.replace(job, config=with_settings(job.config, changes), weights=pretrained)
    run(job)
    best = conclude(job)
    heads, both = (open_study(part).trials for part in job.parts)
    assert (len(heads), len(both)) == (3, 3)
    assert (best["part"], best["trials"]) == (TRIALS, 3)
    assert both[0].params["model.dropout"] == job.config.model.dropout
    assert both[0].params["training.unfreeze"] == job.config.training.unfreeze
    for trial in both[1:]:
        assert (
            trial.params.items() >= max(heads, key=lambda trial: trial.value or 0.0).params.items()
        )
    assert len({trial.params["training.fine_tuning_learning_rate"] for trial in both}) == 3
    assert (job.folder / "tiny_cnn_heads.png").is_file()


@pytest.fixture
def with_finals(job: SearchJob) -> SearchJob:
    """Five trials, of which two go on."""
    return dataclasses.replace(job, config=with_settings(job.config, {"search.trials": 5}))


def test_the_best_trials_are_tried_again_on_more_pictures_of_full_size(
    with_finals: SearchJob, trained: list[Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Trainer.train

    def train(self: Trainer, config: Config, report: Any) -> Outcome:
        outcome = first(self, config, report)
        return (
            dataclasses.replace(outcome, score=1 - outcome.score)
            if config.model.input_size == 0
            else outcome
        )

    monkeypatch.setattr(Trainer, "train", train)
    run(with_finals)
    *trials, second, best = trained
    assert len(trials) == 5
    assert best.model.dropout == max(trial.model.dropout for trial in trials)
    assert second.model.dropout == with_finals.config.model.dropout, "as given"
    assert best.training.limit == second.training.limit == 4 * trials[0].training.limit
    result = conclude(with_finals)
    assert result["part"] == FINALS
    assert result["seconds"] == [3.0, 1.0]
    assert result["settings"]["model.dropout"] == second.model.dropout, "what the finals say counts"
    assert (with_finals.folder / "tiny_cnn_finals.md").is_file()


def test_a_finalist_is_tried_once_whatever_trials_come_after(
    with_finals: SearchJob, trained: list[Config]
) -> None:
    run(with_finals)
    run(with_finals)
    assert len(trained) == 7
    run(dataclasses.replace(with_finals, config=with_settings(with_finals.config, {"search.trials": 8})))
    finals = [config.model.dropout for config in trained if config.model.input_size == 0]
    assert len(finals) == len(set(finals))
    best = sorted(
        (config.model.dropout for config in trained if config.model.input_size), reverse=True
    )
    assert {best[0], with_finals.config.model.dropout} <= set(finals)


def test_without_time_for_finals_the_best_trial_is_what_remains(
    with_finals: SearchJob, trained: list[Config]
) -> None:
    run(dataclasses.replace(with_finals, deadlines={FINALS: time.monotonic()}))
    assert len(trained) == 5
    assert conclude(with_finals)["part"] == TRIALS


def test_what_the_user_set_is_not_searched(job: SearchJob, trained: list[Config]) -> None:
    config = with_settings(job.config, {"model.l2": 0.005})
    run(dataclasses.replace(job, config=config, fixed=frozenset({"model.l2"})))
    assert {settings.model.l2 for settings in trained} == {0.005}
