"""The server's versions: built once, never half; five backbones alike under TensorFlow 2.17."""

import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from competition.backbones import COMPARED
from competition.common.errors import NotCheckedError, UserError
from competition.config import LimitsConfig, SubmissionConfig
from competition.submission.package import TOLERANCE, predict_mean, verify, write_submission
from competition.submission.server_versions import cache_folder, parse_requirements, server_python
from tests.factories import IMAGES, make_run

SERVER = ("tensorflow==2.17.0", "keras==3.4.1")


@pytest.mark.parametrize(
    "text", ["", "tensorflow", "tensorflow>=2.17", "tensorflow==2.17.0,", "--user==1", "a==1 b==2"]
)
def test_only_exact_versions_are_taken(text: str) -> None:
    with pytest.raises(UserError, match="expects exact versions"):
        parse_requirements(text)


def test_versions_are_told_apart_by_commas() -> None:
    assert parse_requirements("tensorflow==2.17.0, keras==3.4.1") == SERVER


def fake_pip(code: int, error: str, calls: list[list[str]]) -> object:
    """Stand in for subprocess.run: `venv` lays an interpreter down, `pip` ends as told."""

    def run(command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
        calls.append(command)
        if "venv" in command:
            python = Path(command[-1]) / "bin" / "python"
            python.parent.mkdir(parents=True)
            python.symlink_to(sys.executable)
            return subprocess.CompletedProcess(command, 0, "", "")
        return subprocess.CompletedProcess(command, code, "", error)

    return run


@pytest.mark.parametrize(
    ("output", "kind", "sentence"),
    [
        (
            "WARNING: Retrying after connection broken by NewConnectionError\n"
            "ERROR: No matching distribution found for a",
            NotCheckedError,
            "index cannot be reached",
        ),
        (
            "ERROR: No matching distribution found for a==1",
            UserError,
            "There is no a==1 for Python",
        ),
        (
            "ERROR: Could not install packages: No space left on device\nHint",
            NotCheckedError,
            "pip fails: .* No space",
        ),
    ],
)
def test_what_cannot_be_built_says_why_and_leaves_nothing(
    output: str,
    kind: type[Exception],
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        "competition.submission.server_versions.subprocess.run", fake_pip(1, output, [])
    )
    with pytest.raises(kind, match=sentence):
        server_python(("a==1",), tmp_path)
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


def test_a_folder_that_cannot_be_written_is_no_check(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(NotCheckedError, match="no environment can be kept"):
        server_python(("a==1",), tmp_path / "file" / "cache")


def test_an_environment_is_built_once_by_whoever_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[list[str]] = []
    monkeypatch.setattr(
        "competition.submission.server_versions.subprocess.run", fake_pip(0, "", calls)
    )
    threads = [
        threading.Thread(target=server_python, args=(("a==1", "b==2"), tmp_path)) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 2
    assert calls[1][-2:] == ["a==1", "b==2"]


def test_a_half_built_environment_is_built_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[list[str]] = []
    monkeypatch.setattr(
        "competition.submission.server_versions.subprocess.run", fake_pip(0, "", calls)
    )
    python = server_python(("a==1",), tmp_path)
    (python.parents[1] / "done.json").unlink()
    (python.parent / "half").write_text("")
    assert server_python(("a==1",), tmp_path) == python
    assert not (python.parent / "half").exists()
    python.unlink()  # the Python it was made of is gone
    server_python(("a==1",), tmp_path)
    assert len(calls) == 6


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_all_backbones_answer_alike_under_the_servers_versions(tmp_path: Path) -> None:
    try:
        python = server_python(SERVER, cache_folder())
    except (NotCheckedError, UserError) as error:
        pytest.skip(f"the server's versions were not tried: {error}")
    # One zip whose members are all of them, so that the old TensorFlow starts once.
    runs = [make_run(tmp_path, backbone)[0] for backbone in COMPARED]
    write_submission(runs, 2, SubmissionConfig(batch_size=35), tmp_path / "five")
    zip_path = Path(shutil.make_archive(str(tmp_path / "five"), "zip", tmp_path / "five"))
    for run in runs:
        labels = predict_mean([run], IMAGES, 2, 35).argmax(axis=1)
        assert len(set(labels)) > 1, "predictions that tell nothing"
    expected = predict_mean(runs, IMAGES, 2, 35)
    _, difference = verify(zip_path, IMAGES, expected, LimitsConfig(), python)
    assert difference < TOLERANCE / len(runs)
