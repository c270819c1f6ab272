"""What a full Keras model says of its layers, held against what an encoder computes; weights do not show it."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from math import isclose
from pathlib import Path
from typing import Any

from alignvis.errors import AlignvisError
from alignvis.images.convnext import ConvNeXt
from alignvis.images.levit import LeViT
from alignvis.images.resnet_v2 import ResNetV2
from alignvis.images.vgg import VGG
from alignvis.images.vit import Architecture as ViT

PREPARING = ("Rescaling", "Normalization")  # layers that change the pictures before the encoder sees them
LAYERS = 10_000


@dataclass(frozen=True)
class Rule:
    """What every layer of a kind must say.

    Attributes:
        kind: Keras's name of the class.
        name: regular expression of the layer's name; of the rules for a kind the first that fits is the one.
        values: settings, by Keras's names.
    """

    kind: str
    name: str
    values: dict[str, Any]


def check_config(config: Any, architecture: Any, file: Path) -> None:
    """Hold the ``model_config`` of a full Keras model against an architecture.

    Args:
        config: as it was read; None where there is none, and nothing is checked.
        architecture: of one of the families in `RULES`.

    Raises:
        AlignvisError: when a layer says something else than the architecture computes, or the configuration is not one.
    """
    if config is None:
        return
    rules = RULES[type(architecture)](architecture)
    for kind, name, settings in _layers(config, file):
        if kind in PREPARING:
            raise AlignvisError(
                f"{file} holds a model that prepares its pictures itself, in the layer {name!r} ({kind}), which this "
                "encoder does not; this is the file of another model"
            )
        rule = next((rule for rule in rules if rule.kind == kind and re.fullmatch(rule.name, name)), None)
        expected = {} if rule is None else dict(rule.values)
        if "data_format" in settings:
            expected["data_format"] = "channels_last"
        for setting, value in expected.items():
            if not _same(settings.get(setting), value):
                raise AlignvisError(
                    f"{file}: the layer {name!r} has the {setting} {_short(settings.get(setting))}, and {value} was "
                    "expected; this is the file of another model"
                )


def _layers(config: Any, file: Path) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Kind, name and settings of every layer, those of models within the model too."""
    waiting, seen = [config], 0
    while waiting:
        layer = waiting.pop()
        seen += 1
        settings = layer.get("config") if isinstance(layer, dict) else None
        if not isinstance(settings, dict) or seen > LAYERS:
            raise AlignvisError(f"{file} describes its model in a way that is not Keras's; download it again")
        yield str(layer.get("class_name")).rpartition(">")[2], str(settings.get("name")), settings
        inner = settings.get("layers", [])
        waiting += inner if isinstance(inner, list) else []


def _same(said: Any, expected: Any) -> bool:
    if isinstance(expected, float):
        return isinstance(said, int | float) and isclose(said, expected, rel_tol=1e-6)
    if isinstance(said, dict):  # a registered function, such as "kecamCommon>hard_swish"
        said = said.get("config")
    if isinstance(said, str) and isinstance(expected, str):
        return said.rpartition(">")[2].lower() == expected
    return said == expected


def _short(said: Any) -> str:
    return str(said)[:60]


def _resnet_v2(architecture: ResNetV2) -> list[Rule]:
    halving = [f"conv{stage + 2}_block{blocks}" for stage, blocks in enumerate(architecture.blocks[:-1])]
    plain = {"padding": "valid", "activation": "linear", "dilation_rate": [1, 1]}
    return [
        Rule("BatchNormalization", ".*", {"epsilon": architecture.eps}),
        Rule("Activation", ".*", {"activation": "relu"}),
        Rule("ZeroPadding2D", "conv1_pad", {"padding": [[3, 3], [3, 3]]}),
        Rule("ZeroPadding2D", ".*", {"padding": [[1, 1], [1, 1]]}),
        Rule("MaxPooling2D", "pool1_pool", {"pool_size": [3, 3], "strides": [2, 2], "padding": "valid"}),
        Rule("MaxPooling2D", ".*", {"pool_size": [1, 1], "strides": [2, 2]}),
        Rule(
            "Conv2D", "|".join(["conv1_conv", *(f"{block}_2_conv" for block in halving)]), plain | {"strides": [2, 2]}
        ),
        Rule("Conv2D", ".*", plain | {"strides": [1, 1]}),
    ]


def _vgg(_: VGG) -> list[Rule]:
    same = {"padding": "same", "activation": "relu", "strides": [1, 1], "dilation_rate": [1, 1]}
    return [
        Rule("Conv2D", ".*", same),
        Rule("MaxPooling2D", ".*", {"pool_size": [2, 2], "strides": [2, 2], "padding": "valid"}),
        Rule("Dense", r"fc\d", {"activation": "relu"}),
    ]


def _convnext(architecture: ConvNeXt) -> list[Rule]:
    return [
        Rule("LayerNormalization", ".*", {"epsilon": architecture.eps}),
        Rule("Activation", ".*", {"activation": "gelu"}),
        Rule("ZeroPadding2D", ".*", {"padding": [[3, 3], [3, 3]]}),
        Rule("DepthwiseConv2D", ".*", {"strides": [1, 1], "activation": "linear"}),
        Rule("Conv2D", "stem_conv", {"strides": [4, 4], "activation": "linear"}),
        Rule("Conv2D", ".*", {"strides": [2, 2], "activation": "linear"}),
        Rule("Dense", "stack.*", {"activation": "linear"}),
    ]


def _levit(architecture: LeViT) -> list[Rule]:
    return [
        Rule("BatchNormalization", ".*", {"epsilon": architecture.eps}),
        Rule("Activation", r"stack\d+_output", {"activation": "linear"}),
        Rule("Activation", ".*", {"activation": "hard_swish"}),
        Rule("ZeroPadding2D", ".*", {"padding": [[1, 1], [1, 1]]}),
        Rule("Conv2D", ".*", {"strides": [2, 2], "activation": "linear"}),
        Rule("Dense", "stack.*", {"activation": "linear"}),
    ]


def _vit(architecture: ViT) -> list[Rule]:
    return [
        Rule("LayerNormalization", ".*", {"epsilon": architecture.eps}),
        Rule("Conv2D", ".*", {"strides": [architecture.patch] * 2, "padding": "valid", "activation": "linear"}),
        Rule("TransformerBlock", ".*", {"num_heads": architecture.heads, "mlp_dim": 4 * architecture.width}),
    ]


RULES = {ResNetV2: _resnet_v2, VGG: _vgg, ConvNeXt: _convnext, LeViT: _levit, ViT: _vit}
