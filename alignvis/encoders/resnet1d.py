"""A residual network over time, first made for electrocardiograms."""

from torch import Tensor, nn
from torch.nn.functional import relu

from alignvis.encoders.convolutional import middles
from alignvis.encoders.shape import require_times
from alignvis.errors import AlignvisError

TAPS = 17
FIRST = 64  # planes of the first convolution and block, which keep all samples
LATER = ((128, 128), (196, 64), (256, 32), (320, 16))  # planes and samples after each further block


def convolution(inputs: int, outputs: int, stride: int = 1) -> nn.Conv1d:
    """Convolution that leaves 1 / stride of the samples."""
    return nn.Conv1d(inputs, outputs, TAPS, stride, padding=max(0, (TAPS - stride + 1) // 2), bias=False)


class Block(nn.Module):
    """Two convolutions beside a skip: samples and skip to samples and the next skip, (batch, planes, times) all."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = convolution(inputs, outputs)
        self.first_norm = nn.BatchNorm1d(outputs)
        self.first_dropout = nn.Dropout(0.5)
        self.second = convolution(outputs, outputs, stride)
        self.pool = nn.MaxPool1d(stride) if stride > 1 else nn.Identity()
        self.widen = nn.Conv1d(inputs, outputs, 1, bias=False) if inputs != outputs else nn.Identity()
        self.second_norm = nn.BatchNorm1d(outputs)
        self.second_dropout = nn.Dropout(0.5)

    def forward(self, samples: Tensor, skip: Tensor) -> tuple[Tensor, Tensor]:
        samples = self.first_dropout(relu(self.first_norm(self.first(samples))))
        skip = self.second(samples) + self.widen(self.pool(skip))
        return self.second_dropout(relu(self.second_norm(skip))), skip


class ResNet1d(nn.Module):
    """Five residual blocks over time, then a projection: (batch, channels, times) to (batch, dim).

    Args:
        channels, times: the shape of a response; 128 samples or a multiple of it.
        dim: the embedding's dimension.
        head: no effect: the last linear layer is the only one, and stays.
        parity: no effect.

    Raises:
        AlignvisError: when the number of samples is no multiple of 128.

    `planes` come after the first BatchNorm; the convolution before it mixes the channels. A step sees 17 samples.

    Source: Lima et al. (2021), doi:10.1038/s41467-021-25351-7, with the lengths of Rajabi et al. (2025),
        arXiv:2502.03081.
    """

    def __init__(self, channels: int, times: int, dim: int, *, head: bool = True, parity: bool = False) -> None:
        super().__init__()
        require_times("resnet1d", 2, times)
        shortest = LATER[0][1]
        if times % shortest:
            lower = max(1, times // shortest) * shortest
            upper = lower + shortest
            raise AlignvisError(
                f"the encoder resnet1d needs a multiple of {shortest} samples in time, these responses have {times}, "
                f"and the nearest are {lower} and {upper}: interpolate with --resample {lower} or --resample {upper}"
            )
        self.centres, self.centres_note = middles(times, 1, 0.0), ""
        self.first = convolution(channels, FIRST)
        self.norm = nn.BatchNorm1d(FIRST)
        blocks, planes, length = [Block(FIRST, FIRST, 1)], FIRST, times
        for wider, shorter in LATER:
            blocks.append(Block(planes, wider, length // shorter))
            planes, length = wider, shorter
        self.blocks = nn.ModuleList(blocks)
        self.head = nn.Linear(planes * length, dim)

    def prepare(self, responses: Tensor) -> Tensor:
        """Nothing is to be done beforehand."""
        return responses

    def forward(self, prepared: Tensor) -> Tensor:
        return self._rest(self.norm(self.first(prepared)))

    def planes(self, prepared: Tensor) -> Tensor:
        return self.norm(self.first(prepared))[:, :, None]

    def from_planes(self, planes: Tensor) -> Tensor:
        return self._rest(planes.squeeze(2))

    def _rest(self, planes: Tensor) -> Tensor:
        """From the first feature maps, (batch, planes, times), to the embedding."""
        samples = skip = planes
        for block in self.blocks:
            samples, skip = block(samples, skip)
        return self.head(samples.flatten(1))
