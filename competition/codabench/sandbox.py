"""Foreign programs, run apart with limits for time and memory."""

import contextlib
import os
import signal
import stat
import subprocess
import time
import uuid
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from competition.common.errors import UserError

MARK = (
    "COMPETITION_PROGRAM"  # the environment variable by which strays that left the tree are known
)
LOG_BYTES = 20 * 2**20  # the most that a program may print


@dataclass(frozen=True)
class Finished:
    """What a program left: its output (both streams, the end), seconds, peak megabytes of its whole process tree."""

    output: str
    return_code: int
    seconds: float
    peak_megabytes: float


def run_limited(
    command: list[str],
    folder: Path,
    seconds: float,
    megabytes: float,
    environment: dict[str, str],
    cores: int = 0,
) -> Finished:
    """Run `command` in `folder`; raises UserError where it, with its children, takes more time or memory than given.

    Memory is the resident size of the process tree, looked at ten times a second (a limit on address space would
    break TensorFlow). cores: of this machine that it may use (0: all), where the system can bind processes.
    Whatever happens, no process of the tree outlives the call, not even one that opened a session of its own.
    """
    started = time.monotonic()
    log = folder / "output.log"
    mark = uuid.uuid4().hex
    with log.open("wb") as stream, _bound_to(cores):
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment | {MARK: mark},
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    peak = 0.0
    family: set[psutil.Process] = set()
    try:
        while process.poll() is None:
            peak = max(peak, tree_megabytes(process.pid, family))
            _check_limits(time.monotonic() - started, seconds, peak, megabytes, log.stat().st_size)
            time.sleep(0.1)
    finally:
        kill_all(process, family, mark)
    with log.open("rb") as stream:
        stream.seek(max(0, log.stat().st_size - 2**16))
        output = stream.read().decode("utf-8", errors="replace")
    return Finished(output, process.returncode, time.monotonic() - started, peak)


@contextlib.contextmanager
def _bound_to(cores: int) -> Iterator[None]:
    """Bind this thread, and so what it starts, to the first `cores` of its processors, for a moment."""
    if not cores or not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[:cores])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _check_limits(
    elapsed: float, seconds: float, peak: float, megabytes: float, printed: int
) -> None:
    if elapsed > seconds:
        raise UserError(
            f"The submission was stopped after {seconds:.0f} s, the limit; use fewer views, or a smaller network."
        )
    if peak > megabytes:
        raise UserError(
            f"The submission took {peak:.0f} MB of memory, over the limit of {megabytes:.0f} MB; use smaller batches."
        )
    if printed > LOG_BYTES:
        raise UserError(
            f"The submission was stopped after it had printed {printed / 2**20:.0f} MB."
        )


def tree_megabytes(pid: int, family: set[psutil.Process]) -> float:
    """Return the resident size in MB of process `pid`, its descendants and those of `family`, to which they are added.

    A child whose parent ended has left the tree; `family` remembers it.
    """
    with contextlib.suppress(psutil.Error):
        parent = psutil.Process(pid)
        family |= {parent, *parent.children(recursive=True)}
    total = 0
    for member in family:
        with contextlib.suppress(psutil.Error):
            total += member.memory_info().rss
    return total / 2**20


def kill_all(process: "subprocess.Popen[bytes]", family: set[psutil.Process], mark: str) -> None:
    """End a process that was started in a session of its own, with its group, `family` and all that carry `mark`."""
    tree_megabytes(process.pid, family)
    if hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    members = family | set(_marked(mark))
    for member in members:
        with contextlib.suppress(psutil.Error):
            member.kill()
    process.wait()
    psutil.wait_procs(members, timeout=1)


def _marked(mark: str) -> Iterator[psutil.Process]:
    for member in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if member.environ().get(MARK) == mark:
                yield member


ENTRIES = 1000  # more files than any submission needs
# What the zipfile module raises for truncated, encrypted, overlapping or oddly compressed archives.
BROKEN = (
    OSError,
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    RuntimeError,
    NotImplementedError,
    ValueError,
)


def extract(zip_path: Path, folder: Path, megabytes: float) -> None:
    """Unzip a submission; raises UserError for unsafe names, links, bombs, and other than one model.py at the top.

    megabytes: the most it may unpack to, by what it declares and by what comes out.
    """
    try:
        with zipfile.ZipFile(zip_path) as archive:
            entries = archive.infolist()
            _check_entries(zip_path, entries)
            _check_size(zip_path, sum(entry.file_size for entry in entries), megabytes)
            _write_entries(zip_path, archive, folder, megabytes)
    except UserError:
        raise
    except BROKEN as error:
        raise UserError(f"{zip_path} cannot be unzipped ({error}); package it again.") from error


def _check_entries(zip_path: Path, entries: list[zipfile.ZipInfo]) -> None:
    if len(entries) > ENTRIES:
        raise UserError(
            f"{zip_path} holds {len(entries)} files, more than any submission needs; it is refused."
        )
    for entry in entries:
        name = entry.filename.replace("\\", "/")
        if (
            name.startswith("/")
            or ".." in name.split("/")
            or ":" in name
            or stat.S_ISLNK(entry.external_attr >> 16)
        ):
            raise UserError(
                f"{zip_path} holds '{entry.filename}', which leads outside its folder; it is refused."
            )
    models = [entry.filename for entry in entries if Path(entry.filename).name == "model.py"]
    if models != ["model.py"]:
        raise UserError(
            f"{zip_path} holds {models or 'no model.py'}; expected one model.py, at the top of the zip."
        )


def _write_entries(
    zip_path: Path, archive: zipfile.ZipFile, folder: Path, megabytes: float
) -> None:
    size = 0
    for entry in archive.infolist():
        target = folder / entry.filename
        if entry.is_dir():
            target.mkdir(parents=True, exist_ok=True)
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        with archive.open(entry) as source, target.open("wb") as copy:
            while block := source.read(2**20):
                size += len(block)
                _check_size(zip_path, size, megabytes)
                copy.write(block)


def _check_size(zip_path: Path, size: int, megabytes: float) -> None:
    if size > megabytes * 2**20:
        raise UserError(
            f"{zip_path} unpacks to over {megabytes:.0f} MB, more than any submission needs; refused."
        )
