"""What the frozen part of a network makes of images: computed once, and trained on by trials.

Nothing below the border from which a trial trains ever changes. So some augmented copies of each
training image, and each validation image, pass it once. One pass gives what crosses every border
that a trial may train from, and the pooled output of the whole backbone for heads. Training on
this differs in three ways: an epoch sees one of the copies instead of a fresh one, rounded to
float16, and no block below the border is dropped at random.
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
from filelock import FileLock

from competition.augmentation.augment import compile_augmentation
from competition.common.console import progress, say, tell_progress
from competition.common.errors import UserError
from competition.common.files import (
    digest,
    if_intact,
    map_array,
    mark_done,
    read_json,
    require_disk,
    up_to_date,
)
from competition.common.settings import flatten
from competition.config import Config
from competition.data.arrays import TrainingData, one_hot
from competition.networks.layers import find_backbone, find_border, lower_part
from competition.networks.weights import Weights
from competition.training.train import build_network

BATCH_SIZE = 64


@dataclass(frozen=True)
class Features:
    """The cached activations in `folder`, mapped when they are asked for."""

    folder: Path

    def training(self, border: int | None) -> tuple[np.ndarray, np.ndarray]:
        """Return copies (K, n, ...) float16 and labels (K, n, classes) float32 above a border.

        border: None for the pooled output of the whole backbone.
        """
        copies = map_array(self.folder / f"training_{_name(border)}.npy")
        return copies, map_array(self.folder / "labels.npy")

    def validation(self, border: int | None) -> np.ndarray:
        """Return the validation images (m, ...) float16 above a border."""
        return map_array(self.folder / f"validation_{_name(border)}.npy")


def cache_features(
    config: Config, data: TrainingData, weights: Weights, shares: Sequence[float], folder: Path
) -> Features:
    """Return the features of `data` for each share of the backbone that may train.

    folder: takes one subfolder, named after a hash of what went in; others are removed. What is
    missing or damaged is computed. Raises UserError where not one copy of each image fits the disk
    or `search.cache_megabytes`.
    """
    settings = {key: value for key, value in flatten(config).items() if "augmentation." in key}
    made_of = [settings, config.seed, config.model.input_size, config.search.cached_copies]
    made_of += [config.search.cache_megabytes, sorted(shares), weights.fingerprint]
    arrays = data.images, data.labels, data.validation_images, data.validation_labels
    inputs = digest(*arrays, *made_of, keras.backend.backend())
    place = folder / inputs
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"):
        if not _is_whole(place, inputs):
            for other in folder.iterdir():
                if other.is_dir():
                    shutil.rmtree(other)
            _compute(config, data, weights, shares, place)
            files = {path.name: _stamp(path) for path in sorted(place.glob("*.npy"))}
            mark_done(place / "features.json", inputs, files=files)
    return Features(place)


def _is_whole(place: Path, inputs: str) -> bool:
    """Tell whether all files are as they were written, by size and time."""
    marker = place / "features.json"
    if not up_to_date(marker, inputs):
        return False
    facts = if_intact(read_json, marker, {"files": {str: [int]}})
    if facts is None:
        return False
    files = facts["files"].items()
    if all((place / name).is_file() and _stamp(place / name) == known for name, known in files):
        return True
    say(f"The cached features in {place} are damaged; they are computed anew.")
    return False


def _stamp(path: Path) -> list[int]:
    facts = path.stat()
    return [facts.st_size, facts.st_mtime_ns]


def _compute(
    config: Config, data: TrainingData, weights: Weights, shares: Sequence[float], place: Path
) -> None:
    """Pass all images through the frozen part, and write what crosses each border into `place`."""
    network = build_network(config, data, weights)
    backbone = find_backbone(network)
    numbers = sorted({find_border(backbone, share) for share in shares} - {0})
    borders: list[int | None] = [*numbers, None]
    lower = lower_part(network, numbers)
    shapes = [tuple(shape[1:]) for shape in lower.output_shape]
    copies = _count_copies(config, data, shapes, place)
    count, checked = len(data.labels), len(data.validation_labels)
    place.mkdir()

    def create(kind: str, *sizes: int) -> list[np.memmap]:
        paths = [place / f"{kind}_{_name(border)}.npy" for border in borders]
        return [
            np.lib.format.open_memmap(path, "w+", np.dtype(np.float16), (*sizes, *shape))
            for path, shape in zip(paths, shapes, strict=True)
        ]

    training = create("training", copies, count)
    validation = create("validation", checked)
    labels = np.empty((copies, count, data.num_classes), np.float32)
    augment = compile_augmentation(config.augmentation, data.images.shape[1:], data.num_classes)
    targets = one_hot(data.labels, data.num_classes)
    batches = [
        (copy, slice(start, start + BATCH_SIZE))
        for copy, size in [*((copy, count) for copy in range(copies)), (None, checked)]
        for start in range(0, size, BATCH_SIZE)
    ]
    title = f"features of {config.model.backbone}"
    for number, (copy, chosen) in enumerate(progress(batches, title, unit="batch")):
        tell_progress(0.0, f"features {number}/{len(batches)}")
        if copy is None:
            images = data.validation_images[chosen].astype(np.float32)
            kept = [array[chosen] for array in validation]
        else:
            state = np.array([config.seed, number << 16], np.uint32)
            images, mixed = augment(state, data.images[chosen], targets[chosen])
            labels[copy, chosen] = keras.ops.convert_to_numpy(mixed)
            kept = [array[copy, chosen] for array in training]
        for array, values in zip(kept, lower.predict_on_batch(images), strict=True):
            array[:] = values
    for written in (*training, *validation):
        written.flush()  # before its size and time are noted
    np.save(place / "labels.npy", labels)


def _count_copies(
    config: Config, data: TrainingData, shapes: list[tuple[int, ...]], place: Path
) -> int:
    """Return how many copies of each image fit; raises UserError where not one does."""
    per_image = sum(2 * int(np.prod(shape)) for shape in shapes) / 2**20
    fixed = per_image * len(data.validation_labels)
    per_copy = per_image * len(data.labels)
    allowed, wanted = config.search.cache_megabytes, config.search.cached_copies
    copies = min(wanted, int((allowed - fixed) / per_copy))
    if copies < 1:
        raise UserError(
            f"The features of {config.model.backbone} for one copy of each image take "
            f"{fixed + per_copy:.0f} MB, and search.cache_megabytes is {allowed:.0f}; "
            "raise it, or lower search.trial_images."
        )
    if copies < wanted:
        say(f"{copies} of {wanted} copies of each image fit into {allowed:.0f} MB of cache.")
    require_disk(place, fixed + copies * per_copy)
    return copies


def _name(border: int | None) -> str:
    return "pooled" if border is None else f"border_{border}"
