"""Where things stand: the finished stages of each data set, the results, and the next command."""

import json
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from competition.common.console import describe_seconds, say
from competition.common.errors import DamagedFileError, NotCheckedError, UserError, WorthlessError
from competition.common.files import read_json
from competition.data.arrays import PREPARED_MARKER
from competition.data.splits import SPLITS
from competition.distortion.profiles import PROFILE
from competition.evaluation.leaderboard import read_rows, write_leaderboard
from competition.evaluation.metrics import final_scores, read_metrics
from competition.evaluation.report import write_report
from competition.metric import ACCURACY, get_metric
from competition.paths import (
    CLEANING_MARKER,
    HIDDEN_TEST,
    LEADERBOARD_MARKDOWN,
    PREPARED,
    REPORT,
    SPLITS_MARKER,
    Paths,
)
from competition.request import Request
from competition.time_budget import JobClock

NEXT_AFTER_DEMO = """your own data, an .npz or a folder of class folders:
             python run.py --search --data FILE --time-budget 30m"""


@dataclass
class Results:
    """The results of a command, and its failures.

    packaged: the run and its verified zip. predictions: the CSV of --predict. hidden_test: the
    metric on the demo's. unchecked: why --check-server could not check.
    """

    packaged: tuple[Path, Path] | None = None
    predictions: Path | None = None
    hidden_test: float | None = None
    failures: list[str] = field(default_factory=list)
    worthless: str = ""
    unchecked: str = ""

    def raise_for(self) -> None:
        """Raise the gravest of the failures, if there is any."""
        if self.failures:
            raise UserError("Not all went well: " + " ".join(self.failures))
        if self.worthless:
            raise WorthlessError(self.worthless)
        if self.unchecked:
            raise NotCheckedError(self.unchecked)


def describe_status(root: Path) -> str:
    """Return a text on each data set under `root`: finished stages, best run, next command."""
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
    zips = paths.packaged
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
        prepared = _read(paths.data / PREPARED / PREPARED_MARKER, {"fingerprint": str})
        now = table[table["splits"] == prepared.get("fingerprint")]
        best = (now if len(now) else table).iloc[0]
        metric = get_metric(best["metric"])
        score = f"selection {metric.format(best['selection'])}"
        if pd.notna(best["expected"]):
            score += f", expected on the hidden test {metric.with_unit(best['expected'])}"
        lines.append(f"  runs        {len(table)}, best {best['run']}: {score}")
        shown = table[["run", "public", "metric"]].dropna()
        for run, public, name in shown.itertuples(index=False):
            lines.append(f"  public      {run}: {get_metric(name).with_unit(public)}")
    if zips:
        lines.append(f"  submission  {zips[-1]}")
    lines.append(f"  next        {_advise(table, paths)}")
    return "\n".join(lines)


def _advise(table: pd.DataFrame, paths: Paths) -> str:
    zips = paths.packaged
    is_demo = (paths.data / HIDDEN_TEST).is_file()
    same = "" if is_demo else ", with the same --data or --name"
    if table.empty:
        return f"python run.py --search{same}"
    if not zips:
        return f"python run.py --package{same}"
    if is_demo:
        return NEXT_AFTER_DEMO
    if table["public"].notna().any():
        return "change one setting (python run.py --settings) and --train again"
    return f"upload {zips[-1].name}, then  {_record(zips[-1].stem, paths)}"


def _record(run: str, paths: Paths) -> str:
    """Return the command that keeps the public score of a run, whatever data are the default."""
    return f"python run.py --record {run} SCORE --name {shlex.quote(paths.name)}"


def _read(path: Path, shape: dict[str, Any]) -> dict[str, Any]:
    return read_json(path, shape) if path.is_file() else {}


def show_results(request: Request, results: Results, clock: JobClock) -> None:
    """Write the leaderboard; print it, the files, the expected score and the next command."""
    paths, folder = request.paths, request.paths.experiments
    rows, table = write_leaderboard(paths.runs, folder)
    try:
        write_report(paths, rows, request.config)
    except DamagedFileError as error:
        results.failures.append(f"report: {error}")
    made = {"submission": results.packaged and results.packaged[1]}
    made |= {"predictions": results.predictions, "report": folder / REPORT}
    made |= {"leaderboard": folder / LEADERBOARD_MARKDOWN, "cleaning": paths.data / REPORT}
    made = {name: path for name, path in made.items() if path is not None and path.is_file()}
    scores, metric = dict[str, Any](), get_metric(request.config.metric)
    if results.packaged:
        known = read_metrics(results.packaged[0], "test")
        scores = final_scores(known["test"][PROFILE])
        metric = get_metric(known.get("metric", "accuracy"))  # named runs decide it themselves
    if request.as_json:
        run = results.packaged[0].name if results.packaged else None
        facts = {"name": paths.name, "run": run, "expected": scores.get(metric.name)}
        facts |= {"interval": scores.get("interval"), "hidden_test": results.hidden_test}
        facts |= {"seconds": round(clock.seconds_used, 1), "failures": results.failures}
        print(json.dumps(facts | {name: str(path) for name, path in made.items()}))
        return
    shown = "accuracies in percent" if metric == ACCURACY else metric.description
    lines = [f"\n== Result ({shown})", table, ""]
    if scores:
        low, high = map(metric.format, scores["interval"])
        expected = f"{metric.with_unit(scores[metric.name])}, 95 % interval {low} to {high}"
        found = results.hidden_test
        lines.append(
            f"expected     {expected}"
            if found is None
            else f"hidden test  {metric.with_unit(found)}; expected {expected}"
        )
    lines += [f"{name:12} {path}" for name, path in made.items()]
    if results.packaged:
        upload = f"upload the submission, then  {_record(results.packaged[0].name, paths)}"
        lines.append(f"next         {NEXT_AFTER_DEMO if request.is_demo else upload}")
    say("\n".join([*lines, f"Done in {describe_seconds(clock.seconds_used)}."]), always=True)
