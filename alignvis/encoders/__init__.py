"""Brain encoders by name: (batch, channels, times) to (batch, dim)."""

from collections.abc import Callable

import torch
from torch import nn

from alignvis.encoders.linear import Linear
from alignvis.encoders.nice import Nice
from alignvis.errors import AlignvisError

ENCODERS: dict[str, Callable[[int, int, int], nn.Module]] = {"nice": Nice, "linear": Linear}


def build(name: str, *, channels: int, times: int, dim: int, seed: int = 0) -> nn.Module:
    """Make an untrained encoder; the same arguments always give the same weights.

    Every encoder has two steps. ``prepare`` has no parameters and is done once for a whole data set; ``forward``
    takes what it returns.

    Raises:
        AlignvisError: when the name is unknown, or the architecture does not fit the recording's shape.
    """
    if name not in ENCODERS:
        raise AlignvisError(f"no brain encoder is called {name!r}; there are: {', '.join(ENCODERS)}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ENCODERS[name](channels, times, dim)
