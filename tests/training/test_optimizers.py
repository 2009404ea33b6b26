"""The optimiser of a stage: its settings arrive, and nothing of it stays when training is over."""

import gc
from typing import Any

import keras
import numpy as np
import pytest

from competition.config import Config, with_settings
from competition.data.arrays import one_hot
from competition.networks.layers import create_network, find_backbone, list_blocks, network_spec
from competition.networks.weights import RANDOM
from competition.training.batches import Batches
from competition.training.keepers import Keeper
from competition.training.stages import Stage
from competition.training.train import OPTIMIZERS, build_optimizer, fit_stage
from tests.factories import CONFIG

STAGE = Stage("only", 1.0, "training", epochs=1, learning_rate=0.01, l2=0.0)
STEADY = {"training.schedule": "plateau", "training.warm_up": 0.0}


def make_network(name: str = "custom_cnn") -> keras.Model:
    """Return a network that trains as a whole."""
    model = with_settings(CONFIG, {"model.backbone": name}).model
    keras.utils.set_random_seed(0)
    network = create_network(network_spec(model, (32, 32, 3), 3), RANDOM)
    STAGE.prepare(network, 0.9)
    return network


def values_of(network: keras.Model) -> dict[str, np.ndarray]:
    return {
        item.path: np.array(keras.ops.convert_to_numpy(item))
        for item in network.trainable_variables
    }


def apply_steps(config: Config, network: keras.Model, *gradients: float) -> list[Any]:
    """Update a network by even gradients, step by step; return the change that each one makes."""
    optimizer = build_optimizer(network, STAGE, config.training)
    changes = []
    for gradient in gradients:
        before = values_of(network)
        variables = network.trainable_variables
        optimizer.apply([keras.ops.full(item.shape, gradient) for item in variables], variables)
        after = values_of(network)
        changes.append({path: after[path] - before[path] for path in before})
    return changes


def count_graphs() -> int:
    """Return how many graphs of training steps are in memory."""
    gc.collect()
    known = [item for item in gc.get_objects() if type(item).__name__ == "FuncGraph"]
    return sum(graph.name == "one_step_on_data" for graph in known)


@pytest.mark.parametrize("optimizer", list(OPTIMIZERS))
def test_rates_fall_by_a_factor_per_block_below_the_head(optimizer: str) -> None:
    changes = {"training.layer_decay": 0.5, "training.optimizer": optimizer}
    changes |= {"training.weight_decay": 0.0}
    network = make_network()
    # All of these optimisers' first step is the rate itself, along the gradient's sign.
    (steps,) = apply_steps(with_settings(CONFIG, changes), network, 1.0)
    blocks = list_blocks(find_backbone(network))
    assert len(blocks) > 3
    seen = []
    for number, layers in enumerate(blocks):
        expected = -0.01 * 0.5 ** (len(blocks) - number)
        for variable in (item for layer in layers for item in layer.trainable_variables):
            np.testing.assert_allclose(steps[variable.path], expected, rtol=1e-3, atol=1e-7)
            seen.append(variable.path)
    rest = [steps[path] for path in steps.keys() - seen]
    assert len(rest) == 4
    for step in rest:
        np.testing.assert_allclose(step, -0.01, rtol=1e-3)


def test_rates_fall_in_a_compiled_training_too() -> None:
    config = with_settings(CONFIG, STEADY | {"training.layer_decay": 0.1, "model.dropout": 0.0})
    graphs = count_graphs()
    network = make_network("tiny_cnn")
    before = values_of(network)
    images = np.random.default_rng(0).normal(120, 50, (1, 12, 32, 32, 3)).astype(np.float32)
    labels = np.arange(12) % 3
    batches = Batches(images, one_hot(labels, 3)[None], batch_size=12, seed=0)
    fit_stage(network, batches, (images[0], labels), STAGE, config, Keeper())
    after = values_of(network)
    blocks = list_blocks(find_backbone(network))
    for number, layers in enumerate(blocks):
        paths = [item.path for layer in layers for item in layer.trainable_variables]
        largest = max(float(np.abs(after[path] - before[path]).max()) for path in paths)
        assert largest == pytest.approx(0.01 * 0.1 ** (len(blocks) - number), rel=0.02)
    del network, blocks, layers
    assert count_graphs() == graphs, "the factors keep the training in memory"


def test_all_gradients_together_are_clipped_to_the_largest_norm() -> None:
    moved = {}
    for norm in (0.0, 1.0):
        config = with_settings(CONFIG, {"training.clip_norm": norm})
        steps = apply_steps(config, make_network("tiny_cnn"), 1.0, 100.0)
        moved[norm] = float(np.abs(next(iter(steps[1].values()))).mean())
    # Clipped, both gradients have one norm, and Adam makes two equal steps.
    assert moved[1.0] == pytest.approx(0.01, rel=1e-2)
    assert moved[0.0] < 0.008


@pytest.mark.parametrize("optimizer", ["adamw", "lion"])
def test_weight_decay_leaves_biases_and_normalisation_alone(optimizer: str) -> None:
    changes = {"training.optimizer": optimizer, "training.weight_decay": 0.2}
    network = make_network("tiny_cnn")
    network.set_weights([np.full(item.shape, 0.5) for item in network.weights])
    (steps,) = apply_steps(with_settings(CONFIG, changes), network, 0.0)
    names = {path.rpartition("/")[2] for path in steps}
    assert names == {"kernel", "bias", "gamma", "beta"}
    for path, step in steps.items():
        expected = -0.5 * 0.2 * 0.01 if path.endswith("kernel") else 0.0
        np.testing.assert_allclose(step, expected, rtol=1e-4, atol=1e-8, err_msg=path)


def test_adam_decays_no_weights() -> None:
    (steps,) = apply_steps(CONFIG, make_network("tiny_cnn"), 0.0)
    assert all((step == 0).all() for step in steps.values())


@pytest.mark.parametrize("optimizer", list(OPTIMIZERS))
def test_of_a_training_that_is_over_nothing_stays_in_memory(optimizer: str) -> None:
    before = count_graphs()
    changes = {"training.average": 0.1, "training.clip_norm": 1.0}
    config = with_settings(CONFIG, changes | {"training.optimizer": optimizer})
    features = np.zeros((1, 6, 4), np.float32)
    labels = np.arange(6) % 3
    batches = Batches(features, one_hot(labels, 3)[None], batch_size=6, seed=0)
    inputs = keras.Input((4,))
    network = keras.Model(inputs, keras.layers.Dense(3, "softmax")(inputs))
    fit_stage(network, batches, (features[0], labels), STAGE, config, Keeper())
    del network
    assert count_graphs() == before
