"""Single vectors out of the bytes of small .npy files, and the things that are saved in a file's place by mistake."""

import re
from functools import lru_cache
from math import prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from alignvis.errors import AlignvisError

MAGIC = b"\x93NUMPY"
LARGEST = 2**22  # bytes of one picture's vector; the widest encoder known takes 16 KiB
HEADER = re.compile(
    rb"\{'descr': '([<>]f[248])', 'fortran_order': (True|False), 'shape': \(((?:\d{1,15}, ?)*\d{0,15})\),? ?\}\s*"
)


@lru_cache(maxsize=64)  # the thousands of files of one encoder have one header
def array_header(head: bytes) -> tuple[np.dtype, tuple[int, ...], bool, int] | None:
    """Read the header of a .npy file of floating-point numbers: dtype, shape, Fortran order, and where values begin.

    None when it is none, or describes something else. NumPy would parse it as Python.
    """
    if not head.startswith(MAGIC) or head[6:8] not in (b"\1\0", b"\2\0", b"\3\0"):
        return None
    start = 10 if head[6] == 1 else 12
    end = start + int.from_bytes(head[8:start], "little")
    fields = HEADER.fullmatch(head[start:end]) if end <= len(head) else None
    if fields is None:
        return None
    shape = tuple(int(length) for length in re.findall(rb"\d+", fields[3]))
    return np.dtype(fields[1].decode()), shape, fields[2] == b"True", end


def vector(data: bytes | memoryview, what: str) -> NDArray[np.floating]:
    """Read one picture's vector, (dim,), from the bytes of a .npy file of shape (dim,), (1, dim) or (1, 1, dim).

    Raises:
        AlignvisError: when it is something else, or cut.
    """
    if len(data) > LARGEST:
        raise AlignvisError(f"{what} has {len(data):,} bytes, too many for the vector of one picture; leave it out")
    start = 10 + int.from_bytes(data[8:10], "little")  # of version 1, and of version 2 up to 64 KiB
    header = array_header(bytes(data[: start + 2 * (data[6:7] != b"\1")]))
    if header is None:
        raise AlignvisError(f"{what} {_found(bytes(data[:512]))}")
    dtype, shape, _, start = header
    if not shape or prod(shape[:-1]) != 1 or not shape[-1]:
        raise AlignvisError(f"{what} holds an array of shape {shape}; expected one vector, as of one picture")
    if len(data) - start != prod(shape) * dtype.itemsize:
        raise AlignvisError(
            f"{what} has {len(data) - start:,} bytes for {prod(shape):,} numbers of {dtype}; it is cut or damaged: get "
            "it again"
        )
    return np.frombuffer(data, dtype, offset=start)


def refuse_stand_in(path: Path) -> bytes:
    """Refuse a file that only stands for the one that is wanted; return how a real one begins.

    Raises:
        AlignvisError: when it is missing, empty, a Git LFS pointer or a web page.
    """
    if path.exists() and not path.is_file():
        raise AlignvisError(f"{path} is no file; name one, or the folder of the embeddings")
    try:
        with open(path, "rb") as file:
            head = file.read(2**12)
    except OSError as error:
        raise AlignvisError(f"{path} could not be read ({error.strerror}); check its name and permissions") from error
    if not head or stand_in(head):
        raise AlignvisError(f"{path} {_found(head)}")
    return head


def stand_in(head: bytes) -> str | None:
    """Say what was saved in a file's place, and what to do; None if nothing was."""
    if head.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer, not the file itself; run `git lfs pull` where it comes from, or download it again"
    if head.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"<":
        return "is a web page, not the file: the download needed a browser or consent; open its address in a browser"
    return None


def _found(head: bytes) -> str:
    if not head:
        return "is empty; download it again"
    return (
        stand_in(head) or f"is no .npy file of floating-point numbers (it begins with {head[:8]!r}); download it again"
    )
