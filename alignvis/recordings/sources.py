"""The files that a responses table is made from: named in its header, hashed while the work goes on."""

import hashlib
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

BLOCK = 2**22  # bytes; between two blocks a thread can be stopped


def describe(paths: Sequence[Path], below: Path) -> list[dict[str, Any]]:
    """List files for a table's header: the path below a folder, with forward slashes, and the size in bytes."""
    return [{"file": path.relative_to(below).as_posix(), "bytes": path.stat().st_size} for path in paths]


@contextmanager
def hashing(paths: Sequence[Path]) -> Iterator[list[Future[NDArray[np.uint8]]]]:
    """Hash files in a thread beside the work of the block; a block that is left by an exception does not wait for it.

    Yields:
        For each file the (32,) uint8 sha256 to come.
    """
    stop = threading.Event()
    with ThreadPoolExecutor(max_workers=1) as pool:
        try:
            yield [pool.submit(_sha256, path, stop) for path in paths]
        except BaseException:
            stop.set()
            raise


def sha256s(paths: Sequence[Path]) -> NDArray[np.uint8]:
    """Hash files now: (files, 32) uint8."""
    return np.array([_sha256(path, threading.Event()) for path in paths])


def _sha256(path: Path, stop: threading.Event) -> NDArray[np.uint8]:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(BLOCK):
            if stop.is_set():
                raise CancelledError
            digest.update(block)
    return np.frombuffer(digest.digest(), dtype=np.uint8)
