"""Representational similarity: do pictures that a brain tells apart lie apart in an embedding, and when?

Everything here works on arrays. A dissimilarity matrix is kept as its upper triangle, row by row: (n * (n - 1) / 2,)
pairs of n images, as `scipy.spatial.distance.pdist` has it, so that no image is ever compared with itself.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from alignvis.errors import AlignvisError
from alignvis.progress import Progress, silent

FEWEST = 10  # images; fewer have no matrix worth the name
BLOCK = 8_000_000  # pairs at a time, of draws and permutations


def pearson_dissimilarity(patterns: NDArray[np.floating]) -> NDArray[np.float32]:
    """One minus Pearson's correlation of every two patterns, (images, features) to (pairs,).

    Of embeddings it is one minus the similarity that retrieval ranks by. A pattern that does not vary is like nothing:
    its dissimilarity to all others is 1. Correlations are rounded to single precision, so that equal ones are equal.
    """
    rows = np.asarray(patterns, dtype=np.float64)
    return _one_minus(rows - rows.mean(axis=1, keepdims=True), np.abs(rows).max(axis=1, initial=0))


def cosine_dissimilarity(patterns: NDArray[np.floating]) -> NDArray[np.float32]:
    """One minus the cosine of every two patterns, (images, features) to (pairs,); zeros are like nothing."""
    rows = np.asarray(patterns, dtype=np.float64)
    return _one_minus(rows, np.abs(rows).max(axis=1, initial=0))


def euclidean_dissimilarity(patterns: NDArray[np.floating]) -> NDArray[np.float32]:
    """Euclidean distance of every two patterns, (images, features) to (pairs,), in the patterns' unit."""
    rows = np.asarray(patterns, dtype=np.float64)
    rows = rows - rows.mean(axis=0)  # squares of what lies far from zero would cancel
    products, upper = rows @ rows.T, np.triu_indices(len(rows), 1)
    squares = np.diagonal(products)
    return np.sqrt((squares[upper[0]] + squares[upper[1]] - 2 * products[upper]).clip(min=0)).astype(np.float32)


def _one_minus(rows: NDArray[np.float64], sizes: NDArray[np.float64]) -> NDArray[np.float32]:
    lengths = np.linalg.norm(rows, axis=1)
    alive = lengths > 1e-12 * np.sqrt(rows.shape[1]) * sizes  # what rounding leaves of a constant does not vary
    rows = np.where(alive, 1 / np.where(alive, lengths, 1), 0)[:, None] * rows
    return 1 - (rows @ rows.T).astype(np.float32)[np.triu_indices(len(rows), 1)]


METRICS: dict[str, Callable[[NDArray[np.floating]], NDArray[np.float32]]] = {
    "pearson": pearson_dissimilarity,
    "cosine": cosine_dissimilarity,
    "euclidean": euclidean_dissimilarity,
}


def enough_images(images: int) -> None:
    """Raise an AlignvisError when there are too few images to say anything of them."""
    if images < FEWEST:
        raise AlignvisError(f"there are {images} test images, and this analysis needs {FEWEST} or more")


def brain_dissimilarity(responses: NDArray[np.floating], metric: str = "pearson") -> NDArray[np.float32]:
    """Dissimilarity of the responses to every two images at each time.

    Args:
        responses: (images, channels, times), means over repetitions, any unit.
        metric: a key of `METRICS`, over channels.

    Returns:
        (times, pairs)

    Raises:
        AlignvisError: when there are too few images, or too few channels for this metric.
    """
    images, channels, times = responses.shape
    enough_images(images)
    fewest = {"pearson": 3, "cosine": 2}.get(metric, 1)
    if channels < fewest:
        raise AlignvisError(
            f"the {metric} dissimilarity of responses needs {fewest} or more channels and there are {channels}; choose "
            "more channels, or the metric euclidean"
        )
    result = np.empty((times, images * (images - 1) // 2), np.float32)
    for time in range(times):
        result[time] = METRICS[metric](responses[:, :, time])
    return result


def unit_ranks(dissimilarities: NDArray[np.floating]) -> NDArray[np.float32]:
    """Rank each row, (..., pairs), ties sharing their mean rank, and scale the ranks to mean 0 and length 1.

    The product of two such rows is Spearman's correlation. A row of equal values, or with one that is not a number, has
    none: it becomes nan.
    """
    values = np.asarray(dissimilarities)
    rows = values.reshape(-1, values.shape[-1])
    result = np.empty(rows.shape, np.float32)
    for place, row in enumerate(rows):
        if np.isnan(row).any() or row.min() == row.max():
            result[place] = np.nan
            continue
        order = row.argsort()
        ordered = row[order]
        first = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])  # where each run of equal values begins
        after = np.r_[first[1:], len(row)]
        ranks = np.empty(len(row))
        ranks[order] = np.repeat((first + after - 1) / 2, after - first)  # from 0
        ranks -= (len(row) - 1) / 2
        result[place] = ranks / np.linalg.norm(ranks)
    return result.reshape(values.shape)


def spearman(brains: NDArray[np.float32], model: NDArray[np.float32]) -> NDArray[np.float64]:
    """Spearman's correlation of (..., pairs) `unit_ranks` with one row of them, (pairs,)."""
    return (brains @ model).astype(np.float64)


def subjects_ceiling(brains: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Bounds of the correlation that a perfect model of all subjects could have, averaged over subjects.

    Upper: no ranks whatever correlate better with the subjects on average, as the mean of their ranks does it best.
    Lower: how well the mean of the other subjects' ranks does. The mean of ranks is not ranked again, so that the upper
    bound is exact.

    Args:
        brains: (subjects, times, pairs) of `unit_ranks`, two subjects or more.

    Returns:
        Lower and upper, (times,) each.

    Source: Nili et al. (2014), doi:10.1371/journal.pcbi.1003553, for ranks.
    """
    total = brains.sum(axis=0, dtype=np.float64)
    upper = np.linalg.norm(total, axis=-1) / len(brains)
    lower = np.zeros(len(total))
    for own in brains:
        others = total - own
        length = np.linalg.norm(others, axis=-1)
        with np.errstate(invalid="ignore", divide="ignore"):
            lower += np.where(length > 1e-6, np.einsum("tp,tp->t", others, own) / length, 0)
    return np.where(np.isnan(total[:, 0]), np.nan, lower / len(brains)), upper


def shuffled(
    brains: NDArray[np.float32],
    models: NDArray[np.float32],
    images: int,
    permutations: int = 1000,
    seed: int = 0,
    progress: Progress = silent,
) -> NDArray[np.float64]:
    """Correlations where the images of the embeddings are named anew, all times and subjects alike.

    Args:
        brains: (times, pairs): `unit_ranks`, or their mean over subjects.
        models: (embeddings, pairs) of `unit_ranks`.

    Returns:
        (embeddings, permutations, times)
    """
    rng = np.random.default_rng(seed)
    upper = np.triu_indices(images, 1)
    squares = np.zeros((len(models), images, images), np.float32)
    squares[:, *upper] = models
    squares += squares.transpose(0, 2, 1)
    result = np.empty((len(models), permutations, len(brains)))
    block = max(1, BLOCK // brains.shape[1])
    for start in range(0, permutations, block):
        orders = np.stack([rng.permutation(images) for _ in range(min(block, permutations - start))])
        first, second = orders[:, upper[0]], orders[:, upper[1]]
        for square, found in zip(squares, result, strict=True):
            found[start : start + block] = square[first, second] @ brains.T
        progress(min(start + block, permutations), permutations, "permuting images")
    return result


def family_wise(observed: NDArray[np.floating], null: NDArray[np.floating]) -> NDArray[np.float64]:
    """How often chance alone reaches each value somewhere: p corrected for having looked at all of them.

    One-sided. Each observed value is compared with the highest of each permutation; the observed data count as one
    permutation, so that p is never 0.

    Args:
        observed: (values,), such as one a time.
        null: (permutations, values).

    Returns:
        (values,); nan where the observed value is.

    Source: Nichols and Holmes (2002), doi:10.1002/hbm.1058.
    """
    known = np.isfinite(observed)
    p = np.full(observed.shape, np.nan)
    if known.any():
        highest = np.sort(null[:, known].max(axis=1))
        reached = len(highest) - np.searchsorted(highest, observed[known] - 1e-7)  # as much as rounding may differ
        p[known] = (1 + reached) / (1 + len(highest))
    return p


def bootstrap(
    brains: NDArray[np.float32],
    models: NDArray[np.float32],
    images: int,
    draws: int = 1000,
    seed: int = 0,
    over: tuple[str, ...] = ("images", "subjects"),
    progress: Progress = silent,
) -> NDArray[np.float64]:
    """Mean correlation over subjects, of images and subjects drawn with replacement.

    An image that is drawn twice makes no pair with itself. Ranks are those among all pairs, so that a draw is a vector
    of counts and no matrix is ever cut.

    Args:
        brains: (subjects, times, pairs) of `unit_ranks`.
        models: (embeddings, pairs) of `unit_ranks`.
        over: what is drawn: "images", "subjects", or both, which is on the wide side (Schütt et al. 2023,
            doi:10.7554/eLife.82566).

    Returns:
        (embeddings, draws, times)
    """
    rng = np.random.default_rng(seed)
    subjects, times, pairs = brains.shape
    upper = np.triu_indices(images, 1)
    result = np.zeros((len(models), draws, times))
    block = max(1, BLOCK // pairs)
    for start in range(0, draws, block):
        size = min(block, draws - start)
        counts = np.ones((size, images), np.float32)
        if "images" in over:
            counts = rng.multinomial(images, np.full(images, 1 / images), size).astype(np.float32)
        shares = np.full((size, subjects), 1 / subjects)
        if "subjects" in over:
            shares = rng.multinomial(subjects, np.full(subjects, 1 / subjects), size) / subjects
        weights = counts[:, upper[0]] * counts[:, upper[1]]
        weights /= weights.sum(axis=1, keepdims=True)
        y, yy = weights @ models.T, weights @ (models * models).T
        for subject, own in enumerate(brains):
            x, xx = weights @ own.T, weights @ (own * own).T
            for place, model in enumerate(models):
                both = weights @ (own * model).T - x * y[:, place, None]
                spread = (xx - x * x) * (yy - y * y)[:, place, None]
                with np.errstate(invalid="ignore", divide="ignore"):
                    one = both / np.sqrt(spread)
                result[place, start : start + size] += shares[:, subject, None] * one
        progress(start + size, draws, "drawing images" + " and subjects" * ("subjects" in over))
    return result


def interval(draws: NDArray[np.floating], level: float = 0.95) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Percentile interval of (draws, ...): lower and upper, (...)."""
    tails = [(1 - level) / 2, (1 + level) / 2]
    low, high = np.quantile(draws, tails, axis=0)
    return low, high


def simultaneous(
    observed: NDArray[np.floating], draws: NDArray[np.floating], level: float = 0.95
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Band around (times,) that holds the truth at all times at once, where an interval does at one.

    Args:
        draws: (draws, times) of a bootstrap of ``observed``.

    Returns:
        Lower and upper, (times,); nan where a value is not known.

    Source: the studentised maximum over times, as in Davison and Hinkley (1997), Bootstrap Methods, section 4.2.4.
    """
    spread = draws.std(axis=0)
    known = np.isfinite(spread) & (spread > 0)
    if not known.any():
        return np.full(observed.shape, np.nan), np.full(observed.shape, np.nan)
    away = np.abs(draws[:, known] - draws[:, known].mean(axis=0)) / spread[known]
    half = np.where(known, np.quantile(away.max(axis=1), level) * spread, np.nan)
    return observed - half, observed + half
