"""Workers of one core each against one process with all cores.

python -m benchmarks.workers (about three minutes)

Every core's task is the same short training of MobileNetV3Large, from building it to the last
epoch. Prints the seconds of each way, twice in turns, and the ratio.
"""

import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np

from competition.common.parallel import Workers, count_workers
from competition.config import Config, with_settings
from competition.data.arrays import TrainingData
from competition.networks.weights import RANDOM
from competition.training.keepers import Checkpoint
from competition.training.train import build_network, train

SIZE, PICTURES, ROUNDS = 64, 480, 2
CHANGES = {"training.frozen_epochs": 0, "training.fine_tuning_epochs": 2}


def train_once(seed: int) -> None:
    """Train on random pictures, in any process."""
    generator = np.random.default_rng(seed)
    images = generator.integers(0, 256, (PICTURES, SIZE, SIZE, 3), np.uint8)
    labels = np.arange(PICTURES) % 8
    data = TrainingData(images, labels, images[:64], labels[:64], 8)
    config = with_settings(Config(), CHANGES | {"seed": seed})
    with tempfile.TemporaryDirectory() as folder:
        keeper = Checkpoint(Path(folder), build_network(config, data, RANDOM))
        train(config, data, RANDOM, keeper, None)


def seconds_of(workers: Workers, tasks: int) -> float:
    """Return the seconds that `tasks` trainings take."""
    started = time.perf_counter()
    for _ in workers.run_all({str(seed): partial(train_once, seed) for seed in range(tasks)}):
        pass
    return time.perf_counter() - started


def main() -> None:
    """Measure in turns and print the ratio."""
    number = max(2, count_workers(4, accelerated=False))
    with Workers(number) as several, Workers(1) as one:
        seconds_of(
            several, number
        )  # starts the processes and loads the libraries there, which a job does once
        times = [(seconds_of(one, number), seconds_of(several, number)) for _ in range(ROUNDS)]
    for alone, shared in times:
        print(f"{number} trainings: one process {alone:.1f} s, {number} workers {shared:.1f} s")
    alone, shared = np.min(times, axis=0)
    print(f"one process / {number} workers: {alone / shared:.2f}")


if __name__ == "__main__":
    main()
