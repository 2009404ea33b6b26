"""Foreign programs, run apart with limits for time and memory."""

import contextlib
import os
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from competition.files import InputError


@dataclass(frozen=True)
class Finished:
    """What a program left: its output (both streams), seconds, and peak megabytes of its whole process tree."""

    output: str
    return_code: int
    seconds: float
    peak_megabytes: float


def run_limited(
    command: list[str], folder: Path, seconds: float, megabytes: float, environment: dict[str, str]
) -> Finished:
    """Run `command` in `folder`; raises InputError where it, with its children, takes more time or memory than given.

    Memory is the resident size of the process tree, looked at ten times a second (a limit on address space would
    break TensorFlow). Whatever happens, no process of the tree outlives the call.
    """
    started = time.monotonic()
    log = folder / "output.log"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=stream, stderr=subprocess.STDOUT, start_new_session=True
        )
        peak = 0.0
        try:
            while process.poll() is None:
                peak = max(peak, tree_megabytes(process.pid))
                _check_limits(time.monotonic() - started, seconds, peak, megabytes)
                time.sleep(0.1)
        finally:
            kill_group(process)
    output = log.read_text(encoding="utf-8", errors="replace")
    return Finished(output, process.returncode, time.monotonic() - started, peak)


def _check_limits(elapsed: float, seconds: float, peak: float, megabytes: float) -> None:
    if elapsed > seconds:
        raise InputError(
            f"The submission was stopped after {seconds:.0f} s, the limit; use fewer views, or a smaller one."
        )
    if peak > megabytes:
        raise InputError(f"The submission took {peak:.0f} MB of memory, over the limit of {megabytes:.0f} MB.")


def tree_megabytes(pid: int) -> float:
    """Return the resident size of process `pid` and all its descendants in MB; 0 once it is gone."""
    try:
        parent = psutil.Process(pid)
        family = [parent, *parent.children(recursive=True)]
        return sum(item.memory_info().rss for item in family) / 2**20
    except psutil.Error:
        return 0.0


def kill_group(process: "subprocess.Popen[bytes]") -> None:
    """End a process that was started in a session of its own, with all its children."""
    if hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.wait()
