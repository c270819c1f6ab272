"""Embeddings by an image encoder of one's own -> a features table."""

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

import alignvis
from alignvis import store
from alignvis.errors import AlignvisError
from alignvis.exchange.trees import ENCODER
from alignvis.images.catalogue import CATALOGUE


def write_features(
    out: Path,
    embeddings: ArrayLike,
    images: Sequence[str],
    *,
    encoder: str,
    aligned: bool = False,
    twin: str | None = None,
    layers: Mapping[str, ArrayLike] | None = None,
    simulated: bool | None = None,
    about: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Path:
    """Write embeddings that were computed outside of alignvis as a features table that everything here reads.

    Args:
        out: the folder of the image set, ``ROOT/features/<image set>``; the table becomes ``<encoder>.safetensors`` in
            it, where `alignvis train` and all others find it.
        embeddings: (images, dim), of any type of floating numbers; kept as float32, as they are.
        images: the image of each row: its path below the image folder, with forward slashes, as the responses name it.
        encoder: what the encoder is called: letters, digits, '.', '_', '+', '=' and '-', and none of those that
            `alignvis list` shows, whose tables `extract` makes.
        aligned: whether human similarity judgements went into it.
        twin: the encoder that differs from it in nothing but that, if there is one.
        layers: more vectors of the same images, (images, any) each, by name, like "layer.6"; `train` learns one of them
            where its recipe names it as ``target``.
        simulated: True or False keeps the table from real, or drawn, pictures' recordings of the same names.
        about: whatever should be known about how it was made, for JSON; it is kept in the header under "about".
        overwrite: replace a table that is there.

    Returns:
        The table's path.

    Raises:
        AlignvisError: when numbers of rows differ, an image is named twice or not as an image id is, a value is not
            finite in float32, a name cannot be one of a file or is taken, or another table is in the way.
    """
    out = Path(out)
    for name in (encoder, *([twin] if twin is not None else [])):
        if not ENCODER.fullmatch(name):
            raise AlignvisError(f"{name!r} cannot name an encoder; use letters, digits, '.', '_' and '-'")
    if encoder in CATALOGUE:
        raise AlignvisError(
            f"{encoder} is an encoder of alignvis, whose features `alignvis extract` makes; call your own otherwise"
        )
    if encoder == twin:
        raise AlignvisError(f"{encoder} cannot be its own twin; name the other encoder, or none")
    path = out / f"{encoder}.safetensors"
    if path.exists() and not overwrite:
        raise AlignvisError(f"{path} is there already; ask for overwrite=True to replace it, or name another encoder")
    images = [str(image) for image in images]
    _check_ids(images)
    arrays = {"embeddings": _vectors("embeddings", embeddings, images)}
    for name, values in (layers or {}).items():
        if name == "embeddings" or not ENCODER.fullmatch(name):
            raise AlignvisError(f"{name!r} cannot name a layer; use a name like 'layer.6'")
        arrays[name] = _vectors(name, values, images)
    document = {
        "version": store.VERSION,
        "table": "features",
        "image_set": Path(os.path.abspath(out)).name,
        "encoder": encoder,
        "aligned": bool(aligned),
        "twin": twin,
        "dim": arrays["embeddings"].shape[1],
        "own": True,
        "about": _json(about or {}),
        "versions": {"alignvis": alignvis.__version__, "numpy": np.__version__},
        "images": images,
    }
    if simulated is not None:
        document["simulated"] = bool(simulated)
    store.write_table(path, arrays, document)
    return path


def _check_ids(images: Sequence[str]) -> None:
    twice = next((image for image, count in Counter(images).items() if count > 1), None)
    if twice is not None:
        raise AlignvisError(f"the image {twice!r} is named more than once; give one row for each image")
    for image in images:
        if not image or "\\" in image or image.startswith("/") or {"", ".", ".."} & set(image.split("/")):
            raise AlignvisError(
                f"{image!r} is no image id; name each by its path below the image folder, with forward slashes, like "
                "'training_images/00001_aardvark/aardvark_01b.jpg'"
            )


def _vectors(name: str, values: ArrayLike, images: Sequence[str]) -> np.ndarray:
    found = np.asarray(values)
    if found.dtype.kind not in "fiu" or found.ndim != 2 or 0 in found.shape:
        raise AlignvisError(
            f"{name} is {found.dtype} of shape {found.shape}; expected numbers of shape (images, dim), one row an image"
        )
    if len(found) != len(images):
        raise AlignvisError(f"{name} has {len(found)} rows for {len(images)} images; give one row for each image")
    with np.errstate(over="ignore"):
        found = found.astype("<f4")
    broken = np.flatnonzero(~np.isfinite(found).all(axis=1))
    if len(broken):
        raise AlignvisError(
            f"{name} of {len(broken)} of {len(images)} images are not finite in float32 (the first is "
            f"{images[broken[0]]!r}); look at what the encoder does to it"
        )
    return found


def _json(about: Mapping[str, Any]) -> Any:
    try:
        return json.loads(json.dumps(dict(about), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise AlignvisError(f"what is to be kept about the encoder cannot be written as JSON ({error})") from error
