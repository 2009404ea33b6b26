"""The search of one backbone: trials of heads on cached features, then of both stages; from random weights, of all."""

import errno
import math
from collections.abc import Callable
from dataclasses import replace as with_changes
from pathlib import Path
from typing import Any

import keras
import optuna
import psutil
from optuna.exceptions import OptunaError
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from competition.config import Config, replace
from competition.console import say
from competition.features import cache_features
from competition.files import InputError, replacing, write_json
from competition.search_job import SearchJob
from competition.study import (
    AS_GIVEN,
    REASON,
    describe_settings,
    failure_reason,
    open_study,
    reachable,
    work,
)
from competition.study_report import write_report
from competition.training import TrainingData
from competition.trial import Outcome, Report, Trainer

# A full disk or a storage that is gone are nothing that another trial would do better.
NOT_THE_TRIALS_FAULT = (OSError, OptunaError, SQLAlchemyError)
CHANCE_MARGIN = 0.02  # above chance, below which trials were too short to tell anything
Training = Callable[[Config, Report], Outcome]


def search(job: SearchJob, data: TrainingData, features: Path) -> None:
    """Run, or go on with, the studies of one backbone, which any number of processes may do at the same time.

    features: the folder of cached features.
    """
    few, cached = data.limited(job.config.search.trial_pictures, job.config.seed), None
    if job.weights.is_pretrained:
        shares = job.space.get("training.unfreeze", (job.config.training.unfreeze,))
        cached = cache_features(job.config, few, job.weights, shares, features)
    trainer = Trainer(few, job.weights, cached, job.last_moment)
    for heads in job.parts[:-1]:
        study = open_study(heads)
        work(study, heads, _objective(heads, trainer.train_head))
        complete = _complete(study)
        job = with_changes(job, head=max(complete, key=_value).params if complete else {})
    work(open_study(job), job, _objective(job, trainer.train))


def suggest(trial: Trial, space: dict[str, Any]) -> dict[str, Any]:
    """Return the trial's settings by dotted key."""
    settings: dict[str, Any] = {}
    for key, options in space.items():
        if isinstance(options[-1], bool):
            settings[key] = trial.suggest_float(key, options[0], options[1], log=options[2])
        else:
            settings[key] = trial.suggest_categorical(key, options)
    return settings


def _objective(job: SearchJob, train: Training) -> Callable[[Trial], float]:
    def objective(trial: Trial) -> float:
        config = replace(job.config, suggest(trial, job.space) | job.schedule)
        try:
            outcome = train(config, _pruning(trial))
            if not math.isfinite(outcome.score):
                raise InputError(f"The selection score is {outcome.score}.")
        except optuna.TrialPruned:
            raise
        except Exception as error:  # a loss that diverged, or no memory, which each backend raises in its own way
            if isinstance(error, NOT_THE_TRIALS_FAULT) and getattr(error, "errno", None) != errno.ENOMEM:
                raise
            reason = str(error).splitlines()[0][:300] if str(error) else type(error).__name__
            trial.set_user_attr(REASON, reason)
            raise InputError(reason) from error
        finally:
            keras.utils.clear_session(free_memory=True)  # collects the garbage too
        trial.set_user_attr("seconds", [outcome.compile_seconds, outcome.step_seconds])
        trial.set_user_attr("megabytes", round(psutil.Process().memory_info().rss / 2**20))
        return outcome.score

    return objective


def _pruning(trial: Trial) -> Report:
    """Return what takes the score after each epoch, and ends a trial that has no prospects; never the first one."""

    def report(score: float, step: int) -> None:
        trial.report(score, step)
        if AS_GIVEN not in trial.user_attrs and trial.should_prune():
            raise optuna.TrialPruned

    return report


def _complete(study: optuna.Study) -> list[FrozenTrial]:
    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))


def _value(trial: FrozenTrial) -> float:
    assert trial.value is not None
    return trial.value


def conclude(job: SearchJob) -> dict[str, Any]:
    """Write what one study found into the job's folder, and return what is in its best.json.

    <stem>_trials.csv, _best.json, .png and .md. Raises InputError where no trial succeeded.
    """
    study = open_study(job)
    with reachable(job.url):
        trials, complete = study.get_trials(deepcopy=False), _complete(study)
        with replacing(job.folder / f"{job.stem}_trials.csv") as temporary:
            study.trials_dataframe().to_csv(temporary, index=False)
    if not complete:
        reasons = sorted({reason for trial in trials if (reason := failure_reason(trial))})
        raise InputError(f"No trial of {job.title} succeeded ({'; '.join(reasons) or 'none was finished'}).")
    best = max(complete, key=_value)
    learnt = _value(best) > job.chance + CHANCE_MARGIN
    result = {"settings": best.params if learnt else {}, "selection_score": best.value, "trial": best.number}
    result |= {"data": job.data["splits"], "weights": job.weights.fingerprint, "trials": len(complete)}
    result |= {"select_by": job.config.training.select_by, "seconds": best.user_attrs["seconds"]}
    write_json(job.folder / f"{job.stem}_best.json", result)
    write_report(study, job)
    settings = describe_settings(best.params)
    say(f"{job.title}: best of {len(complete)} trials {best.value:.4f} (trial {best.number}) with {settings}")
    if not learnt:
        say(
            f"{job.title}: that is no better than naming one class always ({job.chance:.4f}); "
            "the settings stay as given."
        )
    return result
