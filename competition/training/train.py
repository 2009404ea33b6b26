"""The training loop: one for trials and final trainings, driven by progress from 0 to 1."""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import keras
import numpy as np
from keras import ops

from competition.common.console import describe_seconds, part_of_task, say, tell_progress
from competition.common.errors import TrialFailedError
from competition.common.tensorflow_workarounds import fuse_batch_norm, update_without_strategy
from competition.config import Config, TrainingConfig
from competition.data.arrays import TrainingData
from competition.metric import Metric, get_metric
from competition.networks.layers import (
    SMALLEST_INPUT,
    backbone_side,
    create_network,
    list_blocks,
    network_spec,
    resized_network,
)
from competition.networks.weights import Weights
from competition.time_budget import Slot, TrainingTime
from competition.training.batches import Batches, image_batches
from competition.training.callbacks import Average, StepWatcher
from competition.training.chance import beats_chance
from competition.training.keepers import Checkpoint, Keeper, Position
from competition.training.selection import selection_score
from competition.training.stages import Stage, begin_stage, plan_stages

VALIDATION_BATCH_SIZE = 64
CHANCE_IMAGES = 400  # validation images that tell whether a network has learnt anything
SHORTEST_EXTENSION = 0.2  # of its slot, by which a training goes on that has learnt nothing
SIZE_STEP = 16  # pixels by which a growing input grows
# A loss that was below LEARNT times that of a network that knows nothing, and rises above LOST
# times that, has diverged. Then the rate is multiplied by RETURN_FACTOR, so often at most.
LEARNT, LOST = 0.7, 0.9
RETURN_FACTOR = 1 / 3
MOST_RETURNS = 3
OPTIMIZERS = {
    "adam": keras.optimizers.Adam,
    "adamw": keras.optimizers.AdamW,
    "lion": keras.optimizers.Lion,
}
UNDECAYED = ["bias", "gamma", "beta"]  # variables that weight decay leaves alone


def train(
    config: Config,
    data: TrainingData,
    weights: Weights,
    keeper: Checkpoint,
    time_for: TrainingTime | None,
) -> None:
    """Train the network of `keeper` in all its stages, or resume at its checkpoint; load the best.

    time_for: each stage takes its share of the slot; None: the stages have as many epochs as the
    settings say. A network that is no better than chance when its slot is over trains on for as
    long again, within its limit. Raises TrialFailedError where the loss diverges.
    """
    batches = image_batches(data.limited(config.training.limit, config.seed), config)
    validation = data.validation_images, data.validation_labels
    stages = plan_stages(config, weights)
    done, total = 0.0, sum(stage.cost for stage in stages)

    for stage, slot in _schedule(stages, keeper, validation, time_for):
        before, done = done, min(1.0, done + stage.cost / total)
        if stage.name not in keeper.state["stages"]:
            stage.prepare(keeper.network, config.training.batch_norm_momentum)
            with part_of_task(before, done):
                fit_stage(keeper.network, batches, validation, stage, config, keeper, slot)
            keeper.finish_stage(stage.name)
        keeper.load_best(keeper.network)


def _schedule(
    stages: list[Stage],
    keeper: Checkpoint,
    validation: tuple[np.ndarray, np.ndarray],
    time_for: TrainingTime | None,
) -> Iterator[tuple[Stage, Slot | None]]:
    """Yield each stage with its slot, and the last one again while the network is at chance."""
    for number, stage in enumerate(stages):
        done = keeper.position(stage.name).progress
        yield stage, begin_stage(stages[number:], done, time_for.slot) if time_for else None
    extra = 1
    while time_for and _is_at_chance(keeper.network, validation):
        slot = Slot(time.time(), min(time_for.limit, time.time() + time_for.slot.length))
        if slot.length < max(1.0, SHORTEST_EXTENSION * time_for.slot.length):
            return
        extra += 1
        say(f"  no better than chance yet: it trains on for {describe_seconds(slot.length)}")
        yield replace(stages[-1], name=f"{stages[-1].name} {extra}"), slot


def _is_at_chance(network: keras.Model, validation: tuple[np.ndarray, np.ndarray]) -> bool:
    """Tell whether a network is no better than naming one class, on some validation images."""
    every = -(-len(validation[1]) // CHANCE_IMAGES)
    images, labels = validation[0][::every], validation[1][::every]
    accuracy = float(np.mean(predict(network, images).argmax(axis=1) == labels))
    return not beats_chance(accuracy, labels)


def build_network(config: Config, data: TrainingData, weights: Weights) -> keras.Model:
    """Return the network of `config` for `data`, with `weights` in its backbone."""
    spec = network_spec(config.model, data.images.shape[1:], data.num_classes)
    return create_network(spec, weights, config.training.precision)


def fit_stage(
    network: keras.Model,
    batches: Batches,
    validation: tuple[np.ndarray, np.ndarray],
    stage: Stage,
    config: Config,
    keeper: Keeper,
    slot: Slot | None = None,
) -> None:
    """Train a network, or its upper part on features, until its progress is 1 or it has stalled.

    validation: inputs (m, ...) and labels (m,), predicted after each whole epoch. Progress is the
    share of the epochs that is done; with a slot, the share of its time, on top of the progress
    before it. It drives the learning rate and the input size, so that each training ends annealed.
    A run whose loss diverges goes on from its best weights, at a third of the rate.
    Raises TrialFailedError where a loss becomes infinite or NaN and there are none.
    """
    training = config.training
    average = Average(network, training.average) if training.average else None
    trainer = _Trainer(network, batches, stage, training)
    position = keeper.position(stage.name)
    if position != Position():
        keeper.restore(trainer.model, average)
    clock = _Clock(len(batches), stage.epochs, slot, position.progress)
    epoch, step = position.epoch, position.step
    num_classes = batches.labels.shape[-1]
    started = time.monotonic()
    losses: list[tuple[int, float, float]] = []
    while not keeper.has_begun(stage.name) or not (
        clock.progress(epoch, step) >= 1 or has_stalled(keeper.scores(stage.name), training)
    ):
        if step == 0:
            started, losses = time.monotonic(), []
        returns = 0
        if keeper.can_return:
            returns = count_divergences(keeper.losses(stage.name), num_classes)
        factor = plateau_factor(keeper.scores(stage.name), training) * RETURN_FACTOR**returns
        side = trainer.side(clock.progress(epoch, step))

        def rate(done: int, epoch: int = epoch, factor: float = factor) -> float:
            return factor * stage.learning_rate * shape_rate(clock.progress(epoch, done), training)

        def must_stop(done: int, epoch: int = epoch, side: int = side) -> bool:
            progress = clock.progress(epoch, done)
            if isinstance(keeper, Checkpoint):  # the progress of a trial is that of its search
                tell_progress(progress, f"{stage.name} {progress:.0%}")
            return progress >= 1 or trainer.side(progress) != side

        def save(done: int, epoch: int = epoch) -> None:
            if isinstance(keeper, Checkpoint) and keeper.is_due() and done < len(batches):
                place = Position(epoch, done, clock.progress(epoch, done))
                keeper.save(trainer.model, stage.name, place, average)

        watcher = StepWatcher(
            step, rate, must_stop, save, average, f"  {stage.name}, epoch {epoch + 1}"
        )
        model, batched = trainer.at_side(side)
        trainer.set_dropout(epoch * len(batches) + step)
        model.fit(
            batched.stream(epoch, step),
            steps_per_epoch=len(batches) - step,
            shuffle=False,
            verbose=0,
            callbacks=[watcher],
        )
        logs = {name: values[-1] for name, values in model.history.history.items()}
        losses.append((watcher.steps_done - step, logs["loss"], logs["accuracy"]))
        step = watcher.steps_done
        progress = clock.progress(epoch, step)
        loss, accuracy = _average(losses)
        if step < len(batches) and progress < 1 and math.isfinite(loss):
            continue  # only the input size changes
        if average is not None:
            average.update()
            average.swap()
        predictions = None
        if step >= len(batches) and progress >= keeper.validated_from and math.isfinite(loss):
            predictions = predict(network, validation[0])
            if not np.isfinite(predictions).all():
                loss, predictions = math.nan, None
        metric = get_metric(config.metric)
        row = {"stage": stage.name, "epoch": epoch, "progress": round(progress, 4)}
        row |= {"loss": loss, "accuracy": accuracy}
        row |= _score_validation(predictions, validation[1], metric)
        row |= {"learning_rate": rate(step - 1), "seconds": round(time.monotonic() - started, 2)}
        row["side"] = side
        known = [*keeper.losses(stage.name), loss]
        is_lost = count_divergences(known, num_classes) > returns
        if is_lost and keeper.can_return and returns < MOST_RETURNS:
            keeper.add_lost_epoch(row)
            place = Position(epoch + 1, 0, progress)
            _go_back(network, batches, stage, training, keeper, place)
            rest = slot and Slot(time.time(), slot.end)
            fit_stage(network, batches, validation, stage, config, keeper, rest)  # as if resumed
            return
        if not math.isfinite(loss):
            raise diverged(stage)
        keeper.add_epoch(row, network, predictions)
        if average is not None:
            average.swap()
        epoch, step = epoch + 1, 0
        keeper.save(
            trainer.model, stage.name, Position(epoch, 0, clock.progress(epoch, 0)), average
        )


def _go_back(
    network: keras.Model,
    batches: Batches,
    stage: Stage,
    config: TrainingConfig,
    keeper: Keeper,
    place: Position,
) -> None:
    """Let a stage go on from `place` with its best weights, a fresh optimiser and average."""
    keeper.load_best(network)
    average = Average(network, config.average) if config.average else None
    keeper.save(_Trainer(network, batches, stage, config).model, stage.name, place, average)


class _Clock:
    """Progress 0..1 of a stage: by its epochs, or by the clock where it has a slot."""

    def __init__(self, steps: int, epochs: int, slot: Slot | None, before: float) -> None:
        self.steps = steps
        self.epochs = epochs
        self.slot = slot
        self.before = before

    def progress(self, epoch: int, step: int) -> float:
        if self.slot is None:
            return min(1.0, (epoch + step / self.steps) / self.epochs)
        return self.before + (1 - self.before) * self.slot.passed


class _Trainer:
    """The compiled models that train one network, one per input size, with one optimiser."""

    def __init__(
        self, network: keras.Model, batches: Batches, stage: Stage, config: TrainingConfig
    ) -> None:
        self.network = network
        self.batches = batches
        self.config = config
        fuse_batch_norm(network)
        self.optimizer = build_optimizer(network, stage, config)
        self.full = 0 if batches.augment is None else backbone_side(network)
        weights = {id(item) for item in network.weights}
        self.dropout_states = [item for item in network.variables if id(item) not in weights]
        self.models: dict[int, tuple[keras.Model, Batches]] = {}
        self.model = self.at_side(self.full)[0]

    def side(self, progress: float) -> int:
        """Return the side in pixels of the images that are trained on; 0 of features."""
        start = max(self.config.start_size, SMALLEST_INPUT)
        if not self.config.start_size or start >= self.full:
            return self.full
        grown = start + progress * (self.full - start + SIZE_STEP)
        return min(self.full, start + int((grown - start) / SIZE_STEP) * SIZE_STEP)

    def set_dropout(self, steps: int) -> None:
        """Set the state of dropout, which counts the steps and which no checkpoint holds."""
        for state in self.dropout_states:
            state.assign([ops.convert_to_numpy(state)[0], steps])

    def at_side(self, side: int) -> tuple[keras.Model, Batches]:
        """Return the model and the batches for images of that side."""
        if side not in self.models:
            # Another model of the same layers: a compiled one would store its optimiser, too.
            model, batches = keras.Model(self.network.inputs, self.network.outputs), self.batches
            if side != self.full:
                model = resized_network(self.network, side)
                batches = batches.resized(side)
            loss = keras.losses.CategoricalCrossentropy(label_smoothing=self.config.label_smoothing)
            model.compile(self.optimizer, loss, metrics=["accuracy"])
            _build_all(model)
            self.models[side] = model, batches
        return self.models[side]


def build_optimizer(
    network: keras.Model, stage: Stage, config: TrainingConfig
) -> keras.optimizers.Optimizer:
    """Return the optimiser of a stage, built for the variables that train."""
    arguments: dict[str, Any] = {"global_clipnorm": config.clip_norm or None}
    if config.optimizer != "adam":
        arguments["weight_decay"] = config.weight_decay
    optimizer = OPTIMIZERS[config.optimizer](stage.learning_rate, **arguments)
    if config.optimizer != "adam":
        optimizer.exclude_from_weight_decay(var_names=UNDECAYED)
    update_without_strategy(optimizer, _decay_by_layer(network, config.layer_decay))
    optimizer.build(network.trainable_variables)
    return optimizer


def _decay_by_layer(network: keras.Model, decay: float) -> dict[str, float]:
    """Return the factor of each variable's rate by its path: `decay` per block from the head.

    Clark et al. 2020, ELECTRA (arXiv 2003.10555), appendix A.
    """
    backbones = [layer for layer in network.layers if isinstance(layer, keras.Model)]
    if decay == 1 or not backbones:
        return {}
    blocks = list_blocks(backbones[0])
    return {
        variable.path: decay ** (len(blocks) - number)
        for number, layers in enumerate(blocks)
        for layer in layers
        for variable in layer.trainable_variables
    }


def _build_all(model: keras.Model) -> None:
    """Create the variables of loss and metrics: a step that creates them is traced twice."""
    example = ops.full((1, model.output_shape[-1]), 1 / model.output_shape[-1])
    model.compute_metrics(None, example, example)
    model.reset_metrics()


def shape_rate(progress: float, config: TrainingConfig) -> float:
    """Return the share 0..1 of the learning rate at a progress 0..1: warm-up, then the schedule.

    Cosine: Loshchilov and Hutter 2017, SGDR (arXiv 1608.03983). Linear: Li et al. 2020, Budgeted
    Training (arXiv 1905.04753).
    """
    if progress < config.warm_up:
        return max(progress / config.warm_up, 1e-3)
    rest = (progress - config.warm_up) / (1 - config.warm_up)
    if config.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * min(1.0, rest)))
    return 1.0 if config.schedule == "plateau" else max(0.0, 1 - rest)


def plateau_factor(scores: Sequence[float], config: TrainingConfig) -> float:
    """Return the factor of the rate after epochs with these scores, by the plateau rule."""
    factor, best, wait = 1.0, -math.inf, 0
    for score in scores if config.schedule == "plateau" else ():
        wait = 0 if score > best else wait + 1
        best = max(best, score)
        if wait >= config.plateau_patience:
            factor, wait = factor * config.plateau_factor, 0
    return factor


def count_divergences(losses: Sequence[float], num_classes: int) -> int:
    """Return how many of these epochs lost what the epochs before had learnt.

    Their loss is infinite or NaN, or again about as high as that of a network that knows nothing.
    """
    ignorant, lowest, count = math.log(num_classes), math.inf, 0
    for loss in losses:
        if not math.isfinite(loss) or (lowest < LEARNT * ignorant and loss > LOST * ignorant):
            count += 1
        else:
            lowest = min(lowest, loss)
    return count


def has_stalled(scores: Sequence[float], config: TrainingConfig) -> bool:
    """Tell whether early stopping ends a stage after epochs with these scores."""
    if not scores or not config.stopping_patience:
        return False
    best = scores.index(max(scores))
    return len(scores) - 1 - best >= config.stopping_patience


def predict(network: keras.Model, inputs: np.ndarray) -> np.ndarray:
    """Return the probabilities (m, K) float32 of inputs (m, ...), in batches of one shape."""
    size = min(VALIDATION_BATCH_SIZE, len(inputs))
    result = np.empty((len(inputs), network.output_shape[-1]), np.float32)
    for start in range(0, len(inputs), size):
        first = min(start, len(inputs) - size)  # the last batch overlaps the one before it
        batch = inputs[first : first + size].astype(np.float32)
        result[first : first + size] = ops.convert_to_numpy(network.predict_on_batch(batch))
    return result


def _average(losses: list[tuple[int, float, float]]) -> tuple[float, float]:
    """Return the loss and the accuracy of an epoch from those of its parts, of so many steps."""
    steps = [part[0] for part in losses]
    loss, accuracy = np.average([part[1:] for part in losses], axis=0, weights=steps)
    return float(loss), float(accuracy)


def _score_validation(
    predictions: np.ndarray | None, labels: np.ndarray, metric: Metric
) -> dict[str, float | None]:
    """Return the columns of validation in a row of the history, None where it was not predicted."""
    if predictions is None:
        return {"val_loss": None, "val_accuracy": None, metric.column: None}
    own = predictions[np.arange(len(labels)), labels]
    return {
        "val_loss": float(-np.log(np.maximum(own, 1e-7)).mean()),
        "val_accuracy": float(np.mean(predictions.argmax(axis=1) == labels)),
        metric.column: metric.flip(selection_score(metric, labels, predictions)),
    }


def diverged(stage: Stage) -> TrialFailedError:
    """Return the error of a stage whose loss became infinite or NaN."""
    return TrialFailedError(
        f"The loss of stage '{stage.name}' became infinite or NaN at a learning rate of "
        f"{stage.learning_rate:g}; a lower rate is needed (--set training.head_learning_rate=... "
        "or training.fine_tuning_learning_rate=...)."
    )
