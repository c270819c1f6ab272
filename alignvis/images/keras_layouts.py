"""Keras's names and orders of axes to ours, layer by layer.

The names are those that vit-keras (with slashes until 0.1, underscores since), keras-cv-attention-models and
``keras.applications`` give. A wrapped model's layers may stand behind further parts of a path.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from alignvis.images.convnext import ConvNeXt
from alignvis.images.levit import STEM, LeViT
from alignvis.images.renaming import Tensors
from alignvis.images.resnet_v2 import ResNetV2
from alignvis.images.vgg import VGG
from alignvis.images.vit import Architecture as ViT
from alignvis.images.vit_layouts import fuse

Names = dict[str, str | None]  # layers, or single parameters, and what they are here; None: not needed

PARAMETERS = {
    "kernel": "weight",
    "depthwise_kernel": "weight",
    "bias": "bias",
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}
AXES = {  # of which parameters, by name and number of axes, and the order that they are to have
    ("kernel", 2): (1, 0),  # (in, out)
    ("kernel", 4): (3, 2, 0, 1),  # (rows, columns, in, out)
    ("depthwise_kernel", 4): (2, 3, 0, 1),  # (rows, columns, channels, 1)
    ("positional_embedding", 2): (1, 0),  # LeViT's biases, (distances, heads)
}


def from_keras(tensors: Tensors, architecture: Any) -> Tensors:
    """Rename and transpose what a Keras file holds.

    Args:
        tensors: as "layer/parameter".
        architecture: of one of the families in `NAMES`.

    Returns:
        The tensors under our names; those that fit no name keep theirs.
    """
    names = NAMES[type(architecture)](architecture)
    renamed: Tensors = {}
    for name, tensor in tensors.items():
        layer, _, parameter = name.rpartition("/")
        new = name
        if (whole := _look_up(name, names)) is not None:
            new = names[whole]
        elif (module := _look_up(layer, names)) is not None and parameter in PARAMETERS:
            new = None if names[module] is None else f"{names[module]}.{PARAMETERS[parameter]}"
        if new is not None:
            known = new != name and new not in renamed
            renamed[new if known else name] = _oriented(parameter, tensor) if known else tensor
    if isinstance(architecture, VGG):
        return _as_convolutions(renamed, architecture)
    return fuse(renamed) if isinstance(architecture, ViT) else renamed


def _look_up(path: str, names: Mapping[str, Any]) -> str | None:
    """The longest end of a path that is a name; its parts may be joined by slashes or by underscores."""
    parts = path.split("/")
    return next((end for start in range(len(parts)) if (end := "_".join(parts[start:])) in names), None)


def _oriented(parameter: str, tensor: Tensor) -> Tensor:
    axes = AXES.get((parameter, tensor.ndim))
    return tensor if axes is None else tensor.permute(axes)


def _as_convolutions(tensors: Tensors, architecture: VGG) -> Tensors:
    """Make convolutions of the fully connected layers; Keras flattens a map row by row, with channels innermost."""
    grid, hidden, width = architecture.grid, architecture.hidden, architecture.widths[-1]
    sizes = {"pre_logits.fc1.weight": (grid, grid, width), "pre_logits.fc2.weight": (1, 1, hidden)}
    for name, (rows, columns, channels) in sizes.items():
        if name in tensors and tensors[name].shape == (hidden, rows * columns * channels):
            tensors[name] = tensors[name].reshape(hidden, rows, columns, channels).permute(0, 3, 1, 2)
    return tensors


def _vit(architecture: ViT) -> Names:
    names: Names = {
        "embedding": "patch_embed.proj",
        "class_token_cls": "cls_token",
        "Transformer_posembed_input_pos_embedding": "pos_embed",
        "Transformer_encoder_norm": "norm",
        "head": None,
    }
    parts = {
        "LayerNorm_0": "norm1",
        "MultiHeadDotProductAttention_1_query": "attn.q",
        "MultiHeadDotProductAttention_1_key": "attn.k",
        "MultiHeadDotProductAttention_1_value": "attn.v",
        "MultiHeadDotProductAttention_1_out": "attn.proj",
        "LayerNorm_2": "norm2",
        "Dense_0": "mlp.fc1",
        "Dense_1": "mlp.fc2",
    }
    for block in range(architecture.depth):
        names |= {f"Transformer_encoderblock_{block}_{part}": f"blocks.{block}.{ours}" for part, ours in parts.items()}
    return names


def _resnet_v2(architecture: ResNetV2) -> Names:
    names: Names = {"conv1_conv": "conv1", "post_bn": "post_bn", "predictions": None}
    parts = {
        "preact_bn": "preact_bn",
        "0_conv": "conv0",
        "1_conv": "conv1",
        "1_bn": "bn1",
        "2_conv": "conv2",
        "2_bn": "bn2",
        "3_conv": "conv3",
    }
    for stage, blocks in enumerate(architecture.blocks):
        for block in range(blocks):
            theirs = f"conv{stage + 2}_block{block + 1}"
            names |= {f"{theirs}_{part}": f"stages.{stage}.{block}.{ours}" for part, ours in parts.items()}
    return names


def _convnext(architecture: ConvNeXt) -> Names:
    names: Names = {"stem_conv": "stem.0", "stem_ln": "stem.1", "head_ln": "head.norm", "predictions": None}
    parts = {
        "dw_conv": "conv_dw",
        "ln": "norm",
        "up_dense": "mlp.fc1",
        "down_dense": "mlp.fc2",
        "gamma_weight": "gamma",
    }
    for stage, blocks in enumerate(architecture.blocks):
        names[f"stack{stage + 1}_downsample_ln"] = f"stages.{stage}.downsample.0"
        names[f"stack{stage + 1}_downsample_conv"] = f"stages.{stage}.downsample.1"
        for block in range(blocks):
            theirs = f"stack{stage + 1}_block{block + 1}"
            names |= {f"{theirs}_{part}": f"stages.{stage}.blocks.{block}.{ours}" for part, ours in parts.items()}
    return names


def _vgg(architecture: VGG) -> Names:
    names: Names = {"fc1": "pre_logits.fc1", "fc2": "pre_logits.fc2", "predictions": None}
    place = 0
    for stage, convolutions in enumerate(architecture.convolutions, 1):
        for convolution in range(1, convolutions + 1):
            names[f"block{stage}_conv{convolution}"] = f"features.{place}"
            place += 2  # each is followed by a ReLU
        place += 1  # the pool
    return names


def _levit(architecture: LeViT) -> Names:
    names: Names = {"head_bn": "head.bn" if architecture.output == "norm" else None}
    names |= dict.fromkeys(("head", "distill_head", "distill_head_bn"))
    mlp = {"mlp_1_dense": "mlp.ln1.linear", "mlp_1_bn": "mlp.ln1.bn"}
    mlp |= {"mlp_2_dense": "mlp.ln2.linear", "mlp_2_bn": "mlp.ln2.bn"}
    attention = {"out": "proj.ln.linear", "out_bn": "proj.ln.bn", "attn_pos_positional_embedding": "attention_biases"}
    block = attention | {"qkv": "qkv.linear", "qkv_bn": "qkv.bn"}
    block = {part: f"attn.{ours}" for part, ours in block.items()} | mlp
    downsample = attention | {"q": "q.ln.linear", "q_bn": "q.ln.bn", "kv": "kv.linear", "kv_bn": "kv.bn"}
    downsample = {part: f"attn_downsample.{ours}" for part, ours in downsample.items()} | mlp
    for step in range(1, STEM + 1):
        names |= {f"stem_{step}_conv": f"stem.conv{step}.linear", f"stem_{step}_bn": f"stem.conv{step}.bn"}
    for stage, blocks in enumerate(architecture.blocks):
        # What leads from one stage to the next belongs to the first for Keras, and to the second here.
        theirs, ours = f"stack{stage}_downsample", f"stages.{stage}.downsample"
        names |= {f"{theirs}_{part}": f"{ours}.{inner}" for part, inner in downsample.items()}
        for number in range(blocks):
            theirs, ours = f"stack{stage + 1}_block{number + 1}", f"stages.{stage}.blocks.{number}"
            names |= {f"{theirs}_{part}": f"{ours}.{inner}" for part, inner in block.items()}
    return names


NAMES = {ViT: _vit, ResNetV2: _resnet_v2, ConvNeXt: _convnext, VGG: _vgg, LeViT: _levit}
