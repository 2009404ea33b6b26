"""Batches of pictures or features, shuffled anew each epoch by seed, and how a model is fitted to them."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

VALIDATION_BATCH_SIZE = 64


class Batches(keras.utils.PyDataset):
    """Shuffled batches of one size; the order is drawn from the seed and the epoch, which a callback sets.

    views: (K, n, ...), of which each epoch takes one, in turn; labels: (K, n, classes). share: of them in an epoch.
    """

    def __init__(self, views: np.ndarray, labels: np.ndarray, batch_size: int, seed: int, share: float = 1.0) -> None:
        super().__init__()
        self.views, self.labels, self.seed, self.share, self.epoch = views, labels, seed, share, 0
        self.batch_size = min(batch_size, labels.shape[1])

    def __len__(self) -> int:
        return max(1, int(self.share * self.labels.shape[1]) // self.batch_size)

    def __getitem__(self, index: int) -> tuple[tuple[np.ndarray, np.ndarray]]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.labels.shape[1])
        chosen = order[index * self.batch_size : (index + 1) * self.batch_size]
        view = self.epoch % len(self.views)
        return ((self.views[view, chosen], self.labels[view, chosen]),)


def fit(
    model: keras.Model,
    batches: Batches,
    epochs: range,
    validation: tuple[np.ndarray, np.ndarray],
    callbacks: Sequence[keras.callbacks.Callback],
) -> None:
    """Train a model of pictures and labels; validation: (m, ...) and (m, classes)."""
    model.fit(
        _prefetch(batches) if keras.backend.backend() == "tensorflow" else batches,
        epochs=epochs.stop,
        initial_epoch=epochs.start,
        validation_data=(validation,),
        validation_batch_size=VALIDATION_BATCH_SIZE,
        callbacks=callbacks,
        shuffle=False,
        verbose=0,
    )


def _prefetch(batches: Batches) -> Any:
    """Return the batches as a tensorflow.data.Dataset that prepares the next ones while one is trained on.

    The one that Keras makes tunes itself in a thread, and the end of each epoch waits seconds for that thread to end:
    half the time of a search's trial of the custom CNN.
    """
    import tensorflow

    def generate() -> Any:
        yield from (batches[index] for index in range(len(batches)))

    arrays = batches.views, batches.labels
    signature = tuple(tensorflow.TensorSpec((None, *one.shape[2:]), one.dtype) for one in arrays)
    dataset = tensorflow.data.Dataset.from_generator(generate, output_signature=(signature,))
    dataset = dataset.apply(tensorflow.data.experimental.assert_cardinality(len(batches))).prefetch(2)
    options = tensorflow.data.Options()
    options.autotune.enabled = False
    return dataset.with_options(options)
