"""One trial of a search: a head on cached features, or a whole training in miniature."""

from collections.abc import Callable
from dataclasses import dataclass

import keras
import numpy as np

from competition.config import Config
from competition.data.arrays import TrainingData
from competition.metric import get_metric
from competition.networks.layers import network_spec
from competition.networks.submission_model import build_head
from competition.networks.weights import Weights
from competition.search.features import Features
from competition.training.batches import Batches, copied_batches, image_batches
from competition.training.keepers import Keeper
from competition.training.stages import Stage, plan_stages
from competition.training.train import build_network, fit_stage

Report = Callable[[float | None, int], None] | None
VALIDATED_FROM = 2 / 3  # of a stage: before that a score tells little of the last one


@dataclass(frozen=True)
class TrialResult:
    """The best selection score, and the predictions for the validation images then.

    correct: (m,) bool. probabilities: (m, K).
    """

    score: float
    correct: np.ndarray
    probabilities: np.ndarray


@dataclass(frozen=True)
class TrialTrainer:
    """Trains what trials ask for on `data`, all of them on the same images.

    features: of these images, which heads train on. Its methods take a report, which is told the
    score (None where it was not validated) and the number of each epoch of the last stage, and may
    raise to end a trial (None: nobody is told). They raise TrialFailedError where a loss diverges.
    """

    data: TrainingData
    weights: Weights
    features: Features | None

    def train_head(self, config: Config, report: Report) -> TrialResult:
        """Train the head alone, on the pooled output of the frozen backbone."""
        assert self.features is not None
        keras.utils.set_random_seed(config.seed)
        inputs = keras.Input(self.features.validation.shape[1:])
        spec = network_spec(config.model, self.data.images.shape[1:], self.data.num_classes)
        head = keras.Model(inputs, build_head(inputs, spec))
        batches = copied_batches(self.features.copies, self.features.labels, self.data, config)
        stage = plan_stages(config, self.weights)[0]
        return self._fit(head, batches, self.features.validation, stage, config, report)

    def train(self, config: Config, report: Report) -> TrialResult:
        """Train all stages on the images."""
        keras.utils.set_random_seed(config.seed)
        network = build_network(config, self.data, self.weights)
        batches = image_batches(self.data, config)
        stages = plan_stages(config, self.weights)
        results = []
        for stage in stages:
            stage.prepare(network, config.training.batch_norm_momentum)
            told = report if stage is stages[-1] else None
            validation = self.data.validation_images
            results.append(self._fit(network, batches, validation, stage, config, told))
        return max(results, key=lambda result: result.score)

    def _fit(
        self,
        network: keras.Model,
        batches: Batches,
        validation: np.ndarray,
        stage: Stage,
        config: Config,
        report: Report,
    ) -> TrialResult:
        """Train one stage, and load its best weights."""
        needs_scores = config.training.schedule == "plateau" or config.training.stopping_patience
        validated_from = 0.0 if needs_scores else VALIDATED_FROM
        keeper = Keeper(report, validated_from, get_metric(config.metric))
        labels = self.data.validation_labels
        fit_stage(network, batches, (validation, labels), stage, config, keeper)
        keeper.load_best(network)
        predictions = keeper.predictions
        assert predictions is not None
        return TrialResult(keeper.best_score, predictions.argmax(axis=1) == labels, predictions)
