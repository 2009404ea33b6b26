"""The Optuna study of one backbone: opened or refused, shared by processes and hosts, and mended where one died."""

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

from competition.common.console import describe_seconds, say
from competition.common.errors import UserError
from competition.common.files import digest
from competition.common.settings import flatten
from competition.config import PRESETS, training_settings
from competition.search.rounds import FINALS, SearchJob

# By name: what makes one for trials of that many epochs. None looks at early epochs, which tell little of the last.
PRUNERS: dict[str, Callable[[int], Any]] = {
    "none": lambda epochs: optuna.pruners.NopPruner(),
    "median": lambda epochs: optuna.pruners.MedianPruner(
        n_startup_trials=5, n_warmup_steps=math.ceil(2 * epochs / 3)
    ),
    "hyperband": lambda epochs: optuna.pruners.HyperbandPruner(
        max(1, epochs // 2), epochs, reduction_factor=2
    ),
}
ATTEMPTS = 5  # of a trial whose process dies each time, as one does that takes all memory
POLL_SECONDS = 2.0
FEW_TRIALS = 4  # where there are not even so many, none is of the seeds' settings
QUEUED, BEGUN, REASON, SURPLUS = "queued", "begun", "reason", "surplus"  # attributes of trials


def open_study(job: SearchJob) -> optuna.Study:
    """Open or create the study of one part; in it waits what is tried first.

    The name carries all that is not searched, the trials' schedule too, since scores compare only where it is equal.
    Raises UserError where the storage cannot be used, or where the study is of other data or another search space.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    settings = training_settings(job.config) | job.schedule
    settings |= {"weights": job.weights.fingerprint, "backend": job.backend}
    settings = {key: value for key, value in settings.items() if key not in job.whole_space}
    name = f"{job.title.replace(' ', '-')}-{digest(settings)[:8]}"
    storage = open_storage(job.url, job.config.search.heartbeat_seconds)
    with reachable(job.url):
        study = optuna.create_study(
            storage=storage, study_name=name, direction="maximize", load_if_exists=True
        )
        pruner = "none" if job.part == FINALS else job.config.search.pruner
        study.pruner = PRUNERS[pruner](job.reported_epochs)
        # Another seed for each process and whenever the study has gone on, or draws would be repeated.
        place = () if job.storage is None else (platform.node(), os.getpid())
        states = [trial.state.name for trial in study.get_trials(deepcopy=False)]
        seed = int(digest(job.config.seed, states, job.worker, place)[:8], 16)
        sampler = optuna.samplers.TPESampler(seed=seed, multivariate=True, n_startup_trials=5)
        kept = {
            key: value for best in job.before[:1] for key, value in best.items() if key in job.space
        }
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            study.sampler = optuna.samplers.PartialFixedSampler(kept, sampler) if kept else sampler
        _claim(study, job, settings)
        _enqueue(study, job)
    return study


def _claim(study: optuna.Study, job: SearchJob, settings: dict[str, Any]) -> None:
    """Note what a new study is about; raises UserError where a known one is about something else."""
    given = flatten(job.config)
    space = {
        key: list(job.space[key]) if key in job.space else given[key] for key in job.whole_space
    }
    known = study.user_attrs
    if "data" not in known:
        _tell_of_others(study, job, settings)
        for key, value in {"settings": settings, "space": space, "data": job.data}.items():
            study.set_user_attr(key, value)
        return
    for key, now, is_about in (
        ("data", job.data, "belongs to other data"),
        ("space", space, "has another space"),
    ):
        if known[key] != now:
            mend = (
                "use --force to begin it anew"
                if job.storage is None
                else "name another storage with --storage"
            )
            raise UserError(
                f"The study '{study.study_name}' {is_about} ({_describe_difference(known[key], now)}); "
                f"{mend}, or --name for a folder of its own."
            )


def _enqueue(study: optuna.Study, job: SearchJob) -> None:
    """Queue what is tried first, where it was not yet: the finalists, or else the settings as given and the seeds'."""
    seeds = _inside_space(flatten(job.config) | PRESETS["baseline"], job.space)
    first = [settings_as_given(job), seeds][: 1 if job.trials < FEW_TRIALS else 2]
    for settings in job.before if job.part == FINALS else first:
        study.enqueue_trial(settings, user_attrs={QUEUED: True}, skip_if_exists=True)


def settings_as_given(job: SearchJob) -> dict[str, Any]:
    """Return the settings as they stand, of what is searched, at the nearest place in the search space."""
    return _inside_space(flatten(job.config), job.space)


def _tell_of_others(study: optuna.Study, job: SearchJob, settings: dict[str, Any]) -> None:
    """Say how a new study differs from the last one of its kind, whose trials do not count here."""
    summaries = optuna.get_all_study_summaries(study._storage, include_best_trial=False)
    kind = study.study_name.rpartition("-")[0]
    others = [other for other in summaries if other.study_name.rpartition("-")[0] == kind]
    known = [other for other in others if "settings" in other.user_attrs and other.n_trials]
    if known:
        difference = _describe_difference(known[-1].user_attrs["settings"], settings)
        say(f"{job.title}: a new study beside the {known[-1].n_trials} trials with {difference}")


def _describe_difference(before: dict[str, Any], now: dict[str, Any]) -> str:
    keys = [key for key in before | now if before.get(key) != now.get(key)]
    return ", ".join(f"{key} {before.get(key)}, now {now.get(key)}" for key in keys)


def _inside_space(settings: dict[str, Any], space: dict[str, Any]) -> dict[str, Any]:
    return {key: _nearest(settings[key], options) for key, options in space.items()}


def _nearest(value: float, options: tuple[Any, ...]) -> Any:
    if isinstance(options[-1], bool):
        return min(max(value, options[0]), options[1])
    return min(options, key=lambda option: abs(option - value))


# -- trials


def failure_reason(trial: FrozenTrial) -> str | None:
    """Return why a trial failed for good, or None: one that was merely interrupted is tried again."""
    if trial.state != TrialState.FAIL or SURPLUS in trial.user_attrs:
        return None
    died = f"its process died {ATTEMPTS} times" if len(_history(trial)) >= ATTEMPTS - 1 else None
    return trial.user_attrs.get(REASON, died)


def is_finished(trial: FrozenTrial) -> bool:
    """Tell whether a trial counts: with a score, given up as hopeless, or failed for a reason of its own."""
    return (
        trial.state in (TrialState.COMPLETE, TrialState.PRUNED) or failure_reason(trial) is not None
    )


def count_finished(study: optuna.Study) -> int:
    """Return how many trials count."""
    return sum(map(is_finished, study.get_trials(deepcopy=False)))


def is_done(study: optuna.Study, job: SearchJob) -> bool:
    """Tell whether as many trials count as are asked for; raises UserError where the storage cannot be read."""
    with reachable(job.url):
        return count_finished(study) >= _count_asked(study, job)


def _history(trial: FrozenTrial) -> list[int]:
    """Return the numbers of the interrupted trials whose settings this one tries again."""
    return trial.system_attrs.get("retry_history", [])


def _origin(trial: FrozenTrial) -> int | str:
    """Return what tells the settings of a trial from others: those that were queued, or whose draw they were."""
    queued = trial.system_attrs.get("fixed_params")
    return digest(queued) if queued else (_history(trial) or [trial.number])[0]


def _count_asked(study: optuna.Study, job: SearchJob) -> int:
    """Return how many trials are asked for: in finals, all that were queued."""
    return (
        len({_origin(trial) for trial in study.get_trials(deepcopy=False)})
        if job.part == FINALS
        else job.trials
    )


def _is_interrupted(trial: FrozenTrial) -> bool:
    """Tell whether a trial ended for no reason of its own."""
    return trial.state == TrialState.FAIL and failure_reason(trial) is None


def retry_interrupted(study: optuna.Study, everyone_died: bool = False) -> None:
    """Queue the settings of interrupted trials again, but for those that another trial has taken up.

    everyone_died: nobody else can be at work on this study, so that what seems to be running is not.
    """
    if everyone_died:
        for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)
    trials = study.get_trials(deepcopy=False)
    taken_up = {_origin(trial) for trial in trials if not _is_interrupted(trial)}
    lost = {
        _origin(trial): trial
        for trial in trials
        if _is_interrupted(trial) and SURPLUS not in trial.user_attrs
    }
    for origin, trial in lost.items():  # of several with one origin, the last
        if origin not in taken_up:
            RetryHeartbeatStaleTrialCallback()(study, trial)
            say(f"  trial {trial.number} was interrupted: it is tried again.")


def resume_study(job: SearchJob) -> None:
    """Open the study once before any process works on it, and queue again what was interrupted.

    A study in a file of this job's own has nobody else at work on it, so that what seems to be running is not.
    """
    study = open_study(job)
    with reachable(job.url):
        retry_interrupted(study, everyone_died=job.storage is None)
        finished = count_finished(study)
    if job.part != FINALS and finished >= job.trials:
        say(f"{job.title}: {finished} trials are done already; --trials asks for more.")


def work(study: optuna.Study, job: SearchJob, objective: Callable[[Trial], float]) -> None:
    """Run trials until the study has as many as were asked for, whoever runs them, or, with one at least, a deadline.

    objective: raises UserError for a trial that fails. While others run the last trials this waits for them, and
    takes over where one of them dies. Raises UserError where the storage can no longer be used.
    """
    asked, waits = _count_asked(study, job), False
    unbegun: dict[int, float] = {}  # trials without a heartbeat, and since when that is known
    while True:
        with reachable(job.url):
            _fail_dead(study, GRACE * job.config.search.heartbeat_seconds, unbegun)
            retry_interrupted(study)
            running = len(study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)))
            finished = count_finished(study)
            if finished >= (1 if job.is_late else asked):
                return
            if finished + running < asked:
                _run_trial(study, job, objective)
                continue
        if not waits:
            say(f"{job.title}: waits for the last trials, which other processes run.")
        waits = True
        time.sleep(POLL_SECONDS)


def _fail_dead(study: optuna.Study, grace: float, unbegun: dict[int, float]) -> None:
    """Fail the trials whose heartbeat stopped, and those whose process died before it began, which Optuna overlooks."""
    optuna.storages.fail_stale_trials(study)
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        known_since = unbegun.setdefault(trial.number, time.monotonic())
        if trial.user_attrs.get(BEGUN) != trial.number and time.monotonic() - known_since > grace:
            study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)


def _run_trial(study: optuna.Study, job: SearchJob, objective: Callable[[Trial], float]) -> None:
    def begin(trial: Trial) -> float:
        trial.storage.record_heartbeat(trial._trial_id)
        trial.set_user_attr(BEGUN, trial.number)  # a retried trial inherits the other's
        if _is_surplus(study, trial.number, _count_asked(study, job)):
            trial.set_user_attr(SURPLUS, True)
            raise UserError("Other processes did all that was asked for, or this trial itself.")
        return objective(trial)

    try:
        study.optimize(begin, n_trials=1, catch=(UserError,), callbacks=[_report(job)])
    except (AssertionError, ValueError, UpdateFinishedTrialError) as error:
        if not re.search("Cannot tell a|already finished", f"{error} {error.__context__}"):
            raise
        say(f"{job.title}: others took this process for dead, and do its trial again.")


def _is_surplus(study: optuna.Study, number: int, asked: int) -> bool:
    """Tell whether two processes that began a trial at the same moment made one too many, of which this is it."""
    trials = study.get_trials(deepcopy=False)
    earlier = [trial for trial in trials[:number] if not _is_interrupted(trial)]
    if _origin(trials[number]) != number:
        return any(_origin(trial) == _origin(trials[number]) for trial in earlier)
    running = sum(trial.state == TrialState.RUNNING for trial in earlier)
    return sum(map(is_finished, trials)) + running >= asked


def _report(job: SearchJob) -> Callable[[optuna.Study, FrozenTrial], None]:
    def report(study: optuna.Study, trial: FrozenTrial) -> None:
        if SURPLUS in trial.user_attrs:
            return
        took = describe_seconds(trial.duration.total_seconds()) if trial.duration else "?"
        value = "" if trial.value is None or math.isnan(trial.value) else f"{trial.value:.4f}"
        state = {
            TrialState.PRUNED: "given up at ",
            TrialState.FAIL: f"failed: {failure_reason(trial)}",
        }
        done = f"{count_finished(study)}/{_count_asked(study, job)}"
        outcome = state.get(trial.state, "") + value
        say(f"{job.title} trial {done} ({took}): {outcome} with {describe_settings(trial.params)}")

    return report


def describe_settings(settings: dict[str, Any]) -> str:
    """Return settings in words: head_units 256, dropout 0.3."""
    return ", ".join(
        f"{key.split('.')[1]} {describe_value(value)}" for key, value in settings.items()
    )


def describe_value(value: Any) -> str:
    """Return one value as it is shown."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


GRACE = 4  # heartbeats that a trial may miss before it counts as dead


def open_storage(url: str, heartbeat_seconds: int) -> RDBStorage:
    """Return the storage, in which running trials leave heartbeats; raises UserError where it cannot be used."""
    is_file = url.startswith("sqlite")
    options = {"connect_args": {"timeout": 60}} if is_file else {"pool_pre_ping": True}
    with reachable(url):
        arguments = {
            "heartbeat_interval": heartbeat_seconds,
            "grace_period": GRACE * heartbeat_seconds,
        }
        try:
            storage = RDBStorage(url, options, **arguments)
        except SQLAlchemyError as error:  # another process that makes the same tables was faster
            if not re.search("exists|duplicate|UNIQUE", str(error)):
                raise
            time.sleep(1)
            storage = RDBStorage(url, options, **arguments)
        if is_file:
            _write_in_turn(storage.engine)
    return storage


def _write_in_turn(engine: sqlalchemy.Engine) -> None:
    """Let each transaction of SQLite lock before it reads, or two processes may take the same trial.

    The recipe of SQLAlchemy's documentation (SQLite, "Enabling Non-Legacy SQLite Transactional Modes").
    """
    sqlalchemy.event.listen(
        engine, "connect", lambda connection, _: setattr(connection, "isolation_level", None)
    )
    sqlalchemy.event.listen(
        engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE")
    )
    engine.dispose()  # connections from before


@contextmanager
def reachable(url: str) -> Iterator[None]:
    """Turn what a storage that fails raises into an UserError that names it, without its password."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)  # heartbeats, since 2.8
            yield
    except (SQLAlchemyError, StorageInternalError, ImportError) as error:
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        shown = re.sub(r"(?<=password=)[^&]*|(?<=:)(?!//).*(?=@)", "***", url)
        raise UserError(
            f"The storage {shown} cannot be used ({reason}); nothing was lost: mend it, or name another one with "
            "--storage, and give the same command again."
        ) from error
