"""Take one file or one folder out of a zip archive, whole or not at all, and nothing that leads elsewhere."""

import os
import shutil
import stat
import zipfile
import zlib
from pathlib import Path

from alignvis.errors import AlignvisError
from alignvis.images.containers import open_archive
from alignvis.progress import Progress, silent

EXPANSION = 20  # times the archive's own size; weights hardly shrink, so more than that is something else
CHUNK = 2**20  # bytes


def has_member(path: Path, member: str) -> bool:
    """Tell whether a file is a zip archive that holds ``member``, a file or (ending in "/") a folder."""
    with open(path, "rb") as file:
        if file.read(2) != b"PK":
            return False
    with open_archive(path) as archive:
        return any(_belongs(name, member) for name in archive.namelist())


def unpack(path: Path, member: str, target: Path, progress: Progress = silent) -> Path:
    """Take one member out of a zip archive.

    Args:
        member: a file in the archive, or a folder ending in "/".
        target: where it goes, under any name. What stands there already is kept, and must be the same.
        progress: told in bytes.

    Returns:
        The target.

    Raises:
        AlignvisError: when the archive is broken, lacks the member, or holds in it links, paths that lead elsewhere or
            more than 20 times its own size; when another file stands in the target's place; when the disk is full.
    """
    partial = target.with_name(f"{target.name}.partial")
    try:
        with open_archive(path) as archive:
            entries = _entries(path, archive, member)
            if target.exists():
                if all(_same(target / place, entry) for place, entry in entries.items()):
                    return target
                raise AlignvisError(f"{target} is not the {member} that {path} holds; remove the wrong one of the two")
            _discard(partial)
            done, total = 0, sum(entry.file_size for entry in entries.values())
            for place, entry in entries.items():
                (partial / place).parent.mkdir(parents=True, exist_ok=True)
                with archive.open(entry) as packed, open(partial / place, "wb") as file:
                    while part := packed.read(CHUNK):
                        file.write(part)
                        done += len(part)
                        progress(done, total, f"unpacking {target.name}")
                    file.flush()
                    os.fsync(file.fileno())
            os.replace(partial, target)
    except OSError as error:
        raise AlignvisError(
            f"{member} could not be taken out of {path} into {target} ({error.strerror}); nothing was kept"
        ) from error
    finally:
        _discard(partial)
    return target


def _belongs(name: str, member: str) -> bool:
    return name == member or (member.endswith("/") and name.startswith(member))


def _entries(path: Path, archive: zipfile.ZipFile, member: str) -> dict[str, zipfile.ZipInfo]:
    """Choose the files of a member, by their place below the target ("": the target itself)."""
    entries = {}
    for entry in archive.infolist():
        if not _belongs(entry.filename, member) or entry.is_dir():
            continue
        place = entry.filename.removeprefix(member)
        leads_out = {"", ".", ".."} & set(place.split("/")) if place else set()
        if leads_out or "\\" in place or ":" in place or stat.S_ISLNK(entry.external_attr >> 16):
            raise AlignvisError(
                f"{path} holds {entry.filename!r}, a link or a path that leads elsewhere, so it is not unpacked"
            )
        entries[place] = entry
    if not entries:
        raise AlignvisError(f"{path} does not hold {member}, so it is not the official archive; fetch that one")
    total = sum(entry.file_size for entry in entries.values())
    if total > EXPANSION * path.stat().st_size:
        raise AlignvisError(
            f"{path} claims to unpack to {total:,} bytes, more than {EXPANSION} times its size, so it is not unpacked"
        )
    return entries


def _same(file: Path, entry: zipfile.ZipInfo) -> bool:
    if not file.is_file() or file.stat().st_size != entry.file_size:
        return False
    code = 0
    with open(file, "rb") as opened:
        while part := opened.read(CHUNK):
            code = zlib.crc32(part, code)
    return code == entry.CRC


def _discard(partial: Path) -> None:
    if partial.is_dir():
        shutil.rmtree(partial)
    else:
        partial.unlink(missing_ok=True)
