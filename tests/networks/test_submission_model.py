"""The submitted model: its views, and any images that a server may hand it."""

import json
import warnings
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import pytest
from keras.src.backend.common.global_state import set_global_attribute

from competition.config import ModelConfig, SubmissionConfig
from competition.networks import submission_model
from competition.networks.layers import create_network, find_backbone, network_spec
from competition.networks.submission_model import (
    VIEWS,
    build_network,
    convert_images,
    predict_views,
)
from competition.networks.weights import RANDOM
from competition.submission.package import predict_mean, write_submission
from tests.factories import IMAGES, make_run


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The packaged model of a tiny network, with two views and batches of 16."""
    keras.utils.set_random_seed(0)  # one network in twenty never answers one of the classes
    run, _ = make_run(tmp_path_factory.mktemp("runs"), "tiny_cnn")
    folder = run.parent / "unpacked"
    write_submission([run], 2, SubmissionConfig(batch_size=16), folder)
    made = submission_model.Model(folder)
    assert made.config == json.loads((folder / "config.json").read_text())
    return made


@pytest.fixture(scope="module")
def labels(model: Any) -> Any:
    """Its labels of IMAGES, all three of them among them."""
    found = model.predict(IMAGES)
    assert set(found) == {0, 1, 2}
    return found


def test_members_are_averaged_by_their_shares(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / name, "tiny_cnn") for name in ("a", "b")]
    runs[1][0].rename(tmp_path / "tiny_cnn_002")
    members = [runs[0][0], runs[0][0], tmp_path / "tiny_cnn_002"]
    write_submission(members, 1, SubmissionConfig(batch_size=35), tmp_path / "zip")
    first, second = (network.predict_on_batch(IMAGES[:35]) for _, network in runs)
    made = submission_model.Model(tmp_path / "zip")
    assert len(made.networks) == 2
    predictions = made.predict_proba(IMAGES[:35])
    assert predictions.dtype == np.float32
    np.testing.assert_allclose(predictions, (2 * first + second) / 3, atol=1e-6)
    np.testing.assert_allclose(predict_mean(members, IMAGES[:35], 1, 35), predictions, atol=1e-6)
    for member in made.config["members"]:  # as in the zips of earlier versions
        del member["share"]
    np.testing.assert_allclose(made.predict_proba(IMAGES[:35]), (first + second) / 2, atol=1e-6)


def test_views_are_the_eight_symmetries_of_the_square() -> None:
    image = np.arange(9).reshape(1, 3, 3, 1)
    seen = {view(image).tobytes() for view in VIEWS}
    rotations = {np.rot90(image, turns, axes=(1, 2)).tobytes() for turns in range(4)}
    assert len(seen) == 8
    assert rotations < seen
    assert VIEWS[0](image) is image


def test_each_view_of_each_batch_is_predicted_once() -> None:
    passed: list[bytes] = []

    def predict_on_batch(batch: np.ndarray) -> np.ndarray:
        passed.append(batch.tobytes())
        return np.zeros((len(batch), 3), np.float32)

    network = SimpleNamespace(output_shape=(None, 3), predict_on_batch=predict_on_batch)
    assert predict_views(network, IMAGES, 5, 16).shape == (5, 70, 3)
    assert len(passed) == len(set(passed)) == 5 * 5


@pytest.mark.parametrize("count", [0, 1, 15, 16, 17, 70])
def test_labels_are_integers_one_per_image_for_any_count(
    model: Any, labels: Any, count: int
) -> None:
    found = model.predict(IMAGES[:count])
    assert (found.dtype, found.shape) == (np.int64, (count,))
    assert found.tolist() == labels[:count].tolist()


def test_a_label_depends_neither_on_the_other_images_nor_on_the_batch_size(
    model: Any, labels: Any
) -> None:
    np.testing.assert_array_equal(model.predict(IMAGES[::-1]), labels[::-1])
    whole = model.predict_proba(IMAGES)
    model.config["batch_size"] = 7
    np.testing.assert_array_equal(model.predict(IMAGES), labels)
    np.testing.assert_allclose(model.predict_proba(IMAGES), whole, atol=1e-5)
    model.config["batch_size"] = 16


@pytest.mark.parametrize(
    "kind", ["int64", "float64", "float16", "fortran", "sliced", "read-only", "list"]
)
def test_the_same_images_in_another_guise_get_the_same_labels(
    model: Any, labels: Any, kind: str
) -> None:
    wide = np.zeros((70, 32, 64, 3), np.uint8)
    wide[:, :, ::2] = IMAGES
    locked = IMAGES.copy()
    locked.flags.writeable = False
    guises: dict[str, Any] = {
        "fortran": np.asfortranarray(IMAGES),
        "sliced": wide[:, :, ::2],
        "read-only": locked,
        "list": IMAGES.tolist(),
    }
    given = guises[kind] if kind in guises else IMAGES.astype(kind)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(model.predict(given), labels)


def test_unit_floats_are_told_image_by_image_and_warned_of_once(model: Any, labels: Any) -> None:
    mixed = IMAGES.astype(np.float32)
    mixed[::2] /= 255
    with pytest.warns(UserWarning, match=r"35 of 70 images hold no value above 1") as caught:
        np.testing.assert_array_equal(model.predict(mixed), labels)
    assert len(caught) == 1
    assert mixed[0].max() <= 1, "what was handed over is not changed"


def test_a_dark_image_of_bytes_stays_dark() -> None:
    dark = np.ones((1, 4, 4, 3), np.uint8)
    assert convert_images(dark, (4, 4, 3), Counter()).max() == 1


def test_nan_is_black_and_counted(model: Any, labels: Any) -> None:
    broken = IMAGES.astype(np.float64)
    broken[3], broken[5, :2] = np.nan, np.nan
    with pytest.warns(UserWarning, match=r"2 of 70 images hold NaN, which counts as black"):
        found = model.predict(broken)
    assert np.delete(found, [3, 5]).tolist() == np.delete(labels, [3, 5]).tolist()
    assert found[3] == model.predict(np.zeros_like(IMAGES[:1]))[0]


def test_infinities_are_the_ends_of_the_range() -> None:
    image = np.full((1, 2, 2, 3), 100.0)
    image[0, 0, 0], image[0, 1, 1] = np.inf, -np.inf
    found = convert_images(image, (2, 2, 3), Counter())
    assert (found[0, 0, 0, 0], found[0, 1, 1, 0], found[0, 0, 1, 0]) == (255, 0, 100)


def test_images_of_another_size_are_resized_with_a_warning(model: Any, labels: Any) -> None:
    with pytest.warns(
        UserWarning, match=r"70 of 70 images are resized from \(64, 64\) to \(32, 32\)"
    ):
        found = model.predict(np.repeat(np.repeat(IMAGES, 2, axis=1), 2, axis=2))
    np.testing.assert_array_equal(found, labels)


@pytest.mark.parametrize(
    "shape",
    [(70, 32, 32), (70, 32, 32, 1), (70, 32, 32, 4), (32, 32, 3), (2, 0, 0, 3), (2, 3, 32, 32)],
)
def test_what_is_no_batch_of_colour_images_is_refused(model: Any, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected numbers \(n, height, width, 3\)"):
        model.predict(np.zeros(shape))


@pytest.mark.parametrize("build", [build_network, lambda spec: create_network(spec, RANDOM)])
def test_a_keras_json_of_another_project_changes_nothing(build: Any) -> None:
    keras.config.set_image_data_format("channels_first")
    keras.config.set_floatx("float16")
    set_global_attribute("dtype_policy", None)  # as in a new process, where it follows floatx
    try:
        spec = network_spec(ModelConfig(backbone="tiny_cnn"), (40, 40, 3), 3)
        network = build(spec | {"input_size": 32})
        assert find_backbone(network).output_shape == (None, None, None, 16)
        assert network.predict(np.zeros((2, 40, 40, 3)), verbose=0).shape == (2, 3)
        assert {weight.dtype for weight in [network.input, *network.weights]} == {"float32"}
        assert keras.config.dtype_policy().name == "float32"
    finally:
        keras.config.set_image_data_format("channels_last")
        keras.config.set_floatx("float32")
        keras.config.set_dtype_policy("float32")
