"""Batches come in the order of seed and epoch, whatever feeds them to a model."""

import keras
import numpy as np
import pytest

from competition import batches as batches_module
from competition.batches import Batches
from competition.config import AugmentationConfig
from competition.devices import has_accelerator

IMAGES = np.arange(2 * 10 * 4, dtype=np.uint8).reshape(2, 10, 4)
LABELS = np.tile(np.eye(5, dtype=np.float32), (2, 2, 1))


def test_an_epoch_passes_each_picture_once_in_an_order_of_its_own() -> None:
    batches = Batches(IMAGES, LABELS, batch_size=5, seed=0)
    orders = []
    for epoch in range(3):
        batches.epoch = epoch
        passed = np.concatenate([batches[index][0][0] for index in range(len(batches))])
        assert sorted(passed[:, 0]) == sorted(IMAGES[epoch % 2, :, 0])
        orders.append(tuple(passed[:, 0] - IMAGES[epoch % 2, 0, 0]))
    assert len(set(orders)) == 3


@pytest.mark.parametrize(("share", "steps"), [(1.0, 5), (0.5, 2), (0.01, 1)])
def test_a_share_of_an_epoch_has_fewer_batches(share: float, steps: int) -> None:
    assert len(Batches(IMAGES, LABELS, batch_size=2, seed=0, share=share)) == steps


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="other backends take the batches as they are")
def test_tensorflow_gets_the_same_batches_and_starts_no_tuning_of_its_own() -> None:
    batches = Batches(IMAGES, LABELS, batch_size=4, seed=1)
    dataset = batches_module._prefetch(batches)
    assert not dataset.options().autotune.enabled
    assert dataset.cardinality() == len(batches) == 2
    for epoch in range(2):
        batches.epoch = epoch
        for index, ((images, labels),) in enumerate(dataset):
            expected, targets = batches[index][0]
            np.testing.assert_array_equal(images, expected)
            np.testing.assert_array_equal(labels, targets)


def test_augmentation_is_beside_the_model_only_on_tensorflows_cpu_and_drawn_by_seed_epoch_and_batch() -> None:
    images, labels = np.full((1, 12, 32, 32, 3), 100, np.uint8), np.eye(12, dtype=np.float32)[None]
    images[:, :, :16] = 20
    batches = Batches(images, labels, 4, seed=3, augmentation=AugmentationConfig())
    beside = keras.backend.backend() == "tensorflow" and not has_accelerator()
    assert (batches.layer is None) == beside == (batches.augment is not None)
    if not beside:
        return
    drawn: dict[tuple[int, int], np.ndarray] = {}
    for epoch in (0, 1, 0):
        batches.begin(epoch)
        for index in (2, 0):
            pictures = batches[index][0][0]
            assert pictures.shape == (4, 32, 32, 3)
            np.testing.assert_array_equal(drawn.setdefault((epoch, index), pictures), pictures)
    assert len({pictures.tobytes() for pictures in drawn.values()}) == 4
