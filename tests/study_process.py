"""A search whose trials take no time, as a program: python -m tests.study_process FOLDER WAY [STORAGE].

WAY is `work`, `meet` another such process first, `hang` in the first trial, or `die`: at every point in turn, by
SIGKILL, and then once more to the end.
"""

import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

import sqlalchemy
from optuna.trial import Trial

from competition.config import Config, with_settings
from competition.networks.weights import RANDOM
from competition.search import study
from competition.search.rounds import SearchJob
from competition.search.study import open_storage, open_study, resume_study, work

TRIALS = 8
LATER = 10_000


def make_job(folder: Path, storage: str | None = None, trials: int = TRIALS) -> SearchJob:
    settings = {
        "model.backbone": "tiny_cnn",
        "search.trials": trials,
        "search.heartbeat_seconds": 1,
    }
    config = with_settings(Config(), settings)
    return SearchJob(
        config, RANDOM, folder, {"splits": "data-1", "classes": 3}, "numpy", storage=storage
    )


def score(trial: Trial) -> float:
    """Take a tenth of a second for a trial; the score is best at the highest dropout."""
    dropout = trial.suggest_float("model.dropout", 0.0, 0.6)
    trial.suggest_float("model.l2", 1e-7, 1e-2, log=True)
    trial.report(dropout, 1)
    time.sleep(0.1)
    return dropout


def hang(trial: Trial) -> float:
    score(trial)
    print("hangs", flush=True)
    time.sleep(600)
    return 0.0


def search_once(job: SearchJob, objective: Any = score) -> None:
    resume_study(job)
    work(open_study(job), job, objective)


def search_and_die(job: SearchJob, transactions: int) -> None:
    """Search, and be killed when that many transactions have begun."""
    begun = iter(range(1, transactions))

    def count(*_: Any) -> None:
        if next(begun, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)

    sqlalchemy.event.listen(sqlalchemy.Engine, "begin", count)
    search_once(job)


def die_everywhere(job: SearchJob) -> None:
    study.ATTEMPTS = 1000
    open_storage("sqlite://", 1)  # what this imports need not be imported by every child
    moments = random.Random(0)
    for transactions in [*range(2, 72, 7), LATER, LATER, LATER]:
        if not (child := os.fork()):
            search_and_die(job, transactions)
            os._exit(0)
        if transactions == LATER:
            time.sleep(moments.uniform(0.1, 0.8))
            os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    search_once(job)


def meet_and_search(job: SearchJob) -> None:
    """Begin when another process does the same."""
    study = open_study(job)
    (job.folder / f"ready_{os.getpid()}").touch()
    deadline = time.monotonic() + 120
    while len(list(job.folder.glob("ready_*"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    work(study, job, score)


if __name__ == "__main__":
    job, way = make_job(Path(sys.argv[1]), sys.argv[3] if sys.argv[3:] else None), sys.argv[2]
    if way == "die":
        die_everywhere(job)
    elif way == "meet":
        meet_and_search(job)
    else:
        search_once(job, {"work": score, "hang": hang}[way])
