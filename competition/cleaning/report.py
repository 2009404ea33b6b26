"""The cleaning report: one HTML file with a map, galleries of issues and the class balance."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from competition.cleaning.issues import ACTIONS, KINDS, Issue
from competition.common.figures import draw_sheets
from competition.common.page import write_page
from competition.config import Config, ReportConfig
from competition.data.arrays import CleanedData, Dataset

# Images per row and column of a sheet: browsers decode no larger image at once.
COLUMNS = 24
EXTENT = 10_000  # coordinates are whole numbers from 0 to here


@dataclass(frozen=True)
class _Shown:
    """The images that the report has room for.

    galleries: groups of issues by kind. examples: indices of images by class.
    large: indices of the images in galleries and examples; small: of those on the map alone.
    """

    galleries: dict[str, list[list[Issue]]]
    examples: list[list[int]]
    large: list[int]
    small: list[int]


def write_report(
    path: Path,
    dataset: Dataset,
    cleaned: CleanedData,
    coordinates: np.ndarray,
    issues: list[Issue],
    config: Config,
) -> None:
    """Write the report as one file that needs no network.

    dataset: with the labels of the training file. coordinates: (n, 2), the map. `config.report`
    bounds the images shown, and the report says so.
    """
    settings = config.report
    num_classes = len(dataset.class_names)
    labels = cleaned.dataset.labels
    shown = _choose(issues, cleaned, config)
    content = {
        "name": path.parent.name,
        "classes": dataset.class_names,
        "actions": ACTIONS,
        "before": np.bincount(dataset.labels, minlength=num_classes).tolist(),
        "after": np.bincount(labels[cleaned.keep], minlength=num_classes).tolist(),
        "columns": COLUMNS,
        "image_size": dataset.images.shape[2:0:-1],
        "parts": [len(shown.large), len(shown.small)],
        **_describe_images(shown, dataset, cleaned, coordinates),
        **_describe_issues(shown, issues),
    }
    sheets = [
        *draw_sheets(dataset.images, shown.large, COLUMNS, settings.gallery_side, settings.quality),
        *draw_sheets(dataset.images, shown.small, COLUMNS, settings.side, settings.quality),
    ]
    name = path.parent.name
    template = Path(__file__).with_name("report.html")
    write_page(path, template, name, f"{name}: cleaning report", content, sheets)


def _choose(issues: list[Issue], cleaned: CleanedData, config: Config) -> _Shown:
    generator = np.random.default_rng(config.seed)
    galleries = {}
    for kind in KINDS:
        if found := [issue for issue in issues if issue.kind == kind]:
            galleries[kind] = _choose_groups(found, cleaned.groups, config.report)
    examples = []
    for label in range(len(cleaned.dataset.class_names)):
        members = np.flatnonzero(cleaned.keep & (cleaned.dataset.labels == label))
        examples.append(generator.permutation(members)[: config.report.examples].tolist())
    flagged = [issue.index for groups in galleries.values() for group in groups for issue in group]
    large = list(dict.fromkeys(flagged + [index for members in examples for index in members]))
    others = generator.permutation(np.setdiff1d(np.arange(len(cleaned.keep)), large))
    small = np.sort(others[: max(0, config.report.images - len(large))]).tolist()
    return _Shown(galleries, examples, large, small)


def _choose_groups(
    issues: list[Issue], groups: np.ndarray, config: ReportConfig
) -> list[list[Issue]]:
    """Return up to `config.gallery` issues of one kind, the closest calls first.

    Copies stand group by group, others in one group.
    """

    def rank(issue: Issue) -> tuple[str, float, int]:
        return issue.action, issue.score if issue.action == "drop" else -issue.score, issue.index

    ranked = sorted(issues, key=rank)
    if not KINDS[issues[0].kind].copies:
        return [ranked[: config.gallery]]
    by_group: dict[int, list[Issue]] = {}
    for issue in ranked:
        by_group.setdefault(groups[issue.index], []).append(issue)
    chosen: list[list[Issue]] = []
    room = config.gallery
    for group in by_group.values():
        if room > 0:
            chosen.append(sorted(group, key=lambda issue: issue.index)[:room])
            room -= len(chosen[-1])
    return chosen


def _describe_images(
    shown: _Shown, dataset: Dataset, cleaned: CleanedData, coordinates: np.ndarray
) -> dict[str, list[Any]]:
    """Return facts of each image shown, and examples by their position among these.

    label: in the training file. used: the label from here on. x, y: the place on the map.
    """
    indices = np.array(shown.large + shown.small, np.int64)
    low = coordinates.min(axis=0)
    extent = max(float(np.ptp(coordinates, axis=0).max()), 1e-9)
    places = np.rint((coordinates[indices] - low) / extent * EXTENT).astype(int)
    position = {index: number for number, index in enumerate(shown.large)}
    return {
        "index": indices.tolist(),
        "file": [dataset.files[index] for index in indices] if dataset.files else [],
        "label": dataset.labels[indices].tolist(),
        "used": cleaned.dataset.labels[indices].tolist(),
        "kept": cleaned.keep[indices].astype(int).tolist(),
        "x": places[:, 0].tolist(),
        "y": places[:, 1].tolist(),
        "examples": [[position[index] for index in members] for members in shown.examples],
    }


def _describe_issues(shown: _Shown, issues: list[Issue]) -> dict[str, list[Any]]:
    """Return the issues of the images shown, and each kind's words, counts and gallery.

    A gallery holds places in the list of issues.
    """
    position = {index: number for number, index in enumerate(shown.large + shown.small)}
    on_page = [issue for issue in issues if issue.index in position]
    place = {issue: number for number, issue in enumerate(on_page)}
    names = list(shown.galleries)
    kinds = []
    for name, groups in shown.galleries.items():
        actions = [issue.action for issue in issues if issue.kind == name]
        kinds.append(
            {
                "name": name,
                "title": KINDS[name].title,
                "text": KINDS[name].text,
                "copies": KINDS[name].copies,
                "flagged": len(actions),
                "dropped": actions.count("drop"),
                "untrained": sum(action.endswith("_training") for action in actions),
                "groups": [[place[issue] for issue in group] for group in groups],
            }
        )
    rows = [
        [
            position[issue.index],
            names.index(issue.kind),
            issue.action,
            issue.score,
            issue.reason,
            issue.suggestion,
        ]
        for issue in on_page
    ]
    overrides = [
        [issue.index, issue.action, issue.suggestion]
        for issue in issues
        if issue.kind == "override"
    ]
    return {"kinds": kinds, "issues": rows, "overrides": overrides}
