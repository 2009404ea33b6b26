"""What tests are made of: tiny images and settings, random runs, and zips of a few lines."""

import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import scipy.ndimage

from competition.common.files import write_json
from competition.config import Config, ModelConfig, with_settings
from competition.data.arrays import TrainingData
from competition.networks.layers import create_network, network_spec
from competition.networks.weights import RANDOM
from competition.search.rounds import Search

IMAGES = np.random.default_rng(0).integers(0, 256, (70, 32, 32, 3), np.uint8)
PLAIN = """import numpy as np
class Model:
    def predict(self, X):
        return np.zeros(len(X), int)
"""
CONFIG = with_settings(
    Config(),
    {
        "model.backbone": "tiny_cnn",
        "model.head_units": 16,
        "training.batch_size": 16,
        "training.frozen_epochs": 2,
        "training.fine_tuning_epochs": 3,
        "training.unfreeze": 0.5,
        "training.optimizer": "adam",
        "training.clip_norm": 0.0,
        "training.batch_norm": "inference",
        "training.fine_tuning_learning_rate": 1e-4,
        "augmentation": "none",
        "augmentation.cutmix": 0.4,
        "augmentation.mixup": 0.4,
    },
)


def draw_blobs(
    count: int, classes: int, seed: int, size: int = 32
) -> tuple[np.ndarray, np.ndarray]:
    """Return images (count, size, size, 3) uint8 of discs that tell their class, and labels."""
    generator = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    rows, columns = np.mgrid[:size, :size]
    images = generator.integers(180, 230, (count, size, size, 3)).astype(np.uint8)
    for image, label in zip(images, labels, strict=True):
        centre = size / 2 + generator.uniform(-3, 3, 2)
        disc = (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 < (
            size * (0.15 + 0.08 * label)
        ) ** 2
        image[disc] = np.array([40 + 60 * label, 30, 200 - 60 * label]) + generator.integers(
            -15, 15, 3
        )
    return images, labels


def make_images(count: int = 6, side: int = 24) -> np.ndarray:
    """Return blobs on a light ground, (count, side, side, 3) uint8."""
    rng = np.random.default_rng(5)
    smooth = scipy.ndimage.gaussian_filter(rng.normal(size=(count, side, side, 3)), (0, 2, 2, 0))
    return np.clip(160 + 400 * smooth, 5, 250).astype(np.uint8)


def make_data(count: int = 60) -> TrainingData:
    """Return blobs to train on, and two versions of others to validate on."""
    images, labels = draw_blobs(count, 3, seed=2)
    checked, targets = draw_blobs(18, 3, seed=3)
    return TrainingData(images, labels, np.concatenate([checked, checked]), np.tile(targets, 2), 3)


def write_zip(path: Path, files: dict[str, str]) -> Path:
    """Write a zip of texts by name."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return path


def make_run(folder: Path, backbone: str, num_classes: int = 3) -> tuple[Path, Any]:
    """Return a run's folder, and its network, whose predictions differ between images."""
    run = folder / f"{backbone}_001"
    run.mkdir(parents=True)
    config = ModelConfig(backbone=backbone, head_units=8)
    spec = network_spec(config, IMAGES.shape[1:], num_classes)
    network = create_network(spec, RANDOM)
    enliven(network)
    network.save_weights(run / "network.weights.h5")
    write_json(
        run / "config.json",
        {"network": spec, "class_names": list("abcdefgh"[:num_classes]), "splits": "s"},
    )
    return run, network


def enliven(network: Any) -> None:
    """Scale the last layer so that the logits of IMAGES spread by about 2 within each class."""
    features = type(network)(network.input, network.layers[-1].input).predict(IMAGES, verbose=0)
    kernel, bias = network.layers[-1].get_weights()
    logits = features @ kernel
    scale = 2 / max(float(logits.std(axis=0).mean()), 1e-12)
    network.layers[-1].set_weights([kernel * scale, bias - scale * logits.mean(axis=0)])


def make_search(folder: Path, trials: int = 8, **changes: Any) -> Search:
    """Return the search of the tiny network from random weights, which needs no backend."""
    settings = {
        "model.backbone": "tiny_cnn",
        "search.trials": trials,
        "search.heartbeat_seconds": 1,
    }
    search = Search(
        with_settings(Config(), settings),
        RANDOM,
        folder,
        {"splits": "data-1", "classes": 3},
        backend="numpy",
        side=96,
    )
    return replace(search, **changes)


@contextmanager
def open_browser(folder: Path) -> Iterator[Any]:
    """Yield a headless Chromium with its profile in `folder`; at its end no script had an error."""
    import pytest

    chromium, driver_path = shutil.which("chromium"), shutil.which("chromedriver")
    if not (chromium and driver_path):
        pytest.skip(
            "chromium and chromedriver are not installed "
            "(Debian: apt-get install chromium chromium-driver)"
        )
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    switches = (
        *("headless=new", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run"),
        *("disable-sync", "disable-background-networking", "disable-component-update"),
    )
    options = webdriver.ChromeOptions()
    for switch in (*switches, "window-size=1200,900", f"user-data-dir={folder / 'profile'}"):
        options.add_argument(f"--{switch}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver: Any = webdriver.Chrome(options, Service(driver_path))
    yield driver
    messages = driver.get_log("browser")
    driver.quit()
    assert messages == []
