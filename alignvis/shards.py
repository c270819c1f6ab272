"""The tables of a gallery: found, proved to hold what a run learned, and each picture counted once."""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from glob import glob
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alignvis import store
from alignvis.errors import AlignvisError
from alignvis.files import stamp
from alignvis.progress import Progress, silent
from alignvis.search import Shard

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


def open_tables(paths: Sequence[Path], features: store.Features, target: str, sides: str) -> list[Table]:
    """Read what the tables of a gallery say of themselves.

    Args:
        features: the table that the run learned from.
        target: the tensor that it learned.
        sides: of the similarity.

    Raises:
        AlignvisError: when a table is broken, or holds something else than the run learned; when class centres are to
            stand among pictures.
    """
    tables: list[Table] = []
    first = 0
    for path in paths:
        when = stamp(path) if path.is_file() else (0, 0)
        document, arrays = store.read_table(path, "features", {"embeddings": ("F32", 2)})
        _check_fits(path, document, features, sides)
        if target not in store.vectors(arrays):
            raise AlignvisError(
                f"{path} holds no {target!r}, which the run learned; extract the pictures with the same --layers and "
                "--blur"
            )
        array = arrays[target]
        dim = features.embeddings.shape[1]
        if array.shape[1] != dim:
            raise AlignvisError(
                f"{path}: its {target} have {array.shape[1]} numbers, and the run learned {dim}; extract these "
                "pictures by the same encoder"
            )
        ids = document.pop("images")
        if len(ids) != len(array):
            raise AlignvisError(f"{path} has {len(array)} rows but names {len(ids)} images; make it again")
        if len(set(ids)) != len(ids):
            seen: set[str] = set()
            twice = next(image for image in ids if image in seen or seen.add(image))
            raise AlignvisError(f"{path} names the image {twice!r} more than once; make it again")
        offset = int(getattr(array, "offset", 0))
        shard = Shard(path, len(array), dim, offset, name=lambda row, path=path: repr(ids_of(path)[row]))
        tables.append(Table(shard, when, first, document))
        first += len(array)
    centres = [table for table in tables if table.about.get("gallery")]
    if centres and len(centres) < len(tables):
        single = next(table for table in tables if not table.about.get("gallery"))
        raise AlignvisError(
            f"{centres[0].path} holds {centres[0].about['gallery']} and {single.path} single pictures, which are never "
            "one gallery; search them apart"
        )
    if not first:
        raise AlignvisError(f"the gallery is empty: {paths[0]} has no rows; extract some pictures")
    return tables


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
    """The table that holds a row of the gallery."""
    return tables[int(np.searchsorted([table.first for table in tables], row, side="right")) - 1]


def vectors_at(tables: Sequence[Table], rows: Sequence[int]) -> NDArray[np.float32]:
    """Read single rows of a gallery: (rows, dim)."""
    found = np.empty((len(rows), tables[0].shard.dim), np.float32)
    # empty tables share their first row with the next one, and hold nothing
    tables = [table for table in tables if table.shard.rows]
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


def places_of(tables: Sequence[Table], wanted: Sequence[str], progress: Progress = silent) -> tuple[Any, Any]:
    """Find where pictures stand in a gallery, and which of its rows repeat an earlier one.

    A picture that several tables name counts once, where it comes first; if its vectors are not the same, up to
    rounding, they are two pictures under one name, and nothing could be said of either.

    Returns:
        (wanted,) int64, numbers of rows, -1 where there is none; and the numbers of the rows that repeat another,
        sorted.

    Raises:
        AlignvisError: when one id stands for two pictures.
    """
    rows = np.full(len(wanted), -1, np.int64)
    asked = {image: place for place, image in enumerate(wanted)}
    with TemporaryDirectory(prefix="alignvis-ids-") as name, ExitStack() as opened:
        buckets = [opened.enter_context(open(Path(name) / str(number), "w+b")) for number in range(BUCKETS)]
        for number, table in enumerate(tables, 1):
            ids = ids_of(table.path)
            for row, image in enumerate(ids) if asked else ():
                place = asked.get(image)
                if place is not None and rows[place] < 0:
                    rows[place] = table.first + row
            if len(tables) > 1:
                _sort_in(buckets, ids, table.first)
            progress(number, len(tables), "reading the names of the gallery")
        repeats = [pair for bucket in buckets for pair in _twice(bucket)] if len(tables) > 1 else []
    if not repeats:
        return rows, np.empty(0, np.int64)
    earlier, later = (np.concatenate(part) for part in zip(*repeats, strict=True))
    if len(later) > MOST_TWICE:
        raise AlignvisError(f"the gallery names {len(later):,} images more than once; give every table once")
    order = np.argsort(later)
    _check_same(tables, earlier[order], later[order])
    return rows, later[order]


RECORD = np.dtype([("digest", "S16"), ("row", "<i8")])


def _sort_in(buckets: Sequence[Any], ids: Sequence[str], first: int) -> None:
    """Put digest and number of every row into the file for digests that begin like its own."""
    for start in range(0, len(ids), 100_000):
        some = ids[start : start + 100_000]
        raw = b"".join(hashlib.blake2b(image.encode(), digest_size=16).digest() for image in some)
        records = np.empty(len(some), RECORD)
        records.view(np.uint8).reshape(-1, 24)[:, :16] = np.frombuffer(raw, np.uint8).reshape(-1, 16)
        records["row"] = first + start + np.arange(len(some))
        number = np.frombuffer(raw, np.uint8)[::16] % BUCKETS
        for bucket, file in enumerate(buckets):
            file.write(records[number == bucket].tobytes())


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
            tables_ = [table for table in tables if table.shard.rows]
            places = [holder(tables_, int(rows[place])) for rows in pair]
            image = ids_of(places[1].path)[int(pair[1][place]) - places[1].first]
            raise AlignvisError(
                f"{places[0].path} and {places[1].path} both name the image {image!r}, and their vectors of it differ, "
                "so these are two pictures under one name; rename one image set's folders, or search them apart"
            )
