"""Training in two stages: a frozen backbone under a new head, then its upper part with it; resumable at every epoch."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
from keras import ops
from keras.src.optimizers.base_optimizer import BaseOptimizer

from competition.common.errors import UserError
from competition.common.files import replacing
from competition.config import Config, TrainingConfig
from competition.data.arrays import TrainingData, one_hot
from competition.networks.layers import (
    TrainingModel,
    create_network,
    freeze_backbone,
    network_spec,
    penalise_head,
    train_everything,
    unfreeze_backbone,
)
from competition.networks.weights import Weights
from competition.training.batches import Batches, fit
from competition.training.callbacks import (
    SCORE,
    Checkpoint,
    ProgressBar,
    TimeLimit,
    finish_stage,
    read_state,
)

OPTIMIZERS = {
    "adam": keras.optimizers.Adam,
    "adamw": keras.optimizers.AdamW,
    "lion": keras.optimizers.Lion,
}


def class_weights(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Return weights (K,) that make up for unequal classes, as scikit-learn's "balanced"; 0 for a class with none."""
    counts = np.bincount(labels, minlength=num_classes)
    return np.where(counts > 0, len(labels) / (num_classes * np.maximum(counts, 1)), 0.0)


@dataclass(frozen=True)
class Stage:
    """One stage: what is trained (`prepare` sets it on the network), for how long, how fast, with what penalty."""

    name: str
    epochs: int
    learning_rate: float
    l2: float
    prepare: Callable[[keras.Model], Any]


def plan_stages(config: Config, weights: Weights) -> list[Stage]:
    """Return the stages: two from pretrained weights; from random ones one stage of as many epochs."""
    training, model = config.training, config.model
    epochs = training.frozen_epochs + training.fine_tuning_epochs
    if not epochs:
        raise UserError(
            "training.frozen_epochs and training.fine_tuning_epochs are 0; at least one must be more."
        )
    if not weights.is_pretrained:
        prepare = partial(train_everything, batch_norm_momentum=training.batch_norm_momentum)
        return [Stage("from scratch", epochs, training.head_learning_rate, model.l2, prepare)]
    unfreeze = partial(unfreeze_backbone, share=training.unfreeze)
    frozen = Stage(
        "frozen", training.frozen_epochs, training.head_learning_rate, model.l2, freeze_backbone
    )
    rate, l2 = training.fine_tuning_learning_rate, training.fine_tuning_l2
    fine_tuning = Stage("fine-tuning", training.fine_tuning_epochs, rate, l2, unfreeze)
    return [stage for stage in (frozen, fine_tuning) if stage.epochs]


def train(
    config: Config,
    data: TrainingData,
    weights: Weights,
    folder: Path,
    deadline: float | None = None,
) -> bool:
    """Train the network of `config`; return whether all was done, rather than cut short by `deadline`.

    folder: takes network.weights.h5 (of the best epoch by the selection score), history.csv and a checkpoint, from
    which another call goes on. deadline (of time.monotonic): ends after the last epoch that fits. Raises UserError
    where the loss diverges, or no epoch is asked for.
    """
    keras.utils.set_random_seed(config.seed)
    data = data.limited(config.training.limit, config.seed)
    network = create_network(
        network_spec(config.model, data.images.shape[1:], data.num_classes), weights
    )
    checkpoints = folder / "checkpoint"
    checkpoints.mkdir(parents=True, exist_ok=True)
    stages = plan_stages(config, weights)
    for number, stage in enumerate(stages):
        if stage.name not in read_state(checkpoints)["stages"]:
            limit = _stage_deadline(deadline, stages[number:])
            done = _train_stage(stage, network, config, data, checkpoints, limit)
            if done or number + 1 < len(stages):
                finish_stage(checkpoints, stage.name)
        network.load_weights(checkpoints / "best.weights.h5")
    with replacing(folder / "history.csv") as temporary:
        pd.DataFrame(read_state(checkpoints)["history"]).to_csv(temporary, index=False)
    with replacing(
        folder / "network.weights.h5"
    ) as temporary:  # last: it says that the training is finished
        network.save_weights(temporary)
    return len(read_state(checkpoints)["stages"]) == len(stages)


def _stage_deadline(deadline: float | None, stages: list[Stage]) -> float | None:
    """Leave the stages that follow their share of the time; a frozen epoch takes about a third of another."""
    if deadline is None:
        return None
    costs = [stage.epochs * (1 / 3 if stage.name == "frozen" else 1) for stage in stages]
    now = time.monotonic()
    return now + (deadline - now) * costs[0] / sum(costs)


def _train_stage(
    stage: Stage,
    network: keras.Model,
    config: Config,
    data: TrainingData,
    folder: Path,
    deadline: float | None,
) -> bool:
    """Train one stage; return whether it came to its end before `deadline`."""
    stage.prepare(network)
    targets = one_hot(data.labels, data.num_classes)
    training = config.training
    batches = Batches(
        data.images[None],
        targets[None],
        training.batch_size,
        config.seed,
        training.epoch_share,
        config.augmentation,
    )
    model = build_training_model(network, stage, training, batches)
    rules = stopping_rules(training)
    checkpoint = Checkpoint(folder, network, stage.name, rules)
    checkpoint.set_model(model)
    checkpoint.restore()
    done, limit = checkpoint.epochs_done, TimeLimit(deadline)
    callbacks = [keras.callbacks.TerminateOnNaN(), *rules]
    callbacks += [checkpoint, ProgressBar(checkpoint.title, done), limit]
    if done < stage.epochs and not _stopped(checkpoint):
        validation = data.validation_images, one_hot(data.validation_labels, data.num_classes)
        fit(model, batches, range(done, stage.epochs), validation, callbacks)
        _require_finite(checkpoint, stage)
    return not limit.reached


def build_training_model(
    network: keras.Model, stage: Stage, config: TrainingConfig, batches: Batches
) -> TrainingModel:
    """Return the compiled model that trains `network` in `stage`, with its penalty and class weights."""
    penalise_head(network, stage.l2)
    model = compile_model(
        network, batches.layer, config, stage.learning_rate, stage.epochs * len(batches)
    )
    if config.class_weights:
        labels = batches.labels[0].argmax(axis=1)
        model.class_weights = class_weights(labels, batches.labels.shape[-1]).astype(np.float32)
    return model


def compile_model(
    network: keras.Model,
    augmentation: keras.layers.Layer | None,
    config: TrainingConfig,
    learning_rate: float,
    steps: int,
) -> TrainingModel:
    """Return the training model around `network`: inputs and labels, augmented in training, and the loss.

    With augmentation inputs are uint8 pictures; without, features or augmented pictures, of any dtype.
    """
    images = keras.Input(network.input_shape[1:], dtype="uint8" if augmentation else "float32")
    labels = keras.Input(network.output_shape[1:])
    augmented, mixed = augmentation(images, labels) if augmentation else (images, labels)
    model = TrainingModel([images, labels], [network(augmented), mixed])
    schedule = keras.optimizers.schedules.CosineDecay(learning_rate, max(1, steps))
    rate = schedule if config.schedule == "cosine" else learning_rate
    loss = keras.losses.CategoricalCrossentropy(label_smoothing=config.label_smoothing)
    model.compile(_build_optimizer(config.optimizer, rate), loss=loss, metrics=["accuracy"])
    _build_all(model)
    return model


def _build_optimizer(name: str, rate: Any) -> keras.optimizers.Optimizer:
    """Return an optimiser that updates one variable after the other.

    Keras does so through TensorFlow's distribution strategy, after which the graph and all variables stay in memory for
    good: some 5 MB for each head that a search tries, 50 MB for each MobileNet.
    """
    optimizer = OPTIMIZERS[name](rate)
    if keras.backend.backend() == "tensorflow":
        for method in ("_backend_update_step", "_apply_weight_decay"):
            setattr(optimizer, method, partial(getattr(BaseOptimizer, method), optimizer))
    return optimizer


def _build_all(model: keras.Model) -> None:
    """Create the variables of optimiser, loss and metrics: where a step creates them, TensorFlow traces it twice."""
    model.optimizer.build(model.trainable_variables)
    example = [ops.full((1, shape[-1]), 1 / shape[-1]) for shape in model.output_shape]
    model.compute_loss(y_pred=example)
    model.compute_metrics(None, None, example)
    model.reset_metrics()


def stopping_rules(config: TrainingConfig) -> list[keras.callbacks.Callback]:
    """Return early stopping, first, and what lowers the rate where no schedule does."""
    stopping = keras.callbacks.EarlyStopping(SCORE, mode="max", patience=config.stopping_patience)
    if config.schedule == "cosine":
        return [stopping]
    factor, patience = config.plateau_factor, config.plateau_patience
    return [
        stopping,
        keras.callbacks.ReduceLROnPlateau(SCORE, mode="max", factor=factor, patience=patience),
    ]


def _stopped(checkpoint: Checkpoint) -> bool:
    """Tell whether early stopping had already ended this stage when the process died."""
    return bool(checkpoint.epochs_done) and bool(checkpoint.state["callbacks"][0]["stopped_epoch"])


def _require_finite(checkpoint: Checkpoint, stage: Stage) -> None:
    history = [row for row in checkpoint.state["history"] if row["stage"] == stage.name]
    if not checkpoint.best_path.is_file() or not history or not np.isfinite(history[-1]["loss"]):
        raise diverged(stage)


def diverged(stage: Stage) -> UserError:
    """Return the error of a stage whose loss is no number any more."""
    return UserError(
        f"The loss of stage '{stage.name}' became infinite or NaN at a learning rate of {stage.learning_rate:g}; "
        "a lower rate is needed (--set training.head_learning_rate=... or training.fine_tuning_learning_rate=...)."
    )
