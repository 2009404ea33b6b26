"""What each round searches, how many trials it has, and what a trial of it trains."""

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from competition.config import Config, SearchConfig, with_settings
from competition.networks.weights import RANDOM, Weights
from competition.search.rounds import (
    EVERYTHING,
    FINE_TUNING_SPACE,
    FROM_RANDOM,
    HEAD_SPACE,
    PRETRAINED,
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
        ({}, {"head": 100, "fine_tuning": 12, "final": 3}),
        ({"trials": 8}, {"head": 8, "fine_tuning": 8, "final": 2}),
        ({"trials": 4}, {"head": 4, "fine_tuning": 4}),
        ({"fine_tuning_trials": 40, "finalists": 5}, {"head": 100, "fine_tuning": 40, "final": 5}),
        ({"finalists": 1}, {"head": 100, "fine_tuning": 12}),
        ({"finalists": 0}, {"head": 100, "fine_tuning": 12}),
    ],
)
def test_from_pretrained_weights_heads_come_first_then_both_stages_then_the_best_on_more_images(
    settings: dict[str, Any], counts: dict[str, int], tmp_path: Path
) -> None:
    search = make(tmp_path, IMAGENET, **settings)
    assert count(search) == counts
    head, fine_tuning, *_ = search.rounds
    assert search.space(head) == HEAD_SPACE
    assert search.space(fine_tuning) == FINE_TUNING_SPACE
    assert search.space(PRETRAINED[2]) == HEAD_SPACE | FINE_TUNING_SPACE


@pytest.mark.parametrize(
    ("settings", "counts"),
    [
        ({}, {"scratch": 100, "final": 3}),
        ({"trials": 5}, {"scratch": 5, "final": 2}),
        ({"trials": 4}, {"scratch": 4}),
        ({"fine_tuning_trials": 1}, {"scratch": 100, "final": 3}),
    ],
)
def test_from_random_weights_there_is_no_second_stage_to_search(
    settings: dict[str, Any], counts: dict[str, int], tmp_path: Path
) -> None:
    search = make(tmp_path, RANDOM, **settings)
    assert count(search) == counts
    assert all(search.space(item) == HEAD_SPACE for item in search.rounds)


def test_what_each_round_trains_from_pretrained_weights(tmp_path: Path) -> None:
    search = make(tmp_path, IMAGENET)
    settings = [search.trial_settings(item) for item in search.rounds]
    assert [list(each.values()) for each in settings] == [[1000, 4, 0], [1000, 4, 6], [4000, 4, 3]]
    keys = ["training.limit", "training.frozen_epochs", "training.fine_tuning_epochs"]
    assert list(settings[0]) == keys, "images have their full size"


def test_what_each_round_trains_from_random_weights(tmp_path: Path) -> None:
    search = make(tmp_path, RANDOM)
    trial, final = (search.trial_settings(item) for item in search.rounds)
    assert list(trial.values()) == [250, 4, 3, 48]
    assert list(final.values()) == [1000, 4, 3]


@pytest.mark.parametrize(
    ("images", "trial", "final"), [(2000, 500, 2000), (400, 250, 400), (60, 60, 60)]
)
def test_from_random_weights_a_trial_sees_enough_images_to_learn_from(
    images: int, trial: int, final: int
) -> None:
    search = SearchConfig(trial_images=images)
    assert [item.count_images(search) for item in FROM_RANDOM] == [trial, final]


@pytest.mark.parametrize(
    ("input_size", "side", "half"), [(0, 96, 48), (160, 96, 80), (0, 48, 32), (0, 24, 24)]
)
def test_half_the_size_is_no_smaller_than_networks_can_read(
    input_size: int, side: int, half: int, tmp_path: Path
) -> None:
    search = make(tmp_path, RANDOM)
    config = with_settings(search.config, {"model.input_size": input_size})
    search = dataclasses.replace(search, config=config, side=side)
    assert search.trial_settings(FROM_RANDOM[0])["model.input_size"] == half


def test_what_the_user_set_is_not_searched(tmp_path: Path) -> None:
    search = make(tmp_path, IMAGENET, {"model.l2", "training.unfreeze"})
    searched = {key for item in search.rounds for key in search.space(item)}
    assert searched == set(HEAD_SPACE | FINE_TUNING_SPACE) - {"model.l2", "training.unfreeze"}


def test_a_round_with_nothing_to_search_is_left_out(tmp_path: Path) -> None:
    heads_known = make(tmp_path, IMAGENET, set(HEAD_SPACE))
    assert list(count(heads_known)) == ["fine_tuning", "final"]
    assert make(tmp_path, IMAGENET, set(HEAD_SPACE | FINE_TUNING_SPACE)).rounds == []
    assert make(tmp_path, RANDOM, set(HEAD_SPACE)).rounds == []


@pytest.mark.parametrize("weights", [RANDOM, IMAGENET])
def test_the_work_of_a_round_grows_with_trials_images_and_epochs(
    weights: Weights, tmp_path: Path
) -> None:
    less = make(tmp_path, weights, trials=12)
    changes: tuple[dict[str, Any], ...] = (
        {"trials": 24, "fine_tuning_trials": 24, "finalists": 4},
        {"trials": 12, "trial_images": 2000},
        {"trials": 12, "trial_frozen_epochs": 8},
    )
    for settings in changes:
        more = make(tmp_path, weights, **settings)
        for item in less.rounds:
            assert more.count_passes(item) > less.count_passes(item) > 0


def test_a_trial_of_a_head_costs_a_small_part_of_one_of_both_stages(tmp_path: Path) -> None:
    search = make(tmp_path, IMAGENET)
    head, fine_tuning, final = (
        search.count_passes(item) / search.count_trials(item) for item in search.rounds
    )
    assert 10 * head < fine_tuning < final


def test_settings_outside_the_space_are_tried_at_the_nearest_place_in_it() -> None:
    given = {"model.dropout": 0.9, "training.unfreeze": 0.34, "model.head_units": 100, "x": 1}
    space = {key: EVERYTHING[key] for key in given if key != "x"}
    assert inside_space(given, space) == {
        "model.dropout": 0.6,
        "training.unfreeze": 0.4,
        "model.head_units": 128,
    }
