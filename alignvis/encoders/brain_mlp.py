"""The wide residual perceptron of fMRI decoding."""

from torch import Tensor, nn

WIDTH = 4096
BLOCKS = 4


def layer(inputs: int, dropout: float) -> nn.Sequential:
    """Linear layer to the full width, LayerNorm, GELU, dropout."""
    return nn.Sequential(nn.Linear(inputs, WIDTH), nn.LayerNorm(WIDTH), nn.GELU(), nn.Dropout(dropout))


class BrainMLP(nn.Module):
    """Flatten, one wide layer and four wide residual ones, project: (batch, channels, times) to (batch, dim).

    Args:
        channels, times: the shape of a response; for fMRI, voxels and 1.
        dim: the embedding's dimension.
        head: keep the published last Linear(dim, dim), which follows Linear(4096, dim) with nothing between them;
            without it the latter is the last layer.
        parity: no effect.

    Source: the backbone of MindEye, Scotti et al. (2023), arXiv:2305.18274; the head of Rajabi et al. (2025),
        arXiv:2502.03081.
    """

    def __init__(self, channels: int, times: int, dim: int, *, head: bool = True, parity: bool = False) -> None:
        super().__init__()
        self.first = layer(channels * times, 0.5)
        self.blocks = nn.ModuleList(layer(WIDTH, 0.15) for _ in range(BLOCKS))
        self.project = nn.Linear(WIDTH, dim)
        self.head = nn.Linear(dim, dim) if head else nn.Identity()

    def prepare(self, responses: Tensor) -> Tensor:
        """Flatten: (images, channels, times) to (images, channels·times)."""
        return responses.flatten(1)

    def forward(self, prepared: Tensor) -> Tensor:
        hidden = self.first(prepared)
        for block in self.blocks:
            hidden = hidden + block(hidden)
        return self.head(self.project(hidden))
