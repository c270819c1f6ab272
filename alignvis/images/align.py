"""What "human-aligned" adds to a network: a low-rank change of its weights (DreamSim), a map after it (gLocal)."""

import math
import re
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from alignvis.errors import AlignvisError
from alignvis.files import read_json
from alignvis.images.vit import Architecture
from alignvis.images.weights import read_arrays, read_tensors, sha256

PUBLISHED = {  # what every adapter of DreamSim says of itself; another value would ask for another formula
    "peft_type": "LORA",
    "target_modules": ["qkv"],
    "bias": "none",
    "fan_in_fan_out": False,
    "use_dora": False,
    "use_rslora": False,
    "rank_pattern": {},
    "alpha_pattern": {},
    "modules_to_save": None,
}
TRANSFORMS = {  # the beginning of the sha256 of gLocal's transforms, and the model each was fitted to
    "4d9f969b1cac5334": "CLIP ViT-L/14",
    "81fc831f60c43ded": "CLIP RN50",
    "38ac3e412c0b42fc": "OpenCLIP ViT-L/14 laion2b_s32b_b82k",
    "1c34c877528ea375": "OpenCLIP ViT-L/14 laion400m_e32",
    "2bcb2d77346fbaec": "DINO ViT-B/16",
    "583ff8178d769e68": "DINO ViT-B/8",
    "9cf041b79d8c4e16": "DINOv2 ViT-B/14",
    "b3da393252d7d840": "DINOv2 ViT-L/14",
}
LORA = re.compile(
    r"base_model\.model\.extractor_list\.(\d+)\.model\.(blocks\.\d+\.attn\.qkv)\.lora_([AB])(?:\.default)?\.weight"
)


def read_adapter(folder: Path, architectures: Sequence[Architecture]) -> list[dict[str, Tensor]]:
    """Read a DreamSim adapter: what is to be added to the weights of each branch.

    Args:
        folder: holds ``adapter_config.json`` and ``adapter_model.safetensors``.
        architectures: the branches, in the order of the ensemble.

    Returns:
        For each branch, by parameter name: (alpha / r) * B @ A, float32, of that parameter's shape.

    Raises:
        AlignvisError: when a file is missing, when the adapter is of DreamSim 0.1 or any other kind than the published
            ones, or when tensors are missing, left over or of another shape.

    Source: Hu et al. (2021), arXiv:2106.09685; files of DreamSim 0.2, written by PEFT. Rank and alpha differ from
        adapter to adapter (alpha 1 in the ensemble, 32 in the single DINO), so they are always read.
    """
    config = _config(folder)
    rank, scale = config["r"], config["lora_alpha"] / config["r"]
    file = folder / "adapter_model.safetensors"
    found: dict[tuple[int, str, str], Tensor] = {}
    for name, tensor in read_tensors(file).items():
        match = LORA.fullmatch(name)
        if match is None:
            raise AlignvisError(
                f"{file} has the tensor {name!r}, which no adapter of DreamSim 0.2 has; download it again"
            )
        found[int(match[1]), match[2], match[3]] = tensor
    deltas = []
    for branch, architecture in enumerate(architectures):
        delta = {}
        for block in range(architecture.depth):
            layer = f"blocks.{block}.attn.qkv"
            down, up = (found.pop((branch, layer, part), None) for part in "AB")
            _check_pair(file, branch, layer, down, up, rank, architecture.width)
            delta[f"{layer}.weight"] = scale * (up.float() @ down.float())
        deltas.append(delta)
    if found:
        branch, layer, _ = min(found)
        raise AlignvisError(
            f"{file} adapts {layer} of branch {branch}, which this encoder does not have; it is another one's adapter"
        )
    return deltas


def _config(folder: Path) -> dict:
    file = folder / "adapter_config.json"
    if not (folder / "adapter_model.safetensors").is_file() and (folder / "adapter_model.bin").is_file():
        raise _too_old(folder)
    config = read_json(file)
    if not isinstance(config, dict) or "enable_lora" in config:
        raise _too_old(folder)
    for key, value in PUBLISHED.items():
        if config.get(key) != value:
            raise AlignvisError(
                f"{file} says {key} = {config.get(key)!r}, and the published adapters of DreamSim 0.2 say {value!r}; "
                "use the published one"
            )
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if type(rank) is not int or rank < 1 or type(alpha) not in (int, float) or not math.isfinite(alpha):
        raise AlignvisError(
            f"{file} says r = {rank!r} and lora_alpha = {alpha!r}; a whole number above 0 and a number are needed"
        )
    return config


def _too_old(folder: Path) -> AlignvisError:
    return AlignvisError(
        f"{folder} is an adapter of DreamSim 0.1, which changes queries and values only; this needs the adapter of "
        "DreamSim 0.2: https://github.com/ssundaram21/dreamsim/releases"
    )


def _check_pair(
    file: Path, branch: int, layer: str, down: Tensor | None, up: Tensor | None, rank: int, width: int
) -> None:
    if down is None or up is None:
        raise AlignvisError(
            f"{file} does not adapt {layer} of branch {branch}; it is cut, or the adapter of another encoder"
        )
    if down.shape == (2 * rank, width):
        raise _too_old(file.parent)
    if down.shape != (rank, width) or up.shape != (3 * width, rank):
        raise AlignvisError(
            f"{file}: for {layer} of branch {branch} A is {tuple(down.shape)} and B is {tuple(up.shape)}; expected "
            f"{(rank, width)} and {(3 * width, rank)}, with r = {rank} from adapter_config.json"
        )
    if not (torch.isfinite(down).all() and torch.isfinite(up).all()):
        raise AlignvisError(
            f"{file}: the adapter of {layer} of branch {branch} is not made of finite numbers; download it again"
        )


class Affine(nn.Module):
    """gLocal's map from an embedding to an aligned one: y = ((x - mean) / std) @ weights + bias.

    Attributes:
        weights: (dim, dim); not transposed, as x is a row.
        mean, std: of the whole matrix of THINGS features that the map was fitted to, one number each.

    Source: Muttenthaler et al. (2023), arXiv:2306.04507.
    """

    def __init__(self, weights: Tensor, bias: Tensor, mean: float, std: float) -> None:
        super().__init__()
        self.mean, self.std = mean, std
        self.register_buffer("weights", weights)
        self.register_buffer("bias", bias)

    def forward(self, embeddings: Tensor) -> Tensor:
        """(batch, dim) -> (batch, dim)."""
        return ((embeddings - self.mean) / self.std) @ self.weights + self.bias


def read_transform(file: Path, dim: int, published: str) -> Affine:
    """Read a ``transform.npz`` of gLocal.

    Args:
        dim: length of the embedding that it is for.
        published: the sha256 of the transform of this model, or the beginning of it. Nothing else tells the transforms
            of two models apart, and a wrong one gives plausible numbers.

    Raises:
        AlignvisError: when it is the transform of another model, when arrays are missing, left over, of another shape
            or not finite, or std is not positive.
    """
    digest = sha256(file)
    if not digest.startswith(published):
        owner = TRANSFORMS.get(digest[:16], "no model known here")
        raise AlignvisError(
            f"{file} is the transform of {owner} (sha256 {digest[:16]}...), and that of "
            f"{TRANSFORMS[published[:16]]} (sha256 {published[:16]}...) was expected; give the published file"
        )
    arrays = read_arrays(file)
    shapes = {"weights": (dim, dim), "bias": (dim,), "mean": (), "std": ()}
    found = {name: array.shape for name, array in arrays.items()}
    if found | {"bias": found.get("bias", (dim,))} != shapes:  # the one of CLIP ViT-L/14 has no bias
        raise AlignvisError(f"{file} holds arrays of shapes {found}, and {shapes} (bias may be absent) was expected")
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    if not all(tensor.is_floating_point() and torch.isfinite(tensor).all() for tensor in tensors.values()):
        raise AlignvisError(f"{file} holds numbers that are not finite; download it again")
    if tensors["std"] <= 0:
        raise AlignvisError(f"{file} states a standard deviation of {tensors['std'].item()}; download it again")
    bias = tensors.get("bias", torch.zeros(dim))
    return Affine(tensors["weights"].float(), bias.float(), tensors["mean"].item(), tensors["std"].item())
