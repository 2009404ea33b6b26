"""The cleaning stage: finds copies, spoiled pictures and non-cells, flags them in a table, and deletes nothing."""

import csv
import io
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np

from competition import files
from competition.config import Config
from competition.console import say, timed
from competition.copies import Copy, find_copies, group_copies
from competition.data import Dataset
from competition.faults import find_faults
from competition.features import embed, lay_out
from competition.figures import contact_sheet, draw_map
from competition.noncells import find_non_cells

# Enters the hash of the stage: raise it with every change of what is found.
CLEANING_VERSION = 2
MOST_ON_SHEET = 600  # pictures on the sheet of removed ones
REASONS = {
    "blank": "one colour all over",
    "broken": "one colour fills it from the bottom, as a truncated file decodes",
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
    with timed("laying out the t-SNE map"):
        coordinates = lay_out(features, settings.perplexity, settings.iterations, settings.maximum_on_map, config.seed)
    issues, groups = find_issues(dataset, coordinates, config)
    keep = np.ones(len(dataset.labels), bool)
    keep[[issue.index for issue in issues if issue.action == "drop"]] = False
    _write_arrays(folder, keep, groups, coordinates)
    files.write_text(folder / "issues.csv", _format_issues(issues))
    contact_sheet(folder / "removed.png", dataset.images[~keep][:MOST_ON_SHEET])
    draw_map(folder / "map.png", coordinates, dataset.labels, dataset.class_names, ~keep)
    counts = count_drops(issues)
    say(f"keeping {keep.sum()} of {len(keep)} pictures; flagged: {counts or 'nothing'}")
    files.mark_done(marker, cleaning_inputs(dataset, config, weights), kept=int(keep.sum()), total=len(keep), **counts)
    return keep


def find_issues(dataset: Dataset, coordinates: np.ndarray, config: Config) -> tuple[list[Issue], np.ndarray]:
    """Return the issues of all pictures, which lie at `coordinates` (n, 2) of the map, by index, and groups (n,).

    Copies are looked for among cells only, so that the first of a group can be kept.
    """
    masks = find_faults(dataset.images, config.cleaning)
    sound = ~np.any(list(masks.values()), axis=0)
    issues = [
        Issue(int(index), int(dataset.labels[index]), name, "drop", 1.0, REASONS[name], int(index))
        for name, mask in masks.items()
        for index in np.flatnonzero(mask)
    ]
    issues += _find_non_cell_issues(dataset, coordinates, np.flatnonzero(sound), config)
    sound[[issue.index for issue in issues]] = False
    with timed(f"looking for copies among {sound.sum()} cells"):
        copies = find_copies(dataset.images, sound, config.cleaning)
    issues += _find_copy_issues(dataset.labels, copies)
    return sorted(issues, key=lambda issue: (issue.index, issue.issue)), group_copies(copies, len(sound))


def count_drops(issues: list[Issue]) -> dict[str, int]:
    """Return how many pictures each kind of issue drops."""
    names = sorted({issue.issue for issue in issues})
    return {name: sum(issue.issue == name and issue.action == "drop" for issue in issues) for name in names}


def _find_non_cell_issues(dataset: Dataset, coordinates: np.ndarray, sound: np.ndarray, config: Config) -> list[Issue]:
    kinds = find_non_cells(dataset.images[sound], dataset.labels[sound], coordinates[sound], config.cleaning)
    issues = []
    for kind in kinds:
        reason = (
            f"shows the same picture as {kind.members.sum() - 1} others, whose labels are those of the rest "
            f"(distance {kind.label_distance:.2f})"
        )
        for place in np.flatnonzero(kind.members):
            index, score = int(sound[place]), round(float(kind.scores[place]), 3)
            issues.append(Issue(index, int(dataset.labels[index]), "non_cell", "drop", score, reason, index))
    return issues


def _find_copy_issues(labels: np.ndarray, copies: list[Copy]) -> list[Issue]:
    """Flag every member of a group of copies; all are dropped if their labels differ, else all but the first."""
    families: dict[int, list[Copy]] = {}
    for copy in copies:
        families.setdefault(copy.original, []).append(copy)
    issues = []
    for original, family in families.items():
        count = len(family) + 1
        conflict = any(labels[copy.index] != labels[original] for copy in family)
        first = Copy(original, original, any(copy.exact for copy in family), 1.0, f"the first of {count} copies")
        for copy in (first, *family):
            name = "conflicting_copy" if conflict else "exact_copy" if copy.exact else "near_copy"
            action = "drop" if conflict or copy is not first else "keep"
            reason = copy.how + (f"; {count} copies have different labels" if conflict else "")
            issues.append(Issue(copy.index, int(labels[copy.index]), name, action, copy.score, reason, original))
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
