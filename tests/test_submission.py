"""Submissions: packaged, run apart, compared."""

from pathlib import Path

import numpy as np
import pytest

from competition.config import LimitsConfig, SubmissionConfig
from competition.files import InputError
from competition.submission import package, verify
from competition.submission_model import predict_views
from tests.submissions import IMAGES, make_run


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    """A packaged tiny network with five views, and our own probabilities of IMAGES."""
    run, network = make_run(tmp_path_factory.mktemp("runs"), "tiny_cnn")
    zip_path = package([run], 5, SubmissionConfig(), run.parent / "zips" / "tiny_cnn_001.zip", run.name)
    return zip_path, predict_views(network, IMAGES, 5, 64).mean(axis=0)


def test_the_zip_answers_as_the_network_does_from_a_process_of_its_own(packed: tuple[Path, np.ndarray]) -> None:
    zip_path, expected = packed
    answers = verify(zip_path, IMAGES, expected, LimitsConfig())
    assert answers.labels.tolist() == expected.argmax(axis=1).tolist()
    assert set(answers.labels) == {0, 1, 2}
    assert answers.probabilities is not None
    np.testing.assert_allclose(answers.probabilities, expected, atol=1e-5)
    assert answers.peak_megabytes > 50
    assert min(answers.seconds) > 0


def test_a_zip_that_answers_otherwise_is_refused(packed: tuple[Path, np.ndarray]) -> None:
    zip_path, expected = packed
    with pytest.raises(InputError, match="answers otherwise"):
        verify(zip_path, IMAGES, np.roll(expected, 1, axis=1), LimitsConfig())
