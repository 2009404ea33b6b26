"""The harness in Python: what a call returns, and that --predict and --like serve its runs."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from competition import command_line, run
from competition.api import Result
from competition.common import console
from competition.common.errors import UserError
from tests.factories import draw_blobs

SETTINGS = {
    "model.head_units": 16,
    "training.batch_size": 8,
    "training.frozen_epochs": 0,
    "training.fine_tuning_epochs": 6,
    "training.head_learning_rate": 0.01,
    "evaluation.tta_views": 1,
}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of images without labels and a sample submission beside it."""
    folder = tmp_path_factory.mktemp("test") / "images"
    folder.mkdir()
    for index, image in enumerate(draw_blobs(9, 3, seed=8)[0]):
        Image.fromarray(image).save(folder / f"{index}.png")
    zeros = [0] * 9
    sample = {"id": range(8, -1, -1), "class 2": zeros, "class 0": zeros, "class 1": zeros}
    pd.DataFrame(sample).to_csv(folder.with_name("sample.csv"), index=False)
    return folder


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory, blobs_path: Path, images: Path) -> Result:
    """What training, packaging and answering made."""
    return run(
        data=blobs_path,
        train=True,
        predict=images,
        like=[str(images.with_name("sample.csv"))],
        backbone=["tiny_cnn"],
        weights="none",
        workdir=tmp_path_factory.mktemp("work"),
        set=SETTINGS,
    )


def test_a_result_has_the_leaderboard_the_report_and_the_submission(result: Result) -> None:
    assert result.leaderboard["run"][0] == "tiny_cnn_001"
    assert result.report.name == "report.html"
    assert result.report._repr_html_().startswith("<iframe srcdoc=")
    assert result.submission is not None
    assert result.submission.name == "tiny_cnn_001.zip"
    assert "tiny_cnn_001" in result._repr_html_()


def test_a_result_answers_images_as_the_written_csv_does(result: Result, images: Path) -> None:
    shown = np.stack([np.asarray(Image.open(images / f"{index}.png")) for index in range(9)])
    table = pd.read_csv(result.paths.submissions / "tiny_cnn_001.csv")
    assert list(table.columns) == ["id", "class 2", "class 0", "class 1"]
    assert table["id"].tolist() == list(range(8, -1, -1))
    written = table[list(result.class_names)].to_numpy()[::-1]
    np.testing.assert_allclose(result.predict_proba(shown), written, atol=1e-5)
    assert result.predict(shown).tolist() == written.argmax(axis=1).tolist()


def test_a_run_like_another_changes_one_setting_alone(result: Result, blobs_path: Path) -> None:
    workdir = result.paths.root
    run(data=blobs_path, train=True, like=["tiny_cnn_001"], workdir=workdir, set={"model.l2": 0.01})
    known = [
        json.loads((result.paths.runs / f"tiny_cnn_{number:03d}" / "config.json").read_text())
        for number in (1, 2)
    ]
    first, second = (facts["settings"] for facts in known)
    assert {key for key in first if first[key] != second[key]} == {"model.l2"}
    assert sum(known[0]["class_shares"]) == pytest.approx(1)
    file = result.paths.runs / "tiny_cnn_002" / "settings.toml"
    again = run(data=blobs_path, train=True, config=file, workdir=workdir)
    assert len(again.leaderboard.dropna(subset=["splits"])) == 2


def test_a_packaged_zip_answers_without_data_or_runs(
    result: Result, images: Path, tmp_path: Path
) -> None:
    answered = run(predict=images, from_zip=result.submission, name="elsewhere", workdir=tmp_path)
    assert answered.leaderboard.empty
    predictions = pd.read_csv(tmp_path / "submissions" / "elsewhere" / "tiny_cnn_001.csv")
    assert predictions["id"].tolist() == [f"{index}.png" for index in range(9)]
    assert set(predictions["label"]) <= {0, 1, 2}


def test_a_script_reads_where_the_predictions_are(
    result: Result,
    images: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(console._here, "quiet", False)  # and again after this test
    given = ["--predict", str(images), "--from", str(result.submission), "--json"]
    assert command_line.main([*given, "--name", "elsewhere", "--workdir", str(tmp_path)]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["name"] == "elsewhere"
    assert len(pd.read_csv(facts["predictions"])) == 9


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({}, "names nothing to do; add search=True"),
        ({"serach": True, "train": True}, "Unknown option 'serach'; did you mean 'search'"),
        ({"search": True, "time_budget": "fast"}, "expected a duration as 90m"),
        ({"train": True, "set": {"training.batch": 3}}, "Unknown setting 'training.batch'"),
    ],
)
def test_a_mistake_is_told_as_the_command_line_tells_it(
    options: dict[str, object], sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence):
        run(**options)  # type: ignore[arg-type]


def test_a_result_without_a_submission_says_how_to_make_one(result: Result, tmp_path: Path) -> None:
    empty = Result(replace(result.paths, root=tmp_path))
    with pytest.raises(UserError, match=r"no submission yet; add package=True"):
        empty.predict(np.zeros((1, 8, 8, 3), np.uint8))
