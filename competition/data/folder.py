"""Images that lie as files: class folders, or a folder with a CSV of labels."""

import csv
import io
import os
import re
from collections import defaultdict
from multiprocessing.pool import ThreadPool
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image, ImageOps

from competition.common.console import progress, say
from competition.common.errors import UserError
from competition.common.files import require_readable
from competition.config import DataConfig

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
TABLE_SUFFIXES = (".csv", ".tsv")
# Recognised columns, in lower case and letters alone; the first one that a table has is taken.
FILE_COLUMNS = (
    "filename", "file", "filepath", "path", "imagepath", "imagename", "image", "imageid", "picture",
    "id",
)  # fmt: skip
LABEL_COLUMNS = (
    "label", "labels", "class", "classname", "classid", "target", "category", "celltype", "y",
)  # fmt: skip
DEPTH = 2  # levels of folders below its own in which a table's images are looked for

Listing = tuple[list[Path], np.ndarray | None, tuple[str, ...]]


def list_images(path: Path, config: DataConfig, class_names: tuple[str, ...]) -> Listing:
    """Return the images' files, labels (n,) int64 or None, and class names.

    path: one of three layouts.
    - A folder of class folders. The images come from the classes in turn, so the first are of all.
    - A folder of images and one CSV (or that CSV), in the CSV's order. A CSV of numbers gives no
      class names.
    - A folder of images without labels.
    class_names: those to number by (none: as found, sorted).
    Raises UserError, one sentence, for whatever does not fit.
    """
    if path.suffix.lower() in TABLE_SUFFIXES:
        return _list_table(path, config, class_names)
    entries = [entry for entry in sorted(path.iterdir()) if not entry.name.startswith((".", "__"))]
    by_class = {entry.name: _images_of(entry) for entry in entries if entry.is_dir()}
    tables = [entry for entry in entries if entry.suffix.lower() in TABLE_SUFFIXES]
    if tables and sum(map(bool, by_class.values())) < 2:
        if len(tables) > 1:
            names = ", ".join(table.name for table in tables)
            raise UserError(
                f"{path} holds several tables ({names}); "
                f"name the one to read, as --data {tables[0]}."
            )
        return _list_table(tables[0], config, class_names)
    for table in tables:
        say(f"{table} is not read: class folders tell the labels; --data {table} would read it.")
    if any(by_class.values()):
        return _list_classes(path, by_class, class_names)
    if not (images := _images_of(path)):
        raise UserError(
            f"{path} holds no images (PNG, JPEG, BMP, TIFF); put them into it, "
            "in one folder for each class."
        )
    return images, None, ()


def list_unlabelled(path: Path, config: DataConfig) -> tuple[list[Path], list[str]]:
    """Return the images of a folder at any depth, or those that a CSV names, and their names.

    The names are paths from the folder, or as the CSV writes them. Raises UserError where there is
    none, or the CSV names one that is not there.
    """
    if path.suffix.lower() in TABLE_SUFFIXES:
        rows = _read_rows(path)
        names = _read_column(path, rows, "file_column", config.file_column, FILE_COLUMNS)
        return _find_files(path, names), names
    images = {file.relative_to(path).as_posix(): file for file in path.rglob("*")}
    names = [
        name
        for name in sorted(images)
        if _is_image(images[name]) and not re.search(r"(^|/)(\.|__)", name)
    ]
    if not names:
        raise UserError(f"{path} holds no images (PNG, JPEG, BMP, TIFF); put them into it.")
    return [images[name] for name in names], names


def _images_of(folder: Path) -> list[Path]:
    return [entry for entry in sorted(require_readable(folder).iterdir()) if _is_image(entry)]


def _is_image(file: Path) -> bool:
    return (
        file.suffix.lower() in IMAGE_SUFFIXES and not file.name.startswith(".") and file.is_file()
    )


def _list_classes(
    path: Path, by_class: dict[str, list[Path]], class_names: tuple[str, ...]
) -> Listing:
    names = class_names or tuple(by_class)
    if unknown := set(by_class) - set(names):
        raise UserError(
            f"{path} has a folder '{min(unknown)}'; expected the classes {', '.join(names)}: "
            "rename it."
        )
    entries = sorted(
        (rank, names.index(name), file)
        for name, files in by_class.items()
        for rank, file in enumerate(files)
    )
    labels = np.array([label for _, label, _ in entries], np.int64)
    return [file for _, _, file in entries], labels, names


# -- a CSV of labels


def _list_table(table: Path, config: DataConfig, class_names: tuple[str, ...]) -> Listing:
    rows = _read_rows(table)
    names = _read_column(table, rows, "file_column", config.file_column, FILE_COLUMNS)
    texts = _read_column(table, rows, "label_column", config.label_column, LABEL_COLUMNS)
    labels, class_names = _number_labels(table, texts, class_names)
    files = _find_files(table, names)
    known: dict[Path, str] = {}
    for file, text in zip(files, texts, strict=True):
        if known.setdefault(file, text) != text:
            raise UserError(
                f"{table} gives {file.name} two labels, '{known[file]}' and '{text}'; "
                "leave one of them."
            )
    return files, labels, class_names


def _read_rows(table: Path) -> list[dict[str, str]]:
    try:
        text = table.read_text(encoding="utf-8-sig")
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


def _read_column(
    table: Path, rows: list[dict[str, str]], setting: str, wanted: str, recognised: tuple[str, ...]
) -> list[str]:
    """Return the column `wanted`; if that is empty, the first column with a recognised name."""
    columns = [column for column in rows[0] if column]
    letters = {re.sub("[^a-z]", "", column.lower()): column for column in columns}
    name = wanted or next((letters[known] for known in recognised if known in letters), None)
    if name not in columns:
        raise UserError(
            f"{table} has the columns {', '.join(columns)}, and none of them is "
            f"{repr(wanted) if wanted else 'called ' + ', '.join(recognised)}; "
            f"name it with --set data.{setting}=NAME."
        )
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
    names = class_names or tuple(sorted(set(texts)))
    if unknown := set(texts) - set(names):
        raise UserError(
            f"{table} has a label '{min(unknown)}'; expected the classes {', '.join(names)}: "
            "rename it."
        )
    return np.array([names.index(text) for text in texts], np.int64), names


def _find_files(table: Path, names: list[str]) -> list[Path]:
    """Return the image of each name: a path from the table's folder, or a bare name.

    Names may lack their suffix.
    """
    folder = table.parent
    paths = [PurePosixPath(name.replace("\\", "/")) for name in names]
    for path in paths:
        if path.is_absolute() or ".." in path.parts:
            raise UserError(
                f"{table} names {path}, which leads out of {folder}; write paths from that folder."
            )
    depth = max(DEPTH, *(len(path.parts) - 1 for path in paths))
    images = [
        file for level in range(depth + 1) for file in sorted(folder.glob("*/" * level + "*"))
    ]
    meant: dict[str, list[Path]] = defaultdict(list)  # the images by each name that may mean them
    for file in filter(_is_image, images):
        inner = file.relative_to(folder)
        for name in {inner.as_posix(), inner.with_suffix("").as_posix(), inner.name, inner.stem}:
            meant[name].append(file)
    if missing := [path for path in paths if str(path) not in meant]:
        raise UserError(
            f"{table} names {missing[0]}, which is not in {folder} ({len(missing)} of {len(paths)} "
            "rows name no image there); copy the images into that folder, or leave these rows out."
        )
    files = [_choose_file(table, str(path), meant[str(path)]) for path in paths]
    root = folder.resolve()
    if outside := next((file for file in files if not file.resolve().is_relative_to(root)), None):
        raise UserError(
            f"{outside} is a link that leads out of {folder}; copy the image there instead."
        )
    if left_out := {file for found in meant.values() for file in found} - set(files):
        say(
            f"{len(left_out)} images of {folder} are not in {table.name} and are left out, "
            f"as {min(left_out)}."
        )
    return files


def _choose_file(table: Path, name: str, found: list[Path]) -> Path:
    """Return the one that lies nearest to the table."""
    if len(found) > 1 and len(found[0].parts) == len(found[1].parts):
        raise UserError(
            f"{table} names {name}, which may be {found[0]} or {found[1]}; "
            "write its path, or move one of them away."
        )
    return found[0]


# -- pixels


def read_images(
    files: list[Path], config: DataConfig, unreadable: list[Path] | None = None
) -> np.ndarray:
    """Return images (n, size, size, 3) uint8 RGB, read by one thread per processor.

    unreadable: takes the files that cannot be read, whose images are black; without it, the first
    one raises UserError.
    """
    images = np.zeros((len(files), config.size, config.size, 3), np.uint8)

    def read(index: int) -> None:
        try:
            images[index] = _read_image(files[index], config)
        except UserError:
            if unreadable is None:
                raise
            unreadable.append(files[index])

    with ThreadPool(os.cpu_count()) as pool:
        done = pool.imap(read, range(len(files)), 16)
        for _ in progress(done, "reading images", len(files), "image"):
            pass
    return images


def _read_image(file: Path, config: DataConfig) -> np.ndarray:
    """Return one image (size, size, 3), the camera's orientation applied, transparency dropped."""
    try:
        with Image.open(file) as opened:
            if opened.mode.startswith(("I", "F")):
                raise UserError(
                    f"{file} has more than 8 bits per channel ({opened.mode}); "
                    "convert it to 8-bit RGB."
                )
            return make_square(ImageOps.exif_transpose(opened).convert("RGB"), config)
    except UserError:
        raise
    except Exception as error:  # each format of Pillow raises its own kinds for a damaged file
        raise UserError(
            f"{file} cannot be read as an image ({error}); replace or delete it."
        ) from error


def make_square(image: Image.Image, config: DataConfig) -> np.ndarray:
    """Return an image of any size as (size, size, 3) uint8, resized as `config.resize` says."""
    shape = (config.size, config.size)
    lanczos = Image.Resampling.LANCZOS
    if config.resize == "stretch":
        return np.asarray(image.resize(shape, lanczos))
    if config.resize == "crop":
        return np.asarray(ImageOps.fit(image, shape, lanczos))
    inner = np.asarray(ImageOps.contain(image, shape, lanczos))
    rows, columns = (config.size - side for side in inner.shape[:2])
    around = ((rows // 2, rows - rows // 2), (columns // 2, columns - columns // 2), (0, 0))
    return np.pad(inner, around, "symmetric" if config.fill == "reflect" else "constant")
