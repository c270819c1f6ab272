"""The skeleton of a FIF file: every tag is walked before any of them is believed."""

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import IO, NamedTuple

from alignvis.errors import AlignvisError

FILE_ID, DIRECTORY, BLOCK_START, BLOCK_END = 100, 101, 104, 105  # kinds of tags
INT, STRING, ID, DIG_STRING, MATRIX = 3, 10, 31, 36, 1 << 30  # types of what they hold
NEXT_NONE = -1  # in place of the next tag's position, in the last one
HEADER = struct.Struct(">iIii")

# What only a damaged file has: each tag costs a reader some hundred bytes, each block some lookups, each level a call.
MOST_TAGS, MOST_BLOCKS, DEEPEST = 300_000, 10_000, 100
LONGEST_TEXT = 2**24  # bytes
MOST_ITEMS = 1_000_000  # in a text that may be JSON
# Bytes of a value, by the lower half of a matrix's type: int, float, double, julian, complex float and double.
ITEM = {3: 4, 4: 4, 5: 8, 6: 4, 20: 8, 21: 16}
# Bytes of the structures that are read without a look at the tag's size: channel, id, point, transformation.
STRUCTURES = {30: 96, ID: 20, 33: 20, 35: 104}


class Tag(NamedTuple):
    """A tag's header, and the byte at which it begins; what it holds follows 16 bytes later."""

    kind: int
    type: int
    size: int
    next: int
    position: int


def check_fif(path: Path) -> list[Tag]:
    """Walk all tags of a FIF file, so that a reader that trusts them neither fails far away nor allocates gigabytes.

    Returns:
        The tags in the order of the file. One whose `next` is not `NEXT_NONE` at the end of the list says that the file
        stops without the mark that most programs end it with.

    Raises:
        AlignvisError: when it is no FIF file, when a tag reaches beyond the file or leads backwards, when a matrix does
            not have the size that its dimensions state, or when the directory names tags that are not there.

    Source: the format as mne reads it; Elekta Neuromag, "Functional Image File Format" (2008).
    """
    path = Path(path)
    if not path.is_file():
        broken = " (it is a link to a file that was not downloaded)" if path.is_symlink() else ""
        raise AlignvisError(f"there is no file {path}{broken}")
    try:
        with open(path, "rb", buffering=0) as file:
            return _walk(file, path)
    except OSError as error:
        raise AlignvisError(f"{path} cannot be read ({error.strerror}); check the disk and its permissions") from error


def read(path: Path, tag: Tag) -> bytes:
    """Read what a tag holds."""
    with open(path, "rb", buffering=0) as file:
        return _at(file, tag.position + HEADER.size, tag.size)


def integer(path: Path, tag: Tag) -> int:
    """Read a tag that holds one whole number."""
    if (tag.type, tag.size) != (INT, 4):
        raise _damaged(path, f"the tag of kind {tag.kind} at byte {tag.position:,} should hold one whole number")
    return struct.unpack(">i", read(path, tag))[0]


def _walk(file: IO[bytes], path: Path) -> list[Tag]:
    size = file.seek(0, 2)
    start = _at(file, 0, HEADER.size)
    if start[:2] == b"\x1f\x8b":
        raise AlignvisError(f"{path} is compressed; unpack it with gunzip first")
    if len(start) < HEADER.size or HEADER.unpack(start)[:3] != (FILE_ID, ID, 20):
        raise AlignvisError(f"{path} is no FIF file: it does not begin with a file id; download it again")
    tags: list[Tag] = []
    position, depth, blocks = 0, 0, 0
    while position != size:
        if position + HEADER.size > size:
            raise _damaged(path, f"it ends within the tag at byte {position:,}")
        tag = Tag(*HEADER.unpack(_at(file, position, HEADER.size)), position)
        end = position + HEADER.size + tag.size
        if tag.kind < 0 or tag.size < 0 or end > size:
            raise _damaged(
                path,
                f"the tag of kind {tag.kind} at byte {position:,} claims {tag.size:,} of the file's {size:,} bytes",
            )
        if tag.next not in (0, NEXT_NONE) and not end <= tag.next <= size:
            raise _damaged(path, f"the tag at byte {position:,} says that the next one is at byte {tag.next:,}")
        tags.append(tag)
        _check_content(file, path, tag)
        blocks += tag.kind == BLOCK_START
        depth += (tag.kind == BLOCK_START) - (tag.kind == BLOCK_END)
        if len(tags) > MOST_TAGS or blocks > MOST_BLOCKS or depth > DEEPEST:
            raise _damaged(path, f"it has more than {len(tags) - 1:,} tags, or blocks nested {depth} deep")
        if tag.next == NEXT_NONE:
            break
        position = tag.next or end
    if len(tags) < 2 or (tags[1].kind, tags[1].type, tags[1].size) != (DIRECTORY, INT, 4):
        raise _damaged(path, "its second tag is not the pointer to a directory")
    _check_directory(file, path, tags)
    return tags


def _check_content(file: IO[bytes], path: Path, tag: Tag) -> None:
    """Check what a reader believes about a tag's inside."""
    if tag.size == 0:
        return
    coding, item = tag.type & 0xFFFF0000, tag.type & 0xFFFF
    expected = None
    if coding == MATRIX and item in ITEM:
        tail = _at(file, tag.position + HEADER.size + max(0, tag.size - 16), min(16, tag.size))
        numbers = struct.unpack(f">{len(tail) // 4}i", tail[len(tail) % 4 :])
        dimensions = numbers[-1] if numbers else 0
        if not 1 <= dimensions < len(numbers):  # three at most
            raise _damaged(path, f"the matrix at byte {tag.position:,} claims {dimensions:,} dimensions")
        expected = ITEM[item]
        for length in numbers[-1 - dimensions : -1]:
            expected *= max(length, 0)
        expected += 4 * (dimensions + 1)
    elif coding > MATRIX and item in ITEM:
        tail = _at(file, tag.position + HEADER.size + max(0, tag.size - 16), min(16, tag.size))
        stored, rows, columns, dimensions = struct.unpack(">4i", tail) if len(tail) == 16 else (0, 0, 0, 0)
        lines = columns if coding & 0x00100000 else rows
        if dimensions != 2 or min(stored, rows, columns) < 0:
            raise _damaged(path, f"the sparse matrix at byte {tag.position:,} claims {dimensions:,} dimensions")
        expected = (ITEM[item] + 4) * stored + 4 * (lines + 1) + 16
    elif tag.type == DIG_STRING:
        count = struct.unpack(">i", _at(file, tag.position + HEADER.size + 8, 4))[0] if tag.size >= 12 else 0
        expected = 12 + 12 * count
    elif tag.type in STRUCTURES and tag.size < STRUCTURES[tag.type]:
        expected = STRUCTURES[tag.type]
    elif tag.type == STRING and tag.size > 2**20:
        text = _at(file, tag.position + HEADER.size, min(tag.size, LONGEST_TEXT))
        if tag.size > LONGEST_TEXT or sum(map(text.count, (b"{", b"[", b","))) > MOST_ITEMS:
            raise _damaged(
                path, f"the text at byte {tag.position:,} has {tag.size:,} bytes, more than a reader can use"
            )
    if expected is not None and expected != tag.size:
        raise _damaged(
            path, f"the tag of kind {tag.kind} at byte {tag.position:,} has {tag.size:,} bytes instead of {expected:,}"
        )


def _check_directory(file: IO[bytes], path: Path, tags: Sequence[Tag]) -> None:
    """Check that a directory, where there is one, names tags that were walked, in their order and each once."""
    by_position = {tag.position: tag for tag in tags}
    (start,) = struct.unpack(">i", _at(file, tags[1].position + HEADER.size, 4))
    if start <= 0:
        return
    directory = by_position.get(start)
    if directory is None:
        raise _damaged(path, f"its directory should be at byte {start:,}, where no tag begins")
    if directory.size > HEADER.size * (len(tags) + 1):
        raise _damaged(path, f"its directory has {directory.size:,} bytes for {len(tags):,} tags")
    last = -1
    for entry in struct.iter_unpack(
        HEADER.format, _at(file, start + HEADER.size, directory.size // HEADER.size * HEADER.size)
    ):
        kind, _, _, position = entry
        if entry == (-1, 0xFFFFFFFF, -1, -1):  # how some programs end it
            continue
        tag = by_position.get(position)
        if tag is None or tag.kind != kind or position <= last:
            raise _damaged(path, f"its directory names a tag of kind {kind} at byte {position:,}, which is not there")
        last = position


def _at(file: IO[bytes], position: int, size: int) -> bytes:
    file.seek(position)
    return file.read(size)


def _damaged(path: Path, what: str) -> AlignvisError:
    return AlignvisError(f"{path} is damaged or incomplete: {what}; download it again")
