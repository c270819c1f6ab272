"""Brain encoders by name: (batch, channels, times) to (batch, dim)."""

from collections.abc import Callable

import torch
from torch import nn

from alignvis.encoders.atms import ATMS
from alignvis.encoders.brain_mlp import BrainMLP
from alignvis.encoders.eegconformer import EEGConformer
from alignvis.encoders.eegnet import EEGNet
from alignvis.encoders.eegproject import EEGProject
from alignvis.encoders.linear import Linear
from alignvis.encoders.lstm import LSTM
from alignvis.encoders.nice import Nice
from alignvis.encoders.resnet1d import ResNet1d
from alignvis.errors import AlignvisError

ENCODERS: dict[str, Callable[..., nn.Module]] = {
    "nice": Nice,
    "atms": ATMS,
    "eegnet": EEGNet,
    "eegconformer": EEGConformer,
    "resnet1d": ResNet1d,
    "lstm": LSTM,
    "brain-mlp": BrainMLP,
    "eegproject": EEGProject,
    "linear": Linear,
}


def build(
    name: str, *, channels: int, times: int, dim: int, seed: int = 0, head: bool = True, parity: bool = False
) -> nn.Module:
    """Make an untrained encoder; the same arguments always give the same weights.

    Every encoder has two steps. ``prepare`` has no parameters, is linear in the responses and is done once for a whole
    data set; ``forward`` takes what it returns.

    Args:
        channels, times: the shape of a response.
        dim: the embedding's dimension.
        head: keep the published last linear layer, where what remains without it still ends in ``dim`` values.
        parity: repeat what the published code does by mistake; each encoder says what that is.

    Raises:
        AlignvisError: when the name is unknown, or the architecture does not fit the recording's shape.
    """
    if name not in ENCODERS:
        raise AlignvisError(f"no brain encoder is called {name!r}; there are: {', '.join(ENCODERS)}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ENCODERS[name](channels, times, dim, head=head, parity=parity)
