"""Predictions of a trained network on clean and distorted pictures, and the scores made of them."""

import time
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np

from competition.common.console import progress
from competition.common.files import write_arrays
from competition.config import EvaluationConfig
from competition.data.arrays import ScoredSet
from competition.distortion.profiles import selected_versions
from competition.evaluation.metrics import bootstrap_interval, score, score_families
from competition.networks.submission_model import predict_views

# Versions that are scored with test-time augmentation too; the others, which say where a network breaks, with one view.
WITH_VIEWS = ("clean", "revealed")


def evaluate(
    network: keras.Model, scored: ScoredSet, config: EvaluationConfig, folder: Path, seed: int
) -> dict[str, Any]:
    """Return the scores of every version with and without test-time augmentation, and keep the probabilities.

    The result maps version -> `plain` / `augmented` -> metrics.score plus `interval` (95 %, bootstrap) and
    `accuracy_without_doubtful` (where labels are not), and version -> `families` -> metrics.score_families; and
    `milliseconds` a picture and view. Versions other than WITH_VIEWS have one view, and so the same scores twice.
    folder: takes predictions_<set>.npz with `<version>` (views, n, K), `labels` and `doubtful`.
    """
    predictions, seconds = {}, 0.0
    _warm_up(network, scored, config)
    for version, images in scored.versions.items():
        started = time.perf_counter()
        track = partial(progress, what=f"  {scored.name}, {version}", unit="batch")
        predictions[version] = predict_views(
            network, images, num_views(version, config), config.batch_size, track
        )
        seconds += time.perf_counter() - started
    result = score_predictions(scored.labels, scored.doubtful, predictions, seed)
    for version, families in scored.families.items():
        predicted = predictions[version][0].argmax(axis=1)
        result[version]["families"] = score_families(scored.labels, predicted, families)
    count = len(scored.labels) * sum(len(views) for views in predictions.values())
    result["milliseconds"] = 1000 * seconds / count
    write_arrays(
        folder / f"predictions_{scored.name}.npz",
        labels=scored.labels,
        doubtful=scored.doubtful,
        **predictions,
    )
    return result


def num_views(version: str, config: EvaluationConfig) -> int:
    """Return how many views of each picture of a version are predicted."""
    return config.tta_views if version in WITH_VIEWS else 1


def score_predictions(
    labels: np.ndarray, doubtful: np.ndarray, predictions: dict[str, np.ndarray], seed: int
) -> dict[str, Any]:
    """Return version -> `plain` / `augmented` -> scores, of probabilities (views, n, K) by version."""
    return {
        version: _scores(labels, doubtful, views, seed) for version, views in predictions.items()
    }


def selection_score(scores: dict[str, Any], select_by: str) -> float:
    """Return the mean accuracy, with one view, over the versions that are selected by; scores: as of `evaluate`."""
    return float(
        np.mean([scores[version]["plain"]["accuracy"] for version in selected_versions(select_by)])
    )


def _warm_up(network: keras.Model, scored: ScoredSet, config: EvaluationConfig) -> None:
    """Compile before the clock runs."""
    predict_views(network, scored.versions["clean"][:1], 1, config.batch_size)


def _scores(
    labels: np.ndarray, doubtful: np.ndarray, views: np.ndarray, seed: int
) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for kind, probabilities in {"plain": views[0], "augmented": views.mean(axis=0)}.items():
        correct = probabilities.argmax(axis=1) == labels
        result[kind] = score(labels, probabilities) | {
            "interval": bootstrap_interval(correct, seed),
            "accuracy_without_doubtful": float(correct[~doubtful].mean()),
        }
    return result
