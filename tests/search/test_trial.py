"""Trials on cached features give what training on the images gives."""

import dataclasses
from pathlib import Path

import keras
import numpy as np
import pytest

from competition.common.errors import TrialFailedError
from competition.config import Config, with_settings
from competition.data.arrays import TrainingData
from competition.metric import get_metric
from competition.networks.weights import RANDOM, Weights
from competition.search import trial as module
from competition.search.features import cache_features
from competition.search.trial import TrialTrainer
from competition.training.batches import Batches
from competition.training.selection import selection_score
from competition.training.train import build_network
from tests.factories import CONFIG, make_data

PLAIN = with_settings(
    CONFIG,
    {"augmentation": "none", "model.dropout": 0.0, "training.head_learning_rate": 0.01},
)


def make_trainer(config: Config, weights: Weights, folder: Path) -> TrialTrainer:
    data = make_data()
    features = cache_features(config, data, weights, folder)
    return TrialTrainer(data, weights, features)


@pytest.mark.parametrize("on_features", [True, False])
def test_rare_classes_weigh_more_where_the_settings_say_so(
    on_features: bool, tmp_path: Path, pretrained: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = make_data()
    few = np.concatenate([np.flatnonzero(data.labels == 0)[:2], np.flatnonzero(data.labels > 0)])
    data = dataclasses.replace(data, images=data.images[few], labels=data.labels[few])
    features = cache_features(PLAIN, data, pretrained, tmp_path) if on_features else None
    drawn: list[tuple[np.ndarray, ...]] = []

    def remember(part: keras.Model, batches: Batches, *_: object) -> None:
        drawn.append(next(batches.draw(0)))
        raise StopIteration

    monkeypatch.setattr(module, "fit_stage", remember)
    for weighted in (False, True):
        config = with_settings(PLAIN, {"training.class_weights": weighted})
        trainer = TrialTrainer(data, pretrained, features)
        train = trainer.train_head if on_features else trainer.train
        with pytest.raises(StopIteration):
            train(config, None)
    assert len(drawn[0]) == 2
    labels, weights = drawn[1][1].argmax(axis=1), drawn[1][2]
    assert weights[labels == 0].min() == pytest.approx(10 * weights[labels > 0].max())


def test_the_result_has_the_answers_of_the_best_epoch(pretrained: Weights) -> None:
    trainer = TrialTrainer(make_data(), pretrained, None)
    scores: list[float | None] = []
    config = with_settings(PLAIN, {"training.frozen_epochs": 0, "training.fine_tuning_epochs": 6})
    result = trainer.train(config, lambda score, epoch: scores.append(score))
    assert scores[:3] == [None] * 3, "early epochs are not validated"
    assert result.score == max(score for score in scores[3:] if score is not None)
    assert result.correct.dtype == bool
    assert result.correct.shape == (36,)
    assert result.correct.mean() == pytest.approx(result.score)
    assert result.probabilities.shape == (36, 3)
    both = trainer.train(PLAIN, None)
    assert both.correct.mean() == pytest.approx(both.score)


def test_the_metric_that_decides_is_the_score_of_a_trial(pretrained: Weights) -> None:
    data = make_data()
    trainer = TrialTrainer(data, pretrained, None)
    result = trainer.train(with_settings(PLAIN, {"metric": "log_loss"}), None)
    metric = get_metric("log_loss")
    expected = selection_score(metric, data.validation_labels, result.probabilities)
    assert result.score == pytest.approx(expected)
    assert result.score < 0


def test_a_schedule_that_follows_the_score_has_every_epoch_validated(pretrained: Weights) -> None:
    trainer = TrialTrainer(make_data(), pretrained, None)
    scores: list[float | None] = []
    for settings in ({"training.schedule": "plateau"}, {"training.stopping_patience": 6}):
        trainer.train(with_settings(PLAIN, settings), lambda score, _: scores.append(score))
    assert len(scores) == 2 * PLAIN.training.fine_tuning_epochs
    assert None not in scores


def test_a_head_on_real_features_scores_as_the_first_stage_does(
    tmp_path: Path, imagenet: Weights
) -> None:
    changes = {
        "model.backbone": "efficientnetlite0",
        "model.head_units": 64,
        "training.frozen_epochs": 12,
        "training.fine_tuning_epochs": 0,
    }
    config = with_settings(PLAIN, changes)
    heads: list[float | None] = []
    trainer = make_trainer(config, imagenet, tmp_path)
    result = trainer.train_head(config, lambda score, epoch: heads.append(score))
    whole = TrialTrainer(make_data(), imagenet, None).train(config, None)
    assert len(heads) == 12
    assert result.score == max(score for score in heads if score is not None) > 0.9
    assert result.correct.mean() == pytest.approx(result.score)
    assert whole.score > 0.9


def test_from_random_weights_a_trial_trains_on_images_and_reports_all_epochs() -> None:
    epochs: list[int] = []
    trainer = TrialTrainer(make_data(), RANDOM, None)
    result = trainer.train(PLAIN, lambda score, epoch: epochs.append(epoch))
    assert epochs == list(range(5)), "two frozen and three of fine-tuning make one stage"
    assert 0 < result.score <= 1


def test_a_report_that_raises_ends_the_training(pretrained: Weights) -> None:
    trainer = TrialTrainer(make_data(), pretrained, None)
    seen: list[int] = []

    def prune(score: float | None, epoch: int) -> None:
        seen.append(epoch)
        if epoch == 1:
            raise StopIteration

    with pytest.raises(StopIteration):
        trainer.train(CONFIG, prune)
    assert seen == [0, 1]


def test_a_loss_that_diverges_says_what_to_change(monkeypatch: pytest.MonkeyPatch) -> None:
    def explode(config: Config, data: TrainingData, weights: Weights) -> keras.Model:
        network = build_network(config, data, weights)
        network.set_weights([np.full_like(value, np.nan) for value in network.get_weights()])
        return network

    monkeypatch.setattr(module, "build_network", explode)
    with pytest.raises(TrialFailedError, match=r"infinite or NaN at a learning rate of 0\.001"):
        TrialTrainer(make_data(), RANDOM, None).train(CONFIG, None)
