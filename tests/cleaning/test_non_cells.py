"""Non-cells: clusters that share an image or carry random labels go, kinds of cells stay."""

import numpy as np

from competition.cleaning.non_cells import (
    CHUNK,
    DETAIL_SIDE,
    extract_details,
    find_meaningless_clusters,
    find_shared_images,
    measure_label_distance,
)
from competition.config import CleaningConfig

CONFIG = CleaningConfig(cluster_size=10)


def place_classes(
    generator: np.random.Generator, count: int, centre: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return points (count, 4) around `centre`, and labels; each label has its own direction."""
    labels = np.arange(count) % 3
    return generator.normal(0, 0.3, (count, 4)) + 3 * np.eye(4)[labels] + centre, labels


def test_a_cluster_apart_whose_labels_are_at_random_holds_no_cells() -> None:
    generator = np.random.default_rng(0)
    cells, labels = place_classes(generator, 300, 0)
    points = np.concatenate([cells, generator.normal(50, 1, (60, 4))])
    labels = np.concatenate([labels, generator.integers(0, 3, 60)])
    found = find_meaningless_clusters(points, labels, [np.arange(300, 360)], CONFIG)
    assert [kind.members.tolist() for kind in found] == [list(range(300, 360))]


def test_cells_of_another_stain_stay_although_they_lie_apart_and_carry_every_label() -> None:
    generator = np.random.default_rng(0)
    parts = [place_classes(generator, 300, 0), place_classes(generator, 60, 50)]
    points, labels = (np.concatenate(part) for part in zip(*parts, strict=True))
    assert measure_label_distance(labels, np.arange(360) >= 300) < CONFIG.label_distance
    assert find_meaningless_clusters(points, labels, [np.arange(300, 360)], CONFIG) == []


def test_where_labels_have_nothing_to_do_with_images_no_cluster_is_blamed() -> None:
    generator = np.random.default_rng(
        4
    )  # over all of this draw's images, labels agree less often than by chance
    points = np.concatenate([generator.normal(0, 1, (300, 4)), generator.normal(50, 1, (60, 4))])
    assert (
        find_meaningless_clusters(
            points, generator.integers(0, 3, 360), [np.arange(300, 360)], CONFIG
        )
        == []
    )


def test_members_are_found_outside_of_the_cluster_and_cells_inside_are_spared() -> None:
    generator = np.random.default_rng(0)
    details = generator.normal(0, 20, (200, 400)).astype(np.int8)
    shared = generator.normal(0, 30, 400)
    details[:50] = (details[:50] + shared).astype(np.int8)
    found = find_shared_images(details, np.arange(200) % 4, [np.arange(5, 55)], CONFIG)
    assert [kind.members.tolist() for kind in found] == [list(range(50))]


def test_details_are_one_row_of_whole_grey_levels_for_each_image_asked_for() -> None:
    images = np.random.default_rng(0).integers(
        0, 256, (5, 2 * DETAIL_SIDE, 2 * DETAIL_SIDE, 3), np.uint8
    )
    indices = np.arange(CHUNK + 3) % 5
    details = extract_details(images, indices)
    assert details.shape == (CHUNK + 3, DETAIL_SIDE**2)
    assert details.dtype == np.int8
    np.testing.assert_array_equal(
        details[CHUNK + 1], extract_details(images, indices[CHUNK + 1 :])[0]
    )
    assert not extract_details(np.full_like(images[:1], 77), np.array([0])).any()


def test_cells_of_every_label_that_share_a_little_stay() -> None:
    generator = np.random.default_rng(0)
    details = generator.normal(0, 20, (200, 400)).astype(np.int8)
    shared = generator.normal(0, 10, 400)
    details[:50] = (details[:50] + shared).astype(np.int8)
    assert find_shared_images(details, np.arange(200) % 4, [np.arange(50)], CONFIG) == []
