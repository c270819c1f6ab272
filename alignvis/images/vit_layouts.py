"""The layouts in which vision transformers are published for PyTorch, and what makes one of all.

Four exist for the same weights: ``visual.*`` (OpenAI CLIP, OpenCLIP), DINO's own names (DINO, DINOv2, SynCLR, DreamSim,
timm), and Hugging Face's for CLIP and for ViT and DINOv2. All become DINO's names, which are those of `ViT`.
"""

import re
from collections.abc import Mapping

import torch

from alignvis.images.renaming import Table, Tensors, rename

VISUAL: Table = [
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
DINO: Table = [
    (r"mask_token|head\..*", ""),
    (r"pos_drop\.(\w+)", r"norm_pre.\1"),  # DreamSim's name for CLIP's normalisation before the blocks
    (r"blocks\.(\d+)\.ls(\d)\.gamma", r"blocks.\1.ls\2"),
]
HF_CLIP: Table = [
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
HF_VIT: Table = [
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


def from_pytorch(tensors: Tensors) -> Tensors:
    """Rename what a PyTorch file holds; what fits no line keeps its name."""
    if "class_embedding" in tensors:
        return _with_conv_bias(_with_class_axes(rename(VISUAL, tensors)))
    if "vision_model.embeddings.class_embedding" in tensors:
        renamed = _with_class_axes(fuse(rename(HF_CLIP, tensors)))
        if "proj" in renamed and renamed["proj"].ndim == 2:
            renamed["proj"] = renamed["proj"].T
        return _with_conv_bias(renamed)
    if "embeddings.cls_token" in tensors:
        return fuse(rename(HF_VIT, tensors))
    return rename(DINO, tensors)


def fuse(tensors: Tensors) -> Tensors:
    """Stack q, k and v, in this order, where all three are there; an incomplete three stays and is found left over.

    So does one whose parts differ in shape.
    """
    fused = dict(tensors)
    for name, tensor in tensors.items():
        match = re.fullmatch(r"(blocks\.\d+\.attn\.)q\.(\w+)", name)
        parts = [f"{match[1]}{part}.{match[2]}" for part in "qkv"] if match else []
        if parts and len({tensors[part].shape if part in tensors else None for part in parts} | {tensor.shape}) == 1:
            fused[f"{match[1]}qkv.{match[2]}"] = torch.cat([fused.pop(part) for part in parts])
    return fused


def size(found: Mapping[str, tuple[int, ...]]) -> str:
    """Patch, width, depth and output width as read off the shapes, in words."""
    patch = found.get("patch_embed.proj.weight", ())
    depth = len({name.split(".")[1] for name in found if name.startswith("blocks.")})
    dim = found["proj"][-1] if len(found.get("proj", ())) == 2 else patch[0] if patch else "unknown"
    return (
        f"patch {patch[-1] if patch else 'unknown'}, width {patch[0] if patch else 'unknown'}, depth {depth}, dim {dim}"
    )


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
