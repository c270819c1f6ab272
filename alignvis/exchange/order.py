"""Which image each row of a foreign recording is: by the names that it carries, else by the documented order."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from alignvis.errors import AlignvisError
from alignvis.recordings.eeg2_files import IMAGE_FOLDERS, image_ids

FOLDERS = {"train_images": "train", "training_images": "train", "test_images": "test"}  # of pictures -> part
MEG_TEST = "images_test_meg"
NUMBERED = re.compile(r"[0-9]{5}_(?=.)")  # before a concept, where others number their folders
CANNOT = set("\\\0")


def eeg_image(path: Path, part: str, name: Any) -> str:
    """Give the image id of a picture of THINGS-EEG2 by the path that a file of others has for it.

    "train_images/00001_aardvark/aardvark_01b.jpg" is "training_images/00001_aardvark/aardvark_01b.jpg" here.
    """
    folders = _split(path, name)
    if len(folders) < 3 or FOLDERS.get(folders[-3]) is None:
        raise AlignvisError(
            f"{path} names the picture {str(name)[:120]!r}; expected a path such as "
            "'train_images/00001_aardvark/aardvark_01b.jpg'"
        )
    if FOLDERS[folders[-3]] != part:
        raise AlignvisError(
            f"{path} holds the {part} responses and names the picture {str(name)[:120]!r}, which is of the other part; "
            "a score on it would not be honest"
        )
    return "/".join((IMAGE_FOLDERS[part], *folders[-2:]))


def meg_image(path: Path, part: str, name: Any) -> str:
    """Give the image id of a picture of THINGS-MEG, "aardvark/aardvark_01b.jpg", by the path that others have for it.

    Those are "images_meg/aardvark/aardvark_01b.jpg", "images_test_meg/aardvark_14s.jpg" and
    "training_images/00001_aardvark/aardvark_01b.jpg".
    """
    folders = _split(path, name)
    if len(folders) < 2:
        raise AlignvisError(
            f"{path} names the picture {str(name)[:120]!r}; expected a path such as "
            "'images_meg/aardvark/aardvark_01b.jpg'"
        )
    concept, file = folders[-2:]
    above = MEG_TEST if concept == MEG_TEST else folders[-3] if len(folders) > 2 else ""
    if (above == MEG_TEST and part == "train") or FOLDERS.get(above, part) != part:
        raise AlignvisError(
            f"{path} holds the {part} responses and names the picture {str(name)[:120]!r}, which is of the other part; "
            "a score on it would not be honest"
        )
    if concept == MEG_TEST:
        concept = file.rpartition(".")[0].rpartition("_")[0]
        if not concept:
            raise AlignvisError(f"{path} names the test picture {str(name)[:120]!r}, which does not say its concept")
    return f"{NUMBERED.sub('', concept, count=1)}/{file}"


def concept_of(image: str) -> str:
    """The concept in the name of a picture: "aardvark" of "training_images/00001_aardvark/aardvark_01b.jpg"."""
    return image.rpartition("/")[2].rpartition(".")[0].rpartition("_")[0]


def named(path: Path, what: str, names: Any, shape: tuple[int, ...]) -> list[Any]:
    """Check what stands in a file for every image, or for every image and repetition, and give one an image.

    Args:
        names: an array or lists of text or numbers.
        shape: (images,) or (images, repetitions) of the responses; ``names`` has that shape or (images,).
    """
    found = names.shape if isinstance(names, np.ndarray) else _lengths(names)
    if found not in (shape, shape[:1]):
        raise AlignvisError(f"{path}: {what} has the shape {found} for responses of the shape {shape}")
    rows = names.tolist() if isinstance(names, np.ndarray) else names
    for number, row in enumerate(rows if len(found) == 2 else [[row] for row in rows], start=1):
        for name in row:
            if not isinstance(name, str | int | float):
                raise AlignvisError(f"{path}: {what} holds a {type(name).__name__}, not text and numbers")
            if name != row[0]:
                raise AlignvisError(
                    f"{path}: in {what}, the repetitions of row {number} are {str(row[0])[:120]!r} and "
                    f"{str(name)[:120]!r}; those of one image have to be of that image"
                )
    return [row[0] for row in rows] if len(found) == 2 else list(rows)


def check_names(path: Path, ids: Sequence[str], images: Path, known: Sequence[str]) -> list[str]:
    """Hold the images that a file names against those of an image folder; returns what is to be said."""
    there = set(known)
    missing = [image for image in ids if image not in there]
    if missing:
        raise AlignvisError(
            f"{path} names {len(missing)} pictures that {images} does not have (the first is {missing[0]!r}); give the "
            "folder of the images that were shown"
        )
    if list(ids) != [image for image in known if image in set(ids)]:
        return [f"the rows of {path.name} are in another order than that of {images}; they are joined by their names"]
    return []


def in_order(path: Path, part: str, known: Sequence[str], count: int, images: Path) -> list[str]:
    """Give the images of a file that names none: they are those of the image folder, in order."""
    if len(known) != count:
        raise AlignvisError(
            f"{path} has responses to {count} images and {images} has {len(known)} {part} images; it names none of "
            "them, so rows are matched by order and both have to be whole"
        )
    return list(known)


def check_concepts(path: Path, ids: Sequence[str], each: int, images: Path) -> None:
    """Hold the concepts of an array (concepts, images of each) against the folders of the images in order."""
    for row, image in enumerate(ids):
        first = ids[row - row % each]
        if image.rpartition("/")[0] != first.rpartition("/")[0]:
            raise AlignvisError(
                f"{path} has {each} images of each concept, and image {row + 1} in {images}, {image!r}, is of another "
                f"concept than {first!r}; give the folder of the images that were shown"
            )


def check_pictures(images: Path, part: str, ids: Sequence[str]) -> list[str]:
    """Refuse when some pictures are there and others are not; returns what is to be said when none is there."""
    missing = [image for image in ids if not (images / image).is_file()]
    if len(missing) == len(ids):
        return [f"no picture of the {part} images is below {images}, so that they exist was not checked"]
    if missing:
        raise AlignvisError(
            f"{len(missing)} of the {len(ids)} {part} images are not below {images} (the first is {missing[0]!r}); "
            "unpack the pictures again"
        )
    return []


def tree(path: Path, images: Path | None, kind: str) -> dict[str, list[str]]:
    """List the images of both parts, in order, for a file that names none.

    Args:
        kind: "eeg" or "meg". The pictures of THINGS-MEG have to lie in training_images/ and test_images/, as ATM and
            UBP put them: the whole of THINGS does not say which were shown.
    """
    if images is None:
        raise AlignvisError(
            f"{path} does not name the images that were shown; give the folder with image_metadata.npy or with "
            "training_images/ and test_images/, --images"
        )
    ids = image_ids(images, published=False)
    if kind == "eeg":
        return ids
    return {part: [meg_image(images, part, image) for image in ids[part]] for part in ids}


def _split(path: Path, name: Any) -> list[str]:
    folders = name.replace("\\", "/").split("/") if isinstance(name, str) else []
    if not folders or any(folder in ("", ".", "..") or CANNOT & set(folder) for folder in folders[-3:]):
        raise AlignvisError(f"{path} names a picture {str(name)[:120]!r}, which is no path of a file")
    return folders


def _lengths(names: Any) -> tuple[int, ...]:
    """The shape of a list, or of lists of the same length in a list; () for anything else."""
    if not isinstance(names, list | tuple):
        return ()
    inner = {len(row) if isinstance(row, list | tuple) else None for row in names}
    return (len(names), *inner) if len(inner) == 1 and None not in inner else (len(names),)
