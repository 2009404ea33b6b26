"""Balancing of classes by geometric augmentation."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from competition.common.console import progress

if TYPE_CHECKING:
    pass


def balanced(
    images: np.ndarray, labels: np.ndarray, per_class: int, seed: int, shift: float = 0.1
) -> tuple[np.ndarray, np.ndarray]:
    """Fill every class that has fewer pictures up to `per_class` with turned, mirrored and shifted ones.

    images: (n, h, w, 3) uint8; labels: (n,). The originals come first, unchanged; every picture of a class serves as
    a source equally often, and is turned by any angle and moved by up to `shift` of its side, with reflected borders.
    """
    generator = np.random.default_rng(seed)
    present, counts = np.unique(labels, return_counts=True)
    missing = np.maximum(per_class - counts, 0)
    sources = [
        _draw_sources(np.flatnonzero(labels == label), number, generator)
        for label, number in zip(present, missing, strict=True)
    ]
    chosen = np.concatenate([np.empty(0, np.int64), *sources])
    result = np.concatenate([images, np.empty((len(chosen), *images.shape[1:]), np.uint8)])
    transforms = _draw_transforms(len(chosen), images.shape[1:3], shift, generator)
    pairs = zip(chosen, transforms, strict=True)
    bar = progress(pairs, "balancing classes", total=len(chosen), unit="picture")
    for index, (source, transform) in enumerate(bar, start=len(images)):
        result[index] = _warp(images[source], transform)
    return result, np.concatenate([labels, labels[chosen]])


def _draw_sources(members: np.ndarray, number: int, generator: np.random.Generator) -> np.ndarray:
    """Return `number` indices, as equally often as it goes."""
    rounds = -(-number // len(members))
    drawn = [generator.permutation(members) for _ in range(rounds)]
    return np.concatenate([np.empty(0, np.int64), *drawn])[:number]


@dataclass(frozen=True)
class _Transform:
    angle_radians: float
    mirror: int  # -1 or 1
    shift_pixels: tuple[float, float]


def _draw_transforms(
    number: int, side: tuple[int, ...], shift: float, generator: np.random.Generator
) -> list[_Transform]:
    height, width = side
    angles = generator.uniform(-np.pi, np.pi, number)
    mirrors = generator.choice([-1, 1], number)
    shifts = generator.uniform(-shift, shift, (number, 2)) * (width, height)
    rows = zip(angles.tolist(), mirrors.tolist(), shifts.tolist(), strict=True)
    return [_Transform(angle, mirror, (right, down)) for angle, mirror, (right, down) in rows]


def _warp(image: np.ndarray, transform: _Transform) -> np.ndarray:
    """Return the picture (h, w, 3) turned, mirrored and shifted about its centre; bilinear, borders reflected."""
    height, width = image.shape[:2]
    reach = np.hypot(height, width) / 2 - min(height, width) / 2
    pad = int(np.ceil(reach + max(map(abs, transform.shift_pixels)))) + 1
    padded = np.pad(image, ((pad, pad), (pad, pad), (0, 0)), mode="reflect")
    cosine, sine = np.cos(transform.angle_radians), np.sin(transform.angle_radians)
    # Pillow wants the way from the result's pixels to the source's.
    a, b, d, e = transform.mirror * cosine, transform.mirror * sine, -sine, cosine
    right, down = transform.shift_pixels
    c = width / 2 + pad + right - a * width / 2 - b * height / 2
    f = height / 2 + pad + down - d * width / 2 - e * height / 2
    turned = Image.fromarray(padded).transform(
        (width, height), Image.Transform.AFFINE, (a, b, c, d, e, f), Image.Resampling.BILINEAR
    )
    return np.asarray(turned)
