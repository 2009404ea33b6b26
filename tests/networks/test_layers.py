"""Block borders, what trains, the head's penalty, and the same layers at another input size."""

from typing import Any

import keras
import numpy as np
import pytest

from competition.backbones import BACKBONES
from competition.config import ModelConfig
from competition.networks.layers import (
    backbone_side,
    block_borders,
    create_network,
    find_backbone,
    find_border,
    list_blocks,
    network_spec,
    penalise_head,
    pooled_part,
    resized_network,
    set_trainable,
)
from competition.networks.weights import RANDOM


def make_network(backbone: str, size: int = 32, **changes: Any) -> keras.Model:
    config = ModelConfig(backbone=backbone, head_units=8, **changes)
    return create_network(network_spec(config, (size, size, 3), 4), RANDOM)


@pytest.fixture(scope="module")
def large() -> keras.Model:
    return make_network("mobilenetv3large")


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    generator = np.random.default_rng(0)
    return generator.integers(0, 256, (3, 32, 32, 3)).astype(np.float32)


def predict(network: keras.Model, inputs: np.ndarray) -> np.ndarray:
    return np.asarray(network.predict_on_batch(inputs))


@pytest.mark.parametrize("backbone", sorted(BACKBONES))
def test_every_backbone_maps_images_to_probabilities(backbone: str) -> None:
    images = np.full((2, 32, 32, 3), 200, np.uint8)
    probabilities = make_network(backbone)(images, training=False)
    np.testing.assert_allclose(np.asarray(probabilities).sum(axis=1), 1, rtol=1e-5)


def test_borders_of_mobilenet_lie_after_its_fifteen_blocks(large: keras.Model) -> None:
    backbone = find_backbone(large)
    borders = block_borders(backbone)
    ends = [backbone.layers[index - 1].name for index in borders]
    assert len(borders) == 15
    assert all(name.endswith(("add", "project_bn")) for name in ends)


def test_borders_of_efficientnet_lite_lie_after_its_sixteen_blocks() -> None:
    backbone = find_backbone(make_network("efficientnetlite0"))
    ends = [backbone.layers[index - 1].name for index in block_borders(backbone)]
    assert len(ends) == 16
    assert sum(name.startswith("add") for name in ends) == 9


@pytest.fixture(scope="module")
def convnext() -> keras.Model:
    """A backbone whose additions are no layers."""
    return make_network("convnexttiny")


def test_borders_of_convnext_lie_after_its_eighteen_blocks(convnext: keras.Model) -> None:
    backbone = find_backbone(convnext)
    scales = [isinstance(layer, type(backbone.layers[8])) for layer in backbone.layers]
    borders = block_borders(backbone)
    assert sum(scales) == 18  # one LayerScale per block
    for number, border in enumerate(borders, start=1):
        assert sum(scales[:border]) == number, "the blocks below are whole, and so are those above"
    assert len(borders) == 18


def test_the_upper_share_of_convnext_trains_and_the_rest_does_not(convnext: keras.Model) -> None:
    set_trainable(convnext, 0.5, "training", 0.9)
    layers = find_backbone(convnext).layers
    trained = [layer.trainable for layer in layers if layer.weights]
    assert trained == sorted(trained)
    assert 0.4 < np.mean(trained) < 0.6


def test_no_tensor_but_one_crosses_a_border(large: keras.Model) -> None:
    backbone = find_backbone(large)
    for border in block_borders(backbone):
        before = {id(layer): layer for layer in backbone.layers[:border]}
        crossing = {
            id(tensor._keras_history.operation)
            for layer in backbone.layers[border:]
            for node in layer._inbound_nodes
            for tensor in node.input_tensors
            if id(tensor._keras_history.operation) in before
        }
        assert len(crossing) == 1


def test_blocks_are_all_layers_in_order(large: keras.Model) -> None:
    backbone = find_backbone(large)
    blocks = list_blocks(backbone)
    assert len(blocks) == 16
    assert [layer for block in blocks for layer in block] == backbone.layers


def test_the_baselines_share_trains_from_layer_124_on(large: keras.Model) -> None:
    backbone = find_backbone(large)
    assert (len(backbone.layers), find_border(backbone, 63 / 187)) == (187, 124)


def test_without_a_share_the_head_alone_trains(large: keras.Model) -> None:
    set_trainable(large, 0.0, "inference", 0.9)
    assert len(large.trainable_variables) == 4


def test_in_inference_mode_all_that_trains_but_normalisation(large: keras.Model) -> None:
    set_trainable(large, 1.0, "inference", 0.9)
    fixed = {
        type(layer)
        for layer in find_backbone(large).layers
        if layer.weights and not layer.trainable
    }
    assert fixed == {keras.layers.BatchNormalization}


@pytest.mark.parametrize("share", [0.4, 1.0])
def test_in_training_mode_normalisation_of_the_share_learns_with_a_momentum_that_follows(
    share: float,
) -> None:
    network = make_network("custom_cnn")
    set_trainable(network, share, "training", 0.9)
    backbone = find_backbone(network)
    border = find_border(backbone, share)
    below = set()
    for index, layer in enumerate(backbone.layers):
        assert layer.trainable == (index >= border)
        if isinstance(layer, keras.layers.BatchNormalization):
            if index >= border:
                assert layer.momentum == 0.9
            else:
                below.add(layer.momentum)
    assert below == (set() if share == 1.0 else {0.99})


def test_a_later_stage_leaves_nothing_of_an_earlier_one() -> None:
    used, fresh = make_network("custom_cnn"), make_network("custom_cnn")
    set_trainable(used, 1.0, "training", 0.9)
    for network in (used, fresh):
        set_trainable(network, 0.4, "inference", 0.9)
    assert len(used.trainable_variables) == len(fresh.trainable_variables) > 4


def test_the_penalty_of_the_head_is_the_sum_of_squares() -> None:
    network = make_network("tiny_cnn")
    penalise_head(network, 0.5)
    kernels = [layer.kernel for layer in network.layers if isinstance(layer, keras.layers.Dense)]
    squares = [(keras.ops.convert_to_numpy(kernel) ** 2).sum() for kernel in kernels]
    assert float(sum(network.losses)) == pytest.approx(0.5 * float(sum(squares)), rel=1e-5)
    penalise_head(network, 0.0)
    assert not network.losses


def test_the_pooled_part_is_the_network_below_its_head(images: np.ndarray) -> None:
    network = make_network("custom_cnn", input_size=48)
    pooled = pooled_part(network)
    head = keras.Model(pooled.output, network.output)
    probabilities = predict(head, pooled.predict_on_batch(images))
    np.testing.assert_allclose(probabilities, predict(network, images), atol=1e-5)


@pytest.mark.parametrize("input_size", [0, 48])
def test_at_another_size_the_same_layers_read_resized_images(
    input_size: int, images: np.ndarray
) -> None:
    network = make_network("tiny_cnn", input_size=input_size)
    full = input_size or 32
    assert backbone_side(network) == full
    for side in (40, full):
        other = resized_network(network, side)
        assert {id(item) for item in other.weights} == {id(item) for item in network.weights}
        small = np.asarray(keras.layers.Resizing(side, side)(images))
        native = make_network("tiny_cnn", size=side)
        native.set_weights(network.get_weights())
        np.testing.assert_allclose(predict(other, small), predict(native, small), atol=1e-5)
        if side == full:
            np.testing.assert_allclose(predict(other, small), predict(network, images), atol=1e-5)
