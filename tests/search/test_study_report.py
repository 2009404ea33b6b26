"""The figure and the page of a study, from one trial or many."""

import datetime
from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState, create_trial
from PIL import Image

from competition.search.rounds import SearchJob
from competition.search.study_report import _seconds_of_work, write_report
from tests.study_process import make_job

START = datetime.datetime(2026, 1, 31, 12)


def make_study(job: SearchJob, count: int, spread: float = 1.0) -> optuna.Study:
    """Return a study whose trials took a minute each; the score falls with l2, times `spread`."""
    study = optuna.create_study(direction="maximize")
    generator = np.random.default_rng(0)
    for number in range(count):
        asked = study.ask()
        for key, options in job.space.items():
            if isinstance(options[-1], bool):
                asked.suggest_float(key, options[0], options[1], log=options[2])
            else:
                asked.suggest_categorical(key, options)
        study.tell(asked, 0.9 - spread * (asked.params["model.l2"] + 1e-4 * generator.random()))
        trial = study._storage.get_all_trials(study._study_id, deepcopy=False)[number]
        trial.datetime_start = START + datetime.timedelta(minutes=number)
        trial.datetime_complete = trial.datetime_start + datetime.timedelta(minutes=1)
    return study


@pytest.mark.parametrize("count", [1, 3, 30])
def test_a_study_of_any_size_has_a_figure_and_a_page(count: int, tmp_path: Path) -> None:
    job = make_job(tmp_path)
    study = make_study(job, count)
    write_report(study, job)
    picture = np.asarray(Image.open(tmp_path / "tiny_cnn.png").convert("RGB"))
    assert picture.shape == (1440, 1680, 3)
    assert (picture[:700] < 128).any(axis=(1, 2)).mean() > 0.3
    page = (tmp_path / "tiny_cnn.md").read_text()
    assert f"Best of {count} complete trials: number {study.best_trial.number}" in page
    assert f"selection score {study.best_value:.4f} (clean+revealed)" in page
    assert page.count("| 1 min 00 s |") == min(count, 10)
    assert f"together took {count} min 00 s" in page


def test_a_study_whose_scores_are_all_equal_has_a_figure(tmp_path: Path) -> None:
    job = make_job(tmp_path)
    write_report(make_study(job, 20, spread=0.0), job)
    assert (tmp_path / "tiny_cnn.png").is_file()


def test_failures_are_counted_with_their_reasons_and_interruptions_beside_them(
    tmp_path: Path,
) -> None:
    job = make_job(tmp_path)
    study = make_study(job, 2)
    for attributes in (
        {"reason": "The loss became NaN."},
        {"reason": "The loss became NaN."},
        {},
        {"surplus": True},
    ):
        study.add_trial(create_trial(state=TrialState.FAIL, user_attrs=attributes))
    study.add_trial(create_trial(state=TrialState.PRUNED, intermediate_values={1: 0.1}, value=0.1))
    write_report(study, job)
    page = (tmp_path / "tiny_cnn.md").read_text()
    assert "| failed: The loss became NaN. | 2 |" in page
    assert "| interrupted, and tried again | 1 |" in page
    assert "| pruned | 1 |" in page


def test_pauses_are_left_out_of_the_time_that_trials_took(tmp_path: Path) -> None:
    trials = make_study(make_job(tmp_path), 3).get_trials()
    trials[1].datetime_start = START  # beside the first, and longer
    trials[2].datetime_start = START + datetime.timedelta(hours=9)
    trials[2].datetime_complete = START + datetime.timedelta(hours=9, minutes=1)
    assert _seconds_of_work(trials) == {0: 60, 1: 120, 2: 180}
