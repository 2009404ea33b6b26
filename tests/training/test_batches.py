"""Batches come in the order of seed and epoch, whatever feeds them to a model."""

import keras
import numpy as np
import pytest

from competition.config import AugmentationConfig, TrainingConfig
from competition.training import batches as batches_module
from competition.training.batches import Batches
from competition.training.train import compile_model

IMAGES = np.arange(2 * 10 * 4, dtype=np.uint8).reshape(2, 10, 4)
LABELS = np.tile(np.eye(5, dtype=np.float32), (2, 2, 1))


def test_an_epoch_passes_each_picture_once_in_an_order_of_its_own() -> None:
    batches = Batches(IMAGES, LABELS, batch_size=5, seed=0)
    orders = []
    for epoch in range(3):
        batches.begin(epoch)
        passed = np.concatenate([batches[index][0][0] for index in range(len(batches))])
        assert sorted(passed[:, 0]) == sorted(IMAGES[epoch % 2, :, 0])
        orders.append(tuple(passed[:, 0] - IMAGES[epoch % 2, 0, 0]))
    assert len(set(orders)) == 3


@pytest.mark.parametrize(("share", "steps"), [(1.0, 5), (0.5, 2), (0.01, 1)])
def test_a_share_of_an_epoch_has_fewer_batches(share: float, steps: int) -> None:
    assert len(Batches(IMAGES, LABELS, batch_size=2, seed=0, share=share)) == steps


@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="other backends take the batches as they are"
)
def test_tensorflow_gets_the_same_batches_and_starts_no_tuning_of_its_own() -> None:
    batches = Batches(IMAGES, LABELS, batch_size=4, seed=1)
    dataset = batches_module._prefetch(batches)
    assert not dataset.options().autotune.enabled
    assert dataset.cardinality() == len(batches) == 2
    for epoch in range(2):
        batches.begin(epoch)
        for index, ((images, labels),) in enumerate(dataset):
            expected, targets = batches[index][0]
            np.testing.assert_array_equal(images, expected)
            np.testing.assert_array_equal(labels, targets)


SQUARES = np.full((1, 12, 32, 32, 3), 100, np.uint8)
SQUARES[:, :, :16] = 20
CLASSES = np.eye(12, dtype=np.float32)[None]


@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="on other backends the model augments"
)
def test_on_tensorflows_cpu_batches_come_augmented_as_drawn_by_seed_epoch_and_batch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(batches_module, "has_accelerator", lambda: False)
    drawn: dict[tuple[int, int, int], np.ndarray] = {}
    for seed, epoch in ((3, 0), (3, 1), (4, 0), (3, 0)):
        batches = Batches(SQUARES, CLASSES, 4, seed, augmentation=AugmentationConfig())
        assert batches.layer is None
        batches.begin(epoch)
        for index in (2, 0):
            pictures = batches[index][0][0]
            assert pictures.shape == (4, 32, 32, 3)
            assert pictures.dtype == np.float32
            np.testing.assert_array_equal(
                drawn.setdefault((seed, epoch, index), pictures), pictures
            )
    assert len({pictures.tobytes() for pictures in drawn.values()}) == 6


def test_on_an_accelerator_the_model_augments_as_drawn_by_seed_and_epoch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(batches_module, "has_accelerator", lambda: True)
    batches = Batches(SQUARES, CLASSES, 4, seed=3, augmentation=AugmentationConfig())
    batches.begin(2)
    assert batches.layer is not None
    assert np.asarray(keras.ops.convert_to_numpy(batches.layer.seed_generator.state)).tolist() == [
        3,
        2 << 16,
    ]
    pictures = batches[0][0][0]
    assert pictures.dtype == np.uint8
    np.testing.assert_array_equal(pictures, SQUARES[0, :4])


def test_a_fit_begins_each_epoch_of_its_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    batches = Batches(np.zeros((1, 4, 2), np.float32), np.eye(4, dtype=np.float32)[None], 2, seed=0)
    begun: list[int] = []
    monkeypatch.setattr(batches, "begin", begun.append)
    network = keras.Sequential([keras.Input((2,)), keras.layers.Dense(4, "softmax")])
    model = compile_model(network, None, TrainingConfig(), 1e-3, 1)
    batches_module.fit(
        model,
        batches,
        range(2, 5),
        (np.zeros((2, 2), np.float32), np.eye(4, dtype=np.float32)[:2]),
        [],
    )
    assert begun == [2, 3, 4]
