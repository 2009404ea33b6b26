"""The search of one backbone: heads on cached features, trials of the whole network, and finals of the best of them."""

import errno
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import optuna
import psutil
from optuna.exceptions import OptunaError
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from competition.common.console import say
from competition.common.errors import UserError
from competition.common.files import replacing, write_json
from competition.config import with_settings
from competition.data.arrays import TrainingData
from competition.search.features import cache_features
from competition.search.rounds import FINALS, FINE_TUNING_SPACE, HEADS, TRIALS, SearchJob
from competition.search.study import (
    QUEUED,
    REASON,
    describe_settings,
    failure_reason,
    is_done,
    open_study,
    reachable,
    settings_as_given,
    work,
)
from competition.search.study_report import write_report
from competition.search.trial import Report, Trainer

# A full disk or a storage that is gone are nothing that another trial would do better.
NOT_THE_TRIALS_FAULT = (OSError, OptunaError, SQLAlchemyError)
CHANCE_MARGIN = 0.02  # above chance, below which trials were too short to tell anything
CONFIDENCE = 1.96  # standard errors of a difference of two scores: chance explains less (95 %)
SCORED_ON = "validation pictures"  # attribute of a trial


def search(job: SearchJob, data: TrainingData, features: Path) -> None:
    """Run, or go on with, the studies of one backbone, which any number of processes may do at the same time.

    features: the folder of cached features.
    """
    before: tuple[dict[str, Any], ...] = ()
    for part in job.parts:
        part = replace(part, before=before)
        if part.part == FINALS and (len(before) < 2 or part.is_late):
            break
        study = open_study(part)
        if not is_done(study, part):
            trainer = _make_trainer(part, data, features)
            work(study, part, _objective(part, trainer))
        with reachable(part.url):
            before = _choose(study, part)


def _choose(study: optuna.Study, job: SearchJob) -> tuple[dict[str, Any], ...]:
    """Return the best settings, as many as go on to the finals; of trials those as given first, whatever they reach."""
    best, given = [trial.params for trial in rank(study)], settings_as_given(job)
    if job.part == TRIALS:
        best = [given, *(settings for settings in best if settings != given)]
    return tuple(best[: job.effort.trials.get(FINALS, 1)])


def _make_trainer(job: SearchJob, data: TrainingData, features: Path) -> Trainer:
    few, cached = data.for_trial(job.effort.pictures(job.part), job.config.seed), None
    if job.weights.is_pretrained:
        known = "training.unfreeze" in job.fixed
        shares = (
            (job.config.training.unfreeze,) if known else FINE_TUNING_SPACE["training.unfreeze"]
        )
        place = features / job.backbone / (FINALS if job.part == FINALS else TRIALS)
        cached = cache_features(job.config, few, job.weights, shares, place)
    return Trainer(few, job.weights, cached, job.last_moment)


def suggest(trial: Trial, space: dict[str, Any]) -> dict[str, Any]:
    """Return the trial's settings by dotted key."""
    settings: dict[str, Any] = {}
    for key, options in space.items():
        if isinstance(options[-1], bool):
            settings[key] = trial.suggest_float(key, options[0], options[1], log=options[2])
        else:
            settings[key] = trial.suggest_categorical(key, options)
    return settings


def _objective(job: SearchJob, trainer: Trainer) -> Callable[[Trial], float]:
    train = trainer.train_head if job.part == HEADS else trainer.train

    def objective(trial: Trial) -> float:
        config = with_settings(job.config, suggest(trial, job.space) | job.schedule)
        try:
            outcome = train(config, _pruning(trial))
            if not math.isfinite(outcome.score):
                raise UserError(f"The selection score is {outcome.score}.")
        except optuna.TrialPruned:
            raise
        except (
            Exception
        ) as error:  # a loss that diverged, or no memory, which each backend raises in its own way
            if (
                isinstance(error, NOT_THE_TRIALS_FAULT)
                and getattr(error, "errno", None) != errno.ENOMEM
            ):
                raise
            reason = str(error).splitlines()[0][:300] if str(error) else type(error).__name__
            trial.set_user_attr(REASON, reason)
            raise UserError(reason) from error
        finally:
            keras.utils.clear_session(free_memory=True)  # collects the garbage too
        trial.set_user_attr(SCORED_ON, len(trainer.data.validation_labels))
        trial.set_user_attr("seconds", [outcome.compile_seconds, outcome.step_seconds])
        trial.set_user_attr("megabytes", round(psutil.Process().memory_info().rss / 2**20))
        return outcome.score

    return objective


def _pruning(trial: Trial) -> Report:
    """Return what takes the score after each epoch, and ends a trial that has no prospects, but for those queued."""

    def report(score: float, step: int) -> None:
        trial.report(score, step)
        if not trial.user_attrs.get(QUEUED) and trial.should_prune():
            raise optuna.TrialPruned

    return report


def rank(study: optuna.Study) -> list[FrozenTrial]:
    """Return the trials with a score, best first."""
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return sorted(complete, key=lambda trial: (-_value(trial), trial.number))


def _value(trial: FrozenTrial) -> float:
    assert trial.value is not None
    return trial.value


def conclude(job: SearchJob) -> dict[str, Any]:
    """Write what the studies of a backbone found into the job's folder; return what is in <backbone>_best.json.

    <stem>_trials.csv, .png and .md of each part. Trials on pictures of half the size decide only what goes on to the
    finals. Raises UserError where no trial succeeded.
    """
    ranked = [(part, _summarise(part)) for part in job.parts]
    if not any(trials for part, trials in ranked if part.part != HEADS):
        with reachable(job.url):
            trials = open_study(job).get_trials(deepcopy=False)
        reasons = sorted({reason for trial in trials if (reason := failure_reason(trial))})
        raise UserError(
            f"No trial of {job.backbone} succeeded ({'; '.join(reasons) or 'none was finished'})."
        )
    part, trials = next((part, trials) for part, trials in reversed(ranked) if trials)
    best = _settle(part, trials)
    learnt, reduced = _value(best) > job.chance + CHANCE_MARGIN, job.effort.is_reduced(part.part)
    result = {
        "settings": best.params if learnt and not reduced else {},
        "selection_score": best.value,
    }
    result |= {"part": part.part, "trial": best.number, "trials": len(trials)}
    result |= {"data": job.data["splits"], "weights": job.weights.fingerprint}
    result |= {
        "select_by": job.config.training.select_by,
        "seconds": None if reduced else best.user_attrs["seconds"],
    }
    write_json(job.folder / f"{job.backbone}_best.json", result)
    if not learnt:
        say(
            f"{job.backbone}: that is no better than naming one class always ({job.chance:.4f}); "
            "the settings stay as given."
        )
    elif reduced:
        say(
            f"{job.backbone}: smaller pictures decide nothing without finals; the settings stay as given."
        )
    return result


def _settle(job: SearchJob, trials: list[FrozenTrial]) -> FrozenTrial:
    """Return the best of `trials`, or that of the settings as given where chance may explain the difference (95 %).

    What short trials on few pictures prefer by less than that is often worse in a long training.
    """
    best, settings = trials[0], settings_as_given(job)
    given = next((trial for trial in trials if trial.params == settings), None)
    if given is None or given is best:
        return best
    variances = (
        score * (1 - score) / best.user_attrs[SCORED_ON] for score in (_value(best), _value(given))
    )
    margin = CONFIDENCE * math.sqrt(sum(variances))
    if _value(best) - _value(given) > margin:
        return best
    say(
        f"{job.backbone}: the best trial is better than the settings as given by {_value(best) - _value(given):.4f}, "
        f"which chance may explain (up to {margin:.4f}); these stay."
    )
    return given


def _summarise(job: SearchJob) -> list[FrozenTrial]:
    """Write the files of one part, and say what it found; return its trials with a score, best first."""
    study = open_study(job)
    with reachable(job.url):
        ranked = rank(study)
        with replacing(job.folder / f"{job.stem}_trials.csv") as temporary:
            study.trials_dataframe().to_csv(temporary, index=False)
    if ranked:
        write_report(study, job)
        best, settings = ranked[0], describe_settings(ranked[0].params)
        say(
            f"{job.title}: best of {len(ranked)} trials {best.value:.4f} (trial {best.number}) with {settings}"
        )
    return ranked
