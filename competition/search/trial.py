"""What one trial of a search trains: a head on cached features, both stages on them, or all from random weights."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from competition.config import Config
from competition.data.arrays import TrainingData, one_hot
from competition.networks.layers import (
    create_network,
    find_backbone,
    find_border,
    freeze_backbone,
    network_spec,
    upper_part,
)
from competition.networks.submission_model import build_head
from competition.networks.weights import Weights
from competition.search.features import Features
from competition.training.batches import Batches, fit
from competition.training.callbacks import SCORE, ProgressBar, StepClock, TimeLimit
from competition.training.train import (
    Stage,
    build_training_model,
    diverged,
    plan_stages,
    stopping_rules,
)

Report = Callable[[float, int], None]


@dataclass(frozen=True)
class Outcome:
    """The best selection score; seconds of the last stage: of its first step beyond another one, and of a step.

    A step on features counts as one on pictures would: with the frozen part.
    """

    score: float
    compile_seconds: float
    step_seconds: float


@dataclass(frozen=True)
class Trainer:
    """Trains what trials ask for on `data`; features: of the same pictures, where `weights` are pretrained.

    deadline (of time.monotonic): a stage ends after the last epoch that fits. report: gets the score and the number of
    each epoch of the last stage, and may raise to end a hopeless trial. Both raise UserError where a loss diverges.
    """

    data: TrainingData
    weights: Weights
    features: Features | None
    deadline: float | None = None

    def train(self, config: Config, report: Report) -> Outcome:
        """Train as long as `config` says: both stages on features, or from random weights the whole network."""
        keras.utils.set_random_seed(config.seed)
        network, stages = (
            create_network(self._spec(config), self.weights),
            plan_stages(config, self.weights),
        )
        best = 0.0
        for stage in stages:
            stage.prepare(network)
            frozen = stage.prepare is freeze_backbone
            border = (
                None if frozen else find_border(find_backbone(network), config.training.unfreeze)
            )
            part = upper_part(network, border) if self._features_below(border) else network
            outcome = self._fit(
                part, border, stage, config, report if stage is stages[-1] else ignore_epoch
            )
            best = max(best, outcome.score)
        return Outcome(best, outcome.compile_seconds, outcome.step_seconds)

    def train_head(self, config: Config, report: Report) -> Outcome:
        """Train the head alone, on the pooled output of the frozen backbone."""
        assert self.features is not None
        keras.utils.set_random_seed(config.seed)
        inputs = keras.Input(self.features.validation(None).shape[1:])
        head = keras.Model(inputs, build_head(inputs, self._spec(config)))
        return self._fit(head, None, plan_stages(config, self.weights)[0], config, report)

    def _spec(self, config: Config) -> dict[str, Any]:
        return network_spec(config.model, self.data.images.shape[1:], self.data.num_classes)

    def _features_below(self, border: int | None) -> Features | None:
        """Return the features if there are some for `border` (None: the whole backbone is below; 0: nothing is)."""
        return None if border == 0 else self.features

    def _fit(
        self, part: keras.Model, border: int | None, stage: Stage, config: Config, report: Report
    ) -> Outcome:
        """Train one stage of `part`, what is above `border`, and leave its best weights there."""
        data, training, beside = self.data, config.training, 0.0
        features = self._features_below(border)
        if features is None:
            views, labels = data.images[None], one_hot(data.labels, data.num_classes)[None]
            augmentation, checked = config.augmentation, data.validation_images
        else:
            augmentation, checked = None, features.validation(border)
            views, labels = features.training(border)
            beside = training.batch_size * features.seconds_per_picture
        batches = Batches(
            views, labels, training.batch_size, config.seed, augmentation=augmentation
        )
        model = build_training_model(part, stage, training, batches)
        watch = _Watch(part, report)
        callbacks = [
            keras.callbacks.TerminateOnNaN(),
            *stopping_rules(training),
            watch,
            ProgressBar(f"{config.model.backbone}, {stage.name}", 0),
            TimeLimit(self.deadline),
        ]
        validation = checked, one_hot(data.validation_labels, data.num_classes)
        fit(model, batches, range(stage.epochs), validation, callbacks)
        if not np.isfinite(watch.loss):
            raise diverged(stage)
        part.set_weights(watch.weights)
        return watch.outcome(beside)


class _Watch(StepClock):
    """Knows the best epoch's score and weights."""

    def __init__(self, network: keras.Model, report: Report) -> None:
        super().__init__()
        self.network, self.report = network, report
        self.score, self.loss = -1.0, float("nan")
        self.weights: list[np.ndarray] = []
        self.steps: list[dict[str, float]] = []

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.loss = float(logs["loss"])
        self.steps.append(self.step_seconds())
        if logs[SCORE] > self.score:
            self.score, self.weights = float(logs[SCORE]), self.network.get_weights()
        self.report(float(logs[SCORE]), epoch)

    def outcome(self, beside: float) -> Outcome:
        """Return the score, and what a step took and a step on pictures takes `beside`."""
        step = min(seconds["step_seconds"] for seconds in self.steps)
        return Outcome(
            self.score, max(0.1, self.steps[0]["first_step_seconds"] - step), step + beside
        )


def ignore_epoch(score: float, epoch: int) -> None:
    """Take no notice of an epoch: a `Report` for whom the outcome is enough."""
