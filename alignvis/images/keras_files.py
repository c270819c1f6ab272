"""Weights that Keras 2 wrote as HDF5, read without Keras; no code in the file is run, and no other file is opened.

Only what Keras itself writes is taken: groups and contiguous arrays of numbers. Whatever else HDF5 can do (links to
other files, arrays put together from others, filters, objects) is refused before it is followed.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from alignvis.errors import AlignvisError

if TYPE_CHECKING:
    import h5py

NAMES_BYTES = 2**17  # of one attribute with names; Keras splits them over several from half of this
TEXT_BYTES = 2**26  # of an attribute with one text
NAMES = 100_000
SIZES = {"f": (2, 4, 8), "i": (1, 2, 4, 8)}  # bytes of the numbers that are read, by numpy's kind


def read_keras(path: Path) -> dict[str, Any]:
    """Read the weights of a Keras-2 HDF5 file, of weights alone or of a whole model.

    Args:
        path: a file that begins as HDF5 does.

    Returns:
        Tensors by "layer/parameter"; of a whole model {"model_config": what it says of its layers, "model_weights":
        the tensors}.

    Raises:
        AlignvisError: when h5py is not installed, or the file is damaged or anything but weights of Keras 2.

    Source: `save_weights` and `save` of Keras 2 (``keras/src/saving/legacy/hdf5_format.py``).
    """
    try:
        import h5py
    except ImportError as error:
        raise AlignvisError(
            f'{path} is a Keras file (HDF5), and h5py, which reads those, is missing; pip install "alignvis[hdf5]"'
        ) from error
    with _told(path), h5py.File(path, "r") as file:
        if _has_names(file, "layer_names"):
            return _weights(file, path)
        if not file.id.links.exists(b"model_weights"):
            found = ", ".join(repr(name) for name, _ in zip(file, range(3), strict=False)) or "nothing"
            raise AlignvisError(
                f"{path} is an HDF5 file, but not one in which Keras 2 stored weights (it holds {found}); give the "
                "published file, which ends in .h5"
            )
        weights = _weights(_child(file, "model_weights"), path)
        config = json.loads(_strings(file, "model_config")[0]) if "model_config" in file.attrs else None
        return {"model_config": config, "model_weights": weights}


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Say in one sentence whatever a damaged or hostile file makes the machine stumble over."""
    try:
        yield
    except (OSError, ValueError, TypeError, LookupError, RuntimeError, MemoryError, OverflowError) as error:
        said = " ".join(str(error).split())[:200]
        raise AlignvisError(
            f"{path} looks like a Keras file (HDF5), but is damaged or of a kind that is not read here ({said}); "
            "fetch it again"
        ) from error


def _weights(group: "h5py.Group", path: Path) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    size, claimed = path.stat().st_size, 0
    for layer in _names(group, "layer_names"):
        inside = _descend(group, layer)
        for weight in _names(inside, "weight_names"):
            dataset = _descend(inside, weight)
            claimed += _claim(dataset, weight)
            if claimed > size:
                raise ValueError(f"its tensors up to {weight!r} claim {claimed} bytes, and it has {size}")
            name = weight.removesuffix(":0")
            name = name if "/" in name else f"{layer}/{name}"
            if name in tensors:
                raise ValueError(f"it has two tensors called {name!r}")
            tensors[name] = _tensor(dataset)
    return tensors


def _child(group: "h5py.Group", name: str) -> "h5py.Group | h5py.Dataset":
    """What a name in a group stands for, if it is in this file."""
    import h5py

    key = name.encode()
    if name in ("", ".", "..") or not isinstance(group, h5py.Group) or not group.id.links.exists(key):
        raise ValueError(f"it has no {name!r} in {group.name!r}")
    if group.id.links.get_info(key).type != h5py.h5l.TYPE_HARD:
        raise ValueError(f"its {name!r} in {group.name!r} is a link that leads elsewhere")
    return group[name]


def _descend(group: "h5py.Group", path: str) -> "h5py.Group | h5py.Dataset":
    for part in path.split("/"):
        group = _child(group, part)
    return group


def _claim(dataset: "h5py.Dataset", name: str) -> int:
    """How many bytes a tensor takes, if it is plain numbers that lie one behind the other in this file."""
    import h5py

    if not isinstance(dataset, h5py.Dataset):
        raise ValueError(f"its {name!r} is not a tensor")
    made = dataset.id.get_create_plist()
    if made.get_layout() not in (h5py.h5d.CONTIGUOUS, h5py.h5d.COMPACT) or made.get_external_count():
        raise ValueError(f"its tensor {name!r} is compressed, in pieces or in another file, which Keras does not do")
    dtype = dataset.dtype
    if dtype.itemsize not in SIZES.get(dtype.kind, ()) or dataset.shape is None:
        raise ValueError(f"its tensor {name!r} is made of {dtype}, not of numbers")
    claimed = prod(dataset.shape) * dtype.itemsize
    if dataset.id.get_storage_size() != claimed:
        raise ValueError(f"its tensor {name!r} claims {claimed} bytes and has {dataset.id.get_storage_size()}")
    return claimed


def _tensor(dataset: "h5py.Dataset") -> Tensor:
    array = np.asarray(dataset[()])
    return torch.from_numpy(np.ascontiguousarray(array, array.dtype.newbyteorder("=")).reshape(array.shape))


def _has_names(holder: "h5py.Group", name: str) -> bool:
    return name in holder.attrs or f"{name}0" in holder.attrs


def _names(holder: "h5py.Group", name: str) -> list[str]:
    """A list of names; where it is long, Keras splits it over attributes ``name0``, ``name1`` and so on."""
    if not _has_names(holder, name):
        raise ValueError(f"{holder.name!r} does not say its {name}")
    if name in holder.attrs:
        return _strings(holder, name)
    found: list[str] = []
    for part in range(NAMES):
        if f"{name}{part}" not in holder.attrs or len(found) > NAMES:
            break
        found += _strings(holder, f"{name}{part}")
    return found


def _strings(holder: "h5py.Group", name: str) -> list[str]:
    """The strings of an attribute, of a fixed length or not; a list without any may be of any type."""
    import h5py

    attribute = holder.attrs.get_id(name)
    count, kind = prod(attribute.shape), attribute.get_type()
    if count == 0:
        return []
    if kind.get_class() != h5py.h5t.STRING:
        raise ValueError(f"its {name} in {holder.name!r} is not made of names")
    if count * kind.get_size() > (NAMES_BYTES if count > 1 else TEXT_BYTES):
        raise ValueError(f"its {name} in {holder.name!r} claims {count} texts of {kind.get_size()} bytes")
    values = np.atleast_1d(np.asarray(holder.attrs[name], dtype=object)).ravel()
    return [value.decode() if isinstance(value, bytes) else str(value) for value in values]
