"""Intervals: for shares, for means over subjects, and for means over subjects and images."""

from collections.abc import Sequence
from math import sqrt

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr, ndtri, stdtrit

from alignvis.errors import AlignvisError

CHUNK = 2**22  # numbers at a time: what bounds the memory of a bootstrap (32 MB an array)


def wilson(share: float, n: int, level: float = 0.95) -> tuple[float, float]:
    """Interval for a share of n independent yes-or-no answers.

    Unlike the interval share +- z·SE it stays within [0, 1] and is not empty at none or all right.

    Args:
        share: of the answers that were right, in [0, 1].
        n: how many answers were given, at least 1.
        level: share of such intervals that hold the truth.

    Source: Wilson (1927), doi:10.1080/01621459.1927.10502953, without continuity correction.
    """
    return _score(share, n, ndtri(0.5 + level / 2))


def _score(share: float, n: float, z: float) -> tuple[float, float]:
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    low, high = max(0.0, float(middle - half)), min(1.0, float(middle + half))
    return low if share > 0 else 0.0, high if share < 1 else 1.0  # and not the rounding of zero


def mean_interval(values: Sequence[float] | NDArray[np.floating], level: float = 0.95) -> tuple[float, float] | None:
    """Interval for the mean of independent values in [0, 1] that are no mere yes or no, such as reciprocal ranks.

    Wilson's, for as many yes-or-no answers as have a mean of the same variance. Student's lies too low where few values
    are large, and too high where few are small. How often the two held the truth, of a random and of a good decoder,
    and of how many intervals the whole lay below it and above it (`tests/test_stats.py` repeats it with fewer):

    ==================================  ====================  ====================
    200 pictures                        Wilson's              Student's
    ==================================  ====================  ====================
    reciprocal rank, random decoder     88 % (11 %, 1 %)      87 % (13 %, 0 %)
    10-way, random decoder              95 % (2.5 %, 2.6 %)   94 % (4.2 %, 1.5 %)
    reciprocal rank, good decoder       95 % (2.7 %, 1.9 %)   95 % (3.4 %, 1.5 %)
    two-way, very good decoder          95 % (2.2 %, 3.2 %)   94 % (0.8 %, 5.1 %)
    ==================================  ====================  ====================

    Of reciprocal ranks at chance, where one first place outweighs all else, no interval from 200 values is much better;
    a bootstrap holds 89 to 91 %.

    Args:
        values: (n,).

    Returns:
        None where all are equal, or there are fewer than two: those do not tell how others differ.

    Source: Wilson (1927), with an effective sample size: Franco et al. (2019), doi:10.1093/jssam/smy019.
    """
    found, n = np.asarray(values, np.float64), len(values)
    if n < 2 or np.ptp(found) == 0:
        return None
    mean = float(found.mean())
    effective = n * mean * (1 - mean) / float(found.var(ddof=1))
    return _score(mean, effective, float(stdtrit(n - 1, 0.5 + level / 2)))


def student(shares: Sequence[float], level: float = 0.95) -> tuple[float, float]:
    """Interval for the mean of shares that are independent of each other, such as those of several subjects.

    Args:
        shares: in [0, 1], two or more, and not all equal: those would not tell how others differ.

    Source: Student (1908), doi:10.1093/biomet/6.1.1; cut off at 0 and 1.
    """
    count, middle = len(shares), float(np.mean(shares))
    half = float(stdtrit(count - 1, 0.5 + level / 2) * np.std(shares, ddof=1) / sqrt(count))
    return max(0.0, middle - half), min(1.0, middle + half)


def median_interval(values: Sequence[float] | NDArray[np.floating], level: float = 0.95) -> tuple[float, float] | None:
    """Interval for the median of values that are independent of each other, whatever their distribution.

    Its ends are two of the values. It holds the median at least as often as asked: by how many values lie below it,
    which is a matter of tossing a coin.

    Args:
        values: (n,), in any unit.

    Returns:
        None where there are too few for the level: fewer than six, for 95 %.

    Source: Thompson (1936), doi:10.1214/aoms/1177732502.
    """
    ordered, n = np.sort(np.asarray(values, np.float64)), len(values)
    outside = bdtr(np.arange(n // 2), n, 0.5)  # chance that so many values or fewer lie on one side
    first = int(np.searchsorted(outside, (1 - level) / 2, side="right"))
    return (float(ordered[first - 1]), float(ordered[n - first])) if first else None


def bootstrap(
    hits: NDArray[np.floating] | Sequence[NDArray[np.floating]],
    *,
    resamples: int = 10_000,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[float, float]:
    """Percentile interval for a mean over subjects and images, both of them a sample of others.

    Args:
        hits: (subjects, images), where all subjects saw the same images: see `crossed_means`. Or one (images,) array a
            subject, where each saw images of its own: see `nested_means`. Any value an image is fine: hits, reciprocal
            ranks, differences between two encoders; average over seeds first, as seeds are no subjects.
            Of one subject only the images are resampled: the interval then says nothing about other people.
        resamples: of which the percentiles are taken.
        seed: of numpy's generator; the same seed gives the same interval.
        level: share of the resampled means that lie within.

    Returns:
        Low and high end, in the unit of ``hits``.

    Raises:
        AlignvisError: when there is nothing to resample, or a value is not finite.

    How often 95 % intervals held the truth about other subjects and images, in 10,000 simulated studies of 200 images
    each (hits of 0 or 1, subjects and images of varying ease; `tests/test_calibration.py` repeats it with fewer):

    =============================================  ==========  ==========  ===========
    what is averaged                               3 subjects  4 subjects  10 subjects
    =============================================  ==========  ==========  ===========
    hits of one encoder                                  88 %        91 %         94 %
    the same, mean of 5 seeds                            83 %        88 %         93 %
    the same, and subjects differ twice as much          77 %        83 %         91 %
    differences of two encoders                          98 %        98 %         99 %
    the same, and subjects differ three times more       88 %        91 %         95 %
    =============================================  ==========  ==========  ===========

    So it is too short where subjects are few and differ, as no resample holds one that was not measured; `student` over
    subjects is the safer one there. Where hits are mostly luck it is too long, as luck is resampled with the subjects
    and again with the images. One subject tells nothing of others: 55 %.

    Source: Efron (1979), doi:10.1214/aos/1176344552; subjects and images crossed: Owen (2007),
        doi:10.1214/07-AOAS122.
    """
    if isinstance(hits, np.ndarray):
        means = crossed_means(hits, resamples=resamples, seed=seed)
    else:
        means = nested_means(hits, resamples=resamples, seed=seed)
    low, high = np.quantile(means, [0.5 - level / 2, 0.5 + level / 2])
    return float(low), float(high)


def crossed_means(hits: NDArray[np.floating], *, resamples: int, seed: int) -> NDArray[np.float64]:
    """Means of resampled subjects x resampled images, where all subjects saw the same images.

    A picture that is easy is easy for all who saw it, so what it adds to the mean does not average out over subjects.
    Images are therefore drawn once a resample, for all its subjects alike; drawing them anew for each subject would
    take the same pictures for different ones, and give intervals that are too short.

    Args:
        hits: (..., subjects, images); all before the last two are studies, which share the draws.

    Returns:
        (resamples, ...).
    """
    values = np.asarray(hits, np.float64)
    if values.ndim < 2:
        raise AlignvisError(f"a bootstrap takes (subjects, images), and was given the shape {values.shape}")
    _check([values], resamples)
    *studies, subjects, images = values.shape
    of_images, of_subjects = np.random.default_rng(seed).spawn(2)  # each a stream of its own: chunks change nothing
    flat = values.reshape(-1, images)
    result = np.empty((resamples, flat.shape[0] // subjects))
    step = max(1, CHUNK // max(images, flat.shape[0]))
    for start in range(0, resamples, step):
        size = min(step, resamples - start)
        by_subject = (_counts(of_images, size, images).astype(np.float64) @ flat.T).reshape(size, -1, subjects)
        drawn = _counts(of_subjects, size, subjects) if subjects > 1 else np.ones((size, 1))
        result[start : start + size] = (by_subject * drawn[:, None]).sum(axis=2) / (subjects * images)
    return result.reshape(resamples, *studies)


def nested_means(hits: Sequence[NDArray[np.floating]], *, resamples: int, seed: int) -> NDArray[np.float64]:
    """Means of resampled subjects and, within each one drawn, of its own images resampled.

    Every subject counts alike, however many images it saw. A subject drawn twice draws its images twice.

    Args:
        hits: one (images,) array a subject.

    Returns:
        (resamples,).
    """
    values = [np.asarray(one, np.float64) for one in hits]
    if any(one.ndim != 1 for one in values):
        raise AlignvisError("a bootstrap over subjects with images of their own takes one list of values a subject")
    _check(values, resamples)
    subjects, result = len(values), np.zeros(resamples)
    of_subjects, *of_images = np.random.default_rng(seed).spawn(1 + subjects)
    step = max(1, CHUNK // (subjects * max(len(one) for one in values)))
    for start in range(0, resamples, step):
        part = result[start : start + step]
        times = np.ones((len(part), 1), int) if subjects == 1 else _counts(of_subjects, len(part), subjects)
        for one, drawn, rng in zip(values, times.T, of_images, strict=True):
            rows = np.repeat(np.arange(len(part)), drawn * len(one))
            picked = one[rng.integers(len(one), size=len(rows))]
            part += np.bincount(rows, picked, minlength=len(part)) / (len(one) * subjects)
    return result


def bootstrap_of_medians(
    values: Sequence[NDArray[np.floating]],
    *,
    shared: bool,
    resamples: int = 10_000,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[float, float]:
    """Percentile interval for the mean over subjects of medians over images, as `bootstrap` has it for means.

    Args:
        values: of each subject (seeds, images); the medians of its seeds are averaged. Resampled images are the same
            for all seeds.
        shared: all subjects saw the same images, in the same order, which are drawn once a resample for all of them;
            else each subject's own are, anew each time that it is drawn.

    Raises:
        AlignvisError: as `bootstrap`.
    """
    tables = [np.asarray(one, np.float64) for one in values]
    if any(one.ndim != 2 for one in tables):
        raise AlignvisError("medians are taken of (seeds, images) of each subject; other shapes were given")
    _check(tables, resamples)
    subjects, means = len(tables), np.zeros(resamples)
    of_subjects, *of_images = np.random.default_rng(seed).spawn(1 + subjects)
    step = max(1, CHUNK // (subjects * max(one.shape[1] for one in tables)))
    for start in range(0, resamples, step):
        part = means[start : start + step]
        times = np.ones((len(part), 1), int) if subjects == 1 else _counts(of_subjects, len(part), subjects)
        drawn = _counts(of_images[0], len(part), tables[0].shape[1]) if shared else None
        for one, count, rng in zip(tables, times.T, of_images, strict=True):
            if drawn is not None:
                part += count * _medians(one, drawn) / subjects
                continue
            rows = np.repeat(np.arange(len(part)), count)
            found = _medians(one, _counts(rng, len(rows), one.shape[1]))
            part += np.bincount(rows, found, minlength=len(part)) / subjects
    low, high = np.quantile(means, [0.5 - level / 2, 0.5 + level / 2])
    return float(low), float(high)


def _medians(values: NDArray[np.float64], counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Medians of (seeds, images) where each image is there so often, (resamples, images), averaged over seeds."""
    n, found = values.shape[1], np.zeros(len(counts))
    for one in values:
        order = one.argsort()
        passed = counts[:, order].cumsum(axis=1)
        middle = [one[order][(passed > place).argmax(axis=1)] for place in ((n - 1) // 2, n // 2)]
        found += (middle[0] + middle[1]) / 2
    return found / len(values)


def _check(values: Sequence[NDArray[np.float64]], resamples: int) -> None:
    if resamples < 1 or not values or any(one.size == 0 for one in values):
        raise AlignvisError("a bootstrap takes one subject, one image and one resample at least")
    if not all(np.isfinite(one).all() for one in values):
        raise AlignvisError("some of the values to be resampled are not finite, so their mean means nothing")


def _counts(rng: np.random.Generator, size: int, n: int) -> NDArray[np.int64]:
    """How often each of n is drawn in n draws with replacement: (size, n)."""
    draws = rng.integers(n, size=(size, n)) + n * np.arange(size)[:, None]
    return np.bincount(draws.ravel(), minlength=size * n).reshape(size, n)
