"""Optuna searches, one study a backbone: a trial is the same training as any other, on fewer pictures and epochs."""

import math
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import optuna
from optuna.trial import FrozenTrial, Trial, TrialState

from competition.callbacks import SCORE, read_state
from competition.config import Config, flatten, replace, training_settings
from competition.console import describe_seconds, say
from competition.files import InputError, digest, replacing, write_json
from competition.training import TrainingData, train
from competition.weights import Weights

# What is searched, by dotted key: (low, high, logarithmic) or the choices.
HEAD_SPACE: dict[str, Any] = {
    "model.head_units": (64, 128, 256, 512, 1024),
    "model.dropout": (0.0, 0.6, False),
    "model.l2": (1e-7, 1e-2, True),
    "training.head_learning_rate": (3e-4, 4e-3, True),
}
FINE_TUNING_SPACE: dict[str, Any] = {
    "training.fine_tuning_learning_rate": (1e-5, 1e-3, True),
    "training.fine_tuning_l2": (1e-7, 3e-2, True),
    "training.unfreeze": (0.2, 0.4, 0.66, 1.0),  # each a border whose activations are cached
}


@dataclass(frozen=True)
class SearchJob:
    """What a search needs: the settings it starts from, weights, and where it keeps itself.

    fixed: keys that the user set, which are not searched. deadline, last_moment: when (time.monotonic) no further
    trial begins, and when a running one is cut short, whose score then means less.
    """

    config: Config
    weights: Weights
    folder: Path
    storage: str
    fingerprint: str
    fixed: frozenset[str] = frozenset()
    deadline: float | None = None
    last_moment: float | None = None

    @property
    def backbone(self) -> str:
        return self.config.model.backbone

    @property
    def space(self) -> dict[str, Any]:
        """What is searched: from random weights there is no second stage, and so nothing of it."""
        space = HEAD_SPACE if self.weights.path is None else HEAD_SPACE | FINE_TUNING_SPACE
        return {key: options for key, options in space.items() if key not in self.fixed}


def search(job: SearchJob, data: TrainingData) -> dict[str, Any]:
    """Run, or go on with, the study of one backbone; return its best settings by dotted key.

    Writes trials.csv and best.json into the job's folder. A trial that was running when the process died is tried
    again with the same settings. Raises InputError where the study belongs to other data, or no trial succeeds.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = open_study(job)
    retry_interrupted(study)
    remaining = job.config.search.trials - count_finished(study)
    if remaining <= 0:
        say(f"{job.backbone}: {count_finished(study)} trials are done already; --trials asks for more.")
    else:
        left = None if job.deadline is None else max(1.0, job.deadline - time.monotonic())
        study.optimize(
            _objective(job, data), n_trials=remaining, timeout=left, catch=(InputError,), callbacks=[_report(job)]
        )
    return _write_results(study, job)


def open_study(job: SearchJob) -> optuna.Study:
    """Open or create the study; its first trial is the settings as they stand.

    The name carries all that is not searched, the trials' schedule too, since scores compare only where it is equal.
    """
    same = training_settings(job.config)
    same |= _trial_schedule(job.config) | dict.fromkeys(job.space, "searched")
    name = f"{job.backbone}-{digest(same, job.space, job.weights.fingerprint, keras.backend.backend())[:8]}"
    try:
        study = optuna.create_study(storage=job.storage, study_name=name, direction="maximize", load_if_exists=True)
        seed = job.config.seed + len(study.get_trials(deepcopy=False))  # or a resumed study would repeat its draws
        study.sampler = optuna.samplers.TPESampler(seed=seed, multivariate=True, n_startup_trials=5)
    except Exception as error:  # SQLAlchemy raises its own kinds for a missing driver, host or file
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"The storage {job.storage} cannot be used ({reason}); nothing was lost, mend it.") from error
    owner = study.user_attrs.get("data")
    if owner is None:
        study.set_user_attr("data", job.fingerprint)
        study.enqueue_trial(_inside_space(flatten(job.config), job.space))
    elif owner != job.fingerprint:
        raise InputError(
            f"The study '{name}' in {job.storage} belongs to other data (splits {owner}, now {job.fingerprint}); "
            "use --force to begin it anew, or --name for a folder of its own."
        )
    return study


def _trial_schedule(config: Config) -> dict[str, Any]:
    return {
        "training.limit": config.search.trial_pictures,
        "training.frozen_epochs": config.search.trial_frozen_epochs,
        "training.fine_tuning_epochs": config.search.trial_fine_tuning_epochs,
    }


def _inside_space(settings: dict[str, Any], space: dict[str, Any]) -> dict[str, Any]:
    return {key: _nearest(settings[key], options) for key, options in space.items()}


def _nearest(value: float, options: tuple[Any, ...]) -> Any:
    if isinstance(options[-1], bool):
        return min(max(value, options[0]), options[1])
    return min(options, key=lambda option: abs(option - value))


def retry_interrupted(study: optuna.Study) -> None:
    """Fail the trials that a dead process left running, and queue their settings again."""
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)
        study.enqueue_trial(trial.params, user_attrs={"retry_of": trial.number})
        say(f"  trial {trial.number} was interrupted: it is tried again.")


def count_finished(study: optuna.Study) -> int:
    """Return how many trials count: those with a score, and those that failed for a reason of their own."""
    trials = study.get_trials(deepcopy=False)
    return sum(trial.state == TrialState.COMPLETE or "reason" in trial.user_attrs for trial in trials)


def suggest(trial: Trial, space: dict[str, Any]) -> dict[str, Any]:
    """Return the trial's settings by dotted key."""
    settings: dict[str, Any] = {}
    for key, options in space.items():
        if isinstance(options[-1], bool):
            settings[key] = trial.suggest_float(key, options[0], options[1], log=options[2])
        else:
            settings[key] = trial.suggest_categorical(key, options)
    return settings


def _objective(job: SearchJob, data: TrainingData) -> Callable[[Trial], float]:
    def objective(trial: Trial) -> float:
        config = replace(job.config, suggest(trial, job.space) | _trial_schedule(job.config))
        folder = job.folder / f".{job.backbone}_trial_{trial.number}"
        shutil.rmtree(folder, ignore_errors=True)
        try:
            train(config, data, job.weights, folder, job.last_moment)
            history = read_state(folder / "checkpoint")["history"]
        except OSError:  # a full disk is nothing that another trial would do better
            raise
        except Exception as error:  # a loss that diverged, or no memory, which each backend raises in its own way
            reason = str(error).splitlines()[0][:300] if str(error) else type(error).__name__
            trial.set_user_attr("reason", reason)
            raise InputError(reason) from error
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            keras.utils.clear_session(free_memory=True)
        trial.set_user_attr("seconds", _step_seconds(history))
        return float(max(row[SCORE] for row in history))

    return objective


def _step_seconds(history: list[dict[str, Any]]) -> list[float]:
    """Return what compiling the last stage's step took, and what a step takes once that is done."""
    rows = [row for row in history if row["stage"] == history[-1]["stage"]]
    step = min(row["step_seconds"] for row in rows)
    return [max(0.1, rows[0]["first_step_seconds"] - step), step]


def _report(job: SearchJob) -> Callable[[optuna.Study, FrozenTrial], None]:
    def report(study: optuna.Study, trial: FrozenTrial) -> None:
        took = describe_seconds(trial.duration.total_seconds()) if trial.duration else "?"
        value = "failed: " + trial.user_attrs.get("reason", "?") if trial.value is None else f"{trial.value:.4f}"
        done = f"{count_finished(study)}/{job.config.search.trials}"
        say(f"{job.backbone} trial {done} ({took}): {value} with {_describe(trial.params)}")

    return report


def _describe(settings: dict[str, Any]) -> str:
    texts = {key: f"{value:.3g}" if isinstance(value, float) else str(value) for key, value in settings.items()}
    return ", ".join(f"{key.split('.')[1]} {text}" for key, text in texts.items())


def _write_results(study: optuna.Study, job: SearchJob) -> dict[str, Any]:
    job.folder.mkdir(parents=True, exist_ok=True)
    with replacing(job.folder / f"{job.backbone}_trials.csv") as temporary:
        study.trials_dataframe().to_csv(temporary, index=False)
    finished = [trial for trial in study.trials if trial.value is not None and math.isfinite(trial.value)]
    if not finished:
        reasons = sorted({trial.user_attrs["reason"] for trial in study.trials if "reason" in trial.user_attrs})
        raise InputError(f"No trial of {job.backbone} succeeded ({'; '.join(reasons) or 'none was finished'}).")
    best = study.best_trial
    result = {"settings": best.params, "selection_score": best.value, "trial": best.number}
    result |= {"data": job.fingerprint, "weights": job.weights.fingerprint}
    result["select_by"] = job.config.training.select_by
    seconds = [trial.user_attrs["seconds"] for trial in finished]
    write_json(job.folder / f"{job.backbone}_best.json", result | {"trials": len(finished), "seconds": seconds})
    settings = _describe(best.params)
    say(f"{job.backbone}: best of {len(finished)} trials {best.value:.4f} (trial {best.number}) with {settings}")
    return dict(best.params)
