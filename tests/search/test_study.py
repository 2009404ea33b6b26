"""Studies are shared by processes and survive their deaths: nothing is lost, and nothing done twice."""

import dataclasses
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import FrozenTrial, Trial, TrialState

from competition.common.errors import UserError
from competition.config import with_settings
from competition.search import rounds as search_job
from competition.search import study as module
from competition.search.rounds import TRIALS as WHOLE
from competition.search.study import count_finished, open_storage, open_study, resume_study, work
from tests.study_process import TRIALS, make_job, score, search_once


def start(folder: Path, way: str, *storage: str) -> subprocess.Popen[str]:
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "tests.study_process",
        str(folder),
        way,
        *storage,
    ]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(process: subprocess.Popen[str]) -> str:
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return output


def require_all_done_once(trials: list[FrozenTrial], interrupted: int) -> None:
    """Require TRIALS complete trials of different settings, and those of the interrupted ones among them."""
    complete = [trial.params for trial in trials if trial.state == TrialState.COMPLETE]
    assert len(complete) == TRIALS
    assert set(Counter(str(params) for params in complete).values()) == {1}
    assert (
        sum(
            trial.state == TrialState.RUNNING or trial.state == TrialState.WAITING
            for trial in trials
        )
        == 0
    )
    lost = [
        trial.params
        for trial in trials
        if trial.state == TrialState.FAIL and "surplus" not in trial.user_attrs
    ]
    assert len(lost) >= interrupted
    for params in lost:
        assert sum(params.items() <= other.items() for other in complete) >= 1, (
            "an interrupted draw is lost"
        )


def test_a_search_that_is_killed_at_any_point_goes_on(tmp_path: Path) -> None:
    finish(start(tmp_path, "die"))
    require_all_done_once(open_study(make_job(tmp_path)).trials, interrupted=3)


def test_two_processes_share_one_file_and_count_together(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/shared.db"
    both = [start(tmp_path, "meet", url) for _ in range(2)]
    outputs = [finish(process) for process in both]
    require_all_done_once(open_study(make_job(tmp_path, url)).trials, interrupted=0)
    assert all(output.count(" with ") > 1 for output in outputs)


@pytest.fixture
def postgresql() -> Iterator[str]:
    """The URL of a PostgreSQL server of this test's own."""
    pytest.importorskip("psycopg", reason="no driver for PostgreSQL: pip install psycopg[binary]")
    found = [
        *Path("/usr/lib/postgresql").glob("*/bin/initdb"),
        Path(shutil.which("initdb") or "/nowhere"),
    ]
    if not found[0].is_file():
        pytest.skip("no PostgreSQL server here: apt-get install postgresql")
    user: dict[str, Any] = {}
    folder = Path(tempfile.mkdtemp())
    if os.getuid() == 0:  # which the server refuses
        user = {"user": "nobody"}
        os.chown(folder, pwd.getpwnam("nobody").pw_uid, -1)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    binaries = found[0].parent

    def call(program: str, *arguments: str) -> None:
        command = [str(binaries / program), "-D", f"{folder}/data", *arguments]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd="/", **user)

    call("initdb", "-U", "search", "-A", "trust", "-N")
    call(
        "pg_ctl",
        "-w",
        "-s",
        "-l",
        f"{folder}/log",
        "-o",
        f"-p {port} -k {folder} -h 127.0.0.1 -F",
        "start",
    )
    try:
        yield f"postgresql+psycopg://search:secret@127.0.0.1:{port}/postgres"
    finally:
        call("pg_ctl", "-w", "-s", "-m", "immediate", "stop")
        shutil.rmtree(folder)


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_a_trial_of_a_killed_worker_is_done_once_by_another(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    url = (
        f"sqlite:///{tmp_path}/shared.db"
        if kind == "sqlite"
        else request.getfixturevalue("postgresql")
    )
    victim = start(tmp_path, "hang", url)
    assert victim.stdout is not None
    assert "hangs" in victim.stdout.read(6)
    other = start(tmp_path, "work", url)
    assert other.stdout is not None
    other.stdout.readline()  # it is at work
    victim.send_signal(signal.SIGKILL)
    assert "was interrupted: it is tried again" in finish(other)
    require_all_done_once(open_study(make_job(tmp_path, url)).trials, interrupted=1)


def test_an_interrupted_trial_is_tried_again_with_its_settings(tmp_path: Path) -> None:
    job = make_job(tmp_path, trials=3)
    running = open_study(job).ask()
    drawn = [running.suggest_float("model.dropout", 0.0, 0.6), running.number]
    search_once(job)
    study = open_study(job)
    assert count_finished(study) == 3
    assert study.trials[running.number].state == TrialState.FAIL
    assert [trial.params["model.dropout"] for trial in study.trials].count(drawn[0]) == 2


def test_a_trial_that_takes_its_process_along_each_time_fails_for_good(tmp_path: Path) -> None:
    job = make_job(tmp_path, trials=3)
    for _ in range(module.ATTEMPTS):
        resume_study(job)
        study = open_study(job)
        assert count_finished(study) == 0
        study.ask()
    resume_study(job)
    assert count_finished(open_study(job)) == 1
    last = open_study(job).trials[-1]
    assert module.failure_reason(last) == f"its process died {module.ATTEMPTS} times"


def test_a_process_that_died_before_its_first_heartbeat_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(module, "GRACE", 0.2)
    job = make_job(tmp_path, f"sqlite:///{tmp_path}/shared.db", trials=2)
    study = open_study(job)
    lost = study.ask().number
    work(study, job, score)
    assert study.trials[lost].state == TrialState.FAIL
    assert count_finished(study) == 2


def test_who_was_taken_for_dead_leaves_the_trial_to_others(tmp_path: Path) -> None:
    job = make_job(tmp_path, trials=2)
    study = open_study(job)

    def lose_the_first(trial: Trial) -> float:
        if trial.number == 0:
            open_study(job).tell(trial.number, state=TrialState.FAIL)
        return score(trial) if trial.number else 0.5

    work(study, job, lose_the_first)
    assert [trial.state for trial in study.trials] == [TrialState.FAIL] + [TrialState.COMPLETE] * 2


def test_of_two_that_begin_the_last_trial_at_once_one_stands_back(tmp_path: Path) -> None:
    job = make_job(tmp_path, trials=1)
    study = open_study(job)
    module._run_trial(study, job, score)
    module._run_trial(study, job, score)
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE, TrialState.FAIL]
    resume_study(job)
    assert len(study.trials) == 2
    assert count_finished(study) == 1


@pytest.mark.parametrize("pruner", list(module.PRUNERS))
def test_every_pruner_searches(pruner: str, tmp_path: Path) -> None:
    job = make_job(tmp_path, trials=2)
    job = dataclasses.replace(job, config=with_settings(job.config, {"search.pruner": pruner}))
    study = open_study(job)
    work(study, job, lambda trial: score(trial) + trial.should_prune())
    assert pruner in type(study.pruner).__name__.lower() or pruner == "none"
    assert count_finished(study) == 2


def test_a_queued_trial_in_a_file_goes_to_one_of_two_that_ask_at_once(tmp_path: Path) -> None:
    job, rounds, taken = make_job(tmp_path), 25, Counter[int]()
    first = open_study(job)
    for _ in range(2 * rounds):
        first.enqueue_trial({})
    barrier = threading.Barrier(2)

    def ask(study: optuna.Study) -> None:
        for _ in range(rounds):
            barrier.wait(60)
            taken[study.ask().number] += 1

    threads = [threading.Thread(target=ask, args=(study,)) for study in (first, open_study(job))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(taken.values()) == {1}
    assert len(taken) == 2 * rounds


def test_after_the_deadline_no_trial_begins_but_the_first(tmp_path: Path) -> None:
    job = dataclasses.replace(make_job(tmp_path), deadlines={WHOLE: time.monotonic()})
    search_once(job)
    assert count_finished(open_study(job)) == 1


def test_a_study_of_other_data_is_refused_with_the_difference(tmp_path: Path) -> None:
    job = make_job(tmp_path)
    open_study(job)
    other = dataclasses.replace(job, data={"splits": "data-2", "classes": 3})
    with pytest.raises(UserError, match=r"other data \(splits data-1, now data-2\); use --force"):
        open_study(other)
    shared = dataclasses.replace(other, storage=job.url)
    with pytest.raises(UserError, match=r"data-2\); name another storage with --storage"):
        open_study(shared)


def test_a_study_of_another_search_space_is_refused_with_the_difference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_job(tmp_path)
    open_study(job)
    fixed = dataclasses.replace(job, fixed=frozenset({"model.dropout"}))
    with pytest.raises(
        UserError,
        match=r"another space \(model.dropout \[0.0, 0.6, False\], now 0.3\); use --force",
    ):
        open_study(fixed)
    monkeypatch.setitem(search_job.HEAD_SPACE, "model.l2", (1e-6, 1e-2, True))
    with pytest.raises(
        UserError, match=r"\(model.l2 \[1e-07, 0.01, True\], now \[1e-06, 0.01, True\]\)"
    ):
        open_study(job)


def test_a_study_of_other_settings_is_another_one_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = make_job(tmp_path)
    first = open_study(job)
    lion = dataclasses.replace(job, config=with_settings(job.config, {"training.optimizer": "lion"}))
    assert open_study(lion).study_name != first.study_name
    assert "training.optimizer adam, now lion" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        (
            "sqlite:////no/such/folder/study.db",
            r"sqlite:////no/such/folder/study.db cannot be used \(unable to open",
        ),
        (
            "postgresql+psycopg://me:s3cret@127.0.0.1:9/x",
            r"postgresql\+psycopg://me:\*\*\*@127.0.0.1:9/x cannot",
        ),
        ("nonsense://me:s3cret@host/x", r"nonsense://me:\*\*\*@host/x cannot"),
        ("me:s3cret@host", r"me:\*\*\*@host cannot be used"),
        ("nonsense://host/x?user=me&password=s3cret&y=z", r"password=\*\*\*&y=z cannot be used"),
    ],
)
def test_a_storage_out_of_reach_is_named_without_its_password(url: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence) as caught:
        open_storage(url, 30)
    assert "nothing was lost" in str(caught.value)
    assert "s3cret" not in str(caught.value)
