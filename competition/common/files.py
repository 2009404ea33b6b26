"""Files that are never half written: atomic writes, hashes, stage markers, folder locks."""

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from competition.common.errors import UserError


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
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Any) -> None:
    """Write JSON, whole or not at all."""
    write_text(path, json.dumps(content, indent=2, sort_keys=True) + "\n")


def read_json(path: Path) -> Any:
    """Read JSON; raises UserError where the file is unreadable."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise UserError(
            f"{path} cannot be read as JSON ({error}); delete it and run the stage again."
        ) from error


def write_array(path: Path, array: np.ndarray) -> None:
    """Write an .npy, whole or not at all."""
    with replacing(path) as temporary:
        np.save(temporary, array, allow_pickle=False)


def map_array(path: Path) -> np.ndarray:
    """Return an .npy that is read from disk where it is looked at."""
    return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))


def write_arrays(path: Path, **arrays: np.ndarray) -> None:
    """Write an .npz, whole or not at all."""
    with replacing(path) as temporary, temporary.open("wb") as stream:
        np.savez(stream, **arrays)  # type: ignore[arg-type]  # numpy types **kwds as bool


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Read an .npz of ours without unpickling; raises UserError where it is missing or broken."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except Exception as error:  # numpy and zipfile raise a dozen kinds for a truncated file
        raise UserError(
            f"{path} cannot be read ({error}); delete it and run the stage again."
        ) from error


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
    return not force and marker.is_file() and read_json(marker).get("inputs") == inputs


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
