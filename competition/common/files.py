"""Files that are never half written and are checked when read: writes, reads, markers, locks."""

import hashlib
import json
import os
import shutil
import uuid
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from filelock import FileLock, Timeout

from competition.common.console import ESCAPE, say
from competition.common.errors import DamagedFileError, UserError

if TYPE_CHECKING:
    import pandas as pd  # which loading takes long

Content = TypeVar("Content")
RUN_AGAIN = "delete it and run the stage again."
KINDS = {str: "text", int: "a whole number", float: "a number", list: "a list", dict: "an object"}


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path, which takes the place of `path` on success and goes on failure.

    The temporary name keeps the suffix, since many writers choose their format by it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{uuid.uuid4().hex[:8]}.{path.name}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors=ESCAPE)


def write_json(path: Path, content: Any) -> None:
    """Write JSON, whole or not at all."""
    write_text(path, json.dumps(content, indent=2, sort_keys=True) + "\n")


def write_array(path: Path, array: np.ndarray) -> None:
    """Write an .npy, whole or not at all."""
    with replacing(path) as temporary:
        np.save(temporary, array, allow_pickle=False)


def write_arrays(path: Path, **arrays: np.ndarray) -> None:
    """Write an .npz, whole or not at all."""
    with replacing(path) as temporary, temporary.open("wb") as stream:
        np.savez(stream, **arrays)  # type: ignore[arg-type]  # numpy types **kwds as bool


# -- reading files of ours: a damaged one raises DamagedFileError, nothing is unpickled


@contextmanager
def reading(path: Path, cure: str = RUN_AGAIN) -> Iterator[None]:
    """Turn any error in reading `path` into a DamagedFileError with the cure."""
    try:
        yield
    except (UserError, PermissionError):
        raise
    except Exception as error:  # numpy, zipfile, h5py and Keras raise dozens of kinds
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        reason = reason.strip().partition("\n")[0] or type(error).__name__
        raise DamagedFileError(f"{path} cannot be read ({reason})", cure) from error


def read_json(
    path: Path, shape: Any = object, cure: str = RUN_AGAIN, needed: Iterable[str] | None = None
) -> Any:
    """Read JSON of a shape; raises DamagedFileError where it is missing, broken or of another one.

    shape: a type; [shape] for a list; {key: shape} for an object that has these keys at least, and
    {str: shape} for one with any keys. needed: the keys that it must have (None: all of `shape`).
    """
    with reading(path, cure):
        content = json.loads(path.read_text(encoding="utf-8"))
        if needed is not None and isinstance(content, dict):
            shape = {key: shape[key] for key in shape if key in content or key in needed}
        if misfit := _find_misfit(content, shape, "the file"):
            raise ValueError(misfit)
        return content


def _find_misfit(content: Any, shape: Any, place: str) -> str:
    """Return the first place at which `content` is not of `shape`, in words, or nothing."""
    kind: Any = shape if isinstance(shape, type) else type(shape)
    is_kind: bool = isinstance(content, float | int if kind is float else kind)
    if not is_kind:
        return f"{place} is not {KINDS.get(kind, kind)}"
    if isinstance(shape, list):
        parts = [(str(index), item, shape[0]) for index, item in enumerate(content)]
    elif isinstance(shape, dict):
        if str in shape:
            shape = dict.fromkeys(content, shape[str])
        if missing := sorted(shape.keys() - content.keys()):
            return f"{place} lacks '{missing[0]}'"
        parts = [(key, content[key], inner) for key, inner in shape.items()]
    else:
        return ""
    found = (_find_misfit(item, inner, f"'{name}' in {place}") for name, item, inner in parts)
    return next(filter(None, found), "")


Shapes = Mapping[str, tuple[int | None, ...]]
"""Name of an array -> its shape, None for any length."""


def read_arrays(
    path: Path, shapes: Shapes | None = None, cure: str = RUN_AGAIN
) -> dict[str, np.ndarray]:
    """Read an .npz that holds at least the arrays of `shapes`; raises DamagedFileError."""
    with reading(path, cure):
        with path.open("rb") as stream, zipfile.ZipFile(stream):  # numpy would advise to unpickle
            stream.seek(0)
            with np.load(stream, allow_pickle=False) as archive:
                arrays = {name: archive[name] for name in archive.files}
        for name, shape in (shapes or {}).items():
            if name not in arrays:
                raise ValueError(f"it lacks '{name}'")
            _require_shape(arrays[name], shape)
        return arrays


def map_array(path: Path, shape: tuple[int | None, ...] | None = None) -> np.ndarray:
    """Return an .npy as a memory map; raises DamagedFileError."""
    with reading(path):
        array = np.asarray(np.lib.format.open_memmap(path, mode="r"))
        if shape is not None:
            _require_shape(array, shape)
        return array


def _require_shape(array: np.ndarray, shape: tuple[int | None, ...]) -> None:
    sizes = zip(array.shape, shape, strict=False)
    if array.ndim != len(shape) or any(size not in (None, known) for known, size in sizes):
        expected = ", ".join("any" if size is None else str(size) for size in shape)
        raise ValueError(f"an array has the shape {array.shape}, expected ({expected})")


def read_table(path: Path, columns: Mapping[str, type], cure: str = RUN_AGAIN) -> "pd.DataFrame":
    """Read a CSV that has a row and `columns` of these types; raises DamagedFileError."""
    import pandas as pd

    with reading(path, cure):
        table = pd.read_csv(path, dtype=dict(columns))
        if missing := columns.keys() - set(table.columns):
            raise ValueError(f"it lacks the column '{min(missing)}'")
        texts = [name for name, kind in columns.items() if kind is str]
        if table.empty or table[texts].isna().any(axis=None):
            raise ValueError("it is cut short")
        return table


def if_intact(read: Callable[..., Content], *arguments: Any) -> Content | None:
    """Return the result of `read`, or say that a file is damaged and return None.

    For files that the caller can make anew.
    """
    try:
        return read(*arguments)
    except DamagedFileError as error:
        say(f"{error.args[0]}; it is made anew.")
        return None


def digest(*parts: Any) -> str:
    """Return 16 hexadecimal digits of SHA-256 over arrays, files (given as Path) or JSON values."""
    total = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            total.update(f"{part.shape}{part.dtype}".encode())
            total.update(np.ascontiguousarray(part).data)
        elif isinstance(part, Path):
            with part.open("rb") as stream:
                total.update(hashlib.file_digest(stream, "sha256").digest())
        else:
            total.update(json.dumps(part, sort_keys=True, default=str).encode())
    return total.hexdigest()[:16]


def up_to_date(marker: Path, inputs: str, force: bool = False) -> bool:
    """Tell whether the stage of `marker` has ended with these inputs and is not forced."""
    if force or not marker.is_file():
        return False
    facts = if_intact(read_json, marker, {"inputs": str})
    return facts is not None and facts["inputs"] == inputs


def mark_done(marker: Path, inputs: str, **facts: Any) -> None:
    """Write a stage's marker, the last of its files: the hash of its inputs, and facts."""
    write_json(marker, {"inputs": inputs, **facts})


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Hold `folder` for this process; raises UserError while another run holds it."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(
            f"Another run is at work in {folder}; wait for it to end, "
            "or give this one a folder of its own with --name."
        ) from None
    try:
        yield
    finally:
        lock.release()


def require_readable(path: Path) -> Path:
    """Return `path`; raises UserError where this user may not read it."""
    if not os.access(path, os.R_OK):
        raise UserError(
            f"{path} may not be read by this user; "
            "change its permissions, for example with chmod +r."
        )
    return path


def require_disk(folder: Path, megabytes: float) -> None:
    """Raise UserError unless the disk of `folder` has `megabytes` to spare."""
    existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    free = shutil.disk_usage(existing).free / 2**20
    if free < megabytes:
        raise UserError(
            f"The disk of {existing} has {free:.0f} MB free, "
            f"and this run needs about {megabytes:.0f} MB; "
            "make room there, or give another place with --workdir."
        )
