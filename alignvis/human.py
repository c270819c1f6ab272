"""What people said of the THINGS concepts, as published: read from a folder, checked, joined by the concept's id.

Nothing of it is shipped with alignvis. Only the list of concepts is needed; each other file adds one score.
"""

import csv
import hashlib
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from alignvis.errors import AlignvisError
from alignvis.matlab import read_matrices
from alignvis.store import Features

CONCEPTS, DIMENSIONS, OBJECTS = 1854, 66, 48
# sha256 of the ids, one a line without a last line break: another order would give other numbers without a word.
ORDER = "87eefb8cc8904f4b6cd517af0a803a65d776fe24d2fe993e939f28cc0caef413"
LARGEST = 1_000_000  # bytes of a matrix file, packed or not; the published one has 8,294

NAMES, TRIPLETS, RDM, OBJECT_NAMES, SPOSE = (
    "unique_id.txt",
    "2171trials_humans.txt",
    "RDM48_triplet.mat",
    "spose_embedding66d_rescaled_48val_reordered.csv",
    "spose_embedding_66d_sorted.txt",
)
ORIGINS = {  # file -> what it gives, and where it comes from
    NAMES: (
        "the order of the concepts",
        "osf.io/f5rn6 or github.com/aaronmueller/lm-property-inheritance, data/things",
    ),
    TRIPLETS: ("2,171 choices of people", "github.com/ChangdeDu/LLMs_core_dimensions"),
    RDM: ("how people tell 48 objects apart", "osf.io/f5rn6 or github.com/marrenj/cvpr_perturbations, data"),
    OBJECT_NAMES: ("which 48 objects they are", "github.com/marrenj/cvpr_perturbations, data"),
    SPOSE: ("SPoSE, a model of people's choices", "osf.io/f5rn6 or github.com/aaronmueller/lm-property-inheritance"),
}
ALIASES = {"bandanna": "bandana"}  # the one concept whose pictures are spelled otherwise


@dataclass(frozen=True)
class Human:
    """Human judgements of the THINGS concepts. What is indexed is indexed by the row of a concept in ``concepts``.

    Attributes:
        concepts: the 1,854 ids in the official order, which is not the alphabet's.
        triplets: (choices, 3) int64 or none; the third concept is the one that a person called the odd one out.
        triplets_from: the file that they are from.
        objects: (48,) int64 or none, the concepts that the dissimilarities are of.
        dissimilarities: (48, 48) or none, symmetric, in [0, 1]: the share of contexts in which people do not pair two.
        spose: (1854, 66) or none: an embedding that was fitted to millions of such choices. It predicts people and is
            not people.
        missing: a sentence for each file that is not there.
    """

    concepts: list[str]
    triplets: NDArray[np.int64] | None
    triplets_from: str | None
    objects: NDArray[np.int64] | None
    dissimilarities: NDArray[np.float64] | None
    spose: NDArray[np.float64] | None
    missing: list[str]


@dataclass(frozen=True)
class Embedded:
    """One embedding a concept.

    Attributes:
        rows: (n,) int64, ascending, the rows of the concepts in the official list.
        embeddings: (n, dim) float64, un-normalised, the mean over the concept's images.
        images: (n,) int64, how many images that was.
    """

    rows: NDArray[np.int64]
    embeddings: NDArray[np.float64]
    images: NDArray[np.int64]


def read_human(folder: Path, triplets: Path | None = None) -> Human:
    """Read what is there of the published human data.

    Args:
        folder: holds ``unique_id.txt`` and any of the other files, under the names they were published with.
        triplets: another file of choices instead of the folder's: ``testset1.txt``, ``validationset.txt`` or any
            other of the official ones, three 0-based concept rows a line, the odd one last.

    Raises:
        AlignvisError: when ``unique_id.txt`` or the file asked for is missing, or any file is not as published.
    """
    folder = Path(folder)
    if not (folder / NAMES).is_file():
        raise AlignvisError(f"there is no {folder / NAMES}; get {ORIGINS[NAMES][0]} from {ORIGINS[NAMES][1]}")
    if triplets is not None and not Path(triplets).is_file():
        raise AlignvisError(f"there is no file {triplets}; the official files of triplets are at osf.io/f5rn6")
    concepts = _read_concepts(folder / NAMES)
    chosen = Path(triplets) if triplets is not None else folder / TRIPLETS
    there = {name for name in ORIGINS if (folder / name).is_file()} | ({TRIPLETS} if triplets is not None else set())
    missing = [
        f"there is no {folder / name}: it gives {gives}, from {origin}"
        for name, (gives, origin) in ORIGINS.items()
        if name not in there
    ]
    both = {RDM, OBJECT_NAMES} <= there
    return Human(
        concepts,
        _read_triplets(chosen) if TRIPLETS in there else None,
        chosen.name if TRIPLETS in there else None,
        _read_objects(folder / OBJECT_NAMES, concepts) if both else None,
        _read_dissimilarities(folder / RDM) if both else None,
        _read_spose(folder / SPOSE) if SPOSE in there else None,
        missing,
    )


def concept_of(image: str) -> str:
    """The THINGS concept that a picture shows, from its file's name without the number at its end.

    ``training_images/00001_aardvark/aardvark_01b.jpg`` is of "aardvark", ``camera1_01b.jpg`` of "camera1", and a
    reference image renamed to ``hot-air_balloon.jpg`` of "hot-air_balloon".
    """
    name = re.sub(r"_\d+[a-z]?$", "", PurePosixPath(image).stem)
    return ALIASES.get(name, name)


def by_concept(features: Features, concepts: Sequence[str]) -> Embedded:
    """Average the embeddings of each concept's images.

    Raises:
        AlignvisError: when no image is of a THINGS concept.
    """
    place = {concept: row for row, concept in enumerate(concepts)}
    found: dict[int, list[int]] = {}
    for row, image in enumerate(features.images):
        if (concept := concept_of(image)) in place:
            found.setdefault(place[concept], []).append(row)
    if not found:
        raise AlignvisError(
            f"none of the {len(features.images)} images in {features.path} is of a THINGS concept (the first is "
            f"{features.images[0]!r}, so {concept_of(features.images[0])!r}); extract features of THINGS pictures, "
            "named like aardvark_01b.jpg or aardvark.jpg"
        )
    rows = sorted(found)
    means = [features.embeddings[found[row]].mean(axis=0, dtype=np.float64) for row in rows]
    return Embedded(np.array(rows), np.stack(means), np.array([len(found[row]) for row in rows]))


# --- the files -------------------------------------------------------------------------------------------------------


def _read_concepts(path: Path) -> list[str]:
    try:
        concepts = path.read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        raise AlignvisError(f"{path} could not be read as text ({error}); download it again") from error
    if len(concepts) != CONCEPTS or len(set(concepts)) != CONCEPTS:
        raise AlignvisError(
            f"{path} names {len(set(concepts))} concepts in {len(concepts)} lines; the official list has {CONCEPTS:,}, "
            "one a line: download it again"
        )
    if hashlib.sha256("\n".join(concepts).encode()).hexdigest() != ORDER:
        known = " (it is sorted)" if concepts == sorted(concepts) else ""
        raise AlignvisError(
            f"{path} has {CONCEPTS:,} concepts but not the official ones in the official order{known}; rows would "
            "stand for other concepts than people saw: download it again"
        )
    return concepts


def _numbers(path: Path, dtype: type, columns: int) -> NDArray:
    """Read a table of numbers separated by spaces."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # numpy only warns of a file without a line
            numbers = np.loadtxt(path, dtype=dtype, ndmin=2, encoding="utf-8")
    except (ValueError, OverflowError, OSError, UserWarning) as error:
        raise AlignvisError(
            f"{path} is no table of {columns} numbers a line, separated by spaces ({error}); download it again"
        ) from error
    if numbers.shape[1] != columns:
        raise AlignvisError(f"{path} has {numbers.shape[1]} columns and {columns} were expected; download it again")
    return numbers


def _read_triplets(path: Path) -> NDArray[np.int64]:
    triplets = _numbers(path, np.int64, 3)
    outside = np.flatnonzero(((triplets < 0) | (triplets >= CONCEPTS)).any(axis=1))
    if len(outside):
        counts_from_one = triplets.min() == 1 and triplets.max() == CONCEPTS
        advice = "it seems to count from 1: subtract 1 everywhere" if counts_from_one else "download it again"
        raise AlignvisError(
            f"{path}: triplet {outside[0] + 1} is {triplets[outside[0]].tolist()}, and concepts are counted from 0 to "
            f"{CONCEPTS - 1}; {advice}"
        )
    first, second, odd = triplets.T
    twice = np.flatnonzero((first == second) | (first == odd) | (second == odd))
    if len(twice):
        raise AlignvisError(
            f"{path}: triplet {twice[0] + 1} is {triplets[twice[0]].tolist()}, which names a concept twice; three "
            "different ones were shown: download it again"
        )
    return triplets


def _read_objects(path: Path, concepts: Sequence[str]) -> NDArray[np.int64]:
    """Find the rows of the 48 objects by the names of their pictures.

    Of the published file only the names are used. Its first column counts in another order: it gives 246 to
    ``camera1_01b.jpg``, and concept 246 is camera_lens.
    """
    try:
        with open(path, encoding="utf-8", newline="") as file:
            lines = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise AlignvisError(f"{path} could not be read as comma-separated text ({error}); download it again") from error
    names = [line.get("image_name") for line in lines]
    if len(names) != OBJECTS or None in names:
        raise AlignvisError(
            f"{path} has {len(names)} rows, {sum(name is not None for name in names)} of them with an image_name; "
            f"{OBJECTS} were expected: download it again"
        )
    place = {concept: row for row, concept in enumerate(concepts)}
    rows = [place.get(concept_of(str(name))) for name in names]
    if None in rows:
        raise AlignvisError(f"{path} names {names[rows.index(None)]!r}, which no concept is called; download it again")
    if len(set(rows)) != OBJECTS:
        raise AlignvisError(f"{path} names {len(set(rows))} different concepts, not {OBJECTS}; download it again")
    return np.array(rows, dtype=np.int64)


def _read_dissimilarities(path: Path) -> NDArray[np.float64]:
    name, shape = "RDM48_triplet", (OBJECTS, OBJECTS)
    if path.stat().st_size > LARGEST:
        raise AlignvisError(
            f"{path} has {path.stat().st_size:,} bytes, and the published file 8,294; download it again"
        )
    # Dissimilarities are doubles, whatever they are stored as.
    read = read_matrices(path, LARGEST).items()
    found = {key: None if each is None or each.dtype != np.float64 else each for key, each in read}
    matrix = found.get(name)
    if matrix is None or matrix.shape != shape:
        there = ", ".join(f"{key!r} {'' if each is None else each.shape}".strip() for key, each in found.items())
        raise AlignvisError(f"{path} holds {there or 'nothing'}; a matrix of numbers {name!r} {shape} was expected")
    if not np.isfinite(matrix).all():
        raise AlignvisError(f"{path} holds numbers that are not finite; download it again")
    if not np.allclose(matrix, matrix.T, rtol=0, atol=1e-9) or np.diagonal(matrix).any():
        raise AlignvisError(f"{path} is not symmetric with zeros on its diagonal, as dissimilarities are")
    if matrix.min() < 0 or matrix.max() > 1:
        raise AlignvisError(f"{path} holds values from {matrix.min():.3g} to {matrix.max():.3g}; shares lie in [0, 1]")
    return matrix


def _read_spose(path: Path) -> NDArray[np.float64]:
    spose = _numbers(path, np.float64, DIMENSIONS)
    if len(spose) != CONCEPTS:
        raise AlignvisError(f"{path} has {len(spose)} rows and {CONCEPTS:,} were expected; download it again")
    if not np.isfinite(spose).all():
        raise AlignvisError(f"{path}: row {np.flatnonzero(~np.isfinite(spose).all(axis=1))[0] + 1} is not finite")
    return spose
