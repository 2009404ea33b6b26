"""The cost of cleaning few and many images, for `benchmarks.cleaning --enlarge`."""

import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.planting import flip, rotate
from competition.cleaning.clean import clean
from competition.common.console import progress
from competition.config import Config
from competition.data.arrays import Dataset


def enlarge(
    dataset: Dataset, keep: np.ndarray, count: int, generator: np.random.Generator
) -> Dataset:
    """Return `count` images: those there are, then others made from them in turns, in other tones.

    keep: (n,) bool. Images made from kept ones are turned and mirrored cut-outs of 75 to 87.5 % of
    the sides, in full size; few of them are copies of one another. Dropped ones keep their fault.
    """
    few = len(keep)
    height, width = dataset.images.shape[1:3]
    sources = np.concatenate(
        [np.arange(few), *(generator.permutation(few) for _ in range(few, count, few))]
    )[:count]
    images = np.empty((count, height, width, 3), np.uint8)
    images[:few] = dataset.images
    for index in progress(range(few, count), "enlarging", unit="image"):
        image = dataset.images[sources[index]]
        if keep[sources[index]]:
            share = generator.uniform(0.75, 0.875)
            left, top = generator.uniform(0, 1 - share, 2) * (width, height)
            box = (left, top, left + share * width, top + share * height)
            resized = Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC, box)
            image = rotate(flip(np.asarray(resized), generator), generator)
        images[index] = np.clip(
            image * generator.uniform(0.92, 1.08) + generator.uniform(-6, 6, 3), 0, 255
        )
    return Dataset(images, dataset.labels[sources], dataset.class_names)


def print_growth(dataset: Dataset, count: int, config: Config, weights: Path | None) -> None:
    """Clean the images, and `count` made from them; print seconds, peak memory and their ratios.

    Memory is in MiB beyond the images. Nothing else in this process may have had a higher peak
    before. It is right on Linux alone.
    """
    keep, *first = _measure(dataset, config, weights)
    enlarged = enlarge(dataset, keep, count, np.random.default_rng(config.seed))
    _, *second = _measure(enlarged, config, weights)
    second[2] -= dataset.images.nbytes / 2**20
    ratios = np.divide(second, first)
    print(f"\n{'images':>16}{'seconds':>16}{'of processors':>16}{'MiB beyond them':>16}")
    for row in ((len(keep), *first), (count, *second), (count / len(keep), *ratios)):
        print("".join(f"{value:16.4g}" if value < 100 else f"{value:16.0f}" for value in row))


def _measure(
    dataset: Dataset, config: Config, weights: Path | None
) -> tuple[np.ndarray, float, float, float]:
    """Return the mask of kept images, seconds, processor seconds, and peak MiB beyond images."""
    import resource

    wall = time.perf_counter()
    processors = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        keep = clean(dataset, Path(folder), config, weights).keep
    wall = time.perf_counter() - wall
    processors = time.process_time() - processors
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    return keep, wall, processors, peak - dataset.images.nbytes / 2**20
