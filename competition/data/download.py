"""Published data sets by name: downloaded once, resumed where a connection broke, used only with the right checksum."""

import hashlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from competition.common.console import progress, say
from competition.common.errors import UserError
from competition.common.files import exclusive, require_disk

MEDMNIST = "https://zenodo.org/records/10519652/files"
AGENT = "blood-cell-competition-harness"  # Zenodo answers 403 to the one that urllib sends
TIMEOUT_SECONDS = 20
CHUNK = 2**20


@dataclass(frozen=True)
class Published:
    """A file of a data set that others publish: its name, the checksum given there, and the folder's address."""

    file: str
    md5: str
    folder: str = MEDMNIST


# As the package medmnist 3.0.2 has them; MedMNIST, doi.org/10.5281/zenodo.10519652, is under CC BY 4.0.
PUBLISHED = {
    "bloodmnist": Published("bloodmnist.npz", "7053d0359d879ad8a5505303e11de1dc"),
    "bloodmnist:64": Published("bloodmnist_64.npz", "2b94928a2ae4916078ca51e05b6b800b"),
    "bloodmnist:128": Published("bloodmnist_128.npz", "adace1e0ed228fccda1f39692059dd4c"),
    "bloodmnist:224": Published("bloodmnist_224.npz", "b718ff6835fcbdb22ba9eacccd7b2601"),
}


def find_published(name: str) -> Published | None:
    """Return the data set of that name, None where there is none; raises UserError for an unknown variant of one."""
    if name not in PUBLISHED and name.partition(":")[0] in PUBLISHED:
        raise UserError(f"Unknown data set '{name}'; known are {', '.join(PUBLISHED)}.")
    return PUBLISHED.get(name)


def fetch(published: Published, path: Path) -> None:
    """Make sure that `path` holds the published file; raises UserError where it cannot be had.

    A file that lies there already, be it put there by hand, is taken if its MD5 is right, without any request. Else
    what arrives is kept in `path`.part, from whose end the next call goes on, until the whole of it is right.
    """
    if not path.is_file():
        with exclusive(path.parent):
            _download(published, path)
    elif (found := _md5(path)) != published.md5:
        raise UserError(
            f"{path} is not the file that is published under this name (MD5 {found}, expected {published.md5}); "
            "delete it and run the same command again to download it, or give another file's path with --data."
        )


def _download(published: Published, path: Path) -> None:
    part = path.with_name(f"{path.name}.part")
    address = f"{published.folder}/{published.file}?download=1"
    by_hand = f"or download {address} elsewhere and put the file at {path}, where its checksum is checked."
    size = _size(part)
    while not _receive_rest(address, path, part, by_hand):
        if _size(part) <= size:
            raise UserError(
                f"The server of {path.name} sends no more; run the same command later, {by_hand}"
            )
        size = _size(part)
        say(f"The connection broke after {size / CHUNK:.1f} MB; asking for the rest.")
    if (found := _md5(part)) != published.md5:
        part.unlink()
        raise UserError(
            f"What arrived for {path.name} was damaged (MD5 {found}, expected {published.md5}) and is deleted; "
            f"run the same command again, {by_hand}"
        )
    part.replace(path)


def _receive_rest(address: str, path: Path, part: Path, by_hand: str) -> bool:
    """Append to `part` what it lacks, or where the server starts again, so does this; return whether it is whole."""
    have = _size(part)
    say(f"downloading {address}" + (f", from {have / CHUNK:.1f} MB on" if have else ""))
    headers = {"User-Agent": AGENT} | ({"Range": f"bytes={have}-"} if have else {})
    try:
        response = urlopen(Request(address, headers=headers), timeout=TIMEOUT_SECONDS)
    except HTTPError as error:
        if error.code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            return True  # there is nothing beyond what is here
        answer = f"{error.code} {error.reason}"
        raise UserError(
            f"The server answered '{answer}' for {path.name}; try again later, {by_hand}"
        ) from error
    except (OSError, HTTPException) as error:
        raise UserError(
            f"{path.name} cannot be downloaded, there seems to be no internet ({getattr(error, 'reason', error)}); "
            f"connect this machine, {by_hand}"
        ) from error
    with response:
        rest = int(response.headers.get("Content-Length", 0))
        require_disk(path.parent, rest / CHUNK)
        have = have if response.status == HTTPStatus.PARTIAL_CONTENT else 0
        with part.open("ab" if have else "wb") as stream:
            for chunk in progress(_chunks(response), path.name, -(-rest // CHUNK) or None, "MB"):
                stream.write(chunk)
    return _size(part) >= have + rest


def _chunks(response: HTTPResponse) -> Iterator[bytes]:
    """Yield what arrives, in pieces of a megabyte, until the end or until the connection breaks."""
    with suppress(OSError, HTTPException):
        while chunk := response.read(CHUNK):
            yield chunk


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _md5(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
