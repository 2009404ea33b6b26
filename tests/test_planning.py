"""Plans fit the time they are given."""

import dataclasses

import pytest

from competition.common.errors import UserError
from competition.config import Config, with_settings
from competition.planning import MOST_EPOCHS, TRAINING_MARGIN, Planner, describe_plan
from tests.test_costs import COSTS

ONE_EPOCH = {"training.frozen_epochs": 0, "training.fine_tuning_epochs": 1}
PLANNER = Planner(COSTS)


@pytest.mark.parametrize("minutes", [10, 30, 90])
def test_a_plan_fits_its_budget_and_uses_most_of_it(minutes: int) -> None:
    planned = PLANNER.plan_search(Config(), 60 * minutes, trials=None)
    trials = PLANNER.search_span(planned)
    planned = PLANNER.plan_training(planned, 60 * minutes - trials)
    total = PLANNER.total_seconds(planned, search=True)
    assert total <= 60 * minutes
    assert total > 0.7 * 60 * minutes or planned.training.fine_tuning_epochs >= MOST_EPOCHS - 10


def test_the_users_number_of_trials_is_an_upper_limit() -> None:
    assert PLANNER.plan_search(Config(), 1e6, trials=7).search.trials == 7


def test_even_a_short_search_tries_the_best_head_in_both_stages() -> None:
    assert PLANNER.plan_search(Config(), 400, trials=None).search.fine_tuning_trials == 2


def test_little_time_means_fewer_pictures_before_it_means_very_few_trials() -> None:
    planned = PLANNER.plan_search(Config(), 900, trials=None).search
    assert planned.trial_images < Config().search.trial_images
    assert planned.trials >= 25


def test_too_little_time_is_refused_with_what_is_needed() -> None:
    with pytest.raises(UserError, match="one epoch of mobilenetv3large takes about"):
        PLANNER.keep_affordable(Config(), 60, "mobilenetv3large", search=False)


def test_what_does_not_fit_beside_the_packaged_backbone_is_left_out(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert PLANNER.keep_affordable(Config(), 3600, "mobilenetv3large", search=False) == PLANNER
    assert not capsys.readouterr().out
    alone = PLANNER.keep_affordable(Config(), 200, "mobilenetv3large", search=False)
    assert list(alone.costs.weights) == ["mobilenetv3large"]
    assert "WITHOUT custom_cnn" in capsys.readouterr().out


def test_room_is_left_for_a_short_search_too() -> None:
    seconds = PLANNER.span(PLANNER.final_seconds(with_settings(Config(), ONE_EPOCH))) + PLANNER.reserve(
        Config()
    )
    assert PLANNER.keep_affordable(Config(), seconds, "custom_cnn", search=False) == PLANNER
    kept = PLANNER.keep_affordable(Config(), seconds + 1, "mobilenetv3large", search=True)
    assert list(kept.costs.weights) == ["mobilenetv3large"]


def test_workers_beyond_the_number_of_backbones_share_their_searches() -> None:
    alone, shared = (
        dataclasses.replace(PLANNER, workers=workers).search_seconds(Config()) for workers in (2, 5)
    )
    assert shared == {
        name: {part: cost / 2 for part, cost in parts.items()} for name, parts in alone.items()
    }


def test_workers_take_tasks_in_turn_as_they_become_free() -> None:
    two = dataclasses.replace(PLANNER, workers=2)
    costs = {"a": 3.0, "b": 5.0, "c": 1.0, "d": 4.0}
    assert two.finish_times(costs) == {"a": 3.0, "b": 5.0, "c": 4.0, "d": 8.0}
    assert PLANNER.finish_times(costs) == {"a": 3.0, "b": 8.0, "c": 9.0, "d": 13.0}
    assert two.span(costs) == 7.0


def test_where_few_epochs_fit_one_more_is_planned_and_all_are_shortened() -> None:
    config = Config()
    one = PLANNER.span(PLANNER.final_seconds(with_settings(config, ONE_EPOCH)))
    planned = PLANNER.plan_training(config, 1.8 * one / TRAINING_MARGIN + PLANNER.reserve(config))
    epochs = planned.training.frozen_epochs + planned.training.fine_tuning_epochs
    assert epochs == 2
    assert 0.5 < planned.training.epoch_share < 1
    assert f"an epoch passes {100 * planned.training.epoch_share:.0f} %" in describe_plan(
        planned, PLANNER, search=False
    )


def test_the_plan_names_trials_epochs_and_time() -> None:
    text = describe_plan(Config(), PLANNER, search=True)
    assert (
        "100 trials of the head on cached features, 12 of both stages, 4 + 6 epochs of 1000 pictures"
        in text
    )
    assert "finals of 3 on 4000" in text
    assert (
        "up to 100 trials of all layers at half the size, 4 + 3 epochs of 250 pictures, finals of 3 on 1000"
        in text
    )
    assert "MobileNetV3Large, imagenet weights" in text
    assert "in all about" in text
