"""A search in parts that processes share by files: what one leaves undone is another's to finish.

A part is some consecutive rows of one table, ``<folder>/<first row>.safetensors``. Who has its lock searches it; when
all are there, they are joined, to the same lists in whatever way they were cut and by whomever they were searched.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file

from alignvis import files
from alignvis.errors import AlignvisError
from alignvis.processes import processes, rank
from alignvis.progress import Progress, silent
from alignvis.runs import save_tensors
from alignvis.searching.best import Best
from alignvis.searching.nearest import Queries, Workers, scan
from alignvis.searching.shards import Table

PART = 2**26  # values of the gallery, about: what a process takes at a time
WAIT = 0.2  # seconds between two looks at what other processes have done


@dataclass(frozen=True)
class Search:
    """A search that is to be done, as every process that takes part in it sees it.

    Attributes:
        images: (queries,) the picture that each response was to.
        right: (queries,) float32, similarity of each query's own picture; +inf where it is not in the gallery.
        left_out: numbers of the rows that repeat an earlier picture, sorted.
        folder: where its parts lie.
    """

    queries: Queries
    images: list[str]
    tables: list[Table]
    right: NDArray[np.float32]
    left_out: NDArray[np.int64]
    k: int
    folder: Path

    @property
    def size(self) -> int:
        """Pictures in the gallery, each counted once."""
        return sum(table.shard.rows for table in self.tables) - len(self.left_out)


@contextmanager
def holding(lock: Path) -> Iterator[None]:
    """Keep other processes from what stands behind a lock.

    Raises:
        files.Busy: when another process holds it.
    """
    files.hold(lock)
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)
        files.release(lock)


def _cut(search: Search) -> list[tuple[int, Path, Table, slice]]:
    """First row, file, table and rows of every part."""
    step = max(1, PART // search.tables[0].shard.dim)
    parts = []
    for table in search.tables:
        for start in range(0, table.shard.rows, step):
            first = table.first + start
            rows = slice(start, min(start + step, table.shard.rows))
            parts.append((first, search.folder / f"{first:012}.safetensors", table, rows))
    return parts


def search_parts(search: Search, say: Callable[[str], None], progress: Progress = silent) -> None:
    """Search what no other process is searching; the first process stays until nothing is left."""
    parts = _cut(search)
    start = len(parts) * rank() // processes()
    todo, waiting = parts[start:] + parts[:start], False
    least = np.full(len(search.queries), -np.inf, np.float32)
    total = sum(table.shard.rows for table in search.tables)
    with Workers() as workers:
        while todo:
            left = []
            for first, path, table, rows in todo:
                lock = path.with_suffix(".lock")
                try:
                    with holding(lock):
                        best = _read_part(path, search)
                        if best is None:
                            best = Best(len(search.queries), search.k, search.right, least)
                            options = {"first": table.first, "left_out": search.left_out, "total": total}
                            scan(search.queries, table.shard, rows, best, workers, progress=progress, **options)
                            if files.stamp(table.path) != table.stamp:
                                raise AlignvisError(f"{table.path} has changed during the search; search again")
                            _save_part(path, best)
                        if search.k:  # what a part has taught need not be found again by the next
                            least = np.maximum(least, best.scores[:, -1])
                except files.Busy:
                    left.append((first, path, table, rows))
            todo = left
            if rank():
                return
            if todo and not waiting:
                say(f"note: other processes are at work on {len(todo)} parts of the gallery; waiting for them")
                waiting = True
            time.sleep(WAIT if todo else 0)
    progress(total, total, "searching the gallery")


def _save_part(path: Path, best: Best) -> None:
    names = ("scores", "rows", "tied", "above", "equal")
    save_tensors({name: torch.from_numpy(getattr(best, name)) for name in names}, path, {"table": "search part"})


def _read_part(path: Path, search: Search) -> Best | None:
    """What was found in a part; what is not whole, or not of this search, is nothing."""
    best = Best(len(search.queries), search.k, search.right)
    try:
        found = load_file(path) if path.exists() else {}
        for name in ("scores", "rows", "tied", "above", "equal"):
            array, expected = found[name].numpy(), getattr(best, name)
            if array.shape != expected.shape or array.dtype != expected.dtype:
                return None
            setattr(best, name, array)
    except (OSError, SafetensorError, KeyError):
        return None
    return best


def joined(search: Search) -> Best:
    """Put together what was found in all parts."""
    best = Best(len(search.queries), search.k, search.right)
    for _, path, _, _ in _cut(search):
        part = _read_part(path, search)
        if part is None:
            raise AlignvisError(f"{path} was removed while its search was at work; search again")
        best.join(part)
    return best
