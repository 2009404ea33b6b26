"""The bundle: a definition that Codabench takes, and programs that score the sample submission."""

import datetime
import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from competition.codabench.bundle import write_bundle
from competition.config import Config, with_settings
from competition.data.arrays import PreparedData, ScoredSet, TrainingData
from competition.distortion.profiles import PROFILE
from tests.factories import draw_blobs

# Keys of version 2 (docs.codabench.org, Yaml Structure): required ones, then those it may have.
KEYS = {
    "competition": (
        {"version", "title", "image", "terms", "pages", "phases", "tasks", "leaderboards"},
        {
            *("description", "registration_auto_approve", "docker_image", "solutions", "queue"),
            *("make_programs_available", "make_input_data_available", "enable_detailed_results"),
            *("contact_email", "reward"),
        },
    ),
    "pages": ({"title", "file"}, set()),
    "phases": (
        {"name", "start", "end", "tasks"},
        {
            *("index", "description", "max_submissions", "max_submissions_per_day"),
            *("execution_time_limit", "starting_kit", "public_data"),
            *("auto_migrate_to_this_phase", "hide_output"),
        },
    ),
    "tasks": (
        {"index", "name", "scoring_program"},
        {"description", "input_data", "reference_data", "ingestion_program"},
    ),
    "solutions": ({"index", "tasks", "path"}, set()),
    "leaderboards": ({"title", "key", "columns"}, {"submission_rule", "hidden"}),
    "columns": (
        {"title", "key", "index"},
        {"sorting", "computation", "computation_indexes", "precision", "hidden"},
    ),
}


def prepared() -> PreparedData:
    images, labels = draw_blobs(90, 3, seed=2)
    validation, test = (
        ScoredSet(
            name,
            {"clean": images[part], PROFILE: images[part, ::-1]},
            labels[part],
            np.zeros(30, bool),
        )
        for name, part in (("validation", slice(30, 60)), ("test", slice(60, 90)))
    )
    training = TrainingData(images[:30], labels[:30], images[30:60], labels[30:60], 3)
    return PreparedData(
        Path(),
        training,
        validation,
        test,
        ("red", "green & blue", "blue"),
        "splits",
        "distortion",
        "selection",
    )


@pytest.fixture(scope="module", params=["accuracy", "log_loss"])
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unzipped bundle."""
    folder = tmp_path_factory.mktemp("bundle")
    settings = {"codabench.start": "2026-01-31", "codabench.days": 10, "limits.seconds": 77}
    config = with_settings(Config(), settings | {"metric": request.param})
    path = write_bundle(folder / "bundle.zip", prepared(), config)
    shutil.unpack_archive(path, folder / "bundle")
    return folder / "bundle"


@pytest.fixture
def definition(bundle: Path) -> Any:
    """Its competition.yaml."""
    return yaml.safe_load((bundle / "competition.yaml").read_text())


def check_keys(kind: str, part: dict[str, Any]) -> None:
    required, optional = KEYS[kind]
    assert required <= set(part) <= required | optional, kind


def test_the_definition_has_the_documented_keys(definition: Any) -> None:
    assert definition["version"] == 2
    check_keys("competition", definition)
    for kind in ("pages", "phases", "tasks", "solutions", "leaderboards"):
        for part in definition[kind]:
            check_keys(kind, part)
    for column in definition["leaderboards"][0]["columns"]:
        check_keys("columns", column)


def test_all_that_the_definition_names_is_there(bundle: Path, definition: Any) -> None:
    tasks, phases = definition["tasks"], definition["phases"]
    named = [
        definition["image"],
        definition["terms"],
        *(page["file"] for page in definition["pages"]),
    ]
    named += [
        task[kind]
        for task in tasks
        for kind in KEYS["tasks"][1] | {"scoring_program"}
        if kind != "description"
    ]
    named += [phase[kind] for phase in phases for kind in ("starting_kit", "public_data")]
    named += [solution["path"] for solution in definition["solutions"]]
    for name in named:
        path = bundle / name
        assert any(path.iterdir()) if path.is_dir() else path.stat().st_size > 10, name
    assert {index for part in [*phases, *definition["solutions"]] for index in part["tasks"]} == {
        0,
        1,
    }
    assert Image.open(bundle / definition["image"]).size == (96, 32)


def test_phases_follow_each_other_without_overlap(definition: Any) -> None:
    days = [
        datetime.datetime.fromisoformat(phase[end])
        for phase in definition["phases"]
        for end in ("start", "end")
    ]
    assert days[0] == datetime.datetime(2026, 1, 31)
    assert days == sorted(days)
    assert days[1] == days[2]
    assert {phase["execution_time_limit"] for phase in definition["phases"]} == {77}


def test_pages_are_filled_in(bundle: Path, definition: Any) -> None:
    for page in (bundle / "pages").iterdir():
        assert "{" not in page.read_text(), page
    assert "0 red, 1 green & blue, 2 blue" in (bundle / "pages/overview.md").read_text()
    text = (bundle / "pages/evaluation.md").read_text()
    if definition["leaderboards"][0]["columns"][0]["key"] == "accuracy":
        assert "ranks by **accuracy**, and shows macro F1" in text
        assert "        ...\n\n    def predict(self, X):  # X: (n, 32, 32, 3) uint8" in text
    else:
        assert "ranks by **log-loss, less is better**, and shows accuracy, macro F1" in text
        assert "        ...  # returns (n, 3) probabilities" in text


@pytest.mark.parametrize("index", [0, 1])
def test_the_bundled_programs_score_the_sample_submission(
    index: int, bundle: Path, definition: Any, tmp_path: Path
) -> None:
    """Lays out /app as the server's worker does, and runs the commands of the metadata."""
    task, app = definition["tasks"][index], tmp_path / "app"
    for folder in ("output", "input"):
        (app / folder).mkdir(parents=True)
    shutil.unpack_archive(bundle / definition["solutions"][0]["path"], app / "ingested_program")
    shutil.copytree(bundle / task["input_data"], app / "input_data")
    run_program(bundle / task["ingestion_program"], app)
    (app / "output").rename(app / "input/res")
    (app / "output").mkdir()
    shutil.rmtree(app / "program")
    shutil.copytree(bundle / task["reference_data"], app / "input/ref")
    run_program(bundle / task["scoring_program"], app)
    scores = json.loads((app / "output/scores.json").read_text())
    assert set(scores) == {column["key"] for column in definition["leaderboards"][0]["columns"]}
    assert scores["accuracy"] > 0.4
    first = definition["leaderboards"][0]["columns"][0]
    assert first["key"] == next(iter(scores))
    assert first["sorting"] == {"accuracy": "desc", "log_loss": "asc"}[first["key"]]
    assert scores[first["key"]] > 0
    assert "Results" in (app / "output/detailed_results.html").read_text()


def run_program(program: Path, app: Path) -> None:
    shutil.copytree(program, app / "program")
    command = yaml.safe_load((program / "metadata.yaml").read_text())["command"].split()
    assert command[0] == "python3"
    arguments = [word.replace("/app", str(app), 1) for word in command[1:]]
    subprocess.run(
        [sys.executable, *arguments], cwd=app / "program", check=True, capture_output=True
    )


def test_labels_of_hidden_images_are_in_the_reference_data_alone(bundle: Path) -> None:
    predictions = [path.relative_to(bundle) for path in bundle.rglob("labels*")]
    assert sorted(map(str, predictions)) == [
        "test/reference_data/labels.npy",
        "validation/reference_data/labels.npy",
    ]
    assert not list(bundle.rglob("reference_data/images*"))
    with np.load(bundle / "public_data/training_set.npz", allow_pickle=False) as public:
        assert len(public["images"]) == len(public["labels"]) == 30
    with zipfile.ZipFile(bundle / "starting_kit/sample_submission.zip") as archive:
        assert sorted(archive.namelist()) == ["means.npy", "model.py"]
