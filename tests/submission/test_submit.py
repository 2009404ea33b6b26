"""Handing in, by programs on PATH that behave as codabench-client 0.1 and kaggle 2.2 do."""

import sys
from pathlib import Path

import pytest

from competition import command_line
from competition.common.errors import UserError
from competition.common.files import write_json
from competition.evaluation.leaderboard import read_rows
from competition.submission.submit import (
    LATEST,
    Target,
    find_file,
    find_program,
    hand_in,
    read_target,
)

CODABENCH = """
import argparse, json, os, pathlib, sys
parser = argparse.ArgumentParser(prog="codabench")
submit = parser.add_subparsers(required=True).add_parser("submit")
submit.add_argument("competition")
submit.add_argument("-z", "--zip", required=True)
submit.add_argument("--wait", action="store_true")
submit.add_argument("--timeout", type=int)
submit.add_argument("--results-json")
given = parser.parse_args()
if not os.environ.get("CODABENCH_PASSWORD"):
    sys.exit("error: missing credentials: set CODABENCH_USERNAME and CODABENCH_PASSWORD")
if given.competition == "404":
    sys.exit("error: GET /api/competitions/404/ failed (404): " + os.environ["CODABENCH_PASSWORD"])
assert pathlib.Path(given.zip).is_file() and given.wait and given.timeout
status = "Failed" if given.competition == "13" else "Finished"
score = None if given.competition == "1" else {"metric": "Accuracy", "score": 0.8125}
results = {"submission_id": 42, "status": status, "primary": score, "metrics": {}}
pathlib.Path(given.results_json).write_text(json.dumps(results))
"""
KAGGLE = """
import argparse, os, pathlib, sys
parser = argparse.ArgumentParser(prog="kaggle")
group = parser.add_subparsers(required=True).add_parser("competitions")
submit = group.add_subparsers(required=True).add_parser("submit")
submit.add_argument("competition")
submit.add_argument("-f", "--file", required=True)
submit.add_argument("-m", "--message", required=True)
submit.add_argument("--wait", type=int)
given = parser.parse_args()
if not os.environ.get("KAGGLE_API_TOKEN"):
    print("Authentication required to call the Kaggle API.")
    sys.exit(1)
assert pathlib.Path(given.file).is_file() and given.wait
print("Submission ref: 7")
print("Submission status: PENDING...")
score = "(not published)" if given.competition == "secret" else "0.91234"
print(f"Submission scored. Public score: {score}")
"""


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PATH that holds both, with a user who is logged in."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in (("codabench", CODABENCH), ("kaggle", KAGGLE)):
        (folder / name).write_text(f"#!{sys.executable}\n{text}")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setenv("CODABENCH_PASSWORD", "very secret")
    monkeypatch.setenv("KAGGLE_API_TOKEN", "very secret")
    return folder


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """What is handed in."""
    path = tmp_path / "a_001.zip"
    path.write_text("zip")
    return path


@pytest.mark.parametrize(
    ("service", "competition", "score"),
    [
        ("codabench", "4430", 0.8125),
        ("codabench", "1", None),
        ("kaggle", "cells", 0.91234),
        ("kaggle", "secret", None),
    ],
)
def test_what_is_handed_in_has_the_score_that_the_service_shows(
    service: str, competition: str, score: float | None, programs: Path, file: Path
) -> None:
    assert hand_in(file, Target(LATEST, service, competition)) == score


@pytest.mark.parametrize(
    ("service", "missing", "cure"),
    [
        ("codabench", "CODABENCH_PASSWORD", "set CODABENCH_USERNAME and CODABENCH_PASSWORD"),
        ("kaggle", "KAGGLE_API_TOKEN", "kaggle auth login"),
    ],
)
def test_a_user_who_is_not_logged_in_is_told_how(
    service: str,
    missing: str,
    cure: str,
    programs: Path,
    file: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv(missing)
    with pytest.raises(UserError, match=f"knows no user here.*cells: {cure}"):
        hand_in(file, Target(LATEST, service, "cells"))


def test_what_fails_is_told_without_any_secret(programs: Path, file: Path) -> None:
    with pytest.raises(UserError, match=r"`codabench` failed \(1\): .*\(404\): \*\*\*\.") as caught:
        hand_in(file, Target(LATEST, "codabench", "404"))
    assert "secret" not in str(caught.value)
    with pytest.raises(UserError, match="submission 42 as Failed; codabench outputs"):
        hand_in(file, Target(LATEST, "codabench", "13"))


@pytest.mark.parametrize(
    ("service", "package"), [("codabench", "codabench-client"), ("kaggle",) * 2]
)
def test_a_program_that_is_not_installed_is_named(
    service: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    with pytest.raises(UserError, match=f"`{service}`, .* not installed: pip install {package}"):
        find_program(Target(LATEST, service, "1"))


def test_the_competition_is_named_here_or_in_the_settings() -> None:
    assert read_target("kaggle:cells", "") == Target(LATEST, "kaggle", "cells")
    assert read_target("a_001", "codabench:4430") == Target("a_001", "codabench", "4430")
    address = "codabench:https://codabench.org/competitions/4430/"
    assert read_target(address, "kaggle:x").competition.startswith("https://")
    for given, setting in ((LATEST, ""), ("a_001", "codabench"), ("kaggle:", ""), ("x", "y:1")):
        with pytest.raises(UserError, match="expects codabench:NUMBER or kaggle:NAME"):
            read_target(given, setting)


def test_the_file_is_the_named_one_that_of_a_run_or_the_latest(tmp_path: Path) -> None:
    folder = tmp_path / "submissions"
    folder.mkdir()
    with pytest.raises(UserError, match=r"finds no \.zip in .*; --package writes zips"):
        find_file(Target(LATEST, "codabench", "1"), folder)
    for name in ("b_001.zip", "a_001.csv", "a_001.zip"):
        (folder / name).write_text("")
    assert find_file(Target(LATEST, "codabench", "1"), folder).name == "a_001.zip"
    assert find_file(Target("b_001", "codabench", "1"), folder).name == "b_001.zip"
    assert find_file(Target("a_001", "kaggle", "x"), folder).name == "a_001.csv"
    own = folder / "b_001.zip"
    assert find_file(Target(str(own), "kaggle", "x"), folder) == own
    with pytest.raises(
        UserError, match=r"no \.csv of b_001 in .*; --predict PATH writes predictions"
    ):
        find_file(Target("b_001", "kaggle", "x"), folder)


def test_the_command_line_keeps_the_score_on_the_leaderboard(
    programs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "experiments/cells/runs/tiny_cnn_001"
    scores = {"plain": {"accuracy": 0.5, "interval": [0.4, 0.6]}}
    scored = {name: {"clean": scores, "revealed": scores} for name in ("validation", "test")}
    facts = {"selection_score": 0.5, "select_by": "clean+revealed", "not_scored": []}
    write_json(run / "metrics.json", scored | facts)
    write_json(run / "config.json", {"splits": "s"})
    (tmp_path / "submissions/cells").mkdir(parents=True)
    (tmp_path / "submissions/cells/tiny_cnn_001.zip").write_text("")
    call = ["--name", "cells", "--workdir", str(tmp_path), "--submit"]
    assert command_line.main([*call, "codabench:4430"]) == 0
    assert "tiny_cnn_001.zip: public score 0.8125" in capsys.readouterr().out
    assert read_rows(run.parent).iloc[0]["public"] == 0.8125
    assert command_line.main([*call, "codabench:404"]) == 2
    assert "submitting: `codabench` failed" in capsys.readouterr().err
