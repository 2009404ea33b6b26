"""What cleaning found: one row for each picture and issue."""

import csv
import io
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from competition.files import write_text


@dataclass(frozen=True)
class Issue:
    """One fault of one picture, or one word of the user's about it.

    label: as the file has it. action: `drop`, `keep`, or for wrong labels `drop_from_training` or
    `relabel_in_training`; an override may also `relabel`. score: 0..1.
    group: joins copies (see groups.npy). suggestion: the label that fits better, -1 where there is none.
    """

    index: int
    label: int
    issue: str
    action: str
    score: float
    reason: str
    group: int
    suggestion: int = -1


def count_actions(issues: list[Issue]) -> dict[str, int]:
    """Return how many pictures each kind of issue drops or relabels, if only in training."""
    names = sorted({issue.issue for issue in issues})
    return {name: sum(issue.issue == name and issue.action != "keep" for issue in issues) for name in names}


def list_doubtful(count: int, issues: list[Issue]) -> np.ndarray:
    """Return for each of `count` pictures the label suggested where its own is kept from training, else -1: int64."""
    doubtful = np.full(count, -1)
    for issue in issues:
        if issue.action.endswith("_training"):
            doubtful[issue.index] = issue.suggestion
    return doubtful


def correct_labels(labels: np.ndarray, issues: list[Issue]) -> np.ndarray:
    """Return the labels (n,) to use from here on: those of the file, but for what an override relabels."""
    corrected = labels.copy()
    for issue in issues:
        if issue.action == "relabel":
            corrected[issue.index] = issue.suggestion
    return corrected


def write_issues(path: Path, issues: list[Issue]) -> None:
    """Write issues.csv: the fields of `Issue` are its columns."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow([field.name for field in fields(Issue)])
    writer.writerows([getattr(issue, field.name) for field in fields(Issue)] for issue in issues)
    write_text(path, stream.getvalue())
