"""What the convolutional image encoders share."""

from collections.abc import Collection, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alignvis.errors import AlignvisError


class BatchNorm(nn.Module):
    """Batch normalisation by stored statistics, (batch, channels, ...) to the same; there is no training here.

    torch's own class also counts the batches it was trained on, which no file needs to hold.
    """

    def __init__(self, channels: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)


def through(stages: Iterable[nn.Module], x: Tensor, layers: Collection[int]) -> tuple[Tensor, dict[str, Tensor]]:
    """Pass a map through the stages of a network.

    Args:
        x: (batch, channels, rows, columns).
        layers: numbers of stages, from 1.

    Returns:
        What the last stage gives, and "layer.k" (batch, channels), the mean over space, of each stage asked for.
    """
    outputs = {}
    for number, stage in enumerate(stages, 1):
        x = stage(x)
        if number in layers:
            outputs[f"layer.{number}"] = x.mean(dim=(2, 3))
    return x, outputs


def expect_side(pixels: Tensor, side: int) -> None:
    """Refuse pictures of another size than the one that a network has weights for.

    Args:
        pixels: (batch, 3, height, width).
    """
    rows, columns = pixels.shape[2:]
    if (rows, columns) != (side, side):
        raise AlignvisError(f"this encoder reads pictures of {side} x {side} pixels, and was given {rows} x {columns}")
