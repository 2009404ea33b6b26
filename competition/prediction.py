"""Predictions of a trained network on clean and distorted pictures, and the scores made of them."""

import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np

from competition.config import EvaluationConfig
from competition.console import progress
from competition.files import write_arrays
from competition.metrics import bootstrap_interval, score
from competition.submission_model import predict_views


@dataclass(frozen=True)
class ScoredSet:
    """Pictures that are scored: `clean` and each distorted version (n, h, w, 3) uint8 by name, with labels (n,).

    doubtful: (n,) bool, whose label is surely wrong.
    """

    name: str
    versions: dict[str, np.ndarray]
    labels: np.ndarray
    doubtful: np.ndarray

    def joined(self, names: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
        """Return the pictures and labels of several versions, one after the other."""
        return np.concatenate([self.versions[name] for name in names]), np.tile(self.labels, len(names))


def evaluate(
    network: keras.Model, scored: ScoredSet, config: EvaluationConfig, folder: Path, seed: int
) -> dict[str, Any]:
    """Return the scores of every version with and without test-time augmentation, and keep the probabilities.

    The result maps version -> `plain` / `augmented` -> metrics.score plus `interval` (95 %, bootstrap) and
    `accuracy_without_doubtful` (where labels are not); and `milliseconds` a picture and view. folder: takes
    predictions_<set>.npz with `<version>` (views, n, K) and `labels`.
    """
    result: dict[str, Any] = {}
    predictions, seconds = {}, 0.0
    _warm_up(network, scored, config)
    for version, images in scored.versions.items():
        started = time.perf_counter()
        track = partial(progress, what=f"  {scored.name}, {version}", unit="batch")
        predictions[version] = predict_views(network, images, config.views, config.batch_size, track)
        seconds += time.perf_counter() - started
        result[version] = _scores(scored, predictions[version], seed)
    count = len(scored.labels) * len(scored.versions) * config.views
    result["milliseconds"] = 1000 * seconds / count
    write_arrays(folder / f"predictions_{scored.name}.npz", labels=scored.labels, **predictions)
    return result


def _warm_up(network: keras.Model, scored: ScoredSet, config: EvaluationConfig) -> None:
    """Compile before the clock runs."""
    predict_views(network, scored.versions["clean"][:1], 1, config.batch_size)


def _scores(scored: ScoredSet, views: np.ndarray, seed: int) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for kind, probabilities in {"plain": views[0], "augmented": views.mean(axis=0)}.items():
        correct = probabilities.argmax(axis=1) == scored.labels
        result[kind] = score(scored.labels, probabilities) | {
            "interval": bootstrap_interval(correct, seed),
            "accuracy_without_doubtful": float(correct[~scored.doubtful].mean()),
        }
    return result
