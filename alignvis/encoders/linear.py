"""The baseline that every table needs."""

from torch import Tensor, nn


class Linear(nn.Module):
    """One linear map from all channels and times to the embedding: (batch, channels, times) to (batch, dim).

    Args:
        channels, times: the shape of a response; any, fMRI included.
        dim: the embedding's dimension.
        head: no effect: a second linear layer would still be one linear map.
        parity: no effect.
    """

    def __init__(self, channels: int, times: int, dim: int, *, head: bool = True, parity: bool = False) -> None:
        super().__init__()
        self.map = nn.Linear(channels * times, dim)

    def prepare(self, responses: Tensor) -> Tensor:
        """Flatten: (images, channels, times) to (images, channels·times)."""
        return responses.flatten(1)

    def forward(self, prepared: Tensor) -> Tensor:
        return self.map(prepared)
