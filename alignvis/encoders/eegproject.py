"""EEGProject, the flat projector of most recent EEG results."""

from torch import Tensor, nn


class EEGProject(nn.Module):
    """Flatten, project, one residual layer, normalise: (batch, channels, times) to (batch, dim).

    Usually given the 17 occipital and parietal channels only.

    Args:
        channels, times: the shape of a response; any, fMRI included.
        dim: the embedding's dimension, which is also the width of the residual layer.
        head: no effect: the published encoder ends in its LayerNorm and has no further linear layer.
        parity: no effect.

    Source: Wu et al. (2025), arXiv:2503.04207.
    """

    def __init__(self, channels: int, times: int, dim: int, *, head: bool = True, parity: bool = False) -> None:
        super().__init__()
        self.project = nn.Linear(channels * times, dim)
        self.residual = nn.Sequential(nn.GELU(), nn.Linear(dim, dim), nn.Dropout(0.3))
        self.norm = nn.LayerNorm(dim)

    def prepare(self, responses: Tensor) -> Tensor:
        """Flatten: (images, channels, times) to (images, channels·times)."""
        return responses.flatten(1)

    def forward(self, prepared: Tensor) -> Tensor:
        hidden = self.project(prepared)
        return self.norm(hidden + self.residual(hidden))
