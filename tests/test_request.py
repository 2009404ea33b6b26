"""A call of the command line becomes one typed record; its mistakes are told before any work."""

import argparse
import os
import subprocess
import sys
from pathlib import Path

import pytest

from competition.backbones import COMPARED
from competition.command_line import build_parser
from competition.common.errors import UserError
from competition.config import PRESETS, Config
from competition.paths import WEIGHTS
from competition.request import STAGES, Request, parse_duration, read_request, with_final

ROOT = Path(__file__).parents[1]


def read(*arguments: str, workdir: Path = Path("/nowhere")) -> Request:
    return read_request(build_parser().parse_args([*arguments, "--workdir", str(workdir)]))


@pytest.mark.parametrize(
    ("text", "seconds"), [("90m", 5400), ("1.5h", 5400), ("75s", 75), ("90", 90), (" 2h ", 7200)]
)
def test_durations_have_units(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds
    assert read("--search", "--time-budget", text).budget_seconds == seconds


@pytest.mark.parametrize("text", ["", "fast", "-3m", "0", "0h", "90x", "1e3", "m"])
def test_a_bad_duration_is_refused(text: str) -> None:
    with pytest.raises(
        argparse.ArgumentTypeError, match=r"expected a duration as 90m, 1\.5h or 600s"
    ):
        parse_duration(text)


def test_an_unknown_metric_is_refused_before_any_work() -> None:
    assert read("--train").config.metric == "accuracy"
    assert read("--train", "--metric", "quadratic_kappa").config.metric == "quadratic_kappa"
    with pytest.raises(UserError, match="metric got 'rmse', and expects one of accuracy, balanced"):
        read("--train", "--metric", "rmse")


def test_search_asks_for_all_and_another_stage_for_itself() -> None:
    search = read("--search", "--data", "x.npz")
    assert all(search.wants(stage) for stage in STAGES)
    assert search.trains
    clean = read("--clean", "--data", "x.npz")
    assert [stage for stage in STAGES if clean.wants(stage)] == ["clean"]
    assert not clean.trains
    assert not clean.asks_server
    assert read("--package").trains
    assert read("--bundle").asks_server


def test_force_redoes_the_named_stages_alone() -> None:
    request = read("--train", "--force")
    assert [stage for stage in STAGES if request.forces(stage)] == ["train"]
    assert not any(read("--train").forces(stage) for stage in STAGES)
    assert all(read("--search", "--force").forces(stage) for stage in STAGES)


def test_without_data_it_is_the_demo_with_settings_and_folders_of_its_own(tmp_path: Path) -> None:
    request = read("--search", workdir=tmp_path)
    assert request.is_demo
    assert request.data is None
    assert request.paths.experiments == tmp_path / "experiments" / "demo"
    assert request.config.model.input_size == PRESETS["demo"]["model.input_size"]
    assert read("--search", "--seed", "3").paths.name == "demo_3"


def test_the_default_training_file_is_found(tmp_path: Path) -> None:
    path = tmp_path / "data" / "training_set.npz"
    path.parent.mkdir()
    path.touch()
    request = read("--search", workdir=tmp_path)
    assert request.data == path
    assert not request.is_demo
    assert request.paths.name == "training_set"
    assert request.config == Config()


def test_nothing_is_written_into_the_folder_of_the_user_s_images(tmp_path: Path) -> None:
    images = tmp_path / "data" / "leaves"
    images.mkdir(parents=True)
    (images / "train.csv").touch()
    for path, name in ((images, "leaves_results"), (images / "train.csv", "train")):
        for _ in range(2):  # the same command goes on
            paths = read("--clean", "--data", str(path), workdir=tmp_path).paths
            assert paths.name == name
            paths.data.mkdir(exist_ok=True)
            (paths.data / "cleaning.json").touch()
    (tmp_path / "data" / "leaves.csv").touch()  # beside its images, data/leaves
    table = tmp_path / "data" / "leaves.csv"
    assert read("--clean", "--data", str(table), workdir=tmp_path).paths.name == "leaves_results"
    for arguments in (("--data", str(images), "--name", "leaves"), ("--data", str(images.parent))):
        with pytest.raises(UserError, match="among its images; give another --name"):
            read("--clean", *arguments, workdir=tmp_path)


def test_a_published_data_set_is_named_and_a_file_of_that_name_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = read("--clean", "--data", "bloodmnist:64", workdir=tmp_path)
    assert request.published is not None
    assert request.data == tmp_path / "data" / "downloads" / "bloodmnist_64.npz"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bloodmnist").mkdir()
    request = read("--clean", "--data", "bloodmnist", "--name", "mine")
    assert (request.published, request.data) == (None, Path("bloodmnist"))
    assert request.paths.name == "mine"


def test_what_is_given_last_and_more_singly_wins() -> None:
    request = read("--train", "--preset", "baseline", "--set", "training.batch_size=8")
    assert request.config.training.batch_size == 8
    assert request.config.training.warm_up == PRESETS["baseline"]["training.warm_up"]
    request = read("--train", "--seed", "4", "--set", "seed=5", "--set", "seed=6")
    assert request.config.seed == 6
    changes = ("--set", "augmentation.rate=0.3", "--set", "augmentation=none")
    assert read("--train", *changes).config.augmentation.rate == 0
    changes = ("--set", "augmentation=none", "--set", "augmentation.rate=0.3")
    assert read("--train", *changes).config.augmentation.rate == 0.3
    request = read("--search", "--trials", "7", "--weights", "none")
    assert (request.config.search.trials, request.config.weights) == (7, "none")


def test_settings_of_the_user_are_fixed_and_a_presets_where_nothing_is_searched() -> None:
    changes = ("--preset", "baseline", "--set", "training.batch_size=8")
    assert read("--search", *changes).fixed_keys == {"training.batch_size"}
    expected = {"training.batch_size", *PRESETS["baseline"]}
    assert read("--train", *changes).fixed_keys == expected


def test_one_selection_has_one_name_in_whatever_order_it_is_given() -> None:
    for text in ("revealed+clean", "clean+revealed"):
        assert read("--train", "--select-by", text).config.training.select_by == "clean+revealed"


def final(*arguments: str, pretrained: tuple[str, ...]) -> str:
    return with_final(read("--search", *arguments), pretrained).final


def test_the_packaged_backbone_is_mobilenet_where_that_is_fair_else_the_best_or_the_named() -> None:
    every = ("mobilenetv3large", "efficientnetb0", "efficientnetlite0")
    assert final(pretrained=every) == "mobilenetv3large"
    assert final(pretrained=()) == "mobilenetv3large"
    assert final(pretrained=("efficientnetlite0",)) == "best", "others begin from random weights"
    assert final("--final", "mobilenetv3large", pretrained=("efficientnetlite0",)) == (
        "mobilenetv3large"
    )
    assert final("--backbone", "custom_cnn", pretrained=()) == "best"
    assert final("--backbone", "custom_cnn", "--final", "custom_cnn", pretrained=()) == "custom_cnn"


def test_what_is_trained_is_taken_unless_training_or_other_backbones_are_asked_for(
    tmp_path: Path,
) -> None:
    assert read("--package", workdir=tmp_path).backbones == COMPARED
    for name in ("convnexttiny_002", "mobilenetv3large_001", "custom_cnn_001"):
        run = tmp_path / "experiments" / "demo" / "runs" / name
        run.mkdir(parents=True)
        if name != "custom_cnn_001":  # which was stopped while it trained
            (run / WEIGHTS).touch()
    for flags in (["--package"], ["--ensemble", "best"], ["--predict", str(tmp_path)]):
        assert set(read(*flags, workdir=tmp_path).backbones) == {"convnexttiny", "mobilenetv3large"}
    for flag in ("--search", "--train"):
        assert read(flag, workdir=tmp_path).backbones == COMPARED
    for named in (("--backbone", "custom_cnn"), ("--set", "model.backbone=custom_cnn")):
        assert read("--package", *named, workdir=tmp_path).backbones == ("custom_cnn",)


def test_an_ensemble_is_packaged(tmp_path: Path) -> None:
    for name in ("a_001", "b_001"):
        (tmp_path / "experiments" / "demo" / "runs" / name).mkdir(parents=True)
    request = read("--ensemble", "a_001", "b_001", workdir=tmp_path)
    assert request.ensemble == ("a_001", "b_001")
    assert request.wants("package")
    for word in ("best", "folds"):
        assert read("--ensemble", word, workdir=tmp_path).ensemble == (word,)


def test_a_record_is_a_run_and_its_score() -> None:
    assert read("--record", "a_001", "0.82").record == ("a_001", 0.82)
    assert read("--leaderboard").record is None


def test_server_versions_are_requirements() -> None:
    versions = "tensorflow==2.17.0,keras==3.4.1"
    request = read("--package", "--check-server", versions)
    assert request.server == ("tensorflow==2.17.0", "keras==3.4.1")


@pytest.mark.parametrize("folds", ["1", "-2"])
def test_a_single_fold_is_refused(folds: str) -> None:
    with pytest.raises(UserError, match=f"--folds got {folds}, and expects 2 or more"):
        read("--train", "--folds", folds)


@pytest.mark.parametrize("flag", ["--trials", "--workers"])
@pytest.mark.parametrize("number", ["0", "-1"])
def test_none_at_all_is_refused(flag: str, number: str) -> None:
    with pytest.raises(UserError, match=f"{flag} got {number}, and expects 1 or more"):
        read("--search", flag, number)


def test_a_request_is_one_value_that_never_changes() -> None:
    arguments = ("--search", "--time-budget", "90m", "--set", "training.batch_size=8")
    assert read(*arguments).identity == read(*arguments).identity
    assert read(*arguments).identity != read(*arguments, "--seed", "1").identity
    with pytest.raises(AttributeError):
        read(*arguments).force = True  # type: ignore[misc]


def test_a_command_that_is_given_again_is_known_in_another_process() -> None:
    code = """
from competition.command_line import build_parser
from competition.request import read_request
given = ["--train", "--package", "--evaluate", "--preset", "best", "--set", "seed=3"]
print(read_request(build_parser().parse_args(given)).identity)
"""
    texts = {
        subprocess.run(
            [sys.executable, "-c", code],
            env=dict(os.environ, PYTHONHASHSEED=seed),
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in "123"
    }
    assert len(texts) == 1


@pytest.mark.parametrize("other", [("--record", "one_001", "0.8"), ("--explain-gap", "one_001")])
def test_a_zip_that_answers_alone_does_nothing_else(other: tuple[str, ...]) -> None:
    with pytest.raises(UserError, match="leave out all but --predict"):
        read("--predict", "x.npz", "--from", "one.zip", *other)


def test_more_folds_than_are_possible_are_refused_before_the_work() -> None:
    with pytest.raises(UserError, match=r"split\.folds"):
        read("--train", "--folds", "60")


def test_a_budget_in_which_nothing_can_be_learnt_is_refused_at_once() -> None:
    with pytest.raises(UserError, match=r"--time-budget got 5 s, .* give 60s at least"):
        read("--search", "--time-budget", "5s")
    assert read("--clean", "--time-budget", "5s").budget_seconds == 5
