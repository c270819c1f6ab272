"""Walks a tar archive without extracting it: names and bytes of its files, and a refusal of everything else."""

import mmap
from collections.abc import Iterator, Mapping
from pathlib import Path

from alignvis.errors import AlignvisError

BLOCK = 512  # bytes; a header takes one, and contents are filled up to whole ones
NAMES = 2**16  # bytes of a header that holds nothing but a long name or attributes
FILLING = 2**20  # zeros after the end mark
FILES, FOLDER = (b"0", b"\0", b"7"), b"5"
ATTRIBUTES, COMMON, LONG_NAME = b"x", b"g", b"L"
KINDS = {
    b"1": "a hard link",
    b"2": "a symbolic link",
    b"3": "a device",
    b"4": "a device",
    b"6": "a pipe",
    b"S": "sparse",
}


def is_tar(path: Path) -> bool:
    """Tell whether a file begins as a tar archive of POSIX or GNU does."""
    with open(path, "rb") as file:
        return file.read(BLOCK)[257:262] == b"ustar"


def tar_files(path: Path) -> Iterator[tuple[str, memoryview]]:
    """Walk the files of a tar archive, in their order.

    Yields:
        The path of each file in the archive, with forward slashes, and its bytes, which are not read until they are
        looked at.

    Raises:
        AlignvisError: when the archive is empty, cut or damaged, when it holds links, devices, sparse files or
            anything else that is not a plain file or a folder, or when a path leads out of the archive.

    Source: ustar and pax as in POSIX.1-2017 (pax, "Interchange Format"), long names as in the manual of GNU tar.
    """
    try:
        with open(path, "rb") as file:
            content = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except ValueError as error:  # the operating system has no empty maps
        raise AlignvisError(f"{path} is empty; download it again") from error
    except OSError as error:
        raise AlignvisError(f"{path} could not be read ({error.strerror}); check permissions and disk") from error
    position, attributes = 0, {}
    while True:
        header = bytes(content[position : position + BLOCK])
        if len(header) < BLOCK:
            raise AlignvisError(f"{path} ends at byte {len(content)} without the end mark of a tar archive; it is "
                                "truncated: download it again")  # fmt: skip
        if not any(header):
            return _check_end(path, content, position, attributes)
        _check_sum(path, header, position)
        kind, start = header[156:157], position + BLOCK
        size = _number(path, header[124:136], position)
        if kind in FILES and "size" in attributes:
            size = _decimal(path, attributes["size"], position)
        if size > len(content) - start:
            raise AlignvisError(
                f"{path} announces {size:,} bytes at byte {position} and has {len(content) - start:,} left; it is "
                "truncated: download it again"
            )
        body = content[start : start + size]
        position = start + -(-size // BLOCK) * BLOCK
        if kind in (ATTRIBUTES, COMMON, LONG_NAME):
            attributes |= _attributes(path, kind, body, start)
            continue
        name = _name(path, header, attributes)
        attributes = {}
        if kind not in (*FILES, FOLDER) or (kind == FOLDER and size):
            what = KINDS.get(kind, f"of the kind {kind!r}")
            raise AlignvisError(
                f"{path} holds {name[:200]!r}, which is {what}; such an archive is not read: only plain files and "
                "folders are expected in it"
            )
        if kind != FOLDER:
            yield _inside(path, name), body


def _check_sum(path: Path, header: bytes, position: int) -> None:
    stated = _number(path, header[148:156], position)
    if stated != sum(header) - sum(header[148:156]) + 8 * ord(" "):
        raise AlignvisError(
            f"{path} has no whole tar header at byte {position} (its sum is wrong); it is damaged: download it again"
        )


def _check_end(path: Path, content: memoryview, position: int, attributes: Mapping[str, str]) -> None:
    rest = len(content) - position
    if attributes or rest > FILLING or any(bytes(content[position:])):
        found = "attributes of a file that does not follow" if attributes else f"{rest:,} bytes after its end mark"
        raise AlignvisError(f"{path} has {found}; it is damaged or two archives in one: download it again")


def _number(path: Path, field: bytes, position: int) -> int:
    """Read a number of a header: octal digits, or (of GNU) binary after a byte of 0x80."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    digits = field.strip(b" \0")
    if not digits or digits.strip(b"01234567"):
        raise AlignvisError(
            f"{path} has {field!r} in place of a number in the tar header at byte {position}; it is damaged: download "
            "it again"
        )
    return int(digits, 8)


def _decimal(path: Path, text: str, position: int) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 19:
        raise AlignvisError(
            f"{path} states a size of {text[:40]!r} near byte {position}; it is damaged: download it again"
        )
    return int(text)


def _attributes(path: Path, kind: bytes, body: memoryview, start: int) -> dict[str, str]:
    """Read what stands before a header in its place: path and size, the only attributes that matter here."""
    if len(body) > NAMES:
        raise AlignvisError(
            f"{path} has attributes of {len(body):,} bytes at byte {start} (at most {NAMES:,}); such an archive is not "
            "read: pack it again"
        )
    data = bytes(body)
    found = {}
    try:
        if kind == LONG_NAME:
            return {"path": data.rstrip(b"\0").decode()}
        at = 0
        while at < len(data):
            space = data.index(b" ", at, at + 8)
            length = int(data[at:space])
            key, value = data[space + 1 : at + length].split(b"=", 1)
            if not 5 <= length <= len(data) - at or value[-1:] != b"\n":
                raise ValueError("its lengths do not fit")
            found[key.decode()] = value[:-1].decode()
            at += length
    except ValueError as error:  # UnicodeDecodeError is one
        raise AlignvisError(
            f"{path} has damaged attributes at byte {start} ({str(error)[:80]}); download it again"
        ) from error
    sparse = next((key for key in found if key.startswith("GNU.sparse")), None)
    if sparse or (kind == COMMON and {"path", "size"} & set(found)):
        what = "a sparse file" if sparse else "one path or size for all files"
        raise AlignvisError(f"{path} announces {what} at byte {start}; such an archive is not read: pack it again")
    return {key: value for key, value in found.items() if key in ("path", "size")}


def _name(path: Path, header: bytes, attributes: Mapping[str, str]) -> str:
    if "path" in attributes:
        return attributes["path"]
    parts = [header[:100]]
    if header[257:263] == b"ustar\0":  # GNU keeps times where POSIX keeps the first part of a long path
        parts.insert(0, header[345:500])
    try:
        return "/".join(part.split(b"\0")[0].decode() for part in parts if part[0])
    except UnicodeDecodeError as error:
        raise AlignvisError(f"{path} holds a name that is not UTF-8; pack it again") from error


def _inside(path: Path, name: str) -> str:
    parts = [part for part in name.split("/") if part != "."]
    if not parts or {"", ".."} & set(parts) or {"\\", "\0"} & set(name) or ":" in parts[0]:
        raise AlignvisError(
            f"{path} holds {name[:200]!r}, a path that leads elsewhere, so it is not read; get another from its authors"
        )
    return "/".join(parts)
