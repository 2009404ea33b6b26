"""The containers of arrays that stages hand to one another."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from competition.common.files import digest, map_array, read_json, reading
from competition.distortion.profiles import TABLES


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images (n, h, w, 3) uint8 RGB, their labels (n,) int64 in 0..K-1 and the K class names.

    unreadable: by index, why an image could not be read; it is black, and no split may have it.
    files: each image's file, as a path from the folder of the data; empty where it is an .npz.
    """

    images: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]
    unreadable: Mapping[int, str] = field(default_factory=dict)
    files: tuple[str, ...] = ()

    @cached_property
    def fingerprint(self) -> str:
        """Hash of images and labels; computed once."""
        return digest(self.images, self.labels)

    def with_labels(self, labels: np.ndarray) -> "Dataset":
        """Return the dataset with other labels (n,); itself, where they are the same."""
        return self if np.array_equal(labels, self.labels) else replace(self, labels=labels)


@dataclass(frozen=True, eq=False)
class CleanedData:
    """A dataset as cleaning leaves it.

    dataset: with the labels that overrides.csv corrects.
    keep: (n,) bool, the images that the splits are drawn from.
    groups: (n,) int64, equal for copies of one image.
    training_labels: (n,) int64, the labels to train and validate with; -1 for images that training
    and validation do without. They differ from the dataset's where a label is surely wrong.
    """

    dataset: Dataset
    keep: np.ndarray
    groups: np.ndarray
    training_labels: np.ndarray

    @property
    def surely_wrong(self) -> np.ndarray:
        """Mask (n,) bool of the images whose label is surely wrong; none where those are kept."""
        mask: np.ndarray = self.training_labels != self.dataset.labels
        return mask


@dataclass(frozen=True, eq=False)
class Splits:
    """Indices into the dataset, each (m,) int64, sorted; disjoint.

    fingerprint: hash of the data, the indices, the labels to train with and how validation is
    balanced; scores compare only where it is equal.
    """

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    fingerprint: str


@dataclass(frozen=True)
class TrainingData:
    """Images (n, h, w, 3) uint8 and labels (n,) int64 to train on, and the same to validate on.

    validation_images: the versions that the selection score averages over, one after the other,
    each of the same images in the same order.
    """

    images: np.ndarray
    labels: np.ndarray
    validation_images: np.ndarray
    validation_labels: np.ndarray
    num_classes: int

    def limited(self, limit: int, seed: int) -> "TrainingData":
        """Return the data with `limit` training images, drawn evenly from each class (0: all)."""
        if not 0 < limit < len(self.labels):
            return self
        few = _draw_evenly(self.labels, limit / len(self.labels), seed)
        return replace(self, images=self.images[few], labels=self.labels[few])

    def for_trial(self, limit: int, seed: int) -> "TrainingData":
        """Return the data with `limit` training images and about twice as many for validation."""
        every = count_skipped(len(self.validation_labels), limit)
        return replace(
            self.limited(limit, seed),
            validation_images=self.validation_images[::every],
            validation_labels=self.validation_labels[::every],
        )


def count_skipped(validation: int, limit: int) -> int:
    """Return k: trials on `limit` training images are scored on each k-th validation image."""
    return max(1, round(validation / (2 * limit)))


def _draw_evenly(labels: np.ndarray, share: float, seed: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    classes = [generator.permutation(np.flatnonzero(labels == name)) for name in np.unique(labels)]
    drawn = [members[: max(1, round(share * len(members)))] for members in classes]
    return np.sort(np.concatenate(drawn))


def one_hot(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Return labels (n,) as (n, num_classes) float32."""
    return np.eye(num_classes, dtype=np.float32)[labels]


PREPARED_MARKER = "prepared.json"
PREPARED_SHAPE = {
    "class_names": [str],
    "fingerprint": str,
    "versions": [str],
    "selected": int,
    "distortion": str,
    "selection": str,
}


@dataclass(frozen=True)
class ScoredSet:
    """Images that are scored.

    versions: `clean` and each distorted version, (n, h, w, 3) uint8 by name. labels: (n,) int64.
    surely_wrong: (n,) bool, the images whose label is surely wrong.
    families: the kind of distortion that each image meets, (n,) str by name of a version, for
    versions that mix several kinds.
    """

    name: str
    versions: dict[str, np.ndarray]
    labels: np.ndarray
    surely_wrong: np.ndarray
    families: dict[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class PreparedData:
    """Data ready for training and scoring.

    fingerprint: of its splits. distortion_hash: of all distorted images. selection_hash: of the
    validation images that the selection score is computed on.
    Pickling it, for another process, sends the folder alone; that process maps the arrays.
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


def find_prepared(folder: Path) -> PreparedData | None:
    """Return `load_prepared`, or None where nothing was prepared."""
    return load_prepared(folder) if (folder / PREPARED_MARKER).is_file() else None


def load_prepared(folder: Path) -> PreparedData:
    """Map the arrays that `prepare` left in `folder`; raises DamagedFileError."""
    marker = folder / PREPARED_MARKER
    facts = read_json(marker, PREPARED_SHAPE)
    with reading(marker):
        validation = _map_scored_set(folder, "validation", facts["versions"])
        images = validation.versions["clean"]
        selected = map_array(folder / "validation_images.npy")[: facts["selected"]]
        labels = map_array(folder / "train_labels.npy", (None,))
        training = TrainingData(
            images=map_array(folder / "train_images.npy", (len(labels), *images.shape[1:])),
            labels=labels,
            validation_images=selected.reshape(-1, *selected.shape[2:]),
            validation_labels=np.tile(validation.labels, len(selected)),
            num_classes=len(facts["class_names"]),
        )
        return PreparedData(
            folder,
            training,
            validation,
            test=_map_scored_set(folder, "test", facts["versions"]),
            class_names=tuple(facts["class_names"]),
            fingerprint=facts["fingerprint"],
            distortion_hash=facts["distortion"],
            selection_hash=facts["selection"],
        )


def _map_scored_set(folder: Path, name: str, versions: list[str]) -> ScoredSet:
    labels = np.array(map_array(folder / f"{name}_labels.npy", (None,)))
    count = len(labels)
    shape = len(versions), count, None, None, 3
    images = map_array(folder / f"{name}_images.npy", shape)
    families = map_array(folder / f"{name}_families.npy", (len(TABLES), count))
    return ScoredSet(
        name,
        versions=dict(zip(versions, images, strict=True)),
        labels=labels,
        surely_wrong=np.array(map_array(folder / f"{name}_surely_wrong.npy", (count,))),
        families=dict(zip(TABLES, families, strict=True)),
    )
