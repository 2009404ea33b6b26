"""The settings themselves: defaults, presets, the flat table, and the table for people."""

import json
from typing import Any

import pytest

from competition import command_line
from competition.common.errors import UserError
from competition.common.settings import flatten, list_fields
from competition.config import (
    PRESETS,
    SECTION_PRESETS,
    Config,
    describe_settings,
    unflatten,
    with_settings,
)


@pytest.mark.parametrize(
    ("key", "given", "expected"),
    [
        ("training.batch_size", "16", 16),
        ("training.batch_size", 16.0, 16),
        ("training.label_smoothing", "1e-2", 0.01),
        ("training.label_smoothing", 0, 0.0),
        ("training.optimizer", "lion", "lion"),
        ("augmentation.flips", "False", False),
        ("augmentation.flips", "1", True),
        ("training.class_weights", True, True),
        ("seed", "7", 7),
        ("weights", "none", "none"),
    ],
)
def test_a_dotted_key_changes_its_setting_alone(key: str, given: Any, expected: Any) -> None:
    table = flatten(with_settings(Config(), {key: given}))
    assert table.pop(key) == expected
    untouched = flatten(Config())
    del untouched[key]
    assert table == untouched


@pytest.mark.parametrize(
    ("key", "given", "expected"),
    [("model.l2", "0", 0.0), ("seed", "3", 3), ("augmentation.flips", "true", True)],
)
def test_text_becomes_the_type_of_the_setting(key: str, given: str, expected: Any) -> None:
    assert type(flatten(with_settings(Config(), {key: given}))[key]) is type(expected)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        (
            "training.batch_size",
            "many",
            ["training.batch_size", "'many'", "a whole number from 1 to 4096"],
        ),
        ("training.batch_size", "0", ["'0'", "from 1 to 4096"]),
        ("training.batch_size", "5000", ["'5000'", "from 1 to 4096"]),
        ("training.batch_size", "2.5", ["'2.5'", "a whole number"]),
        ("training.batch_size", 2.5, ["'2.5'", "a whole number"]),
        ("training.batch_size", True, ["'True'", "a whole number"]),
        ("training.batch_size", None, ["'None'", "a whole number"]),
        ("training.label_smoothing", "0.95", ["'0.95'", "a number from 0 to 0.9"]),
        ("training.label_smoothing", "nan", ["'nan'", "a number from 0 to 0.9"]),
        ("training.optimizer", "sgd", ["'sgd'", "one of adam, adamw, lion"]),
        ("augmentation.flips", "yes please", ["'yes please'", "true or false"]),
        ("seed", "-1", ["'-1'", "from 0 to"]),
    ],
)
def test_a_bad_value_names_what_came_and_what_is_expected(
    key: str, value: Any, words: list[str]
) -> None:
    with pytest.raises(UserError) as caught:
        with_settings(Config(), {key: value})
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("key", "near"),
    [
        ("training.batchsize", "training.batch_size"),
        ("batch_size", "batch_size"),
        ("sead", "seed"),
        ("training.batch_size.more", "training.batch_size"),
    ],
)
def test_an_unknown_key_names_a_near_one(key: str, near: str) -> None:
    with pytest.raises(UserError, match=rf"Unknown setting '{key}'; did you mean '[a-z.]*{near}'"):
        with_settings(Config(), {key: 1})


def test_a_section_cannot_be_set_to_a_value() -> None:
    with pytest.raises(UserError, match="Unknown setting 'training'"):
        with_settings(Config(), {"training": "fast"})


def test_an_unknown_backbone_names_a_near_one() -> None:
    with pytest.raises(
        UserError, match="Unknown backbone 'efficientnet_b0'; did you mean 'efficientnetb0'"
    ):
        with_settings(Config(), {"model.backbone": "efficientnet_b0"})


def test_a_section_takes_the_name_of_a_preset_which_later_keys_refine() -> None:
    config = with_settings(Config(), {"augmentation": "none", "augmentation.flips": "true"})
    assert config.augmentation.num_operations == 0
    assert config.augmentation.flips
    with pytest.raises(UserError, match="Unknown preset of augmentation 'nothing'"):
        with_settings(Config(), {"augmentation": "nothing"})


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_valid_and_changes_something(name: str) -> None:
    assert with_settings(Config(), PRESETS[name]) != Config()


def test_every_section_preset_holds_values_that_could_be_set_one_by_one() -> None:
    for section, presets in SECTION_PRESETS.items():
        for name in presets:
            config = with_settings(Config(), {section: name})
            assert unflatten(flatten(config)) == config


def test_every_default_passes_its_own_bounds() -> None:
    assert with_settings(Config(), flatten(Config())) == Config()


def test_a_table_goes_through_json_and_back() -> None:
    config = with_settings(
        Config(),
        {"seed": 5, "training.optimizer": "adamw", "augmentation": "baseline", "model.l2": 1e-7},
    )
    assert unflatten(json.loads(json.dumps(flatten(config)))) == config


def test_a_table_of_another_version_is_refused_with_its_strange_settings() -> None:
    table = flatten(Config()) | {"training.epoch_share": 1.0}
    with pytest.raises(UserError, match=r"Another version .* training.epoch_share; .* --name"):
        unflatten(table)


@pytest.mark.parametrize("key", list_fields(Config()))
def test_every_setting_has_a_line_and_stands_in_the_table(key: str) -> None:
    line = list_fields(Config())[key].metadata["line"]
    assert line
    assert "picture" not in key + line
    (row,) = [row for row in describe_settings().splitlines() if row.split()[:1] == [key]]
    assert line.split()[0] in row


def test_the_table_shows_defaults_bounds_and_choices_by_section_in_100_columns() -> None:
    rows = describe_settings().splitlines()
    assert max(map(len, rows)) <= 100
    table = " ".join(describe_settings().split())
    assert "training: Both stages of training" in table
    assert "training.batch_size 64 images per training step [from 1 to 4096]" in table
    assert "training.optimizer adamw update rule [one of adam, adamw, lion]" in table
    assert "[true or false]" in table
    assert all(name in table for name in SECTION_PRESETS["augmentation"])


def test_the_driver_prints_the_table_and_does_nothing_else(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert command_line.main(["--settings"]) == 0
    assert capsys.readouterr().out == describe_settings() + "\n"


def test_changing_settings_leaves_the_given_ones_alone() -> None:
    config = Config()
    with_settings(config, {"seed": 3, "training.batch_size": 1})
    assert config == Config()
