"""Where weights come from, and that what is wrong with them is said."""

import socket
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from competition.backbones import get_backbone
from competition.common.errors import UserError
from competition.networks import weights as module
from competition.networks.submission_model import build_backbone, build_tiny_cnn
from competition.networks.weights import (
    RANDOM,
    Weights,
    check_setting,
    check_weights,
    choose_embedding,
    choose_weights,
    copy_weights,
    find_weights,
    load_backbone,
    resolve_weights,
)

SHARED = Path(__file__).parents[3] / "shared" / "weights"


DOWNLOAD = module._download


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_download", lambda entry, target: False)


def test_a_file_in_the_weights_folder_comes_first(tmp_path: Path) -> None:
    path = tmp_path / "mobilenetv3small_imagenet_notop.weights.h5"
    path.touch()
    assert resolve_weights("auto", "mobilenetv3small", tmp_path) == Weights(path, "imagenet")
    assert resolve_weights(str(tmp_path), "mobilenetv3small", Path("elsewhere")) == Weights(
        path, "imagenet"
    )
    assert resolve_weights("none", "mobilenetv3small", tmp_path) == RANDOM


def test_without_weights_auto_says_that_it_starts_at_random_and_what_that_means(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert resolve_weights("auto", "mobilenetv3small", tmp_path) == RANDOM
    assert find_weights("auto", "mobilenetv3small", tmp_path) is None
    choose_weights("auto", ["custom_cnn", "mobilenetv3small"], tmp_path)
    assert [line.strip() for line in capsys.readouterr().out.splitlines()] == [
        "custom CNN: random weights",
        "MobileNetV3Small: random weights (without ImageNet weights its scores are far lower)",
    ]


def test_a_download_that_fails_is_one_calm_line_and_is_tried_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tried: list[float | None] = []

    def fail(**_: Any) -> None:
        print("Downloading data from a server")
        tried.append(socket.getdefaulttimeout())
        raise Exception("URL fetch failure on a server: None -- Name or service not known")

    monkeypatch.setattr(module, "_download", DOWNLOAD)
    monkeypatch.setattr(module, "_unreachable", set())
    for name in ("mobilenetv3small", "efficientnetb0"):
        monkeypatch.setattr(keras.applications, get_backbone(name).builder, fail)
        assert resolve_weights("auto", name, tmp_path) == RANDOM
    assert tried == [module.NO_ANSWER_SECONDS], "a server that never answers is given up"
    assert socket.getdefaulttimeout() is None
    assert capsys.readouterr().out == (
        "Keras' ImageNet weights cannot be downloaded here (no connection).\n"
    )


def test_imagenet_without_weights_is_refused_with_the_name_of_the_missing_file(
    tmp_path: Path,
) -> None:
    with pytest.raises(UserError, match=r"put mobilenetv3small_imagenet_notop\.weights\.h5 there"):
        resolve_weights("imagenet", "mobilenetv3small", tmp_path)


def test_a_backbone_that_has_no_imagenet_weights_takes_none(tmp_path: Path) -> None:
    assert resolve_weights("imagenet", "custom_cnn", tmp_path) == RANDOM


def test_a_file_that_is_missing_is_told_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"where there is no file none\.h5; give auto"):
        check_setting(str(tmp_path / "none.h5"), "mobilenetv3small")
    with pytest.raises(UserError, match="no file mobilenetv3small_imagenet_notop"):
        check_setting(str(tmp_path), "mobilenetv3small")
    for fine in ("auto", "imagenet", "none"):
        check_setting(fine, "mobilenetv3small")
    check_setting(str(tmp_path / "none.h5"), "custom_cnn")


def test_the_weights_of_each_backbone_are_said_and_checked_before_the_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["custom_cnn", "mobilenetv3small"]
    assert choose_weights("none", names, tmp_path) == dict.fromkeys(names, RANDOM)
    output = capsys.readouterr().out
    assert [line.strip() for line in output.splitlines()] == [
        "custom CNN: random weights",
        "MobileNetV3Small: random weights",
    ]
    (tmp_path / "mobilenetv3small_imagenet_notop.weights.h5").write_bytes(b"nothing")
    with pytest.raises(UserError, match="is broken"):
        choose_weights("auto", names, tmp_path)


def test_weights_given_for_training_need_not_fit_the_backbone_of_cleaning(tmp_path: Path) -> None:
    local = tmp_path / "mobilenetv3small_imagenet_notop.weights.h5"
    local.touch()
    other = tmp_path / "other.weights.h5"
    other.touch()
    assert choose_embedding(str(other), "mobilenetv3small", tmp_path) == ("mobilenetv3small", local)


def test_cleaning_describes_images_by_the_wheels_weights_where_its_own_cannot_be_had(
    tmp_path: Path,
) -> None:
    lite = tmp_path / "efficientnetlite0_imagenet_notop.weights.h5"
    lite.touch()
    assert choose_embedding("auto", "mobilenetv3small", tmp_path) == ("efficientnetlite0", lite)
    own = tmp_path / "mobilenetv3small_imagenet_notop.weights.h5"
    own.touch()
    assert choose_embedding("auto", "mobilenetv3small", tmp_path) == ("mobilenetv3small", own)
    assert choose_embedding("none", "mobilenetv3small", tmp_path) == ("mobilenetv3small", None)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "tiny.weights.h5"
    build_tiny_cnn((32, 32, 3)).save_weights(path)
    check_weights(Weights(path, "imagenet"), "tiny_cnn")
    with pytest.raises(UserError, match="does not hold weights of this backbone"):
        check_weights(Weights(path, "imagenet"), "custom_cnn")
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(UserError, match="is broken"):
        check_weights(Weights(path, "imagenet"), "tiny_cnn")


@pytest.mark.parametrize("way", ["copied", "read from Keras' own file"])
def test_the_scale_that_keras_adds_for_imagenet_moves_into_the_normalisation(
    way: str, tmp_path: Path
) -> None:
    deviations = np.array([0.229, 0.224, 0.225])

    def build(with_scale: bool) -> keras.Model:
        inputs = keras.Input((8, 8, 3))
        x = keras.layers.Normalization()(keras.layers.Rescaling(1 / 255)(inputs))
        x = keras.layers.Rescaling(list(deviations**-0.5))(x) if with_scale else x
        return keras.Model(inputs, keras.layers.Conv2D(2, 3)(x))

    source, target = build(True), build(False)
    variance = np.array([0.2, 0.3, 0.4]) if way == "copied" else deviations
    source.layers[2].set_weights([np.array([0.4, 0.5, 0.6]), variance, np.array(0)])
    source.layers[2].finalize_state()
    if way == "copied":
        copy_weights(source, target)
    else:
        source.save_weights(tmp_path / "own.weights.h5")
        module.load_backbone(target, Weights(tmp_path / "own.weights.h5", "imagenet"))
        target.save_weights(tmp_path / "ours.weights.h5")
        module.load_backbone(target, Weights(tmp_path / "ours.weights.h5", "imagenet"))
    images = np.random.default_rng(0).uniform(0, 255, (2, 8, 8, 3)).astype(np.float32)
    np.testing.assert_allclose(
        source.predict(images, verbose=0), target.predict(images, verbose=0), rtol=1e-4
    )


@pytest.mark.parametrize("backbone", ["convnexttiny", "efficientnetv2b0"])
def test_weights_come_back_from_a_file(backbone: str, tmp_path: Path) -> None:
    entry = get_backbone(backbone)
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3)).astype(np.float32)
    first, second = (build_backbone(entry.builder, entry.arguments, (32, 32, 3)) for _ in range(2))
    first.save_weights(tmp_path / f"{backbone}_imagenet_notop.weights.h5")
    weights = resolve_weights("imagenet", backbone, tmp_path)
    assert weights.is_pretrained
    expected = np.asarray(first(images, training=False))
    assert np.abs(np.asarray(second(images, training=False)) - expected).max() > 1e-3
    load_backbone(second, weights)
    np.testing.assert_array_equal(np.asarray(second(images, training=False)), expected)


@pytest.mark.parametrize("backbone", ["mobilenetv3small", "mobilenetv3large", "efficientnetb0"])
def test_real_imagenet_weights_load(backbone: str) -> None:
    if not SHARED.is_dir():
        pytest.skip("no folder shared/weights with real ImageNet weights beside the project")
    resolved = resolve_weights(str(SHARED), backbone, Path("elsewhere"))
    check_weights(resolved, backbone)
    network = build_backbone(get_backbone(backbone).builder, {}, (96, 96, 3))
    before = network.get_weights()
    module.load_backbone(network, resolved)
    changed = [
        not np.array_equal(old, new) for old, new in zip(before, network.get_weights(), strict=True)
    ]
    assert np.mean(changed) > 0.95
