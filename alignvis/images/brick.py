"""Pictures in one array of an HDF5 file, as NSD's ``nsd_stimuli.hdf5``: 40 GB that are never in memory together.

Such a file stands where a folder of pictures may stand: a picture's id is ``nsd-`` and its row, from 0, in five digits,
and its path is the file's, a slash and the id.
"""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from alignvis.errors import AlignvisError
from alignvis.hdf5 import Stored, begins_as_hdf5, opened, stored, told, whole_number
from alignvis.images.pixels import ASPECT_LIMIT, stamp

ARRAY = "imgBrick"
PREFIX = "nsd-"
MOST = 100_000  # pictures, whose ids have five digits; the published file has 73,000
PIXELS = 2**24  # of a picture; the published ones have 425 x 425


@dataclass(frozen=True)
class Brick:
    """The pictures of an opened file."""

    path: Path
    stored: Stored
    simulated: bool

    def __len__(self) -> int:
        return self.stored.shape[0]

    def pixels(self, row: int) -> NDArray[np.uint8]:
        """A picture: (height, width, 3) RGB."""
        return self.stored.read(row, row + 1)[0]


@contextmanager
def open_brick(path: Path) -> Iterator[Brick]:
    """Open a file of pictures, of which each is read when it is needed.

    Raises:
        AlignvisError: when the file is not one, or damaged.
    """
    if not begins_as_hdf5(path):
        raise AlignvisError(
            f"{path} is a file, but not one of pictures (HDF5, with {ARRAY!r} in it); give that or a folder of pictures"
        )
    with opened(path) as file:
        with told(path):
            simulated = bool(whole_number(file, "simulated"))
        with stored(path, file, [ARRAY], f"an array of pictures called {ARRAY!r}", {"u": (1,)}, 4) as array:
            count, height, width, colours = array.shape
            if colours != 3 or height * width > PIXELS or max(height, width) > ASPECT_LIMIT * min(height, width):
                raise AlignvisError(
                    f"{path} holds pictures of shape {array.shape[1:]}; height x width x 3, of at most {PIXELS:,} "
                    f"pixels and no edge {ASPECT_LIMIT} times the other, were expected"
                )
            if count > MOST:
                raise AlignvisError(f"{path} holds {count:,} pictures, and up to {MOST:,} can be numbered; cut it")
            yield Brick(path, array, simulated)


def brick_pictures(path: Path) -> list[str]:
    """The ids of all pictures in a file, in its order."""
    with open_brick(path) as brick:
        return [f"{PREFIX}{row:05d}" for row in range(len(brick))]


def set_name(images: Path) -> str:
    """What an image set is called: a folder by its name, a file by its name without its ending."""
    path = Path(os.path.abspath(images))
    return path.stem if path.is_file() else path.name


def in_brick(path: Path) -> bool:
    """Whether the path of a picture leads into a file."""
    return path.parent.is_file()


class Reader:
    """Reads pictures by their paths, and keeps the file that they are in open for the next one."""

    def __init__(self) -> None:
        self._turn = Lock()
        self._open = ExitStack()
        self._brick: Brick | None = None
        self._stamp = (0, 0)

    def __enter__(self) -> "Reader":
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()
        self._brick = None

    def pixels(self, path: Path) -> NDArray[np.uint8]:
        """The pixels of a picture: (height, width, 3) RGB.

        Raises:
            AlignvisError: when the picture is not there, or the file damaged.
        """
        with self._turn:
            brick = self._at(path.parent)
            row = int(path.name.removeprefix(PREFIX))
            if row >= len(brick):
                raise AlignvisError(f"{brick.path} holds {len(brick)} pictures, and {path.name} is none of them")
            return np.ascontiguousarray(brick.pixels(row))

    def _at(self, path: Path) -> Brick:
        """The file, opened once as long as it stays the same."""
        now = stamp(path)
        if self._brick is None or (self._brick.path, self._stamp) != (path, now):
            self.__exit__()
            self._brick, self._stamp = self._open.enter_context(open_brick(path)), now
        return self._brick
