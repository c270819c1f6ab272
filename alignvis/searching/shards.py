"""The tables of a gallery: found, proved to hold what a run learned, and each picture counted once."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from glob import glob
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alignvis import store
from alignvis.errors import AlignvisError
from alignvis.files import stamp
from alignvis.progress import Progress, silent
from alignvis.searching.nearest import Shard

BUCKETS = 64  # files that the digests of ids are sorted into: memory holds those of one
ALIKE = 1e-3  # of their length: so much may two vectors of one picture differ that were computed on two machines
MOST_TWICE = 10_000_000  # pictures named more than once whose rows are kept in memory


@dataclass(frozen=True)
class Table:
    """One table of a gallery, without its image ids, which are read when they are needed.

    Attributes:
        stamp: when it last changed and its size, as `files.stamp`.
        first: the number of its first row in the gallery.
        about: what its header says, but for the ids.
    """

    shard: Shard
    stamp: tuple[int, int]
    first: int
    about: dict[str, Any]

    @property
    def path(self) -> Path:
        return self.shard.path


@dataclass(frozen=True)
class Gallery:
    """Tables that are searched as one.

    Attributes:
        places: (wanted,) int64, the rows of the pictures asked for, counted through all tables; -1 where there is none.
        left_out: rows that repeat an earlier picture, sorted.
    """

    tables: list[Table]
    places: NDArray[np.int64]
    left_out: NDArray[np.int64]


def find_tables(given: Sequence[str | Path]) -> list[Path]:
    """List the tables that files, folders and patterns like ``shards/*.safetensors`` name, each once.

    They stay in the order given; those of a folder or a pattern are sorted by name.

    Raises:
        AlignvisError: when one of them names no table.
    """
    found: dict[Path, Path] = {}
    for one in given:
        path = Path(one)
        if path.is_dir():
            paths = sorted(path.rglob("*.safetensors"))
            paths = [p for p in paths if not any(part.endswith(".parts") for part in p.relative_to(path).parts)]
        elif path.exists():
            paths = [path]
        else:
            paths = [Path(name) for name in sorted(glob(str(one)))]
        if not paths:
            what = "holds no features table" if path.is_dir() else "is no file, folder or pattern of features tables"
            raise AlignvisError(f"{one} {what}; name tables that `alignvis extract` made with --gallery")
        found |= {p.resolve(): p for p in paths if p.resolve() not in found}
    return list(found.values())


def open_tables(
    paths: Sequence[Path],
    features: store.Features,
    target: str,
    sides: str,
    wanted: Sequence[str],
    progress: Progress = silent,
) -> Gallery:
    """Read what the tables of a gallery say of themselves, one after the other.

    A picture that several tables name counts once, where it comes first; if its vectors are not the same, up to
    rounding, they are two pictures under one name, and nothing could be said of either.

    Args:
        features: the table that the run learned from.
        target: the tensor that it learned.
        sides: of the similarity.
        wanted: image ids whose places are asked for.

    Raises:
        AlignvisError: when a table is broken, or holds something else than the run learned; when class centres are to
            stand among pictures; when one id stands for two pictures.
    """
    tables: list[Table] = []
    places = np.full(len(wanted), -1, np.int64)
    asked = {image: place for place, image in enumerate(wanted)}
    first = 0
    try:
        with TemporaryDirectory(prefix="alignvis-ids-") as name, ExitStack() as opened:
            buckets = [opened.enter_context(open(Path(name) / str(number), "w+b")) for number in range(BUCKETS)]
            for number, path in enumerate(paths, 1):
                tables.append(_open(path, first, features, target, sides, asked, places, buckets if paths[1:] else ()))
                first += tables[-1].shard.rows
                progress(number, len(paths), "reading the names of the gallery")
            repeats = [pair for bucket in buckets for pair in _twice(bucket)]
    except OSError as error:
        if error.filename is not None:  # which says enough
            raise
        raise AlignvisError(
            f"the names of the gallery could not be sorted in {gettempdir()} ({error.strerror or error}); they take "
            f"{RECORD.itemsize} bytes a picture there: set TMPDIR to a folder with more room"
        ) from error
    centres = [table for table in tables if table.about.get("gallery")]
    if centres and len(centres) < len(tables):
        single = next(table for table in tables if not table.about.get("gallery"))
        raise AlignvisError(
            f"{centres[0].path} holds {centres[0].about['gallery']} and {single.path} single pictures, which are never "
            "one gallery; search them apart"
        )
    if not first:
        raise AlignvisError(f"the gallery is empty: {paths[0]} has no rows; extract some pictures")
    if not repeats:
        return Gallery(tables, places, np.empty(0, np.int64))
    earlier, later = (np.concatenate(part) for part in zip(*repeats, strict=True))
    if len(later) > MOST_TWICE:
        raise AlignvisError(f"the gallery names {len(later):,} images more than once; give every table once")
    order = np.argsort(later)
    _check_same(tables, earlier[order], later[order])
    return Gallery(tables, places, later[order])


def _open(
    path: Path,
    first: int,
    features: store.Features,
    target: str,
    sides: str,
    asked: Mapping[str, int],
    places: NDArray[np.int64],
    buckets: Sequence[Any],
) -> Table:
    """Read what one table says of itself; note where pictures asked for stand, and put digests of its ids apart."""
    when = stamp(path) if path.is_file() else (0, 0)
    document, arrays = store.read_table(path, "features", {"embeddings": ("F32", 2)})
    _check_fits(path, document, features, sides)
    if target not in store.vectors(arrays):
        raise AlignvisError(
            f"{path} holds no {target!r}, which the run learned; extract the pictures with the same --layers and --blur"
        )
    array, dim = arrays[target], features.embeddings.shape[1]
    if array.shape[1] != dim:
        raise AlignvisError(
            f"{path}: its {target} have {array.shape[1]} numbers, and the run learned {dim}; extract these "
            "pictures by the same encoder"
        )
    ids = document.pop("images")
    if len(ids) != len(array):
        raise AlignvisError(f"{path} has {len(array)} rows but names {len(ids)} images; make it again")
    # equal hashes are rare, and a set of the ids themselves would take as much memory again
    if len(np.unique(np.fromiter(map(hash, ids), np.int64, len(ids)))) < len(ids) and len(set(ids)) < len(ids):
        seen: set[str] = set()
        twice = next(image for image in ids if image in seen or seen.add(image))
        raise AlignvisError(f"{path} names the image {twice!r} more than once; make it again")
    for row, image in enumerate(ids):
        place = asked.get(image)
        if place is not None and places[place] < 0:
            places[place] = first + row
    try:
        for start in range(0, len(ids), 100_000):
            some = ids[start : start + 100_000]
            "".join(some).encode()
            if buckets:
                _sort_in(buckets, some, first + start)
    except UnicodeEncodeError as error:
        raise AlignvisError(f"{path} names an image that is no text (UTF-8); make it again") from error
    offset = int(getattr(array, "offset", 0))
    shard = Shard(path, len(array), dim, offset, name=lambda row: repr(ids_of(path)[row]))
    return Table(shard, when, first, document)


def _check_fits(path: Path, document: dict[str, Any], features: store.Features, sides: str) -> None:
    """Make sure that a table was made as the one that the run learned from, as far as both say."""
    known = features.document
    if document["encoder"] != known["encoder"]:
        raise AlignvisError(
            f"{path} holds features of {document['encoder']!r}, and the run learned those of {known['encoder']!r}; "
            f"extract these pictures with --encoder {known['encoder']}"
        )
    here, there = (_weights(one) for one in (document, known))
    if here and there and here != there:
        raise AlignvisError(
            f"{path} was made with other weights (sha256 {here[0][:12]}...) than {features.path} "
            f"({there[0][:12]}...), which the run learned; extract these pictures with the same weights"
        )
    keys = ["preprocessing", "level", *(["normalised"] if sides == "none" else [])]
    for key in keys:
        if key in document and key in known and document[key] != known[key]:
            raise AlignvisError(
                f"{path} was made with another {key} than {features.path}, which the run learned; extract these "
                "pictures in the same way"
            )


def _weights(document: dict[str, Any]) -> list[str]:
    """The sha256 of the files of weights that a table states."""
    stated = document.get("weights")
    found = [one.get("sha256") for one in stated if isinstance(one, dict)] if isinstance(stated, list) else []
    return sorted(one for one in found if isinstance(one, str))


def ids_of(path: Path) -> list[str]:
    """The image ids of a table."""
    return store.read_document(path, "features")["images"]


def holder(tables: Sequence[Table], row: int) -> Table:
    """The table that holds a row of the gallery: the last to begin by then, as an empty one begins with the next."""
    return tables[int(np.searchsorted([table.first for table in tables], row, side="right")) - 1]


def vectors_at(tables: Sequence[Table], rows: Sequence[int]) -> NDArray[np.float32]:
    """Read single rows of a gallery: (rows, dim)."""
    found = np.empty((len(rows), tables[0].shard.dim), np.float32)
    with ExitStack() as opened:
        files: dict[Path, Any] = {}
        for place in np.argsort(rows, kind="stable"):
            table = holder(tables, rows[place])
            if table.path not in files:
                opened.close()
                files = {table.path: opened.enter_context(open(table.path, "rb", buffering=0))}
            table.shard.read(files[table.path], rows[place] - table.first, found[place : place + 1])
    return found


def names_at(tables: Sequence[Table], rows: NDArray[np.int64]) -> list[str]:
    """The image ids of rows of a gallery, sorted by number."""
    names: list[str] = []
    for table in tables:
        start, stop = np.searchsorted(rows, [table.first, table.first + table.shard.rows])
        if stop > start:
            ids = ids_of(table.path)
            names += [ids[row - table.first] for row in rows[start:stop].tolist()]
    return names


RECORD = np.dtype([("digest", "S16"), ("row", "<i8")])


def _sort_in(buckets: Sequence[Any], ids: Sequence[str], first: int) -> None:
    """Put digest and number of every row into the file for digests that begin like its own."""
    raw = b"".join(hashlib.blake2b(image.encode(), digest_size=16).digest() for image in ids)
    digests = np.frombuffer(raw, np.uint8).reshape(-1, 16)
    records = np.empty(len(ids), RECORD)
    records.view(np.uint8).reshape(-1, 24)[:, :16] = digests
    records["row"] = first + np.arange(len(ids))
    for number, file in enumerate(buckets):
        file.write(records[digests[:, 0] % BUCKETS == number].tobytes())


def _twice(bucket: Any) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """First and later rows with one digest."""
    bucket.seek(0)
    records = np.frombuffer(bucket.read(), RECORD)
    raw = records.view(np.uint8).reshape(-1, 24)
    high, low = (np.ascontiguousarray(raw[:, part]).view("<u8")[:, 0] for part in (slice(0, 8), slice(8, 16)))
    order = np.lexsort((records["row"], low, high))
    high, low, row = high[order], low[order], records["row"][order]
    new = np.ones(len(row), bool)
    new[1:] = (high[1:] != high[:-1]) | (low[1:] != low[:-1])
    begun = np.maximum.accumulate(np.where(new, np.arange(len(row)), 0))
    if not new.all():
        yield row[begun[~new]].astype(np.int64), row[~new].astype(np.int64)


def _check_same(tables: Sequence[Table], earlier: NDArray[np.int64], later: NDArray[np.int64]) -> None:
    """Make sure that rows of one image id hold one picture."""
    for start in range(0, len(later), 10_000):
        pair = earlier[start : start + 10_000], later[start : start + 10_000]
        one, two = (vectors_at(tables, rows.tolist()).astype(np.float64) for rows in pair)
        apart = ~(np.linalg.norm(one - two, axis=1) <= ALIKE * np.linalg.norm(one, axis=1))
        for place in np.flatnonzero(apart)[:1]:
            places = [holder(tables, int(rows[place])) for rows in pair]
            image = ids_of(places[1].path)[int(pair[1][place]) - places[1].first]
            raise AlignvisError(
                f"{places[0].path} and {places[1].path} both name the image {image!r}, and their vectors of it differ, "
                "so these are two pictures under one name; rename one image set's folders, or search them apart"
            )
