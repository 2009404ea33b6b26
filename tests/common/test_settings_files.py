"""Settings in files: written as TOML, read back alike, with one sentence for what does not fit."""

from pathlib import Path

import pytest

from competition.common.errors import UserError
from competition.common.settings import flatten
from competition.common.settings_files import read_settings, write_settings
from competition.config import Config, with_settings


def test_settings_that_were_written_are_read_back_alike(tmp_path: Path) -> None:
    changes = {
        "codabench.title": 'Cells of "Zürich" \\ Ω',
        "training.head_learning_rate": 1e-7,
        "training.class_weights": True,
        "seed": 7,
    }
    config = with_settings(Config(), changes)
    write_settings(tmp_path / "settings.toml", config)
    settings = read_settings(tmp_path / "settings.toml")
    assert settings == flatten(config)
    assert with_settings(Config(), settings) == config


def test_a_few_settings_are_read_in_tables_or_by_dotted_keys(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('augmentation = "mild"\nmodel.dropout = 0.2\n[training]\nbatch_size = 16\n')
    settings = read_settings(path)
    assert settings == {"augmentation": "mild", "model.dropout": 0.2, "training.batch_size": 16}
    assert with_settings(Config(), settings).augmentation.magnitude == 0.4


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("mine.toml", "batch_size: 16", r"mine.toml cannot be read .*line 1"),
        ("mine.toml", "[training]\nbatch_size = [16]", r"sets training.batch_size to \[16\]"),
    ],
)
def test_a_file_that_holds_anything_else_is_refused(
    name: str, text: str, sentence: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=sentence):
        read_settings(tmp_path / name)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"There is no .*mine.toml"):
        read_settings(tmp_path / "mine.toml")
