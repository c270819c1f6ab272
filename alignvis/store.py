"""The two tables on disk: written whole or not at all, checked on reading, joined by image id.

Both tables are safetensors files whose header carries one JSON document under the key ``alignvis``. They are
filled through a memory map, header first, so a table may be larger than memory, and they carry the work's
progress themselves: a row of a ``*.sha256`` tensor that is not zero says that what it stands for is done. The
file is called ``<name>.partial`` until it is whole.
"""

import difflib
import hashlib
import json
import os
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import NoneType
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from alignvis.errors import AlignvisError
from alignvis.files import fits, hold, partial_name, release

VERSION = 1
HEADER_LIMIT = 100 * 2**20  # bytes; the limit that safetensors itself sets
DTYPES = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "U8": np.dtype("u1"), "I64": np.dtype("<i8")}
CODES = {dtype: code for code, dtype in DTYPES.items()}

FIELDS: dict[str, dict[str, Any]] = {  # of a document, by the kind of its table
    "features": {"encoder": str, "aligned": bool, "twin": (str, NoneType), "images": [str]},
    "responses": {"dataset": str, "subject": int, "channels": [str], "train_images": [str], "test_images": [str]},
    "similarity": {"queries": [str], "gallery": [str]},
}

Layout = Mapping[str, tuple[str, tuple[int, ...]]]  # name -> (numpy dtype, shape)


@dataclass(frozen=True)
class Features:
    """Embeddings of one image set by one image encoder.

    Attributes:
        embeddings: (images, dim) float32, un-normalised, mapped read-only.
        images: the image ids, one a row: paths below the image folder, with forward slashes.
    """

    path: Path
    document: dict[str, Any]
    images: list[str]
    embeddings: NDArray[np.float32]


@dataclass(frozen=True)
class Responses:
    """Brain responses of one subject to the training and the test images.

    Attributes:
        train, test: (images, repetitions, channels, times) float16 or float32, mapped read-only, in the unit that the
            document names.
        train_session, test_session: (images, repetitions) uint8, the session that each repetition was recorded in.
    """

    path: Path
    document: dict[str, Any]
    train_images: list[str]
    test_images: list[str]
    train: NDArray[np.floating]
    test: NDArray[np.floating]
    train_session: NDArray[np.uint8]
    test_session: NDArray[np.uint8]


# --- writing ---------------------------------------------------------------------------------------------------------


def begin(path: Path, layout: Layout, document: Mapping[str, Any]) -> dict[str, np.memmap]:
    """Open ``path.partial`` for filling: what an interrupted call left if it is of the same making, else a new one.

    Args:
        path: where the table will stand once it is whole.
        layout: the tensors, by name.
        document: everything known about the table beforehand; the same document means the same making.

    Returns:
        The tensors, mapped for reading and writing. A new file reads as zeros.

    Raises:
        AlignvisError: when the disk has no room, and nothing is left behind then; when another process is writing
            this table.
    """
    partial = partial_name(path)
    header = _header(layout, document)
    size = 8 + len(header) + sum(_bytes(dtype, shape) for dtype, shape in layout.values())
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = hold(partial)
    except OSError as error:
        raise AlignvisError(f"{path} could not be written ({error.strerror}); choose another --root") from error
    start = struct.pack("<Q", len(header)) + header
    if os.fstat(file.fileno()).st_size != size or file.read(len(start)) != start:
        try:
            file.truncate(0)
            # Room is taken now: a full disk met later, through the map, would kill the process with a signal.
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)
            else:
                file.truncate(size)
            file.seek(0)
            file.write(start)
            file.flush()
        except BaseException as error:
            discard(path)
            if isinstance(error, OSError):
                raise AlignvisError(
                    f"{path} needs {size / 1e6:,.1f} MB and could not be written ({error.strerror}); nothing was "
                    "kept; free some room or choose another --root"
                ) from error
            raise
    return _map(file, path, "r+")


def commit(path: Path) -> None:
    """Give a filled table its name: flushed to the disk first, so the name never stands for less than the whole."""
    partial = partial_name(path)
    with open(partial, "rb+") as file:
        os.fsync(file.fileno())
    os.replace(partial, path)
    release(partial)


def discard(path: Path) -> None:
    """Remove what an interrupted call left of a table."""
    partial_name(path).unlink(missing_ok=True)
    release(partial_name(path))


def write_table(path: Path, arrays: Mapping[str, NDArray], document: Mapping[str, Any]) -> None:
    """Write a table that fits in memory, whole or not at all."""
    maps = begin(path, {name: (array.dtype.str, array.shape) for name, array in arrays.items()}, document)
    try:
        for name, array in arrays.items():
            maps[name][...] = array
            maps[name].flush()
        commit(path)
    except BaseException:
        discard(path)
        raise


# --- reading ---------------------------------------------------------------------------------------------------------


def load_features(path: Path, tensor: str = "embeddings") -> Features:
    """Read a features table.

    Args:
        tensor: which of its tensors to take for the embeddings: "embeddings" are those of the encoder's end,
            "layer.6.patches", "blur.3" and so on what was kept beside them.

    Raises:
        AlignvisError: when the file is missing, truncated, of another kind or a newer version, when it does not have
            that tensor, when its rows and image ids do not agree, or when an embedding is not finite.
    """
    path = Path(path)
    document, arrays = read_table(path, "features", {"embeddings": ("F32", 2)})
    if tensor not in vectors(arrays):
        names = vectors(arrays)
        near = names if len(names) <= 6 else difflib.get_close_matches(tensor, names, n=4, cutoff=0.5) or names[:4]
        more = f" and {len(names) - len(near)} more" if len(names) > len(near) else ""
        raise AlignvisError(
            f"{path} holds no {tensor!r} (it holds {', '.join(near)}{more}); `alignvis extract` keeps more with "
            "--layers and --blur, and `alignvis check` lists what is there"
        )
    embeddings = arrays[tensor]
    if tensor == "embeddings" and document.get("dim", embeddings.shape[1]) != embeddings.shape[1]:
        raise AlignvisError(
            f"{path} holds embeddings of {embeddings.shape[1]} numbers, and its header states dim {document['dim']}; "
            "make it again"
        )
    images = _ids(path, document, "images", len(embeddings))
    if 0 in embeddings.shape:
        raise AlignvisError(
            f"{path} holds embeddings of shape {embeddings.shape}, so there is nothing in it; extract it again"
        )
    check_finite(path, images, embeddings)
    return Features(path, document, images, embeddings)


def check_finite(path: Path, images: Sequence[str], embeddings: NDArray[np.float32]) -> None:
    """Raise an AlignvisError when an embedding of a table is not finite."""
    # A sum is finite only if every term is; it reads the table once and needs no second array.
    broken = np.flatnonzero(~np.isfinite(embeddings.sum(axis=1, dtype=np.float64)))
    if len(broken):
        raise AlignvisError(
            f"{path}: the embeddings of {len(broken)} of {len(images)} images are not finite (the first is "
            f"{images[broken[0]]!r}); extract them again"
        )


def vectors(arrays: Mapping[str, NDArray]) -> list[str]:
    """The names of the tensors of a features table that hold a vector an image; "embeddings" first."""
    names = [name for name, array in arrays.items() if array.dtype == np.float32 and array.ndim == 2]
    return sorted(
        names, key=lambda name: (name != "embeddings", re.sub(r"\d+", lambda number: number[0].zfill(6), name))
    )


def load_responses(path: Path) -> Responses:
    """Read a responses table without loading it: the arrays are maps of the file.

    Raises:
        AlignvisError: when the file is missing, truncated, of another kind or a newer version, or when its shapes,
            image ids and channel names do not agree. Values are checked where they are read (`pairs.py`) or by
            `alignvis check`.
    """
    path = Path(path)
    layout = {"train": ("F16 F32", 4), "test": ("F16 F32", 4), "train.session": ("U8", 2), "test.session": ("U8", 2)}
    document, arrays = read_table(path, "responses", layout)
    ids = {part: _ids(path, document, f"{part}_images", len(arrays[part])) for part in ("train", "test")}
    channels = document.get("channels")
    for part in ("train", "test"):
        shape = arrays[part].shape
        if not isinstance(channels, list) or shape[2] != len(channels):
            raise AlignvisError(
                f"{path}: {part} has {shape[2]} channels but its header does not name {shape[2]}; make it again"
            )
        if arrays[f"{part}.session"].shape != shape[:2]:
            raise AlignvisError(f"{path}: the sessions of {part} do not have its shape {shape[:2]}; make it again")
        if 0 in shape[1:]:
            raise AlignvisError(f"{path}: {part} has shape {shape}, so there is nothing in it; make it again")
    if arrays["train"].shape[2:] != arrays["test"].shape[2:]:
        sizes = [" x ".join(map(str, arrays[part].shape[2:])) for part in ("train", "test")]
        raise AlignvisError(f"{path}: train has {sizes[0]} channels x times and test {sizes[1]}; make it again")
    shared = set(ids["train"]) & set(ids["test"])
    if shared:
        raise AlignvisError(
            f"{path}: {len(shared)} images are both training and test images (the first is {min(shared)!r}); "
            "a score on them would not be honest"
        )
    return Responses(path, document, ids["train"], ids["test"], *(arrays[name] for name in layout))


def read_table(
    path: Path, kind: str, expected: Mapping[str, tuple[str, int]]
) -> tuple[dict[str, Any], dict[str, np.memmap]]:
    """Read the document and map the tensors of any table of ours.

    Args:
        kind: what the document must call itself: "features", "responses", ...
        expected: tensors that must be there: name -> (safetensors dtypes allowed, number of dimensions).
    """
    document = read_document(path, kind)
    with open(path, "rb") as file:
        arrays = _map(file, path, "r")
    for name, (codes, dimensions) in expected.items():
        if name not in arrays:
            raise AlignvisError(f"{path} has no tensor called {name!r}, which every {kind} table has; make it again")
        array = arrays[name]
        if CODES[array.dtype] not in codes.split() or array.ndim != dimensions:
            raise AlignvisError(
                f"{path}: {name!r} is {CODES[array.dtype]} with shape {array.shape}; "
                f"expected {codes.replace(' ', ' or ')} with {dimensions} dimensions"
            )
    return document, arrays


def read_document(path: Path, kind: str | None = None) -> dict[str, Any]:
    """Read what a table says of itself, after safetensors has checked that the file is whole."""
    path = Path(path)
    if not path.is_file():
        raise AlignvisError(f"there is no file {path}")
    try:
        with safe_open(path, framework="numpy") as file:
            text = (file.metadata() or {}).get("alignvis")
    except (SafetensorError, OSError, ValueError) as error:
        raise AlignvisError(
            f"{path} is not a whole safetensors file ({error}); it is truncated or of another kind: make it again"
        ) from error
    if text is None:
        raise AlignvisError(
            f"{path} is a safetensors file but not a table of alignvis: its header has no 'alignvis' document"
        )
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise AlignvisError(f"{path}: its 'alignvis' document is not JSON ({error}); make it again") from error
    if not isinstance(document, dict) or not isinstance(document.get("version"), int):
        raise AlignvisError(f"{path}: its 'alignvis' document does not state a version; make it again")
    if document["version"] > VERSION:
        raise AlignvisError(
            f"{path} was written in format version {document['version']}, and this alignvis reads up to {VERSION}; "
            "update alignvis"
        )
    if kind is not None and document.get("table") != kind:
        raise AlignvisError(f"{path} is a {document.get('table')!r} table; a {kind!r} table was expected here")
    fields = FIELDS.get(str(document.get("table")), {})
    wrong = [key for key, pattern in fields.items() if not fits(document, {key: pattern})]
    if wrong:
        raise AlignvisError(f"{path}: its header does not state {', '.join(wrong)} as it should; make it again")
    return document


def fingerprint(path: Path) -> str:
    """Identify a table by all its bytes (hex sha256)."""
    status = Path(path).stat()
    return _digest(str(path), status.st_ino, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=256)
def _digest(path: str, inode: int, size: int, changed: int) -> str:
    """Read a file once as long as it stays the same: a grid of runs asks for the same tables again and again."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def rows(table: Features, wanted: Sequence[str], wanted_by: Path) -> NDArray[np.int64]:
    """Find the rows of images by their ids, in the order asked for.

    Raises:
        AlignvisError: when images are missing; the sentence says whether the table is of another image set altogether.
    """
    place = {image: row for row, image in enumerate(table.images)}
    missing = [image for image in wanted if image not in place]
    if len(missing) == len(wanted):
        raise AlignvisError(
            f"none of the {len(wanted)} images in {wanted_by} is in {table.path} "
            f"(it has, for example, {table.images[0]!r}; wanted, for example, {missing[0]!r}); "
            "these are tables of different image sets: extract features of the images that were shown"
        )
    if missing:
        raise AlignvisError(
            f"{len(missing)} of the {len(wanted)} images in {wanted_by} are not in {table.path} (the first is "
            f"{missing[0]!r}); extract features of the whole image set again"
        )
    return np.array([place[image] for image in wanted], dtype=np.int64)


# --- the bytes -------------------------------------------------------------------------------------------------------


def _bytes(dtype: str, shape: tuple[int, ...]) -> int:
    return np.dtype(dtype).itemsize * int(np.prod(shape, dtype=object))


def _header(layout: Layout, document: Mapping[str, Any]) -> bytes:
    entries: dict[str, Any] = {"__metadata__": {"alignvis": json.dumps(document, ensure_ascii=False, allow_nan=False)}}
    position = 0
    # Widest values first, so that every tensor starts at a multiple of its own item size.
    for name, (dtype, shape) in sorted(layout.items(), key=lambda item: (-np.dtype(item[1][0]).itemsize, item[0])):
        end = position + _bytes(dtype, shape)
        entries[name] = {"dtype": CODES[np.dtype(dtype)], "shape": list(shape), "data_offsets": [position, end]}
        position = end
    try:
        text = json.dumps(entries, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        name = error.object[max(0, error.start - 20) : error.end + 20]
        raise AlignvisError(f"there is a name that is not UTF-8 (near {name!r}); rename it") from error
    if len(text) > HEADER_LIMIT - 8:
        raise AlignvisError(
            f"the names of the rows take {len(text) / 1e6:,.0f} MB, and a table's header may have "
            f"{HEADER_LIMIT / 1e6:,.0f}; cut the image set into several"
        )
    return text + b" " * (-len(text) % 8)


def _map(file: IO[bytes], path: Path, mode: str) -> dict[str, np.memmap]:
    """Map every tensor of a file that safetensors has accepted, or that we have just laid out."""
    file.seek(0)
    (length,) = struct.unpack("<Q", file.read(8))
    entries = json.loads(file.read(length))
    arrays = {}
    for name, entry in entries.items():
        if name == "__metadata__":
            continue
        if entry["dtype"] not in DTYPES:
            raise AlignvisError(f"{path}: {name!r} is of type {entry['dtype']}; tables hold {', '.join(DTYPES)}")
        shape, dtype = tuple(entry["shape"]), DTYPES[entry["dtype"]]
        if 0 in shape:  # the operating system has no empty maps
            arrays[name] = np.empty(shape, dtype)
        else:
            arrays[name] = np.memmap(file, dtype, mode, 8 + length + entry["data_offsets"][0], shape)
    return arrays


def _ids(path: Path, document: Mapping[str, Any], key: str, count: int) -> list[str]:
    ids = document[key]
    if len(ids) != count:
        raise AlignvisError(f"{path} has {count} rows but names {len(ids)} images under {key!r}; make it again")
    if len(set(ids)) != len(ids):
        twice = next(image for image in ids if ids.count(image) > 1)
        raise AlignvisError(f"{path} names the image {twice!r} more than once; make it again")
    return ids
