"""A recurrent network over time."""

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, relu

from alignvis.encoders.shape import require_times

HIDDEN = 128


class LSTM(nn.Module):
    """Read a response sample by sample and project the last state: (batch, channels, times) to (batch, dim).

    The steps are plain matrix products, which many runs can take side by side, and torch's own recurrent layers
    cannot. What enters the gates from outside is one product for all samples together.

    Args:
        channels, times: the shape of a response; at least 2 samples.
        dim: the embedding's dimension.
        head: no effect: the last linear layer follows a ReLU and stays.
        parity: draw the initial states from N(0, 1) at every call, as the published code does, which makes every answer
            random, at test time too. Otherwise they are zero.

    Raises:
        AlignvisError: when the responses have no time axis.

    Source: Hochreiter and Schmidhuber (1997), doi:10.1162/neco.1997.9.8.1735; sizes and head of Rajabi et al. (2025),
        arXiv:2502.03081.
    """

    def __init__(self, channels: int, times: int, dim: int, *, head: bool = True, parity: bool = False) -> None:
        super().__init__()
        require_times("lstm", 2, times)
        self.start = torch.randn if parity else torch.zeros
        self.cell = nn.LSTMCell(channels, HIDDEN)
        self.project = nn.Linear(HIDDEN, HIDDEN)
        self.head = nn.Linear(HIDDEN, dim)

    def prepare(self, responses: Tensor) -> Tensor:
        """Put time first: (images, channels, times) to (images, times, channels)."""
        return responses.transpose(1, 2).contiguous()

    def forward(self, prepared: Tensor) -> Tensor:
        cell, size = self.cell, (len(prepared), HIDDEN)
        state, memory = (self.start(size, dtype=prepared.dtype, device=prepared.device) for _ in range(2))
        for outside in linear(prepared, cell.weight_ih, cell.bias_ih + cell.bias_hh).unbind(1):
            enter, keep, new, leave = torch.addmm(outside, state, cell.weight_hh.T).chunk(4, dim=1)
            memory = keep.sigmoid() * memory + enter.sigmoid() * new.tanh()
            state = leave.sigmoid() * memory.tanh()
        return self.head(relu(self.project(state)))
