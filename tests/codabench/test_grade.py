"""A folder of submissions: one table, whatever some of them do."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from competition.codabench import grade as module
from competition.codabench.dry_run import Reference
from competition.codabench.grade import grade_zips
from competition.config import LimitsConfig
from tests.factories import IMAGES, PLAIN, write_zip

REFERENCE = Reference(np.arange(70) % 3, ("a", "b", "c"))
LIMITS = LimitsConfig(seconds=6, memory_megabytes=300, zip_megabytes=1)


def test_one_that_fails_stops_no_other_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    submissions, results = tmp_path / "submissions", tmp_path / "results"
    submissions.mkdir()
    write_zip(submissions / "a_slow.zip", {"model.py": "while True: pass"})
    write_zip(submissions / "b_zeros.zip", {"model.py": PLAIN})
    write_zip(
        submissions / "c_right.zip",
        {"model.py": PLAIN.replace("zeros(len(X), int)", "arange(len(X)) % 3")},
    )
    write_zip(submissions / "d_twin.zip", {"model.py": PLAIN + "\n"})
    (submissions / "e_broken.zip").write_bytes(b"no zip")
    table = grade_zips(submissions, IMAGES, REFERENCE, LIMITS, results)
    assert table["submission"].tolist() == [
        "c_right.zip",
        "b_zeros.zip",
        "d_twin.zip",
        "a_slow.zip",
        "e_broken.zip",
    ]
    assert table["rank"].tolist()[:3] == [1, 2, 2]
    assert table["rank"].isna().tolist()[3:] == [True, True]
    assert table["accuracy"].tolist()[:2] == pytest.approx([1, 24 / 70])
    assert table["reason"].isna().tolist()[:3] == [True] * 3
    assert "stopped after 6 s" in table["reason"][3]
    assert table["reason"][4].startswith("e_broken.zip cannot be unzipped")
    assert (
        pd.read_csv(results / "grades.csv")["submission"].tolist() == table["submission"].tolist()
    )

    # Called again, it runs what is new, and nothing else.
    ran: list[str] = []
    original = vars(module)["dry_run"]

    def noted(path: Path, *rest: Any) -> Any:
        ran.append(path.name)
        return original(path, *rest)

    monkeypatch.setattr(module, "dry_run", noted)
    write_zip(submissions / "f_new.zip", {"model.py": PLAIN + "\n\n"})
    again = grade_zips(submissions, IMAGES, REFERENCE, LIMITS, results)
    assert again["submission"].tolist()[1:4] == ["b_zeros.zip", "d_twin.zip", "f_new.zip"]
    assert ran == ["f_new.zip"]
