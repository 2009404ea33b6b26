"""The stages in order: what was asked for, and what that needs that is missing or stale."""

import argparse
import dataclasses
import time
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from competition.backbones import COMPARED, get_backbone
from competition.cleaning import clean, cleaning_inputs
from competition.config import PRESETS, Config, flatten, replace, unflatten
from competition.console import describe_seconds, headline, say
from competition.data import Dataset, load_dataset, load_test
from competition.demo import make_demo
from competition.experiment import (
    PROFILE,
    Prepared,
    describe_environment,
    prepare,
    run_evaluation,
    run_training,
)
from competition.figures import draw_class_balance, draw_confusion, draw_history
from competition.files import (
    InputError,
    digest,
    exclusive,
    is_done,
    read_arrays,
    read_json,
    require_disk,
    write_json,
)
from competition.leaderboard import read_rows, record_public_score, write_leaderboard
from competition.paths import Paths
from competition.planning import Planner, Sizes, describe_plan, measure_speed
from competition.search import SearchJob, search
from competition.splits import Splits, make_splits, read_splits, split, splits_inputs
from competition.submission import Limits, package, run_submission, verify
from competition.weights import Weights, check_weights, find_weights, resolve_weights

DEMO_SECONDS = 560.0  # the demo's time budget where none is given
FIRST_STEPS = """This was the demo competition, drawn by a program. For your own: put the competition's file at
data/training_set.npz, or name any .npz or folder of class folders:  python run.py --search --data FILE
With ImageNet weights (downloaded by Keras, or put into data/weights/) and some hours instead of minutes the scores
rise: --time-budget 3h plans for them. Upload the zip, then  python run.py --record RUN SCORE  keeps what the server
said, and the leaderboard shows how far the expected score was off."""


def run(options: argparse.Namespace) -> None:
    """Do what the command line asks for; raises InputError for a user's mistake before any long work."""
    started = time.monotonic()
    job = Job(options, started)
    with exclusive(job.paths.experiments):
        if options.record:
            job.record()
        elif options.leaderboard and not job.wants("package"):
            job.show_leaderboard()
        else:
            job.run()


class Job:
    """One call of the driver."""

    def __init__(self, options: argparse.Namespace, started: float) -> None:
        self.options, self.started = options, started
        self.source = options.data or _existing(options.workdir / "data" / "training_set.npz")
        self.is_demo = self.source is None and options.name in (None, "demo")
        self.paths = Paths(options.workdir, options.name or ("demo" if self.source is None else self.source.stem))
        self.config = self._configure()
        self.backbones = tuple(dict.fromkeys(options.backbone or COMPARED))
        for name in self.backbones:
            get_backbone(name)
        self.final = self._final_backbone()
        budget = options.time_budget or (DEMO_SECONDS if self.is_demo and options.search else None)
        self.deadline = None if budget is None else started + budget
        self.budget = budget

    def _configure(self) -> Config:
        options = self.options
        changes: dict[str, Any] = dict(PRESETS["demo"]) if self.is_demo else {}
        changes |= PRESETS[options.preset] if options.preset else {}
        named = {"seed": options.seed, "weights": options.weights, "search.trials": options.trials}
        changes |= {key: value for key, value in named.items() if value is not None}
        for assignment in options.set:
            key, separator, value = assignment.partition("=")
            if not separator:
                raise InputError(f"--set got '{assignment}', and expects KEY=VALUE, as training.batch_size=16.")
            changes[key] = value
        return replace(Config(), changes)

    def _final_backbone(self) -> str:
        final = self.options.final
        if final == "best":
            return "best"
        get_backbone(final)
        if final in self.backbones:
            return str(final)
        return self.backbones[0] if self.options.final == "mobilenetv3large" else str(final)

    def wants(self, stage: str) -> bool:
        """Tell whether a stage was asked for; --search asks for all."""
        return bool(self.options.search or getattr(self.options, stage))

    def forces(self, stage: str) -> bool:
        """Tell whether a stage is to be redone."""
        return bool(self.options.force and self.wants(stage))

    def run(self) -> None:
        """Run the stages in order."""
        self._check_weights()
        dataset = self.load()
        self.clean(dataset)
        if not any(self.wants(stage) for stage in ("split", "train", "evaluate", "package")):
            return
        splits = self.split(dataset)
        if not any(self.wants(stage) for stage in ("train", "evaluate", "package")):
            return
        prepared = prepare(dataset, splits, self.config)
        runs = self.search_and_train(prepared)
        self.evaluate(prepared, runs)
        if self.options.folds:
            self.train_folds(dataset)
        if self.wants("package"):
            self.package(prepared)
        self.show_leaderboard()
        if self.options.search and self.is_demo:
            say("\n" + FIRST_STEPS)
        say(f"\nDone in {describe_seconds(time.monotonic() - self.started)}.")

    # -- data

    @cached_property
    def weights(self) -> dict[str, Weights]:
        """The weights of each backbone."""
        return {name: resolve_weights(self.config.weights, name, self.paths.weights) for name in self.backbones}

    def _check_weights(self) -> None:
        """Refuse a bad --weights before the long work, and print what computes."""
        environment = describe_environment()
        say(f"{self.paths.name}: {environment['device']}, keras {environment['keras']}, seed {self.config.seed}")
        for name, weights in self.weights.items():
            check_weights(weights, name)
            say(f"  {get_backbone(name).title}: {weights.origin} weights")

    def load(self) -> Dataset:
        """Read the data set, or draw the demo's."""
        headline("Load")
        require_disk(self.paths.experiments, 300)
        path = self.source
        if path is None:
            if not self.is_demo:
                raise InputError(f"--name {self.paths.name} needs --data, or a file data/training_set.npz.")
            say("NO DATA WAS GIVEN: this is the DEMO COMPETITION, whose blood cells are drawn by a program.")
            make_demo(self.paths.data, self.config.seed)
            path = self.paths.data / "training_set.npz"
        dataset = load_dataset(path, self.config.data)
        counts = np.bincount(dataset.labels)
        say(f"{path}: {len(dataset.labels)} pictures of {dataset.images.shape[1]}x{dataset.images.shape[2]}")
        say("  " + ", ".join(f"{name} {count}" for name, count in zip(dataset.class_names, counts, strict=True)))
        return dataset

    def clean(self, dataset: Dataset) -> None:
        """Flag faults, unless that was done for the same data and settings."""
        headline("Clean")
        folder = self.paths.data
        weights = self._embedding_weights()
        if not self.forces("clean") and is_done(
            folder / "cleaning.json", cleaning_inputs(dataset, self.config, weights)
        ):
            say(f"done already ({folder / 'issues.csv'}); --clean --force redoes it.")
            return
        clean(dataset, folder, self.config, weights)

    def _embedding_weights(self) -> Path | None:
        """The weights that cleaning embeds pictures with; a single file given for training is not for it."""
        setting = self.config.weights
        setting = "auto" if Path(setting).is_file() else setting
        return find_weights(setting, self.config.cleaning.backbone, self.paths.weights)

    def split(self, dataset: Dataset) -> Splits:
        """Cut the kept pictures, unless that was done for the same mask and settings."""
        headline("Split")
        folder = self.paths.data
        if not self.forces("split") and is_done(folder / "splits.json", splits_inputs(dataset, folder, self.config)):
            say(f"done already ({folder / 'splits.npz'}); --split --force redoes it.")
            return read_splits(folder)
        splits = split(dataset, folder, self.config)
        table = pd.read_csv(folder / "balance.csv", index_col="class")
        say(table.to_string())
        counts = {part: table[part].to_numpy() for part in ("all", "kept", "train", "validation", "test")}
        draw_class_balance(folder / "balance.png", counts, dataset.class_names)
        return splits

    # -- training

    def search_and_train(self, prepared: Prepared) -> list[Path]:
        """Search where asked, then train the best settings of each backbone; return the runs' folders."""
        if not (self.options.search or self.options.train or not self._runs_of(prepared)):
            return self._runs_of(prepared)
        config, planner = self.plan(prepared)
        if self.options.search:
            planner = self.search(prepared, config, planner)
        if self.deadline is not None and planner is not None:
            config = self._planned("training", prepared, lambda: planner.plan_training(config, self._left()))
            if self.options.search:
                say("\nAfter the search, with what its trials took:\n" + describe_plan(config, planner, search=False))
        headline("Train")
        return [self.train(name, prepared, config, planner) for name in self._training_order()]

    def _training_order(self) -> list[str]:
        """The packaged backbone first: whatever happens later, it is there."""
        return sorted(self.backbones, key=lambda name: name != self.final)

    def _left(self) -> float:
        assert self.deadline is not None
        return self.deadline - time.monotonic()

    def plan(self, prepared: Prepared) -> tuple[Config, Planner]:
        """Measure this machine and fit trials and epochs into the time budget, or say how long the settings take."""
        headline("Plan")
        pictures = prepared.training.images
        speed = measure_speed(self.config, pictures.shape[1:], prepared.training.num_classes)
        counts = [2 * len(scored.labels) for scored in (prepared.validation, prepared.test)]
        planner = Planner(speed, Sizes(len(pictures), *counts), self.weights)
        config = self.config
        if self.deadline is not None:
            searches = self.options.search

            def fit() -> Config:
                planned = planner.plan_search(config, self._left(), self.options.trials) if searches else config
                cost = planned.search.trials * sum(planner.trial_seconds(name, planned) for name in self.backbones)
                return planner.plan_training(planned, self._left() - (cost if searches else 0.0))

            planner.require_time(config, self._left())
            config = self._planned("search", prepared, fit)
            say(f"time budget {describe_seconds(self.budget or 0)}, {describe_seconds(self._left())} left")
        say(describe_plan(config, planner, self.options.search))
        return config, planner

    def _planned(self, part: str, prepared: Prepared, make: Any) -> Config:
        """Return the plan that an interrupted call of the same command made, or make it and keep it."""
        path = self.paths.experiments / f"plan_{part}.json"
        key = digest(flatten(self.config), prepared.fingerprint, self.backbones, self.budget, self.options.search)
        if path.is_file() and read_json(path)["key"] == key and not self.options.force:
            return unflatten(read_json(path)["settings"])
        planned: Config = make()
        write_json(path, {"key": key, "settings": flatten(planned)})
        return planned

    def search(self, prepared: Prepared, config: Config, planner: Planner) -> Planner:
        """Search each backbone within its share of the time; return a planner that knows what trials take."""
        headline("Search")
        costs = {name: planner.trial_seconds(name, config) for name in self.backbones}
        share = {name: cost * config.search.trials for name, cost in costs.items()}
        for name in self.backbones:
            job = self._search_job(name, prepared, config)
            if self.deadline is not None:
                latest = self.deadline - planner.reserve(config) - sum(planner.final_seconds(config).values()) / 2
                job = dataclasses.replace(job, deadline=time.monotonic() + 1.3 * share[name], last_moment=latest)
            best = search(job)
            seconds = read_json(self.paths.studies / f"{name}_best.json")["seconds"]
            planner = planner.learn(name, config, seconds)
            say(f"  {', '.join(f'{key}={value}' for key, value in best.items())}")
        return planner

    def _search_job(self, name: str, prepared: Prepared, config: Config) -> SearchJob:
        folder = self.paths.studies
        folder.mkdir(parents=True, exist_ok=True)
        database = folder / f"{name}.db"
        if self.options.force and not self.options.storage:
            database.unlink(missing_ok=True)
        storage = self.options.storage or f"sqlite:///{database}"
        own = replace(config, {"model.backbone": name})
        return SearchJob(own, prepared.training, self.weights[name], folder, storage, prepared.fingerprint)

    def train(self, name: str, prepared: Prepared, config: Config, planner: Planner) -> Path:
        """Train the best settings known for one backbone."""
        best = self.paths.studies / f"{name}_best.json"
        found = (
            read_json(best)["settings"] if best.is_file() and read_json(best)["data"] == prepared.fingerprint else {}
        )
        say(f"{name}: {'the best settings of its search' if found else 'settings as given (no search of it yet)'}")
        own = replace(config, {"model.backbone": name, **found})
        seconds = None
        if self.deadline is not None:
            seconds = self._share_of_time(name, config, planner)
        return run_training(own, prepared, self.weights[name], self.paths.runs, seconds, self.forces("train"))

    def _share_of_time(self, name: str, config: Config, planner: Planner) -> float:
        """This backbone's part of the time left, by its cost among those not yet trained."""
        costs, order = planner.final_seconds(config), self._training_order()
        waiting = order[order.index(name) :]
        room = self._left() - planner.reserve(config)
        return max(1.0, room * costs[name] / sum(costs[item] for item in waiting))

    def train_folds(self, dataset: Dataset) -> None:
        """Train the packaged backbone on each fold and say how much its score varies."""
        headline("Folds")
        name = self.backbones[0] if self.final == "best" else self.final
        folder, scores = self.paths.data, []
        for fold in range(self.options.folds):
            changes = {"model.backbone": name, "split.folds": self.options.folds, "split.fold": fold}
            config = replace(self.config, changes)
            keep, groups = np.load(folder / "keep.npy"), np.load(folder / "groups.npy")
            prepared = prepare(dataset, make_splits(dataset, keep, groups, config), config)
            run = run_training(config, prepared, self.weights[name], self.paths.runs, force=self.forces("train"))
            scores.append(run_evaluation(config, prepared, run)["selection_score"])
        say(
            f"{name} on {len(scores)} folds: {np.mean(scores):.4f} +- {np.std(scores, ddof=1):.4f} (sd) selection score"
        )

    # -- results

    def _runs_of(self, prepared: Prepared) -> list[Path]:
        """The trained runs on these splits."""
        runs = [path.parent for path in sorted(self.paths.runs.glob("*/network.weights.h5"))]
        return [run for run in runs if read_json(run / "config.json")["splits"] == prepared.fingerprint]

    def evaluate(self, prepared: Prepared, runs: list[Path]) -> None:
        """Score the runs that are not scored yet, and draw their curves and confusion."""
        headline("Evaluate")
        for run in runs:
            metrics = run_evaluation(self.config, prepared, run, self.forces("evaluate"))
            clean, distorted = (metrics["test"][version]["augmented"]["accuracy"] for version in ("clean", PROFILE))
            say(
                f"{run.name}: selection score {metrics['selection_score']:.4f}; test with {metrics['views']} views "
                f"{clean:.4f} clean, {distorted:.4f} distorted; look number {metrics['test_looks']} at the test"
            )
            draw_history(run / "history.png", pd.read_csv(run / "history.csv"))
            confusion = np.array(metrics["test"][PROFILE]["augmented"]["confusion"])
            draw_confusion(run / "confusion.png", confusion, prepared.class_names, f"{run.name}, distorted test")

    def package(self, prepared: Prepared) -> None:
        """Package the best run, run the zip as a server would, and score the demo's hidden test with it."""
        headline("Package")
        run = self._best_run(prepared)
        facts, metrics = read_json(run / "config.json"), read_json(run / "metrics.json")
        zip_path = self.paths.submissions / f"{run.name}.zip"
        package(run, facts["network"], prepared.class_names, metrics["views"], zip_path)
        expected = read_arrays(run / "predictions_test.npz")[PROFILE].mean(axis=0)
        figures = verify(zip_path, prepared.test.versions[PROFILE], expected, Limits())
        write_json(run / "package.json", figures)
        say(
            f"{zip_path}: verified. {figures['megabytes']} MB; loads in {figures['load_seconds']} s, predicts "
            f"{figures['pictures']} pictures in {figures['predict_seconds']} s, {figures['peak_megabytes']} MB; "
            f"the same labels as the trained network, probabilities within {figures['largest_difference']:.0e}"
        )
        if self.is_demo:
            self._score_hidden_test(zip_path, prepared, metrics)

    def _best_run(self, prepared: Prepared) -> Path:
        table = read_rows(self.paths.runs)
        table = table[table["splits"] == prepared.fingerprint]
        if self.final != "best":
            table = table[[name.rpartition("_")[0] == self.final for name in table["run"]]]
        if table.empty:
            raise InputError(
                f"No trained run of '{self.final}' on these data; train one: --train --backbone {self.final}."
            )
        return Path(self.paths.runs / table.iloc[0]["run"])

    def _score_hidden_test(self, zip_path: Path, prepared: Prepared, metrics: dict[str, Any]) -> None:
        images, labels = load_test(self.paths.data / "hidden_test.npz", self.config.data, prepared.class_names)
        score = float(np.mean(run_submission(zip_path, images, Limits()).labels == labels))
        expected = metrics["test"][PROFILE]["augmented"]
        low, high = expected["interval"]
        say(
            f"The demo's hidden test ({len(images)} pictures, distorted): {score:.4f}; "
            f"expected {expected['accuracy']:.4f}, 95 % interval {low:.4f} to {high:.4f}"
        )

    def record(self) -> None:
        """Keep a public score."""
        run_name, text = self.options.record
        try:
            score = float(text)
        except ValueError:
            raise InputError(f"--record got the score '{text}', and expects a number from 0 to 1, as 0.82.") from None
        record_public_score(self.paths.runs, run_name, score)
        self.show_leaderboard()

    def show_leaderboard(self) -> None:
        """Write and print the leaderboard."""
        headline("Leaderboard (accuracies in percent; selection: mean of clean and distorted validation)")
        say(write_leaderboard(self.paths.runs, self.paths.experiments, with_references=True))
        say(f"\nall columns: {self.paths.experiments / 'leaderboard.csv'} and leaderboard.md")


def _existing(path: Path) -> Path | None:
    return path if path.is_file() else None
