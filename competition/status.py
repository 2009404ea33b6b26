"""Where things stand: what each data set has by now, and the next command to type."""

from pathlib import Path
from typing import Any

import pandas as pd

from competition.common.files import read_json
from competition.data.splits import SPLITS
from competition.evaluation.leaderboard import read_rows
from competition.paths import CLEANING_MARKER, SPLITS_MARKER, Paths


def describe_status(root: Path) -> str:
    """Return for each data set under `root` what is done, best first, and what to do next."""
    names = {path.name for path in (root / "experiments").glob("*") if path.is_dir()}
    names |= {path.parent.name for path in (root / "data").glob(f"*/{CLEANING_MARKER}")}
    if not names:
        return (
            "Nothing was done here yet. The main job, with a demo competition where you give no "
            "data:\n  python run.py --search [--data FILE|FOLDER] [--time-budget 30m]"
        )
    return "\n\n".join(_describe(Paths(root, name)) for name in sorted(names))


def _describe(paths: Paths) -> str:
    table = read_rows(paths.runs)
    zips = sorted(paths.submissions.glob("*.zip"), key=lambda path: path.stat().st_mtime)
    lines = [paths.name]
    if counts := _read(paths.data / CLEANING_MARKER, {"total": int, "kept": int}):
        lines.append(f"  cleaned     {counts['total']:,} images, {counts['kept']:,} kept")
    if splits := _read(paths.data / SPLITS_MARKER, {"counts": dict.fromkeys(SPLITS, int)}):
        counts = splits["counts"]
        parts = [f"{counts[name]:,} {name}" for name in SPLITS]
        lines.append(f"  split       {', '.join(parts)}")
    if searched := sorted(path.stem for path in paths.studies.glob("*.db")):
        lines.append(f"  searched    {', '.join(searched)}")
    if len(table):
        best = table.iloc[0]
        score = f"selection {100 * best['selection']:.1f}"
        if pd.notna(best["expected"]):
            score += f", expected on the hidden test {100 * best['expected']:.1f} %"
        lines.append(f"  runs        {len(table)}, best {best['run']}: {score}")
        for run, public in table[["run", "public"]].dropna().itertuples(index=False):
            lines.append(f"  public      {run}: {100 * public:.1f} %")
    if zips:
        lines.append(f"  submission  {zips[-1]}")
    lines.append(f"  next        {_advise(table, zips)}")
    return "\n".join(lines)


def _advise(table: pd.DataFrame, zips: list[Path]) -> str:
    if table.empty:
        return "python run.py --search, with the same --data or --name"
    if not zips:
        return "python run.py --package, with the same --data or --name"
    if table["public"].notna().any():
        return "change one setting (python run.py --settings) and --train again"
    return f"upload {zips[-1].name}, then  python run.py --record {zips[-1].stem} SCORE"


def _read(path: Path, shape: dict[str, Any]) -> dict[str, Any]:
    return read_json(path, shape) if path.is_file() else {}
