"""Batches of pictures, decoded by threads some way ahead of their use.

Threads, because Pillow lets go of the interpreter while it decodes and resizes: on two cores they are as fast as
processes, and a caller needs no ``if __name__ == "__main__"``.
"""

from collections import deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from alignvis.errors import AlignvisError
from alignvis.images.pixels import GEOMETRIES, apply, decode, read

AHEAD = 2  # batches in work beside the one in use

Pixels = dict[str, NDArray[np.uint8]]  # name of a geometry -> (pictures, side, side, 3)


def decode_ahead(
    jobs: Iterable[tuple[Sequence[Path], Collection[str]]], pool: ThreadPoolExecutor, skip_bad: bool
) -> Iterator[tuple[Pixels, NDArray[np.uint8]]]:
    """Decode each picture once and bring it into every geometry asked for.

    Args:
        jobs: one per batch: the files, and the names of the geometries. They are taken as room allows, so memory does
            not grow with their number.
        skip_bad: give a picture that cannot be read as black and its digest as zero, instead of raising.

    Yields:
        For each job, in order: the pixels, and the sha256 of the files, (pictures, 32) uint8.
    """
    queue: deque[tuple[Pixels, list[Future[bytes]]]] = deque()
    for paths, geometries in jobs:
        sides = {name: GEOMETRIES[name].crop for name in geometries}
        pixels = {name: np.zeros((len(paths), side, side, 3), np.uint8) for name, side in sides.items()}
        queue.append((pixels, [pool.submit(_prepare, path, row, pixels) for row, path in enumerate(paths)]))
        if len(queue) > AHEAD:
            yield _gather(*queue.popleft(), skip_bad)
    while queue:
        yield _gather(*queue.popleft(), skip_bad)


def _prepare(path: Path, row: int, pixels: Pixels) -> bytes:
    data = read(path)
    picture = decode(path, data)
    for name, array in pixels.items():
        array[row] = apply(GEOMETRIES[name], picture)
    return sha256(data).digest()


def _gather(pixels: Pixels, futures: list[Future[bytes]], skip_bad: bool) -> tuple[Pixels, NDArray[np.uint8]]:
    digests = np.zeros((len(futures), 32), np.uint8)
    for row, future in enumerate(futures):
        try:
            digests[row] = np.frombuffer(future.result(), np.uint8)
        except AlignvisError:
            if not skip_bad:
                raise
    return pixels, digests
