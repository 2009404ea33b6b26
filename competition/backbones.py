"""What each backbone is: names and settings only, so that listing them loads no Keras."""

from dataclasses import dataclass, field
from typing import Any

from competition.common.errors import UserError, unknown


@dataclass(frozen=True)
class Backbone:
    """One backbone. All take pixels in 0..255 and scale them themselves.

    builder: a function of `keras.applications`, or one of `submission_model.LOCAL_BUILDERS`.
    arguments: what the builder gets besides include_top, weights and input_shape.
    pretrained: whether ImageNet weights exist for it. train_cost, forward_cost, compile_cost: what a step of training
    all layers, a prediction and the first step cost on one core, as multiples of the custom CNN's; plans start from
    them.
    """

    title: str
    builder: str
    arguments: dict[str, Any] = field(default_factory=dict)
    pretrained: bool = True
    train_cost: float = 2.5
    forward_cost: float = 1.5
    compile_cost: float = 6.5


BACKBONES: dict[str, Backbone] = {
    "custom_cnn": Backbone(
        "custom CNN", "custom_cnn", pretrained=False, train_cost=1, forward_cost=1, compile_cost=1
    ),
    "efficientnetb0": Backbone(
        "EfficientNetB0", "EfficientNetB0", train_cost=3.1, forward_cost=1.8, compile_cost=6.9
    ),
    "mobilenetv3small": Backbone(
        "MobileNetV3Small", "MobileNetV3Small", train_cost=0.75, forward_cost=0.42, compile_cost=3.6
    ),
    "mobilenetv3large": Backbone(
        "MobileNetV3Large", "MobileNetV3Large", train_cost=1.7, forward_cost=1.1, compile_cost=4.2
    ),
    "efficientnetv2b0": Backbone("EfficientNetV2B0", "EfficientNetV2B0"),
    "tiny_cnn": Backbone(
        "tiny CNN (for tests)",
        "tiny_cnn",
        pretrained=False,
        train_cost=0.1,
        forward_cost=0.1,
        compile_cost=1,
    ),
}

COMPARED = ("custom_cnn", "efficientnetb0", "mobilenetv3small", "mobilenetv3large")


def get_backbone(name: str) -> Backbone:
    """Return the entry of `name`; raises UserError with the nearest known name."""
    if name not in BACKBONES:
        raise UserError(unknown("backbone", name, BACKBONES))
    return BACKBONES[name]
