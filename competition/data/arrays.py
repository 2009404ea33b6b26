"""The containers of arrays that stages hand to one another."""

from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from competition.common.files import (
    digest,
    map_array,
    read_json,
)
from competition.distortion.profiles import (
    TABLES,
)


@dataclass(frozen=True, eq=False)
class Dataset:
    """Labelled pictures: images (n, h, w, 3) uint8 RGB, labels (n,) int64 in 0..K-1, and the K class names."""

    images: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]

    @cached_property
    def fingerprint(self) -> str:
        """Hash of pictures and labels; computed once."""
        return digest(self.images, self.labels)


@dataclass(frozen=True, eq=False)
class Splits:
    """Indices into the data set, int64, sorted, disjoint.

    doubtful: (n,) int64, for each picture of the data the label that seems right where its own is surely wrong, or -1.
    fingerprint: hash of the data, the indices, how validation is balanced, and of the labels where wrong ones are
    replaced; scores compare only where it is equal.
    """

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    doubtful: np.ndarray
    fingerprint: str


@dataclass(frozen=True)
class TrainingData:
    """images: (n, h, w, 3) uint8, labels: (n,) int.

    validation: the versions that are selected by, one after the other, each of the same pictures in the same order.
    """

    images: np.ndarray
    labels: np.ndarray
    validation_images: np.ndarray
    validation_labels: np.ndarray
    num_classes: int

    def limited(self, limit: int, seed: int) -> "TrainingData":
        """Return the same with `limit` training pictures, drawn evenly from each class (0: all)."""
        if not 0 < limit < len(self.labels):
            return self
        few = _stratified(self.labels, limit / len(self.labels), seed)
        return replace(self, images=self.images[few], labels=self.labels[few])

    def validated_on_one_in(self, every: int) -> "TrainingData":
        """Return the same with fewer validation pictures."""
        images, labels = self.validation_images[::every], self.validation_labels[::every]
        return replace(self, validation_images=images, validation_labels=labels)

    def for_trial(self, limit: int, seed: int) -> "TrainingData":
        """Return the same with `limit` training pictures, and of validation about twice as many."""
        return self.limited(limit, seed).validated_on_one_in(
            count_skipped(len(self.validation_labels), limit)
        )


def count_skipped(validation: int, limit: int) -> int:
    """Return one in how many of the validation pictures a trial on `limit` training pictures is scored on."""
    return max(1, round(validation / (2 * limit)))


def _stratified(labels: np.ndarray, share: float, seed: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    groups = [generator.permutation(np.flatnonzero(labels == label)) for label in np.unique(labels)]
    return np.sort(np.concatenate([group[: max(1, round(share * len(group)))] for group in groups]))


def one_hot(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Return labels (n,) as (n, num_classes) float32."""
    return np.eye(num_classes, dtype=np.float32)[labels]


@dataclass(frozen=True)
class ScoredSet:
    """Pictures that are scored: `clean` and each distorted version (n, h, w, 3) uint8 by name, with labels (n,).

    families: of the versions that mix several kinds of distortion, which each picture met, (n,) str.
    doubtful: (n,) bool, whose label is surely wrong.
    """

    name: str
    versions: dict[str, np.ndarray]
    labels: np.ndarray
    doubtful: np.ndarray
    families: dict[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class PreparedData:
    """A data set ready for training and scoring; `fingerprint` is that of its splits.

    distortion_hash: of all distorted pictures. selection_hash: of those that are selected by.
    Pickling it, for another process, sends the folder alone, whose arrays that process maps.
    """

    folder: Path
    training: TrainingData
    validation: ScoredSet
    test: ScoredSet
    class_names: tuple[str, ...]
    fingerprint: str
    distortion_hash: str
    selection_hash: str

    def __reduce__(self) -> tuple[Any, ...]:
        return load_prepared, (self.folder,)


def load_prepared(folder: Path) -> PreparedData:
    """Map what `prepare` left in `folder`."""
    facts = read_json(folder / "prepared.json")
    validation, test = (
        _read_scored(folder, name, facts["versions"]) for name in ("validation", "test")
    )
    names, number = tuple(facts["class_names"]), facts["selected"]
    pictures = map_array(folder / "validation_images.npy")[:number]
    joined = pictures.reshape(-1, *pictures.shape[2:]), np.tile(validation.labels, number)
    images, labels = map_array(folder / "train_images.npy"), map_array(folder / "train_labels.npy")
    training = TrainingData(images, labels, *joined, len(names))
    hashes = facts["fingerprint"], facts["distortion"], facts["selection"]
    return PreparedData(folder, training, validation, test, names, *hashes)


def _read_scored(folder: Path, name: str, versions: list[str]) -> ScoredSet:
    pictures = dict(zip(versions, map_array(folder / f"{name}_images.npy"), strict=True))
    met = dict(zip(TABLES, map_array(folder / f"{name}_families.npy"), strict=True))
    labels, doubtful = (
        np.array(map_array(folder / f"{name}_{what}.npy")) for what in ("labels", "doubtful")
    )
    return ScoredSet(name, pictures, labels, doubtful, met)
