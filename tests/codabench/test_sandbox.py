"""Strangers' zips and programs: no byte lands outside, no limit is passed, no process is left."""

import os
import struct
import sys
import time
import zipfile
from pathlib import Path

import psutil
import pytest

from competition.codabench.sandbox import extract, run_limited
from competition.common.errors import CheckFailedError
from tests.factories import PLAIN, write_zip


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        ({"../model.py": PLAIN}, "leads outside"),
        ({"/model.py": PLAIN}, "leads outside"),
        ({"..\\model.py": PLAIN}, "leads outside"),
        ({"C:\\model.py": PLAIN}, "leads outside"),
        ({"model.py": PLAIN, "a/../../b": ""}, "leads outside"),
        ({"folder/model.py": PLAIN}, "at the top of the zip"),
        ({"readme.txt": ""}, "no model.py"),
        ({"model.py": PLAIN, "b/model.py": PLAIN}, "expected one model.py"),
        ({"model.py": PLAIN, "zeros": "0" * 2**22}, "unpacks to over 2 MB"),
        ({"model.py": PLAIN} | {str(number): "" for number in range(1000)}, "1001 files"),
    ],
)
def test_bad_zips_are_refused_with_a_reason(
    files: dict[str, str], sentence: str, tmp_path: Path
) -> None:
    target = tmp_path / "deep" / "target"
    with pytest.raises(CheckFailedError, match=sentence):
        extract(write_zip(tmp_path / "bad.zip", files), target, 2)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["bad.zip"]


def test_links_are_refused(tmp_path: Path) -> None:
    entry = zipfile.ZipInfo("model.py")
    entry.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "link.zip", "w") as archive:
        archive.writestr(entry, "/etc/passwd")
    with pytest.raises(CheckFailedError, match="leads outside"):
        extract(tmp_path / "link.zip", tmp_path / "target", 2)


def test_a_bomb_that_declares_less_than_it_holds_stops_at_what_it_declares(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "bomb.zip", {"model.py": PLAIN, "zeros": "0" * 2**24})
    size, small = struct.pack("<I", 2**24), struct.pack("<I", 2**10)
    content = path.read_bytes()
    assert content.count(size) == 2
    path.write_bytes(content.replace(size, small))
    with pytest.raises(CheckFailedError, match="cannot be unzipped"):
        extract(path, tmp_path / "target", 2)
    assert sum(file.stat().st_size for file in (tmp_path / "target").iterdir()) < 2**20


@pytest.mark.parametrize("kind", ["truncated", "encrypted", "no zip"])
def test_broken_zips_are_refused(kind: str, tmp_path: Path) -> None:
    path = write_zip(tmp_path / "bad.zip", {"model.py": PLAIN * 99})
    content = bytearray(path.read_bytes())
    if kind == "truncated":
        content = content[60:]
    elif kind == "encrypted":
        content[6] |= 1
        content[content.index(b"PK\1\2") + 8] |= 1
    else:
        content = bytearray(b"hello")
    path.write_bytes(content)
    with pytest.raises(CheckFailedError, match="cannot be unzipped"):
        extract(path, tmp_path / "target", 2)


@pytest.mark.parametrize("kind", ["long", "zip64"])
def test_a_list_of_files_too_long_to_be_read_is_refused_unread(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "many.zip"
    if kind == "long":
        write_zip(path, {f"{number:0200d}": "" for number in range(6000)})
    else:
        path.write_bytes(b"PK\6\7" + bytes(16) + b"PK\5\6" + bytes(18))
    monkeypatch.setattr(zipfile, "ZipFile", None)
    with pytest.raises(CheckFailedError, match="more files than any submission needs"):
        extract(path, tmp_path / "target", 2)


def test_folders_beside_the_model_are_kept(tmp_path: Path) -> None:
    extract(
        write_zip(tmp_path / "good.zip", {"model.py": PLAIN, "weights/a.txt": "1"}),
        tmp_path / "target",
        2,
    )
    assert (tmp_path / "target/weights/a.txt").read_text() == "1"


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


CHILD = """
import subprocess, time
child = subprocess.Popen(['sleep', '60']{})
open('pid', 'w').write(str(child.pid))
time.sleep(60)
"""
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
    with pytest.raises(CheckFailedError, match="stopped after 2 s"):
        run_text(CHILD.format(session), tmp_path, seconds=2)
    assert is_gone(wait_for(tmp_path / "pid"))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.parametrize("seconds", [0.0, 60.0])
def test_a_stray_that_left_the_tree_dies_too(seconds: float, tmp_path: Path) -> None:
    if seconds:
        with pytest.raises(CheckFailedError, match="stopped after 1 s"):
            run_text(STRAY.format(seconds), tmp_path, seconds=1)
    else:
        run_text(STRAY.format(seconds), tmp_path)
    assert not (tmp_path / "pid").is_file() or is_gone(wait_for(tmp_path / "pid"))


def test_memory_counts_children(tmp_path: Path) -> None:
    program = (
        "import subprocess, sys, time; "
        "large = 'x = bytearray(400 << 20); import time; time.sleep(60)'; "
        "subprocess.Popen([sys.executable, '-c', large]); time.sleep(60)"
    )
    with pytest.raises(CheckFailedError, match="over the limit of 300 MB"):
        run_text(program, tmp_path, seconds=20)


def test_what_prints_without_end_is_stopped(tmp_path: Path) -> None:
    with pytest.raises(CheckFailedError, match="had printed"):
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
