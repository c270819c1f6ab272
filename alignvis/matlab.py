"""Matrices of numbers in MATLAB files of version 5.

Read here and not by scipy, which ends the whole process with a signal on some damaged files.
"""

import struct
import zlib
from collections.abc import Iterator
from itertools import islice
from math import prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from alignvis.errors import AlignvisError

# How numbers are stored, and as what they are meant: numpy's types by the number that a file gives.
STORED = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
CLASSES = {6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8", 15: "u8"}
COMPLEX = 0x800  # a flag
MATRIX, COMPRESSED = 14, 15
VARIABLES = 1000  # in a file
TEXT = 124  # bytes of text that a file begins with, before its version


def read_matrices(path: Path, largest: int) -> dict[str, NDArray | None]:
    """Read every real matrix of numbers in a file, and the names of whatever else it holds.

    Args:
        largest: bytes that the file, what is unpacked from it, and the numbers may have; together with what it takes to
            read them, memory stays below six times that.

    Returns:
        By name: the numbers, of as many dimensions as the matrix has; none for texts, cells, structures, sparse and
        complex matrices.

    Raises:
        AlignvisError: when the file is missing, damaged, larger than that, or of another version.
    """
    try:
        size = path.stat().st_size
        if size > largest:
            raise AlignvisError(f"{path} has {size:,} bytes, and {largest:,} were expected at most; download it again")
        content = path.read_bytes()
    except OSError as error:
        raise AlignvisError(f"{path} could not be read ({error.strerror}); download it again") from error
    if content.startswith(b"MATLAB 7.3"):
        raise AlignvisError(f"{path} is a MATLAB file of version 7.3, and version 5 is read; save it again with -v7")
    try:
        return dict(matrices(content, largest))
    except (ValueError, struct.error, zlib.error) as error:
        raise AlignvisError(f"{path} is no whole MATLAB file of version 5 ({error}); download it again") from error


def matrices(content: bytes, largest: int) -> Iterator[tuple[str, NDArray | None]]:
    """Read the matrices in the bytes of a file, as `read_matrices` says.

    Raises:
        ValueError, struct.error, zlib.error: when the bytes are not those of a whole file.

    Source: MAT-File Format, MathWorks.
    """
    order = {b"IM": "<", b"MI": ">"}.get(content[TEXT + 2 : TEXT + 4])
    if order is None:
        raise ValueError("it does not begin like one")
    unpacked = read = 0
    for number, (kind, data) in enumerate(_elements(content[TEXT + 4 :], order)):
        if number >= VARIABLES:
            raise ValueError(f"it holds more than {VARIABLES} things")
        if kind == COMPRESSED:
            expander = zlib.decompressobj()
            expanded = expander.decompress(data, largest - unpacked) if unpacked < largest else b""
            unpacked += len(expanded)
            if not expander.eof:
                raise ValueError("it is cut, or larger than it should be")
            kind, data = next(_elements(expanded, order), (0, b""))
        if kind == MATRIX:
            name, matrix = _matrix(data, order, largest - read)
            read += 0 if matrix is None else matrix.nbytes
            yield name, matrix


def _matrix(data: bytes, order: str, largest: int) -> tuple[str, NDArray | None]:
    """The name and the numbers of one variable."""
    (_, flags), (_, shape), (_, name) = islice(_elements(data, order), 3)
    size = tuple(np.frombuffer(shape, f"{order}i4").tolist())
    (about,) = struct.unpack(f"{order}I", flags[:4])
    called = name.decode("ascii", "replace")
    meant = CLASSES.get(about & 0xFF)
    if meant is None or about & COMPLEX:
        return called, None
    stored, values = next(islice(_elements(data, order), 3, 4), (0, b""))
    if stored not in STORED:
        raise ValueError(f"the numbers of {called!r} are of the unknown type {stored}")
    if min(size, default=0) < 0 or prod(size) * np.dtype(STORED[stored]).itemsize != len(values):
        raise ValueError(f"{called!r} has shape {size}, and {len(values)} bytes of numbers")
    if prod(size) * np.dtype(meant).itemsize > largest:
        raise ValueError(f"{called!r} has shape {size}, which is larger than it should be")
    numbers = np.frombuffer(values, f"{order}{STORED[stored]}")
    return called, numbers.astype(meant).reshape(size, order="F")


def _elements(content: bytes, order: str) -> Iterator[tuple[int, bytes]]:
    """Split what a MATLAB file holds into data types and bytes; up to four bytes lie in the tag itself."""
    place = 0
    while place < len(content):
        kind, size = struct.unpack_from(f"{order}II", content, place)
        start = place + 8
        if kind >> 16:
            kind, size, start = kind & 0xFFFF, kind >> 16, place + 4
        if start + size > len(content):
            raise ValueError("it is cut")
        yield kind, content[start : start + size]
        # in the tag: two words in all; compressed: unpadded; else padded to whole double words
        place += 8 if start < place + 8 else 8 + size if kind == COMPRESSED else 8 + -(-size // 8) * 8
