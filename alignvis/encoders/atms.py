"""ATM-S: attention between channels, then NICE."""

import torch
from torch import Tensor, nn

from alignvis.encoders.attention import Attention
from alignvis.encoders.nice import Nice
from alignvis.encoders.shape import require_times

WIDTH = 250  # of a token
HEADS = 4
INNER = 256
DROPOUT = 0.25
NOTE = "its time axis is that of ATM-S's tokens, each value of which is a trained sum over all samples: trust occlusion"


class ATMS(nn.Module):
    """Let channels attend to each other, then filter as NICE does: (batch, channels, times) to (batch, dim).

    Every channel's time course is one token. A learned token stands before them, takes part in the attention and is
    then dropped. The published code learns one such token for each of ten subjects and one for an unknown subject; here
    one is shared by all, as a run need not know whom its responses come from. No code of place is added. Then
    comes `Nice`, whose average over time has to be taken at every step here, as the tokens are learned.

    Args:
        channels, times: the shape of a response; at least 2 samples.
        dim: the embedding's dimension.
        head: keep the published last Linear(dim, dim) after the projector's LayerNorm; without it the latter is last.
        parity: keep the first ``channels`` of the channels + 1 tokens, as the published code does: the learned token
            stays and the last channel (O2 in THINGS-EEG2) is lost.

    Raises:
        AlignvisError: when the responses have no time axis.

    `planes` are those of `Nice`, over tokens: their steps are laid out over the response evenly, as published maps do,
    though each value of a token is a trained sum over all samples.

    Source: Li et al. (2024), arXiv:2403.07721; the head of Rajabi et al. (2025), arXiv:2502.03081.
    """

    def __init__(self, channels: int, times: int, dim: int, *, head: bool = True, parity: bool = False) -> None:
        super().__init__()
        require_times("atms", 2, times)
        self.kept = slice(0, channels) if parity else slice(1, None)
        self.embed = nn.Linear(times, WIDTH)
        self.token = nn.Parameter(torch.randn(WIDTH))
        self.embed_dropout = nn.Dropout(DROPOUT)
        self.attend = nn.Sequential(Attention(WIDTH, HEADS, DROPOUT), nn.Dropout(DROPOUT))
        self.attend_norm = nn.LayerNorm(WIDTH)
        self.think = nn.Sequential(
            nn.Linear(WIDTH, INNER), nn.GELU(), nn.Dropout(DROPOUT), nn.Linear(INNER, WIDTH), nn.Dropout(DROPOUT)
        )
        self.think_norm = nn.LayerNorm(WIDTH)
        self.tokens_norm = nn.LayerNorm(WIDTH)
        self.filter = Nice(channels, WIDTH, dim, head=head)
        self.centres = self.filter.centres * ((times - 1) / (WIDTH - 1))
        self.centres_note = NOTE

    def prepare(self, responses: Tensor) -> Tensor:
        """Nothing is to be done beforehand."""
        return responses

    def forward(self, prepared: Tensor) -> Tensor:
        return self.filter(self.filter.prepare(self.tokens(prepared)))

    def planes(self, prepared: Tensor) -> Tensor:
        return self.filter.planes(self.filter.prepare(self.tokens(prepared)))

    def from_planes(self, planes: Tensor) -> Tensor:
        return self.filter.from_planes(planes)

    def tokens(self, prepared: Tensor) -> Tensor:
        """The transformer alone: (batch, channels, times) to (batch, channels, 250)."""
        channels = self.embed(prepared)
        token = self.token.to(channels.dtype).expand(len(channels), 1, WIDTH)
        tokens = self.embed_dropout(torch.cat([token, channels], dim=1))
        tokens = self.attend_norm(tokens + self.attend(tokens))
        tokens = self.think_norm(tokens + self.think(tokens))
        return self.tokens_norm(tokens)[:, self.kept]
