"""The console: plain lines, a log file, the progress of tasks, and one line of status."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from competition.common import console
from competition.common.console import (
    Status,
    describe_seconds,
    log_settings,
    log_to,
    part_of_task,
    progress,
    quiet_import,
    say,
    task,
    tell_progress,
    timed,
)
from competition.common.errors import UserError

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave what this process has said so far as it is."""
    monkeypatch.setattr(
        console, "_here", dict(console._here, log=None, quiet=False, task=None, told=0.0)
    )


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (200, "3 min 20 s"),
        (3599.7, "1 h 00 min"),
        (3900, "1 h 05 min"),
        (90000, "25 h 00 min"),
    ],
)
def test_a_duration_reads_as_a_person_would_say_it(seconds: float, text: str) -> None:
    assert describe_seconds(seconds) == text


def test_what_is_said_stands_in_the_log_file_too_with_its_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "deep" / "log.txt"
    say("before")
    log_to(path)
    assert log_settings()[0] == path
    say("one")
    say("two\nlines")
    log_to(None)
    say("after")
    assert capsys.readouterr().out == "before\none\ntwo\nlines\nafter\n"
    lines = path.read_text().splitlines()
    assert [line[9:] if ":" in line[:3] else line for line in lines] == ["one", "two", "lines"]


def test_a_step_says_in_one_line_how_long_it_took(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with timed("cleaning"):
        pass
    assert capsys.readouterr().out == "cleaning: done in 0 s\n"


def test_a_bar_is_silent_where_no_terminal_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(progress(range(3), "counting")) == [0, 1, 2]
    assert capsys.readouterr() == ("", "")


def test_a_task_tells_its_share_of_all_its_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "TELL_SECONDS", -1.0)
    path = tmp_path / "task.json"
    told = []
    with task(path):
        tell_progress(0.5, "a whole task")
        told.append(json.loads(path.read_text()))
        with part_of_task(0.2, 1.0):
            with part_of_task(0.25, 0.75):
                tell_progress(0.25, "a part of its second part")
                told.append(json.loads(path.read_text()))
            tell_progress(0.5, "its second part")
            told.append(json.loads(path.read_text()))
    told.append(json.loads(path.read_text()))
    doing = ["a whole task", "a part of its second part", "its second part", "done"]
    assert [item["doing"] for item in told] == doing
    assert [item["share"] for item in told] == pytest.approx([0.5, 0.5, 0.6, 1.0])
    assert os.listdir(tmp_path) == ["task.json"]
    tell_progress(0.1, "nothing any more")
    assert json.loads(path.read_text())["doing"] == "done"


def test_progress_is_told_at_most_every_few_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [1000.0]
    monkeypatch.setattr(console, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    path = tmp_path / "task.json"
    with task(path):
        tell_progress(0.1, "first")
        tell_progress(0.2, "too soon")
        assert json.loads(path.read_text())["doing"] == "first"
        clock[0] += console.TELL_SECONDS + 0.1
        tell_progress(0.3, "later")
        assert json.loads(path.read_text())["doing"] == "later"


def test_a_task_that_fails_is_told_to_be_over(tmp_path: Path) -> None:
    with pytest.raises(UserError), task(tmp_path / "task.json"):
        raise UserError("no weights")
    assert json.loads((tmp_path / "task.json").read_text())["share"] == 1.0


def test_without_a_task_progress_goes_nowhere(tmp_path: Path) -> None:
    tell_progress(0.5, "nothing")
    assert not list(tmp_path.iterdir())


def test_a_log_or_notebook_has_a_line_of_status_once_a_minute(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = [1000.0]
    monkeypatch.setattr(console, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    status = Status(0)
    for number in range(13):
        status.show(f"line {number}")
        clock[0] += 10
    status.close()
    assert capsys.readouterr().out == "line 6\nline 12\n"


class Terminal:
    """Counts as a terminal, and keeps what is written to it."""

    def __init__(self) -> None:
        self.text = ""

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self.text += text
        return len(text)

    def flush(self) -> None:
        """Do nothing."""


def test_a_terminal_shows_the_status_at_once_and_wipes_it_out_at_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    terminal: Any = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    status = Status(0)
    for minutes in (3, 2):
        status.show(f"{minutes} min left")
        assert f"{minutes} min left" in terminal.text
    status.close()
    assert terminal.text.endswith("\r")


def test_while_libraries_load_nothing_reaches_standard_error() -> None:
    program = (
        "import os, sys\n"
        "from competition.common.console import quiet_import\n"
        "with quiet_import():\n"
        "    os.write(2, b'noise')\n"
        "    print('noise', file=sys.stderr)\n"
        "print('heard', file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stderr == "heard\n"


def test_standard_error_comes_back_after_an_import_that_fails(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(ModuleNotFoundError), quiet_import():
        raise ModuleNotFoundError
    os.write(2, b"heard")
    assert capfd.readouterr().err == "heard"


def test_a_line_wipes_out_what_a_bar_has_left_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    terminal: Any = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    say("short")
    assert "\rshort\x1b[K" in terminal.text


def test_quiet_leaves_what_is_said_to_the_log_file_but_for_the_result(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log_to(tmp_path / "log.txt", quiet=True)
    say("step 1")
    say("the result", always=True)
    assert capsys.readouterr().out == "the result\n"
    assert "step 1" in (tmp_path / "log.txt").read_text()
    assert log_settings() == (tmp_path / "log.txt", True)


def test_names_that_the_console_cannot_print_are_escaped(tmp_path: Path) -> None:
    program = (
        "from pathlib import Path; from competition.common.console import *\n"
        "escape_output(); log_to(Path('log.txt'))\n"
        "say('\\u7ec6\\u80de'); say('im\\udcff.png'); say('Zürich')\n"
        "assert printable('im\\udcff.png') == r'im\\udcff.png'\n"
    )
    environment = os.environ | {"PYTHONIOENCODING": "cp1252", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, check=False)
    assert done.stderr == b""
    lines = done.stdout.decode("cp1252").splitlines()
    assert lines == [r"\u7ec6\u80de", r"im\udcff.png", "Zürich"]
    log = (tmp_path / "log.txt").read_text(encoding="utf-8")
    assert "细胞" in log
    assert r"im\udcff.png" in log
