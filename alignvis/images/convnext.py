"""ConvNeXt, of which the harmonised and the unaligned file hold the same network."""

from collections.abc import Collection
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alignvis.images.convolution import through


@dataclass(frozen=True)
class ConvNeXt:
    """A ConvNeXt; by default ConvNeXt-T. The embedding is the mean over space behind the head's normalisation.

    Attributes:
        blocks: in each stage.
        widths: channels of each stage.
        eps: added to the variance in every layer normalisation.
    """

    blocks: tuple[int, ...] = (3, 3, 9, 3)
    widths: tuple[int, ...] = (96, 192, 384, 768)
    eps: float = 1e-6

    @property
    def dim(self) -> int:
        """Length of the embedding."""
        return self.widths[-1]

    @property
    def depth(self) -> int:
        """How many layers can be asked for: the stages."""
        return len(self.widths)

    def build(self) -> "ConvNeXtNetwork":
        """Make an untrained network."""
        return ConvNeXtNetwork(self)


class ChannelNorm(nn.LayerNorm):
    """Layer normalisation over the channels of each place, (batch, channels, rows, columns) -> the same."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Block(nn.Module):
    """x + gamma * fc2(gelu(fc1(norm(conv_dw(x))))), where all but the convolution acts on the channels of one place."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.conv_dw = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width, eps)
        # In a submodule of its own only for the name that the files give it.
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, 4 * width), "fc2": nn.Linear(4 * width, width)})
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        places = self.norm(self.conv_dw(x).permute(0, 2, 3, 1))  # (batch, rows, columns, channels)
        places = self.gamma * self.mlp["fc2"](F.gelu(self.mlp["fc1"](places)))
        return x + places.permute(0, 3, 1, 2)


class Stage(nn.Module):
    """A stage; every one but the first begins by halving the map."""

    def __init__(self, inputs: int | None, width: int, blocks: int, eps: float) -> None:
        super().__init__()
        self.downsample = nn.Sequential()
        if inputs is not None:
            self.downsample = nn.Sequential(ChannelNorm(inputs, eps), nn.Conv2d(inputs, width, 2, 2))
        self.blocks = nn.Sequential(*(Block(width, eps) for _ in range(blocks)))

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(self.downsample(x))


class ConvNeXtNetwork(nn.Module):
    """A ConvNeXt whose parameters carry timm's names, without the classifier.

    Source: Liu et al. (2022), arXiv:2201.03545.
    """

    def __init__(self, architecture: ConvNeXt) -> None:
        super().__init__()
        widths, eps = architecture.widths, architecture.eps
        self.stem = nn.Sequential(nn.Conv2d(3, widths[0], 4, 4), ChannelNorm(widths[0], eps))
        self.stages = nn.ModuleList(
            Stage(inputs, width, blocks, eps)
            for inputs, width, blocks in zip((None, *widths), widths, architecture.blocks, strict=False)
        )
        self.head = nn.ModuleDict({"norm": nn.LayerNorm(architecture.dim, eps)})

    def forward(self, pixels: Tensor, layers: Collection[int] = ()) -> dict[str, Tensor]:
        """(batch, 3, height, width), normalised, to "embeddings" (batch, dim) and the stages asked for (`through`)."""
        x, outputs = through(self.stages, self.stem(pixels), layers)
        return {"embeddings": self.head["norm"](x.mean(dim=(2, 3))), **outputs}
