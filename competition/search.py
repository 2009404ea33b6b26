"""The search of one backbone: a trial is the same training as any other, on fewer pictures and epochs."""

import errno
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import optuna
from optuna.exceptions import OptunaError
from optuna.trial import Trial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from competition.callbacks import SCORE, read_state
from competition.config import Config, replace
from competition.console import say
from competition.files import InputError, replacing, write_json
from competition.study import (
    AS_GIVEN,
    REASON,
    SearchJob,
    describe_settings,
    failure_reason,
    open_study,
    reachable,
    work,
)
from competition.study_report import write_report
from competition.training import TrainingData, train
from competition.weights import Weights

# A full disk or a storage that is gone are nothing that another trial would do better.
NOT_THE_TRIALS_FAULT = (OSError, OptunaError, SQLAlchemyError)
Report = Callable[[float, int], None]


def search(job: SearchJob, data: TrainingData) -> None:
    """Run, or go on with, the study of one backbone, which any number of processes may do at the same time."""
    work(open_study(job), job, _objective(job, data))


def suggest(trial: Trial, space: dict[str, Any]) -> dict[str, Any]:
    """Return the trial's settings by dotted key."""
    settings: dict[str, Any] = {}
    for key, options in space.items():
        if isinstance(options[-1], bool):
            settings[key] = trial.suggest_float(key, options[0], options[1], log=options[2])
        else:
            settings[key] = trial.suggest_categorical(key, options)
    return settings


def run_trial(
    config: Config, data: TrainingData, weights: Weights, folder: Path, deadline: float | None, report: Report
) -> tuple[float, list[float]]:
    """Train as `config` says; return the selection score, and the seconds of compiling the step and of a step."""
    train(config, data, weights, folder, deadline)
    history = read_state(folder / "checkpoint")["history"]
    rows = [row for row in history if row["stage"] == history[-1]["stage"]]
    step = min(row["step_seconds"] for row in rows)
    seconds = [max(0.1, rows[0]["first_step_seconds"] - step), step]
    return max(row[SCORE] for row in history), seconds


def _objective(job: SearchJob, data: TrainingData) -> Callable[[Trial], float]:
    def objective(trial: Trial) -> float:
        config = replace(job.config, suggest(trial, job.space) | job.schedule)
        folder = job.folder / f".{job.backbone}_trial_{trial.number}"
        shutil.rmtree(folder, ignore_errors=True)
        try:
            score, seconds = run_trial(config, data, job.weights, folder, job.last_moment, _pruning(trial))
            if not math.isfinite(score):
                raise InputError(f"The selection score is {score}.")
        except Exception as error:  # a loss that diverged, or no memory, which each backend raises in its own way
            if isinstance(error, NOT_THE_TRIALS_FAULT) and getattr(error, "errno", None) != errno.ENOMEM:
                raise
            reason = str(error).splitlines()[0][:300] if str(error) else type(error).__name__
            trial.set_user_attr(REASON, reason)
            raise InputError(reason) from error
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            keras.utils.clear_session(free_memory=True)  # collects the garbage too
        trial.set_user_attr("seconds", seconds)
        return float(score)

    return objective


def _pruning(trial: Trial) -> Report:
    """Return what takes the score after each epoch, and ends a trial that has no prospects; never the first one."""

    def report(score: float, step: int) -> None:
        trial.report(score, step)
        if AS_GIVEN not in trial.user_attrs and trial.should_prune():
            raise optuna.TrialPruned

    return report


def conclude(job: SearchJob) -> dict[str, Any]:
    """Write what the study found into the job's folder: trials.csv, the report and best.json; return the latter.

    Where no time was left for a trial there is nothing to write. Raises InputError where all trials failed.
    """
    study = open_study(job)
    with reachable(job.url):
        trials = study.get_trials(deepcopy=False)
        with replacing(job.folder / f"{job.backbone}_trials.csv") as temporary:
            study.trials_dataframe().to_csv(temporary, index=False)
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    if not complete:
        if reasons := sorted({reason for trial in trials if (reason := failure_reason(trial))}):
            raise InputError(f"No trial of {job.backbone} succeeded ({'; '.join(reasons)}).")
        say(f"{job.backbone}: no trial was finished in time; its settings are trained as they are.")
        return {}
    best = max(complete, key=lambda trial: trial.value)
    result = {"settings": best.params, "selection_score": best.value, "trial": best.number}
    result |= {"data": job.data["splits"], "weights": job.weights.fingerprint}
    result["select_by"] = job.config.training.select_by
    result |= {"trials": len(complete), "seconds": [trial.user_attrs["seconds"] for trial in complete]}
    write_json(job.folder / f"{job.backbone}_best.json", result)
    write_report(study, job)
    settings = describe_settings(best.params)
    say(f"{job.backbone}: best of {len(complete)} trials {best.value:.4f} (trial {best.number}) with {settings}")
    return result
