"""What a decoder answers to changed responses, beside what it answers to the responses as they are."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri
from torch import Tensor

from alignvis.asking import Asked
from alignvis.retrieval import ranks
from alignvis.stats import wilson


@dataclass(frozen=True)
class Answer:
    """How every query fared.

    Attributes:
        named: (queries,) bool, whether its own picture was alone the most similar.
        own: (queries,) float64, similarity with its own picture.
    """

    named: NDArray[np.bool_]
    own: NDArray[np.float64]

    @property
    def top1(self) -> float:
        return float(self.named.mean())

    @property
    def interval(self) -> list[float]:
        """Of top-1, Wilson's, over the test images."""
        return list(wilson(self.top1, len(self.named)))


def answer(asked: Asked, treated: Tensor) -> Answer:
    """Ask about responses, (queries, channels, times), as `Asked.treated` returns them.

    Raises:
        AlignvisError: when a similarity is not finite.
    """
    similarities = asked.similarities(treated)
    places = ranks(similarities, asked.targets)
    return Answer((places == 1).numpy(), similarities.diagonal().double().numpy())


def paired_interval(lost: int, won: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Interval for the difference of two shares of the same n questions, the first one's minus the second's.

    Like Wilson's for one share it is not empty where nothing differs.

    Args:
        lost: questions that only the first answered rightly.
        won: those that only the second did.

    Source: Bonett and Price (2012), doi:10.3102/1076998611411915, the adjusted Wald interval.
    """
    first, second = (lost + 1) / (n + 2), (won + 1) / (n + 2)
    middle = first - second
    half = float(ndtri(0.5 + level / 2)) * sqrt(max(0.0, first + second - middle**2) / (n + 2))
    return max(-1.0, middle - half), min(1.0, middle + half)


def drop(before: Answer, after: Answer) -> dict[str, Any]:
    """What was lost from ``before`` to ``after``: positive numbers are losses.

    Returns:
        "top1" (of ``after``), "drop" (of top-1), "drop_interval" (over the test images, which both were asked about)
        and "similarity_drop", the mean over queries of what the similarity with the own picture lost.
    """
    lost, won = int((before.named & ~after.named).sum()), int((after.named & ~before.named).sum())
    return {
        "top1": after.top1,
        "drop": (lost - won) / len(before.named),
        "drop_interval": list(paired_interval(lost, won, len(before.named))),
        "similarity_drop": float((before.own - after.own).mean()),
    }


def most_lost(rows: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """The row of `drop` without whose part most top-1 is lost; of equal ones that which costs most similarity.

    Returns:
        None where no top-1 is lost without any one of them: the largest of nothing would be named by chance.
    """
    worst = max(rows, key=lambda row: (row["drop"], row["similarity_drop"]), default=None)
    return worst if worst and worst["drop"] > 0 else None


def most_kept(rows: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """The row of `occlusion.keep_windows` with most top-1; of equal ones that with most similarity. None of no rows."""
    return max(rows, key=lambda row: (row["top1"], row["similarity"]), default=None)
