"""Files of weights as Keras 2 writes them, and random weights in Keras's names and order of axes.

Everything is written by hand from what Keras stores, and shares nothing with `alignvis.images`.
"""

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

Layers = dict[str, dict[str, NDArray]]  # layer -> parameter (perhaps of a layer within) -> numbers


def write(
    path: Path, layers: Layers, *, config: dict[str, Any] | None = None, split: int = 0, as_bytes: bool = False
) -> Path:
    """Write a file of weights alone, or with a configuration, of a whole model.

    Args:
        split: names in one attribute, above which Keras uses several; 0: one is enough.
        as_bytes: names are stored as bytes of a fixed length, as older versions did, and not as texts.
    """

    def name(holder: h5py.Group, attribute: str, names: list[str]) -> None:
        stored = [each.encode() for each in names] if as_bytes else names
        if not split or len(names) <= split:
            holder.attrs[attribute] = stored
            return
        for part, start in enumerate(range(0, len(names), split)):
            holder.attrs[f"{attribute}{part}"] = stored[start : start + split]

    with h5py.File(path, "w") as file:
        group = file
        if config is not None:
            text = json.dumps(config)
            file.attrs["model_config"] = text.encode() if as_bytes else text
            group = file.create_group("model_weights")
            file.create_group("optimizer_weights").create_dataset("Adam/iterations:0", data=np.int64(3))
        file.attrs["keras_version"] = "2.15.0"
        group.attrs["backend"] = "tensorflow"
        name(group, "layer_names", list(layers))
        for layer, parameters in layers.items():
            inside = group.create_group(layer)
            name(inside, "weight_names", [f"{layer}/{parameter}:0" for parameter in parameters])
            for parameter, numbers in parameters.items():
                inside.create_dataset(f"{layer}/{parameter}:0", data=numbers)
        group.create_group("top_level_model_weights").attrs["weight_names"] = []
    return path


def randomise(model: nn.Module, seed: int = 0) -> nn.Module:
    """Leave no parameter and no statistic at its usual start, and keep the size of what passes through."""
    generator = np.random.default_rng(seed)
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor.is_floating_point():
            part = "gamma" if name.endswith(("weight", "layer_scale_parameter")) else "beta"
            part = "moving_variance" if "running_var" in name else part
            part = "kernel" if tensor.ndim > 1 and "biases" not in name else part
            shape = tuple(tensor.shape)
            tensor.data = tensor.new_tensor(numbers(part, (*shape[2:], *shape[1::-1]), generator).reshape(shape))
    return model.eval().requires_grad_(False)


def numbers(parameter: str, shape: tuple[int, ...], generator: np.random.Generator) -> NDArray[np.float32]:
    """Random numbers of the size that a parameter of this name has; kernels end in (in, out)."""
    noise = generator.standard_normal(shape)
    if parameter == "kernel":
        noise /= np.prod(shape[:-1]) ** 0.5
    elif parameter in ("gamma", "moving_variance", "weight"):
        noise = 0.5 + generator.random(shape)
    else:
        noise *= 0.3
    return noise.astype(np.float32)


def dense(inputs: int, outputs: int) -> dict[str, tuple[int, ...]]:
    return {"kernel": (inputs, outputs), "bias": (outputs,)}


def conv(size: int, inputs: int, outputs: int, bias: bool = True) -> dict[str, tuple[int, ...]]:
    return {"kernel": (size, size, inputs, outputs)} | ({"bias": (outputs,)} if bias else {})


def batch_norm(channels: int) -> dict[str, tuple[int, ...]]:
    return {part: (channels,) for part in ("gamma", "beta", "moving_mean", "moving_variance")}


def fill(shapes: dict[str, dict[str, tuple[int, ...]]], seed: int = 0) -> Layers:
    generator = np.random.default_rng(seed)
    return {
        layer: {part: numbers(part, shape, generator) for part, shape in parts.items()}
        for layer, parts in shapes.items()
    }


def resnet_v2(blocks: tuple[int, ...], width: int) -> Layers:
    """ResNet50V2 of ``keras.applications``; full size with (3, 4, 6, 3) and 64."""
    shapes = {"conv1_conv": conv(7, 3, width)}
    inputs = width
    for stage, count in enumerate(blocks, 2):
        for block in range(1, count + 1):
            name = f"conv{stage}_block{block}_"
            shapes[f"{name}preact_bn"] = batch_norm(inputs)
            if block == 1:
                shapes[f"{name}0_conv"] = conv(1, inputs, 4 * width)
            shapes[f"{name}1_conv"] = conv(1, inputs, width, bias=False)
            shapes[f"{name}1_bn"] = batch_norm(width)
            shapes[f"{name}2_conv"] = conv(3, width, width, bias=False)
            shapes[f"{name}2_bn"] = batch_norm(width)
            shapes[f"{name}3_conv"] = conv(1, width, 4 * width)
            inputs = 4 * width
        width *= 2
    return fill(shapes | {"post_bn": batch_norm(inputs), "predictions": dense(inputs, 10)})


def vgg(convolutions: tuple[int, ...], widths: tuple[int, ...], grid: int, hidden: int) -> Layers:
    """VGG16 of ``keras.applications``; full size with (2, 2, 3, 3, 3), (64, 128, 256, 512, 512), 7 and 4096."""
    shapes, inputs = {}, 3
    for stage, (count, width) in enumerate(zip(convolutions, widths, strict=True), 1):
        for number in range(1, count + 1):
            shapes[f"block{stage}_conv{number}"] = conv(3, inputs, width)
            inputs = width
    flat = grid * grid * inputs
    return fill(shapes | {"fc1": dense(flat, hidden), "fc2": dense(hidden, hidden), "predictions": dense(hidden, 10)})


def model(name: str, *layers: tuple[str, str, dict[str, Any]]) -> dict[str, Any]:
    """The configuration of a whole model, of layers (kind, name, settings)."""
    described = [
        {"class_name": kind, "name": layer, "config": {"name": layer, "trainable": True} | settings}
        for kind, layer, settings in layers
    ]
    return {"class_name": "Functional", "config": {"name": name, "layers": described, "input_layers": []}}


RESNET_V2 = model(
    "resnet50v2",
    ("InputLayer", "input_1", {"batch_input_shape": [None, 224, 224, 3]}),
    ("ZeroPadding2D", "conv1_pad", {"padding": [[3, 3], [3, 3]], "data_format": "channels_last"}),
    (
        "Conv2D",
        "conv1_conv",
        {"strides": [2, 2], "padding": "valid", "activation": "linear", "dilation_rate": [1, 1]},
    ),
    ("ZeroPadding2D", "pool1_pad", {"padding": [[1, 1], [1, 1]], "data_format": "channels_last"}),
    ("MaxPooling2D", "pool1_pool", {"pool_size": [3, 3], "strides": [2, 2], "padding": "valid"}),
    ("BatchNormalization", "conv2_block1_preact_bn", {"axis": [3], "epsilon": 1.001e-05}),
    ("Activation", "conv2_block1_preact_relu", {"activation": "relu"}),
    ("MaxPooling2D", "max_pooling2d", {"pool_size": [1, 1], "strides": [2, 2], "padding": "valid"}),
    ("ZeroPadding2D", "conv2_block3_2_pad", {"padding": [[1, 1], [1, 1]], "data_format": "channels_last"}),
    (
        "Conv2D",
        "conv2_block1_2_conv",
        {"strides": [1, 1], "padding": "valid", "activation": "linear", "dilation_rate": [1, 1]},
    ),
    (
        "Conv2D",
        "conv2_block3_2_conv",
        {"strides": [2, 2], "padding": "valid", "activation": "linear", "dilation_rate": [1, 1]},
    ),
    ("Add", "conv2_block3_out", {}),
    ("GlobalAveragePooling2D", "avg_pool", {"data_format": "channels_last"}),
    ("Dense", "predictions", {"activation": "softmax"}),
)
VGG = model(
    "vgg16",
    ("InputLayer", "input_1", {}),
    (
        "Conv2D",
        "block1_conv1",
        {"strides": [1, 1], "padding": "same", "activation": "relu", "dilation_rate": [1, 1]},
    ),
    ("MaxPooling2D", "block1_pool", {"pool_size": [2, 2], "strides": [2, 2], "padding": "valid"}),
    ("Flatten", "flatten", {"data_format": "channels_last"}),
    ("Dense", "fc1", {"activation": "relu"}),
    ("Dense", "fc2", {"activation": "relu"}),
    ("Dense", "predictions", {"activation": "softmax"}),
)


def convnext(hf: dict[str, Tensor], blocks: tuple[int, ...]) -> Layers:
    """Weights of transformers' ConvNextModel as keras-cv-attention-models stores them."""

    def norm(name: str) -> dict[str, NDArray]:
        return {"gamma": hf[f"{name}.weight"].numpy(), "beta": hf[f"{name}.bias"].numpy()}

    def linear(name: str, *axes: int, kernel: str = "kernel") -> dict[str, NDArray]:
        return {kernel: hf[f"{name}.weight"].numpy().transpose(axes), "bias": hf[f"{name}.bias"].numpy()}

    layers: Layers = {
        "stem_conv": linear("embeddings.patch_embeddings", 2, 3, 1, 0),
        "stem_ln": norm("embeddings.layernorm"),
    }
    for stage, count in enumerate(blocks):
        old = f"encoder.stages.{stage}"
        if stage:
            # The layer that leads to a stage carries its number in Keras as here.
            layers[f"stack{stage + 1}_downsample_ln"] = norm(f"{old}.downsampling_layer.0")
            layers[f"stack{stage + 1}_downsample_conv"] = linear(f"{old}.downsampling_layer.1", 2, 3, 1, 0)
        for block in range(count):
            inner, new = f"{old}.layers.{block}", f"stack{stage + 1}_block{block + 1}"
            layers[f"{new}_dw_conv"] = linear(f"{inner}.dwconv", 2, 3, 0, 1, kernel="depthwise_kernel")
            layers[f"{new}_ln"] = norm(f"{inner}.layernorm")
            layers[f"{new}_up_dense"] = linear(f"{inner}.pwconv1", 1, 0)
            layers[f"{new}_down_dense"] = linear(f"{inner}.pwconv2", 1, 0)
            layers[f"{new}_gamma"] = {"weight": hf[f"{inner}.layer_scale_parameter"].numpy()}
    width = len(hf["layernorm.weight"])
    return layers | {"head_ln": norm("layernorm")} | fill({"predictions": dense(width, 10)})


def levit(hf: dict[str, Tensor], blocks: tuple[int, ...]) -> Layers:
    """Weights of transformers' LevitModel, and a random head, as keras-cv-attention-models stores them."""

    def norm(name: str) -> dict[str, NDArray]:
        parts = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}
        return {ours: hf[f"{name}.{theirs}"].numpy() for ours, theirs in parts.items()}

    layers: Layers = {}

    def linear(new: str, new_norm: str, old: str) -> None:
        layers[new] = {"kernel": hf[f"{old}.linear.weight"].numpy().T}
        layers[new_norm] = norm(f"{old}.batch_norm")

    def mlp(new: str, old: str) -> None:
        linear(f"{new}_mlp_1_dense", f"{new}_mlp_1_bn", f"{old}.module.linear_up")
        linear(f"{new}_mlp_2_dense", f"{new}_mlp_2_bn", f"{old}.module.linear_down")

    def biases(new: str, old: str) -> None:
        layers[f"{new}_attn_pos"] = {"positional_embedding": hf[f"{old}.attention_biases"].numpy().T}

    for step in range(1, 5):
        old = f"patch_embeddings.embedding_layer_{step}"
        layers[f"stem_{step}_conv"] = {"kernel": hf[f"{old}.convolution.weight"].numpy().transpose(2, 3, 1, 0)}
        layers[f"stem_{step}_bn"] = norm(f"{old}.batch_norm")
    for stage, count in enumerate(blocks):
        for block in range(count):
            old, new = f"encoder.stages.{stage}.layers", f"stack{stage + 1}_block{block + 1}"
            attention = f"{old}.{2 * block}.module"
            linear(f"{new}_qkv", f"{new}_qkv_bn", f"{attention}.queries_keys_values")
            biases(new, attention)
            linear(f"{new}_out", f"{new}_out_bn", f"{attention}.projection")
            mlp(new, f"{old}.{2 * block + 1}")
        if stage + 1 < len(blocks):
            # Here it carries the number of the stage that it leads away from.
            new, attention = f"stack{stage + 1}_downsample", f"{old}.{2 * count}"
            linear(f"{new}_kv", f"{new}_kv_bn", f"{attention}.keys_values")
            linear(f"{new}_q", f"{new}_q_bn", f"{attention}.queries")
            biases(new, attention)
            linear(f"{new}_out", f"{new}_out_bn", f"{attention}.projection")
            mlp(new, f"{old}.{2 * count + 1}")
    width = len(layers[f"stack{len(blocks)}_block1_out_bn"]["gamma"])
    return layers | fill({"head_bn": batch_norm(width), "head": dense(width, 10)}, seed=1)


def vit(hf: dict[str, Tensor], depth: int, between: str = "/") -> Layers:
    """Weights of transformers' ViTModel as vit-keras stores them; its newer versions put "_" between names."""

    def linear(name: str, prefix: str, *axes: int) -> dict[str, NDArray]:
        kernel = hf[f"{name}.weight"].numpy().transpose(axes)
        return {f"{prefix}kernel": kernel, f"{prefix}bias": hf[f"{name}.bias"].numpy()}

    def norm(name: str, prefix: str = "") -> dict[str, NDArray]:
        return {f"{prefix}gamma": hf[f"{name}.weight"].numpy(), f"{prefix}beta": hf[f"{name}.bias"].numpy()}

    layers: Layers = {
        "embedding": linear("embeddings.patch_embeddings.projection", "", 2, 3, 1, 0),
        "class_token": {"cls": hf["embeddings.cls_token"].numpy()},
        f"Transformer{between}posembed_input": {"pos_embedding": hf["embeddings.position_embeddings"].numpy()},
    }
    for block in range(depth):
        old = f"encoder.layer.{block}"
        parts = {}
        for part in ("query", "key", "value"):
            parts |= linear(f"{old}.attention.attention.{part}", f"MultiHeadDotProductAttention_1/{part}/", 1, 0)
        parts |= linear(f"{old}.attention.output.dense", "MultiHeadDotProductAttention_1/out/", 1, 0)
        # The newer versions name these two after the whole block.
        whole = "" if between == "/" else f"Transformer_encoderblock_{block}_"
        parts |= linear(f"{old}.intermediate.dense", f"{whole}Dense_0/", 1, 0)
        parts |= linear(f"{old}.output.dense", f"{whole}Dense_1/", 1, 0)
        parts |= norm(f"{old}.layernorm_before", "LayerNorm_0/") | norm(f"{old}.layernorm_after", "LayerNorm_2/")
        layers[f"Transformer{between}encoderblock_{block}"] = parts
    layers[f"Transformer{between}encoder_norm"] = norm("layernorm")
    return layers | fill({"head": dense(len(hf["layernorm.weight"]), 10)})
