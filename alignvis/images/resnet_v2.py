"""ResNet50V2 as Keras computes it: normalisation and ReLU come before a convolution, and strides end a stage."""

from collections.abc import Collection
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from alignvis.images.convolution import BatchNorm, through

EXPANSION = 4  # a block's output is so many times as wide as its middle


@dataclass(frozen=True)
class ResNetV2:
    """A ResNet of the second version; the embedding is the mean over space behind the last normalisation and ReLU.

    Attributes:
        blocks: in each stage, at least two.
        width: channels in the middle of the first stage's blocks; each stage doubles them.
        eps: added to the variance in every batch normalisation.
    """

    blocks: tuple[int, ...] = (3, 4, 6, 3)
    width: int = 64
    eps: float = 1.001e-5

    @property
    def dim(self) -> int:
        """Length of the embedding."""
        return EXPANSION * self.width * 2 ** (self.depth - 1)

    @property
    def depth(self) -> int:
        """How many layers can be asked for: the stages."""
        return len(self.blocks)

    def build(self) -> "ResNetV2Network":
        """Make an untrained network."""
        return ResNetV2Network(self)


class Block(nn.Module):
    """One block; the names of its parts are Keras's (``0_conv`` is ``conv0``)."""

    def __init__(self, inputs: int, width: int, stride: int, eps: float) -> None:
        super().__init__()
        outputs = EXPANSION * width
        self.stride = stride
        self.preact_bn = BatchNorm(inputs, eps)
        self.conv0 = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else None
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = BatchNorm(width, eps)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = BatchNorm(width, eps)
        self.conv3 = nn.Conv2d(width, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        before = F.relu(self.preact_bn(x))
        # Without a convolution the shortcut is the block's input itself, and halving it takes every second place.
        shortcut = x[:, :, :: self.stride, :: self.stride] if self.conv0 is None else self.conv0(before)
        main = F.relu(self.bn1(self.conv1(before)))
        main = F.relu(self.bn2(self.conv2(main)))
        return shortcut + self.conv3(main)


class ResNetV2Network(nn.Module):
    """ResNet50V2 without its classifier.

    Source: He et al. (2016), arXiv:1603.05027, as in Keras: the first convolution has a bias and neither normalisation
        nor ReLU, the pool behind it is padded with zeros, and each stage but the last halves the map in its last block.
    """

    def __init__(self, architecture: ResNetV2) -> None:
        super().__init__()
        width, eps = architecture.width, architecture.eps
        self.conv1 = nn.Conv2d(3, width, 7, 2, padding=3)
        self.stages = nn.ModuleList()
        inputs = width
        for number, blocks in enumerate(architecture.blocks, 1):
            stage = nn.Sequential()
            for block in range(1, blocks + 1):
                stride = 2 if block == blocks and number < architecture.depth else 1
                stage.append(Block(inputs, width, stride, eps))
                inputs = EXPANSION * width
            self.stages.append(stage)
            width *= 2
        self.post_bn = BatchNorm(inputs, eps)

    def forward(self, pixels: Tensor, layers: Collection[int] = ()) -> dict[str, Tensor]:
        """(batch, 3, height, width), normalised, to "embeddings" (batch, dim) and the stages asked for (`through`)."""
        x = F.max_pool2d(F.pad(self.conv1(pixels), (1, 1, 1, 1)), 3, 2)
        x, outputs = through(self.stages, x, layers)
        return {"embeddings": F.relu(self.post_bn(x)).mean(dim=(2, 3)), **outputs}
