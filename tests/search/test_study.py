"""Studies are shared by processes and survive their deaths: nothing is lost."""

import dataclasses
import datetime
import multiprocessing
import os
import pwd
import re
import shutil
import socket
import sqlite3
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import Trial, TrialState

from competition.common.errors import UserError
from competition.config import with_settings
from competition.networks.weights import RANDOM, Weights
from competition.search import rounds
from competition.search import study as module
from competition.search.rounds import Search
from competition.search.search import search_backbone
from competition.search.study import (
    RETRIES,
    count_trials,
    open_storage,
    open_study,
    run_trials,
)
from competition.time_budget import Slot
from tests.factories import make_data, make_search
from tests.search.study_process import (
    SCRATCH,
    die_everywhere,
    hang,
    meet_and_search,
    open_round,
    score,
    search_in_process,
    search_once,
    settings_as_given,
)

pytestmark = [
    pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning"),
    pytest.mark.filterwarnings("ignore:Heartbeat of storage is supposed:UserWarning"),
]
TRIALS = 8
IMAGENET = Weights(Path(__file__), "imagenet")


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "POLL_SECONDS", 0.05)


@pytest.fixture(scope="module")
def context() -> multiprocessing.context.ForkServerContext:
    """What starts processes that have imported all they need, and no TensorFlow."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.search.study_process"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KERAS_BACKEND", "numpy")
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
        context.Process().start()
    return context


def wait_for(text: str, log: Path) -> None:
    deadline = time.monotonic() + 120
    while not (log.is_file() and text in log.read_text()):
        assert time.monotonic() < deadline, f"no '{text}' in {log}"
        time.sleep(0.05)


def finish(process: Any) -> None:
    process.join(300)
    assert process.exitcode == 0


def require_nothing_lost(search: Search, interrupted: int) -> None:
    """Require TRIALS scores or a few more, and among them one of each interrupted draw."""
    trials = open_round(search).trials
    complete = [trial.params for trial in trials if trial.state == TrialState.COMPLETE]
    assert TRIALS <= len(complete) <= TRIALS + 2
    assert settings_as_given(search) in complete
    assert all(trial.state != TrialState.RUNNING for trial in trials)
    lost = [trial.params for trial in trials if trial.state == TrialState.FAIL]
    assert len(lost) >= interrupted
    for params in lost:
        assert any(params.items() <= other.items() for other in complete), "a draw is lost"


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
    options = f"-p {port} -k {folder} -h 127.0.0.1 -F"
    call("pg_ctl", "-w", "-s", "-l", f"{folder}/log", "-o", options, "start")
    try:
        yield f"postgresql+psycopg://search:secret@127.0.0.1:{port}/postgres"
    finally:
        call("pg_ctl", "-w", "-s", "-m", "immediate", "stop")
        shutil.rmtree(folder)


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A storage that processes share."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/shared.db"
    return str(request.getfixturevalue("postgresql"))


# -- nothing is lost


def test_a_search_that_is_killed_at_any_point_goes_on(context: Any, tmp_path: Path) -> None:
    search = make_search(tmp_path)
    process = context.Process(target=die_everywhere, args=(search, tmp_path / "log"))
    process.start()
    finish(process)
    require_nothing_lost(search, interrupted=3)


def test_two_processes_share_a_storage_and_count_together(
    context: Any, url: str, tmp_path: Path
) -> None:
    search = make_search(tmp_path, storage=url)
    logs = [tmp_path / "first.log", tmp_path / "second.log"]
    both = [context.Process(target=meet_and_search, args=(search, log)) for log in logs]
    for process in both:
        process.start()
    for process in both:
        finish(process)
    require_nothing_lost(search, interrupted=0)
    assert all(log.read_text().count(" with ") > 1 for log in logs)


def test_the_trial_of_a_killed_worker_is_retried_by_another(
    context: Any, url: str, tmp_path: Path
) -> None:
    search = make_search(tmp_path, storage=url)
    victim = context.Process(target=hang, args=(search, tmp_path / "victim.log"))
    victim.start()
    wait_for("hangs", tmp_path / "victim.log")
    log = tmp_path / "other.log"
    other = context.Process(target=search_in_process, args=(search, log))
    other.start()
    wait_for(" with ", log)  # it is at work
    victim.kill()
    finish(other)
    assert "was interrupted: it is tried again" in log.read_text()
    require_nothing_lost(search, interrupted=1)


def test_a_trial_that_the_user_stops_is_tried_again_with_its_settings(tmp_path: Path) -> None:
    search = make_search(tmp_path, trials=3)
    drawn = []

    def stop_the_second(trial: Trial) -> float:
        result = score(trial)
        if trial.number == 1:
            drawn.append(trial.params)
            raise KeyboardInterrupt
        return result

    with pytest.raises(KeyboardInterrupt):
        search_once(search, stop_the_second)
    trials = search_once(search).trials
    assert count_trials(open_round(search), 3) == (3, 3)
    assert [trial.state for trial in trials if trial.params == drawn[0]] == [
        TrialState.FAIL,
        TrialState.COMPLETE,
    ]


@pytest.mark.parametrize(
    ("changes", "is_dead"),
    [({}, True), ({"worker": 1}, False), ({"storage": "sqlite:///{}/tiny_cnn.db"}, False)],
)
def test_what_an_earlier_process_left_running_in_a_file_of_this_job_is_tried_again_at_once(
    changes: dict[str, Any], is_dead: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = open_round(make_search(tmp_path)).ask()
    search = make_search(tmp_path, **changes)
    if search.storage:
        search = dataclasses.replace(search, storage=search.storage.format(tmp_path))
    states = [trial.state for trial in open_round(search).trials]
    assert states == [TrialState.RUNNING], "it began after this process did"
    monkeypatch.setattr(module, "STARTED", datetime.datetime.now())
    trials = open_round(search).trials
    if is_dead:
        assert [trial.state for trial in trials] == [TrialState.FAIL, TrialState.WAITING]
        assert trials[1].system_attrs["retry_history"] == [running.number]
    else:
        assert [trial.state for trial in trials] == [TrialState.RUNNING]


def test_a_worker_that_died_before_its_first_heartbeat_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MISSED", 1)
    search = make_search(tmp_path, trials=2, storage=f"sqlite:///{tmp_path}/shared.db")
    lost = open_round(search).ask().number
    trials = search_once(search).trials
    assert trials[lost].state == TrialState.FAIL
    assert settings_as_given(search) in [
        trial.params for trial in trials if trial.state == TrialState.COMPLETE
    ]


def test_a_trial_whose_process_dies_each_time_is_not_retried_for_ever(tmp_path: Path) -> None:
    search = make_search(tmp_path, trials=2)

    def die_of_the_settings_as_given(trial: Trial) -> float:
        result = score(trial)
        if trial.params == settings_as_given(search):
            raise OSError("the process died")
        return result

    for _ in range(RETRIES + 1):
        with pytest.raises(OSError, match="died"):
            search_once(search, die_of_the_settings_as_given)
    states = Counter(
        trial.state for trial in search_once(search, die_of_the_settings_as_given).trials
    )
    assert states == {TrialState.FAIL: RETRIES + 1, TrialState.COMPLETE: 2}


def test_who_was_taken_for_dead_leaves_the_trial_to_others(tmp_path: Path) -> None:
    search = make_search(tmp_path, trials=2)

    def lose_the_first(trial: Trial) -> float:
        if trial.number == 0:
            open_round(search).tell(trial.number, state=TrialState.FAIL)
        return score(trial) if trial.number else 0.5

    trials = search_once(search, lose_the_first).trials
    assert [trial.state for trial in trials] == [TrialState.FAIL] + [TrialState.COMPLETE] * 2
    assert trials[1].params == settings_as_given(search)


def test_who_was_taken_for_dead_notices_at_the_next_epoch(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    search = make_search(tmp_path, trials=1)

    def lose_the_first(trial: Trial) -> float:
        if trial.number == 0:
            open_round(search).tell(trial.number, state=TrialState.FAIL)
        return score(trial)

    trials = search_once(search, lose_the_first).trials
    assert [trial.state for trial in trials] == [TrialState.FAIL, TrialState.COMPLETE]
    assert "others took this process for dead" in capsys.readouterr().out


@pytest.mark.parametrize("kind", [ValueError, AssertionError])
def test_an_error_of_the_trials_own_is_not_taken_for_that(
    kind: type[Exception], tmp_path: Path
) -> None:
    def fail(trial: Trial) -> float:
        raise kind("a mistake in the program")

    with pytest.raises(kind, match="a mistake in the program"):
        search_once(make_search(tmp_path), fail)


def test_a_queued_trial_in_a_file_goes_to_one_of_two_that_ask_at_once(tmp_path: Path) -> None:
    search = make_search(tmp_path)
    repeats = 25
    taken = Counter[int]()
    first = open_round(search)
    for _ in range(2 * repeats):
        first.enqueue_trial({})
    barrier = threading.Barrier(2)

    def ask(study: optuna.Study) -> None:
        for _ in range(repeats):
            barrier.wait(60)
            taken[study.ask().number] += 1

    threads = [threading.Thread(target=ask, args=(study,)) for study in (first, open_round(search))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(taken.values()) == {1}
    assert len(taken) == 2 * repeats


# -- how many trials, and which


def test_where_no_number_is_asked_for_all_that_was_queued_is_tried_and_nothing_else(
    tmp_path: Path,
) -> None:
    search = make_search(tmp_path)
    given = settings_as_given(search)
    other = given | {"model.dropout": 0.5}
    third = given | {"model.dropout": 0.1}
    for queued in ([given, other], [given, third]):
        study = open_study(search, SCRATCH, queued)
        run_trials(search, study, "trial", None, score)
    assert [trial.params for trial in study.trials] == [given, other, third]


@pytest.mark.parametrize("pruner", list(module.PRUNERS))
def test_every_pruner_searches(pruner: str, tmp_path: Path) -> None:
    search = make_search(tmp_path, trials=2)
    config = with_settings(search.config, {"search.pruner": pruner})
    search = dataclasses.replace(search, config=config)
    study = search_once(search, lambda trial: score(trial) + trial.should_prune())
    assert pruner in type(study.pruner).__name__.lower() or pruner == "none"
    assert count_trials(study, 2) == (2, 2)


@pytest.mark.parametrize(
    ("weights", "number", "early", "late"),
    [(RANDOM, 0, 6, 2), (IMAGENET, 0, 3, 1), (IMAGENET, 1, 5, 2)],
)
def test_the_median_pruner_looks_only_at_the_last_third_of_the_epochs_of_the_last_stage(
    weights: Weights, number: int, early: int, late: int, tmp_path: Path
) -> None:
    search = make_search(tmp_path, weights=weights)
    study = open_study(search, search.rounds[number], [])
    for value in (0.5, 0.6, 0.7, 0.8, 0.9, 0.1):
        trial = study.ask()
        pruned = []
        for epoch in range(early + late):
            trial.report(value, epoch)
            pruned.append(trial.should_prune())
        study.tell(trial, value)
    assert pruned == [False] * early + [True] * late


def test_after_its_slot_is_over_no_trial_begins(tmp_path: Path) -> None:
    now = time.time()
    search = make_search(tmp_path, slot=Slot(now - 1, now))
    assert count_trials(search_once(search), None) == (0, 1)


def test_processes_draw_different_settings_and_one_alone_the_same_again(tmp_path: Path) -> None:
    def draw(folder: str, worker: int) -> list[dict[str, Any]]:
        (tmp_path / folder).mkdir(exist_ok=True)
        search = make_search(tmp_path / folder, trials=3, worker=worker)
        return [trial.params for trial in search_once(search).trials]

    first = draw("first", 0)
    assert draw("again", 0) == first
    assert draw("helper", 1)[1:] != first[1:]


# -- which study


def test_a_study_of_other_data_is_another_one_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    search = make_search(tmp_path)
    first = open_round(search)
    other = dataclasses.replace(search, data={"splits": "data-2", "classes": 3})
    assert open_round(other).study_name != first.study_name
    assert "a new study beside the 1 trials with splits data-1, now data-2" in (
        capsys.readouterr().out
    )


def test_a_study_of_another_space_is_another_one_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    search = make_search(tmp_path)
    names = {open_round(search).study_name}
    names.add(
        open_round(dataclasses.replace(search, fixed=frozenset({"model.dropout"}))).study_name
    )
    given = search.config.model.dropout
    assert f"model.dropout None, now {given}" in capsys.readouterr().out
    monkeypatch.setitem(rounds.SCRATCH_SPACE, "model.l2", (1e-6, 1e-2, True))
    names.add(open_round(search).study_name)
    assert "space of model.l2 (1e-07, 0.01, True), now (1e-06, 0.01, True)" in (
        capsys.readouterr().out
    )
    assert len(names) == 3


def test_a_study_of_other_settings_is_another_one_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    search = make_search(tmp_path)
    first = open_round(search)
    config = with_settings(search.config, {"training.batch_size": 7})
    other = dataclasses.replace(search, config=config)
    assert open_round(other).study_name != first.study_name
    assert (
        f"training.batch_size {search.config.training.batch_size}, now 7" in capsys.readouterr().out
    )
    config = with_settings(search.config, {"model.dropout": 0.1})
    assert open_round(dataclasses.replace(search, config=config)).study_name == first.study_name
    assert "a new study" not in capsys.readouterr().out, "dropout is searched"


# -- storages


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
        ("postgresql://me:s3cret@host:abc/x", r"postgresql://me:\*\*\*@host:abc/x is no URL"),
        ("me:s3cret@host", r"me:\*\*\*@host cannot be used"),
        ("nonsense://host/x?user=me&password=s3cret&y=z", r"password=\*\*\*&y=z cannot be used"),
    ],
)
def test_a_storage_out_of_reach_is_named_without_its_password(
    url: str, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    with pytest.raises(UserError, match=sentence) as caught:
        open_storage(url, 30)
    assert "--storage" in str(caught.value)
    assert "s3cret" not in str(caught.value)
    with pytest.raises(UserError, match=sentence):
        search_backbone(make_search(tmp_path, storage=url), make_data(), tmp_path)


def test_a_storage_of_another_version_of_optuna_is_refused_in_a_sentence(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/old.db"
    open_storage(url, 30)
    with sqlite3.connect(tmp_path / "old.db") as connection:
        connection.execute("update alembic_version set version_num = 'v3.0.0.d'")
        connection.execute("update version_info set library_version = '3.6.1'")
    with pytest.raises(UserError, match=r"another version of Optuna .*set up by optuna 3\.6\.1"):
        open_storage(url, 30)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # heartbeats
def test_a_storage_that_breaks_during_the_search_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = make_search(tmp_path)

    def break_the_file(*_: Any) -> None:
        (tmp_path / "tiny_cnn.db").write_bytes(b"no database" * 1000)

    monkeypatch.setattr("competition.search.search.TrialTrainer.train", break_the_file)
    with pytest.raises(UserError, match=r"tiny_cnn\.db cannot be used"):
        search_backbone(search, make_data(), tmp_path)


# -- Optuna


def test_no_private_name_of_optuna_is_used() -> None:
    for path in Path(module.__file__).parent.glob("*.py"):
        text = path.read_text(encoding="utf-8")
        private = re.findall(r"\b\w*(?:study|trial|storage|sampler|pruner)\w*\._[a-z]\w*", text)
        private += re.findall(r"optuna[.\w]*\._(?!_version__)\w+", text)
        assert private == [], path


def test_the_names_of_optuna_that_retry_trials_are_public() -> None:
    assert {"fail_stale_trials", "RetryHeartbeatStaleTrialCallback"} <= set(optuna.storages.__all__)
