"""How much of what was measured would be measured again: split halves, and the ceiling that this puts on decoding."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def stepped_up(reliability: float, times: float) -> float | None:
    """Reliability of the mean of so many times as many repetitions.

    Args:
        reliability: correlation of two means of equally many repetitions.
        times: as many repetitions as each of them; less than 1 for fewer.

    Returns:
        At most 1. None where the two are opposed so strongly that no reliability, not even a negative one, gives it.

    Source: Spearman (1910), doi:10.1111/j.2044-8295.1910.tb00206.x, and Brown (1910),
        doi:10.1111/j.2044-8295.1910.tb00207.x.
    """
    below = 1 + (times - 1) * reliability
    return min(1.0, times * reliability / below) if below > 0 else None


def noise_ceiling(reliability: float) -> float:
    """Highest correlation with the measured mean that a model without fault could have: the root of its reliability.

    Nothing can be predicted of what has no reliability, so below 0 it is 0.

    Source: Lage-Castellanos et al. (2019), doi:10.1371/journal.pcbi.1006397.
    """
    return float(np.sqrt(max(0.0, reliability)))


def halves(images: int, repetitions: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Draw two halves of the repetitions of each image, anew for each; of an odd number one is left out.

    Returns:
        (2, images, repetitions), true where a repetition is in the first, or in the second half.
    """
    place = rng.random((images, repetitions)).argsort(axis=1).argsort(axis=1)
    half = repetitions // 2
    return np.stack([place < half, (place >= half) & (place < 2 * half)])


class Correlations:
    """Pearson correlation of two halves over images, of each of many measures, from parts of the images at a time.

    Args:
        size: measures, such as channels times samples, or the numbers of a brain vector.
    """

    def __init__(self, size: int) -> None:
        self.count = 0
        self.sums = np.zeros((5, size))
        self.shift: NDArray[np.float64] | None = None

    def add(self, first: NDArray[np.floating], second: NDArray[np.floating]) -> None:
        """Take in (images, measures) of both halves."""
        if self.shift is None:  # sums of squares of what lies far from zero would cancel
            self.shift = (first[0].astype(np.float64) + second[0]) / 2
        x, y = first.astype(np.float64) - self.shift, second.astype(np.float64) - self.shift
        self.count += len(x)
        self.sums += np.stack([x.sum(0), y.sum(0), (x * x).sum(0), (y * y).sum(0), (x * y).sum(0)])

    def values(self) -> NDArray[np.float64]:
        """(measures,) correlations; not a number for a measure that does not vary."""
        x, y, xx, yy, xy = self.sums / max(1, self.count)
        spread = (xx - x * x).clip(min=0) * (yy - y * y).clip(min=0)
        flat = spread <= (1e-12 * xx * yy)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(flat, np.nan, (xy - x * y) / np.sqrt(spread))


def of_halves(correlations: Sequence[Correlations], repetitions: int) -> tuple[float, float] | None:
    """Reliability of a mean over all repetitions, and of one repetition, from random halves.

    The correlation is averaged over measures and over halves, and then stepped up from a half's repetitions, or down.

    Args:
        correlations: one for each random cut into halves.

    Returns:
        None for fewer than two repetitions, or where nothing varies.
    """
    if repetitions < 2 or not correlations:
        return None
    found = np.concatenate([one.values() for one in correlations])
    if not np.isfinite(found).any():
        return None
    half, mean = repetitions // 2, float(np.nanmean(found))
    steps = [stepped_up(mean, repetitions / half), stepped_up(mean, 1 / half)]
    return None if None in steps else (steps[0], steps[1])  # type: ignore[return-value]


def split_half(responses: NDArray[np.floating], *, draws: int = 20, seed: int = 0) -> float | None:
    """Reliability of the mean over repetitions, by random halves with Spearman-Brown.

    Args:
        responses: (images, repetitions, ...), such as channels and times, any unit.
        draws: random cuts into halves, each image cut by itself.

    Returns:
        Mean over all measures, at most 1; none for fewer than two repetitions or two images.

    Source: as `stepped_up`.
    """
    images, repetitions = responses.shape[:2]
    if repetitions < 2 or images < 2:
        return None
    flat = responses.reshape(images, repetitions, -1).astype(np.float64)
    rng, found = np.random.default_rng(seed), []
    for _ in range(draws):
        chosen = halves(images, repetitions, rng) / (repetitions // 2)
        one = Correlations(flat.shape[2])
        one.add(*np.einsum("hir,irm->him", chosen, flat))
        found.append(one)
    both = of_halves(found, repetitions)
    return both[0] if both else None
