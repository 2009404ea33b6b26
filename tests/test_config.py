"""Settings: dotted keys, conversions, bad values, presets and the flat table."""

import json
from typing import Any

import pytest

from competition.common.errors import UserError
from competition.config import (
    PRESETS,
    SECTION_PRESETS,
    Config,
    flatten,
    known_keys,
    replace,
    unflatten,
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
    table = flatten(replace(Config(), {key: given}))
    assert table.pop(key) == expected
    untouched = flatten(Config())
    del untouched[key]
    assert table == untouched


@pytest.mark.parametrize(
    ("key", "given", "expected"),
    [("model.l2", "0", 0.0), ("seed", "3", 3), ("augmentation.flips", "true", True)],
)
def test_text_becomes_the_type_of_the_setting(key: str, given: str, expected: Any) -> None:
    assert type(flatten(replace(Config(), {key: given}))[key]) is type(expected)


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
        replace(Config(), {key: value})
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
        replace(Config(), {key: 1})


def test_a_section_cannot_be_set_to_a_value() -> None:
    with pytest.raises(UserError, match="Unknown setting 'training'"):
        replace(Config(), {"training": "fast"})


def test_an_unknown_backbone_names_a_near_one() -> None:
    with pytest.raises(
        UserError, match="Unknown backbone 'efficientnet_b0'; did you mean 'efficientnetb0'"
    ):
        replace(Config(), {"model.backbone": "efficientnet_b0"})


def test_a_section_takes_the_name_of_a_preset_which_later_keys_refine() -> None:
    config = replace(Config(), {"augmentation": "none", "augmentation.flips": "true"})
    assert config.augmentation.num_operations == 0
    assert config.augmentation.flips
    with pytest.raises(UserError, match="Unknown preset of augmentation 'nothing'"):
        replace(Config(), {"augmentation": "nothing"})


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_valid_and_changes_something(name: str) -> None:
    assert replace(Config(), PRESETS[name]) != Config()


def test_every_section_preset_holds_values_that_could_be_set_one_by_one() -> None:
    for section, presets in SECTION_PRESETS.items():
        for name in presets:
            config = replace(Config(), {section: name})
            assert unflatten(flatten(config)) == config


def test_every_default_passes_its_own_bounds() -> None:
    assert replace(Config(), flatten(Config())) == Config()


def test_a_table_goes_through_json_and_back() -> None:
    config = replace(
        Config(),
        {"seed": 5, "training.optimizer": "adamw", "augmentation": "origin", "model.l2": 1e-7},
    )
    assert unflatten(json.loads(json.dumps(flatten(config)))) == config


def test_known_keys_are_the_dotted_names_of_all_settings() -> None:
    keys = known_keys()
    assert {"seed", "weights", "data.size", "training.batch_size"} <= set(keys)
    assert not {"data", "training"} & set(keys)
    assert len(keys) == len(set(keys))


def test_replacing_leaves_the_given_settings_alone() -> None:
    config = Config()
    replace(config, {"seed": 3, "training.batch_size": 1})
    assert config == Config()
