"""The directory of a zip archive whose records are stored as they are, as torch writes it; records are never copied.

`zipfile` would believe what a hostile directory says about sizes and places, and take a kilobyte of memory for each of
its entries. Here everything is held against the file before it is used.
"""

import struct
from pathlib import Path

import numpy as np

from alignvis.errors import AlignvisError

END = struct.Struct("<4s4H2LH")  # end of central directory
END64 = struct.Struct("<4sQ2H2L4Q")
LOCATOR64 = struct.Struct("<4sLQL")
ENTRY = struct.Struct("<4s6H3L5H2L")
LOCAL = struct.Struct("<4s5H3L2H")
ENTRIES = 2**17  # of one archive; a features file with a tensor for each of 16,540 images has as many
NAMES = 2**24  # bytes of all names together
HIGHEST = 2**32 - 1  # stands for "see the 64-bit field"


def zip_records(path: Path, content: np.memmap) -> dict[str, np.memmap]:
    """Find the records of a zip archive.

    Args:
        content: (bytes,) uint8, a map of the file.

    Returns:
        Each record by its name, a part of the map.

    Raises:
        AlignvisError: when the archive is cut or damaged, when a record is compressed or encrypted, or when records lie
            on top of each other.
    """
    try:
        return _records(content)
    except ValueError as error:
        raise AlignvisError(
            f"{path} begins as a file of torch.save, but is cut or damaged ({error}); download it again, or load it "
            "with torch and save it again"
        ) from error


def _records(content: np.memmap) -> dict[str, np.memmap]:
    count, size, start = _directory(content)
    if count > ENTRIES:
        raise ValueError(f"its directory lists {count} records, and at most {ENTRIES} are read")
    if start + size > len(content):
        raise ValueError("its directory lies outside of it")
    directory = memoryview(content)[start : start + size]
    records: dict[str, np.memmap] = {}
    places: list[tuple[int, int]] = []
    position = names = 0
    for _ in range(count):
        if position + ENTRY.size > size:
            raise ValueError("its directory is shorter than its end says")
        signature, _, _, flags, method, *_, packed, length, name_size, extra, comment, _, _, _, offset = (
            ENTRY.unpack_from(directory, position)
        )
        position += ENTRY.size
        if signature != b"PK\1\2":
            raise ValueError("its directory is not where its end says")
        names += name_size
        if names > NAMES or position + name_size + extra + comment > size:
            raise ValueError("its directory is longer than it says")
        raw = bytes(directory[position : position + name_size])
        position += name_size
        length, packed, offset = _wide(directory[position : position + extra], length, packed, offset)
        position += extra + comment
        name = raw.decode("utf-8", "backslashreplace")
        if method or length != packed:
            raise ValueError(f"its record {name[:80]!r} is compressed")
        if flags & 1:
            raise ValueError(f"its record {name[:80]!r} is encrypted")
        if name in records:
            raise ValueError(f"it has two records {name[:80]!r}")
        begin = _begin(content, start, raw, offset)
        if begin + length > start:
            raise ValueError(f"its record {name[:80]!r} reaches beyond the others")
        records[name] = content[begin : begin + length]
        places.append((offset, begin + length))
    places.sort()
    if any(end > following for (_, end), (following, _) in zip(places, places[1:], strict=False)):
        raise ValueError("its records lie on top of each other")
    return records


def _directory(content: np.memmap) -> tuple[int, int, int]:
    """Find the directory: how many entries, how many bytes, and where. torch writes no comment behind the end."""
    last = len(content) - END.size
    if last < 0:
        raise ValueError("it ends before its directory")
    signature, *_, count, size, start, comment = END.unpack_from(content, last)
    if signature != b"PK\5\6" or comment:
        raise ValueError("it does not end with a directory of its records")
    if last >= LOCATOR64.size:
        signature, _, place, _ = LOCATOR64.unpack_from(content, last - LOCATOR64.size)
        if signature == b"PK\6\7":
            if place + END64.size > last:
                raise ValueError("its directory lies outside of it")
            signature, *_, count, size, start = END64.unpack_from(content, place)
            if signature != b"PK\6\6":
                raise ValueError("its directory is not where its end says")
    return count, size, start


def _wide(extra: memoryview, *values: int) -> list[int]:
    """Give the 64-bit fields in the place of those 32-bit ones that do not hold their value."""
    wanted = [index for index, value in enumerate(values) if value == HIGHEST]
    values = list(values)
    position = 0
    while wanted and position + 4 <= len(extra):
        kind, size = struct.unpack_from("<HH", extra, position)
        if kind == 1 and 8 * len(wanted) <= min(size, len(extra) - position - 4):
            for place, index in enumerate(wanted):
                (values[index],) = struct.unpack_from("<Q", extra, position + 4 + 8 * place)
            return values
        position += 4 + size
    return values


def _begin(content: np.memmap, end: int, name: bytes, offset: int) -> int:
    """Say where the bytes of a record begin, behind its own header."""
    if offset + LOCAL.size > end:
        raise ValueError(f"its record {name[:80]!r} is not where the directory says")
    signature, *_, name_size, extra = LOCAL.unpack_from(content, offset)
    begin = offset + LOCAL.size
    if signature != b"PK\3\4" or content[begin : begin + name_size].tobytes() != name:
        raise ValueError(f"its record {name[:80]!r} is not where the directory says")
    return begin + name_size + extra
