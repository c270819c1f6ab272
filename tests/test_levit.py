"""LeViT against transformers, through timm's files and through Keras's."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import LevitConfig, LevitModel

from alignvis.errors import AlignvisError
from alignvis.images.checkpoints import convert, shapes
from alignvis.images.containers import read_tensors
from alignvis.images.levit import LeViT
from tests import keras_h5
from tests.vit_files import pictures, relative

EXACT = 1e-9  # relative, in float64
FILE = Path("weights")
SMALL = LeViT((2, 1, 2), (32, 48, 64), (2, 3, 4), key=8, grid=5)  # 5 x 5, then 3 x 3, then 2 x 2
SIDE = 80


@pytest.fixture(scope="module")
def model() -> nn.Module:
    model = LevitModel(
        LevitConfig(
            image_size=SIDE,
            hidden_sizes=SMALL.widths,
            num_attention_heads=SMALL.heads,
            depths=SMALL.blocks,
            key_dim=(SMALL.key,) * 3,
        )
    )
    model = keras_h5.randomise(model)
    for name, parameter in model.named_parameters():
        if name.endswith("attention_biases"):  # large enough for some places to be heard above others
            parameter.data *= 5
    return model


def as_timm(hf: dict[str, Tensor], head: dict[str, Tensor], convolutions: bool = True) -> dict[str, Tensor]:
    """The names of timm's file with both its classifiers; its "conv" models have 1 x 1 convolutions for matrices."""
    out = {f"head.bn.{name}": tensor for name, tensor in head.items()}
    out |= {f"{name}.linear.weight": torch.zeros(10, 64) for name in ("head", "head_dist")}
    out |= {"head_dist.bn.weight": torch.zeros(64), "head_dist.bn.num_batches_tracked": torch.tensor(3)}
    shrinking = {"keys_values": "kv", "queries": "q.ln", "projection": "proj.ln"}
    asking = {"queries_keys_values": "qkv", "projection": "proj.ln"}
    mlp = {"linear_up": "mlp.ln1", "linear_down": "mlp.ln2"}
    for name, tensor in hf.items():
        where, kind = name.split("."), ".".join(name.split(".")[-2:])
        kind = kind.replace("convolution.", "linear.").replace("batch_norm.", "bn.")
        if where[0] == "patch_embeddings":
            out[f"stem.conv{where[1][-1]}.{kind}"] = tensor
            continue
        stage, place = int(where[2]), int(where[4])
        block, inner = place // 2, where[5:]
        if place < 2 * SMALL.blocks[stage]:
            prefix, parts = f"stages.{stage}.blocks.{block}", {part: f"attn.{ours}" for part, ours in asking.items()}
            attention = f"{prefix}.attn"
        else:
            prefix = f"stages.{stage + 1}.downsample"
            parts = {part: f"attn_downsample.{ours}" for part, ours in shrinking.items()}
            attention = f"{prefix}.attn_downsample"
        inner = inner[1:] if inner[0] == "module" else inner
        if inner[0] == "attention_biases":
            out[f"{attention}.attention_biases"] = tensor
            continue
        if convolutions and kind == "linear.weight":
            tensor = tensor[..., None, None]
        out[f"{prefix}.{(parts | mlp)[inner[0]]}.{kind}"] = tensor
    return out


def head_of(layers: keras_h5.Layers) -> dict[str, Tensor]:
    parts = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}
    return {parts[part]: torch.from_numpy(array) for part, array in layers["head_bn"].items()}


def reference(model: nn.Module, head: dict[str, Tensor] | None, pixels: Tensor) -> dict[str, Tensor]:
    """What transformers computes, and by hooks what leaves the last block of each stage."""
    seen: list[Tensor] = []
    hooks = [
        stage.layers[2 * blocks - 1].register_forward_hook(lambda module, inputs, output: seen.append(output))
        for stage, blocks in zip(model.encoder.stages, SMALL.blocks, strict=True)
    ]
    pooled = model(pixels).pooler_output
    for hook in hooks:
        hook.remove()
    if head is not None:
        head = {part: tensor.to(pixels.dtype) for part, tensor in head.items()}
        pooled = (pooled - head["running_mean"]) / (head["running_var"] + 1e-5).sqrt() * head["weight"] + head["bias"]
    return {"embeddings": pooled} | {f"layer.{number}": each.mean(dim=1) for number, each in enumerate(seen, 1)}


@pytest.mark.parametrize("output", ["norm", "mean"])
@pytest.mark.parametrize("container", ["conv", "linear", "keras"])
def test_equals_transformers(model, container, output, tmp_path):
    hf, architecture, pixels = model.state_dict(), replace(SMALL, output=output), pictures(SIDE)
    layers = keras_h5.levit(hf, SMALL.blocks)
    head = head_of(layers)
    if container == "keras":
        file = keras_h5.write(tmp_path / "levit_small_harmonized.h5", layers)
    else:
        file = tmp_path / "model.safetensors"
        stored = as_timm(hf, head, container == "conv")
        save_file({name: tensor.contiguous() for name, tensor in stored.items()}, file)
    net = architecture.build()
    net.load_state_dict(convert(read_tensors(file), architecture, file))
    theirs = reference(model, head if output == "norm" else None, pixels)
    assert relative(net.eval()(pixels)["embeddings"], theirs["embeddings"]) < 1e-5

    found = net.double()(pixels.double(), layers=range(1, 4))
    # transformers remembers its biases for a device, whatever type it is changed to later.
    for module in model.modules():
        if hasattr(module, "attention_bias_cache"):
            module.attention_bias_cache = {}
    theirs = reference(model.double(), head if output == "norm" else None, pixels.double())
    for module in model.float().modules():
        if hasattr(module, "attention_bias_cache"):
            module.attention_bias_cache = {}
    assert found.keys() == theirs.keys() and found["embeddings"].shape == (2, SMALL.dim)
    assert all(relative(found[name], theirs[name]) < EXACT for name in theirs)


def test_as_many_tensors_as_published():
    """9,213,936 parameters with both classifiers (timm's model card); 330 tensors in Keras's file with its one."""
    with torch.device("meta"):
        parameters = sum(parameter.numel() for parameter in LeViT().build().parameters())
    assert parameters + 384 * 1000 + 1000 + (384 * 2 + 384 * 1000 + 1000) == 9_213_936
    assert len(shapes(LeViT())) == 328 and len(shapes(LeViT(output="mean"))) == 324
    assert (LeViT().dim, LeViT().depth, LeViT().eps, LeViT().output) == (384, 3, 1e-5, "norm")
    tables = {name: shape for name, shape in shapes(LeViT()).items() if "attention_biases" in name}
    assert set(tables.values()) == {(4, 196), (8, 196), (8, 49), (16, 49), (12, 16)}


def test_a_keras_file_that_was_trained_with_distillation_is_read(model):
    layers = keras_h5.levit(model.state_dict(), SMALL.blocks)
    layers |= keras_h5.fill({"distill_head_bn": keras_h5.batch_norm(64), "distill_head": keras_h5.dense(64, 10)})
    stored = {f"{layer}/{part}": torch.tensor(a) for layer, parts in layers.items() for part, a in parts.items()}
    assert convert(stored, SMALL, FILE).keys() == shapes(SMALL).keys()


@pytest.mark.parametrize("shape", [(80, 96), (96, 80), (160, 160), (79, 79)])
def test_another_size_is_refused(shape):
    with pytest.raises(AlignvisError, match=f"reads pictures of 80 x 80 pixels, and was given {shape[0]} x {shape[1]}"):
        SMALL.build()(torch.zeros(1, 3, *shape))


def test_only_the_stages_asked_for_are_given_and_nobody_sees_the_others():
    net, pixels = keras_h5.randomise(SMALL.build()), pictures(SIDE, count=3)
    found = net(pixels, layers=[2])
    assert set(found) == {"embeddings", "layer.2"} and set(net(pixels)) == {"embeddings"}
    assert relative(torch.cat([net(each[None])["embeddings"] for each in pixels]), found["embeddings"]) < 1e-5


def test_a_network_made_without_memory_and_filled_afterwards_computes_the_same():
    """The catalogue's way: no part may be left behind on the "meta" device."""
    whole = keras_h5.randomise(SMALL.build())
    with torch.device("meta"):
        filled = SMALL.build().eval()
    filled.load_state_dict(whole.state_dict(), assign=True)
    assert torch.equal(filled(pictures(SIDE))["embeddings"], whole(pictures(SIDE))["embeddings"])
