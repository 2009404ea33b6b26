"""The benchmark of cleaning plants what it says, and scores rightly where that is known."""

import numpy as np
import pytest

from benchmarks.cleaning import Findings, score, score_copies, score_flags
from benchmarks.enlarging import enlarge
from benchmarks.planting import (
    COPIES,
    FAULT_SHARES,
    SPOILED,
    Planted,
    count_confusions,
    plant,
    plant_wrong_labels,
)
from competition.data.arrays import Dataset


@pytest.fixture(scope="module")
def planted() -> Planted:
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (200, 24, 24, 3), np.uint8)
    return plant(images, np.arange(200) % 4, 4, generator)


def test_every_kind_is_planted_and_the_rest_is_as_it_was(planted: Planted) -> None:
    again = np.random.default_rng(0).integers(0, 256, (200, 24, 24, 3), np.uint8)
    assert set(planted.kinds) == {"cell", *FAULT_SHARES}
    untouched = (planted.kinds == "cell") | (planted.kinds == "wrong label")
    np.testing.assert_array_equal(planted.images[untouched], again[untouched])
    assert ((planted.labels != np.arange(200) % 4) == (planted.kinds == "wrong label"))[
        planted.copy_of < 0
    ].all()


def test_copies_have_a_sound_original_with_the_same_label(planted: Planted) -> None:
    copies = np.flatnonzero(planted.copy_of >= 0)
    originals = planted.copy_of[copies]
    assert set(planted.kinds[copies]) == set(COPIES)
    assert set(planted.kinds[originals]) == {"cell"}
    assert len(np.unique(originals)) == len(originals)
    np.testing.assert_array_equal(planted.labels[copies], planted.labels[originals])


def test_wrong_labels_of_look_alikes_are_mostly_those_that_a_classifier_confuses() -> None:
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 3, 3000)
    features = np.array([0.0, 2.0, 20.0])[labels, None] + generator.normal(size=(3000, 1))
    confusions = count_confusions(features, labels)
    assert confusions[0, 1] == confusions[1, 0] > 100
    assert confusions[2].sum() == confusions.trace() == 0
    changed, planted = plant_wrong_labels(labels, confusions, generator)
    np.testing.assert_array_equal(np.flatnonzero(changed != labels), planted)
    assert len(planted) == 30
    alike = labels[planted] < 2
    assert (changed[planted][alike] < 2).mean() > 0.7


@pytest.mark.parametrize("kind", [*COPIES, *SPOILED])
def test_a_spoiled_picture_keeps_size_and_type(kind: str) -> None:
    generator = np.random.default_rng(1)
    image = generator.integers(0, 256, (96, 96, 3), np.uint8)
    spoiled = (COPIES | SPOILED)[kind](image, generator)
    assert (spoiled.shape, spoiled.dtype) == (image.shape, image.dtype)
    assert (spoiled == image).all() == (kind == "exact copy")


def test_a_flag_on_a_cell_costs_precision_and_one_on_another_fault_does_not(
    planted: Planted,
) -> None:
    blank, noise, cells = (
        np.flatnonzero(planted.kinds == kind).tolist() for kind in ("blank", "noise", "cell")
    )
    result = score_flags(planted, {blank[0], noise[0], cells[0]}, "blank")
    assert result.precision == 0.5
    assert result.recall == 1 / len(blank)


def test_a_copy_is_found_only_beside_its_original(planted: Planted) -> None:
    copies = np.flatnonzero(planted.kinds == "exact copy")
    right, wrong = copies[:2].tolist()
    original = int(planted.copy_of[right])
    partners = {right: {original}, original: {right}, wrong: {right}}
    result = score_copies(planted, partners, "exact copy")
    assert result.precision == 2 / 3
    assert result.recall == 1 / len(copies)


def test_a_kind_that_a_tool_does_not_look_for_has_no_score(planted: Planted) -> None:
    nothing = Findings({}, {}, 0.0)
    assert score(planted, nothing, "cleanvision", "noise") is None
    assert score(planted, nothing, "ours", "noise") is not None


def test_enlarging_keeps_the_pictures_and_makes_others_in_turns_with_their_labels() -> None:
    generator = np.random.default_rng(2)
    images = np.clip(
        np.arange(10)[:, None, None, None] * 20 + generator.integers(30, 40, (10, 24, 24, 3)),
        0,
        255,
    )
    dataset = Dataset(images.astype(np.uint8), np.arange(10), tuple("abcdefghij"))
    keep = np.arange(10) != 4
    large = enlarge(dataset, keep, 25, generator)
    np.testing.assert_array_equal(large.images[:10], dataset.images)
    assert np.bincount(large.labels[:20]).tolist() == [2] * 10
    assert len(large.labels) == len(large.images) == 25
    for image, label in zip(large.images[10:], large.labels[10:], strict=True):
        likeness = np.corrcoef(image.ravel(), images[label].ravel())[0, 1]
        assert abs(image.mean() - images[label].mean()) < 25
        assert (likeness > 0.9) == (label == 4)
