"""The Optuna studies of a search: opened, shared by processes and hosts, and run to their end."""

import datetime
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
from competition.config import training_settings, with_settings
from competition.metric import Metric, get_metric
from competition.search.rounds import Round, Search, Space, is_range
from competition.training.stages import plan_stages

MISSED = 4  # heartbeats that a trial may miss before it counts as dead
RETRIES = 4  # of a trial whose process dies each time, as one does that takes all memory
POLL_SECONDS = 2.0
PASSWORD = r"(?<=password=)[^&]*|(?<=:)(?!//).*(?=@)"  # in a storage's URL
STARTED = datetime.datetime.now()  # before any trial of this process
# Attributes of trials: queued and so never pruned; begun, with its number, since a retry inherits
# the attributes; the reason of a failure.
QUEUED, BEGUN, REASON = "queued", "begun", "reason"
# Pruners by name, for trials of so many epochs. None looks at early epochs, which tell little of
# the last.
PRUNERS: dict[str, Callable[[int], optuna.pruners.BasePruner]] = {
    "none": lambda epochs: optuna.pruners.NopPruner(),
    "median": lambda epochs: optuna.pruners.MedianPruner(5, math.ceil(2 * epochs / 3)),
    "hyperband": lambda epochs: optuna.pruners.HyperbandPruner(max(1, epochs // 2), epochs, 2),
}


def open_storage(url: str, heartbeat_seconds: int) -> RDBStorage:
    """Return the storage, in which running trials leave heartbeats.

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
        )

    with told_by_name(url):
        try:
            sqlalchemy.make_url(url)
        except ValueError:  # its message may hold a part of the password
            raise UserError(
                f"The storage {hide_password(url)} is no URL; expected one such as "
                "postgresql://USER:PASSWORD@HOST:5432/NAME, so mend --storage."
            ) from None
        try:
            storage = connect()
        except RuntimeError as error:
            raise UserError(
                f"The storage {hide_password(url)} is of another version of Optuna than this one, "
                f"{optuna.__version__} ({error}); upgrade it, or name another one with --storage."
            ) from error
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

    sqlalchemy.event.listen(engine, "connect", leave_transactions_to_us)
    sqlalchemy.event.listen(engine, "begin", lambda new: new.exec_driver_sql("BEGIN IMMEDIATE"))
    engine.dispose()  # connections from before


@contextmanager
def told_by_name(url: str) -> Iterator[None]:
    """Turn what a storage raises that fails into a UserError that names it without its password."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)  # heartbeats
            yield
    except (SQLAlchemyError, StorageInternalError, ImportError) as error:
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        for secret in re.findall(PASSWORD, url):
            reason = reason.replace(secret, "***") if secret else reason
        raise UserError(
            f"The storage {hide_password(url)} cannot be used ({reason}); nothing was "
            "lost: mend it, or name another one with --storage, and give the same command again."
        ) from error


def hide_password(url: str) -> str:
    """Return the URL of a storage as it may be shown."""
    return re.sub(PASSWORD, "***", url)


def open_study(search: Search, item: Round, queued: list[dict[str, Any]]) -> optuna.Study:
    """Open or create the study of one round; `queued` settings are tried first.

    Its name carries all that is not searched, data and space too: scores compare only where these
    are equal.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    facts = _list_facts(search, item)
    name = f"{search.backbone}-{item.name}-{digest(facts)[:8]}"
    storage = open_storage(search.url, search.config.search.heartbeat_seconds)
    known = optuna.get_all_study_names(storage)
    study = optuna.create_study(
        storage=storage, study_name=name, direction="maximize", load_if_exists=True
    )
    if name not in known:
        _tell_of_others(storage, name, known, facts)
        study.set_user_attr("facts", facts)
    pruner = "none" if item.is_promoted else search.config.search.pruner
    trained = with_settings(search.config, search.trial_settings(item))
    study.pruner = PRUNERS[pruner](plan_stages(trained, search.weights)[-1].epochs)
    # Another seed per process and whenever the study has gone on, or draws would repeat.
    place = (platform.node(), os.getpid()) if search.storage else ()
    states = [trial.state.name for trial in study.get_trials(deepcopy=False)]
    seed = int(digest(search.config.seed, states, search.worker, place)[:8], 16)
    study.sampler = optuna.samplers.TPESampler(seed=seed, multivariate=True, n_startup_trials=5)
    for settings in queued:
        study.enqueue_trial(settings, user_attrs={QUEUED: True}, skip_if_exists=True)
    if search.storage is None and search.worker == 0:
        _fail_abandoned(study)
    retry_interrupted(study)
    return study


def _list_facts(search: Search, item: Round) -> dict[str, str]:
    """Return all that scores of a round depend on, but for what it searches."""
    space = search.space(item)
    facts = training_settings(search.config) | search.trial_settings(item) | search.data
    facts |= {"weights": search.weights.fingerprint, "backend": search.backend}
    spaces = {f"space of {key}": str(options) for key, options in space.items()}
    return {key: str(value) for key, value in facts.items() if key not in space} | spaces


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


def _fail_abandoned(study: optuna.Study) -> None:
    """Fail what runs since before this process: nobody else works on a file of this job's own."""
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if trial.datetime_start < STARTED:
            study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)


def retry_interrupted(study: optuna.Study) -> None:
    """Queue again the trials that ended for no reason of their own: killed, stopped or cut short.

    Where two processes do so at the same moment one trial is surplus, which harms nobody.
    """
    trials = study.get_trials()
    history = RetryHeartbeatStaleTrialCallback.retry_history
    retried = {number for trial in trials for number in history(trial)}
    for trial in trials:
        interrupted = trial.state == TrialState.FAIL and REASON not in trial.user_attrs
        if interrupted and trial.number not in retried and len(history(trial)) < RETRIES:
            RetryHeartbeatStaleTrialCallback()(study, trial)
            say(f"  trial {trial.number} was interrupted: it is tried again.")


def is_finished(trial: FrozenTrial) -> bool:
    """Tell whether a trial counts: with a score, given up as hopeless, or failed for a reason."""
    return trial.state in (TrialState.COMPLETE, TrialState.PRUNED) or REASON in trial.user_attrs


def count_trials(study: optuna.Study, asked: int | None) -> tuple[int, int]:
    """Return how many trials count, and how many are to in the end.

    asked: how many are to; None: those that were queued.
    """
    trials = study.get_trials(deepcopy=False)
    finished = sum(map(is_finished, trials))
    unfinished = sum(not trial.state.is_finished() for trial in trials)
    return finished, finished + unfinished if asked is None else asked


def run_trials(
    search: Search,
    study: optuna.Study,
    title: str,
    asked: int | None,
    objective: Callable[[Trial], float],
) -> None:
    """Run trials until as many count as are asked for, whoever runs them, or the slot is over.

    asked: None: those that were queued. objective: raises TrialFailedError for a trial that fails,
    TimeoutError for one that time cuts short. While other processes run the last trials this one
    waits, and takes over where one of them dies.
    """
    grace = MISSED * search.config.search.heartbeat_seconds
    unbegun: dict[int, float] = {}  # trials that run without a sign of life, and since when
    while search.slot is None or not search.slot.is_over:
        optuna.storages.fail_stale_trials(study)
        running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        for trial in running:  # Optuna overlooks one that dies before its first heartbeat
            since = unbegun.setdefault(trial.number, time.monotonic())
            if trial.user_attrs.get(BEGUN) != trial.number and time.monotonic() - since > grace:
                study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)
        retry_interrupted(study)
        finished, total = count_trials(study, asked)
        if finished >= total:
            return
        tell_progress(finished / total, f"{title.partition(' ')[2]} {finished + 1}/{total}")
        if finished + len(running) < total:
            _run_trial(study, title, asked, objective)
        else:
            time.sleep(POLL_SECONDS)


def _run_trial(
    study: optuna.Study, title: str, asked: int | None, objective: Callable[[Trial], float]
) -> None:
    lost: list[int] = []

    def begin(trial: Trial) -> float:
        try:
            trial.set_user_attr(BEGUN, trial.number)
            return objective(trial)
        finally:
            if study.get_trials(deepcopy=False)[trial.number].state.is_finished():
                lost.append(trial.number)

    def report(study: optuna.Study, trial: FrozenTrial) -> None:
        finished, total = count_trials(study, asked)
        say(f"{title} {finished}/{total}: {describe_trial(trial, read_metric(study))}")

    try:
        study.optimize(
            begin, n_trials=1, catch=(TrialFailedError, TimeoutError), callbacks=[report]
        )
    except (AssertionError, ValueError, UpdateFinishedTrialError):  # of telling a finished trial
        if not lost:
            raise
        say(f"{title}: others took this process for dead, and do its trial again.")
    except UnboundLocalError as error:  # of Optuna 5.0, where the storage fails as a trial ends
        raise error.__context__ or error from None


def read_metric(study: optuna.Study) -> Metric:
    """Return the metric that the scores of a study stand for."""
    return get_metric(study.user_attrs.get("facts", {}).get("metric", "accuracy"))


def describe_trial(trial: FrozenTrial, metric: Metric) -> str:
    """Return what became of a trial, how long it took, and its settings, in words."""
    seconds = describe_seconds(trial.duration.total_seconds()) if trial.duration else "?"
    value = "" if trial.value is None else f"{metric.flip(trial.value):.4f}"
    words = {
        TrialState.PRUNED: "given up at ",
        TrialState.FAIL: f"failed: {trial.user_attrs[REASON]}"
        if REASON in trial.user_attrs
        else "cut short, and tried again where time is left",
    }
    return (
        f"{words.get(trial.state, '')}{value} in {seconds} with {describe_settings(trial.params)}"
    )


def describe_settings(settings: dict[str, Any]) -> str:
    """Return settings in words: head_units 256, dropout 0.3."""
    values = {
        key.rpartition(".")[2]: f"{value:.3g}" if isinstance(value, float) else str(value)
        for key, value in settings.items()
    }
    return ", ".join(f"{key} {value}" for key, value in values.items())


def rank(study: optuna.Study) -> list[FrozenTrial]:
    """Return the trials with a score, best first."""
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return sorted(complete, key=lambda trial: (-trial.value, trial.number))


def suggest(trial: Trial, space: Space) -> dict[str, Any]:
    """Return the trial's settings by dotted key."""
    return {
        key: trial.suggest_float(key, options[0], options[1], log=options[2])
        if is_range(options)
        else trial.suggest_categorical(key, options)
        for key, options in space.items()
    }
