"""Downloads against a local server: whole, resumed, refused, damaged, cached, put by hand."""

import hashlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from competition.common.errors import UserError
from competition.data.download import AGENT, CHUNK, PUBLISHED, Published, fetch, find_published

CONTENT = np.random.default_rng(0).bytes(3 * CHUNK + 12345)
MD5 = hashlib.md5(CONTENT).hexdigest()


@dataclass
class Behaviour:
    """The server: bytes after which answers break, Range obeyed, status of failure, ranges seen."""

    folder: str = ""
    content: bytes = CONTENT
    breaks_after: list[int] = field(default_factory=list)
    obeys_range: bool = True
    tells_length: bool = True
    status: int = 200
    ranges: list[str | None] = field(default_factory=list)
    agents: set[str | None] = field(default_factory=set)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Behaviour]:
    behaviour = Behaviour()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers["Range"]
            behaviour.ranges.append(wanted)
            behaviour.agents.add(self.headers["User-Agent"])
            if behaviour.status != 200:
                return self.send_error(behaviour.status)
            start = int(wanted[6:-1]) if wanted and behaviour.obeys_range else 0
            if start >= len(behaviour.content):
                return self.send_error(416)
            rest = behaviour.content[start:]
            self.send_response(206 if start else 200)
            if behaviour.tells_length:
                self.send_header("Content-Length", str(len(rest)))
            self.end_headers()
            end = behaviour.breaks_after.pop(0) if behaviour.breaks_after else len(rest)
            self.wfile.write(rest[:end])

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as served:
        behaviour.folder = f"http://127.0.0.1:{served.server_port}"
        thread = threading.Thread(target=served.serve_forever, args=(0.01,))
        thread.start()
        yield behaviour
        served.shutdown()
        thread.join()


def get(server: Behaviour, path: Path) -> bytes:
    fetch(Published("cells.npz", MD5, server.folder), path)
    assert [entry.name for entry in path.parent.iterdir() if entry.name != ".lock"] == [path.name]
    return path.read_bytes()


def refusal(server: Behaviour, path: Path) -> str:
    with pytest.raises(UserError) as caught:
        fetch(Published("cells.npz", MD5, server.folder), path)
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith(".")
    assert not path.exists()
    return message


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "downloads" / "cells.npz"


def leave_part(path: Path, content: bytes) -> None:
    path.parent.mkdir()
    (path.parent / "cells.npz.part").write_bytes(content)


@pytest.mark.parametrize("tells_length", [True, False])
def test_a_file_is_downloaded_whole_once(
    server: Behaviour, path: Path, tells_length: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    server.tells_length = tells_length
    assert get(server, path) == CONTENT
    assert get(server, path) == CONTENT
    assert server.ranges == [None]
    assert server.agents == {AGENT}
    assert f"downloading {server.folder}/cells.npz" in capsys.readouterr().out


def test_a_broken_connection_goes_on_by_itself(server: Behaviour, path: Path) -> None:
    server.breaks_after = [CHUNK, CHUNK + 1]
    assert get(server, path) == CONTENT
    assert server.ranges == [None, f"bytes={CHUNK}-", f"bytes={2 * CHUNK + 1}-"]


def test_what_an_earlier_call_left_is_not_downloaded_again(server: Behaviour, path: Path) -> None:
    leave_part(path, CONTENT[:-7])
    assert get(server, path) == CONTENT
    assert server.ranges == [f"bytes={len(CONTENT) - 7}-"]


def test_a_part_that_is_the_whole_is_taken(server: Behaviour, path: Path) -> None:
    leave_part(path, CONTENT)
    assert get(server, path) == CONTENT


def test_a_server_that_knows_no_ranges_starts_again(server: Behaviour, path: Path) -> None:
    leave_part(path, b"wrong" + CONTENT[5:CHUNK])
    server.obeys_range = False
    assert get(server, path) == CONTENT


def test_a_server_that_sends_no_more_is_given_up_and_what_came_is_kept(
    server: Behaviour, path: Path
) -> None:
    server.breaks_after = [CHUNK, 0]
    assert "sends no more" in refusal(server, path)
    assert (path.parent / "cells.npz.part").read_bytes() == CONTENT[:CHUNK]
    server.obeys_range, server.breaks_after = False, [CHUNK]
    assert "sends no more" in refusal(server, path)


@pytest.mark.parametrize("part", [b"", b"damaged" + CONTENT[7:CHUNK], CONTENT + b"too long"])
def test_a_damaged_download_is_deleted_and_said(server: Behaviour, path: Path, part: bytes) -> None:
    leave_part(path, part)
    server.content = CONTENT if part else CONTENT[:-1] + b"?"
    message = refusal(server, path)
    assert "was damaged" in message
    assert MD5 in message
    assert [entry.name for entry in path.parent.iterdir()] == [".lock"]
    server.content = CONTENT
    assert get(server, path) == CONTENT


@pytest.mark.parametrize(
    ("status", "words"), [(404, "404 Not Found"), (503, "503 Service Unavailable")]
)
def test_a_server_that_refuses_is_quoted(
    server: Behaviour, path: Path, status: int, words: str
) -> None:
    server.status = status
    message = refusal(server, path)
    assert f"'{words}'" in message
    assert f"put the file at {path}" in message


def test_without_a_connection_the_place_for_the_file_is_told(server: Behaviour, path: Path) -> None:
    server.folder = "http://127.0.0.1:9"
    message = refusal(server, path)
    assert "no internet (" in message
    assert "refused" in message
    assert f"put the file at {path}" in message


def test_a_file_put_there_by_hand_is_used_if_it_is_the_right_one(
    server: Behaviour, path: Path
) -> None:
    path.parent.mkdir()
    path.write_bytes(CONTENT)
    assert get(server, path) == CONTENT
    path.write_bytes(b"another file")
    with pytest.raises(
        UserError, match=f"not the file that is published.*expected {MD5}.*delete it"
    ):
        fetch(Published("cells.npz", MD5, server.folder), path)
    assert path.read_bytes() == b"another file"
    assert server.ranges == []


def test_a_disk_without_room_is_told_before_anything_is_written(
    server: Behaviour, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 2**20})())
    assert "1 MB free" in refusal(server, path)
    assert [entry.name for entry in path.parent.iterdir()] == [".lock"]


def test_published_data_sets_have_names() -> None:
    assert find_published("bloodmnist:64") == PUBLISHED["bloodmnist:64"]
    assert find_published("training_set.npz") is None
    with pytest.raises(UserError, match="'bloodmnist:99'; known are bloodmnist, bloodmnist:64"):
        find_published("bloodmnist:99")
    assert len({published.md5 for published in PUBLISHED.values()}) == len(PUBLISHED)
