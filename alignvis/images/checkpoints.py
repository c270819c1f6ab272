"""Published files to the parameters of a network: unwrapped, told apart, renamed, and every tensor accounted for.

An architecture is read from either kind of file that it is published in, PyTorch's or Keras's, by what the file holds.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from alignvis.errors import AlignvisError
from alignvis.images import conv_layouts, keras_layouts, vit_layouts
from alignvis.images.convnext import ConvNeXt
from alignvis.images.keras_config import check_config
from alignvis.images.levit import LeViT
from alignvis.images.renaming import Tensors
from alignvis.images.resnet import ClipResNet, ResNet
from alignvis.images.resnet_v2 import ResNetV2
from alignvis.images.vgg import VGG
from alignvis.images.vit import Architecture as ViT

CONTAINERS = ("state_dict", "model", "model_weights")
PREFIXES = ("module.", "visual.", "backbone.", "vit.", "dinov2.")


@dataclass(frozen=True)
class Family:
    """How the files of a family of networks are told from others.

    Attributes:
        called: its name in sentences.
        pytorch, keras: regular expression of the name of one tensor, in either kind of file, that every file of the
            family has and none of the families after it; None where it is not published so.
        published: the projects whose files are read.
    """

    called: str
    pytorch: str | None
    keras: str | None
    published: str


FAMILIES: dict[type, Family] = {
    ViT: Family(
        "vision transformer",
        r"cls_token|class_embedding|embeddings\.cls_token|vision_model\.embeddings\.class_embedding",
        r"(.*/)?class_token/cls",
        "OpenAI, OpenCLIP, DINO, DreamSim, timm, Hugging Face, vit-keras",
    ),
    ClipResNet: Family("ResNet of CLIP", r"attnpool\.positional_embedding", None, "OpenAI, OpenCLIP"),
    ResNet: Family("ResNet", r"layer1\.0\.conv1\.weight", None, "timm, torchvision"),
    ResNetV2: Family("ResNet of the second version", None, r"(.*/)?post_bn/gamma", "Keras, Harmonization"),
    ConvNeXt: Family(
        "ConvNeXt",
        r"stages\.0\.blocks\.0\.conv_dw\.weight",
        r"(.*/)?stack1_block1_dw_conv/depthwise_kernel",
        "timm, keras-cv-attention-models, Harmonization",
    ),
    VGG: Family("VGG", r"features\.0\.weight", r"(.*/)?block1_conv1/kernel", "timm, torchvision, Keras, Harmonization"),
    LeViT: Family(
        "LeViT",
        r"stem\.conv1\.linear\.weight",
        r"(.*/)?stem_1_conv/kernel",
        "timm, keras-cv-attention-models, Harmonization",
    ),
}

# Keras has this one too, with the stride elsewhere than torchvision; nothing here computes it.
FIRST_RESNET = Family("ResNet of the first version", None, r"(.*/)?conv1_bn/gamma", "")


def convert(stored: Mapping[str, Any], architecture: Any, file: Path) -> Tensors:
    """Turn what a published file holds into the parameters of ``architecture.build()``.

    Args:
        stored: what `weights.read_tensors` read: names to tensors, or containers of them.
        architecture: what the catalogue says the file should hold, of one of the `FAMILIES`.
        file: where it was read from, for the sentences.

    Returns:
        Exactly the parameters and statistics of the architecture, float32.

    Raises:
        AlignvisError: when the file holds only a student, another family or architecture, or tensors that are missing,
            left over, of another shape, not floating point or not finite.

    Source: the files that OpenAI, OpenCLIP, Meta, SynCLR, DreamSim, timm, transformers (`save_pretrained`) and
        Harmonization publish.
    """
    tensors, expected = _unwrap(stored, file), shapes(architecture)
    of_keras = any("/" in name for name in tensors)
    _check_family(tensors, of_keras, type(architecture), file)
    if of_keras:
        check_config(stored.get("model_config"), architecture, file)
        tensors = keras_layouts.from_keras(tensors, architecture)
    elif isinstance(architecture, ViT):
        tensors = vit_layouts.from_pytorch(tensors)
    else:
        tensors = conv_layouts.from_pytorch(tensors, architecture, expected)
    _compare(tensors, expected, architecture, file)
    for name, tensor in tensors.items():
        # The extremes are finite only if everything between them is, and one pass finds both.
        if not tensor.is_floating_point() or not torch.isfinite(torch.stack(tensor.aminmax())).all():
            raise AlignvisError(f"{file}: the tensor {name!r} is not made of finite numbers; download the file again")
    return {name: tensor.to(torch.float32).contiguous() for name, tensor in tensors.items()}


def shapes(architecture: Any) -> dict[str, tuple[int, ...]]:
    """The names and shapes of the parameters and statistics of an architecture, without making them."""
    with torch.device("meta"):
        return {name: tuple(tensor.shape) for name, tensor in architecture.build().state_dict().items()}


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


def _check_family(tensors: Tensors, of_keras: bool, expected: type, file: Path) -> None:
    """Refuse the file of another family of networks, with what it holds in words."""
    family = FAMILIES[expected]
    for found, other in [*FAMILIES.items(), (None, FIRST_RESNET)]:
        sign = other.keras if of_keras else other.pytorch
        if sign is not None and any(re.fullmatch(sign, name) for name in tensors):
            if found is expected:
                return
            raise AlignvisError(
                f"{file} is a {'Keras' if of_keras else 'PyTorch'} file of a {other.called}, and a {family.called} was "
                f"expected, in a file from one of {family.published}; this is the file of another model"
            )
    raise AlignvisError(
        f"{file} holds no {family.called} in a layout that is known here ({family.published}); its first tensors are "
        f"{', '.join(list(tensors)[:3]) or 'none'}"
    )


def _compare(tensors: Tensors, expected: Mapping[str, tuple[int, ...]], architecture: Any, file: Path) -> None:
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if found == expected:
        return
    if isinstance(architecture, ViT) and vit_layouts.size(found) != vit_layouts.size(expected):
        raise AlignvisError(
            f"{file} holds a vision transformer with {vit_layouts.size(found)}, and {vit_layouts.size(expected)} was "
            "expected; this is the file of another model"
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
