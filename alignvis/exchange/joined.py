"""Embeddings of one encoder from wherever they came, with their image ids, and the features table made of them."""

import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import alignvis
from alignvis import store
from alignvis.errors import AlignvisError
from alignvis.images.catalogue import CATALOGUE
from alignvis.progress import Progress

CHUNK = 2**22  # bytes of embeddings looked at in one go
UNIT = 1e-3  # how far from 1 the norms of normalised embeddings are at most
HOW = ("versions", "claims")  # of the header: what may differ between two tables of the same files


@dataclass(frozen=True)
class Block:
    """Some rows of a table.

    Attributes:
        images: image ids, one a row.
        values: (images, dim) of any floating type, or whatever gives such rows for a slice; often a map of a file.
    """

    images: Sequence[str]
    values: Any

    def pieces(self) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        """Visit the rows in order, some at a time, as float32; numbers too large for it become infinite."""
        rows = max(1, CHUNK // (4 * self.values.shape[1]))
        for start in range(0, len(self.images), rows):
            part = slice(start, start + rows)
            with np.errstate(over="ignore"):
                yield part, np.asarray(self.values[part]).astype(np.float32)


@dataclass(frozen=True)
class Joined:
    """One encoder's embeddings.

    Attributes:
        blocks: together, every image once.
        files: of each file they are from, "file" (its name), "bytes" and, where it is one, "sha256".
        digests: (images, 32) uint8, in the order of the blocks: sha256 of each picture's own file; None where pictures
            share files.
        about: what else the header has to say.
        claims: sentences on what could not be checked.
        derived_from: the encoder whose embeddings went into these, if they are not its embeddings of the pictures.
    """

    encoder: str
    layout: str
    blocks: list[Block]
    files: list[dict[str, Any]]
    digests: NDArray[np.uint8] | None = None
    about: dict[str, Any] = field(default_factory=dict)
    claims: list[str] = field(default_factory=list)
    derived_from: str | None = None

    @property
    def dim(self) -> int:
        return self.blocks[0].values.shape[1]

    @property
    def images(self) -> list[str]:
        """The image ids, in the order of the blocks."""
        return [image for block in self.blocks for image in block.images]


def describe(path: Path) -> dict[str, Any]:
    """Say which file something is from: name, size and digest."""
    try:
        with open(path, "rb") as file:
            return {
                "file": path.name,
                "bytes": path.stat().st_size,
                "sha256": hashlib.file_digest(file, "sha256").hexdigest(),
            }
    except OSError as error:
        raise AlignvisError(f"{path} could not be read ({error.strerror}); check permissions and disk") from error


def header(joined: Joined, image_set: str, simulated: bool | None) -> dict[str, Any]:
    """What the table will say of itself; every value is looked at for it.

    Precision, preprocessing and weights are left out, as no layout states them.

    Raises:
        AlignvisError: when a value is not finite, or an image is there twice.
    """
    images = joined.images
    twice = next((image for image, count in Counter(images).items() if count > 1), None)
    if twice is not None:
        raise AlignvisError(
            f"{twice} is in {', '.join(entry['file'] for entry in joined.files[:3])} twice; give each file once"
        )
    made_by = joined.derived_from or joined.encoder
    row = CATALOGUE.get(made_by)
    claims = list(joined.claims)
    if row is None:
        claims.append(
            f"no encoder of this package is called {made_by!r}, so it is taken to be not aligned and without a twin"
        )
    elif row.dim != joined.dim:
        claims.append(
            f"these embeddings have {joined.dim} numbers, and those of {made_by} here have {row.dim}: the two "
            "are not the same"
        )
    document = {
        "version": store.VERSION,
        "table": "features",
        "image_set": image_set,
        "encoder": joined.encoder,
        "aligned": row.aligned if row else False,
        "twin": row.twin if row and joined.derived_from is None else None,
        "dim": joined.dim,
        "normalised": _survey(joined),
        "imported": {"layout": joined.layout, "files": joined.files},
        "versions": {"alignvis": alignvis.__version__, "numpy": np.__version__},
        "images": sorted(images, key=os.fsencode),
        **joined.about,
        "claims": claims,
    }
    return document if simulated is None else document | {"simulated": simulated}


def _survey(joined: Joined) -> bool:
    """Check that every value is finite, and tell whether every row has the norm 1."""
    normalised = True
    for block in joined.blocks:
        for part, values in block.pieces():
            squares = np.einsum("id,id->i", values, values, dtype=np.float64)
            broken = np.flatnonzero(~np.isfinite(squares))
            if len(broken):
                raise AlignvisError(
                    f"{', '.join(entry['file'] for entry in joined.files[:3])}: the embedding of "
                    f"{block.images[part.start + broken[0]]} by {joined.encoder} is not finite in float32; get the "
                    "file again from those who made it"
                )
            normalised &= bool((np.abs(np.sqrt(squares) - 1) <= UNIT).all())
    return normalised


def is_there(path: Path, joined: Joined, document: dict[str, Any], overwrite: bool) -> bool:
    """Whether the table to be made is there already.

    Raises:
        AlignvisError: when another one is, and may not be overwritten.
    """
    if overwrite or not path.exists():
        return False
    found, arrays = store.read_table(path, "features", {"embeddings": ("F32", 2)})
    differ = [key for key in document if key not in HOW and found.get(key) != document[key]]
    if not differ and joined.digests is not None:
        there = arrays.get("files.sha256")
        same = there is not None and np.array_equal(there[_places(joined, document)], joined.digests)
        differ = [] if same else ["the files of its pictures"]
    if differ:
        raise AlignvisError(
            f"{path} is a table of another making (it differs in: {', '.join(differ)}); --overwrite replaces it, "
            "another --image-set keeps both; files of one encoder that belong together are imported in one call"
        )
    return True


def write(path: Path, joined: Joined, document: dict[str, Any], progress: Progress) -> None:
    """Write the table, whole or not at all."""
    places = _places(joined, document)
    layout = {"embeddings": ("<f4", (len(places), joined.dim))}
    if joined.digests is not None:
        layout["files.sha256"] = ("|u1", joined.digests.shape)
    maps = store.begin(path, layout, document)
    try:
        done = 0
        for block in joined.blocks:
            for _, values in block.pieces():
                maps["embeddings"][places[done : done + len(values)]] = values
                done += len(values)
                progress(done, len(places), f"writing {joined.encoder}")
        if joined.digests is not None:
            maps["files.sha256"][places] = joined.digests
        for array in maps.values():
            array.flush()
        store.commit(path)
    except BaseException:
        store.discard(path)
        raise


def _places(joined: Joined, document: dict[str, Any]) -> NDArray[np.int64]:
    """The row of the table that each image of the blocks becomes."""
    row = {image: place for place, image in enumerate(document["images"])}
    return np.array([row[image] for image in joined.images], dtype=np.int64)
