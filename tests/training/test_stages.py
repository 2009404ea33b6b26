"""Stages are data: which share trains, for how long, how fast; they share out a slot."""

import time

import pytest

from competition.config import with_settings
from competition.networks.weights import RANDOM, Weights
from competition.time_budget import Slot
from competition.training.stages import begin_stage, plan_stages
from tests.factories import CONFIG


def test_random_weights_train_in_one_stage_of_all_epochs() -> None:
    (stage,) = plan_stages(CONFIG, RANDOM)
    assert (stage.name, stage.share, stage.epochs) == ("from scratch", 1.0, 5)
    assert stage.learning_rate == CONFIG.training.head_learning_rate
    assert stage.batch_norm == "training"


def test_pretrained_weights_train_in_two_stages_each_with_its_own_settings(
    pretrained: Weights,
) -> None:
    config = with_settings(CONFIG, {"training.batch_norm": "training"})
    frozen, fine_tuning = plan_stages(config, pretrained)
    training = config.training
    assert (frozen.name, frozen.share, frozen.epochs) == ("frozen", 0.0, 2)
    assert (fine_tuning.name, fine_tuning.share, fine_tuning.epochs) == ("fine-tuning", 0.5, 3)
    assert frozen.learning_rate == training.head_learning_rate
    assert fine_tuning.learning_rate == training.fine_tuning_learning_rate
    assert (frozen.l2, fine_tuning.l2) == (config.model.l2, training.fine_tuning_l2)
    assert (frozen.batch_norm, fine_tuning.batch_norm) == ("inference", "training")


def test_a_stage_without_epochs_is_left_out(pretrained: Weights) -> None:
    (stage,) = plan_stages(with_settings(CONFIG, {"training.frozen_epochs": 0}), pretrained)
    assert stage.name == "fine-tuning"
    (stage,) = plan_stages(with_settings(CONFIG, {"training.fine_tuning_epochs": 0}), pretrained)
    assert stage.name == "frozen"


def test_a_frozen_epoch_takes_a_third_of_the_time_of_another(pretrained: Weights) -> None:
    stages = plan_stages(with_settings(CONFIG, {"training.frozen_epochs": 3}), pretrained)
    slot = begin_stage(stages, 0.0, Slot(time.time(), time.time() + 100))
    assert slot.length == pytest.approx(100 * 1 / (1 + 3), rel=0.01)


def test_a_stage_that_goes_on_takes_the_time_of_its_rest(pretrained: Weights) -> None:
    stages = plan_stages(with_settings(CONFIG, {"training.frozen_epochs": 9}), pretrained)
    slot = begin_stage(stages, 0.75, Slot(time.time() - 60, time.time() + 100))
    assert slot.length == pytest.approx(100 * 0.75 / (0.75 + 3), rel=0.01)


def test_the_last_stage_takes_all_that_is_left(pretrained: Weights) -> None:
    stages = plan_stages(CONFIG, pretrained)
    end = time.time() + 100
    slot = begin_stage(stages[1:], 0.4, Slot(time.time() - 900, end))
    assert slot.end == pytest.approx(end, abs=1)
