"""Which picture was it? Similarity of every query to every picture of a gallery, and the rank of the right one."""

import re
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from alignvis.errors import AlignvisError

TOP = (1, 3, 5, 10)
N_WAY = (2, 10, 50, 100)  # of galleries that are larger
MEANS = (*(f"top{k}" for k in TOP), "mrr", "pairwise")  # of the measures, those that are means over queries
MEASURES = (*MEANS, "median_rank")


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


def measures(similarities: Tensor, targets: Tensor) -> dict[str, float]:
    """All that is said of one direction of retrieval.

    Args:
        similarities: (queries, pictures), at least one of each; the pictures are distinct.
        targets: (queries,) int64, the column of the right picture.

    Returns:
        "top1", "top3", "top5", "top10": share of queries whose picture is among so many; "median_rank", of an even
        number of queries the mean of the two in the middle; "mrr": mean of one over the rank; "pairwise": mean share
        of the other pictures that are less similar than the right one, which is its win rate against one other drawn
        at random (two-way identification); 1 where there is no other.

    Raises:
        AlignvisError: when a similarity is not finite.
    """
    return of_places(ranks(similarities, targets), similarities.shape[1])


def of_places(places: Tensor, gallery: int) -> dict[str, float]:
    """`measures` from ranks, (queries,) int64 from 1 to ``gallery``."""
    found = {name: each(places, gallery, name).mean().item() for name in MEANS}
    return found | {"median_rank": places.double().quantile(0.5).item()}


def each(places: Tensor, gallery: int, measure: str) -> Tensor:
    """What a measure says of each query by itself; its mean is the measure, and of "median_rank" its median.

    Args:
        places: (queries,) int64, ranks from 1 to ``gallery``.
        measure: a key of `measures`, or "10-way" and the like.

    Returns:
        (queries,) float64.

    Raises:
        AlignvisError: when there is no such measure, or the gallery is smaller than it takes.
    """
    if measure == "median_rank":
        return places.double()
    if measure == "mrr":
        return places.double().reciprocal()
    if top := re.fullmatch(r"top(\d{1,9})", measure):
        return (places <= int(top[1])).double()
    if measure == "pairwise" and gallery == 1:
        return torch.ones(len(places), dtype=torch.float64)
    ways = re.fullmatch(r"(\d{1,9})-way", "2-way" if measure == "pairwise" else measure)
    if not ways:
        raise AlignvisError(f"{measure!r} is no measure; choose one of {', '.join(MEASURES)}, 10-way or the like")
    return _among(places, gallery, int(ways[1]))


def chances(gallery: int) -> dict[str, float]:
    """What `measures` are on average for one who orders a gallery of so many pictures at random."""
    found = {f"top{k}": min(k, gallery) / gallery for k in TOP}
    found |= {"median_rank": (gallery + 1) / 2, "mrr": sum(1 / place for place in range(1, gallery + 1)) / gallery}
    return found | {"pairwise": 0.5 if gallery > 1 else 1.0}


def n_way(places: Tensor, gallery: int, n: int, k: int = 1) -> float:
    """Share of queries whose picture would be among the k best of n: itself and n - 1 others drawn from the gallery.

    Not drawn but exact: the mean over all draws without replacement. Of the pictures that are at least as similar as
    the right one, a draw holds a number that is hypergeometric. Chance is k / n.

    Args:
        places: (queries,) int64, ranks in the whole gallery, as `ranks` gives them.
        n: from 2 to ``gallery``; with ``gallery`` this is `top_k`.

    Raises:
        AlignvisError: when the gallery has fewer than n pictures, or k is not within 1 to n.
    """
    return _among(places, gallery, n, k).mean().item()


def _among(places: Tensor, gallery: int, n: int, k: int = 1) -> Tensor:
    """`n_way` of each query."""
    if not 2 <= n <= gallery or not 1 <= k <= n:
        raise AlignvisError(f"the best {k} of {n} cannot be asked for in a gallery of {gallery}; choose k <= n <= it")
    better = places - 1
    worse = gallery - 1 - better
    whole = _log_choose(torch.tensor(gallery - 1), torch.tensor(n - 1))
    share = torch.zeros(len(places), dtype=torch.float64)
    for drawn in range(k):
        parts = _log_choose(better, torch.tensor(drawn)) + _log_choose(worse, torch.tensor(n - 1 - drawn))
        share += torch.exp(parts - whole)
    return share.clamp_(max=1.0)


def _log_choose(of: Tensor, some: Tensor) -> Tensor:
    """Logarithm of the number of ways to choose ``some`` of ``of``; of none it is minus infinity."""
    of, some = (number.double() for number in torch.broadcast_tensors(of, some))
    ways = torch.lgamma(of + 1) - torch.lgamma(some + 1) - torch.lgamma((of - some).clamp(min=0) + 1)
    return torch.where((some > of) | (some < 0), -torch.inf, ways)


def subset_galleries(similarities: Tensor, size: int = 300, draws: int = 30, seed: int = 0) -> dict[str, Any]:
    """Retrieval in small galleries: some pictures are drawn, and the responses to them are asked among these alone.

    Args:
        similarities: (pictures, pictures), query i belonging to picture i.
        size: pictures a draw, without replacement; at most as many as there are.
        draws: galleries drawn; the spread is over these.

    Returns:
        "size", "draws", "seed", "chance", and for "brain_to_image" and "image_to_brain" the mean "top1" and its
        standard deviation over draws, "top1_sd".

    Source: the 300-way retrieval of MindEye (Scotti et al., 2023, arXiv:2305.18274). It is easier than the whole
        gallery, and the two are never compared.
    """
    count = len(similarities)
    if not 2 <= size <= count or similarities.shape[1] != count or draws < 1:
        raise AlignvisError(f"no {draws} galleries of {size} can be drawn of {count} pictures; choose fewer")
    generator = torch.Generator().manual_seed(seed)
    shares: dict[str, list[float]] = {"brain_to_image": [], "image_to_brain": []}
    for _ in range(draws):
        drawn = torch.randperm(count, generator=generator)[:size]
        part, targets = similarities[drawn][:, drawn], torch.arange(size)
        shares["brain_to_image"].append(top_k(ranks(part, targets), 1))
        shares["image_to_brain"].append(top_k(ranks(part.T, targets), 1))
    found: dict[str, Any] = {"size": size, "draws": draws, "seed": seed, "chance": 1 / size}
    for way, top1 in shares.items():
        values = torch.tensor(top1, dtype=torch.float64)
        found[way] = {"top1": values.mean().item(), "top1_sd": values.std().item() if draws > 1 else 0.0}
    return found
