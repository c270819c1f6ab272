"""What is trained: a brain encoder, and what it meets on the side of the images."""

from math import log

import torch
from torch import Tensor, nn

from alignvis.encoders import build
from alignvis.recipe import Recipe
from alignvis.stack import LARGEST_LOG_SCALE


class Decoder(nn.Module):
    """Brings responses and embeddings into one space.

    By default that space is the image encoder's own and images are left as they are; with a ``projector`` both sides
    are mapped to a shared space of so many dimensions, the images by one trained linear map.

    Args:
        name, channels, times: of the brain encoder and of the responses, as `encoders.build` takes them.
        dim: of the embeddings.
        recipe: says what is trained besides the brain encoder.
        seed: of the first weights.
    """

    def __init__(self, name: str, *, channels: int, times: int, dim: int, recipe: Recipe, seed: int = 0) -> None:
        super().__init__()
        shared = recipe.projector or dim
        shape = {"channels": channels, "times": times, "dim": shared}
        self.brain = build(name, **shape, seed=seed, head=recipe.head, parity=recipe.parity)
        self.image: nn.Module = nn.Identity()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            if recipe.projector:
                self.image = nn.Linear(dim, shared)
        log_scale = torch.tensor(log(1 / recipe.temperature))
        if recipe.scale == "learned":
            self.log_scale = nn.Parameter(log_scale.clamp(max=LARGEST_LOG_SCALE))
        else:
            self.register_buffer("log_scale", log_scale)

    def forward(self, prepared: Tensor, embeddings: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Map both sides.

        Args:
            prepared: (batch, ...), what the brain encoder's ``prepare`` returned.
            embeddings: (batch, dim).

        Returns:
            Brain vectors and image vectors, (batch, shared) each, and the scale of the logits, without axes.
        """
        return self.brain(prepared), self.image(embeddings), self.log_scale.exp()
