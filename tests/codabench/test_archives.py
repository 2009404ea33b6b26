"""Zips of strangers: what is refused before a byte lands outside, or more lands inside than is granted."""

import struct
import zipfile
from pathlib import Path

import pytest

from competition.codabench.sandbox import extract
from competition.common.errors import UserError
from tests.factories import PLAIN, write_zip


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        ({"../model.py": PLAIN}, "leads outside"),
        ({"/model.py": PLAIN}, "leads outside"),
        ({"..\\model.py": PLAIN}, "leads outside"),
        ({"C:\\model.py": PLAIN}, "leads outside"),
        ({"model.py": PLAIN, "a/../../b": ""}, "leads outside"),
        ({"folder/model.py": PLAIN}, "at the top of the zip"),
        ({"readme.txt": ""}, "no model.py"),
        ({"model.py": PLAIN, "b/model.py": PLAIN}, "expected one model.py"),
        ({"model.py": PLAIN, "zeros": "0" * 2**22}, "unpacks to over 2 MB"),
        ({"model.py": PLAIN} | {str(number): "" for number in range(1000)}, "1001 files"),
    ],
)
def test_bad_zips_are_refused_with_a_reason(
    files: dict[str, str], sentence: str, tmp_path: Path
) -> None:
    target = tmp_path / "deep" / "target"
    with pytest.raises(UserError, match=sentence):
        extract(write_zip(tmp_path / "bad.zip", files), target, 2)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["bad.zip"]


def test_links_are_refused(tmp_path: Path) -> None:
    entry = zipfile.ZipInfo("model.py")
    entry.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "link.zip", "w") as archive:
        archive.writestr(entry, "/etc/passwd")
    with pytest.raises(UserError, match="leads outside"):
        extract(tmp_path / "link.zip", tmp_path / "target", 2)


def test_a_bomb_that_declares_less_than_it_holds_stops_at_what_it_declares(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "bomb.zip", {"model.py": PLAIN, "zeros": "0" * 2**24})
    size, small = struct.pack("<I", 2**24), struct.pack("<I", 2**10)
    content = path.read_bytes()
    assert content.count(size) == 2
    path.write_bytes(content.replace(size, small))
    with pytest.raises(UserError, match="cannot be unzipped"):
        extract(path, tmp_path / "target", 2)
    assert sum(file.stat().st_size for file in (tmp_path / "target").iterdir()) < 2**20


@pytest.mark.parametrize("kind", ["truncated", "encrypted", "no zip"])
def test_broken_zips_are_refused(kind: str, tmp_path: Path) -> None:
    path = write_zip(tmp_path / "bad.zip", {"model.py": PLAIN * 99})
    content = bytearray(path.read_bytes())
    if kind == "truncated":
        content = content[60:]
    elif kind == "encrypted":
        content[6] |= 1
        content[content.index(b"PK\1\2") + 8] |= 1
    else:
        content = bytearray(b"hello")
    path.write_bytes(content)
    with pytest.raises(UserError, match="cannot be unzipped"):
        extract(path, tmp_path / "target", 2)


def test_folders_beside_the_model_are_kept(tmp_path: Path) -> None:
    extract(
        write_zip(tmp_path / "good.zip", {"model.py": PLAIN, "weights/a.txt": "1"}),
        tmp_path / "target",
        2,
    )
    assert (tmp_path / "target/weights/a.txt").read_text() == "1"
