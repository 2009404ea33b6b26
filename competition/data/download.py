"""Published datasets by name: downloaded once, resumed where a connection broke, checked by MD5."""

import hashlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from filelock import FileLock, Timeout

from competition.common.console import progress, say
from competition.common.errors import UserError
from competition.common.files import require_disk

MEDMNIST = "https://zenodo.org/records/10519652/files"
AGENT = "blood-cell-competition-harness"  # Zenodo answers 403 to the one that urllib sends
TIMEOUT_SECONDS = 20
CHUNK = 2**20


@dataclass(frozen=True)
class Published:
    """A published file: its name, its checksum and the address of its folder."""

    file: str
    md5: str
    folder: str = MEDMNIST


# As in the package medmnist 3.0.2. MedMNIST, doi.org/10.5281/zenodo.10519652, is under CC BY 4.0.
PUBLISHED = {
    "bloodmnist": Published("bloodmnist.npz", "7053d0359d879ad8a5505303e11de1dc"),
    "bloodmnist:64": Published("bloodmnist_64.npz", "2b94928a2ae4916078ca51e05b6b800b"),
    "bloodmnist:128": Published("bloodmnist_128.npz", "adace1e0ed228fccda1f39692059dd4c"),
    "bloodmnist:224": Published("bloodmnist_224.npz", "b718ff6835fcbdb22ba9eacccd7b2601"),
}


def find_published(name: str) -> Published | None:
    """Return the dataset of that name, or None; raises UserError for an unknown variant of one."""
    if name not in PUBLISHED and name.partition(":")[0] in PUBLISHED:
        raise UserError(f"Unknown data set '{name}'; known are {', '.join(PUBLISHED)}.")
    return PUBLISHED.get(name)


def fetch(published: Published, path: Path) -> None:
    """Make sure that `path` holds the published file; raises UserError where it cannot be had.

    A file that lies there already, even by hand, is taken without any request if its MD5 is right.
    Otherwise the bytes that arrive are kept in `path`.part until they are the whole file. The next
    call goes on from their end.
    """
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path.with_name(".lock"))
        try:
            lock.acquire(timeout=0)
        except Timeout:
            say(f"Another run downloads {path.name}; waiting for it ...")
            lock.acquire()
        try:
            if not path.is_file():
                _download(published, path)
        finally:
            lock.release()
    elif (found := _md5(path)) != published.md5:
        raise UserError(
            f"{path} is not the file that is published under this name (MD5 {found}, expected "
            f"{published.md5}); delete it and run the same command again to download it, or give "
            "another file's path with --data."
        )


def _download(published: Published, path: Path) -> None:
    unfinished = path.with_name(f"{path.name}.part")
    address = f"{published.folder}/{published.file}?download=1"
    by_hand = f"or download {address} elsewhere and put the file at {path} (its MD5 is checked)."
    size = _size(unfinished)
    while not _receive_rest(address, path.name, unfinished, by_hand):
        if _size(unfinished) <= size:
            raise UserError(
                f"The server of {path.name} sends no more; run the same command later, {by_hand}"
            )
        size = _size(unfinished)
        say(f"The connection broke after {size / CHUNK:.1f} MB; asking for the rest.")
    if (found := _md5(unfinished)) != published.md5:
        unfinished.unlink()
        raise UserError(
            f"The file that arrived for {path.name} was damaged (MD5 {found}, expected "
            f"{published.md5}) and is deleted; run the same command again, {by_hand}"
        )
    unfinished.replace(path)


def _receive_rest(address: str, name: str, unfinished: Path, by_hand: str) -> bool:
    """Append the bytes that `unfinished` lacks; return whether it is whole.

    Where the server starts again from the beginning, so does the file.
    """
    have = _size(unfinished)
    say(f"downloading {address}" + (f", from {have / CHUNK:.1f} MB on" if have else ""))
    headers = {"User-Agent": AGENT} | ({"Range": f"bytes={have}-"} if have else {})
    try:
        response = urlopen(Request(address, headers=headers), timeout=TIMEOUT_SECONDS)
    except HTTPError as error:
        if error.code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            return True  # there is nothing beyond the bytes at hand
        raise UserError(
            f"The server answered '{error.code} {error.reason}' for {name}; "
            f"try again later, {by_hand}"
        ) from error
    except (OSError, HTTPException) as error:
        raise UserError(
            f"{name} cannot be downloaded, there seems to be no internet "
            f"({getattr(error, 'reason', error)}); connect this machine, {by_hand}"
        ) from error
    with response:
        rest = int(response.headers.get("Content-Length", 0))
        require_disk(unfinished.parent, rest / CHUNK)
        if response.status != HTTPStatus.PARTIAL_CONTENT:
            have = 0
        with unfinished.open("ab" if have else "wb") as stream:
            for chunk in progress(_chunks(response), name, -(-rest // CHUNK) or None, "MB"):
                stream.write(chunk)
    return _size(unfinished) >= have + rest


def _chunks(response: HTTPResponse) -> Iterator[bytes]:
    """Yield the response megabyte by megabyte, until its end or until the connection breaks."""
    with suppress(OSError, HTTPException):
        while chunk := response.read(CHUNK):
            yield chunk


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _md5(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
