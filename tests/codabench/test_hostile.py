"""Hostile submissions, graded together: each gets its row, and reaches nothing outside."""

import os
import socket
from pathlib import Path

import numpy as np
import psutil
import pytest

from competition import scoring
from competition.codabench.dry_run import Reference
from competition.codabench.grade import grade_zips
from competition.codabench.sandbox import can_isolate, remove_tree
from competition.common.files import digest
from competition.config import LimitsConfig
from tests.factories import IMAGES, PLAIN, write_zip

LABELS = np.arange(70) % 3
HONEST = PLAIN.replace("zeros(len(X), int)", "arange(len(X)) % 3")
ZEROS = 24 / 70
# What most of them need; `out` is where the predictions are kept.
START = """
import atexit, os, signal, socket, subprocess, sys, time, zipfile
import numpy as np
out = sys.argv[sys.argv.index("--output") + 1]
predictions = out + "/predictions.npz"
def answer(**arrays):
    np.savez(predictions, **arrays)
"""
RIGHT = "labels=np.arange(70) % 3, seconds=np.zeros(3)"
# Name -> what its model.py does before it answers zeros; its reason, or '' where it is graded.
KINDS = {
    "reads the labels": ("np.load('{labels}')", "No such file"),
    "rewrites the scoring program": ("open('{scoring}', 'a').write('#')", "No such file"),
    "damages another zip": ("open('{other}', 'r+b').write(b'no zip')", "No such file"),
    "writes into the home of programs": (
        "open(os.path.join(sys.prefix, 'lib', 'left'), 'w')",
        "Read-only file system",
    ),
    "mounts all writable": (
        "subprocess.run(['mount', '-o', 'remount,rw', '/usr'], check=True)",
        "non-zero exit status",
    ),
    "tells a secret": (
        "sys.exit(os.environ.get('CODABENCH_PASSWORD', 'there is none'))",
        "is none",
    ),
    "reads the passwords": ("open('/etc/shadow')", "No such file"),
    "asks the network": ("socket.create_connection(('127.0.0.1', {port}), 2)", "refused"),
    "kills the grader": ("os.kill({pid}, signal.SIGKILL)", "No such process"),
    "stops all it sees": (
        "for pid in filter(str.isdigit, os.listdir('/proc')):\n"
        "    int(pid) == os.getpid() or os.kill(int(pid), signal.SIGSTOP)",
        "",
    ),
    "stops itself": ("os.kill(os.getpid(), signal.SIGSTOP)", "stopped after 12 s"),
    "leaves a daemon": (
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        "    code = 'import time; time.sleep(99)'\n"
        "    os.fork() or os.execve(sys.executable, ['left-daemon', '-c', code], {{}})\n"
        "    os._exit(0)",
        "",
    ),
    "rewrites its predictions behind": (
        "if os.fork() == 0:\n    time.sleep(2)\n    answer(" + RIGHT + ")\n    os._exit(0)",
        "",
    ),
    "ends before it is asked": ("os._exit(0)", "leaves no readable predictions: No such file"),
    "leaves keys out": ("answer(labels=np.zeros(70, int))\nos._exit(0)", "'seconds' is missing"),
    "predictions with a pipe": ("os.mkfifo(predictions)\nos._exit(0)", "no plain file"),
    "answers with a link": (
        "os.symlink('/etc/passwd', predictions)\nos._exit(0)",
        "Too many levels of symbolic links",
    ),
    "predictions elsewhere": (
        "os.rename(out, out + '_')\nos.symlink(out + '_', out)\nanswer(" + RIGHT + ")\nos._exit(0)",
        "replaced by a link",
    ),
    "predictions a bomb": (
        "np.savez_compressed(predictions, labels=np.zeros(70, int), seconds=np.zeros(10**7))\n"
        "os._exit(0)",
        "'labels' is compressed",
    ),
    "predictions too much": (
        "answer(labels=np.zeros(10**6, int), seconds=np.zeros(3))\nos._exit(0)",
        "no plain file of at most",
    ),
    "predictions a shape beyond memory": (
        "head = dict(descr='<i8', fortran_order=False, shape=(10**15,))\n"
        "with zipfile.ZipFile(predictions, 'w') as made, made.open('labels.npy', 'w') as file:\n"
        "    np.lib.format.write_array_header_1_0(file, head)\n"
        "os._exit(0)",
        "'labels' is int64 of shape",
    ),
    "lies about its time": (
        "atexit.register(answer, labels=np.zeros(70, int), seconds=np.full(3, np.nan))",
        "",
    ),
    "puts pipes in place of all files": (
        "for name in os.listdir(out + '/../program'):\n"
        "    os.remove(out + '/../program/' + name)\n"
        "    os.mkfifo(out + '/../program/' + name)",
        "",
    ),
    "nests 1200 folders": (
        "for number in range(1200):\n    os.mkdir('n' * 99)\n    os.chdir('n' * 99)",
        "",
    ),
    "colours the terminal": ("sys.exit('\\x1b]0;owned\\x07\\x1b[31mred')", "owned"),
}


@pytest.mark.skipif(
    not can_isolate(), reason="no bubblewrap, or no namespaces: submissions cannot be isolated here"
)
def test_whatever_submissions_do_each_has_its_row_and_nothing_outside_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    submissions = tmp_path / "submissions"
    temporary = tmp_path / "temporary"
    for folder in (submissions, temporary):
        folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    monkeypatch.setenv("CODABENCH_PASSWORD", "rosebud")
    np.save(tmp_path / "labels.npy", LABELS)
    last = write_zip(submissions / "z honest.zip", {"model.py": HONEST})
    with socket.create_server(("127.0.0.1", 0)) as server:
        facts = {
            "labels": tmp_path / "labels.npy",
            "scoring": scoring.__file__,
            "other": last,
            "port": server.getsockname()[1],
            "pid": os.getpid(),
        }
        for name, (action, _) in KINDS.items():
            model = START + action.format(**facts) + "\n" + PLAIN
            write_zip(submissions / f"{name}.zip", {"model.py": model})
        watched = [*sorted(submissions.iterdir()), tmp_path / "labels.npy", Path(scoring.__file__)]
        before = [digest(path) for path in watched]
        table = grade_zips(
            submissions,
            IMAGES,
            Reference(LABELS, ("a", "b", "c")),
            LimitsConfig(seconds=12, memory_megabytes=500, zip_megabytes=1),
            tmp_path / "results",
        ).set_index("submission")

    for name, (_, reason) in KINDS.items():
        row = table.loc[f"{name}.zip"]
        if reason:
            assert reason in row["reason"], name
            assert row["reason"].isprintable(), name
        else:
            assert row["accuracy"] == pytest.approx(ZEROS), (name, row["reason"])
            assert 0 < row["duration"] < 12, name
    assert table.loc["z honest.zip", "accuracy"] == 1
    assert len(table) == len(KINDS) + 1
    assert table["isolated"].all()
    assert [digest(path) for path in watched] == before
    assert list(temporary.iterdir()) == []
    assert not any("left-daemon" in process.name() for process in psutil.process_iter(["name"]))


def test_where_programs_cannot_be_isolated_the_table_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("grade", "sandbox"):
        monkeypatch.setattr(f"competition.codabench.{module}.can_isolate", lambda: False)
    write_zip(tmp_path / "honest.zip", {"model.py": HONEST})
    table = grade_zips(
        tmp_path, IMAGES, Reference(LABELS, ("a", "b", "c")), LimitsConfig(), tmp_path / "results"
    )
    assert table[["accuracy", "isolated"]].to_numpy().tolist() == [[1, False]]


def test_a_tree_too_deep_for_a_path_is_removed(tmp_path: Path) -> None:
    (tmp_path / "beside").mkdir()
    deep = tmp_path / "deep"
    deep.mkdir()
    home = os.getcwd()
    try:
        os.chdir(deep)
        for _ in range(100):
            os.mkdir("n" * 99)
            os.chdir("n" * 99)
    finally:
        os.chdir(home)
    (deep / "link").symlink_to(tmp_path / "beside")
    remove_tree(deep)
    assert [path.name for path in tmp_path.iterdir()] == ["beside"]
