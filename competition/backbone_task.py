"""One backbone is one task: search, train and evaluate it in one process that knows its slot."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import keras

from competition.backbones import get_backbone
from competition.common import console
from competition.common.console import describe_seconds, part_of_task, say
from competition.common.files import digest
from competition.config import DEMO_FROM_RANDOM, PRESETS, with_settings
from competition.data.arrays import PreparedData
from competition.evaluation.evaluate import evaluate_run
from competition.evaluation.predict import plan_steps
from competition.evaluation.results import runs_of
from competition.networks.weights import Weights
from competition.request import Request
from competition.search.rounds import Search
from competition.search.search import read_best, search_backbone
from competition.time_budget import Slot, Turn
from competition.training.runs import train_run
from competition.training.stages import plan_stages

# Scoring gets this share of a backbone's slot, or so many seconds, but at most MOST_SCORING.
SCORING_SHARE = 0.15
SCORING_SECONDS = 100.0
MOST_SCORING = 0.3
EPOCHS = "training.fine_tuning_epochs"
# In fewer seconds, no final of whole recipes comes to its end, and nothing else may decide on them.
# Then heads alone are searched, in this share of the slot, unless that is too little, too.
SHORTEST_SEARCH = 2700.0
HEADS_SHARE = 0.1
SHORTEST_HEADS = 60.0


@dataclass(frozen=True)
class BackboneTask:
    """The work on one backbone; picklable.

    turn: its turn in the time budget (None: the epochs of the settings hold). progress_file: takes
    its progress; beside it stands a note that its search is over, until the command is done.
    compared: the settings of another recipe that is trained beside its own.
    """

    request: Request
    data: PreparedData
    name: str
    weights: Weights
    turn: Turn | None
    progress_file: Path
    compared: Mapping[str, Any] = field(default_factory=dict)

    def run(self) -> None:
        """Search, train and evaluate: the steps that were requested and are not done yet."""
        with console.task(self.progress_file):
            self._run()

    def _run(self) -> None:
        request = self.request
        paths = request.paths
        slot = self.turn.begin() if self.turn else None
        search = self._make_search(slot.length if slot else None)
        search_share, train_share = self._plan_shares(search, slot.length if slot else None)
        if request.wants("search") and search_share and not self._has_searched:
            search = replace(search, slot=slot and slot.next_part(search_share))
            with part_of_task(0.0, search_share):
                search_backbone(search, self.data.training, paths.features)
            if self.turn:  # a command that goes on has less time, and would find less
                self._searched.touch()
        if self._trains:
            with part_of_task(search_share, search_share + train_share):
                self._train(search, slot, scoring_share=1 - search_share - train_share)
        with part_of_task(search_share + train_share, 1.0):
            for run in runs_of(paths.runs, self.data, self.name):
                evaluate_run(request.config, self.data, run, slot, request.forces("evaluate"))

    def help_search(self, number: int) -> None:
        """Take part in its search, which another process runs."""
        if self._has_searched:
            return
        slot = self.turn.begin() if self.turn else None
        search = self._make_search(slot.length if slot else None)
        share = self._plan_shares(search, slot.length if slot else None)[0]
        search = replace(search, slot=slot and slot.next_part(share), worker=number)
        search_backbone(search, self.data.training, self.request.paths.features)

    @property
    def _searched(self) -> Path:
        return self.progress_file.with_suffix(".searched")

    @property
    def _has_searched(self) -> bool:
        return self.turn is not None and self._searched.is_file()

    def describe(self) -> str:
        """Return the steps of this task, and the time of each, as a line for people."""
        seconds = self.turn.planned_seconds if self.turn else None
        search = self._make_search(seconds)
        parts = []
        if self._has_searched:
            parts.append("searched already")
        elif self.request.wants("search") and not self._plan_shares(search, seconds)[0]:
            free = any(search.space(item) for item in replace(search, heads_only=False).all_rounds)
            parts.append("no search" if free else "nothing to search, --set says it all")
        elif self.request.wants("search"):
            rounds = [f"{search.count_trials(item)} {item.name}" for item in search.rounds]
            parts.append(f"search of {', '.join(rounds)} trials")
            if search.heads_only:
                parts.append("no time for trials of whole recipes")
        parts += self._describe_lengths(search)
        title = get_backbone(self.name).title
        return f"{title}, {self.weights.origin} weights: {', '.join(parts)}"

    def _describe_lengths(self, search: Search) -> list[str]:
        if not self._trains:
            return ["trained already"]
        stages = plan_stages(self.request.config, self.weights)  # or a mistake is told now
        if self.turn:
            planned = self.turn.planned_seconds
            search_share, train_share = self._plan_shares(search, planned)
            times = {"searching": search_share, "training": train_share}
            times["scoring"] = 1 - search_share - train_share
            return [
                f"{describe_seconds(share * planned)} of {what}"
                for what, share in times.items()
                if share
            ]
        return [f"{stage.name} epochs: {stage.epochs}" for stage in stages]

    def _train(self, search: Search, slot: Slot | None, scoring_share: float) -> None:
        request, found = self.request, read_best(search)
        say(f"{self.name}: {'the best settings of its search' if found else 'settings as given'}")
        own = with_settings(request.config, {"model.backbone": self.name, **found})
        time_for = None
        if slot is not None and self.turn is not None and request.budget_seconds is not None:
            parts = request.backbones, request.final, request.workers, request.folds
            sharing = digest(*parts, request.wants("search"))
            time_for = self.turn.training_time(slot, scoring_share, request.budget_seconds, sharing)
        runs, force = request.paths.runs, request.forces("train")
        with part_of_task(0.0, 1 / self._num_recipes):
            train_run(own, self.data, self.weights, runs, time_for, force)
        if self.compared:
            changes = {"model.backbone": self.name, **self.compared}
            other = with_settings(request.config, changes)
            say(f"{self.name}: the recipe '{other.recipe}', for comparison")
            with part_of_task(1 / self._num_recipes, 1.0):
                train_run(other, self.data, self.weights, runs, None, force)

    def _make_search(self, seconds: float | None = None) -> Search:
        """Return the search; seconds: the length of its slot (None: the settings hold)."""
        training, folder = self.data.training, self.request.paths.studies
        folder.mkdir(parents=True, exist_ok=True)
        return Search(
            config=with_settings(self.request.config, {"model.backbone": self.name}),
            weights=self.weights,
            folder=folder,
            data={"splits": self.data.fingerprint, "training images": len(training.labels)},
            backend=keras.config.backend(),
            side=max(training.images.shape[1:3]),
            storage=self.request.storage,
            fixed=self.request.fixed_keys,
            heads_only=seconds is not None and self._search_seconds(seconds) < SHORTEST_SEARCH,
        )

    def _search_seconds(self, seconds: float) -> float:
        """Return the seconds of a slot that a search of whole recipes has."""
        return (1 - _scoring_share(seconds)) * self.request.config.search.share * seconds

    def _plan_shares(self, search: Search, seconds: float | None) -> tuple[float, float]:
        """Return the shares of its time for searching and training; scoring has the rest.

        seconds: the length of its slot. Without one the shares only serve the status line, and are
        estimated from how many images pass the network.
        """
        searches = self.request.wants("search")
        if seconds is not None:
            scoring, searching = _scoring_share(seconds), 0.0
            if searches and not search.heads_only:
                searching = self._search_seconds(seconds) / seconds
            elif searches and HEADS_SHARE * seconds >= SHORTEST_HEADS:
                searching = HEADS_SHARE
            searching = searching if search.rounds else 0.0
            return searching, 1 - scoring - searching
        searching, training, scoring = self._count_passes(search)
        total = searching + training + scoring
        return searching / total, training / total

    def estimate_work(self) -> float:
        """Return how long it takes in relation to other tasks, without a time budget."""
        return get_backbone(self.name).cost * sum(self._count_passes(self._make_search()))

    def _count_passes(self, search: Search) -> tuple[float, float, float]:
        """Return how many images pass the network in searching, training and scoring.

        Each counts 1 with gradients, and a third without.
        """
        config, searches = self.request.config, self.request.wants("search")
        searching = sum(map(search.count_passes, search.rounds)) if searches else 0.0
        epochs = config.training.fine_tuning_epochs + config.training.frozen_epochs / 3
        training = epochs * len(self.data.training.labels) if self._trains else 0.0
        steps = plan_steps(config.training.select_by, config.evaluation.tta_views)
        scoring = sum(step.views for step in steps) * len(self.data.test.labels) / 3
        return searching, self._num_recipes * training, self._num_recipes * scoring

    @property
    def _trains(self) -> bool:
        """Whether it is to be trained: that was requested, or it has no run yet."""
        runs = self.request.paths.runs
        return self.request.wants("train") or not runs_of(runs, self.data, self.name)

    @property
    def _num_recipes(self) -> int:
        return 2 if self.compared else 1


def _scoring_share(seconds: float) -> float:
    return min(MOST_SCORING, max(SCORING_SHARE, SCORING_SECONDS / max(1.0, seconds)))


def plan_tasks(
    request: Request,
    data: PreparedData,
    weights: Mapping[str, Weights],
    turns: Mapping[str, Turn],
    folder: Path,
) -> dict[str, BackboneTask]:
    """Return a task per backbone that has a turn, or per backbone where there is no time budget.

    folder: takes the progress of each task. In the demo the cheapest pretrained backbone is trained
    by the baseline's recipe, too. Backbones from random weights train for few epochs there.
    """
    tasks = {
        name: BackboneTask(
            request, data, name, weights[name], turns.get(name), folder / f"{name}.json"
        )
        for name in request.backbones
        if name in turns or request.budget_seconds is None
    }
    pretrained = [name for name in tasks if weights[name].is_pretrained]
    if request.is_demo and request.wants("search") and not turns and pretrained:
        name = min(pretrained, key=lambda name: get_backbone(name).cost)
        tasks[name] = replace(tasks[name], compared=_baseline_recipe(request))
        for name in tasks.keys() - set(pretrained):
            tasks[name] = replace(tasks[name], request=_with_few_epochs(request))
    return tasks


def _with_few_epochs(request: Request) -> Request:
    """Return the request with few epochs, unless others than the demo's were asked for."""
    if request.config.training.fine_tuning_epochs != PRESETS["demo"][EPOCHS]:
        return request
    return replace(request, config=with_settings(request.config, DEMO_FROM_RANDOM))


def _baseline_recipe(request: Request) -> dict[str, Any]:
    """Return the baseline's settings, on the same splits and with as many epochs and images."""
    kept = ("split.balance_to", "training.frozen_epochs", EPOCHS)
    return {
        key: value
        for key, value in PRESETS["baseline"].items()
        if key not in kept and key not in request.fixed_keys
    }
