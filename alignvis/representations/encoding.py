"""Encoding model: what a brain answers to a picture, predicted from the picture's embedding by ridge regression.

Everything here works on arrays. A target is one number that the brain gives, such as a channel at a time, or a voxel.
The responses are asked for in blocks of images and read once: what stays in memory are sums of products of features and
targets, one matrix a fold, however many images there are.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from alignvis.errors import AlignvisError
from alignvis.progress import Progress, silent

FOLDS = 5
# Penalties, each times the number of images fitted on: a feature that varies with all others together weighs up to
# the number of features, one of nothing but rounding about zero.
ALPHAS = tuple(10.0**step for step in range(-4, 5))
IMAGES = 256  # at a time, of those trained on

# rows of the training images -> (rows, targets) float32, means over repetitions
Reader = Callable[[NDArray[np.int64]], NDArray[np.float32]]


def folds_of(groups: Sequence[str], folds: int = FOLDS, seed: int = 0) -> NDArray[np.int64]:
    """Deal groups of images, such as concepts, out to folds: images of one group are never on both sides.

    Returns:
        (images,) the fold of each image, from 0.

    Raises:
        AlignvisError: when there are fewer groups than folds.
    """
    names = sorted(set(groups))
    if len(names) < folds:
        raise AlignvisError(
            f"the training images are of {len(names)} concepts, and choosing a penalty takes {folds} or more"
        )
    order = np.random.default_rng(seed).permutation(len(names))
    fold = {names[place]: turn % folds for turn, place in enumerate(order)}
    return np.array([fold[group] for group in groups], dtype=np.int64)


@dataclass(frozen=True)
class Side:
    """The images that a fold is fitted on, in the basis in which a ridge regression is a division.

    Attributes:
        count: images.
        mean: (dim,) of their features.
        vectors: (dim, dim) float32, eigenvectors of the features' products X'X, X centred, in columns.
        values: (dim,) eigenvalues.
        held: (at most dim, dim) float32, what has the same products as the features of the images held out, centred
            likewise, in that basis: the squares of predictions sum to those of ``held @ weights``.
    """

    count: int
    mean: NDArray[np.float64]
    vectors: NDArray[np.float32]
    values: NDArray[np.float64]
    held: NDArray[np.float32]


@dataclass(frozen=True)
class Design:
    """Features of the training images, made ready once for all blocks of targets.

    Attributes:
        mean, scale: (features,) of the training images: features are standardised by these, never by test images. A
            feature that does not vary has scale infinity, and so is zero.
        basis: (features, dim) or nothing: where there are more features than images, what spans the images' features.
        features: (images, dim) float32, standardised.
        rows: of each fold, ascending.
        sides: one a fold, and last that of all images, with nothing held out.
    """

    mean: NDArray[np.float64]
    scale: NDArray[np.float64]
    basis: NDArray[np.float64] | None
    features: NDArray[np.float32]
    rows: tuple[NDArray[np.int64], ...]
    sides: tuple[Side, ...]


def design(features: NDArray[np.floating], folds: NDArray[np.int64], progress: Progress = silent) -> Design:
    """Standardise features and decompose them, once a fold and once for all images.

    Args:
        features: (images, features) of the training images.
        folds: (images,) from `folds_of`.

    Raises:
        AlignvisError: when the features of all images are the same.
    """
    rows = np.asarray(features, dtype=np.float64)
    mean, spread = rows.mean(axis=0), rows.std(axis=0)
    alive = spread > 1e-9 * np.abs(rows).max(axis=0)
    if not alive.any():
        raise AlignvisError("the embeddings of all training images are the same, so that nothing can be predicted")
    scale = np.where(alive, spread, np.inf)
    rows = (rows - mean) / scale
    basis = None
    if rows.shape[1] > len(rows):
        basis = np.linalg.svd(rows, full_matrices=False)[2].T
        rows = rows @ basis
    products = rows.T @ rows
    count = int(folds.max()) + 1
    sides = []
    for fold in range(count + 1):
        held = rows[folds == fold]
        fitted = len(rows) - len(held)
        middle = -held.sum(axis=0) / fitted  # as all of them sum to zero
        gram = products - held.T @ held - fitted * np.outer(middle, middle)
        values, vectors = np.linalg.eigh(gram)
        triangle = np.linalg.qr((held - middle) @ vectors, mode="r")  # as few rows as will do
        narrow = (vectors.astype(np.float32), values.clip(min=0), triangle.astype(np.float32))
        sides.append(Side(fitted, middle, *narrow))
        progress(fold + 1, count + 1, "decomposing features")
    each = tuple(np.flatnonzero(folds == fold) for fold in range(count))
    return Design(mean, scale, basis, rows.astype(np.float32), each, tuple(sides))


@dataclass(frozen=True)
class Encoding:
    """A fitted encoding model.

    Attributes:
        weights: (dim, targets) float32, of the features as `Design` has them.
        intercept: (targets,) what is answered to the mean training picture.
        alphas: (targets,) the penalty of each, as a multiple of the number of training images.
        explained: (targets,) share of the variance of held-out training images that was predicted; below 0 where their
            mean would have done better; nan where a target does not vary. It chose the penalty, so it is optimistic.
    """

    weights: NDArray[np.float32]
    intercept: NDArray[np.float64]
    alphas: NDArray[np.float64]
    explained: NDArray[np.float64]


def fit(
    made: Design, read: Reader, alphas: Sequence[float] = ALPHAS, images: int = IMAGES, progress: Progress = silent
) -> Encoding:
    """Fit a ridge regression to every target, its penalty chosen for it alone among ``alphas`` on held-out concepts.

    For a fold with features X and responses y, centred, and n images, the weights are V (S + a n)^-1 V'X'y, where
    X'X = V S V'; the squared error on the images held out follows from sums of products, so no prediction is made.

    Args:
        read: gives the responses to some training images; called with images of one fold at a time, every image once.
        alphas: penalties to choose from, as multiples of the number of images fitted on.
        images: to read at a time.

    Source: ridge regression with one penalty a target, as in himalaya (Dupré la Tour et al. 2022,
        doi:10.1016/j.neuroimage.2022.119728); Hoerl and Kennard (1970), doi:10.1080/00401706.1970.10488634.
    """
    products, sums, squares, shift = _moments(made, read, images, progress)
    whole, totals = made.sides[-1], (products.sum(axis=0), sums.sum(axis=0))
    loss, null = np.zeros((len(alphas), sums.shape[1])), np.zeros(sums.shape[1])
    for fold, (rows, side) in enumerate(zip(made.rows, made.sides, strict=False)):
        mean = (totals[1] - sums[fold]) / side.count
        fitted = (totals[0] - products[fold]) - _outer(side.count * side.mean, mean)
        held = made.features[rows].sum(axis=0, dtype=np.float64)
        held = products[fold] - _outer(held, mean) - _outer(side.mean, sums[fold] - len(rows) * mean)
        fitted, held = side.vectors.T @ fitted, side.vectors.T @ held
        error = squares[fold] - 2 * mean * sums[fold] + len(rows) * mean * mean
        null += error
        for place, alpha in enumerate(alphas):
            weights = fitted / (side.values + alpha * side.count).astype(np.float32)[:, None]
            loss[place] += error + _squares(side.held @ weights) - 2 * np.einsum("dt,dt->t", weights, held)
        progress(fold + 1, len(made.rows), "choosing penalties")
    best = loss.argmin(axis=0)
    chosen = np.asarray(alphas)[best]
    mean = totals[1] / whole.count
    turned = whole.vectors.T @ (totals[0] - _outer(whole.count * whole.mean, mean))
    turned /= (whole.values[:, None] + whole.count * chosen).astype(np.float32)
    with np.errstate(invalid="ignore", divide="ignore"):
        explained = np.where(null > 0, 1 - loss.min(axis=0) / null, np.nan)
    return Encoding(whole.vectors @ turned, mean + shift, chosen, explained)


def _squares(values: NDArray[np.float32]) -> NDArray[np.float64]:
    return np.einsum("it,it->t", values, values).astype(np.float64)


def _outer(left: NDArray[np.floating], right: NDArray[np.floating]) -> NDArray[np.float32]:
    return np.outer(left.astype(np.float32), right.astype(np.float32))


def _moments(
    made: Design, read: Reader, images: int, progress: Progress
) -> tuple[NDArray[np.float32], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Sums over each fold of features times targets, of targets and of their squares; and what was taken off first."""
    products = sums = squares = shift = None
    done, total = 0, len(made.features)
    for fold, rows in enumerate(made.rows):
        for some in np.array_split(rows, max(1, -(-len(rows) // images))):
            block = read(some)
            if products is None:
                targets = block.shape[1]
                shift = block.mean(axis=0, dtype=np.float64)  # sums of what lies far from zero would cancel
                products = np.zeros((len(made.rows), made.features.shape[1], targets), np.float32)
                sums, squares = np.zeros((2, len(made.rows), targets))
            block = block - shift.astype(np.float32)
            products[fold] += made.features[some].T @ block
            sums[fold] += block.sum(axis=0, dtype=np.float64)
            squares[fold] += _squares(block)
            done += len(some)
            progress(done, total, "reading training responses")
    return products, sums, squares, shift.astype(np.float32).astype(np.float64)


def predict(made: Design, model: Encoding, features: NDArray[np.floating]) -> NDArray[np.float64]:
    """Predict the responses to pictures from their embeddings: (images, features) to (images, targets)."""
    rows = (np.asarray(features, dtype=np.float64) - made.mean) / made.scale
    rows = rows if made.basis is None else rows @ made.basis
    return (rows - made.sides[-1].mean) @ model.weights + model.intercept


def standardised(values: NDArray[np.floating]) -> NDArray[np.float32]:
    """Centre each column over its rows, the images, and scale it to length 1; nan where a column does not vary."""
    rows = np.asarray(values, dtype=np.float64)
    centred = rows - rows.mean(axis=0)
    length = np.linalg.norm(centred, axis=0)
    alive = length > 1e-9 * np.abs(rows).max(axis=0, initial=0) * np.sqrt(len(rows))
    return (centred / np.where(alive, length, np.nan)).astype(np.float32)


def correlate(first: NDArray[np.floating], second: NDArray[np.floating]) -> NDArray[np.float64]:
    """Pearson's correlation over images of each target, (images, targets) twice to (targets,)."""
    return np.einsum("it,it->t", standardised(first), standardised(second), dtype=np.float64)


def drawn_correlations(
    predicted: NDArray[np.floating], measured: NDArray[np.floating], draws: int, seed: int = 0, block: int = 100
) -> NDArray[np.float32]:
    """`correlate` for test images drawn with replacement, (draws, targets); the same images for the same seed."""
    rng, images = np.random.default_rng(seed), len(predicted)
    x, y = standardised(predicted), standardised(measured)
    xx, yy, xy = x * x, y * y, x * y
    result = np.empty((draws, x.shape[1]), np.float32)
    for start in range(0, draws, block):
        size = min(block, draws - start)
        w = (rng.multinomial(images, np.full(images, 1 / images), size) / images).astype(np.float32)
        mx, my = w @ x, w @ y
        spread = (w @ xx - mx * mx) * (w @ yy - my * my)
        with np.errstate(invalid="ignore", divide="ignore"):
            result[start : start + size] = (w @ xy - mx * my) / np.sqrt(spread)
    return result


def shuffled_correlations(
    predicted: NDArray[np.floating], measured: NDArray[np.floating], permutations: int, seed: int = 0
) -> NDArray[np.float32]:
    """`correlate` where the test images of the predictions are named anew, all targets alike: (permutations, targets).

    The same orders for the same seed and number of images.
    """
    rng = np.random.default_rng(seed)
    x, y = standardised(predicted), standardised(measured)
    orders = [rng.permutation(len(x)) for _ in range(permutations)]
    return np.stack([np.einsum("it,it->t", x[order], y) for order in orders])
