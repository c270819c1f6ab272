"""The vision transformer: one class for CLIP, OpenCLIP, DINO, DINOv2, SynCLR and every DreamSim branch."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alignvis.errors import AlignvisError


@dataclass(frozen=True)
class Architecture:
    """Everything that decides what a vision transformer computes, apart from its weights.

    Attributes:
        patch: side of a square patch, pixels.
        width: channels of a token.
        depth: number of blocks.
        heads: attention heads; cannot be read off the weights (80 channels a head in ViT-H/14, 64 elsewhere).
        grid: patches along one side of the stored position table.
        activation: "gelu" is the exact one (erf); "quick_gelu" is x * sigmoid(1.702 x), OpenAI's approximation.
        eps: added to the variance in every layer normalisation.
        ln_pre: tokens are normalised before the first block (CLIP).
        layer_scale: each branch of a block is scaled channel by channel (DINOv2).
        output: what is taken of the class token: as it leaves the last block ("prenorm"), after the final
            normalisation ("norm"), or that times the projection ("projected"); or the class token and the mean of the
            others, one behind the other, as they leave the last block ("patches").
        projection: columns of the stored projection, which only "projected" applies; None where there is none.
        resize: how the position table is fitted to another grid than its own: "offset" is Meta's rule (bicubic,
            scale factor (new + 0.1) / old), "size" that of transformers since 2025 (bicubic, to the size), "never"
            refuses other grids (CLIP).
    """

    patch: int
    width: int
    depth: int
    heads: int
    grid: int
    activation: Literal["gelu", "quick_gelu"] = "gelu"
    eps: float = 1e-6
    ln_pre: bool = False
    layer_scale: bool = False
    output: Literal["prenorm", "norm", "projected", "patches"] = "norm"
    projection: int | None = None
    resize: Literal["offset", "size", "never"] = "never"

    @property
    def dim(self) -> int:
        """Length of the embedding."""
        if self.output == "patches":
            return 2 * self.width
        return self.projection if self.output == "projected" else self.width

    def build(self) -> "ViT":
        """Make a network with weights of zero and one."""
        return ViT(self)


def quick_gelu(x: Tensor) -> Tensor:
    """x * sigmoid(1.702 x), the activation of OpenAI's CLIP."""
    return x * torch.sigmoid(1.702 * x)


ACTIVATIONS = {"gelu": F.gelu, "quick_gelu": quick_gelu}


class Attention(nn.Module):
    """Self-attention; the rows of its one input matrix are [all queries | all keys | all values], head by head."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, tokens: Tensor, class_only: bool) -> Tensor:
        """(batch, tokens, width) -> the same, or (batch, 1, width) where only the class token asks."""
        if class_only:
            width = tokens.shape[2]
            weights, biases = self.qkv.weight.split([width, 2 * width]), self.qkv.bias.split([width, 2 * width])
            q = self._by_head(F.linear(tokens[:, :1], weights[0], biases[0]))
            k, v = map(self._by_head, F.linear(tokens, weights[1], biases[1]).chunk(2, dim=-1))
        else:
            q, k, v = map(self._by_head, self.qkv(tokens).chunk(3, dim=-1))
        mixed = F.scaled_dot_product_attention(q, k, v)
        return self.proj(mixed.transpose(1, 2).flatten(2))

    def _by_head(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)  # (batch, heads, tokens, width / heads)


class Mlp(nn.Module):
    """Two linear layers, four times as wide in between."""

    def __init__(self, width: int, activation: str) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)
        self.activation = ACTIVATIONS[activation]

    def forward(self, tokens: Tensor) -> Tensor:
        return self.fc2(self.activation(self.fc1(tokens)))


class Block(nn.Module):
    """x += ls1 * attention(norm1(x)); x += ls2 * mlp(norm2(x)); the scales only with LayerScale."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        width = architecture.width
        self.norm1 = nn.LayerNorm(width, architecture.eps)
        self.attn = Attention(width, architecture.heads)
        self.norm2 = nn.LayerNorm(width, architecture.eps)
        self.mlp = Mlp(width, architecture.activation)
        self.ls1 = nn.Parameter(torch.ones(width)) if architecture.layer_scale else None
        self.ls2 = nn.Parameter(torch.ones(width)) if architecture.layer_scale else None

    def forward(self, tokens: Tensor, class_only: bool = False) -> Tensor:
        """(batch, tokens, width) -> the same, or (batch, 1, width) where nothing but the class token is asked for."""
        attended = self.attn(self.norm1(tokens), class_only)
        tokens = tokens[:, :1] if class_only else tokens
        tokens = tokens + (attended if self.ls1 is None else self.ls1 * attended)
        spread = self.mlp(self.norm2(tokens))
        return tokens + (spread if self.ls2 is None else self.ls2 * spread)


class ViT(nn.Module):
    """A vision transformer whose parameters carry the names of DINO's official files.

    Source: Dosovitskiy et al. (2021), arXiv:2010.11929, with the differences that `Architecture` lists.
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        patch, width = architecture.patch, architecture.width
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + architecture.grid**2, width))
        # In a submodule of its own only for the name that the official files give it.
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, width, patch, patch)})
        self.norm_pre = nn.LayerNorm(width, architecture.eps) if architecture.ln_pre else None
        self.blocks = nn.ModuleList(Block(architecture) for _ in range(architecture.depth))
        self.norm = nn.LayerNorm(width, architecture.eps)
        if architecture.projection is not None:
            self.proj = nn.Parameter(torch.zeros(width, architecture.projection))

    def forward(self, pixels: Tensor, layers: Collection[int] = ()) -> dict[str, Tensor]:
        """(batch, 3, height, width), already normalised, to the embedding and what the blocks asked for hold.

        Args:
            layers: numbers of blocks, from 1 to the depth.

        Returns:
            "embeddings" (batch, dim), and for each block ``k`` asked for, as it leaves the block and before the final
            normalisation: "layer.k.class" (batch, width), the class token, and "layer.k.patches" (batch, width), the
            mean of the others.
        """
        outputs = {}
        tokens = self.tokens(pixels)
        # Where nothing reads the other tokens of the last block, they are not computed.
        all_tokens = self.architecture.output == "patches" or self.architecture.depth in layers
        for number, block in enumerate(self.blocks, 1):
            tokens = block(tokens, class_only=number == self.architecture.depth and not all_tokens)
            if number in layers:
                outputs[f"layer.{number}.class"], outputs[f"layer.{number}.patches"] = _pooled(tokens)
        return {"embeddings": self._embedding(tokens), **outputs}

    def _embedding(self, tokens: Tensor) -> Tensor:
        output = self.architecture.output
        if output == "patches":
            return torch.cat(_pooled(tokens), dim=1)
        token = tokens[:, 0]
        if output != "prenorm":
            token = self.norm(token)
        return token @ self.proj if output == "projected" else token

    def tokens(self, pixels: Tensor) -> Tensor:
        """(batch, 3, height, width) -> what the first block reads, (batch, 1 + patches, width), class token first."""
        patches = self.patch_embed["proj"](pixels)  # (batch, width, rows, columns)
        rows, columns = patches.shape[2:]
        tokens = torch.cat([self.cls_token.expand(len(pixels), -1, -1), patches.flatten(2).transpose(1, 2)], dim=1)
        tokens = tokens + self.positions(rows, columns)
        return tokens if self.norm_pre is None else self.norm_pre(tokens)

    def positions(self, rows: int, columns: int) -> Tensor:
        """The position table for a picture of rows x columns patches, (1, 1 + rows * columns, width).

        Raises:
            AlignvisError: when the grid is not the stored one and the encoder has no rule for others.
        """
        stored, rule = self.architecture.grid, self.architecture.resize
        if (rows, columns) == (stored, stored):
            return self.pos_embed
        if rule == "never":
            patch = self.architecture.patch
            side, found = stored * patch, f"{rows * patch} x {columns * patch}"
            raise AlignvisError(f"this encoder reads pictures of {side} x {side} pixels, and was given {found}")
        first, table = self.pos_embed.float().split([1, stored**2], dim=1)
        table = table.unflatten(1, (stored, stored)).permute(0, 3, 1, 2)
        if rule == "offset":
            # The 0.1 is part of the trained models' published behaviour: the factor also places the samples.
            factors = [(side + 0.1) / stored for side in (rows, columns)]
            table = F.interpolate(table, scale_factor=factors, mode="bicubic")
        else:
            table = F.interpolate(table, size=(rows, columns), mode="bicubic")
        return torch.cat([first, table.flatten(2).transpose(1, 2)], dim=1).to(self.pos_embed.dtype)


def _pooled(tokens: Tensor) -> tuple[Tensor, Tensor]:
    """The class token, and the mean of the others."""
    return tokens[:, 0], tokens[:, 1:].mean(dim=1)
