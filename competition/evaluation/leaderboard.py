"""The leaderboard: one row per run; ranks compare runs of the same data and the same selection."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from competition.common.console import align_columns
from competition.common.errors import UserError
from competition.common.files import read_json, replacing, write_json, write_text
from competition.distortion.profiles import PROFILE, PROFILES, VERSIONS
from competition.evaluation.metrics import ACCURACIES, final_scores, list_scored, read_metrics
from competition.metric import ACCURACY, Metric, get_metric
from competition.paths import ENVIRONMENT, LEADERBOARD, LEADERBOARD_MARKDOWN, METRICS, PUBLIC_SCORE
from competition.training.runs import read_config

# Files beside a run's config.json and metrics.json that need not be there.
OTHER_FILES: dict[str, Any] = {
    ENVIRONMENT: {"device": str},
    PUBLIC_SCORE: {"score": float},
}
LEGEND = """{scores}selection: on validation, {select_by}. clean, revealed: on the test, one view.
expected: on the hidden test, by revealed with test-time augmentation, and its 95 % interval."""


@dataclass(frozen=True)
class RunFiles:
    """The files of a scored run: config.json, metrics.json, and those of OTHER_FILES."""

    name: str
    config: dict[str, Any]
    metrics: dict[str, Any]
    device: str | None
    public: float

    @property
    def metric(self) -> Metric:
        """Its metric; the first runs had no choice."""
        return get_metric(self.metrics.get("metric", "accuracy"))

    @property
    def select_by(self) -> str:
        """The versions that selected it; the first runs had no choice."""
        return str(self.metrics.get("select_by", "clean+revealed"))

    @property
    def recipe(self) -> str | None:
        """Its recipe, nothing where that is the default."""
        return self.config.get("settings", {}).get("recipe")

    def value(self, split: str, name: str) -> float:
        """Return the value on `validation` or `test` with a name of ACCURACIES, else NaN."""
        version, views = ACCURACIES[name]
        scores = self.metrics.get(split, {}).get(version, {})
        return float(scores.get(views, {}).get(self.metric.name, math.nan))

    def final(self, version: str) -> dict[str, Any]:
        """Return the scores on the test with test-time augmentation, or else with one view."""
        scores = self.metrics.get("test", {}).get(version)
        return final_scores(scores) if scores else {}

    @property
    def expected(self) -> float:
        """The value that is expected on the hidden test."""
        return float(self.final(PROFILE).get(self.metric.name, math.nan))

    @property
    def interval(self) -> list[float]:
        """The ends of the 95 % interval around it."""
        return list(self.final(PROFILE).get("interval", [math.nan] * 2))

    def describe_expected(self) -> str | None:
        """Return the expected value with its interval, as people read it."""
        if math.isnan(self.expected):
            return None
        return "{} ({}-{})".format(*map(self.metric.format, (self.expected, *self.interval)))

    def distorted(self) -> list[float]:
        """Return the values on the test with one view under the profiles that were scored."""
        values = [self.value("test", name) for name in PROFILES]
        return [value for value in values if not math.isnan(value)] or [math.nan]


@dataclass(frozen=True)
class Column:
    """One column of leaderboard.csv, and of the table that people see.

    name: in the file. value: of a run, from its files. title: in the terminal and in
    leaderboard.md; none where it is in the file alone. is_text: or else a value of the run's
    metric. if_different: only shown if rows differ in it.
    """

    name: str
    value: Callable[[RunFiles], Any]
    title: str = ""
    is_text: bool = False
    if_different: bool = False


COLUMNS = (
    Column("run", lambda run: run.name),
    Column("recipe", lambda run: run.recipe),
    Column(
        "run, recipe",
        lambda run: f"{run.name} ({run.recipe})" if run.recipe else run.name,
        "run",
        is_text=True,
    ),
    Column("backbone", lambda run: run.config.get("network", {}).get("builder")),
    Column("parameters", lambda run: run.metrics.get("parameters")),
    Column("weights", lambda run: run.config.get("weights"), "weights", is_text=True),
    Column("selection", lambda run: run.metric.flip(run.metrics["selection_score"]), "selection"),
    *(
        Column(f"val {name}", partial(RunFiles.value, split="validation", name=name))
        for name in VERSIONS
    ),
    *(
        Column(
            f"test {name}",
            partial(RunFiles.value, split="test", name=name),
            name if name in ("clean", PROFILE) else "",
        )
        for name in VERSIONS
    ),
    Column("gap", lambda run: run.value("test", "clean") - run.value("test", PROFILE)),
    Column("test clean TTA", lambda run: run.value("test", "clean TTA")),
    Column(f"test {PROFILE} TTA", lambda run: run.value("test", f"{PROFILE} TTA")),
    Column("expected", lambda run: run.expected),
    Column("expected, 95 %", RunFiles.describe_expected, "expected", is_text=True),
    Column("expected low", lambda run: run.interval[0]),
    Column("expected high", lambda run: run.interval[1]),
    Column("lowest", lambda run: min(run.distorted())),
    Column("highest", lambda run: max(run.distorted())),
    Column("public", lambda run: run.public, "public"),
    Column("error", lambda run: run.expected - run.public),
    Column("F1 weighted", lambda run: run.final("clean").get("f1_weighted")),
    Column("F1 macro", lambda run: run.final("clean").get("f1_macro")),
    Column("balanced", lambda run: run.final("clean").get("balanced_accuracy")),
    Column("ms/image", lambda run: run.metrics.get("milliseconds")),
    Column("zip MB", lambda run: run.metrics.get("zip_megabytes")),
    Column("device", lambda run: run.device),
    Column("test looks", lambda run: run.metrics.get("test_looks")),
    Column("not scored", lambda run: ", ".join(run.metrics.get("not_scored", ())) or None),
    Column("distortion", lambda run: run.metrics.get("distortion")),
    Column("select by", lambda run: run.select_by, "select by", is_text=True, if_different=True),
    Column("splits", lambda run: run.config["splits"], "splits", is_text=True, if_different=True),
    Column("metric", lambda run: run.metric.name, "metric", is_text=True, if_different=True),
)


def read_rows(runs: Path) -> pd.DataFrame:
    """Return a row per scored run, best first among those whose ranks compare."""
    files = sorted(
        map(_read_run, list_scored(runs)), key=lambda run: -run.metrics["selection_score"]
    )
    rows = [{column.name: column.value(run) for column in COLUMNS} for run in files]
    table = pd.DataFrame(rows, columns=[column.name for column in COLUMNS])
    same = ["splits", "select by", "metric"]
    table = table.sort_values(same, kind="stable", ignore_index=True)
    table.insert(0, "rank", table.groupby(same).cumcount() + 1.0)
    return table


def _read_run(run: Path) -> RunFiles:
    others: dict[str, Any] = {}
    for name, shape in OTHER_FILES.items():
        if (run / name).is_file():
            others |= read_json(run / name, shape, f"delete {name} of this run.")
    config, metrics = read_config(run, "splits"), read_metrics(run, "selection_score")
    return RunFiles(run.name, config, metrics, others.get("device"), others.get("score", math.nan))


def record_public_score(runs: Path, run: str, score: float) -> None:
    """Keep the score that a server gave for a run, a value of its metric.

    Raises UserError for an unknown run or a score that its metric cannot take.
    """
    known = [path.name for path in list_scored(runs)]
    if run not in known:
        raise UserError(
            f"There is no scored run '{run}' in {runs}; known are {', '.join(known) or 'none'}."
        )
    metric = get_metric(read_metrics(runs / run).get("metric", "accuracy"))
    if not metric.low <= score <= metric.high:
        kind = "a share" if metric.is_share else metric.title
        raise UserError(
            f"The public score of {run} was given as {score:g}; "
            f"expected {kind} from {metric.low:g} to {metric.high:g}, as 0.82."
        )
    write_json(runs / run / PUBLIC_SCORE, {"score": score})


def write_leaderboard(runs: Path, folder: Path) -> tuple[pd.DataFrame, str]:
    """Write leaderboard.csv and leaderboard.md into `folder`.

    Returns the rows of the runs, and the text for the terminal.
    """
    table = read_rows(runs)
    if table.empty:
        return table, "The leaderboard is empty: no run was scored yet."
    with replacing(folder / LEADERBOARD) as temporary:
        table.to_csv(temporary, index=False)
    columns, are_texts = _choose_columns(table)
    write_text(folder / LEADERBOARD_MARKDOWN, _to_markdown(columns))
    legend = LEGEND.format(
        scores=_describe_metrics(table["metric"].unique()),
        select_by=" or ".join(table["select by"].unique()),
    )
    notices = [
        f"{run}: NOT SCORED for want of time: {names}"
        for run, names in table[["run", "not scored"]].dropna().itertuples(index=False)
    ]
    others = {path.parent for path in runs.glob(f"*/{METRICS}")} - {*list_scored(runs)}
    notices += [
        f"{folder.name}: LEFT OUT; a run's folder is named <backbone>_<number>, so rename this one."
        for folder in sorted(others)
    ]
    shown = "\n".join(align_columns(columns, are_texts))
    return table, f"{shown}\n\n" + "\n".join([legend, *notices])


def _describe_metrics(names: Iterable[str]) -> str:
    """Return a line that names the metrics of the scores; nothing where all are accuracies."""
    metrics = [get_metric(name) for name in sorted(names)]
    if metrics == [ACCURACY]:
        return ""
    return f"scores: {'; '.join(metric.description for metric in metrics)}.\n"


def _choose_columns(table: pd.DataFrame) -> tuple[list[list[str]], list[bool]]:
    """Return the columns for people that are not empty, title first, and whether each is text."""
    shown = []
    for column in COLUMNS:
        values = table[column.name]
        is_telling = values.nunique() > 1 if column.if_different else values.notna().any()
        if column.title and is_telling:
            shown.append(column)
    return [_format(table, column) for column in shown], [column.is_text for column in shown]


def _to_markdown(columns: list[list[str]]) -> str:
    titles, *rows = zip(*columns, strict=True)
    lines = [titles, ["---"] * len(titles), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _format(table: pd.DataFrame, column: Column) -> list[str]:
    texts = [column.title]
    for value, name in zip(table[column.name], table["metric"], strict=True):
        form = str if column.is_text else get_metric(name).format
        texts.append("-" if pd.isna(value) else form(value))
    return texts
