"""Issues: their kinds, their actions, and the user's last word in overrides.csv."""

import csv
import dataclasses
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from competition.common.errors import UserError
from competition.common.files import write_text
from competition.data.arrays import CleanedData, Dataset

# The actions in issues.csv, and their words in the report.
ACTIONS = {
    "keep": "kept",
    "drop": "dropped",
    "relabel": "relabelled",
    "drop_from_training": "not trained on",
    "relabel_in_training": "trained as suggested",
}
OVERRIDE_ACTIONS = ("keep", "drop", "relabel")
# The label policy: `cleaning.wrong_labels` -> the action for a surely wrong label.
WRONG_LABEL_ACTIONS = {
    "keep": "keep",
    "drop": "drop_from_training",
    "relabel": "relabel_in_training",
}


@dataclass(frozen=True)
class IssueKind:
    """One kind of issue.

    title, text: how the report presents it; the text is the reason of issues that give none.
    action: a name in ACTIONS, the action of issues that give none.
    copies: its images stand in groups of copies.
    """

    title: str
    text: str
    action: str = "keep"
    copies: bool = False


# In the order of the report.
KINDS = {
    "override": IssueKind("Overrides", "What overrides.csv says wins over everything below."),
    "wrong_label": IssueKind(
        "Wrong labels", "The rest of the data speaks for another label than the one given."
    ),
    "conflicting_copy": IssueKind(
        "Copies with different labels", "Copies of which at least one label is wrong.", "drop", True
    ),
    "near_copy": IssueKind(
        "Near copies", "The same image but for a shift, a turn, brightness or noise.", "drop", True
    ),
    "exact_copy": IssueKind(
        "Exact copies", "Equal pixel by pixel; one of each group stays.", "drop", True
    ),
    "non_cell": IssueKind(
        "Non-cells", "Not a cell but something that many images of all labels share.", "drop"
    ),
    "unreadable": IssueKind(
        "Unreadable", "The file cannot be read; a black image stands for it.", "drop"
    ),
    "blank": IssueKind("Blank", "One colour all over.", "drop"),
    "broken": IssueKind(
        "Broken", "One colour or one row fills it from the bottom, as in a truncated file.", "drop"
    ),
    "noise": IssueKind("Noise", "Neighbouring pixels have nothing to do with each other.", "drop"),
    "low_information": IssueKind("Low information", "Blurred, or of hardly any contrast."),
    "odd_brightness": IssueKind("Odd brightness", "Far darker or brighter than usual."),
    "odd_image": IssueKind("Odd images", "Unlike all other images."),
}


@dataclass(frozen=True)
class Issue:
    """One fault of one image, or the user's word about it.

    kind: a name in KINDS. action: a name in ACTIONS. score: 0..1, how sure or how severe.
    reason: for people. suggestion: the label that fits better, -1 where there is none.
    """

    index: int
    kind: str
    action: str
    score: float
    reason: str
    suggestion: int = -1


def make_issue(
    index: int,
    kind: str,
    score: float = 1.0,
    reason: str = "",
    suggestion: int = -1,
    action: str = "",
) -> Issue:
    """Return an issue with the action and the reason of its kind, unless others are given."""
    return Issue(
        index,
        kind,
        action=action or KINDS[kind].action,
        score=round(score, 3),
        reason=reason or KINDS[kind].text,
        suggestion=suggestion,
    )


def find_kept(count: int, issues: list[Issue]) -> np.ndarray:
    """Return the mask (count,) bool of the images that no issue drops."""
    keep = np.ones(count, bool)
    keep[[issue.index for issue in issues if issue.action == "drop"]] = False
    return keep


def apply_issues(dataset: Dataset, groups: np.ndarray, issues: list[Issue]) -> CleanedData:
    """Return the dataset as the actions of its issues leave it; groups: (n,) int64, of copies."""
    labels = dataset.labels.copy()
    training_labels = dataset.labels.copy()
    for issue in issues:
        if issue.action == "relabel":
            labels[issue.index] = issue.suggestion
        if issue.action in ("relabel", "relabel_in_training"):
            training_labels[issue.index] = issue.suggestion
        elif issue.action == "drop_from_training":
            training_labels[issue.index] = -1
    keep = find_kept(len(labels), issues)
    return CleanedData(dataset.with_labels(labels), keep, groups, training_labels)


def count_actions(issues: list[Issue]) -> dict[str, int]:
    """Return how many images each kind of issue drops or relabels, if only in training."""
    found = [issue.kind for issue in issues]
    acted = [issue.kind for issue in issues if issue.action != "keep"]
    return {kind: acted.count(kind) for kind in KINDS if kind in found}


def write_issues(path: Path, issues: list[Issue], dataset: Dataset, groups: np.ndarray) -> None:
    """Write issues.csv, one row per issue, with the image's file where it came from one.

    dataset: with the labels of the training file. groups: (n,), equal for copies of one image.
    """
    columns = ["index", "label", "kind", "action", "score", "reason", "group", "suggestion"]
    columns += ["file"] if dataset.files else []
    stream = io.StringIO()
    writer = csv.DictWriter(stream, columns, lineterminator="\n")
    writer.writeheader()
    for issue in issues:
        facts = {"label": dataset.labels[issue.index], "group": groups[issue.index]}
        facts |= {"file": dataset.files[issue.index]} if dataset.files else {}
        writer.writerow(dataclasses.asdict(issue) | facts)
    write_text(path, stream.getvalue())


def write_files(path: Path, dataset: Dataset) -> None:
    """Write files.csv, the index and file of each image; remove it where these are in an .npz."""
    path.unlink(missing_ok=True)
    if dataset.files:
        stream = io.StringIO()
        rows = [("index", "file"), *enumerate(dataset.files)]
        csv.writer(stream, lineterminator="\n").writerows(rows)
        write_text(path, stream.getvalue())


# -- overrides


def read_overrides(path: Path, dataset: Dataset) -> list[Issue]:
    """Return the rows of overrides.csv as issues; none where there is no such file.

    Columns: index, action (keep, drop, relabel) and label (a class name or number, read for relabel
    alone). Others are ignored, so that rows of issues.csv may be pasted. Raises UserError, with the
    line, for a row that does not fit.
    """
    if not path.is_file():
        return []
    overrides: dict[int, Issue] = {}
    for line, row in _read_rows(path):
        place = f"{path}, line {line},"
        cells = {name: (text or "").strip() for name, text in row.items() if name}
        override = _parse(cells, dataset, place)
        if overrides.setdefault(override.index, override) != override:
            raise UserError(
                f"{place} names image {override.index} again with another action; "
                "keep one of the two."
            )
    return list(overrides.values())


def apply_overrides(issues: list[Issue], overrides: list[Issue]) -> list[Issue]:
    """Return both, by index; other issues of an image that is kept or relabelled only flag it."""
    spared = {override.index for override in overrides if override.action != "drop"}
    found = [
        dataclasses.replace(issue, action="keep") if issue.index in spared else issue
        for issue in issues
    ]
    return sorted(found + overrides, key=lambda issue: (issue.index, issue.kind))


def _read_rows(path: Path) -> list[tuple[int, dict[str, str]]]:
    try:
        reader = csv.DictReader(io.StringIO(path.read_text(encoding="utf-8-sig")))
        reader.fieldnames = [name.strip() for name in reader.fieldnames or ()]
        rows = [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(
            f"{path} cannot be read as text ({error}); save it as CSV in UTF-8."
        ) from error
    if missing := {"index", "action"} - set(reader.fieldnames):
        raise UserError(
            f"{path}, line 1, lacks the column '{max(missing)}'; "
            "expected index,action,label, separated by commas."
        )
    return rows


def _parse(row: dict[str, str], dataset: Dataset, place: str) -> Issue:
    text = row["index"]
    action = row["action"]
    last = len(dataset.labels) - 1
    if not (text.isdecimal() and int(text) <= last):
        raise UserError(
            f"{place} has the index '{text}'; expected a whole number from 0 to {last}, "
            "so correct it."
        )
    if action not in OVERRIDE_ACTIONS:
        raise UserError(
            f"{place} has the action '{action}'; expected keep, drop or relabel, so correct it "
            "(with relabel, a row of issues.csv takes its suggestion)."
        )
    if action != "drop" and int(text) in dataset.unreadable:
        raise UserError(
            f"{place} keeps image {text}, which cannot be read ({dataset.unreadable[int(text)]}); "
            "replace that file, or leave the line out."
        )
    if action != "relabel":
        return make_issue(int(text), "override", action=action)
    label = _parse_label(row.get("label", ""), dataset.class_names, place)
    own = dataset.labels[int(text)]
    if label == own and row.get("suggestion", "").isdecimal():  # a pasted row of issues.csv
        label = _parse_label(row["suggestion"], dataset.class_names, place)
    given = dataset.class_names[own]
    if label == own:
        raise UserError(
            f"{place} relabels image {text} to {given}, which is its label; "
            "name another class, or give the action keep."
        )
    reason = f"overrides.csv says {dataset.class_names[label]}, not {given}"
    return make_issue(int(text), "override", reason=reason, suggestion=label, action=action)


def _parse_label(text: str, class_names: tuple[str, ...], place: str) -> int:
    """Return the class of that name or number; a name wins where classes are named by numbers."""
    if text in class_names:
        return class_names.index(text)
    if text.isdecimal() and int(text) < len(class_names):
        return int(text)
    raise UserError(
        f"{place} relabels to '{text}'; expected one of the classes {', '.join(class_names)}, "
        f"or its number from 0 to {len(class_names) - 1}."
    )
