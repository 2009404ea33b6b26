"""Batches come in the order of seed and epoch, augmented as drawn, whatever feeds them on."""

from typing import Any

import keras
import numpy as np
import pytest

from competition.config import with_settings
from competition.training.batches import Batches, image_batches
from tests.factories import CONFIG, make_data

IMAGES = np.arange(2 * 10 * 4, dtype=np.uint8).reshape(2, 10, 4)
LABELS = np.tile(np.eye(5, dtype=np.float32), (2, 2, 1))
on_tensorflow = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="other backends take the batches as they are"
)


def test_an_epoch_passes_each_image_once_in_an_order_of_its_own_and_copies_in_turn() -> None:
    batches = Batches(IMAGES, LABELS, batch_size=5, seed=0)
    orders = []
    for epoch in range(3):
        drawn = list(batches.draw(epoch))
        passed = np.concatenate([images for images, _ in drawn])
        targets = np.concatenate([labels for _, labels in drawn])
        copy = IMAGES[epoch % 2]
        assert sorted(passed[:, 0]) == sorted(copy[:, 0])
        order = (passed[:, 0] - copy[0, 0]) // 4
        np.testing.assert_array_equal(targets, LABELS[0, order])
        orders.append(tuple(order))
    assert len(set(orders)) == 3
    assert all((a[0] == b[0]).all() for a, b in zip(drawn, batches.draw(2), strict=True))
    other = np.concatenate([images for images, _ in Batches(IMAGES, LABELS, 5, seed=1).draw(0)])
    assert tuple((other[:, 0] - IMAGES[0, 0, 0]) // 4) != orders[0]


def test_an_epoch_that_goes_on_skips_the_batches_that_passed() -> None:
    batches = Batches(IMAGES, LABELS, batch_size=3, seed=0)
    whole = [images for images, _ in batches.draw(4)]
    for first in range(4):
        rest = [images for images, _ in batches.draw(4, first)]
        assert len(rest) == 3 - first
        for mine, other in zip(rest, whole[first:], strict=True):
            np.testing.assert_array_equal(mine, other)


@pytest.mark.parametrize(("size", "steps", "images"), [(3, 3, 3), (5, 2, 5), (99, 1, 10)])
def test_what_fills_no_batch_is_left_out_but_one_batch_there_is_always(
    size: int, steps: int, images: int
) -> None:
    batches = Batches(IMAGES, LABELS, batch_size=size, seed=0)
    assert len(batches) == steps
    assert [len(batch[0]) for batch in batches.draw(0)] == [images] * steps


def test_weights_of_classes_go_with_the_labels() -> None:
    weights = np.array([1, 2, 3, 4, 5], np.float32)
    batches = Batches(IMAGES, LABELS, batch_size=5, seed=0, class_weights=weights)
    for _, labels, given in batches.draw(0):
        np.testing.assert_array_equal(given, 1 + labels.argmax(axis=1))


@on_tensorflow
@pytest.mark.parametrize("weights", [None, np.arange(5, dtype=np.float32)])
def test_tensorflow_gets_the_same_batches_and_starts_no_tuning_of_its_own(
    weights: np.ndarray | None,
) -> None:
    batches = Batches(IMAGES, LABELS, batch_size=4, seed=1, class_weights=weights)
    for epoch, first in ((0, 0), (1, 1)):
        dataset: Any = batches.stream(epoch, first)
        assert dataset.options().autotune.enabled is False
        streamed = list(dataset)
        assert len(streamed) == 2 - first
        for mine, others in zip(streamed, batches.draw(epoch, first), strict=True):
            for values, expected in zip(mine, others, strict=True):
                np.testing.assert_array_equal(values, expected)
                assert values.numpy().dtype == expected.dtype


def test_images_come_augmented_as_drawn_by_seed_epoch_and_index() -> None:
    drawn: dict[tuple[int, int, int], np.ndarray] = {}
    data = make_data(12)
    for seed, epoch in ((3, 0), (3, 1), (4, 0), (3, 0)):
        config = with_settings(CONFIG, {"augmentation": "mild", "seed": seed})
        batches = image_batches(data, with_settings(config, {"training.batch_size": 4}))
        for first in (0, 2):
            for index, (images, _) in enumerate(batches.draw(epoch, first), first):
                images = np.asarray(images)
                assert images.shape == (4, 32, 32, 3)
                assert images.dtype == np.float32
                np.testing.assert_array_equal(
                    drawn.setdefault((seed, epoch, index), images), images
                )
    assert len({images.tobytes() for images in drawn.values()}) == 9
    assert not any(np.isin(images, data.images).all() for images in drawn.values())


def test_smaller_images_are_the_augmented_ones_resized() -> None:
    batches = image_batches(make_data(), with_settings(CONFIG, {"training.batch_size": 60}))
    ((images, labels),) = batches.draw(1)
    ((small, targets),) = batches.resized(16).draw(1)
    assert np.asarray(small).shape == (60, 16, 16, 3)
    np.testing.assert_array_equal(np.asarray(labels), np.asarray(targets))
    means = np.asarray(images).reshape(60, 16, 2, 16, 2, 3).mean(axis=(2, 4))
    assert np.abs(means - small).max() < 1
    ((streamed, _),) = batches.resized(16).stream(1, 0)
    np.testing.assert_allclose(streamed, small, atol=1e-4)
