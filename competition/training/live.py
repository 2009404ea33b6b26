"""A live view of trainings: the numbers of each epoch in TensorBoard or MLflow, as it ends.

history.csv in the folder of the run grows by a row per epoch without any of this.
"""

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

from competition.common.console import say
from competition.common.errors import UserError, unknown

Show = Callable[[dict[str, float], int], None]
"""Takes the numbers of an epoch by name, and the epoch's number in its run, from 1 on."""


@contextmanager
def _write_tensorboard(run: Path) -> Iterator[Show]:
    from tensorboard.summary import Writer  # needs no TensorFlow

    with closing(Writer(str(run))) as writer:

        def show(numbers: dict[str, float], epoch: int) -> None:
            for name, value in numbers.items():
                writer.add_scalar(name, value, epoch)
            writer.flush()

        yield show


@contextmanager
def _log_to_mlflow(run: Path) -> Iterator[Show]:
    import mlflow

    try:
        mlflow.set_experiment(run.parent.parent.name)
        active = mlflow.start_run(run_name=run.name)
    except mlflow.exceptions.MlflowException as error:
        raise UserError(
            f"MLflow does not answer ({_first_line(error)}); set MLFLOW_TRACKING_URI to a "
            "server that runs, or leave out --mlflow."
        ) from error

    def show(numbers: dict[str, float], epoch: int) -> None:
        with told():
            mlflow.log_metrics(numbers, epoch)

    @contextmanager
    def told() -> Iterator[None]:
        try:
            yield
        except mlflow.exceptions.MlflowException as error:
            say(f"  MLflow did not take what {run.name} has to show: {_first_line(error)}")

    with told(), active:
        yield show


VIEWS: dict[str, Callable[[Path], AbstractContextManager[Show]]] = {
    "tensorboard": _write_tensorboard,
    "mlflow": _log_to_mlflow,
}


def check_live_views(setting: str) -> None:
    """Raise UserError where a view of `live` is unknown, or its package is not installed."""
    for name in _split(setting):
        if name not in VIEWS:
            raise UserError(unknown("view in the setting live", name, VIEWS))
        if importlib.util.find_spec(name) is None:
            raise UserError(
                f"--{name} needs the package {name}, which is not installed; pip install {name}, "
                f"or leave out --{name}: history.csv in the run's folder grows without it, too."
            )


@contextmanager
def open_live_views(setting: str, run: Path) -> Iterator[Callable[[dict[str, Any], int], None]]:
    """Yield a function that shows a row of the history, and the epoch's number, in all views.

    setting: `live` of the settings. run: the folder of the run; TensorBoard's events lie in it.
    """
    with ExitStack() as stack:
        views = [stack.enter_context(VIEWS[name](run)) for name in _split(setting)]

        def show(row: dict[str, Any], epoch: int) -> None:
            numbers = {name: value for name, value in row.items() if isinstance(value, int | float)}
            for view in views:
                view(numbers, epoch)

        yield show


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def _split(setting: str) -> list[str]:
    return setting.split("+") if setting else []
