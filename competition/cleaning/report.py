"""The cleaning report: one HTML file with a map to point at, galleries of every issue, and the class balance."""

import base64
import html
import io
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from competition.cleaning.issues import Issue, correct_labels
from competition.common.files import write_text
from competition.config import Config
from competition.data.arrays import Dataset

COLUMNS = 24  # pictures side by side on a sheet; rows likewise, which keeps a sheet within what browsers decode at once
EXTENT = 10_000  # coordinates are whole numbers from 0 to here


@dataclass(frozen=True)
class Kind:
    """How the report presents one kind of issue; copies: its pictures stand group by group."""

    title: str
    text: str
    copies: bool = False


# In the order of the report; kinds that are not here follow under their own names.
KINDS = {
    "override": Kind("Overrides", "What overrides.csv says wins over everything below."),
    "wrong_label": Kind(
        "Doubtful labels", "The rest of the data speaks for another label than the one given."
    ),
    "conflicting_copy": Kind(
        "Copies with different labels", "Equal pictures, so at least one label is wrong.", True
    ),
    "near_copy": Kind(
        "Near copies", "The same picture but for a shift, a turn, brightness or noise.", True
    ),
    "exact_copy": Kind("Exact copies", "Equal pixel by pixel; one of each group stays.", True),
    "non_cell": Kind(
        "Non-cells",
        "Something other than a cell, which many pictures with all kinds of labels share.",
    ),
    "blank": Kind("Blank", "One colour all over."),
    "broken": Kind("Broken", "Cut off, as a truncated file decodes."),
    "noise": Kind("Noise", "No structure at all."),
}


@dataclass(frozen=True)
class _Shown:
    """What the report has room for: groups of issues by kind, examples by class, and the pictures' indices.

    large: in galleries and examples. small: on the map alone.
    """

    galleries: dict[str, list[list[Issue]]]
    examples: list[list[int]]
    large: list[int]
    small: list[int]


def write_report(
    path: Path,
    dataset: Dataset,
    coordinates: np.ndarray,
    issues: list[Issue],
    keep: np.ndarray,
    config: Config,
) -> None:
    """Write the report as one file that needs no network.

    coordinates: (n, 2), the map. keep: (n,) bool. `config.report` bounds what is shown, and the report says so.
    """
    settings, labels = config.report, correct_labels(dataset.labels, issues)
    shown = _choose(issues, labels, keep, dataset.class_names, config)
    parts = [(shown.large, settings.gallery_side), (shown.small, settings.side)]
    drawn = [
        _draw_sheets(dataset.images, indices, side, settings.quality) for indices, side in parts
    ]
    content = {
        "name": path.parent.name,
        "classes": dataset.class_names,
        "before": np.bincount(dataset.labels, minlength=len(dataset.class_names)).tolist(),
        "after": np.bincount(labels[keep], minlength=len(dataset.class_names)).tolist(),
        "columns": COLUMNS,
        "picture_size": dataset.images.shape[2:0:-1],
        "parts": [len(indices) for indices, _ in parts],
        **_describe_pictures(shown, dataset.labels, coordinates, keep),
        **_describe_issues(shown, issues),
    }
    sheets = [
        f'<script type="text/plain" class="sheet">{sheet}</script>'
        for part in drawn
        for sheet in part
    ]
    text = {
        "title": html.escape(path.parent.name),
        "data": json.dumps(content, separators=(",", ":")).replace("<", "\\u003c"),
        "sheets": "\n".join(sheets),
    }
    template = Path(__file__).with_name("report.html").read_text(encoding="utf-8")
    write_text(path, re.sub(r"\{\{(\w+)\}\}", lambda found: text[found[1]], template))


def _choose(
    issues: list[Issue],
    labels: np.ndarray,
    keep: np.ndarray,
    class_names: tuple[str, ...],
    config: Config,
) -> _Shown:
    settings, generator = config.report, np.random.default_rng(config.seed)
    galleries = {
        name: _choose_groups(name, issues, settings.gallery) for name in _order_kinds(issues)
    }
    examples = [
        generator.permutation(np.flatnonzero(keep & (labels == label)))[
            : settings.examples
        ].tolist()
        for label in range(len(class_names))
    ]
    flagged = [issue.index for groups in galleries.values() for group in groups for issue in group]
    large = list(dict.fromkeys(flagged + [index for members in examples for index in members]))
    others = generator.permutation(np.setdiff1d(np.arange(len(keep)), large))
    small = np.sort(others[: max(0, settings.images - len(large))]).tolist()
    return _Shown(galleries, examples, large, small)


def _order_kinds(issues: list[Issue]) -> list[str]:
    """Return the kinds of issue there are: those of KINDS in its order, then others."""
    present = {issue.issue for issue in issues}
    return [name for name in KINDS if name in present] + sorted(present - set(KINDS))


def _choose_groups(name: str, issues: list[Issue], limit: int) -> list[list[Issue]]:
    """Return up to `limit` issues of a kind, the closest calls first: copies by group, others in one group."""
    rows = [issue for issue in issues if issue.issue == name]
    rows.sort(
        key=lambda issue: (
            issue.action,
            issue.score if issue.action == "drop" else -issue.score,
            issue.index,
        )
    )
    if not _kind(name).copies:
        return [rows[:limit]]
    groups: dict[int, list[Issue]] = {}
    for issue in rows:
        groups.setdefault(issue.group, []).append(issue)
    chosen: list[list[Issue]] = []
    for group in groups.values():
        chosen.append(sorted(group, key=lambda issue: issue.index)[:limit])
        limit -= len(chosen[-1])
        if limit <= 0:
            break
    return chosen


def _kind(name: str) -> Kind:
    return KINDS.get(name, Kind(name.replace("_", " ").capitalize(), ""))


def _describe_pictures(
    shown: _Shown, labels: np.ndarray, coordinates: np.ndarray, keep: np.ndarray
) -> dict[str, list[Any]]:
    """Return index, label, whether it is kept, and place on the map, of each picture shown; examples by position."""
    chosen = np.array(shown.large + shown.small, np.int64)
    low, high = coordinates.min(axis=0), coordinates.max(axis=0)
    places = (coordinates[chosen] - low) / max(float((high - low).max()), 1e-9) * EXTENT
    position = {index: number for number, index in enumerate(shown.large)}
    return {
        "index": chosen.tolist(),
        "label": labels[chosen].tolist(),
        "kept": keep[chosen].astype(int).tolist(),
        "x": np.rint(places[:, 0]).astype(int).tolist(),
        "y": np.rint(places[:, 1]).astype(int).tolist(),
        "examples": [[position[index] for index in members] for members in shown.examples],
    }


def _describe_issues(shown: _Shown, issues: list[Issue]) -> dict[str, list[Any]]:
    """Return the issues of the pictures shown, and of each kind its words, counts and gallery (rows of the former)."""
    position = {index: number for number, index in enumerate(shown.large + shown.small)}
    rows = {
        issue: number
        for number, issue in enumerate(issue for issue in issues if issue.index in position)
    }
    names = list(shown.galleries)
    kinds = [
        {
            "name": name,
            "title": _kind(name).title,
            "text": _kind(name).text,
            "copies": _kind(name).copies,
            "flagged": sum(issue.issue == name for issue in issues),
            "dropped": sum(issue.issue == name and issue.action == "drop" for issue in issues),
            "untrained": sum(
                issue.issue == name and issue.action.endswith("_training") for issue in issues
            ),
            "groups": [[rows[issue] for issue in group] for group in groups],
        }
        for name, groups in shown.galleries.items()
    ]
    return {
        "kinds": kinds,
        "issues": [
            [
                position[row.index],
                names.index(row.issue),
                row.action,
                row.score,
                row.reason,
                row.suggestion,
            ]
            for row in rows
        ],
        "overrides": [
            [row.index, row.action, row.suggestion] for row in issues if row.issue == "override"
        ],
    }


def _draw_sheets(images: np.ndarray, indices: list[int], side: int, quality: int) -> list[str]:
    """Return JPEG sheets, as base64, of the pictures at `indices`, shrunk to `side` pixels, row by row."""
    height, width = images.shape[1:3]
    scale = min(1.0, side / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    sheets = []
    for start in range(0, len(indices), COLUMNS**2):
        chosen = indices[start : start + COLUMNS**2]
        sheet = Image.new("RGB", (COLUMNS * size[0], -(-len(chosen) // COLUMNS) * size[1]))
        for number, index in enumerate(chosen):
            picture = Image.fromarray(images[index]).resize(size, Image.Resampling.BILINEAR)
            sheet.paste(picture, (number % COLUMNS * size[0], number // COLUMNS * size[1]))
        stream = io.BytesIO()
        sheet.save(stream, "JPEG", quality=quality)
        sheets.append(base64.b64encode(stream.getvalue()).decode())
    return sheets
