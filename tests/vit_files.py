"""Random vision transformers of transformers, the files it writes, and the same weights under their official names.

The renaming is written by hand, name by name, and shares nothing with `alignvis.images.checkpoints`.
"""

from pathlib import Path

import numpy as np
import peft
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    Dinov2Config,
    Dinov2Model,
    ViTConfig,
    ViTModel,
)

from alignvis.images.vit import Architecture


def random_model(architecture: Architecture, seed: int = 0, *, side: int | None = None) -> nn.Module:
    """The model of transformers for an architecture; no norm, bias, scale or embedding is left at its usual start."""
    sizes = {
        "hidden_size": architecture.width,
        "num_hidden_layers": architecture.depth,
        "num_attention_heads": architecture.heads,
        "patch_size": architecture.patch,
        "image_size": side or architecture.grid * architecture.patch,
        "layer_norm_eps": architecture.eps,
        "hidden_act": architecture.activation,
    }
    wide = {"intermediate_size": 4 * architecture.width}
    with torch.device("meta"):  # the usual start would cost most of a test's time, and is thrown away
        if architecture.output == "projected":
            config = CLIPVisionConfig(**sizes, **wide, projection_dim=architecture.projection)
            model = CLIPVisionModelWithProjection(config)
        elif architecture.layer_scale:
            model = Dinov2Model(Dinov2Config(**sizes))
        else:
            model = ViTModel(ViTConfig(**sizes, **wide), add_pooling_layer=False)
    model.to_empty(device="cpu")
    for buffer in model.buffers():
        buffer.copy_(torch.arange(buffer.numel()).reshape(buffer.shape))  # the one there is holds positions in order
    generator = np.random.default_rng(seed)
    for name, parameter in model.named_parameters():
        noise = torch.from_numpy(generator.standard_normal(tuple(parameter.shape), np.float32))
        if parameter.ndim == 1:
            is_scale = name.endswith("lambda1") or ("norm" in name and name.endswith("weight"))
            parameter.data = 0.3 * noise + (1.0 if is_scale else 0.0)
        elif "embed" in name and "patch" not in name:
            parameter.data = 0.5 * noise
        else:
            parameter.data = noise / parameter[0].numel() ** 0.5
    return model.eval().requires_grad_(False)


def embed(model: nn.Module, pixels: Tensor, output: str) -> Tensor:
    """What transformers computes: the projected, the normalised or the not yet normalised class token."""
    if output == "projected":
        return model(pixels).image_embeds
    if output == "norm":
        return model(pixels).last_hidden_state[:, 0]
    left: list[Tensor] = []
    last = [module for module in model.modules() if type(module).__name__ in ("ViTLayer", "Dinov2Layer")][-1]
    handle = last.register_forward_hook(
        lambda module, inputs, result: left.append(result[0] if isinstance(result, tuple) else result)
    )
    model(pixels)
    handle.remove()
    return left[0][:, 0]


def write(model: nn.Module, folder: Path) -> Path:
    """The file that transformers writes, as it lies on the hub."""
    model.save_pretrained(folder)
    return folder / "model.safetensors"


def fused(hf: dict[str, Tensor], q: str, k: str, v: str) -> Tensor:
    return torch.cat([hf[q], hf[k], hf[v]])


def as_openai(hf: dict[str, Tensor]) -> dict[str, Tensor]:
    """OpenAI's and OpenCLIP's names."""
    old = "vision_model."
    out = {
        "visual.class_embedding": hf[old + "embeddings.class_embedding"],
        "visual.positional_embedding": hf[old + "embeddings.position_embedding.weight"],
        "visual.conv1.weight": hf[old + "embeddings.patch_embedding.weight"],
        "visual.proj": hf["visual_projection.weight"].T.contiguous(),
    }
    for end in ("weight", "bias"):
        out[f"visual.ln_pre.{end}"] = hf[f"{old}pre_layrnorm.{end}"]
        out[f"visual.ln_post.{end}"] = hf[f"{old}post_layernorm.{end}"]
    for i in range(depth(hf)):
        a, b = f"{old}encoder.layers.{i}.", f"visual.transformer.resblocks.{i}."
        for end in ("weight", "bias"):
            out[f"{b}ln_1.{end}"] = hf[f"{a}layer_norm1.{end}"]
            out[f"{b}ln_2.{end}"] = hf[f"{a}layer_norm2.{end}"]
            out[f"{b}attn.in_proj_{end}"] = fused(hf, *(f"{a}self_attn.{part}_proj.{end}" for part in "qkv"))
            out[f"{b}attn.out_proj.{end}"] = hf[f"{a}self_attn.out_proj.{end}"]
            out[f"{b}mlp.c_fc.{end}"] = hf[f"{a}mlp.fc1.{end}"]
            out[f"{b}mlp.c_proj.{end}"] = hf[f"{a}mlp.fc2.{end}"]
    return out


def as_dreamsim(hf: dict[str, Tensor]) -> dict[str, Tensor]:
    """The names in DreamSim's files of CLIP: DINO's, and a bias in the patch embedding."""
    openai = as_openai(hf)
    out = {
        "cls_token": openai["visual.class_embedding"][None, None],
        "pos_embed": openai["visual.positional_embedding"][None],
        "patch_embed.proj.weight": openai["visual.conv1.weight"],
        "patch_embed.proj.bias": torch.zeros(len(openai["visual.class_embedding"])),
        "proj": openai["visual.proj"],
    }
    for end in ("weight", "bias"):
        out[f"pos_drop.{end}"] = openai[f"visual.ln_pre.{end}"]
        out[f"norm.{end}"] = openai[f"visual.ln_post.{end}"]
        for i in range(depth(hf)):
            a, b = f"visual.transformer.resblocks.{i}.", f"blocks.{i}."
            out[f"{b}norm1.{end}"] = openai[f"{a}ln_1.{end}"]
            out[f"{b}norm2.{end}"] = openai[f"{a}ln_2.{end}"]
            out[f"{b}attn.qkv.{end}"] = openai[f"{a}attn.in_proj_{end}"]
            out[f"{b}attn.proj.{end}"] = openai[f"{a}attn.out_proj.{end}"]
            out[f"{b}mlp.fc1.{end}"] = openai[f"{a}mlp.c_fc.{end}"]
            out[f"{b}mlp.fc2.{end}"] = openai[f"{a}mlp.c_proj.{end}"]
    return out


def as_dino(hf: dict[str, Tensor]) -> dict[str, Tensor]:
    """The names of DINO, and of DINOv2 where there are layer scales."""
    second = "encoder.layer.0.layer_scale1.lambda1" in hf
    out = {"cls_token": hf["embeddings.cls_token"], "pos_embed": hf["embeddings.position_embeddings"]}
    if second:
        out["mask_token"] = hf["embeddings.mask_token"]
    for end in ("weight", "bias"):
        out[f"patch_embed.proj.{end}"] = hf[f"embeddings.patch_embeddings.projection.{end}"]
        out[f"norm.{end}"] = hf[f"layernorm.{end}"]
        for i in range(depth(hf)):
            a, b = f"encoder.layer.{i}.", f"blocks.{i}."
            parts = (f"{a}attention.attention.{part}.{end}" for part in ("query", "key", "value"))
            out[f"{b}attn.qkv.{end}"] = fused(hf, *parts)
            out[f"{b}attn.proj.{end}"] = hf[f"{a}attention.output.dense.{end}"]
            if second:
                for name in ("norm1", "norm2", "mlp.fc1", "mlp.fc2"):
                    out[f"{b}{name}.{end}"] = hf[f"{a}{name}.{end}"]
                for n in "12":
                    out[f"{b}ls{n}.gamma"] = hf[f"{a}layer_scale{n}.lambda1"]
            else:
                out[f"{b}norm1.{end}"] = hf[f"{a}layernorm_before.{end}"]
                out[f"{b}norm2.{end}"] = hf[f"{a}layernorm_after.{end}"]
                out[f"{b}mlp.fc1.{end}"] = hf[f"{a}intermediate.dense.{end}"]
                out[f"{b}mlp.fc2.{end}"] = hf[f"{a}output.dense.{end}"]
    return out


def depth(hf: dict[str, Tensor]) -> int:
    return 1 + max(int(name.split("layer")[1].split(".")[1]) for name in hf if "encoder.layer" in name)


def read(file: Path) -> dict[str, Tensor]:
    return load_file(file)


def relative(ours: Tensor, theirs: Tensor) -> float:
    """Length of the difference over length of the reference."""
    return ((ours - theirs).norm() / theirs.norm()).item()


def pictures(side: int, count: int = 2, seed: int = 0) -> Tensor:
    """(count, 3, side, side), as if already normalised."""
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(seed))


class UpstreamAttention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)


class Upstream(nn.Module):
    """The names that DreamSim's modules have, which peft writes into the file."""

    def __init__(self, architectures: list[Architecture]) -> None:
        super().__init__()
        self.extractor_list = nn.ModuleList(nn.Module() for _ in architectures)
        for extractor, architecture in zip(self.extractor_list, architectures, strict=True):
            extractor.model = nn.Module()
            extractor.model.blocks = nn.ModuleList(nn.Module() for _ in range(architecture.depth))
            for block in extractor.model.blocks:
                block.attn = UpstreamAttention(architecture.width)

    def forward(self, x: Tensor) -> Tensor:
        return x


def adapted(folder: Path, architectures: list[Architecture], rank: int = 16, alpha: float = 1.0) -> peft.PeftModel:
    """Write an adapter as peft does, and return the model that peft adapts with it."""
    config = peft.LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=0.3, target_modules=["qkv"])
    model = peft.get_peft_model(Upstream(architectures), config).eval()
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora" in name:  # B starts at zero, which would hide everything
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.1
    model.save_pretrained(folder)
    return model
