"""Faults: what is broken or noise by itself; what is odd, not too many, each for one reason."""

import numpy as np

from competition.cleaning.faults import (
    Measures,
    find_faults,
    find_odd_images,
    measure_deviation,
    measure_images,
)
from competition.config import CleaningConfig

COUNT = 400
CONFIG = CleaningConfig()


def draw_measures() -> tuple[Measures, np.ndarray]:
    """Return the measures of COUNT usual images, and their points in an embedding."""
    generator = np.random.default_rng(0)
    values = {"brightness": 180, "span": 150, "roughness": 0.03}
    drawn = {name: usual * generator.uniform(0.9, 1.1, COUNT) for name, usual in values.items()}
    none = np.zeros(COUNT, np.float32)
    measures = Measures(contrast=none, flat_edge=none, repeated_edge=none, **drawn)
    return measures, generator.normal(size=(COUNT, 6)).astype(np.float32)


def faults_of(images: np.ndarray) -> list[tuple[int, str]]:
    labels = np.zeros(len(images), np.int64)
    issues = find_faults(measure_images(images, CONFIG), labels, CONFIG)
    return [(issue.index, issue.kind) for issue in issues]


def test_a_last_block_that_decoded_in_part_is_still_broken() -> None:
    images = (
        np.random.default_rng(0).integers(60, 220, (1, 8, 8, 3), np.uint8).repeat(4, 1).repeat(4, 2)
    )
    images[0, 16:] = 128
    images[0, 12:16, 9:] = 128
    assert faults_of(images) == [(0, "broken")]


def test_a_cell_on_a_plain_ground_is_not_broken() -> None:
    image = np.full((1, 32, 32, 3), 240, np.uint8)
    image[0, 6:20, 6:26] = (90, 40, 120)
    assert faults_of(image) == []


def find_actions(faulty: np.ndarray, labels: np.ndarray) -> list[tuple[int, str, str]]:
    """Return index, kind and action of the faults where the images `faulty` are blank."""
    measures = Measures(*(np.zeros(len(labels), np.float32) for _ in range(6)))
    measures.contrast[:] = np.where(faulty, 1, 40)
    issues = find_faults(measures, labels, CONFIG)
    return [(issue.index, issue.kind, issue.action) for issue in issues]


def test_a_fault_of_nearly_all_images_of_one_class_and_no_other_is_that_class_and_is_kept() -> None:
    labels = np.arange(120) % 3
    faulty = labels == 2
    faulty[[2, 5]] = False  # of 40; and two of another class
    faulty[[0, 3]] = True
    found = find_actions(faulty, labels)
    assert {index for index, _, action in found if action == "keep"} == set(range(8, 120, 3))
    assert [index for index, _, action in found if action == "drop"] == [0, 3]
    assert {kind for _, kind, _ in found} == {"blank"}


def test_a_fault_that_another_class_often_has_is_no_trait_and_neither_is_one_of_all() -> None:
    labels = np.arange(120) % 3
    often = (labels == 2) | ((labels == 1) & (np.arange(120) < 30))
    for faulty in (often, np.ones(120, bool)):
        assert {action for _, _, action in find_actions(faulty, labels)} == {"drop"}


def test_stripes_are_not_noise() -> None:
    image = np.zeros((1, 32, 32, 3), np.uint8)
    image[:, ::2] = 255
    assert (0, "noise") not in faults_of(image)


def test_usual_images_are_not_odd() -> None:
    assert find_odd_images(*draw_measures(), np.arange(COUNT), CONFIG, seed=0) == []


def test_each_kind_is_found_under_its_name() -> None:
    measures, points = draw_measures()
    measures.brightness[3], measures.span[5], measures.roughness[8], points[13] = 20, 40, 1e-4, 100
    found = {
        odd.index: odd.kind
        for odd in find_odd_images(measures, points, np.arange(COUNT), CONFIG, seed=0)
    }
    assert found == {
        3: "odd_brightness",
        5: "low_information",
        8: "low_information",
        13: "odd_image",
    }


def test_a_dark_and_flat_image_is_flagged_once() -> None:
    measures, points = draw_measures()
    measures.brightness[3], measures.span[3], points[3] = 20, 10, 100
    assert len(find_odd_images(measures, points, np.arange(COUNT), CONFIG, seed=0)) == 1


def test_no_more_than_the_share_is_flagged_the_oddest_first() -> None:
    measures, points = draw_measures()
    measures.brightness[:20] = np.arange(20)
    found = find_odd_images(measures, points, np.arange(COUNT), CONFIG, seed=0)
    assert [odd.index for odd in found] == [0, 1, 2, 3]
    assert all(0 < odd.score < 1 for odd in found)


def test_images_that_are_not_asked_for_are_neither_flagged_nor_usual() -> None:
    measures, points = draw_measures()
    measures.brightness[:300] = 0
    assert find_odd_images(measures, points, np.arange(300, COUNT), CONFIG, seed=0) == []


def test_deviation_is_in_standard_deviations_and_hardly_moved_by_outliers() -> None:
    values = np.random.default_rng(0).normal(5, 2, 10_000)
    values[:500] = 1e6
    assert abs(measure_deviation(values)[500:].std() - 1) < 0.15
