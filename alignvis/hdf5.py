"""Arrays of numbers in HDF5 files, read without trust: no code in a file is run, and no other file is opened.

h5py only says where an array lies. Its bytes are read and unpacked here, since HDF5's own unpacking sets aside whatever
a few damaged bytes claim. Attributes are left alone: on some damaged files HDF5 never comes to the end of one.
"""

import itertools
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from threading import Lock
from typing import IO, TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from alignvis.errors import AlignvisError

if TYPE_CHECKING:
    import h5py

SIGNATURE = b"\x89HDF\r\n\x1a\n"
LARGEST_CHUNK = 2**26  # bytes of a piece, unpacked; pieces of the published files have far less
DEFLATED = 1032  # what deflate makes a byte of at most
DEFLATE, SHUFFLE = 1, 2  # HDF5's numbers for the filters that are read

Kinds = Mapping[str, Sequence[int]]  # numpy's kind of number -> bytes that one may have


def begins_as_hdf5(path: Path) -> bool:
    """Whether a file begins as HDF5 does."""
    try:
        with open(path, "rb") as file:
            return file.read(len(SIGNATURE)) == SIGNATURE
    except OSError:
        return False


def require_h5py(path: Path | str, kind: str = "an HDF5 file") -> None:
    """Say so when what reads HDF5 is not installed."""
    try:
        import h5py  # noqa: F401
    except ImportError as error:
        raise AlignvisError(
            f'{path} is {kind}, and h5py, which reads those, is missing; pip install "alignvis[hdf5]"'
        ) from error


@contextmanager
def told(path: Path, kind: str = "an HDF5 file") -> Iterator[None]:
    """Say in one sentence whatever a damaged or hostile file makes the machine stumble over."""
    try:
        yield
    except (OSError, ValueError, TypeError, LookupError, RuntimeError, MemoryError, OverflowError) as error:
        said = " ".join(str(error).split())[:200]
        raise AlignvisError(
            f"{path} looks like {kind}, but is damaged or of a kind that is not read here ({said}); fetch it again"
        ) from error


@contextmanager
def opened(path: Path) -> Iterator["h5py.File"]:
    """Open an HDF5 file to read it.

    Raises:
        AlignvisError: when h5py is not installed, or the file is missing or damaged.
    """
    require_h5py(path)
    import h5py

    with told(path):
        file = h5py.File(path, "r")
    with file:
        yield file


def names(file: "h5py.Group", most: int = 5) -> str:
    """Some of what a file holds, for a sentence."""
    return ", ".join(repr(name) for name in itertools.islice(file, most)) or "nothing"


def child(group: "h5py.Group", name: str) -> "h5py.Group | h5py.Dataset":
    """What a name in a group stands for, if it is in this file."""
    import h5py

    if group.id.links.get_info(name.encode()).type != h5py.h5l.TYPE_HARD:
        raise ValueError(f"its {name!r} in {group.name!r} is a link that leads elsewhere")
    return group[name]


def has(group: "h5py.Group", name: str) -> bool:
    return group.id.links.exists(name.encode())


def numbers(dataset: "h5py.Group | h5py.Dataset", name: str, kinds: Kinds) -> np.dtype:
    """The type of an array of numbers; ValueError for whatever is something else."""
    import h5py

    if not isinstance(dataset, h5py.Dataset):
        raise ValueError(f"its {name!r} is not a tensor")
    dtype = dataset.dtype
    if dtype.itemsize not in kinds.get(dtype.kind, ()) or dataset.shape is None:
        raise ValueError(f"its tensor {name!r} is made of {dtype}, not of numbers that are read here")
    kind = dataset.id.get_type()
    if dtype.kind in "iu" and (kind.get_precision() != 8 * dtype.itemsize or kind.get_offset()):
        raise ValueError(f"its tensor {name!r} is made of whole numbers that do not fill their bytes")
    return dtype


def in_one_piece(dataset: "h5py.Group | h5py.Dataset", name: str, kinds: Kinds) -> int:
    """How many bytes a tensor takes, if it is plain numbers that lie one behind the other in this file."""
    import h5py

    if isinstance(dataset, h5py.Dataset):
        made = dataset.id.get_create_plist()
        if made.get_layout() not in (h5py.h5d.CONTIGUOUS, h5py.h5d.COMPACT) or made.get_external_count():
            raise ValueError(f"its tensor {name!r} is compressed, in pieces or in another file, which is not expected")
    dtype = numbers(dataset, name, kinds)
    claimed = prod(dataset.shape) * dtype.itemsize
    if dataset.id.get_storage_size() != claimed:
        raise ValueError(f"its tensor {name!r} claims {claimed} bytes and has {dataset.id.get_storage_size()}")
    return claimed


def whole_number(group: "h5py.Group", name: str) -> int | None:
    """A single whole number that a file states, if it does."""
    if not has(group, name):
        return None
    dataset = child(group, name)
    if in_one_piece(dataset, name, {"i": (1, 2, 4, 8), "u": (1, 2, 4, 8)}) > 8 or dataset.shape != ():
        raise ValueError(f"its {name!r} is not one number")
    return int(dataset[()])


# --- arrays that are larger than memory ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Stored:
    """An array in a file, of which rows are read as they are needed, as long as `opened` holds the file.

    Attributes:
        shape: (rows, ...).
        start: where its bytes lie, one behind the other; none if they lie in pieces.
        chunk: the shape of a piece; none if there are none.
        packed: whether pieces are shuffled, and whether they are then deflated.
    """

    path: Path
    shape: tuple[int, ...]
    dtype: np.dtype
    start: int | None
    chunk: tuple[int, ...] | None
    packed: tuple[bool, bool]
    size: int
    _bytes: IO[bytes]
    _dataset: "h5py.Dataset"
    _lately: dict[tuple[int, ...], NDArray] = field(default_factory=dict)
    _turn: Lock = field(default_factory=Lock)

    def read(self, first: int, last: int) -> NDArray:
        """Rows from the first to before the last, as they are stored.

        Raises:
            AlignvisError: when a piece is missing, damaged or of another size than it should be.
        """
        assert 0 <= first <= last <= self.shape[0], "rows are counted by whoever asks"
        with told(self.path):
            return self._read(first, last)

    def _read(self, first: int, last: int) -> NDArray:
        if self.chunk is None:
            width = prod(self.shape[1:]) * self.dtype.itemsize
            content = self._content(self.start + first * width, (last - first) * width)
            return np.frombuffer(content, self.dtype).reshape(last - first, *self.shape[1:])
        rows = np.empty((last - first, *self.shape[1:]), self.dtype)
        if not rows.size:
            return rows
        height = self.chunk[0]
        bands = range(first // height * height, last, height)
        columns = [range(0, edge, side) for edge, side in zip(self.shape[1:], self.chunk[1:], strict=True)]
        for corner in itertools.product(bands, *columns):
            piece = self._piece(corner)
            top, bottom = max(corner[0], first), min(corner[0] + height, last)
            inner = [
                slice(at, min(at + side, edge))
                for at, side, edge in zip(corner[1:], self.chunk[1:], self.shape[1:], strict=True)
            ]
            within = [slice(0, part.stop - part.start) for part in inner]
            rows[(slice(top - first, bottom - first), *inner)] = piece[
                (slice(top - corner[0], bottom - corner[0]), *within)
            ]
        return rows

    def _piece(self, corner: tuple[int, ...]) -> NDArray:
        """A piece by the place of its first number; those of late are kept, since neighbours are asked for next."""
        if corner not in self._lately:
            piece = self._unpacked(corner)
            if (len(self._lately) + 1) * piece.nbytes > LARGEST_CHUNK:
                self._lately.clear()
            self._lately[corner] = piece
        return self._lately[corner]

    def _unpacked(self, corner: tuple[int, ...]) -> NDArray:
        about = self._dataset.id.get_chunk_info_by_coord(corner)
        if about.byte_offset is None or about.filter_mask:
            raise ValueError(f"the piece of {self._dataset.name!r} at {corner} is missing or packed otherwise")
        content = self._content(about.byte_offset, about.size)
        size, (shuffled, deflated) = prod(self.chunk) * self.dtype.itemsize, self.packed
        if deflated:
            expander = zlib.decompressobj()
            try:
                content = expander.decompress(content, size + 1)  # so that the end, which is checked, is met
            except zlib.error as error:
                raise ValueError(f"a piece of {self._dataset.name!r} cannot be unpacked: {error}") from error
        if len(content) != size or (deflated and not expander.eof):
            raise ValueError(f"the piece of {self._dataset.name!r} at {corner} has not {size} bytes")
        if shuffled:  # all first bytes of the numbers, then all second ones
            content = np.frombuffer(content, np.uint8).reshape(self.dtype.itemsize, -1).T.tobytes()
        return np.frombuffer(content, self.dtype).reshape(self.chunk)

    def _content(self, place: int, count: int) -> bytes:
        if place < 0 or count < 0 or place + count > self.size:
            raise ValueError(f"{self._dataset.name!r} lies beyond the end of the file")
        with self._turn:
            self._bytes.seek(place)
            content = self._bytes.read(count)
        if len(content) != count:
            raise ValueError(f"{self._dataset.name!r} lies beyond the end of the file")
        return content


@contextmanager
def stored(
    path: Path, file: "h5py.File", called: Sequence[str], what: str, kinds: Kinds, dimensions: int
) -> Iterator[Stored]:
    """Find a large array of an opened file.

    Args:
        called: names that it may have; the first that is there counts.
        what: it is, for the sentence that says that it is not there.
        kinds: of numbers that it may be made of.
        dimensions: that it must have, none of them empty.

    Raises:
        AlignvisError: when it is anything else, is packed otherwise than by shuffling and gzip, lies in another file,
            or claims more than the file could hold.
    """
    with told(path):
        name = next((name for name in called if has(file, name)), None)
        if name is None:
            raise AlignvisError(f"{path} holds {names(file)}, and {what} was expected; give the published file")
        dataset = child(file, name)
        dtype = numbers(dataset, name, kinds)
        shape, size = dataset.shape, path.stat().st_size
        if len(shape) != dimensions or 0 in shape:
            raise ValueError(f"its {name!r} has shape {shape}, and {dimensions} dimensions were expected")
        if file.userblock_size:
            raise ValueError("it begins with something else")
        start, chunk, packed = _layout(dataset, name)
        claimed = prod(shape) * dtype.itemsize
        if claimed > size * (DEFLATED if packed[1] else 1):
            raise ValueError(f"its {name!r} claims {claimed} bytes, and the file has {size}")
        if chunk is None and (start is None or dataset.id.get_storage_size() != claimed or start + claimed > size):
            raise ValueError(f"its {name!r} claims {claimed} bytes, and they are not there")
        if chunk is not None and prod(chunk) * dtype.itemsize > LARGEST_CHUNK:
            raise ValueError(f"its {name!r} lies in pieces of {chunk}, which are larger than {LARGEST_CHUNK} bytes")
        content = open(path, "rb")
    with content:
        yield Stored(path, shape, dtype, start, chunk, packed, size, content, dataset)


def _layout(dataset: "h5py.Dataset", name: str) -> tuple[int | None, tuple[int, ...] | None, tuple[bool, bool]]:
    """Where an array begins or the shape of its pieces, and whether these are shuffled and deflated."""
    import h5py

    made = dataset.id.get_create_plist()
    if made.get_external_count():
        raise ValueError(f"its {name!r} lies in another file")
    if made.get_layout() == h5py.h5d.CONTIGUOUS:
        return dataset.id.get_offset(), None, (False, False)
    if made.get_layout() != h5py.h5d.CHUNKED:
        raise ValueError(f"its {name!r} is put together from other arrays or hidden in its description")
    filters = [made.get_filter(place)[0] for place in range(made.get_nfilters())]
    if filters not in ([], [DEFLATE], [SHUFFLE], [SHUFFLE, DEFLATE]):
        raise ValueError(f"its {name!r} is packed by the filters {filters}; shuffle (2) and gzip (1) are read")
    return None, made.get_chunk(), (SHUFFLE in filters, DEFLATE in filters)
