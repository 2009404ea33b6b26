"""Costs follow from this machine's speed, and learn from what trials took."""

from pathlib import Path

import pytest

from competition.config import Config, with_settings
from competition.costs import EPOCH_SECONDS, Costs, Sizes, Speed, measure_speed
from competition.networks.weights import RANDOM, Weights
from competition.search.rounds import FINALS, HEADS, TRIALS

PRETRAINED = Weights(Path("weights.h5"), "imagenet")
COSTS = Costs(
    Speed(train=0.005, forward=0.001, compile=2.0),
    Sizes(train=8000, validation=3600, evaluated=3600),
    {"custom_cnn": RANDOM, "mobilenetv3large": PRETRAINED},
)


def fine_tune(
    costs: Costs, epochs: int, backbone: str = "mobilenetv3large", **others: float
) -> float:
    changes = {"frozen_epochs": 0, "fine_tuning_epochs": epochs, **others}
    config = with_settings(Config(), {f"training.{key}": value for key, value in changes.items()})
    return costs.training_seconds(backbone, config.training)


def test_costs_learn_from_trials_that_were_slower_than_estimated() -> None:
    one, two, ten = (fine_tune(COSTS, epochs) for epochs in (1, 2, 10))
    compiling, beside = 2 * one - two, 10 * EPOCH_SECONDS
    learned = COSTS.learn("mobilenetv3large", 32, (1.0, 1.0)).factors["mobilenetv3large"]
    slower = COSTS.learn("mobilenetv3large", 32, (4 / learned[1], 2 / learned[0]))
    expected = 4 * compiling + 2 * (ten - compiling - beside) + beside
    assert fine_tune(slower, 10) == pytest.approx(expected)
    assert fine_tune(slower, 10, "custom_cnn") == fine_tune(COSTS, 10, "custom_cnn")


def test_from_random_weights_all_layers_train_and_that_takes_longer() -> None:
    random = Costs(COSTS.speed, COSTS.sizes, {"mobilenetv3large": RANDOM})
    assert fine_tune(random, 10) > 1.5 * fine_tune(COSTS, 10)


def test_a_frozen_epoch_costs_less_than_one_of_fine_tuning() -> None:
    assert fine_tune(COSTS, 0, frozen_epochs=5) < fine_tune(COSTS, 5) / 2


def test_fewer_pictures_or_shorter_epochs_cost_less() -> None:
    assert (
        fine_tune(COSTS, 5, epoch_share=0.5)
        == fine_tune(COSTS, 5, limit=4000)
        < 0.7 * fine_tune(COSTS, 5)
    )


def test_a_trial_costs_less_than_a_training_of_as_many_epochs() -> None:
    config = Config()
    heads, trials, finals = (
        COSTS.trial_seconds("mobilenetv3large", config, part) for part in (HEADS, TRIALS, FINALS)
    )
    plain = fine_tune(COSTS, 3, frozen_epochs=4)
    assert heads < plain / 50
    assert trials < plain / 5
    assert trials < finals < plain


def test_speed_is_measured() -> None:
    config = with_settings(Config(), {"model.input_size": 32})
    speed = measure_speed(config, (32, 32, 3), 4)
    assert 0 < speed.forward < speed.train < 1
