"""One trial of a search: a head on cached features, both stages on them, or all layers."""

from collections.abc import Callable
from dataclasses import dataclass

import keras
import numpy as np

from competition.config import Config
from competition.data.arrays import TrainingData
from competition.networks.layers import find_backbone, find_border, network_spec, upper_part
from competition.networks.submission_model import build_head
from competition.networks.weights import Weights
from competition.search.features import Features
from competition.training.batches import copied_batches, image_batches
from competition.training.keepers import Keeper
from competition.training.stages import Stage, plan_stages
from competition.training.train import build_network, fit_stage

Report = Callable[[float, int], None]


@dataclass(frozen=True)
class TrialResult:
    """The best selection score, and which validation images were right then: (m,) bool."""

    score: float
    correct: np.ndarray


@dataclass(frozen=True)
class TrialTrainer:
    """Trains what trials ask for on `data`, all of them on the same images.

    features: of these images, where `weights` are pretrained. Its methods take a report, which is
    told the score and the number of each epoch of the last stage, and may raise to end a trial;
    they raise TrialFailedError where a loss diverges.
    """

    data: TrainingData
    weights: Weights
    features: Features | None

    def train_head(self, config: Config, report: Report) -> TrialResult:
        """Train the head alone, on the pooled output of the frozen backbone."""
        assert self.features is not None
        keras.utils.set_random_seed(config.seed)
        inputs = keras.Input(self.features.validation(None).shape[1:])
        spec = network_spec(config.model, self.data.images.shape[1:], self.data.num_classes)
        head = keras.Model(inputs, build_head(inputs, spec))
        return self._fit(head, None, plan_stages(config, self.weights)[0], config, report)

    def train(self, config: Config, report: Report) -> TrialResult:
        """Train all stages: on features of the frozen part, or from random weights on images."""
        keras.utils.set_random_seed(config.seed)
        network = build_network(config, self.data, self.weights)
        stages = plan_stages(config, self.weights)
        results = []
        for stage in stages:
            stage.prepare(network, config.training.batch_norm_momentum)
            border = find_border(find_backbone(network), stage.share) if stage.share else None
            on_images = self.features is None or border == 0  # nothing is cached below it
            part = network if on_images else upper_part(network, border)
            told = report if stage is stages[-1] else ignore_epoch
            results.append(self._fit(part, border, stage, config, told))
        return max(results, key=lambda result: result.score)

    def _fit(
        self,
        part: keras.Model,
        border: int | None,
        stage: Stage,
        config: Config,
        report: Report,
    ) -> TrialResult:
        """Train one stage of `part`, all that is above `border`, and load its best weights."""
        labels = self.data.validation_labels
        if self.features is not None and border != 0:
            batches = copied_batches(*self.features.training(border), self.data, config)
            validation = self.features.validation(border)
        else:
            batches = image_batches(self.data, config)
            validation = self.data.validation_images
        keeper = Keeper(report)
        fit_stage(part, batches, (validation, labels), stage, config, keeper)
        keeper.load_best(part)
        assert keeper.predictions is not None
        return TrialResult(keeper.best_score, keeper.predictions.argmax(axis=1) == labels)


def ignore_epoch(score: float, epoch: int) -> None:
    """Take no notice of an epoch."""
