"""Programs with limits: stopped in time, and with all that they started."""

import os
import sys
import time
from pathlib import Path

import psutil
import pytest

from competition.codabench.sandbox import run_limited
from competition.common.errors import UserError


def run_text(
    program: str, folder: Path, seconds: float = 3, megabytes: float = 300, cores: int = 0
) -> str:
    return run_limited(
        [sys.executable, "-c", program], folder, seconds, megabytes, dict(os.environ), cores
    ).output


def is_gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def wait_for(path: Path) -> int:
    deadline = time.monotonic() + 5
    while not (path.is_file() and path.read_text().strip()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return int(path.read_text())


CHILD = "import subprocess; p = subprocess.Popen(['sleep', '60']{}); print(p.pid, flush=True); "
# A child of a session of its own whose parent ends at once, so that it belongs to no tree.
STRAY = """
import os, sys
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        open("pid", "w").write(str(os.getpid()))
        import time; time.sleep(60)
    os._exit(0)
os.wait()
import time; time.sleep({})
"""


@pytest.mark.parametrize("session", ["", ", start_new_session=True"])
def test_children_die_with_the_program(session: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="stopped after 1 s"):
        run_text(CHILD.format(session) + "import time; time.sleep(60)", tmp_path, seconds=1)
    assert is_gone(wait_for(tmp_path / "output.log"))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.parametrize("seconds", [0.0, 60.0])
def test_a_stray_that_left_the_tree_dies_too(seconds: float, tmp_path: Path) -> None:
    if seconds:
        with pytest.raises(UserError, match="stopped after 1 s"):
            run_text(STRAY.format(seconds), tmp_path, seconds=1)
    else:
        run_text(STRAY.format(seconds), tmp_path)
    assert not (tmp_path / "pid").is_file() or is_gone(wait_for(tmp_path / "pid"))


def test_memory_counts_children(tmp_path: Path) -> None:
    program = (
        "import subprocess, sys, time; "
        "subprocess.Popen([sys.executable, '-c', 'x = bytearray(400 << 20); import time; time.sleep(60)']); "
        "time.sleep(60)"
    )
    with pytest.raises(UserError, match="over the limit of 300 MB"):
        run_text(program, tmp_path, seconds=20)


def test_what_prints_without_end_is_stopped(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="had printed"):
        run_text("while True: print('x' * 9999)", tmp_path, seconds=20)


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="processes cannot be bound here")
def test_a_program_gets_the_cores_it_is_given_and_this_process_keeps_its_own(
    tmp_path: Path,
) -> None:
    before = os.sched_getaffinity(0)
    assert (
        run_text("import os; print(len(os.sched_getaffinity(0)))", tmp_path, cores=1).strip() == "1"
    )
    assert os.sched_getaffinity(0) == before
