"""Damaged files by the thousand: made by code from a whole one, and read in a process of its own that is watched.

`python -m tests.hostile READER COUNT SEED` prints a line of JSON for each damaged file, as it goes, so that whoever
started it sees which file ended the process.
"""

import json
import random
import re
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

EXTREMES = [
    0,
    1,
    0x7F,
    0x80,
    0xFF,
    0x7FFF,
    0xFFFF,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**40,
    2**62,
    2**63 - 1,
    2**63,
    2**64 - 1,
]
NEAR = 512  # bytes at either end of a file, where its structure tends to be


@dataclass(frozen=True)
class Reader:
    """Something that reads files.

    Attributes:
        build: write whole files into an empty folder, and name those that are to be damaged.
        read: read the folder as a user's command would, values too.
    """

    build: Callable[[Path], list[Path]]
    read: Callable[[Path], Any]


def damage(whole: bytes, chance: random.Random) -> bytes:
    """Damage a file in one or several ways."""
    data = bytearray(whole)
    for _ in range(chance.choice([1, 1, 1, 2, 5])):
        if not data:
            return bytes(data)
        chance.choice(WAYS)(data, chance)
    return bytes(data)


def _place(data: bytearray, chance: random.Random) -> int:
    """Anywhere, but more often near the ends."""
    near = min(NEAR, len(data))
    return chance.choice([chance.randrange(len(data)), chance.randrange(near), len(data) - 1 - chance.randrange(near)])


def _cut(data: bytearray, chance: random.Random) -> None:
    del data[_place(data, chance) :]


def _flip(data: bytearray, chance: random.Random) -> None:
    for _ in range(chance.choice([1, 1, 8])):
        data[_place(data, chance)] ^= 1 << chance.randrange(8)


def _overwrite(data: bytearray, chance: random.Random) -> None:
    at = _place(data, chance)
    data[at] = chance.randrange(256)


def _extreme(data: bytearray, chance: random.Random) -> None:
    """A number that a size or an offset never is."""
    at, width = _place(data, chance), chance.choice([1, 2, 4, 8])
    value = chance.choice(EXTREMES) % 256**width
    data[at : at + width] = value.to_bytes(width, chance.choice(["little", "big"]))


def _digits(data: bytearray, chance: random.Random) -> None:
    """A number in text becomes another one."""
    found = list(re.finditer(rb"-?[0-9]+", bytes(data[: 64 * NEAR])))
    if found:
        match = chance.choice(found)
        other = chance.choice([b"0", b"-1", b"9" * 9, b"9" * 19, b"9" * 400, b"1e999", b"nan", b"4294967296"])
        data[match.start() : match.end()] = other


def _drop(data: bytearray, chance: random.Random) -> None:
    at = _place(data, chance)
    del data[at : at + chance.choice([1, 2, 4, 16, 256])]


def _repeat(data: bytearray, chance: random.Random) -> None:
    at, size = _place(data, chance), chance.choice([1, 4, 16, 256])
    data[at:at] = data[at : at + size] * chance.choice([1, 2, 50])


def _move(data: bytearray, chance: random.Random) -> None:
    size = chance.choice([1, 4, 16, 64])
    here, there = _place(data, chance), _place(data, chance)
    data[here : here + size], data[there : there + size] = data[there : there + size], data[here : here + size]


def _words(data: bytearray, chance: random.Random) -> None:
    """Text that leads out of a folder, or names another type."""
    found = list(re.finditer(rb"[A-Za-z_/.]{3,}", bytes(data[: 64 * NEAR])))
    if found:
        match = chance.choice(found)
        word = chance.choice([b"../../x", b"/etc/passwd", b"os.system", b"\xff\xfe\xfd", b"O8", b"c16", b"F" * 5000])
        data[match.start() : match.end()] = word[: max(len(match[0]), 3)] if chance.random() < 0.5 else word


WAYS = [_cut, _cut, _flip, _flip, _overwrite, _extreme, _extreme, _digits, _drop, _repeat, _move, _words]


def damaged(paths: list[Path], count: int, seed: int) -> Iterator[tuple[Path, bytes]]:
    """Name a file and what to write into it instead: first cut at even steps, then damaged at random."""
    whole = {path: path.read_bytes() for path in paths}
    steps = max(1, count // (8 * len(paths)))
    cuts = [(path, data[: len(data) * step // steps]) for path, data in whole.items() for step in range(steps)]
    yield from cuts[:count]
    chance = random.Random(seed)
    for _ in range(count - len(cuts)):
        path = chance.choice(paths)
        yield path, damage(whole[path], chance)


def watch(reader: Reader, count: int, seed: int) -> Iterator[dict[str, Any]]:
    """Let a reader read damaged files, and say of each how that ended, how long it took and what memory."""
    from alignvis.errors import AlignvisError

    with TemporaryDirectory() as folder:
        paths = reader.build(Path(folder))
        whole = {path: path.read_bytes() for path in paths}
        reader.read(Path(folder))  # so that imports and caches are not charged to the first damaged file
        for number, (path, data) in enumerate(damaged(paths, count, seed)):
            path.write_bytes(data)
            before, begun = _memory(reset=True), time.monotonic()
            try:
                reader.read(Path(folder))
                ended = "read"
            except AlignvisError as error:
                ended = "refused" if "\n" not in str(error) else f"several lines: {error}"
            except BaseException as error:
                ended = f"{type(error).__name__}: {error}"
            seconds = time.monotonic() - begun
            above = max(0, _memory() - before - len(data))
            yield {"file": number, "name": path.name, "ended": ended, "seconds": seconds, "above": above}
            path.write_bytes(whole[path])


def _memory(reset: bool = False) -> int:
    """Most bytes that this process had in memory since the last reset."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+)", status)[1]) * 1024


if __name__ == "__main__":
    from tests.hostile_readers import READERS

    for result in watch(READERS[sys.argv[1]], int(sys.argv[2]), int(sys.argv[3])):
        print(json.dumps(result), flush=True)
