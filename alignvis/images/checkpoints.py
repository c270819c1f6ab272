"""Official checkpoints to the parameters of `ViT`: containers unwrapped, layouts told apart, all tensors accounted for.

Four layouts exist for the same weights: ``visual.*`` (OpenAI CLIP, OpenCLIP), DINO's own names (DINO, DINOv2, SynCLR,
DreamSim), and Hugging Face's for CLIP and for ViT and DINOv2. All become DINO's names in float32.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from alignvis.errors import AlignvisError
from alignvis.images.vit import Architecture, ViT

Tensors = dict[str, Tensor]

CONTAINERS = ("state_dict", "model")
PREFIXES = ("module.", "visual.", "backbone.", "vit.", "dinov2.")

# In each table the first fitting line renames a tensor; an empty name drops it.
VISUAL = [
    (r"class_embedding", "cls_token"),
    (r"positional_embedding", "pos_embed"),
    (r"conv1\.weight", "patch_embed.proj.weight"),
    (r"ln_pre\.(\w+)", r"norm_pre.\1"),
    (r"ln_post\.(\w+)", r"norm.\1"),
    (r"proj", "proj"),
    (r"transformer\.resblocks\.(\d+)\.ln_(\d)\.(\w+)", r"blocks.\1.norm\2.\3"),
    (r"transformer\.resblocks\.(\d+)\.attn\.in_proj_(\w+)", r"blocks.\1.attn.qkv.\2"),
    (r"transformer\.resblocks\.(\d+)\.attn\.out_proj\.(\w+)", r"blocks.\1.attn.proj.\2"),
    (r"transformer\.resblocks\.(\d+)\.mlp\.c_fc\.(\w+)", r"blocks.\1.mlp.fc1.\2"),
    (r"transformer\.resblocks\.(\d+)\.mlp\.c_proj\.(\w+)", r"blocks.\1.mlp.fc2.\2"),
]
DINO = [
    (r"mask_token|head\..*", ""),
    (r"pos_drop\.(\w+)", r"norm_pre.\1"),  # DreamSim's name for CLIP's normalisation before the blocks
    (r"blocks\.(\d+)\.ls(\d)\.gamma", r"blocks.\1.ls\2"),
]
HF_CLIP = [
    (r"text_model\..*|text_projection\..*|logit_scale|.*position_ids", ""),
    (r"vision_model\.embeddings\.class_embedding", "cls_token"),
    (r"vision_model\.embeddings\.position_embedding\.weight", "pos_embed"),
    (r"vision_model\.embeddings\.patch_embedding\.weight", "patch_embed.proj.weight"),
    (r"vision_model\.pre_layrnorm\.(\w+)", r"norm_pre.\1"),  # the misspelling is theirs
    (r"vision_model\.post_layernorm\.(\w+)", r"norm.\1"),
    (r"visual_projection\.weight", "proj"),
    (r"vision_model\.encoder\.layers\.(\d+)\.layer_norm(\d)\.(\w+)", r"blocks.\1.norm\2.\3"),
    (r"vision_model\.encoder\.layers\.(\d+)\.self_attn\.([qkv])_proj\.(\w+)", r"blocks.\1.attn.\2.\3"),
    (r"vision_model\.encoder\.layers\.(\d+)\.self_attn\.out_proj\.(\w+)", r"blocks.\1.attn.proj.\2"),
    (r"vision_model\.encoder\.layers\.(\d+)\.mlp\.fc(\d)\.(\w+)", r"blocks.\1.mlp.fc\2.\3"),
]
HF_VIT = [
    (r"pooler\..*|classifier\..*|embeddings\.mask_token", ""),
    (r"embeddings\.cls_token", "cls_token"),
    (r"embeddings\.position_embeddings", "pos_embed"),
    (r"embeddings\.patch_embeddings\.projection\.(\w+)", r"patch_embed.proj.\1"),
    (r"layernorm\.(\w+)", r"norm.\1"),
    (r"encoder\.layer\.(\d+)\.(?:layernorm_before|norm1)\.(\w+)", r"blocks.\1.norm1.\2"),
    (r"encoder\.layer\.(\d+)\.(?:layernorm_after|norm2)\.(\w+)", r"blocks.\1.norm2.\2"),
    (r"encoder\.layer\.(\d+)\.attention\.attention\.([qkv])(?:uery|ey|alue)\.(\w+)", r"blocks.\1.attn.\2.\3"),
    (r"encoder\.layer\.(\d+)\.attention\.output\.dense\.(\w+)", r"blocks.\1.attn.proj.\2"),
    (r"encoder\.layer\.(\d+)\.(?:intermediate\.dense|mlp\.fc1)\.(\w+)", r"blocks.\1.mlp.fc1.\2"),
    (r"encoder\.layer\.(\d+)\.(?:output\.dense|mlp\.fc2)\.(\w+)", r"blocks.\1.mlp.fc2.\2"),
    (r"encoder\.layer\.(\d+)\.layer_scale(\d)\.lambda1", r"blocks.\1.ls\2"),
]


def convert(stored: Mapping[str, Any], architecture: Architecture, file: Path) -> Tensors:
    """Turn what an official file holds into the parameters of ``ViT(architecture)``.

    Args:
        stored: what `weights.read_tensors` read: names to tensors, or containers of them.
        architecture: what the catalogue says the file should hold.
        file: where it was read from, for the sentences.

    Returns:
        Exactly the parameters of the architecture, float32.

    Raises:
        AlignvisError: when the file holds only a student, another architecture, or tensors that are missing, left
            over, of another shape, not floating point or not finite.

    Source: the files that OpenAI, OpenCLIP, Meta, SynCLR, DreamSim and transformers (`save_pretrained`) publish.
    """
    tensors = _rename(_unwrap(stored, file), file)
    expected = shapes(architecture)
    _compare(tensors, expected, architecture, file)
    for name, tensor in tensors.items():
        # The extremes are finite only if everything between them is, and one pass finds both.
        if not tensor.is_floating_point() or not torch.isfinite(torch.stack(tensor.aminmax())).all():
            raise AlignvisError(f"{file}: the tensor {name!r} is not made of finite numbers; download the file again")
    return {name: tensor.to(torch.float32).contiguous() for name, tensor in tensors.items()}


def shapes(architecture: Architecture) -> dict[str, tuple[int, ...]]:
    """The names and shapes of the parameters of an architecture, without making them."""
    with torch.device("meta"):
        return {name: tuple(tensor.shape) for name, tensor in ViT(architecture).state_dict().items()}


def _unwrap(stored: Mapping[str, Any], file: Path) -> Tensors:
    """Descend to the tensors of the image tower, and take the prefixes of training wrappers off their names."""
    if isinstance(stored.get("teacher"), Mapping):
        stored = stored["teacher"]
    elif "student" in stored:
        raise AlignvisError(
            f"{file} holds the student of a training run and no teacher, and DINO's features are the teacher's; "
            "use Meta's file of the teacher alone, for ViT-B/16 "
            "https://dl.fbaipublicfiles.com/dino/dino_vitbase16_pretrain/dino_vitbase16_pretrain.pth"
        )
    for container in CONTAINERS:
        if isinstance(stored.get(container), Mapping):
            stored = stored[container]
    tensors = {name: value for name, value in stored.items() if isinstance(name, str) and isinstance(value, Tensor)}
    for prefix in PREFIXES:
        inside = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
        # The text tower of CLIP stands beside `visual.`, a classifier beside `vit.`; both go.
        tensors = inside or tensors
    return tensors


def _rename(tensors: Tensors, file: Path) -> Tensors:
    if "conv1.weight" in tensors and "class_embedding" in tensors:
        return _with_conv_bias(_with_class_axes(_apply(VISUAL, tensors)))
    if "vision_model.embeddings.class_embedding" in tensors:
        renamed = _with_class_axes(_fuse(_apply(HF_CLIP, tensors)))
        if "proj" in renamed:
            renamed["proj"] = renamed["proj"].T
        return _with_conv_bias(renamed)
    if "embeddings.cls_token" in tensors:
        return _fuse(_apply(HF_VIT, tensors))
    if "cls_token" in tensors:
        return _apply(DINO, tensors)
    raise AlignvisError(
        f"{file} holds no vision transformer in a layout that is known here (OpenAI, OpenCLIP, DINO, DreamSim, "
        f"Hugging Face); its first tensors are {', '.join(list(tensors)[:3]) or 'none'}"
    )


def _apply(table: list[tuple[str, str]], tensors: Tensors) -> Tensors:
    """Rename by the first line that fits the whole name; what fits none keeps its name, and is found left over."""
    renamed = {}
    for name, tensor in tensors.items():
        line = next((line for line in table if re.fullmatch(line[0], name)), None)
        new = name if line is None else re.sub(line[0], line[1], name)
        if new:
            renamed[name if new in renamed else new] = tensor
    return renamed


def _fuse(tensors: Tensors) -> Tensors:
    """Stack q, k and v, in this order, where all three are there; an incomplete three stays and is found left over."""
    fused = dict(tensors)
    for name in tensors:
        match = re.fullmatch(r"(blocks\.\d+\.attn\.)q\.(\w+)", name)
        parts = [f"{match[1]}{part}.{match[2]}" for part in "qkv"] if match else []
        if parts and all(part in tensors for part in parts):
            fused[f"{match[1]}qkv.{match[2]}"] = torch.cat([fused.pop(part) for part in parts])
    return fused


def _with_class_axes(tensors: Tensors) -> Tensors:
    """CLIP stores the class token as (width,) and positions as (tokens, width); ours carry a batch axis."""
    tensors["cls_token"] = tensors["cls_token"].reshape(1, 1, -1)
    if "pos_embed" in tensors:
        tensors["pos_embed"] = tensors["pos_embed"].unsqueeze(0)
    return tensors


def _with_conv_bias(tensors: Tensors) -> Tensors:
    """CLIP's patch embedding has no bias; a bias of zero is the same and lets one class serve all."""
    if "patch_embed.proj.weight" in tensors:
        weight = tensors["patch_embed.proj.weight"]
        tensors["patch_embed.proj.bias"] = torch.zeros(len(weight), dtype=weight.dtype)
    return tensors


def _compare(tensors: Tensors, expected: Mapping[str, tuple[int, ...]], architecture: Architecture, file: Path) -> None:
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if found == expected:
        return
    wanted = _size(expected)
    if _size(found) != wanted:
        raise AlignvisError(
            f"{file} holds a vision transformer with {_size(found)}, and {wanted} was expected; "
            "this is the file of another model"
        )
    missing = [name for name in expected if name not in found]
    extra = [name for name in found if name not in expected]
    if missing or extra:
        raise AlignvisError(
            f"{file} lacks {len(missing)} of the {len(expected)} tensors that were expected{_first(missing)} and has "
            f"{len(extra)} that were not{_first(extra)}; download it again, or give the file of this model"
        )
    name = next(name for name in expected if found[name] != expected[name])
    raise AlignvisError(
        f"{file}: the tensor {name!r} has shape {found[name]}, and {expected[name]} was expected; "
        "this is the file of another model"
    )


def _first(names: list[str]) -> str:
    return f" (the first is {names[0]!r})" if names else ""


def _size(found: Mapping[str, tuple[int, ...]]) -> str:
    """Patch, width, depth and output width as read off the shapes, in words."""
    patch = found.get("patch_embed.proj.weight", ())
    depth = len({name.split(".")[1] for name in found if name.startswith("blocks.")})
    dim = found["proj"][-1] if len(found.get("proj", ())) == 2 else patch[0] if patch else "unknown"
    return (
        f"patch {patch[-1] if patch else 'unknown'}, width {patch[0] if patch else 'unknown'}, depth {depth}, dim {dim}"
    )
