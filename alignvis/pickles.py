"""Reads pickled NumPy files without unpickling them; large arrays stay memory maps."""

import os
import re
from pathlib import Path
from typing import Any

import numpy as np

from alignvis.errors import AlignvisError
from alignvis.pickle_machine import MAPPED, Left, Reader, dtype_of

MAGIC = b"\x93NUMPY"
SHAPE = r"\(((?:[0-9]{1,19}, ?)*[0-9]{0,19})\)"
FIELDS = r"\{'descr': ?'([<>|])([a-zA-Z0-9]+)', ?'fortran_order': ?(True|False), ?'shape': ?" + SHAPE + r",? ?\}\s*"


def read_pickled(path: Path) -> Any:
    """Read a .npy or .pkl file of plain data and NumPy arrays; nothing that the file names is run.

    Args:
        path: a plain .npy file, a .npy file around a pickle (`numpy.save` of a dict), or a pickle, protocol 2 to 5.

    Returns:
        What was saved, made of dict, list, tuple, str, bytes, int, float, bool, None, NumPy arrays and scalars. An
        object array without dimensions comes out as the object in it, a bytearray as bytes. Arrays of 1 MiB or more
        are read-only `numpy.memmap`s of the file, unless protocol 2 spelled them as text; smaller ones are in memory.

    Raises:
        AlignvisError: when the file is missing, truncated, or asks for anything but plain data; when its sizes, shapes
            and values contradict each other; when it holds more than 64 MiB outside of large arrays, more than two
            million opcodes, or containers nested deeper than 32 (or in themselves).

    Source: opcodes as in CPython's pickletools, header as in NumPy Enhancement Proposal 1. Admitted is what published
        recordings contain: no structured, complex or date arrays, no Python 2 strings, no long integers.
    """
    path = Path(path)
    reader = Reader(path, open_bytes(path))
    if reader.content[: len(MAGIC)].tobytes() != MAGIC:
        return reader.pickle()
    dtype, shape, order = _header(reader)
    if not dtype.hasobject:
        array = reader.array(Left(reader.content[reader.position :]), dtype, shape, order)
        return array if array.nbytes >= MAPPED else np.array(array)
    value = reader.pickle()
    if shape and (not isinstance(value, np.ndarray) or value.shape != shape):
        raise reader.refusal(f"ends an array that is not of the shape {shape} which its header declares")
    return value


def open_bytes(path: Path) -> np.memmap:
    """Map a file that must be there and hold something."""
    try:
        if not path.is_file():
            found = "is a folder or a device" if path.exists() else "does not exist"
            raise AlignvisError(f"{path} {found}; name a file")
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_size == 0:
                raise AlignvisError(f"{path} is empty; download it again")
            # One map for all arrays: a hostile file of a million arrays must not take a million maps.
            return np.memmap(file, np.uint8, "r")
    except OSError as error:
        raise AlignvisError(f"{path} could not be read ({error.strerror}); check permissions and disk") from error


def _header(reader: Reader) -> tuple[np.dtype, tuple[int, ...], str]:
    """Read the header of a .npy file: dtype (object: a pickle follows), shape and order."""
    version = reader.take(8)[6:]
    if version not in (b"\x01\x00", b"\x02\x00", b"\x03\x00"):
        raise reader.refusal(f"is of version {version[0]}.{version[1]} of the .npy format (1.0 to 3.0 are read)")
    size = reader.integer(2 if version == b"\x01\x00" else 4)
    text = reader.take(size).decode("latin-1")
    fields = re.fullmatch(FIELDS, text)
    dtype = dtype_of(fields[1], fields[2]) if fields else None
    if dtype is None:
        raise reader.refusal(f"has the header {text.strip()[:120]!r}, which describes no array of numbers or text")
    return (
        dtype,
        tuple(int(length) for length in re.findall("[0-9]+", fields[4])),
        "F" if fields[3] == "True" else "C",
    )
