"""Brain encoders in the published layer order, in torch's own layers: the slow twins of `alignvis.encoders`."""

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention

RENAMED = {"cell.weight_ih": "cell.weight_ih_l0", "cell.weight_hh": "cell.weight_hh_l0"}
RENAMED |= {"cell.bias_ih": "cell.bias_ih_l0", "cell.bias_hh": "cell.bias_hh_l0"}


class Flat(nn.Module):
    """Flatten and one linear map."""

    def __init__(self, channels: int, times: int, dim: int) -> None:
        super().__init__()
        self.map = nn.Linear(channels * times, dim)

    def forward(self, responses: Tensor) -> Tensor:
        return self.map(responses.reshape(len(responses), -1))


class PublishedEEGProject(nn.Module):
    def __init__(self, channels: int, times: int, dim: int) -> None:
        super().__init__()
        self.project = nn.Linear(channels * times, dim)
        self.residual = nn.ModuleList([nn.GELU(), nn.Linear(dim, dim)])
        self.norm = nn.LayerNorm(dim)

    def forward(self, responses: Tensor) -> Tensor:
        hidden = self.project(responses.reshape(len(responses), -1))
        return self.norm(self.residual[1](gelu(hidden)) + hidden)


class PublishedBrainMLP(nn.Module):
    def __init__(self, channels: int, times: int, dim: int, width: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Linear(channels * times, width), nn.LayerNorm(width), nn.GELU())
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(width, width), nn.LayerNorm(width), nn.GELU()) for _ in range(4)
        )
        self.project = nn.Linear(width, dim)
        self.head = nn.Linear(dim, dim)

    def forward(self, responses: Tensor) -> Tensor:
        kept = self.first(responses.reshape(len(responses), -1))
        for block in self.blocks:
            kept = block(kept) + kept
        return self.head(self.project(kept))


class PublishedEEGNet(nn.Module):
    def __init__(self, channels: int, times: int, dim: int) -> None:
        super().__init__()
        self.temporal = nn.Conv2d(1, 8, (1, 64), padding="same")
        self.temporal_norm = nn.BatchNorm2d(8)
        self.spatial = nn.Conv2d(8, 16, (channels, 1), groups=8)
        self.spatial_norm = nn.BatchNorm2d(16)
        self.late = nn.Conv2d(16, 16, (1, 16), padding="same", groups=16)
        self.mix = nn.Conv2d(16, 16, 1)
        self.late_norm = nn.BatchNorm2d(16)
        self.head = nn.Linear(16 * (times // 32), dim)

    def forward(self, responses: Tensor) -> Tensor:
        planes = self.spatial(self.temporal_norm(self.temporal(responses[:, None])))
        planes = nn.AvgPool2d((1, 4))(nn.ELU()(self.spatial_norm(planes)))
        planes = nn.AvgPool2d((1, 8))(nn.ELU()(self.late_norm(self.mix(self.late(planes)))))
        return self.head(planes.flatten(1))


class PublishedAttention(nn.Module):
    """One head after the other through torch's own attention, which divides by the root of a head's width."""

    def __init__(self, width: int, heads: int, head_width: int) -> None:
        super().__init__()
        self.head_width = head_width
        self.queries = nn.Linear(width, heads * head_width)
        self.keys = nn.Linear(width, heads * head_width)
        self.values = nn.Linear(width, heads * head_width)
        self.output = nn.Linear(heads * head_width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        split = (map(tokens).split(self.head_width, dim=2) for map in (self.queries, self.keys, self.values))
        heads = [scaled_dot_product_attention(*one) for one in zip(*split, strict=True)]
        return self.output(torch.cat(heads, dim=2))


class PublishedEEGConformer(nn.Module):
    def __init__(self, channels: int, times: int, dim: int, parity: bool = False) -> None:
        super().__init__()
        self.parity = parity
        self.temporal = nn.Conv2d(1, 40, (1, 10))
        self.spatial = nn.Conv2d(40, 40, (channels, 1))
        self.norm = nn.BatchNorm2d(40)
        self.mix = nn.Conv2d(40, 40, 1)
        self.blocks = nn.ModuleList(
            nn.ModuleList(
                [
                    nn.ModuleList([nn.LayerNorm(40), PublishedAttention(40, 1, 40)]),
                    nn.Sequential(nn.LayerNorm(40), nn.Linear(40, 160), nn.GELU(), nn.Identity(), nn.Linear(160, 40)),
                ]
            )
            for _ in range(2)
        )
        tokens = (times - 9 - 25) // 5 + 1
        self.project = nn.Sequential(
            nn.Linear(40 * tokens, 256),
            nn.ELU(),
            nn.Identity(),
            nn.Linear(256, 32),
            nn.ELU(),
            nn.Identity(),
            nn.Linear(32, 1024),
        )
        self.head = nn.Sequential(nn.Identity(), nn.Linear(1024, dim))

    def forward(self, responses: Tensor) -> Tensor:
        planes = nn.ELU()(self.norm(self.spatial(self.temporal(responses[:, None]))))
        planes = self.mix(nn.AvgPool2d((1, 25), (1, 5))(planes))
        tokens = planes.squeeze(2).permute(0, 2, 1)
        for (norm, attention), think in self.blocks:
            tokens = attention(norm(tokens)) + tokens
            tokens = think(tokens) + tokens
        outputs = self.project(tokens.flatten(1))
        return self.head(outputs.softmax(1).log() if self.parity else outputs)


class PublishedATMS(nn.Module):
    def __init__(self, channels: int, times: int, dim: int, parity: bool = False) -> None:
        super().__init__()
        self.parity, self.channels = parity, channels
        self.embed = nn.Linear(times, 250)
        self.token = nn.Parameter(torch.zeros(250))
        self.attend = nn.ModuleList([PublishedAttention(250, 4, 62)])
        self.attend_norm = nn.LayerNorm(250)
        self.think = nn.Sequential(nn.Linear(250, 256), nn.GELU(), nn.Identity(), nn.Linear(256, 250))
        self.think_norm = nn.LayerNorm(250)
        self.tokens_norm = nn.LayerNorm(250)
        self.temporal = nn.Conv2d(1, 40, (1, 25))
        self.temporal_norm = nn.BatchNorm2d(40)
        self.spatial = nn.Conv2d(40, 40, (channels, 1))
        self.spatial_norm = nn.BatchNorm2d(40)
        self.mix = nn.Conv2d(40, 40, 1)
        self.project = nn.Linear(1440, dim)
        self.residual = nn.ModuleList([nn.GELU(), nn.Linear(dim, dim)])
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, dim)

    def tokens(self, responses: Tensor) -> Tensor:
        tokens = torch.stack([self.token.repeat(len(responses), 1), *self.embed(responses).unbind(1)], dim=1)
        tokens = self.attend_norm(tokens + self.attend[0](tokens))
        tokens = self.tokens_norm(self.think_norm(tokens + self.think(tokens)))
        return tokens[:, : self.channels] if self.parity else tokens[:, 1:]

    def forward(self, responses: Tensor) -> Tensor:
        planes = nn.AvgPool2d((1, 51), (1, 5))(self.temporal(self.tokens(responses)[:, None]))
        planes = self.spatial(nn.ELU()(self.temporal_norm(planes)))
        planes = self.mix(nn.ELU()(self.spatial_norm(planes)))  # batch, plane, 1, time
        hidden = self.project(planes.permute(0, 3, 2, 1).flatten(1))
        return self.head(self.norm(hidden + self.residual[1](gelu(hidden))))


class PublishedBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv1d(inputs, outputs, 17, padding=8, bias=False)
        self.first_norm = nn.BatchNorm1d(outputs)
        self.second = nn.Conv1d(outputs, outputs, 17, stride, padding=max(0, (18 - stride) // 2), bias=False)
        self.second_norm = nn.BatchNorm1d(outputs)
        self.pool = nn.MaxPool1d(stride, stride)
        self.widen = nn.Conv1d(inputs, outputs, 1, bias=False) if inputs != outputs else None

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        y = self.pool(y)
        if self.widen is not None:
            y = self.widen(y)
        x = self.second(torch.relu(self.first_norm(self.first(x))))
        x = x + y
        return torch.relu(self.second_norm(x)), x


class PublishedResNet1d(nn.Module):
    def __init__(self, channels: int, times: int, dim: int) -> None:
        super().__init__()
        self.first = nn.Conv1d(channels, 64, 17, padding=8, bias=False)
        self.norm = nn.BatchNorm1d(64)
        widths, lengths = (64, 64, 128, 196, 256, 320), (times, times, 128, 64, 32, 16)
        self.blocks = nn.ModuleList(
            PublishedBlock(widths[i], widths[i + 1], lengths[i] // lengths[i + 1]) for i in range(5)
        )
        self.head = nn.Linear(320 * 16, dim)

    def forward(self, responses: Tensor) -> Tensor:
        x = y = self.norm(self.first(responses))
        for block in self.blocks:
            x, y = block(x, y)
        return self.head(x.view(len(x), -1))


class PublishedLSTM(nn.Module):
    def __init__(self, channels: int, times: int, dim: int) -> None:
        super().__init__()
        self.cell = nn.LSTM(channels, 128, batch_first=True)
        self.project = nn.Linear(128, 128)
        self.head = nn.Linear(128, dim)

    def forward(self, responses: Tensor) -> Tensor:
        _, (last, _) = self.cell(responses.permute(0, 2, 1))
        return self.head(torch.relu(self.project(last[-1])))


def published_name(key: str) -> str:
    """What a parameter of ours is called in its twin, where ATM-S spells NICE out."""
    return RENAMED.get(key, key.removeprefix("filter."))


def twin_of(name: str, ours: nn.Module, channels: int, times: int, dim: int, parity: bool = False) -> nn.Module:
    """The published order of an encoder, with the weights and running statistics of ours and without dropout."""
    twin = {
        "atms": lambda: PublishedATMS(channels, times, dim, parity),
        "eegnet": lambda: PublishedEEGNet(channels, times, dim),
        "eegconformer": lambda: PublishedEEGConformer(channels, times, dim, parity),
        "resnet1d": lambda: PublishedResNet1d(channels, times, dim),
        "lstm": lambda: PublishedLSTM(channels, times, dim),
        "brain-mlp": lambda: PublishedBrainMLP(channels, times, dim, ours.project.in_features),
        "eegproject": lambda: PublishedEEGProject(channels, times, dim),
        "linear": lambda: Flat(channels, times, dim),
    }[name]()
    wanted = {key: value.shape for key, value in twin.state_dict().items()}
    state = {published_name(key): value for key, value in ours.state_dict().items()}
    twin.load_state_dict({key: value.view(wanted[key]) for key, value in state.items()})
    return twin
