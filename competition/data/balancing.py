"""Filling small classes up with turned, mirrored and shifted images."""

import numpy as np
from PIL import Image

from competition.common.console import progress


def balance_classes(
    images: np.ndarray, labels: np.ndarray, per_class: int, seed: int, shift: float = 0.1
) -> tuple[np.ndarray, np.ndarray]:
    """Fill every class that has fewer images up to `per_class`.

    images: (n, h, w, 3) uint8; labels: (n,). The originals come first, unchanged. Every image of a
    class serves as a source equally often. It is turned by any angle and moved by up to `shift` of
    its side, with reflected borders.
    """
    generator = np.random.default_rng(seed)
    drawn = [np.empty(0, np.int64)]
    for label, count in zip(*np.unique(labels, return_counts=True), strict=True):
        members = np.flatnonzero(labels == label)
        missing = max(per_class - count, 0)
        rounds = [generator.permutation(members) for _ in range(-(-missing // count))]
        drawn.append(np.concatenate([drawn[0], *rounds])[:missing])
    sources = np.concatenate(drawn)
    height, width = images.shape[1:3]
    angles = generator.uniform(-np.pi, np.pi, len(sources))
    mirrors = generator.choice([-1, 1], len(sources))
    shifts = generator.uniform(-shift, shift, (len(sources), 2)) * (width, height)
    result = np.concatenate([images, np.empty((len(sources), height, width, 3), np.uint8)])
    bar = progress(range(len(sources)), "balancing classes", unit="image")
    for number in bar:
        result[len(images) + number] = _warp(
            images[sources[number]], angles[number], mirrors[number], shifts[number]
        )
    return result, np.concatenate([labels, labels[sources]])


def _warp(image: np.ndarray, angle: float, mirror: int, shift: np.ndarray) -> np.ndarray:
    """Turn, mirror and shift an image (h, w, 3) about its centre; bilinear, borders reflected.

    angle: in radians. mirror: -1 or 1. shift: pixels to the right and down.
    """
    height, width = image.shape[:2]
    right, down = shift
    reach = np.hypot(height, width) / 2 - min(height, width) / 2
    pad = int(np.ceil(reach + np.abs(shift).max())) + 1
    padded = np.pad(image, ((pad, pad), (pad, pad), (0, 0)), mode="reflect")
    # Pillow wants the way from the result's pixels to the source's.
    a = mirror * np.cos(angle)
    b = mirror * np.sin(angle)
    d = -np.sin(angle)
    e = np.cos(angle)
    c = width / 2 + pad + right - a * width / 2 - b * height / 2
    f = height / 2 + pad + down - d * width / 2 - e * height / 2
    warped = Image.fromarray(padded).transform(
        (width, height), Image.Transform.AFFINE, (a, b, c, d, e, f), Image.Resampling.BILINEAR
    )
    return np.asarray(warped)
