"""The cleaning stage: flags faults, copies, non-cells and wrong labels, and deletes nothing."""

from dataclasses import asdict
from pathlib import Path

import numpy as np

from competition.cleaning.copies import Copy, find_copies, group_copies
from competition.cleaning.embedding import describe_features, embed, lay_out, take_components
from competition.cleaning.faults import find_faults, find_odd_images, measure_images
from competition.cleaning.issues import (
    WRONG_LABEL_ACTIONS,
    Issue,
    apply_issues,
    apply_overrides,
    count_actions,
    find_kept,
    make_issue,
    read_overrides,
    write_files,
    write_issues,
)
from competition.cleaning.non_cells import find_non_cells
from competition.cleaning.report import write_report
from competition.cleaning.wrong_labels import describe, find_wrong_labels
from competition.common.console import say, timed
from competition.common.figures import draw_contact_sheet, draw_map
from competition.common.files import (
    digest,
    if_intact,
    mark_done,
    read_arrays,
    read_json,
    reading,
    up_to_date,
    write_arrays,
)
from competition.config import Config
from competition.data.arrays import CleanedData, Dataset
from competition.paths import (
    CLEANED,
    CLEANING_MARKER,
    FILES,
    FINDINGS,
    ISSUES,
    OVERRIDES,
    REPORT,
    TSNE,
)

# Enters the hash of the stage: raise it with every change of the findings.
CLEANING_VERSION = 10
CLEANED_ARRAYS = ("keep", "groups", "labels", "training_labels")  # (n,) each
MOST_ON_SHEET = 600  # images on the sheet of dropped ones


def clean(
    dataset: Dataset, folder: Path, config: Config, weights: Path | None, force: bool = False
) -> CleanedData:
    """Find faults and let overrides.csv of `folder` overrule them, unless that is done already.

    weights: ImageNet weights of the backbone `config.cleaning.backbone`; None embeds by pixels.
    force: find everything anew.
    Raises UserError for a mistake in overrides.csv. Writes into `folder`:
    - issues.csv, one row per issue; files.csv, the file of each image, where the data are files;
    - report.html, map.png, and removed.png with the dropped images;
    - cleaned.npz: keep, groups, labels and training_labels, see CleanedData;
    - found.json, the issues before overrides; tsne.npz, the map's coordinates (n, 2) and groups;
    - last, the marker cleaning.json.
    """
    marker = folder / CLEANING_MARKER
    arrays = folder / CLEANED
    report = folder / REPORT
    inputs = cleaning_inputs(dataset, folder, config, weights)
    write_files(folder / FILES, dataset)
    if up_to_date(marker, inputs, force or not arrays.is_file()):
        known = if_intact(read_arrays, arrays, dict.fromkeys(CLEANED_ARRAYS, dataset.labels.shape))
        if known is not None:
            say(f"done already ({report} shows it); --clean --force redoes it.")
            dataset = dataset.with_labels(known.pop("labels"))
            return CleanedData(dataset, **known)
    overrides = read_overrides(folder / OVERRIDES, dataset)
    marker.unlink(missing_ok=True)
    found, coordinates, groups = _find(dataset, folder, config, weights, force)
    issues = apply_overrides(found, overrides)
    cleaned = apply_issues(dataset, groups, issues)
    labels = cleaned.dataset.labels
    keep = cleaned.keep
    write_arrays(
        arrays,
        keep=keep,
        groups=groups,
        labels=labels,
        training_labels=cleaned.training_labels,
    )
    write_issues(folder / ISSUES, issues, dataset, groups)
    dropped = np.flatnonzero(~keep)[:MOST_ON_SHEET]
    draw_contact_sheet(folder / "removed.png", dataset.images[dropped])
    draw_map(folder / "map.png", coordinates, labels, dataset.class_names, ~keep)
    write_report(report, dataset, cleaned, coordinates, issues, config)
    counts = count_actions(issues)
    acted = ", ".join(f"{count} {kind}" for kind, count in counts.items() if count)
    flagged = len({issue.index for issue in issues if issue.action == "keep" and keep[issue.index]})
    say(
        f"keeping {keep.sum()} of {len(keep)} images; faults: {acted or 'none'}; "
        f"to look at, but kept: {flagged}"
    )
    say(f"look at it: {report}")
    mark_done(marker, inputs, kept=int(keep.sum()), total=len(keep), **counts)
    return cleaned


def cleaning_inputs(dataset: Dataset, folder: Path, config: Config, weights: Path | None) -> str:
    """Return the hash of all that cleaning depends on, overrides.csv in `folder` included."""
    overrides = folder / OVERRIDES
    words = overrides if overrides.is_file() else None
    return digest(_finding_inputs(dataset, config, weights), asdict(config.report), words)


def _finding_inputs(dataset: Dataset, config: Config, weights: Path | None) -> str:
    settings = [CLEANING_VERSION, config.seed, asdict(config.cleaning), sorted(dataset.unreadable)]
    return digest(dataset.fingerprint, settings, weights)


def _find(
    dataset: Dataset, folder: Path, config: Config, weights: Path | None, force: bool
) -> tuple[list[Issue], np.ndarray, np.ndarray]:
    """Return issues, coordinates and groups, from found.json and tsne.npz if these are current."""
    marker = folder / FINDINGS
    arrays = folder / TSNE
    inputs = _finding_inputs(dataset, config, weights)
    if up_to_date(marker, inputs, force or not arrays.is_file()):
        found = if_intact(_read_findings, marker, arrays, len(dataset.labels))
        if found is not None:
            return found
    marker.unlink(missing_ok=True)
    settings = config.cleaning
    features = describe_features(settings.backbone, weights)
    with timed(f"embedding {len(dataset.images)} images by {features}"):
        embedded, textures = embed(dataset.images, settings.backbone, weights, config.seed)
        points = take_components(embedded, config.seed)
        del embedded  # it is large
    with timed("laying out the t-SNE map"):
        coordinates = lay_out(
            points, settings.perplexity, settings.iterations, settings.maximum_on_map, config.seed
        )
    issues, groups = find_issues(dataset, points, textures, coordinates, config)
    write_arrays(arrays, coordinates=coordinates, groups=groups)
    mark_done(marker, inputs, issues=[asdict(issue) for issue in issues])
    return issues, coordinates, groups


def _read_findings(
    marker: Path, arrays: Path, count: int
) -> tuple[list[Issue], np.ndarray, np.ndarray]:
    rows = read_json(marker, {"issues": [{"index": int}]})["issues"]
    with reading(marker):
        issues = [Issue(**row) for row in rows]
    known = read_arrays(arrays, {"coordinates": (count, 2), "groups": (count,)})
    return issues, known["coordinates"], known["groups"]


def find_issues(
    dataset: Dataset,
    points: np.ndarray,
    textures: np.ndarray | None,
    coordinates: np.ndarray,
    config: Config,
) -> tuple[list[Issue], np.ndarray]:
    """Return the issues of all images, by index, and groups of copies (n,).

    points: (n, d), the components of the embedding. textures: see `embed`. coordinates: (n, 2), of
    the map.
    Each step looks at the images that the steps before it left. Copies are looked for among cells
    only, so that the first of a group can be kept.
    """
    images = dataset.images
    labels = dataset.labels
    settings = config.cleaning
    measures = measure_images(images, settings)
    issues = [
        make_issue(index, "unreadable", reason=reason)
        for index, reason in dataset.unreadable.items()
    ]
    faults = find_faults(measures, labels, settings)
    issues += [issue for issue in faults if issue.index not in dataset.unreadable]
    for label in np.unique([labels[issue.index] for issue in issues if issue.action == "keep"]):
        say(f"Class '{dataset.class_names[label]}' looks faulty as a whole: it is KEPT.")
    sound = np.flatnonzero(find_kept(len(labels), issues))
    issues += find_non_cells(images, labels, points, coordinates, sound, settings)
    cells = find_kept(len(labels), issues)
    issues += find_odd_images(measures, points, np.flatnonzero(cells), settings, config.seed)
    with timed(f"looking for copies among {cells.sum()} cells"):
        copies = find_copies(images, cells, settings)
    issues += _flag_copies(labels, copies)
    groups = group_copies(copies, len(labels))
    kept = np.flatnonzero(find_kept(len(labels), issues))
    with timed(f"comparing the labels of {len(kept)} cells"):
        views = [describe(images), points]
        if textures is not None:
            views.append(textures)
        issues += _flag_wrong_labels(dataset, [view[kept] for view in views], kept, config)
    return sorted(issues, key=lambda issue: (issue.index, issue.kind)), groups


def _flag_copies(labels: np.ndarray, copies: list[Copy]) -> list[Issue]:
    """Flag each group of copies; all are dropped if their labels differ, else all but the first."""
    groups: dict[int, list[Copy]] = {}
    for copy in copies:
        groups.setdefault(copy.original, []).append(copy)
    issues = []
    for original, others in groups.items():
        count = len(others) + 1
        exact = any(copy.exact for copy in others)
        first = Copy(original, original, exact, 1.0, f"the first of {count} copies")
        if any(labels[copy.index] != labels[original] for copy in others):
            for copy in (first, *others):
                reason = f"{copy.how}; {count} copies have different labels"
                issues.append(make_issue(copy.index, "conflicting_copy", copy.score, reason))
        else:
            for copy in (first, *others):
                kind = "exact_copy" if copy.exact else "near_copy"
                action = "keep" if copy is first else ""
                issues.append(make_issue(copy.index, kind, copy.score, copy.how, action=action))
    return issues


def _flag_wrong_labels(
    dataset: Dataset, views: list[np.ndarray], kept: np.ndarray, config: Config
) -> list[Issue]:
    """Flag labels that look wrong among the images `kept` (m,), one of each group of copies.

    views: (m, d) each.
    """
    labels = dataset.labels[kept]
    issues = []
    for found in find_wrong_labels(views, labels, config.cleaning, config.seed):
        certainty = "surely" if found.sure else "perhaps"
        name = dataset.class_names[found.suggestion]
        issues.append(
            make_issue(
                int(kept[found.index]),
                "wrong_label",
                found.confidence,
                f"{certainty} {name} ({found.confidence:.0%} by the other images' labels)",
                found.suggestion,
                WRONG_LABEL_ACTIONS[config.cleaning.wrong_labels] if found.sure else "keep",
            )
        )
    return issues
