"""The plots and the page of a study, from one trial or many."""

from pathlib import Path

import matplotlib
import numpy as np
import optuna
import pandas as pd
import pytest
from optuna.trial import TrialState, create_trial
from PIL import Image

from competition.search.report import write_report
from competition.search.rounds import HEAD_SPACE
from competition.search.study import suggest


def make_study(count: int, spread: float = 1.0) -> optuna.Study:
    """Return a study whose score falls with l2, times `spread`."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0), direction="maximize")
    for _ in range(count):
        trial = study.ask()
        settings = suggest(trial, HEAD_SPACE)
        study.tell(trial, 0.9 - spread * settings["model.l2"])
    return study


@pytest.mark.parametrize("count", [1, 3, 30])
def test_a_study_of_any_size_has_a_table_a_page_and_plots(count: int, tmp_path: Path) -> None:
    study = make_study(count)
    write_report(study, tmp_path, "tiny_cnn_head")
    table = pd.read_csv(tmp_path / "tiny_cnn_head_trials.csv")
    assert list(table["value"]) == [trial.value for trial in study.trials]
    assert {f"params_{key}" for key in HEAD_SPACE} <= set(table)
    page = (tmp_path / "tiny_cnn_head.md").read_text()
    assert f"# tiny cnn head\n\n0 running, {count} complete, 0 pruned, 0 fail, 0 waiting; " in page
    assert page.count("- trial ") == min(count, 10)
    first = page.index("- trial ")
    best = study.best_trial
    assert page[first:].startswith(
        f"- trial {best.number}: {best.value:.4f} in 0 s with head_units"
    )
    plots = ["history", "slice"] + ["importance", "parallel"] * (count == 30)
    files = sorted(tmp_path.glob("*.png"))
    assert [file.name for file in files] == sorted(f"tiny_cnn_head_{name}.png" for name in plots)
    for file in files:
        image = np.asarray(Image.open(file).convert("L"))
        assert f"({file.name})" in page
        assert 0.001 < (image < 128).mean() < 0.9


def test_a_study_whose_scores_are_all_equal_has_its_plots(tmp_path: Path) -> None:
    write_report(make_study(30, spread=0.0), tmp_path, "tiny_cnn_head")
    assert len(list(tmp_path.glob("*.png"))) == 4


def test_a_study_without_a_score_has_a_table_and_a_page(tmp_path: Path) -> None:
    write_report(make_study(0), tmp_path, "tiny_cnn_head")
    assert "0 complete" in (tmp_path / "tiny_cnn_head.md").read_text()
    assert (tmp_path / "tiny_cnn_head_trials.csv").is_file()
    assert list(tmp_path.glob("*.png")) == []


def test_failures_are_told_with_their_reasons(tmp_path: Path) -> None:
    study = make_study(2)
    for reason in ("The loss became NaN.", "The loss became NaN.", "no memory", None):
        attributes = {"reason": reason} if reason else {}
        study.add_trial(create_trial(state=TrialState.FAIL, user_attrs=attributes))
    study.add_trial(create_trial(state=TrialState.PRUNED, intermediate_values={1: 0.1}, value=0.1))
    write_report(study, tmp_path, "tiny_cnn_head")
    page = (tmp_path / "tiny_cnn_head.md").read_text()
    assert "0 running, 2 complete, 1 pruned, 4 fail, 0 waiting" in page
    assert page.count("- failed: The loss became NaN.") == 1
    assert page.count("- failed: no memory") == 1
    assert page.count("- failed:") == 2


def test_the_style_of_figures_that_come_later_is_as_it_was(tmp_path: Path) -> None:
    before = dict(matplotlib.rcParams)
    write_report(make_study(3), tmp_path, "tiny_cnn_head")
    kept = dict(matplotlib.rcParams)
    assert {key for key in before if before[key] != kept[key]} <= {"backend"}
