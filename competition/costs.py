"""What the parts of a job take on this machine, estimated from a few measured steps of the custom CNN, in seconds."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import keras
import numpy as np

from competition.backbones import get_backbone
from competition.common.errors import UserError
from competition.config import Config, TrainingConfig
from competition.data.arrays import count_skipped, one_hot
from competition.distortion.profiles import VERSIONS
from competition.evaluation.predict import num_views
from competition.networks.layers import create_network, network_spec, train_everything
from competition.networks.submission_model import predict_views
from competition.networks.weights import RANDOM, Weights
from competition.search.rounds import HEADS, TRIALS, Effort
from competition.training.batches import Batches
from competition.training.train import compile_model

EPOCH_SECONDS = 0.5  # of an epoch beside its steps: writing the checkpoint
HEAD_COMPILE, HEAD_STEP_SECONDS = (
    0.6,
    0.004,
)  # of a head's trial: of the custom CNN's first step; of a step of its own


@dataclass(frozen=True)
class Speed:
    """Seconds that the custom CNN takes here for a picture in training, a picture in prediction, and its first step."""

    train: float
    forward: float
    compile: float


@dataclass(frozen=True)
class Sizes:
    """How many pictures are trained on, scored after each epoch, and evaluated, in as many versions, at the end.

    side: of a picture, in pixels.
    """

    train: int
    validation: int
    evaluated: int
    side: int = 96


@dataclass(frozen=True)
class Share:
    """What training a part of a network takes of what all of it does: of a step, its compiling, and validation."""

    step: float = 1.0
    compiling: float = 1.0
    validation: float = 1.0


EVERYTHING, UPPER_PART, ON_FEATURES = Share(), Share(0.43, 0.43), Share(0.35, 0.35, 0.5)


@dataclass(frozen=True)
class Costs:
    """Estimates seconds from the custom CNN's speed, for a backbone that was trained already from its own.

    factors: for backbones that were trained, what a step and compiling it really took, as multiples of what was
    estimated.
    """

    speed: Speed
    sizes: Sizes
    weights: dict[str, Weights]
    factors: dict[str, tuple[float, float]] = field(default_factory=dict)

    def of(self, names: list[str]) -> "Costs":
        """Return the same for some of the backbones."""
        return replace(
            self, weights={name: weights for name, weights in self.weights.items() if name in names}
        )

    def learn(self, backbone: str, batch_size: int, trial: tuple[float, float]) -> "Costs":
        """Return the same with what a trial of `backbone` took: seconds of compiling a step, and of a step."""
        (compiling, step), entry, share = trial, get_backbone(backbone), self._trained(backbone)
        estimated_step = batch_size * self.speed.train * entry.cost * share.step
        estimated_compiling = self.speed.compile * entry.compile_cost * share.compiling
        factors = step / estimated_step, compiling / estimated_compiling
        return replace(self, factors=self.factors | {backbone: factors})

    def training_seconds(self, backbone: str, training: TrainingConfig) -> float:
        """Return the seconds of one full training."""
        pictures = training.epoch_share * min(training.limit or self.sizes.train, self.sizes.train)
        epochs = training.frozen_epochs, training.fine_tuning_epochs
        return self._seconds(
            backbone, self._trained(backbone), epochs, pictures, self.sizes.validation
        )

    def trial_seconds(self, backbone: str, config: Config, part: str) -> float:
        """Return the seconds of one trial of a part of the search; what is frozen is cached."""
        effort = self._effort(backbone, config)
        pictures, epochs = min(effort.pictures(part), self.sizes.train), effort.epochs(part)
        validation = self._validated(pictures)
        if not effort.pretrained:
            side = config.model.input_size or self.sizes.side
            area = (effort.side(part, side) / side) ** 2
            return self._seconds(backbone, EVERYTHING, epochs, pictures, validation, area)
        steps = epochs[0] * pictures / config.training.batch_size
        head = HEAD_COMPILE * self.speed.compile + HEAD_STEP_SECONDS * steps
        if part == HEADS:
            return head
        return head + self._seconds(backbone, ON_FEATURES, (0, epochs[1]), pictures, validation)

    def search_seconds(self, backbone: str, config: Config) -> dict[str, float]:
        """Return the seconds of each part of a backbone's search; heads and trials share their features."""
        effort = self._effort(backbone, config)
        seconds = {
            part: count * self.trial_seconds(backbone, config, part)
            for part, count in effort.trials.items()
        }
        cached = [part for part in seconds if part != TRIALS] if effort.pretrained else []
        return seconds | {
            part: seconds[part] + self._cache_seconds(backbone, effort, part) for part in cached
        }

    def evaluation_seconds(self, backbone: str, config: Config) -> float:
        """Return the seconds of scoring one run on all versions of validation and test, some with all views."""
        views = sum(num_views(version, config.evaluation) for version in VERSIONS)
        return self._passing_seconds(
            backbone, 1.1 * self.sizes.evaluated * views
        )  # reading, turning, scoring beside

    def _trained(self, backbone: str) -> Share:
        return UPPER_PART if self.weights[backbone].is_pretrained else EVERYTHING

    def _effort(self, backbone: str, config: Config) -> Effort:
        return Effort(config.search, self.weights[backbone].is_pretrained)

    def _validated(self, pictures: int) -> int:
        """Return on how many validation pictures a trial on `pictures` is scored."""
        return self.sizes.validation // count_skipped(self.sizes.validation, pictures)

    def _cache_seconds(self, backbone: str, effort: Effort, part: str) -> float:
        """Return the seconds of computing the features that a part of the search needs."""
        pictures = min(effort.pictures(part), self.sizes.train)
        passed = effort.search.cached_copies * pictures + self._validated(pictures)
        return self._passing_seconds(backbone, 1.3 * passed)  # augmenting and writing beside

    def _passing_seconds(self, backbone: str, pictures: float) -> float:
        """Return the seconds of passing pictures without training, compiling included."""
        entry = get_backbone(backbone)
        compiling = self.speed.compile * entry.compile_cost / 4  # no gradients
        return pictures * self.speed.forward * entry.forward_cost + compiling

    def _seconds(
        self,
        backbone: str,
        share: Share,
        epochs: tuple[int, int],
        pictures: float,
        validation: int,
        area: float = 1.0,
    ) -> float:
        """Return the seconds of so many epochs of both stages on pictures of a share of their area."""
        entry, pretrained = get_backbone(backbone), self.weights[backbone].is_pretrained
        train = pictures * self.speed.train * entry.cost * share.step * area
        forward = self.speed.forward * entry.forward_cost * area
        frozen = 1.2 * pictures * forward if pretrained else train
        scoring = validation * forward * share.validation
        steps = epochs[0] * frozen + epochs[1] * train + sum(epochs) * scoring
        stages = sum(count > 0 for count in epochs) if pretrained else 1
        per_step, at_first = self.factors.get(backbone, (1.0, 1.0))
        compiling = stages * self.speed.compile * entry.compile_cost * share.compiling
        return at_first * compiling + per_step * steps + EPOCH_SECONDS * sum(epochs)


def measure_speed(config: Config, picture_shape: tuple[int, ...], num_classes: int) -> Speed:
    """Time a few steps of the custom CNN at the configured size, augmentation included; takes some ten seconds."""
    spec = network_spec(replace(config.model, backbone="custom_cnn"), picture_shape, num_classes)
    network = create_network(spec, RANDOM)
    train_everything(network, config.training.batch_norm_momentum)
    batch = config.training.batch_size
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (batch, *picture_shape), np.uint8)
    targets = one_hot(generator.integers(0, num_classes, batch), num_classes)
    model = compile_model(network, None, config.training, 1e-3, 1)
    first, step = (
        _time_of(lambda: model.train_on_batch((images, targets)), repeats) for repeats in (1, 3)
    )
    batches = Batches(images[None], targets[None], batch, 0, augmentation=config.augmentation)
    if batches.layer is not None:
        model = compile_model(network, batches.layer, config.training, 1e-3, 1)
    model.train_on_batch(*batches[0])  # compiles augmentation
    train = _time_of(lambda: model.train_on_batch(*batches[0])) / batch
    predict_views(network, images, 1, batch)
    forward = _time_of(lambda: predict_views(network, images, 1, batch)) / batch
    keras.utils.clear_session(free_memory=True)
    return Speed(train, forward, max(0.1, first - step))


def _time_of(action: Callable[[], object], repeats: int = 7) -> float:
    """Return the median seconds of an action."""
    times = [time.perf_counter()]
    for _ in range(repeats):
        action()
        times.append(time.perf_counter())
    return float(np.median(np.diff(times)))


def slowest(speeds: list[Speed]) -> Speed:
    """Return the speed to plan with, of several measured side by side; raises UserError where there is none."""
    if not speeds:
        raise UserError(
            "The speed of this machine could not be measured, as said above; mend that and try again."
        )
    return Speed(
        *(max(getattr(speed, name) for speed in speeds) for name in ("train", "forward", "compile"))
    )
