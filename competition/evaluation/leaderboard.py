"""The leaderboard: one row per run; ranks compare runs of the same data and the same selection."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from competition.common.console import align_columns
from competition.common.errors import UserError
from competition.common.files import read_json, replacing, write_json, write_text
from competition.distortion.profiles import PROFILE, PROFILES, VERSIONS
from competition.evaluation.metrics import ACCURACIES, TTA, list_scored, read_metrics
from competition.metric import ACCURACY, get_metric
from competition.paths import ENVIRONMENT, LEADERBOARD, LEADERBOARD_MARKDOWN, METRICS, PUBLIC_SCORE
from competition.training.runs import read_config

# Files beside a run's config.json and metrics.json that need not be there.
OTHER_FILES: dict[str, Any] = {
    ENVIRONMENT: {"device": str},
    PUBLIC_SCORE: {"score": float},
}
# What the baseline published: accuracy on its validation, which was clean, and on the hidden test.
PUBLISHED = {
    "custom CNN": (0.95, 0.24),
    "EfficientNetB0": (0.916, 0.56),
    "MobileNetV3Large": (0.977, 0.82),
}
LEGEND = """{scores}selection: on validation, {select_by}. clean, revealed: on the test, one view.
expected: on the hidden test, by revealed with test-time augmentation, and its 95 % interval."""

Value = Callable[[pd.DataFrame], Any]
"""Takes the files of all runs, a row each, flat (`metrics.parameters`); returns a value per run."""


def at(key: str) -> Value:
    """Return the values at a dotted key, missing where a run lacks it."""
    return lambda files: files.reindex(columns=[key])[key]


def metric_name(files: pd.DataFrame) -> Any:
    """Return the name of each run's metric; the first runs had no choice."""
    return at("metrics.metric")(files).fillna("accuracy")


def by_metric(prefix: str) -> Value:
    """Return the value of each run's own metric below a dotted key."""

    def value(files: pd.DataFrame) -> Any:
        names = metric_name(files)
        columns = {name: at(f"{prefix}.{name}")(files) for name in names.unique()}
        return pd.Series([columns[name][index] for index, name in names.items()], names.index)

    return value


def values(split: str, name: str) -> Value:
    """Return the values on `validation` or `test` with a name of ACCURACIES."""
    version, views = ACCURACIES[name]
    return by_metric(f"metrics.{split}.{version}.{views}")


def final(version: str, score: str = "") -> Value:
    """Return a score on the test with test-time augmentation, or with one view without that.

    score: its name; that of each run's metric, where there is none.
    """
    augmented, plain = (
        at(f"metrics.test.{version}.{views}.{score}")
        if score
        else by_metric(f"metrics.test.{version}.{views}")
        for views in (TTA, "plain")
    )
    return lambda files: augmented(files).combine_first(plain(files))


def end_of_interval(index: int) -> Value:
    """Return the lower (0) or the upper end (1) of the interval around the expected value."""
    ends = final(PROFILE, "interval")
    return lambda files: ends(files).map(lambda pair: pair[index], na_action="ignore")


def interval(files: pd.DataFrame) -> Any:
    """Return the expected value with its 95 % interval, as people read it."""
    numbers = (final(PROFILE), end_of_interval(0), end_of_interval(1))
    columns = [metric_name(files), *(value(files) for value in numbers)]
    texts = [
        None if pd.isna(row[0]) else "{} ({}-{})".format(*map(get_metric(name).format, row))
        for name, *row in zip(*columns, strict=True)
    ]
    return pd.Series(texts, files.index, dtype="string")


def difference(first: Value, second: Value) -> Value:
    """Return the first values minus the second."""
    return lambda files: first(files) - second(files)


def distorted(files: pd.DataFrame) -> pd.DataFrame:
    """Return the values on the test with one view, a column per distortion profile."""
    return pd.DataFrame({name: values("test", name)(files) for name in PROFILES})


def left_out(files: pd.DataFrame) -> Any:
    """Return the names of the accuracies for which there was no time, joined by commas."""
    names = at("metrics.not_scored")(files)
    return names.map(lambda listed: ", ".join(listed) or None, na_action="ignore")


def named_run(files: pd.DataFrame) -> Any:
    """Return the names of the runs, with their recipe where that is not the default."""
    recipes = at("config.settings.recipe")(files).fillna("")
    return files["run"] + recipes.map(lambda recipe: f" ({recipe})" if recipe else "")


def selected_by(files: pd.DataFrame) -> Any:
    """Return the versions that selected each run; the first runs had no choice."""
    return at("metrics.select_by")(files).fillna("clean+revealed")


def selection(files: pd.DataFrame) -> Any:
    """Return the selection score of each run, as a value of its metric."""
    pairs = zip(metric_name(files), at("metrics.selection_score")(files), strict=True)
    return pd.Series([get_metric(name).flip(score) for name, score in pairs], files.index)


def rank(files: pd.DataFrame) -> Any:
    """Return the ranks by selection score among runs of the same splits and the same selection."""
    same = [at("config.splits")(files), selected_by(files), metric_name(files)]
    scores = at("metrics.selection_score")(files)
    return scores.groupby(same).rank(ascending=False, method="first")


@dataclass(frozen=True)
class Column:
    """One column of leaderboard.csv, and of the table that people see.

    name: in the file. value: its values from the runs' files. title: in the terminal and in
    leaderboard.md; none where it is in the file alone. is_text: or else a value of the run's
    metric. if_different: only shown if rows differ in it.
    """

    name: str
    value: Value
    title: str = ""
    is_text: bool = False
    if_different: bool = False


COLUMNS = (
    Column("rank", rank),
    Column("run", at("run")),
    Column("recipe", at("config.settings.recipe")),
    Column("run, recipe", named_run, "run", is_text=True),
    Column("backbone", at("config.network.builder")),
    Column("parameters", at("metrics.parameters")),
    Column("weights", at("config.weights"), "weights", is_text=True),
    Column("selection", selection, "selection"),
    *(Column(f"val {name}", values("validation", name)) for name in VERSIONS),
    *(
        Column(
            f"test {name}",
            values("test", name),
            name if name in ("clean", PROFILE) else "",
        )
        for name in VERSIONS
    ),
    Column("gap", difference(values("test", "clean"), values("test", PROFILE))),
    Column("test clean TTA", values("test", "clean TTA")),
    Column(f"test {PROFILE} TTA", values("test", f"{PROFILE} TTA")),
    Column("expected", final(PROFILE)),
    Column("expected, 95 %", interval, "expected", is_text=True),
    Column("expected low", end_of_interval(0)),
    Column("expected high", end_of_interval(1)),
    Column("lowest", lambda files: distorted(files).min(axis=1)),
    Column("highest", lambda files: distorted(files).max(axis=1)),
    Column("public", at("public.score"), "public"),
    Column("error", difference(final(PROFILE), at("public.score"))),
    Column("F1 weighted", final("clean", "f1_weighted")),
    Column("F1 macro", final("clean", "f1_macro")),
    Column("balanced", final("clean", "balanced_accuracy")),
    Column("ms/image", at("metrics.milliseconds")),
    Column("zip MB", at("metrics.zip_megabytes")),
    Column("device", at("environment.device")),
    Column("test looks", at("metrics.test_looks")),
    Column("not scored", left_out),
    Column("distortion", at("metrics.distortion")),
    Column("select by", selected_by, "select by", is_text=True, if_different=True),
    Column("splits", at("config.splits"), "splits", is_text=True, if_different=True),
    Column("metric", metric_name, "metric", is_text=True, if_different=True),
)


def read_rows(runs: Path) -> pd.DataFrame:
    """Return a row per scored run, best first among those whose ranks compare."""
    scored = list_scored(runs)
    files = pd.json_normalize([_read_run(run) for run in scored])
    if files.empty:
        return pd.DataFrame(columns=[column.name for column in COLUMNS])
    table = pd.DataFrame({column.name: column.value(files) for column in COLUMNS})
    return table.sort_values(["splits", "select by", "metric", "rank"], ignore_index=True)


def _read_run(run: Path) -> dict[str, Any]:
    facts = {"config": read_config(run, "splits"), "metrics": read_metrics(run, "selection_score")}
    for name, shape in OTHER_FILES.items():
        if (run / name).is_file():
            facts[Path(name).stem] = read_json(run / name, shape, f"delete {name} of this run.")
    return {"run": run.name, **facts}


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


def write_leaderboard(runs: Path, folder: Path, with_references: bool) -> tuple[pd.DataFrame, str]:
    """Write leaderboard.csv and leaderboard.md into `folder`.

    Returns the rows of the runs, and the text for the terminal.

    with_references: add the rows of the published baseline, which have no rank, to accuracies.
    """
    table = read_rows(runs)
    if table.empty:
        return table, "The leaderboard is empty: no run was scored yet."
    rows = table.to_dict("records")
    if with_references and "accuracy" in set(table["metric"]):
        rows += [
            {
                "run": f"published: {name}",
                "run, recipe": f"published: {name}",
                "backbone": name,
                "val clean": clean,
                "public": public,
            }
            for name, (clean, public) in PUBLISHED.items()
        ]
    whole = pd.DataFrame(rows, columns=list(table.columns))
    with replacing(folder / LEADERBOARD) as temporary:
        whole.to_csv(temporary, index=False)
    columns, are_texts = _choose_columns(whole)
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
    for value, name in zip(table[column.name], table["metric"].fillna("accuracy"), strict=True):
        form = str if column.is_text else get_metric(name).format
        texts.append("-" if pd.isna(value) else form(value))
    return texts
