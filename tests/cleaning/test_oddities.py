"""Oddities: single pictures unlike the rest are flagged, not too many, and each for one reason."""

import numpy as np

from competition.cleaning.faults import Measures, find_oddities, measure_deviation
from competition.config import CleaningConfig

COUNT = 400
CONFIG = CleaningConfig()


def draw_measures() -> tuple[Measures, np.ndarray]:
    """Return the measures of COUNT usual pictures, and their points in an embedding."""
    generator = np.random.default_rng(0)
    values = {"brightness": 180, "span": 150, "roughness": 0.03}
    drawn = {name: usual * generator.uniform(0.9, 1.1, COUNT) for name, usual in values.items()}
    none = np.zeros(COUNT, np.float32)
    measures = Measures(contrast=none, flat_edge=none, repeated_edge=none, **drawn)
    return measures, generator.normal(size=(COUNT, 6)).astype(np.float32)


def test_usual_pictures_are_not_odd() -> None:
    assert find_oddities(*draw_measures(), np.arange(COUNT), CONFIG, seed=0) == []


def test_each_kind_is_found_under_its_name() -> None:
    measures, points = draw_measures()
    measures.brightness[3], measures.span[5], measures.roughness[8], points[13] = 20, 40, 1e-4, 100
    found = {
        odd.index: odd.issue
        for odd in find_oddities(measures, points, np.arange(COUNT), CONFIG, seed=0)
    }
    assert found == {
        3: "odd_brightness",
        5: "low_information",
        8: "low_information",
        13: "odd_picture",
    }


def test_a_dark_and_flat_picture_is_flagged_once() -> None:
    measures, points = draw_measures()
    measures.brightness[3], measures.span[3], points[3] = 20, 10, 100
    assert len(find_oddities(measures, points, np.arange(COUNT), CONFIG, seed=0)) == 1


def test_no_more_than_the_share_is_flagged_the_oddest_first() -> None:
    measures, points = draw_measures()
    measures.brightness[:20] = np.arange(20)
    found = find_oddities(measures, points, np.arange(COUNT), CONFIG, seed=0)
    assert [odd.index for odd in found] == [0, 1, 2, 3]
    assert all(0 < odd.score < 1 for odd in found)


def test_pictures_that_are_not_asked_for_are_neither_flagged_nor_usual() -> None:
    measures, points = draw_measures()
    measures.brightness[:300] = 0
    assert find_oddities(measures, points, np.arange(300, COUNT), CONFIG, seed=0) == []


def test_deviation_is_in_standard_deviations_and_hardly_moved_by_outliers() -> None:
    values = np.random.default_rng(0).normal(5, 2, 10_000)
    values[:500] = 1e6
    assert abs(measure_deviation(values)[500:].std() - 1) < 0.15
