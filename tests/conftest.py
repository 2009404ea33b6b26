"""What several tests share: tiny pictures of two colours of blobs, and Keras kept quiet."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

if TYPE_CHECKING:
    from competition.weights import Weights

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def draw_blobs(count: int, classes: int, seed: int, size: int = 32) -> tuple[np.ndarray, np.ndarray]:
    """Return pictures (count, size, size, 3) uint8 of a disc whose colour and radius tell the class, and labels."""
    generator = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    rows, columns = np.mgrid[:size, :size]
    images = generator.integers(180, 230, (count, size, size, 3)).astype(np.uint8)
    for image, label in zip(images, labels, strict=True):
        centre = size / 2 + generator.uniform(-3, 3, 2)
        disc = (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 < (size * (0.15 + 0.08 * label)) ** 2
        image[disc] = np.array([40 + 60 * label, 30, 200 - 60 * label]) + generator.integers(-15, 15, 3)
    return images, labels


@pytest.fixture(scope="session")
def blobs_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training file of 180 tiny pictures of three classes."""
    images, labels = draw_blobs(180, 3, seed=1)
    path = tmp_path_factory.mktemp("blobs") / "blobs.npz"
    np.savez(path, images=images, labels=labels[:, None].astype(np.uint8))
    return path


@pytest.fixture(scope="session")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> "Weights":
    """Weights that make the tiny network count as pretrained, so that it trains in two stages."""
    import keras

    from competition.submission_model import build_tiny_cnn
    from competition.weights import Weights

    path = tmp_path_factory.mktemp("weights") / "tiny_cnn_imagenet_notop.weights.h5"
    keras.utils.set_random_seed(5)
    build_tiny_cnn((32, 32, 3)).save_weights(path)
    return Weights(path, "imagenet")
