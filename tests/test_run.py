"""The command line: quick help, one sentence for each mistake before any long work, exit codes."""

import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from urllib.error import URLError

import h5py
import numpy as np
import pytest

from competition import command_line
from competition.common.errors import (
    CheckFailedError,
    NotCheckedError,
    UserError,
    WorthlessError,
)
from competition.common.files import exclusive
from competition.request import Request
from tests.factories import draw_blobs

ROOT = Path(__file__).parents[1]


def listing(folder: Path) -> dict[str, int]:
    """Return when each file was changed, but for the lock and the log of what was said."""
    return {
        str(path): path.stat().st_mtime_ns
        for path in folder.rglob("*")
        if path.is_file() and path.name not in (".lock", "log.txt")
    }


Call = Callable[..., str]


@pytest.fixture
def call(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Call:
    """Make a call that is a mistake; return the sentence that tells it."""

    def call(*arguments: str) -> str:
        before = listing(tmp_path)
        assert command_line.main([*arguments, "--workdir", str(tmp_path)]) == 2
        assert listing(tmp_path) == before
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert error.count("\n") == 1
        return error

    return call


def write_data(path: Path, **changes: object) -> str:
    images, labels = draw_blobs(60, 3, seed=0)
    np.savez(path, **({"images": images, "labels": labels} | changes))  # type: ignore[arg-type]
    return str(path)


def test_help_loads_neither_keras_nor_pandas() -> None:
    slow = "{'keras', 'pandas', 'optuna', 'tensorflow', 'sklearn', 'matplotlib'}"
    program = (
        "import sys; from competition import command_line; "
        "command_line.build_parser().format_help(); "
        f"print(sorted({slow} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_no_option_says_where_things_stand_and_options_without_a_stage_are_a_mistake(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert command_line.main([]) == 0
    assert "python run.py --search" in capsys.readouterr().out
    assert command_line.main(["--seed", "1"]) == 2
    assert "name a stage" in capsys.readouterr().out


def test_an_unknown_flag_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        command_line.main(["--serach"])
    assert stop.value.code == 2
    assert "Unknown argument '--serach'; did you mean '--search'?" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "fast", "-3m", "0", "90x"])
def test_a_bad_duration_is_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        command_line.main(["--search", f"--time-budget={text}"])
    assert stop.value.code == 2
    assert "expected a duration as 90m, 1.5h or 600s" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--search", "--backbone", "mobilenetv3larg"], "did you mean 'mobilenetv3large'"),
        (["--search", "--final", "bestt"], "Unknown backbone 'bestt'"),
        (["--search", "--final", "efficientnetv2b0"], "add --backbone efficientnetv2b0"),
        (["--train", "--set", "training.bach_size=3"], "did you mean 'training.batch_size'"),
        (["--train", "--set", "training.batch_size"], "expects KEY=VALUE"),
        (["--train", "--select-by", "clean+reveiled"], "did you mean 'revealed'"),
        (["--train", "--set", "training.select_by="], "Unknown version to select by ''"),
        (["--train", "--set", "model.dropout=2"], "a number from 0 to 0.95"),
        (["--search", "--set", "search.trials=0"], "search.trials got '0'"),
        (["--search", "--trials", "0"], "--trials got 0, and expects 1 or more"),
        (["--search", "--workers", "0"], "--workers got 0, and expects 1 or more"),
        (["--train", "--folds", "1"], "--folds got 1, and expects 2 or more"),
        (["--clean", "--data", "missing.npz"], "missing.npz"),
        (["--clean", "--name", "mine"], "needs --data"),
        (
            ["--clean", "--data", "bloodmnist:99"],
            "known are bloodmnist, bloodmnist:64, bloodmnist:128, bloodmnist:224",
        ),
        (["--search", "--weights", "nowhere", "--backbone", "mobilenetv3small"], "nowhere"),
        (
            ["--search", "--storage", "sqlite:////no/such/folder/study.db"],
            "/no/such/folder/study.db cannot be used",
        ),
        (["--dry-run", "nowhere.zip"], "nowhere.zip, which is no file"),
        (["--grade", "nowhere"], "nowhere, which holds no zip"),
        (["--ensemble", "tiny_cnn_001", "tiny_cnn_002"], "no such run"),
        (["--on-test", "--bundle"], "--on-test says which images"),
        (["--bundle", "--set", "codabench.start=soon"], "codabench.start got 'soon'"),
        (["--train", "--check-server", "keras==3.4.1"], "give both"),
        (["--package", "--check-server", "keras"], "expects exact versions"),
        (["--record", "tiny_cnn_001", "0.8"], "There is no scored run"),
        (["--record", "tiny_cnn_001", "good"], "expects a number"),
    ],
)
def test_mistakes_on_the_command_line_get_one_sentence(
    arguments: list[str], sentence: str, call: Call
) -> None:
    assert sentence in call(*arguments)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"labels": np.full(60, 1.5)}, "labels"),
        ({"labels": np.arange(60)}, "class"),
        ({"images": np.zeros((60, 32, 32), np.float32)}, "images"),
        ({"labels": np.array([object()] * 60)}, "pickle"),
    ],
)
def test_bad_data_gets_one_sentence(
    changes: dict[str, object], sentence: str, tmp_path: Path, call: Call
) -> None:
    path = write_data(tmp_path / "bad.npz", **changes)
    assert sentence in call("--clean", "--data", path)


def test_weights_of_another_network_are_refused_before_the_long_work(
    tmp_path: Path, call: Call
) -> None:
    path = tmp_path / "mobilenetv3small_imagenet_notop.weights.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("layers/dense/vars/0", data=np.zeros(3))
    data = write_data(tmp_path / "good.npz")
    arguments = [
        "--search",
        "--data",
        data,
        "--weights",
        str(path),
        "--backbone",
        "mobilenetv3small",
    ]
    assert "does not hold weights of this backbone" in call(*arguments)


def test_without_internet_a_published_data_set_is_not_had(
    tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object, **names: object) -> None:
        raise URLError("Name or service not known")

    monkeypatch.setattr("competition.data.download.urlopen", refuse)
    error = call("--clean", "--data", "bloodmnist:64")
    assert "no internet (Name or service not known)" in error
    assert f"put the file at {tmp_path / 'data' / 'downloads' / 'bloodmnist_64.npz'}" in error
    assert (tmp_path / "experiments" / "bloodmnist_64").is_dir()


def test_two_runs_in_one_folder_do_not_meet(tmp_path: Path, call: Call) -> None:
    data = write_data(tmp_path / "good.npz")
    entered, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with exclusive(tmp_path / "experiments" / "good"):
            entered.set()
            leave.wait(20)

    holder = threading.Thread(target=hold)
    holder.start()
    entered.wait(20)
    try:
        assert "Another run is at work" in call("--clean", "--data", data)
    finally:
        leave.set()
        holder.join()


def test_a_full_disk_is_told_before_the_work(
    tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_data(tmp_path / "good.npz")
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 2**20})())
    assert "1 MB free" in call("--clean", "--data", data)


def test_a_disk_that_fills_up_on_the_way_gets_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fill(*arguments: object, **names: object) -> None:
        raise OSError(28, "No space left on device", str(tmp_path / "tsne.npz"))

    data = write_data(tmp_path / "good.npz")
    monkeypatch.setattr("competition.pipeline.clean", fill)
    assert (
        command_line.main(
            ["--clean", "--data", data, "--workdir", str(tmp_path), "--weights", "none"]
        )
        == 1
    )
    error = capsys.readouterr().err
    assert "No space left on device" in error
    assert "Traceback" not in error


@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [
        (None, 0, ""),
        (OSError(28, "No space left", "map.npz"), 1, "error: map.npz: No space left; mend that"),
        (UserError("This is wrong."), 2, "error: This is wrong."),
        (CheckFailedError("The zip is slow."), 2, "error: The zip is slow."),
        (NotCheckedError("no pip"), 3, "server versions: NOT CHECKED (no pip)"),
        (WorthlessError("IT IS WORTH NOTHING"), 4, "IT IS WORTH NOTHING"),
        (KeyboardInterrupt(), 130, "Stopped. The same command goes on from here."),
    ],
)
def test_the_exit_code_and_one_sentence_tell_how_it_ended(
    error: BaseException | None,
    code: int,
    sentence: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def end(request: Request) -> None:
        if error is not None:
            raise error

    monkeypatch.setattr("competition.pipeline.run", end)
    assert command_line.main(["--leaderboard"]) == code
    told = capsys.readouterr().err.strip()
    assert told.startswith(sentence)
    assert "\n" not in told


def test_an_error_in_the_program_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def stumble(request: Request) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("competition.pipeline.run", stumble)
    with pytest.raises(ZeroDivisionError):
        command_line.main(["--leaderboard"])
