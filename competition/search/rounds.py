"""The rounds of a search: the settings each one searches, its trials, and what a trial trains."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from competition.common.settings import flatten
from competition.config import Config, SearchConfig, with_settings
from competition.networks.layers import SMALLEST_INPUT
from competition.networks.weights import Weights
from competition.time_budget import Slot
from competition.training.stages import FROZEN_COST

# What is searched, by dotted key: (low, high, logarithmic) or the choices.
Space = dict[str, tuple[Any, ...]]
AS_GIVEN = "as given"  # the choice that leaves a section of the settings as it is
HEAD_SPACE: Space = {
    "model.head_units": (64, 128, 256, 512, 1024),
    "model.dropout": (0.0, 0.6, False),
    "model.l2": (1e-7, 1e-2, True),
    "training.head_learning_rate": (3e-4, 4e-3, True),
}
# Whole recipes. Numbers of the augmentation are choices, since each is compiled anew.
RECIPE_SPACE: Space = {
    "augmentation": (AS_GIVEN, "mild", "strong"),
    "augmentation.num_operations": (1, 2, 3, 4),
    "augmentation.magnitude": (0.2, 0.4, 0.5, 0.6),
    "training.label_smoothing": (0.0, 0.1),
    "training.optimizer": ("adam", "adamw", "lion"),
    "training.schedule": ("plateau", "cosine"),
}
FINE_TUNING_SPACE: Space = RECIPE_SPACE | {
    "training.fine_tuning_learning_rate": (3e-5, 3e-3, True),
    "training.fine_tuning_l2": (1e-7, 3e-2, True),
    "training.unfreeze": (0.2, 0.4, 0.66, 1.0),
    "training.batch_norm": ("inference", "training"),
}
HEAD_COST = 0.02  # of an epoch on features, beside one that trains everything
SMALL = 2 / 3  # of the side of the images, where a round makes them small
REDUCTION = 3  # successive halving: one in so many trials goes on, to a round of more work each


def is_range(options: tuple[Any, ...]) -> bool:
    """Tell whether options are (low, high, logarithmic), rather than choices."""
    return isinstance(options[-1], bool)


def inside_space(settings: dict[str, Any], space: Space) -> dict[str, Any]:
    """Return the settings of `space`; 0, which a logarithm lacks, becomes the lowest number."""
    inside = {key: settings.get(key, AS_GIVEN) for key in space}
    ranges = {key: options for key, options in space.items() if is_range(options)}
    return inside | {key: max(inside[key], low) for key, (low, _, _) in ranges.items()}


def _include(value: Any, options: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return options with a value that they lack."""
    if not is_range(options):
        return options if value in options else (*options, value)
    low, high, is_logarithmic = options
    return (low if is_logarithmic and value <= 0 else min(low, value)), max(high, value), options[2]


def list_changes(params: dict[str, Any]) -> dict[str, Any]:
    """Return what the parameters of a trial change, a section before its parts."""
    return {key: params[key] for key in sorted(params) if params[key] != AS_GIVEN}


@dataclass(frozen=True)
class Round:
    """One round of a search, a study of its own.

    space: what is searched. trials: the setting that counts its trials. images, epochs: of a trial,
    as multiples of `search.trial_images` and `search.trial_epochs`. is_head: a trial trains a head
    on the frozen backbone, else a whole training in miniature. is_small: images are smaller than
    given. is_promoted: nothing is drawn; the best of the round before are tried again, and the
    settings as given.
    """

    name: str
    space: Space
    trials: str
    images: float = 1.0
    epochs: float = 1.0
    is_head: bool = False
    is_small: bool = False
    is_promoted: bool = False

    def count_images(self, search: SearchConfig) -> int:
        """Return how many training images a trial sees."""
        return round(self.images * search.trial_images)

    def settings(self, config: Config, side: int) -> dict[str, Any]:
        """Return what a trial trains, by dotted key; side: of the images, in pixels.

        A training in miniature keeps the shares of its stages.
        """
        search, training = config.search, config.training
        given = max(1, training.frozen_epochs + training.fine_tuning_epochs)
        epochs = round(self.epochs * search.trial_epochs)
        frozen = math.ceil(epochs * training.frozen_epochs / given)
        small = max(min(side, SMALLEST_INPUT), round(SMALL * side))
        images = self.count_images(search)
        return {
            "training.limit": min(images, training.limit or images),
            "training.frozen_epochs": search.trial_head_epochs if self.is_head else frozen,
            "training.fine_tuning_epochs": 0 if self.is_head else epochs - frozen,
            **({"model.input_size": small} if self.is_small else {}),
        }


# Fewer and fewer trials, of more and more work. Heads train on cached features; small images make a
# trial three times as fast. The final alone is long enough to tell which recipe wins in the end: it
# has three times the work of the rounds before it.
EVERYTHING = HEAD_SPACE | FINE_TUNING_SPACE
PRETRAINED = (
    Round("head", HEAD_SPACE, "trials", is_head=True),
    Round("fine_tuning", FINE_TUNING_SPACE, "fine_tuning_trials", is_small=True),
    Round("semifinal", EVERYTHING, "finalists", images=1.5, is_promoted=True),
    Round("final", EVERYTHING, "finalists", images=9, epochs=1.5, is_promoted=True),
)
SCRATCH_SPACE = HEAD_SPACE | RECIPE_SPACE
FROM_RANDOM = (
    Round("scratch", SCRATCH_SPACE, "scratch_trials", is_small=True),
    Round("semifinal", SCRATCH_SPACE, "finalists", images=1.5, is_promoted=True),
    Round("final", SCRATCH_SPACE, "finalists", images=9, epochs=1.5, is_promoted=True),
)


@dataclass(frozen=True)
class Search:
    """The search of one backbone: the settings it starts from, and where it keeps itself.

    data: facts that tell these data from others. side: of the images, in pixels. storage: a URL
    that other hosts may share (None: a file of its own in `folder`). fixed: keys that the user
    set, which are not searched. slot: time for all rounds. heads_only: that is too short for
    trials of whole recipes. worker: its number among the processes of one job that share the
    studies.
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
    heads_only: bool = False
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
        """The rounds that its weights and its time ask for."""
        rounds = PRETRAINED if self.weights.is_pretrained else FROM_RANDOM
        return tuple(item for item in rounds if item.is_head or not self.heads_only)

    @property
    def rounds(self) -> list[Round]:
        """The rounds in which there is something to search, and trials to search it with."""
        return [item for item in self.all_rounds if self.space(item) and self.count_trials(item)]

    def space(self, item: Round) -> Space:
        """Return what a round searches: its space without what the user set.

        It holds the settings as given, whatever they are. Presets of the augmentation that change
        nothing are left out.
        """
        space = {key: options for key, options in item.space.items() if not self.is_fixed(key)}
        given = flatten(self.config)
        space = {key: _include(given.get(key, AS_GIVEN), space[key]) for key in space}
        if "augmentation" in space:
            presets = tuple(filter(self._changes, space["augmentation"][1:]))
            space["augmentation"] = (AS_GIVEN, *presets)
            if not presets:
                del space["augmentation"]
        return space

    def decides(self, item: Round) -> bool:
        """Tell whether a round may change settings: that of heads, and the last one of recipes.

        Shorter trainings than those of the final favour recipes that learn fast.
        """
        return item.is_head or (item == self.rounds[-1] and not item.is_small)

    def is_fixed(self, key: str) -> bool:
        """Tell whether the user set a key, its section or a part of it."""
        return any(
            key == other or key.startswith(f"{other}.") or other.startswith(f"{key}.")
            for other in self.fixed
        )

    def _changes(self, preset: str) -> bool:
        """Tell whether a preset of the augmentation changes anything."""
        return self.with_params({"augmentation": preset}) != self.with_params({})

    def list_changes(self, params: dict[str, Any]) -> dict[str, Any]:
        """Return the settings that the parameters of a trial change.

        A schedule in the place of the plateau rule has no early stopping, unless the user set it:
        that would end a stage before the rate has fallen.
        """
        changes, given = list_changes(params), self.config.training.schedule
        is_replaced = given == "plateau" and changes.get("training.schedule", given) != given
        if is_replaced and not self.is_fixed("training.stopping_patience"):
            changes["training.stopping_patience"] = 0
        return changes

    def with_params(self, params: dict[str, Any]) -> Config:
        """Return the settings as given with those of a trial."""
        return with_settings(self.config, self.list_changes(params))

    def count_trials(self, item: Round) -> int:
        """Return how many trials a round has: no more than asked for in all, no final of one."""
        search = self.config.search
        if not item.is_head and search.finalists < 2:
            return 0  # no round of recipes would decide anything
        if not item.is_promoted:
            return min(search.trials, getattr(search, item.trials))
        before = self.all_rounds[self.all_rounds.index(item) - 1]
        promoted = math.ceil(self.count_trials(before) / REDUCTION)
        if item is self.all_rounds[-1]:
            promoted = min(promoted, search.finalists)
        return promoted if promoted > 1 else 0

    def trial_settings(self, item: Round) -> dict[str, Any]:
        """Return what a trial of a round trains, by dotted key."""
        return item.settings(self.config, self.config.model.input_size or self.side)

    def count_passes(self, item: Round) -> float:
        """Return how many images of full size pass the network in a round, with gradients."""
        settings = self.trial_settings(item)
        images = min(settings["training.limit"], self.data.get("training images", math.inf))
        frozen = FROZEN_COST if self.weights.is_pretrained else 1.0
        epochs = (HEAD_COST if item.is_head else frozen) * settings["training.frozen_epochs"]
        epochs += settings["training.fine_tuning_epochs"]
        cost = SMALL**2 if item.is_small else 1.0
        return self.count_trials(item) * images * epochs * cost
