"""What the demo asks of each backbone beside the packaged one."""

import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from competition import backbone_task
from competition.backbone_task import BackboneTask, plan_tasks
from competition.backbones import get_backbone
from competition.command_line import build_parser
from competition.config import DEMO_FROM_RANDOM, PRESETS
from competition.networks.weights import RANDOM, Weights
from competition.request import read_request
from competition.time_budget import Turn

EPOCHS = "training.fine_tuning_epochs"
NAMES = ("custom_cnn", "efficientnetlite0")


def plan(folder: Path, *arguments: str) -> dict[str, BackboneTask]:
    """Return the tasks of a search in which EfficientNet-Lite0 alone is pretrained."""
    backbones = [part for name in NAMES for part in ("--backbone", name)]
    options = build_parser().parse_args(["--workdir", str(folder), *backbones, *arguments])
    weights = {"custom_cnn": RANDOM, "efficientnetlite0": Weights(folder / "x.h5", "imagenet")}
    data: Any = SimpleNamespace(
        training=SimpleNamespace(labels=np.zeros(1000), images=np.zeros((1, 64, 64, 3))),
        test=SimpleNamespace(labels=np.zeros(300)),
        fingerprint="",
    )
    return plan_tasks(read_request(options), data, weights, {}, folder)


def test_in_the_demo_random_weights_train_for_few_epochs_beside_pretrained_ones(
    tmp_path: Path,
) -> None:
    tasks = plan(tmp_path, "--search")
    lengths = {
        name: task.request.config.training.fine_tuning_epochs for name, task in tasks.items()
    }
    assert lengths == {
        "custom_cnn": DEMO_FROM_RANDOM[EPOCHS],
        "efficientnetlite0": PRESETS["demo"][EPOCHS],
    }
    assert tasks["custom_cnn"].request.config.recipe == "few epochs"  # the leaderboard says so
    assert tasks["efficientnetlite0"].compared["recipe"] == "baseline"
    assert not tasks["custom_cnn"].compared


@pytest.mark.parametrize("arguments", [("--train",), ("--search", "--set", f"{EPOCHS}=3")])
def test_epochs_that_are_asked_for_are_those_of_all(
    tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    tasks = plan(tmp_path, *arguments)
    assert len({task.request.config.training.fine_tuning_epochs for task in tasks.values()}) == 1
    assert tasks["custom_cnn"].request.config.recipe == ""


def test_the_status_expects_more_time_of_a_task_with_two_recipes(tmp_path: Path) -> None:
    task = plan(tmp_path, "--search")["efficientnetlite0"]
    one = replace(task, compared={})
    searching, training, scoring = one._count_passes(one._make_search())
    assert searching > 0
    twice = get_backbone("efficientnetlite0").cost * (searching + 2 * training + 2 * scoring)
    assert task.estimate_work() == pytest.approx(twice)


def test_what_is_trained_is_only_scored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = plan(tmp_path, "--package")["custom_cnn"]
    before = task.estimate_work()
    monkeypatch.setattr(backbone_task, "runs_of", lambda *_: [tmp_path])
    assert task.describe().endswith("random weights: trained already")
    _, training, scoring = task._count_passes(task._make_search())
    assert training == 0 < scoring
    assert 0 < task.estimate_work() < before / 2


def test_a_command_that_goes_on_does_not_search_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    monkeypatch.setattr(backbone_task, "runs_of", lambda *_: [])
    monkeypatch.setattr(backbone_task, "search_backbone", lambda *_: done.append("search"))
    monkeypatch.setattr(BackboneTask, "_train", lambda *_, **__: done.append("train"))
    task = plan(tmp_path, "--search")["efficientnetlite0"]
    task.run()
    task.run()
    assert done == ["search", "train", "search", "train"], "without a budget, more may be asked for"
    task, done[:] = replace(task, turn=Turn(time.time() + 1e4, 1.0)), []
    task.run()
    task.run()
    task.help_search(1)
    assert done == ["search", "train", "train"]
    assert "imagenet weights: searched already, " in task.describe()


@pytest.mark.parametrize(
    ("seconds", "pretrained", "random"),
    [
        (400, "no search", "no search"),
        (1500, "100 head trials, no time for trials of whole recipes", "no search"),
        (12000, "100 head, 27 fine_tuning, 9 semifinal, 3 final trials", "27 scratch, 9 semifinal"),
    ],
)
def test_a_slot_too_short_for_whole_recipes_searches_heads_or_nothing(
    tmp_path: Path, seconds: float, pretrained: str, random: str
) -> None:
    arguments = ("--data", str(Path(__file__)), "--search")
    turn = Turn(1e12, 1.0, planned_seconds=seconds)
    for name, expected in (("efficientnetlite0", pretrained), ("custom_cnn", random)):
        task = replace(plan(tmp_path, *arguments)[name], turn=turn)
        assert expected in task.describe()
        search = task._make_search(seconds)
        searching, training = task._plan_shares(search, seconds)
        assert (searching > 0) == (expected != "no search")
        assert 0.69 < searching + training < 0.86
