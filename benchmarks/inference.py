"""The submitted model against Keras' own loop.

    python -m benchmarks.inference      (about six minutes on two cores)

Packages MobileNetV3Large with random weights. Prints, for 96 px images, the milliseconds per image
of one view, of five, and of `keras.Model.predict` at its best batch size, in turn, with the ratios.
Then the peak memory of a process that predicts 2,000 images, and of one that predicts 20,000, the
images themselves left out.
"""

import os
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import keras
import numpy as np

from competition.codabench.sandbox import run_limited
from competition.common.files import write_json
from competition.config import ModelConfig, SubmissionConfig
from competition.networks.layers import create_network, network_spec
from competition.networks.submission_model import Model
from competition.networks.weights import RANDOM

SIZE = 96
IMAGES = 1024
ROUNDS = 6
BATCH_SIZES = (32, 64, 128, 256)
FEW = 2_000
MANY = 20_000


def write_submission(folder: Path, backbone: str, views: int) -> Path:
    """Write config.json and weights as packaging does; return the folder."""
    folder.mkdir()
    spec = network_spec(ModelConfig(backbone=backbone), (SIZE, SIZE, 3), 8)
    create_network(spec, RANDOM).save_weights(folder / "a.weights.h5")
    settings = {
        "class_names": list("abcdefgh"),
        "views": views,
        "batch_size": SubmissionConfig().batch_size,
        "members": [{"network": spec, "weights": "a.weights.h5"}],
    }
    write_json(folder / "config.json", settings)
    return folder


def draw_images(count: int) -> np.ndarray:
    """Return random images (count, SIZE, SIZE, 3) uint8."""
    return np.random.default_rng(0).integers(0, 256, (count, SIZE, SIZE, 3), np.uint8)


def time_all(root: Path) -> None:
    """Print the time per image of each way, the best of the rounds, and the ratios."""
    images = draw_images(IMAGES)
    one, five = (
        Model(write_submission(root / str(views), "mobilenetv3large", views)) for views in (1, 5)
    )
    network: keras.Model = one.networks[0]
    ways: dict[str, Callable[[], object]] = {
        f"keras, batches of {size}": partial(network.predict, images, batch_size=size, verbose=0)
        for size in BATCH_SIZES
    }
    ways |= {"one view": partial(one.predict, images), "five views": partial(five.predict, images)}
    # As long as five views, so that both meet the same noise.
    ways["one view, five times"] = lambda: [one.predict(images) for _ in range(5)]
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(ROUNDS + 1):  # the first compiles
        for name, way in ways.items():
            started = time.perf_counter()
            way()
            seconds[name] += [time.perf_counter() - started] if turn else []
    best = {name: min(times) for name, times in seconds.items()}
    for name, value in best.items():
        print(f"{name:22} {1000 * value / IMAGES:6.2f} ms per image")
    bare = min(value for name, value in best.items() if name.startswith("keras"))
    print(f"one view / best of keras: {best['one view'] / bare:.2f}")
    print(f"five views / one view: {5 * best['five views'] / best['one view, five times']:.2f}")


def measure_peak(folder: Path, count: int) -> float:
    """Return the peak memory of a process that predicts `count` images, without these, in MB.

    The process is watched from outside: its own account of its peak holds that of its parent too.
    """
    command = [sys.executable, "-m", "benchmarks.inference", str(folder), str(count)]
    root = Path(__file__).parents[1]
    finished = run_limited(command, folder, 600, 10_000, os.environ | {"PYTHONPATH": str(root)})
    if finished.return_code:
        raise RuntimeError(finished.output)
    return finished.peak_megabytes - count * SIZE * SIZE * 3 / 2**20


def main() -> None:
    """Measure speed here and memory in processes of their own."""
    with tempfile.TemporaryDirectory() as place:
        time_all(Path(place))
        folder = write_submission(Path(place) / "small", "mobilenetv3small", 1)
        few, many = (measure_peak(folder, count) for count in (FEW, MANY))
        print(
            f"peak memory beside the images: {few:.0f} MB for {FEW}, {many:.0f} MB for {MANY}: "
            f"{many - few:+.0f} MB"
        )


if __name__ == "__main__":
    if len(sys.argv) == 1:
        main()
    else:  # started by `measure_peak`
        Model(Path(sys.argv[1])).predict(draw_images(int(sys.argv[2])))
