"""Throughput of the augmentation layer beside `keras.layers.RandAugment`, and what it adds to a training step.

    python -m benchmarks.augmentation      (about three minutes on two cores)

First both do 3 operations on 96x96 pictures in batches of 64, Keras' layer per picture in tf.data, in turn, on the same
cores: expect a ratio of at least 8. Then MobileNetV3Large trains as by default, with each preset in turn for a few
steps, each after its batch: expect `strong` to cost at most 1.10 times `none`. (`fit` makes batches ahead.)
"""

import dataclasses
import os
import time
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from competition.augmentation.augment import compile_augmentation
from competition.config import SECTION_PRESETS, AugmentationConfig, ModelConfig, TrainingConfig
from competition.data.arrays import one_hot
from competition.networks.layers import create_network, network_spec, unfreeze_backbone
from competition.networks.weights import RANDOM
from competition.training.batches import Batches
from competition.training.train import compile_model

SIDE, BATCH_SIZE, NUM_BATCHES, NUM_OPERATIONS, NUM_ROUNDS, SECONDS = 96, 64, 2, 3, 3, 1.0
STEPS, STEP_ROUNDS, CLASSES = 4, 12, 8
REFERENCE = "keras.layers.RandAugment, 3 operations"


def make_pictures(count: int) -> np.ndarray:
    """Return smooth coloured noise (count, SIDE, SIDE, 3) uint8."""
    coarse = np.random.default_rng(0).integers(0, 256, (count, 12, 12, 3), np.uint8)
    return np.asarray(tf.cast(tf.image.resize(coarse, (SIDE, SIDE)), tf.uint8))


def reference(pictures: np.ndarray) -> Callable[[], None]:
    """Return a function that fetches NUM_BATCHES batches from tf.data, augmented picture by picture."""
    layer = keras.layers.RandAugment(value_range=(0, 255), num_ops=NUM_OPERATIONS, factor=0.5)
    data = tf.data.Dataset.from_tensor_slices(pictures).repeat()
    data = data.map(lambda image: layer(image, training=True), num_parallel_calls=os.cpu_count())
    batches = iter(data.batch(BATCH_SIZE).prefetch(1))

    def run() -> None:
        for _ in range(NUM_BATCHES):
            next(batches).numpy()

    return run


def ours(pictures: np.ndarray, config: AugmentationConfig) -> Callable[[], None]:
    """Return a function that augments `pictures` once, batch by batch, as batches are for `fit` on a CPU."""
    augment = compile_augmentation(config, (SIDE, SIDE, 3), CLASSES)
    labels = one_hot(np.arange(BATCH_SIZE) % CLASSES, CLASSES)

    def run() -> None:
        for start in range(0, len(pictures), BATCH_SIZE):
            augment(np.array([0, start], np.uint32), pictures[start : start + BATCH_SIZE], labels)

    return run


def pictures_per_second(run: Callable[[], None]) -> float:
    """Return the throughput of `run`, repeated for SECONDS, without what tf.data made before or makes afterwards."""
    run()
    start, passes = time.perf_counter(), 0
    while time.perf_counter() - start < SECONDS:
        run()
        passes += 1
    speed = passes * NUM_BATCHES * BATCH_SIZE / (time.perf_counter() - start)
    time.sleep(0.5)  # tf.data goes on until its buffers are full
    return speed


def compare_throughput() -> None:
    """Measure both layers in turn, NUM_ROUNDS times, and print medians and ratios."""
    pictures = make_pictures(NUM_BATCHES * BATCH_SIZE)
    presets = SECTION_PRESETS["augmentation"]
    plain = AugmentationConfig(num_operations=NUM_OPERATIONS, magnitude=0.5, rate=1.0, flips=False)
    runs = {
        REFERENCE: reference(pictures),
        "ours, 3 operations, bilinear": ours(pictures, plain),
        "ours, 3 operations, nearest": ours(
            pictures, dataclasses.replace(plain, interpolation="nearest")
        ),
        **{f"ours, preset {name}": ours(pictures, preset) for name, preset in presets.items()},
    }
    for run in runs.values():
        run()  # compiles
    speeds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(NUM_ROUNDS):
        for name, run in runs.items():
            speeds[name].append(pictures_per_second(run))
    for name, values in speeds.items():
        ratios = np.divide(values, speeds[REFERENCE])
        print(f"{name:42} {np.median(values):8,.0f} pictures/s {np.median(ratios):7.1f} x")


def training_steps(
    network: keras.Model, config: AugmentationConfig
) -> Callable[[], tuple[float, float]]:
    """Return a function that trains STEPS steps and returns their seconds, by the clock and of the processors."""
    settings = TrainingConfig()
    pictures, labels = (
        make_pictures(settings.batch_size),
        one_hot(np.arange(settings.batch_size) % CLASSES, CLASSES),
    )
    batches = Batches(pictures[None], labels[None], settings.batch_size, 0, augmentation=config)
    model = compile_model(network, batches.layer, settings, settings.fine_tuning_learning_rate, 1)

    def run() -> tuple[float, float]:
        clock, processors = time.perf_counter(), time.process_time()
        for _ in range(STEPS):
            model.train_on_batch(*batches[0])
        return time.perf_counter() - clock, time.process_time() - processors

    return run


def compare_training() -> None:
    """Train with each preset in turn, STEP_ROUNDS times, and print medians and their ratios to `none`."""
    network = create_network(network_spec(ModelConfig(), (SIDE, SIDE, 3), CLASSES), RANDOM)
    unfreeze_backbone(network, TrainingConfig().unfreeze)
    runs = {
        name: training_steps(network, SECTION_PRESETS["augmentation"][name])
        for name in ("none", "baseline", "strong")
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
            f"MobileNetV3Large with preset {name:7} {1000 * clock:6.0f} ms a step ({ratios[0]:.3f} x), "
            f"{1000 * processors:6.0f} ms of processors ({ratios[1]:.3f} x)"
        )


def main() -> None:
    """Print both comparisons."""
    compare_throughput()
    compare_training()


if __name__ == "__main__":
    main()
