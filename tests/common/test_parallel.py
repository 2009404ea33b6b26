"""Workers run tasks side by side, survive a process that dies, and end with their parent."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from competition.common import console
from competition.common.errors import TrialFailedError
from competition.common.parallel import Workers, count_workers


def identify(number: int) -> tuple[int, int]:
    return number, os.getpid()


def meet(folder: Path, name: str) -> tuple[int, str]:
    """Wait until another process does the same; return who this is, and its number of threads."""
    (folder / name).touch()
    deadline = time.monotonic() + 90
    while len(list(folder.iterdir())) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    return os.getpid(), os.environ["TF_NUM_INTRAOP_THREADS"]


def note(path: Path, name: str, seconds: float = 0.0) -> int:
    """Add a name to a file; return the number of this process."""
    time.sleep(seconds)
    with path.open("a") as stream:
        stream.write(f"{name}\n")
    return os.getpid()


def refuse() -> None:
    raise TrialFailedError("This was not what is expected.")


def stumble() -> None:
    raise ZeroDivisionError("a bug")


def say_hello() -> None:
    console.say("hello from a worker")


def die(marker: Path, times: int) -> str:
    """Kill this process, as a system without memory does, the first `times` times."""
    done = len(list(marker.parent.glob(f"{marker.name}*")))
    if done < times:
        (marker.parent / f"{marker.name}{done}").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return "alive"


@pytest.fixture(scope="module", autouse=True)
def light_keras(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Let workers load an empty Keras, since none of these tasks needs it; the folder of it."""
    folder = tmp_path_factory.mktemp("keras")
    (folder / "keras.py").touch()
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield folder


@pytest.fixture(scope="module")
def two(light_keras: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workers]:
    console.log_to(tmp_path_factory.mktemp("log") / "log.txt")
    with Workers(2) as workers:
        yield workers
    console.log_to(None)


@pytest.fixture(params=[1, 2])
def workers(request: pytest.FixtureRequest, two: Workers) -> Workers:
    """One worker, and two, which remember no failure yet."""
    chosen = two if request.param == 2 else Workers(1)
    chosen.failures.clear()
    return chosen


def test_two_workers_work_side_by_side_and_share_the_cores(two: Workers, tmp_path: Path) -> None:
    tasks: dict[str, Any] = {name: partial(meet, tmp_path, name) for name in "ab"}
    results: dict[str, Any] = dict(two.run_all(tasks))
    assert len({process for process, _ in results.values()} - {os.getpid()}) == 2
    assert {int(threads) for _, threads in results.values()} == {
        max(1, len(os.sched_getaffinity(0)) // 2)
    }


def test_one_worker_is_this_process_and_so_is_that_of_a_task_alone(two: Workers) -> None:
    with Workers(1) as one:
        for workers in (one, two):
            ((name, result),) = workers.run_all({"only": partial(identify, 7)})
            assert (name, result) == ("only", (7, os.getpid()))


def test_each_worker_takes_the_names_of_its_own_queue_in_order(
    two: Workers, tmp_path: Path
) -> None:
    names = ["a1", "a2", "a3", "b1"]
    tasks = {
        name: partial(note, tmp_path / name[0], name, 0.2 if name == "a1" else 0.0)
        for name in names
    }
    done = dict(two.run_all(tasks, [["a1", "a2", "a3"], ["b1"]]))
    assert (tmp_path / "a").read_text().split() == ["a1", "a2", "a3"]
    assert done["a1"] == done["a2"] == done["a3"] != done["b1"]


def test_from_one_queue_each_worker_takes_the_next_name_when_it_is_free(
    two: Workers, tmp_path: Path
) -> None:
    tasks = {"slow": partial(note, tmp_path / "log", "slow", 0.5)}
    tasks |= {name: partial(note, tmp_path / "log", name) for name in ("x", "y", "z")}
    done = list(two.run_all(tasks))
    assert [name for name, _ in done] == ["x", "y", "z", "slow"]
    assert len({process for name, process in done if name != "slow"}) == 1


def test_one_worker_takes_all_queues_one_after_the_other(tmp_path: Path) -> None:
    tasks = {name: partial(note, tmp_path / "log", name) for name in ("a1", "a2", "b1")}
    with Workers(1) as one:
        assert [name for name, _ in one.run_all(tasks, [["a2", "a1"], ["b1"]])] == [
            "a2",
            "a1",
            "b1",
        ]


def test_a_users_error_of_one_task_is_told_and_remembered_and_leaves_the_others_alone(
    workers: Workers, capsys: pytest.CaptureFixture[str]
) -> None:
    tasks: dict[str, Any] = {"bad": refuse, "good": partial(identify, 1)}
    results = dict(workers.run_all(tasks))
    assert results.keys() == {"good"}
    assert workers.failures == ["bad: This was not what is expected."]
    assert "bad FAILED: This was not what is expected." in capsys.readouterr().out


def test_any_other_error_ends_the_iteration(workers: Workers) -> None:
    tasks: dict[str, Any] = {"good": partial(identify, 1), "bug": stumble}
    with pytest.raises(ZeroDivisionError, match="a bug"):
        list(workers.run_all(tasks))


def test_what_workers_say_goes_to_the_log_file_too(two: Workers) -> None:
    list(two.run_all({"a": say_hello, "b": say_hello}))
    log = console.log_settings()[0]
    assert log is not None
    assert log.read_text().count("hello from a worker") == 2


def test_a_task_whose_process_dies_is_run_once_more_and_its_neighbours_are_too(
    two: Workers, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    two.failures.clear()
    tasks: dict[str, Any] = {
        "once": partial(die, tmp_path / "once", 1),
        "always": partial(die, tmp_path / "always", 9),
        "fine": partial(identify, 3),
    }
    results: dict[str, Any] = dict(two.run_all(tasks))
    assert results["once"] == "alive"
    assert results["fine"][0] == 3
    assert results.keys() == {"once", "fine"}
    assert len(list(tmp_path.glob("always*"))) == 2
    (failure,) = two.failures
    assert failure.startswith("always: The process of always died")
    assert "again, one at a time" in capsys.readouterr().out
    after: dict[str, Any] = {name: partial(identify, 4) for name in ("after", "that")}
    assert sorted(name for name, _ in two.run_all(after)) == ["after", "that"]


# What a shell starts in the background ignores the interrupt, unless it asks for it.
SCRIPT = """
import signal, time
from functools import partial
from competition.common.parallel import Workers
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with Workers(2) as workers:
        tasks = {"a": partial(time.sleep, 60), "b": partial(time.sleep, 60)}
        print("ready", flush=True)
        list(workers.run_all(tasks))
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_workers_end_with_their_parent(
    how: signal.Signals, light_keras: Path, tmp_path: Path
) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    environment = os.environ | {"PYTHONPATH": f"{light_keras}:{Path(__file__).parents[2]}"}
    parent = subprocess.Popen(
        [sys.executable, tmp_path / "script.py"], env=environment, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 60
    while (
        len(children := psutil.Process(parent.pid).children(recursive=True)) < 3
        and time.monotonic() < deadline
    ):
        time.sleep(0.2)
    assert len(children) >= 3  # two workers and multiprocessing's resource tracker
    time.sleep(0.5)
    parent.send_signal(how)
    parent.wait(120)
    _, alive = psutil.wait_procs(children, timeout=120)
    assert not alive


def test_an_accelerator_is_never_shared() -> None:
    assert count_workers(4, accelerated=True) == 1
    assert 1 <= count_workers(4, accelerated=False) <= 4
    assert count_workers(1, accelerated=False) == 1


def test_a_worker_more_needs_memory_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    cores = set(range(8))
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: cores)
    for gigabytes, expected in ((1.0, 1), (8.0, 3), (64.0, 5)):
        memory = type("Memory", (), {"available": int(gigabytes * 2**30)})
        monkeypatch.setattr(psutil, "virtual_memory", lambda memory=memory: memory)
        assert count_workers(5, accelerated=False) == expected
