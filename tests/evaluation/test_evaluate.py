"""Scores of a run: all, or as far as time goes; nothing is passed twice, looks are counted."""

import json
import shutil
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
import pytest

from competition.common.files import read_json, write_json
from competition.common.settings import flatten
from competition.config import Config, with_settings
from competition.data.arrays import PreparedData, ScoredSet
from competition.distortion.profiles import VERSIONS
from competition.evaluation import evaluate as evaluate_module
from competition.evaluation.evaluate import evaluate_run, score_predictions, score_selection
from competition.evaluation.metrics import bootstrap_interval
from competition.metric import ACCURACY, get_metric
from competition.networks.submission_model import predict_views, temper
from competition.time_budget import Slot
from competition.training.keepers import PREDICTIONS
from competition.training.runs import load_run
from competition.training.train import predict
from tests.factories import CONFIG, make_run

ENDED = Slot(0.0, 1.0)
THREE_VIEWS = with_settings(CONFIG, {"evaluation.tta_views": 3})


def make_trained_run(folder: Path, data: PreparedData, config: Config = THREE_VIEWS) -> Path:
    """Return the folder of a run as training leaves it, of a random network."""
    run, network = make_run(folder, "tiny_cnn")
    facts = {"settings": flatten(config), "distortion": data.distortion_hash}
    write_json(run / "config.json", read_json(run / "config.json") | facts)
    row = {"stage": "a", "epoch": 0, "loss": 1.0, "accuracy": 0.5, "val_loss": 1.0}
    row |= {"val_accuracy": 0.5, f"val_{config.metric}": 0.5}
    rows = [row | {"learning_rate": 0.1, "progress": 1.0}]
    pd.DataFrame(rows).to_csv(run / "history.csv", index=False)
    np.save(run / PREDICTIONS, predict(network, data.training.validation_images))
    return run


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The batches that networks are asked about; figures are left out."""
    for name in ("draw_history", "draw_confusion"):
        monkeypatch.setattr(evaluate_module, name, lambda *arguments: None)
    passed: list[bytes] = []
    original = keras.Model.predict_on_batch

    def predict_on_batch(network: keras.Model, images: np.ndarray) -> Any:
        passed.append(images.tobytes())
        return original(network, images)

    monkeypatch.setattr(keras.Model, "predict_on_batch", predict_on_batch)
    return passed


@pytest.fixture(scope="module")
def scored(prepared: PreparedData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was scored without a slot."""
    run = make_trained_run(tmp_path_factory.mktemp("runs"), prepared)
    evaluate_run(THREE_VIEWS, prepared, run)
    return run


def test_all_versions_are_scored_and_predictions_and_figures_kept(
    scored: Path, prepared: PreparedData
) -> None:
    metrics = read_json(scored / "metrics.json")
    assert metrics["not_scored"] == []
    assert metrics["test_looks"] == 1
    network = load_run(scored)
    for split in ("validation", "test"):
        assert metrics[split].keys() == set(VERSIONS)
        with np.load(scored / f"predictions_{split}.npz") as stored:
            images = getattr(prepared, split)
            np.testing.assert_array_equal(stored["labels"], images.labels)
            np.testing.assert_array_equal(stored["wrong_labels"], images.surely_wrong)
            for version in VERSIONS:
                expected = predict_views(network, images.versions[version], 3, 16)
                views = stored[version]
                np.testing.assert_allclose(views, expected[: len(views)], atol=1e-5)
                scores = metrics[split][version]
                hits = views[0].argmax(axis=1) == images.labels
                assert scores["plain"]["accuracy"] == pytest.approx(hits.mean())
                assert ("augmented" in scores) == (len(views) == 3)
    for figure in ("history.png", "confusion.png"):
        assert (scored / figure).stat().st_size > 1000
    assert metrics["parameters"] == network.count_params()
    assert metrics["milliseconds"] > 0
    assert 0 < metrics["zip_megabytes"] < 1


def test_the_selection_score_is_the_mean_accuracy_over_the_versions_that_are_selected_by(
    scored: Path, prepared: PreparedData
) -> None:
    metrics = read_json(scored / "metrics.json")
    accuracies = {name: metrics["validation"][name]["plain"]["accuracy"] for name in VERSIONS}
    with np.load(scored / "predictions_validation.npz") as stored:
        for names in (("clean",), ("clean", "revealed"), ("microscope", "unseen")):
            expected = np.mean([accuracies[name] for name in names])
            labels, select_by = prepared.validation.labels, "+".join(names)
            facts = score_selection(labels, stored, select_by, ACCURACY)
            assert facts["selection_score"] == pytest.approx(expected)
    assert metrics["select_by"] == "clean+revealed"
    expected = (accuracies["clean"] + accuracies["revealed"]) / 2
    assert metrics["selection_score"] == pytest.approx(expected)
    assert metrics["metric"] == "accuracy"
    assert "temperature" not in metrics


def test_another_metric_is_the_selection_score_and_has_an_interval(
    prepared: PreparedData, tmp_path: Path, batches: list[bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    config = with_settings(THREE_VIEWS, {"metric": "log_loss"})
    run = make_trained_run(tmp_path, prepared, config)
    evaluate_run(config, prepared, run)
    metrics = read_json(run / "metrics.json")
    with np.load(run / "predictions_validation.npz") as stored:
        pair = [stored["clean"], stored["revealed"]]
        assert [len(views) for views in pair] == [3, 3]  # the temperature is that of all views
    labels = np.tile(prepared.validation.labels, 2)
    first_views = np.concatenate([views[0] for views in pair])
    raw = get_metric("log_loss").score(labels, first_views)
    assert 0 > metrics["selection_score"] > raw  # calibrated
    scores = metrics["test"]["revealed"]["augmented"]
    assert scores["interval"][0] < scores["log_loss"] < scores["interval"][1]
    with np.load(run / "predictions_test.npz") as stored:
        tempered = temper(stored["revealed"].mean(axis=0), metrics["temperature"])
    expected = get_metric("log_loss").compute(prepared.test.labels, tempered)
    assert scores["log_loss"] == pytest.approx(expected)
    assert f"selection {-metrics['selection_score']:.4f}; test:" in capsys.readouterr().out


def test_nothing_is_passed_twice_and_what_training_predicted_not_again(
    prepared: PreparedData, tmp_path: Path, batches: list[bytes]
) -> None:
    run = make_trained_run(tmp_path, prepared)
    batches.clear()
    evaluate_run(THREE_VIEWS, prepared, run)
    # Two versions of validation, two of the test with one view and two with three; one compiles.
    assert len(batches) == 1 + 2 + 2 + 2 * 3
    assert len(set(batches)) == len(batches)
    evaluate_run(THREE_VIEWS, prepared, run)
    assert len(batches) == 1 + 2 + 2 + 2 * 3
    assert read_json(run / "metrics.json")["test_looks"] == 1


@pytest.mark.parametrize("content", [None, b"no archive"])
def test_lost_and_damaged_predictions_are_made_anew(
    content: bytes | None, scored: Path, prepared: PreparedData, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(scored, tmp_path / scored.name))
    file = run / "predictions_test.npz"
    file.unlink()
    if content:
        file.write_bytes(content)
    evaluate_run(THREE_VIEWS, prepared, run)
    with np.load(file) as stored, np.load(scored / file.name) as expected:
        for version in VERSIONS:
            np.testing.assert_allclose(stored[version], expected[version], atol=1e-5)


def test_scores_depend_on_views_distortion_and_weights_and_force_makes_them_anew(
    prepared: PreparedData, tmp_path: Path, batches: list[bytes]
) -> None:
    run = make_trained_run(tmp_path, prepared)
    evaluate_run(with_settings(CONFIG, {"evaluation.tta_views": 1}), prepared, run)
    assert read_json(run / "metrics.json")["views"] == 1
    assert "augmented" not in read_json(run / "metrics.json")["test"]["clean"]
    evaluate_run(THREE_VIEWS, prepared, run)
    assert read_json(run / "metrics.json")["test_looks"] == 2
    assert "augmented" in read_json(run / "metrics.json")["test"]["clean"]
    batches.clear()
    (run / PREDICTIONS).unlink()
    evaluate_run(THREE_VIEWS, prepared, run, force=True)
    assert read_json(run / "metrics.json")["test_looks"] == 3
    assert len(batches) == 1 + 4 + 2 + 2 * 3, "without training's predictions, all is predicted"
    run = make_trained_run(tmp_path / "earlier", prepared)
    write_json(run / "config.json", read_json(run / "config.json") | {"distortion": "another"})
    batches.clear()
    evaluate_run(THREE_VIEWS, prepared, run)
    assert len(batches) == 1 + 4 + 2 + 2 * 3, "those that it made are of other images"


def test_with_no_time_only_what_is_needed_is_scored_and_a_later_call_makes_up_for_it(
    scored: Path,
    prepared: PreparedData,
    tmp_path: Path,
    batches: list[bytes],
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = make_trained_run(tmp_path, prepared)
    batches.clear()
    evaluate_run(THREE_VIEWS, prepared, run, ENDED)
    metrics = read_json(run / "metrics.json")
    assert metrics["test"].keys() == {"revealed"}
    assert metrics["validation"].keys() == {"clean", "revealed"}
    assert metrics["not_scored"] == [
        "test clean",
        "test revealed TTA",
        "test microscope",
        "test unseen",
        "test clean TTA",
        "validation microscope",
        "validation unseen",
    ]
    assert "NOT SCORED, for want of time: test clean, test revealed TTA" in capsys.readouterr().out
    assert len(batches) == 1 + 1
    evaluate_run(THREE_VIEWS, prepared, run, ENDED)
    assert len(batches) == 1 + 1, "another slot finds it scored"
    evaluate_run(THREE_VIEWS, prepared, run)
    # One compiles in each call; the rest are the other versions and views.
    assert len(set(batches)) == len(batches) == 2 + (1 + 3 + 2 + 2 * 2)
    whole = read_json(run / "metrics.json")
    assert whole["not_scored"] == []
    assert whole["test_looks"] == 2
    complete = read_json(scored / "metrics.json")
    for split in ("validation", "test"):
        for version in VERSIONS:
            assert whole[split][version].keys() == complete[split][version].keys()


@pytest.mark.parametrize("right", [True, False])
def test_a_network_at_chance_is_told_from_one_that_beats_it(
    right: bool, prepared: PreparedData, tmp_path: Path, batches: list[bytes]
) -> None:
    run = make_trained_run(tmp_path, prepared)
    labels = prepared.validation.labels
    predictions = labels if right else np.zeros_like(labels)
    np.save(run / PREDICTIONS, np.eye(3, dtype=np.float32)[np.tile(predictions, 2)])
    evaluate_run(THREE_VIEWS, prepared, run, ENDED)
    metrics = read_json(run / "metrics.json")
    assert metrics["selection_score"] == (1.0 if right else pytest.approx(1 / 3))
    assert metrics["beats_chance"] == right


def test_the_terminal_says_the_scores_the_looks_and_the_accuracy_without_wrong_labels(
    prepared: PreparedData,
    tmp_path: Path,
    batches: list[bytes],
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = make_trained_run(tmp_path, prepared)
    evaluate_run(THREE_VIEWS, prepared, run)
    output = capsys.readouterr().out
    scores = json.loads((run / "metrics.json").read_text())["test"]["revealed"]
    assert f"revealed {100 * scores['plain']['accuracy']:.1f}" in output
    assert f"revealed TTA {100 * scores['augmented']['accuracy']:.1f}" in output
    assert "look number 1 at the test" in output
    without = scores["plain"]["accuracy_without_wrong_labels"]
    assert f"revealed without its 1 surely wrong labels {100 * without:.1f}" in output


def test_accuracy_is_told_with_and_without_wrong_labels() -> None:
    surely_wrong = np.array([False, False, True, False])
    scored = ScoredSet("test", {}, np.array([0, 1, 1, 0]), surely_wrong)
    views = np.eye(2)[[[0, 1, 0, 1], [0, 1, 0, 1]]]
    scores = score_predictions(scored, {"clean": views}, seed=0)["clean"]
    for kind in ("plain", "augmented"):
        assert scores[kind]["accuracy"] == pytest.approx(2 / 4)
        assert scores[kind]["accuracy_without_wrong_labels"] == pytest.approx(2 / 3)
        assert scores[kind]["interval"] == bootstrap_interval(scored.labels, views[0], 0)


def test_augmented_scores_are_those_of_the_mean_over_the_views() -> None:
    scored = ScoredSet("test", {}, np.array([0, 1]), np.zeros(2, bool))
    first, second = np.array([[0.6, 0.4], [0.9, 0.1]]), np.array([[0.1, 0.9], [0.0, 1.0]])
    scores = score_predictions(scored, {"clean": np.stack([first, second])}, seed=0)["clean"]
    assert scores["plain"]["confusion"] == [[1, 0], [1, 0]]
    assert scores["augmented"]["confusion"] == [[0, 1], [0, 1]]


def test_grad_cam_that_had_no_time_is_drawn_by_a_later_call(
    prepared: PreparedData, batches: list[bytes], tmp_path: Path
) -> None:
    run = make_trained_run(tmp_path, prepared)
    evaluate_run(THREE_VIEWS, prepared, run, ENDED)
    assert not (run / "grad_cam.npz").exists()
    evaluate_run(THREE_VIEWS, prepared, run)
    with np.load(run / "grad_cam.npz") as stored:
        for version in ("clean", "revealed"):
            assert len(stored[version]) == len(stored[f"{version}_indices"]) > 0
