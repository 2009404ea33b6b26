"""The rounds of a search: the settings each one searches, its trials, and what a trial trains."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from competition.config import Config, SearchConfig
from competition.networks.layers import SMALLEST_INPUT
from competition.networks.weights import Weights
from competition.time_budget import Slot

# What is searched, by dotted key: (low, high, logarithmic) or the choices.
Space = dict[str, tuple[Any, ...]]
HEAD_SPACE: Space = {
    "model.head_units": (64, 128, 256, 512, 1024),
    "model.dropout": (0.0, 0.6, False),
    "model.l2": (1e-7, 1e-2, True),
    "training.head_learning_rate": (3e-4, 4e-3, True),
}
FINE_TUNING_SPACE: Space = {
    "training.fine_tuning_learning_rate": (1e-5, 3e-3, True),
    "training.fine_tuning_l2": (1e-7, 3e-2, True),
    "training.unfreeze": (0.2, 0.4, 0.66, 1.0),  # each a border of cached features
}
FEWEST_IMAGES = 250  # on fewer, a few epochs teach a network from random weights nothing
HEAD_COST, UPPER_COST = 0.02, 0.5  # of an epoch on features, beside one that trains everything
REDUCTION = 4  # successive halving: one in so many trials goes on, to so many times the images


def is_range(options: tuple[Any, ...]) -> bool:
    """Tell whether options are (low, high, logarithmic), rather than choices."""
    return isinstance(options[-1], bool)


def inside_space(settings: dict[str, Any], space: Space) -> dict[str, Any]:
    """Return the settings of `space`, at the nearest place in it."""
    return {
        key: min(max(settings[key], options[0]), options[1])
        if is_range(options)
        else min(options, key=lambda option: abs(option - settings[key]))
        for key, options in space.items()
    }


@dataclass(frozen=True)
class Round:
    """One round of a search, a study of its own.

    space: what is searched; of the last round, what may differ among those that came so far.
    trials: the setting that counts its trials. images: training images per trial, as a multiple of
    `search.trial_images`. fine_tuning: multiple of `search.trial_fine_tuning_epochs`, 0: a head on
    the frozen backbone. half_size: images are half as large. is_final: only the settings as given
    and the best of the round before are tried.
    """

    name: str
    space: Space
    trials: str
    images: float = 1.0
    fine_tuning: int = 1
    half_size: bool = False
    is_final: bool = False

    def count_images(self, search: SearchConfig) -> int:
        """Return how many training images a trial sees."""
        images = round(self.images * search.trial_images)
        return max(images, min(search.trial_images, FEWEST_IMAGES))

    def settings(self, search: SearchConfig, side: int) -> dict[str, Any]:
        """Return what a trial trains, by dotted key; side: of the images, in pixels."""
        half = max(min(side, SMALLEST_INPUT), side // 2)
        return {
            "training.limit": self.count_images(search),
            "training.frozen_epochs": search.trial_frozen_epochs,
            "training.fine_tuning_epochs": self.fine_tuning * search.trial_fine_tuning_epochs,
            **({"model.input_size": half} if self.half_size else {}),
        }


# From pretrained weights trials train on cached features of the frozen part. From random weights
# there are none, and nothing is fine-tuned.
EVERYTHING = HEAD_SPACE | FINE_TUNING_SPACE
PRETRAINED = (
    Round("head", HEAD_SPACE, "trials", fine_tuning=0),
    Round("fine_tuning", FINE_TUNING_SPACE, "fine_tuning_trials", fine_tuning=2),
    Round("final", EVERYTHING, "finalists", images=REDUCTION, is_final=True),
)
FROM_RANDOM = (
    Round("scratch", HEAD_SPACE, "scratch_trials", images=1 / REDUCTION, half_size=True),
    Round("final", HEAD_SPACE, "finalists", is_final=True),
)


@dataclass(frozen=True)
class Search:
    """The search of one backbone: the settings it starts from, and where it keeps itself.

    data: facts that tell these data from others. side: of the images, in pixels. storage: a URL
    that other hosts may share (None: a file of its own in `folder`). fixed: keys that the user
    set, which are not searched. slot: time for all rounds. worker: its number among the processes
    of one job that share the studies.
    """

    config: Config
    weights: Weights
    folder: Path
    data: dict[str, Any]
    backend: str
    side: int
    storage: str | None = None
    fixed: frozenset[str] = field(default_factory=frozenset)
    slot: Slot | None = None
    worker: int = 0

    @property
    def backbone(self) -> str:
        """Its name."""
        return self.config.model.backbone

    @property
    def url(self) -> str:
        """The storage of its studies: the one given, or a file of its own."""
        return self.storage or f"sqlite:///{self.folder / self.backbone}.db"

    @property
    def all_rounds(self) -> tuple[Round, ...]:
        """The rounds that its weights ask for."""
        return PRETRAINED if self.weights.is_pretrained else FROM_RANDOM

    @property
    def rounds(self) -> list[Round]:
        """The rounds in which there is something to search, and trials to search it with."""
        return [item for item in self.all_rounds if self.space(item) and self.count_trials(item)]

    def space(self, item: Round) -> Space:
        """Return what a round searches: its space without what the user set."""
        return {key: options for key, options in item.space.items() if key not in self.fixed}

    def count_trials(self, item: Round) -> int:
        """Return how many trials a round has: no more than asked for in all, no final of one."""
        search = self.config.search
        if not item.is_final:
            return min(search.trials, getattr(search, item.trials))
        pretrained = self.weights.is_pretrained
        trials = search.fine_tuning_trials if pretrained else search.scratch_trials
        finalists = min(search.finalists, math.ceil(min(trials, search.trials) / REDUCTION))
        return finalists if finalists > 1 else 0

    def trial_settings(self, item: Round) -> dict[str, Any]:
        """Return what a trial of a round trains, by dotted key."""
        return item.settings(self.config.search, self.config.model.input_size or self.side)

    def count_passes(self, item: Round) -> float:
        """Return how many images pass the network in a round, as if each trained all of it."""
        settings = self.trial_settings(item)
        frozen_cost, cost = (HEAD_COST, UPPER_COST) if self.weights.is_pretrained else (1.0, 1.0)
        epochs = frozen_cost * settings["training.frozen_epochs"]
        epochs += cost * settings["training.fine_tuning_epochs"]
        return self.count_trials(item) * settings["training.limit"] * epochs
