"""The distortion profiles: the numbers of each operation, and that an image's draw is its own."""

from collections.abc import Callable

import numpy as np
import pytest
import scipy.ndimage
from PIL import Image, ImageOps

from competition.augmentation.augment import AUGMENTATIONS
from competition.common.errors import UserError
from competition.config import SECTION_PRESETS, AugmentationConfig
from competition.distortion import profiles as distortion
from competition.distortion.corruptions import MICROSCOPE, UNSEEN
from tests.factories import make_images


@pytest.mark.parametrize("profile", distortion.PROFILES)
def test_distorted_images_keep_shape_and_type_and_differ(profile: str) -> None:
    images = make_images(12, side=96)  # smaller ones have no room for the lightest blur
    distorted = distortion.distort(images, profile, seed=1)
    assert distorted.shape == images.shape
    assert distorted.dtype == np.uint8
    assert all((one != other).any() for one, other in zip(images, distorted, strict=True))


@pytest.mark.parametrize("profile", distortion.PROFILES)
def test_a_draw_depends_only_on_seed_and_index(profile: str) -> None:
    images = make_images()
    all_of_them = distortion.distort(images, profile, seed=1)
    np.testing.assert_array_equal(distortion.distort(images[:2], profile, seed=1), all_of_them[:2])
    assert (distortion.distort(images, profile, seed=2) != all_of_them).any()


def test_the_named_severities_are_what_was_done() -> None:
    images = np.repeat(make_images(1, side=96), 20, axis=0)
    distorted = distortion.distort(images, "unseen", seed=4)
    names, drawn = distortion.draw_corruptions("unseen", len(images), seed=4)
    haze = [index for index, name in enumerate(names) if name == "haze"]
    assert len(set(drawn[haze])) > 1
    for index in haze:
        rng = distortion._generator("unseen", 4, index)
        distortion._choose(rng, UNSEEN)
        expected = UNSEEN["haze"](images[index].astype(np.float32), rng, drawn[index])
        np.testing.assert_array_equal(distorted[index], np.rint(expected))


def test_the_named_families_are_what_was_done() -> None:
    images = np.repeat(make_images(1), 60, axis=0)
    distorted = distortion.distort(images, "microscope", seed=4)
    names, _ = distortion.draw_corruptions("microscope", len(images), seed=4)
    assert set(names) <= set(MICROSCOPE)
    assert len(set(names)) >= 10
    brighter = distorted.mean(axis=(1, 2, 3)) > images[0].mean() + 5
    assert set(names[brighter]) <= {"brightness_up", "bubble", "contrast_up", "noise"}
    assert brighter[names == "brightness_up"].all()


def test_every_family_and_severity_is_drawn_about_as_often() -> None:
    drawn_names, _ = distortion.draw_corruptions("unseen", 1200, seed=0)
    names, counts = np.unique(drawn_names, return_counts=True)
    assert set(names) == set(UNSEEN)
    assert counts.min() > 150
    drawn = [distortion._choose(np.random.default_rng(seed), UNSEEN)[1] for seed in range(500)]
    assert min(np.bincount(drawn, minlength=6)[1:]) > 70


def test_no_preset_of_the_augmentation_contains_an_unseen_family() -> None:
    how = {
        "magnitude",
        "magnitude_deviation",
        "rate",
        "fill",
        "interpolation",
        "black_shift_rate",
        "occasional_rate",
    }
    settings = {row.setting for row in AUGMENTATIONS}
    assert set(vars(AugmentationConfig())) == how | settings, "a setting must name its families"
    for name, config in SECTION_PRESETS["augmentation"].items():
        rows = [row for row in AUGMENTATIONS if getattr(config, row.setting)]
        families = {family for row in rows for family in row.families}
        assert not families & set(UNSEEN), name
        assert name != "strong" or {"affine_warp", "blur", "noise"} <= families


def test_a_preview_shows_each_corruption_in_rising_severity() -> None:
    images = make_images(12)
    sheet = distortion.preview(images, "unseen", seed=0).reshape(-1, 6, 24, 24, 3).astype(float)
    np.testing.assert_array_equal(sheet[:, 0], images[: len(UNSEEN)])
    change = abs(sheet - sheet[:, :1]).mean(axis=(2, 3, 4))
    assert (change[:, 5] > change[:, 1]).all()
    assert len(distortion.preview(images, "revealed", seed=0)) == 6 * 12


def test_versions_to_select_by_come_in_one_order_and_unknown_ones_are_refused() -> None:
    assert distortion.selected_versions("revealed+clean") == ("clean", "revealed")
    assert distortion.selected_versions("unseen") == ("unseen",)
    with pytest.raises(UserError, match="did you mean 'microscope'"):
        distortion.selected_versions("clean+microscop")


def test_equal_images_are_distorted_in_many_ways() -> None:
    distorted = distortion.distort(np.repeat(make_images(1), 20, axis=0), "revealed", seed=0)
    assert len({image.tobytes() for image in distorted}) >= 19


def test_no_images_give_no_images() -> None:
    assert distortion.distort(make_images()[:0], "revealed", seed=0).shape == (0, 24, 24, 3)


def test_the_shift_leaves_black_at_the_left_and_the_bottom_alone() -> None:
    image = np.full((100, 100, 3), 200, np.float32)
    image[6, 0] = 77
    shifted = distortion.shift_black(image, np.random.default_rng(0), low=0.05, high=0.05)
    assert (shifted[:, :5] == 0).all()
    assert (shifted[95:] == 0).all()
    assert (shifted[:95, 5:] > 0).all()
    assert (shifted[1, 5] == 77).all()


def test_revealed_images_are_darkest_at_the_left_and_the_bottom() -> None:
    light = distortion.distort(np.full((200, 40, 40, 3), 220, np.uint8), "revealed", seed=0).mean(
        axis=(0, 3)
    )
    assert light[:, 0].mean() < light[:, -1].mean() - 20
    assert light[-1].mean() < light[0].mean() - 20


def test_the_contrast_is_stretched_as_pil_does() -> None:
    image = make_images()[0]
    expected = np.asarray(ImageOps.autocontrast(Image.fromarray(image)), np.float32)
    result = distortion.auto_contrast(image.astype(np.float32))
    np.testing.assert_allclose(result, expected, atol=1.0)


def test_a_flat_image_survives_histogram_operations() -> None:
    flat = np.full((8, 8, 3), 90, np.float32)
    np.testing.assert_array_equal(distortion.auto_contrast(flat), flat)
    np.testing.assert_array_equal(distortion.equalize(flat), flat)


def test_solarize_adds_then_inverts_from_the_threshold_on() -> None:
    image = np.array([[[10, 100, 250]]], np.float32)
    np.testing.assert_array_equal(distortion.solarize(image, 20, 120), [[[30, 135, 0]]])


def test_color_degeneration_agrees_with_pil() -> None:
    image = make_images()[0]
    grey = np.asarray(Image.fromarray(image).convert("L"), np.float32)[..., None]
    for share in (0.0, 0.4, 1.0):
        expected = (1 - share) * image + share * grey
        np.testing.assert_allclose(
            distortion.degenerate_color(image.astype(np.float32), share), expected, atol=1.0
        )


def test_contrast_and_brightness_follow_their_formulas() -> None:
    image = make_images()[0].astype(np.float32)
    mean = image.mean(axis=(0, 1))
    np.testing.assert_allclose(
        distortion.adjust_contrast(image, 1.5),
        np.clip((image - mean) * 1.5 + mean, 0, 255),
        atol=0.01,
    )
    np.testing.assert_allclose(
        distortion.adjust_brightness(image, -0.3), np.clip(image - 76.5, 0, 255), atol=0.01
    )


@pytest.mark.parametrize(
    ("function", "matrix", "offset"),
    [
        (distortion.shear_x, [[1, 0], [0.3, 1]], (0, 0)),
        (distortion.shear_y, [[1, 0.3], [0, 1]], (0, 0)),
        (distortion.translate_x, [[1, 0], [0, 1]], (0, -0.3 * 24)),
        (distortion.translate_y, [[1, 0], [0, 1]], (-0.3 * 24, 0)),
    ],
)
def test_geometry_agrees_with_scipy(
    function: Callable[[np.ndarray, float], np.ndarray],
    matrix: list[list[float]],
    offset: tuple[float, float],
) -> None:
    image = make_images()[0].astype(np.float32)
    expected = np.stack(
        [
            scipy.ndimage.affine_transform(
                image[..., channel], matrix, offset, order=1, mode="reflect"
            )
            for channel in range(3)
        ],
        axis=-1,
    )
    np.testing.assert_allclose(function(image, 0.3), expected, atol=0.02)


def test_strengths_stay_within_their_bounds() -> None:
    rng, strength = np.random.default_rng(0), distortion.Strength(magnitude=0.5, deviation=0.4)
    drawn = np.array([strength.draw(rng) for _ in range(300)])
    assert drawn.min() == 0
    assert drawn.max() == 1
    even = np.array([strength.draw_even(rng) for _ in range(300)])
    assert abs(even).max() <= 0.5
    assert even.min() < -0.4 < 0.4 < even.max()
