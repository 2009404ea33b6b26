"""Differences of two runs: settings, scores by McNemar's test, images that only one gets right."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from competition.common.console import align_columns
from competition.common.errors import UserError, unknown
from competition.common.files import read_arrays, replacing
from competition.evaluation.metrics import ACCURACIES, list_scored, mcnemar, read_metrics
from competition.paths import COMPARISONS, SPLITS, Paths, name_predictions
from competition.training.runs import read_config

NO_FACTS = ("settings", "fingerprint", "class_names", "class_shares", "network")  # of a config.json


@dataclass(frozen=True)
class ScoredRun:
    """A run's files: config.json, metrics.json and its probabilities on the test.

    predictions: (views, n, K) by version, with `labels` (n,) and `wrong_labels` (n,) bool.
    """

    name: str
    config: dict[str, Any]
    metrics: dict[str, Any]
    predictions: dict[str, np.ndarray]

    def probabilities(self, accuracy: str) -> np.ndarray | None:
        """Return probabilities (n, K) by a name of ACCURACIES, None where they were not scored."""
        version, views = ACCURACIES[accuracy]
        if views not in self.metrics["test"].get(version, {}):
            return None
        stored = self.predictions[version]
        return stored[0] if views == "plain" else np.asarray(stored.mean(axis=0))


def read_run(paths: Paths, name: str) -> ScoredRun:
    """Return a scored run; raises UserError where there is none of that name."""
    scored = [run.name for run in list_scored(paths.runs)]
    if name not in scored:
        raise UserError(unknown(f"scored run in {paths.runs}", name, scored or ["none"]))
    run = paths.runs / name
    metrics = read_metrics(run, "test", "distortion")
    predictions = read_arrays(run / name_predictions("test"))
    return ScoredRun(name, read_config(run, "splits", "class_names"), metrics, predictions)


def compare_runs(paths: Paths, names: Sequence[str]) -> str:
    """Return the differences of two runs as text; write the images that only one gets right as CSV.

    Raises UserError for unknown runs and for runs of other test images.
    """
    first, second = (read_run(paths, name) for name in names)
    for key, title in (("splits", "splits"), ("class_names", "classes")):
        if first.config[key] != second.config[key]:
            raise UserError(f"{' and '.join(names)} have other {title}; compare runs of one data.")
    if first.metrics["distortion"] != second.metrics["distortion"]:
        raise UserError(
            f"{' and '.join(names)} were scored on other distorted images; --evaluate --force "
            "scores both on the same."
        )
    scores, images = _compare_predictions(first, second, _find_indices(paths, first))
    file = paths.experiments / COMPARISONS / f"{first.name}_and_{second.name}.csv"
    with replacing(file) as temporary:
        images.to_csv(temporary, index=False)
    return "\n".join(
        [
            f"== {first.name} and {second.name}",
            "Settings and facts that differ:",
            tabulate(_list_differences(first, second), ["", *names]) or "  none",
            "",
            "Accuracy on the test in percent; images that only one gets right; chance of so large",
            "a difference between equally good runs, by McNemar's exact test:",
            tabulate(scores, ["", *names, "difference", "only 1st", "only 2nd", "chance"]),
            "",
            f"images       {file}",
        ]
    )


def _find_indices(paths: Paths, run: ScoredRun) -> np.ndarray:
    """Return the test images' indices in the data; raises UserError where the splits changed."""
    if (paths.data / SPLITS).is_file():
        splits = read_arrays(paths.data / SPLITS)
        if str(splits["fingerprint"]) == run.config["splits"]:
            return splits["test"]
    raise UserError(
        f"{run.name} was scored on other splits than {paths.data / SPLITS} holds; "
        "--split with the settings of that run makes its splits again."
    )


def _list_differences(first: ScoredRun, second: ScoredRun) -> list[list[str]]:
    def collect(config: Mapping[str, Any]) -> dict[str, Any]:
        facts = {key: value for key, value in config.items() if key not in NO_FACTS}
        return facts | config.get("settings", {})

    one, other = collect(first.config), collect(second.config)
    keys = [key for key in dict.fromkeys([*one, *other]) if one.get(key) != other.get(key)]
    return [[key, _format(one.get(key, "-")), _format(other.get(key, "-"))] for key in keys]


def _format(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _compare_predictions(
    first: ScoredRun, second: ScoredRun, indices: np.ndarray
) -> tuple[list[list[str]], pd.DataFrame]:
    """Return a row of scores per accuracy, and a table of the images that only one gets right."""
    labels, rows, tables = first.predictions["labels"], [], []
    classes = np.array(first.config["class_names"])
    for name in ACCURACIES:
        pair = [run.probabilities(name) for run in (first, second)]
        if pair[0] is None or pair[1] is None:
            continue
        predictions = [
            probabilities.argmax(axis=1) for probabilities in pair if probabilities is not None
        ]
        one, other = predictions[0] == labels, predictions[1] == labels
        shares = 100 * one.mean(), 100 * other.mean()
        only = int((one & ~other).sum()), int((other & ~one).sum())
        row = [name, f"{shares[0]:.1f}", f"{shares[1]:.1f}", f"{shares[1] - shares[0]:+.1f}"]
        chance = mcnemar(one, other)
        text = "<0.001" if chance < 0.001 else f"{chance:.3f}"
        rows.append([*row, str(only[0]), str(only[1]), text])
        apart = np.flatnonzero(one != other)
        columns = {"images": name, "index": indices[apart], "label": classes[labels[apart]]}
        columns |= {
            run.name: classes[answer[apart]]
            for run, answer in zip((first, second), predictions, strict=True)
        }
        columns["right"] = np.where(one[apart], first.name, second.name)
        tables.append(pd.DataFrame(columns))
    return rows, pd.concat(tables, ignore_index=True)


def tabulate(rows: list[list[str]], titles: Sequence[str]) -> str:
    """Return rows under titles, aligned; nothing where there is no row."""
    if not rows:
        return ""
    columns = list(zip(*[titles, *rows], strict=True))
    lines = align_columns(columns, [number == 0 for number in range(len(columns))])
    return "\n".join(f"  {line}" for line in lines)
