"""What the user overrules in overrides.csv: pictures to keep, to drop or to relabel, whatever cleaning found."""

import csv
import io
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from competition.data import Dataset
from competition.files import InputError
from competition.issues import Issue

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
    ignored, so that rows of issues.csv may be pasted. Raises InputError, with the line, for what does not fit.
    """
    if not path.is_file():
        return []
    overrides: dict[int, Override] = {}
    reader = _open(path)
    for row in reader:
        place = f"{path}, line {reader.line_num},"
        override = _parse({name: (text or "").strip() for name, text in row.items() if name}, dataset, place)
        if overrides.setdefault(override.index, override) != override:
            raise InputError(f"{place} names picture {override.index} again with another action; keep one of the two.")
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
        rows.append(Issue(index, label, "override", override.action, 1.0, reason, int(groups[index]), suggestion))
    return sorted(rows, key=lambda issue: (issue.index, issue.issue))


def _open(path: Path) -> "csv.DictReader[str]":
    try:
        reader = csv.DictReader(io.StringIO(path.read_text(encoding="utf-8-sig")))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as text ({error}); save it as CSV in UTF-8.") from error
    reader.fieldnames = [name.strip() for name in reader.fieldnames or ()]
    if missing := {"index", "action"} - set(reader.fieldnames):
        raise InputError(
            f"{path}, line 1, lacks the column '{max(missing)}'; expected index,action,label, separated by commas."
        )
    return reader


def _parse(row: dict[str, str], dataset: Dataset, place: str) -> Override:
    text, action, last = row["index"], row["action"], len(dataset.labels) - 1
    if not (text.isdecimal() and int(text) <= last):
        raise InputError(f"{place} has the index '{text}'; expected a whole number from 0 to {last}, so correct it.")
    if action not in ACTIONS:
        raise InputError(f"{place} has the action '{action}'; expected keep, drop or relabel, so correct it.")
    index = int(text)
    label = _parse_label(row.get("label", ""), dataset, place) if action == "relabel" else int(dataset.labels[index])
    return Override(index, action, label)


def _parse_label(text: str, dataset: Dataset, place: str) -> int:
    """Return the class that is named, or numbered; a name wins, should classes be named by numbers."""
    names = dataset.class_names
    if text in names:
        return names.index(text)
    if text.isdecimal() and int(text) < len(names):
        return int(text)
    raise InputError(
        f"{place} relabels to '{text}'; expected one of the classes {', '.join(names)}, or its number "
        f"from 0 to {len(names) - 1}."
    )
