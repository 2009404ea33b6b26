"""The selection score: the metric on the validation images that are selected by."""

import numpy as np

from competition.metric import Metric, get_metric
from competition.networks.submission_model import temper

WIDEST = 20.0  # the highest temperature, and 1 / the lowest


def selection_score(metric: Metric, labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Return how good probabilities (n, K) are on all images that are selected by; more is better.

    labels: (n,). Where the metric is log-loss the probabilities are calibrated first, as those of
    the submission will be: else the search would only find out who is well calibrated.
    """
    return metric.score(labels, calibrate(metric, labels, probabilities))


def calibrate(metric: Metric, labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Return probabilities (n, K) that fit labels (n,) best, where the metric asks for that."""
    if not metric.is_calibrated:
        return probabilities
    return temper(probabilities, fit_temperature(labels, probabilities))


def fit_temperature(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Return the temperature that makes probabilities (n, K) fit labels (n,) best, by log-loss.

    Temperature scaling, Guo et al. 2017 (arXiv 1706.04599).
    """
    from scipy.optimize import minimize_scalar

    metric = get_metric("log_loss")

    def loss(logarithm: float) -> float:
        return metric.compute(labels, temper(probabilities, float(np.exp(logarithm))))

    bound = float(np.log(WIDEST))
    return float(np.exp(minimize_scalar(loss, bounds=(-bound, bound), method="bounded").x))
