"""What training makes small: brain vectors near the embedding of the picture that was shown, far from the others."""

from collections.abc import Callable

from torch import Tensor
from torch.nn.functional import log_softmax, softmax

from alignvis.retrieval import similarity

Scale = Tensor | float


def info_nce(brain: Tensor, image: Tensor, scale: Scale, sides: str = "both", centre: bool = True) -> Tensor:
    """Symmetric InfoNCE: name the picture for each response, and the response for each picture.

    Args:
        brain, image: (..., batch, dim); row i of one belongs to row i of the other, and no picture stands twice.
        scale: one over the temperature, (...) or a number.
        sides, centre: treatment of the vectors, as `retrieval.similarity` takes it.

    Returns:
        (...), one loss for each leading index.

    Source: Radford et al. (2021), arXiv:2103.00020.
    """
    logits = _scaled(similarity(brain, image, sides, centre), scale)
    right = [log_softmax(logits, dim=dim).diagonal(dim1=-2, dim2=-1).mean(dim=-1) for dim in (-1, -2)]
    return -(right[0] + right[1]) / 2


def soft_clip(brain: Tensor, image: Tensor, scale: Scale, sides: str = "both", centre: bool = True) -> Tensor:
    """As `info_nce`, but a picture like the right one is not quite wrong: targets are the pictures' own similarities.

    Pictures may stand more than once in a batch: equal embeddings share the target. Targets are what the brain is
    asked for, so nothing is learned through them.

    Source: Scotti et al. (2023), arXiv:2305.18274, section 3.2.
    """
    logits = _scaled(similarity(brain, image, sides, centre), scale)
    target = softmax(_scaled(similarity(image, image, sides, centre), scale), dim=-1).detach()
    right = [(target * log_softmax(side, dim=-1)).sum(dim=-1).mean(dim=-1) for side in (logits, logits.mT)]
    return -(right[0] + right[1]) / 2


def _scaled(similarities: Tensor, scale: Scale) -> Tensor:
    return similarities * (scale[..., None, None] if isinstance(scale, Tensor) else scale)


LOSSES: dict[str, Callable[..., Tensor]] = {"infonce": info_nce, "softclip": soft_clip}
