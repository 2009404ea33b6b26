"""The cleaning stage: flags copies, spoiled pictures, non-cells and wrong labels in a table, and deletes nothing."""

from dataclasses import asdict
from pathlib import Path

import numpy as np

from competition.cleaning.copies import Copy, find_copies, group_copies
from competition.cleaning.embedding import embed, lay_out, take_components
from competition.cleaning.faults import find_faults, find_oddities, measure_pictures
from competition.cleaning.issues import (
    Issue,
    apply_overrides,
    correct_labels,
    count_actions,
    list_doubtful,
    read_overrides,
    write_issues,
)
from competition.cleaning.non_cells import find_non_cells
from competition.cleaning.report import write_report
from competition.cleaning.wrong_labels import describe, find_doubtful
from competition.common import files
from competition.common.console import say, timed
from competition.common.figures import draw_contact_sheet, draw_map
from competition.config import Config
from competition.data.arrays import Dataset

# Enters the hash of the stage: raise it with every change of what is found.
CLEANING_VERSION = 6
MOST_ON_SHEET = 600  # pictures on the sheet of removed ones
REASONS = {
    "blank": "one colour all over",
    "broken": "one colour or one row fills it from the bottom, as a truncated file decodes",
    "noise": "neighbouring pixels have nothing to do with each other",
}
# What issues.csv says of surely wrong labels, by `config.cleaning.wrong_labels`; see Issue.
LABEL_ACTIONS = {"drop": "drop_from_training", "keep": "keep", "relabel": "relabel_in_training"}


def cleaning_inputs(dataset: Dataset, folder: Path, config: Config, weights: Path | None) -> str:
    """Return the hash of all that cleaning depends on, with overrides.csv, as it stands in the marker cleaning.json."""
    overrides = folder / "overrides.csv"
    words = overrides if overrides.is_file() else None
    return files.digest(_finding_inputs(dataset, config, weights), asdict(config.report), words)


def clean(
    dataset: Dataset, folder: Path, config: Config, weights: Path | None, force: bool = False
) -> np.ndarray:
    """Find faults, let overrides.csv of `folder` overrule them, and return the keep mask (n,) bool.

    weights: ImageNet weights of the backbone `config.cleaning.backbone`; None: pictures are embedded by their pixels.
    force: find anew what found.json holds of the same pictures and settings.
    Writes into `folder` found.json (the issues before overrides), tsne.npz (coordinates (n, 2) float32, groups),
    issues.csv (one row per picture and issue), keep.npy, groups.npy (n,) int64 (copies share the index of the first of
    them), labels.npy (n,) int64 (to use from here on), doubtful.npy (n,) int64 (what training uses instead of a surely
    wrong label, or does without, else -1), map.png, removed.png (the dropped pictures), report.html and,
    last, the marker cleaning.json. Raises UserError for a mistake in overrides.csv.
    """
    overrides = read_overrides(folder / "overrides.csv", dataset)
    inputs, marker = cleaning_inputs(dataset, folder, config, weights), folder / "cleaning.json"
    marker.unlink(missing_ok=True)
    found, coordinates, groups = _find(dataset, folder, config, weights, force)
    issues = apply_overrides(found, overrides, dataset, groups)
    keep = np.ones(len(dataset.labels), bool)
    keep[[issue.index for issue in issues if issue.action == "drop"]] = False
    labels, doubtful = correct_labels(dataset.labels, issues), list_doubtful(len(keep), issues)
    arrays = {"keep": keep, "groups": groups, "labels": labels, "doubtful": doubtful}
    for name, array in arrays.items():
        files.write_array(folder / f"{name}.npy", array)
    write_issues(folder / "issues.csv", issues)
    draw_contact_sheet(
        folder / "removed.png", dataset.images[np.flatnonzero(~keep)[:MOST_ON_SHEET]]
    )
    draw_map(folder / "map.png", coordinates, labels, dataset.class_names, ~keep)
    write_report(folder / "report.html", dataset, coordinates, issues, keep, config)
    counts = count_actions(issues)
    acted = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
    flagged = len({issue.index for issue in issues if issue.action == "keep"})
    say(
        f"keeping {keep.sum()} of {len(keep)} pictures; faults: {acted or 'none'}; to look at, but kept: {flagged}"
    )
    say(f"look at it: {folder / 'report.html'}")
    files.mark_done(marker, inputs, kept=int(keep.sum()), total=len(keep), **counts)
    return keep


def _finding_inputs(dataset: Dataset, config: Config, weights: Path | None) -> str:
    settings = [CLEANING_VERSION, config.seed, asdict(config.cleaning)]
    return files.digest(dataset.fingerprint, settings, weights)


def _find(
    dataset: Dataset, folder: Path, config: Config, weights: Path | None, force: bool
) -> tuple[list[Issue], np.ndarray, np.ndarray]:
    """Return issues, coordinates and groups, from found.json and tsne.npz where they were found before."""
    marker, arrays, settings = folder / "found.json", folder / "tsne.npz", config.cleaning
    inputs = _finding_inputs(dataset, config, weights)
    if not force and arrays.is_file() and files.up_to_date(marker, inputs):
        known = files.read_arrays(arrays)
        return (
            [Issue(**row) for row in files.read_json(marker)["issues"]],
            known["coordinates"],
            known["groups"],
        )
    marker.unlink(missing_ok=True)
    with timed(f"embedding {len(dataset.images)} pictures"):
        points = take_components(
            embed(dataset.images, settings.backbone, weights, config.seed), config.seed
        )
    with timed("laying out the t-SNE map"):
        coordinates = lay_out(
            points, settings.perplexity, settings.iterations, settings.maximum_on_map, config.seed
        )
    issues, groups = find_issues(dataset, points, coordinates, config)
    files.write_arrays(arrays, coordinates=coordinates, groups=groups)
    files.mark_done(marker, inputs, issues=[asdict(issue) for issue in issues])
    return issues, coordinates, groups


def find_issues(
    dataset: Dataset, points: np.ndarray, coordinates: np.ndarray, config: Config
) -> tuple[list[Issue], np.ndarray]:
    """Return the issues of all pictures, by index, and groups of copies (n,).

    points (n, d): the components of the embedding; coordinates (n, 2): of the map. Copies are looked for among cells
    only, so that the first of a group can be kept.
    """
    labels, settings = dataset.labels, config.cleaning

    def issue(index: int, name: str, action: str, score: float, reason: str) -> Issue:
        return Issue(index, int(labels[index]), name, action, round(score, 3), reason, index)

    measures = measure_pictures(dataset.images, settings)
    masks = find_faults(measures, settings)
    sound = ~np.any(list(masks.values()), axis=0)
    kinds = find_non_cells(
        dataset.images, labels, points, coordinates, np.flatnonzero(sound), settings
    )
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
    ]
    with timed(f"looking for copies among {cells.sum()} cells"):
        copies = find_copies(dataset.images, cells, settings)
    issues += _find_copy_issues(labels, copies)
    cells[[found.index for found in issues if found.action == "drop"]] = False
    groups = group_copies(copies, len(cells))
    with timed(f"comparing the labels of {cells.sum()} cells"):
        issues += _find_label_issues(dataset, points, groups, np.flatnonzero(cells), config)
    return sorted(issues, key=lambda issue: (issue.index, issue.issue)), groups


def _find_copy_issues(labels: np.ndarray, copies: list[Copy]) -> list[Issue]:
    """Flag every member of a group of copies; all are dropped if their labels differ, else all but the first."""
    families: dict[int, list[Copy]] = {}
    for copy in copies:
        families.setdefault(copy.original, []).append(copy)
    issues = []
    for original, family in families.items():
        count = len(family) + 1
        conflict = any(labels[copy.index] != labels[original] for copy in family)
        first = Copy(
            original,
            original,
            any(copy.exact for copy in family),
            1.0,
            f"the first of {count} copies",
        )
        for copy in (first, *family):
            name = "conflicting_copy" if conflict else "exact_copy" if copy.exact else "near_copy"
            action = "drop" if conflict or copy is not first else "keep"
            reason = copy.how + (f"; {count} copies have different labels" if conflict else "")
            issues.append(
                Issue(
                    copy.index, int(labels[copy.index]), name, action, copy.score, reason, original
                )
            )
    return issues


def _find_label_issues(
    dataset: Dataset, points: np.ndarray, groups: np.ndarray, kept: np.ndarray, config: Config
) -> list[Issue]:
    """Flag the doubtful labels among the pictures `kept` (m,) and say what becomes of the surely wrong ones."""
    settings, labels = config.cleaning, dataset.labels[kept]
    issues, views = [], [describe(dataset.images)[kept], points[kept]]
    for doubt in find_doubtful(views, labels, groups[kept], settings, config.seed):
        index, name = int(kept[doubt.index]), dataset.class_names[doubt.suggestion]
        sure = "surely" if doubt.sure else "perhaps"
        reason = f"{sure} {name} ({doubt.confidence:.0%} by the other pictures' labels)"
        action = LABEL_ACTIONS[settings.wrong_labels] if doubt.sure else "keep"
        facts = (
            int(labels[doubt.index]),
            "wrong_label",
            action,
            doubt.confidence,
            reason,
            int(groups[index]),
        )
        issues.append(Issue(index, *facts, doubt.suggestion))
    return issues
