"""The cleaning stage: flags copies, spoiled pictures, non-cells and wrong labels in a table, and deletes nothing."""

import csv
import io
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np

from competition import files
from competition.config import Config
from competition.console import say, timed
from competition.data import Dataset
from competition.descriptors import describe
from competition.doubtful import find_doubtful
from competition.faults import find_faults, group_copies
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
# What issues.csv says of surely wrong labels, by `config.cleaning.wrong_labels`.
LABEL_ACTIONS = {"drop": "drop_from_training", "keep": "keep", "relabel": "relabel_in_training"}


@dataclass(frozen=True)
class Issue:
    """One fault of one picture; score is 0..1, group joins copies (see groups.npy).

    action: `drop`, `keep` or one of LABEL_ACTIONS. suggestion: the label that seems right (-1: none).
    """

    index: int
    label: int
    issue: str
    action: str
    score: float
    reason: str
    group: int
    suggestion: int = -1


def cleaning_inputs(dataset: Dataset, config: Config, weights: Path | None) -> str:
    """Return the hash of all that cleaning depends on, as it stands in the marker `cleaning.json`."""
    settings = [CLEANING_VERSION, config.seed, asdict(config.cleaning)]
    return files.digest(dataset.fingerprint, settings, weights)


def clean(dataset: Dataset, folder: Path, config: Config, weights: Path | None) -> np.ndarray:
    """Find faults and return the keep mask (n,) bool.

    weights: ImageNet weights of the backbone `config.cleaning.backbone`; None: pictures are embedded by their pixels.
    Writes into `folder` issues.csv (one row per picture and issue), keep.npy, groups.npy (n,) int64 (copies share the
    index of the first of them), doubtful.npy (n,) int64 (the label suggested where training does without the picture's
    own or takes the suggestion, else -1), tsne.npz (coordinates (n, 2) float32), map.png, removed.png (the
    dropped pictures) and, last, the marker cleaning.json.
    """
    marker = folder / "cleaning.json"
    marker.unlink(missing_ok=True)
    settings = config.cleaning
    with timed(f"embedding {len(dataset.images)} pictures"):
        features = embed(dataset.images, settings.backbone, weights, config.seed)
    with timed("laying out the t-SNE map"):
        coordinates = lay_out(features, settings.perplexity, settings.iterations, settings.maximum_on_map, config.seed)
    groups = group_copies(dataset.images)
    issues = find_issues(dataset, coordinates, groups, config)
    keep = np.ones(len(dataset.labels), bool)
    keep[[issue.index for issue in issues if issue.action == "drop"]] = False
    doubtful = np.full(len(keep), -1)
    for issue in issues:
        if issue.issue == "wrong_label" and issue.action != "keep":
            doubtful[issue.index] = issue.suggestion
    _write_arrays(folder, keep=keep, groups=groups, doubtful=doubtful)
    files.write_arrays(folder / "tsne.npz", coordinates=coordinates)
    files.write_text(folder / "issues.csv", _format_issues(issues))
    contact_sheet(folder / "removed.png", dataset.images[~keep][:MOST_ON_SHEET])
    draw_map(folder / "map.png", coordinates, dataset.labels, dataset.class_names, ~keep)
    counts = count_drops(issues)
    say(f"keeping {keep.sum()} of {len(keep)} pictures; flagged: {counts or 'nothing'}")
    files.mark_done(marker, cleaning_inputs(dataset, config, weights), kept=int(keep.sum()), total=len(keep), **counts)
    return keep


def find_issues(dataset: Dataset, coordinates: np.ndarray, groups: np.ndarray, config: Config) -> list[Issue]:
    """Return the issues of all pictures, which lie at `coordinates` (n, 2) of the map, ordered by index."""
    masks = find_faults(dataset.images, config.cleaning)
    sound = ~np.any(list(masks.values()), axis=0)
    issues = [
        Issue(int(index), int(dataset.labels[index]), name, "drop", 1.0, REASONS[name], int(groups[index]))
        for name, mask in masks.items()
        for index in np.flatnonzero(mask)
    ]
    issues += _find_non_cell_issues(dataset, coordinates, groups, np.flatnonzero(sound), config)
    issues += _find_copy_issues(dataset.labels, groups, sound)
    dropped = [issue.index for issue in issues if issue.action == "drop"]
    issues += _find_label_issues(dataset, groups, np.setdiff1d(np.arange(len(groups)), dropped), config)
    return sorted(issues, key=lambda issue: (issue.index, issue.issue))


def count_drops(issues: list[Issue]) -> dict[str, int]:
    """Return how many pictures each kind of issue drops or relabels, if only in training."""
    names = sorted({issue.issue for issue in issues})
    return {name: sum(issue.issue == name and issue.action != "keep" for issue in issues) for name in names}


def _find_non_cell_issues(
    dataset: Dataset, coordinates: np.ndarray, groups: np.ndarray, sound: np.ndarray, config: Config
) -> list[Issue]:
    kinds = find_non_cells(dataset.images[sound], dataset.labels[sound], coordinates[sound], config.cleaning)
    issues = []
    for kind in kinds:
        reason = (
            f"shows the same picture as {kind.members.sum() - 1} others, whose labels are those of the rest "
            f"(distance {kind.label_distance:.2f})"
        )
        for place in np.flatnonzero(kind.members):
            index, score = int(sound[place]), round(float(kind.scores[place]), 3)
            issues.append(
                Issue(index, int(dataset.labels[index]), "non_cell", "drop", score, reason, int(groups[index]))
            )
    return issues


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


def _find_label_issues(dataset: Dataset, groups: np.ndarray, kept: np.ndarray, config: Config) -> list[Issue]:
    """Flag the doubtful labels among the pictures `kept` (m,) and say what becomes of the surely wrong ones."""
    settings, labels = config.cleaning, dataset.labels[kept]
    issues = []
    for doubt in find_doubtful(describe(dataset.images)[kept], labels, groups[kept], settings, config.seed):
        index, name = int(kept[doubt.index]), dataset.class_names[doubt.suggestion]
        sure = "surely" if doubt.sure else "perhaps"
        reason = f"{sure} {name} ({doubt.confidence:.0%} by the other pictures' labels)"
        action = LABEL_ACTIONS[settings.wrong_labels] if doubt.sure else "keep"
        facts = int(labels[doubt.index]), "wrong_label", action, doubt.confidence, reason, int(groups[index])
        issues.append(Issue(index, *facts, doubt.suggestion))
    return issues


def _write_arrays(folder: Path, **arrays: np.ndarray) -> None:
    for name, array in arrays.items():
        with files.replacing(folder / f"{name}.npy") as temporary:
            np.save(temporary, array, allow_pickle=False)


def _format_issues(issues: list[Issue]) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow([field.name for field in fields(Issue)])
    writer.writerows([getattr(issue, field.name) for field in fields(Issue)] for issue in issues)
    return stream.getvalue()
