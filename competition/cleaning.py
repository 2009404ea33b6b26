"""The cleaning stage: finds copies, spoiled pictures and non-cells, flags them in a table, and deletes nothing."""

import csv
import io
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np

from competition import files
from competition.config import Config
from competition.console import say, timed
from competition.data import Dataset
from competition.faults import find_faults, group_copies, measure_pictures
from competition.features import embed, lay_out, take_components
from competition.figures import contact_sheet, draw_map
from competition.noncells import find_non_cells
from competition.oddities import find_oddities

# Enters the hash of the stage: raise it with every change of what is found.
CLEANING_VERSION = 2
MOST_ON_SHEET = 600  # pictures on the sheet of removed ones
REASONS = {
    "blank": "one colour all over",
    "broken": "one colour or one row fills it from the bottom, as a truncated file decodes",
    "noise": "neighbouring pixels have nothing to do with each other",
}


@dataclass(frozen=True)
class Issue:
    """One fault of one picture; action is `drop` or `keep`, score is 0..1, group joins copies (see groups.npy)."""

    index: int
    label: int
    issue: str
    action: str
    score: float
    reason: str
    group: int


def cleaning_inputs(dataset: Dataset, config: Config, weights: Path | None) -> str:
    """Return the hash of all that cleaning depends on, as it stands in the marker `cleaning.json`."""
    settings = [CLEANING_VERSION, config.seed, asdict(config.cleaning)]
    return files.digest(dataset.fingerprint, settings, weights)


def clean(dataset: Dataset, folder: Path, config: Config, weights: Path | None) -> np.ndarray:
    """Find faults and return the keep mask (n,) bool.

    weights: ImageNet weights of the backbone `config.cleaning.backbone`; None: pictures are embedded by their pixels.
    Writes into `folder` issues.csv (one row per picture and issue), keep.npy, groups.npy (n,) int64 (copies share the
    index of the first of them), tsne.npz (coordinates (n, 2) float32), map.png, removed.png (the
    dropped pictures) and, last, the marker cleaning.json.
    """
    marker = folder / "cleaning.json"
    marker.unlink(missing_ok=True)
    settings = config.cleaning
    with timed(f"embedding {len(dataset.images)} pictures"):
        features = embed(dataset.images, settings.backbone, weights, config.seed)
        points = take_components(features, config.seed)
    with timed("laying out the t-SNE map"):
        coordinates = lay_out(points, settings.perplexity, settings.iterations, settings.maximum_on_map, config.seed)
    groups = group_copies(dataset.images)
    issues = find_issues(dataset, points, coordinates, groups, config)
    keep = np.ones(len(dataset.labels), bool)
    keep[[issue.index for issue in issues if issue.action == "drop"]] = False
    _write_arrays(folder, keep, groups, coordinates)
    files.write_text(folder / "issues.csv", _format_issues(issues))
    contact_sheet(folder / "removed.png", dataset.images[np.flatnonzero(~keep)[:MOST_ON_SHEET]])
    draw_map(folder / "map.png", coordinates, dataset.labels, dataset.class_names, ~keep)
    counts = count_drops(issues)
    say(f"keeping {keep.sum()} of {len(keep)} pictures; flagged: {counts or 'nothing'}")
    files.mark_done(marker, cleaning_inputs(dataset, config, weights), kept=int(keep.sum()), total=len(keep), **counts)
    return keep


def find_issues(
    dataset: Dataset, points: np.ndarray, coordinates: np.ndarray, groups: np.ndarray, config: Config
) -> list[Issue]:
    """Return the issues of all pictures, ordered by index.

    points (n, d): the components of the embedding; coordinates (n, 2): of the map; groups (n,): of copies.
    """
    labels, settings = dataset.labels, config.cleaning

    def issue(index: int, name: str, action: str, score: float, reason: str) -> Issue:
        return Issue(index, int(labels[index]), name, action, round(score, 3), reason, int(groups[index]))

    measures = measure_pictures(dataset.images, settings)
    masks = find_faults(measures, settings)
    sound = ~np.any(list(masks.values()), axis=0)
    kinds = find_non_cells(dataset.images, labels, points, coordinates, np.flatnonzero(sound), settings)
    cells = sound.copy()
    for kind in kinds:
        cells[kind.members] = False
    oddities = find_oddities(measures, points, np.flatnonzero(cells), settings, config.seed)
    issues = [
        *(
            issue(index, name, "drop", 1, REASONS[name])
            for name, mask in masks.items()
            for index in np.flatnonzero(mask).tolist()
        ),
        *(
            issue(index, "non_cell", "drop", score, kind.reason)
            for kind in kinds
            for index, score in zip(kind.members.tolist(), kind.scores.tolist(), strict=True)
        ),
        *(issue(odd.index, odd.issue, "keep", odd.score, odd.reason) for odd in oddities),
        *_find_copy_issues(labels, groups, sound),
    ]
    return sorted(issues, key=lambda issue: (issue.index, issue.issue))


def count_drops(issues: list[Issue]) -> dict[str, int]:
    """Return how many pictures each kind of issue drops."""
    names = sorted({issue.issue for issue in issues})
    return {name: sum(issue.issue == name and issue.action == "drop" for issue in issues) for name in names}


def _find_copy_issues(labels: np.ndarray, groups: np.ndarray, sound: np.ndarray) -> list[Issue]:
    """Flag every member of a group of sound copies; all are dropped if their labels differ, else all but the first."""
    issues = []
    for group in np.flatnonzero(np.bincount(groups) > 1):
        members = np.flatnonzero((groups == group) & sound)
        conflict = len(np.unique(labels[members])) > 1
        name = "conflicting_copy" if conflict else "exact_copy"
        reason = f"one of {len(members)} equal pictures" + (" with different labels" if conflict else "")
        for index in members.tolist():
            action = "drop" if conflict or index != group else "keep"
            issues.append(Issue(index, int(labels[index]), name, action, 1.0, reason, int(group)))
    return issues


def _write_arrays(folder: Path, keep: np.ndarray, groups: np.ndarray, coordinates: np.ndarray) -> None:
    for name, array in (("keep", keep), ("groups", groups)):
        with files.replacing(folder / f"{name}.npy") as temporary:
            np.save(temporary, array, allow_pickle=False)
    files.write_arrays(folder / "tsne.npz", coordinates=coordinates)


def _format_issues(issues: list[Issue]) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow([field.name for field in fields(Issue)])
    writer.writerows([getattr(issue, field.name) for field in fields(Issue)] for issue in issues)
    return stream.getvalue()
