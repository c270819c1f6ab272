"""Weights that Keras 2 wrote as HDF5, read without Keras; no code in the file is run, and no other file is opened.

Only what Keras itself writes is taken: groups and contiguous arrays of numbers. Whatever else HDF5 can do (links to
other files, arrays put together from others, filters, objects) is refused before it is followed.
"""

import itertools
import json
import mmap
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from alignvis.errors import AlignvisError
from alignvis.hdf5 import child, in_one_piece, names, require_h5py, told

if TYPE_CHECKING:
    import h5py

KIND = "a Keras file (HDF5)"
MODEL = b'{"class_name": "'  # how the configuration of a model begins, and that of some other things
MODELS = 100  # that are looked at
TEXT_BYTES = 2**22  # of a configuration; the longest known, LeViT's, has 180 kB
NAMES = 100_000  # of groups and tensors
DEPTH = 16  # of groups in each other
SIZES = {"f": (2, 4, 8), "i": (1, 2, 4, 8)}  # bytes of the numbers that are read, by numpy's kind


def read_keras(path: Path) -> dict[str, Any]:
    """Read the weights of a Keras-2 HDF5 file, of weights alone or of a whole model.

    Args:
        path: a file that begins as HDF5 does.

    Returns:
        Tensors by "layer/parameter", where either may be a path; of a whole model {"model_config": what it says of its
        layers, "model_weights": the tensors}.

    Raises:
        AlignvisError: when h5py is not installed, or the file is damaged or anything but weights of Keras 2.

    Source: `save_weights` and `save` of Keras 2 (``keras/src/saving/legacy/hdf5_format.py``).
    """
    require_h5py(path, KIND)
    import h5py

    with told(path, KIND), h5py.File(path, "r") as file:
        if file.id.links.exists(b"model_weights"):
            config = _config(path) if "model_config" in file.attrs else None
            return {"model_config": config, "model_weights": _weights(child(file, "model_weights"), path)}
        if "layer_names" in file.attrs or "layer_names0" in file.attrs:  # the second where there are many
            return _weights(file, path)
        raise AlignvisError(
            f"{path} is an HDF5 file, but not one in which Keras 2 stored weights (it holds {names(file, 3)}); give "
            "the published file, which ends in .h5"
        )


def _weights(group: "h5py.Group", path: Path) -> dict[str, Tensor]:
    """All tensors below a group; the lists of names that Keras adds say nothing that the groups do not."""
    tensors: dict[str, Tensor] = {}
    size, claimed = path.stat().st_size, 0
    for parts, dataset in _below(group):
        claimed += in_one_piece(dataset, "/".join(parts), SIZES)
        if claimed > size:
            raise ValueError(f"its tensors claim {claimed} bytes and more, and it has {size}")
        name = _name(parts)
        if name in tensors:
            raise ValueError(f"it has two tensors called {name!r}")
        tensors[name] = _tensor(dataset)
    return tensors


def _below(group: "h5py.Group") -> Iterator[tuple[list[str], "h5py.Dataset"]]:
    """Every dataset below a group, with the names that lead to it."""
    import h5py

    waiting: list[tuple[list[str], h5py.Group]] = [([], group)]
    met = itertools.count(1)
    while waiting:
        parts, inside = waiting.pop()
        for name in inside:
            if next(met) > NAMES or len(parts) > DEPTH:
                raise ValueError("its groups contain each other without end")
            if not isinstance(name, str):  # what is not UTF-8 comes as bytes
                raise ValueError(f"it has something called {name!r}")
            found = child(inside, name)
            if isinstance(found, h5py.Group):
                waiting.append(([*parts, name], found))
            else:
                yield [*parts, name], found


def _name(parts: list[str]) -> str:
    """Shorten to layer and parameter: a parameter's name begins with its layer's, and stands in its layer's group."""
    for length in range(len(parts) // 2, 0, -1):
        if parts[:length] == parts[length : 2 * length]:
            parts = parts[length:]
            break
    return "/".join(parts).removesuffix(":0")


def _tensor(dataset: "h5py.Dataset") -> Tensor:
    array = np.asarray(dataset[()])
    return torch.from_numpy(np.ascontiguousarray(array, array.dtype.newbyteorder("=")).reshape(array.shape))


def _config(path: Path) -> Any:
    """What a whole model says of its layers.

    It is an attribute of variable length, which is one piece of text in the file. HDF5's own reader would set aside
    whatever length a damaged file claims (up to 4 GB), and on some never comes to an end, so it is looked up here.
    """
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        start = -1
        for _ in range(MODELS):
            start = content.find(MODEL, start + 1)
            if start < 0:
                break
            text = content[start : start + TEXT_BYTES].decode("utf-8", "replace")
            with suppress(json.JSONDecodeError):
                config, _ = json.JSONDecoder().raw_decode(text)
                if isinstance(config.get("config"), dict) and "layers" in config["config"]:
                    return config
    raise ValueError("its model_config cannot be read")
