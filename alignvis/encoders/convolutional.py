"""What brain encoders that begin with a convolution over time let others see of it."""

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor


@runtime_checkable
class Convolutional(Protocol):
    """A brain encoder in two halves: the feature maps of its convolution over time, and all that follows.

    Attributes:
        centres: (steps,) float64, where in the response the receptive field of each step has its middle, in samples
            from the first one.
        centres_note: what has to be known to read a map over these steps, or nothing.
    """

    centres: Tensor
    centres_note: str

    def planes(self, prepared: Tensor) -> Tensor:
        """Feature maps as the convolution over channels takes them in, (batch, planes, channels, steps).

        Args:
            prepared: as the encoder's ``forward`` takes it. In evaluation mode only.

        Returns:
            With 1 in the place of channels where the very first convolution mixes them.
        """

    def from_planes(self, planes: Tensor) -> Tensor:
        """Go on from `planes` to the embedding, (batch, dim): ``from_planes(planes(x))`` is ``forward(x)``."""


def middles(steps: int, stride: int, first: float) -> Tensor:
    """Centres of receptive fields that begin ``stride`` samples after one another, the first one's at ``first``."""
    return first + stride * torch.arange(steps, dtype=torch.float64)
