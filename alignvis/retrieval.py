"""Which picture was it? Similarity of every query to every picture of a gallery, and the rank of the right one."""

import torch
from torch import Tensor
from torch.nn.functional import normalize

from alignvis.errors import AlignvisError


def similarity(queries: Tensor, gallery: Tensor, sides: str = "both", centre: bool = True) -> Tensor:
    """Compare queries and pictures: (..., queries, dim) and (..., pictures, dim) to (..., queries, pictures).

    As published, each vector's own mean over its features is subtracted and it is scaled to length one, on both sides,
    so that the product is the Pearson correlation.

    Args:
        sides: which vectors are scaled to length one: "both", "image" (the gallery's) or "none".
        centre: subtract each vector's own mean first.

    Source: Rajabi et al. (2025), arXiv:2502.03081; "image" is that of NeuroBridge.
    """
    if centre:
        queries, gallery = (vectors - vectors.mean(dim=-1, keepdim=True) for vectors in (queries, gallery))
    if sides == "both":
        queries = normalize(queries, dim=-1)
    if sides != "none":
        gallery = normalize(gallery, dim=-1)
    return queries @ gallery.transpose(-1, -2)


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


def named_first(similarities: Tensor) -> Tensor:
    """Share of queries whose own picture is alone the most similar, where query i belongs to picture i.

    Args:
        similarities: (..., pictures, pictures). Where one is not finite, nothing is named.

    Returns:
        (...), on the same device: asking does not make the host wait.
    """
    right = similarities.diagonal(dim1=-2, dim2=-1)[..., None]
    return ((similarities >= right).sum(dim=-1) == 1).double().mean(dim=-1)


def ties(similarities: Tensor, targets: Tensor) -> int:
    """Count the queries whose right picture is exactly as similar as another one."""
    right = similarities.gather(1, targets[:, None])
    return int(((similarities == right).sum(dim=1) > 1).sum())


def top_k(places: Tensor, k: int) -> float:
    """Share of queries whose right picture is among the k most similar."""
    return (places <= k).double().mean().item()
