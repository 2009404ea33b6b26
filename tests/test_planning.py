"""Plans fit the time they are given, and learn from what trials took."""

import dataclasses
from pathlib import Path

import pytest

from competition.config import Config
from competition.files import InputError
from competition.planning import MOST_EPOCHS, Planner, Sizes, Speed, describe_plan, measure_speed
from competition.weights import RANDOM, Weights

PRETRAINED = Weights(Path("weights.h5"), "imagenet")
PLANNER = Planner(
    Speed(train=0.005, forward=0.001, compile=5.0),
    Sizes(train=8000, validation=3600, test=3600),
    {"custom_cnn": RANDOM, "mobilenetv3large": PRETRAINED},
)


@pytest.mark.parametrize("minutes", [10, 30, 90])
def test_a_plan_fits_its_budget_and_uses_most_of_it(minutes: int) -> None:
    planned = PLANNER.plan_search(Config(), 60 * minutes, trials=None)
    trials = planned.search.trials * sum(PLANNER.trial_seconds(name, planned) for name in PLANNER.weights)
    planned = PLANNER.plan_training(planned, 60 * minutes - trials)
    total = PLANNER.total_seconds(planned, search=True)
    assert total <= 60 * minutes
    assert total > 0.75 * 60 * minutes or planned.training.fine_tuning_epochs >= MOST_EPOCHS - 10


def test_the_users_number_of_trials_is_an_upper_limit() -> None:
    assert PLANNER.plan_search(Config(), 1e6, trials=7).search.trials == 7


def test_too_little_time_is_refused_with_what_is_needed() -> None:
    with pytest.raises(InputError, match="one epoch of each backbone takes about"):
        PLANNER.require_time(Config(), 60)
    PLANNER.require_time(Config(), 3600)


def test_a_planner_learns_from_trials_that_were_slower_than_estimated() -> None:
    config = Config()
    plain = PLANNER.training_seconds("mobilenetv3large", 0, 10)
    epoch = PLANNER.training_seconds("mobilenetv3large", 0, 2, 2000) - PLANNER.training_seconds(
        "mobilenetv3large", 0, 1, 2000
    )
    learned = PLANNER.learn("mobilenetv3large", config, [(2 * epoch + 11, 2 * epoch)])
    slower = learned.training_seconds("mobilenetv3large", 0, 10)
    assert slower == pytest.approx(2 * (plain - 11) + 11, rel=0.01)
    assert learned.training_seconds("custom_cnn", 0, 10) == PLANNER.training_seconds("custom_cnn", 0, 10)


def test_a_frozen_epoch_costs_less_than_one_of_fine_tuning() -> None:
    frozen = PLANNER.training_seconds("mobilenetv3large", 5, 0)
    assert frozen < PLANNER.training_seconds("mobilenetv3large", 0, 5) / 2


def test_the_plan_names_trials_epochs_and_time() -> None:
    text = describe_plan(Config(), PLANNER, search=True)
    assert "10 trials for each backbone" in text
    assert "MobileNetV3Large, imagenet weights" in text
    assert "in all about" in text


def test_speed_is_measured() -> None:
    config = dataclasses.replace(Config(), model=dataclasses.replace(Config().model, input_size=32))
    speed = measure_speed(config, (32, 32, 3), 4)
    assert 0 < speed.forward < speed.train < 1
