"""Overrides: the user's word wins and reaches later stages; mistakes are told by line."""

import csv
from pathlib import Path

import numpy as np
import pytest

from competition import command_line
from competition.cleaning import clean as cleaning
from competition.cleaning.clean import clean, cleaning_inputs
from competition.cleaning.issues import Issue, apply_overrides, make_issue, read_overrides
from competition.common.errors import UserError
from competition.common.files import read_arrays
from competition.config import Config, with_settings
from competition.data.arrays import Dataset
from tests.factories import draw_blobs

CONFIG = with_settings(Config(), {"cleaning.iterations": 250})
HEADER = "index,action,label\n"


def make_dataset() -> Dataset:
    """Return 60 images of which 5 and 8 are equal, and 20 is blank."""
    images, labels = draw_blobs(60, 3, seed=0)
    images[8], images[20] = images[5], 9
    return Dataset(images, labels.astype(np.int64), ("round", "oval", "3 lobes"))


def write(folder: Path, text: str) -> Path:
    path = folder / "overrides.csv"
    path.write_text(text, encoding="utf-8")
    return path


def override(index: int, action: str, label: int = -1, reason: str = "") -> Issue:
    return make_issue(index, "override", reason=reason, suggestion=label, action=action)


def rows(folder: Path, index: int) -> dict[str, str]:
    """Return the action of each issue of an image."""
    with (folder / "issues.csv").open(encoding="utf-8") as stream:
        return {
            row["kind"]: row["action"]
            for row in csv.DictReader(stream)
            if int(row["index"]) == index
        }


def test_rows_are_read_by_class_name_or_number(tmp_path: Path) -> None:
    path = write(
        tmp_path, HEADER + "1,keep,\n 2 , drop \n3,relabel,oval\n\n4,relabel,2\n3,relabel,1\n"
    )
    assert read_overrides(path, make_dataset()) == [
        override(1, "keep"),
        override(2, "drop"),
        override(3, "relabel", 1, "overrides.csv says oval, not round"),
        override(4, "relabel", 2, "overrides.csv says 3 lobes, not oval"),
    ]


def test_a_table_program_s_file_and_pasted_rows_of_issues_are_read(tmp_path: Path) -> None:
    text = "\ufeffindex,label,issue,action,score\r\n20,2,blank,keep,1.0\r\n"
    assert read_overrides(write(tmp_path, text), make_dataset()) == [override(20, "keep")]


def test_a_pasted_row_relabels_to_its_suggestion_unless_another_label_is_given(
    tmp_path: Path,
) -> None:
    header = "index,label,kind,action,score,reason,group,suggestion\n"
    rows = "3,0,wrong_label,relabel,0.9,perhaps 3 lobes,3,2\n4,0,wrong_label,relabel,0.9,,4,2\n"
    assert read_overrides(write(tmp_path, header + rows), make_dataset()) == [
        override(3, "relabel", 2, "overrides.csv says 3 lobes, not round"),
        override(4, "relabel", 0, "overrides.csv says round, not oval"),
    ]


def test_no_file_overrules_nothing(tmp_path: Path) -> None:
    assert read_overrides(tmp_path / "overrides.csv", make_dataset()) == []


def test_where_classes_are_named_by_numbers_the_name_wins(tmp_path: Path) -> None:
    dataset = Dataset(np.zeros((3, 8, 8, 3), np.uint8), np.arange(3), ("2", "1", "0"))
    assert read_overrides(write(tmp_path, HEADER + "1,relabel,2\n"), dataset) == [
        override(1, "relabel", 0, "overrides.csv says 2, not 1")
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            HEADER + "1,keep,\n2,remove,\n",
            "line 3, has the action 'remove'; expected keep, drop or relabel",
        ),
        (HEADER + "60,keep,\n", "line 2, has the index '60'; expected a whole number from 0 to 59"),
        (HEADER + "-1,keep,\n", "line 2, has the index '-1'"),
        (HEADER + "1.5,keep,\n", "line 2, has the index '1.5'"),
        (HEADER + ",keep,\n", "line 2, has the index ''"),
        (
            HEADER + "1,relabel,square\n",
            "line 2, relabels to 'square'; expected one of the classes round, oval, 3 lobes",
        ),
        (HEADER + "3,relabel,round\n", "relabels image 3 to round, which is its label"),
        (HEADER + "1,relabel,3\n", "line 2, relabels to '3'"),
        (HEADER + "1,relabel\n", "line 2, relabels to ''"),
        (
            HEADER + "1,keep,\n2,keep,\n1,drop,\n",
            "line 4, names image 1 again with another action",
        ),
        (HEADER + "1,relabel,0\n1,relabel,2\n", "line 3, names image 1 again"),
        (
            "index;action;label\n1;keep;\n",
            "line 1, lacks the column 'index'; .* separated by commas",
        ),
        ("index,label\n1,2\n", "line 1, lacks the column 'action'"),
        ("", "line 1, lacks the column"),
        (HEADER + "1,keep," + 140_000 * "x", "field larger than field limit"),
    ],
)
def test_a_mistake_is_told_with_its_line(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        read_overrides(write(tmp_path, text), make_dataset())


def test_what_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "overrides.csv").write_bytes(b"index,action\n\xff\xfe")
    with pytest.raises(UserError, match="save it as CSV in UTF-8"):
        read_overrides(tmp_path / "overrides.csv", make_dataset())


def test_only_the_overruled_image_s_issues_change() -> None:
    issues = [make_issue(index, "noise") for index in (1, 2)]
    ruled = apply_overrides(issues, [override(2, "relabel", 0)])
    assert [(row.index, row.kind, row.action, row.suggestion) for row in ruled] == [
        (1, "noise", "drop", -1),
        (2, "noise", "keep", -1),
        (2, "override", "relabel", 0),
    ]


def test_the_user_s_word_wins_over_what_cleaning_found(tmp_path: Path) -> None:
    dataset = make_dataset()
    assert np.flatnonzero(~clean(dataset, tmp_path, CONFIG, None).keep).tolist() == [8, 20]
    write(tmp_path, HEADER + "8,keep,\n20,relabel,round\n33,drop,\n40,relabel,round\n")
    cleaned = clean(dataset, tmp_path, CONFIG, None)
    assert np.flatnonzero(~cleaned.keep).tolist() == [33]
    labels = cleaned.dataset.labels
    assert labels.dtype == np.int64
    assert np.flatnonzero(labels != dataset.labels).tolist() == [20, 40]
    assert labels[[20, 40]].tolist() == [0, 0]
    np.testing.assert_array_equal(cleaned.training_labels, labels)
    assert rows(tmp_path, 8) == {"exact_copy": "keep", "override": "keep"}
    assert rows(tmp_path, 33) == {"override": "drop"}
    assert '"override"' in (tmp_path / "report.html").read_text("utf-8")


def test_changed_overrides_need_no_new_map_and_leave_no_trace_when_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = make_dataset()
    clean(dataset, tmp_path, CONFIG, None)
    inputs = cleaning_inputs(dataset, tmp_path, CONFIG, None)
    issues = (tmp_path / "issues.csv").read_text()
    with monkeypatch.context() as patched:
        patched.setattr(cleaning, "embed", None)
        path = write(tmp_path, HEADER + "0,drop,\n")
        assert cleaning_inputs(dataset, tmp_path, CONFIG, None) != inputs
        assert not clean(dataset, tmp_path, CONFIG, None).keep[0]
        path.unlink()
        assert clean(dataset, tmp_path, CONFIG, None).keep[0]
        assert (tmp_path / "issues.csv").read_text() == issues
        with pytest.raises(TypeError):
            clean(dataset, tmp_path, CONFIG, None, force=True)
    for name in ("tsne.npz", "cleaned.npz"):
        (tmp_path / name).unlink()
    clean(dataset, tmp_path, CONFIG, None)
    assert set(read_arrays(tmp_path / "tsne.npz")) == {"coordinates", "groups"}


def test_a_mistake_stops_the_stage_before_its_long_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cleaning, "embed", None)
    write(tmp_path, HEADER + "0,away,\n")
    with pytest.raises(UserError, match="'away'"):
        clean(make_dataset(), tmp_path, CONFIG, None)


def test_a_relabelled_image_reaches_the_splits_and_another_relabelling_makes_others(
    tmp_path: Path,
) -> None:
    dataset = make_dataset()
    source, folder = tmp_path / "cells.npz", tmp_path / "data" / "cells"
    np.savez(source, images=dataset.images, labels=dataset.labels)
    command = ["--split", "--data", str(source), "--workdir", str(tmp_path), "--weights", "none"]
    assert command_line.main(command) == 0
    before = read_arrays(folder / "splits.npz")
    assert (folder / "balance.csv").read_text().splitlines()[1].split(",")[1:3] == ["20", "20"]
    write(folder, HEADER + "1,relabel,0\n4,relabel,0\n")
    assert command_line.main(command) == 0
    after = read_arrays(folder / "splits.npz")
    assert after["fingerprint"] != before["fingerprint"]
    assert (folder / "balance.csv").read_text().splitlines()[1].split(",")[1:3] == ["22", "22"]
