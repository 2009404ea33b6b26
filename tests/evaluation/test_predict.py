"""Predictions come in the order of what they tell, each once, and as far as time goes."""

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from competition import time_budget
from competition.config import EvaluationConfig
from competition.data.arrays import PreparedData
from competition.distortion.profiles import VERSIONS
from competition.evaluation import predict as predict_module
from competition.evaluation.predict import Step, plan_steps, predict_all
from competition.networks.submission_model import predict_views
from competition.time_budget import Slot

CONFIG = EvaluationConfig(batch_size=16)
ENDED = Slot(0.0, 1.0)


@dataclass
class Network:
    """Answers by the mean of an image; counts the batches that it is asked about."""

    output_shape: tuple[Any, int] = (None, 3)
    batches: list[bytes] = field(default_factory=list)

    def predict_on_batch(self, images: np.ndarray) -> np.ndarray:
        self.batches.append(images.tobytes())
        means = images[:, :8].mean(axis=(1, 2, 3))
        return np.stack([means, 255 - means, means**2 % 7], axis=1).astype(np.float32)


def test_what_ranks_and_what_is_expected_is_predicted_first() -> None:
    steps = plan_steps("clean+revealed", 5)
    assert [(step.title, step.views) for step in steps] == [
        ("test revealed", 1),
        ("validation clean", 1),
        ("validation revealed", 1),
        ("test clean", 1),
        ("test revealed TTA", 5),
        ("test microscope", 1),
        ("test unseen", 1),
        ("test clean TTA", 5),
        ("validation microscope", 1),
        ("validation unseen", 1),
    ]


@pytest.mark.parametrize("select_by", ["clean", "unseen+microscope", "clean+revealed"])
def test_every_version_of_both_splits_has_its_step(select_by: str) -> None:
    steps = plan_steps(select_by, 1)
    assert len(steps) == len(set(steps)) == 2 * len(VERSIONS)
    assert all(step.views == 1 for step in steps)
    selected = [step.version for step in steps[1 : 2 + select_by.count("+")]]
    assert set(selected) == set(select_by.split("+"))


def test_predictions_are_those_of_each_version_and_view(prepared: PreparedData) -> None:
    known: dict[str, dict[str, np.ndarray]] = {"validation": {}, "test": {}}
    steps = plan_steps("clean+revealed", 3)
    predictions, seconds, left_out = predict_all(Network(), prepared, steps, CONFIG, known, None)
    assert left_out == []
    assert seconds is not None
    assert seconds > 0
    for split in ("validation", "test"):
        for version, images in getattr(prepared, split).versions.items():
            views = 3 if split == "test" and version in ("clean", "revealed") else 1
            expected = predict_views(Network(), images, views, 16)
            np.testing.assert_array_equal(predictions[split][version], expected)


def test_no_batch_is_passed_twice(prepared: PreparedData) -> None:
    network = Network()
    known: dict[str, dict[str, np.ndarray]] = {"validation": {}, "test": {}}
    predict_all(network, prepared, plan_steps("clean+revealed", 5), CONFIG, known, None)
    # Two batches per version and view of 18 and of 21 images, and one before that compiles.
    assert len(network.batches) == 1 + 2 * (4 + 2 + 2 * 5)
    assert len(set(network.batches)) == len(network.batches)


def test_what_is_known_is_not_predicted_again(prepared: PreparedData) -> None:
    network = Network()
    steps = plan_steps("clean+revealed", 5)
    known: dict[str, dict[str, np.ndarray]] = {"validation": {}, "test": {}}
    known["validation"] = {name: np.zeros((1, 18, 3), np.float32) for name in ("clean", "revealed")}
    known["test"] = {"revealed": np.ones((2, 21, 3), np.float32)}
    predictions, _, _ = predict_all(network, prepared, steps, CONFIG, known, None)
    assert len(network.batches) == 1 + 2 * (2 + 2 + 5 + 3)
    assert (predictions["validation"]["clean"] == 0).all()
    revealed = predictions["test"]["revealed"]
    assert revealed.shape == (5, 21, 3)
    assert (revealed[:2] == 1).all()
    expected = predict_views(Network(), prepared.test.versions["revealed"], 5, 16)
    np.testing.assert_array_equal(revealed[2:], expected[2:])
    before = len(network.batches)
    _, seconds, _ = predict_all(network, prepared, steps, CONFIG, predictions, None)
    assert len(network.batches) == before
    assert seconds is None


@pytest.mark.parametrize("select_by", ["clean+revealed", "clean", "microscope+unseen"])
def test_in_a_slot_that_is_over_only_what_is_needed_is_predicted_and_the_rest_is_said(
    select_by: str, prepared: PreparedData, capsys: pytest.CaptureFixture[str]
) -> None:
    known: dict[str, dict[str, np.ndarray]] = {"validation": {}, "test": {}}
    steps = plan_steps(select_by, 5)
    predictions, _, left_out = predict_all(Network(), prepared, steps, CONFIG, known, ENDED)
    assert predictions["validation"].keys() == set(select_by.split("+"))
    assert {name: views.shape for name, views in predictions["test"].items()} == {
        "revealed": (1, 21, 3)
    }
    assert left_out == steps[1 + len(select_by.split("+")) :]
    titles = ", ".join(step.title for step in left_out)
    assert f"NOT SCORED, for want of time: {titles}" in capsys.readouterr().out


def test_a_step_begins_if_it_will_end_within_the_slot_at_the_rate_so_far(
    prepared: PreparedData, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [100.0]
    monkeypatch.setattr(predict_module, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    monkeypatch.setattr(time_budget, "time", SimpleNamespace(time=lambda: clock[0]))

    class Slow(Network):
        def predict_on_batch(self, images: np.ndarray) -> np.ndarray:
            clock[0] += 5.0 if self.batches else 0.0  # the first one compiles
            return super().predict_on_batch(images)

    steps = plan_steps("clean", 5)
    known: dict[str, dict[str, np.ndarray]] = {"validation": {}, "test": {}}
    # Ten seconds per version and view: time for five of them, and the fourth step has four views.
    _, seconds, left_out = predict_all(Slow(), prepared, steps, CONFIG, known, Slot(100.0, 151.0))
    assert steps[3] == Step("test", "revealed", 5)
    begun = [step for step in steps if step not in left_out]
    assert begun == [*steps[:3], *steps[4:6]]
    assert seconds == pytest.approx(50 / (3 * 21 + 18 + 21))
