"""Scores that look at the whole test batch at once. They answer another question, and stand apart wherever shown.

A response alone decides an inductive score. Here every response is judged in the light of all the others, which a
decoder in use does not have, and one-to-one matching also knows that each picture was shown exactly once.
"""

from typing import Any

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from alignvis.errors import AlignvisError
from alignvis.retrieval import ranks, top_k

LARGEST = 5000  # queries or pictures that are matched: the time grows with the third power
LEAST = 1e-9  # of the span of the similarities: what a tie costs


def csls(similarities: Tensor, k: int = 10) -> Tensor:
    """Take off what makes hubs: how near each query, and each picture, is to its k nearest on the other side.

    Args:
        similarities: (queries, pictures), the queries being all that there are.
        k: neighbours; all, where there are fewer.

    Returns:
        (queries, pictures), 2 s(q, p) - r(q) - r(p), r being the mean similarity to the k nearest.

    Source: Conneau et al. (2018), arXiv:1710.04087, eq. 3, with their k of 10.
    """
    near = similarities.topk(min(k, similarities.shape[1]), dim=1).values.mean(dim=1)
    hubs = similarities.topk(min(k, similarities.shape[0]), dim=0).values.mean(dim=0)
    return 2 * similarities - near[:, None] - hubs[None]


def one_to_one(similarities: Tensor, targets: Tensor) -> float:
    """Share of queries given their own picture when each picture is given to one query and the sum is largest.

    Of matchings that are equally good the one with fewest hits counts, as ties count against a ranking.

    Args:
        similarities: (queries, pictures), no more queries than pictures.
        targets: (queries,) int64, the column of the right picture; no two alike.

    Source: Kuhn (1955), doi:10.1002/nav.3800020109, by scipy.optimize.linear_sum_assignment.
    """
    if not torch.isfinite(similarities).all() or len(similarities) > similarities.shape[1]:
        raise AlignvisError("queries cannot be matched with pictures: some similarity is not finite, or there are more")
    gain = similarities.double().numpy().copy()
    rows, columns = np.arange(len(gain)), targets.numpy()
    span = float(gain.max() - gain.min())
    gain[rows, columns] -= LEAST * (span or 1.0)
    _, chosen = linear_sum_assignment(gain, maximize=True)
    return float(np.mean(chosen == columns))


def transductive(similarities: Tensor, targets: Tensor) -> dict[str, Any]:
    """Both scores of one run: {"csls": {"top1", "top5"}, "one_to_one": {"top1"} or null where there are too many}."""
    places = ranks(csls(similarities.double()), targets)
    matched = max(similarities.shape) <= LARGEST and len(targets) <= similarities.shape[1]
    return {
        "csls": {"top1": top_k(places, 1), "top5": top_k(places, 5)},
        "one_to_one": {"top1": one_to_one(similarities, targets)} if matched else None,
    }
