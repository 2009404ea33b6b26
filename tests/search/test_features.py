"""Cached features are what the network makes of the images, whatever happens meanwhile."""

import dataclasses
import shutil
import threading
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from competition.common.errors import UserError
from competition.config import Config, with_settings
from competition.data.arrays import one_hot
from competition.networks.layers import create_network, network_spec
from competition.networks.submission_model import build_head
from competition.networks.weights import RANDOM, Weights
from competition.search import features as module
from competition.search.features import Features, cache_features
from tests.factories import CONFIG, make_data


def cache(config: Config, folder: Path, weights: Weights = RANDOM) -> Features:
    keras.utils.set_random_seed(1)
    return cache_features(config, make_data(), weights, folder)


def find_place(folder: Path) -> Path:
    (place,) = (path for path in folder.iterdir() if path.is_dir())
    return place


def read_all(folder: Path) -> dict[str, np.ndarray]:
    return {path.name: np.load(path) for path in sorted(find_place(folder).glob("*.npy"))}


@pytest.mark.parametrize(
    ("backbone", "fixture"), [("tiny_cnn", "pretrained"), ("efficientnetlite0", "imagenet")]
)
def test_a_head_makes_of_features_what_the_network_makes_of_images(
    backbone: str, fixture: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    data = make_data()
    weights: Weights = request.getfixturevalue(fixture)
    plain = {"augmentation.cutmix": 0.0, "augmentation.mixup": 0.0, "model.backbone": backbone}
    config = with_settings(CONFIG, plain)
    features = cache_features(config, data, weights, tmp_path)
    spec = network_spec(config.model, (32, 32, 3), 3)
    network = create_network(spec, weights)
    inputs = keras.Input(features.validation.shape[1:])
    head = keras.Model(inputs, build_head(inputs, spec))
    head.set_weights(network.get_weights()[-len(head.weights) :])
    for images, values in (
        (data.validation_images, features.validation),
        (data.images, features.copies[1]),
    ):
        expected = network.predict_on_batch(images.astype(np.float32))
        predicted = head.predict_on_batch(np.asarray(values, np.float32))
        np.testing.assert_allclose(predicted, expected, atol=2e-3)
    np.testing.assert_array_equal(
        features.labels, np.stack([one_hot(data.labels, 3)] * len(features.copies))
    )


def test_every_copy_of_an_image_is_another_and_its_labels_are_mixed_with_it(
    tmp_path: Path,
) -> None:
    features = cache(CONFIG, tmp_path)
    copies, labels = features.copies, features.labels
    assert len(copies) == CONFIG.search.cached_copies
    assert not np.allclose(copies[0], copies[1])
    assert ((labels > 0).sum(axis=-1) == 2).any()
    np.testing.assert_allclose(labels.sum(axis=-1), 1, atol=1e-6)


@pytest.mark.parametrize("batches", [0, 3])
def test_a_computation_that_was_killed_is_not_taken_for_a_whole_one(
    batches: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache(CONFIG, tmp_path / "whole")
    whole = read_all(tmp_path / "whole")
    with monkeypatch.context() as patch:

        def die_after(items: list[Any], *_: Any, **__: Any) -> Any:
            yield from items[:batches]
            raise KeyboardInterrupt

        patch.setattr(module, "progress", die_after)
        with pytest.raises(KeyboardInterrupt):
            cache(CONFIG, tmp_path / "killed")
    cache(CONFIG, tmp_path / "killed")
    again = read_all(tmp_path / "killed")
    assert list(again) == list(whole)
    for name, values in again.items():
        np.testing.assert_array_equal(values, whole[name], err_msg=name)


@pytest.mark.parametrize("damage", ["the end", "a file"])
def test_damaged_features_are_computed_anew(
    damage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache(CONFIG, tmp_path)
    before = read_all(tmp_path)
    path = find_place(tmp_path) / "copies.npy"
    path.write_bytes(path.read_bytes()[:-9])
    if damage == "a file":
        path.unlink()
    cache(CONFIG, tmp_path)
    after = read_all(tmp_path)
    assert f"{path} cannot be read" in capsys.readouterr().out
    np.testing.assert_array_equal(after[path.name], before[path.name])


def test_features_at_hand_are_not_computed_again_and_others_of_the_backbone_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache(CONFIG, tmp_path)
    first = find_place(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(module, "build_network", lambda *_: pytest.fail("they were computed"))
        head = with_settings(CONFIG, {"model.head_units": 8, "training.head_learning_rate": 0.1})
        cache(head, tmp_path)
        assert find_place(tmp_path) == first
    cache(with_settings(CONFIG, {"augmentation.cutmix": 0.2}), tmp_path)
    assert find_place(tmp_path) != first


def test_of_two_that_need_the_same_features_at_once_one_computes_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed: list[Path] = []
    compute = module._compute

    def count(*arguments: Any) -> None:
        computed.append(arguments[-1])
        compute(*arguments)

    monkeypatch.setattr(module, "_compute", count)
    found: list[Features] = []
    threads = [
        threading.Thread(target=lambda: found.append(cache(CONFIG, tmp_path))) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(computed) == 1
    assert len(found) == 2
    np.testing.assert_array_equal(found[0].copies, found[1].copies)


def test_too_little_room_is_told_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = with_settings(CONFIG, {"search.cache_megabytes": 1.0})
    with pytest.raises(UserError, match=r"search\.cache_megabytes is 1; raise it"):
        module._require_room(config, 1200, 36, 576, tmp_path)
    full = dataclasses.make_dataclass("Usage", ["free"])(2**17)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: full)
    with pytest.raises(UserError, match="has 0 MB free"):
        module._require_room(CONFIG, 1200, 36, 576, tmp_path)
