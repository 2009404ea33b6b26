"""Several trained runs as one: their probabilities averaged, scored as a run of its own."""

from pathlib import Path
from typing import Any

import numpy as np

from competition.common.errors import UserError
from competition.common.files import digest, read_arrays, write_arrays, write_json
from competition.data.arrays import ScoredSet
from competition.evaluation.evaluate import SPLITS, score_predictions, score_selection
from competition.evaluation.metrics import read_metrics
from competition.metric import get_metric
from competition.paths import CONFIG, ENVIRONMENT, METRICS, WEIGHTS, name_predictions
from competition.training.runs import describe_environment, list_runs, name_run, read_config

PREFIX = "ensemble"
# What the metrics of its members must hold.
MEMBER_KEYS = (
    "select_by",
    "views",
    "distortion",
    "parameters",
    "zip_megabytes",
    "not_scored",
    "milliseconds",
)


def make_ensemble(runs: Path, names: tuple[str, ...], splits: str, seed: int) -> Path:
    """Return the run that averages the scored runs `names`, written unless it is there already.

    Its folder holds the files of a scored run but for weights; `members` of its config.json names
    the runs. splits: the fingerprint that they must have. Raises UserError for unknown runs, fewer
    than two, and runs of other data, views, selection or image shapes.
    """
    members = [_require_run(runs, name, splits) for name in names]
    if len(set(names)) < 2:
        raise UserError(
            f"--ensemble got {', '.join(names)}, and expects two runs or more, "
            "as mobilenetv3large_001."
        )
    shared_keys = ("splits", "distortion", "class_names")
    configs = [read_config(run, *shared_keys, "network") for run in members]
    metrics = [read_metrics(run, *MEMBER_KEYS) for run in members]
    _require_alike(names, configs, metrics)
    predictions = [run / name_predictions("test") for run in sorted(members)]
    fingerprint = digest(sorted(names), *predictions, seed)
    for folder in list_runs(runs, PREFIX):
        is_same = read_config(folder, "fingerprint")["fingerprint"] == fingerprint
        if is_same and (folder / METRICS).is_file():
            return folder
    run = name_run(runs, PREFIX)
    config = {
        "fingerprint": fingerprint,
        "members": names,
        "network": {"builder": " + ".join(names)},
        "weights": "of its members",
    }
    shared = {key: configs[0][key] for key in shared_keys}
    write_json(run / CONFIG, config | shared)
    write_json(run / ENVIRONMENT, describe_environment())
    write_json(run / METRICS, _score(run, members, metrics, seed))
    return run


def members_of(run: Path) -> list[Path]:
    """Return the runs whose networks a run consists of: itself, or the members of an ensemble."""
    names = read_config(run).get("members")
    return [run.parent / name for name in names] if names else [run]


def _require_run(runs: Path, name: str, splits: str) -> Path:
    known = sorted(path.parent.name for path in runs.glob(f"*/{WEIGHTS}"))
    if name not in known or not (runs / name / METRICS).is_file():
        raise UserError(
            f"There is no scored run '{name}' in {runs}; known are {', '.join(known) or 'none'}."
        )
    if read_config(runs / name, "splits")["splits"] != splits:
        raise UserError(
            f"{name} was trained on other splits than these; "
            "average runs of the same data and settings."
        )
    return runs / name


def _require_alike(
    names: tuple[str, ...], configs: list[dict[str, Any]], metrics: list[dict[str, Any]]
) -> None:
    """Raise UserError where the runs differ in a fact that they must share."""
    facts = {
        "class names": [config["class_names"] for config in configs],
        "distortion": [config["distortion"] for config in configs],
        "image shape": [config["network"]["image_shape"] for config in configs],
        "views": [known["views"] for known in metrics],
        "the versions that selected them": [known["select_by"] for known in metrics],
        "the metric": [known.get("metric", "accuracy") for known in metrics],
    }
    for title, values in facts.items():
        if any(value != values[0] for value in values):
            raise UserError(f"{', '.join(names)} differ in {title}; average runs that share it.")


def _score(
    run: Path, members: list[Path], metrics: list[dict[str, Any]], seed: int
) -> dict[str, Any]:
    """Average the members' predictions, keep them in `run`, and return their metrics.

    Versions and views that a member was not scored in are left out.
    """
    result: dict[str, Any] = {}
    select_by, metric = metrics[0]["select_by"], get_metric(metrics[0].get("metric", "accuracy"))
    for split in SPLITS:
        shapes = {"labels": (None,), "wrong_labels": (None,)}
        cure = "score the run anew with --evaluate --force."
        files = [member / name_predictions(split) for member in members]
        stored = [read_arrays(file, shapes, cure) for file in files]
        arrays = {name: stored[0][name] for name in shapes}
        labels = arrays["labels"]
        versions = set.intersection(*map(set, stored)) - set(arrays)
        predictions = {}
        for version in sorted(versions):
            views = min(len(item[version]) for item in stored)
            predictions[version] = np.mean([item[version][:views] for item in stored], axis=0)
        write_arrays(run / name_predictions(split), **arrays, **predictions)
        if split == "validation":  # the first one
            selection = score_selection(labels, predictions, select_by, metric)
        scored = ScoredSet(split, {}, labels, arrays["wrong_labels"])
        temperature = selection.get("temperature", 1.0)
        result[split] = score_predictions(scored, predictions, seed, metric, temperature)
    milliseconds = [known["milliseconds"] for known in metrics]
    not_scored = [name for known in metrics for name in known["not_scored"]]
    return result | selection | {
        "views": metrics[0]["views"],
        "distortion": metrics[0]["distortion"],
        "parameters": sum(known["parameters"] for known in metrics),
        "zip_megabytes": sum(known["zip_megabytes"] for known in metrics),
        "milliseconds": None if None in milliseconds else sum(milliseconds),
        "not_scored": list(dict.fromkeys(not_scored)),
        "test_looks": 1,
    }
