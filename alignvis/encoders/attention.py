"""Self-attention in plain operations, which many runs can take side by side."""

from torch import Tensor, nn


class Attention(nn.Module):
    """Self-attention of (batch, tokens, width), without masks.

    Args:
        width: of a token.
        heads: each ``width // heads`` wide, so that together they may be narrower than a token.
        dropout: of the attention weights.
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.head_width = width // heads
        inner = self.head_width * heads
        self.queries = nn.Linear(width, inner)
        self.keys = nn.Linear(width, inner)
        self.values = nn.Linear(width, inner)
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(inner, width)

    def forward(self, tokens: Tensor) -> Tensor:
        queries, keys, values = (
            map(tokens).unflatten(-1, (self.heads, self.head_width)).transpose(1, 2)  # batch, head, token, width
            for map in (self.queries, self.keys, self.values)
        )
        weights = (queries @ keys.transpose(2, 3) * self.head_width**-0.5).softmax(-1)
        return self.output((self.dropout(weights) @ values).transpose(1, 2).flatten(2))
