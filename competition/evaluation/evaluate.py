"""The scores of a run on validation and test, in all versions, kept in metrics.json."""

import zlib
from pathlib import Path
from typing import Any

import keras
import numpy as np

from competition.common.console import say
from competition.common.figures import draw_confusion, draw_history
from competition.common.files import (
    digest,
    if_intact,
    map_array,
    read_arrays,
    write_arrays,
    write_json,
)
from competition.config import Config, unflatten
from competition.data.arrays import PreparedData, ScoredSet
from competition.distortion.profiles import PROFILE, selected_versions
from competition.evaluation.grad_cam import confident_mistakes, draw_grad_cam
from competition.evaluation.metrics import (
    TTA,
    TTA_VERSIONS,
    bootstrap_interval,
    collect_values,
    final_scores,
    read_metrics,
    score,
)
from competition.evaluation.predict import Predictions, plan_steps, predict_all
from competition.metric import ACCURACY, Metric
from competition.networks.submission_model import temper
from competition.paths import GRAD_CAM, METRICS, WEIGHTS, name_predictions
from competition.time_budget import Slot
from competition.training.chance import beats_chance
from competition.training.keepers import PREDICTIONS
from competition.training.runs import load_run, metric_of, read_config, read_history
from competition.training.selection import fit_temperature, selection_score

SPLITS = ("validation", "test")
GRAD_CAM_SECONDS = 5.0  # that Grad-CAM takes at most


def evaluate_run(
    config: Config, data: PreparedData, run: Path, slot: Slot | None = None, force: bool = False
) -> None:
    """Score a run on validation and test, unless that was done; write metrics.json and figures.

    Each look at the test is counted. slot: versions that do not fit into it are left out, the
    least telling ones first; a later call without a slot scores them.
    """
    facts = _scoring_facts(config, data, run)
    path = run / METRICS
    old: dict[str, Any] = {}
    if path.is_file():
        old = if_intact(read_metrics, run, "not_scored", "test_looks") or {}
    is_same = facts.items() <= old.items() and not force
    known = if_intact(_read_predictions, run, data) if is_same else None
    is_complete = is_same and not old["not_scored"] and (run / GRAD_CAM).is_file()
    if known and (slot is not None or is_complete):
        say(f"{run.name}: scored already; --evaluate --force scores anew.")
        return
    select_by = unflatten(read_config(run, "settings")["settings"]).training.select_by
    metric = metric_of(run)
    known = known or _selection_predictions(run, data, select_by)
    network = load_run(run)
    steps = plan_steps(select_by, config.evaluation.tta_views, metric.is_calibrated)
    predictions, seconds, left_out = predict_all(
        network, data, steps, config.evaluation, known, slot
    )
    result: dict[str, Any] = {}
    selection = score_selection(
        data.validation.labels, predictions["validation"], select_by, metric
    )
    temperature = selection.get("temperature", 1.0)
    for split in SPLITS:
        scored = getattr(data, split)
        result[split] = score_predictions(
            scored, predictions[split], config.seed, metric, temperature
        )
        _write_predictions(run, scored, predictions[split])
    result |= selection | {
        "test_looks": old.get("test_looks", 0) + 1,
        "parameters": network.count_params(),
        "milliseconds": old.get("milliseconds") if seconds is None else 1000 * seconds,
        "zip_megabytes": len(zlib.compress((run / WEIGHTS).read_bytes())) / 2**20,
        "not_scored": [step.title for step in left_out],
        **facts,
    }
    if slot is None or slot.seconds_left > GRAD_CAM_SECONDS:
        _explain_mistakes(run, network, data.test, predictions["test"])
    write_json(path, result)
    _show(run, data, result)


def score_predictions(
    scored: ScoredSet,
    predictions: dict[str, np.ndarray],
    seed: int,
    metric: Metric = ACCURACY,
    temperature: float = 1.0,
) -> dict[str, Any]:
    """Return version -> `plain` (one view), `augmented` (all views, if there are more) -> scores.

    predictions: probabilities (views, n, K) by version. temperature: calibrates them. The scores
    are those of `metrics.score`, with `interval` (95 %, bootstrap, of the metric) and
    `accuracy_without_wrong_labels`.
    """
    result: dict[str, Any] = {}
    for version, views in predictions.items():
        kinds = {"plain": views[0]} | ({TTA: views.mean(axis=0)} if len(views) > 1 else {})
        if temperature != 1:
            kinds = {kind: temper(values, temperature) for kind, values in kinds.items()}
        result[version] = {
            kind: _score(scored, values, seed, metric) for kind, values in kinds.items()
        }
    return result


def _score(
    scored: ScoredSet, probabilities: np.ndarray, seed: int, metric: Metric
) -> dict[str, Any]:
    correct = probabilities.argmax(axis=1) == scored.labels
    return score(scored.labels, probabilities, metric) | {
        "interval": bootstrap_interval(scored.labels, probabilities, seed, metric),
        "accuracy_without_wrong_labels": float(correct[~scored.surely_wrong].mean()),
    }


def score_selection(
    labels: np.ndarray, predictions: dict[str, np.ndarray], select_by: str, metric: Metric
) -> dict[str, Any]:
    """Return the selection score, with one view, and the entries of metrics.json beside it.

    labels: (n,) of validation. predictions: (views, n, K) by version. `beats_chance` goes by the
    accuracy, whatever the metric. `temperature` calibrates the mean of all views on validation,
    where the metric asks for that.
    """
    versions = selected_versions(select_by)
    repeated = np.tile(labels, len(versions))
    first_views = np.concatenate([predictions[version][0] for version in versions])
    facts = {
        "selection_score": selection_score(metric, repeated, first_views),
        "select_by": select_by,
        "metric": metric.name,
        "beats_chance": beats_chance(ACCURACY.score(repeated, first_views), labels),
    }
    if metric.is_calibrated:
        averaged = np.concatenate([predictions[version].mean(axis=0) for version in versions])
        facts["temperature"] = fit_temperature(repeated, averaged)
    return facts


def _scoring_facts(config: Config, data: PreparedData, run: Path) -> dict[str, Any]:
    """Return the inputs of the scores, as metrics.json holds them."""
    return {
        "views": config.evaluation.tta_views,
        "distortion": data.distortion_hash,
        "trained": digest(run / WEIGHTS),
    }


def _read_predictions(run: Path, data: PreparedData) -> Predictions:
    skipped = ("labels", "wrong_labels")
    stored = {}
    for split in SPLITS:
        shapes = dict.fromkeys(skipped, getattr(data, split).labels.shape)
        stored[split] = read_arrays(run / name_predictions(split), shapes)
    return {
        split: {name: array for name, array in arrays.items() if name not in skipped}
        for split, arrays in stored.items()
    }


def _selection_predictions(run: Path, data: PreparedData, select_by: str) -> Predictions:
    """Return the predictions of validation that training made with its best weights.

    Nothing where the images were distorted in another way then.
    """
    known: Predictions = {split: {} for split in SPLITS}
    if read_config(run, "distortion")["distortion"] != data.distortion_hash:
        return known
    versions = selected_versions(select_by)
    shape = len(versions) * len(data.validation.labels), len(data.class_names)
    if (run / PREDICTIONS).is_file():
        probabilities = if_intact(map_array, run / PREDICTIONS, shape)
        if probabilities is not None:
            parts = np.split(np.array(probabilities), len(versions))
            known["validation"] = {
                name: part[None] for name, part in zip(versions, parts, strict=True)
            }
    return known


def _write_predictions(run: Path, scored: ScoredSet, predictions: dict[str, np.ndarray]) -> None:
    facts = {"labels": scored.labels, "wrong_labels": scored.surely_wrong}
    write_arrays(run / name_predictions(scored.name), **facts, **predictions)


def _explain_mistakes(
    run: Path, network: keras.Model, scored: ScoredSet, predictions: dict[str, np.ndarray]
) -> None:
    """Keep Grad-CAM of the most confident mistakes by version, for the report."""
    maps = {}
    for version in TTA_VERSIONS:
        if version in predictions:
            probabilities = predictions[version].mean(axis=0)
            indices = confident_mistakes(scored.labels, probabilities)
            images = scored.versions[version][indices]
            maps[version] = draw_grad_cam(network, images, probabilities[indices].argmax(axis=1))
            maps[f"{version}_indices"] = indices
    write_arrays(run / GRAD_CAM, **maps)


def _show(run: Path, data: PreparedData, metrics: dict[str, Any]) -> None:
    """Print the scores of a run, and draw its curves and its confusion under distortion."""
    metric = metric_of(run)
    known = collect_values(metrics["test"], metric)
    values = [f"{name} {metric.format(value)}" for name, value in known.items()]
    selection = metric.format(metric.flip(metrics["selection_score"]))
    say(
        f"{run.name}: selection {selection}; test: "
        f"{', '.join(values)} (look number {metrics['test_looks']} at the test)"
    )
    if wrong := int(data.test.surely_wrong.sum()):
        without = metrics["test"][PROFILE]["plain"]["accuracy_without_wrong_labels"]
        say(f"  {PROFILE} without its {wrong} surely wrong labels {100 * without:.1f}")
    draw_history(run / "history.png", read_history(run), metric.column, metric.title)
    confusion = np.array(final_scores(metrics["test"][PROFILE])["confusion"])
    draw_confusion(
        run / "confusion.png", confusion, data.class_names, f"{run.name}, distorted test"
    )
