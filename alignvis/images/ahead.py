"""Batches of pictures, decoded by processes some way ahead of their use.

Processes, so that decoding never waits for an interpreter that is busy with embedding, and so that a broken file over
which a decoder crashes does not take the work of hours with it. They are programs of their own (`decoder.py`) behind
pipes, neither forked nor imported again: nothing is forked beside CUDA, and a caller needs no
``if __name__ == "__main__"``. Pixels are read from the pipes right into the arrays of a batch.
"""

import json
import os
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import numpy as np
from numpy.typing import NDArray

import alignvis
from alignvis.errors import AlignvisError
from alignvis.images.decoder import READY
from alignvis.images.pixels import GEOMETRIES

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

AHEAD = 2  # batches in work beside the one in use, or more if the workers need them
CHUNK = 8  # pictures at most that a worker is asked for at a time
PIPE = 2**20  # bytes between a worker and us; an unprivileged process may have no larger pipe
START = 120.0  # seconds after which a worker has failed to start; libraries can load slowly from a shared disk
END = 5.0  # seconds that a worker whose pipe is closed may take to end

Pixels = dict[str, NDArray[Any]]  # name of a geometry -> (pictures, side, side, 3) of its dtype, 0 to 255


class _Ended(Exception):
    """The process of a worker ended; the text says how."""


class _Worker:
    """A process that decodes, led by one thread."""

    def __init__(self) -> None:
        command = [sys.executable, "-P", "-m", "alignvis.images.decoder"]
        pipe = subprocess.PIPE
        try:
            self.errors = TemporaryFile()
            try:
                self.process = subprocess.Popen(
                    command, stdin=pipe, stdout=pipe, stderr=self.errors, env=_environment()
                )
            except OSError:
                self.errors.close()
                raise
        except OSError as error:
            raise _Ended(f"{sys.executable}: {error.strerror}") from error
        if hasattr(fcntl, "F_SETPIPE_SZ"):
            with suppress(OSError):  # the user has many such pipes already
                fcntl.fcntl(self.process.stdout, fcntl.F_SETPIPE_SZ, PIPE)

    def wait_until_ready(self) -> None:
        timer = threading.Timer(START, self.process.kill)
        timer.start()
        try:
            # What a start-up file of this Python prints comes first.
            while (line := self.process.stdout.readline()) != READY:
                if not line:
                    raise _Ended(self._how())
        finally:
            timer.cancel()

    def ask(self, paths: Sequence[Path], geometries: Sequence[str]) -> None:
        # Only what is printed about these pictures may explain an end that they bring about.
        self.errors.seek(0)
        self.errors.truncate()
        request = {"paths": [os.fspath(path) for path in paths], "geometries": geometries}
        try:
            self.process.stdin.write(json.dumps(request).encode() + b"\n")
            self.process.stdin.flush()
        except OSError as error:
            raise _Ended(self._how()) from error

    def answer(self, into: Sequence[NDArray[Any]]) -> dict[str, Any]:
        """Read what is said about the next picture, and its pixels, unless it is bad, into the arrays."""
        line = self.process.stdout.readline()
        if not line.endswith(b"\n"):
            raise _Ended(self._how())
        answer = json.loads(line)
        if "error" not in answer:
            for array in into:
                if self.process.stdout.readinto(array) < array.nbytes:
                    raise _Ended(self._how())
        return answer

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()
        with suppress(OSError):  # a request that was never read
            self.process.stdin.close()
        self.errors.close()

    def _how(self) -> str:
        try:
            code = self.process.wait(END)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait()
        self.errors.seek(0)
        printed = self.errors.read().decode(errors="replace").strip().splitlines()
        how = f"signal {-code}, {signal.strsignal(-code)}" if code < 0 else f"exit code {code}"
        return f"{how}; it said: {printed[-1]}" if printed else how


@dataclass(frozen=True)
class _Batch:
    """A job in work; the arrays are those that `decode_ahead` gives."""

    paths: Sequence[Path]
    pixels: Pixels
    digests: NDArray[np.uint8]
    stamps: NDArray[np.int64]
    chunks: list[Future[list[str]]] = field(default_factory=list)


class Decoders:
    """Processes that decode, each led by a thread of this one, from which `decode_ahead` has its pictures.

    Attributes:
        workers: how many there are at most; they start when they are first needed.
    """

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="decoder")
        self._mine = threading.local()
        self._lock = threading.Lock()
        self._running: set[_Worker] = set()
        self._closed = False

    def submit(self, paths: Sequence[Path], geometries: Collection[str]) -> _Batch:
        """Begin to decode a batch."""
        count = len(paths)
        pixels = {
            name: np.zeros((count, GEOMETRIES[name].crop, GEOMETRIES[name].crop, 3), GEOMETRIES[name].dtype)
            for name in geometries
        }
        batch = _Batch(paths, pixels, np.zeros((count, 32), np.uint8), np.zeros((count, 2), np.int64))
        size = max(1, min(CHUNK, -(-count // self.workers)))
        for start in range(0, count, size):
            rows = range(start, min(start + size, count))
            batch.chunks.append(self._threads.submit(self._decode, batch, rows))
        return batch

    def close(self) -> None:
        """End all processes and threads, whatever they are doing."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        with self._lock:
            self._closed = True
            for worker in self._running:
                worker.process.kill()
        self._threads.shutdown()
        for worker in self._running:
            worker.close()
        self._running.clear()

    def _decode(self, batch: _Batch, rows: range) -> list[str]:
        """Fill some rows of a batch, and return what is wrong with the bad pictures among them."""
        wrong = []
        row = rows.start
        worker = self._worker()
        try:
            worker.ask([batch.paths[row] for row in rows], list(batch.pixels))
            for row in rows:
                answer = worker.answer([array[row] for array in batch.pixels.values()])
                batch.stamps[row] = answer["stamp"]
                if "error" in answer:
                    wrong.append(answer["error"])
                else:
                    batch.digests[row] = np.frombuffer(bytes.fromhex(answer["sha256"]), np.uint8)
        except _Ended as error:
            self._forget(worker)
            raise AlignvisError(
                f"the process that was decoding {batch.paths[row]} came to an end ({error}); save that picture anew "
                "or remove it, or, if memory ran out, ask for fewer workers"
            ) from error
        return wrong

    def _worker(self) -> _Worker:
        """The worker of the thread that asks."""
        worker = getattr(self._mine, "worker", None)
        if worker is not None:
            return worker
        try:
            worker = _Worker()
            with self._lock:
                self._running.add(worker)
                if self._closed:
                    worker.process.kill()
            worker.wait_until_ready()
        except _Ended as error:
            if worker is not None:
                self._forget(worker)
            raise AlignvisError(
                f"a process that decodes pictures did not start ({error}; it may take {START:g} s); free memory or ask "
                "for fewer workers, and see whether this Python starts at all"
            ) from error
        self._mine.worker = worker
        return worker

    def _forget(self, worker: _Worker) -> None:
        """Close a worker that has ended; the thread's next picture gets a new one."""
        self._mine.worker = None
        with self._lock:
            self._running.discard(worker)
        worker.close()


@contextmanager
def decoders(workers: int | None = None) -> Iterator[Decoders]:
    """Hold processes that decode; they end with the block.

    Args:
        workers: how many; one per core if not given.
    """
    pool = Decoders(workers or _cores())
    try:
        yield pool
    finally:
        pool.close()


def decode_ahead(
    jobs: Iterable[tuple[Sequence[Path], Collection[str]]], pool: Decoders, skip_bad: bool
) -> Iterator[tuple[Pixels, NDArray[np.uint8], NDArray[np.int64]]]:
    """Decode each picture once and bring it into every geometry asked for.

    Args:
        jobs: one per batch: the files, and the names of the geometries. They are taken as room allows, so memory does
            not grow with their number.
        skip_bad: give a picture that cannot be read as black and its digest as zero, instead of raising.

    Yields:
        For each job, in order: the pixels; the sha256 of the files, (pictures, 32) uint8; and their stamps when they
        were read, (pictures, 2) int64, see `pixels.stamp`.

    Raises:
        AlignvisError: for the first picture that cannot be read, or, even with ``skip_bad``, when a worker does not
            start or its process ends over a picture.
    """
    queue: deque[_Batch] = deque()
    try:
        for paths, geometries in jobs:
            queue.append(pool.submit(paths, geometries))
            behind = sum(len(batch.paths) for batch in queue) - len(queue[0].paths)
            if len(queue) > AHEAD and behind >= 2 * pool.workers:
                yield _gather(queue, skip_bad)
        while queue:
            yield _gather(queue, skip_bad)
    finally:
        for batch in queue:
            for chunk in batch.chunks:
                chunk.cancel()


def _gather(queue: deque[_Batch], skip_bad: bool) -> tuple[Pixels, NDArray[np.uint8], NDArray[np.int64]]:
    batch = queue[0]
    for chunk in batch.chunks:
        wrong = chunk.result()
        if wrong and not skip_bad:
            raise AlignvisError(wrong[0])
    queue.popleft()
    return batch.pixels, batch.digests, batch.stamps


def _environment() -> dict[str, str]:
    """That of a worker, which is to import what this process imports, and nothing from where it happens to stand."""
    home = str(Path(alignvis.__file__).parents[1])
    path = [entry for entry in sys.path if not _is_here(entry)]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path if home in path else [home, *path]),
        "PYTHONUTF8": str(sys.flags.utf8_mode),  # names of files are to mean the same
        # numpy's algebra is not used, and would hold memory for a thread per core in every worker
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
        # glibc keeps what one picture needed for the next (with fresh pages each, decoding takes a third longer), but
        # gives back what a huge one needed
        "MALLOC_MMAP_THRESHOLD_": str(2**25),
        "MALLOC_TRIM_THRESHOLD_": str(2**27),
    }


def _is_here(entry: str) -> bool:
    return not entry or (os.path.exists(entry) and os.path.samefile(entry, os.curdir))


def _cores() -> int:
    """Cores that this process may use, of which a cluster gives it a share."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
