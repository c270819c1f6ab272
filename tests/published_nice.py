"""NICE in the published layer order, for tests and benchmarks: the slow twin of `alignvis.encoders.nice`."""

import torch
from torch import Tensor, nn

from alignvis.encoders.nice import Nice


class PublishedNice(nn.Module):
    """(batch, channels, times) to (batch, dim)."""

    def __init__(self, channels: int, times: int, dim: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 40, (1, 25)),
            nn.AvgPool2d((1, 51), (1, 5)),
            nn.BatchNorm2d(40),
            nn.ELU(),
            nn.Conv2d(40, 40, (channels, 1)),
            nn.BatchNorm2d(40),
            nn.ELU(),
            nn.Dropout(0.5),
            nn.Conv2d(40, 40, 1),
        )
        width = 40 * ((times - 25 + 1 - 51) // 5 + 1)
        self.project = nn.Linear(width, dim)
        self.residual = nn.Sequential(nn.GELU(), nn.Linear(dim, dim), nn.Dropout(0.5))
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, dim)

    def forward(self, responses: Tensor) -> Tensor:
        planes = self.features(responses[:, None])  # batch, plane, 1, time
        hidden = self.project(planes.permute(0, 3, 2, 1).flatten(1))
        return self.head(self.norm(hidden + self.residual(hidden)))


def published_from(ours: Nice, channels: int, times: int, dim: int) -> PublishedNice:
    """The published order with the weights of ours."""
    published = PublishedNice(channels, times, dim)
    state = ours.state_dict()
    renamed = {
        "temporal": "features.0",
        "temporal_norm": "features.2",
        "spatial": "features.4",
        "spatial_norm": "features.5",
        "mix": "features.8",
    }
    moved = {}
    for name, value in state.items():
        head, _, tail = name.partition(".")
        if name == "temporal.weight":
            value = value.view(40, 1, 1, 25)
        elif name == "spatial.weight":
            value = value.view(40, 40, channels, 1)
        elif name == "mix.weight":
            value = value.view(40, 40, 1, 1)
        moved[f"{renamed.get(head, head)}.{tail}"] = value
    published.load_state_dict(moved)
    return published


def randomise(module: nn.Module, seed: int = 0) -> None:
    """Draw every parameter and running statistic anew: ones and zeros hide mistakes."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in [*module.named_parameters(), *module.named_buffers()]:
        if value.is_floating_point():
            noise = torch.randn(value.shape, generator=generator)
            with torch.no_grad():
                if "running_var" in name:
                    value.copy_(0.5 + noise.square())
                elif value.ndim == 1:
                    value.copy_(1 + 0.3 * noise)
                else:
                    value.copy_(noise / value[0].numel() ** 0.5)
