"""The leaderboard: one row a run, ranked by the selection score among rows of the same data."""

from pathlib import Path
from typing import Any

import pandas as pd

from competition.files import InputError, read_json, replacing, write_json, write_text

# What others published of the competition's hidden test (accuracy); their validation was clean.
REFERENCES = (
    {"run": "published: the seeds' CNN", "backbone": "custom CNN", "val clean": 0.95, "public": 0.24},
    {"run": "published: the seeds' EfficientNetB0", "backbone": "EfficientNetB0", "val clean": 0.916, "public": 0.56},
    {
        "run": "published: the seeds' MobileNetV3Large",
        "backbone": "MobileNetV3Large",
        "val clean": 0.977,
        "public": 0.82,
    },
)

COLUMNS = (
    "rank", "run", "backbone", "parameters", "weights", "device", "selection", "val clean", "val revealed",
    "test clean", "test revealed", "gap", "test clean TTA", "test revealed TTA", "expected low", "expected high",
    "F1 weighted", "F1 macro", "ms/picture", "zip MB", "public", "error", "test looks", "splits", "distortion",
)  # fmt: skip
SCORES = ("rank", "run", "selection", "val clean", "val revealed", "test clean", "test revealed", "gap", "public")
FACTS = ("rank", "run", "parameters", "weights", "F1 weighted", "F1 macro", "ms/picture", "zip MB", "device")


def read_rows(runs: Path) -> pd.DataFrame:
    """Return one row for every scored run, best first within each set of splits; ranks start anew with other splits."""
    rows = [read_row(path.parent) for path in sorted(runs.glob("*/metrics.json"))]
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    if table.empty:
        return table
    table = table.sort_values(["splits", "selection"], ascending=[True, False], ignore_index=True)
    table["rank"] = table.groupby("splits").cumcount() + 1
    return table


def read_row(run: Path) -> dict[str, Any]:
    """Return the row of one run, from the files in its folder."""
    metrics, config = read_json(run / "metrics.json"), read_json(run / "config.json")
    test = {version: metrics["test"][version]["plain"]["accuracy"] for version in ("clean", "revealed")}
    final = {version: metrics["test"][version]["augmented"] for version in ("clean", "revealed")}
    low, high = final["revealed"]["interval"]
    row: dict[str, Any] = {
        "run": run.name,
        "backbone": config["network"]["builder"],
        "parameters": metrics["parameters"],
        "weights": config["weights"],
        "device": read_json(run / "environment.json")["device"],
        "selection": metrics["selection_score"],
        "val clean": metrics["validation"]["clean"]["plain"]["accuracy"],
        "val revealed": metrics["validation"]["revealed"]["plain"]["accuracy"],
        "test clean": test["clean"],
        "test revealed": test["revealed"],
        "gap": test["clean"] - test["revealed"],
        "test clean TTA": final["clean"]["accuracy"],
        "test revealed TTA": final["revealed"]["accuracy"],
        "expected low": low,
        "expected high": high,
        "F1 weighted": final["clean"]["f1_weighted"],
        "F1 macro": final["clean"]["f1_macro"],
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


def record_public_score(runs: Path, run: str, score: float) -> None:
    """Keep the score that a server gave for a run; raises InputError for an unknown run or a score outside 0..1."""
    known = sorted(path.parent.name for path in runs.glob("*/metrics.json"))
    if run not in known:
        raise InputError(f"There is no scored run '{run}' in {runs}; known are {', '.join(known) or 'none'}.")
    if not 0 <= score <= 1:
        raise InputError(f"The public score of {run} was given as {score:g}; expected a share from 0 to 1, as 0.82.")
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
    several = ["splits"] if table["splits"].nunique() > 1 else []
    error = ["error"] if table["error"].notna().any() else []
    runs_only = table[table["rank"].notna()]
    return f"{_layout(table[[*SCORES, *error, *several]])}\n\n{_layout(runs_only[list(FACTS)])}"


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
        columns.append([text.ljust(width) if name in ("run", "device") else text.rjust(width) for text in column])
    return "\n".join("  ".join(row) for row in zip(*columns, strict=True))


def _as_text(table: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame({name: [_cell(name, value) for value in table[name]] for name in table.columns})


def _cell(name: str, value: Any) -> str:
    if pd.isna(value):
        return "-"
    if name in ("rank", "parameters", "test looks"):
        return f"{int(value):,}"
    if name in ("ms/picture", "zip MB"):
        return f"{value:.2f}"
    return f"{100 * value:.1f}" if isinstance(value, float) else str(value)
