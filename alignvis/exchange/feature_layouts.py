"""What is in the features files of ATM, NICE, NeuroBridge, UBP and ZEISS: rows, and image ids where there are any."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from alignvis.errors import AlignvisError
from alignvis.exchange.shown import TOPS
from alignvis.exchange.small_arrays import MAGIC, array_header
from alignvis.exchange.torch_numpy import outline_torch, read_torch
from alignvis.pickles import read_pickled

ATM, NICE, NEUROBRIDGE, UBP, ZEISS = "atm", "nice", "neurobridge", "ubp", "zeiss"
IMAGES, TEXTS = "img_features", "text_features"
OWN_FOLDERS = {"train_images": "training_images"}  # where UBP departs from the published names
HEADERS = 2**20  # bytes of a safetensors header that is worth a look
FLOATS = ("F16", "F32", "F64")  # of safetensors


@dataclass(frozen=True)
class Rows:
    """What one file holds for one encoder.

    Attributes:
        path: the file.
        values: (rows, dim) floating, or whatever gives such rows for a slice.
        stored: the shape in the file.
        images: image ids, where the file names them.
        level: which of several variants of every picture, such as a blur; None if there is one.
        claims: sentences on what was left out.
    """

    path: Path
    values: Any
    stored: tuple[int, ...]
    images: list[str] | None = None
    level: str | None = None
    claims: tuple[str, ...] = ()


class Listed:
    """Vectors that lie apart, as rows of one array."""

    def __init__(self, vectors: Sequence[NDArray[np.floating]]) -> None:
        self.vectors = vectors
        self.shape = (len(vectors), vectors[0].size)

    def __getitem__(self, rows: slice) -> NDArray[np.floating]:
        return np.stack([vector.reshape(-1) for vector in self.vectors[rows]])


def recognise_file(path: Path, head: bytes) -> str | None:
    """Name the layout of a file that begins like this, if it is one of these."""
    if head.startswith(MAGIC):
        header = array_header(head[: 10 + int.from_bytes(head[8:10], "little")])
        if header is None:
            return None
        shape = header[1]
        if len(shape) == 3 and (shape[1] > 1 or path.name in ("image_train.npy", "image_test.npy")):
            return NEUROBRIDGE  # with one picture a concept, the two are told apart by the name alone
        return NICE if len(shape) == 2 or (len(shape) == 3 and shape[1] == 1) else None
    if head.startswith(b"PK"):
        content = outline_torch(path)
        if isinstance(content, dict) and IMAGES in content:
            return ATM
        return UBP if isinstance(content, dict) and _levels(content) else None
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= HEADERS:
        try:
            with safe_open(path, framework="numpy") as file:
                return ZEISS if IMAGES in file.keys() else None  # noqa: SIM118 (it is no dict)
        except (SafetensorError, OSError, ValueError) as error:
            raise AlignvisError(f"{path} is no whole safetensors file ({error}); download it again") from error
    return None


def read_file(path: Path, layout: str, scratch: Path) -> list[Rows]:
    """Read a file of a known layout.

    Args:
        scratch: a folder with room for what `read_torch` keeps there.

    Returns:
        One entry, or several of UBP's, one for each level of blur.

    Raises:
        AlignvisError: when the file is damaged, or not what the layout says.
    """
    if layout in (NICE, NEUROBRIDGE):
        return [_rows(path, "", read_pickled(path))]
    if layout == ZEISS:
        return [_read_zeiss(path)]
    content = read_torch(path, scratch)
    if not isinstance(content, dict):
        raise AlignvisError(f"{path} holds a {type(content).__name__}, where a dict was expected; download it again")
    if layout == ATM:
        return [_rows(path, f" {IMAGES}", content.get(IMAGES), _left_out(path, content))]
    return [_read_level(path, level, vectors) for level, vectors in _levels(content).items()]


def _rows(path: Path, name: str, array: Any, claims: tuple[str, ...] = ()) -> Rows:
    """Admit (rows, dim), (rows, 1, dim) and (concepts, pictures, dim)."""
    if not isinstance(array, np.ndarray) or array.dtype.kind != "f" or array.ndim not in (2, 3) or 0 in array.shape:
        found = f"of shape {array.shape} and {array.dtype}" if isinstance(array, np.ndarray) else type(array).__name__
        raise AlignvisError(
            f"{path}:{name} is {found}; embeddings are floating-point numbers of shape (images, dim) or (concepts, "
            "pictures of each, dim)"
        )
    return Rows(path, array.reshape(-1, array.shape[-1]), array.shape, claims=claims)


def _left_out(path: Path, names: Any) -> tuple[str, ...]:
    others = [name for name in names if name != IMAGES]
    texts = f"{TEXTS} of {path.name} are left out: they are embeddings of texts, not of images"
    more = ", ".join(str(name)[:40] for name in others if name != TEXTS)
    return ((texts,) if TEXTS in others else ()) + ((f"{path.name} also holds {more[:200]}, left out",) if more else ())


def _read_zeiss(path: Path) -> Rows:
    try:
        with safe_open(path, framework="numpy") as file:
            stored = file.get_slice(IMAGES)
            shape, kind = tuple(stored.get_shape()), stored.get_dtype()
            if kind not in FLOATS or len(shape) not in (2, 3) or (len(shape) == 3 and shape[1] not in (1, 10)):
                raise AlignvisError(
                    f"{path}: {IMAGES} is {kind} of shape {shape}; expected {', '.join(FLOATS)} of shape (images, "
                    "dim), one vector a picture: take the file without the maps of all patches"
                )
            return _rows(path, f" {IMAGES}", file.get_tensor(IMAGES), _left_out(path, file.keys()))
    except (SafetensorError, OSError, ValueError) as error:
        raise AlignvisError(f"{path} is no whole safetensors file ({error}); download it again") from error


# --- UBP -------------------------------------------------------------------------------------------------------------


def image_of(key: Any) -> str | None:
    """The image id in a path of UBP, such as "train_images/00001_aardvark/aardvark_01b.jpg"; None if there is none."""
    if not isinstance(key, str):
        return None
    parts = [OWN_FOLDERS.get(part, part) for part in key.replace("\\", "/").split("/")]
    top = next((place for place, part in enumerate(parts) if part in TOPS), None)
    if top is None or len(parts) - top not in (2, 3) or {"", ".", ".."} & set(parts[top:]):
        return None
    return "/".join(parts[top:])


def _levels(content: Mapping[Any, Any]) -> dict[str | None, Mapping[Any, Any]]:
    """The dictionaries from path to vector in the file, by level of blur; None is of a file that has no levels."""
    if _names_images(content):
        return {None: content}
    nested = {level: value for level, value in content.items() if isinstance(value, dict) and _names_images(value)}
    return {str(level): value for level, value in nested.items()} if len(nested) == len(content) else {}


def _names_images(content: Mapping[Any, Any]) -> bool:
    first = next(iter(content.items()), None)
    return first is not None and image_of(first[0]) is not None and isinstance(first[1], np.ndarray)


def _read_level(path: Path, level: str | None, vectors: Mapping[Any, Any]) -> Rows:
    images = [image_of(key) for key in vectors]
    values = list(vectors.values())
    wrong = next((key for key, image in zip(vectors, images, strict=True) if image is None), None)
    if wrong is not None:
        raise AlignvisError(f"{path} names {str(wrong)[:200]!r} among its pictures, which is no path of a picture")
    size = values[0].size
    for key, value in vectors.items():
        if (
            not isinstance(value, np.ndarray)
            or value.dtype.kind != "f"
            or value.size != size
            or max(value.shape) != size
        ):
            raise AlignvisError(
                f"{path}: what it holds for {key[:200]!r} is not one vector of {size} numbers as for the others"
            )
    if len(set(images)) < len(images):
        raise AlignvisError(f"{path} names one picture twice, by different paths; make the file again")
    return Rows(path, Listed(values), (len(values), size), images, level)
