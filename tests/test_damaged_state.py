"""Damaged files of ours: made anew, and said, or named in one sentence; never a traceback."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from competition.cleaning import clean as cleaning
from competition.codabench.dry_run import open_split
from competition.common.errors import UserError
from competition.common.files import write_json
from competition.config import Config, with_settings
from competition.data.arrays import CleanedData, Dataset, PreparedData
from competition.data.prepare import prepare
from competition.data.splits import split
from competition.evaluation.ensemble import make_ensemble
from competition.evaluation.evaluate import evaluate_run
from competition.evaluation.leaderboard import (
    read_rows,
    record_public_score,
    write_leaderboard,
)
from competition.evaluation.report import write_report
from competition.evaluation.results import choose_run, claim_folder, runs_of
from competition.networks.weights import RANDOM
from competition.paths import Paths
from competition.search.search import read_best
from competition.status import describe_status
from competition.time_budget import JobClock
from competition.training.keepers import Checkpoint, Position
from competition.training.runs import load_run, train_run
from tests.factories import CONFIG, draw_blobs, make_search

NOISE = np.random.default_rng(0).bytes(3000)
WAYS: dict[str, Callable[[bytes], bytes]] = {
    "cut": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
    "noise": lambda content: NOISE,
    "other JSON": lambda content: json.dumps([{"inputs": 3, "history": "x"}]).encode(),
}
SETTINGS = {
    "cleaning.iterations": 250,
    "evaluation.tta_views": 1,
    "training.frozen_epochs": 0,
    "training.fine_tuning_epochs": 1,
}


class Project:
    """The folders of one data set, and its stages as the pipeline calls them."""

    def __init__(self, root: Path) -> None:
        self.paths = Paths(root, "blobs")
        self.config: Config = with_settings(CONFIG, SETTINGS)
        images, labels = draw_blobs(90, 3, seed=1)
        self.dataset = Dataset(images, labels, ("a", "b", "c"))

    def clean(self) -> CleanedData:
        with pytest.MonkeyPatch.context() as patch:  # the map takes seconds
            patch.setattr(cleaning, "lay_out", lambda points, *_: points[:, :2])
            return cleaning.clean(self.dataset, self.paths.data, self.config, None)

    def clean_anew(self) -> None:
        (self.paths.data / "cleaning.json").unlink()
        self.clean()

    def prepare(self) -> PreparedData:
        cleaned = self.clean()
        splits = split(cleaned, self.paths.data, self.config)
        return prepare(cleaned, splits, self.config, self.paths.data / "prepared")

    def train(self) -> Path:
        return train_run(self.config, self.prepare(), RANDOM, self.paths.runs)

    def score(self) -> None:
        for run in runs_of(self.paths.runs, self.prepare()):
            evaluate_run(self.config, self.prepare(), run, force=True)
        self.rank()

    def rank(self) -> None:
        write_leaderboard(self.paths.runs, self.paths.experiments)
        choose_run(self.paths.runs, self.prepare(), "clean+revealed", "best")
        describe_status(self.paths.root)

    def report(self) -> None:
        write_report(self.paths, read_rows(self.paths.runs), self.config)

    def average(self) -> None:
        names = ("tiny_cnn_001", "tiny_cnn_002")
        make_ensemble(self.paths.runs, names, self.prepare().fingerprint, seed=0)

    def claim(self) -> None:
        claim_folder(self.paths.experiments, self.dataset, Path("mine.npz"), force=False)

    def keep_time(self) -> None:
        with JobClock(self.paths.experiments, "search", 600.0):
            pass

    def look(self) -> None:
        open_split(self.prepare(), self.config, True, Path("a.zip"), self.paths)

    def read_best(self) -> None:
        read_best(make_search(self.paths.studies))

    def resume(self) -> None:
        network = load_run(self.paths.runs / "tiny_cnn_001")
        keeper = Checkpoint(self.paths.experiments / "checkpoint", network)
        if keeper.position("all") != Position():
            keeper.restore(network, None)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which all has been done, with two runs of equal settings."""
    project = Project(tmp_path_factory.mktemp("whole"))
    paths = project.paths
    run = project.train()
    project.score()
    record_public_score(paths.runs, run.name, 0.5)
    shutil.copytree(run, paths.runs / "tiny_cnn_002")
    project.claim()
    project.look()
    write_json(paths.experiments / "clock.json", {"command": "search", "seconds": 7.0})
    paths.studies.mkdir()
    best = {"settings": {}, "data": "data-1", "weights": "random", "select_by": "clean+revealed"}
    write_json(paths.studies / "tiny_cnn_best.json", best)
    network = load_run(run)
    keeper = Checkpoint(paths.experiments / "checkpoint", network)
    row = {"stage": "all", "epoch": 0, "progress": 0.5, "loss": 1.0, "seconds": 1.0}
    keeper.add_epoch({**row, "val_accuracy": 0.5}, network, None)
    keeper.save(network, "all", Position(1, 0, 0.5), None)
    return paths.root


RUN = "experiments/blobs/runs/tiny_cnn_001"
READERS: dict[str, Callable[[Project], object]] = {
    "data/blobs/cleaning.json": Project.clean,
    "data/blobs/cleaned.npz": Project.clean,
    "data/blobs/found.json": Project.clean_anew,
    "data/blobs/tsne.npz": Project.clean_anew,
    "data/blobs/splits.json": Project.prepare,
    "data/blobs/splits.npz": Project.prepare,
    "data/blobs/prepared/prepared.json": Project.prepare,
    "data/blobs/prepared/train_images.npy": Project.prepare,
    "data/blobs/prepared/train_labels.npy": Project.prepare,
    "data/blobs/prepared/validation_images.npy": Project.prepare,
    "data/blobs/prepared/test_labels.npy": Project.prepare,
    "data/blobs/prepared/test_families.npy": Project.prepare,
    "data/blobs/prepared/test_surely_wrong.npy": Project.prepare,
    "experiments/blobs/data.json": Project.claim,
    "experiments/blobs/clock.json": Project.keep_time,
    "experiments/blobs/test_looks.json": Project.look,
    "experiments/blobs/studies/tiny_cnn_best.json": Project.read_best,
    "experiments/blobs/checkpoint/state.json": Project.resume,
    "experiments/blobs/checkpoint/best.weights.h5": Project.resume,
    "experiments/blobs/checkpoint/all_0001.weights.h5": Project.resume,
    f"{RUN}/config.json": Project.rank,
    f"{RUN}/environment.json": Project.rank,
    f"{RUN}/metrics.json": Project.rank,
    f"{RUN}/public.json": Project.rank,
    f"{RUN}/history.csv": Project.report,
    f"{RUN}/selection.npy": Project.score,
    f"{RUN}/network.weights.h5": Project.score,
    f"{RUN}/predictions_test.npz": Project.average,
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", READERS)
def test_a_damaged_file_is_made_anew_or_named(
    name: str, way: str, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    file = tmp_path / name
    file.write_bytes(WAYS[way](file.read_bytes()))
    told = ""
    try:
        READERS[name](Project(tmp_path))
    except UserError as error:
        told = str(error)
        assert "\n" not in told
    told += capsys.readouterr().out
    if not (file.suffix == ".csv" and way == "cut"):  # rows that are whole are read
        assert f"{file} cannot be read" in told


def test_copies_and_renamed_folders_of_runs_are_left_out_and_named(
    whole: Path, tmp_path: Path
) -> None:
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    project = Project(tmp_path)
    for name in ("tiny_cnn_001 (copy)", "tiny_cnn_001_old", "tiny_cnn_old"):
        shutil.copytree(tmp_path / RUN, project.paths.runs / name)
    folders = project.paths.runs, project.paths.experiments
    _, table = write_leaderboard(*folders)
    assert table.count("LEFT OUT") == 3
    assert project.train().name in ("tiny_cnn_001", "tiny_cnn_002")
    project.rank()
