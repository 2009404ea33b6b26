"""Pictures ready for training and scoring: made once, kept as plain arrays, mapped by each process that needs them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from competition.config import Config
from competition.console import timed
from competition.data import Dataset
from competition.distortion import DISTORTION_VERSION, distort
from competition.files import digest, is_done, mark_done, read_json, replacing, require_disk
from competition.prediction import ScoredSet
from competition.splits import Splits, balanced
from competition.training import TrainingData

PROFILE = "revealed"


@dataclass(frozen=True)
class Prepared:
    """A data set ready for training and scoring; `fingerprint` is that of its splits.

    Pickling it, for another process, sends the folder alone, whose arrays that process maps.
    """

    folder: Path
    training: TrainingData
    validation: ScoredSet
    test: ScoredSet
    class_names: tuple[str, ...]
    fingerprint: str
    distortion_hash: str

    def __reduce__(self) -> tuple[Any, ...]:
        return load_prepared, (self.folder,)


def prepare(dataset: Dataset, splits: Splits, config: Config, folder: Path) -> Prepared:
    """Cut `dataset` by `splits` into training (balanced where asked), validation and test, clean and distorted.

    folder: takes the arrays, and is left as it is where they lie there already.
    """
    marker, settings = folder / "prepared.json", [config.split.balance_to, config.split.balance_validation_to]
    inputs = digest(splits.fingerprint, settings, config.seed, DISTORTION_VERSION)
    if not is_done(marker, inputs):
        marker.unlink(missing_ok=True)
        require_disk(folder, 50 + 3 * dataset.images.nbytes // 2**20)
        with timed("preparing pictures for training and scoring"):
            _write_training(dataset, splits, config, folder)
            hashes = [_write_scored(dataset, splits, config, folder, name) for name in ("validation", "test")]
        facts = {"class_names": dataset.class_names, "fingerprint": splits.fingerprint, "distortion": digest(hashes)}
        mark_done(marker, inputs, **facts)
    return load_prepared(folder)


def load_prepared(folder: Path) -> Prepared:
    """Map what `prepare` left in `folder`."""
    facts = read_json(folder / "prepared.json")
    validation, test = (_read_scored(folder, name) for name in ("validation", "test"))
    pictures, count = _map(folder / "validation_images.npy"), len(facts["class_names"])
    joined = pictures.reshape(-1, *pictures.shape[2:]), np.tile(validation.labels, len(pictures))
    training = TrainingData(_map(folder / "train_images.npy"), _map(folder / "train_labels.npy"), *joined, count)
    names = tuple(facts["class_names"])
    return Prepared(folder, training, validation, test, names, facts["fingerprint"], facts["distortion"])


def _write_training(dataset: Dataset, splits: Splits, config: Config, folder: Path) -> None:
    images, labels = dataset.images[splits.train], dataset.labels[splits.train]
    if config.split.balance_to:
        images, labels = balanced(images, labels, config.split.balance_to, config.seed)
    _write(folder / "train_images.npy", images)
    _write(folder / "train_labels.npy", labels)


def _write_scored(dataset: Dataset, splits: Splits, config: Config, folder: Path, name: str) -> str:
    """Write the clean and the distorted pictures, one after the other; return the hash of the distorted ones."""
    indices = getattr(splits, name)
    images, labels = dataset.images[indices], dataset.labels[indices]
    if name == "validation" and config.split.balance_validation_to:
        images, labels = balanced(images, labels, config.split.balance_validation_to, config.seed + 1)
    distorted = distort(images, PROFILE, seed=10 * config.seed + (1 if name == "validation" else 2))
    _write(folder / f"{name}_images.npy", np.stack([images, distorted]))
    _write(folder / f"{name}_labels.npy", labels)
    return digest(distorted)


def _read_scored(folder: Path, name: str) -> ScoredSet:
    pictures = _map(folder / f"{name}_images.npy")
    return ScoredSet(name, {"clean": pictures[0], PROFILE: pictures[1]}, np.array(_map(folder / f"{name}_labels.npy")))


def _write(path: Path, array: np.ndarray) -> None:
    with replacing(path) as temporary:
        np.save(temporary, array, allow_pickle=False)


def _map(path: Path) -> np.ndarray:
    return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
