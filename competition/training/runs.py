"""Runs: full trainings in folders of their own, found again by what they were made of."""

import platform
import shutil
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd

from competition.common.console import describe_seconds, say
from competition.common.devices import describe_device
from competition.common.errors import TrialFailedError
from competition.common.files import digest, read_json, replacing, write_json
from competition.common.settings import flatten
from competition.config import Config, training_settings
from competition.data.arrays import PreparedData
from competition.networks.layers import create_network, network_spec
from competition.networks.weights import RANDOM, Weights
from competition.paths import CHECKPOINT, CONFIG, ENVIRONMENT, HISTORY, WEIGHTS
from competition.time_budget import TrainingTime
from competition.training.keepers import PREDICTIONS, Checkpoint
from competition.training.train import train


def fingerprint_run(
    config: Config, data: PreparedData, weights: Weights, budget: float | None
) -> str:
    """Return the hash that tells whether a run is the same experiment.

    It goes over settings, data, weights, backend, and the time budget in seconds, if there is one.
    """
    backend = keras.backend.backend()
    made_of = data.fingerprint, data.selection_hash, weights.fingerprint, backend
    return digest(training_settings(config), *made_of, *([] if budget is None else [budget]))


def find_run(runs: Path, backbone: str, fingerprint: str, force: bool) -> Path:
    """Return the folder of the run with `fingerprint`, or a new one with the next number.

    force: a finished run does not count, one that was interrupted does.
    """
    for folder in sorted(runs.glob(f"{backbone}_[0-9]*"), reverse=True):
        config = folder / CONFIG
        known = config.is_file() and read_json(config)["fingerprint"] == fingerprint
        if known and not (force and is_trained(folder)):
            return folder
    return name_run(runs, backbone)


def name_run(runs: Path, prefix: str) -> Path:
    """Return the folder of a new run: `prefix` and the number after the last one's."""
    folders = runs.glob(f"{prefix}_[0-9]*")
    numbers = [int(folder.name.rpartition("_")[2]) for folder in folders]
    return runs / f"{prefix}_{max(numbers, default=0) + 1:03d}"


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
    fingerprint = fingerprint_run(config, data, weights, budget)
    run = find_run(runs, config.model.backbone, fingerprint, force)
    if is_trained(run):
        say(f"{run.name}: trained already with these settings; --train --force trains anew.")
        return run
    resumes = (run / CHECKPOINT / "state.json").is_file()
    say(f"{run.name}: {'resumes' if resumes else 'starts'}, {weights.origin} weights")
    spec = network_spec(config.model, data.training.images.shape[1:], data.training.num_classes)
    run.mkdir(parents=True, exist_ok=True)
    facts: dict[str, Any] = {
        "fingerprint": fingerprint,
        "settings": flatten(config),
        "splits": data.fingerprint,
        "distortion": data.distortion_hash,
        "network": spec,
        "weights": weights.origin,
        "class_names": data.class_names,
        "time_budget_seconds": budget,
    }
    write_json(run / CONFIG, facts)
    write_json(run / ENVIRONMENT, describe_environment())
    started = time.monotonic()
    keras.utils.set_random_seed(config.seed)
    keeper = Checkpoint(run / CHECKPOINT, create_network(spec, weights))
    try:
        train(config, data.training, weights, keeper, time_for)
    except TrialFailedError:  # it would diverge again from its checkpoint
        shutil.rmtree(run / CHECKPOINT, ignore_errors=True)
        raise
    _finish_run(run, keeper)
    say(f"{run.name}: trained in {describe_seconds(time.monotonic() - started)}")
    return run


def read_history(run: Path) -> list[dict[str, Any]]:
    """Return the rows of a run's history.csv, one per epoch."""
    table = pd.read_csv(run / HISTORY)
    return [{str(key): value for key, value in row.items()} for row in table.to_dict("records")]


def _finish_run(run: Path, keeper: Checkpoint) -> None:
    """Write what stays of a training, its weights last."""
    with replacing(run / HISTORY) as temporary:
        pd.DataFrame(keeper.history).to_csv(temporary, index=False)
    predictions = keeper.folder / PREDICTIONS
    if predictions.is_file():
        predictions.replace(run / PREDICTIONS)
    with replacing(run / WEIGHTS) as temporary:
        keeper.network.save_weights(temporary)
    shutil.rmtree(keeper.folder)


def load_run(run: Path) -> keras.Model:
    """Return the trained network of a run."""
    network = create_network(read_json(run / CONFIG)["network"], RANDOM)
    network.load_weights(run / WEIGHTS)
    return network


def describe_environment() -> dict[str, str]:
    """Return what ran: versions, machine and device."""
    return {
        "python": platform.python_version(),
        "keras": keras.__version__,
        "numpy": np.__version__,
        "device": describe_device(),
        "machine": platform.platform(),
    }
