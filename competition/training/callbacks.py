"""Keras callbacks: a checkpoint that resumes training as if it had not stopped, progress, and a time limit."""

import time
from pathlib import Path
from typing import Any

import keras
import numpy as np

from competition.common.console import describe_seconds, draw_bar, say
from competition.common.files import read_json, replacing, write_json

SCORE = "val_accuracy"  # the selection score: validation holds the versions that are selected by
_STATE = ("wait", "best", "best_epoch", "stopped_epoch", "cooldown_counter")


class StepClock(keras.callbacks.Callback):
    """Knows of the epoch that ended what its first step took, in seconds, and the median of the others."""

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.times = [time.perf_counter()]

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.times.append(time.perf_counter())

    def step_seconds(self) -> dict[str, float]:
        """Return first_step_seconds and step_seconds."""
        steps = np.diff(self.times)
        others = steps[1:] if len(steps) > 1 else steps
        return {"first_step_seconds": float(steps[0]), "step_seconds": float(np.median(others))}


class Checkpoint(StepClock):
    """Keeps the best weights, and after each epoch all that is needed to go on from there after a crash.

    Files in `folder`: state.json (written last, whole or not at all) names the weights' file that it belongs to.
    `EarlyStopping` and `ReduceLROnPlateau` forget their state when training begins, so theirs is kept here, and this
    callback must stand after them in the list. `keras.callbacks.BackupAndRestore` keeps neither.
    """

    def __init__(
        self, folder: Path, network: keras.Model, stage: str, others: list[keras.callbacks.Callback]
    ) -> None:
        super().__init__()
        self.folder, self.network, self.stage, self.others = folder, network, stage, others
        self.state = read_state(folder)

    @property
    def best_path(self) -> Path:
        """The weights of the best epoch over all stages."""
        return self.folder / "best.weights.h5"

    @property
    def title(self) -> str:
        """What trains and in which stage, for the terminal."""
        return f"{self.folder.parent.name.strip('.')}, {self.stage}"

    @property
    def epochs_done(self) -> int:
        """Finished epochs of this stage."""
        return sum(row["stage"] == self.stage for row in self.state["history"])

    def restore(self) -> None:
        """Load the last finished epoch of this stage, optimiser included, into the model that is about to train."""
        if self.epochs_done:
            self.model.optimizer.build(self.model.trainable_variables)
            self.model.load_weights(self.folder / self.state["weights"])

    def on_train_begin(self, logs: Any = None) -> None:
        if self.epochs_done:
            for other, state in zip(self.others, self.state["callbacks"], strict=True):
                vars(other).update(state)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        seconds = time.perf_counter() - self.times[0]
        row = {"stage": self.stage, "epoch": epoch + 1} | {
            name: float(value) for name, value in logs.items()
        }
        row |= {
            "learning_rate": float(self.model.optimizer.learning_rate),
            "seconds": round(seconds, 2),
        }
        row |= self.step_seconds()
        if logs[SCORE] > max((item[SCORE] for item in self.state["history"]), default=-1.0):
            with replacing(self.best_path) as temporary:
                self.network.save_weights(temporary)
        self._save(row)
        say(_describe(self.title, row, self.params["epochs"]))

    def _save(self, row: dict[str, Any]) -> None:
        previous = self.state["weights"]
        name = f"{self.stage.replace(' ', '_')}_{row['epoch']:03d}.weights.h5"
        with replacing(self.folder / name) as temporary:
            self.model.save_weights(temporary)
        callbacks = [
            {key: vars(other)[key] for key in _STATE if key in vars(other)} for other in self.others
        ]
        history = [*self.state["history"], row]
        self.state = {
            "weights": name,
            "history": history,
            "callbacks": callbacks,
            "stages": self.state["stages"],
        }
        write_json(self.folder / "state.json", self.state)
        if previous and previous != name:
            (self.folder / previous).unlink(missing_ok=True)


def finish_stage(folder: Path, stage: str) -> None:
    """Note that `stage` is over, so that a resumed training does not enter it again."""
    state = read_state(folder)
    write_json(folder / "state.json", state | {"stages": [*state["stages"], stage]})


def read_state(folder: Path) -> dict[str, Any]:
    """Return the state that `Checkpoint` left in `folder`: weights' file, history, callbacks, finished stages."""
    path = folder / "state.json"
    return (
        read_json(path)
        if path.is_file()
        else {"weights": None, "history": [], "callbacks": [], "stages": []}
    )


def _describe(title: str, row: dict[str, Any], epochs: int) -> str:
    return (
        f"  {title} {row['epoch']}/{epochs}: loss {row['loss']:.3f}, accuracy {row['accuracy']:.3f}, "
        f"selection score {row[SCORE]:.4f}, {describe_seconds(row['seconds'])}"
    )


class ProgressBar(keras.callbacks.Callback):
    """One bar over all steps of a stage, on a terminal only."""

    def __init__(self, title: str, first_epoch: int) -> None:
        super().__init__()
        self.title, self.first_epoch = title, first_epoch

    def on_train_begin(self, logs: Any = None) -> None:
        total = self.params["epochs"] * self.params["steps"]
        start = self.first_epoch * self.params["steps"]
        self.bar = draw_bar(desc=f"  {self.title}", total=total, initial=start, unit="step")

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.bar.update()

    def on_train_end(self, logs: Any = None) -> None:
        self.bar.close()


class TimeLimit(keras.callbacks.Callback):
    """Ends training after the last epoch that fits before `deadline` (seconds of time.monotonic; None: no limit).

    An epoch that goes on for GRACE seconds after it ends there, and is scored as it is.
    """

    GRACE = 15.0

    def __init__(self, deadline: float | None) -> None:
        super().__init__()
        self.deadline, self.reached = deadline, False

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if batch == 0:  # compiling is no part of the epochs to come
            self.started = time.monotonic()
        if self._is_over(time.monotonic() - self.GRACE) and batch + 1 < self.params["steps"]:
            self._stop(f"within an epoch, after {batch + 1} of {self.params['steps']} steps")

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        now = time.monotonic()
        if (
            not self.reached
            and self._is_over(now + (now - self.started))
            and epoch + 1 < self.params["epochs"]
        ):
            self._stop(f"after epoch {epoch + 1}")

    def _is_over(self, moment: float) -> bool:
        return self.deadline is not None and moment > self.deadline

    def _stop(self, where: str) -> None:
        say(f"  The time planned for this training is over: it ends {where}.")
        self.model.stop_training = self.reached = True
