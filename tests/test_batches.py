"""Batches come in the order of seed and epoch, whatever feeds them to a model."""

import keras
import numpy as np
import pytest

from competition import batches as batches_module
from competition.batches import Batches

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
