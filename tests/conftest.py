"""Fixtures: a tiny training file, weights that count as pretrained, and Keras kept quiet."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.factories import draw_blobs

if TYPE_CHECKING:
    from competition.networks.weights import Weights

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


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

    from competition.networks.submission_model import build_tiny_cnn
    from competition.networks.weights import Weights

    path = tmp_path_factory.mktemp("weights") / "tiny_cnn_imagenet_notop.weights.h5"
    keras.utils.set_random_seed(5)
    build_tiny_cnn((32, 32, 3)).save_weights(path)
    return Weights(path, "imagenet")
