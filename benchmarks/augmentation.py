"""Throughput of the augmentation layer beside `keras.layers.RandAugment`, which draws per picture in tf.data.

    python -m benchmarks.augmentation

Both do 3 operations on 96x96 pictures in batches of 64, in turn, on the same cores. Expect a ratio of at least 8.
"""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from competition.augmentation import build_augmentation
from competition.config import SECTION_PRESETS, AugmentationConfig

SIDE, BATCH_SIZE, NUM_OPERATIONS, NUM_ROUNDS, SECONDS = 96, 64, 3, 3, 1.5


def make_pictures(count: int) -> np.ndarray:
    """Return smooth coloured noise (count, SIDE, SIDE, 3) uint8."""
    coarse = np.random.default_rng(0).integers(0, 256, (count, 12, 12, 3), np.uint8)
    return np.asarray(tf.cast(tf.image.resize(coarse, (SIDE, SIDE)), tf.uint8))


def reference(pictures: np.ndarray) -> Callable[[], Any]:
    """Return a function that fetches the next batch from tf.data, augmented picture by picture."""
    layer = keras.layers.RandAugment(value_range=(0, 255), num_ops=NUM_OPERATIONS, factor=0.5)
    data = tf.data.Dataset.from_tensor_slices(pictures).repeat()
    data = data.map(lambda image: layer(image, training=True), num_parallel_calls=tf.data.AUTOTUNE)
    batches = iter(data.batch(BATCH_SIZE).prefetch(2))
    return lambda: next(batches).numpy()


def ours(pictures: np.ndarray, config: AugmentationConfig) -> Callable[[], Any]:
    """Return a function that augments a batch, as a step of `fit` does."""
    layer = build_augmentation(config, seed=0)
    step = tf.function(lambda batch: layer(batch, training=True))
    return lambda: step(pictures[:BATCH_SIZE]).numpy()


def pictures_per_second(step: Callable[[], Any]) -> float:
    """Return the throughput of `step`, which handles one batch, over SECONDS."""
    start, batches = time.perf_counter(), 0
    while time.perf_counter() - start < SECONDS:
        step()
        batches += 1
    return batches * BATCH_SIZE / (time.perf_counter() - start)


def main() -> None:
    """Measure everything in turn, NUM_ROUNDS times, and print medians and ratios."""
    pictures = make_pictures(4 * BATCH_SIZE)
    plain = AugmentationConfig(num_operations=NUM_OPERATIONS, magnitude=0.5, rate=1.0, flips=False)
    steps = {
        "keras.layers.RandAugment, 3 operations": reference(pictures),
        "ours, 3 operations, bilinear": ours(pictures, plain),
        "ours, 3 operations, nearest": ours(pictures, dataclasses.replace(plain, interpolation="nearest")),
        **{f"ours, preset {name}": ours(pictures, preset) for name, preset in SECTION_PRESETS["augmentation"].items()},
    }
    for step in steps.values():
        step()  # compiles
    speeds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(NUM_ROUNDS):
        for name, step in steps.items():
            speeds[name].append(pictures_per_second(step))
    base = float(np.median(speeds["keras.layers.RandAugment, 3 operations"]))
    for name, values in speeds.items():
        print(f"{name:42} {np.median(values):8,.0f} pictures/s {np.median(values) / base:7.1f} x")


if __name__ == "__main__":
    main()
