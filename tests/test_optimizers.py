"""Joined optimisers compute what Keras' own do."""

import keras
import numpy as np
import pytest

from competition.optimizers import _FUSED, _PLAIN, get_optimizer


def train(optimizer: keras.optimizers.Optimizer, steps: int) -> list[np.ndarray]:
    keras.utils.set_random_seed(7)
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(4, activation="relu"), keras.layers.Dense(2)])
    model.compile(optimizer, "mse", jit_compile=False)
    generator = np.random.default_rng(0)
    inputs, targets = generator.normal(size=(16, 5)), generator.normal(size=(16, 2))
    for _ in range(steps):
        model.train_on_batch(inputs, targets)
    return list(model.get_weights())


@pytest.mark.parametrize("name", ["adam", "adamw", "lion"])
def test_ten_joined_steps_end_where_ten_plain_ones_do(name: str) -> None:
    joined, plain = train(_FUSED[name](0.01), 10), train(_PLAIN[name](0.01), 10)
    for ours, theirs in zip(joined, plain, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def test_a_schedule_sets_the_rate_of_a_joined_optimiser() -> None:
    schedule = keras.optimizers.schedules.CosineDecay(0.01, 10)
    optimizer = get_optimizer("adamw", schedule)
    train(optimizer, 10)
    assert float(optimizer.learning_rate) == pytest.approx(0.0, abs=1e-9)
