"""Submissions: packaged, run apart, compared."""

from pathlib import Path

import h5py
import numpy as np
import pytest

from competition.common.errors import UserError
from competition.config import LimitsConfig, SubmissionConfig
from competition.networks.submission_model import Model, predict_views
from competition.submission.package import package, round_weights, verify
from tests.factories import IMAGES, make_run


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    """A packaged tiny network with five views, and our own probabilities of IMAGES."""
    run, network = make_run(tmp_path_factory.mktemp("runs"), "tiny_cnn")
    zip_path = package(
        [run], 5, SubmissionConfig(), run.parent / "zips" / "tiny_cnn_001.zip", run.name
    )
    return zip_path, predict_views(network, IMAGES, 5, 64).mean(axis=0)


def test_the_zip_answers_as_the_network_does_from_a_process_of_its_own(
    packed: tuple[Path, np.ndarray],
) -> None:
    zip_path, expected = packed
    answers = verify(zip_path, IMAGES, expected, LimitsConfig()).answers
    assert answers.labels.tolist() == expected.argmax(axis=1).tolist()
    assert set(answers.labels) == {0, 1, 2}
    assert answers.probabilities is not None
    np.testing.assert_allclose(answers.probabilities, expected, atol=1e-5)
    assert answers.peak_megabytes > 50
    assert min(answers.seconds) > 0


def test_a_zip_that_answers_otherwise_is_refused(packed: tuple[Path, np.ndarray]) -> None:
    zip_path, expected = packed
    with pytest.raises(UserError, match="answers otherwise"):
        verify(zip_path, IMAGES, np.roll(expected, 1, axis=1), LimitsConfig())


def test_float16_weights_take_half_the_bytes_and_keep_the_labels(tmp_path: Path) -> None:
    run, network = make_run(tmp_path, "custom_cnn")
    expected = predict_views(network, IMAGES, 1, 64)[0]
    sizes = []
    for name, half in (("whole", False), ("half", True)):
        zip_path = package([run], 1, SubmissionConfig(float16=half), tmp_path / f"{name}.zip", name)
        sizes.append((tmp_path / name / f"{run.name}.weights.h5").stat().st_size)
        assert zip_path.is_file()
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
