"""What cleaning found: one row for each picture and issue."""

import csv
import io
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np

from competition.common.errors import UserError
from competition.common.files import write_text
from competition.data.arrays import Dataset


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
    return {
        name: sum(issue.issue == name and issue.action != "keep" for issue in issues)
        for name in names
    }


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


ACTIONS = ("keep", "drop", "relabel")


@dataclass(frozen=True)
class Override:
    """The user's word on one picture: an action of ACTIONS, and the label to use from here on."""

    index: int
    action: str
    label: int


def read_overrides(path: Path, dataset: Dataset) -> list[Override]:
    """Return the rows of overrides.csv, none where there is no such file.

    Columns index, action (keep, drop, relabel) and label (a class name or number, read for relabel alone); others are
    ignored, so that rows of issues.csv may be pasted. Raises UserError, with the line, for what does not fit.
    """
    if not path.is_file():
        return []
    overrides: dict[int, Override] = {}
    reader = _open(path)
    for row in reader:
        place = f"{path}, line {reader.line_num},"
        override = _parse(
            {name: (text or "").strip() for name, text in row.items() if name}, dataset, place
        )
        if overrides.setdefault(override.index, override) != override:
            raise UserError(
                f"{place} names picture {override.index} again with another action; keep one of the two."
            )
    return list(overrides.values())


def apply_overrides(
    issues: list[Issue], overrides: list[Override], dataset: Dataset, groups: np.ndarray
) -> list[Issue]:
    """Return the issues with a row for each override; those of a picture that it keeps or relabels drop it no more."""
    kept = {override.index for override in overrides if override.action != "drop"}
    rows = [replace(issue, action="keep") if issue.index in kept else issue for issue in issues]
    for override in overrides:
        index, label = override.index, int(dataset.labels[override.index])
        reason, suggestion = "overrides.csv says so", -1
        if override.action == "relabel":
            reason = f"overrides.csv says {dataset.class_names[override.label]}, not {dataset.class_names[label]}"
            suggestion = override.label
        rows.append(
            Issue(
                index,
                label,
                "override",
                override.action,
                1.0,
                reason,
                int(groups[index]),
                suggestion,
            )
        )
    return sorted(rows, key=lambda issue: (issue.index, issue.issue))


def _open(path: Path) -> "csv.DictReader[str]":
    try:
        reader = csv.DictReader(io.StringIO(path.read_text(encoding="utf-8-sig")))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path} cannot be read as text ({error}); save it as CSV in UTF-8."
        ) from error
    reader.fieldnames = [name.strip() for name in reader.fieldnames or ()]
    if missing := {"index", "action"} - set(reader.fieldnames):
        raise UserError(
            f"{path}, line 1, lacks the column '{max(missing)}'; expected index,action,label, separated by commas."
        )
    return reader


def _parse(row: dict[str, str], dataset: Dataset, place: str) -> Override:
    text, action, last = row["index"], row["action"], len(dataset.labels) - 1
    if not (text.isdecimal() and int(text) <= last):
        raise UserError(
            f"{place} has the index '{text}'; expected a whole number from 0 to {last}, so correct it."
        )
    if action not in ACTIONS:
        raise UserError(
            f"{place} has the action '{action}'; expected keep, drop or relabel, so correct it."
        )
    index = int(text)
    label = (
        _parse_label(row.get("label", ""), dataset, place)
        if action == "relabel"
        else int(dataset.labels[index])
    )
    return Override(index, action, label)


def _parse_label(text: str, dataset: Dataset, place: str) -> int:
    """Return the class that is named, or numbered; a name wins, should classes be named by numbers."""
    names = dataset.class_names
    if text in names:
        return names.index(text)
    if text.isdecimal() and int(text) < len(names):
        return int(text)
    raise UserError(
        f"{place} relabels to '{text}'; expected one of the classes {', '.join(names)}, or its number "
        f"from 0 to {len(names) - 1}."
    )
