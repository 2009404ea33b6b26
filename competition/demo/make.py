"""The demo competition: drawn blood smears with known faults, and a distorted hidden test."""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw

from competition.common import files
from competition.common.console import progress
from competition.demo.smear import CLASSES, SIZE, Smear
from competition.distortion.profiles import distort
from competition.paths import HIDDEN_TEST, TRAINING_SET, TRUTH

# Enters the marker: raise it when the drawings change, so that older demos are drawn again.
DRAWING_VERSION = 2
# The real training set's images per class, once clean, in label order.
CLASS_SIZES = (852, 2181, 1085, 2026, 849, 993, 2330, 1643)
# The real training set's faults, as shares of its images; a few kinds are more common than there,
# so that each occurs.
FAULT_SHARES = {
    "non_cell": 0.09,
    "exact_copy": 0.01,
    "near_copy": 0.01,
    "wrong_label": 0.01,
    "blank": 0.005,
    "broken": 0.005,
    "noise": 0.005,
}
# Of nine non-cells, eight show the first unrelated image and one the second, at one strength.
NON_CELL_CYCLE = 9
NON_CELL_STRENGTH = 0.6
NONE = -1


@dataclass
class Truth:
    """The truth about a training image.

    kind: `cell` or one of FAULT_SHARES. true_label: the class drawn (-1 where no class is right).
    copy_of: the index of the original (-1: no copy).
    """

    index: int
    kind: str
    true_label: int
    copy_of: int = NONE


def make_demo(folder: Path, seed: int = 0, num_images: int = 3000, num_hidden: int = 600) -> None:
    """Draw the demo competition into `folder`, unless the same one lies there already.

    Writes `training_set.npz` and `hidden_test.npz` in the competition's layout, images
    (n, 96, 96, 3) uint8 and labels (n, 1) uint8; `truth.csv`, one row per training image (see
    Truth); and, last, `demo.json`. The hidden test holds sound cells only, distorted as in
    `revealed`. Its labels have the same share of wrong ones as the training set's: the same
    people label both. One seed gives one demo.
    """
    marker = folder / "demo.json"
    inputs = files.digest(DRAWING_VERSION, seed, num_images, num_hidden)
    drawn = [folder / name for name in (TRAINING_SET, HIDDEN_TEST, TRUTH)]
    if files.up_to_date(marker, inputs, force=not all(file.is_file() for file in drawn)):
        return
    marker.unlink(missing_ok=True)  # files of two demos must never lie under one marker
    generator = np.random.default_rng(seed)
    smear = Smear(generator)
    images, labels = draw_cells(smear, num_images, "drawing the training set")
    truths = plant_faults(images, labels, generator)
    hidden_images, hidden_labels = draw_cells(smear, num_hidden, "drawing the hidden test")
    hidden_images = distort(hidden_images, "revealed", seed)
    num_wrong = round(FAULT_SHARES["wrong_label"] * num_hidden)
    for index in generator.permutation(num_hidden)[:num_wrong]:
        hidden_labels[index] = _draw_wrong_label(int(hidden_labels[index]), generator)
    files.write_arrays(folder / TRAINING_SET, images=images, labels=labels[:, None])
    files.write_arrays(folder / HIDDEN_TEST, images=hidden_images, labels=hidden_labels[:, None])
    files.write_text(folder / TRUTH, pd.DataFrame(truths).to_csv(index=False, lineterminator="\n"))
    files.mark_done(marker, inputs, seed=seed, num_images=num_images, num_hidden=num_hidden)


def draw_cells(smear: Smear, num_images: int, title: str) -> tuple[np.ndarray, np.ndarray]:
    """Return images (n, 96, 96, 3) uint8 and labels (n,) uint8, in random order.

    Classes come in the real proportions. title: of the progress bar.
    """
    shares = np.cumsum(CLASS_SIZES) / sum(CLASS_SIZES)
    places = (np.arange(num_images) + 0.5) / num_images
    labels = smear.generator.permutation(np.searchsorted(shares, places).astype(np.uint8))
    images = np.empty((num_images, SIZE, SIZE, 3), np.uint8)
    for index, label in enumerate(progress(labels, title, unit="image")):
        images[index] = smear.draw_cell(int(label))
    return images, labels


def plant_faults(
    images: np.ndarray, labels: np.ndarray, generator: np.random.Generator
) -> list[Truth]:
    """Spoil FAULT_SHARES of the images and labels, in place, and return the truth of every image.

    Copies are of sound cells, each of another one; one exact copy in four carries a wrong label.
    """
    truths = [Truth(index, "cell", int(label)) for index, label in enumerate(labels)]
    order = iter(generator.permutation(len(images)).tolist())
    chosen = {
        kind: [next(order) for _ in range(round(share * len(images)))]
        for kind, share in FAULT_SHARES.items()
    }
    for kind, indices in chosen.items():
        for number, index in enumerate(indices):
            truth = truths[index]
            truth.kind = kind
            if kind in ("exact_copy", "near_copy"):
                truth.copy_of = next(order)
                truth.true_label = truths[truth.copy_of].true_label
                labels[index] = truth.true_label
                images[index] = images[truth.copy_of]
            if kind == "wrong_label" or (kind == "exact_copy" and number % 4 == 3):
                labels[index] = _draw_wrong_label(truth.true_label, generator)
            if kind in ("non_cell", "blank", "noise"):
                truth.true_label = NONE
            images[index] = _spoil(images[index], kind, number, generator)
    return truths


def _draw_wrong_label(label: int, generator: np.random.Generator) -> int:
    return (label + int(generator.integers(1, len(CLASSES)))) % len(CLASSES)


def _spoil(image: np.ndarray, kind: str, number: int, generator: np.random.Generator) -> np.ndarray:
    """Return the image after a fault of `kind`; `number` counts the faults of the kind."""
    if kind == "non_cell":
        is_last = number % NON_CELL_CYCLE == NON_CELL_CYCLE - 1
        unrelated = draw_landscape() if is_last else draw_face()
        return (NON_CELL_STRENGTH * unrelated + (1 - NON_CELL_STRENGTH) * image).astype(np.uint8)
    if kind == "near_copy":
        return _copy_nearly(image, generator)
    if kind == "blank":
        return np.full_like(image, generator.choice([0, 128, 255]))
    if kind == "broken":  # as decoders show a truncated file
        is_read = np.arange(SIZE)[:, None, None] < generator.integers(SIZE // 8, SIZE // 2)
        return np.where(is_read, image, np.uint8(128))
    if kind == "noise":
        return generator.integers(0, 256, image.shape, dtype=np.uint8)
    return image


def _copy_nearly(image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Return the image shifted by one or two pixels, slightly brighter, and compressed as JPEG."""
    down, right = generator.choice([-2, -1, 1, 2], 2)
    padded = np.pad(image, ((2, 2), (2, 2), (0, 0)), "edge")
    shifted = np.roll(padded, (down, right), (0, 1))[2:-2, 2:-2]
    brighter = np.clip(shifted * generator.uniform(1.01, 1.04), 0, 255).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(brighter).save(stream, "JPEG", quality=int(generator.integers(80, 93)))
    return np.asarray(Image.open(stream))


def draw_face() -> np.ndarray:
    """Return the first unrelated image, a face between bars of text: always the same.

    The shape is (96, 96, 3), uint8.
    """
    canvas = Image.new("RGB", (2 * SIZE, 2 * SIZE), (70, 130, 90))
    draw = ImageDraw.Draw(canvas)
    draw.ellipse((36, 36, 156, 160), fill=(240, 196, 60), outline=(60, 40, 20), width=4)
    for left in (64, 108):
        draw.ellipse((left, 72, left + 22, 100), fill="white", outline="black", width=2)
        draw.ellipse((left + 8, 82, left + 18, 96), fill="black")
    draw.chord((66, 92, 128, 144), 10, 170, fill=(150, 30, 40), outline="black", width=3)
    draw.polygon([(44, 50), (96, 6), (150, 50)], fill=(60, 70, 170))
    for top, widths in ((10, (30, 22, 40)), (168, (50, 28, 36))):
        _draw_words(draw, top, widths)
    return _shrink(canvas)


def draw_landscape() -> np.ndarray:
    """Return the second unrelated image, a house under the sun: always the same.

    The shape is (96, 96, 3), uint8.
    """
    canvas = Image.new("RGB", (2 * SIZE, 2 * SIZE), (110, 180, 235))
    draw = ImageDraw.Draw(canvas)
    draw.rectangle((0, 128, 192, 192), fill=(60, 150, 60))
    draw.ellipse((136, 12, 176, 52), fill=(255, 225, 60))
    draw.rectangle((40, 84, 124, 156), fill=(200, 80, 50), outline="black", width=3)
    draw.polygon([(30, 84), (82, 36), (134, 84)], fill=(110, 50, 40))
    draw.rectangle((70, 112, 94, 156), fill=(70, 40, 20))
    _draw_words(draw, 168, (44, 20, 56))
    return _shrink(canvas)


def _draw_words(draw: ImageDraw.ImageDraw, top: int, widths: tuple[int, ...]) -> None:
    left = 18
    for width in widths:
        draw.rectangle((left, top, left + width, top + 14), fill="white", outline="black", width=2)
        left += width + 10


def _shrink(canvas: Image.Image) -> np.ndarray:
    return np.asarray(canvas.resize((SIZE, SIZE), Image.Resampling.BOX))
