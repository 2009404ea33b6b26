"""All submissions of a folder, run and scored one by one into a ranked table.

A submission that fails stops no other.
"""

import dataclasses
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from competition.codabench.dry_run import Reference, dry_run, open_split
from competition.codabench.sandbox import can_isolate
from competition.common.console import headline, printable, progress, say
from competition.common.errors import CheckFailedError
from competition.common.files import RUN_AGAIN, digest, if_intact, read_json, replacing, write_json
from competition.config import Config, LimitsConfig
from competition.data.arrays import PreparedData
from competition.paths import GRADES, Paths, list_files

SCORES = ("accuracy", "f1_macro", "f1_weighted", "duration")
RESULT_SHAPE = {"reason": str, "isolated": bool, "peak_megabytes": float}


def grade(
    folder: Path, prepared: PreparedData, config: Config, paths: Paths, on_test: bool, force: bool
) -> None:
    """Run and score all zips of `folder`, print their table and write grades.csv.

    on_test: score on the test split, which counts as a look at it, rather than on validation.
    force: run zips again that were run on the same images and limits.
    """
    headline(f"Grades of {folder}")
    images, reference = open_split(prepared, config, on_test, folder, paths)
    results = paths.experiments / GRADES
    table = grade_zips(folder, images, reference, config.limits, results, force)
    text = table.to_string(index=False, na_rep="-", float_format="{:.4f}".format)
    say(f"\n{text}\n\n{results / 'grades.csv'}")


def grade_zips(
    folder: Path,
    images: np.ndarray,
    reference: Reference,
    limits: LimitsConfig,
    results: Path,
    force: bool = False,
) -> pd.DataFrame:
    """Return one row per zip of `folder`, the best first, failed ones last with the reason.

    images: (n, h, w, 3) uint8. results: folder that takes grades.csv and keeps each result, so that
    a call that was stopped goes on where it was.
    """
    zips = list_files(folder, "*.zip")
    isolated = can_isolate()
    metric = reference.metric
    scores = list(dict.fromkeys([metric.name, *SCORES]))
    installed = sorted(f"{item.name}=={item.version}" for item in distributions())
    run_by = dataclasses.asdict(limits), isolated, metric.name, installed
    data = digest(images, reference.labels, *run_by)
    rows = []
    for path in progress(zips, "  submissions", unit="zip"):
        known = results / f"{digest(path, data)}.json"
        result = None
        if known.is_file() and not force:
            shape = RESULT_SHAPE | dict.fromkeys(scores, float)
            result = if_intact(read_json, known, shape, RUN_AGAIN, ())
        if result is None:
            result = {"isolated": isolated} | _run_and_say(path, images, reference, limits)
            write_json(known, result)
        rows.append({"submission": printable(path.name)} | result)
    columns = ["rank", "submission", *scores, "peak_megabytes", "isolated", "reason"]
    table = pd.DataFrame(rows, columns=columns)
    is_least_best = not metric.greater_is_better
    table = table.sort_values(
        [metric.name, "submission"], ascending=[is_least_best, True], ignore_index=True
    )
    ranks = table[metric.name].rank(method="min", ascending=is_least_best)
    table["rank"] = ranks.astype("Int64")
    with replacing(results / "grades.csv") as temporary:
        table.to_csv(temporary, index=False)
    return table


def _run_and_say(
    zip_path: Path, images: np.ndarray, reference: Reference, limits: LimitsConfig
) -> dict[str, Any]:
    """Return the scores of one zip, or the reason why it has none."""
    try:
        finished = dry_run(zip_path, images, reference, limits)
    except CheckFailedError as error:
        reason = str(error).removeprefix(f"{zip_path} ")  # another zip may have the same content
        say(f"  {printable(zip_path.name)}: {reason}")
        return {"reason": reason}
    say(f"  {printable(zip_path.name)}: {finished.scores[reference.metric.name]:.4f}")
    return finished.scores | {"peak_megabytes": round(finished.peak_megabytes)}
