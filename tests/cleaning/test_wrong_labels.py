"""Wrong labels: planted ones are found, and nothing is sure where classes cannot be told apart."""

import dataclasses

import numpy as np
import pytest

from competition.cleaning.wrong_labels import (
    describe,
    estimate_false_alarms,
    find_wrong_labels,
    pool_opinions,
    predict_out_of_fold,
)
from competition.config import Config, with_settings
from tests.factories import draw_blobs

CONFIG = with_settings(Config(), {"cleaning.label_landmarks": 100}).cleaning


def draw_classes(count: int, distance: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return features (n, 6) of three classes, `distance` standard deviations apart, and labels."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 3, count)
    centres = distance / np.sqrt(2) * np.eye(3, 6)
    return (centres[labels] + generator.normal(size=(count, 6))).astype(np.float32), labels


def plant(labels: np.ndarray, number: int, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Return labels of which `number` are wrong, and the sorted indices of these."""
    generator = np.random.default_rng(seed)
    planted = np.sort(generator.choice(len(labels), number, replace=False))
    changed = labels.copy()
    changed[planted] = (labels[planted] + generator.integers(1, 3, number)) % 3
    return changed, planted


def test_planted_wrong_labels_are_surely_found_with_the_right_suggestion() -> None:
    features, labels = draw_classes(900, distance=7)
    changed, planted = plant(labels, 12)
    found = find_wrong_labels([features], changed, CONFIG, seed=0)
    sure = {wrong.index: wrong.suggestion for wrong in found if wrong.sure}
    assert set(planted.tolist()) <= set(sure)
    assert len(sure) <= len(planted) + 3
    assert [sure[index] for index in planted.tolist()] == labels[planted].tolist()
    assert all(0 <= wrong.confidence <= 1 for wrong in found)


@pytest.mark.parametrize("distance", [0.0, 1.0, 2.0, 7.0])
def test_of_right_labels_hardly_any_is_surely_wrong_however_alike_the_classes_look(
    distance: float,
) -> None:
    features, labels = draw_classes(900, distance)
    found = find_wrong_labels([features], labels, CONFIG, seed=0)
    assert sum(wrong.sure for wrong in found) <= 5


def test_most_wrong_labels_of_look_alike_classes_are_flagged() -> None:
    generator = np.random.default_rng(1)
    labels = generator.integers(0, 3, 3000)
    centres = np.array([[0, 0], [3.5, 0], [0, 8]])
    features = (centres[labels] + generator.normal(size=(3000, 2))).astype(np.float32)
    planted = np.flatnonzero(labels < 2)[:50]
    changed = labels.copy()
    changed[planted] = 1 - labels[planted]
    found = {wrong.index for wrong in find_wrong_labels([features], changed, CONFIG, seed=0)}
    assert len(found & set(planted.tolist())) >= 40
    assert len(found) <= 90


def test_labels_may_have_gaps() -> None:
    features, labels = draw_classes(600, distance=7)
    changed, planted = plant(labels, 6)
    found = find_wrong_labels([features], 2 * changed + 3, CONFIG, seed=0)
    sure = {wrong.index: wrong.suggestion for wrong in found if wrong.sure}
    assert {index: 2 * labels[index] + 3 for index in planted.tolist()}.items() <= sure.items()


@pytest.mark.parametrize(("count", "classes"), [(0, 1), (20, 3), (200, 1)])
def test_of_few_images_or_one_class_nothing_is_said(count: int, classes: int) -> None:
    features = np.random.default_rng(0).normal(size=(count, 4)).astype(np.float32)
    assert find_wrong_labels([features], np.arange(count) % classes, CONFIG, seed=0) == []


def test_a_prediction_depends_neither_on_its_own_label_nor_on_distrusted_ones() -> None:
    features, labels = draw_classes(300, distance=3)
    trusted = np.arange(300) % 4 > 0
    expected = predict_out_of_fold(features, labels, trusted, CONFIG, seed=0)
    changed = np.where(trusted, labels, (labels + 1) % 3)
    again = predict_out_of_fold(features, changed, trusted, CONFIG, seed=0)
    np.testing.assert_array_equal(again, expected)
    np.testing.assert_allclose(expected.sum(1), 1, rtol=1e-5)
    assert (expected.argmax(1) == labels).mean() > 0.8


def test_predictions_come_from_the_other_folds_alone() -> None:
    generator = np.random.default_rng(0)
    features = generator.normal(size=(400, 200)).astype(np.float32)
    labels = generator.integers(0, 2, 400)
    trusted = np.ones(800, bool)
    config = dataclasses.replace(CONFIG, label_landmarks=600)
    alone = predict_out_of_fold(features, labels, trusted[:400], config, seed=0)
    copies, twice = np.repeat(features, 2, axis=0), np.repeat(labels, 2)
    across = predict_out_of_fold(copies, twice, trusted, config, seed=0)
    assert (alone.argmax(1) == labels).mean() < 0.6
    assert (across.argmax(1) == twice).mean() > 0.7


def test_the_share_of_false_alarms_is_what_the_probabilities_foretell() -> None:
    generator = np.random.default_rng(0)
    first = generator.random(20_000)
    probabilities = np.stack([first, 1 - first], 1)
    labels = (generator.random(20_000) > first).astype(np.int64)
    assert estimate_false_alarms(probabilities, labels).mean() == pytest.approx(1, abs=0.03)
    wrong = np.arange(500)
    labels[wrong] = probabilities[wrong].argmin(1)
    looks = np.sort(probabilities[np.arange(20_000), labels])
    shares = np.sort(estimate_false_alarms(probabilities, labels))
    assert (np.diff(shares) >= 0).all()
    assert shares[np.searchsorted(looks, 0.05)] < 0.9


def test_a_pooled_opinion_is_the_geometric_mean_and_no_view_decides_by_certainty() -> None:
    first, second = np.array([[0.8, 0.1, 0.1], [1, 0, 0]]), np.array([[0.2, 0.4, 0.4], [0, 1, 0]])
    pooled = pool_opinions([first, second])
    np.testing.assert_allclose(pooled.sum(1), 1)
    np.testing.assert_allclose(pooled[0], [0.5, 0.25, 0.25])
    np.testing.assert_allclose(pooled[1], [0.5, 0.5, 0], atol=1e-4)
    np.testing.assert_allclose(pool_opinions([first]), first, atol=1e-6)


def test_two_views_together_are_mistaken_less_often_than_either_alone() -> None:
    (first, labels), noise = (
        draw_classes(900, distance=4),
        np.random.default_rng(3).normal(size=(900, 6)),
    )
    second = (4 / np.sqrt(2) * np.eye(3, 6)[labels] + noise).astype(np.float32)
    changed, planted = plant(labels, 20)
    mistakes = []
    for views in ([first], [second], [first, second]):
        found = find_wrong_labels(views, changed, CONFIG, seed=0)
        mistakes.append(len({wrong.index for wrong in found} ^ set(planted.tolist())))
    assert 2 * mistakes[2] < min(mistakes[:2])


def test_no_class_is_wrong_as_a_whole() -> None:
    features, labels = draw_classes(900, distance=7)
    changed, planted = plant(labels, 40)
    alone = np.setdiff1d(np.arange(900), planted)[:2]
    changed[alone] = 3
    found = {wrong.index for wrong in find_wrong_labels([features], changed, CONFIG, seed=0)}
    assert len(found & set(planted.tolist())) >= 30
    assert not found & set(alone.tolist())


def test_descriptions_hardly_change_when_an_image_is_turned_or_mirrored() -> None:
    images, _ = draw_blobs(20, 3, seed=0, size=64)
    rows = describe(images)
    assert rows.dtype == np.float32
    spread = rows.std(0).mean()
    for turned in (images[:, ::-1], images.swapaxes(1, 2), np.rot90(images, axes=(1, 2))):
        assert np.abs(describe(np.ascontiguousarray(turned)) - rows).mean() < 0.01 * spread


@pytest.mark.parametrize("side", [16, 28, 45, 224])
def test_images_of_any_side_are_described_with_as_many_numbers(side: int) -> None:
    images, _ = draw_blobs(2, 2, seed=0, size=side)
    rows = describe(images)
    assert rows.shape == (2, 105)
    assert np.isfinite(rows).all()
