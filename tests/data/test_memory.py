"""The free memory is the least of what machine, container and process have left."""

from pathlib import Path

import psutil
import pytest

from competition.data import memory


def test_the_limit_of_a_container_counts_without_what_it_only_caches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "CONTROL_GROUP", tmp_path)
    unlimited = memory.find_free_memory()
    assert 0 < unlimited <= psutil.virtual_memory().total
    (tmp_path / "memory.current").write_text("700\n")
    (tmp_path / "memory.stat").write_text("anon 1\ninactive_file 200\nslab 5\n")
    (tmp_path / "memory.max").write_text("1000\n")
    assert memory.find_free_memory() == 500
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.find_free_memory() > 500
