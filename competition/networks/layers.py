"""The network in training: built by the settings, frozen at block borders, penalised."""

from itertools import pairwise
from typing import Any

import keras

from competition.backbones import get_backbone
from competition.config import ModelConfig
from competition.networks.submission_model import build_network, ignore_keras_json
from competition.networks.weights import Weights, load_backbone

SMALLEST_INPUT = 32  # side in pixels; the backbones halve it five times, smaller images grow


def network_spec(
    config: ModelConfig, image_shape: tuple[int, ...], num_classes: int
) -> dict[str, Any]:
    """Return the spec of `submission_model.build_network`, as in a submission's config.json."""
    entry = get_backbone(config.backbone)
    side = config.input_size or image_shape[0]
    return {
        "builder": entry.builder,
        "arguments": entry.arguments,
        "image_shape": list(image_shape),
        "input_size": config.input_size if side >= SMALLEST_INPUT else SMALLEST_INPUT,
        "head_units": config.head_units,
        "dropout": config.dropout,
        "num_classes": num_classes,
    }


def create_network(
    spec: dict[str, Any], weights: Weights, precision: str = "float32"
) -> keras.Model:
    """Return the network of `spec` with `weights` in its backbone and a random head.

    precision: Keras' dtype policy of all layers but the last; weights are float32 under each.
    """
    ignore_keras_json()
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(precision)
    try:
        network = build_network(spec)
    finally:
        keras.config.set_dtype_policy(before)
    load_backbone(find_backbone(network), weights)
    return network


def find_backbone(network: keras.Model) -> keras.Model:
    """Return the backbone, the one nested model of a network that `build_network` made."""
    return next(layer for layer in network.layers if isinstance(layer, keras.Model))


def set_trainable(
    network: keras.Model, share: float, batch_norm: str, batch_norm_momentum: float
) -> None:
    """Let the head and the upper `share` of the backbone's layers train, from a block border on.

    share: 0 freezes the backbone. batch_norm: `inference` keeps statistics and scales of the
    backbone's BatchNorm layers; `training` lets those of the upper share learn new ones, with a
    momentum low enough to follow within a few dozen steps.
    """
    backbone = find_backbone(network)
    backbone.trainable = share > 0
    border = find_border(backbone, share) if share else len(backbone.layers)
    for index, layer in enumerate(backbone.layers):
        layer.trainable = index >= border
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.trainable = index >= border and batch_norm == "training"
            if layer.trainable:
                layer.momentum = batch_norm_momentum


def find_border(backbone: keras.Model, share: float) -> int:
    """Return the index of the first layer of the upper `share`: the nearest block border, or 0."""
    wanted = round((1 - share) * len(backbone.layers))
    return min([0, *block_borders(backbone)], key=lambda index: abs(index - wanted))


def pooled_part(network: keras.Model) -> keras.Model:
    """Return the model of the same layers: images -> the pooled output of the backbone (n, d)."""
    pooling = next(
        layer for layer in network.layers if isinstance(layer, keras.layers.GlobalAveragePooling2D)
    )
    return keras.Model(network.inputs, pooling.output)


def backbone_side(network: keras.Model) -> int:
    """Return the side in pixels of the images that the backbone reads."""
    resizing = [layer for layer in network.layers if isinstance(layer, keras.layers.Resizing)]
    return int(resizing[0].height if resizing else network.input_shape[1])


def resized_network(network: keras.Model, side: int) -> keras.Model:
    """Return a model of the same layers and weights whose backbone reads `side` pixels."""
    backbone = find_backbone(network)
    x = inputs = keras.Input((side, side, 3))
    for layer in network.layers[network.layers.index(backbone) :]:
        x = layer(x)
    return keras.Model(inputs, x)


def list_blocks(backbone: keras.Model) -> list[list[Any]]:
    """Return the layers of each block of a backbone, from the input on."""
    borders = [0, *block_borders(backbone), len(backbone.layers)]
    return [backbone.layers[low:high] for low, high in pairwise(borders)]


def penalise_head(network: keras.Model, l2: float) -> None:
    """Put an L2 penalty on the kernels of the dense layers; weights are exported without it."""
    for layer in network.layers:
        if isinstance(layer, keras.layers.Dense):
            layer.kernel.regularizer = keras.regularizers.L2(l2) if l2 else None


def block_borders(backbone: keras.Model) -> list[int]:
    """Return the indices into `backbone.layers` at which a block begins.

    At a border a single tensor crosses from the layers before to those after, so no residual or
    squeeze-and-excitation branch is cut. And the layer before it ends a block: an addition, a
    pooling, or a normalisation that no activation follows (the linear bottleneck of MobileNet and
    EfficientNet).
    """
    operations = backbone.operations  # the layers, and additions without one, as in ConvNeXt
    position = {id(operation): index for index, operation in enumerate(operations)}
    consumers: list[list[int]] = [[] for _ in operations]
    for index, operation in enumerate(operations):
        for node in operation._inbound_nodes:
            for tensor in node.input_tensors:
                source = position.get(id(tensor._keras_history.operation))
                if source is not None and source < index:
                    consumers[source].append(index)
    borders, reach, layers = [], 0, 0
    for index, used in enumerate(consumers[:-1]):
        layers += isinstance(operations[index], keras.layers.Layer)
        if reach <= index and _ends_block(operations[index], [operations[item] for item in used]):
            borders.append(layers)
        reach = max([reach, *used])
    return borders


def _ends_block(layer: Any, consumers: list[Any]) -> bool:
    activations = (keras.layers.Activation, keras.layers.ReLU)
    if any(isinstance(item, activations) for item in consumers):
        return False
    ends = (
        keras.layers.Add,
        keras.layers.MaxPooling2D,
        keras.layers.AveragePooling2D,
        keras.layers.BatchNormalization,
    )
    if isinstance(layer, activations):  # a ResNet's addition keeps its activation
        return any(
            isinstance(t._keras_history.operation, keras.layers.Add)
            for t in layer._inbound_nodes[0].input_tensors
        )
    return isinstance(layer, ends) or type(layer).__name__ == "Add"
