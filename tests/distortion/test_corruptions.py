"""Single corruptions: their numbers against PIL, scipy and formulas; they grow with severity."""

import colorsys
import io

import numpy as np
import pytest
import scipy.ndimage
from PIL import Image, ImageEnhance

from competition.distortion import corruptions
from competition.distortion.corruptions import MICROSCOPE, UNSEEN
from tests.factories import make_images

ALL = MICROSCOPE | UNSEEN
RNG = np.random.default_rng(0)


def make_image(side: int = 96) -> np.ndarray:
    return make_images(1, side)[0].astype(np.float32)


@pytest.mark.parametrize("name", ALL)
def test_a_corruption_is_repeatable_stays_in_range_and_grows_with_severity(name: str) -> None:
    images = make_images(12, 64).astype(np.float32)
    changes = []
    for severity in range(1, 6):
        corrupted = [
            ALL[name](image, np.random.default_rng(seed), severity)
            for seed, image in enumerate(images)
        ]
        again = ALL[name](images[0], np.random.default_rng(0), severity)
        np.testing.assert_array_equal(corrupted[0], again)
        assert all(
            image.dtype == np.float32 and 0 <= image.min() <= image.max() <= 255
            for image in corrupted
        )
        changes.append(
            np.mean([abs(one - other).mean() for one, other in zip(images, corrupted, strict=True)])
        )
    assert (np.diff(changes) > 0).all()
    assert len(ALL[name].severities) == 5


@pytest.mark.parametrize("kind", ["Brightness", "Contrast"])
@pytest.mark.parametrize("factor", [0.5, 1.3])
def test_brightness_and_contrast_agree_with_pil(kind: str, factor: float) -> None:
    image = make_image()
    ours = getattr(corruptions, f"scale_{kind.lower()}")(image, RNG, factor)
    pil = getattr(ImageEnhance, kind)(Image.fromarray(image.astype(np.uint8))).enhance(factor)
    np.testing.assert_allclose(np.clip(ours, 0, 255), np.asarray(pil, np.float32), atol=1.6)


def test_saturation_agrees_with_hsv() -> None:
    image = make_image(8)
    ours = corruptions.saturate(image, RNG, 0.2)
    for pixel, result in zip(image.reshape(-1, 3), ours.reshape(-1, 3), strict=True):
        hue, saturation, value = colorsys.rgb_to_hsv(*pixel / 255)
        expected = colorsys.hsv_to_rgb(hue, min(1, saturation + 0.2), value)
        np.testing.assert_allclose(result / 255, expected, atol=1e-4)
    grey = np.full((4, 4, 3), 90, np.float32)
    np.testing.assert_array_equal(corruptions.saturate(grey, RNG, 0.2), grey)
    np.testing.assert_array_equal(corruptions.saturate(0 * grey, RNG, 0.2), 0 * grey)


def test_correlation_agrees_with_scipy() -> None:
    image, kernel = make_image(20), np.random.default_rng(1).random((5, 5))
    expected = scipy.ndimage.correlate(image, kernel[..., None], mode="mirror")
    np.testing.assert_allclose(corruptions.correlate(image, kernel), expected, rtol=1e-4)


def test_defocus_spreads_a_point_over_a_disc_that_scales_with_the_image() -> None:
    point = np.zeros((112, 112, 3), np.float32)
    point[56, 56] = 255
    spread = corruptions.defocus(point, RNG, 6)[
        ..., 0
    ]  # a radius of 3 in an image of half the side
    rows, columns = np.nonzero(spread)
    assert np.hypot(rows - 56, columns - 56).max() == pytest.approx(3, abs=0.5)
    assert spread.sum() == pytest.approx(255, rel=1e-4)
    assert spread[56, 56] == pytest.approx(255 / (np.pi * 3**2), rel=0.05)


def test_motion_draws_a_point_out_along_one_line() -> None:
    point = np.zeros((224, 224, 3), np.float32)
    point[112, 112] = 255
    blurred = corruptions.motion_blur(point, np.random.default_rng(3), (10, 9))[..., 0]
    assert blurred.sum() == pytest.approx(255, rel=1e-4)
    rows, columns = np.nonzero(blurred)
    spread = np.linalg.eigvalsh(np.cov(rows - 112, columns - 112, aweights=blurred[rows, columns]))
    weights = np.exp(-(np.arange(21) ** 2) / (2 * 9**2))
    expected = np.cov(np.arange(21), aweights=weights)
    assert spread[1] == pytest.approx(expected, rel=0.05)
    assert spread[0] < 0.4


def test_jpeg_and_pixelation_are_pils() -> None:
    image = make_image()
    stream = io.BytesIO()
    Image.fromarray(image.astype(np.uint8)).save(stream, "JPEG", quality=10)
    np.testing.assert_array_equal(
        corruptions.compress(image, RNG, 10), np.asarray(Image.open(stream))
    )
    blocks = image.reshape(24, 4, 24, 4, 3).mean(axis=(1, 3)).repeat(4, axis=0).repeat(4, axis=1)
    np.testing.assert_allclose(
        corruptions.pixelate(image, RNG, 0.25), blocks, atol=1.01
    )  # PIL rounds columns and rows


def test_noise_has_its_deviation_and_impulses_their_share() -> None:
    grey = np.full((100, 100, 3), 128, np.float32)
    assert corruptions.add_noise(grey, np.random.default_rng(0), 0.1).std() == pytest.approx(
        25.5, rel=0.02
    )
    impulses = corruptions.add_impulses(grey, np.random.default_rng(0), 0.2)
    assert np.mean(impulses == 0) == pytest.approx(0.1, abs=0.01)
    assert np.mean(impulses == 255) == pytest.approx(0.1, abs=0.01)


def test_deposits_darken_and_bubbles_lighten() -> None:
    grey = np.full((96, 96, 3), 150, np.float32)
    stained = MICROSCOPE["stain_deposit"](grey, np.random.default_rng(0), 5)
    assert (stained <= grey).all()
    np.testing.assert_allclose(
        stained.min(axis=(0, 1)), 150 * np.array(corruptions.VIOLET) ** _layers(stained), rtol=0.01
    )
    bubbly = MICROSCOPE["bubble"](grey, np.random.default_rng(0), 5)
    assert (bubbly >= grey).all()
    assert bubbly.max() <= 150 + 105 * 131 / 255


def _layers(stained: np.ndarray) -> float:
    """Return how many clots lie over each other at the darkest place."""
    return round(float(np.log(stained[..., 0].min() / 150) / np.log(corruptions.VIOLET[0])))


def test_sampling_agrees_with_scipy() -> None:
    image, generator = make_image(20), np.random.default_rng(2)
    places = generator.uniform(-3, 23, (2, 20, 20)).astype(np.float32)
    expected = [
        scipy.ndimage.map_coordinates(image[..., c], places, order=1, mode="nearest")
        for c in range(3)
    ]
    np.testing.assert_allclose(
        corruptions.sample(image, *places), np.stack(expected, axis=-1), atol=0.01
    )


def test_channels_part_in_opposite_directions_and_green_stays() -> None:
    image = np.zeros((100, 100, 3), np.float32)
    image[50, 50] = 255
    parted = corruptions.part_channels(image, np.random.default_rng(0), 0.1)
    centres = (
        np.array([scipy.ndimage.center_of_mass(parted[..., channel]) for channel in range(3)]) - 50
    )
    np.testing.assert_allclose(centres[1], 0, atol=1e-6)
    np.testing.assert_allclose(centres[0], -centres[2], atol=1e-3)
    assert np.hypot(*centres[0]) == pytest.approx(10, abs=1e-3)


def test_shade_is_full_light_at_one_place_and_darkest_at_a_corner() -> None:
    shaded = corruptions.shade(
        np.full((50, 40, 3), 200, np.float32), np.random.default_rng(1), 0.6
    )[..., 0]
    assert shaded.max() == pytest.approx(200, abs=0.5)
    assert shaded.min() == pytest.approx(80, abs=0.1)
    assert min(shaded[row, column] for row in (0, -1) for column in (0, -1)) == shaded.min()


def test_haze_pulls_towards_its_grey() -> None:
    black = np.zeros((64, 64, 3), np.float32)
    hazy = np.mean(
        [corruptions.add_haze(black, np.random.default_rng(seed), 0.4).mean() for seed in range(60)]
    )
    assert hazy == pytest.approx(0.4 * corruptions.HAZE, rel=0.08)


def test_scan_lines_repeat_from_row_to_row_alone() -> None:
    lines = corruptions.add_scan_lines(
        np.full((90, 30, 3), 100, np.float32), np.random.default_rng(0), 0.1
    )
    assert np.ptp(lines, axis=(1, 2)).max() == 0
    assert abs(lines - 100).max() == pytest.approx(25.5, rel=0.1)
    strength = abs(np.fft.rfft(lines[:, 0, 0] - lines.mean()))
    assert 90 / 9 - 1 <= strength.argmax() <= 90 / 3 + 1
