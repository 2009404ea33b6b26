"""A CSV that names images and their labels, and the images that it means."""

import csv
import io
import os
import re
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from competition.common.errors import UserError
from competition.common.files import require_readable
from competition.config import DataConfig

TABLE_SUFFIXES = (".csv", ".tsv")
# Recognised columns, in lower case and letters alone; the first one that a table has is taken.
FILE_COLUMNS = (
    "filename", "file", "filepath", "path", "imagepath", "imagename", "image", "imageid", "picture",
    "id",
)  # fmt: skip
LABEL_COLUMNS = (
    "label", "labels", "class", "classname", "classid", "target", "category", "celltype",
    "diagnosis", "dx", "subtype", "y",
)  # fmt: skip
# A name of a split, as in train, TEST_SIMPLE, fold_3, val-images, labels_train.
SPLIT = re.compile(
    r"(?<![a-z])(train|trn|val|test|dev|eval|fold|split|part|batch)(ing|id|idation|uation)?"
    r"(data|set|images?|imgs?)?s?(?![a-z])",
    re.IGNORECASE,
)
Rows = list[dict[str, str]]


@dataclass(frozen=True)
class Listing:
    """Images' files and their labels (n,) int64, or None.

    class_names: none where the labels are numbers already. excluded: a predicate for people, true
    of the images of the folder that are not among the files.
    """

    files: list[Path]
    labels: np.ndarray | None
    class_names: tuple[str, ...]
    excluded: str = ""


def list_table(
    table: Path, images: list[Path], config: DataConfig, class_names: tuple[str, ...]
) -> Listing:
    """Return the images that a table names among `images`, in its order, and their labels.

    Raises UserError, one sentence, for whatever does not fit.
    """
    rows = _read_rows(table)
    label_column = _find_column(table, rows, "label_column", config.label_column, LABEL_COLUMNS)
    meant = _index_images(images, table.parent)
    file_column = _find_file_column(table, rows, config, meant, label_column)
    texts = _read_column(table, rows, label_column)
    labels, class_names = _number_labels(table, texts, class_names)
    files = _find_files(table, _read_column(table, rows, file_column), meant)
    known: dict[Path, str] = {}
    for file, text in zip(files, texts, strict=True):
        if known.setdefault(file, text) != text:
            raise UserError(
                f"{table} gives {file.name} two labels, '{known[file]}' and '{text}'; "
                "leave one of them."
            )
    return Listing(files, labels, class_names, f"are not in {table.name}")


def list_named(table: Path, images: list[Path], config: DataConfig) -> tuple[list[Path], list[str]]:
    """Return the images that a table without labels names among `images`, and those names."""
    rows = _read_rows(table)
    meant = _index_images(images, table.parent)
    names = _read_column(table, rows, _find_file_column(table, rows, config, meant, ""))
    return _find_files(table, names, meant), names


def find_split(name: str) -> str:
    """Return the split in the name of a file or folder, as its first letters, or nothing."""
    match = SPLIT.search(name)
    return match[1][:3].lower() if match else ""


def sort_naturally(names: set[str]) -> tuple[str, ...]:
    """Return names in order, with the numbers in them by their value: kind 2 before kind 10."""

    def key(name: str) -> list[tuple[int, str]]:
        return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts(name)]

    def parts(name: str) -> list[str]:
        return re.findall(r"\d+|\D+", name)

    return tuple(sorted(names, key=lambda name: (key(name), name)))


def _read_rows(table: Path) -> Rows:
    try:
        text = require_readable(table).read_text(encoding="utf-8-sig")
        delimiter = max(",;\t", key=text.partition("\n")[0].count)
        rows = list(csv.DictReader(io.StringIO(text), delimiter=delimiter, restval=""))
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(
            f"{table} cannot be read as a table ({error}); save it as CSV in UTF-8."
        ) from error
    if not rows:
        raise UserError(
            f"{table} has no rows; expected a line of column names and one line for each image."
        )
    return rows


def _find_column(
    table: Path, rows: Rows, setting: str, wanted: str, recognised: tuple[str, ...]
) -> str:
    """Return the column `wanted`; if that is empty, the first column with a recognised name."""
    columns = [column for column in rows[0] if column]
    letters = {re.sub("[^a-z]", "", column.lower()): column for column in columns}
    name = wanted or next((letters[known] for known in recognised if known in letters), "")
    if name not in columns:
        raise UserError(
            f"{table} has the columns {', '.join(columns)}, and none of them is "
            f"{repr(wanted) if wanted else 'called ' + ', '.join(recognised)}; "
            f"name it with --set data.{setting}=NAME."
        )
    return name


def _find_file_column(
    table: Path, rows: Rows, config: DataConfig, meant: dict[str, list[Path]], label_column: str
) -> str:
    """Return the column of the files: by its name, unless only another one names images."""
    columns = [column for column in rows[0] if column and column != label_column]
    try:
        named = _find_column(table, rows, "file_column", config.file_column, FILE_COLUMNS)
    except UserError:
        named = ""
    for column in [named, *columns] if not config.file_column else []:
        names = {row.get(column, "").strip() for row in rows}
        if all(_simplify(name, table.parent) in meant for name in names) and (
            column == named or len(names) == len(rows)
        ):
            return column
    return named or _find_column(table, rows, "file_column", config.file_column, FILE_COLUMNS)


def _read_column(table: Path, rows: Rows, name: str) -> list[str]:
    values = [row[name].strip() for row in rows]
    if "" in values:
        raise UserError(
            f"{table} has nothing in column '{name}' of row {values.index('') + 1}; "
            "fill or delete it."
        )
    return values


def _number_labels(
    table: Path, texts: list[str], class_names: tuple[str, ...]
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return labels (n,) int64 and the class names: none where the labels are numbers already."""
    if any(re.fullmatch(r"[-+]?\d+(\.\d+)?", text) for text in texts):
        for row, text in enumerate(texts, start=1):
            if not re.fullmatch(r"\d{1,9}(\.0+)?", text):
                raise UserError(
                    f"{table} has the label '{text}' in row {row}, and numbers elsewhere; expected "
                    "whole numbers from 0, or names, in all rows: write them in one way."
                )
        return np.array([int(text.partition(".")[0]) for text in texts], np.int64), ()
    names = class_names or sort_naturally(set(texts))
    if unknown := set(texts) - set(names):
        raise UserError(
            f"{table} has a label '{min(unknown)}'; expected the classes {', '.join(names)}: "
            "rename it."
        )
    return np.array([names.index(text) for text in texts], np.int64), names


def _index_images(images: list[Path], folder: Path) -> dict[str, list[Path]]:
    """Return the images by each name that may mean them: a path's end, with or without suffix."""
    meant: dict[str, list[Path]] = defaultdict(list)
    for file in images:
        parts = file.relative_to(folder).parts
        ends = {"/".join(parts[start:]) for start in range(len(parts))}
        for end in ends | {end.removesuffix(file.suffix) for end in ends}:
            meant[end].append(file)
    return meant


def _simplify(name: str, folder: Path) -> str:
    """Return the path from `folder` that a table's text means; absolute where it leads out."""
    text = name.replace("\\", "/") if name else "."
    if not Path(text).is_absolute():
        return Path(os.path.normpath(text)).as_posix()
    path, root = Path(text).resolve(), folder.resolve()
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix()


def _find_files(table: Path, names: list[str], meant: dict[str, list[Path]]) -> list[Path]:
    """Return the image of each name: a path from the table's folder, or the end of one."""
    folder = table.parent
    simple = [_simplify(name, folder) for name in names]
    if missing := [path for path in simple if path not in meant]:
        raise UserError(
            f"{table} names {missing[0]}, which is not in {folder} ({len(missing)} of {len(names)} "
            "rows name no image there); copy the images into that folder, or leave these rows out."
        )
    found = [meant[path] for path in simple]
    held = Counter(parent for files in found for parent in {file.parent for file in files})
    whole = {parent for parent, count in held.items() if count == len(names)}
    return [
        _choose_file(table, path, candidates, whole)
        for path, candidates in zip(simple, found, strict=True)
    ]


def _choose_file(table: Path, name: str, found: list[Path], whole: set[Path]) -> Path:
    """Return the file in the table's split, nearest to the table, in a folder that has all rows."""
    if split := find_split(table.stem):
        found = [file for file in found if split in _splits_of(file, table.parent)] or found
    nearest = min(len(file.parts) for file in found)
    found = [file for file in found if len(file.parts) == nearest]
    found = [file for file in found if file.parent in whole] or found
    if len(found) > 1:
        raise UserError(
            f"{table} names {name}, which may be {found[0]} or {found[1]}; "
            "write its path, or move one of them away."
        )
    return found[0]


def _splits_of(file: Path, folder: Path) -> list[str]:
    return [find_split(part) for part in file.relative_to(folder).parts[:-1]]
