"""What a frozen backbone makes of images: computed once, and trained on by trials of a head.

Nothing in the backbone changes while only the head trains. So some augmented copies of each
training image, and each validation image, pass it once. Training on its pooled output differs in
three ways: an epoch sees one of the copies instead of a fresh one, rounded to float16, and no block
of the backbone is dropped at random.
"""

import shutil
from dataclasses import dataclass, fields
from pathlib import Path

import keras
import numpy as np
from filelock import FileLock

from competition.augmentation.augment import compile_augmentation
from competition.common.console import progress, tell_progress
from competition.common.errors import UserError
from competition.common.files import (
    digest,
    if_intact,
    map_array,
    mark_done,
    require_disk,
    up_to_date,
)
from competition.common.settings import flatten
from competition.config import Config
from competition.data.arrays import TrainingData, one_hot
from competition.networks.layers import pooled_part
from competition.networks.weights import Weights
from competition.training.train import build_network

BATCH_SIZE = 64


@dataclass(frozen=True)
class Features:
    """The pooled outputs of the backbone.

    copies: (K, n, d) float16, of K augmented copies. labels: (K, n, classes) float32.
    validation: (m, d) float16.
    """

    copies: np.ndarray
    labels: np.ndarray
    validation: np.ndarray


def cache_features(config: Config, data: TrainingData, weights: Weights, folder: Path) -> Features:
    """Return the features of `data`, mapped from files.

    folder: takes one subfolder, named after a hash of what went in; others are removed. What is
    missing or damaged is computed. Raises UserError where it does not fit the disk or
    `search.cache_megabytes`.
    """
    settings = {key: value for key, value in flatten(config).items() if "augmentation." in key}
    made_of = [settings, config.seed, config.model.input_size, config.search.cached_copies]
    made_of += [config.search.cache_megabytes, weights.fingerprint]
    arrays = data.images, data.labels, data.validation_images, data.validation_labels
    inputs = digest(*arrays, *made_of, keras.backend.backend())
    place = folder / inputs
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"):
        is_done = up_to_date(place / "features.json", inputs)
        known = if_intact(_map_features, place) if is_done else None
        if known is None:
            for other in folder.iterdir():
                if other.is_dir():
                    shutil.rmtree(other)
            _compute(config, data, weights, place)
            mark_done(place / "features.json", inputs)
    return known or _map_features(place)


def _map_features(place: Path) -> Features:
    return Features(*(map_array(place / f"{field.name}.npy") for field in fields(Features)))


def _compute(config: Config, data: TrainingData, weights: Weights, place: Path) -> None:
    """Pass all images through the backbone, and write its pooled outputs into `place`."""
    pooled = pooled_part(build_network(config, data, weights))
    size = pooled.output_shape[-1]
    count, checked = len(data.labels), len(data.validation_labels)
    copies = config.search.cached_copies
    _require_room(config, count, checked, size, place)
    place.mkdir()
    training = np.empty((copies, count, size), np.float16)
    validation = np.empty((checked, size), np.float16)
    labels = np.empty((copies, count, data.num_classes), np.float32)
    augment = compile_augmentation(config.augmentation, data.images.shape[1:], data.num_classes)
    targets = one_hot(data.labels, data.num_classes)
    batches = [
        (copy, slice(start, start + BATCH_SIZE))
        for copy, total in [*((copy, count) for copy in range(copies)), (None, checked)]
        for start in range(0, total, BATCH_SIZE)
    ]
    title = f"features of {config.model.backbone}"
    for number, (copy, chosen) in enumerate(progress(batches, title, unit="batch")):
        tell_progress(0.0, f"features {number}/{len(batches)}")
        if copy is None:
            images = data.validation_images[chosen].astype(np.float32)
            validation[chosen] = pooled.predict_on_batch(images)
        else:
            state = np.array([config.seed, number << 16], np.uint32)
            images, mixed = augment(state, data.images[chosen], targets[chosen])
            labels[copy, chosen] = keras.ops.convert_to_numpy(mixed)
            training[copy, chosen] = pooled.predict_on_batch(images)
    np.save(place / "copies.npy", training)
    np.save(place / "labels.npy", labels)
    np.save(place / "validation.npy", validation)


def _require_room(config: Config, count: int, checked: int, size: int, place: Path) -> None:
    """Raise UserError where the features of all copies do not fit the disk and the setting."""
    search = config.search
    megabytes = 2 * size * (search.cached_copies * count + checked) / 2**20
    if megabytes > search.cache_megabytes:
        raise UserError(
            f"The features of {config.model.backbone} take {megabytes:.0f} MB, and "
            f"search.cache_megabytes is {search.cache_megabytes:.0f}; raise it, or lower "
            "search.trial_images or search.cached_copies."
        )
    require_disk(place, megabytes)
