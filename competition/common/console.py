"""Output for the user: plain lines on standard output, progress bars on standard error."""

import io
import json
import logging
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

Item = TypeVar("Item")
TELL_SECONDS = 2.0  # between two signs of progress of a task
ESCAPE = "backslashreplace"  # writes as numbers the letters that a console or file cannot hold
STATUS_SECONDS = 60.0  # between two lines of status, where no terminal shows a bar
# Of this process: the line of its bars, the log file, the file in which a task tells its progress
# with the part of the task that is under way, and when the status was last said.
# quiet: whether `say` writes to the log file alone.
_here: dict[str, Any] = {
    "position": 0,
    "log": None,
    "quiet": False,
    "task": None,
    "part": (0.0, 1.0),
    "told": 0.0,
}


def say(text: str = "", always: bool = False) -> None:
    """Print a line or block at once, without tearing a progress bar; the log file gets it too.

    always: print it in quiet mode, too.
    """
    if _here["log"] is not None:
        with _here["log"].open("a", encoding="utf-8", errors=ESCAPE) as stream:
            stream.write(f"{time.strftime('%H:%M:%S')} {text}\n")
    if _here["quiet"] and not always:
        return
    if sys.stdout.isatty():  # wipes out the rest of another process's bar
        text = "\r" + text.replace("\n", "\x1b[K\n") + "\x1b[K"
    tqdm.write(text, file=sys.stdout)
    sys.stdout.flush()


def escape_output() -> None:
    """Let this process print any name; letters that the console's encoding lacks are escaped."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=ESCAPE)


def printable(text: str) -> str:
    """Return a name as UTF-8 can hold it: undecodable bytes of a file's name are escaped."""
    return text.encode("utf-8", ESCAPE).decode("utf-8")


def log_to(path: Path | None, quiet: bool = False) -> None:
    """Let `say` append to a log file, too; with `quiet` to the log file alone."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
    _here.update(log=path, quiet=quiet)


def log_settings() -> tuple[Path | None, bool]:
    """Return the arguments that `log_to` had, for another process."""
    return _here["log"], _here["quiet"]


@contextmanager
def task(path: Path) -> Iterator[None]:
    """Let `tell_progress` write to a file, where the main process reads this task's progress.

    It tells in the end that the task is done, or has failed: nothing more will come.
    """
    _here.update(task=path, part=(0.0, 1.0))
    try:
        yield
    finally:
        _write_task(1.0, "done")
        _here["task"] = None


@contextmanager
def part_of_task(low: float, high: float) -> Iterator[None]:
    """Let progress count for a part, from a share `low` to `high` of the part around it."""
    start, end = around = _here["part"]
    _here["part"] = start + low * (end - start), start + high * (end - start)
    try:
        yield
    finally:
        _here["part"] = around


def tell_progress(share: float, doing: str) -> None:
    """Tell the main process that a share 0..1 of the part is done; cheap at every step."""
    if _here["task"] is not None and time.monotonic() - _here["told"] > TELL_SECONDS:
        _here["told"] = time.monotonic()
        low, high = _here["part"]
        _write_task(low + share * (high - low), doing)


def _write_task(share: float, doing: str) -> None:
    temporary = _here["task"].with_suffix(".new")
    temporary.write_text(json.dumps({"share": share, "doing": doing}), encoding="utf-8")
    os.replace(temporary, _here["task"])


class Status:
    """One line on where the whole job stands: on a terminal always, elsewhere once a minute."""

    def __init__(self, position: int) -> None:
        self.position = position
        self.bar: Any = None
        self.said = time.monotonic()

    def show(self, text: str) -> None:
        """Show the line."""
        if _here["quiet"]:
            return
        if sys.stderr.isatty():
            if self.bar is None:
                self.bar = tqdm(bar_format="{desc}", position=self.position, leave=False)
            self.bar.set_description_str(text)
        elif time.monotonic() - self.said >= STATUS_SECONDS:
            self.said = time.monotonic()
            say(text)

    def close(self) -> None:
        """Remove the line."""
        if self.bar is not None:
            self.bar.close()


def headline(text: str) -> None:
    """Print the title of a stage."""
    say(f"\n== {text}")


def progress(
    items: Iterable[Item], what: str, total: int | None = None, unit: str = "it"
) -> Iterable[Item]:
    """Iterate with a bar and the time left; silent where standard error is no terminal."""
    return draw_bar(items, desc=what, total=total, unit=unit)


def draw_bar(items: Iterable[Any] | None = None, **settings: Any) -> Any:
    """Return a tqdm bar on the line of this process; silent where there is no terminal."""
    bar: Any = tqdm
    disable = _here["quiet"] or None  # None: where there is no terminal
    return bar(items, disable=disable, leave=False, position=_here["position"], **settings)


def set_bar_position(position: int) -> None:
    """Draw this process's bars that many lines below the first."""
    _here["position"] = position


@contextmanager
def quiet_import() -> Iterator[None]:
    """Discard the lines that TensorFlow's libraries write to standard error while they load."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    logging.getLogger("tensorflow").setLevel("ERROR")  # it warns where each network has its trace
    sys.stderr.flush()
    kept = os.dup(2)
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 2)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(kept, 2)
        os.close(kept)
        os.close(silent)


@contextmanager
def timed(what: str) -> Iterator[None]:
    """Say how long a step took when it ends; until then a terminal shows that it runs."""
    started = time.perf_counter()
    with draw_bar(desc=what, bar_format="{desc} ..."):
        yield
    say(f"{what}: done in {describe_seconds(time.perf_counter() - started)}")


def align_columns(columns: Iterable[Sequence[str]], left: Sequence[bool]) -> list[str]:
    """Return the lines of a table from its columns; `left` tells which are aligned to the left."""
    aligned = []
    for texts, is_left in zip(columns, left, strict=True):
        width = max(map(len, texts))
        align = str.ljust if is_left else str.rjust
        aligned.append([align(text, width) for text in texts])
    return ["  ".join(row).rstrip() for row in zip(*aligned, strict=True)]


def describe_seconds(seconds: float) -> str:
    """Return a duration as a person would say it: 8 s, 3 min 20 s, 1 h 05 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
