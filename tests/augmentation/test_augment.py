"""Augmentation: the numbers of its operations against numpy, scipy or `distortion`; its draws."""

import dataclasses
import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import scipy.ndimage
from keras import ops
from PIL import Image, ImageOps

from competition.augmentation import operations as image_operations
from competition.augmentation import rand_augment
from competition.augmentation.augment import (
    EVEN_DRAWS,
    OPERATION_DRAWS,
    augment,
    augment_batch,
    compile_augmentation,
    draw,
    mix,
)
from competition.config import (
    MILD_AUGMENTATION,
    NO_AUGMENTATION,
    SECTION_PRESETS,
    AugmentationConfig,
)
from competition.distortion import profiles as distortion
from tests import factories

PRESETS: dict[str, AugmentationConfig] = SECTION_PRESETS["augmentation"]
SIDE = 16
NEAREST = Image.Resampling.NEAREST
STILL = NO_AUGMENTATION


def make_images(count: int = 4) -> np.ndarray:
    """Return blobs on a light ground, (count, SIDE, SIDE, 3) uint8."""
    return factories.make_images(count, SIDE)


def make_draws(count: int, **changes: float | list[float]) -> dict[str, Any]:
    """Return draws for which nothing happens and every amount is 0, but for `changes`."""
    draws: dict[str, Any] = {name: np.full(count, 0.5, np.float32) for name in EVEN_DRAWS}
    draws |= {name: np.ones(count, np.float32) for name in EVEN_DRAWS if name.endswith("_on")}
    for name, value in changes.items():
        draws[name] = np.broadcast_to(np.asarray(value, np.float32), (count,))
    return {name: ops.convert_to_tensor(value) for name, value in draws.items()}


def make_operation(name: str, count: int, **amounts: float) -> rand_augment.Operation:
    """Return the operation `name` for all images, with 0 for every amount that is not given."""
    values = {
        field: ops.full((count,), amounts.get(field, 0.0))
        for field in ("strength", "second", "signed", "even")
    }
    return rand_augment.Operation(
        chosen=ops.full((count,), rand_augment.OPERATIONS.index(name), "int32"), **values
    )


def to_numpy(tensor: Any) -> np.ndarray:
    return np.asarray(ops.convert_to_numpy(tensor))


def augment_by_seed(config: AugmentationConfig, images: np.ndarray, seed: Any = 0) -> np.ndarray:
    """Return images, each of a class of its own, augmented by a seed or a generator of seeds."""
    generator = keras.random.SeedGenerator(seed) if isinstance(seed, int) else seed
    labels = np.eye(len(images), dtype=np.float32)
    return to_numpy(augment_batch(images, labels, config, generator)[0])


def each(images: np.ndarray, *functions: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Return every image, as float32, after `functions`."""
    results = []
    for image in images.astype(np.float32):
        for function in functions:
            image = function(image)
        results.append(image)
    return np.stack(results)


def equal_images(count: int) -> np.ndarray:
    return np.repeat(make_images(1), count, axis=0)


TONES: list[tuple[str, dict[str, float], Callable[[np.ndarray], np.ndarray]]] = [
    ("auto_contrast", {}, distortion.auto_contrast),
    ("equalize", {}, distortion.equalize),
    (
        "solarize",
        {"strength": 0.2, "second": 0.4},
        lambda image: distortion.solarize(image, 110 * 0.2, 255 - 255 * 0.4),
    ),
    ("contrast", {"even": 0.4}, lambda image: distortion.adjust_contrast(image, 1.4)),
    ("brightness", {"even": -0.3}, lambda image: distortion.adjust_brightness(image, -0.3)),
]


@pytest.mark.parametrize(
    ("name", "amounts", "reference"), TONES, ids=[name for name, _, _ in TONES]
)
def test_a_tone_operation_agrees_with_its_reference(
    name: str, amounts: dict[str, float], reference: Callable[[np.ndarray], np.ndarray]
) -> None:
    images = make_images()
    result = rand_augment.apply_tables(
        ops.convert_to_tensor(images), [make_operation(name, len(images), **amounts)]
    )
    np.testing.assert_allclose(to_numpy(result), each(images, reference), atol=0.01)


@pytest.mark.parametrize("order", [(0, 3), (3, 1), (1, 2, 0), (4, 2, 1)])
def test_tone_operations_are_applied_in_their_order(order: tuple[int, ...]) -> None:
    images = make_images()
    operations = [
        make_operation(TONES[index][0], len(images), **TONES[index][1]) for index in order
    ]
    result = to_numpy(rand_augment.apply_tables(ops.convert_to_tensor(images), operations))
    difference = np.abs(result - each(images, *(TONES[index][2] for index in order)))
    assert (
        np.mean(difference < 0.01) > 0.99
    )  # a value on the edge of rounding may fall to the other side


def test_a_flat_image_survives_every_tone_operation() -> None:
    flat = np.full((1, SIDE, SIDE, 3), 90, np.uint8)
    for name in ("auto_contrast", "equalize", "contrast"):
        result = rand_augment.apply_tables(
            ops.convert_to_tensor(flat), [make_operation(name, 1, even=0.5)]
        )
        np.testing.assert_allclose(to_numpy(result), flat, atol=0.01)


def test_color_degeneration_comes_before_the_tables_only_where_it_was_drawn_first() -> None:
    color, tone = make_operation("degenerate_color", 1, strength=0.4), make_operation("equalize", 1)
    shares = [to_numpy(share)[0] for share in rand_augment.color_shares([color, tone, color])]
    np.testing.assert_allclose(shares, [0.4, 0.4], atol=1e-6)
    shares = [to_numpy(share)[0] for share in rand_augment.color_shares([color, color, tone])]
    np.testing.assert_allclose(shares, [1 - 0.6**2, 0], atol=1e-6)


def test_color_degeneration_agrees_with_its_reference() -> None:
    images = make_images()
    matrix = image_operations.degeneration(ops.full((4,), 0.4))
    result = image_operations.mix_colors(
        ops.convert_to_tensor(images, "float32"), matrix, ops.zeros((4, 3))
    )
    np.testing.assert_allclose(
        to_numpy(result),
        each(images, lambda image: distortion.degenerate_color(image, 0.4)),
        atol=0.1,
    )


GEOMETRY: list[tuple[str, dict[str, float], Callable[[np.ndarray], np.ndarray]]] = [
    ("shear_x", {"signed": 0.3}, lambda image: distortion.shear_x(image, 0.3)),
    ("shear_y", {"signed": -0.3}, lambda image: distortion.shear_y(image, -0.3)),
    ("translate_x", {"even": 0.4}, lambda image: distortion.translate_x(image, 0.4)),
    ("translate_y", {"even": -0.4}, lambda image: distortion.translate_y(image, -0.4)),
]


def warp_by(matrix: Any, images: np.ndarray, interpolation: str = "bilinear") -> np.ndarray:
    places = ops.arange(SIDE, dtype="float32")
    x, y = image_operations.place(matrix, places[None, None, :], places[None, :, None])
    x, y = image_operations.mirror(x, SIDE), image_operations.mirror(y, SIDE)
    return to_numpy(image_operations.sample(ops.convert_to_tensor(images), x, y, interpolation))


@pytest.mark.parametrize(
    ("name", "amounts", "reference"), GEOMETRY, ids=[name for name, _, _ in GEOMETRY]
)
def test_shears_and_translations_agree_with_their_reference(
    name: str, amounts: dict[str, float], reference: Callable[[np.ndarray], np.ndarray]
) -> None:
    images = make_images()
    matrix = rand_augment.shear_and_translate(make_operation(name, 4, **amounts), SIDE, SIDE)
    np.testing.assert_allclose(warp_by(matrix, images), each(images, reference), atol=0.05)


@pytest.mark.parametrize("interpolation", ["bilinear", "nearest"])
def test_flips_and_transposition_are_exact(interpolation: str) -> None:
    images = make_images()
    config = dataclasses.replace(STILL, flips=True, transposition=True, interpolation=interpolation)
    for name, expected in {
        "flip_x": images[:, :, ::-1],
        "flip_y": images[:, ::-1],
        "transpose": images.transpose(0, 2, 1, 3),
    }.items():
        result = to_numpy(
            augment(ops.convert_to_tensor(images), make_draws(4, **{name: 0.1}), config)
        )
        np.testing.assert_array_equal(result, expected)


def test_all_three_mirrors_together_are_the_other_transposition() -> None:
    images = make_images()
    config = dataclasses.replace(STILL, flips=True, transposition=True)
    draws = make_draws(4, flip_x=0.1, flip_y=0.1, transpose=0.1)
    result = to_numpy(augment(ops.convert_to_tensor(images), draws, config))
    np.testing.assert_array_equal(result, images[:, ::-1, ::-1].transpose(0, 2, 1, 3))


def test_rotation_agrees_with_scipy() -> None:
    images = make_images()
    config = dataclasses.replace(STILL, rotation=0.1)
    result = to_numpy(augment(ops.convert_to_tensor(images), make_draws(4, rotation=1.0), config))
    angle = 36.0
    rotated = scipy.ndimage.rotate(
        images.astype(np.float32), angle, axes=(1, 2), reshape=False, order=1, mode="reflect"
    )
    np.testing.assert_allclose(result, rotated, atol=0.05)


def test_a_zoom_of_two_shows_the_middle() -> None:
    zeros = ops.zeros((4,), "bool")
    matrix = image_operations.turn_about_center(
        zeros, zeros, zeros, ops.zeros((4,)), ops.full((4,), 2.0), (SIDE, SIDE)
    )
    images = make_images()
    expected = scipy.ndimage.affine_transform(
        images.astype(np.float32), [1, 0.5, 0.5, 1], [0, 3.75, 3.75, 0], order=1, mode="reflect"
    )
    np.testing.assert_allclose(warp_by(matrix, images), expected, atol=0.05)


def test_a_black_shift_leaves_black_behind() -> None:
    images = make_images()
    config = dataclasses.replace(STILL, black_shift=0.25)
    draws = make_draws(4, shift_on=[0.1, 0.1, 0.1, 0.9], shift_x=1.0, shift_y=0.0)
    result = to_numpy(augment(ops.convert_to_tensor(images), draws, config))
    expected = np.zeros_like(images)
    expected[:3, :12, 4:] = images[:3, 4:, :12]
    expected[3] = images[3]
    np.testing.assert_array_equal(result, expected)


def test_constant_fill_is_black_and_reflection_is_not() -> None:
    images = np.full((8, SIDE, SIDE, 3), 200, np.uint8)
    for fill, is_black in (("constant", True), ("reflect", False)):
        config = dataclasses.replace(STILL, rotation=0.125, fill=fill)
        result = to_numpy(
            augment(ops.convert_to_tensor(images), make_draws(8, rotation=1.0), config)
        )
        assert (result.min() == 0) == is_black
        assert result.max() == 200


def test_a_half_turn_of_hue_takes_each_color_to_the_other_side_of_grey() -> None:
    images = ops.convert_to_tensor(make_images(), "float32") * 0.3 + 90.0  # far from clipping
    matrix = image_operations.hue_turn(ops.full((4,), np.pi))
    result = to_numpy(image_operations.mix_colors(images, matrix, ops.zeros((4, 3))))
    luma = to_numpy(images) @ np.array([0.299, 0.587, 0.114])
    np.testing.assert_allclose(result, 2 * luma[..., None] - to_numpy(images), atol=0.2)


def test_a_channel_shift_moves_each_channel_by_its_own_amount() -> None:
    images = np.full((2, SIDE, SIDE, 3), 100, np.uint8)
    config = dataclasses.replace(STILL, channel_shift=0.2, occasional_rate=0.5)
    draws = make_draws(2, channel_shift_on=[0.1, 0.9], red=1.0, green=0.5, blue=0.0)
    result = to_numpy(augment(ops.convert_to_tensor(images), draws, config))
    np.testing.assert_allclose(result[0, 0, 0], [151, 100, 49], atol=0.01)
    np.testing.assert_allclose(result[1], images[1], atol=0.01)


def test_blur_agrees_with_scipy() -> None:
    images = make_images().astype(np.float32)
    result = to_numpy(
        image_operations.blur(
            ops.convert_to_tensor(images), ops.convert_to_tensor([0.0, 0.7, 1.0, 1.2])
        )
    )
    np.testing.assert_allclose(result[0], images[0], atol=0.01)
    for index, sigma in ((1, 0.7), (2, 1.0), (3, 1.2)):
        expected = scipy.ndimage.gaussian_filter(
            images[index], (sigma, sigma, 0), radius=(2, 2, 0), mode="reflect"
        )
        np.testing.assert_allclose(result[index], expected, atol=0.05)


def test_noise_has_the_deviation_asked_for_and_is_another_for_each_image() -> None:
    images = ops.full((3, SIDE, SIDE, 3), 128.0)
    field = ops.convert_to_tensor(np.random.default_rng(0).normal(size=(SIDE * SIDE, 3)), "float32")
    offset, deviation = (
        ops.convert_to_tensor([0, 17, 30], "int32"),
        ops.convert_to_tensor([0.0, 5.0, 5.0]),
    )
    noise = to_numpy(image_operations.add_noise(images, field, offset, deviation)) - 128
    assert (noise[0] == 0).all()
    assert noise[1].std() == pytest.approx(5, rel=0.1)
    assert abs(np.corrcoef(noise[1].ravel(), noise[2].ravel())[0, 1]) < 0.2


def test_cutout_blackens_a_square_of_its_side() -> None:
    images = ops.full((2, SIDE, SIDE, 3), 128.0)
    center, side = ops.full((2,), 0.5), ops.convert_to_tensor([0.25, 0.0])
    result = to_numpy(image_operations.cut_out(images, center, center, side))
    expected = np.full((SIDE, SIDE, 3), 128.0)
    expected[6:10, 6:10] = 0
    np.testing.assert_array_equal(result[0], expected)
    assert (result[1] == 128).all()


def test_grid_mask_blackens_one_square_a_period() -> None:
    images = ops.full((3, SIDE, SIDE, 3), 128.0)
    period, side = ops.convert_to_tensor([0.5, 0.25, 0.5]), ops.convert_to_tensor([0.5, 0.5, 0.0])
    offset_x, offset_y = (
        ops.convert_to_tensor([0.0, 0.5, 0.0]),
        ops.convert_to_tensor([0.25, 0.0, 0.0]),
    )
    result = to_numpy(image_operations.mask_grid(images, period, offset_x, offset_y, side))
    rows, columns = np.zeros((2, SIDE), bool), np.zeros((2, SIDE), bool)
    rows[0, [0, 1, 6, 7, 8, 9, 14, 15]], columns[0, [0, 1, 2, 3, 8, 9, 10, 11]] = True, True
    rows[1, [0, 1, 4, 5, 8, 9, 12, 13]], columns[1, [2, 3, 6, 7, 10, 11, 14, 15]] = True, True
    expected = np.where((rows[:, :, None] & columns[:, None, :])[..., None], 0.0, 128.0)
    np.testing.assert_array_equal(result[:2], np.broadcast_to(expected, (2, SIDE, SIDE, 3)))
    assert (result[2] == 128).all()


def test_grid_mask_draws_periods_of_the_paper_and_covers_the_share_of_its_squares() -> None:
    images = np.full((200, 48, 48, 3), 200, np.uint8)
    config = dataclasses.replace(STILL, grid_mask=0.4, occasional_rate=1.0)
    draws = draw(images.shape, config, keras.random.SeedGenerator(1))
    black = to_numpy(augment(ops.convert_to_tensor(images), draws, config)) == 0
    assert black.mean() == pytest.approx(0.4**2, abs=0.02)


@pytest.mark.parametrize(("loss", "cells"), [(0.5, 8), (0.6, 6), (0.3, 11)])
def test_a_loss_of_resolution_is_a_resize_down_and_up_again(loss: float, cells: int) -> None:
    images = make_images()
    config = dataclasses.replace(STILL, resize=loss, occasional_rate=0.5)
    draws = make_draws(4, resize=1.0, resize_on=[0.1, 0.1, 0.1, 0.9])
    result = to_numpy(augment(ops.convert_to_tensor(images), draws, config))
    small = keras.layers.Resizing(cells, cells, interpolation="bilinear")(images.astype(np.float32))
    for image, coarse in zip(result[:3], to_numpy(small), strict=False):
        channels = [
            Image.fromarray(coarse[..., index]).resize((SIDE, SIDE), NEAREST) for index in range(3)
        ]
        np.testing.assert_allclose(
            image, np.stack([np.asarray(channel) for channel in channels], axis=-1), atol=0.05
        )
    np.testing.assert_array_equal(result[3], images[3])


def test_mixup_blends_images_and_labels_by_the_same_share() -> None:
    images, labels = make_images().astype(np.float32), np.eye(4, dtype=np.float32)
    config = dataclasses.replace(STILL, mixup=0.5)
    draws = make_draws(
        4, partner=[0.9, 0.1, 0.3, 0.1], mixup=[0.25, 0.5, 0.75, 1.0], mixup_on=[0.1, 0.1, 0.1, 0.9]
    )
    result = [
        to_numpy(value)
        for value in mix(
            ops.convert_to_tensor(images), ops.convert_to_tensor(labels), draws, config
        )
    ]
    for mixed, plain in zip(result, (images, labels), strict=True):
        expected = [0.75 * plain[0] + 0.25 * plain[3], 0.5 * plain[1] + 0.5 * plain[0]]
        expected += [0.25 * plain[2] + 0.75 * plain[1], plain[3]]
        np.testing.assert_allclose(mixed, expected, rtol=1e-5)


def test_cutmix_pastes_a_box_and_labels_count_its_pixels() -> None:
    images, labels = make_images().astype(np.float32), np.eye(4, dtype=np.float32)
    config = dataclasses.replace(STILL, cutmix=0.5)
    center = {"cutmix_x": [0.5, 1.0, 0.5, 0.5], "cutmix_y": [0.5, 0.0, 0.5, 0.5]}
    draws = make_draws(
        4, partner=[0.9, 0.1, 0.6, 0.1], cutmix=[0.25] * 4, cutmix_on=[0.1, 0.1, 0.1, 0.9], **center
    )
    tensors = ops.convert_to_tensor(images), ops.convert_to_tensor(labels)
    mixed, classes = (to_numpy(value) for value in mix(*tensors, draws, config))
    expected = images.copy()
    expected[0, 4:12, 4:12] = images[3, 4:12, 4:12]
    expected[1, :4, 12:] = images[
        0, :4, 12:
    ]  # a corner of the box is all that lies within the image
    np.testing.assert_array_equal(mixed, expected)
    np.testing.assert_allclose(classes[0], [0.75, 0, 0, 0.25])
    np.testing.assert_allclose(classes[1], [1 / 16, 15 / 16, 0, 0])
    np.testing.assert_allclose(classes[2:], labels[2:])  # its own partner, and not drawn at all


def test_mixing_draws_partners_shares_and_boxes_for_every_image_at_its_rate() -> None:
    count, config = 2000, dataclasses.replace(STILL, cutmix=0.3, mixup=0.2)
    labels = np.eye(count, dtype=np.float32)
    zeros, seed = np.zeros((count, 8, 8, 3), np.uint8), keras.random.SeedGenerator(0)
    images, mixed = augment_batch(zeros, labels, config, seed)
    own = to_numpy(mixed).diagonal()
    assert to_numpy(images).shape == (count, 8, 8, 3)
    np.testing.assert_allclose(to_numpy(mixed).sum(axis=1), 1, rtol=1e-5)
    assert np.mean(own < 1) == pytest.approx(1 - 0.7 * 0.8, abs=0.05)
    assert len(np.unique((to_numpy(mixed) - np.diag(own)).argmax(axis=1))) > 500
    assert own[own < 1].std() > 0.2


def test_labels_pass_untouched_where_nothing_mixes() -> None:
    labels, seed = np.eye(4, dtype=np.float32), keras.random.SeedGenerator(0)
    _, same = augment_batch(make_images(), labels, PRESETS["baseline"], seed)
    np.testing.assert_array_equal(to_numpy(same), labels)


def test_tone_operations_agree_with_pillow() -> None:
    images = make_images()
    operations: dict[str, tuple[rand_augment.Operation, Callable[[Image.Image], Image.Image]]] = {
        "solarize": (
            make_operation("solarize", 4, second=0.5),
            lambda image: ImageOps.solarize(image, 128),
        ),
        "equalize": (make_operation("equalize", 4), ImageOps.equalize),
        "auto_contrast": (make_operation("auto_contrast", 4), ImageOps.autocontrast),
        "brightness": (
            make_operation("brightness", 4, even=0.2),
            lambda image: image.point([*range(51, 256), *[255] * 51] * 3),
        ),
    }
    for name, (operation, reference) in operations.items():
        result = to_numpy(rand_augment.apply_tables(ops.convert_to_tensor(images), [operation]))
        expected = np.stack(
            [np.asarray(reference(Image.fromarray(image)), np.float32) for image in images]
        )
        np.testing.assert_allclose(
            result, expected, atol=1.01, err_msg=name
        )  # Pillow rounds down, and keeps bytes


def test_the_preset_none_only_casts() -> None:
    images = make_images()
    result = augment_by_seed(PRESETS["none"], images)
    assert result.dtype == np.float32
    np.testing.assert_array_equal(result, images)


@pytest.mark.parametrize("preset", ["mild", "baseline", "strong"])
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_augmented_images_stay_in_range_and_differ_within_a_batch(preset: str, dtype: str) -> None:
    result = augment_by_seed(PRESETS[preset], equal_images(12).astype(dtype))
    assert result.shape == (12, SIDE, SIDE, 3)
    assert result.dtype == np.float32
    assert np.isfinite(result).all()
    assert result.min() >= 0
    assert result.max() <= 255
    assert len({image.tobytes() for image in result}) >= 11


def test_operations_magnitudes_and_signs_are_drawn_independently() -> None:
    config = dataclasses.replace(MILD_AUGMENTATION, num_operations=3, magnitude=0.5)
    draws = {
        name: to_numpy(v)
        for name, v in draw((4000, 8, 8, 3), config, keras.random.SeedGenerator(0)).items()
    }
    columns = [
        draws[name][:, slot]
        for name in (*OPERATION_DRAWS, "strength", "second")
        for slot in range(3)
    ]
    columns += [draws[name] for name in EVEN_DRAWS]
    correlation = np.corrcoef(np.stack(columns)) - np.eye(len(columns))
    assert np.abs(correlation).max() < 0.09
    assert draws["strength"].mean() == pytest.approx(0.5, abs=0.01)
    assert draws["strength"].std() == pytest.approx(0.15, abs=0.01)
    frequencies = np.bincount((draws["operation"] * 10).astype(int).ravel(), minlength=10) / 12000
    np.testing.assert_allclose(frequencies, 0.1, atol=0.015)


def test_a_rate_of_zero_leaves_out_every_operation() -> None:
    config = dataclasses.replace(STILL, num_operations=3)
    np.testing.assert_allclose(augment_by_seed(config, make_images()), make_images(), atol=0.01)


def test_the_same_seed_and_state_give_the_same_images() -> None:
    images, config = make_images(), PRESETS["mild"]
    one = keras.random.SeedGenerator(3)
    state = to_numpy(one.state)
    first = augment_by_seed(config, images, one)
    assert (augment_by_seed(config, images, one) != first).any()
    np.testing.assert_array_equal(augment_by_seed(config, images, 3), first)
    one.state.assign(state)
    np.testing.assert_array_equal(augment_by_seed(config, images, one), first)


def test_compiled_it_does_the_same_by_the_state_that_it_gets() -> None:
    config, images = dataclasses.replace(PRESETS["strong"], mixup=0.5), make_images()
    labels, state = np.eye(len(images), dtype=np.float32), np.array([5, 70000], np.uint32)
    seed = keras.random.SeedGenerator(0)
    seed.state.assign(state)
    expected = [to_numpy(result) for result in augment_batch(images, labels, config, seed)]
    augment = compile_augmentation(config, images.shape[1:], len(labels))
    for _ in range(2):
        found = [to_numpy(result) for result in augment(state, images, labels)]
        keras.utils.clear_session()
        np.testing.assert_allclose(
            found[0], expected[0], atol=1.01
        )  # compiled as a whole it rounds otherwise
        np.testing.assert_allclose(found[1], expected[1], atol=1e-5)
    other = augment(state + 1, images, labels)
    assert np.abs(to_numpy(other[0]) - expected[0]).mean() > 5
    assert compile_augmentation(config, images.shape[1:], len(labels)) is augment


# Together they hold every setting, so that two compilations show all.
EVERYTHING: tuple[AugmentationConfig, ...] = (
    dataclasses.replace(PRESETS["strong"], resize=0.5, occasional_rate=0.7, cutmix=0.5, mixup=0.5),
    dataclasses.replace(STILL, rotation=0.3, zoom=0.3, interpolation="nearest", fill="constant"),
)


def augment_by_everything(images: Any, labels: Any, draws: dict[str, Any]) -> list[Any]:
    """Return images and labels after each of EVERYTHING, which read the same draws."""
    return [mix(augment(images, draws, config), labels, draws, config) for config in EVERYTHING]


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    if keras.backend.backend() == "jax":
        import jax

        return jax.jit(function)
    import tensorflow

    result: Callable[..., Any] = tensorflow.function(function, jit_compile=True, autograph=False)
    return result


def test_a_compiled_step_gives_the_numbers_that_are_checked_outside_of_one() -> None:
    images, labels = make_images(12), np.eye(12, dtype=np.float32)
    draws = draw(images.shape, EVERYTHING[0], keras.random.SeedGenerator(4))
    inputs = ops.convert_to_tensor(images), ops.convert_to_tensor(labels), draws
    for outside, inside in zip(
        augment_by_everything(*inputs), compiled(augment_by_everything)(*inputs), strict=True
    ):
        (changed, classes), (same_changed, same_classes) = outside, inside
        assert np.mean(np.abs(to_numpy(changed) - images) > 0.5) > 0.3
        difference = np.abs(to_numpy(changed) - to_numpy(same_changed))
        assert (
            np.mean(difference < 0.1) > 0.98
        )  # a value on the edge of rounding may fall to the other side
        np.testing.assert_allclose(to_numpy(classes), to_numpy(same_classes), atol=1e-5)


WITH_NUMBERS = (
    "agree or exact or zoom or moves or blackens or resolution or blends or pastes or compiled_step"
)


def test_the_numbers_hold_on_jax_inside_and_outside_a_compiled_step() -> None:
    if importlib.util.find_spec("jax") is None:
        pytest.skip("JAX is not installed (pip install jax)")
    if keras.backend.backend() == "jax":
        pytest.skip("this is JAX")
    tests = Path(__file__).parents[1]
    names = [f"{tests / 'augmentation'}", f"{tests / 'training'}"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-k", WITH_NUMBERS, *names],
        env={**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"},
        cwd=tests.parent,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout
