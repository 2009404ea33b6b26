"""One experiment: a Config and prepared data in, a run's folder with weights, history and scores out."""

import platform
import shutil
import time
import zlib
from pathlib import Path
from typing import Any

import keras
import numpy as np

from competition.config import Config, flatten, training_settings, unflatten
from competition.console import describe_seconds, say
from competition.data import CLASS_NAMES
from competition.devices import describe_device
from competition.files import InputError, digest, read_json, write_json
from competition.metrics import relative_errors
from competition.model import create_network, network_spec
from competition.prediction import evaluate, selection_score
from competition.prepared import Prepared
from competition.training import train
from competition.weights import RANDOM, Weights


def run_fingerprint(config: Config, prepared: Prepared, weights: Weights) -> str:
    """Return the hash that tells whether a run is the same experiment: its settings, data, weights and backend."""
    data = prepared.fingerprint, prepared.selection_hash
    return digest(training_settings(config), *data, weights.fingerprint, keras.backend.backend())


def find_run(runs: Path, backbone: str, fingerprint: str, force: bool) -> Path:
    """Return the folder of the run with `fingerprint`, or a new one with the next number.

    force: a finished run does not count, one that was interrupted does.
    """
    folders = sorted(runs.glob(f"{backbone}_[0-9]*"))
    for folder in reversed(folders):
        known = (folder / "config.json").is_file() and read_json(folder / "config.json")["fingerprint"] == fingerprint
        if known and not (force and (folder / "network.weights.h5").is_file()):
            return folder
    return name_run(runs, backbone)


def name_run(runs: Path, prefix: str) -> Path:
    """Return the folder of a new run: `prefix` and the number after the last one's."""
    numbers = [int(folder.name.rpartition("_")[2]) for folder in runs.glob(f"{prefix}_[0-9]*")]
    return runs / f"{prefix}_{max(numbers, default=0) + 1:03d}"


def run_training(
    config: Config, prepared: Prepared, weights: Weights, runs: Path, deadline: float | None = None, force: bool = False
) -> Path:
    """Train the network of `config` fully, or go on where an earlier call ended; return the run's folder.

    deadline (of time.monotonic): what is cut short by it counts as trained, and the next call goes on with it.
    """
    fingerprint = run_fingerprint(config, prepared, weights)
    run = find_run(runs, config.model.backbone, fingerprint, force)
    if (run / "network.weights.h5").is_file() and not (run / "checkpoint").is_dir():
        say(f"{run.name}: trained already with these settings; --force trains anew.")
        return run
    say(f"{run.name}: {'resumes' if (run / 'checkpoint').is_dir() else 'starts'}, weights {weights.origin}")
    spec = network_spec(config.model, prepared.training.images.shape[1:], prepared.training.num_classes)
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
    except InputError:  # a loss that diverged would do so again from its checkpoint
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


def run_evaluation(config: Config, prepared: Prepared, run: Path) -> dict[str, Any]:
    """Score a run on validation and test, write metrics.json and return it; each look at the test is counted."""
    path, facts = run / "metrics.json", _scoring_facts(config, prepared, run)
    looks = read_json(path)["test_looks"] if path.is_file() else 0
    network = load_run(run)
    validation = evaluate(network, prepared.validation, config.evaluation, run, config.seed)
    test = evaluate(network, prepared.test, config.evaluation, run, config.seed)
    select_by = unflatten(read_json(run / "config.json")["settings"]).training.select_by
    result = {"validation": validation, "test": test, "test_looks": looks + 1, "parameters": network.count_params()}
    result |= {"selection_score": selection_score(validation, select_by), "select_by": select_by}
    result |= {"zip_megabytes": _compressed_megabytes(run), **facts}
    if prepared.class_names == CLASS_NAMES:
        families = test["microscope"]["families"].items()
        corrupted = {name: family["balanced_accuracy"] for name, family in families}
        result["relative"] = relative_errors(test["clean"]["plain"]["balanced_accuracy"], corrupted)
    write_json(path, result)
    return result


def is_scored(config: Config, prepared: Prepared, run: Path) -> bool:
    """Tell whether metrics.json holds the scores of what the run trained last, on these pictures and views."""
    path = run / "metrics.json"
    return path.is_file() and bool(_scoring_facts(config, prepared, run).items() <= read_json(path).items())


def _scoring_facts(config: Config, prepared: Prepared, run: Path) -> dict[str, Any]:
    trained = digest(run / "network.weights.h5")
    return {"views": config.evaluation.views, "distortion": prepared.distortion_hash, "trained": trained}


def _compressed_megabytes(run: Path) -> float:
    """Return what the weights take in a zip."""
    return len(zlib.compress((run / "network.weights.h5").read_bytes())) / 2**20


def describe_environment() -> dict[str, str]:
    """Return what ran: versions, machine and device."""
    return {
        "python": platform.python_version(),
        "keras": keras.__version__,
        "numpy": np.__version__,
        "device": describe_device(),
        "machine": platform.platform(),
    }
