"""Files: whole or not at all, one run per folder, hashes that stay, nothing unpickled."""

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from competition.common.errors import UserError
from competition.common.files import (
    digest,
    exclusive,
    mark_done,
    read_arrays,
    read_json,
    replacing,
    require_disk,
    up_to_date,
    write_arrays,
    write_json,
    write_text,
)


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def write_half(path: Path) -> None:
    with replacing(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError("cut off")


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("old")
    with pytest.raises(RuntimeError):
        write_half(tmp_path / "table.csv")
    assert (tmp_path / "table.csv").read_text() == "old"
    assert names(tmp_path) == ["table.csv"]


def test_a_failed_first_write_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError):
        write_half(tmp_path / "table.csv")
    assert names(tmp_path) == []


def test_a_file_appears_only_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "table.csv"
    with replacing(path) as temporary:
        temporary.write_text("new")
        assert not path.exists()
        assert temporary.suffix == ".csv"
        assert temporary.parent == path.parent
    assert path.read_text() == "new"
    assert names(path.parent) == ["table.csv"]


def test_text_json_and_arrays_come_back(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "Zürich")
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == "Zürich"
    write_json(tmp_path / "a.json", {"b": [1, 2.5, None]})
    assert read_json(tmp_path / "a.json") == {"b": [1, 2.5, None]}
    write_arrays(tmp_path / "a.npz", x=np.arange(3), name=np.array("text"))
    arrays = read_arrays(tmp_path / "a.npz")
    np.testing.assert_array_equal(arrays["x"], [0, 1, 2])
    assert str(arrays["name"]) == "text"


@pytest.mark.parametrize("content", [None, "", "{", "\x00"])
def test_json_that_cannot_be_read_is_named(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "marker.json").write_text(content)
    with pytest.raises(UserError, match=r"marker.json cannot be read .*delete it"):
        read_json(tmp_path / "marker.json")


def test_arrays_are_never_unpickled(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "executed",))

    np.savez(tmp_path / "trap.npz", x=np.array([Trap()], dtype=object))
    with pytest.raises(UserError, match=r"trap.npz cannot be read"):
        read_arrays(tmp_path / "trap.npz")
    assert names(tmp_path) == ["trap.npz"]


def test_missing_and_truncated_arrays_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a.npz cannot be read.*run the stage again"):
        read_arrays(tmp_path / "a.npz")
    write_arrays(tmp_path / "a.npz", x=np.arange(1000))
    content = (tmp_path / "a.npz").read_bytes()
    (tmp_path / "a.npz").write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=r"a.npz cannot be read"):
        read_arrays(tmp_path / "a.npz")


def test_a_digest_is_the_same_in_every_process_and_release() -> None:
    expected = hashlib.sha256(b"(2,)uint8" + bytes([1, 2]) + b'{"a": 1, "b": [2]}').hexdigest()[:16]
    assert digest(np.array([1, 2], np.uint8), {"b": [2], "a": 1}) == expected


def test_a_digest_sees_content_shape_type_and_order_but_not_memory_layout(tmp_path: Path) -> None:
    array = np.arange(6, dtype=np.int64).reshape(2, 3)
    others = [array + 1, array.reshape(3, 2), array.astype(np.int32), array.ravel()]
    assert len({digest(array), *(digest(other) for other in others)}) == 5
    assert digest(np.asfortranarray(array)) == digest(array)
    assert digest(array[:, ::2]) == digest(array[:, ::2].copy())
    assert digest(array, others[0]) != digest(others[0], array)


def test_a_digest_of_a_path_is_that_of_the_file_s_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("same")
    (tmp_path / "b").write_text("same")
    first = digest(tmp_path / "a")
    assert digest(tmp_path / "b") == first
    (tmp_path / "b").write_text("else")
    assert digest(tmp_path / "b") != first


def test_a_stage_is_up_to_date_only_with_its_marker_and_the_same_inputs(tmp_path: Path) -> None:
    marker = tmp_path / "stage.json"
    assert not up_to_date(marker, "abc")
    mark_done(marker, "abc", pictures=7)
    assert up_to_date(marker, "abc")
    assert not up_to_date(marker, "abd")
    assert not up_to_date(marker, "abc", force=True)
    assert read_json(marker)["pictures"] == 7


def test_a_folder_is_held_by_one_handle_at_a_time(tmp_path: Path) -> None:
    with (
        exclusive(tmp_path / "new"),
        pytest.raises(UserError, match=r"Another run is at work in .*new; wait"),
        exclusive(tmp_path / "new"),
    ):
        pytest.fail("two held the folder")
    with exclusive(tmp_path / "new"):
        pass


def test_a_folder_is_held_against_a_second_process(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from competition.common.files import exclusive\n"
        "with exclusive(Path(sys.argv[1])): print('held')"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    root = Path(__file__).parents[2]
    with exclusive(tmp_path):
        refused = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert refused.returncode != 0
    assert "Another run is at work" in refused.stderr
    assert (
        subprocess.run(command, cwd=root, capture_output=True, text=True, check=False).stdout
        == "held\n"
    )


def test_a_folder_is_free_again_after_a_failure(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), exclusive(tmp_path):
        raise RuntimeError("cut off")
    with exclusive(tmp_path):
        pass


def test_a_full_disk_is_told_before_the_work(tmp_path: Path) -> None:
    require_disk(tmp_path / "not" / "there" / "yet", 0.001)
    with pytest.raises(UserError, match=r"MB free.*about 1000000000000 MB; make room"):
        require_disk(tmp_path / "not" / "there" / "yet", 1e12)
    assert names(tmp_path) == []
