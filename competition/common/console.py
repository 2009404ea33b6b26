"""What the user sees: plain lines on standard output, progress bars on standard error."""

import os
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from tqdm import tqdm

Item = TypeVar("Item")
_bar = {
    "position": 0
}  # the line of this process's progress bars, where several processes draw some


def say(text: str = "") -> None:
    """Print one line (or block) at once, also when the output is piped, without tearing a progress bar."""
    if sys.stdout.isatty():  # what another process's bar has left on these lines is wiped out
        text = "\r" + text.replace("\n", "\x1b[K\n") + "\x1b[K"
    tqdm.write(text, file=sys.stdout)
    sys.stdout.flush()


def headline(text: str) -> None:
    """Print the title of a stage."""
    say(f"\n== {text}")


def progress(
    items: Iterable[Item], what: str, total: int | None = None, unit: str = "it"
) -> Iterable[Item]:
    """Iterate with a bar that shows what is done and the time left; silent where standard error is no terminal."""
    return draw_bar(items, desc=what, total=total, unit=unit)


def draw_bar(items: Iterable[Any] | None = None, **settings: Any) -> Any:
    """Return a tqdm bar in the place of this process, silent where standard error is no terminal."""
    bar: Any = tqdm
    return bar(items, disable=None, leave=False, **_bar, **settings)


def set_bar_position(position: int) -> None:
    """Draw this process's bars that many lines below the first."""
    _bar["position"] = position


@contextmanager
def quiet_import() -> Iterator[None]:
    """Keep what TensorFlow's libraries write to standard error while they load away from the user."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
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
    """Say what begins, and how long it took when it ended."""
    started = time.perf_counter()
    say(f"{what} ...")
    yield
    say(f"{what}: done in {describe_seconds(time.perf_counter() - started)}")


def describe_seconds(seconds: float) -> str:
    """Return a duration as a person would say it: 8 s, 3 min 20 s, 1 h 05 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
