"""NICE, the spatio-temporal convolution of most published results, in the order that a machine likes."""

from torch import Tensor, nn
from torch.nn.functional import avg_pool1d, elu

from alignvis.errors import AlignvisError

PLANES = 40
TAPS = 25  # of the temporal filters, samples
POOL = 51  # width of the average, samples
STRIDE = 5  # of the average, samples


class Nice(nn.Module):
    """Filter in time, average, filter in space, project: (batch, channels, times) to (batch, dim).

    The published order is: convolution (1 x 25), average (1 x 51) at stride 5, BatchNorm, ELU, convolution
    (channels x 1), BatchNorm, ELU, dropout, convolution (1 x 1), projector, and one more linear layer.
    Convolution and average over time commute, as both are linear and shift-invariant, so the average, which has no
    parameters, is taken once for the whole data set (`prepare`), and the filters are then needed at every fifth
    sample only: 36 instead of 226 times of a 250-sample epoch. Both convolutions are then matrix products.

    Args:
        channels, times: the shape of a response; at least 75 samples.
        dim: the embedding's dimension.

    Raises:
        AlignvisError: when the response is too short for one pooled filter output.

    Source: Song et al. (2024), arXiv:2308.13234; the head of Rajabi et al. (2025), arXiv:2502.03081.
    """

    def __init__(self, channels: int, times: int, dim: int) -> None:
        super().__init__()
        self.steps = (times - (TAPS - 1) - POOL) // STRIDE + 1
        if self.steps < 1:
            raise AlignvisError(
                f"the encoder nice needs at least {TAPS - 1 + POOL} samples in time and these responses have {times}; "
                "use the encoder linear, or prepare a longer window"
            )
        self.temporal = nn.Linear(TAPS, PLANES)
        self.temporal_norm = nn.BatchNorm1d(PLANES)
        self.spatial = nn.Linear(channels * PLANES, PLANES)
        self.spatial_norm = nn.BatchNorm1d(PLANES)
        self.dropout = nn.Dropout(0.5)
        self.mix = nn.Linear(PLANES, PLANES)
        self.project = nn.Linear(self.steps * PLANES, dim)
        self.residual = nn.Sequential(nn.GELU(), nn.Linear(dim, dim), nn.Dropout(0.5))
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, dim)

    def prepare(self, responses: Tensor) -> Tensor:
        """Average over 51 samples at every sample: (images, channels, times) to (images, times - 50, channels)."""
        return avg_pool1d(responses, POOL, stride=1).transpose(1, 2).contiguous()

    def forward(self, prepared: Tensor) -> Tensor:
        batch, _, channels = prepared.shape
        windows = prepared.unfold(1, TAPS, STRIDE)  # batch, steps, channels, taps
        planes = self.temporal(windows.reshape(-1, TAPS))
        planes = elu(self.temporal_norm(planes)).view(batch * self.steps, channels * PLANES)
        planes = self.dropout(elu(self.spatial_norm(self.spatial(planes))))
        hidden = self.project(self.mix(planes).view(batch, self.steps * PLANES))
        return self.head(self.norm(hidden + self.residual(hidden)))
