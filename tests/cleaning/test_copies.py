"""Copies: altered images are traced to their original, different ones that look alike are not."""

import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from competition.cleaning.copies import Copy, find_copies, group_copies, match_images
from competition.config import CleaningConfig

SIDE = 64
CONFIG = CleaningConfig()


def draw_cells(count: int, seed: int = 0) -> np.ndarray:
    """Return dark, mottled discs of one colour and nearly one size on a bright ground."""
    generator = np.random.default_rng(seed)
    rows, columns = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
    images = np.empty((count, SIDE, SIDE, 3), np.uint8)
    for image in images:
        radius = SIDE / 4 + generator.uniform(-2, 2)
        inside = np.clip(0.5 + (radius - np.hypot(rows, columns)) / 6, 0, 1)[..., None]
        coarse = generator.normal(0, 30, (SIDE // 4, SIDE // 4, 1)).repeat(4, 0).repeat(4, 1)
        ground = 215 + generator.normal(0, 5, (SIDE // 8, SIDE // 8, 1)).repeat(8, 0).repeat(8, 1)
        image[:] = np.clip(ground + inside * (np.array([90, 50, 130]) + coarse - ground), 0, 255)
    return images


def shift(image: np.ndarray, down: int, right: int, mode: str = "reflect") -> np.ndarray:
    padded = np.pad(image, ((2, 2), (2, 2), (0, 0)), mode)  # type: ignore[call-overload]
    return np.asarray(padded[2 - down : 2 - down + SIDE, 2 - right : 2 - right + SIDE])


def compress(image: np.ndarray) -> np.ndarray:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "JPEG", quality=75)
    return np.asarray(Image.open(stream))


def brighten(image: np.ndarray) -> np.ndarray:
    return np.clip(image * 1.2, 0, 255).astype(np.uint8)


def add_noise(image: np.ndarray) -> np.ndarray:
    return np.clip(image + np.random.default_rng(1).normal(0, 6, image.shape), 0, 255).astype(
        np.uint8
    )


ALTERATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "shifted, mirrored border": lambda image: shift(image, 2, -1),
    "shifted, black border": lambda image: shift(image, -2, 2, "constant"),
    "brighter": brighten,
    "darker": lambda image: np.clip(image * 0.8 - 10, 0, 255).astype(np.uint8),
    "noisier": add_noise,
    "compressed": compress,
    "flipped": lambda image: image[:, ::-1],
    "rotated": np.rot90,
    "rotated and compressed": lambda image: compress(np.rot90(image).copy()),
    "shifted and brighter": lambda image: brighten(shift(image, 1, 2)),
    "flipped and noisier": lambda image: add_noise(image[::-1]),
}


def find(images: np.ndarray) -> list[Copy]:
    return find_copies(images, np.ones(len(images), bool), CONFIG)


def test_different_images_that_look_alike_are_no_copies() -> None:
    assert find(draw_cells(60)) == []


def test_images_that_differ_by_a_soft_spot_alone_are_no_copies() -> None:
    images = draw_cells(20)
    rows, columns = np.mgrid[:SIDE, :SIDE]
    spot = 90 * np.exp(-((rows - 14) ** 2 + (columns - 48) ** 2) / 150)
    images[9] = np.clip(images[2] - spot[..., None], 0, 255)
    assert find(images) == []


@pytest.mark.parametrize("name", ALTERATIONS)
def test_an_altered_copy_is_found_alone(name: str) -> None:
    images = draw_cells(40)
    images[30] = ALTERATIONS[name](images[7])
    (copy,) = find(images)
    assert (copy.index, copy.original, copy.exact) == (30, 7, False)
    assert CONFIG.copy_score <= copy.score <= 1


def test_an_exact_copy_has_a_score_of_one_and_one_different_pixel_makes_it_a_near_one() -> None:
    images = draw_cells(12)
    images[5], images[9] = images[2], images[2]
    images[9, 30, 30, 0] += 1
    exact, near = find(images)
    assert (exact.index, exact.original, exact.exact, exact.score) == (5, 2, True, 1.0)
    assert (near.index, near.original, near.exact) == (9, 2, False)


@pytest.mark.parametrize("quarters", range(4))
@pytest.mark.parametrize("flipped", [False, True])
def test_a_match_tells_the_turn_and_the_shift_that_make_the_copy(
    quarters: int, flipped: bool
) -> None:
    source = draw_cells(1)[0]
    turned = np.rot90(source.swapaxes(0, 1) if flipped else source, quarters)
    match = match_images(source, shift(turned, 1, -2), reach=3)
    assert (match.turn, match.down, match.right) == (quarters + 4 * flipped, 1, -2)
    assert match.score > 0.99


def test_a_copy_says_how_it_was_made() -> None:
    images = draw_cells(20)
    images[11] = np.maximum(shift(np.rot90(images[4]), 1, -2), 10) - 10
    images[17] = images[3][:, ::-1]
    flipped, rotated = sorted(find(images), key=lambda copy: copy.original)
    assert flipped.how == "image 3 flipped left to right"
    assert rotated.how == "image 4 rotated by 90 degrees, shifted by (1, -2), 10 grey levels darker"


def test_copies_of_copies_belong_to_the_first_image_of_the_group() -> None:
    images = draw_cells(30)
    images[12] = shift(images[20], 2, 2)
    images[25] = shift(images[12], 2, 2)  # too far from 20 to match it
    images[28] = images[25]
    copies = find(images)
    assert [(copy.index, copy.original, copy.exact) for copy in copies] == [
        (20, 12, False), (25, 12, False), (28, 12, True),
    ]  # fmt: skip
    groups = group_copies(copies, 30)
    assert groups.dtype == np.int64
    assert np.flatnonzero(groups == 12).tolist() == [12, 20, 25, 28]
    assert len(np.unique(groups)) == 27


def test_images_that_are_not_sound_are_left_out() -> None:
    images = draw_cells(20)
    images[[4, 9]] = images[2]
    images[15] = images[3][::-1]
    sound = np.ones(20, bool)
    sound[[2, 15]] = False
    assert [(copy.index, copy.original) for copy in find_copies(images, sound, CONFIG)] == [(9, 4)]


@pytest.mark.parametrize("count", [0, 1, 2])
def test_a_handful_of_images_has_no_copies(count: int) -> None:
    assert find(draw_cells(count)) == []


def test_small_images_have_exact_copies_alone() -> None:
    images = draw_cells(20)[:, :40, :40]
    images[7], images[9] = images[2], images[3][::-1]
    assert [(copy.index, copy.original) for copy in find(images)] == [(7, 2)]
