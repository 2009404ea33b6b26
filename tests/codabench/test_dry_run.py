"""The server at home: both programs in their containers' folders, with good and bad submissions."""

import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from competition.codabench.dry_run import (
    COMMANDS,
    PROGRAMS,
    Reference,
    dry_run,
    run_ingestion,
    show_dry_run,
)
from competition.common.errors import CheckFailedError
from competition.config import Config, LimitsConfig
from competition.data.arrays import ScoredSet
from competition.distortion.profiles import PROFILE
from competition.metric import METRICS
from competition.paths import Paths
from competition.scoring import score_labels
from tests.factories import IMAGES, PLAIN, write_zip

LABELS = np.arange(70) % 3
NAMES = ("a", "b <i>", "c")


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        ({"model.py": PLAIN.replace("int)", "float)")}, "expected 70 integer labels"),
        ({"model.py": PLAIN.replace("len(X)", "3")}, "expected 70 integer labels"),
        ({"model.py": PLAIN.replace("len(X)", "(len(X), 3)")}, "expected 70 integer labels"),
        ({"model.py": PLAIN.replace("Model", "Modell")}, "no class Model"),
        ({"model.py": "import competition"}, "No module named 'competition'"),
        ({"model.py": "raise RuntimeError('no such layer')"}, "no such layer"),
        ({"model.py": "while True: pass"}, "stopped after 2 s"),
        (
            {"model.py": "x = bytearray(400 << 20)\nimport time\ntime.sleep(9)"},
            "over the limit of 300 MB",
        ),
        ({"model.py": PLAIN + "        # " + "x" * 9 * 2**20}, "unpacks to over 4 MB"),
    ],
)
def test_bad_submissions_fail_with_a_reason(
    files: dict[str, str], sentence: str, tmp_path: Path
) -> None:
    seconds = 2 if sentence == "stopped after 2 s" else 60
    limits = LimitsConfig(seconds=seconds, memory_megabytes=300, zip_megabytes=1)
    with pytest.raises(CheckFailedError, match=sentence):
        run_ingestion(write_zip(tmp_path / "bad.zip", files), IMAGES, limits)


def test_answers_are_never_unpickled(tmp_path: Path) -> None:
    program = (
        "import atexit, sys, numpy as np\n"
        "out = sys.argv[sys.argv.index('--output') + 1] + '/predictions.npz'\n"
        "labels = np.array([print], object)\n"
        "atexit.register(lambda: np.savez(out, labels=labels, seconds=np.zeros(3)))\n"
    )
    with pytest.raises(CheckFailedError, match="'labels' is object"):
        run_ingestion(
            write_zip(tmp_path / "bad.zip", {"model.py": program + PLAIN}), IMAGES, LimitsConfig()
        )


def test_a_submission_finds_what_lies_beside_it_and_packaging_tries_it_elsewhere(
    tmp_path: Path,
) -> None:
    files = {"model.py": "import helper\nopen('helper.py').close()\n" + PLAIN, "helper.py": ""}
    zip_path = write_zip(tmp_path / "good.zip", files)
    predictions = run_ingestion(zip_path, IMAGES, LimitsConfig())
    assert predictions.labels.tolist() == [0] * 70
    with pytest.raises(CheckFailedError, match=r"No such file.*helper\.py"):
        run_ingestion(zip_path, IMAGES, LimitsConfig(), elsewhere=True)
    files["model.py"] = "import helper\n" + PLAIN
    predictions = run_ingestion(write_zip(zip_path, files), IMAGES, LimitsConfig(), elsewhere=True)
    assert predictions.labels.tolist() == [0] * 70


def test_a_dry_run_shows_what_the_server_would(tmp_path: Path) -> None:
    zip_path = write_zip(tmp_path / "good.zip", {"model.py": PLAIN})
    result = dry_run(zip_path, IMAGES, Reference(LABELS, NAMES), LimitsConfig())
    assert set(result.scores) == {"accuracy", "f1_macro", "f1_weighted", "duration"}
    assert result.scores["accuracy"] == pytest.approx(24 / 70)
    assert "70 images: model loaded in" in result.output
    assert "<td>24</td><td>0</td><td>0</td>" in result.page
    assert "b &lt;i&gt;" in result.page


def test_looks_at_the_test_are_counted_by_zip_and_others_are_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    zip_path = write_zip(tmp_path / "good.zip", {"model.py": PLAIN})
    paths = Paths(tmp_path, "cells")
    validation, test = (
        ScoredSet(name, {PROFILE: IMAGES}, LABELS, np.zeros(70, bool))
        for name in ("validation", "test")
    )
    data: Any = SimpleNamespace(validation=validation, test=test, class_names=NAMES)
    for on_test in (True, False, True):
        show_dry_run(zip_path, data, Config(), paths, on_test)
    output = capsys.readouterr().out
    assert "70 distorted images of the validation split" in output
    assert re.findall(r"look number (\d) at the test with good.zip", output) == ["1", "2"]
    assert "  accuracy     0.3429" in output
    assert "<td>24</td>" in (paths.submissions / "good.detailed_results.html").read_text()


def test_labels_out_of_range_cannot_be_scored(tmp_path: Path) -> None:
    zip_path = write_zip(
        tmp_path / "bad.zip", {"model.py": PLAIN.replace("zeros(len(X), int)", "full(len(X), 3)")}
    )
    with pytest.raises(CheckFailedError, match="expected 0 to 2"):
        dry_run(zip_path, IMAGES, Reference(LABELS, NAMES), LimitsConfig())


def draw_answers(classes: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Return labels (200,) and probabilities (200, classes) float32 that tell them often."""
    generator = np.random.default_rng(0)
    labels = generator.integers(0, classes, 200)
    probabilities = generator.dirichlet(np.ones(classes), 200).round(2)  # with ties
    probabilities[np.arange(200), labels] += 0.3
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    return labels, probabilities.astype(np.float32)


@pytest.mark.parametrize("name", METRICS)
def test_the_scoring_program_computes_each_metric_as_the_leaderboard_does(name: str) -> None:
    labels, probabilities = draw_answers()
    names = ["a", "b", "c", "d"]
    predictions = labels, probabilities.argmax(axis=1), names, 1.0, name
    scores, page = score_labels(*predictions, probabilities)
    assert next(iter(scores)) == name
    assert scores[name] == pytest.approx(METRICS[name].compute(labels, probabilities), rel=1e-5)
    assert {"accuracy", "f1_macro", "f1_weighted", "duration"} <= set(scores)
    assert f"<li>{name}: " in page


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda p: None, "received none"),
        (lambda p: p[:, :2], r"received those of shape \(200, 2\)"),
        (lambda p: p - 0.5, "below 0"),
        (lambda p: p * np.nan, "no numbers"),
        (lambda p: p * 2, "sum to 2, not to 1"),
    ],
)
def test_what_are_no_probabilities_cannot_be_scored(change: Any, sentence: str) -> None:
    labels, probabilities = draw_answers()
    given = change(probabilities)
    with pytest.raises(SystemExit, match=sentence):
        score_labels(labels, labels, ["a", "b", "c", "d"], 1.0, "log_loss", given)


LIKELY = (
    PLAIN
    + """
    def predict_proba(self, X):
        return np.tile([0.5, 0.3, 0.2], (len(X), 1))
"""
)


def test_a_metric_that_needs_probabilities_asks_for_them(tmp_path: Path) -> None:
    zip_path = write_zip(tmp_path / "good.zip", {"model.py": LIKELY})
    reference = Reference(LABELS, NAMES, metric=METRICS["log_loss"])
    result = dry_run(zip_path, IMAGES, reference, LimitsConfig())
    expected = -np.log(np.array([0.5, 0.3, 0.2])[LABELS]).mean()
    assert result.scores["log_loss"] == pytest.approx(expected)
    assert result.scores["accuracy"] == pytest.approx(24 / 70)


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        (PLAIN, r"log-loss decides here and needs probabilities; Model has no predict_proba\(X\)"),
        (LIKELY.replace("(len(X), 1)", "3"), r"predict_proba answered float64 of shape \(9,\)"),
        (LIKELY.replace("0.5", "0.9"), "probabilities of an image sum to 1.4, not to 1"),
    ],
)
def test_a_submission_without_probabilities_is_refused_where_they_decide(
    model: str, sentence: str, tmp_path: Path
) -> None:
    zip_path = write_zip(tmp_path / "bad.zip", {"model.py": model})
    reference = Reference(LABELS, NAMES, metric=METRICS["log_loss"])
    with pytest.raises(CheckFailedError, match=sentence):
        dry_run(zip_path, IMAGES, reference, LimitsConfig())


@pytest.mark.parametrize("kind", ["ingestion", "scoring"])
def test_the_folders_default_to_the_servers(kind: str) -> None:
    done = subprocess.run(
        [sys.executable, PROGRAMS[kind], "--help"], capture_output=True, text=True, check=True
    )
    text = PROGRAMS[kind].read_text()
    named = re.findall(r"(--\w+) (/app/\w+)", COMMANDS[kind])
    assert len(named) == {"ingestion": 3, "scoring": 2}[kind]
    for flag, folder in named:
        assert flag in done.stdout
        assert json.dumps(folder) in text
