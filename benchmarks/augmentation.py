"""Throughput of the augmentation beside `keras.layers.RandAugment`; its cost in a training step.

    python -m benchmarks.augmentation      (about three minutes on two cores)

First both do 3 operations on 96x96 images in batches of 64, Keras' layer per image in tf.data, in
turn, on the same cores: expect a ratio of at least 8. Then MobileNetV3Large trains as by default,
with each preset in turn for a few steps, each after its batch: expect `strong` to cost at most 1.10
times `none`. (`fit` makes batches ahead.)
"""

import dataclasses
import os
import time
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from competition.augmentation.augment import compile_augmentation
from competition.config import NO_AUGMENTATION, SECTION_PRESETS, AugmentationConfig, Config
from competition.data.arrays import TrainingData, one_hot
from competition.networks.weights import RANDOM, Weights
from competition.training.batches import image_batches
from competition.training.stages import plan_stages
from competition.training.train import build_network, build_optimizer

SIDE = 96
BATCH_SIZE = 64
NUM_BATCHES = 2
NUM_OPERATIONS = 3
NUM_ROUNDS = 3
SECONDS = 1.0
STEPS = 4
STEP_ROUNDS = 12
CLASSES = 8
REFERENCE = "keras.layers.RandAugment, 3 operations"


def make_images(count: int) -> np.ndarray:
    """Return smooth coloured noise (count, SIDE, SIDE, 3) uint8."""
    coarse = np.random.default_rng(0).integers(0, 256, (count, 12, 12, 3), np.uint8)
    return np.asarray(tf.cast(tf.image.resize(coarse, (SIDE, SIDE)), tf.uint8))


def reference(images: np.ndarray) -> Callable[[], None]:
    """Return a function that fetches NUM_BATCHES batches from tf.data, augmented image by image."""
    layer = keras.layers.RandAugment(value_range=(0, 255), num_ops=NUM_OPERATIONS, factor=0.5)
    data = tf.data.Dataset.from_tensor_slices(images).repeat()
    data = data.map(lambda image: layer(image, training=True), num_parallel_calls=os.cpu_count())
    batches = iter(data.batch(BATCH_SIZE).prefetch(1))

    def run() -> None:
        for _ in range(NUM_BATCHES):
            next(batches).numpy()

    return run


def ours(images: np.ndarray, config: AugmentationConfig) -> Callable[[], None]:
    """Return a function that augments `images` once, batch by batch, as for training."""
    augment = compile_augmentation(config, (SIDE, SIDE, 3), CLASSES)
    labels = one_hot(np.arange(BATCH_SIZE) % CLASSES, CLASSES)

    def run() -> None:
        for start in range(0, len(images), BATCH_SIZE):
            augment(np.array([0, start], np.uint32), images[start : start + BATCH_SIZE], labels)

    return run


def images_per_second(run: Callable[[], None]) -> float:
    """Return the throughput of `run`, repeated for SECONDS.

    Batches that tf.data made before, or makes afterwards, do not count.
    """
    run()
    start = time.perf_counter()
    passes = 0
    while time.perf_counter() - start < SECONDS:
        run()
        passes += 1
    speed = passes * NUM_BATCHES * BATCH_SIZE / (time.perf_counter() - start)
    time.sleep(0.5)  # tf.data goes on until its buffers are full
    return speed


def compare_throughput() -> None:
    """Measure both in turn, NUM_ROUNDS times, and print medians and ratios."""
    images = make_images(NUM_BATCHES * BATCH_SIZE)
    presets = SECTION_PRESETS["augmentation"]
    plain = dataclasses.replace(
        NO_AUGMENTATION, num_operations=NUM_OPERATIONS, magnitude=0.5, rate=1.0
    )
    runs = {
        REFERENCE: reference(images),
        "ours, 3 operations, bilinear": ours(images, plain),
        "ours, 3 operations, nearest": ours(
            images, dataclasses.replace(plain, interpolation="nearest")
        ),
        **{f"ours, preset {name}": ours(images, preset) for name, preset in presets.items()},
    }
    for run in runs.values():
        run()  # compiles
    speeds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(NUM_ROUNDS):
        for name, run in runs.items():
            speeds[name].append(images_per_second(run))
    for name, values in speeds.items():
        ratios = np.divide(values, speeds[REFERENCE])
        print(f"{name:42} {np.median(values):8,.0f} images/s {np.median(ratios):7.1f} x")


def training_steps(
    network: keras.Model, config: AugmentationConfig
) -> Callable[[], tuple[float, float]]:
    """Return a function that trains STEPS steps of fine-tuning, and returns their seconds.

    The seconds are those of the clock, and those of the processors.
    """
    settings = dataclasses.replace(Config(), augmentation=config)
    images = make_images(settings.training.batch_size)
    labels = np.arange(len(images)) % CLASSES
    batches = image_batches(TrainingData(images, labels, images, labels, CLASSES), settings)
    stage = plan_stages(settings, Weights(Path(), "pretrained"))[-1]
    stage.prepare(network, settings.training.batch_norm_momentum)
    model = keras.Model(network.inputs, network.outputs)
    loss = keras.losses.CategoricalCrossentropy()
    model.compile(build_optimizer(network, stage, settings.training), loss, metrics=["accuracy"])

    def run() -> tuple[float, float]:
        clock = time.perf_counter()
        processors = time.process_time()
        for _ in range(STEPS):
            model.train_on_batch(*next(batches.draw(0)))
        return time.perf_counter() - clock, time.process_time() - processors

    return run


def compare_training() -> None:
    """Train with each preset in turn, STEP_ROUNDS times, and print medians and ratios to `none`."""
    blank = np.zeros((1, SIDE, SIDE, 3), np.uint8)
    data = TrainingData(blank, np.zeros(1, int), blank, np.zeros(1, int), CLASSES)
    network = build_network(Config(), data, RANDOM)
    runs = {
        name: training_steps(network, SECTION_PRESETS["augmentation"][name])
        for name in ("none", "mild", "strong")
    }
    for run in runs.values():
        run()  # compiles
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for _ in range(STEP_ROUNDS):
        for name, run in runs.items():
            seconds[name].append(run())
    medians = {name: np.median(values, axis=0) / STEPS for name, values in seconds.items()}
    for name, (clock, processors) in medians.items():
        ratios = medians[name] / medians["none"]
        print(
            f"MobileNetV3Large with preset {name:8} {1000 * clock:6.0f} ms per step "
            f"({ratios[0]:.3f} x), {1000 * processors:6.0f} ms of processors ({ratios[1]:.3f} x)"
        )


def main() -> None:
    """Print both comparisons."""
    compare_throughput()
    compare_training()


if __name__ == "__main__":
    main()
