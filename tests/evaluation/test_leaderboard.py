"""Rows come from the runs' files; ranks compare only rows of the same splits."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from competition.common.errors import UserError
from competition.common.files import write_json
from competition.evaluation.leaderboard import (
    COLUMNS,
    read_rows,
    record_public_score,
    write_leaderboard,
)

ACCURACIES = {"clean": 0.95, "revealed": 0.85, "clean TTA": 0.96, "revealed TTA": 0.9}


def make_run(
    runs: Path,
    name: str,
    selection: float,
    splits: str = "a",
    accuracies: dict[str, float] = ACCURACIES,
    metric: str = "accuracy",
    **facts: Any,
) -> None:
    """Write the files of a run. accuracies: on the test, by name. facts: more of metrics.json.

    metric: what `accuracies` are values of.
    """
    f1 = {"f1_weighted": 0.89, "f1_macro": 0.8, "balanced_accuracy": 0.85}
    versions: dict[str, Any] = {}
    for key, accuracy in accuracies.items():
        version, _, augmented = key.partition(" ")
        scores = {
            "accuracy": 0.5,
            metric: accuracy,
            "interval": [accuracy - 0.02, accuracy + 0.02],
            **f1,
        }
        versions.setdefault(version, {})["augmented" if augmented else "plain"] = scores
    metrics = {
        "validation": {version: {"plain": kinds["plain"]} for version, kinds in versions.items()},
        "test": versions,
        "selection_score": selection,
        "milliseconds": 2.0,
        "parameters": 1234,
        "test_looks": 1,
        "distortion": "d",
        "zip_megabytes": 2.5,
    }
    if metric != "accuracy":
        metrics["metric"] = metric
    write_json(runs / name / "metrics.json", metrics | facts)
    facts = {"network": {"builder": "tiny"}, "weights": "random", "splits": splits}
    write_json(runs / name / "config.json", facts)
    write_json(runs / name / "environment.json", {"device": "CPU"})


def test_runs_are_ranked_by_the_selection_score(tmp_path: Path) -> None:
    for name, selection in (("one_001", 0.7), ("two_001", 0.9), ("three_001", 0.8)):
        make_run(tmp_path, name, selection)
    table = read_rows(tmp_path)
    assert table["run"].tolist() == ["two_001", "three_001", "one_001"]
    assert table["rank"].tolist() == [1, 2, 3]


def test_runs_of_other_splits_have_ranks_of_their_own(tmp_path: Path) -> None:
    make_run(tmp_path, "one_001", 0.7, splits="a")
    make_run(tmp_path, "two_001", 0.9, splits="b")
    make_run(tmp_path, "three_001", 0.8, splits="a")
    table = read_rows(tmp_path)
    assert table[["run", "rank"]].to_numpy().tolist() == [
        ["three_001", 1],
        ["one_001", 2],
        ["two_001", 1],
    ]


def test_runs_that_were_selected_otherwise_have_ranks_of_their_own(tmp_path: Path) -> None:
    make_run(tmp_path, "one_001", 0.7)  # scored before there was a choice
    make_run(tmp_path, "two_001", 0.9, select_by="clean")
    make_run(tmp_path, "three_001", 0.8, select_by="clean+revealed")
    table = read_rows(tmp_path)
    assert table[["run", "rank"]].to_numpy().tolist() == [
        ["two_001", 1],
        ["three_001", 1],
        ["one_001", 2],
    ]
    text = write_leaderboard(tmp_path, tmp_path)[1]
    assert "clean or clean+revealed" in text
    assert (tmp_path / "leaderboard.md").read_text().startswith("| run | weights | selection |")
    assert text.splitlines()[0].split()[-2:] == ["select", "by"]


def test_log_loss_ranks_the_least_first_and_is_shown_as_it_is(tmp_path: Path) -> None:
    losses = {"clean": 0.25, "revealed": 0.5, "revealed TTA": 0.4}
    make_run(tmp_path, "mobilenetv3large_001", -0.5, accuracies=losses, metric="log_loss")
    make_run(tmp_path, "mobilenetv3large_002", -0.3, accuracies=losses, metric="log_loss")
    record_public_score(tmp_path, "mobilenetv3large_002", 1.25)
    table = read_rows(tmp_path)
    assert table["run"].tolist() == ["mobilenetv3large_002", "mobilenetv3large_001"]
    assert table["selection"].tolist() == [0.3, 0.5]
    assert table["expected, 95 %"][0] == "0.4000 (0.3800-0.4200)"
    lines = write_leaderboard(tmp_path, tmp_path)[1].splitlines()
    head = ["run", "weights", "selection", "clean", "revealed", "expected", "public"]
    assert lines[0].split() == head
    row = ["0.3000", "0.2500", "0.5000", "0.4000", "(0.3800-0.4200)", "1.2500"]
    assert lines[1].split()[2:] == row
    assert "scores: log-loss, less is better." in lines
    assert max(map(len, lines)) <= 100


def test_runs_of_another_metric_have_ranks_of_their_own_and_are_told_apart(tmp_path: Path) -> None:
    make_run(tmp_path, "one_001", 0.7)
    make_run(tmp_path, "two_001", 0.8, metric="quadratic_kappa")
    assert read_rows(tmp_path)["rank"].tolist() == [1, 1]
    lines = write_leaderboard(tmp_path, tmp_path)[1].splitlines()
    assert lines[0].split()[-1] == "metric"
    assert [line.split()[2] for line in lines[1:3]] == ["70.0", "0.8000"]
    assert "scores: accuracy in percent; quadratic weighted kappa." in lines
    record_public_score(tmp_path, "two_001", -0.1)
    with pytest.raises(UserError, match="expected a share from 0 to 1"):
        record_public_score(tmp_path, "one_001", -0.1)


def test_the_expectation_stands_beside_the_accuracy_under_each_profile(tmp_path: Path) -> None:
    make_run(tmp_path, "one_001", 0.7, accuracies=ACCURACIES | {"microscope": 0.6, "unseen": 0.97})
    row = read_rows(tmp_path).iloc[0]
    assert (row["test microscope"], row["val unseen"]) == (0.6, 0.97)
    assert (row["lowest"], row["highest"]) == (0.6, 0.97)
    assert row["gap"] == pytest.approx(0.95 - 0.85)
    head, first = write_leaderboard(tmp_path, tmp_path)[1].splitlines()[:2]
    assert head.split() == ["run", "weights", "selection", "clean", "revealed", "expected"]
    assert first.split()[2:] == ["70.0", "95.0", "85.0", "90.0", "(88.0-92.0)"]


def test_an_accuracy_with_one_view_and_one_with_several_are_two_columns(tmp_path: Path) -> None:
    make_run(tmp_path, "one_001", 0.7)
    row = read_rows(tmp_path).iloc[0]
    assert (row["test revealed"], row["test revealed TTA"], row["expected"]) == (0.85, 0.9, 0.9)
    assert (row["test clean"], row["test clean TTA"]) == (0.95, 0.96)
    names = [column.name for column in COLUMNS]
    assert len(names) == len(set(names))


def test_a_run_that_was_scored_in_part_has_empty_cells_and_a_notice(tmp_path: Path) -> None:
    few = {"revealed": 0.85}
    left_out = ["test clean", "test revealed TTA"]
    make_run(tmp_path, "one_001", 0.7, accuracies=few, milliseconds=None, not_scored=left_out)
    make_run(tmp_path, "two_001", 0.8, accuracies=ACCURACIES | {"unseen": 0.8}, not_scored=[])
    whole, part = (row for _, row in read_rows(tmp_path).iterrows())
    assert (part["lowest"], part["highest"], part["expected"]) == (0.85, 0.85, 0.85)
    assert (part["expected low"], part["expected high"]) == pytest.approx((0.83, 0.87))
    missing = ["test clean", "gap", "test unseen", "test revealed TTA", "F1 macro", "ms/image"]
    assert part[missing].isna().all()
    assert part["not scored"] == "test clean, test revealed TTA"
    assert pd.isna(whole["not scored"])
    text = write_leaderboard(tmp_path, tmp_path)[1]
    assert text.splitlines()[2].split()[2:] == ["70.0", "-", "85.0", "85.0", "(83.0-87.0)"]
    assert "one_001: NOT SCORED for want of time: test clean, test revealed TTA" in text
    assert "two_001: NOT" not in text


def test_a_column_without_any_value_is_not_shown(tmp_path: Path) -> None:
    make_run(tmp_path, "one_001", 0.7)
    head = write_leaderboard(tmp_path, tmp_path)[1].splitlines()[0]
    assert not {"microscope", "public", "error"} & set(head.split())


def test_the_terminals_table_has_seven_columns_and_fits_a_terminal(tmp_path: Path) -> None:
    accuracies = ACCURACIES | {"microscope": 0.6, "unseen": 0.97}
    make_run(tmp_path, "mobilenetv3large_001", 0.7, accuracies=accuracies)
    record_public_score(tmp_path, "mobilenetv3large_001", 0.82)
    lines = write_leaderboard(tmp_path, tmp_path)[1].splitlines()
    assert max(map(len, lines)) <= 100
    assert sum(bool(column.title) and not column.if_different for column in COLUMNS) == 7


def test_a_public_score_shows_the_error_of_the_expectation(tmp_path: Path) -> None:
    make_run(tmp_path, "one_001", 0.7)
    record_public_score(tmp_path, "one_001", 0.82)
    row = read_rows(tmp_path).iloc[0]
    assert row["error"] == pytest.approx(0.9 - 0.82)
    with pytest.raises(UserError, match="known are one_001"):
        record_public_score(tmp_path, "one_002", 0.82)
    with pytest.raises(UserError, match="from 0 to 1"):
        record_public_score(tmp_path, "one_001", 82)


def test_an_empty_leaderboard_says_so(tmp_path: Path) -> None:
    assert "no run was scored" in write_leaderboard(tmp_path, tmp_path)[1]
