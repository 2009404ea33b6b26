"""Studies are shared by processes and survive their deaths: nothing is lost, and nothing done twice."""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import FrozenTrial, TrialState

from competition.study import open_study
from tests.study_process import TRIALS, make_job


def start(folder: Path, way: str, *storage: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-W", "ignore", "-m", "tests.study_process", str(folder), way, *storage]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> str:
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return output


def require_all_done_once(trials: list[FrozenTrial], interrupted: int) -> None:
    """Require TRIALS complete trials of different settings, and those of the interrupted ones among them."""
    complete = [trial.params for trial in trials if trial.state == TrialState.COMPLETE]
    assert len(complete) == TRIALS
    assert set(Counter(str(params) for params in complete).values()) == {1}
    assert sum(trial.state == TrialState.RUNNING or trial.state == TrialState.WAITING for trial in trials) == 0
    lost = [trial.params for trial in trials if trial.state == TrialState.FAIL and "surplus" not in trial.user_attrs]
    assert len(lost) >= interrupted
    for params in lost:
        assert sum(params.items() <= other.items() for other in complete) >= 1, "an interrupted draw is lost"


def test_a_search_that_is_killed_at_any_point_goes_on(tmp_path: Path) -> None:
    finish(start(tmp_path, "die"))
    require_all_done_once(open_study(make_job(tmp_path)).trials, interrupted=3)


def test_two_processes_share_one_file_and_count_together(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/shared.db"
    both = [start(tmp_path, "work", url) for _ in range(2)]
    outputs = [finish(process) for process in both]
    require_all_done_once(open_study(make_job(tmp_path, url)).trials, interrupted=0)
    assert all(output.count(" with ") > 1 for output in outputs)


@pytest.fixture
def postgresql() -> Iterator[str]:
    """The URL of a PostgreSQL server of this test's own."""
    pytest.importorskip("psycopg", reason="no driver for PostgreSQL: pip install psycopg[binary]")
    found = [*Path("/usr/lib/postgresql").glob("*/bin/initdb"), Path(shutil.which("initdb") or "/nowhere")]
    if not found[0].is_file():
        pytest.skip("no PostgreSQL server here: apt-get install postgresql")
    user: dict[str, Any] = {}
    folder = Path(tempfile.mkdtemp())
    if os.getuid() == 0:  # which the server refuses
        user = {"user": "nobody"}
        os.chown(folder, pwd.getpwnam("nobody").pw_uid, -1)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    binaries, quiet = found[0].parent, {"check": True, "stdout": subprocess.DEVNULL, "cwd": "/", **user}
    options = f"-p {port} -k {folder} -h 127.0.0.1 -F"
    subprocess.run([binaries / "initdb", "-D", folder / "data", "-U", "search", "-A", "trust", "-N"], **quiet)
    control = [binaries / "pg_ctl", "-D", folder / "data", "-w", "-s"]
    subprocess.run([*control, "-l", folder / "log", "-o", options, "start"], **quiet)
    try:
        yield f"postgresql+psycopg://search:secret@127.0.0.1:{port}/postgres"
    finally:
        subprocess.run([*control, "-m", "immediate", "stop"], **quiet)
        shutil.rmtree(folder)


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_a_trial_of_a_killed_worker_is_done_once_by_another(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    url = f"sqlite:///{tmp_path}/shared.db" if kind == "sqlite" else request.getfixturevalue("postgresql")
    victim, other = start(tmp_path, "hang", url), start(tmp_path, "work", url)
    assert victim.stdout is not None
    assert "hangs" in victim.stdout.read(6)
    victim.send_signal(signal.SIGKILL)
    assert "was interrupted: it is tried again" in finish(other)
    require_all_done_once(open_study(make_job(tmp_path, url)).trials, interrupted=1)
