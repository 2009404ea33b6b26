"""What each round searches, how many trials it has, and what a trial of it trains."""

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from competition.common.settings import flatten
from competition.config import Config, with_settings
from competition.networks.weights import RANDOM, Weights
from competition.search.rounds import (
    AS_GIVEN,
    EVERYTHING,
    FINE_TUNING_SPACE,
    FROM_RANDOM,
    HEAD_SPACE,
    PRETRAINED,
    SCRATCH_SPACE,
    Search,
    inside_space,
)
from tests.factories import make_search

IMAGENET = Weights(Path(__file__), "imagenet")


def make(tmp_path: Path, weights: Weights, fixed: Iterable[str] = (), **settings: Any) -> Search:
    changes = {f"search.{key}": value for key, value in settings.items()}
    config = with_settings(Config(), {"model.backbone": "tiny_cnn"} | changes)
    return make_search(tmp_path, config=config, weights=weights, fixed=frozenset(fixed))


def count(search: Search) -> dict[str, int]:
    return {item.name: search.count_trials(item) for item in search.rounds}


@pytest.mark.parametrize(
    ("settings", "counts"),
    [
        ({}, {"head": 100, "fine_tuning": 27, "semifinal": 9, "final": 3}),
        ({"trials": 9}, {"head": 9, "fine_tuning": 9, "semifinal": 3}),
        ({"trials": 3}, {"head": 3, "fine_tuning": 3}),
        (
            {"fine_tuning_trials": 50, "finalists": 5},
            {"head": 100, "fine_tuning": 50, "semifinal": 17, "final": 5},
        ),
        ({"fine_tuning_trials": 0}, {"head": 100}),
        ({"finalists": 1}, {"head": 100}),
        ({"finalists": 0}, {"head": 100}),
    ],
)
def test_from_pretrained_weights_heads_come_first_then_recipes_of_which_the_best_third_goes_on(
    settings: dict[str, Any], counts: dict[str, int], tmp_path: Path
) -> None:
    assert count(make(tmp_path, IMAGENET, **settings)) == counts


def test_the_space_of_recipes_is_what_moves_the_score(tmp_path: Path) -> None:
    head, fine_tuning, _, final = (search := make(tmp_path, IMAGENET)).rounds
    assert search.space(head) == HEAD_SPACE
    assert search.space(fine_tuning).keys() == FINE_TUNING_SPACE.keys()
    assert search.space(final).keys() == (HEAD_SPACE | FINE_TUNING_SPACE).keys()


@pytest.mark.parametrize(
    ("settings", "counts"),
    [
        ({}, {"scratch": 27, "semifinal": 9, "final": 3}),
        ({"trials": 5}, {"scratch": 5, "semifinal": 2}),
        ({"trials": 3}, {"scratch": 3}),
        ({"fine_tuning_trials": 1}, {"scratch": 27, "semifinal": 9, "final": 3}),
        ({"scratch_trials": 0}, {}),
    ],
)
def test_from_random_weights_there_is_no_second_stage_to_search(
    settings: dict[str, Any], counts: dict[str, int], tmp_path: Path
) -> None:
    search = make(tmp_path, RANDOM, **settings)
    assert count(search) == counts
    assert all(search.space(item).keys() == SCRATCH_SPACE.keys() for item in search.rounds)
    assert not any(key.startswith("training.fine_tuning") for key in SCRATCH_SPACE)


def test_a_preset_of_the_augmentation_that_changes_nothing_is_not_searched(tmp_path: Path) -> None:
    search = make(tmp_path, IMAGENET)
    for given, choices in (
        ("strong", (AS_GIVEN, "mild")),
        ("mild", (AS_GIVEN, "strong")),
        ("baseline", (AS_GIVEN, "mild", "strong")),
    ):
        config = with_settings(search.config, {"augmentation": given})
        other = dataclasses.replace(search, config=config)
        assert other.space(PRETRAINED[1])["augmentation"] == choices


@pytest.mark.parametrize("set_by_user", ["augmentation", "augmentation.rotation"])
def test_no_preset_replaces_an_augmentation_that_the_user_set(
    set_by_user: str, tmp_path: Path
) -> None:
    search = make(tmp_path, IMAGENET, {set_by_user})
    space = search.space(PRETRAINED[1])
    assert "augmentation" not in space
    assert ("augmentation.magnitude" in space) == (set_by_user == "augmentation.rotation")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, ["head", "final"]),
        ({"finalists": 0}, ["head"]),
        ({"trials": 9}, ["head", "semifinal"]),
    ],
)
def test_heads_and_the_last_round_of_full_size_decide(
    changes: dict[str, Any], expected: list[str], tmp_path: Path
) -> None:
    search = make(tmp_path, IMAGENET, **changes)
    assert [item.name for item in search.rounds if search.decides(item)] == expected


def test_a_trial_is_a_training_in_miniature(tmp_path: Path) -> None:
    search = make(tmp_path, IMAGENET)
    head, fine_tuning, semifinal, final = map(search.trial_settings, search.rounds)
    keys = ["training.limit", "training.frozen_epochs", "training.fine_tuning_epochs"]
    assert head == dict(zip(keys, [1000, 4, 0], strict=True))
    assert fine_tuning == dict(zip([*keys, "model.input_size"], [1000, 1, 7, 64], strict=True))
    assert semifinal == dict(zip(keys, [1500, 1, 7], strict=True))
    assert final == dict(zip(keys, [9000, 1, 11], strict=True))


@pytest.mark.parametrize(
    ("frozen", "fine_tuning", "expected"), [(5, 20, [2, 6]), (0, 9, [0, 8]), (4, 0, [8, 0])]
)
def test_a_miniature_keeps_the_shares_of_the_stages(
    frozen: int, fine_tuning: int, expected: list[int], tmp_path: Path
) -> None:
    search = make(tmp_path, IMAGENET)
    epochs = {"training.frozen_epochs": frozen, "training.fine_tuning_epochs": fine_tuning}
    search = dataclasses.replace(search, config=with_settings(search.config, epochs))
    assert list(search.trial_settings(PRETRAINED[2]).values())[1:] == expected


@pytest.mark.parametrize(
    ("input_size", "side", "small"), [(0, 96, 64), (160, 96, 107), (0, 40, 32), (0, 24, 24)]
)
def test_small_images_are_no_smaller_than_networks_can_read(
    input_size: int, side: int, small: int, tmp_path: Path
) -> None:
    search = make(tmp_path, RANDOM)
    config = with_settings(search.config, {"model.input_size": input_size})
    search = dataclasses.replace(search, config=config, side=side)
    assert search.trial_settings(FROM_RANDOM[0])["model.input_size"] == small


def test_what_the_user_set_is_not_searched(tmp_path: Path) -> None:
    search = make(tmp_path, IMAGENET, {"model.l2", "training.unfreeze"})
    searched = {key for item in search.rounds for key in search.space(item)}
    assert searched == set(HEAD_SPACE | FINE_TUNING_SPACE) - {"model.l2", "training.unfreeze"}


def test_a_round_with_nothing_to_search_is_left_out(tmp_path: Path) -> None:
    heads_known = make(tmp_path, IMAGENET, set(HEAD_SPACE))
    assert list(count(heads_known)) == ["fine_tuning", "semifinal", "final"]
    assert make(tmp_path, IMAGENET, set(HEAD_SPACE | FINE_TUNING_SPACE)).rounds == []
    assert make(tmp_path, RANDOM, set(SCRATCH_SPACE)).rounds == []


@pytest.mark.parametrize("weights", [RANDOM, IMAGENET])
def test_rounds_have_about_as_much_work_each_but_the_first_and_the_final_one(
    weights: Weights, tmp_path: Path
) -> None:
    search = make(tmp_path, weights)
    *work, final = [search.count_passes(item) for item in search.rounds if not item.is_head]
    assert max(work) < 1.3 * min(work)
    assert 2.5 < final / max(work) < 4
    if weights is IMAGENET:
        head = search.count_passes(search.rounds[0])
        assert 0 < 5 * head < min(work), "a quick first round"


@pytest.mark.parametrize("weights", [RANDOM, IMAGENET])
def test_the_work_of_a_round_grows_with_trials_images_and_epochs(
    weights: Weights, tmp_path: Path
) -> None:
    less = make(tmp_path, weights, trials=12)
    changes: tuple[dict[str, Any], ...] = (
        {"trials": 24, "fine_tuning_trials": 24, "finalists": 4},
        {"trials": 12, "trial_images": 2000},
        {"trials": 12, "trial_epochs": 16, "trial_head_epochs": 8},
    )
    for settings in changes:
        more = make(tmp_path, weights, **settings)
        for item in less.rounds:
            assert more.count_passes(item) > less.count_passes(item) > 0


def test_no_more_images_count_than_there_are_or_than_the_user_wants(tmp_path: Path) -> None:
    search = make(tmp_path, RANDOM)
    final = search.rounds[-1]
    few = dataclasses.replace(search, data={"training images": 900})
    assert few.count_passes(final) == pytest.approx(search.count_passes(final) / 10)
    limited = dataclasses.replace(
        search, config=with_settings(search.config, {"training.limit": 300})
    )
    assert limited.trial_settings(final)["training.limit"] == 300


def test_the_settings_as_given_lie_in_the_space_whatever_they_are(tmp_path: Path) -> None:
    given = {
        "model.dropout": 0.9,
        "model.l2": 0.0,
        "model.head_units": 100,
        "training.unfreeze": 0.34,
        "training.schedule": "linear",
        "training.optimizer": "lion",
    }
    search = make(tmp_path, IMAGENET)
    search = dataclasses.replace(search, config=with_settings(search.config, given))
    space = search.space(PRETRAINED[-1])
    base = inside_space(flatten(search.config), space)
    assert base.items() >= (given | {"model.l2": 1e-7}).items(), "0 has no logarithm"
    assert base["augmentation"] == AS_GIVEN
    assert space["model.dropout"] == (0.0, 0.9, False)
    assert space["model.l2"] == EVERYTHING["model.l2"]
    assert space["training.unfreeze"] == (*EVERYTHING["training.unfreeze"], 0.34)
    assert space["training.optimizer"] == EVERYTHING["training.optimizer"]


def test_a_schedule_that_replaces_the_plateau_rule_is_not_stopped_early(tmp_path: Path) -> None:
    recipe = {"training.schedule": "plateau", "training.stopping_patience": 6}
    search = make(tmp_path, IMAGENET)
    search = dataclasses.replace(search, config=with_settings(search.config, recipe))
    cosine, plateau = {"training.schedule": "cosine"}, {"training.schedule": "plateau"}
    assert search.with_params(cosine).training.stopping_patience == 0
    assert search.with_params(plateau).training.stopping_patience == 6
    assert search.with_params({}).training.stopping_patience == 6
    fixed = dataclasses.replace(search, fixed=frozenset({"training.stopping_patience"}))
    assert fixed.with_params(cosine).training.stopping_patience == 6
    annealed = dataclasses.replace(
        search, config=with_settings(search.config, {"training.schedule": "cosine"})
    )
    assert annealed.with_params(cosine).training.stopping_patience == 6  # as the user gave it


def test_where_time_is_short_heads_alone_are_searched(tmp_path: Path) -> None:
    for weights, rounds in ((IMAGENET, ["head"]), (RANDOM, [])):
        search = dataclasses.replace(make(tmp_path, weights), heads_only=True)
        assert [item.name for item in search.rounds] == rounds
