"""What the search of one backbone is about: its settings, what is searched, and where it keeps itself."""

import math
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from competition.config import Config, SearchConfig
from competition.networks.layers import SMALLEST_INPUT
from competition.networks.weights import Weights

# What is searched, by dotted key: (low, high, logarithmic) or the choices.
HEAD_SPACE: dict[str, Any] = {
    "model.head_units": (64, 128, 256, 512, 1024),
    "model.dropout": (0.0, 0.6, False),
    "model.l2": (1e-7, 1e-2, True),
    "training.head_learning_rate": (3e-4, 4e-3, True),
}
FINE_TUNING_SPACE: dict[str, Any] = {
    "training.fine_tuning_learning_rate": (1e-5, 1e-3, True),
    "training.fine_tuning_l2": (1e-7, 3e-2, True),
    "training.unfreeze": (0.2, 0.4, 0.66, 1.0),  # each a border of cached features
}
HEADS, TRIALS, FINALS = "heads", "trials", "finals"  # the parts of a search, in their order
FEWEST_FROM_RANDOM = 250  # pictures, on fewer of which a few epochs teach a network nothing
REDUCTION = 4  # successive halving: of that many trials one goes on to the finals, with that many times the pictures


@dataclass(frozen=True)
class Effort:
    """How many trials each part of a search has, and what one of them trains, from pretrained or random weights."""

    search: SearchConfig
    pretrained: bool

    @property
    def trials(self) -> dict[str, int]:
        """How many trials each part has, in their order: no heads from random weights, no finals of less than two."""
        heads = {HEADS: self.search.trials} if self.pretrained else {}
        trials = (
            min(self.search.trials, self.search.fine_tuning_trials)
            if self.pretrained
            else self.search.trials
        )
        finalists = min(self.search.finalists, math.ceil(trials / REDUCTION))
        return heads | {TRIALS: trials} | ({FINALS: finalists} if finalists > 1 else {})

    def pictures(self, part: str) -> int:
        """Return how many pictures a trial trains on; from random weights, where nothing is cached, fewer."""
        pictures = self.search.trial_images
        if self.pretrained:
            return pictures * (REDUCTION if part == FINALS else 1)
        return (
            pictures
            if part == FINALS
            else max(pictures // REDUCTION, min(pictures, FEWEST_FROM_RANDOM))
        )

    def epochs(self, part: str) -> tuple[int, int]:
        """Return the epochs of both stages; on the few pictures of trials, the second takes twice as many."""
        times = {HEADS: 0, TRIALS: 2 if self.pretrained else 1, FINALS: 1}[part]
        return self.search.trial_frozen_epochs, times * self.search.trial_fine_tuning_epochs

    def is_reduced(self, part: str) -> bool:
        """Tell whether trials see smaller pictures, since nothing is cached for them."""
        return part == TRIALS and not self.pretrained

    def side(self, part: str, side: int) -> int:
        """Return the side of the pictures that trials see: half where they are reduced, if networks can read that."""
        return max(min(side, SMALLEST_INPUT), side // 2) if self.is_reduced(part) else side

    def schedule(self, part: str, side: int) -> dict[str, Any]:
        """Return what a trial trains, by dotted key."""
        frozen, fine_tuning = self.epochs(part)
        schedule = {"training.limit": self.pictures(part)}
        schedule |= {"training.frozen_epochs": frozen, "training.fine_tuning_epochs": fine_tuning}
        return schedule | (
            {"model.input_size": self.side(part, side)} if self.is_reduced(part) else {}
        )


@dataclass(frozen=True)
class SearchJob:
    """What a search needs: the settings it starts from, weights, and where it keeps itself.

    A search has up to three parts, a study each. Heads, only from pretrained weights: on a frozen backbone. Trials: of
    both stages, with the best head but for those queued; from random weights of the whole network, on pictures of
    half the size. Finals: the settings as given and the best others, on more pictures of full size.

    data: what tells these data from others, by name. side: of the pictures, in pixels. storage: a URL that other hosts
    may share (None: a file of this job's own). fixed: keys that the user set, which are not searched. part: of the
    search. before: settings that the part before found best, best first. worker: number among the processes of this
    job on this study. chance: selection score of always naming the commonest class. deadlines: when (time.monotonic)
    no further trial of each part begins. last_moment: when a running one is cut short, whose score then means less.
    """

    config: Config
    weights: Weights
    folder: Path
    data: dict[str, Any]
    backend: str
    side: int = 96
    storage: str | None = None
    fixed: frozenset[str] = frozenset()
    part: str = TRIALS
    before: tuple[dict[str, Any], ...] = ()
    worker: int = 0
    chance: float = 0.0
    deadlines: dict[str, float] = field(default_factory=dict)
    last_moment: float | None = None

    @property
    def backbone(self) -> str:
        return self.config.model.backbone

    @property
    def database(self) -> Path:
        return self.folder / f"{self.backbone}.db"

    @property
    def url(self) -> str:
        return self.storage or f"sqlite:///{self.database}"

    @property
    def title(self) -> str:
        """The study's name for a reader."""
        return self.backbone if self.part == TRIALS else f"{self.backbone} {self.part}"

    @property
    def stem(self) -> str:
        """What its files' names begin with."""
        return self.title.replace(" ", "_")

    @property
    def deadline(self) -> float | None:
        """When (time.monotonic) no further trial of this part begins."""
        return self.deadlines.get(self.part)

    @property
    def is_late(self) -> bool:
        """Whether it is later than that."""
        return self.deadline is not None and time.monotonic() > self.deadline

    @property
    def has_two_stages(self) -> bool:
        """Whether a trial trains a frozen backbone's head, and then the upper part with it."""
        return self.weights.is_pretrained and self.part != HEADS

    @property
    def effort(self) -> Effort:
        """How many trials there are, and what one trains."""
        return Effort(self.config.search, self.weights.is_pretrained)

    @property
    def parts(self) -> list["SearchJob"]:
        """The parts of this search in which there is something to search."""
        return [job for part in self.effort.trials if (job := replace(self, part=part)).space]

    @property
    def trials(self) -> int:
        """How many trials are asked for."""
        return self.effort.trials[self.part]

    @property
    def whole_space(self) -> dict[str, Any]:
        """What such trials can search: from random weights there is no second stage, and so nothing of it."""
        return HEAD_SPACE | FINE_TUNING_SPACE if self.has_two_stages else HEAD_SPACE

    @property
    def space(self) -> dict[str, Any]:
        """What is searched."""
        return {key: options for key, options in self.whole_space.items() if key not in self.fixed}

    @property
    def schedule(self) -> dict[str, Any]:
        """What a trial trains, by dotted key."""
        return self.effort.schedule(self.part, self.config.model.input_size or self.side)

    @property
    def reported_epochs(self) -> int:
        """Epochs after which a trial reports: those of its last stage, or all where there is only one."""
        epochs = self.effort.epochs(self.part)
        return epochs[1] if self.has_two_stages else sum(epochs)
