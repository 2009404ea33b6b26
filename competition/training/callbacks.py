"""Work beside the steps of a training: learning rate, averaged weights, progress, the end."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from competition.common.console import draw_bar

STEPS_PER_AVERAGE = 8  # between two updates of the average


class Average:
    """An exponential moving average of a network's weights, statistics of BatchNorm included.

    horizon: the number of latest weights that it averages, as a share of those seen so far. So it
    fits trainings of any length (power function EMA, Karras et al. 2024, arXiv 2312.02696).
    """

    def __init__(self, network: keras.Model, horizon: float) -> None:
        self.horizon = horizon
        self.variables = [item for item in network.weights if "float" in str(item.dtype)]
        self.mean: list[np.ndarray] = []
        self.seen = 0

    def update(self) -> None:
        """Add the network's present weights to the average."""
        self.seen += 1
        weight = 1 / max(1.0, self.horizon * self.seen)
        values = _read(self.variables)
        if not self.mean:
            self.mean = values
        for mean, value in zip(self.mean, values, strict=True):
            mean += np.asarray(weight * (value - mean), mean.dtype)

    def swap(self) -> None:
        """Exchange the network's weights and the average."""
        if self.mean:
            values = _read(self.variables)
            for variable, mean in zip(self.variables, self.mean, strict=True):
                variable.assign(mean)
            self.mean = values


def _read(variables: list[Any]) -> list[np.ndarray]:
    return [np.array(keras.ops.convert_to_numpy(variable)) for variable in variables]


class StepWatcher(keras.callbacks.Callback):
    """Sets the rate before each step, and ends the epoch where `must_stop` says so.

    rate: -> the learning rate of the next step. must_stop: -> whether the epoch ends before its
    last step. save: called after each step with the number of steps done.
    """

    def __init__(
        self,
        first: int,
        rate: Callable[[int], float],
        must_stop: Callable[[int], bool],
        save: Callable[[int], None],
        average: Average | None,
        title: str,
    ) -> None:
        super().__init__()
        self.steps_done = first
        self.rate = rate
        self.must_stop = must_stop
        self.save = save
        self.average = average
        self.title = title

    def on_train_begin(self, logs: Any = None) -> None:
        total = self.steps_done + self.params["steps"]
        self.bar = draw_bar(desc=self.title, total=total, initial=self.steps_done, unit="step")

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self.model.optimizer.learning_rate = self.rate(self.steps_done)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.steps_done += 1
        self.bar.update()
        model = self.model  # reading it makes JAX bring the weights up to date
        if not np.isfinite(logs["loss"]):
            model.stop_training = True
            return
        if self.average is not None and self.steps_done % STEPS_PER_AVERAGE == 0:
            self.average.update()
        self.save(self.steps_done)
        if self.must_stop(self.steps_done):
            model.stop_training = True

    def on_train_end(self, logs: Any = None) -> None:
        self.bar.close()
