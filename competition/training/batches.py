"""Batches of images or features, shuffled and augmented anew each epoch by seed."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from keras import ops

from competition.augmentation.augment import compile_augmentation
from competition.common.tensorflow_workarounds import Batch, stream
from competition.config import Config
from competition.data.arrays import TrainingData, one_hot

Augment = Callable[[np.ndarray, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Batches:
    """Batches of one size; their order and augmentation follow from the seed and the epoch.

    copies: (K, n, ...), of which each epoch takes one in turn. labels: (K, n, classes).
    augment: (state (2,) uint32, images, labels) -> the augmented (images, labels), or None.
    class_weights: (classes,) float32, or None: all examples count the same.
    """

    copies: np.ndarray
    labels: np.ndarray
    batch_size: int
    seed: int
    augment: Augment | None = None
    class_weights: np.ndarray | None = None

    def __len__(self) -> int:
        """Return the number of batches per epoch; images that fill no batch are left out."""
        return max(1, self.labels.shape[1] // self.batch_size)

    def draw(self, epoch: int, first: int = 0) -> Iterator[Batch]:
        """Yield (images, labels), and weights (n,) where classes have some, from `first` on."""
        size = min(self.batch_size, self.labels.shape[1])
        order = np.random.default_rng([self.seed, epoch]).permutation(self.labels.shape[1])
        copy = epoch % len(self.copies)
        for index in range(first, len(self)):
            chosen = order[index * size : (index + 1) * size]
            images, labels = self.copies[copy, chosen], self.labels[copy, chosen]
            if self.augment is not None:
                state = np.random.SeedSequence([self.seed, epoch, index]).generate_state(2)
                images, labels = self.augment(state, images, labels)
            if self.class_weights is None:
                yield images, labels
            else:
                yield images, labels, labels @ self.class_weights

    def resized(self, side: int) -> "Batches":
        """Return the same batches, whose images are resized to `side` after their augmentation."""
        assert self.augment is not None
        return replace(self, augment=partial(_augment_and_resize, self.augment, side))

    def stream(self, epoch: int, first: int) -> Any:
        """Return these batches as `fit` takes them."""
        kind = self.copies.dtype if self.augment is None else np.dtype(np.float32)
        side: tuple[int | None, ...] = self.copies.shape[2:]
        if self.augment is not None:
            side = (None, None, 3)  # the side that `resized` asks for
        shapes: list[tuple[tuple[int | None, ...], Any]] = [(side, kind)]
        shapes += [(self.labels.shape[2:], np.float32)]
        shapes += [] if self.class_weights is None else [((), np.float32)]
        return stream(partial(self.draw, epoch, first), shapes)


def image_batches(data: TrainingData, config: Config) -> Batches:
    """Return the training images, augmented as the settings say."""
    labels = one_hot(data.labels, data.num_classes)
    augment = compile_augmentation(config.augmentation, data.images.shape[1:], data.num_classes)
    return replace(copied_batches(data.images[None], labels[None], data, config), augment=augment)


def copied_batches(
    copies: np.ndarray, labels: np.ndarray, data: TrainingData, config: Config
) -> Batches:
    """Return copies (K, n, ...) made of the training images, and their labels, as they are."""
    weights = None
    if config.training.class_weights:
        weights = _class_weights(data.labels, data.num_classes)
    training = config.training
    return Batches(copies, labels, training.batch_size, config.seed, class_weights=weights)


def _augment_and_resize(
    augment: Augment, side: int, state: np.ndarray, images: np.ndarray, labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    images, labels = augment(state, images, labels)
    return ops.convert_to_numpy(ops.image.resize(images, (side, side))), labels


def _class_weights(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Return weights (K,) that make up for unequal classes, as scikit-learn's `balanced`."""
    counts = np.bincount(labels, minlength=num_classes)
    weights = np.where(counts > 0, len(labels) / (num_classes * np.maximum(counts, 1)), 0.0)
    return weights.astype(np.float32)
