"""Cached features are what the network makes of the pictures, whatever happens while they are computed."""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from competition.common.errors import UserError
from competition.config import Config, with_settings
from competition.data.arrays import one_hot
from competition.networks.layers import create_network, network_spec, upper_part
from competition.networks.weights import RANDOM, Weights
from competition.search import features as module
from competition.search.features import Features, cache_features
from tests.factories import CONFIG, make_data

SHARES = (0.5, 1.0)  # of all there is nothing to cache


def cache(config: Config, folder: Path, weights: Weights = RANDOM) -> Features:
    import keras

    keras.utils.set_random_seed(1)
    return cache_features(config, make_data(), weights, SHARES, folder)


def read_all(features: Features) -> dict[str, np.ndarray]:
    return {path.name: np.load(path) for path in sorted(features.folder.glob("*.npy"))}


def test_the_upper_part_makes_of_features_what_the_network_makes_of_pictures(
    tmp_path: Path,
    pretrained: Weights,
) -> None:
    data, config = (
        make_data(),
        with_settings(CONFIG, {"augmentation.cutmix": 0.0, "augmentation.mixup": 0.0}),
    )
    features = cache_features(config, data, pretrained, SHARES, tmp_path)
    network = create_network(network_spec(config.model, (32, 32, 3), 3), pretrained)
    expected = network.predict_on_batch(data.validation_images.astype(np.float32))
    borders = [
        None,
        *sorted(
            {int(path.stem.split("_")[2]) for path in features.folder.glob("training_border*")}
        ),
    ]
    assert len(borders) == 2
    for border in borders:
        predicted = upper_part(network, border).predict_on_batch(
            features.validation(border).astype(np.float32)
        )
        np.testing.assert_allclose(predicted, expected, atol=2e-3)
    views, labels = features.training(None)
    np.testing.assert_array_equal(labels, np.stack([one_hot(data.labels, 3)] * len(views)))


def test_every_view_of_a_picture_is_another_and_its_labels_are_mixed_with_it(
    tmp_path: Path,
) -> None:
    views, labels = cache(CONFIG, tmp_path).training(None)
    assert len(views) == CONFIG.search.cached_copies
    assert not np.allclose(views[0], views[1])
    assert ((labels > 0).sum(axis=-1) == 2).any()
    np.testing.assert_allclose(labels.sum(axis=-1), 1, atol=1e-6)


@pytest.mark.parametrize("batches", [1, 2, 4])
def test_a_build_that_was_killed_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batches: int
) -> None:
    whole = read_all(cache(CONFIG, tmp_path / "whole"))
    monkeypatch.setattr(module, "PARTS_A_NOTE", 2)
    compute = module._Build._compute
    computed: list[int] = []

    def die_after(self: Any, number: int, *rest: Any) -> float:
        if len(computed) == batches:
            raise KeyboardInterrupt
        computed.append(number)
        return compute(self, number, *rest)

    monkeypatch.setattr(module._Build, "_compute", die_after)
    with pytest.raises(KeyboardInterrupt):
        cache(CONFIG, tmp_path / "killed")
    parts = [
        number for number in range(5) if number >= batches // 2 * 2
    ]  # what was not noted is computed again
    computed.clear()
    batches = 5
    again = cache(CONFIG, tmp_path / "killed")
    assert computed == parts
    for name, values in read_all(again).items():
        np.testing.assert_array_equal(values, whole[name], err_msg=name)


def test_damaged_features_are_computed_anew(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    features = cache(CONFIG, tmp_path)
    before = read_all(features)
    path = features.folder / "training_pooled.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 255
    path.write_bytes(content)
    after = read_all(cache(CONFIG, tmp_path))
    assert "damaged" in capsys.readouterr().out
    np.testing.assert_array_equal(after[path.name], before[path.name])


def test_features_at_hand_are_not_computed_again_and_others_of_the_backbone_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = cache(CONFIG, tmp_path)
    monkeypatch.setattr(module, "_Build", None)
    assert cache(CONFIG, tmp_path).folder == first.folder
    monkeypatch.undo()
    other = cache(with_settings(CONFIG, {"augmentation.cutmix": 0.2}), tmp_path)
    assert [path for path in tmp_path.iterdir() if path.is_dir()] == [other.folder]


def test_as_many_views_are_kept_as_fit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = with_settings(CONFIG, {"search.cache_megabytes": 1.0})
    features = cache_features(config, make_data(240), RANDOM, SHARES, tmp_path)
    views = len(features.training(None)[0])
    assert 1 <= views < 4
    assert f"{views} of 4 views" in capsys.readouterr().out
    assert sum(path.stat().st_size for path in features.folder.glob("[tv]*.npy")) < 2**20


def test_too_little_room_is_told_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = make_data(1200)
    with pytest.raises(UserError, match=r"search\.cache_megabytes is 1; raise it"):
        cache_features(
            with_settings(CONFIG, {"search.cache_megabytes": 1.0}), data, RANDOM, SHARES, tmp_path
        )
    full = dataclasses.make_dataclass("Usage", ["free"])(2**17)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: full)
    with pytest.raises(UserError, match="has 0 MB free"):
        cache(CONFIG, tmp_path)
