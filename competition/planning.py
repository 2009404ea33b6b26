"""What fits into a time budget: trials and epochs, planned from this machine's measured speed."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import keras
import numpy as np

from competition.augmentation import build_augmentation
from competition.backbones import BACKBONES, get_backbone
from competition.config import Config
from competition.console import describe_seconds, say
from competition.distortion import VERSIONS
from competition.files import InputError
from competition.model import create_network, network_spec, train_everything
from competition.prediction import num_views
from competition.search_job import FINALS, HEADS, TRIALS, Effort
from competition.submission_model import predict_views
from competition.training import compile_model, count_skipped, one_hot
from competition.weights import RANDOM, Weights

EPOCH_SECONDS = 0.5  # of an epoch beside its steps: writing the checkpoint
FINE_TUNING, CACHED = 0.43, 0.35  # what training the upper layers takes of training all; and what it does on features
PACKAGE_SECONDS = 40.0  # writing, unzipping and running the submission, and the figures at the end
TRAINING_MARGIN = 0.85  # of the time for training is planned; a schedule that is cut short costs more than an epoch
HEAD_COMPILE, HEAD_STEP_SECONDS = 0.3, 0.004  # of a head's trial: of the custom CNN's first step; of a step of its own
FEWEST_PICTURES, FEW_EPOCHS, MOST_EPOCHS = 200, 4, 60


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
class Planner:
    """Estimates seconds from the custom CNN's speed, for a backbone that was trained already from its own.

    workers: how many processes share the work, while which the speed was measured. factors: for backbones that were
    trained, what a step and compiling it really took, as multiples of what was estimated.
    """

    speed: Speed
    sizes: Sizes
    weights: dict[str, Weights]
    workers: int = 1
    factors: dict[str, tuple[float, float]] = field(default_factory=dict)

    def training_seconds(
        self, backbone: str, frozen_epochs: int, fine_tuning_epochs: int, limit: int = 0, area: float = 1.0
    ) -> float:
        """Return the seconds of one training of both stages, on `limit` pictures (0: all) of a share of their area."""
        part = FINE_TUNING if self.weights[backbone].is_pretrained else 1.0
        return self._seconds(backbone, (frozen_epochs, fine_tuning_epochs), limit, area, part)

    def _seconds(self, backbone: str, epochs: tuple[int, int], limit: int, area: float, part: float) -> float:
        """As above; part: of a step of all layers, what one of the second stage takes."""
        entry, pretrained = get_backbone(backbone), self.weights[backbone].is_pretrained
        pictures = min(limit or self.sizes.train, self.sizes.train)
        train = pictures * self.speed.train * entry.train_cost * part * area
        forward = self.speed.forward * entry.forward_cost * area
        frozen = 1.2 * pictures * forward if pretrained else train
        validation = self.sizes.validation * forward * (0.5 if part == CACHED else 1.0)
        steps = epochs[0] * frozen + epochs[1] * train + sum(epochs) * validation
        stages = sum(count > 0 for count in epochs) if pretrained else 1
        per_step, at_first = self.factors.get(backbone, (1.0, 1.0))
        compiling = at_first * stages * self.speed.compile * entry.compile_cost * part
        return compiling + per_step * steps + EPOCH_SECONDS * sum(epochs)

    def trial_seconds(self, backbone: str, config: Config, part: str) -> float:
        """Return the seconds of one trial of a part of the search; what is frozen is cached."""
        effort = self._effort(backbone, config)
        pictures, epochs = effort.pictures(part), effort.epochs(part)
        few = replace(self, sizes=replace(self.sizes, validation=self._validated(pictures)))
        if not effort.pretrained:
            side = config.model.input_size or self.sizes.side
            return few.training_seconds(backbone, *epochs, pictures, (effort.side(part, side) / side) ** 2)
        steps = epochs[0] * min(pictures, self.sizes.train) / config.training.batch_size
        head = HEAD_COMPILE * self.speed.compile + HEAD_STEP_SECONDS * steps
        return head if part == HEADS else head + few._seconds(backbone, (0, epochs[1]), pictures, 1.0, CACHED)

    def _validated(self, pictures: int) -> int:
        """Return on how many validation pictures a trial on `pictures` is scored."""
        return self.sizes.validation // count_skipped(self.sizes.validation, pictures)

    def cache_seconds(self, backbone: str, config: Config, part: str) -> float:
        """Return the seconds of computing the features that a part of the search needs."""
        entry, pictures = get_backbone(backbone), self._effort(backbone, config).pictures(part)
        passed = config.search.views * min(pictures, self.sizes.train) + self._validated(pictures)
        return 1.3 * passed * self.speed.forward * entry.forward_cost + self.speed.compile * entry.compile_cost / 4

    def part_seconds(self, backbone: str, config: Config) -> dict[str, float]:
        """Return the seconds of each part of a backbone's search; heads and trials share their features."""
        effort = self._effort(backbone, config)
        seconds = {part: count * self.trial_seconds(backbone, config, part) for part, count in effort.trials.items()}
        cached = [part for part in seconds if part != TRIALS] if effort.pretrained else []
        return seconds | {part: seconds[part] + self.cache_seconds(backbone, config, part) for part in cached}

    def _effort(self, backbone: str, config: Config) -> Effort:
        return Effort(config.search, self.weights[backbone].is_pretrained)

    def search_seconds(self, config: Config) -> dict[str, dict[str, float]]:
        """Return the seconds of each part of each backbone's search, which workers beyond their number share.

        One from random weights gets no more than the longest of the others: its trials are slow, and end with its time.
        """
        seconds = {name: self.part_seconds(name, config) for name in self.weights}
        known = [sum(seconds[name].values()) for name, weights in self.weights.items() if weights.is_pretrained]
        longest, sharing = max(known, default=math.inf), max(1, self.workers // len(self.weights))
        for name, weights in self.weights.items():
            if not weights.is_pretrained:
                seconds[name] = {part: min(cost, longest / 2) for part, cost in seconds[name].items()}
        return {name: {part: cost / sharing for part, cost in parts.items()} for name, parts in seconds.items()}

    def search_span(self, config: Config) -> float:
        """Return the seconds of all searches together."""
        return self.span({name: sum(parts.values()) for name, parts in self.search_seconds(config).items()})

    def evaluation_seconds(self, backbone: str, config: Config) -> float:
        """Return the seconds of scoring one run on all versions of validation and test, some with all views."""
        entry = get_backbone(backbone)
        forward = self.speed.forward * entry.forward_cost
        views = sum(num_views(version, config.evaluation) for version in VERSIONS)
        compiling = self.speed.compile * entry.compile_cost / 4  # no gradients
        return 1.1 * self.sizes.evaluated * views * forward + compiling  # reading, turning and scoring beside

    def learn(self, backbone: str, batch_size: int, trial: tuple[float, float]) -> "Planner":
        """Return a planner that knows what a trial of `backbone` took: seconds of compiling a step, and of a step."""
        compiling, step = trial
        entry = get_backbone(backbone)
        part = FINE_TUNING if self.weights[backbone].is_pretrained else 1.0
        factors = (
            step / (batch_size * self.speed.train * entry.train_cost * part),
            compiling / (self.speed.compile * entry.compile_cost * part),
        )
        return replace(self, factors=self.factors | {backbone: factors})

    def finish_times(self, costs: dict[str, float]) -> dict[str, float]:
        """Return when each task ends, in seconds, if each begins in the given order as soon as a worker is free."""
        free, ends = [0.0] * self.workers, {}
        for name, cost in costs.items():
            worker = free.index(min(free))
            free[worker] += cost
            ends[name] = free[worker]
        return ends

    def span(self, costs: dict[str, float]) -> float:
        """Return the seconds until the last task ends, the most expensive ones begun first."""
        in_order = dict(sorted(costs.items(), key=lambda item: -item[1]))
        return max(self.finish_times(in_order).values())

    def final_seconds(self, config: Config) -> dict[str, float]:
        """Return the seconds of each backbone's full training."""
        training = config.training
        epochs, pictures = (training.frozen_epochs, training.fine_tuning_epochs), self._passed(config)
        return {name: self.training_seconds(name, *epochs, pictures) for name in self.weights}

    def _passed(self, config: Config) -> int:
        """Return how many pictures an epoch of a full training passes."""
        pictures = min(config.training.limit or self.sizes.train, self.sizes.train)
        return max(1, round(config.training.epoch_share * pictures))

    def total_seconds(self, config: Config, search: bool) -> float:
        """Return the seconds of the whole job."""
        searching = self.search_span(config) if search else 0.0
        return searching + self.span(self.final_seconds(config)) + self.reserve(config)

    def reserve(self, config: Config) -> float:
        """Return the seconds that what follows the training needs."""
        return PACKAGE_SECONDS + self.span({name: self.evaluation_seconds(name, config) for name in self.weights})

    def plan_search(self, config: Config, seconds: float, trials: int | None) -> Config:
        """Return `config` with as many of its trials, of either kind, as fit, on fewer pictures where few would.

        trials: the number that the user asked for, which is an upper limit.
        """
        share = config.search.share * (seconds - self.reserve(config))
        most, whole = trials or config.search.trials, config.search.two_stage_trials
        pictures = [min(config.search.trial_pictures, self.sizes.train)]
        while pictures[-1] > FEWEST_PICTURES:
            pictures.append(max(FEWEST_PICTURES, pictures[-1] // 2))
        for fewest in (most // 4, most // 10, 2):  # rather fewer pictures than very few trials
            for limit in pictures:
                for count in range(most, min(max(2, fewest), most) - 1, -1):
                    both = max(min(2, whole), round(whole * count / most))  # one as given, one with the best head
                    search = replace(config.search, trials=count, two_stage_trials=both, trial_pictures=limit)
                    planned = replace(config, search=search)
                    if self.search_span(planned) <= share:
                        return planned
        return planned

    def plan_training(self, config: Config, seconds: float) -> Config:
        """Return `config` with as many epochs as fit into `seconds`, at least one; one in five is frozen.

        Where these are few, one more, if all are shortened, passes more pictures in the same time.
        """
        room = TRAINING_MARGIN * (seconds - self.reserve(config))
        whole = [(epochs, 1.0) for epochs in range(MOST_EPOCHS, 0, -1)]
        shortened = [(epochs, share / 20) for epochs in range(FEW_EPOCHS, 1, -1) for share in range(19, 9, -1)]
        for epochs, share in sorted([*whole, *shortened], key=lambda plan: (-plan[0] * plan[1], plan[0])):
            frozen = min(round(epochs / 5), 10) if config.training.frozen_epochs else 0
            rest = epochs - frozen
            training = replace(config.training, frozen_epochs=frozen, fine_tuning_epochs=rest, epoch_share=share)
            planned = replace(config, training=training)
            if self.span(self.final_seconds(planned)) <= room:
                return planned
        return planned

    def keep_affordable(self, config: Config, seconds: float, packaged: str, search: bool) -> "Planner":
        """Return a planner of the packaged backbone, and of as many others as one epoch of each fits into `seconds`.

        A search of very few trials counts too. The cheapest ones first; what is left out is told. Raises InputError
        where not even the packaged one fits.
        """
        training = replace(config.training, frozen_epochs=0, fine_tuning_epochs=1)
        once = replace(config, training=training)
        costs = self.final_seconds(once)
        names = sorted(costs, key=lambda name: (name != packaged, costs[name]))
        for count in range(len(names), 0, -1):
            kept = replace(self, weights={name: item for name, item in self.weights.items() if name in names[:count]})
            needed = kept.span(kept.final_seconds(once)) + kept.reserve(config)
            if search:
                needed += kept.search_span(kept.plan_search(config, 0, None))
            if needed <= seconds:
                break
        else:
            raise InputError(
                f"The time budget leaves {describe_seconds(seconds)} after preparing the data, and one epoch of "
                f"{names[0]} takes about {describe_seconds(needed)}; give more, or a smaller backbone (--backbone)."
            )
        if count < len(names):
            left = describe_seconds(seconds)
            say(f"{left} are left, too little for one epoch of each backbone: WITHOUT {', '.join(names[count:])}.")
        return kept


def measure_speed(config: Config, picture_shape: tuple[int, ...], num_classes: int) -> Speed:
    """Time a few steps of the custom CNN at the configured size, augmentation included; takes some ten seconds."""
    spec = network_spec(replace(config.model, backbone="custom_cnn"), picture_shape, num_classes)
    network = create_network(spec, RANDOM)
    train_everything(network, config.training.batch_norm_momentum)
    batch = config.training.batch_size
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (batch, *picture_shape), np.uint8)
    targets = one_hot(generator.integers(0, num_classes, batch), num_classes)
    augmentation = build_augmentation(config.augmentation, 0)
    augmentation(images, targets, training=True)  # it compiles once a process, whatever the network
    model = compile_model(network, augmentation, config.training, 1e-3, 1)
    first = _time_of(lambda: model.train_on_batch((images, targets)), repeats=1)
    train = _time_of(lambda: model.train_on_batch((images, targets))) / batch
    predict_views(network, images, 1, batch)
    forward = _time_of(lambda: predict_views(network, images, 1, batch)) / batch
    keras.utils.clear_session(free_memory=True)
    return Speed(train, forward, max(0.1, first - train * batch))


def _time_of(action: Callable[[], object], repeats: int = 7) -> float:
    """Return the median seconds of an action."""
    times = [time.perf_counter()]
    for _ in range(repeats):
        action()
        times.append(time.perf_counter())
    return float(np.median(np.diff(times)))


def slowest(speeds: list[Speed]) -> Speed:
    """Return the speed to plan with, of several measured side by side; raises InputError where there is none."""
    if not speeds:
        raise InputError("The speed of this machine could not be measured, as said above; mend that and try again.")
    return Speed(*(max(getattr(speed, name) for speed in speeds) for name in ("train", "forward", "compile")))


def describe_plan(config: Config, planner: Planner, search: bool) -> str:
    """Return what the job will do and how long it will take, in words."""
    lines = []
    if search:
        lines.append(_describe_search(config, planner))
    frozen, rest = config.training.frozen_epochs, config.training.fine_tuning_epochs
    stages = f"{frozen} epochs frozen and {rest} of fine-tuning; from random weights {frozen + rest} of all layers"
    share = config.training.epoch_share
    part = f", of which an epoch passes {100 * share:.0f} %" if share < 1 else ""
    lines.append(f"training: {stages}; {planner.sizes.train} pictures{part}")
    for name, seconds in planner.final_seconds(config).items():
        lines.append(f"  {BACKBONES[name].title}, {planner.weights[name].origin} weights: {describe_seconds(seconds)}")
    lines.append(f"in all about {describe_seconds(planner.total_seconds(config, search))} from here")
    return "\n".join(lines)


def _describe_search(config: Config, planner: Planner) -> str:
    search = config.search
    texts = []
    for pretrained in (True, False):
        if not any(weights.is_pretrained == pretrained for weights in planner.weights.values()):
            continue
        effort = Effort(search, pretrained)
        few, more = (min(effort.pictures(part), planner.sizes.train) for part in (TRIALS, FINALS))
        text = f"{search.trials} trials of the head on cached features, {search.two_stage_trials} of both stages"
        if not pretrained:
            text = f"from random weights up to {search.trials} trials of all layers at half the size"
        finalists = effort.trials.get(FINALS)
        finals = f", the best {finalists} again on {more}" if finalists else ""
        frozen, fine_tuning = effort.epochs(TRIALS)
        texts.append(f"{text}, {frozen} + {fine_tuning} epochs of {few} pictures{finals}")
    return f"search, for each backbone: {'; '.join(texts)}"
