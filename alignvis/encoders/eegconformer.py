"""EEG Conformer: convolutions, then a small transformer over time."""

from torch import Tensor, einsum, nn
from torch.nn.functional import avg_pool1d, conv1d, elu

from alignvis.encoders.attention import Attention
from alignvis.encoders.convolutional import middles
from alignvis.encoders.shape import require_times

WIDTH = 40  # of a token, and planes of both convolutions
TAPS = 10  # of the temporal filters, samples
POOL = 25  # width of the average, samples
STRIDE = 5  # of the average, samples
BLOCKS = 2
OUTPUTS = 1024


def block() -> nn.ModuleList:
    """The two residual parts of a transformer layer, each with its norm first."""
    attend = nn.Sequential(nn.LayerNorm(WIDTH), Attention(WIDTH, 1, 0.5), nn.Dropout(0.5))
    think = nn.Sequential(
        nn.LayerNorm(WIDTH),
        nn.Linear(WIDTH, 4 * WIDTH),
        nn.GELU(),
        nn.Dropout(0.5),
        nn.Linear(4 * WIDTH, WIDTH),
        nn.Dropout(0.5),
    )
    return nn.ModuleList([attend, think])


class EEGConformer(nn.Module):
    """Filter in time and space, average, attend over time, project: (batch, channels, times) to (batch, dim).

    The published order is: convolution (1 x 10), convolution (channels x 1), BatchNorm, ELU, average (1 x 25) at stride
    5, dropout, convolution (1 x 1), two transformer layers of one head, three linear layers, and one more. The first
    two convolutions have nothing between them, so they are taken as the one that they make, and nothing of size
    40 x channels x times is ever made.

    Args:
        channels, times: the shape of a response; at least 34 samples.
        dim: the embedding's dimension.
        head: keep the published last Linear(1024, dim), which follows Linear(32, 1024) with nothing between them;
            without it one Linear(32, dim) takes the place of both.
        parity: take the log-softmax of the 1024 outputs before the head, as the published code does; a mistake, and
            without the head there is nothing to take it of.

    Raises:
        AlignvisError: when the responses are too short for one token.

    `planes` come between the two convolutions. A step sees 10 samples.

    Source: Song et al. (2022), doi:10.1109/TNSRE.2022.3230250, with the numbers of Rajabi et al. (2025),
        arXiv:2502.03081.
    """

    def __init__(self, channels: int, times: int, dim: int, *, head: bool = True, parity: bool = False) -> None:
        super().__init__()
        require_times("eegconformer", TAPS - 1 + POOL, times)
        tokens = (times - (TAPS - 1) - POOL) // STRIDE + 1
        self.centres, self.centres_note = middles(times - (TAPS - 1), 1, (TAPS - 1) / 2), ""
        self.temporal = nn.Conv2d(1, WIDTH, (1, TAPS))
        self.spatial = nn.Conv2d(WIDTH, WIDTH, (channels, 1))
        self.norm = nn.BatchNorm1d(WIDTH)
        self.dropout = nn.Dropout(0.25)
        self.mix = nn.Linear(WIDTH, WIDTH)
        self.blocks = nn.ModuleList(block() for _ in range(BLOCKS))
        self.project = nn.Sequential(
            nn.Linear(tokens * WIDTH, 256),
            nn.ELU(),
            nn.Dropout(0.5),
            nn.Linear(256, 32),
            nn.ELU(),
            nn.Dropout(0.3),
            nn.Linear(32, OUTPUTS if head else dim),
        )
        between = nn.LogSoftmax(dim=1) if parity else nn.Identity()
        self.head = nn.Sequential(between, nn.Linear(OUTPUTS, dim)) if head else nn.Identity()

    def prepare(self, responses: Tensor) -> Tensor:
        """Nothing is to be done beforehand."""
        return responses

    def forward(self, prepared: Tensor) -> Tensor:
        return self._rest(conv1d(prepared, *self._convolution()))

    def planes(self, prepared: Tensor) -> Tensor:
        return self.temporal(prepared[:, None])

    def from_planes(self, planes: Tensor) -> Tensor:
        return self._rest(self.spatial(planes).squeeze(2))

    def _rest(self, planes: Tensor) -> Tensor:
        """From the sums over channels, (batch, planes, steps), to the embedding."""
        planes = elu(self.norm(planes))
        tokens = self.mix(self.dropout(avg_pool1d(planes, POOL, STRIDE)).transpose(1, 2))
        for attend, think in self.blocks:
            tokens = tokens + attend(tokens)
            tokens = tokens + think(tokens)
        return self.head(self.project(tokens.flatten(1)))

    def _convolution(self) -> tuple[Tensor, Tensor]:
        """Both convolutions in one: (planes, channels, taps) and (planes,)."""
        temporal, spatial = self.temporal.weight.flatten(1), self.spatial.weight.squeeze(3)  # (p, t) and (q, p, c)
        bias = self.spatial.bias + spatial.sum(2) @ self.temporal.bias
        return einsum("qpc,pt->qct", spatial, temporal), bias
