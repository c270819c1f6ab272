"""What ``torch.save`` and ``torch.jit.save`` wrote, read without unpickling it and without running it.

Three containers hold the same kind of pickle: the zip archive of torch 1.6 and later, the stream before it ("legacy"),
and the TorchScript archive. One reader serves all three, and maps the numbers instead of copying them.

Why not the readers of torch: a TorchScript archive holds code, and ``torch.jit.load`` runs the ``__setstate__`` in it,
which can write files (a test shows it); before torch 2.6 ``torch.load(weights_only=True)`` handed such an archive to
``torch.jit.load`` (pytorch pull request 143326).
"""

import itertools
import mmap
import struct
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from alignvis.errors import AlignvisError
from alignvis.images.torch_pickle import Module, Storage, Stored, interpret

MAGIC = 0x1950A86A20F9469CFC6C  # the first object of a legacy stream; the second is the protocol
PROTOCOL = 1001
PICKLE_BYTES = 2**26
VALUES = 1_000_000  # values in the answer; a shared part counts each time, as its reader meets it each time
DEPTH = 64
DIMENSIONS = 16  # of a tensor


def read_archive(path: Path, archive: zipfile.ZipFile) -> dict:
    """Read the tensors of a torch zip archive, TorchScript or not.

    Args:
        path, archive: the file, and the same file opened.

    Returns:
        What was saved, in plain containers; for TorchScript, the tensors under the names of its ``state_dict``.
        Tensors are on the CPU, of the stored type, and mapped copy-on-write: writing to one never reaches the file.

    Raises:
        AlignvisError: when the archive is damaged, or holds anything but tensors and plain values.
    """
    records = {info.filename: info for info in archive.infolist()}
    roots = [name.removesuffix("data.pkl") for name in records if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(roots) != 1:
        shown = ", ".join(itertools.islice(records, 3)) or "nothing"
        raise AlignvisError(
            f"{path} is a zip archive but not of weights (it holds {shown}{' ...' if len(records) > 3 else ''}); "
            "unpack it and give the file of weights"
        )
    (root,) = roots
    with _told(path):
        for name, limit in (("data.pkl", PICKLE_BYTES), ("byteorder", 16)):
            if root + name in records and records[root + name].file_size > limit:
                raise ValueError(f"its {name} has {records[root + name].file_size:,} bytes")
        if root + "byteorder" in records and archive.read(root + "byteorder") != b"little":
            raise ValueError("its numbers are not little-endian")
        saved, _ = interpret(path, archive.read(root + "data.pkl"))
        mapped = np.memmap(path, np.uint8, "c")
        if sum(info.file_size for info in archive.infolist() if info.compress_type == zipfile.ZIP_STORED) > len(mapped):
            raise ValueError("its records lie on top of each other")

        def numbers(storage: Storage) -> Tensor:
            info = records.get(f"{root}data/{storage.key}")
            if info is None:
                raise ValueError(f"it has no record {storage.key!r}")
            if info.compress_type != zipfile.ZIP_STORED:
                raise ValueError(f"its record {storage.key!r} is compressed")
            if info.file_size != storage.count * storage.dtype.itemsize:
                raise ValueError(f"its record {storage.key!r} has {info.file_size} bytes for {storage.count} numbers")
            head = mapped[info.header_offset : info.header_offset + 30].tobytes()
            if head[:4] != b"PK\3\4":
                raise ValueError(f"its record {storage.key!r} is not where the directory says")
            return _numbers(mapped, info.header_offset + 30 + sum(struct.unpack("<HH", head[26:30])), storage)

        return _answer(saved, numbers)


def read_legacy(path: Path) -> dict:
    """Read the tensors of the stream that ``torch.save`` wrote before torch 1.6; the rest as `read_archive`."""
    with _told(path), open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as stream:
        if interpret(path, stream)[0] != MAGIC:
            raise AlignvisError(f"{path} is a pickle that torch.save did not write, so it is not opened")
        protocol, _ = interpret(path, stream)
        system, _ = interpret(path, stream)
        if protocol != PROTOCOL or system["little_endian"] is not True:
            raise ValueError(f"its protocol is {protocol}, or its numbers are not little-endian")
        saved, storages = interpret(path, stream)
        keys, _ = interpret(path, stream)
        starts, position = {}, stream.tell()
        for key in keys:
            (count,) = struct.unpack("<q", stream[position : position + 8])
            if count != storages[key].count:
                raise ValueError(f"its storage {key!r} has {count} numbers, not {storages[key].count}")
            starts[key] = position + 8
            position += 8 + count * storages[key].dtype.itemsize
        mapped = np.memmap(path, np.uint8, "c")
        return _answer(saved, lambda storage: _numbers(mapped, starts[storage.key], storage))


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Say in one sentence whatever a damaged file makes the machine stumble over."""
    try:
        yield
    except (ValueError, TypeError, LookupError, RuntimeError, struct.error) as error:
        raise AlignvisError(
            f"{path} looks like weights saved by torch, but is damaged or of a kind that is not read here "
            f"({str(error)[:200]}); fetch it again"
        ) from error


def _numbers(mapped: np.memmap, start: int, storage: Storage) -> Tensor:
    """View one storage in the mapped file, as a tensor of one dimension."""
    part = mapped[start : start + storage.count * storage.dtype.itemsize]
    if len(part) != storage.count * storage.dtype.itemsize:
        raise ValueError(f"it ends inside the storage {storage.key!r}")
    if not storage.count:
        return torch.empty(0, dtype=storage.dtype)
    if storage.dtype is torch.bool and part.max() > 1:
        raise ValueError(f"its storage {storage.key!r} holds truth values that are neither 0 nor 1")
    # Legacy streams put numbers anywhere; where they do not lie on a multiple of their size they must be copied.
    return torch.from_numpy(np.array(part) if start % storage.dtype.itemsize else part).view(storage.dtype)


def _answer(saved: Any, numbers: Callable[[Storage], Tensor]) -> dict:
    """Put tensors in the place of what stands for them; refuse what is circular or multiplies without end."""
    storages: dict[Storage, Tensor] = {}
    met = itertools.count(1)

    def tensor(stored: Stored) -> Tensor:
        size, storage = stored.size, stored.storage
        # A stride of zero would let a small file claim a tensor of any size, which the first sum with it would fill.
        if len(size) > DIMENSIONS or prod(size) > storage.count:
            raise ValueError(f"it holds a tensor of size {size} in a storage of {storage.count} numbers")
        if storage not in storages:
            storages[storage] = numbers(storage)
        return torch.as_strided(storages[storage], size, stored.stride, stored.offset)  # refuses what leads outside

    def plain(value: Any, depth: int) -> Any:
        if next(met) > VALUES or depth > DEPTH:
            raise ValueError("its values contain each other without end")
        if isinstance(value, Stored):
            return tensor(value)
        if type(value) is dict:
            return {key: plain(part, depth + 1) for key, part in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(plain(part, depth + 1) for part in value)
        if value is None or isinstance(value, bool | int | float | str):
            return value
        raise ValueError(f"a {type(value).__name__} stands where a value belongs")

    def named(module: Module, prefix: str, depth: int) -> Iterator[tuple[str, Tensor]]:
        if next(met) > VALUES or depth > DEPTH:
            raise ValueError("its modules contain each other without end")
        for name, value in module.attributes.items():
            if isinstance(value, Stored):
                yield f"{prefix}{name}", tensor(value)
            elif isinstance(value, Module):
                yield from named(value, f"{prefix}{name}.", depth + 1)

    if isinstance(saved, Module):
        return dict(named(saved, "", 0))
    if not isinstance(saved, dict):
        raise ValueError(f"it holds a {type(saved).__name__}, not tensors by name")
    return plain(saved, 0)
