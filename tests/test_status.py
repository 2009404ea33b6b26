"""What stands where, and the next command, at each step of a project."""

from pathlib import Path

from competition.common.files import write_json
from competition.paths import Paths
from competition.status import describe_status


def test_the_status_follows_a_project_from_nothing_to_a_public_score(tmp_path: Path) -> None:
    paths = Paths(tmp_path, "cells")
    assert "python run.py --search" in describe_status(tmp_path)
    write_json(paths.data / "cleaning.json", {"total": 1200, "kept": 1100})
    write_json(
        paths.data / "splits.json", {"counts": {"train": 800, "validation": 100, "test": 200}}
    )
    text = describe_status(tmp_path)
    assert "1,200 images, 1,100 kept" in text
    assert "800 train, 100 validation, 200 test" in text
    assert "next        python run.py --search" in text

    run = paths.runs / "tiny_cnn_001"
    scores = {"revealed": {"plain": {"accuracy": 0.8, "interval": [0.75, 0.85]}}}
    write_json(run / "metrics.json", {"selection_score": 0.7, "test": scores})
    write_json(run / "config.json", {"network": {"builder": "tiny"}, "splits": "a"})
    text = describe_status(tmp_path)
    assert "best tiny_cnn_001: selection 70.0, expected on the hidden test 80.0 %" in text
    assert "next        python run.py --package" in text

    paths.submissions.mkdir(parents=True)
    (paths.submissions / "tiny_cnn_001.zip").touch()
    assert "--record tiny_cnn_001 SCORE" in describe_status(tmp_path)

    write_json(run / "public.json", {"score": 0.79})
    text = describe_status(tmp_path)
    assert "tiny_cnn_001: 79.0 %" in text
    assert "next        change one setting" in text


def test_after_the_demo_comes_data_of_ones_own_and_no_server(tmp_path: Path) -> None:
    paths = Paths(tmp_path, "demo")
    write_json(paths.data / "cleaning.json", {"total": 12, "kept": 11})
    (paths.data / "hidden_test.npz").touch()
    assert describe_status(tmp_path).endswith("next        python run.py --search")

    run = paths.runs / "tiny_cnn_001"
    scores = {"revealed": {"plain": {"accuracy": 0.8, "interval": [0.75, 0.85]}}}
    write_json(run / "metrics.json", {"selection_score": 0.7, "test": scores})
    write_json(run / "config.json", {"network": {"builder": "tiny"}, "splits": "a"})
    paths.submissions.mkdir(parents=True)
    (paths.submissions / "tiny_cnn_001.zip").touch()
    text = describe_status(tmp_path)
    assert "your own data" in text
    assert "--record" not in text
