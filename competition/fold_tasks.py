"""Cross-validation: the settings of the best run on each fold, one task a fold."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from competition.common import console
from competition.common.console import describe_seconds, headline, say
from competition.common.devices import has_accelerator
from competition.common.errors import UserError
from competition.common.parallel import Workers, count_workers
from competition.config import Config, unflatten, with_settings
from competition.data.arrays import CleanedData, PreparedData
from competition.data.prepare import prepare
from competition.data.splits import make_splits
from competition.evaluation.evaluate import evaluate_run
from competition.evaluation.folds import summarise_folds
from competition.evaluation.results import choose_run
from competition.metric import get_metric
from competition.networks.weights import Weights, resolve_weights
from competition.paths import FOLDS, PREPARED
from competition.request import Request
from competition.time_budget import JobClock, Turn, packaging_seconds, plan_turns
from competition.training.runs import read_config, train_run

SCORING_SHARE = 0.2  # of a fold's slot


@dataclass(frozen=True)
class FoldTask:
    """One fold to train and score, picklable.

    config: settings of its training; scored_by: those of its scoring. turn: its turn in the time
    budget of `budget` seconds (None: the epochs of the settings hold). progress_file: takes its
    progress. folder: takes the run.
    """

    config: Config
    scored_by: Config
    data: PreparedData
    weights: Weights
    turn: Turn | None
    budget: float | None
    progress_file: Path
    folder: Path
    force: bool

    def run(self) -> Path:
        """Train and score; return the run. Its prepared images are deleted."""
        slot = self.turn.begin() if self.turn else None
        time_for = None
        if slot is not None and self.turn is not None and self.budget is not None:
            time_for = self.turn.training_time(slot, SCORING_SHARE, self.budget)
        with console.task(self.progress_file):
            with console.part_of_task(0.0, 1 - SCORING_SHARE):
                run = train_run(
                    self.config, self.data, self.weights, self.folder, time_for, self.force
                )
            with console.part_of_task(1 - SCORING_SHARE, 1.0):
                evaluate_run(self.scored_by, self.data, run, slot)
        shutil.rmtree(self.data.folder, ignore_errors=True)
        return run


def cross_validate(
    request: Request, data: PreparedData, cleaned: CleanedData, clock: JobClock
) -> list[str]:
    """Train the best run's settings on each fold, side by side; the test is the same in all.

    Returns what failed, in a sentence each.
    """
    if not request.folds:
        return []
    headline("Folds")
    config, failures = request.config, list[str]()
    try:
        select_by = config.training.select_by
        run = choose_run(request.paths.runs, data, select_by, request.final, config.metric)
        workers = request.workers or count_workers(request.folds, has_accelerator())
        names = [f"fold {number + 1}" for number in range(request.folds)]
        queues, turns = [names], dict[str, Turn]()
        if request.budget_seconds is not None:
            end = clock.deadline - packaging_seconds(request.budget_seconds)
            queues, turns = plan_turns(dict.fromkeys(names, 1.0), "", workers, end, names)
            planned = describe_seconds(min(turn.planned_seconds for turn in turns.values()))
            say(f"{planned} per fold, {workers} at once")
        tasks, indices = _plan_tasks(request, cleaned, run, names, turns, clock.tasks_folder)
        clock.watch(dict.fromkeys(names, 1.0))
        with Workers(min(workers, request.folds)) as pool:
            runs = dict(pool.run_all({name: task.run for name, task in tasks.items()}, queues))
        failures += pool.failures
        if len(runs) == request.folds:
            summarise_folds(run, [runs[name] for name in names], indices, get_metric(config.metric))
    except UserError as error:
        failures.append(f"folds: {error}")
    for sentence in failures:
        say(f"folds FAILED: {sentence}")
    return failures


def _plan_tasks(
    request: Request,
    cleaned: CleanedData,
    run: Path,
    names: list[str],
    turns: Mapping[str, Turn],
    progress_folder: Path,
) -> tuple[dict[str, FoldTask], list[np.ndarray]]:
    """Return a task per fold with the settings of `run`, and the validation images of each.

    The weights are those of this call, where it names some, else those of the run.
    """
    paths, config = request.paths, request.config
    folder = paths.experiments / FOLDS
    backbone = run.name.rpartition("_")[0]  # any that has a run, with --final best
    settings = unflatten(read_config(run, "settings")["settings"])
    given = config.weights if config.weights != Config().weights else settings.weights
    weights = resolve_weights(given, backbone, paths.weights)
    tasks, indices = {}, []
    for fold, name in enumerate(names):
        changes = {"split.folds": len(names), "split.fold": fold}
        own = with_settings(settings, {**changes, "split.balance_validation_to": 0})
        splits = make_splits(cleaned, own)
        tasks[name] = FoldTask(
            config=own,
            scored_by=config,
            data=prepare(cleaned, splits, own, folder / f"{PREPARED}_{fold + 1}"),
            weights=weights,
            turn=turns.get(name),
            budget=request.budget_seconds,
            progress_file=progress_folder / f"{name}.json",
            folder=folder,
            force=request.forces("train"),
        )
        indices.append(splits.validation)
    return tasks, indices


def require_folds(request: Request, cleaned: CleanedData) -> None:
    """Raise UserError where the images are too few for so many folds."""
    if request.folds:
        make_splits(cleaned, with_settings(request.config, {"split.folds": request.folds}))


def folds_share(costs: Mapping[str, float], first: str, folds: int) -> float:
    """Return the share of the time for training that the folds of the backbone `first` take.

    Each has the time of one backbone like it; `first` itself has twice that.
    """
    return folds * costs[first] / (sum(costs.values()) + (1 + folds) * costs[first])
