"""Distortion profiles, as hidden tests may have them, in numpy and PIL, alike on every machine.

In `microscope` and `unseen` an image meets one corruption of `corruptions` in one of five
severities, each equally likely. `revealed` follows the facts that became known of the competition's
hidden test. Its operations and their magnitudes are those of KerasCV's RandAugment
(keras-team/keras-cv, `layers/preprocessing/rand_augment.py` and the layers that it names).
For solarise, colour degeneration and shear, the strength is drawn from a normal distribution around
the magnitude. For contrast, brightness and translation, it is drawn evenly up to the magnitude, in
both directions.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from PIL import Image, ImageOps

from competition.common.console import progress
from competition.common.errors import UserError, unknown
from competition.distortion.corruptions import MICROSCOPE, UNSEEN, Corruption

# Enters the hash of distorted sets that are kept: raise it when a profile gives other pixels.
DISTORTION_VERSION = 2

Step = Callable[[np.ndarray, np.random.Generator], np.ndarray]
"""Takes one image (h, w, 3) float32 in 0..255 and returns another of the same kind."""


def distort(images: np.ndarray, profile: str, seed: int) -> np.ndarray:
    """Return distorted copies of `images` (n, h, w, 3) uint8, of the same shape and type.

    The draw of an image depends only on the profile, `seed` and the image's index. So the first n
    of many images come out like n alone.
    """
    result = np.empty_like(images)
    for index, image in enumerate(progress(images, f"  {profile}", unit="image")):
        rng = _generator(profile, seed, index)
        distorted = image.astype(np.float32)
        for step in PROFILES[profile]:
            distorted = step(distorted, rng)
        result[index] = np.rint(distorted)
    return result


def draw_corruptions(profile: str, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return each image's corruption by `distort`: its name and its severity, 1 to 5.

    (count,) str and (count,) int64. profile: one of TABLES.
    """
    drawn = [_choose(_generator(profile, seed, index), TABLES[profile]) for index in range(count)]
    return np.array([name for name, _ in drawn], str), np.array([level for _, level in drawn], int)


def preview(images: np.ndarray, profile: str, seed: int) -> np.ndarray:
    """Return (m, h, w, 3) uint8 to look at, in rows of six: one of `images`, then five distortions.

    A row shows a corruption in its five severities, in the order of the profile's table. In a
    profile without a table it shows five draws.
    """
    table = TABLES.get(profile, {})
    corruptions = list(table.values())
    rows = []
    for row, image in enumerate(images[: len(table) or 12]):
        if table:
            pixels = image.astype(np.float32)
            five = [
                np.rint(corruptions[row](pixels, np.random.default_rng(seed), severity))
                for severity in range(1, 6)
            ]
        else:
            five = list(distort(np.repeat(image[None], 5, axis=0), profile, seed + row))
        rows += [image, *five]
    return np.array(rows, np.uint8).reshape(-1, *images.shape[1:])


def selected_versions(select_by: str) -> tuple[str, ...]:
    """Return the names in `select_by`, as clean+revealed, in the order of VERSIONS.

    Raises UserError for a name that is not among VERSIONS.
    """
    names = select_by.split("+")
    for name in names:
        if name not in VERSIONS:
            raise UserError(unknown("version to select by", name, VERSIONS))
    return tuple(version for version in VERSIONS if version in names)


def _generator(profile: str, seed: int, index: int) -> np.random.Generator:
    return np.random.default_rng([seed, index, list(PROFILES).index(profile)])


def _choose(rng: np.random.Generator, table: dict[str, Corruption]) -> tuple[str, int]:
    """Return a corruption's name and a severity from 1 to 5."""
    return list(table)[rng.integers(len(table))], int(rng.integers(1, 6))


def corrupt(
    image: np.ndarray, rng: np.random.Generator, table: dict[str, Corruption]
) -> np.ndarray:
    """Apply one corruption of `table` in one severity."""
    name, severity = _choose(rng, table)
    return table[name](image, rng, severity)


def shift_black(image: np.ndarray, rng: np.random.Generator, low: float, high: float) -> np.ndarray:
    """Move the content right and up by `low`..`high` of the side, leaving black behind it."""
    height, width = image.shape[:2]
    up, right = np.rint(rng.uniform(low, high, 2) * (height, width)).astype(int)
    result = np.zeros_like(image)
    result[: height - up, right:] = image[up:, : width - right]
    return result


@dataclass(frozen=True)
class Strength:
    """The strength of operations: mean and standard deviation, as shares of the strongest."""

    magnitude: float
    deviation: float

    def draw(self, rng: np.random.Generator) -> float:
        """Return a share in 0..1 around the magnitude."""
        return float(np.clip(rng.normal(self.magnitude, self.deviation), 0.0, 1.0))

    def draw_signed(self, rng: np.random.Generator) -> float:
        """Return a share around the magnitude, in either direction."""
        return self.draw(rng) * float(rng.choice((-1.0, 1.0)))

    def draw_even(self, rng: np.random.Generator) -> float:
        """Return an evenly drawn share of at most the magnitude, in either direction."""
        return float(rng.uniform(-self.magnitude, self.magnitude))


def rand_augment(
    image: np.ndarray,
    rng: np.random.Generator,
    num_operations: int,
    rate: float,
    strength: Strength,
) -> np.ndarray:
    """Apply operations that are drawn with replacement, each with probability `rate`.

    Cubuk et al., RandAugment, https://arxiv.org/abs/1909.13719, in KerasCV's form.
    """
    for operation in rng.integers(len(OPERATIONS), size=num_operations):
        if rng.random() < rate:
            image = OPERATIONS[operation](image, rng, strength)
    return image


def auto_contrast(image: np.ndarray) -> np.ndarray:
    """Stretch each channel to 0..255; a flat channel stays."""
    low, high = image.min(axis=(0, 1)), image.max(axis=(0, 1))
    flat = high == low
    scale = np.where(flat, 1.0, 255.0 / np.where(flat, 1.0, high - low)).astype(np.float32)
    return np.asarray((image - np.where(flat, np.float32(0), low)) * scale)


def equalize(image: np.ndarray) -> np.ndarray:
    """Flatten each channel's histogram."""
    whole = Image.fromarray(np.rint(image).astype(np.uint8))
    return np.asarray(ImageOps.equalize(whole), np.float32)


def solarize(image: np.ndarray, addition: float, threshold: float) -> np.ndarray:
    """Add `addition`, then invert values of at least `threshold` (both in 0..255)."""
    brighter = np.minimum(image + np.float32(addition), 255)
    return np.where(brighter < threshold, brighter, 255 - brighter)


def degenerate_color(image: np.ndarray, share: float) -> np.ndarray:
    """Blend with the grey image (ITU-R 601 weights); a share of 1 is all grey."""
    grey = 0.2989 * image[..., :1] + 0.587 * image[..., 1:2] + 0.114 * image[..., 2:]
    return _clipped(image + np.float32(share) * (grey - image))


def adjust_contrast(image: np.ndarray, factor: float) -> np.ndarray:
    """Multiply each channel's distances from its mean by `factor`."""
    mean = image.mean(axis=(0, 1), dtype=np.float64).astype(np.float32)
    return _clipped((image - mean) * np.float32(factor) + mean)


def adjust_brightness(image: np.ndarray, share: float) -> np.ndarray:
    """Add `share` of the full range 255."""
    return _clipped(image + np.float32(share * 255))


def _clipped(image: np.ndarray) -> np.ndarray:
    return np.asarray(np.minimum(np.maximum(image, 0), 255))


def slide_rows(image: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Sample row r at x + offsets[r] pixels, linearly between neighbours.

    The image is mirrored at its borders (abc|cba).
    """
    height, width = image.shape[:2]
    floor = np.floor(offsets).astype(np.int64)
    share = (offsets - floor).astype(np.float32)[:, None, None]
    positions = (np.arange(width + 1) + floor[:, None]) % (2 * width)
    mirrored = np.minimum(positions, 2 * width - 1 - positions)
    neighbours: np.ndarray = image[np.arange(height)[:, None], mirrored]
    result: np.ndarray = neighbours[:, :-1] + share * (neighbours[:, 1:] - neighbours[:, :-1])
    return result


def shear_x(image: np.ndarray, share: float) -> np.ndarray:
    """Sample each row `share` pixels further right per row further down: the top row stays."""
    return slide_rows(image, share * np.arange(len(image)))


def translate_x(image: np.ndarray, share: float) -> np.ndarray:
    """Move the content right by `share` of the width."""
    return slide_rows(image, np.full(len(image), -share * image.shape[1]))


def _transposed(
    function: Callable[[np.ndarray, float], np.ndarray], image: np.ndarray, share: float
) -> np.ndarray:
    return function(image.transpose(1, 0, 2), share).transpose(1, 0, 2)


shear_y = partial(_transposed, shear_x)
translate_y = partial(_transposed, translate_x)

# RandAugment draws from these. Solarise adds at most 110; more leaves nearly nothing of the image.
OPERATIONS: tuple[Callable[[np.ndarray, np.random.Generator, Strength], np.ndarray], ...] = (
    lambda image, rng, strength: auto_contrast(image),
    lambda image, rng, strength: equalize(image),
    lambda image, rng, strength: solarize(
        image, 110 * strength.draw(rng), 255 - 255 * strength.draw(rng)
    ),
    lambda image, rng, strength: degenerate_color(image, strength.draw(rng)),
    lambda image, rng, strength: adjust_contrast(image, 1 + strength.draw_even(rng)),
    lambda image, rng, strength: adjust_brightness(image, strength.draw_even(rng)),
    lambda image, rng, strength: shear_x(image, strength.draw_signed(rng)),
    lambda image, rng, strength: shear_y(image, strength.draw_signed(rng)),
    lambda image, rng, strength: translate_x(image, strength.draw_even(rng)),
    lambda image, rng, strength: translate_y(image, strength.draw_even(rng)),
)

TABLES = {"microscope": MICROSCOPE, "unseen": UNSEEN}

# The steps of each profile, in order. The rate of 10/11 is KerasCV's, where the paper has an
# eleventh operation that does nothing.
PROFILES: dict[str, tuple[Step, ...]] = {
    "revealed": (
        partial(shift_black, low=0.04, high=0.06),
        partial(
            rand_augment,
            num_operations=3,
            rate=10 / 11,
            strength=Strength(magnitude=0.5, deviation=0.15),
        ),
    ),
    **{profile: (partial(corrupt, table=table),) for profile, table in TABLES.items()},
}

# Every set is scored in these versions.
VERSIONS = ("clean", *PROFILES)

PROFILE = "revealed"
