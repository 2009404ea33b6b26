"""The report of runs: one HTML file with scores, curves, mistakes, studies and commands."""

import base64
import io
import math
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from competition.common.figures import draw_sheets
from competition.common.files import read_arrays, read_json, read_table
from competition.common.page import write_page
from competition.common.settings import flatten
from competition.config import Config
from competition.data.arrays import PreparedData, ScoredSet, find_prepared
from competition.data.prepare import distortion_seed
from competition.data.splits import read_splits
from competition.distortion.profiles import TABLES, VERSIONS, draw_corruptions
from competition.evaluation.grad_cam import confident_mistakes
from competition.evaluation.metrics import TTA_VERSIONS, final_scores, mcnemar, read_metrics
from competition.metric import get_metric
from competition.paths import (
    ENVIRONMENT,
    FILES,
    GRAD_CAM,
    HISTORY,
    PREPARED,
    REPORT,
    SPLITS,
    Paths,
    name_predictions,
)
from competition.training.runs import read_config, read_history

# These keep the page below 10 MB, however many runs there are.
DETAILED = 40  # runs, the best ones, that the page shows in detail
POINTS = 40  # of a learning curve
PLOT_BYTES = 2_500_000  # of all plots of studies together
COLUMNS = 24  # images per row and column of a sheet
SIDE, QUALITY = 96, 70  # of an image: longest side in pixels, JPEG quality
BINS = 10  # of a reliability diagram
DEFAULTS = flatten(Config())
CURVES = ("loss", "val_loss", "score", "learning_rate")
ROW = (
    "rank",
    "run",
    "recipe",
    "weights",
    "selection",
    *(f"test {version}" for version in VERSIONS),
    "gap",
    "expected",
    "expected low",
    "expected high",
    "public",
    "parameters",
    "ms/image",
    "zip MB",
    "select by",
    "splits",
    "metric",
)


def write_report(paths: Paths, table: pd.DataFrame, config: Config) -> Path | None:
    """Write experiments/<name>/report.html, which needs no network, and return it.

    table: the rows of `read_rows`; first come those of the splits, the metric and the selection of
    `config`. None where nothing was scored yet, or nothing was prepared of these splits. Raises
    DamagedFileError.
    """
    data = find_prepared(paths.data / PREPARED)
    if table.empty or data is None:
        return None
    splits = read_splits(paths.data / SPLITS)
    if splits.fingerprint != data.fingerprint:
        return None
    same = (table["splits"] == data.fingerprint) & (table["distortion"] == data.distortion_hash)
    decided = (table["select by"] == config.training.select_by) & (table["metric"] == config.metric)
    table = table.iloc[np.lexsort((~decided, ~same))]
    runs = [paths.runs / run for run in table["run"]]
    detailed = [run for run in runs[: same.sum()] if (run / name_predictions("test")).is_file()]
    details = {run.name: _describe_answers(run, data) for run in detailed[:DETAILED]}
    images = _gather_images(details, data, splits.test)
    content = {
        "name": paths.name,
        "classes": data.class_names,
        "images": len(data.test.labels),
        "columns": ROW,
        "rows": [_clean(row) for row in table[list(ROW)].to_numpy(object).tolist()],
        "runs": [_describe_run(paths, row) for row in table.to_dict("records")],
        "details": details,
        "indices": images["indices"],
        "files": _name_files(paths.data / FILES, images["indices"]),
        "sheet": {"columns": COLUMNS, "size": data.test.versions["clean"].shape[2:0:-1]},
        "studies": _read_studies(paths.studies),
        "metrics": {name: _describe_metric(name) for name in table["metric"].unique()},
    }
    path = paths.experiments / REPORT
    template = Path(__file__).with_name("report.html")
    title = f"{paths.name}: report of runs"
    write_page(path, template, paths.name, title, content, images["sheets"])
    return path


def _describe_metric(name: str) -> dict[str, Any]:
    metric = get_metric(name)
    facts = {"title": metric.title, "isShare": metric.is_share}
    return facts | {"greaterIsBetter": metric.greater_is_better}


def _clean(values: Iterable[Any]) -> list[Any]:
    """Return values for JSON: six significant digits, None for missing ones."""
    return [_round(value) if isinstance(value, float) else value for value in values]


def _round(value: float) -> float | None:
    if not math.isfinite(value):
        return None
    return round(value) if abs(value) >= 1000 else float(f"{value:.6g}")


# -- every run: its curves, and how to make it again


def _describe_run(paths: Paths, row: dict[Any, Any]) -> dict[str, Any]:
    run = paths.runs / row["run"]
    config = read_config(run)
    environment = read_json(run / ENVIRONMENT) if (run / ENVIRONMENT).is_file() else {}
    settings = config.get("settings", {})
    facts = {
        "seed": settings.get("seed", "of its members"),
        **environment,
        "data": row["splits"],
        "distortion": row["distortion"],
        "metric": row["metric"],
        "selected by": row["select by"],
        "looks at the test": row["test looks"],
        "not scored": row["not scored"],
    }
    history = read_history(run) if (run / HISTORY).is_file() else None
    return {
        "curves": None if history is None else _read_curves(history, row["metric"]),
        "command": _reproduce(paths.name, config, history),
        "facts": {name: value for name, value in facts.items() if pd.notna(value)},
    }


def _read_curves(table: pd.DataFrame, metric: str) -> dict[str, Any]:
    """Return at most POINTS epochs of a history, evenly spread; `score` is the metric's value."""
    places = np.unique(np.linspace(0, len(table) - 1, min(POINTS, len(table))).round().astype(int))
    table = table.rename(columns={get_metric(metric).column: "score"})
    columns = {name: table[name].to_numpy(float)[places] for name in CURVES if name in table}
    curves = {name: _clean(values.tolist()) for name, values in columns.items()}
    return {
        "epoch": (places + 1).tolist(),
        "stage": table["stage"].to_numpy()[places].tolist(),
        **curves,
    }


def _reproduce(name: str, config: dict[str, Any], history: pd.DataFrame | None) -> str:
    """Return the command that trains a run again, with each setting that is no default.

    One that a time budget ended has as many epochs again.
    """
    data = ["--data", "FILE", "--name", name]
    if members := config.get("members"):
        given = ["folds"] if members[0].startswith("../") else members
        return shlex.join(["python", "run.py", *data, "--ensemble", *given])
    settings = dict(config.get("settings", {}))
    words = ["python", "run.py", "--train", *data]
    if backbone := settings.get("model.backbone"):
        words += ["--backbone", backbone]
    if config.get("time_budget_seconds") and history is not None:
        frozen = int((history["stage"] == "frozen").sum())
        settings["training.frozen_epochs"] = frozen
        settings["training.fine_tuning_epochs"] = len(history) - frozen
    for key, value in settings.items():
        if key != "model.backbone" and value != DEFAULTS.get(key, value):
            words += ["--set", f"{key}={value}"]
    return shlex.join(words)


# -- the best runs: their predictions


def _describe_answers(run: Path, data: PreparedData) -> dict[str, Any]:
    """Return the details of a run's predictions on the test."""
    scored, metrics, config = data.test, read_metrics(run, "test"), read_config(run)
    shapes = {"labels": scored.labels.shape}
    predictions = read_arrays(run / name_predictions("test"), shapes)
    seed = config.get("settings", config).get("seed", 0)
    versions = [version for version in TTA_VERSIONS if version in predictions]
    cams = read_arrays(run / GRAD_CAM) if (run / GRAD_CAM).is_file() else {}
    scores = {version: final_scores(metrics["test"][version]) for version in versions}
    return {
        "confusion": {version: scores[version]["confusion"] for version in versions},
        "recall": {version: _clean(scores[version]["recall"]) for version in versions},
        "reliability": {
            version: _bin_confidence(scored.labels, predictions[version].mean(axis=0))
            for version in versions
        },
        "augmented": {
            version: _compare_views(scored.labels, predictions[version])
            for version in versions
            if len(predictions[version]) > 1
        },
        "severities": {
            profile: _score_severities(profile, scored, predictions[profile][0], seed)
            for profile in TABLES
            if profile in predictions
        },
        "mistakes": {
            version: _list_mistakes(version, scored, predictions[version].mean(axis=0), cams)
            for version in versions
        },
    }


def _bin_confidence(labels: np.ndarray, probabilities: np.ndarray) -> list[list[float | None]]:
    """Return [images, mean confidence, accuracy] of each of BINS bins of confidence."""
    confidence = probabilities.max(axis=1)
    correct = probabilities.argmax(axis=1) == labels
    places = np.minimum((confidence * BINS).astype(int), BINS - 1)
    bins: list[list[float | None]] = []
    for number in range(BINS):
        inside = places == number
        means = [confidence[inside].mean(), correct[inside].mean()] if inside.any() else []
        bins.append([int(inside.sum()), *(_round(float(mean)) for mean in means)])
    return bins


def _compare_views(labels: np.ndarray, views: np.ndarray) -> dict[str, Any]:
    """Return the changes that averaging `views` (views, n, K) makes to the first view's labels."""
    one, all_views = (
        probabilities.argmax(axis=1) == labels for probabilities in (views[0], views.mean(axis=0))
    )
    return {
        "views": len(views),
        "one": _round(float(one.mean())),
        "all": _round(float(all_views.mean())),
        "mended": int((all_views & ~one).sum()),
        "broken": int((one & ~all_views).sum()),
        "chance": _round(mcnemar(one, all_views)),
    }


def _score_severities(
    profile: str, scored: ScoredSet, probabilities: np.ndarray, seed: int
) -> dict[str, list[list[float | None]]]:
    """Return [images, accuracy] of each kind of distortion: of all, then of severity 1 to 5."""
    correct = probabilities.argmax(axis=1) == scored.labels
    _, drawn = draw_corruptions(profile, len(correct), distortion_seed(scored.name, seed))
    result = {}
    for family in TABLES[profile]:
        met = scored.families[profile] == family
        masks = [met, *(met & (drawn == severity) for severity in range(1, 6))]
        result[family] = [
            [int(mask.sum()), _round(float(correct[mask].mean())) if mask.any() else None]
            for mask in masks
        ]
    return result


def _list_mistakes(
    version: str, scored: ScoredSet, probabilities: np.ndarray, cams: dict[str, np.ndarray]
) -> list[dict[str, Any]]:
    maps = cams.get(version, np.empty((0, 1, 1)))
    is_located = maps[:1].size > 1  # a small input ends in a single place, which says nothing
    indices = cams[f"{version}_indices"] if is_located else np.empty(0, int)
    places = {index: place for place, index in enumerate(indices)}
    mistakes = []
    for index in confident_mistakes(scored.labels, probabilities):
        mistakes.append(
            {
                "image": [version, int(index)],
                "truth": int(scored.labels[index]),
                "guess": int(probabilities[index].argmax()),
                "confidence": _round(float(probabilities[index].max())),
                "doubtful": bool(scored.surely_wrong[index]),
                "cam": maps[places[index]].tolist() if index in places else None,
            }
        )
    return mistakes


def _gather_images(
    details: dict[str, Any], data: PreparedData, test: np.ndarray
) -> dict[str, list[Any]]:
    """Return sheets of the images of all mistakes, and each one's index in the data set.

    In the mistakes, `image` becomes the place in these sheets.
    """
    shown: dict[tuple[str, int], int] = {}
    for detail in details.values():
        for mistake in [item for items in detail["mistakes"].values() for item in items]:
            mistake["image"] = shown.setdefault(tuple(mistake["image"]), len(shown))
    images = [data.test.versions[version][index] for version, index in shown]
    indices = [int(test[index]) for _, index in shown]
    if not images:
        return {"sheets": [], "indices": []}
    stacked = np.stack(images)
    return {
        "sheets": draw_sheets(stacked, range(len(stacked)), COLUMNS, SIDE, QUALITY),
        "indices": indices,
    }


def _name_files(path: Path, indices: list[int]) -> list[str]:
    """Return the file of each image, or nothing where the data are no files."""
    if not path.is_file():
        return []
    files = read_table(path, {"index": int, "file": str}).set_index("index")["file"]
    return files.reindex(indices).fillna("").tolist()


# -- studies


def _read_studies(folder: Path) -> list[dict[str, Any]]:
    """Return the page of each study, and Optuna's plots within PLOT_BYTES."""
    studies, room = [], PLOT_BYTES
    for page in sorted(folder.glob("*.md")):
        lines = [line for line in page.read_text(encoding="utf-8").splitlines()[1:] if line]
        study: dict[str, Any] = {"name": page.stem.replace("_", " "), "plots": []}
        study["lines"] = [line for line in lines if not line.startswith("!")]
        for plot in sorted(folder.glob(f"{page.stem}_*.png")):
            png = _shrink_plot(plot)
            if len(png) <= room:
                room -= len(png)
                title = plot.stem.removeprefix(page.stem).strip("_")
                study["plots"].append({"title": title, "png": png})
        studies.append(study)
    return studies


def _shrink_plot(path: Path) -> str:
    stream = io.BytesIO()
    with Image.open(path) as image:
        image.convert("RGB").quantize(64).save(stream, "PNG", optimize=True)
    return base64.b64encode(stream.getvalue()).decode()
