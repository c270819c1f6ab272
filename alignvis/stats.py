"""Intervals for shares."""

from collections.abc import Sequence
from math import sqrt

import numpy as np
from scipy.special import ndtri, stdtrit


def wilson(share: float, n: int, level: float = 0.95) -> tuple[float, float]:
    """Interval for a share of n independent yes-or-no answers.

    Unlike the interval share +- z·SE it stays within [0, 1] and is not empty at none or all right.

    Args:
        share: of the answers that were right, in [0, 1].
        n: how many answers were given, at least 1.
        level: share of such intervals that hold the truth.

    Source: Wilson (1927), doi:10.1080/01621459.1927.10502953, without continuity correction.
    """
    z = ndtri(0.5 + level / 2)
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, float(middle - half)), min(1.0, float(middle + half))


def student(shares: Sequence[float], level: float = 0.95) -> tuple[float, float]:
    """Interval for the mean of shares that are independent of each other, such as those of several subjects.

    Args:
        shares: in [0, 1], two or more, and not all equal: those would not tell how others differ.

    Source: Student (1908), doi:10.1093/biomet/6.1.1; cut off at 0 and 1.
    """
    count, middle = len(shares), float(np.mean(shares))
    half = float(stdtrit(count - 1, 0.5 + level / 2) * np.std(shares, ddof=1) / sqrt(count))
    return max(0.0, middle - half), min(1.0, middle + half)
