"""One experiment: a Config and prepared data in, a run's folder with weights, history and scores out."""

import platform
import shutil
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np

from competition.common.console import describe_seconds, say
from competition.common.devices import describe_device
from competition.common.errors import UserError
from competition.common.files import digest, read_json, write_json
from competition.config import Config, flatten, training_settings
from competition.data.arrays import PreparedData
from competition.networks.layers import create_network, network_spec
from competition.networks.weights import RANDOM, Weights
from competition.training.train import train


def run_fingerprint(config: Config, prepared: PreparedData, weights: Weights) -> str:
    """Return the hash that tells whether a run is the same experiment: its settings, data, weights and backend."""
    data = prepared.fingerprint, prepared.selection_hash
    return digest(training_settings(config), *data, weights.fingerprint, keras.backend.backend())


def find_run(runs: Path, backbone: str, fingerprint: str, force: bool) -> Path:
    """Return the folder of the run with `fingerprint`, or a new one with the next number.

    force: a finished run does not count, one that was interrupted does.
    """
    folders = sorted(runs.glob(f"{backbone}_[0-9]*"))
    for folder in reversed(folders):
        known = (folder / "config.json").is_file() and read_json(folder / "config.json")[
            "fingerprint"
        ] == fingerprint
        if known and not (force and (folder / "network.weights.h5").is_file()):
            return folder
    return name_run(runs, backbone)


def name_run(runs: Path, prefix: str) -> Path:
    """Return the folder of a new run: `prefix` and the number after the last one's."""
    numbers = [int(folder.name.rpartition("_")[2]) for folder in runs.glob(f"{prefix}_[0-9]*")]
    return runs / f"{prefix}_{max(numbers, default=0) + 1:03d}"


def run_training(
    config: Config,
    prepared: PreparedData,
    weights: Weights,
    runs: Path,
    deadline: float | None = None,
    force: bool = False,
) -> Path:
    """Train the network of `config` fully, or go on where an earlier call ended; return the run's folder.

    deadline (of time.monotonic): what is cut short by it counts as trained, and the next call goes on with it.
    """
    fingerprint = run_fingerprint(config, prepared, weights)
    run = find_run(runs, config.model.backbone, fingerprint, force)
    if (run / "network.weights.h5").is_file() and not (run / "checkpoint").is_dir():
        say(f"{run.name}: trained already with these settings; --force trains anew.")
        return run
    say(
        f"{run.name}: {'resumes' if (run / 'checkpoint').is_dir() else 'starts'}, weights {weights.origin}"
    )
    spec = network_spec(
        config.model, prepared.training.images.shape[1:], prepared.training.num_classes
    )
    run.mkdir(parents=True, exist_ok=True)
    facts: dict[str, Any] = {
        "fingerprint": fingerprint,
        "splits": prepared.fingerprint,
        "distortion": prepared.distortion_hash,
    }
    facts |= {"network": spec, "weights": weights.origin, "class_names": prepared.class_names}
    write_json(run / "config.json", {"settings": flatten(config), **facts})
    write_json(run / "environment.json", describe_environment())
    started = time.monotonic()
    try:
        complete = train(config, prepared.training, weights, run, deadline)
    except UserError:  # a loss that diverged would do so again from its checkpoint
        shutil.rmtree(run / "checkpoint", ignore_errors=True)
        raise
    say(f"{run.name}: trained in {describe_seconds(time.monotonic() - started)}")
    if complete:
        shutil.rmtree(run / "checkpoint")
    return run


def load_run(run: Path) -> keras.Model:
    """Return the trained network of a run."""
    network = create_network(read_json(run / "config.json")["network"], RANDOM)
    network.load_weights(run / "network.weights.h5")
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
