"""VGG16, of which the harmonised and the unaligned file hold the same network."""

from collections.abc import Collection
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from alignvis.images.convolution import expect_side, through


@dataclass(frozen=True)
class VGG:
    """A VGG; by default VGG16. The embedding is what its second fully connected layer gives, behind the ReLU.

    Attributes:
        convolutions: in each stage, before its pool.
        widths: channels of each stage.
        grid: rows and columns of the last map, which the first fully connected layer reads whole.
        hidden: channels of both fully connected layers.
    """

    convolutions: tuple[int, ...] = (2, 2, 3, 3, 3)
    widths: tuple[int, ...] = (64, 128, 256, 512, 512)
    grid: int = 7
    hidden: int = 4096

    @property
    def dim(self) -> int:
        """Length of the embedding."""
        return self.hidden

    @property
    def depth(self) -> int:
        """How many layers can be asked for: the stages, each of which ends in a pool."""
        return len(self.widths)

    def build(self) -> "VGGNetwork":
        """Make an untrained network."""
        return VGGNetwork(self)


class VGGNetwork(nn.Module):
    """A VGG whose parameters carry timm's names, without the classifier.

    Source: Simonyan & Zisserman (2015), arXiv:1409.1556, configuration D.
    """

    def __init__(self, architecture: VGG) -> None:
        super().__init__()
        self.features = nn.Sequential()
        self.ends: list[int] = []  # of the stages, in `features`
        inputs = 3
        for convolutions, width in zip(architecture.convolutions, architecture.widths, strict=True):
            for _ in range(convolutions):
                self.features.extend([nn.Conv2d(inputs, width, 3, padding=1), nn.ReLU()])
                inputs = width
            self.features.append(nn.MaxPool2d(2))
            self.ends.append(len(self.features))
        self.side = 2**architecture.depth * architecture.grid
        # The first fully connected layer as the convolution whose window is the whole map: the files store it so.
        self.pre_logits = nn.ModuleDict(
            {
                "fc1": nn.Conv2d(inputs, architecture.hidden, architecture.grid),
                "fc2": nn.Conv2d(architecture.hidden, architecture.hidden, 1),
            }
        )

    def forward(self, pixels: Tensor, layers: Collection[int] = ()) -> dict[str, Tensor]:
        """(batch, 3, side, side), normalised, to "embeddings" (batch, dim) and the stages asked for (`through`).

        Raises:
            AlignvisError: when the pictures are of another size than the first fully connected layer reads.
        """
        expect_side(pixels, self.side)
        stages = (self.features[start:end] for start, end in zip([0, *self.ends], self.ends, strict=False))
        x, outputs = through(stages, pixels, layers)
        x = F.relu(self.pre_logits["fc1"](x))
        x = F.relu(self.pre_logits["fc2"](x))
        return {"embeddings": x.flatten(1), **outputs}
