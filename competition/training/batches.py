"""Batches of pictures or features, shuffled and augmented anew each epoch by seed; how a model is fitted to them."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from competition.augmentation.augment import Augmentation, compile_augmentation
from competition.common.devices import has_accelerator
from competition.config import AugmentationConfig

VALIDATION_BATCH_SIZE = 64


class Batches(keras.utils.PyDataset):
    """Shuffled batches of one size; the order is drawn from the seed and the epoch, which `begin` sets.

    views: (K, n, ...), of which each epoch takes one, in turn; labels: (K, n, classes). share: of them in an epoch.
    augmentation: what pictures go through. `layer` is its layer, for the model to contain; it is None on TensorFlow's
    CPU, where batches come augmented, and without augmentation.
    """

    def __init__(
        self,
        views: np.ndarray,
        labels: np.ndarray,
        batch_size: int,
        seed: int,
        share: float = 1.0,
        augmentation: AugmentationConfig | None = None,
    ) -> None:
        super().__init__()
        self.views, self.labels, self.seed, self.share, self.epoch = views, labels, seed, share, 0
        self.batch_size = min(batch_size, labels.shape[1])
        self.layer, self.augment = None, None
        if augmentation and (keras.backend.backend() != "tensorflow" or has_accelerator()):
            self.layer = Augmentation(augmentation, seed)
        elif augmentation:
            self.augment = compile_augmentation(augmentation, views.shape[2:], labels.shape[-1])

    def __len__(self) -> int:
        return max(1, int(self.share * self.labels.shape[1]) // self.batch_size)

    def __getitem__(self, index: int) -> tuple[tuple[np.ndarray, np.ndarray]]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.labels.shape[1])
        chosen = order[index * self.batch_size : (index + 1) * self.batch_size]
        view = self.epoch % len(self.views)
        images, labels = self.views[view, chosen], self.labels[view, chosen]
        if self.augment is not None:
            state = np.random.SeedSequence([self.seed, self.epoch, index]).generate_state(2)
            images, labels = self.augment(state, images, labels)
        return ((images, labels),)

    def begin(self, epoch: int) -> None:
        """Set the epoch's draw, so that a resumed training repeats what it would have done."""
        self.epoch = epoch
        if self.layer is not None:
            state = self.layer.seed_generator.state
            state.assign(keras.ops.convert_to_tensor([self.seed, epoch << 16], state.dtype))


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
        callbacks=[
            keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, _: batches.begin(epoch)),
            *callbacks,
        ],
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

    kind = batches.views.dtype if batches.augment is None else "float32"
    signature = (
        tensorflow.TensorSpec((None, *batches.views.shape[2:]), kind),
        tensorflow.TensorSpec((None, *batches.labels.shape[2:]), batches.labels.dtype),
    )
    dataset = tensorflow.data.Dataset.from_generator(generate, output_signature=(signature,))
    dataset = dataset.apply(tensorflow.data.experimental.assert_cardinality(len(batches))).prefetch(
        2
    )
    options = tensorflow.data.Options()
    options.autotune.enabled = False
    return dataset.with_options(options)
