"""The leaderboard: one row a run, ranked by the selection score among rows of the same data and the same selection."""

from pathlib import Path
from typing import Any

import pandas as pd

from competition.common.errors import UserError
from competition.common.files import read_json, replacing, write_json, write_text
from competition.distortion.profiles import PROFILES, VERSIONS

# What the seeds published of the competition's hidden test (accuracy); their validation was clean.
REFERENCES = (
    {"run": "published: custom CNN", "backbone": "custom CNN", "val clean": 0.95, "public": 0.24},
    {
        "run": "published: EfficientNetB0",
        "backbone": "EfficientNetB0",
        "val clean": 0.916,
        "public": 0.56,
    },
    {
        "run": "published: MobileNetV3Large",
        "backbone": "MobileNetV3Large",
        "val clean": 0.977,
        "public": 0.82,
    },
)

COLUMNS = (
    "rank", "run", "backbone", "parameters", "weights", "device", "select by", "selection",
    *(f"val {version}" for version in VERSIONS), *(f"test {version}" for version in VERSIONS), "gap",
    "test clean TTA", "test revealed TTA", "expected low", "expected high", "lowest", "highest",
    "F1 weighted", "F1 macro", "balanced", "error/AlexNet", "added error/AlexNet",
    "ms/picture", "zip MB", "public", "error", "test looks", "splits", "distortion",
)  # fmt: skip
FACTS = (
    "rank",
    "run",
    "parameters",
    "weights",
    "F1 weighted",
    "F1 macro",
    "balanced",
    "error/AlexNet",
)
LEGEND = """selection: accuracy on the validation pictures, {select_by}. clean to unseen: on the test, one view.
expected: under revealed, on the test with all views, and its 95 % bootstrap interval. profiles: lowest and highest of
revealed to unseen. error/AlexNet: on the microscope's pictures, as a multiple of AlexNet's (blood cells only)."""


def read_rows(runs: Path) -> pd.DataFrame:
    """Return one row for every scored run, best first; ranks start anew with other splits and another selection."""
    rows = [read_row(path.parent) for path in sorted(runs.glob("*/metrics.json"))]
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    if table.empty:
        return table
    same = ["splits", "select by"]
    table = table.sort_values(
        [*same, "selection"], ascending=[True, True, False], ignore_index=True
    )
    table["rank"] = table.groupby(same).cumcount() + 1
    return table


def read_row(run: Path) -> dict[str, Any]:
    """Return the row of one run, from the files in its folder; a run scored in fewer versions lacks some columns."""
    metrics, config = read_json(run / "metrics.json"), read_json(run / "config.json")
    final = {version: metrics["test"][version]["augmented"] for version in ("clean", "revealed")}
    low, high = final["revealed"]["interval"]
    accuracies = {
        f"{part} {version}": accuracy
        for part, name in _PARTS
        for version, accuracy in _plain(metrics[name])
    }
    distorted = [
        accuracies[f"test {profile}"] for profile in PROFILES if f"test {profile}" in accuracies
    ]
    relative = metrics.get("relative", {})
    row: dict[str, Any] = {
        "run": run.name,
        "backbone": config["network"]["builder"],
        "parameters": metrics["parameters"],
        "weights": config["weights"],
        "device": read_json(run / "environment.json")["device"],
        "select by": metrics.get("select_by", "clean+revealed"),
        "selection": metrics["selection_score"],
        **accuracies,
        "gap": accuracies["test clean"] - accuracies["test revealed"],
        "test clean TTA": final["clean"]["accuracy"],
        "test revealed TTA": final["revealed"]["accuracy"],
        "expected low": low,
        "expected high": high,
        "lowest": min(distorted),
        "highest": max(distorted),
        "F1 weighted": final["clean"]["f1_weighted"],
        "F1 macro": final["clean"]["f1_macro"],
        "balanced": final["clean"]["balanced_accuracy"],
        "error/AlexNet": relative.get("error"),
        "added error/AlexNet": relative.get("added_error"),
        "ms/picture": metrics["test"]["milliseconds"],
        "test looks": metrics["test_looks"],
        "splits": config["splits"],
        "distortion": metrics["distortion"],
        "zip MB": metrics["zip_megabytes"],
    }
    if (run / "public.json").is_file():
        row["public"] = read_json(run / "public.json")["score"]
        row["error"] = row["test revealed TTA"] - row["public"]
    return row


_PARTS = (("val", "validation"), ("test", "test"))


def _plain(scores: dict[str, Any]) -> list[tuple[str, float]]:
    return [
        (version, scores[version]["plain"]["accuracy"]) for version in VERSIONS if version in scores
    ]


def record_public_score(runs: Path, run: str, score: float) -> None:
    """Keep the score that a server gave for a run; raises UserError for an unknown run or a score outside 0..1."""
    known = sorted(path.parent.name for path in runs.glob("*/metrics.json"))
    if run not in known:
        raise UserError(
            f"There is no scored run '{run}' in {runs}; known are {', '.join(known) or 'none'}."
        )
    if not 0 <= score <= 1:
        raise UserError(
            f"The public score of {run} was given as {score:g}; expected a share from 0 to 1, as 0.82."
        )
    write_json(runs / run / "public.json", {"score": score})


def write_leaderboard(runs: Path, folder: Path, with_references: bool) -> str:
    """Write leaderboard.csv and leaderboard.md into `folder`; return the table for the terminal."""
    table = read_rows(runs)
    if table.empty:
        return "The leaderboard is empty: no run was scored yet."
    if with_references:
        table = pd.concat([table, pd.DataFrame(REFERENCES)], ignore_index=True)[list(COLUMNS)]
    with replacing(folder / "leaderboard.csv") as temporary:
        table.to_csv(temporary, index=False)
    write_text(folder / "leaderboard.md", to_markdown(table))
    runs_only = table[table["rank"].notna()]
    select_by = " or ".join(runs_only["select by"].unique())
    facts = _layout(runs_only[[*FACTS, "ms/picture", "zip MB", "device"]])
    return f"{_layout(_shown(table))}\n\n{LEGEND.format(select_by=select_by)}\n\n{facts}"


def _shown(table: pd.DataFrame) -> pd.DataFrame:
    """Return what fits into a terminal: ranges in one column, and only what differs between the runs."""
    shown = table[["rank", "run", "selection", "val clean"]].copy()
    shown = shown.assign(**{version: table[f"test {version}"] for version in VERSIONS})
    numbers = [
        _as_text(table[[name]])[name]
        for name in ("test revealed TTA", "expected low", "expected high")
    ]
    shown["expected"] = [
        f"{middle} ({low}-{high})" for middle, low, high in zip(*numbers, strict=True)
    ]
    ends = [_as_text(table[[name]])[name] for name in ("lowest", "highest")]
    shown["profiles"] = [f"{low}-{high}" for low, high in zip(*ends, strict=True)]
    shown.loc[table["rank"].isna(), ["expected", "profiles"]] = None
    shown["public"] = table["public"]
    if table["error"].notna().any():
        shown["error"] = table["error"]
    several = [name for name in ("select by", "splits") if table[name].nunique() > 1]
    return shown.join(table[several])


def to_markdown(table: pd.DataFrame) -> str:
    """Return the table in Markdown."""
    cells = _as_text(table)
    lines = [list(cells.columns), ["---"] * cells.shape[1], *cells.to_numpy().tolist()]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def _layout(table: pd.DataFrame) -> str:
    """Return the table with texts to the left and numbers to the right of their columns."""
    cells = _as_text(table)
    columns = []
    for name in cells.columns:
        column = [name, *cells[name]]
        width = max(map(len, column))
        columns.append(
            [
                text.ljust(width) if name in ("run", "device", "select by") else text.rjust(width)
                for text in column
            ]
        )
    return "\n".join("  ".join(row) for row in zip(*columns, strict=True))


def _as_text(table: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame(
        {name: [_cell(name, value) for value in table[name]] for name in table.columns}
    )


def _cell(name: str, value: Any) -> str:
    if pd.isna(value):
        return "-"
    if name in ("rank", "parameters", "test looks"):
        return f"{int(value):,}"
    if name in ("ms/picture", "zip MB", "error/AlexNet", "added error/AlexNet"):
        return f"{value:.2f}"
    return f"{100 * value:.1f}" if isinstance(value, float) else str(value)
