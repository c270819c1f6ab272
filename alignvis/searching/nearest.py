"""The nearest vectors of a gallery of any size: exact, read in chunks, so that memory does not grow with the gallery.

A plain product in float32 only decides which pictures could be among the nearest: its error is bounded, and whatever
the bound leaves open is compared again in float64 and rounded once. So a similarity depends on its two vectors alone,
and not on chunks, threads, processes or the library that multiplied; equal vectors are equally similar to the bit.
(Where a trained projector maps the pictures, a library's float64 product takes part too: what the order of its sums
changes is a billionth of what the rounding to float32 keeps.)
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import IO, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import linear

from alignvis.errors import AlignvisError
from alignvis.progress import Progress, silent
from alignvis.searching.best import Best

CHUNK = 2**21  # values of a gallery at a time, in float32; at most ROWS rows, which stay in the processor's cache
ROWS = 2048
QUERIES = 256  # a product
PAIRS = 2048  # compared again at a time, in float64
ROUNDING = 2.0**-24  # of float32: the largest relative error of one operation
SMALLEST = 2.0**-148  # twice the smallest float32 number: below normal ones, rounding is by a step of half of this
SHORTEST = 1e-12  # shorter vectors are divided by this, as `retrieval.similarity` does
LONG_MEAN = 4.0  # vectors so many times as long as without their mean are centred before the product, not after

Projector = tuple[Tensor, Tensor]  # weight (shared, dim) and bias (shared,) of a trained linear map of the pictures


@dataclass(frozen=True)
class Shard:
    """Vectors of pictures, one a row: in a file, or in an array that is in memory or mapped.

    Attributes:
        path: the file, or what the array is called in a sentence.
        rows, dim: its shape.
        offset: bytes in the file before the first vector, which is little-endian float32 as all that follow.
        array: (rows, dim), instead of the file.
        name: what a row is called in a sentence, such as its image id.
    """

    path: Path
    rows: int
    dim: int
    offset: int = 0
    array: NDArray[np.floating] | None = None
    name: Callable[[int], str] = "row {}".format

    def read(self, file: IO[bytes] | None, start: int, into: NDArray[np.float32]) -> None:
        """Fill an array with the vectors from ``start`` on."""
        if self.array is not None:
            into[...] = self.array[start : start + len(into)]
            return
        assert file is not None
        view = memoryview(into).cast("B")
        file.seek(self.offset + 4 * start * self.dim)
        while len(view):
            got = file.readinto(view)  # type: ignore[attr-defined]
            if not got:
                raise AlignvisError(
                    f"{self.path} ends before its row {start + len(into) - 1}; it was cut or is being written: make it "
                    "again"
                )
            view = view[got:]


@dataclass(frozen=True)
class Queries:
    """Queries as they meet a gallery; made by `prepare_queries`.

    Attributes:
        exact: (queries, shared) float64, centred and scaled as the similarity asks.
        unit: (queries, shared) float32, of length one.
        size: (queries,) float64, length of ``exact``; 1 where that is zero.
        projector: (shared, dim) and (shared,) float64, centred over the shared axis if the similarity centres.
    """

    exact: Tensor
    unit: Tensor
    size: NDArray[np.float64]
    sides: str
    centre: bool
    projector: Projector | None

    def __len__(self) -> int:
        return len(self.exact)


def prepare_queries(
    queries: Tensor, sides: str = "both", centre: bool = True, projector: Projector | None = None
) -> Queries:
    """Bring queries, (queries, shared), into the form in which they meet a gallery.

    Args:
        sides, centre: as in `retrieval.similarity`.
        projector: maps the gallery's vectors before they are compared.

    Raises:
        AlignvisError: when a query is not finite.
    """
    broken = (~torch.isfinite(queries).all(dim=1)).nonzero()
    if len(broken):
        raise AlignvisError(f"query {int(broken[0])} is not finite, so nothing is near it; the training diverged")
    exact = queries.detach().cpu().double()
    exact = exact - exact.mean(dim=1, keepdim=True) if centre else exact
    if sides == "both":
        exact = exact / torch.linalg.vector_norm(exact, dim=1, keepdim=True).clamp(min=SHORTEST)
    size = torch.linalg.vector_norm(exact, dim=1)
    size = torch.where(size > 0, size, 1.0)
    if projector is not None:
        weight, bias = (part.detach().cpu().double() for part in projector)
        projector = (weight - weight.mean(dim=0), bias - bias.mean()) if centre else (weight, bias)
    return Queries(exact, (exact / size[:, None]).float(), size.numpy(), sides, centre, projector)


def nearest(
    queries: Tensor,
    shards: Sequence[NDArray[np.floating] | Shard],
    k: int,
    sides: str = "both",
    centre: bool = True,
    projector: Projector | None = None,
    progress: Progress = silent,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Find the k pictures most similar to each query.

    Args:
        queries: (queries, shared) float32.
        shards: the gallery: arrays (rows, dim), or vectors in files.
        k: at most so many pictures a query.
        sides, centre: as in `retrieval.similarity`.
        projector: maps the gallery's vectors, (rows, dim) to (rows, shared), before they are compared.

    Returns:
        Similarities (queries, n) float32, falling, and the pictures' rows (queries, n) int64, counted through all
        shards in their order; n is k, or the size of a smaller gallery. Where similarities are equal, the picture that
        comes first in the gallery comes first.

    Raises:
        AlignvisError: when dimensions differ, a vector is not finite (naming the shard and the row), or a file is cut.
    """
    if k < 1:
        raise AlignvisError(f"the {k} nearest pictures are none; ask for 1 or more")
    given = [shard if isinstance(shard, Shard) else as_shard(number, shard) for number, shard in enumerate(shards)]
    prepared = prepare_queries(queries, sides, centre, projector)
    best = Best(len(prepared), min(k, sum(shard.rows for shard in given)))
    total, first = sum(shard.rows for shard in given), 0
    with Workers() as workers:
        for shard in given:
            scan(prepared, shard, slice(0, shard.rows), best, workers, first=first, total=total, progress=progress)
            first += shard.rows
    return best.scores, best.rows


def as_shard(number: int, array: NDArray[np.floating]) -> Shard:
    """An array, (rows, dim), as part of a gallery."""
    if array.ndim != 2:
        raise AlignvisError(f"shard {number} of the gallery has shape {array.shape}; one vector a row was expected")
    return Shard(Path(f"shard {number}"), *array.shape, array=array)


class Workers:
    """Threads that search chunks side by side, each multiplying by itself; as many as torch was allowed to use."""

    def __enter__(self) -> "Workers":
        self.count = torch.get_num_threads()
        self.pool = ThreadPoolExecutor(self.count, initializer=torch.set_num_threads, initargs=(1,))
        return self

    def __exit__(self, *_: object) -> None:
        self.pool.shutdown(cancel_futures=True)
        torch.set_num_threads(self.count)  # torch keeps one number for threads to come

    def each(self, work: Callable[[Iterator[int]], None], starts: Sequence[int]) -> None:
        """Let every thread take from one list until nothing is left, or one of them fails."""
        waiting, lock = list(reversed(starts)), Lock()

        def mine() -> Iterator[int]:
            while True:
                with lock:
                    if not waiting:
                        return
                    start = waiting.pop()
                yield start

        def guarded() -> None:
            try:
                work(mine())
            except BaseException:
                waiting.clear()
                raise

        futures: list[Future[None]] = []
        try:
            futures.extend(self.pool.submit(guarded) for _ in range(min(self.count, len(starts))))
            for future in futures:
                future.result()
        except BaseException:
            waiting.clear()
            for future in futures:
                future.exception()  # nobody writes into what is being left
            raise


def scan(
    queries: Queries,
    shard: Shard,
    rows: slice,
    best: Best,
    workers: Workers,
    *,
    first: int = 0,
    left_out: NDArray[np.int64] | None = None,
    total: int = 0,
    progress: Progress = silent,
) -> None:
    """Offer the vectors of some rows of a shard to the best of each query.

    Args:
        first: the number of the shard's first row in the gallery.
        left_out: numbers of rows in the gallery that do not count, sorted.
        total: rows of the gallery, for the bar.
    """
    dim = queries.projector[0].shape[1] if queries.projector else queries.exact.shape[1]
    if shard.dim != dim:
        raise AlignvisError(f"{shard.path} has vectors of {shard.dim} numbers; {dim} were expected")
    step = max(1, min(ROWS, CHUNK // dim))
    done, lock = [first + rows.start], Lock()

    def work(starts: Iterator[int]) -> None:
        buffer = np.empty((step, dim), np.float32)
        product = torch.empty(min(QUERIES, len(queries)), step)
        file: Any = None if shard.array is not None else open(shard.path, "rb", buffering=0)
        try:
            for start in starts:
                chunk = buffer[: min(step, rows.stop - start)]
                shard.read(file, start, chunk)
                gone = None
                if left_out is not None:
                    ends = np.searchsorted(left_out, [first + start, first + start + len(chunk)])
                    gone = torch.from_numpy(left_out[ends[0] : ends[1]] - first - start)
                _search(queries, shard, start, torch.from_numpy(chunk), gone, best, product, first + start)
                with lock:
                    done[0] += len(chunk)
                    progress(done[0], total, "searching the gallery")
        finally:
            if file is not None:
                file.close()

    workers.each(work, range(rows.start, rows.stop, step))


def _search(
    queries: Queries,
    shard: Shard,
    start: int,
    chunk: Tensor,
    gone: Tensor | None,
    best: Best,
    product: Tensor,
    first: int,
) -> None:
    """Offer one chunk, (rows, dim), to the best of each query."""
    vectors, scale, doubt = _bounds(queries, shard, start, chunk)
    for begin in range(0, len(queries), QUERIES):
        some = slice(begin, min(begin + QUERIES, len(queries)))
        size = torch.from_numpy(queries.size[some])
        upper = product[: some.stop - begin, : len(chunk)]
        if upper.shape != product.shape:
            upper = torch.empty(upper.shape)
        torch.mm(queries.unit[some], vectors.T, out=upper)
        torch.addcmul(doubt, upper, scale, out=upper)  # at least the similarity, if queries had length one
        if gone is not None and len(gone):
            upper[:, gone] = -torch.inf
        slack = SMALLEST / size
        floor = _below(torch.from_numpy(best.floor(some)).double() / size, slack)
        found = [_candidates(upper, doubt, floor, slack, best.k)]
        if best.right is not None:
            right = torch.from_numpy(best.right[some]).double() / size
            sure, unclear = _around(upper, doubt, _below(right, slack), -_below(-right, slack))
            best.count(some, sure)
            found.append(unclear)
        for kind, (query, row) in enumerate(found):
            if len(query):
                scores = exact(queries, chunk, query + begin, row)
                (best.compare if kind else best.offer)(query + begin, row + first, scores)


def _bounds(queries: Queries, shard: Shard, start: int, chunk: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Vectors to multiply with, what to multiply the products by, and how far the result may be from the similarity.

    The error of a product of n terms is at most n·u of the product of lengths, whatever the order of its sums.

    Source: Higham (2002), Accuracy and Stability of Numerical Algorithms, section 3.1.
    """
    length = torch.linalg.vector_norm(chunk, dim=1)
    if not torch.isfinite(length).all():
        for row in (~torch.isfinite(chunk).all(dim=1)).nonzero()[:1]:
            raise AlignvisError(
                f"{shard.path}: the vector of {shard.name(start + int(row))} is not finite; extract it again"
            )
    dim, shared = chunk.shape[1], queries.exact.shape[1]
    error = (max(dim, shared) + 16) * ROUNDING
    if queries.projector is not None:
        weight, bias = (part.float() for part in queries.projector)
        vectors = linear(chunk, weight, bias)
        off = 2 * error * (weight.norm() * length + bias.norm())  # of the mapped vector, at most
        size = torch.linalg.vector_norm(vectors, dim=1)
        doubt = 4 * error * size + 2 * off
    else:
        vectors, size = chunk, length
        doubt = 4 * error * length
        if queries.centre:
            size = (length.square() - chunk.sum(dim=1).square() / dim).clamp(min=0).sqrt()
            if queries.sides != "none" and (length > LONG_MEAN * size).any():
                vectors = chunk - chunk.mean(dim=1, keepdim=True)
                size = torch.linalg.vector_norm(vectors, dim=1)
                doubt = 4 * error * size + 8 * ROUNDING * length + (error * length).square() / size
            else:
                doubt = 4 * error * length.square() / size
    if queries.sides == "none":
        doubt = (doubt if queries.projector else 4 * error * length) + 1e-30
        return vectors, torch.ones(1), doubt.nan_to_num(nan=torch.inf)
    scale = 1 / size.clamp(min=SHORTEST)
    doubt = doubt * scale
    unclear = ~((size > 10 * SHORTEST) & (doubt < 0.1))  # of the length too little is known
    scale, doubt = torch.where(unclear, 0.0, scale), torch.where(unclear, torch.inf, doubt)
    if queries.projector is None:
        doubt = torch.where(length == 0, 1e-6, doubt)  # even if its squares only vanished
    return vectors, scale, doubt


def _below(bound: Tensor, slack: Tensor) -> Tensor:
    """A float32 that no similarity which rounds to this one, or a larger one, can lie below, (queries,).

    ``slack`` is what rounding among the smallest numbers changes, divided by each query's length.
    """
    return torch.where(bound.isinf(), bound, bound - bound.abs() * 4 * ROUNDING - 1e-37 - slack).float()


def _candidates(
    upper: Tensor, doubt: Tensor, floor: Tensor, slack: Tensor, k: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Queries and rows of the pairs that could be among the k best."""
    over = torch.nonzero(~(upper.amax(dim=1) < floor))[:, 0]  # what is no number is no reason to leave a row out
    if not len(over):
        return np.empty(0, np.int64), np.empty(0, np.int64)
    part, floor = upper[over], floor[over]
    if k < part.shape[1]:
        many = torch.nonzero(torch.count_nonzero(~(part < floor[:, None]), dim=1) > k)[:, 0]
        if len(many):  # k rows of the chunk itself are better than the others
            least = (part[many] - 2 * doubt).nan_to_num(nan=-torch.inf)
            last = torch.topk(least, k, dim=1).values[:, -1].double()
            floor[many] = torch.maximum(floor[many], _below(last, slack[over][many]))
    query, row = np.nonzero(~(part < floor[:, None]).numpy())
    keep = ~(part.numpy()[query, row] == -np.inf)
    return over.numpy()[query[keep]], row[keep]


def _around(
    upper: Tensor, doubt: Tensor, low: Tensor, high: Tensor
) -> tuple[NDArray[np.int64], tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """How many rows are surely more similar than the right picture, and the pairs of which it is not sure."""
    above = upper - 2 * doubt > high[:, None]
    open_ = ~(upper < low[:, None]) & ~above & (upper != -torch.inf)
    query, row = np.nonzero(open_.numpy())
    return torch.count_nonzero(above, dim=1).numpy(), (query, row)


def exact(queries: Queries, chunk: Tensor, query: NDArray[np.int64], row: NDArray[np.int64]) -> NDArray[np.float32]:
    """Similarities of pairs, computed in float64 and rounded once; each depends on its own two vectors alone.

    Args:
        chunk: (rows, dim) float32.
        query, row: (pairs,) of the queries and of the chunk.
    """
    used, place = np.unique(row, return_inverse=True)
    scores = np.empty(len(query), np.float32)
    vectors = chunk[torch.from_numpy(used)].double()
    if queries.projector is not None:
        vectors = linear(vectors, *queries.projector)
    elif queries.centre:
        vectors -= torch.from_numpy(np.add.reduce(vectors.numpy(), axis=1, keepdims=True)) / vectors.shape[1]
    found, asked = vectors.numpy(), queries.exact.numpy()
    # numpy sums each row by itself and in one order, wherever the row stands
    length = np.maximum(np.sqrt(np.add.reduce(found * found, axis=1)), SHORTEST)
    for begin in range(0, len(query), PAIRS):
        some = slice(begin, begin + PAIRS)
        products = np.add.reduce(asked[query[some]] * found[place[some]], axis=1)
        scores[some] = products if queries.sides == "none" else products / length[place[some]]
    return scores + np.float32(0)  # no minus before a zero
