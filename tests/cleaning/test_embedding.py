"""Features: components, distances and the map, also where only some images are looked at."""

from pathlib import Path

import numpy as np
import pytest

from competition.cleaning import embedding
from competition.cleaning.embedding import (
    describe_features,
    embed,
    find_distances,
    lay_out,
    take_components,
)


def test_components_keep_the_distances_of_few_dimensions() -> None:
    rows = np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32)
    points = take_components(rows, seed=0)
    np.testing.assert_allclose(
        np.linalg.norm(points[0] - points[1:], axis=1),
        np.linalg.norm(rows[0] - rows[1:], axis=1),
        rtol=1e-3,
    )


def test_pixels_embedded_batch_by_batch_are_those_embedded_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    images = np.random.default_rng(0).integers(0, 256, (70, 32, 32, 3), np.uint8)
    at_once, _ = embed(images, "mobilenetv3small", None, seed=0)
    monkeypatch.setattr(embedding, "BATCH_SIZE", 7)
    by_batch, textures = embed(images, "mobilenetv3small", None, seed=0)
    np.testing.assert_allclose(by_batch, at_once, rtol=1e-4, atol=1e-3)
    assert textures is None


def test_the_distance_to_the_second_nearest_leaves_the_point_itself_out() -> None:
    points = np.array([[0.0], [1.0], [3.0], [10.0]], np.float32)
    np.testing.assert_allclose(find_distances(points, 2, seed=0), [3, 2, 3, 9], atol=1e-4)
    np.testing.assert_allclose(find_distances(points, 9, seed=0), [10, 9, 7, 10], atol=1e-4)


def test_classes_that_lie_apart_do_so_on_the_map() -> None:
    generator = np.random.default_rng(0)
    points = np.concatenate([generator.normal(centre, 1, (40, 8)) for centre in (0, 30)]).astype(
        np.float32
    )
    places = lay_out(points, 10.0, 250, 1000, seed=0)
    first, second = places[:40], places[40:]
    reach = max(np.linalg.norm(part - part.mean(0), axis=1).max() for part in (first, second))
    assert np.linalg.norm(first.mean(0) - second.mean(0)) > reach


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # no variance to divide by
def test_equal_images_have_one_place_on_the_map() -> None:
    points = take_components(np.full((60, 40), 7, np.float32), seed=0)
    places = lay_out(points, perplexity=30.0, iterations=250, maximum=1000, seed=0)
    np.testing.assert_array_equal(places, np.zeros((60, 2)))


def test_features_that_come_by_wheel_have_the_pixels_beside_them_at_the_same_scale(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (70, 32, 32, 3), np.uint8)
    features = 1e-3 * generator.normal(size=(70, 90)).astype(np.float32)
    monkeypatch.setattr(embedding, "_embed_by_backbone", lambda *_: (features, features))
    both, _ = embed(images, "efficientnetlite0", Path("there"), seed=0)
    assert both.shape == (70, 100)
    for part in (both[:, :50], both[:, 50:]):
        assert np.square(part).sum(1).mean() == pytest.approx(1, rel=1e-4)
    alone, _ = embed(images, "mobilenetv3small", Path("there"), seed=0)
    np.testing.assert_array_equal(alone, features)
    assert describe_features("efficientnetlite0", None) == "pixels"
    assert describe_features("efficientnetlite0", Path()) == (
        "EfficientNet-Lite0 features and pixels"
    )
