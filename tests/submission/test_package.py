"""Submissions: packaged, run apart, compared."""

import json
import shutil
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest

from competition.common.errors import CheckFailedError
from competition.common.files import write_json
from competition.config import Config, LimitsConfig, SubmissionConfig, with_settings
from competition.networks.submission_model import Model, predict_views
from competition.submission import package as module
from competition.submission.package import (
    package_run,
    predict_mean,
    round_weights,
    verify,
    write_submission,
)
from tests.factories import IMAGES, make_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained tiny network, as if it were scored."""
    keras.utils.set_random_seed(0)  # one network in twenty never answers one of the classes
    run = make_run(tmp_path_factory.mktemp("runs"), "tiny_cnn")[0]
    write_json(run / "metrics.json", {})
    return run


@pytest.fixture(scope="module")
def packed(run: Path) -> tuple[Path, np.ndarray]:
    """Its zip with five views, and our own probabilities of IMAGES."""
    folder = run.parent / "packed"
    write_submission([run], 5, SubmissionConfig(), folder)
    zip_path = Path(shutil.make_archive(str(folder), "zip", folder))
    return zip_path, predict_mean([run], IMAGES, 5, 64)


def test_the_zip_answers_as_the_network_does_from_a_process_of_its_own(
    packed: tuple[Path, np.ndarray],
) -> None:
    zip_path, expected = packed
    predictions, difference = verify(zip_path, IMAGES, expected, LimitsConfig())
    assert predictions.labels.tolist() == expected.argmax(axis=1).tolist()
    assert set(predictions.labels) == {0, 1, 2}
    assert predictions.probabilities is not None
    np.testing.assert_allclose(predictions.probabilities, expected, atol=1e-5)
    assert difference < 1e-5
    assert predictions.peak_megabytes > 50
    assert min(predictions.seconds) > 0


def test_a_zip_that_answers_otherwise_is_refused(packed: tuple[Path, np.ndarray]) -> None:
    zip_path, expected = packed
    with pytest.raises(CheckFailedError, match="answers otherwise"):
        verify(zip_path, IMAGES, np.roll(expected, 1, axis=1), LimitsConfig())


def test_a_run_is_packaged_once_its_zip_has_answered_a_few_images(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = np.tile(IMAGES, (4, 1, 1, 1))
    zip_path = run.parent / "submissions" / "tiny.zip"
    assert package_run(run, [run], images, Config(), zip_path, ()) == ""
    figures = json.loads((run / "package.json").read_text())
    assert figures["images"] == 256
    assert figures["largest_difference"] < 1e-4
    assert sorted(path.name for path in zip_path.parent.iterdir()) == ["tiny", "tiny.zip"]
    output = capsys.readouterr().out
    assert f"{zip_path}: verified. " in output
    assert "on the server, 5000 images on 2 cores: about" in output


def test_the_temperature_of_a_run_calibrates_its_submission(run: Path, tmp_path: Path) -> None:
    calibrated = tmp_path / run.name
    shutil.copytree(run, calibrated)
    write_json(calibrated / "metrics.json", {"temperature": 0.5})
    package_run(calibrated, [calibrated], IMAGES, Config(), tmp_path / "tiny.zip", ())
    squares = predict_mean([run], IMAGES, 5, 128) ** 2  # logits divided by a half
    found = Model(tmp_path / "tiny").predict_proba(IMAGES)
    np.testing.assert_allclose(found, squares / squares.sum(axis=1, keepdims=True), atol=1e-5)


@pytest.mark.parametrize("reason", ["answers otherwise", "zip of"])
def test_a_check_that_fails_leaves_the_zip_before_in_its_place(
    reason: str, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, zip_path = Config(), tmp_path / "tiny.zip"
    zip_path.write_text("before")
    if reason == "zip of":
        config = with_settings(config, {"limits.zip_megabytes": 0.001})
    else:
        others = np.roll(predict_mean([run], IMAGES, 5, 64), 1, axis=1)
        monkeypatch.setattr(module, "predict_mean", lambda *_: others)
    with pytest.raises(CheckFailedError, match=reason) as caught:
        package_run(run, [run], IMAGES, config, zip_path, ())
    assert reason == "zip of" or str(zip_path) in str(caught.value)
    assert zip_path.read_text() == "before"
    assert [path.name for path in tmp_path.glob("*.zip")] == ["tiny.zip"]


def test_float16_weights_take_half_the_bytes_and_keep_the_labels(tmp_path: Path) -> None:
    run, network = make_run(tmp_path, "custom_cnn")
    expected = predict_views(network, IMAGES, 1, 64)[0]
    sizes = []
    for name, half in (("whole", False), ("half", True)):
        write_submission([run], 1, SubmissionConfig(float16=half), tmp_path / name)
        sizes.append((tmp_path / name / f"{run.name}.weights.h5").stat().st_size)
    assert sizes[1] < 0.55 * sizes[0]
    found = Model(tmp_path / "half").predict_proba(IMAGES)
    assert 1e-6 < np.abs(found - expected).max() < 0.05
    assert (found.argmax(axis=1) == expected.argmax(axis=1)).mean() > 0.95


def test_a_weight_beyond_the_range_of_float16_is_kept(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "whole.h5", "w") as file:
        file["layers/a/vars/0"] = np.array([1e6, 1], np.float32)
        file["layers/a/vars/1"] = np.array([1.0001, 1], np.float32)
        file["layers/a"].attrs["name"] = "a"
    round_weights(tmp_path / "whole.h5", tmp_path / "half.h5")
    with h5py.File(tmp_path / "half.h5") as file:
        assert file["layers/a/vars/0"][0] == 1e6
        assert file["layers/a/vars/1"].dtype == np.float16
        assert file["layers/a"].attrs["name"] == "a"
