"""What training makes small: brain vectors near the embedding of the picture that was shown, far from the others."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, softmax

from alignvis.retrieval import centre


def info_nce(brain: Tensor, image: Tensor, scale: float) -> Tensor:
    """Symmetric InfoNCE: name the picture for each response, and the response for each picture.

    Args:
        brain, image: (batch, dim); row i of one belongs to row i of the other, and no picture stands twice.
        scale: one over the temperature.

    Source: Radford et al. (2021), arXiv:2103.00020, with both sides treated as `retrieval.centre` says.
    """
    logits = scale * centre(brain) @ centre(image).T
    target = torch.arange(len(logits), device=logits.device)
    return (cross_entropy(logits, target) + cross_entropy(logits.T, target)) / 2


def soft_clip(brain: Tensor, image: Tensor, scale: float) -> Tensor:
    """As `info_nce`, but a picture like the right one is not quite wrong: targets are the pictures' own similarities.

    Pictures may stand more than once in a batch: equal embeddings share the target.

    Source: Scotti et al. (2023), arXiv:2305.18274, section 3.2.
    """
    image = centre(image)
    logits = scale * centre(brain) @ image.T
    target = softmax(scale * image @ image.T, dim=1)
    return (cross_entropy(logits, target) + cross_entropy(logits.T, target)) / 2


LOSSES: dict[str, Callable[[Tensor, Tensor, float], Tensor]] = {"infonce": info_nce, "softclip": soft_clip}
