"""Intervals for shares."""

from math import sqrt

from scipy.special import ndtri


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
