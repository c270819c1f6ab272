"""The embeddings that AlignVis publishes: one small .npy file for each picture and encoder, in folders or shards."""

import hashlib
import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from alignvis.errors import AlignvisError
from alignvis.exchange.archives import is_tar, tar_files
from alignvis.exchange.joined import Block, Joined, describe
from alignvis.exchange.shown import TOPS, Shown, check_known, left_over, of_published, unseen
from alignvis.exchange.small_arrays import LARGEST, vector
from alignvis.images.catalogue import CATALOGUE
from alignvis.progress import Progress
from alignvis.recordings.eeg2_files import IMAGE_FOLDERS, IMAGES

TREE, SHARDS = "alignvis-tree", "alignvis-shards"
BELOW = "image_embeddings"
PICTURE = re.compile(r"(.+?_\d{2}[a-z])_(.+)")  # the names of THINGS: aardvark_01b
ENCODER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+=-]{0,127}")  # becomes the name of a file
SUFFIX = ".jpg"  # of the pictures, where there are none to ask


def is_tree(path: Path) -> bool:
    """Tell whether a folder holds embeddings as AlignVis keeps them, itself or in its image_embeddings/."""
    folder = _base(path)
    return any(next(_walk(folder, top), None) is not None for top in TOPS)


def shards(path: Path) -> list[Path]:
    """The tar shards that a path stands for: itself, or those in the folder, as far as they hold embeddings."""
    tars = sorted(path.glob("*.tar")) if path.is_dir() else [path]
    tars = [tar for tar in tars if tar.is_file() and is_tar(tar)]
    return [tar for tar in tars if any(_place(name) for name, _ in tar_files(tar))]


def first_top(path: Path, layout: str) -> str:
    """The folder that the image ids of the first embedding begin with."""
    source = shards(path)[0] if layout == SHARDS else _base(path)
    return next(_places(source)).split("/")[0]


def gather(
    paths: Sequence[Path],
    layout: str,
    *,
    shown: Shown | None,
    encoder: str | None,
    scratch: Path,
    progress: Progress,
) -> list[Joined]:
    """Read every encoder's embeddings out of a tree or out of shards, in one pass over their bytes.

    Args:
        layout: "alignvis-tree" or "alignvis-shards".
        shown: the image set, if it is on this machine; without it pictures are taken to be .jpg.
        encoder: the only one to take; None takes all.
        scratch: an existing folder on the disk that the tables go to. Embeddings stay in a nameless file there, as big
            as the tables, until the result is dropped.

    Raises:
        AlignvisError: when a file is broken, names no encoder or an image that is not in the set, or when two files are
            of the same image and encoder, or of different sizes.
    """
    sources = [tar for path in paths for tar in shards(path)] if layout == SHARDS else [_base(path) for path in paths]
    found: dict[str, dict[str, int]] = {}  # by encoder, the row of each image
    once: dict[str, str] = {}  # an image id is held once, however many encoders have it
    for source in sources:
        for place in _places(source):
            image, name = _split(source, place, shown, encoder)
            if encoder in (None, name):
                rows = found.setdefault(name, {})
                if image in rows:
                    raise AlignvisError(f"{source} holds {place}, which was there already; give each file once")
                rows[once.setdefault(image, image)] = len(rows)
    if not found:
        names = f"no embeddings of {encoder!r}" if encoder else "no embeddings"
        raise AlignvisError(f"{sources[0]} holds {names}; its files are called <picture>_<encoder>.npy")
    claims = [f"no pictures were there to ask, so every image id is taken to end in {SUFFIX}"]
    if shown:
        check_known(sources[0], once, shown)
        claims = shown.claims

    with _room(scratch) as file:
        store = _Store(file)
        done, total = 0, sum(len(rows) for rows in found.values())
        for source in sources:
            for place, data in _contents(source):
                image, name = _split(source, place, shown, encoder)
                if encoder not in (None, name):
                    continue
                if image not in found.get(name, ()):
                    raise AlignvisError(f"{source} got {place} while it was read; import it again")
                store.put(name, found[name][image], len(found[name]), data, f"{source}: {place}")
                done += 1
                if done % 1000 == 0 or done == total:
                    progress(done, total, "reading embeddings")
        if done != total:
            raise AlignvisError(f"{sources[0]} lost {total - done} files while it was read; import it again")

        joined = []
        tars = [describe(tar) for tar in sources] if layout == SHARDS else []
        for name, rows in sorted(found.items()):
            mine = list(rows)
            files = tars or [
                {"file": ", ".join(source.name for source in sources), "files": len(rows), "bytes": store.sizes[name]}
            ]
            more = left_over(mine, shown) if shown else _unlike_published(mine)
            block = Block(mine, store.values(name))
            joined.append(Joined(name, layout, [block], files, store.digests[name], {}, [*claims, *more]))
    return joined


@contextmanager
def _room(folder: Path) -> Iterator[IO[bytes]]:
    """A nameless file; maps of it outlive it."""
    try:
        with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
            yield file
    except OSError as error:
        raise AlignvisError(f"{folder} has no room for the embeddings ({error.strerror}); free some") from error


class _Store:
    """Embeddings of several encoders, row by row in any order, in one file."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.end = 0
        self.regions: dict[str, tuple[int, np.dtype, tuple[int, int]]] = {}  # by encoder: where, of what, shape
        self.digests: dict[str, NDArray[np.uint8]] = {}
        self.sizes: dict[str, int] = {}  # bytes of an encoder's files

    def put(self, encoder: str, row: int, rows: int, data: bytes | memoryview, what: str) -> None:
        """Keep one vector; the first of an encoder says how long all are."""
        values = vector(data, what)
        if encoder not in self.regions:
            self.regions[encoder] = (self.end, values.dtype, (rows, len(values)))
            self.digests[encoder] = np.zeros((rows, 32), np.uint8)
            self.end += rows * values.nbytes
        start, dtype, (_, dim) = self.regions[encoder]
        if len(values) != dim or values.dtype != dtype:
            raise AlignvisError(
                f"{what} holds {len(values)} numbers of {values.dtype}, and others of {encoder} hold {dim} of {dtype}; "
                "these are not of one encoder: remove the wrong ones"
            )
        self.file.seek(start + row * values.nbytes)
        self.file.write(values.tobytes())
        self.sizes[encoder] = self.sizes.get(encoder, 0) + len(data)
        self.digests[encoder][row] = np.frombuffer(hashlib.sha256(data).digest(), np.uint8)

    def values(self, encoder: str) -> NDArray[np.floating]:
        """(rows, dim), mapped."""
        start, dtype, shape = self.regions[encoder]
        return np.memmap(self.file, dtype, "r", start, shape)


def _base(path: Path) -> Path:
    """The folder whose paths begin with one of `TOPS`."""
    return path / BELOW if (path / BELOW).is_dir() else path


def _places(source: Path) -> Iterator[str]:
    """The paths of the embeddings of a folder or a tar archive, beginning with one of `TOPS`."""
    if source.is_dir():
        for top in TOPS:
            yield from _walk(source, top)
    else:
        yield from (place for name, _ in tar_files(source) if (place := _place(name)))


def _contents(source: Path) -> Iterator[tuple[str, bytes | memoryview]]:
    """The same paths and what is in the files."""
    if not source.is_dir():
        yield from ((place, data) for name, data in tar_files(source) if (place := _place(name)))
        return
    for place in _places(source):
        try:
            with open(source / place, "rb") as file:
                data = file.read(LARGEST + 1)
        except OSError as error:
            raise AlignvisError(f"{source / place} could not be read ({error.strerror}); check permissions") from error
        yield place, data


def _walk(folder: Path, place: str, depth: int = 0) -> Iterator[str]:
    try:
        entries = sorted(os.scandir(folder / place), key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise AlignvisError(f"{folder / place} could not be read ({error.strerror}); check permissions") from error
    for entry in entries:
        if entry.name.endswith(".npy") and entry.is_file():
            yield f"{place}/{entry.name}"
        elif depth == 0 and entry.is_dir():  # concepts have no folders in them
            yield from _walk(folder, f"{place}/{entry.name}", depth + 1)


def _place(name: str) -> str | None:
    """The path of an embedding in an archive, from one of `TOPS` on; None for a file that is none."""
    parts = name.split("/")
    top = next((place for place, part in enumerate(parts) if part in TOPS), None)
    if top is None or not name.endswith(".npy") or len(parts) - top not in (2, 3):
        return None
    return "/".join(parts[top:])


def _split(source: Path, place: str, shown: Shown | None, encoder: str | None) -> tuple[str, str]:
    """Tell the image's id from the encoder's: the names of both may hold the "_" that is between them."""
    folder, _, name = place.removesuffix(".npy").rpartition("/")
    known = {encoder, *CATALOGUE}
    if shown:
        cuts = [cut for cut, letter in enumerate(name) if letter == "_" and ENCODER.fullmatch(name[cut + 1 :])]
        fits = [(image, name[cut + 1 :]) for cut in cuts if (image := shown.find(f"{folder}/{name[:cut]}"))]
        fits = [fit for fit in fits if len(fits) == 1 or fit[1] in known] or fits
        if len(fits) == 1:
            return fits[0]
        if fits:
            raise AlignvisError(
                f"{source} holds {place}, which may be {' or '.join(f'{image} by {by}' for image, by in fits[:3])}; "
                "name the encoder with --encoder"
            )
    if match := PICTURE.fullmatch(name):
        stem, made_by = match[1], match[2]
    else:
        made_by = max((id for id in known if id and name.endswith(f"_{id}")), key=len, default="")
        stem = name[: -len(made_by) - 1]
    if not stem or not ENCODER.fullmatch(made_by):
        raise AlignvisError(
            f"{source} holds {place}, whose name does not say where the picture's name ends and the encoder's begins; "
            "name the folder of the pictures with --images, or the encoder with --encoder"
        )
    return unseen(f"{folder}/{stem}", SUFFIX), made_by


def _unlike_published(images: Sequence[str]) -> list[str]:
    """Say how many images there are, where the published set is known and has another number."""
    tops = [image.split("/")[0] for image in images]
    counts = {part: tops.count(top) for part, top in IMAGE_FOLDERS.items()}
    return [f"the file {of_published(counts)}"] if any(counts.values()) and counts != IMAGES else []
