"""Which rows are which pictures where a file does not say, and class centres told from embeddings of single images."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alignvis.errors import AlignvisError
from alignvis.exchange.feature_layouts import NICE, Rows
from alignvis.exchange.shown import Shown

SAME = 1e-4  # cosines this near to 1 in every row: the same embeddings, up to rounding and length
CENTRES = "class centres"


@dataclass(frozen=True)
class Placed:
    """Rows, and what each is of.

    Attributes:
        names: image ids, or of class centres the concepts' folders.
    """

    rows: Rows
    names: list[str]
    centres: bool
    claims: tuple[str, ...] = ()


def place(files: list[Rows], layout: str, shown: Shown, reference: Any) -> tuple[list[Placed], list[str]]:
    """Match the rows of files that name no images with the image set, by their numbers.

    NICE writes two files of as many rows as there are test images: embeddings of these very images, and centres of
    their concepts, each the mean over other pictures. Names do not tell them apart (one project ships the first under
    the name of the second), so content does where it can: where embeddings of the test images are known, rows that
    point the same way are these, and other rows are centres.

    Args:
        files: of one encoder.
        reference: (test images, dim) embeddings of the test images in their order that are known already, or None.

    Returns:
        The files, less those that repeat another; sentences on what was left out.

    Raises:
        AlignvisError: when the rows fit neither part of the set, or two files are for the same images and differ.
    """
    placed: list[Placed] = []
    unclear: list[Rows] = []
    for rows in files:
        count = len(rows.values)
        parts = [part for part, images in shown.ordered.items() if len(images) == count]
        concepts = [part for part in shown.ordered if len(shown.concepts(part)) == count and part not in parts]
        if len(parts) == 2:
            parts = [part for part in parts if part in rows.path.name] or parts
        if parts and len(rows.stored) == 3:  # images of a concept beside each other, never the other way round
            folders = len(shown.concepts(parts[0]))
            parts = parts if rows.stored[:2] in ((count, 1), (folders, count // folders)) else []
        if len(parts) + len(concepts) != 1 or (concepts and layout != NICE):
            counts = " and ".join(
                f"{len(images)} {part} images of {len(shown.concepts(part))} concepts"
                for part, images in shown.ordered.items()
            )
            raise AlignvisError(
                f"{rows.path} has {count} rows, of shape {rows.stored}, and {shown.folder} has {counts}; name the "
                "folder of the images that they are of with --images"
            )
        if concepts:
            placed.append(Placed(rows, shown.concepts(concepts[0]), True))
        elif layout == NICE and parts == ["test"] and len(rows.stored) == 2:
            unclear.append(rows)
        else:
            placed.append(Placed(rows, shown.ordered[parts[0]], False))
    single, notes = _once([item for item in placed if not item.centres])
    placed = single + [item for item in placed if item.centres]
    known = [item.rows.values for item in single if item.names == shown.ordered["test"]]
    known += [reference] if reference is not None else []
    more, said = _tell_apart(unclear, known, shown)
    return placed + more, notes + said


def alike(one: Any, other: Any) -> bool | None:
    """Tell whether two arrays of embeddings point the same way row by row; None if their sizes differ."""
    if one.shape != other.shape:
        return None
    with np.errstate(all="ignore"):  # what is not finite is like nothing, and is refused elsewhere
        first, second = (_unit(np.asarray(values[:])) for values in (one, other))
        return bool((np.einsum("id,id->i", first, second) >= 1 - SAME).all())


def _unit(values: NDArray[np.floating]) -> NDArray[np.float64]:
    values = values.astype(np.float64)
    length = np.linalg.norm(values, axis=1, keepdims=True)
    return values / np.where(length > 0, length, 1)


def _once(placed: list[Placed]) -> tuple[list[Placed], list[str]]:
    """Leave out what repeats an earlier file; refuse what contradicts it."""
    kept: list[Placed] = []
    notes = []
    for item in placed:
        earlier = next((other for other in kept if other.names == item.names), None)
        if earlier is None:
            kept.append(item)
        elif alike(earlier.rows.values, item.rows.values):
            notes.append(
                f"{item.rows.path.name} holds the same embeddings as {earlier.rows.path.name}, so it is left out"
            )
        else:
            raise AlignvisError(
                f"{earlier.rows.path} and {item.rows.path} both have {len(item.names)} rows for the same images, and "
                "differ; these are of two encoders or two makings: import one of them, or name each with --encoder"
            )
    return kept, notes


def _tell_apart(unclear: list[Rows], known: list[Any], shown: Shown) -> tuple[list[Placed], list[str]]:
    """Decide of files of one row a test image whether these are the images or centres of their concepts."""
    images, concepts = shown.ordered["test"], shown.concepts("test")
    placed: list[Placed] = []
    notes: list[str] = []
    assumed: Rows | None = None
    # What is called centres goes last: whatever it holds, the other one is then there to be held against it.
    for rows in sorted(unclear, key=_called_centres):
        same = [answer for values in known if (answer := alike(values, rows.values)) is not None]
        if any(same):
            notes.append(
                f"{rows.path.name} holds the embeddings of the very {len(images)} test images that are known already "
                "(cosine 1 in every row), not class centres, whatever its name; it is left out"
            )
        elif same and assumed and not _called_centres(rows):
            raise AlignvisError(
                f"{assumed.path} and {rows.path} both have {len(images)} rows and differ, and nothing tells which of "
                "them are class centres; import the embeddings of the images first, and the other file after that"
            )
        elif same:
            placed.append(Placed(rows, concepts, True))
        elif _called_centres(rows):
            claim = (
                f"{rows.path.name} is taken for class centres because of its name; whether it holds these can be told "
                "only beside embeddings of the test images themselves"
            )
            placed.append(Placed(rows, concepts, True, (claim,)))
        else:
            claim = (
                f"whether {rows.path.name} holds embeddings of the {len(images)} test images or centres of their "
                "concepts cannot be told from it alone; the former is assumed"
            )
            placed.append(Placed(rows, images, False, (claim,)))
            known, assumed = [*known, rows.values], rows
    return placed, notes


def _called_centres(rows: Rows) -> bool:
    return any(word in rows.path.name.lower() for word in ("center", "centre"))
