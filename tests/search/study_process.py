"""Searches whose trials take no time, to run in processes that are killed or meet each other."""

import datetime
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
from optuna.trial import Trial

from competition.common.settings import flatten
from competition.search import study as module
from competition.search.rounds import FROM_RANDOM, Search, inside_space
from competition.search.study import open_storage, open_study, run_trials, suggest

LATER = 10_000
SCRATCH = FROM_RANDOM[0]


def settings_as_given(search: Search) -> dict[str, Any]:
    return inside_space(flatten(search.config), search.space(SCRATCH))


def open_round(search: Search) -> optuna.Study:
    return open_study(search, SCRATCH, [settings_as_given(search)])


def score(trial: Trial) -> float:
    """Take a tenth of a second for a trial; the score is best at the highest dropout."""
    dropout: float = suggest(trial, SCRATCH.space)["model.dropout"]
    trial.report(dropout, 1)
    time.sleep(0.1)
    return dropout


def search_once(search: Search, objective: Callable[[Trial], float] = score) -> optuna.Study:
    """Run the trials that a round is asked for; return its study."""
    study = open_round(search)
    run_trials(search, study, "trial", search.count_trials(SCRATCH), objective)
    return study


def log_to(path: Path) -> None:
    """Let this process print into a file."""
    sys.stdout = path.open("a", buffering=1)
    module.POLL_SECONDS = 0.1


def search_in_process(search: Search, log: Path) -> None:
    log_to(log)
    search_once(search)


def hang(search: Search, log: Path) -> None:
    """Hang in the first trial."""

    def objective(trial: Trial) -> float:
        score(trial)
        print("hangs")
        time.sleep(600)
        return 0.0

    log_to(log)
    search_once(search, objective)


def meet_and_search(search: Search, log: Path) -> None:
    """Begin when another process does the same."""
    log_to(log)
    open_round(search)
    (search.folder / f"ready_{os.getpid()}").touch()
    deadline = time.monotonic() + 120
    while len(list(search.folder.glob("ready_*"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    search_once(search)


def search_and_die(search: Search, transactions: int) -> None:
    """Search, and be killed when that many transactions have begun."""
    begun = iter(range(1, transactions))

    def count(*_: Any) -> None:
        if next(begun, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)

    module.STARTED = datetime.datetime.now()  # a fork has this of its parent
    sqlalchemy.event.listen(sqlalchemy.Engine, "begin", count)
    search_once(search)


def die_everywhere(search: Search, log: Path) -> None:
    """Die at every point in turn, and then search to the end."""
    log_to(log)
    module.RETRIES = 1000
    open_storage("sqlite://", 1)  # what this imports need not be imported by every child
    moments = random.Random(0)
    for transactions in [*range(2, 100, 7), LATER, LATER, LATER]:
        if not (child := os.fork()):
            search_and_die(search, transactions)
            os._exit(0)
        if transactions == LATER:
            time.sleep(moments.uniform(0.1, 0.8))
            os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    search_once(search)
