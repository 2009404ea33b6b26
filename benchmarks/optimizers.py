"""Joined against plain Adam on MobileNetV3Large: python -m benchmarks.optimizers (about three minutes on two cores).

Prints seconds to the end of the first step and of a later one, for both, twice in turns, and the ratios.
"""

import time

import keras
import numpy as np

from competition.config import ModelConfig
from competition.model import create_network, network_spec, train_everything
from competition.optimizers import FusedAdam
from competition.weights import RANDOM

SIZE, BATCH, STEPS, ROUNDS = 64, 32, 15, 2


def time_steps(optimizer: keras.optimizers.Optimizer) -> tuple[float, float]:
    """Return the seconds of the first step, which compiles, and the median of later ones."""
    keras.utils.clear_session(free_memory=True)
    keras.utils.set_random_seed(0)
    network = create_network(network_spec(ModelConfig(), (SIZE, SIZE, 3), 8), RANDOM)
    train_everything(network, 0.9)
    network.compile(optimizer, "categorical_crossentropy", jit_compile=False)
    images = np.random.default_rng(0).uniform(0, 255, (BATCH, SIZE, SIZE, 3)).astype(np.float32)
    targets = np.eye(8, dtype=np.float32)[np.arange(BATCH) % 8]
    seconds = []
    for _ in range(STEPS):
        started = time.perf_counter()
        network.train_on_batch(images, targets)
        seconds.append(time.perf_counter() - started)
    return seconds[0], float(np.median(seconds[1:]))


def main() -> None:
    """Measure in turns and print the ratios."""
    times: dict[str, list[tuple[float, float]]] = {"plain": [], "joined": []}
    for _ in range(ROUNDS):
        times["plain"].append(time_steps(keras.optimizers.Adam()))
        times["joined"].append(time_steps(FusedAdam()))
    best = {name: np.min(values, axis=0) for name, values in times.items()}
    for name, (first, later) in best.items():
        print(f"{name:8} first step {first:6.2f} s, later {1000 * later:6.1f} ms")
    first, later = best["plain"] / best["joined"]
    print(f"plain / joined: first step {first:.2f}, later {later:.2f}")


if __name__ == "__main__":
    main()
