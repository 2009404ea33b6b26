"""Single corruptions of an image under a microscope, in five severities, in plain numpy and PIL.

`MICROSCOPE` follows MedMNIST-C's list for blood cells (Di Salvo et al.,
https://arxiv.org/abs/2406.17536; parameters of `medmnistc/corruptions/registry.py`, bloodmnist).
Its images are 224 pixels wide. Lengths in such pixels scale with the image, while JPEG and
pixelation act on the pixels that are there. Noise is not in that list and takes the levels of
organamnist's. Stain deposits are drawn, since MedMNIST-C's are bitmaps. `UNSEEN` holds kinds that
no augmentation preset contains (`augmentation.augment.AUGMENTATIONS`), so that no network has
practised them.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

REFERENCE_SIDE = 224  # of the images that MedMNIST-C's parameters are made for
VIOLET = (0.35, 0.2, 0.45)  # share of red, green and blue that a clot of stain lets through
HAZE = 235.0  # grey level of stray light


@dataclass(frozen=True)
class Corruption:
    """One kind of fault, and its parameter in each of five severities.

    apply: image (h, w, 3) float32 in 0..255, generator, parameter -> the corrupted image.
    """

    apply: Callable[[np.ndarray, np.random.Generator, Any], np.ndarray]
    severities: tuple[Any, ...]

    def __call__(self, image: np.ndarray, rng: np.random.Generator, severity: int) -> np.ndarray:
        """Return `image` corrupted, within 0..255; severity: 1 to 5."""
        corrupted = self.apply(image, rng, self.severities[severity - 1])
        return np.clip(corrupted, 0, 255).astype(np.float32)


def defocus(image: np.ndarray, rng: np.random.Generator, radius: float) -> np.ndarray:
    """Spread each point over a disc with a smooth edge."""
    radius *= _scale(image)
    reach = np.arange(-int(radius + 1), int(radius + 1) + 1)
    disc = np.clip(radius + 0.5 - np.hypot(reach[:, None], reach), 0, 1)
    return correlate(image, disc / disc.sum())


def motion_blur(
    image: np.ndarray, rng: np.random.Generator, trail: tuple[float, float]
) -> np.ndarray:
    """Draw each point out to one side, within 45 degrees of the horizontal, as ImageMagick does.

    trail: half its length, and the standard deviation of its fading.
    """
    radius, deviation = trail
    steps = np.arange(2 * radius + 1)
    angle = rng.uniform(-np.pi / 4, np.pi / 4)
    rows = _scale(image) * steps * np.sin(angle)
    columns = _scale(image) * steps * np.cos(angle)
    reach = int(2 * radius * _scale(image)) + 2
    kernel = np.zeros((2 * reach + 1, 2 * reach + 1))
    top = np.floor(rows).astype(int)
    left = np.floor(columns).astype(int)
    for down in (0, 1):  # each step's weight goes to the four pixels around it
        for right in (0, 1):
            share = np.abs(1 - down - (rows - top)) * np.abs(1 - right - (columns - left))
            weights = np.exp(-(steps**2) / (2 * deviation**2)) * share
            np.add.at(kernel, (reach + top + down, reach + left + right), weights)
    return correlate(image, kernel / kernel.sum())


def correlate(image: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Return the weighted sums over each pixel's neighbours, mirrored at the borders (cb|abc|ba).

    kernel: (2 k + 1, 2 k + 1), mostly zeros.
    """
    height, width = image.shape[:2]
    reach = len(kernel) // 2
    padded = np.pad(image, ((reach, reach), (reach, reach), (0, 0)), mode="reflect")
    result = np.zeros_like(image)
    for row, column in np.argwhere(kernel):
        shifted = padded[row : row + height, column : column + width]
        result += np.float32(kernel[row, column]) * shifted
    return result


def add_noise(image: np.ndarray, rng: np.random.Generator, deviation: float) -> np.ndarray:
    """Add normal noise; deviation: as a share of 255."""
    return image + 255 * deviation * rng.standard_normal(image.shape, np.float32)


def compress(image: np.ndarray, rng: np.random.Generator, quality: int) -> np.ndarray:
    """Compress as JPEG of that quality."""
    stream = io.BytesIO()
    _to_pil(image).save(stream, "JPEG", quality=quality)
    return np.asarray(Image.open(stream), np.float32)


def pixelate(image: np.ndarray, rng: np.random.Generator, share: float) -> np.ndarray:
    """Reduce the sides to `share` of their pixels, and enlarge those again."""
    height, width = image.shape[:2]
    size = max(1, int(share * width)), max(1, int(share * height))
    small = _to_pil(image).resize(size, Image.Resampling.BOX)
    return np.asarray(small.resize((width, height), Image.Resampling.BOX), np.float32)


def scale_brightness(image: np.ndarray, rng: np.random.Generator, factor: float) -> np.ndarray:
    """Multiply all by `factor`."""
    return image * np.float32(factor)


def scale_contrast(image: np.ndarray, rng: np.random.Generator, factor: float) -> np.ndarray:
    """Multiply the distances from the image's mean grey by `factor`."""
    grey = np.float32((image @ np.array([0.299, 0.587, 0.114], np.float32)).mean())
    return grey + (image - grey) * np.float32(factor)


def saturate(image: np.ndarray, rng: np.random.Generator, addition: float) -> np.ndarray:
    """Add `addition` to the saturation of HSV (0..1); grey stays grey."""
    value = image.max(axis=-1, keepdims=True)
    saturation = 1 - image.min(axis=-1, keepdims=True) / np.maximum(value, 1)
    factor = np.minimum(saturation + addition, 1) / np.maximum(saturation, 1e-6)
    return np.where(saturation > 0, value - (value - image) * factor, image)


def add_stain_deposits(
    image: np.ndarray, rng: np.random.Generator, marks: tuple[int, float]
) -> np.ndarray:
    """Lay clots of stain over the image.

    marks: the most clots, and their radius as a share of the side.
    """
    most, share = marks
    light = np.ones_like(image)
    for _ in range(rng.integers(1, most + 1)):
        row, column = _place(image, rng, 0.05)
        angle = np.arctan2(row, column)
        phases = rng.uniform(0, 2 * np.pi, 3)
        wobble = sum(
            np.sin(waves * angle + phase) / waves
            for waves, phase in zip((2, 3, 5), phases, strict=True)
        )
        radius = share * min(image.shape[:2]) * rng.uniform(0.8, 1.2)
        edge = radius * (1 + 0.3 * wobble) - np.hypot(row, column)
        light *= 1 - np.clip(edge / 2 + 0.5, 0, 1)[..., None] * (1 - np.array(VIOLET, np.float32))
    return image * light


def add_bubbles(image: np.ndarray, rng: np.random.Generator, most: tuple[int, int]) -> np.ndarray:
    """Lay 7 bubbles or more over the image, whitish and most so at their rims.

    most: the largest radius in pixels of 224, and the largest number.
    """
    radius, number = most
    veil = np.zeros(image.shape[:2])
    for _ in range(rng.integers(7, number + 1)):
        row, column = _place(image, rng, 0.0)
        depth = rng.integers(3, radius + 1) * _scale(image) - np.hypot(row, column)
        rim = np.clip(depth + 2 * _scale(image) + 0.5, 0, 1)
        inside = np.clip(depth + 0.5, 0, 1)
        veil = veil + rim * (130 / 255 - veil) - inside * 30 / 255
    return image + (255 - image) * np.clip(veil, 0, 1)[..., None]


def warp_locally(image: np.ndarray, rng: np.random.Generator, share: float) -> np.ndarray:
    """Move each pixel by a smooth field of about `share` of the side (Simard et al. 2003)."""
    rows, columns = np.indices(image.shape[:2], np.float32)
    reach = share * min(image.shape[:2])
    down = reach * smooth_field(rng, image.shape[:2])
    right = reach * smooth_field(rng, image.shape[:2])
    return sample(image, rows + down, columns + right)


def shade(image: np.ndarray, rng: np.random.Generator, share: float) -> np.ndarray:
    """Light the image from somewhere in it, down to 1 - `share` at the farthest corner."""
    row, column = _place(image, rng, 0.0)
    squared = row**2 + column**2
    return image * (1 - share * squared / squared.max())[..., None].astype(np.float32)


def add_impulses(image: np.ndarray, rng: np.random.Generator, share: float) -> np.ndarray:
    """Turn `share` of all values into 0 or 255."""
    draw = rng.random(image.shape, np.float32)
    return np.where(draw < share, np.where(draw < share / 2, 0, 255), image)


def part_channels(image: np.ndarray, rng: np.random.Generator, share: float) -> np.ndarray:
    """Move red one way and blue the other by `share` of the side."""
    rows, columns = np.indices(image.shape[:2], np.float32)
    angle = rng.uniform(0, 2 * np.pi)
    down = share * min(image.shape[:2]) * np.sin(angle)
    right = share * min(image.shape[:2]) * np.cos(angle)
    red = sample(image[..., [0]], rows + down, columns + right)
    blue = sample(image[..., [2]], rows - down, columns - right)
    return np.concatenate([red, image[..., 1:2], blue], axis=-1)


def add_scan_lines(image: np.ndarray, rng: np.random.Generator, share: float) -> np.ndarray:
    """Lighten and darken rows in turn by `share` of 255, with a period of 3 to 9 rows."""
    period, phase = rng.uniform(3, 9), rng.uniform(0, 2 * np.pi)
    wave = np.sin(2 * np.pi * np.arange(len(image)) / period + phase)
    return image + (255 * share * wave)[:, None, None].astype(np.float32)


def add_haze(image: np.ndarray, rng: np.random.Generator, share: float) -> np.ndarray:
    """Blend with pale grey, `share` of it in the mean, in drifts."""
    density = share * np.clip(1 + 0.4 * smooth_field(rng, image.shape[:2]), 0, 2)
    return image + (HAZE - image) * np.minimum(density, 1)[..., None]


def smooth_field(rng: np.random.Generator, shape: tuple[int, int], cells: int = 6) -> np.ndarray:
    """Return a random field (h, w) float32 of mean about 0, with about `cells` hills per side."""
    coarse = Image.fromarray(rng.standard_normal((cells, cells), np.float32))
    return np.asarray(coarse.resize(shape[::-1], Image.Resampling.BICUBIC))


def sample(image: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Read `image` at fractional places (h, w), linearly between pixels.

    Beyond the border the nearest pixel counts.
    """
    height, width = image.shape[:2]
    rows = np.clip(rows, 0, height - 1)
    columns = np.clip(columns, 0, width - 1)
    top = rows.astype(int)
    left = columns.astype(int)
    bottom = np.minimum(top + 1, height - 1)
    right = np.minimum(left + 1, width - 1)
    down = (rows - top)[..., None]
    across = (columns - left)[..., None]
    upper = image[top, left] + across * (image[top, right] - image[top, left])
    lower = image[bottom, left] + across * (image[bottom, right] - image[bottom, left])
    result: np.ndarray = upper + down * (lower - upper)
    return result


def _place(
    image: np.ndarray, rng: np.random.Generator, margin: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return the distances in rows (h, 1) and columns (1, w) of all pixels to a random place.

    margin: share of the side that the place keeps away from the border.
    """
    height, width = image.shape[:2]
    row, column = rng.uniform(margin, 1 - margin, 2) * (height, width)
    return np.arange(height)[:, None] - row, np.arange(width)[None, :] - column


def _scale(image: np.ndarray) -> float:
    return min(image.shape[:2]) / REFERENCE_SIDE


def _to_pil(image: np.ndarray) -> Image.Image:
    return Image.fromarray(np.rint(image).astype(np.uint8))


MICROSCOPE = {
    "pixelate": Corruption(pixelate, (0.6, 0.5, 0.4, 0.3, 0.25)),
    "jpeg_compression": Corruption(compress, (50, 30, 15, 10, 7)),
    "defocus_blur": Corruption(defocus, (2, 3, 4, 5, 6)),
    "motion_blur": Corruption(motion_blur, ((3, 3), (5, 5), (10, 5), (10, 7), (10, 9))),
    "brightness_up": Corruption(scale_brightness, (1.1, 1.2, 1.3, 1.35, 1.4)),
    "brightness_down": Corruption(scale_brightness, (0.9, 0.8, 0.7, 0.6, 0.5)),
    "contrast_up": Corruption(scale_contrast, (1.1, 1.15, 1.2, 1.25, 1.3)),
    "contrast_down": Corruption(scale_contrast, (0.9, 0.8, 0.7, 0.6, 0.5)),
    "saturate": Corruption(saturate, (0.05, 0.1, 0.15, 0.17, 0.2)),
    "stain_deposit": Corruption(
        add_stain_deposits, ((1, 0.05), (2, 0.06), (3, 0.07), (3, 0.085), (3, 0.1))
    ),
    "bubble": Corruption(add_bubbles, ((5, 10), (7, 10), (10, 10), (12, 12), (15, 12))),
    "noise": Corruption(add_noise, (0.04, 0.08, 0.12, 0.16, 0.2)),
}

UNSEEN = {
    "local_warp": Corruption(warp_locally, (0.01, 0.015, 0.02, 0.03, 0.04)),
    "uneven_illumination": Corruption(shade, (0.3, 0.4, 0.5, 0.6, 0.75)),
    "impulse_noise": Corruption(add_impulses, (0.01, 0.03, 0.06, 0.09, 0.17)),
    "channel_misregistration": Corruption(part_channels, (0.005, 0.01, 0.02, 0.03, 0.04)),
    "scan_lines": Corruption(add_scan_lines, (0.03, 0.05, 0.07, 0.1, 0.13)),
    "haze": Corruption(add_haze, (0.2, 0.3, 0.4, 0.5, 0.6)),
}
