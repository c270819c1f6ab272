"""Values of several runs as one point of a figure: seeds are averaged first, then subjects; seeds are no subjects."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import cycle

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtrit

from alignvis.figures.style import ALIGNED, COLOURS, PLAIN

FEWEST = 3  # subjects: t over two spans everything
ALIKE = 1e-12  # apart at most: equal values should not differ by rounding
SOME_EQUAL = "subjects (none where all are equal)"


@dataclass(frozen=True)
class Pooled:
    """One value, or one array of them, a group of runs.

    Attributes:
        mean: over subjects, of the mean over seeds.
        low, high: 95 % interval of it, not a number where there is none; None where there is none at all.
        over: what the interval is over: "subjects", `SOME_EQUAL`, "pictures", or None without one.
        subjects: subject -> its mean over seeds.
        runs: how many there are.
    """

    mean: NDArray[np.float64]
    low: NDArray[np.float64] | None
    high: NDArray[np.float64] | None
    over: str | None
    subjects: dict[int, NDArray[np.float64]]
    runs: int


def pool(values: Sequence[tuple[int, ArrayLike]], intervals: Sequence[ArrayLike] | None = None) -> Pooled:
    """Average runs: seeds within each subject, then subjects.

    Args:
        values: (subject, value) a run; arrays have one shape.
        intervals: (..., 2) a run, low and high over its test pictures.

    Returns:
        With three subjects or more the interval is Student's t over them, but where all are equal: they do not tell
        how others differ. With one it is that over its pictures, which
        all seeds share: the mean of the seeds' own. With two there is none.
    """
    by_subject: dict[int, list[NDArray[np.float64]]] = {}
    for subject, value in values:
        by_subject.setdefault(subject, []).append(np.asarray(value, dtype=np.float64))
    subjects = {subject: np.mean(seeds, axis=0) for subject, seeds in sorted(by_subject.items())}
    stacked = np.stack(list(subjects.values()))
    mean, count = stacked.mean(axis=0), len(subjects)
    if count >= FEWEST:
        half = np.asarray(stdtrit(count - 1, 0.975) * stacked.std(axis=0, ddof=1) / np.sqrt(count))
        half = np.where(np.ptp(stacked, axis=0) > ALIKE, half, np.nan)
        over = SOME_EQUAL if np.isnan(half).any() else "subjects"
        if np.isnan(half).all():
            return Pooled(mean, None, None, over, subjects, len(values))
        return Pooled(mean, mean - half, mean + half, over, subjects, len(values))
    if count == 1 and intervals is not None:
        low, high = np.moveaxis(np.mean([np.asarray(pair, dtype=np.float64) for pair in intervals], axis=0), -1, 0)
        return Pooled(mean, low, high, "pictures", subjects, len(values))
    return Pooled(mean, None, None, None, subjects, len(values))


def coloured(names: Sequence[tuple[Hashable, bool]]) -> dict[Hashable, str]:
    """A colour for each name, from whether it is aligned: the first aligned one blue, the first other one orange.

    Further ones have colours of their own as far as there are any; these begin again after the seventh name.
    """
    usual, found = {True: ALIGNED, False: PLAIN}, {}
    rest = cycle(colour for colour in COLOURS if colour not in usual.values())
    for name, aligned in names:
        if name not in found:
            free = usual[aligned] not in found.values()
            found[name] = usual[aligned] if free else next(rest)
    return found


def interval_said(over: Sequence[str | None]) -> str:
    """What the intervals of a figure are over, in a few words."""
    found = {kind for kind in over if kind}
    kinds = sorted(found - {"subjects"} if SOME_EQUAL in found else found)
    return f"95 % interval over {' or '.join(kinds)}" if kinds else "no interval: two subjects are too few for one"
