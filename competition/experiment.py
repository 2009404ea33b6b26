"""One experiment: a Config and prepared data in, a run's folder with weights, history and scores out."""

import platform
import shutil
import time
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from competition.config import Config, flatten, training_settings
from competition.console import say
from competition.data import Dataset
from competition.distortion import distort
from competition.files import InputError, digest, read_json, write_json
from competition.model import create_network, describe_device, network_spec
from competition.prediction import ScoredSet, evaluate
from competition.splits import Splits, balanced
from competition.training import TrainingData, train
from competition.weights import RANDOM, Weights

PROFILE = "revealed"


@dataclass(frozen=True)
class Prepared:
    """A data set ready for training and scoring; `fingerprint` is that of its splits."""

    training: TrainingData
    validation: ScoredSet
    test: ScoredSet
    class_names: tuple[str, ...]
    fingerprint: str
    distortion_hash: str


def prepare(dataset: Dataset, splits: Splits, config: Config) -> Prepared:
    """Cut `dataset` by `splits`: training pictures (balanced where asked), validation and test, clean and distorted.

    Where `config.cleaning.wrong_labels` is `relabel`, surely wrong labels are replaced, but in the test part.
    """
    trusted = dataset.labels
    if config.cleaning.wrong_labels == "relabel":
        trusted = np.where(splits.doubtful < 0, dataset.labels, splits.doubtful)
    images, labels = dataset.images[splits.train], trusted[splits.train]
    if config.split.balance_to:
        images, labels = balanced(images, labels, config.split.balance_to, config.seed)
    checked = dataset.images[splits.validation], trusted[splits.validation]
    if config.split.balance_validation_to:
        checked = balanced(*checked, config.split.balance_validation_to, config.seed + 1)
    none = np.zeros(len(checked[1]), bool)
    validation = _scored_set("validation", *checked, none, seed=10 * config.seed + 1)
    tested = dataset.images[splits.test], dataset.labels[splits.test], splits.doubtful[splits.test] >= 0
    test = _scored_set("test", *tested, seed=10 * config.seed + 2)
    pictures, targets = validation.joined(("clean", PROFILE))
    training = TrainingData(images, labels, pictures, targets, len(dataset.class_names))
    distorted = digest(validation.versions[PROFILE], test.versions[PROFILE])
    return Prepared(training, validation, test, dataset.class_names, splits.fingerprint, distorted)


def _scored_set(name: str, images: np.ndarray, labels: np.ndarray, doubtful: np.ndarray, seed: int) -> ScoredSet:
    return ScoredSet(name, {"clean": images, PROFILE: distort(images, PROFILE, seed)}, labels, doubtful)


def run_fingerprint(config: Config, prepared: Prepared, weights: Weights) -> str:
    """Return the hash that tells whether a run is the same experiment: its settings, data, weights and backend."""
    data = prepared.fingerprint, prepared.distortion_hash
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
    numbers = [int(folder.name.rpartition("_")[2]) for folder in folders]
    return runs / f"{backbone}_{max(numbers, default=0) + 1:03d}"


def run_training(
    config: Config, prepared: Prepared, weights: Weights, runs: Path, seconds: float | None = None, force: bool = False
) -> Path:
    """Train the network of `config` fully, or go on where an earlier call was stopped; return the run's folder."""
    fingerprint = run_fingerprint(config, prepared, weights)
    run = find_run(runs, config.model.backbone, fingerprint, force)
    if (run / "network.weights.h5").is_file():
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
        train(config, prepared.training, weights, run, seconds)
    except InputError:  # a loss that diverged would do so again from its checkpoint
        shutil.rmtree(run / "checkpoint", ignore_errors=True)
        raise
    say(f"{run.name}: trained in {time.monotonic() - started:.0f} s")
    shutil.rmtree(run / "checkpoint")
    return run


def load_run(run: Path) -> keras.Model:
    """Return the trained network of a run."""
    network = create_network(read_json(run / "config.json")["network"], RANDOM)
    network.load_weights(run / "network.weights.h5")
    return network


def run_evaluation(config: Config, prepared: Prepared, run: Path, force: bool = False) -> dict[str, Any]:
    """Score a run on validation and test, write metrics.json and return it; each look at the test is counted."""
    path = run / "metrics.json"
    known: dict[str, Any] = read_json(path) if path.is_file() else {"test_looks": 0}
    looks, facts = known["test_looks"], {"views": config.evaluation.views, "distortion": prepared.distortion_hash}
    if looks and not force and facts.items() <= known.items():
        say(f"{run.name}: scored already; --force scores anew.")
        return known
    network = load_run(run)
    validation = evaluate(network, prepared.validation, config.evaluation, run, config.seed)
    test = evaluate(network, prepared.test, config.evaluation, run, config.seed)
    scores = [validation[version]["plain"]["accuracy"] for version in ("clean", PROFILE)]
    result = {"validation": validation, "test": test, "test_looks": looks + 1, "parameters": network.count_params()}
    result |= {"selection_score": float(np.mean(scores)), "zip_megabytes": _compressed_megabytes(run), **facts}
    write_json(path, result)
    return result


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
