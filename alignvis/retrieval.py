"""Which picture was it? Similarity of every query to every picture of a gallery, and the rank of the right one."""

import torch
from torch import Tensor
from torch.nn.functional import normalize

from alignvis.errors import AlignvisError


def centre(vectors: Tensor) -> Tensor:
    """Subtract each vector's own mean over its features and scale it to length one.

    Args:
        vectors: (rows, dim).

    Source: the published treatment of both sides, Rajabi et al. (2025), arXiv:2502.03081. The cosine of two such
        vectors is their Pearson correlation.
    """
    return normalize(vectors - vectors.mean(dim=-1, keepdim=True), dim=-1)


def similarity(queries: Tensor, gallery: Tensor) -> Tensor:
    """Correlate every query with every picture: (queries, dim) and (pictures, dim) to (queries, pictures)."""
    return centre(queries) @ centre(gallery).T


def ranks(similarities: Tensor, targets: Tensor) -> Tensor:
    """Count, for every query, the pictures at least as similar as the right one; 1 is best.

    A tie counts against the query: an answer that cannot tell two pictures apart has not named one, and a constant
    answer earns nothing.

    Args:
        similarities: (queries, pictures); the pictures are distinct.
        targets: (queries,) int64, the column of the right picture.

    Returns:
        (queries,) int64.

    Raises:
        AlignvisError: when a similarity is not finite, since no comparison with it means anything.
    """
    if not torch.isfinite(similarities).all():
        raise AlignvisError(
            "some similarities are not finite, so nothing can be ranked; the training diverged: lower the rate"
        )
    right = similarities.gather(1, targets[:, None])
    return (similarities >= right).sum(dim=1)


def ties(similarities: Tensor, targets: Tensor) -> int:
    """Count the queries whose right picture is exactly as similar as another one."""
    right = similarities.gather(1, targets[:, None])
    return int(((similarities == right).sum(dim=1) > 1).sum())


def top_k(places: Tensor, k: int) -> float:
    """Share of queries whose right picture is among the k most similar."""
    return (places <= k).double().mean().item()
