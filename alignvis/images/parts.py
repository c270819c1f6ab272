"""A features table in parts, so that many processes can fill it and what one leaves behind is another's to finish.

A part is a table of its own with the rows of some consecutive pictures, ``<table>.parts/<first row>``. Who has its
lock fills it; a part under its final name is whole. When all are, they become the table.
"""

import json
import os
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alignvis.errors import AlignvisError
from alignvis.files import partial_name, release
from alignvis.images.brick import Reader, in_brick
from alignvis.images.making import Making
from alignvis.images.pixels import read, stamp
from alignvis.progress import Progress, silent
from alignvis.store import begin, commit, discard, read_document, read_table

PART = 512  # pictures, about: what a process takes at a time


@dataclass
class Part:
    """A part that this process fills.

    Attributes:
        maps: its tensors, mapped from the unfinished file. A row whose digest (or, of a broken picture, stamp) is not
            zero is done.
        waiting: digests and stamps of rows that are computed but not yet on the disk.
        left: batches to come.
    """

    path: Path
    rows: slice
    maps: dict[str, np.memmap]
    waiting: list[tuple[slice, NDArray, NDArray]] = field(default_factory=list)
    left: int = 0

    def lacks(self, rows: slice, skip_bad: bool) -> bool:
        """Whether any of these rows, counted in the whole table, is still to be made."""
        within = self._within(rows)
        done = self.maps["images.sha256"][within].any(axis=1)
        if skip_bad:
            done |= self.maps["images.stamp"][within].any(axis=1)
        return not done.all()

    def put(self, rows: slice, tensors: dict[str, NDArray], digests: NDArray, stamps: NDArray) -> None:
        within = self._within(rows)
        for name, tensor in tensors.items():
            self.maps[name][within] = tensor
        self.waiting.append((within, digests, stamps))
        self.left -= 1

    def checkpoint(self) -> None:
        """Bring embeddings to the disk, and only then the digests that vouch for them."""
        if self.waiting:
            vouching = [self.maps["images.sha256"], self.maps["images.stamp"]]
            for tensor in self.maps.values():
                if not any(tensor is one for one in vouching):
                    tensor.flush()
            for within, *values in self.waiting:
                for tensor, value in zip(vouching, values, strict=True):
                    tensor[within] = value
            for tensor in vouching:
                tensor.flush()
            self.waiting.clear()

    def finish(self) -> None:
        self.checkpoint()
        commit(self.path)

    def leave(self) -> None:
        """Let another process, or the next call, go on with it; room that holds no work is given back."""
        self.checkpoint()
        if self.maps["images.sha256"].any():
            release(partial_name(self.path))
        else:
            self.drop()

    def drop(self) -> None:
        """Give back the room of a part that nobody needs."""
        discard(self.path)
        _tidy(self.path.parent)

    def _within(self, rows: slice) -> slice:
        return slice(rows.start - self.rows.start, rows.stop - self.rows.start)


def cut(count: int, batch: int) -> list[slice]:
    """Cut rows into parts whose borders are borders of batches too, so that batches are the same however it is cut."""
    size = max(1, PART // batch) * batch
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]


def folder_of(making: Making) -> Path:
    """Where its parts lie; those of a table that is made otherwise, perhaps at this moment, lie elsewhere."""
    said = {key: value for key, value in making.document.items() if key != "images"}
    digest = sha256(json.dumps([said, making.sizes], sort_keys=True).encode()).hexdigest()[:12]
    return making.path.with_name(f"{making.path.name}.parts") / digest


def path_of(making: Making, rows: slice) -> Path:
    """Where the part with these rows lies once it is whole."""
    return folder_of(making) / f"{rows.start:09}"


def claim(making: Making, rows: slice, images: Path, pool: ThreadPoolExecutor, skip_bad: bool = True) -> Part | None:
    """Take a part to work on; what an interrupted call left of it is continued.

    Rows whose pictures have changed since are made again.

    Args:
        skip_bad: whether a part is whole without the pictures that could not be read.

    Returns:
        None when the part is whole.

    Raises:
        files.Busy: when another process is at work on it.
        AlignvisError: when the disk has no room.
    """
    path = path_of(making, rows)
    document = {**making.document, "table": "part", "images": making.images[rows], "first": rows.start}
    if path.exists():
        if _is_current(path, document, images, skip_bad):
            return None
        with suppress(FileNotFoundError):  # where another process sees the same at the same time
            os.replace(path, partial_name(path))
    maps = begin(path, making.layout(rows.stop - rows.start), document)
    if path.exists():  # it was finished between the two looks
        discard(path)
        return None
    digests, stamps = maps["images.sha256"], maps["images.stamp"]
    changed, now = compare(images, making.images[rows], digests, stamps, pool)
    digests[changed], stamps[changed] = 0, 0
    seen = digests.any(axis=1)
    stamps[seen] = now[seen]
    stamps[~seen & (stamps != now).any(axis=1)] = 0  # a broken picture that was mended
    return Part(path, rows, maps)


def _is_current(path: Path, document: dict[str, Any], images: Path, skip_bad: bool) -> bool:
    """Whether a part that is whole is of this making, lacks no picture, and its pictures are untouched since."""
    try:
        if read_document(path, "part") != document:
            return False
        _, maps = read_table(path, "part", {"images.stamp": ("I64", 2), "images.sha256": ("U8", 2)})
    except AlignvisError:
        return False
    if not skip_bad and not maps["images.sha256"].any(axis=1).all():
        return False
    return bool((maps["images.stamp"] == stamps_of(images, document["images"])).all())


def stamps_of(images: Path, ids: Sequence[str]) -> NDArray[np.int64]:
    """The stamp of each picture's file, (pictures, 2)."""
    if images.is_file():  # a brick
        return np.tile(np.array(stamp(images), np.int64), (len(ids), 1))
    return np.array([stamp(f"{images}/{image}") for image in ids], np.int64).reshape(-1, 2)


def compare(
    images: Path,
    ids: Sequence[str],
    digests: NDArray,
    stamps: NDArray,
    pool: ThreadPoolExecutor,
    progress: Progress = silent,
) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Find the pictures that are not what they were when their row was made.

    Only those whose stamp differs are read.

    Returns:
        (pictures,) bool, and the stamps of now.
    """
    now = stamps_of(images, ids)
    suspects = np.flatnonzero(digests.any(axis=1) & (now != stamps).any(axis=1))
    changed = np.zeros(len(ids), bool)
    with Reader() as reader:
        found = pool.map(lambda row: _digest(images / ids[row], reader), suspects)
        for number, (row, digest) in enumerate(zip(suspects, found, strict=True), 1):
            changed[row] = digests[row].tobytes() != digest
            progress(number, len(suspects), f"checking the pictures of {images.name}")
    return changed, now


def _digest(path: Path, reader: Reader) -> bytes:
    try:
        return sha256(reader.pixels(path) if in_brick(path) else read(path)).digest()
    except AlignvisError:
        return b""  # not what it was; the pass reads it again and says why


def merge(making: Making, cuts: Sequence[slice], more: dict[str, Any]) -> None:
    """Make the table of its parts, without the rows of pictures that could not be read, and remove the parts.

    Args:
        more: what is to be added to the document.

    Raises:
        files.Busy: when another process is joining them.
        AlignvisError: when no picture could be read, the disk has no room, or another process has removed the parts.
    """
    good = [read_table(path_of(making, rows), "part", {})[1]["images.sha256"].any(axis=1) for rows in cuts]
    keep = np.concatenate(good)
    if not keep.any():
        shutil.rmtree(folder_of(making))
        _tidy(folder_of(making))
        raise AlignvisError(
            f"none of the pictures of {making.document['image_set']} can be read, so there is nothing to embed; check "
            "the folder"
        )
    kept, skipped = ([making.images[row] for row in np.flatnonzero(rows)] for rows in (keep, ~keep))
    about = {**making.document, **more, "images": kept, "skipped": skipped}
    maps = begin(making.path, making.layout(len(kept)), about)
    try:
        place = 0
        for rows, whole in zip(cuts, good, strict=True):
            _, part = read_table(path_of(making, rows), "part", {})
            count = int(whole.sum())
            for name, tensor in maps.items():
                tensor[place : place + count] = part[name][whole]
            place += count
        for tensor in maps.values():
            tensor.flush()
        commit(making.path)
    except BaseException:
        discard(making.path)
        raise
    shutil.rmtree(folder_of(making), ignore_errors=True)
    _tidy(folder_of(making))


def _tidy(folder: Path) -> None:
    """Remove the folder of a making and the one around it, where nothing else lies in them."""
    for empty in (folder, folder.parent):
        with suppress(OSError):
            empty.rmdir()
