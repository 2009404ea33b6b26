"""Block borders, freezing and the head's penalty."""

import keras
import numpy as np
import pytest

from competition.backbones import BACKBONES
from competition.config import ModelConfig
from competition.networks.layers import (
    block_borders,
    create_network,
    find_backbone,
    freeze_backbone,
    network_spec,
    penalise_head,
    train_everything,
    unfreeze_backbone,
)
from competition.networks.weights import RANDOM


def make_network(backbone: str, size: int = 32) -> keras.Model:
    config = ModelConfig(backbone=backbone, head_units=8)
    return create_network(network_spec(config, (size, size, 3), 4), RANDOM)


@pytest.fixture(scope="module")
def large() -> keras.Model:
    return make_network("mobilenetv3large")


@pytest.mark.parametrize("backbone", sorted(BACKBONES))
def test_every_backbone_maps_pictures_to_probabilities(backbone: str) -> None:
    probabilities = make_network(backbone).predict(
        np.full((2, 32, 32, 3), 200, np.uint8), verbose=0
    )
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)


def test_borders_of_mobilenet_lie_after_its_fifteen_blocks(large: keras.Model) -> None:
    backbone = find_backbone(large)
    borders = block_borders(backbone)
    ends = [backbone.layers[index - 1].name for index in borders]
    assert len(borders) == 15
    assert all(name.endswith(("add", "project_bn")) for name in ends)


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


def test_the_seeds_share_unfreezes_from_layer_124_on(large: keras.Model) -> None:
    assert unfreeze_backbone(large, 63 / 187) == 187 - 124


def test_unfreezing_all_leaves_only_normalisation_fixed(large: keras.Model) -> None:
    unfreeze_backbone(large, 1.0)
    fixed = {
        type(layer)
        for layer in find_backbone(large).layers
        if layer.weights and not layer.trainable
    }
    assert fixed == {keras.layers.BatchNormalization}
    freeze_backbone(large)
    assert len(large.trainable_variables) == 4


def test_training_everything_sets_a_momentum_that_follows(large: keras.Model) -> None:
    train_everything(large, 0.9)
    layers = [
        item
        for item in find_backbone(large).layers
        if isinstance(item, keras.layers.BatchNormalization)
    ]
    assert {layer.momentum for layer in layers} == {0.9}
    assert all(layer.trainable for layer in layers)


def test_the_penalty_of_the_head_is_the_sum_of_squares() -> None:
    network = make_network("tiny_cnn")
    penalise_head(network, 0.5)
    kernels = [layer.kernel for layer in network.layers if isinstance(layer, keras.layers.Dense)]
    expected = sum(
        0.5 * float((keras.ops.convert_to_numpy(kernel) ** 2).sum()) for kernel in kernels
    )
    assert float(sum(network.losses)) == pytest.approx(expected, rel=1e-5)
    penalise_head(network, 0.0)
    assert not network.losses
