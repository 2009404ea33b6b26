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
from competition.metric import METRICS
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
    assert table["reason"][4].startswith("cannot be unzipped")
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


def test_log_loss_ranks_the_least_first(tmp_path: Path) -> None:
    submissions = tmp_path / "submissions"
    submissions.mkdir()
    sure = (
        PLAIN + "    def predict_proba(self, X):\n        return np.tile([P, 1 - P], (len(X), 1))\n"
    )
    for name, share in (("a", "0.9"), ("b", "0.6")):
        write_zip(
            submissions / f"{name}.zip",
            {"model.py": sure.replace("P,", f"{share},").replace("- P", f"- {share}")},
        )
    write_zip(submissions / "c_labels.zip", {"model.py": PLAIN})
    reference = Reference(np.arange(70) % 2, ("a", "b"), metric=METRICS["log_loss"])
    table = grade_zips(submissions, IMAGES, reference, LIMITS, tmp_path / "results")
    assert table["submission"].tolist() == ["b.zip", "a.zip", "c_labels.zip"]
    assert table["rank"].tolist()[:2] == [1, 2]
    assert table["log_loss"].tolist()[0] == pytest.approx(-np.log([0.6, 0.4]).mean())
    assert "has no predict_proba" in table["reason"][2]
