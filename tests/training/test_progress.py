"""Progress drives a training, by its epochs or by the clock, whatever the machine does."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import pytest

from competition import time_budget
from competition.config import Config, with_settings
from competition.data.arrays import one_hot
from competition.networks.layers import backbone_side
from competition.networks.weights import RANDOM
from competition.time_budget import Slot, TrainingTime
from competition.training import keepers
from competition.training import train as training
from competition.training.batches import Batches
from competition.training.callbacks import StepWatcher
from competition.training.keepers import Checkpoint, Keeper
from competition.training.stages import Stage
from competition.training.train import build_network, fit_stage, shape_rate, train
from tests.factories import CONFIG, make_data

START = 1000.0
STAGE = Stage("only", 1.0, "inference", epochs=4, learning_rate=0.1, l2=0.0)
LINEAR = with_settings(CONFIG, {"training.schedule": "linear", "training.warm_up": 0.1})


class KilledError(Exception):
    """Stands for the end of the process."""


@dataclass
class Clock:
    """A clock that each training step moves on, by `seconds` of the time that has passed.

    rates: of the steps. sides: the time that had passed before each step, and its input's side.
    """

    seconds: Callable[[float], float] = lambda passed: 1.0
    killed_at: float = np.inf
    now: float = START
    rates: list[float] = field(default_factory=list)
    sides: list[tuple[float, int]] = field(default_factory=list)

    @property
    def passed(self) -> float:
        return self.now - START


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of all that the tests train."""
    made = Clock()
    original = StepWatcher.on_train_batch_end

    def on_train_batch_end(watcher: StepWatcher, batch: int, logs: Any = None) -> None:
        made.rates.append(float(watcher.model.optimizer.learning_rate))
        made.sides.append((made.passed, backbone_side(watcher.model)))
        made.now += made.seconds(made.passed)
        original(watcher, batch, logs)
        if made.passed >= made.killed_at:
            raise KilledError

    fake = SimpleNamespace(time=lambda: made.now, monotonic=lambda: made.now)
    monkeypatch.setattr(time_budget, "time", fake)
    monkeypatch.setattr(training, "time", fake)
    monkeypatch.setattr(StepWatcher, "on_train_batch_end", on_train_batch_end)
    return made


def with_schedule(name: str) -> Config:
    return with_settings(CONFIG, {"training.schedule": name, "training.warm_up": 0.2})


def make_dense() -> keras.Model:
    """Return a network of four features, and three classes."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4,))
    return keras.Model(inputs, keras.layers.Dense(3, "softmax")(inputs))


def fit_dense(
    keeper: Keeper, network: keras.Model, slot: Slot | None, config: Config = LINEAR
) -> None:
    """Fit it on noise, in seven steps per epoch."""
    generator = np.random.default_rng(0)
    features = generator.normal(size=(28, 4)).astype(np.float32)
    labels = generator.integers(0, 3, 28)
    batches = Batches(features[None], one_hot(labels, 3)[None], batch_size=4, seed=0)
    fit_stage(network, batches, (features, labels), STAGE, config, keeper, slot)


@pytest.mark.parametrize(
    ("schedule", "quarter"), [("linear", 0.75), ("cosine", (1 + np.cos(np.pi / 4)) / 2)]
)
def test_the_rate_rises_evenly_and_falls_to_nothing(schedule: str, quarter: float) -> None:
    config = with_schedule(schedule).training
    warm = [shape_rate(share, config) for share in (0.05, 0.1, 0.15, 0.2)]
    assert warm == pytest.approx([0.25, 0.5, 0.75, 1.0])
    assert 0 < shape_rate(0.0, config) < 0.01
    assert shape_rate(0.4, config) == pytest.approx(quarter)
    assert shape_rate(0.6, config) == pytest.approx(0.5)
    falling = [shape_rate(share, config) for share in np.linspace(0.2, 1, 30)]
    assert (np.diff(falling) < 0).all()
    assert falling[-1] == pytest.approx(0, abs=1e-9)


def test_plateau_keeps_its_rate_after_the_warm_up() -> None:
    config = with_schedule("plateau").training
    assert {shape_rate(share, config) for share in (0.2, 0.5, 1.0)} == {1.0}
    assert shape_rate(0.1, config) == pytest.approx(0.5)


def test_without_a_slot_progress_is_the_share_of_the_epochs(clock: Clock) -> None:
    keeper = Keeper()
    fit_dense(keeper, make_dense(), None)
    assert [row["progress"] for row in keeper.history] == [0.25, 0.5, 0.75, 1.0]
    expected = [0.1 * shape_rate(step / 28, LINEAR.training) for step in range(28)]
    np.testing.assert_allclose(clock.rates, expected, rtol=1e-5)
    assert clock.rates[-1] < 0.1 * 0.05


def test_the_plateau_rule_lowers_the_rate_of_the_epochs_that_follow(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = with_settings(with_schedule("plateau"), {"training.plateau_patience": 1})
    config = with_settings(config, {"training.warm_up": 0.0})
    predictions = np.tile([1.0, 0.0, 0.0], (28, 1))
    monkeypatch.setattr(training, "predict", lambda network, inputs: predictions)
    fit_dense(Keeper(), make_dense(), None, config)
    assert clock.rates[::7] == pytest.approx([0.1, 0.1, 0.05, 0.025])


SPEEDS = {
    "slow": lambda passed: 9.7,
    "fast": lambda passed: 0.83,
    "ten times faster halfway": lambda passed: 5.3 if passed < 50 else 0.53,
    "ten times slower halfway": lambda passed: 0.53 if passed < 50 else 5.7,
    "stalled for a third of its time": lambda passed: 33.0 if 40 < passed < 45 else 1.7,
}


@pytest.mark.parametrize("speed", SPEEDS)
def test_a_training_ends_annealed_when_its_slot_is_over_whatever_its_speed(
    speed: str, clock: Clock
) -> None:
    clock.seconds = SPEEDS[speed]
    keeper = Keeper()
    network = make_dense()
    fit_dense(keeper, network, Slot(START, START + 100))
    last_step = clock.seconds(99.0)
    assert 100 <= clock.passed < 100 + last_step
    # A step's rate is set at its beginning, at most its own length before the end.
    assert clock.rates[-1] <= 0.1 * last_step / 90 + 1e-6
    rates = np.array(clock.rates)
    assert (np.diff(rates[rates.argmax() :]) < 0).all()
    row = keeper.history[-1]
    assert row["progress"] == 1.0
    assert len(clock.rates) % 7 != 0, "the slot of this test ends within an epoch"
    assert row["val_accuracy"] is None
    ended = network.get_weights()
    keeper.load_best(network)
    for mine, other in zip(network.get_weights(), ended, strict=True):
        np.testing.assert_array_equal(mine, other)


def test_a_slot_that_is_over_before_it_begins_trains_one_step(clock: Clock) -> None:
    keeper = Keeper()
    fit_dense(keeper, make_dense(), Slot(START - 5, START))
    assert len(clock.rates) == 1
    assert [row["progress"] for row in keeper.history] == [1.0]


def test_a_resumed_training_goes_on_at_its_progress_in_what_is_left_of_its_slot(
    clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keepers, "SAVE_SECONDS", 0.0)
    clock.seconds = lambda passed: 3.3
    clock.killed_at = 60.0
    network = make_dense()
    with pytest.raises(KilledError):
        fit_dense(Checkpoint(tmp_path, network), network, Slot(START, START + 100))
    before = len(clock.rates)
    clock.now += 500  # until somebody starts it again
    clock.killed_at = np.inf
    clock.seconds = lambda passed: 1.1
    network = make_dense()
    begun = clock.now
    fit_dense(Checkpoint(tmp_path, network), network, Slot(begun, begun + 40))
    assert 40 <= clock.now - begun < 41.1
    rates = np.array(clock.rates)
    assert rates[before] == pytest.approx(0.1 * (1 - before * 0.033) / 0.9, rel=1e-3)
    assert (np.diff(rates[rates.argmax() :]) < 0).all()
    assert rates[-1] < 0.1 * 0.4 * 1.1 / 40 / 0.9


def test_in_a_slot_the_input_grows_with_the_clock(clock: Clock, tmp_path: Path) -> None:
    changes = {"training.start_size": 32, "model.input_size": 48}
    config = with_settings(CONFIG, changes)
    clock.seconds = lambda passed: 9.1
    keras.utils.set_random_seed(0)
    data = make_data()
    keeper = Checkpoint(tmp_path, build_network(config, data, RANDOM))
    slot = Slot(START, START + 100)
    train(config, data, RANDOM, keeper, TrainingTime(slot, START + 100, 100.0))
    assert {side for _, side in clock.sides} == {32, 48}
    assert all(side == (32 if passed < 50 else 48) for passed, side in clock.sides)


def train_tiny(clock: Clock, folder: Path, rate: float, limit: float) -> Checkpoint:
    """Train from random weights in a slot of 100 s; limit: the seconds that it may take at most."""
    changes = {"training.head_learning_rate": rate, "augmentation.cutmix": 0.0}
    config = with_settings(CONFIG, changes | {"augmentation.mixup": 0.0})
    data = make_data()
    keras.utils.set_random_seed(0)
    keeper = Checkpoint(folder, build_network(config, data, RANDOM))
    slot = Slot(START, START + 100)
    train(config, data, RANDOM, keeper, TrainingTime(slot, START + limit, 400.0))
    return keeper


def test_a_network_at_chance_trains_on_beyond_its_slot_up_to_its_limit(
    clock: Clock, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clock.seconds = lambda passed: 9.7
    keeper = train_tiny(clock, tmp_path, 1e-8, limit=190.0)
    assert list(dict.fromkeys(row["stage"] for row in keeper.history)) == [
        "from scratch",
        "from scratch 2",
    ]
    assert 190 <= clock.passed < 199.7
    output = capsys.readouterr().out
    assert output.count("no better than chance yet: it trains on for 1 min 23 s\n") == 1


def test_a_limit_that_leaves_too_little_time_ends_a_training_at_chance(
    clock: Clock, tmp_path: Path
) -> None:
    clock.seconds = lambda passed: 9.7
    keeper = train_tiny(clock, tmp_path, 1e-8, limit=115.0)
    assert {row["stage"] for row in keeper.history} == {"from scratch"}
    assert 100 <= clock.passed < 109.7


def test_a_network_that_beats_chance_ends_with_its_slot(clock: Clock, tmp_path: Path) -> None:
    clock.seconds = lambda passed: 2.9
    keeper = train_tiny(clock, tmp_path, 0.01, limit=400.0)
    assert keeper.best_score > 0.6
    assert {row["stage"] for row in keeper.history} == {"from scratch"}
    assert 100 <= clock.passed < 102.9
