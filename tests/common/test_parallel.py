"""Workers run tasks side by side, keep their errors apart, survive a process that dies, and end with their parent."""

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

from competition.common.errors import UserError
from competition.common.parallel import Workers, count_workers


def identify(number: int) -> tuple[int, int]:
    return number, os.getpid()


def meet(folder: Path, name: str) -> tuple[int, str]:
    """Wait until another process does the same; tell who this one is and how many threads it may use."""
    (folder / name).touch()
    deadline = time.monotonic() + 90
    while len(list(folder.iterdir())) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    return os.getpid(), os.environ["TF_NUM_INTRAOP_THREADS"]


def refuse() -> None:
    raise UserError("This was not what is expected.")


def die(marker: Path, times: int) -> str:
    """Kill this process, as a system without memory does, the first `times` times."""
    done = len(list(marker.parent.glob(f"{marker.name}*")))
    if done < times:
        (marker.parent / f"{marker.name}{done}").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return "alive"


@pytest.fixture(scope="module")
def two() -> Iterator[Workers]:
    with Workers(2) as workers:
        yield workers


def test_two_workers_work_side_by_side_and_share_the_cores(two: Workers, tmp_path: Path) -> None:
    results: dict[str, Any] = dict(two.run({name: partial(meet, tmp_path, name) for name in "ab"}))
    assert len({pid for pid, _ in results.values()} - {os.getpid()}) == 2
    assert {int(threads) for _, threads in results.values()} == {
        max(1, len(os.sched_getaffinity(0)) // 2)
    }


def test_one_worker_is_this_process() -> None:
    with Workers(1) as workers:
        ((_, result),) = workers.run({"only": partial(identify, 7)})
    assert not isinstance(result, UserError)
    assert result[1] == os.getpid()


@pytest.mark.parametrize("number", [1, 2])
def test_an_input_error_of_one_task_leaves_the_others_alone(number: int, two: Workers) -> None:
    workers = two if number == 2 else Workers(1)
    tasks: dict[str, Any] = {"bad": refuse, "good": partial(identify, 1)}
    results: dict[str, Any] = dict(workers.run(tasks))
    assert isinstance(results["bad"], UserError)
    assert str(results["bad"]) == "This was not what is expected."
    assert results["good"][0] == 1


def test_a_task_whose_process_dies_is_run_again_and_its_neighbours_too(
    two: Workers, tmp_path: Path
) -> None:
    tasks: dict[str, Any] = {
        "once": partial(die, tmp_path / "once", 1),
        "always": partial(die, tmp_path / "always", 9),
    }
    results: dict[str, Any] = dict(two.run(tasks | {"fine": partial(identify, 3)}))
    assert results["once"] == "alive"
    assert results["fine"][0] == 3
    assert "The process of always died" in str(results["always"])
    assert [name for name, _ in two.run({"after": partial(identify, 4)})] == ["after"]


# What a shell starts in the background ignores the interrupt, and so do its children, unless they ask for it.
SCRIPT = """
import signal, time
from functools import partial
from competition.common.parallel import Workers
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with Workers(2) as workers:
        tasks = {"a": partial(time.sleep, 60), "b": partial(time.sleep, 60)}
        print("ready", flush=True)
        list(workers.run(tasks))
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_workers_end_with_their_parent(how: signal.Signals, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
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
    time.sleep(1)
    parent.send_signal(how)
    parent.wait(120)
    _, alive = psutil.wait_procs(children, timeout=120)
    assert not alive


def test_an_accelerator_is_never_shared() -> None:
    assert count_workers(4, accelerated=True) == 1
    assert 1 <= count_workers(4, accelerated=False) <= 4
    assert count_workers(1, accelerated=False) == 1
