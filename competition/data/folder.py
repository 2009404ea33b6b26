"""Images that lie as files: in class folders, splits of them, or a folder with a CSV of labels."""

import re
from collections import defaultdict
from pathlib import Path

import numpy as np

from competition.common.console import printable, say
from competition.common.errors import UserError
from competition.config import DataConfig
from competition.data.images import NO_IMAGES, find_images, is_hidden
from competition.data.table import (
    TABLE_SUFFIXES,
    Listing,
    find_split,
    list_named,
    list_table,
    sort_naturally,
)


def list_images(path: Path, config: DataConfig, class_names: tuple[str, ...]) -> Listing:
    """Return the images' files, labels and class names.

    path: one of these layouts.
    - A folder of class folders, in which images lie at any depth. The images come from the classes
      in turn, so the first are of all. Folders that are all numbers are those labels.
    - Splits (train, val, test, fold_0 ...) of class folders; they are joined.
    - A folder of images at any depth and a CSV of their labels (or that CSV), in the CSV's order.
    - A folder of images without labels.
    class_names: those to number by (none: as found, sorted).
    Says how many images are left out. Raises UserError, one sentence, for files that fit no layout.
    """
    folder = path if path.is_dir() else path.parent
    images = find_images(folder)
    if folder != path:
        listing = list_table(path, images, config, class_names)
    elif not images and not _find_tables(path):
        raise UserError(f"{path} {NO_IMAGES}, in one folder for each class.")
    else:
        listing = _list_folder(path, images, config, class_names)
    if left_out := sorted(set(images) - set(listing.files)):
        say(
            f"{len(left_out)} images of {folder} {listing.excluded} and are left out, "
            f"as {left_out[0]}."
        )
    return listing


def list_unlabelled(path: Path, config: DataConfig) -> tuple[list[Path], list[str]]:
    """Return the images of a folder at any depth, or those that a CSV names, and their names.

    The names are paths from the folder, or as the CSV writes them. Raises UserError where there is
    none, or the CSV names one that is not there.
    """
    if not path.is_dir():
        return list_named(path, find_images(path.parent), config)
    if not (images := find_images(path)):
        raise UserError(f"{path} {NO_IMAGES}.")
    return images, [printable(file.relative_to(path).as_posix()) for file in images]


def _list_folder(
    path: Path, images: list[Path], config: DataConfig, class_names: tuple[str, ...]
) -> Listing:
    """Return the labels by a CSV or by class folders; raises UserError where the two disagree."""
    tables = _find_tables(path)
    is_flat = all(file.parent == path for file in images)
    if is_flat and not tables:
        return Listing(images, None, ())
    if config.classes != "auto" or not tables:
        return _list_classes(path, images, config, class_names)
    by_table: dict[Path, Listing] = {}
    errors: list[UserError] = []
    for table in tables:
        try:
            by_table[table] = list_table(table, images, config, class_names)
        except UserError as error:
            errors.append(error)
    by_class = None
    if not is_flat:
        try:
            by_class = _list_classes(path, images, config, class_names)
        except UserError as error:
            errors.append(error)
    if by_class and len(set(_labels_of(by_class).values())) > 1:
        for table, listing in by_table.items():
            if not _labels_of(listing).items() <= _labels_of(by_class).items():
                raise UserError(
                    f"{path} has labels in {table.name} and others by its folders; choose the "
                    f"table with --data {table}, or the folders with --set data.classes=first."
                )
        for table in tables:
            say(f"{table} is not read: class folders tell the labels; --data {table} reads it.")
        return by_class
    if len(tables) == 1 and errors and not by_table:
        raise errors[0]
    if len(by_table) != 1:
        names = ", ".join(table.name for table in by_table or tables)
        raise UserError(
            f"{path} holds several tables ({names}); name the one to read, as --data {tables[0]}."
        )
    for table in set(tables) - set(by_table):
        say(f"{table} is not read: it does not name images here and their labels.")
    return next(iter(by_table.values()))


def _find_tables(folder: Path) -> list[Path]:
    """Return the tables beside the images; a sample submission is none of them."""
    tables = [
        entry
        for entry in sorted(folder.iterdir())
        if entry.suffix.lower() in TABLE_SUFFIXES and entry.is_file() and not is_hidden(entry.name)
    ]
    return [table for table in tables if "submission" not in table.stem.lower()]


def _labels_of(listing: Listing) -> dict[Path, str]:
    """Return the label of each file as text: a class name, or a number."""
    labels = [] if listing.labels is None else listing.labels.tolist()
    texts = [listing.class_names[label] if listing.class_names else str(label) for label in labels]
    return dict(zip(listing.files, texts, strict=True))


# -- class folders


def _list_classes(
    path: Path, images: list[Path], config: DataConfig, class_names: tuple[str, ...]
) -> Listing:
    root, level = _find_classes(path, images, config)
    by_class: dict[str, list[Path]] = defaultdict(list)
    for file in images:
        parts = file.relative_to(root).parts[:-1] if file.is_relative_to(root) else ()
        if parts and len(parts) > level:
            by_class[parts[level]].append(file)
    if level == 0:  # an empty class folder is a mistake to be told
        for entry in root.iterdir():
            if entry.is_dir() and not is_hidden(entry.name):
                by_class.setdefault(entry.name, [])
    if not by_class:
        raise UserError(
            f"{path} has no class folders; expected one for each class, "
            "or leave out data.classes, so that a table tells the labels."
        )
    if all(re.fullmatch("[0-9]{1,9}", name) for name in by_class):
        numbers = {name: int(name) for name in by_class}
        names: tuple[str, ...] = ()
    else:
        names = class_names or sort_naturally(set(by_class))
        if unknown := set(by_class) - set(names):
            raise UserError(
                f"{root} has a folder '{min(unknown)}'; expected the classes {', '.join(names)}: "
                "rename it."
            )
        numbers = {name: number for number, name in enumerate(names)}
    entries = sorted(
        (rank, numbers[name], file)
        for name, files in by_class.items()
        for rank, file in enumerate(files)
    )
    labels = np.array([label for _, label, _ in entries], np.int64)
    return Listing([file for _, _, file in entries], labels, names, "lie in no class folder")


def _find_classes(path: Path, images: list[Path], config: DataConfig) -> tuple[Path, int]:
    """Return the folder above the classes and their level below it, 0 or 1, or -1 for the last.

    One folder around all the others does not count. Raises UserError where the folders may be read
    in several ways.
    """
    if config.classes != "auto":
        return path, 0 if config.classes == "first" else -1
    direct: set[str] = set()  # folders that hold images, and the folders in each that hold some
    inner: dict[str, set[str]] = defaultdict(set)
    for file in images:
        match file.relative_to(path).parts[:-1]:
            case (top,):
                direct.add(top)
            case (top, below, *_):
                inner[top].add(below)
    nested = inner.keys() - direct
    tops = inner.keys() | direct
    if len(tops) == 1 and nested:
        root = path / min(nested)
        return _find_classes(root, [file for file in images if root in file.parents], config)
    seen = f"{path} holds the folders {_name_some(tops)}"
    splits = {top for top in tops if find_split(top)}
    contents = [inner[top] for top in sorted(nested)]
    if splits == tops and not nested:
        raise UserError(
            f"{seen}, which seem to be splits, not classes; put class folders into them, or a CSV "
            "of labels beside them, or set data.classes=first if they are classes."
        )
    if splits == tops and set.intersection(*contents):
        say(f"{path}: the splits {_name_some(nested)} are joined.")
        return path, 1
    inside = set[str]().union(*contents)
    is_wrapped = all(len(names) == 1 for names in contents)  # class/images/1.png
    is_divided = not direct and len(inside) == sum(map(len, contents))  # class/patient/1.png
    if (is_wrapped or is_divided) and (not splits if nested else len(splits) < 2):
        return path, 0
    with_folders = f", with {_name_some(inside)} inside" if inside else ""
    raise UserError(
        f"{seen}{with_folders}, and it is not clear which of them are classes; "
        "set data.classes=first for the former or data.classes=last for those that hold images, "
        "or move what is no class elsewhere."
    )


def _name_some(names: set[str], most: int = 6) -> str:
    ordered = sort_naturally(names)
    return ", ".join(ordered[:most]) + (" ..." if len(ordered) > most else "")
