"""NICE, the spatio-temporal convolution of most published results, in the order that a machine likes."""

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool1d, elu

from alignvis.encoders.convolutional import middles
from alignvis.encoders.folded import fold
from alignvis.encoders.nice_filter import PLANES, STRIDE, TAPS, filter_in_time, filtered, window_moments
from alignvis.encoders.shape import require_times

POOL = 51  # width of the average, samples


class Nice(nn.Module):
    """Filter in time, average, filter in space, project: (batch, channels, times) to (batch, dim).

    The published order is: convolution (1 x 25), average (1 x 51) at stride 5, BatchNorm, ELU, convolution
    (channels x 1), BatchNorm, ELU, dropout, convolution (1 x 1), projector, and one more linear layer. Three things
    are done otherwise here, and give the same numbers.

    Convolution and average over time commute, as both are linear and shift-invariant, so the average, which has no
    parameters, is taken once for the whole data set (`prepare`), and the filters are then needed at every fifth
    sample only: 36 instead of 226 times of a 250-sample epoch. The first BatchNorm follows a linear map of 25
    samples: its mean and variance follow from theirs, so it becomes part of the filters before they are applied.
    And the filters are applied so that what they give stays in the processor's cache (`nice_filter`).

    Args:
        channels, times: the shape of a response; at least 75 samples.
        dim: the embedding's dimension.
        head: end in the published last linear layer.
        parity: changes nothing, as the published code computes what its paper says.

    Raises:
        AlignvisError: when the response is too short for one pooled filter output.

    `planes` come after the first ELU. A step sees 75 samples, the 25 of a filter at each of the 51 of the average.

    Source: Song et al. (2024), arXiv:2308.13234; the head of Rajabi et al. (2025), arXiv:2502.03081.
    """

    def __init__(self, channels: int, times: int, dim: int, *, head: bool = True, parity: bool = False) -> None:
        super().__init__()
        require_times("nice", TAPS - 1 + POOL, times)
        self.steps = (times - (TAPS - 1) - POOL) // STRIDE + 1
        self.centres, self.centres_note = middles(self.steps, STRIDE, (TAPS - 1 + POOL - 1) / 2), ""
        self.temporal = nn.Linear(TAPS, PLANES)
        self.temporal_norm = nn.BatchNorm1d(PLANES)
        self.spatial = nn.Linear(PLANES * channels, PLANES)
        self.spatial_norm = nn.BatchNorm1d(PLANES)
        self.dropout = nn.Dropout(0.5)
        self.mix = nn.Linear(PLANES, PLANES)
        self.project = nn.Linear(self.steps * PLANES, dim)
        self.residual = nn.Sequential(nn.GELU(), nn.Linear(dim, dim), nn.Dropout(0.5))
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, dim) if head else nn.Identity()

    def prepare(self, responses: Tensor) -> Tensor:
        """Average over 51 samples at every sample: (images, channels, times) to (images, times - 50, channels)."""
        return avg_pool1d(responses, POOL, stride=1).transpose(1, 2).contiguous()

    def forward(self, prepared: Tensor) -> Tensor:
        signal = prepared.permute(1, 2, 0).contiguous()  # times, channels, images
        return self._rest(filtered(signal, *self._filters(signal), self.spatial.weight))

    def planes(self, prepared: Tensor) -> Tensor:
        signal = prepared.permute(1, 2, 0).contiguous()
        planes = filter_in_time(signal, *self._filters(signal))  # steps, planes, channels * images
        return planes.unflatten(2, (-1, len(prepared))).permute(3, 1, 2, 0)

    def from_planes(self, planes: Tensor) -> Tensor:
        spatial = self.spatial.weight.view(PLANES, *planes.shape[1:3])
        return self._rest(torch.einsum("bpcs,qpc->sqb", planes, spatial))

    def _filters(self, signal: Tensor) -> tuple[Tensor, Tensor]:
        """The temporal filters with the norm that follows them, for (times, channels, images)."""
        with torch.autocast(signal.device.type, enabled=False):
            mean, covariance = window_moments(signal.to(self.temporal.weight.dtype)) if self.training else (None, None)
            windows = self.steps * signal[0].numel()
            return fold(self.temporal_norm, self.temporal.weight, self.temporal.bias, mean, covariance, windows)

    def _rest(self, planes: Tensor) -> Tensor:
        """From the sums over channels, (steps, planes, images), to the embedding."""
        planes = planes.permute(2, 0, 1).flatten(0, 1) + self.spatial.bias  # images * steps, planes
        planes = self.dropout(elu(self.spatial_norm(planes)))
        hidden = self.project(self.mix(planes).view(-1, self.steps * PLANES))
        return self.head(self.norm(hidden + self.residual(hidden)))
