"""Runs: full trainings in folders of their own, found again by the hash of their inputs."""

import contextlib
import platform
import re
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd

from competition.common.console import describe_seconds, say
from competition.common.devices import describe_device
from competition.common.errors import TrialFailedError
from competition.common.files import (
    digest,
    read_json,
    read_table,
    reading,
    replacing,
    write_json,
)
from competition.common.settings import flatten
from competition.common.settings_files import write_settings
from competition.common.version import __version__
from competition.config import Config, training_settings
from competition.data.arrays import PreparedData
from competition.metric import Metric, get_metric
from competition.networks.layers import create_network, network_spec
from competition.networks.weights import RANDOM, Weights, read_weights
from competition.paths import CHECKPOINT, CONFIG, ENVIRONMENT, HISTORY, SETTINGS, WEIGHTS
from competition.time_budget import TrainingTime
from competition.training.keepers import PREDICTIONS, Checkpoint
from competition.training.live import open_live_views
from competition.training.train import train

# The shape of a run's config.json. That of an ensemble has members, and no settings.
CONFIG_SHAPE: dict[str, Any] = {
    "fingerprint": str,
    "settings": dict,
    "members": [str],
    "splits": str,
    "distortion": str,
    "network": dict,
    "weights": str,
    "class_names": [str],
}


def fingerprint_run(
    config: Config, data: PreparedData, weights: Weights, time_for: TrainingTime | None
) -> str:
    """Return the hash that tells whether a run is the same experiment.

    It goes over settings, data, weights, backend, and the time budget with its sharing, if there is
    one.
    """
    backend = keras.backend.backend()
    made_of = data.fingerprint, data.selection_hash, weights.fingerprint, backend
    budget = [time_for.budget, time_for.sharing] if time_for else []
    return digest(training_settings(config), *made_of, *budget)


def find_run(runs: Path, backbone: str, fingerprint: str, force: bool) -> Path:
    """Return the folder of the run with `fingerprint`, or a new one with the next number.

    force: a finished run does not count, one that was interrupted does.
    """
    for folder in reversed(list_runs(runs, backbone)):
        begun = (folder / CONFIG).is_file()
        known = begun and read_config(folder, "fingerprint")["fingerprint"] == fingerprint
        if known and not (force and is_trained(folder)):
            return folder
    return make_run_folder(runs, backbone)


def make_run_folder(runs: Path, prefix: str) -> Path:
    """Make the folder of a new run: `prefix` and the number after the last one's; return it.

    Of processes that do so at the same moment, each has a folder of its own.
    """
    while True:
        numbers = [int(folder.name.rpartition("_")[2]) for folder in list_runs(runs, prefix)]
        folder = runs / f"{prefix}_{max(numbers, default=0) + 1:03d}"
        with contextlib.suppress(FileExistsError):
            folder.mkdir(parents=True)
            return folder


def list_runs(runs: Path, prefix: str | None = None) -> list[Path]:
    """Return the folders of runs, <prefix>_<number>, by name; others are copies or a user's own.

    prefix: a backbone, or `ensemble` (None: any).
    """
    name = re.compile(rf"{re.escape(prefix) if prefix else '.+'}_[0-9]+")
    return sorted(path for path in runs.glob("*_*") if name.fullmatch(path.name) and path.is_dir())


def read_config(run: Path, *keys: str) -> dict[str, Any]:
    """Return a run's config.json, which holds `keys`; raises DamagedFileError where not."""
    return dict(read_json(run / CONFIG, CONFIG_SHAPE, mend_run(run), keys))


def mend_run(run: Path) -> str:
    """Return the cure for a damaged file of a run that nothing can make anew."""
    return f"restore it, or delete the folder {run} and train again."


def is_trained(run: Path) -> bool:
    """Tell whether a run's training is over."""
    return (run / WEIGHTS).is_file()


def train_run(
    config: Config,
    data: PreparedData,
    weights: Weights,
    runs: Path,
    time_for: TrainingTime | None = None,
    force: bool = False,
) -> Path:
    """Train the network of `config` fully, or go on where an earlier call ended; return its run.

    time_for: the training ends, annealed, when its slot is over; None: the settings' epochs hold.
    force: a finished run is trained anew. Raises TrialFailedError where the loss diverges.
    """
    budget = time_for.budget if time_for else None
    fingerprint = fingerprint_run(config, data, weights, time_for)
    run = find_run(runs, config.model.backbone, fingerprint, force)
    if is_trained(run):
        say(f"{run.name}: trained already with these settings; --train --force trains anew.")
        return run
    resumes = (run / CHECKPOINT / "state.json").is_file()
    say(f"{run.name}: {'resumes' if resumes else 'starts'}, {weights.origin} weights")
    spec = network_spec(config.model, data.training.images.shape[1:], data.training.num_classes)
    recipe = replace(config, live="")  # how a run is watched is no part of it
    # Stratified as the training images were, before small classes of these were filled up.
    counts = np.bincount(data.validation.labels, minlength=data.training.num_classes)
    facts: dict[str, Any] = {
        "fingerprint": fingerprint,
        "settings": flatten(recipe),
        "splits": data.fingerprint,
        "distortion": data.distortion_hash,
        "network": spec,
        "weights": weights.origin,
        "class_names": data.class_names,
        "class_shares": (counts / counts.sum()).tolist(),
        "time_budget_seconds": budget,
    }
    write_settings(run / SETTINGS, recipe)
    write_json(run / CONFIG, facts)
    write_json(run / ENVIRONMENT, describe_environment())
    started = time.monotonic()
    precision = config.training.precision
    keras.utils.set_random_seed(config.seed)
    try:
        with open_live_views(config.live, run) as show:
            network, metric = create_network(spec, weights, precision), get_metric(config.metric)
            keeper = Checkpoint(run / CHECKPOINT, network, show, metric)
            train(config, data.training, weights, keeper, time_for)
    except TrialFailedError:  # it would diverge again from its checkpoint
        shutil.rmtree(run / CHECKPOINT, ignore_errors=True)
        raise
    _finish_run(run, keeper)
    say(f"{run.name}: trained in {describe_seconds(time.monotonic() - started)}")
    return run


def read_history(run: Path) -> pd.DataFrame:
    """Return a run's history.csv, a row per epoch; raises DamagedFileError."""
    columns = {"stage": str, "accuracy": float, metric_of(run).column: float}
    return read_table(run / HISTORY, columns, mend_run(run))


def metric_of(run: Path) -> Metric:
    """Return the metric that a run was trained by; raises UserError where it is unknown."""
    settings = read_config(run, "settings")["settings"]
    return get_metric(str(settings.get("metric", "accuracy")))  # the first runs had no choice


def _finish_run(run: Path, keeper: Checkpoint) -> None:
    """Write the results of a training, its weights last."""
    predictions = keeper.folder / PREDICTIONS
    if predictions.is_file():
        predictions.replace(run / PREDICTIONS)
    with replacing(run / WEIGHTS) as temporary:
        keeper.network.save_weights(temporary)
    shutil.rmtree(keeper.folder)


def load_run(run: Path) -> keras.Model:
    """Return the trained network of a run."""
    spec = read_config(run, "network")["network"]
    with reading(run / CONFIG, mend_run(run)):
        network = create_network(spec, RANDOM)
    read_weights(network, run / WEIGHTS, mend_run(run))
    return network


def describe_environment() -> dict[str, str]:
    """Return the versions, the machine and the device."""
    return {
        "version": __version__,
        "python": platform.python_version(),
        "keras": keras.__version__,
        "numpy": np.__version__,
        "device": describe_device(),
        "machine": platform.platform(),
    }
