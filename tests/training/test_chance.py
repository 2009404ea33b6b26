"""A network beats chance by more than the interval of its accuracy."""

import numpy as np

from competition.training.chance import beats_chance, chance_level

LABELS = np.repeat([0, 1, 2], [50, 25, 25])


def test_the_chance_level_is_the_share_of_the_commonest_class() -> None:
    assert chance_level(LABELS) == 0.5


def test_chance_is_beaten_by_more_than_the_interval_of_the_accuracy() -> None:
    assert not beats_chance(0.5, LABELS)
    assert not beats_chance(0.59, LABELS)
    assert beats_chance(0.6, LABELS)


def test_the_more_images_the_less_is_enough() -> None:
    assert beats_chance(0.52, np.repeat(LABELS, 100))
    assert not beats_chance(0.75, LABELS[48:52])
    assert beats_chance(1.0, LABELS)
