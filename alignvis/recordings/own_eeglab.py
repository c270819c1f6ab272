"""Recordings saved by EEGLAB: a .set file of MATLAB's version 5, its samples inside or in a .fdt file beside it.

Read by hand and not by way of scipy, which ends the whole process with a signal on some damaged files; mne, which reads
them that way, also takes all samples into memory. Here they are mapped where they lie.
"""

import math
import mmap
import struct
import tempfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alignvis.errors import AlignvisError
from alignvis.matlab import COMPLEX, COMPRESSED, MATRIX, STORED

LETTERS = {1: "utf-8", 2: "utf-8", 4: "utf-16", 16: "utf-8", 17: "utf-16", 18: "utf-32"}
CELL, STRUCT, OBJECT, CHAR = 1, 2, 3, 4  # classes; the numbers are 6 to 15
DEEPEST = 4  # EEG, a field, a cell in it, what is in that
FIELDS = {"nbchan", "pnts", "trials", "srate", "data", "chanlocs", "event", "EEG"}
INNER = {"labels", "type", "latency", "duration"}
EXPANDS = 200  # a compressed recording is never so many times larger; a bomb is
SMALL = 2**24  # bytes; what is expanded may always have so many
REMEDY = "save it again in EEGLAB (as version 6, not 7.3), or download it again"


@dataclass(frozen=True)
class SetFile:
    """What a .set file holds.

    Attributes:
        data: (channels, samples), mapped, in microvolts.
        breaks: (breaks, 2) first sample and the one after the last of what no trial may touch; where the two are equal,
            the recording was interrupted before that sample.
        files: everything that was read.
    """

    data: NDArray[Any]
    channels: list[str]
    kinds: list[str]
    rate: float
    breaks: NDArray[np.int64]
    files: list[Path]


class Damaged(Exception):
    """The bytes are not what the format wants; the text says in what."""


def open_set(path: Path) -> SetFile:
    """Read what is known about a recording, and map its samples.

    Raises:
        AlignvisError: when the file is damaged, of MATLAB's version 7.3, or holds epochs instead of a recording.

    Source: MAT-File Format, MathWorks; the fields of EEG as EEGLAB's `eeg_checkset` documents them.
    """
    try:
        with open(path, "rb") as file:
            start = file.read(128)
            if start.startswith(b"MATLAB 7.3") or start.startswith(b"\x89HDF"):
                raise AlignvisError(f"{path} is saved in MATLAB's version 7.3; {REMEDY}")
            order = {b"IM": "<", b"MI": ">"}.get(start[126:128])
            if order is None:
                raise Damaged("it does not begin like a MATLAB file of version 5")
            whole = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        found = dict(_variables(whole, order))
        fields = found.get("EEG", found)
        if not isinstance(fields, list | dict):
            raise Damaged("what it calls EEG is no structure")
        if isinstance(fields, list):
            if len(fields) != 1:
                raise Damaged(f"it holds {len(fields)} recordings under the name EEG, not one")
            fields = fields[0]
        return _recording(path, fields)
    except Damaged as error:
        raise AlignvisError(f"{path} is no whole recording of EEGLAB: {error}; {REMEDY}") from error
    except (OSError, ValueError) as error:
        raise AlignvisError(f"{path} could not be read ({error}); {REMEDY}") from error


def _recording(path: Path, fields: dict[str, Any]) -> SetFile:
    trials = _single(fields.get("trials"))
    if trials > 1:
        raise AlignvisError(f"{path} holds {trials:g} epochs; give the recording from before they were cut")
    channels, samples, rate = (_number(fields, name) for name in ("nbchan", "pnts", "srate"))
    if not 0 < rate <= 1e6 or not all(1 <= size < 2**40 and size == int(size) for size in (channels, samples)):
        raise Damaged(f"it states {channels:g} channels, {samples:g} samples, {rate:g} of them a second")
    shape = (int(channels), int(samples))
    where = fields.get("chanlocs")
    if not isinstance(where, list) or len(where) != shape[0]:
        raise Damaged(f"it has {shape[0]} channels and names {len(where) if isinstance(where, list) else 0}")
    names = [place.get("labels") for place in where]
    if not all(isinstance(name, str) and name.strip() for name in names):
        raise Damaged("its channels are not all named")
    kinds = [place.get("type") for place in where]
    data, files = fields.get("data"), [path]
    if isinstance(data, str):
        inside = path.parent / data
        if "/" in data or "\\" in data or not inside.is_file():  # renamed since: EEGLAB looks for its own name too
            inside = path.with_suffix(".fdt")
        if not inside.is_file():
            raise AlignvisError(f"{path} keeps its samples in {data[:200]!r}, which is not beside it; put it there")
        if inside.stat().st_size != 4 * shape[0] * shape[1]:
            raise AlignvisError(
                f"{inside} has {inside.stat().st_size:,} bytes, and the {shape[0]} channels and {shape[1]} samples of "
                f"{path.name} take {4 * shape[0] * shape[1]:,}; copy both again"
            )
        files.append(inside)
        data = np.memmap(inside, "<f4", "r", shape=shape, order="F")
    if not isinstance(data, np.ndarray) or data.shape != shape:
        raise Damaged(f"it states {shape[0]} channels and {shape[1]} samples and holds {np.shape(data)}")
    breaks = _breaks(fields.get("event"), float(rate))
    return SetFile(
        data,
        [name.strip() for name in names],
        [kind.strip().lower() if isinstance(kind, str) and kind.strip() else "eeg" for kind in kinds],
        float(rate),
        breaks,
        files,
    )


def _breaks(events: Any, rate: float) -> NDArray[np.int64]:
    """Where samples were cut away, and what somebody marked as bad; latencies count samples from 1."""
    found = []
    for event in events if isinstance(events, list) else []:
        kind, latency, duration = event.get("type"), _single(event.get("latency")), _single(event.get("duration"))
        if not isinstance(kind, str) or not abs(latency) < 2**52:  # false for NaN too
            continue
        first = math.ceil(latency - 1)
        if kind.lower() == "boundary":  # its duration is that of what is gone
            found.append((first, first))
        elif kind.upper().startswith("BAD"):
            found.append((first, first + (math.ceil(duration) if 0 <= duration < 2**52 else 0)))
    return np.array(found, dtype=np.int64).reshape(-1, 2)


def _number(fields: dict[str, Any], name: str) -> float:
    value = _single(fields.get(name))
    if math.isnan(value):
        raise Damaged(f"it has no number called {name}")
    return value


def _single(value: Any) -> float:
    """The number in an array of one; NaN if that is not what it is."""
    return float(value.ravel()[0]) if isinstance(value, np.ndarray) and value.size == 1 else math.nan


# --- MATLAB's version 5 ----------------------------------------------------------------------------------------------


def _variables(whole: mmap.mmap, order: str) -> Iterator[tuple[str, Any]]:
    """The variables that matter, by name."""
    for kind, start, end in _elements(whole, order, 128, len(whole)):
        if kind == MATRIX:
            name, value = _matrix(whole, order, start, end, 0)
        elif kind == COMPRESSED:
            wider = _expand(whole, start, end)
            kind, start, end = next(_elements(wider, order, 0, len(wider)), (0, 0, 0))
            if kind != MATRIX:
                continue
            name, value = _matrix(wider, order, start, end, 0)
        else:
            continue
        if name in FIELDS:
            yield name, value


def _expand(whole: mmap.mmap, start: int, end: int) -> mmap.mmap:
    """Expand a compressed variable into a file without a name, and map that: memory need not hold it."""
    most = SMALL + EXPANDS * (end - start)
    with tempfile.TemporaryFile() as file:
        expander, size = zlib.decompressobj(), 0
        try:
            for place in range(start, end, 2**20):
                waiting = whole[place : min(place + 2**20, end)]
                while waiting and not expander.eof:
                    size += file.write(expander.decompress(waiting, 2**22))
                    waiting = expander.unconsumed_tail
                    if size > most:
                        raise Damaged(f"it expands to more than {EXPANDS} times its size")
        except zlib.error as error:
            raise Damaged(f"what it compressed does not expand ({error})") from error
        if not expander.eof or size < 8:
            raise Damaged("what it compressed is cut")
        file.flush()
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _elements(whole: mmap.mmap, order: str, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Split a stretch into data types and where their bytes begin and end; up to four bytes lie in the tag itself."""
    while start + 8 <= end:
        kind, size = struct.unpack_from(f"{order}II", whole, start)
        first = start + 8
        if kind >> 16:
            kind, size, first = kind & 0xFFFF, kind >> 16, start + 4
            if size > 4:
                raise Damaged(f"a short value at byte {start} has {size} bytes")
        if first + size > end:
            raise Damaged(f"what begins at byte {start} goes beyond the end")
        yield kind, first, first + size
        # in the tag: two words in all; compressed: unpadded; else padded to whole double words
        start += 8 if first < start + 8 else 8 + size if kind == COMPRESSED else 8 + -(-size // 8) * 8


def _matrix(whole: mmap.mmap, order: str, start: int, end: int, depth: int) -> tuple[str, Any]:
    """Read an array and its name: numbers as a map of them, letters as text, a structure as a list of dicts."""
    parts = _elements(whole, order, start, end)
    flags, shape, name = (next(parts, (0, 0, 0)) for _ in range(3))
    if flags[2] - flags[1] < 4 or shape[0] != 5 or name[0] not in (1, 2, 16) or (shape[2] - shape[1]) % 4:
        return "", None  # an empty matrix has no parts at all
    about = struct.unpack_from(f"{order}I", whole, flags[1])[0]
    size = [int(n) for n in np.frombuffer(whole, f"{order}i4", (shape[2] - shape[1]) // 4, shape[1])]
    called = whole[name[1] : name[2]].decode("utf-8", "replace")
    if not 2 <= len(size) <= 8 or min(size) < 0:
        raise Damaged(f"{called or 'an array'} has the shape {size}")
    if depth == 0 and called not in FIELDS:
        return called, None
    count, kind = math.prod(size), about & 0xFF
    if kind == STRUCT:
        return called, _structure(whole, order, parts, count, depth, FIELDS if called == "EEG" else INNER)
    if kind == CHAR:
        return called, _text(whole, order, next(parts, (0, 0, 0)))
    if not 6 <= kind <= 15 or about & COMPLEX:  # a cell, an object, complex numbers: nothing that is needed
        return called, None
    stored, first, last = next(parts, (0, 0, 0))
    if count and stored not in STORED:
        raise Damaged(f"{called or 'an array'} has numbers of the unknown type {stored}")
    if not count:
        return called, np.empty(size)
    dtype = np.dtype(f"{order}{STORED[stored]}")
    if count * dtype.itemsize != last - first:
        raise Damaged(f"{called or 'an array'} has the shape {size} and {last - first} bytes")
    return called, np.frombuffer(whole, dtype, count, first).reshape(size, order="F")


def _structure(
    whole: mmap.mmap, order: str, parts: Iterator[tuple[int, int, int]], count: int, depth: int, wanted: set[str]
) -> list[dict[str, Any]]:
    """The fields wanted of every element of a structure; those within it are of channels and events."""
    (_, first, last), (_, names, after) = (next(parts, (0, 0, 0)) for _ in range(2))
    width = struct.unpack_from(f"{order}i", whole, first)[0] if last - first == 4 else 0
    if not 1 <= width <= 256 or (after - names) % width:
        raise Damaged("the names of a structure's fields are damaged")
    fields = [
        whole[place : place + width].split(b"\0")[0].decode("ascii", "replace") for place in range(names, after, width)
    ]
    if depth >= DEEPEST or not fields:
        return []
    found: list[dict[str, Any]] = []
    for _ in range(count):
        values = {}
        for field in fields:
            kind, start, end = next(parts, (0, 0, 0))
            if kind != MATRIX:
                raise Damaged(f"its field {field} is missing")
            if field in wanted:
                values[field] = _matrix(whole, order, start, end, depth + 1)[1]
        found.append(values)
    return found


def _text(whole: mmap.mmap, order: str, part: tuple[int, int, int]) -> str:
    kind, first, last = part
    if kind not in LETTERS or last - first > 2**16:
        return ""
    code = LETTERS[kind] if LETTERS[kind] == "utf-8" else LETTERS[kind] + ("-le" if order == "<" else "-be")
    return whole[first:last].decode(code, "replace")
