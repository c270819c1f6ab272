"""EEGNet, the small convolutional baseline of EEG decoding, its two widest layers exchanged."""

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool1d, conv1d, elu, pad

from alignvis.encoders.convolutional import middles
from alignvis.encoders.folded import fold
from alignvis.encoders.shape import require_times

FILTERS = 8  # in time
PLANES = 16  # two spatial filters for each of them
TAPS = 64  # of the temporal filters, samples
LATE_TAPS = 16  # of the filters after the first average
POOLS = (4, 8)
BEFORE = (TAPS - 1) // 2  # samples of padding; one more comes after


def window_moments(responses: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (taps,) and covariance (taps, taps) of all zero-padded windows of (batch, channels, times).

    The products of any two samples, summed over batch and channels, are one matrix product; a window's are a block
    beside that matrix' diagonal.
    """
    samples = responses.flatten(0, 1)
    count = samples.numel()
    around = (BEFORE, TAPS - 1 - BEFORE)
    mean = pad(samples.sum(0), around).unfold(0, TAPS, 1).sum(0) / count
    products = pad(samples.T @ samples, around * 2).unfold(0, TAPS, 1).unfold(1, TAPS, 1)  # time, time, tap, tap
    return mean, products.diagonal(dim1=0, dim2=1).sum(-1) / count - mean[:, None] * mean


def as_matrices(filters: Tensor, times: int) -> Tensor:
    """Convolution over time, zero-padded, as a matrix product: (filters, taps) to (filters, times, times)."""
    diagonals = pad(filters.flip(1), (times - TAPS + BEFORE, times - 1 - BEFORE))
    return diagonals.unfold(1, times, 1).flip(1)


class EEGNet(nn.Module):
    """Filter in time, in space, average, filter again: (batch, channels, times) to (batch, dim).

    The published order is: convolution (1 x 64), BatchNorm, depthwise convolution (channels x 1), BatchNorm, ELU,
    average (1 x 4), dropout, depthwise convolution (1 x 16), convolution (1 x 1), BatchNorm, ELU, average (1 x 8),
    dropout, one linear layer. All between the input and the second BatchNorm is linear once the first BatchNorm's
    statistics are known, and these need only the covariance of 64-sample windows. So the first BatchNorm is folded into
    the filters in time, the filters in space come first, and nothing of size 8 x channels x times is ever made.

    Args:
        channels, times: the shape of a response; at least 32 samples.
        dim: the embedding's dimension.
        head: no effect: the last linear layer is the only one, and stays.
        parity: no effect.

    Raises:
        AlignvisError: when the responses are too short for one sample after both averages.

    `planes` come after the first BatchNorm. A step sees 64 samples, 31 before it and 32 after it.

    Source: Lawhern et al. (2018), doi:10.1088/1741-2552/aace8c, without its classifier and weight constraints.
    """

    def __init__(self, channels: int, times: int, dim: int, *, head: bool = True, parity: bool = False) -> None:
        super().__init__()
        shrinkage = POOLS[0] * POOLS[1]
        require_times("eegnet", shrinkage, times)
        self.centres, self.centres_note = middles(times, 1, (TAPS - 1) / 2 - BEFORE), ""
        self.temporal = nn.Conv2d(1, FILTERS, (1, TAPS))
        self.temporal_norm = nn.BatchNorm2d(FILTERS)
        self.spatial = nn.Conv2d(FILTERS, PLANES, (channels, 1), groups=FILTERS)
        self.spatial_norm = nn.BatchNorm1d(PLANES)
        self.early_dropout = nn.Dropout(0.5)
        self.late = nn.Conv1d(PLANES, PLANES, LATE_TAPS, groups=PLANES)
        self.mix = nn.Conv1d(PLANES, PLANES, 1)
        self.late_norm = nn.BatchNorm1d(PLANES)
        self.late_dropout = nn.Dropout(0.5)
        self.head = nn.Linear(PLANES * (times // shrinkage), dim)

    def prepare(self, responses: Tensor) -> Tensor:
        """Nothing is to be done beforehand."""
        return responses

    def forward(self, prepared: Tensor) -> Tensor:
        return self._rest(self._filtered(prepared))

    def planes(self, prepared: Tensor) -> Tensor:
        filters, shift = self._filters(prepared)
        samples = pad(prepared.flatten(0, 1)[:, None], (BEFORE, TAPS - 1 - BEFORE))  # batch * channels, 1, times
        return conv1d(samples, filters[:, None], shift).unflatten(0, prepared.shape[:2]).transpose(1, 2)

    def from_planes(self, planes: Tensor) -> Tensor:
        return self._rest(self.spatial(planes).squeeze(2))

    def _rest(self, planes: Tensor) -> Tensor:
        """From the sums over channels, (batch, planes, times), to the embedding."""
        planes = elu(self.spatial_norm(planes))
        planes = self.early_dropout(avg_pool1d(planes, POOLS[0]))
        before = (LATE_TAPS - 1) // 2
        planes = self.mix(self.late(pad(planes, (before, LATE_TAPS - 1 - before))))
        planes = self.late_dropout(avg_pool1d(elu(self.late_norm(planes)), POOLS[1]))
        return self.head(planes.flatten(1))

    def _filtered(self, responses: Tensor) -> Tensor:
        """Both convolutions and the norm between them: (batch, channels, times) to (batch, planes, times)."""
        batch, _, times = responses.shape
        filters, shift = self._filters(responses)
        weights = self.spatial.weight.flatten(1)  # planes, channels
        planes = (weights @ responses).view(batch, FILTERS, -1, times).transpose(0, 1)  # the two planes of each filter
        planes = planes.flatten(1, 2) @ as_matrices(filters, times)
        planes = planes.view(FILTERS, batch, -1, times).transpose(0, 1).flatten(1, 2)
        offset = self.spatial.bias + shift.repeat_interleave(PLANES // FILTERS) * weights.sum(1)
        return planes + offset[:, None]

    def _filters(self, responses: Tensor) -> tuple[Tensor, Tensor]:
        """The temporal filters with the norm that follows them: (filters, taps) and (filters,)."""
        with torch.autocast(responses.device.type, enabled=False):  # a difference of squares
            mean, covariance = window_moments(responses) if self.training else (None, None)
            return fold(
                self.temporal_norm,
                self.temporal.weight.flatten(1),
                self.temporal.bias,
                mean,
                covariance,
                responses.numel(),
            )
