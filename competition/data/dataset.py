"""Reading labelled images from an .npz or from files; every check comes before long work."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from competition.common.console import printable, progress, say
from competition.common.errors import UserError
from competition.common.files import require_readable
from competition.config import DataConfig
from competition.data.archive import ACCEPTED, MINIMUM_PER_CLASS, read_archive
from competition.data.arrays import Dataset
from competition.data.folder import list_images
from competition.data.images import make_square, read_images, refuse_unreadable
from competition.data.table import TABLE_SUFFIXES

CLASS_NAMES = (
    "basophil",
    "eosinophil",
    "erythroblast",
    "immature granulocyte",
    "lymphocyte",
    "monocyte",
    "neutrophil",
    "platelet",
)


@dataclass(frozen=True)
class _Source:
    """The labelled images of a path, before they are decoded or resized.

    labels: (n,) int64, or None. class_names: empty where the labels are numbers without names.
    read: returns the images (m, h, w, 3) uint8, at most `config.limit`, and by index the reasons
    why some could not be read. files: their paths from the folder; empty of an .npz.
    """

    labels: np.ndarray | None
    class_names: tuple[str, ...]
    read: Callable[[], tuple[np.ndarray, Mapping[int, str]]]
    files: tuple[str, ...] = ()


def load_dataset(path: Path, config: DataConfig) -> Dataset:
    """Read the training data; raises UserError, one sentence, for whatever does not fit.

    path: one of three layouts.
    - An .npz with `images` (n, h, w, 3) uint8 and `labels` (n,) or (n, 1).
    - MedMNIST's .npz, whose train and val splits are joined; `load_test` reads its test split. Grey
      images become three equal channels.
    - Image files as `list_images` finds them; up to a share `config.unreadable` may be unreadable.
    Files, and arrays whose images are not square, are brought to `config.size` as `config.resize`
    says. `config.limit` keeps the first images.
    """
    source = _open(path, config, ("train", "val"), ())
    if source.labels is None:
        raise UserError(f"{path} holds images without labels; expected {ACCEPTED}.")
    class_names = source.class_names or _number_classes(path, source.labels)
    labels = source.labels[: config.limit or None]
    _check_counts(path, labels, class_names, config.limit)
    images, unreadable = source.read()
    refuse_unreadable(unreadable, len(images), config.unreadable)
    if unreadable:
        say(f"{len(unreadable)} files cannot be read and are LEFT OUT; issues.csv names them.")
    return Dataset(images, labels, tuple(map(printable, class_names)), unreadable, source.files)


def load_test(
    path: Path, config: DataConfig, class_names: tuple[str, ...] = ()
) -> tuple[np.ndarray, np.ndarray | None]:
    """Read images to be scored (n, h, w, 3) uint8, and their labels (n,) int64 or None.

    The layouts and checks are those of `load_dataset`, with five exceptions. Labels are optional. A
    class may be missing. Of MedMNIST's file, the test split is read. A folder may hold the images
    themselves. And each image must be readable.
    class_names: of the training data; they number class folders and bound the labels.
    """
    source = _open(path, config, ("test",), class_names)
    labels = source.labels
    if labels is not None and class_names and labels.max() >= len(class_names):
        raise UserError(
            f"{path} has a label {labels.max()}, and the training data has the classes 0 to "
            f"{len(class_names) - 1}; number both in the same way."
        )
    images, unreadable = source.read()
    refuse_unreadable(unreadable, len(images), share=0)
    return images, None if labels is None else labels[: len(images)]


def _open(
    path: Path, config: DataConfig, subsets: tuple[str, ...], class_names: tuple[str, ...]
) -> _Source:
    """Return the source at `path`; of MedMNIST's file, the `subsets` joined."""
    if not path.exists():
        raise UserError(f"There is no {path}; give the path of {ACCEPTED}.")
    limit = config.limit or None
    if require_readable(path).is_dir() or path.suffix.lower() in TABLE_SUFFIXES:
        found = list_images(path, config, class_names)
        folder = path if path.is_dir() else path.parent
        files = found.files[:limit]
        names = tuple(printable(Path(os.path.relpath(file, folder)).as_posix()) for file in files)
        labels, classes = found.labels, found.class_names
        if labels is not None and not classes:
            labels, classes = _name_numbers(path, labels, class_names)
        return _Source(labels, classes, lambda: read_images(files, config), names)
    images, labels = read_archive(path, subsets, config.limit)
    are_blood_cells = (
        labels is not None
        and np.array_equal(np.unique(labels), np.arange(len(CLASS_NAMES)))
        and not _is_grey(images)
    )
    names = CLASS_NAMES if are_blood_cells else ()
    return _Source(labels, names, lambda: (_make_all_square(images, config), {}))


def _name_numbers(
    path: Path, labels: np.ndarray, class_names: tuple[str, ...]
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return labels from 0 on and class names: numbers that do not begin at 0 are such names.

    class_names: of the training data, or empty. Other numbers stay as they are, without names.
    """
    known = {int(name): label for label, name in enumerate(class_names) if name.isdecimal()}
    if not class_names and labels.min() > 0:
        known = {int(number): label for label, number in enumerate(np.unique(labels))}
        class_names = tuple(map(str, known))
        say(
            f"{path}: its labels do not begin at 0, so a SUBMISSION ANSWERS 0 FOR {class_names[0]} "
            f"and so on to {len(known) - 1} for {class_names[-1]}; a CSV of --predict answers "
            f"{class_names[0]} to {class_names[-1]}."
        )
    if not known:
        return labels, ()
    if strange := set(labels.tolist()) - set(known):
        raise UserError(
            f"{path} has a label {min(strange)}; expected the classes {', '.join(class_names)}: "
            "number both in the same way."
        )
    return np.array([known[label] for label in labels.tolist()], np.int64), class_names


def _is_grey(images: np.ndarray) -> bool:
    first = images[:MINIMUM_PER_CLASS]
    return bool((first == first[..., :1]).all())


def _make_all_square(images: np.ndarray, config: DataConfig) -> np.ndarray:
    if images.shape[1] == images.shape[2]:
        return images
    squares = np.empty((len(images), config.size, config.size, 3), np.uint8)
    for index, image in enumerate(progress(images, "resizing images", unit="image")):
        squares[index] = make_square(Image.fromarray(image), config)
    return squares


def _number_classes(path: Path, labels: np.ndarray) -> tuple[str, ...]:
    """Return names for labels that are numbers, without a gap."""
    present = np.unique(labels)
    if not np.array_equal(present, np.arange(len(present))):
        missing = np.setdiff1d(np.arange(len(present)), present)[0]
        raise UserError(
            f"{path} has labels up to {present[-1]} but no image of class {missing}; expected "
            f"every number from 0 on, so renumber the {len(present)} classes without gaps."
        )
    return tuple(f"class {number}" for number in present)


def _check_counts(path: Path, labels: np.ndarray, class_names: tuple[str, ...], limit: int) -> None:
    if len(class_names) < 2:
        raise UserError(
            f"{path} has only the class '{class_names[0]}'; expected two or more, "
            "so add another class."
        )
    counts = np.bincount(labels, minlength=len(class_names))
    rarest = int(counts.argmin())
    if counts[rarest] < MINIMUM_PER_CLASS:
        hint = f", or raise the limit of {limit} images (data.limit)" if limit else ""
        raise UserError(
            f"{path} has {counts[rarest]} images of class {rarest} ('{class_names[rarest]}'); a "
            f"split needs at least {MINIMUM_PER_CLASS}, so add some or leave the class out{hint}."
        )
