"""The bottleneck ResNets of torchvision's files and of CLIP; the second version of Keras is in `resnet_v2`."""

from collections.abc import Collection
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alignvis.images.convolution import BatchNorm, expect_side, through

EXPANSION = 4  # a bottleneck's output is so many times as wide as its middle


@dataclass(frozen=True)
class ResNet:
    """A ResNet "v1.5": where a block halves the map, its 3 x 3 convolution does.

    The embedding is the mean of the last map over space.

    Attributes:
        blocks: bottlenecks in each stage.
        width: channels in the middle of the first stage's bottlenecks; each stage doubles them.
        eps: added to the variance in every batch normalisation.
    """

    blocks: tuple[int, ...] = (3, 4, 6, 3)
    width: int = 64
    eps: float = 1e-5

    @property
    def dim(self) -> int:
        """Length of the embedding."""
        return EXPANSION * self.width * 2 ** (self.depth - 1)

    @property
    def depth(self) -> int:
        """How many layers can be asked for: the stages."""
        return len(self.blocks)

    def build(self) -> "ResNetNetwork":
        """Make an untrained network."""
        return ResNetNetwork(self)


@dataclass(frozen=True)
class ClipResNet:
    """The picture tower of CLIP's RN50, which ends in an attention pool.

    Attributes:
        blocks, width, eps: as in `ResNet`.
        heads: of the attention pool.
        projection: length of the embedding, which the attention pool projects to.
        grid: rows and columns of the last map; the attention pool has a table of positions for just so many.
    """

    blocks: tuple[int, ...] = (3, 4, 6, 3)
    width: int = 64
    eps: float = 1e-5
    heads: int = 32
    projection: int = 1024
    grid: int = 7

    @property
    def dim(self) -> int:
        """Length of the embedding."""
        return self.projection

    @property
    def depth(self) -> int:
        """How many layers can be asked for: the stages."""
        return len(self.blocks)

    def build(self) -> "ClipResNetNetwork":
        """Make an untrained network."""
        return ClipResNetNetwork(self)


class Bottleneck(nn.Module):
    """1 x 1, 3 x 3 and 1 x 1 convolutions beside a shortcut.

    Args:
        shrinks_by_mean: what halves the map is an average pool behind the 3 x 3 convolution, and another one before
            the shortcut's (CLIP); otherwise it is the stride of these convolutions.
    """

    def __init__(self, inputs: int, width: int, stride: int, eps: float, *, shrinks_by_mean: bool) -> None:
        super().__init__()
        outputs = EXPANSION * width
        self.pool = stride if shrinks_by_mean else 1
        stride = 1 if shrinks_by_mean else stride
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = BatchNorm(width, eps)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = BatchNorm(width, eps)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = BatchNorm(outputs, eps)
        self.downsample = None
        if inputs != outputs or stride != 1 or self.pool != 1:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), BatchNorm(outputs, eps))

    def forward(self, x: Tensor) -> Tensor:
        main = F.relu(self.bn1(self.conv1(x)))
        main = self._pooled(F.relu(self.bn2(self.conv2(main))))
        main = self.bn3(self.conv3(main))
        shortcut = x if self.downsample is None else self.downsample(self._pooled(x))
        return F.relu(main + shortcut)

    def _pooled(self, x: Tensor) -> Tensor:
        return x if self.pool == 1 else F.avg_pool2d(x, self.pool)


class Stages(nn.Module):
    """The stages under the names that the files give them, ``layer1`` and on."""

    def __init__(self, architecture: ResNet | ClipResNet) -> None:
        super().__init__()
        inputs = architecture.width
        for number, blocks in enumerate(architecture.blocks):
            width = architecture.width * 2**number
            stage = nn.Sequential()
            for block in range(blocks):
                stride = 2 if number > 0 and block == 0 else 1
                by_mean = isinstance(architecture, ClipResNet)
                stage.append(Bottleneck(inputs, width, stride, architecture.eps, shrinks_by_mean=by_mean))
                inputs = EXPANSION * width
            self.add_module(f"layer{number + 1}", stage)
        self.depth = architecture.depth

    def stages(self) -> list[nn.Module]:
        return [self.get_submodule(f"layer{number + 1}") for number in range(self.depth)]


class ResNetNetwork(Stages):
    """A ResNet whose parameters carry torchvision's names, without the classifier.

    Source: He et al. (2016), arXiv:1512.03385; the stride on the 3 x 3 convolution is torchvision's and timm's.
    """

    def __init__(self, architecture: ResNet) -> None:
        super().__init__(architecture)
        self.conv1 = nn.Conv2d(3, architecture.width, 7, 2, padding=3, bias=False)
        self.bn1 = BatchNorm(architecture.width, architecture.eps)

    def forward(self, pixels: Tensor, layers: Collection[int] = ()) -> dict[str, Tensor]:
        """(batch, 3, height, width), normalised, to "embeddings" (batch, dim) and the stages asked for (`through`)."""
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(pixels))), 3, 2, padding=1)
        x, outputs = through(self.stages(), x, layers)
        return {"embeddings": x.mean(dim=(2, 3)), **outputs}


class AttentionPool(nn.Module):
    """The mean over space asks all places: (batch, channels, grid, grid) -> (batch, projection)."""

    def __init__(self, architecture: ClipResNet) -> None:
        super().__init__()
        channels = EXPANSION * architecture.width * 2 ** (architecture.depth - 1)
        self.heads = architecture.heads
        self.positional_embedding = nn.Parameter(torch.zeros(1 + architecture.grid**2, channels))
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(channels, channels) for _ in range(3))
        self.c_proj = nn.Linear(channels, architecture.projection)

    def forward(self, x: Tensor) -> Tensor:
        places = x.flatten(2).transpose(1, 2)  # (batch, places, channels)
        tokens = torch.cat([places.mean(dim=1, keepdim=True), places], dim=1) + self.positional_embedding
        q, k, v = (
            each.unflatten(2, (self.heads, -1)).transpose(1, 2)  # (batch, heads, tokens, channels / heads)
            for each in (self.q_proj(tokens[:, :1]), self.k_proj(tokens), self.v_proj(tokens))
        )
        mixed = F.scaled_dot_product_attention(q, k, v)
        return self.c_proj(mixed.flatten(1))


class ClipResNetNetwork(Stages):
    """CLIP's ResNet, whose parameters carry OpenAI's names without ``visual.``.

    Source: Radford et al. (2021), arXiv:2103.00020, section 2.4: three convolutions and an average pool as the stem,
        average pools in the place of strides, and the attention pool.
    """

    def __init__(self, architecture: ClipResNet) -> None:
        super().__init__(architecture)
        width, eps = architecture.width, architecture.eps
        self.side = 2 ** (architecture.depth + 1) * architecture.grid  # the stem quarters, each further stage halves
        self.conv1 = nn.Conv2d(3, width // 2, 3, 2, padding=1, bias=False)
        self.bn1 = BatchNorm(width // 2, eps)
        self.conv2 = nn.Conv2d(width // 2, width // 2, 3, padding=1, bias=False)
        self.bn2 = BatchNorm(width // 2, eps)
        self.conv3 = nn.Conv2d(width // 2, width, 3, padding=1, bias=False)
        self.bn3 = BatchNorm(width, eps)
        self.attnpool = AttentionPool(architecture)

    def forward(self, pixels: Tensor, layers: Collection[int] = ()) -> dict[str, Tensor]:
        """(batch, 3, side, side), normalised, to "embeddings" (batch, dim) and the stages asked for (`through`).

        Raises:
            AlignvisError: when the pictures are of another size than the attention pool has positions for.
        """
        expect_side(pixels, self.side)
        x = F.relu(self.bn1(self.conv1(pixels)))
        x = F.relu(self.bn2(self.conv2(x)))
        x = F.avg_pool2d(F.relu(self.bn3(self.conv3(x))), 2)
        x, outputs = through(self.stages(), x, layers)
        return {"embeddings": self.attnpool(x), **outputs}
