"""The stages in order: what was asked for, and what that needs that is missing or stale."""

import argparse
import dataclasses
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from competition.actions import serve
from competition.backbones import get_backbone
from competition.campaign import Campaign
from competition.cleaning.clean import clean, cleaning_inputs
from competition.codabench.dry_run import run_ingestion
from competition.common.console import describe_seconds, headline, say
from competition.common.devices import has_accelerator
from competition.common.errors import NotCheckedError, UserError
from competition.common.figures import draw_class_balance, draw_confusion, draw_history
from competition.common.files import (
    exclusive,
    read_arrays,
    read_json,
    require_disk,
    up_to_date,
    write_json,
)
from competition.common.parallel import Workers, count_workers
from competition.config import unflatten, with_settings
from competition.data.arrays import Dataset, PreparedData, Splits
from competition.data.dataset import load_dataset, load_test
from competition.data.download import fetch
from competition.data.prepare import prepare
from competition.data.splits import (
    CLEANED,
    make_splits,
    read_cleaned,
    read_splits,
    split,
    splits_inputs,
)
from competition.demo.make import make_demo
from competition.distortion.profiles import PROFILE, VERSIONS
from competition.evaluation.ensemble import PREFIX, make_ensemble
from competition.evaluation.evaluate import is_scored, run_evaluation
from competition.evaluation.leaderboard import read_rows, record_public_score, write_leaderboard
from competition.job import Job
from competition.networks.weights import check_weights
from competition.search.study import open_storage
from competition.submission.package import Expected, deliver
from competition.training.runs import describe_environment, run_training

FIRST_STEPS = """This was the demo competition, drawn by a program. For your own: put the competition's file at
data/training_set.npz, or name any .npz or folder of class folders:  python run.py --search --data FILE
With ImageNet weights (downloaded by Keras, or put into data/weights/) and some hours instead of minutes the scores
rise: --time-budget 3h plans for them. Upload the zip, then  python run.py --record RUN SCORE  keeps what the server
said, and the leaderboard shows how far the expected score was off."""


def run(options: argparse.Namespace) -> None:
    """Do what the command line asks for; raises UserError for a user's mistake before any long work."""
    started = time.monotonic()
    pipeline = Pipeline(Job(options))
    with exclusive(pipeline.paths.experiments):
        if options.record:
            pipeline.record()
        if pipeline.job.serves or pipeline.job.stages - {"leaderboard"}:
            pipeline.run()
            say(f"\nDone in {describe_seconds(time.monotonic() - started)}.")
        else:
            pipeline.show_leaderboard()
    if pipeline.workers.failures:
        raise UserError("Not all went well: " + " ".join(pipeline.workers.failures))
    if pipeline.unchecked:
        raise NotCheckedError(pipeline.unchecked)


class Pipeline:
    """The stages of one job."""

    def __init__(self, job: Job) -> None:
        self.job, self.paths, self.config = job, job.paths, job.config
        self.workers = Workers(1)
        self.unchecked = ""  # why --check-server could not check

    def run(self) -> None:
        """Run the stages in order, as far as they are asked for."""
        environment, wants = describe_environment(), self.job.wants
        say(
            f"{self.paths.name}: {environment['device']}, keras {environment['keras']}, seed {self.config.seed}"
        )
        if self.job.options.search and self.job.options.storage:
            open_storage(self.job.options.storage, self.config.search.heartbeat_seconds)
        dataset = self.load()
        if wants("train", "evaluate", "package"):
            self.check_weights()
        dataset = self.clean(dataset)
        trains, serves = wants("train", "evaluate", "package"), self.job.serves
        if serves or wants("split", "train", "evaluate", "package"):
            splits = self.split(dataset)
        if not (trains or serves):
            return
        prepared = prepare(dataset, splits, self.config, self.paths.data / "prepared")
        if trains:
            self.experiment(dataset, prepared)
        if serves:
            serve(self.job, prepared)

    def experiment(self, dataset: Dataset, prepared: PreparedData) -> None:
        """Search, train, evaluate, package and compare."""
        number = self.job.options.workers or count_workers(
            len(self.job.backbones), has_accelerator()
        )
        with Workers(number) as self.workers:
            self.evaluate(prepared, self.train(prepared))
        if self.job.wants("package"):
            try:
                self.package(prepared)
            except UserError as error:
                self.workers.tell_failure("packaging", error)
        if self.job.options.folds:
            self.train_folds(dataset, prepared)
        self.show_leaderboard()
        if self.job.options.search and self.job.is_demo:
            say("\n" + FIRST_STEPS)

    # -- data

    def check_weights(self) -> None:
        """Refuse a bad --weights before the long work, and print where weights come from."""
        for name, weights in self.job.weights.items():
            check_weights(weights, name)
            say(f"  {get_backbone(name).title}: {weights.origin} weights")

    def load(self) -> Dataset:
        """Read the data set, or draw the demo's."""
        headline("Load")
        require_disk(self.paths.experiments, 300)
        path = self.job.source
        if path is None:
            if not self.job.is_demo:
                raise UserError(
                    f"--name {self.paths.name} needs --data, or a file data/training_set.npz."
                )
            say(
                "NO DATA WAS GIVEN: this is the DEMO COMPETITION, whose blood cells are drawn by a program."
            )
            make_demo(self.paths.data, self.config.seed)
            path = self.paths.data / "training_set.npz"
        if self.job.published:
            fetch(self.job.published, path)
        dataset = load_dataset(path, self.config.data)
        self._require_same_data(dataset, path)
        counts = np.bincount(dataset.labels)
        say(
            f"{path}: {len(dataset.labels)} pictures of {dataset.images.shape[1]}x{dataset.images.shape[2]}"
        )
        say(
            "  "
            + ", ".join(
                f"{name} {count}" for name, count in zip(dataset.class_names, counts, strict=True)
            )
        )
        return dataset

    def _require_same_data(self, dataset: Dataset, path: Path) -> None:
        """Raise UserError where the folders of this name hold the results of other data (`clean` notes of which)."""
        marker = self.paths.experiments / "data.json"
        known = read_json(marker)["data"] if marker.is_file() else dataset.fingerprint
        if known != dataset.fingerprint and not self.job.options.force:
            raise UserError(
                f"{self.paths.experiments} holds studies and runs of another data set than {path} "
                f"({known}, now {dataset.fingerprint}); give this one folders of its own with --name, or use --force."
            )

    def clean(self, dataset: Dataset) -> Dataset:
        """Flag faults, unless that was done for the same data and settings; return the data with the labels to use."""
        headline("Clean")
        write_json(self.paths.experiments / "data.json", {"data": dataset.fingerprint})
        folder, weights, force = (
            self.paths.data,
            self.job.embedding_weights,
            self.job.forces("clean"),
        )
        if not force and up_to_date(
            folder / "cleaning.json", cleaning_inputs(dataset, folder, self.config, weights)
        ):
            say(f"done already ({folder / 'report.html'} shows it); --clean --force redoes it.")
        else:
            clean(dataset, folder, self.config, weights, force)
        labels = read_cleaned(folder / "labels.npy", len(dataset.labels))
        return (
            dataset
            if np.array_equal(labels, dataset.labels)
            else dataclasses.replace(dataset, labels=labels)
        )

    def split(self, dataset: Dataset) -> Splits:
        """Cut the kept pictures, unless that was done for the same mask and settings."""
        headline("Split")
        folder = self.paths.data
        inputs = splits_inputs(dataset, folder, self.config)
        if not self.job.forces("split") and up_to_date(folder / "splits.json", inputs):
            say(f"done already ({folder / 'splits.npz'}); --split --force redoes it.")
            return read_splits(folder)
        splits = split(dataset, folder, self.config)
        table = pd.read_csv(folder / "balance.csv", index_col="class")
        say(table.to_string())
        counts = {
            part: table[part].to_numpy() for part in ("all", "kept", "train", "validation", "test")
        }
        draw_class_balance(folder / "balance.png", counts, dataset.class_names)
        return splits

    # -- training

    def train(self, prepared: PreparedData) -> list[Path]:
        """Return the folders of the runs: those at hand where only what follows them was asked for."""
        runs = self._runs_of(prepared)
        if runs and not (self.job.options.search or self.job.options.train):
            return runs
        return Campaign(self.job, self.workers).run(prepared)

    def train_folds(self, dataset: Dataset, prepared: PreparedData) -> None:
        """Train the packaged run's settings on each fold, beside the time budget, and say how the score varies."""
        headline("Folds")
        run = self._best_run(prepared)
        settings, folder = read_json(run / "config.json")["settings"], self.paths.data
        keep, groups, doubtful = (np.load(folder / f"{name}.npy") for name in CLEANED)
        scores = []
        for fold in range(self.job.options.folds):
            config = with_settings(
                unflatten(settings), {"split.folds": self.job.options.folds, "split.fold": fold}
            )
            made = make_splits(dataset, keep, groups, doubtful, config)
            cut = prepare(dataset, made, config, self.paths.data / "prepared_fold")
            weights, force = self.job.weights[config.model.backbone], self.job.forces("train")
            trained = run_training(
                config, cut, weights, self.paths.experiments / "folds", force=force
            )
            scores.append(float(pd.read_csv(trained / "history.csv")["val_accuracy"].max()))
        mean, deviation = np.mean(scores), np.std(scores, ddof=1)
        write_json(
            self.paths.experiments / "folds" / "folds.json",
            {"settings": settings, "selection_scores": scores},
        )
        say(
            f"{run.name} on {len(scores)} folds: selection score {mean:.4f}, standard deviation {deviation:.4f}"
        )

    # -- results

    def _runs_of(self, prepared: PreparedData) -> list[Path]:
        """The trained runs on these splits."""
        runs = [path.parent for path in sorted(self.paths.runs.glob("*/network.weights.h5"))]
        return [
            run for run in runs if read_json(run / "config.json")["splits"] == prepared.fingerprint
        ]

    def evaluate(self, prepared: PreparedData, runs: list[Path]) -> None:
        """Score the runs that are not scored yet, and draw their curves and confusion."""
        headline("Evaluate")
        waiting = [
            run
            for run in runs
            if self.job.forces("evaluate") or not is_scored(self.config, prepared, run)
        ]
        tasks = {run.name: partial(run_evaluation, self.config, prepared, run) for run in waiting}
        for name, _ in self.workers.run_all(tasks):
            self._show_scores(self.paths.runs / name, prepared)
        for run in runs:
            if run not in waiting:
                say(f"{run.name}: scored already; --force scores anew.")

    def _show_scores(self, run: Path, prepared: PreparedData) -> None:
        metrics = read_json(run / "metrics.json")
        accuracies = (
            f"{metrics['test'][version]['augmented']['accuracy']:.4f} {version}"
            for version in VERSIONS
        )
        say(
            f"{run.name}: selection score {metrics['selection_score']:.4f}; test, the first two with "
            f"{metrics['views']} views: {', '.join(accuracies)}; look number {metrics['test_looks']} at the test"
        )
        if doubtful := int(prepared.test.doubtful.sum()):
            scores = (metrics["test"][version]["augmented"] for version in ("clean", PROFILE))
            clean, distorted = (known["accuracy_without_doubtful"] for known in scores)
            say(
                f"  without its {doubtful} doubtful labels {clean:.4f} clean, {distorted:.4f} {PROFILE}"
            )
        draw_history(run / "history.png", pd.read_csv(run / "history.csv"))
        confusion = np.array(metrics["test"][PROFILE]["augmented"]["confusion"])
        draw_confusion(
            run / "confusion.png", confusion, prepared.class_names, f"{run.name}, distorted test"
        )

    def package(self, prepared: PreparedData) -> None:
        """Package the best run, run the zip as a server would, and score the demo's hidden test with it."""
        headline("Package")
        run = self._packaged_run(prepared)
        metrics = read_json(run / "metrics.json")
        zip_path = self.paths.submissions / f"{run.name}.zip"
        expected = read_arrays(run / "predictions_test.npz")[PROFILE].mean(axis=0)
        compared = Expected(prepared.test.versions[PROFILE], expected, metrics["views"])
        self.unchecked = deliver(run, compared, self.config, zip_path, self.job.server)
        if self.job.is_demo:
            self._score_hidden_test(zip_path, prepared, metrics)

    def _packaged_run(self, prepared: PreparedData) -> Path:
        names = self.job.options.ensemble
        if not names:
            return self._best_run(prepared)
        return make_ensemble(self.paths.runs, tuple(names), prepared.fingerprint, self.config.seed)

    def _best_run(self, prepared: PreparedData) -> Path:
        table = read_rows(self.paths.runs)
        table = table[
            (table["splits"] == prepared.fingerprint) & ~table["run"].str.startswith(PREFIX)
        ]
        select_by = self.config.training.select_by
        if table.size and select_by not in set(table["select by"]):
            others = ", ".join(sorted(set(table["select by"])))
            raise UserError(
                f"No run on these data was selected by {select_by}; add --select-by with one of {others}."
            )
        table = table[table["select by"] == select_by]
        if self.job.final != "best":
            table = table[[name.rpartition("_")[0] == self.job.final for name in table["run"]]]
        if table.empty:
            raise UserError(
                f"No trained run of '{self.job.final}' on these data; train one: --train --backbone {self.job.final}."
            )
        return Path(self.paths.runs / table.iloc[0]["run"])

    def _score_hidden_test(
        self, zip_path: Path, prepared: PreparedData, metrics: dict[str, Any]
    ) -> None:
        images, labels = load_test(
            self.paths.data / "hidden_test.npz", self.config.data, prepared.class_names
        )
        score = float(np.mean(run_ingestion(zip_path, images, self.config.limits).labels == labels))
        expected = metrics["test"][PROFILE]["augmented"]
        low, high = expected["interval"]
        say(
            f"The demo's hidden test ({len(images)} pictures, distorted): {score:.4f}; "
            f"expected {expected['accuracy']:.4f}, 95 % interval {low:.4f} to {high:.4f}"
        )

    def record(self) -> None:
        """Keep a public score."""
        run_name, text = self.job.options.record
        try:
            score = float(text)
        except ValueError:
            raise UserError(
                f"--record got the score '{text}', and expects a number from 0 to 1, as 0.82."
            ) from None
        record_public_score(self.paths.runs, run_name, score)

    def show_leaderboard(self) -> None:
        """Write and print the leaderboard."""
        headline("Leaderboard (accuracies in percent)")
        say(write_leaderboard(self.paths.runs, self.paths.experiments, with_references=True))
        say(f"\nall columns: {self.paths.experiments / 'leaderboard.csv'} and leaderboard.md")
