"""The Optuna studies of a search: opened, shared by processes and hosts, and run to their end."""

import math
import os
import platform
import re
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import optuna
import sqlalchemy
from optuna.exceptions import ExperimentalWarning, StorageInternalError, UpdateFinishedTrialError
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from competition.common.console import describe_seconds, say, tell_progress
from competition.common.errors import TrialFailedError, UserError
from competition.common.files import digest
from competition.config import training_settings
from competition.search.rounds import Round, Search, Space
from competition.time_budget import Slot

MISSED = 4  # heartbeats that a trial may miss before it counts as dead
RETRIES = 4  # of a trial whose process dies each time, as one does that takes all memory
POLL_SECONDS = 2.0
QUEUED, REASON = "queued", "reason"  # attributes of trials
# By name: what makes one for trials of that many epochs. None looks at early epochs, which tell
# little of the last.
PRUNERS: dict[str, Callable[[int], optuna.pruners.BasePruner]] = {
    "none": lambda epochs: optuna.pruners.NopPruner(),
    "median": lambda epochs: optuna.pruners.MedianPruner(5, math.ceil(2 * epochs / 3)),
    "hyperband": lambda epochs: optuna.pruners.HyperbandPruner(max(1, epochs // 2), epochs, 2),
}


def open_storage(url: str, heartbeat_seconds: int) -> RDBStorage:
    """Return the storage, in which running trials leave heartbeats and dead ones are retried.

    Raises UserError where it cannot be used.
    """
    is_file = url.startswith("sqlite")
    options = {"connect_args": {"timeout": 60}} if is_file else {"pool_pre_ping": True}

    def connect() -> RDBStorage:
        return RDBStorage(
            url,
            options,
            heartbeat_interval=heartbeat_seconds,
            grace_period=MISSED * heartbeat_seconds,
            heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback(max_retry=RETRIES),
        )

    with told_by_name(url):
        try:
            storage = connect()
        except SQLAlchemyError:  # another process made the same tables meanwhile, if it was that
            time.sleep(1)
            storage = connect()
        if is_file:
            _write_in_turn(storage.engine)
    return storage


def _write_in_turn(engine: sqlalchemy.Engine) -> None:
    """Let each transaction of SQLite lock before it reads, or one that writes later may fail.

    The recipe of SQLAlchemy's documentation (SQLite, "Enabling Non-Legacy SQLite Transactional
    Modes").
    """

    def leave_transactions_to_us(connection: Any, _: Any) -> None:
        connection.isolation_level = None

    def begin(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    sqlalchemy.event.listen(engine, "connect", leave_transactions_to_us)
    sqlalchemy.event.listen(engine, "begin", begin)
    engine.dispose()  # connections from before


@contextmanager
def told_by_name(url: str) -> Iterator[None]:
    """Turn what a storage that fails raises into a UserError that names it, without its password."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)  # heartbeats
            yield
    except (SQLAlchemyError, StorageInternalError, ImportError) as error:
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        shown = re.sub(r"(?<=password=)[^&]*|(?<=:)(?!//).*(?=@)", "***", url)
        raise UserError(
            f"The storage {shown} cannot be used ({reason}); nothing was lost: mend it, or name "
            "another one with --storage, and give the same command again."
        ) from error


def open_study(search: Search, item: Round, queued: list[dict[str, Any]]) -> optuna.Study:
    """Open or create the study of one round; `queued` settings are tried first.

    Its name carries all that is not searched, data and space too: scores compare only where these
    are equal. Raises UserError where the storage cannot be used.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    space = search.space(item)
    facts = training_settings(search.config) | search.trial_settings(item) | search.data
    facts |= {"weights": search.weights.fingerprint, "backend": search.backend}
    facts = {key: str(value) for key, value in facts.items() if key not in space}
    facts |= {f"space of {key}": str(options) for key, options in space.items()}
    name = f"{search.backbone}-{item.name}-{digest(facts)[:8]}"
    storage = open_storage(search.url, search.config.search.heartbeat_seconds)
    with told_by_name(search.url):
        known = optuna.get_all_study_names(storage)
        study = optuna.create_study(
            storage=storage, study_name=name, direction="maximize", load_if_exists=True
        )
        if name not in known:
            _tell_of_others(storage, name, known, facts)
            study.set_user_attr("facts", facts)
        epochs = search.trial_settings(item)
        last_stage = epochs["training.fine_tuning_epochs"] or epochs["training.frozen_epochs"]
        study.pruner = PRUNERS["none" if item.is_final else search.config.search.pruner](last_stage)
        # Another seed per process and whenever the study has gone on, or draws would repeat.
        place = (platform.node(), os.getpid()) if search.storage else ()
        states = [trial.state.name for trial in study.get_trials(deepcopy=False)]
        seed = int(digest(search.config.seed, states, search.worker, place)[:8], 16)
        study.sampler = _make_sampler(seed)
        for settings in queued:
            study.enqueue_trial(settings, user_attrs={QUEUED: True}, skip_if_exists=True)
        if search.storage is None and search.worker == 0:
            _requeue_running(study)
    return study


def _make_sampler(seed: int) -> optuna.samplers.BaseSampler:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return optuna.samplers.TPESampler(seed=seed, multivariate=True, n_startup_trials=5)


def _tell_of_others(
    storage: RDBStorage, name: str, known: list[str], facts: dict[str, str]
) -> None:
    """Say how a new study differs from the last one of its kind, whose trials do not count here."""
    kind = name.rpartition("-")[0]
    others = [other for other in known if other.rpartition("-")[0] == kind]
    if others:
        last = optuna.load_study(study_name=others[-1], storage=storage)
        before = last.user_attrs.get("facts", {})
        keys = [key for key in before | facts if before.get(key) != facts.get(key)]
        changes = ", ".join(f"{key} {before.get(key)}, now {facts.get(key)}" for key in keys)
        say(f"{kind}: a new study beside the {len(last.trials)} trials with {changes}")


def _requeue_running(study: optuna.Study) -> None:
    """Queue again what seems to be running: nobody else can be at work on a file of this job's own."""
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)
        RetryHeartbeatStaleTrialCallback(max_retry=RETRIES)(study, trial)
        say(f"  trial {trial.number} was interrupted: it is tried again.")


def is_finished(trial: FrozenTrial) -> bool:
    """Tell whether a trial counts: with a score, given up as hopeless, or failed for a reason."""
    return trial.state in (TrialState.COMPLETE, TrialState.PRUNED) or REASON in trial.user_attrs


def run_trials(
    study: optuna.Study,
    title: str,
    asked: int,
    slot: Slot | None,
    objective: Callable[[Trial], float],
) -> None:
    """Run trials until the study has `asked` that count, whoever runs them, or the slot is over.

    objective: raises TrialFailedError for a trial that fails. While other processes run the last
    trials this one waits, and takes over where one of them dies.
    """
    while slot is None or not slot.is_over:
        optuna.storages.fail_stale_trials(study)
        trials = study.get_trials(deepcopy=False)
        finished = sum(map(is_finished, trials))
        states = [trial.state for trial in trials]
        if finished >= asked:
            return
        tell_progress(finished / asked, f"{title} {finished}/{asked}")
        if TrialState.WAITING in states or finished + states.count(TrialState.RUNNING) < asked:
            _run_trial(study, title, asked, objective)
        else:
            time.sleep(POLL_SECONDS)


def _run_trial(
    study: optuna.Study, title: str, asked: int, objective: Callable[[Trial], float]
) -> None:
    started: list[int] = []

    def begin(trial: Trial) -> float:
        started.append(trial.number)
        return objective(trial)

    def report(study: optuna.Study, trial: FrozenTrial) -> None:
        done = sum(map(is_finished, study.get_trials(deepcopy=False)))
        say(f"{title} {done}/{asked}: {describe_trial(trial)}")

    try:
        study.optimize(begin, n_trials=1, catch=(TrialFailedError,), callbacks=[report])
    except (AssertionError, ValueError, UpdateFinishedTrialError):
        trials = study.get_trials(deepcopy=False)
        if not (started and trials[started[0]].state.is_finished()):
            raise
        say(f"{title}: others took this process for dead, and do its trial again.")


def describe_trial(trial: FrozenTrial) -> str:
    """Return what became of a trial, how long it took, and its settings, in words."""
    seconds = describe_seconds(trial.duration.total_seconds()) if trial.duration else "?"
    value = "" if trial.value is None else f"{trial.value:.4f}"
    words = {
        TrialState.PRUNED: "given up at ",
        TrialState.FAIL: f"failed: {trial.user_attrs.get(REASON, 'interrupted')}",
    }
    return (
        f"{words.get(trial.state, '')}{value} in {seconds} with {describe_settings(trial.params)}"
    )


def describe_settings(settings: dict[str, Any]) -> str:
    """Return settings in words: head_units 256, dropout 0.3."""
    values = {
        key.partition(".")[2]: f"{value:.3g}" if isinstance(value, float) else str(value)
        for key, value in settings.items()
    }
    return ", ".join(f"{key} {value}" for key, value in values.items())


def rank(study: optuna.Study) -> list[FrozenTrial]:
    """Return the trials with a score, best first."""
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return sorted(complete, key=lambda trial: (-(trial.value or 0.0), trial.number))


def suggest(trial: Trial, space: Space) -> dict[str, Any]:
    """Return the trial's settings by dotted key."""
    return {
        key: trial.suggest_float(key, options[0], options[1], log=options[2])
        if is_range(options)
        else trial.suggest_categorical(key, options)
        for key, options in space.items()
    }


def is_range(options: tuple[Any, ...]) -> bool:
    """Tell whether options are (low, high, logarithmic), rather than choices."""
    return isinstance(options[-1], bool)


def inside_space(settings: dict[str, Any], space: Space) -> dict[str, Any]:
    """Return the settings of `space`, at the nearest place in it."""
    return {
        key: min(max(settings[key], options[0]), options[1])
        if is_range(options)
        else min(options, key=lambda option: abs(option - settings[key]))
        for key, options in space.items()
    }
