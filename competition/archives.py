"""Zips of strangers, unpacked without trust."""

import stat
import zipfile
import zlib
from pathlib import Path

from competition.files import InputError

ENTRIES = 1000  # more files than any submission needs
# What the zipfile module raises for truncated, encrypted, overlapping or oddly compressed archives.
BROKEN = (OSError, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError, ValueError)


def extract(zip_path: Path, folder: Path, megabytes: float) -> None:
    """Unzip a submission; raises InputError for unsafe names, links, bombs, and other than one model.py at the top.

    megabytes: the most it may unpack to, by what it declares and by what comes out.
    """
    try:
        with zipfile.ZipFile(zip_path) as archive:
            entries = archive.infolist()
            _check_entries(zip_path, entries)
            _check_size(zip_path, sum(entry.file_size for entry in entries), megabytes)
            _write_entries(zip_path, archive, folder, megabytes)
    except InputError:
        raise
    except BROKEN as error:
        raise InputError(f"{zip_path} cannot be unzipped ({error}); package it again.") from error


def _check_entries(zip_path: Path, entries: list[zipfile.ZipInfo]) -> None:
    if len(entries) > ENTRIES:
        raise InputError(f"{zip_path} holds {len(entries)} files, more than any submission needs; it is refused.")
    for entry in entries:
        name = entry.filename.replace("\\", "/")
        if name.startswith("/") or ".." in name.split("/") or ":" in name or stat.S_ISLNK(entry.external_attr >> 16):
            raise InputError(f"{zip_path} holds '{entry.filename}', which leads outside its folder; it is refused.")
    models = [entry.filename for entry in entries if Path(entry.filename).name == "model.py"]
    if models != ["model.py"]:
        raise InputError(f"{zip_path} holds {models or 'no model.py'}; expected one model.py, at the top of the zip.")


def _write_entries(zip_path: Path, archive: zipfile.ZipFile, folder: Path, megabytes: float) -> None:
    size = 0
    for entry in archive.infolist():
        target = folder / entry.filename
        if entry.is_dir():
            target.mkdir(parents=True, exist_ok=True)
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        with archive.open(entry) as source, target.open("wb") as copy:
            while block := source.read(2**20):
                size += len(block)
                _check_size(zip_path, size, megabytes)
                copy.write(block)


def _check_size(zip_path: Path, size: int, megabytes: float) -> None:
    if size > megabytes * 2**20:
        raise InputError(f"{zip_path} unpacks to over {megabytes:.0f} MB, more than any submission needs; refused.")
