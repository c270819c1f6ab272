"""Two conditions on the same subjects and images: is their difference more than chance? Two-sided throughout.

What a test takes for a sample of others decides what its result is about: `paired_t` and `wilcoxon` are about other
subjects who see these images, `permutation` is about other images seen by these subjects. Neither stands for both.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr, stdtrit

from alignvis.errors import AlignvisError

DIGITS = 12  # decimals within which two differences are equal: shares that are should not differ by rounding
MOST_PAIRS = 1_000  # of which every assignment of signs is counted
EXACT = 2**13  # assignments of signs, up to which all of them are gone through
CHUNK = 2**22  # numbers at a time


@dataclass(frozen=True)
class PairedT:
    """Paired t test.

    Attributes:
        mean: of the differences, in their unit.
        low, high: interval for it; none where the differences are all equal and so do not tell how others differ.
        t, df: Student's t and its degrees of freedom; t is none where the differences are equal and not zero.
        p: two-sided; 1 where all differences are zero, none where they are equal otherwise.
        dz: effect size, mean over standard deviation of the differences; none where that is zero.
    """

    mean: float
    low: float | None
    high: float | None
    t: float | None
    df: int
    p: float | None
    dz: float | None


@dataclass(frozen=True)
class Wilcoxon:
    """Exact signed-rank test.

    Attributes:
        statistic: sum of the ranks of the positive differences.
        most: the largest that it can be: the sum of all ranks.
        p: two-sided, exact.
        smallest_p: the smallest that so many differences can give, whatever they are.
        n, zeros: differences that are not zero, which count, and those that are, which do not.
    """

    statistic: float
    most: float
    p: float
    smallest_p: float
    n: int
    zeros: int


@dataclass(frozen=True)
class Permutation:
    """Sign-flip test over images.

    Attributes:
        mean: of the differences, in their unit: over images, within subjects, then over subjects.
        p, smallest_p: two-sided, and the smallest that it can be.
        n: images that differ at all; the others are the same whatever their sign.
        permutations: assignments of signs that were compared with the one observed.
        exact: whether these are all there are.
        seed: of the drawn ones; none if exact.
    """

    mean: float
    p: float
    smallest_p: float
    n: int
    permutations: int
    exact: bool
    seed: int | None


def paired_t(differences: Sequence[float] | NDArray[np.floating], level: float = 0.95) -> PairedT:
    """Compare two conditions over subjects by Student's paired t.

    Args:
        differences: (subjects,), first minus second condition, averaged over seeds and images before.
        level: of the interval.

    Raises:
        AlignvisError: with fewer than two subjects, or when a difference is not finite.

    Source: Student (1908), doi:10.1093/biomet/6.1.1; d_z: Lakens (2013), doi:10.3389/fpsyg.2013.00863, equation 6.
    """
    values = _checked(differences, least=2)
    n, mean, spread = len(values), float(values.mean()), float(values.std(ddof=1))
    if np.ptp(values) == 0:
        zero = mean == 0
        return PairedT(mean, None, None, 0.0 if zero else None, n - 1, 1.0 if zero else None, None)
    error = spread / sqrt(n)
    half = float(stdtrit(n - 1, 0.5 + level / 2)) * error
    t = mean / error
    return PairedT(mean, mean - half, mean + half, t, n - 1, float(2 * stdtr(n - 1, -abs(t))), mean / spread)


def wilcoxon(differences: Sequence[float] | NDArray[np.floating]) -> Wilcoxon:
    """Compare two conditions over subjects by ranks, exactly: every assignment of signs is counted.

    Differences of zero are left out, as Wilcoxon does (Pratt would rank them first); equal ones share their mean rank,
    and p is that of the ranks at hand. With n differences no p is below 2 / 2**n: four subjects cannot give less than
    0.125, and five not less than 0.0625.

    Args:
        differences: (subjects,), first minus second condition, averaged over seeds and images before. Those within
            1e-12 of each other are equal.

    Raises:
        AlignvisError: with no subject or more than 1,000, or when a difference is not finite.

    Source: Wilcoxon (1945), doi:10.2307/3001968.
    """
    values = _checked(differences, least=1)
    counted = values[values != 0]
    n, zeros = len(counted), int((values == 0).sum())
    if n > MOST_PAIRS:
        raise AlignvisError(f"{n} differences are too many to count all their signs (at most {MOST_PAIRS})")
    if not n:
        return Wilcoxon(0.0, 0.0, 1.0, 1.0, 0, zeros)
    _, place, ties = np.unique(np.abs(counted), return_inverse=True, return_counts=True)
    doubled = (2 * np.cumsum(ties) - ties + 1)[place]  # mean ranks end in .0 or .5
    total, positive = int(doubled.sum()), int(doubled[counted > 0].sum())
    chance = np.zeros(total + 1)  # of each sum of the doubled ranks that are positive
    chance[0] = 1
    for rank in doubled:
        chance *= 0.5
        chance[rank:] += chance[:-rank].copy()
    tail = float(chance[: min(positive, total - positive) + 1].sum())
    return Wilcoxon(positive / 2, total / 2, min(1.0, 2 * tail), 2.0 ** (1 - n), n, zeros)


def permutation(
    differences: NDArray[np.floating] | Sequence[NDArray[np.floating]],
    *,
    permutations: int = 10_000,
    seed: int = 0,
) -> Permutation:
    """Compare two conditions over images: how often are random signs of the images' differences as far from zero?

    An image has one sign for all subjects: it is the same picture, and one that the first condition gets right more
    easily is so for all of them. Taking each subject's image for another one would find differences where there are
    none.

    Args:
        differences: (images,), averaged over subjects and seeds; or (subjects, images) where all subjects saw the same
            images, averaged over seeds. An image that a subject did not see is NaN; every subject counts alike.
        permutations: signs drawn, where there are too many to go through all of them (more than 8,192). The one
            observed counts among them, so that p is never zero: (b + 1) / (m + 1).
        seed: of numpy's generator.

    Raises:
        AlignvisError: when there is no image, a difference is infinite, or a subject or image has none.

    Source: Fisher (1935), The Design of Experiments, section 21; Phipson and Smyth (2010), doi:10.2202/1544-6115.1585.
    """
    shares = _by_image(differences)
    mean = float(shares.sum())
    changing = shares[shares != 0]
    n, far = len(changing), abs(mean) - 1e-12 * float(np.abs(shares).sum())  # equal sums may differ by rounding
    exact = 2**n <= EXACT
    if not exact and permutations < 1:
        raise AlignvisError(f"{permutations} permutations cannot be compared with; ask for 1 or more")
    drawn, total = _signed_sums(changing, far, None if exact else permutations, np.random.default_rng(seed))
    p, smallest = (drawn / total, 2 / total) if exact else ((drawn + 1) / (total + 1), 1 / (total + 1))
    return Permutation(mean, p, min(1.0, smallest), n, total, exact, None if exact else seed)


def holm(p: Sequence[float]) -> list[float]:
    """Adjust the p of a family of tests so that a false rejection anywhere in it stays as rare as one p promises.

    Args:
        p: one a test, in [0, 1], in any order; none makes an empty family.

    Returns:
        In the order given: rejected at level a are those at most a.

    Raises:
        AlignvisError: when one is no probability.

    Source: Holm (1979), Scandinavian Journal of Statistics 6, 65-70.
    """
    values = np.asarray(p, np.float64)
    if not ((values >= 0) & (values <= 1)).all():
        raise AlignvisError("a p outside of 0 to 1 cannot be adjusted")
    order = np.argsort(values, kind="stable")
    adjusted = np.empty(len(values))
    adjusted[order] = np.minimum(1, np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1)))
    return adjusted.tolist()


def _checked(differences: Sequence[float] | NDArray[np.floating], least: int) -> NDArray[np.float64]:
    values = np.asarray(differences, np.float64)
    if values.ndim != 1 or len(values) < least:
        raise AlignvisError(f"a paired test takes the differences of {least} subjects at least, not {values.shape}")
    if not np.isfinite(values).all():
        raise AlignvisError("some differences are not finite, so nothing can be tested")
    return np.round(values, DIGITS)


def _by_image(differences: NDArray[np.floating] | Sequence[NDArray[np.floating]]) -> NDArray[np.float64]:
    """What each image adds to the mean over subjects of their means over images."""
    values = np.atleast_2d(np.asarray(differences, np.float64))
    if values.ndim != 2 or not values.size or np.isinf(values).any():
        raise AlignvisError(f"a permutation over images takes finite (subjects, images), not {values.shape}")
    seen = ~np.isnan(values)
    if not seen.any(axis=1).all() or not seen.any(axis=0).all():
        raise AlignvisError("a subject or an image has no difference at all, so nothing can be tested")
    shares = np.where(seen, values, 0) / (seen.sum(axis=1, keepdims=True) * len(values))
    return np.round(shares.sum(axis=0), DIGITS + 4)


def _signed_sums(
    values: NDArray[np.float64], far: float, draws: int | None, rng: np.random.Generator
) -> tuple[int, int]:
    """Count sums with other signs at least so far from zero, among all or some drawn; and say how many there were."""
    n, total = len(values), 2 ** len(values) if draws is None else draws
    found, step = 0, max(1, CHUNK // max(1, n))
    for start in range(0, total, step):
        size = min(step, total - start)
        if draws is None:
            positive = np.arange(start, start + size)[:, None] >> np.arange(n) & 1
        else:
            positive = np.unpackbits(
                np.frombuffer(rng.bytes(size * ((n + 7) // 8)), np.uint8).reshape(size, -1), axis=1
            )
        sums = 2 * (positive[:, :n].astype(np.float64) @ values) - values.sum()
        found += int((np.abs(sums) >= far).sum())
    return found, total
