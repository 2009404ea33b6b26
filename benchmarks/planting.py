"""Known faults planted into sound images, for `benchmarks.cleaning`."""

import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFile
from scipy.ndimage import gaussian_filter

Spoil = Callable[[np.ndarray, np.random.Generator], np.ndarray]

NON_CELLS = "non-cell"
UNRELATED = "unrelated image"
WRONG_LABELS = "wrong label"
# Share of look-alikes among wrong labels of look-alike classes; the others are any.
LOOK_ALIKES = 0.8
# Of nine non-cells, eight lie over the first unrelated image.
NON_CELL_CYCLE = 9


@dataclass
class Planted:
    """Images (n, h, w, 3) uint8 and labels (n,) with known faults.

    kinds: `cell` or a name of FAULT_SHARES, per image. copy_of: the index of the original, or -1.
    """

    images: np.ndarray
    labels: np.ndarray
    kinds: np.ndarray
    copy_of: np.ndarray


def shift(image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Move the content by one or two pixels along each axis; the border is repeated."""
    top, left = 2 + generator.choice([-2, -1, 1, 2], 2)
    height, width = image.shape[:2]
    return np.pad(image, ((2, 2), (2, 2), (0, 0)), "edge")[top : top + height, left : left + width]


def brighten(image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Scale all values by 3 to 10 %, up or down."""
    return _clip(image * (1 + generator.choice([-1, 1]) * generator.uniform(0.03, 0.1)))


def add_noise(image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Add noise of 3 to 8 grey levels."""
    return _clip(image + generator.normal(0, generator.uniform(3, 8), image.shape))


def recompress(image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Store as JPEG of quality 50 to 90, and read again."""
    return np.asarray(Image.open(io.BytesIO(_compress(image, int(generator.integers(50, 91))))))


def flip(image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Mirror along one axis."""
    return np.flip(image, int(generator.integers(2)))


def rotate(image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Turn by a quarter, half or three quarters of a full turn (half, where it is not square)."""
    square = image.shape[0] == image.shape[1]
    return np.rot90(image, int(generator.integers(1, 4)) if square else 2)


def fill_blank(image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Fill with one colour, exactly or give or take two grey levels."""
    return _clip(
        generator.integers(0, 256, 3)
        + generator.choice([0, 1]) * generator.integers(-2, 3, image.shape)
    )


def fill_below(image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Fill with black, grey or white from a random row on, as lost rows are filled."""
    broken = image.copy()
    broken[_draw_row(image, generator) :] = generator.choice([0, 128, 255])
    return broken


def repeat_row(image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Repeat a random row down to the bottom."""
    broken = image.copy()
    row = _draw_row(image, generator)
    broken[row:] = broken[row]
    return broken


def truncate_file(image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Decode a JPEG file whose second half is missing, as Pillow does."""
    data = _compress(image, 90)
    kept = ImageFile.LOAD_TRUNCATED_IMAGES
    ImageFile.LOAD_TRUNCATED_IMAGES = True
    try:
        cut = 700 + int((len(data) - 700) * generator.uniform(0.15, 0.7))
        return np.asarray(Image.open(io.BytesIO(data[:cut])).convert("RGB"))
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = kept


def draw_noise(image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Draw independent values, even or normal."""
    values = generator.choice(
        [generator.uniform(0, 256, image.shape), generator.normal(128, 40, image.shape)]
    )
    return _clip(values)


def flatten(image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Shrink the contrast to a fifth or a third."""
    mean = image.mean((0, 1))
    return _clip(mean + (image - mean) * generator.uniform(0.2, 0.33))


def blur(image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Blur with a sigma of 8 to 12 % of the side."""
    sigma = generator.uniform(0.08, 0.12) * image.shape[0]
    return _clip(gaussian_filter(image.astype(np.float32), (sigma, sigma, 0)))


def darken(image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Leave 10 to 20 % of the light."""
    return _clip(image * generator.uniform(0.1, 0.2))


def overexpose(image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Leave 10 to 20 % of the darkness."""
    return _clip(255 - (255 - image.astype(np.float32)) * generator.uniform(0.1, 0.2))


def draw_leaves(shape: tuple[int, ...], generator: np.random.Generator) -> np.ndarray:
    """Draw 'dead leaves' (Lee, Mumford and Huang, 2001): discs that hide one another.

    They have the statistics of photos. Radii have a density of 1 / r^3. Returns uint8 of `shape`
    (h, w, 3).
    """
    height, width = shape[:2]
    rows, columns = np.mgrid[:height, :width]
    image = np.zeros(shape)
    smallest = height / 16
    largest = height
    for share in generator.uniform(0, 1, 100):
        radius = 1 / np.sqrt(share / smallest**2 + (1 - share) / largest**2)
        row = generator.uniform(0, height)
        column = generator.uniform(0, width)
        colour = generator.normal(generator.uniform(10, 245), 25, 3)
        image[np.square(rows - row) + np.square(columns - column) < radius**2] = colour
    return _clip(image)


COPIES: dict[str, Spoil] = {
    "exact copy": lambda image, generator: image,
    "near copy: shifted": shift,
    "near copy: brighter": brighten,
    "near copy: noisier": add_noise,
    "near copy: re-compressed": recompress,
    "near copy: flipped": flip,
    "near copy: rotated": rotate,
}
SPOILED: dict[str, Spoil] = {
    "blank": fill_blank,
    "broken: filled": fill_below,
    "broken: row repeated": repeat_row,
    "broken: file truncated": truncate_file,
    "noise": draw_noise,
    "low information: flat": flatten,
    "low information: blurred": blur,
    "brightness: dark": darken,
    "brightness: bright": overexpose,
}
FAULT_SHARES = {
    **dict.fromkeys(COPIES, 0.005),
    **dict.fromkeys(SPOILED, 0.002),
    NON_CELLS: 0.13,
    UNRELATED: 0.008,
    WRONG_LABELS: 0.01,
}


def plant(
    images: np.ndarray, labels: np.ndarray, num_classes: int, generator: np.random.Generator
) -> Planted:
    """Return copies of the arrays with faults in FAULT_SHARES of the images.

    No image has two faults; every kind has at least two images.
    """
    planted = Planted(
        images.copy(), labels.copy(), np.full(len(images), "cell", "U40"), np.full(len(images), -1)
    )
    order = generator.permutation(len(images))
    templates = [draw_leaves(images.shape[1:], generator) for _ in range(2)]
    for kind, share in FAULT_SHARES.items():
        chosen, order = np.split(order, [max(2, round(share * len(images)))])
        planted.kinds[chosen] = kind
        if kind in COPIES:
            originals, order = np.split(order, [len(chosen)])
            planted.copy_of[chosen] = originals
            planted.labels[chosen] = labels[originals]
            for index, original in zip(chosen, originals, strict=True):
                planted.images[index] = COPIES[kind](images[original], generator)
        elif kind == WRONG_LABELS:
            planted.labels[chosen] = (
                labels[chosen] + generator.integers(1, num_classes, len(chosen))
            ) % num_classes
        else:
            for number, index in enumerate(chosen):
                planted.images[index] = _spoil(images[index], kind, number, templates, generator)
    return planted


def plant_wrong_labels(
    labels: np.ndarray, confusions: np.ndarray, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return labels (n,) of which a share of FAULT_SHARES is wrong, and the indices of these.

    confusions: (K, K), how often classes are mistaken for one another. LOOK_ALIKES of the wrong
    labels are drawn by it, the others evenly. With all zeros, all are drawn evenly.
    """
    evenly = 1 - np.eye(len(confusions))
    by_looks = np.where(confusions.sum(1, keepdims=True), confusions, evenly)
    by_looks, evenly = (counts / counts.sum(1, keepdims=True) for counts in (by_looks, evenly))
    shares = LOOK_ALIKES * by_looks + (1 - LOOK_ALIKES) * evenly
    count = round(FAULT_SHARES[WRONG_LABELS] * len(labels))
    chosen = np.sort(generator.permutation(len(labels))[:count])
    changed = labels.copy()
    changed[chosen] = [generator.choice(len(shares), p=shares[label]) for label in labels[chosen]]
    return changed, chosen


def count_confusions(features: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return how often a linear classifier mistakes classes for one another: (K, K), symmetric.

    features: (n, d). labels: (n,), of 0..K-1 each at least once. Predictions are out of fold.
    """
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
    from sklearn.metrics import confusion_matrix
    from sklearn.model_selection import cross_val_predict

    classifier = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")
    confusions = confusion_matrix(labels, cross_val_predict(classifier, features, labels))
    np.fill_diagonal(confusions, 0)
    return np.asarray(confusions + confusions.T)


def _spoil(
    image: np.ndarray,
    kind: str,
    number: int,
    templates: list[np.ndarray],
    generator: np.random.Generator,
) -> np.ndarray:
    if kind == UNRELATED:
        return draw_leaves(image.shape, generator)
    if kind == NON_CELLS:
        template = templates[number % NON_CELL_CYCLE == NON_CELL_CYCLE - 1]
        strength = generator.uniform(0.5, 0.7)
        return _clip(strength * template + (1 - strength) * image)
    return SPOILED[kind](image, generator)


def _draw_row(image: np.ndarray, generator: np.random.Generator) -> int:
    return int(image.shape[0] * generator.uniform(0.1, 0.8))


def _compress(image: np.ndarray, quality: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "JPEG", quality=quality)
    return stream.getvalue()


def _clip(values: np.ndarray) -> np.ndarray:
    return np.clip(np.round(values), 0, 255).astype(np.uint8)
