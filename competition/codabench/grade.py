"""All submissions of a folder, run and scored one by one into a ranked table; one that fails stops no other."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from competition.codabench.dry_run import Reference, dry_run
from competition.common.console import progress, say
from competition.common.errors import UserError
from competition.common.files import digest, read_json, replacing, write_json
from competition.config import LimitsConfig

COLUMNS = (
    "rank",
    "submission",
    "accuracy",
    "f1_macro",
    "f1_weighted",
    "duration",
    "peak_megabytes",
    "reason",
)


def grade(
    folder: Path,
    images: np.ndarray,
    reference: Reference,
    limits: LimitsConfig,
    results: Path,
    force: bool = False,
) -> pd.DataFrame:
    """Return one row for each zip of `folder`, best accuracy first; those that fail come last, with the reason.

    images (n, h, w, 3) uint8. results: folder that keeps each result, so that a call that was stopped goes on where
    it was, and takes grades.csv.
    """
    zips = sorted(path for path in folder.glob("*.zip") if path.is_file())
    data = digest(images, reference.labels, dataclasses.asdict(limits))
    rows = [
        {"submission": path.name}
        | _result(path, images, reference, limits, results / f"{digest(path, data)}.json", force)
        for path in progress(zips, "  submissions", unit="zip")
    ]
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    table = table.sort_values(
        ["accuracy", "submission"], ascending=[False, True], ignore_index=True
    )
    table["rank"] = table["accuracy"].rank(method="min", ascending=False).astype("Int64")
    with replacing(results / "grades.csv") as temporary:
        table.to_csv(temporary, index=False)
    return table


def _result(
    zip_path: Path,
    images: np.ndarray,
    reference: Reference,
    limits: LimitsConfig,
    known: Path,
    force: bool,
) -> dict[str, Any]:
    """Return the scores of one zip, or the reason why it has none."""
    if known.is_file() and not force:
        return read_json(known)
    try:
        finished = dry_run(zip_path, images, reference, limits)
        result: dict[str, Any] = finished.scores | {
            "peak_megabytes": round(finished.peak_megabytes)
        }
    except UserError as error:
        result = {"reason": str(error).replace(str(zip_path), zip_path.name)}
    say(f"  {zip_path.name}: {result.get('reason') or format(result['accuracy'], '.4f')}")
    write_json(known, result)
    return result
