"""Trials on cached features give what training on the pictures gives."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from competition.common.errors import UserError
from competition.config import Config, with_settings
from competition.networks.weights import RANDOM, Weights
from competition.search import trial as module
from competition.search.features import cache_features
from competition.search.trial import Trainer
from tests.factories import CONFIG, make_data

PLAIN = with_settings(
    CONFIG, {"augmentation": "none", "model.dropout": 0.0, "training.head_learning_rate": 0.01}
)


def make_trainer(config: Config, weights: Weights, folder: Path) -> Trainer:
    data = make_data()
    return Trainer(data, weights, cache_features(config, data, weights, (0.5, 1.0), folder))


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_without_augmentation_both_stages_score_alike_on_features_and_on_pictures(
    tmp_path: Path,
    pretrained: Weights,
    share: float,
) -> None:
    config = with_settings(
        PLAIN, {"training.unfreeze": share, "training.fine_tuning_learning_rate": 0.003}
    )
    cached, plain = [], []
    make_trainer(config, pretrained, tmp_path).train(
        config, lambda score, epoch: cached.append(score)
    )
    Trainer(make_data(), pretrained, None).train(config, lambda score, epoch: plain.append(score))
    assert len(plain) == config.training.fine_tuning_epochs
    np.testing.assert_allclose(
        cached, plain, atol=1.01 / 36
    )  # one of 36 pictures, by rounding to float16


def test_a_head_alone_scores_as_the_first_stage_does(tmp_path: Path, pretrained: Weights) -> None:
    changes = {
        "training.frozen_epochs": 12,
        "training.fine_tuning_epochs": 0,
        "model.head_units": 256,
    }
    config = with_settings(PLAIN, changes | {"training.head_learning_rate": 1e-3})
    heads: list[float] = []
    outcome = make_trainer(config, pretrained, tmp_path).train_head(
        config, lambda score, epoch: heads.append(score)
    )
    whole = Trainer(make_data(), pretrained, None).train(config, lambda score, epoch: None)
    assert outcome.score == max(heads) > 0.4
    assert outcome.score == pytest.approx(whole.score, abs=0.15)  # other first weights
    assert outcome.compile_seconds > 0
    assert outcome.step_seconds > 0


def test_a_report_that_raises_ends_the_training(tmp_path: Path, pretrained: Weights) -> None:
    trainer, seen = make_trainer(CONFIG, pretrained, tmp_path), []

    def prune(score: float, epoch: int) -> None:
        seen.append(epoch)
        if epoch == 1:
            raise StopIteration

    with pytest.raises(StopIteration):
        trainer.train(CONFIG, prune)
    assert seen == [0, 1]


def test_a_loss_that_diverges_says_what_to_change(monkeypatch: pytest.MonkeyPatch) -> None:
    build = vars(module)["build_training_model"]

    def explode(*arguments: Any) -> Any:
        model = build(*arguments)
        model.set_weights([np.full_like(value, np.nan) for value in model.get_weights()])
        return model

    monkeypatch.setattr(module, "build_training_model", explode)
    with pytest.raises(UserError, match=r"infinite or NaN at a learning rate of 0\.001"):
        Trainer(make_data(), RANDOM, None).train(CONFIG, lambda score, epoch: None)


def test_a_deadline_ends_it_after_the_first_epoch() -> None:
    seen: list[int] = []
    Trainer(make_data(), RANDOM, None, deadline=0.0).train(
        CONFIG, lambda score, epoch: seen.append(epoch)
    )
    assert seen == [0]
