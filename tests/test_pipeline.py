"""The whole way on tiny pictures, through the command line."""

import json
import re
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from competition import backbone_task, command_line, pipeline
from competition.common.errors import CheckFailedError, NotCheckedError, TrialFailedError
from competition.common.files import write_json
from competition.config import Config
from competition.evaluation.leaderboard import read_rows
from competition.paths import WEIGHTS
from competition.request import read_request
from tests.factories import draw_blobs

TINY = [
    "--backbone",
    "tiny_cnn",
    "--weights",
    "none",
    "--set",
    "model.head_units=16",
    "--set",
    "training.batch_size=8",
]
QUICK = [
    "--set",
    "training.frozen_epochs=0",
    "--set",
    "training.fine_tuning_epochs=8",
    "--set",
    "training.head_learning_rate=0.01",
]
TRIALS = [
    "--trials",
    "2",
    "--set",
    "search.trial_epochs=2",
    "--set",
    "search.trial_head_epochs=1",
]

WITHOUT_TENSORFLOW = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "tensorflow":
            raise ModuleNotFoundError(f"No module named '{name}'", name=name)

sys.meta_path.insert(0, Missing())
import run
code = run.main(sys.argv[1:])
assert "tensorflow" not in sys.modules
sys.exit(code)
"""


def call(workdir: Path, *arguments: str) -> int:
    return command_line.main([*arguments, "--workdir", str(workdir), *TINY, *QUICK])


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, blobs_path: Path) -> Path:
    """A folder in which the whole job has run once."""
    workdir = tmp_path_factory.mktemp("job")
    assert call(workdir, "--search", "--data", str(blobs_path), *TRIALS) == 0
    return workdir


def test_the_main_job_leaves_a_verified_zip_and_a_leaderboard(finished: Path) -> None:
    with zipfile.ZipFile(finished / "submissions/blobs/tiny_cnn_001.zip") as archive:
        assert sorted(archive.namelist()) == ["config.json", "model.py", "tiny_cnn_001.weights.h5"]
    figures = json.loads(
        (finished / "experiments/blobs/runs/tiny_cnn_001/package.json").read_text()
    )
    assert figures["images"] == 27
    assert figures["largest_difference"] < 1e-4
    table = pd.read_csv(finished / "experiments/blobs/leaderboard.csv")
    assert table["run"].tolist()[0] == "tiny_cnn_001"
    assert table["selection"][0] > 0.5
    for picture in ("history.png", "confusion.png"):
        assert (finished / "experiments/blobs/runs/tiny_cnn_001" / picture).stat().st_size > 1000


def test_the_selection_score_is_the_accuracy_on_clean_and_distorted_validation_joined(
    finished: Path,
) -> None:
    folder = finished / "experiments/blobs/runs/tiny_cnn_001"
    with np.load(folder / "predictions_validation.npz") as stored:
        labels = stored["labels"]
        hits = [stored[version][0].argmax(axis=1) == labels for version in ("clean", "revealed")]
    history = pd.read_csv(folder / "history.csv")
    selection = json.loads((folder / "metrics.json").read_text())["selection_score"]
    assert selection == pytest.approx(np.concatenate(hits).mean())
    assert selection == pytest.approx(history["val_accuracy"].max(), abs=1e-6)


def test_a_second_call_trains_and_scores_nothing_anew(finished: Path, blobs_path: Path) -> None:
    runs = finished / "experiments/blobs/runs"
    before = {path: path.stat().st_mtime_ns for path in runs.rglob("*.h5")}
    assert call(finished, "--search", "--data", str(blobs_path), *TRIALS) == 0
    assert {path: path.stat().st_mtime_ns for path in runs.rglob("*.h5")} == before
    assert json.loads((runs / "tiny_cnn_001/metrics.json").read_text())["test_looks"] == 1


def test_recording_a_public_score_shows_the_error_of_the_expectation(
    finished: Path, blobs_path: Path
) -> None:
    assert call(finished, "--record", "tiny_cnn_001", "0.5", "--data", str(blobs_path)) == 0
    row = pd.read_csv(finished / "experiments/blobs/leaderboard.csv").iloc[0]
    assert row["public"] == 0.5
    assert row["error"] == pytest.approx(row["test revealed TTA"] - 0.5)


def test_a_changed_setting_makes_a_second_row_on_the_same_splits(
    finished: Path, blobs_path: Path
) -> None:
    arguments = ["--train", "--data", str(blobs_path), "--set", "training.label_smoothing=0.2"]
    assert call(finished, *arguments) == 0
    table = pd.read_csv(finished / "experiments/blobs/leaderboard.csv").dropna(subset=["splits"])
    assert sorted(table["run"]) == ["tiny_cnn_001", "tiny_cnn_002"]
    assert table["splits"].nunique() == 1


def test_a_dry_run_and_a_grading_score_the_packaged_zip(
    finished: Path, blobs_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    zips = finished / "submissions/blobs"
    arguments = ["--grade", str(zips), "--on-test", "--data", str(blobs_path)]
    assert call(finished, *arguments, "--dry-run", str(zips / "tiny_cnn_001.zip")) == 0
    output = capsys.readouterr().out
    assert "27 distorted images of the test split" in output
    assert "look number 1 at the test with tiny_cnn_001.zip" in output
    assert call(finished, *arguments) == 0
    assert "look number 2 at the test with blobs" in capsys.readouterr().out
    scores = json.loads((finished / "experiments/blobs/runs/tiny_cnn_001/metrics.json").read_text())
    accuracy = scores["test"]["revealed"]["augmented"]["accuracy"]
    assert re.search(rf"accuracy +{accuracy:.4f}", output)
    assert pd.read_csv(finished / "experiments/blobs/grades/grades.csv")["accuracy"].tolist() == [
        accuracy
    ]
    assert "<td>" in (zips / "tiny_cnn_001.detailed_results.html").read_text()


def test_the_bundle_is_written_from_the_splits(finished: Path, blobs_path: Path) -> None:
    assert call(finished, "--bundle", "--data", str(blobs_path)) == 0
    with zipfile.ZipFile(finished / "submissions/blobs/bundle/competition.zip") as archive:
        assert {"competition.yaml", "scoring_program/metadata.yaml"} <= set(archive.namelist())


def test_a_check_that_was_not_possible_is_no_success(
    finished: Path,
    blobs_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(requirements: tuple[str, ...], cache: Path) -> Path:
        raise NotCheckedError("no internet")

    monkeypatch.setattr("competition.submission.package.server_python", fail)
    arguments = [
        "--package",
        "--check-server",
        "tensorflow==2.17.0,keras==3.4.1",
        "--data",
        str(blobs_path),
    ]
    assert call(finished, *arguments) == 3
    output = capsys.readouterr()
    assert "server versions: NOT CHECKED (no internet)" in output.out
    assert "on the server, 5000 images on 2 cores: about" in output.out
    assert "NOT CHECKED" in output.err
    assert (finished / "submissions/blobs/tiny_cnn_001.zip").is_file()


def test_a_submission_over_the_budget_is_not_written(
    finished: Path, blobs_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    zip_path = finished / "submissions/blobs/tiny_cnn_001.zip"
    before = zip_path.stat().st_mtime_ns
    assert (
        call(finished, "--package", "--set", "limits.zip_megabytes=0.01", "--data", str(blobs_path))
        == 2
    )
    assert "does not fit on the server: a zip of" in capsys.readouterr().err
    assert zip_path.stat().st_mtime_ns == before


def test_another_selection_makes_a_row_with_a_rank_of_its_own(
    finished: Path, blobs_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(finished, "--train", "--data", str(blobs_path), "--select-by", "unseen+clean") == 0
    table = pd.read_csv(finished / "experiments/blobs/leaderboard.csv").dropna(subset=["splits"])
    row = table[table["select by"] == "clean+unseen"].iloc[0]
    assert row["rank"] == 1
    assert row["selection"] == pytest.approx((row["val clean"] + row["val unseen"]) / 2)
    history = pd.read_csv(finished / "experiments/blobs/runs" / row["run"] / "history.csv")
    assert row["selection"] == pytest.approx(history["val_accuracy"].max(), abs=1e-6)
    assert call(finished, "--package", "--data", str(blobs_path), "--select-by", "microscope") == 2
    assert "add --select-by with one of clean+revealed, clean+unseen" in capsys.readouterr().err


def test_the_best_ensemble_is_smaller_where_its_zip_fails_a_check(
    finished: Path,
    blobs_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    allowed: list[int] = []

    def make(runs: Path, splits: str, config: Config, most: int) -> Path:
        allowed.append(most)
        return runs / "tiny_cnn_001"

    def package(run: Path, members: list[str], *_: Any) -> str:
        if len(set(members)) == 2:
            raise CheckFailedError("It is too slow.")
        return ""

    monkeypatch.setattr(pipeline, "make_best_ensemble", make)
    monkeypatch.setattr(pipeline, "members_of", lambda run: ["a", "a", "b"][: 4 - len(allowed)])
    monkeypatch.setattr(pipeline, "package_run", package)
    assert call(finished, "--ensemble", "best", "--data", str(blobs_path)) == 0
    assert allowed == [25, 1]
    assert "It is too slow. An ensemble of at most 1 networks follows." in capsys.readouterr().out


def test_folds_answer_what_they_never_saw_and_are_packaged_as_one(
    tmp_path: Path, blobs_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folds = ("--folds", "2", "--ensemble", "folds", "--workers", "2")
    assert call(tmp_path, "--train", *folds, "--data", str(blobs_path)) == 0
    assert "on 2 folds: accuracy" in capsys.readouterr().out
    folder = tmp_path / "experiments/blobs/folds"
    runs = sorted(folder.glob("tiny_cnn_*/history.csv"))
    assert len(runs) == 2
    assert not list(folder.glob("prepared_*")), "the images of a fold take no room afterwards"
    scores = json.loads((folder / "folds.json").read_text())["selection_scores"]
    splits, truth = np.load(tmp_path / "data/blobs/splits.npz"), np.load(blobs_path)
    with np.load(folder / "oof.npz") as stored:
        whole = np.sort(np.concatenate([splits["train"], splits["validation"]]))
        assert stored["indices"].tolist() == whole.tolist()
        assert stored["labels"].tolist() == truth["labels"].ravel()[whole].tolist()
        assert stored["versions"].tolist() == ["clean", "revealed"]
        assert stored["probabilities"].shape == (2, len(whole), 3)
        right = stored["probabilities"].argmax(axis=2) == stored["labels"]
        assert right.mean() == pytest.approx(np.mean(scores), abs=0.02)
        own = right[:, np.isin(whole, splits["validation"])].mean()
    with zipfile.ZipFile(tmp_path / "submissions/blobs/ensemble_001.zip") as archive:
        config = json.loads(archive.read("config.json"))
    assert [member["share"] for member in config["members"]] == [0.5, 0.5]
    rows = read_rows(tmp_path / "experiments/blobs/runs").to_dict("records")
    ours = next(row for row in rows if row["run"] == "ensemble_001")
    assert ours["selection"] == pytest.approx(own)
    assert len(rows) == 2
    assert rows[0]["splits"] == rows[1]["splits"]
    before = [run.stat().st_mtime_ns for run in runs]
    assert call(tmp_path, "--train", *folds, "--data", str(blobs_path)) == 0
    assert [run.stat().st_mtime_ns for run in runs] == before


def test_what_the_user_sets_wins_over_what_the_search_found(
    finished: Path, blobs_path: Path
) -> None:
    path = finished / "experiments/blobs/studies/tiny_cnn_best.json"
    before = path.read_text()
    path.write_text(
        json.dumps(json.loads(before) | {"settings": {"model.dropout": 0.4, "model.l2": 0.003}})
    )
    assert call(finished, "--train", "--data", str(blobs_path), "--set", "model.dropout=0.05") == 0
    path.write_text(before)
    newest = sorted((finished / "experiments/blobs/runs").glob("tiny_cnn_*"))[-1]
    settings = json.loads((newest / "config.json").read_text())["settings"]
    assert (settings["model.dropout"], settings["model.l2"]) == (0.05, 0.003)


def test_another_data_set_under_the_same_name_is_refused(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, labels = draw_blobs(60, 3, seed=9)
    np.savez(tmp_path / "blobs.npz", images=images, labels=labels)
    before = (finished / "data/blobs/cleaned.npz").read_bytes()
    assert call(finished, "--search", "--data", str(tmp_path / "blobs.npz"), *TRIALS) == 2
    assert "another data set" in capsys.readouterr().err
    assert (finished / "data/blobs/cleaned.npz").read_bytes() == before


def test_one_backbone_that_fails_does_not_take_the_others_along(
    tmp_path: Path,
    blobs_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    original = vars(backbone_task)["train_run"]

    def fail_for_the_custom_cnn(config: Config, *arguments: Any) -> Path:
        if config.model.backbone == "custom_cnn":
            raise TrialFailedError("The loss became infinite.")
        finished: Path = original(config, *arguments)
        return finished

    monkeypatch.setattr(backbone_task, "train_run", fail_for_the_custom_cnn)
    arguments = [
        "--train",
        "--package",
        "--data",
        str(blobs_path),
        "--backbone",
        "custom_cnn",
        "--final",
        "best",
    ]
    assert call(tmp_path, *arguments, "--workers", "1") == 2
    assert "custom_cnn: The loss became infinite." in capsys.readouterr().err
    assert (tmp_path / "submissions/blobs/tiny_cnn_001.zip").is_file()


def test_workers_beyond_the_number_of_backbones_share_a_study(
    tmp_path: Path, blobs_path: Path
) -> None:
    arguments = ["--search", "--data", str(blobs_path), "--trials", "3", "--workers", "2"]
    assert call(tmp_path, *arguments) == 0
    table = pd.read_csv(tmp_path / "experiments/blobs/studies/tiny_cnn_scratch_trials.csv")
    assert 3 <= (table["state"] == "COMPLETE").sum() <= 4  # a surplus trial harms nobody
    log = (tmp_path / "experiments/blobs/log.txt").read_text()
    assert "tiny_cnn, helper 1: done" in log


def test_a_run_of_another_budget_does_not_keep_a_backbone_that_has_no_time(tmp_path: Path) -> None:
    def has_run(*arguments: str) -> bool:
        options = command_line.build_parser().parse_args([*arguments, "--workdir", str(tmp_path)])
        return pipeline._has_run(read_request(options), data, "tiny_cnn")

    data: Any = SimpleNamespace(fingerprint="s")
    run = tmp_path / "experiments/demo/runs/tiny_cnn_001"
    write_json(run / "config.json", {"splits": "s", "time_budget_seconds": 1800.0})
    assert not has_run("--train", "--time-budget", "30m"), "it is not trained yet"
    (run / WEIGHTS).touch()
    assert has_run("--train", "--time-budget", "30m")
    assert not has_run("--train", "--time-budget", "10m")
    assert has_run("--evaluate", "--time-budget", "10m")


def test_cleaning_keeps_the_backbone_that_described_the_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def choose(name: str, *arguments: str) -> str:
        """Return the backbone, where `name` would be chosen anew."""
        monkeypatch.setattr(pipeline, "choose_embedding", lambda *_: (name, weights))
        given = ["--train", *arguments, "--workdir", str(tmp_path)]
        request = read_request(command_line.build_parser().parse_args(given))
        found, file = pipeline.choose_describer(request)
        assert file == weights
        return found

    weights = tmp_path / "weights.h5"
    weights.touch()
    assert choose("efficientnetlite0") == "efficientnetlite0"
    assert choose("mobilenetv3small", "--weights", "none") == "efficientnetlite0"
    assert (
        choose("mobilenetv3small", "--set", "cleaning.backbone=mobilenetv3large")
        == "mobilenetv3small"
    )
    assert choose("efficientnetlite0", "--clean", "--force") == "efficientnetlite0"
    weights = tmp_path / "moved.h5"
    (tmp_path / "weights.h5").unlink()
    assert choose("mobilenetv3small") == "mobilenetv3small"


def test_a_forced_search_begins_its_own_studies_anew_and_leaves_others(
    tmp_path: Path, blobs_path: Path
) -> None:
    studies = tmp_path / "experiments/blobs/studies"
    studies.mkdir(parents=True)
    for backbone in ("tiny_cnn", "custom_cnn"):
        (studies / f"{backbone}.db").write_text("of an earlier search")
    assert call(tmp_path, "--search", "--force", "--data", str(blobs_path), *TRIALS) == 0
    assert (studies / "custom_cnn.db").read_text() == "of an earlier search"
    assert (studies / "tiny_cnn.db").read_bytes().startswith(b"SQLite format 3")


def test_where_everything_is_set_there_is_nothing_to_search(
    tmp_path: Path, blobs_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ["model.head_units=9", "model.dropout=0.1", "model.l2=0", "augmentation=mild"]
    settings += ["training.head_learning_rate=0.001", "training.label_smoothing=0"]
    settings += ["training.optimizer=adam", "training.schedule=cosine"]
    arguments = [item for setting in settings for item in ("--set", setting)]
    assert call(tmp_path, "--search", "--data", str(blobs_path), *arguments) == 0
    output = capsys.readouterr().out
    assert "nothing to search" in output
    assert "tiny_cnn: settings as given" in output


def test_a_time_budget_is_used_and_not_overrun(
    tmp_path: Path, blobs_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    started = time.monotonic()
    arguments = ["--search", "--data", str(blobs_path), "--time-budget", "75s", *TRIALS]
    assert call(tmp_path, *arguments) in (0, 4)
    assert 25 < time.monotonic() - started < 105
    output = capsys.readouterr().out
    assert "Time budget 1 min 15 s" in output
    history = pd.read_csv(tmp_path / "experiments/blobs/runs/tiny_cnn_001/history.csv")
    assert history["learning_rate"].iloc[-1] < 0.05 * history["learning_rate"].max()
    assert not (tmp_path / "experiments/blobs/clock.json").exists()


def test_what_is_no_better_than_chance_is_packaged_with_a_warning_and_exit_code_4(
    tmp_path: Path, blobs_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--train", "--package", "--data", str(blobs_path), "--workdir", str(tmp_path)]
    hopeless = ["--set", "training.head_learning_rate=1e-8", "--set", "training.frozen_epochs=0"]
    assert (
        command_line.main([*arguments, *TINY, *hopeless, "--set", "training.fine_tuning_epochs=1"])
        == 4
    )
    assert "IS WORTH NOTHING" in capsys.readouterr().err
    assert (tmp_path / "submissions/blobs/tiny_cnn_001.zip").is_file()


def test_results_of_an_earlier_version_are_refused_with_one_sentence(
    tmp_path: Path, blobs_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(tmp_path, "--clean", "--data", str(blobs_path)) == 0
    marker = tmp_path / "experiments/blobs/data.json"
    marker.write_text(json.dumps({"data": json.loads(marker.read_text())["data"]}))
    assert call(tmp_path, "--train", "--data", str(blobs_path)) == 2
    assert "of an earlier version of this program" in capsys.readouterr().err


@pytest.mark.skipif(
    subprocess.run([sys.executable, "-c", "import jax"], capture_output=True).returncode != 0,
    reason="jax is missing",
)
def test_the_main_job_runs_on_jax_without_tensorflow(tmp_path: Path, blobs_path: Path) -> None:
    arguments = [
        "--search",
        "--data",
        str(blobs_path),
        "--workdir",
        str(tmp_path),
        *TINY,
        *QUICK,
        *TRIALS,
    ]
    environment = {"KERAS_BACKEND": "jax", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TENSORFLOW, *arguments],
        cwd=Path(__file__).parents[1], env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert "jax" in done.stdout.splitlines()[0]
    assert (tmp_path / "submissions/blobs/tiny_cnn_001.zip").is_file()
