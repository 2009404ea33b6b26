"""The selection score: log-loss is that of calibrated probabilities."""

import numpy as np
import pytest

from competition.metric import METRICS
from competition.networks.submission_model import temper
from competition.training.selection import fit_temperature, selection_score

LABELS = np.arange(600) % 3


def draw_probabilities(temperature: float) -> np.ndarray:
    """Return probabilities (600, 3) float32 of the same logits, divided by a temperature."""
    logits = np.random.default_rng(0).normal(size=(600, 3))
    logits[np.arange(600), LABELS] += 1.0
    powers = np.exp(logits / temperature)
    return (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)


def test_the_temperature_undoes_that_of_the_network() -> None:
    found = [fit_temperature(LABELS, draw_probabilities(given)) for given in (0.5, 1.0, 2.0)]
    assert found[0] * 0.5 == pytest.approx(found[1], rel=1e-3)
    assert found[2] * 2.0 == pytest.approx(found[1], rel=1e-3)


def test_overconfident_networks_have_the_log_loss_of_calibrated_ones() -> None:
    log_loss = METRICS["log_loss"]
    scores = [selection_score(log_loss, LABELS, draw_probabilities(t)) for t in (0.2, 1.0)]
    assert scores[0] == pytest.approx(scores[1], abs=1e-3)
    assert log_loss.score(LABELS, draw_probabilities(0.2)) < scores[0] - 0.2


def test_a_temperature_changes_no_label_and_other_metrics_have_none() -> None:
    probabilities = draw_probabilities(1.0)
    for temperature in (0.05, 20.0):
        changed = temper(probabilities, temperature)
        np.testing.assert_allclose(changed.sum(axis=1), 1, atol=1e-5)
        assert (changed.argmax(axis=1) == probabilities.argmax(axis=1)).all()
    kappa = METRICS["kappa"]
    assert selection_score(kappa, LABELS, probabilities) == kappa.score(LABELS, probabilities)


def test_a_network_without_a_doubt_keeps_its_temperature_within_bounds() -> None:
    certain = np.eye(3, dtype=np.float32)[LABELS]
    assert 1 / 20 <= fit_temperature(LABELS, certain) <= 20
    wrong = np.eye(3, dtype=np.float32)[(LABELS + 1) % 3]
    assert np.isfinite(selection_score(METRICS["log_loss"], LABELS, wrong))
