"""Requests by recipe: --config, --like and what --predict needs, checked before any work."""

from pathlib import Path

import pytest

from competition.command_line import build_parser
from competition.common.errors import UserError
from competition.common.settings_files import write_settings
from competition.config import Config, with_settings
from competition.request import Request, read_request

TRAINED = with_settings(
    Config(),
    {"model.backbone": "custom_cnn", "model.dropout": 0.15, "training.batch_size": 8, "seed": 4},
)


@pytest.fixture
def workdir(tmp_path: Path) -> Path:
    """A place with one run of the data set `cells`."""
    folder = tmp_path / "experiments" / "cells" / "runs" / "custom_cnn_003"
    write_settings(folder / "settings.toml", TRAINED)
    (tmp_path / "cells.npz").touch()
    return tmp_path


def read(workdir: Path, *arguments: str) -> Request:
    options = [*arguments, "--data", str(workdir / "cells.npz"), "--workdir", str(workdir)]
    return read_request(build_parser().parse_args(options))


@pytest.mark.parametrize(
    "arguments",
    [
        ["--like", "custom_cnn_003"],
        ["--like", "{runs}/custom_cnn_003"],
        ["--like", "{runs}/custom_cnn_003/settings.toml"],
        ["--config", "{runs}/custom_cnn_003/settings.toml"],
    ],
)
def test_what_lies_beside_a_run_is_read_back_and_one_setting_changes_it(
    arguments: list[str], workdir: Path
) -> None:
    runs = str(workdir / "experiments/cells/runs")
    arguments = [text.format(runs=runs) for text in arguments]
    request = read(workdir, "--train", *arguments, "--set", "model.dropout=0.3")
    assert request.config == with_settings(TRAINED, {"model.dropout": 0.3})
    assert request.backbones == ("custom_cnn",)
    assert "training.batch_size" in request.fixed_keys


def test_a_search_may_change_what_a_file_sets_but_not_what_set_names(workdir: Path) -> None:
    request = read(workdir, "--search", "--like", "custom_cnn_003", "--set", "model.dropout=0.3")
    assert request.fixed_keys == {"model.dropout"}
    assert request.config.training.batch_size == 8


def test_a_config_wins_over_a_run_and_a_run_over_a_preset(workdir: Path) -> None:
    file = workdir / "mine.toml"
    file.write_text('augmentation = "none"\n[training]\nbatch_size = 24\n')
    given = ["--preset", "baseline", "--like", "custom_cnn_003", "--config", str(file)]
    config = read(workdir, "--train", *given).config
    assert config.training.batch_size == 24
    assert config.model.dropout == 0.15
    assert config.split.balance_to == 0
    assert config.augmentation.rate == 0


def test_a_sample_and_a_run_are_told_apart_by_their_suffix(workdir: Path) -> None:
    sample = workdir / "sample_submission.csv"
    sample.touch()
    likes = ["--like", "custom_cnn_003", "--like", str(sample)]
    request = read(workdir, "--predict", str(workdir), *likes)
    assert request.sample == sample
    assert request.config.seed == 4
    assert request.wants("package")


def test_a_zip_alone_needs_no_data_and_answers_in_its_own_folder(tmp_path: Path) -> None:
    zip_path = tmp_path / "submissions" / "cells" / "custom_cnn_003.zip"
    given = ["--predict", str(tmp_path), "--from", str(zip_path), "--workdir", str(tmp_path)]
    request = read_request(build_parser().parse_args(given))
    assert not request.stages
    assert not request.is_demo
    assert request.paths.name == "cells"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--train", "--like", "custom_cnn_3"], "no run in .*; known are custom_cnn_003"),
        (["--train", "--like", "a", "--like", "b"], "expects one run"),
        (["--train", "--like", "sample.csv"], "add --predict with their path"),
        (["--train", "--skip-unreadable"], "add --predict with their path"),
        (["--train", "--config", "nowhere.toml"], "There is no nowhere.toml"),
        (["--train", "--config", "{workdir}/typo.toml"], "typo.toml: .*'training.batch_size'"),
        (["--predict", "nowhere"], "--predict got nowhere, which does not exist"),
        (["--predict", "{workdir}", "--like", "none.csv"], "--like got none.csv, which is no file"),
        (["--predict", "{workdir}", "--from", "a.zip", "--train"], "leave out all but --predict"),
    ],
)
def test_what_does_not_go_together_gets_one_sentence(
    arguments: list[str], sentence: str, workdir: Path
) -> None:
    (workdir / "typo.toml").write_text("[training]\nbach_size = 24\n")
    with pytest.raises(UserError, match=sentence):
        read(workdir, *(text.format(workdir=workdir) for text in arguments))
