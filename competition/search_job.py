"""What the search of one backbone is about: its settings, what is searched, and where it keeps itself."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from competition.config import Config
from competition.weights import Weights

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
HEADS_SHARE = 0.6  # of the time, at most, for trials of heads


@dataclass(frozen=True)
class SearchJob:
    """What a search needs: the settings it starts from, weights, and where it keeps itself.

    data: what tells these data from others, by name. storage: a URL that other hosts may share (None: a file of this
    job's own). fixed: keys that the user set, which are not searched. head_only: trials of heads on a frozen backbone.
    head: what those found best, which trials of both stages keep, but for the first. worker: number among the processes
    of this job on this study. chance: selection score of always naming the commonest class. begins, deadline,
    last_moment: when (time.monotonic) it begins, no further trial begins, and a running one is cut short, whose score
    then means less.
    """

    config: Config
    weights: Weights
    folder: Path
    data: dict[str, Any]
    backend: str
    storage: str | None = None
    fixed: frozenset[str] = frozenset()
    head_only: bool = False
    head: dict[str, Any] = field(default_factory=dict)
    worker: int = 0
    chance: float = 0.0
    begins: float = 0.0
    deadline: float | None = None
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
        return f"{self.backbone} head" if self.head_only else self.backbone

    @property
    def stem(self) -> str:
        """What its files' names begin with."""
        return self.title.replace(" ", "_")

    @property
    def has_two_stages(self) -> bool:
        """Whether a trial trains a frozen backbone's head, and then the upper part with it."""
        return self.weights.is_pretrained and not self.head_only

    @property
    def parts(self) -> list["SearchJob"]:
        """The studies of this job, in their order: where there are two stages, one of heads, and one of both."""
        until = self.deadline and self.begins + HEADS_SHARE * (self.deadline - self.begins)
        heads = replace(self, head_only=True, deadline=until)
        parts = [heads, self] if self.weights.is_pretrained else [self]
        return [part for part in parts if part.space]

    @property
    def trials(self) -> int:
        """How many trials are asked for."""
        search = self.config.search
        return search.two_stage_trials if self.has_two_stages else search.trials

    @property
    def space(self) -> dict[str, Any]:
        """What is searched: from random weights there is no second stage, and so nothing of it."""
        space = HEAD_SPACE | FINE_TUNING_SPACE if self.has_two_stages else HEAD_SPACE
        return {key: options for key, options in space.items() if key not in self.fixed}

    @property
    def schedule(self) -> dict[str, Any]:
        """What a trial trains, by dotted key."""
        search = self.config.search
        return {
            "training.limit": search.trial_pictures,
            "training.frozen_epochs": search.trial_frozen_epochs,
            "training.fine_tuning_epochs": 0 if self.head_only else search.trial_fine_tuning_epochs,
        }

    @property
    def reported_epochs(self) -> int:
        """Epochs after which a trial reports: those of its last stage, or all where there is only one."""
        schedule = self.schedule
        epochs = schedule["training.frozen_epochs"], schedule["training.fine_tuning_epochs"]
        return epochs[1] if self.has_two_stages else sum(epochs)
