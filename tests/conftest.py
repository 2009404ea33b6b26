"""Fixtures: a tiny training file, weights that count as pretrained, and prepared data."""

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.factories import draw_blobs, make_data

if TYPE_CHECKING:
    from competition.data.arrays import PreparedData
    from competition.networks.weights import Weights

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


@pytest.fixture(scope="session")
def blobs_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training file of 180 tiny images of three classes."""
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


@pytest.fixture(scope="session")
def imagenet(tmp_path_factory: pytest.TempPathFactory) -> "Weights":
    """Real ImageNet weights, those of EfficientNet-Lite0, which come with the requirements."""
    from competition.networks.weights import resolve_weights

    return resolve_weights("imagenet", "efficientnetlite0", tmp_path_factory.mktemp("imagenet"))


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> "PreparedData":
    """Prepared data in memory: 60 images to train on, 18 for validation and 21 for the test.

    One of the test's labels is surely wrong.
    """
    from competition.data.arrays import PreparedData, ScoredSet
    from competition.distortion.profiles import PROFILES, TABLES, distort, draw_corruptions

    scored = {}
    for name, count, seed in (("validation", 18, 3), ("test", 21, 4)):
        images, labels = draw_blobs(count, 3, seed)
        scored[name] = ScoredSet(
            name,
            {"clean": images} | {profile: distort(images, profile, seed) for profile in PROFILES},
            labels,
            np.arange(count) == (5 if name == "test" else -1),
            {profile: draw_corruptions(profile, count, seed)[0] for profile in TABLES},
        )
    versions = scored["validation"].versions
    training = replace(
        make_data(), validation_images=np.concatenate([versions["clean"], versions["revealed"]])
    )
    folder = tmp_path_factory.mktemp("prepared")
    return PreparedData(
        folder,
        training,
        **scored,
        class_names=("a", "b", "c"),
        fingerprint="s",
        distortion_hash="d",
        selection_hash="v",
    )
