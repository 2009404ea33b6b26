"""The state of a training: in memory for a trial, in a checkpoint on disk for a run."""

import math
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pandas as pd

from competition.common.console import describe_seconds, say
from competition.common.files import (
    if_intact,
    read_arrays,
    read_json,
    reading,
    replacing,
    write_array,
    write_arrays,
    write_json,
)
from competition.metric import ACCURACY, Metric
from competition.paths import HISTORY
from competition.training.callbacks import Average

SAVE_SECONDS = 60.0  # of training that a process that is killed may lose
PREDICTIONS = "selection.npy"  # of the best weights, on the images that are selected by
STATE_SHAPE = {
    "history": [{"stage": str, "epoch": int, "progress": float}],
    "stages": [str],
    "saved": object,
    "number": int,
}


@dataclass(frozen=True)
class Position:
    """Where a training goes on: in which epoch, after how many steps, at which progress 0..1."""

    epoch: int = 0
    step: int = 0
    progress: float = 0.0


class Keeper:
    """Keeps the history and the best weights of a training in memory, as a trial needs them.

    report: told the score (None: not validated) and the number of each epoch; it may raise.
    validated_from: the progress 0..1 of a stage from which its epochs are validated. metric: what
    the selection score is; a row of the history has its value in the column of that metric.
    """

    def __init__(
        self,
        report: Callable[[float | None, int], None] | None = None,
        validated_from: float = 0.0,
        metric: Metric = ACCURACY,
    ) -> None:
        self.report = report
        self.metric = metric
        self.validated_from = validated_from
        self.history: list[dict[str, Any]] = []
        self.predictions: np.ndarray | None = None  # (m, K), of the best weights
        self._weights: list[np.ndarray] = []

    def scores(self, stage: str) -> list[float]:
        """Return the selection scores of the epochs of a stage that were validated."""
        rows = [row for row in self.history if row["stage"] == stage]
        return [score for score in map(self._read_score, rows) if score is not None]

    def _read_score(self, row: dict[str, Any]) -> float | None:
        value = row[self.metric.column]
        return None if value is None else self.metric.flip(value)

    def losses(self, stage: str) -> list[float]:
        """Return the training losses of the epochs of a stage."""
        return [row["loss"] for row in self.history if row["stage"] == stage]

    @property
    def can_return(self) -> bool:
        """Whether a training that diverged goes on from its best weights; a trial has failed."""
        return False

    def has_begun(self, stage: str) -> bool:
        """Tell whether an epoch of `stage` is kept."""
        return any(row["stage"] == stage for row in self.history)

    @property
    def best_score(self) -> float:
        """The best selection score so far, less than any before the first."""
        scores = [score for score in map(self._read_score, self.history) if score is not None]
        return max(scores, default=-math.inf)

    def position(self, stage: str) -> Position:
        """Return where the training of `stage` goes on."""
        return Position()

    def restore(self, model: keras.Model, average: Average | None) -> None:
        """Load the weights and the average of that position."""

    def save(
        self, model: keras.Model, stage: str, position: Position, average: Average | None
    ) -> None:
        """Keep the weights and the average, to go on from `position`."""

    def add_epoch(
        self, row: dict[str, Any], network: keras.Model, predictions: np.ndarray | None
    ) -> None:
        """Add a row to the history, and keep the weights where they are the best or the last.

        predictions: (m, K) of the validation images; None where it was not validated. Where
        time ended the last epoch the training is annealed, and its last weights are its best.
        """
        score = self._read_score(row)
        is_best = score is None or score > self.best_score
        self.history.append(row)
        if is_best:
            self.keep(network, predictions)
        if self.report is not None:
            self.report(score, row["epoch"])

    def add_lost_epoch(self, row: dict[str, Any]) -> None:
        """Add the row of an epoch whose loss diverged; its weights are not kept."""
        self.history.append(row)

    def keep(self, network: keras.Model, predictions: np.ndarray | None) -> None:
        """Keep the weights as the best ones."""
        self._weights = network.get_weights()
        self.predictions = predictions

    def load_best(self, network: keras.Model) -> None:
        """Load the best weights."""
        network.set_weights(self._weights)


class Checkpoint(Keeper):
    """Keeps a training in a folder, from which it goes on after a crash as if it had not stopped.

    state.json is written last and names the files that belong to it; history.csv beside the folder
    grows by a row per epoch. network: the whole one, whatever part of it trains. show: told each
    row of the history and the epoch's number, from 1 on.
    """

    def __init__(
        self,
        folder: Path,
        network: keras.Model,
        show: Callable[[dict[str, Any], int], None] | None = None,
        metric: Metric = ACCURACY,
    ) -> None:
        super().__init__(metric=metric)
        self.show = show
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.network = network
        self.state: dict[str, Any] = {"history": [], "stages": [], "saved": None, "number": 0}
        if (folder / "state.json").is_file():
            known = if_intact(self._read_state)
            if known is None:
                say(f"  {self.title} is trained from its beginning.")
                shutil.rmtree(folder)
                folder.mkdir()
            self.state = known or self.state
        self.history = self.state["history"]
        self.saved_at = time.monotonic()

    @property
    def title(self) -> str:
        """The name of the run."""
        return self.folder.parent.name.strip(".")

    def _read_state(self) -> dict[str, Any]:
        """Return state.json; raises DamagedFileError where it or a file that it names is broken."""
        path = self.folder / "state.json"
        state = read_json(path, STATE_SHAPE)
        files = {self.folder / "best.weights.h5"} if state["history"] else set()
        with reading(path):
            sum(row[self.metric.column] or 0.0 for row in state["history"])  # numbers or None
            if saved := state["saved"]:
                _, _, _ = map(float, saved["position"])
                files.add(self.folder / f"{saved['name']}.weights.h5")
                files |= set(self.folder.glob(f"{saved['name']}.*"))
        for file in files:
            if file.suffix == ".npz":
                read_arrays(file, {"seen": ()})
            else:
                with reading(file), h5py.File(file):
                    pass
        return dict(state)

    @property
    def can_return(self) -> bool:
        return bool(self.history)

    def position(self, stage: str) -> Position:
        saved = self.state["saved"]
        return Position(*saved["position"]) if saved and saved["stage"] == stage else Position()

    def restore(self, model: keras.Model, average: Average | None) -> None:
        saved = self.state["saved"]
        model.load_weights(self.folder / f"{saved['name']}.weights.h5")
        if average is not None:
            stored = read_arrays(self.folder / f"{saved['name']}.average.npz")
            average.seen = int(stored.pop("seen"))
            average.mean = [stored[str(index)] for index in range(len(stored))]

    def save(
        self, model: keras.Model, stage: str, position: Position, average: Average | None
    ) -> None:
        number = self.state["number"] + 1
        name = f"{stage.replace(' ', '_')}_{number:04d}"
        with replacing(self.folder / f"{name}.weights.h5") as temporary:
            model.save_weights(temporary)
        if average is not None:
            means = {str(index): mean for index, mean in enumerate(average.mean)}
            write_arrays(self.folder / f"{name}.average.npz", seen=np.array(average.seen), **means)
        place = [position.epoch, position.step, position.progress]
        self._write_state(saved={"stage": stage, "name": name, "position": place}, number=number)
        self.saved_at = time.monotonic()

    def is_due(self) -> bool:
        """Tell whether it is time to save within an epoch."""
        return time.monotonic() - self.saved_at > SAVE_SECONDS

    def add_epoch(
        self, row: dict[str, Any], network: keras.Model, predictions: np.ndarray | None
    ) -> None:
        super().add_epoch(row, network, predictions)
        value = row[self.metric.column]
        score = "not validated" if value is None else f"selection score {value:.4f}"
        say(
            f"  {self.title}, {row['stage']} epoch {row['epoch'] + 1} ({row['progress']:.0%}): "
            f"loss {row['loss']:.3f}, {score}, {describe_seconds(row['seconds'])}"
        )
        if self.show is not None:
            self.show(row, len(self.history))

    def add_lost_epoch(self, row: dict[str, Any]) -> None:
        super().add_lost_epoch(row)
        say(
            f"  {self.title}, {row['stage']} epoch {row['epoch'] + 1} ({row['progress']:.0%}): "
            f"loss {row['loss']:.3f}, DIVERGED; it goes on from its best weights, more slowly"
        )

    def keep(self, network: keras.Model, predictions: np.ndarray | None) -> None:
        with replacing(self.folder / "best.weights.h5") as temporary:
            self.network.save_weights(temporary)
        (self.folder / PREDICTIONS).unlink(missing_ok=True)
        if predictions is not None:
            write_array(self.folder / PREDICTIONS, predictions)

    def load_best(self, network: keras.Model) -> None:
        self.network.load_weights(self.folder / "best.weights.h5")

    def finish_stage(self, stage: str) -> None:
        """Note that `stage` is over, so that a training that goes on does not enter it again."""
        self._write_state(saved=None, stages=[*self.state["stages"], stage])

    def _write_state(self, **changes: Any) -> None:
        old = self.state["saved"]
        self.state = self.state | changes | {"history": self.history}
        write_json(self.folder / "state.json", self.state)
        with replacing(self.folder.parent / HISTORY) as temporary:
            pd.DataFrame(self.history).to_csv(temporary, index=False)
        if old and old != self.state["saved"]:
            for file in self.folder.glob(f"{old['name']}.*"):
                file.unlink()
