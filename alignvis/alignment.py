"""How human an embedding is: odd-one-out choices and matrices of similarity, compared with people's.

Similarities are computed in double precision and rounded to single precision, so that equal ones are equal: what is
a tie then does not hang on the last bits of a sum.
"""

from math import sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri
from scipy.stats import rankdata

from alignvis.progress import Progress, silent
from alignvis.stats import wilson

CHANCE = 1 / 3
# How often people repeat each other on THINGS triplets, as the benchmark of Brain-Score has it; older revisions of it
# say 0.6844, and Muttenthaler et al. (2023) 0.6722.
CEILING = 0.6767
FEWEST = 10  # concepts; from fewer no interval is drawn
DRAWS = 1000  # of the bootstrap
BLOCK = 64  # rows of two matrices that stay in a processor's cache, and few enough to count in a byte


def cosine(embeddings: NDArray[np.floating]) -> NDArray[np.float32]:
    """Cosine of every two rows, (n, dim) to (n, n), exactly symmetric; a row of zeros is like nothing."""
    rows = np.asarray(embeddings, dtype=np.float64)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return dot(rows / np.where(lengths > 0, lengths, 1))


def dot(embeddings: NDArray[np.floating]) -> NDArray[np.float32]:
    """Dot product of every two rows, (n, dim) to (n, n), exactly symmetric."""
    rows = np.asarray(embeddings, dtype=np.float64)
    products = rows @ rows.T
    return np.tril(products).astype(np.float32) + np.tril(products, -1).astype(np.float32).T


def standardised(embeddings: NDArray[np.floating]) -> NDArray[np.float64]:
    """Shift and scale a matrix by the mean and the standard deviation of all its numbers, one each.

    Source: how the linear probe of Muttenthaler et al. (2023), arXiv:2211.01201, prepares an embedding; it then takes
        dot products.
    """
    rows = np.asarray(embeddings, dtype=np.float64)
    spread = rows.std()
    return (rows - rows.mean()) / (spread if spread > 0 else 1)


def odd_one_out(similarities: NDArray[np.floating], triplets: NDArray[np.int64], strict: bool) -> NDArray[np.bool_]:
    """Tell for each triplet whether its first two, whom people paired, are the most similar pair.

    Args:
        similarities: (n, n), symmetric.
        triplets: (choices, 3) rows; the third is people's odd one.
        strict: any tie for the most similar pair is wrong, as in the published probe. Otherwise, as in the published
            zero-shot score, three equal similarities are wrong and a tie of two that takes in people's pair is right,
            since that pair is listed first.

    Returns:
        (choices,)
    """
    first, second, odd = triplets.T
    paired, left, right = similarities[first, second], similarities[first, odd], similarities[second, odd]
    if strict:
        return (paired > left) & (paired > right)
    return (paired >= left) & (paired >= right) & ~((paired == left) & (paired == right))


def accuracy(right: NDArray[np.bool_]) -> dict[str, Any]:
    """Share of choices that were people's, beside chance and the ceiling.

    The interval is Wilson's over choices as if each were of three other concepts: it does not tell how another set of
    concepts would do. ``normalised`` is 0 at or below chance and 1 at the ceiling, as Brain-Score has it.
    """
    n, share = len(right), float(right.mean())
    return {
        "value": share,
        "n": n,
        "interval": list(wilson(share, n)),
        "chance": CHANCE,
        "ceiling": CEILING,
        "normalised": max(0.0, (share - CHANCE) / (CEILING - CHANCE)),
    }


def choice_similarity(dots: NDArray[np.floating]) -> NDArray[np.float64]:
    """How probably two would be paired, averaged over every third: the softmax of the three dot products.

    Args:
        dots: (n, n), n at least 3; memory grows with the cube of n.

    Returns:
        (n, n), one on the diagonal.

    Source: Hebart et al. (2020), doi:10.1038/s41562-020-00951-3; they divide by n instead of n - 2, which no
        correlation shows.
    """
    s = np.asarray(dots, dtype=np.float64)
    triples = np.stack(np.broadcast_arrays(s[:, :, None], s[:, None, :], s[None, :, :]))  # ij, ik, jk
    powers = np.exp(triples - triples.max(axis=0))
    shares = powers[0] / powers.sum(axis=0)
    n = len(s)
    each = np.arange(n)
    shares[each, :, each] = 0
    shares[:, each, each] = 0
    found = shares.sum(axis=2) / (n - 2)
    found[each, each] = 1
    return found


def correlation(
    a: NDArray[np.floating], b: NDArray[np.floating], ranked: bool, draws: int = DRAWS, seed: int = 0
) -> dict[str, Any]:
    """Correlate two matrices of similarity over all pairs, with a 95 % bootstrap interval over concepts.

    Concepts are drawn with replacement and pairs of a concept with itself left out. A draw is a vector w of counts, so
    every moment of it is w' M w with a zero diagonal, and no matrix is ever cut. Ranks are those among all pairs.

    Args:
        a, b: (n, n), symmetric; the diagonals are not looked at.
        ranked: Spearman instead of Pearson.

    Returns:
        ``value``, ``interval``, ``concepts`` and ``pairs``. The value is none where a matrix is constant or there are
        fewer than three concepts, the interval also from fewer than `FEWEST`.
    """
    n = len(a)
    about: dict[str, Any] = {"value": None, "interval": None, "concepts": n, "pairs": n * (n - 1) // 2}
    if n < 3:
        return about
    x, y = (_scaled(matrix, ranked) for matrix in (a, b))
    if x is None or y is None:
        return about
    pairs = n * (n - 1)
    about["value"] = float(np.clip((x * y).sum() / pairs, -1, 1))
    if n >= FEWEST:
        counts = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), draws).astype(np.float64)
        ones = 1 - np.eye(n)
        total, mx, my, xx, yy, xy = (
            np.einsum("dn,dn->d", counts @ matrix, counts) for matrix in (ones, x, y, x * x, y * y, x * y)
        )
        spread = (xx - mx * mx / total) * (yy - my * my / total)
        drawn = (xy - mx * my / total) / np.sqrt(np.where(spread > 0, spread, np.nan))
        about["interval"] = np.clip(np.nanpercentile(drawn, [2.5, 97.5]), -1, 1).tolist()
    return about


def _scaled(matrix: NDArray[np.floating], ranked: bool) -> NDArray[np.float64] | None:
    """Off-diagonal values with mean 0 and variance 1, zeros on the diagonal; nothing if they are constant."""
    upper = np.triu_indices(len(matrix), 1)
    values = np.asarray(matrix[upper], dtype=np.float64)
    if not np.isfinite(values).all() or np.ptp(values) == 0:
        return None
    values = rankdata(values) if ranked else values
    full = np.zeros(matrix.shape)
    full[upper] = (values - values.mean()) / values.std()
    return full + full.T


def agreement(a: NDArray[np.floating], b: NDArray[np.floating], progress: Progress = silent) -> dict[str, Any]:
    """Share of all triplets of the concepts in which two matrices of similarity name the same odd one.

    Exact: each of the n (n - 1) (n - 2) / 6 triplets is looked at. A tie for the most similar pair, in either, is no
    agreement. The 95 % interval is over concepts: the share is a U-statistic of order three, whose standard error is
    3 sd(s_i) / sqrt(n) to first order, where s_i is the share among the triplets that hold concept i.

    Args:
        a, b: (n, n), exactly symmetric, n at least 3.

    Source: Hoeffding (1948), doi:10.1214/aoms/1177730196.
    """
    counts = same_odd_one(a, b, progress)
    n = len(counts)
    triplets = n * (n - 1) * (n - 2) // 6
    shares = counts / ((n - 1) * (n - 2) / 2)
    value = int(counts.sum()) // 3 / triplets
    interval = None
    if n >= FEWEST:
        half = float(ndtri(0.975) * 3 * shares.std(ddof=1) / sqrt(n))
        interval = [max(0.0, value - half), min(1.0, value + half)]
    return {"value": value, "interval": interval, "n": triplets, "concepts": n, "chance": CHANCE}


def same_odd_one(a: NDArray[np.floating], b: NDArray[np.floating], progress: Progress = silent) -> NDArray[np.int64]:
    """Count, for every concept, the triplets holding it in which two matrices of similarity name the same odd one.

    Args:
        a, b: (n, n), exactly symmetric; the diagonals do not matter.

    Returns:
        (n,)
    """
    n = len(a)
    a, b = (np.ascontiguousarray(matrix, dtype=np.float32) for matrix in (a, b))
    counts = np.zeros(n, dtype=np.int64)
    for i in range(n - 1):
        for start in range(i + 1, n, BLOCK):
            j = slice(start, min(start + BLOCK, n))
            # (j, k): i and j are closer to each other than either is to k; as the matrices are symmetric, k = i and
            # k = j never are. Every triplet has one such pair at most, so none counts twice.
            paired = np.maximum(a[i], a[j]) < a[i, j, None]
            paired &= np.maximum(b[i], b[j]) < b[i, j, None]
            of_j = np.count_nonzero(paired, axis=1)
            counts[i] += of_j.sum()
            counts[j] += of_j
            counts += np.add.reduce(paired.view(np.uint8), axis=0, dtype=np.uint8)
        progress(n * (n - 1) // 2 - (n - 1 - i) * (n - 2 - i) // 2, n * (n - 1) // 2, "comparing choices")
    return counts
