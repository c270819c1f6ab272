"""LeViT: a convolutional stem, then attention on maps that shrink; aligned and unaligned are one network."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alignvis.images.convolution import BatchNorm, expect_side

STEM = 4  # convolutions, each of which halves the map
SPREAD = 2  # an MLP is so many times as wide in between


@dataclass(frozen=True)
class LeViT:
    """A LeViT; by default LeViT-128.

    Attributes:
        blocks: in each stage.
        widths: channels of each stage.
        heads: attention heads of each stage; between two stages there are as many as give `key` channels to each.
        key: channels of a query and of a key. A value has twice as many, between stages four times.
        grid: rows and columns of the first stage's map; the tables of attention biases hold just so many distances.
        output: the embedding is the mean over space, as it is ("mean"), or behind the head's batch normalisation
            ("norm").
        eps: added to the variance in every batch normalisation.
    """

    blocks: tuple[int, ...] = (4, 4, 4)
    widths: tuple[int, ...] = (128, 256, 384)
    heads: tuple[int, ...] = (4, 8, 12)
    key: int = 16
    grid: int = 14
    output: Literal["mean", "norm"] = "norm"
    eps: float = 1e-5

    @property
    def dim(self) -> int:
        """Length of the embedding."""
        return self.widths[-1]

    @property
    def depth(self) -> int:
        """How many layers can be asked for: the stages."""
        return len(self.widths)

    def build(self) -> "LeViTNetwork":
        """Make an untrained network."""
        return LeViTNetwork(self)


class LinearNorm(nn.Module):
    """A linear map without bias and a batch normalisation, (batch, tokens, inputs) -> (batch, tokens, outputs)."""

    def __init__(self, inputs: int, outputs: int, eps: float) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs, bias=False)
        self.bn = BatchNorm(outputs, eps)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.bn(self.linear(tokens).flatten(0, 1)).unflatten(0, tokens.shape[:2])


class ConvNorm(nn.Module):
    """A convolution that halves the map, and a batch normalisation; the names are the files'."""

    def __init__(self, inputs: int, outputs: int, eps: float) -> None:
        super().__init__()
        self.linear = nn.Conv2d(inputs, outputs, 3, 2, padding=1, bias=False)
        self.bn = BatchNorm(outputs, eps)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.linear(x))


class Attention(nn.Module):
    """Attention with a bias for each distance; the rows of the input matrix are [query | key | value] of each head.

    Args:
        grid: rows and columns of the map, row by row in the tokens.
    """

    def __init__(self, width: int, heads: int, key: int, grid: int, eps: float) -> None:
        super().__init__()
        self.sizes, self.grid = (key, key, 2 * key), grid
        self.attention_biases = nn.Parameter(torch.zeros(heads, grid**2))
        self.qkv = LinearNorm(width, heads * sum(self.sizes), eps)
        self.proj = nn.ModuleDict({"ln": LinearNorm(heads * self.sizes[-1], width, eps)})

    def forward(self, tokens: Tensor) -> Tensor:
        q, k, v = _by_head(self.qkv(tokens), len(self.attention_biases)).split(self.sizes, dim=-1)
        return _attend(q, k, v, _biases(self.attention_biases, self.grid, 1), self.proj["ln"])


class ShrinkingAttention(nn.Module):
    """Attention in which only every second row and column asks: (batch, tokens, inputs) -> (batch, fewer, outputs)."""

    def __init__(self, inputs: int, outputs: int, key: int, grid: int, eps: float) -> None:
        super().__init__()
        heads = inputs // key
        self.sizes, self.grid = (key, 4 * key), grid
        self.attention_biases = nn.Parameter(torch.zeros(heads, grid**2))
        self.q = nn.ModuleDict({"ln": LinearNorm(inputs, heads * key, eps)})
        self.kv = LinearNorm(inputs, heads * sum(self.sizes), eps)
        self.proj = nn.ModuleDict({"ln": LinearNorm(heads * self.sizes[-1], outputs, eps)})

    def forward(self, tokens: Tensor) -> Tensor:
        heads = len(self.attention_biases)
        asking = tokens.unflatten(1, (self.grid, self.grid))[:, ::2, ::2].flatten(1, 2)
        q = _by_head(self.q["ln"](asking), heads)
        k, v = _by_head(self.kv(tokens), heads).split(self.sizes, dim=-1)
        return _attend(q, k, v, _biases(self.attention_biases, self.grid, 2), self.proj["ln"])


class Mlp(nn.Module):
    """Two linear layers with a hard swish in between."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.ln1 = LinearNorm(width, SPREAD * width, eps)
        self.ln2 = LinearNorm(SPREAD * width, width, eps)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.ln2(F.hardswish(self.ln1(tokens)))


class Block(nn.Module):
    """x += attention(x); x += mlp(x)."""

    def __init__(self, attention: Attention, width: int, eps: float) -> None:
        super().__init__()
        self.attn = attention
        self.mlp = Mlp(width, eps)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.attn(tokens)
        return tokens + self.mlp(tokens)


class Downsample(nn.Module):
    """x = attention(x), with nothing beside it since the map shrinks; x += mlp(x)."""

    def __init__(self, attention: ShrinkingAttention, width: int, eps: float) -> None:
        super().__init__()
        self.attn_downsample = attention
        self.mlp = Mlp(width, eps)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = self.attn_downsample(tokens)
        return tokens + self.mlp(tokens)


class Stage(nn.Module):
    """A stage; every one but the first begins by halving the map."""

    def __init__(self, downsample: Downsample | None, blocks: list[Block]) -> None:
        super().__init__()
        self.downsample = nn.Identity() if downsample is None else downsample
        self.blocks = nn.Sequential(*blocks)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.blocks(self.downsample(tokens))


class LeViTNetwork(nn.Module):
    """A LeViT whose parameters carry timm's names, without classifiers.

    Source: Graham et al. (2021), arXiv:2104.01136.
    """

    def __init__(self, architecture: LeViT) -> None:
        super().__init__()
        widths, key, grid, eps = architecture.widths, architecture.key, architecture.grid, architecture.eps
        self.side = 2**STEM * grid
        stem = [3] + [widths[0] // 2**step for step in reversed(range(STEM))]
        self.stem = nn.ModuleDict(
            {f"conv{step + 1}": ConvNorm(stem[step], stem[step + 1], eps) for step in range(STEM)}
        )
        self.stages = nn.ModuleList()
        for number, (width, heads) in enumerate(zip(widths, architecture.heads, strict=True)):
            downsample = None
            if number > 0:
                attention = ShrinkingAttention(widths[number - 1], width, key, grid, eps)
                downsample = Downsample(attention, width, eps)
                grid = (grid + 1) // 2
            blocks = range(architecture.blocks[number])
            attentions = (Attention(width, heads, key, grid, eps) for _ in blocks)
            self.stages.append(Stage(downsample, [Block(attention, width, eps) for attention in attentions]))
        self.head = nn.ModuleDict({"bn": BatchNorm(widths[-1], eps)} if architecture.output == "norm" else {})

    def forward(self, pixels: Tensor, layers: Collection[int] = ()) -> dict[str, Tensor]:
        """(batch, 3, side, side), already normalised, to the embedding and what the stages asked for hold.

        Returns:
            "embeddings" (batch, dim), and "layer.k" (batch, channels), the mean over space, for each stage k asked for.

        Raises:
            AlignvisError: when the pictures are of another size than the attention biases are for.
        """
        expect_side(pixels, self.side)
        x = pixels
        for step, convolution in enumerate(self.stem.values()):
            x = convolution(x if step == 0 else F.hardswish(x))
        tokens = x.flatten(2).transpose(1, 2)  # (batch, places, channels)
        outputs = {}
        for number, stage in enumerate(self.stages, 1):
            tokens = stage(tokens)
            if number in layers:
                outputs[f"layer.{number}"] = tokens.mean(dim=1)
        embedding = tokens.mean(dim=1)
        return {"embeddings": self.head["bn"](embedding) if "bn" in self.head else embedding, **outputs}


def _by_head(x: Tensor, heads: int) -> Tensor:
    """(batch, tokens, heads * channels) -> (batch, heads, tokens, channels)."""
    return x.unflatten(2, (heads, -1)).transpose(1, 2)


def _attend(q: Tensor, k: Tensor, v: Tensor, biases: Tensor, project: nn.Module) -> Tensor:
    """(batch, heads, tokens, channels) each -> (batch, asking tokens, outputs of the projection)."""
    mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=biases)
    return project(F.hardswish(mixed.transpose(1, 2).flatten(2)))


def _biases(table: Tensor, grid: int, stride: int) -> Tensor:
    """What is added to each score, (heads, asking places, places), by how far apart two places are.

    Args:
        table: (heads, grid * grid), column ``rows apart * grid + columns apart``.
        stride: only every stride-th row and column asks.
    """
    places = torch.arange(grid, device=table.device)
    apart = (places[::stride, None] - places).abs()  # (asking, places), along one side
    column = apart[:, None, :, None] * grid + apart[None, :, None, :]  # (rows, columns asking, rows, columns)
    return table[:, column.reshape(len(apart) ** 2, grid**2)]
