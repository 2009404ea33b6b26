"""Zips and programs of strangers: unzipped safely, run apart with limits of time and memory."""

import contextlib
import functools
import glob
import os
import shutil
import signal
import site
import stat
import struct
import subprocess
import sys
import tempfile
import time
import uuid
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from competition.common.errors import CheckFailedError

MARK = "COMPETITION_PROGRAM"  # the environment variable that marks processes which left the tree
# How the names of environment variables begin that are no secrets.
PUBLIC = (
    "PATH", "HOME", "LANG", "LC_", "TZ", "TMP", "TEMP", "LD_LIBRARY_PATH", "XDG_CACHE_HOME",
    "SYSTEMROOT", "WINDIR", "USERPROFILE", "APPDATA", "LOCALAPPDATA", "COMSPEC", "KERAS_", "TF_",
    "XLA_", "JAX_", "CUDA", "NVIDIA", "ROCM", "HIP_", "OMP_", "MKL_", "OPENBLAS",
)  # fmt: skip
MAXIMUM_PRINTED = 20 * 2**20  # bytes that a program may print
MAXIMUM_ENTRIES = 1000  # more files than any submission needs
MAXIMUM_DIRECTORY = 2**20  # bytes of a zip's list of files
END_RECORD = 22  # bytes of a zip's end record without a comment
NOT_ISOLATED = (
    "NOT ISOLATED: grade only code that you trust (with bubblewrap installed, and where the system "
    "allows namespaces, submissions run isolated)"
)
# The parts of the system and of each Python that an isolated program sees; they hold no data.
VISIBLE = ("bin", "sbin", "lib", "lib32", "lib64", "libexec", "share", "pyvenv.cfg")
# Of /etc: what libraries need. It holds secrets, too.
CONFIGURATION = (
    *("ld.so.cache", "ld.so.conf", "ld.so.conf.d", "alternatives", "nsswitch.conf", "localtime"),
    *("passwd", "group", "hosts", "ssl", "OpenCL", "vulkan"),
)
DEVICES = ("/dev/nvidia*", "/dev/dri", "/dev/kfd")


def extract(zip_path: Path, folder: Path, megabytes: float) -> None:
    """Unzip a submission into `folder`.

    megabytes: the most that it may unpack to; no entry unpacks to more than it declares. Raises
    CheckFailedError for unsafe names, links, bombs, and any but one model.py, at the top.
    """
    try:
        _require_small_directory(zip_path)
        with zipfile.ZipFile(zip_path) as archive:
            _check_entries(zip_path, archive.infolist(), megabytes)
            archive.extractall(folder)
    except CheckFailedError:
        raise
    except Exception as error:  # zipfile raises a dozen kinds for a broken archive
        raise CheckFailedError(
            f"{zip_path} cannot be unzipped ({error}); package it again."
        ) from error


def _require_small_directory(zip_path: Path) -> None:
    """Raise CheckFailedError where the list of files is too long to be read; zipfile reads it all.

    The end record is found as zipfile finds it (APPNOTE.TXT of PKWARE, 4.3.16).
    """
    with zip_path.open("rb") as stream:
        stream.seek(max(0, zip_path.stat().st_size - 2**16 - END_RECORD))
        tail = stream.read()
    place = len(tail) - END_RECORD
    if not (tail[place:].startswith(b"PK\x05\x06") and tail.endswith(b"\0\0")):
        place = tail.rfind(b"PK\x05\x06")
    if place < 0:
        return  # no zip, as zipfile will say
    (size,) = struct.unpack_from("<I", tail, place + 12)
    is_zip64 = tail[:place][-20:].startswith(b"PK\x06\x07")
    if size > MAXIMUM_DIRECTORY or is_zip64:
        raise CheckFailedError(
            f"{zip_path} holds more files than any submission needs; it is refused."
        )


def _check_entries(zip_path: Path, entries: list[zipfile.ZipInfo], megabytes: float) -> None:
    if len(entries) > MAXIMUM_ENTRIES:
        raise CheckFailedError(
            f"{zip_path} holds {len(entries)} files, more than any submission needs; it is refused."
        )
    for entry in entries:
        name = entry.filename.replace("\\", "/")
        is_outside = name.startswith("/") or ".." in name.split("/") or ":" in name
        if is_outside or stat.S_ISLNK(entry.external_attr >> 16):
            raise CheckFailedError(
                f"{zip_path} holds '{entry.filename}', which leads outside its folder; "
                "it is refused."
            )
    models = [entry.filename for entry in entries if Path(entry.filename).name == "model.py"]
    if models != ["model.py"]:
        raise CheckFailedError(
            f"{zip_path} holds {models or 'no model.py'}; "
            "expected one model.py, at the top of the zip."
        )
    if sum(entry.file_size for entry in entries) > megabytes * 2**20:
        raise CheckFailedError(
            f"{zip_path} unpacks to over {megabytes:.0f} MB, more than any submission needs; "
            "it is refused."
        )


@dataclass(frozen=True)
class Finished:
    """The end of a program.

    output: the last 64 kB of both streams, without control characters. seconds: from its start to
    its end. peak_megabytes: of the whole process tree.
    """

    output: str
    return_code: int
    seconds: float
    peak_megabytes: float


def public_environment() -> dict[str, str]:
    """Return the variables of this process that a program needs to run; the others may be secret.

    Python's own are left out: another interpreter may run it.
    """
    return {name: text for name, text in os.environ.items() if name.upper().startswith(PUBLIC)}


@functools.cache
def can_isolate() -> bool:
    """Tell whether bubblewrap is here and the system lets it make namespaces."""
    if shutil.which("bwrap") is None:
        return False
    with tempfile.TemporaryDirectory() as place:
        program = "import numpy"  # it must see the libraries, too
        command = _isolate([sys.executable, "-c", program], Path(place), Path(place))
        return subprocess.run(command, capture_output=True).returncode == 0


def _isolate(command: list[str], private: Path, folder: Path) -> list[str]:
    """Return `command` in namespaces of its own (mounts, processes, network), in `folder`.

    It sees the system's programs and libraries, those of Python, and `private`, which is all that
    it can write to. Its processes end with it (https://github.com/containers/bubblewrap).
    """
    (private / "tmp").mkdir(exist_ok=True)
    pythons = {str(Path(command[0]).parent.parent), sys.prefix, sys.base_prefix}
    prefixes = ["/", "/usr", "/usr/local", *sorted(pythons)]
    libraries = os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep)
    seen = [f"{prefix.rstrip('/')}/{name}" for prefix in prefixes for name in VISIBLE]
    seen += [f"/etc/{name}" for name in CONFIGURATION]
    seen += [site.getusersitepackages(), "/sys", *glob.glob("/usr/local/cuda*")]
    seen += [path for path in libraries if path.startswith("/")]
    devices = [path for pattern in DEVICES for path in glob.glob(pattern)]
    return [
        *("bwrap", "--unshare-all", "--die-with-parent", "--cap-drop", "ALL"),
        *("--proc", "/proc", "--dev", "/dev"),
        # before Python, which may lie in the real /tmp
        *("--bind", str(private / "tmp"), "/tmp", "--bind", str(private / "tmp"), "/dev/shm"),
        *(word for path in seen for word in ("--ro-bind-try", path, path)),
        *(word for path in devices for word in ("--dev-bind", path, path)),
        *("--bind", str(private), str(private), "--remount-ro", "/dev", "--remount-ro", "/"),
        *("--chdir", str(folder), "--", *command),
    ]


def run_limited(
    command: list[str],
    folder: Path,
    seconds: float,
    megabytes: float,
    environment: dict[str, str],
    cores: int = 0,
    private: Path | None = None,
) -> Finished:
    """Run `command` in `folder`, and end it where it exceeds its limits of time or memory.

    Memory is the resident size of the process tree, read ten times per second; a limit on address
    space would break TensorFlow. cores: that it may use (0: all), where the system can bind
    processes. private: the folder around `folder` to which a stranger's program is confined, where
    the system can do so. Whatever happens, no process of the tree outlives the call, not even one
    that opened a session of its own. Raises CheckFailedError where a limit is exceeded.
    """
    if private is not None and can_isolate():
        command = _isolate(command, private, folder)
    mark = uuid.uuid4().hex
    # The log has no name under which the program could put another file, as a pipe.
    with tempfile.TemporaryFile() as log:
        started = time.monotonic()
        with _bound_to(cores):
            process = subprocess.Popen(
                command,
                cwd=folder,
                env=environment | {MARK: mark},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        peak = 0.0
        family: set[psutil.Process] = set()
        try:
            while process.poll() is None:
                peak = max(peak, _tree_megabytes(process.pid, family))
                if time.monotonic() - started > seconds:
                    raise CheckFailedError(
                        f"The submission was stopped after {seconds:.0f} s, the limit; "
                        "use fewer views, or a smaller network."
                    )
                if peak > megabytes:
                    raise CheckFailedError(
                        f"The submission took {peak:.0f} MB of memory, over the limit of "
                        f"{megabytes:.0f} MB; use smaller batches."
                    )
                if (printed := os.fstat(log.fileno()).st_size) > MAXIMUM_PRINTED:
                    raise CheckFailedError(
                        f"The submission was stopped after it had printed {printed / 2**20:.0f} MB."
                    )
                time.sleep(0.1)
            took = time.monotonic() - started
        finally:
            _kill_all(process, family, mark)
        log.seek(max(0, os.fstat(log.fileno()).st_size - 2**16))
        output = log.read(2**16).decode("utf-8", errors="replace").replace("\r", "\n")
        output = "".join(letter for letter in output if letter.isprintable() or letter in "\n\t")
        return Finished(output, process.returncode, took, peak)


@contextlib.contextmanager
def _bound_to(cores: int) -> Iterator[None]:
    """Bind this thread, and so the processes that it starts, to the first `cores` processors."""
    if not cores or not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[:cores])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _tree_megabytes(pid: int, family: set[psutil.Process]) -> float:
    """Return the resident size in MB of process `pid`, its descendants and `family`.

    The descendants join `family`, so that a child is known after its parent ended.
    """
    with contextlib.suppress(psutil.Error):
        parent = psutil.Process(pid)
        family |= {parent, *parent.children(recursive=True)}
    total = 0
    for member in family:
        with contextlib.suppress(psutil.Error):
            total += member.memory_info().rss
    return total / 2**20


def _kill_all(process: "subprocess.Popen[bytes]", family: set[psutil.Process], mark: str) -> None:
    """End a process with its group, `family`, and every process whose environment has `mark`."""
    _tree_megabytes(process.pid, family)
    if hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    for member in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if member.environ().get(MARK) == mark:
                family.add(member)
    for member in family:
        with contextlib.suppress(psutil.Error):
            member.kill()
    process.wait()
    deadline = time.monotonic() + 5
    while any(map(_is_alive, family)) and time.monotonic() < deadline:
        time.sleep(0.01)


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    except psutil.NoSuchProcess:
        return False


def remove_tree(folder: Path) -> None:
    """Remove a folder that a stranger filled, however deep: its contents are first moved up."""
    pending = [folder]
    while pending:
        current = pending.pop()
        current.chmod(0o700)
        for entry in list(os.scandir(current)):
            if entry.is_dir(follow_symlinks=False):
                os.chmod(entry, 0o700)
                moved = folder.with_name(f"{folder.name}_{uuid.uuid4().hex}")
                os.rename(entry, moved)
                pending.append(moved)
            else:
                os.unlink(entry)
        current.rmdir()
