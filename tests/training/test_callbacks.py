"""Averaged weights: what Keras shows is what numpy computes from the weights that passed."""

from typing import Any

import keras
import numpy as np
import pytest

from competition.config import with_settings
from competition.data.arrays import one_hot
from competition.training import callbacks
from competition.training.batches import Batches
from competition.training.callbacks import Average, StepWatcher
from competition.training.keepers import Keeper
from competition.training.stages import Stage
from competition.training.train import fit_stage, predict
from tests.factories import CONFIG

STAGE = Stage("only", 1.0, "training", epochs=3, learning_rate=0.05, l2=0.0)


def make_network() -> keras.Model:
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4,))
    x = keras.layers.BatchNormalization(momentum=0.5)(inputs)
    return keras.Model(inputs, keras.layers.Dense(3, "softmax")(x))


def average_of(weights: list[list[np.ndarray]], horizon: float) -> list[np.ndarray]:
    """Return the average, each of `weights` with the share that is left of it in the end."""
    shares = np.ones(len(weights))
    for number in range(1, len(weights) + 1):
        share = min(1.0, 1 / (horizon * number))
        shares[: number - 1] *= 1 - share
        shares[number - 1] = share
    assert shares.sum() == pytest.approx(1)
    return [np.tensordot(shares, np.stack(values), 1) for values in zip(*weights, strict=True)]


@pytest.mark.parametrize("horizon", [0.1, 0.3])
def test_the_average_goes_over_a_share_of_what_was_seen(horizon: float) -> None:
    network = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
    average = Average(network, horizon)
    for number in range(1, 201):
        network.set_weights([np.full((1, 1), number)])
        average.update()
    # The power function average of 1, 2, ..., n is n / (1 + horizon).
    assert average.mean[0].item() == pytest.approx(200 / (1 + horizon), rel=0.01)


def test_a_swap_puts_the_average_in_and_a_second_one_takes_it_out() -> None:
    network = make_network()
    average = Average(network, 0.5)
    average.swap()  # nothing was seen yet
    first = network.get_weights()
    average.update()
    network.set_weights([value + 1 for value in first])
    for _ in range(3):
        average.update()
    average.swap()
    for value, before in zip(network.get_weights(), first, strict=True):
        assert np.abs(value - before - 1).max() < 1
    average.swap()
    for value, before in zip(network.get_weights(), first, strict=True):
        np.testing.assert_allclose(value, before + 1)


@pytest.fixture
def passed(monkeypatch: pytest.MonkeyPatch) -> list[list[np.ndarray]]:
    """The weights at each time that an average takes them in."""
    recorded: list[list[np.ndarray]] = []
    original = Average.update

    def update(average: Average) -> None:
        recorded.append([np.array(keras.ops.convert_to_numpy(item)) for item in average.variables])
        original(average)

    monkeypatch.setattr(callbacks, "STEPS_PER_AVERAGE", 2)
    monkeypatch.setattr(Average, "update", update)
    return recorded


def test_the_weights_that_are_kept_are_the_average_and_predictions_are_theirs(
    passed: list[list[np.ndarray]], monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = np.random.default_rng(0)
    features = generator.normal(3, 2, (35, 4)).astype(np.float32)
    labels = generator.integers(0, 3, 35)
    kept: list[tuple[list[np.ndarray], np.ndarray, int]] = []

    class AlwaysBest(Keeper):
        def add_epoch(self, row: Any, network: keras.Model, predictions: Any) -> None:
            super().add_epoch(row, network, predictions)
            kept.append((network.get_weights(), predictions, len(passed)))

    network = make_network()
    config = with_settings(CONFIG, {"training.average": 0.4})
    batches = Batches(features[None], one_hot(labels, 3)[None], batch_size=7, seed=0)
    fit_stage(network, batches, (features, labels), STAGE, config, AlwaysBest())
    assert [seen for _, _, seen in kept] == [3, 6, 9]  # every second of five steps, and the last
    for weights, predictions, seen in kept:
        expected = average_of(passed[:seen], 0.4)
        for name, value, mean in zip(network.weights, weights, expected, strict=True):
            np.testing.assert_allclose(value, mean, rtol=1e-5, atol=1e-6, err_msg=name.path)
        other = make_network()
        other.set_weights(weights)
        np.testing.assert_allclose(predictions, predict(other, features), atol=1e-5)
    # Statistics of BatchNorm are those of the average, and training itself goes on without it.
    names = [item.path.rpartition("/")[2] for item in network.weights]
    assert {"moving_mean", "moving_variance"} <= set(names)
    for value, last in zip(network.get_weights(), passed[-1], strict=True):
        np.testing.assert_array_equal(value, last)
    assert max(np.abs(a - b).max() for a, b in zip(kept[-1][0], passed[-1], strict=True)) > 1e-3


def test_what_is_averaged_and_saved_after_a_step_is_what_the_step_has_made(
    passed: list[list[np.ndarray]],
) -> None:
    features = np.random.default_rng(0).normal(size=(10, 4)).astype(np.float32)
    labels = one_hot(np.arange(10) % 3, 3)
    network = make_network()
    model = keras.Model(network.inputs, network.outputs)
    model.compile(keras.optimizers.Adam(), "categorical_crossentropy")
    saved = []
    watcher = StepWatcher(
        first=0,
        rate=lambda done: 0.1,
        must_stop=lambda done: False,
        save=lambda done: saved.append(tuple(network.get_weights()[-1].tolist())),
        average=Average(network, 0.5),
        title="",
    )
    batches = Batches(features[None], labels[None], batch_size=2, seed=0).stream(0, 0)
    model.fit(batches, steps_per_epoch=5, shuffle=False, verbose=0, callbacks=[watcher])
    assert len(set(saved)) == 5
    assert saved[-1] == tuple(network.get_weights()[-1].tolist())
    assert [tuple(weights[-1].tolist()) for weights in passed] == [saved[1], saved[3]]
