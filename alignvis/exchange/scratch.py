"""Room on the disk for what is too large for memory: an unnamed file that is written once and mapped."""

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Self

import numpy as np

from alignvis.errors import AlignvisError


class Scratch:
    """An unnamed file, to be used in a ``with`` block; what was kept is gone with the last map of it.

    Args:
        folder: where there is room; None for the system's place for such files.
        room: bytes that will not be exceeded.
    """

    def __init__(self, folder: Path | None, room: int) -> None:
        self.folder = folder
        self.room = room
        self.written = 0
        self.file = None
        self.map: np.memmap | None = None

    def keep(self, pieces: Iterable[bytes]) -> np.memmap:
        """Write bytes and map them: (bytes,) uint8, read-only."""
        start = self.written
        try:
            if self.file is None:
                if self.folder is not None:
                    self.folder.mkdir(parents=True, exist_ok=True)
                self.file = tempfile.TemporaryFile(dir=self.folder)
                # One map of the whole room for all that is kept; what is not written takes no room.
                self.file.truncate(self.room)
                self.map = np.memmap(self.file, np.uint8, "r")
            self.file.seek(start)
            for piece in pieces:
                self.file.write(piece)
                self.written += len(piece)
            self.file.flush()
        except OSError as error:
            raise AlignvisError(
                f"{self.folder or tempfile.gettempdir()} has no room for numbers on the way ({error.strerror}); free "
                f"up to {self.room / 1e9:.1f} GB, or choose another --root"
            ) from error
        return self.map[start : self.written]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.file is not None:
            self.file.close()
