"""The stages of a training: which share of the backbone trains, for how long, how fast."""

from dataclasses import dataclass

import keras

from competition.common.errors import UserError
from competition.config import Config
from competition.networks.layers import penalise_head, set_trainable
from competition.networks.weights import Weights
from competition.time_budget import Slot

FROZEN_COST = 1 / 3  # of an epoch on a frozen backbone, relative to one that trains it


@dataclass(frozen=True)
class Stage:
    """One stage of a training.

    share: of the backbone's layers, from the top, that train (0: the head alone).
    batch_norm: whether BatchNorm layers that train keep their statistics (`inference`) or learn
    new ones (`training`). l2: penalty on the kernels of the head.
    """

    name: str
    share: float
    batch_norm: str
    epochs: int
    learning_rate: float
    l2: float

    @property
    def cost(self) -> float:
        """Its relative share of the time of a training."""
        return self.epochs * (1.0 if self.share else FROZEN_COST)

    def prepare(self, network: keras.Model, batch_norm_momentum: float) -> None:
        """Set on `network` which layers train, and the penalty of the head."""
        set_trainable(network, self.share, self.batch_norm, batch_norm_momentum)
        penalise_head(network, self.l2)


def plan_stages(config: Config, weights: Weights) -> list[Stage]:
    """Return the stages: two from pretrained weights; from random ones one of as many epochs.

    Raises UserError where no epoch is asked for.
    """
    training = config.training
    epochs = training.frozen_epochs + training.fine_tuning_epochs
    if not epochs:
        raise UserError(
            "training.frozen_epochs and training.fine_tuning_epochs are both 0; "
            "at least one of them must be more."
        )
    rate = training.head_learning_rate
    if not weights.is_pretrained:
        return [Stage("from scratch", 1.0, "training", epochs, rate, config.model.l2)]
    frozen = Stage("frozen", 0.0, "inference", training.frozen_epochs, rate, config.model.l2)
    fine_tuning = Stage(
        "fine-tuning",
        training.unfreeze,
        training.batch_norm,
        training.fine_tuning_epochs,
        training.fine_tuning_learning_rate,
        training.fine_tuning_l2,
    )
    return [stage for stage in (frozen, fine_tuning) if stage.epochs]


def begin_stage(stages: list[Stage], done: float, slot: Slot) -> Slot:
    """Return the slot of the first of `stages`, a share `done` of which is over already."""
    first = stages[0].cost * (1 - done)
    return slot.next_part(first / (first + sum(stage.cost for stage in stages[1:])))
