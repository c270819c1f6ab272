"""What ``torch.save`` wrote, NumPy arrays and tensors mixed, read without torch and without unpickling it.

Such a file is a zip archive: ``data.pkl``, a pickle that holds everything but the numbers of tensors, and a record for
each run of these ("storage"). NumPy arrays stand inside the pickle, in protocol 2 (torch's own choice) as text of twice
their size. The pickle machine of this package interprets it; arrays and tensors stay maps of the file.
"""

import codecs
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from alignvis.errors import AlignvisError
from alignvis.exchange.scratch import Scratch
from alignvis.exchange.small_arrays import stand_in
from alignvis.exchange.zip_records import zip_records
from alignvis.pickle_machine import AGAIN, MAPPED, SMALL, Left, Reader, Tag
from alignvis.pickles import open_bytes

PIECE = 2**20  # bytes of text decoded at a time
DIMENSIONS = 16  # of a tensor
STORED = {  # torch's name of a type of storage -> how its numbers lie in the file
    "DoubleStorage": "<f8",
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "BFloat16Storage": "<u2",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
}
LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
OLD = "was saved by torch before version 1.6; load it with torch and save it again with torch.save"


class _TorchTag(Enum):
    TENSOR = "torch._utils._rebuild_tensor_v2"
    PARAMETER = "torch._utils._rebuild_parameter"
    DICT = "collections.OrderedDict"
    SIZE = "torch.Size"
    DOUBLE = "torch.DoubleStorage"
    FLOAT = "torch.FloatStorage"
    HALF = "torch.HalfStorage"
    BFLOAT16 = "torch.BFloat16Storage"
    LONG = "torch.LongStorage"
    INT = "torch.IntStorage"
    SHORT = "torch.ShortStorage"
    CHAR = "torch.CharStorage"
    BYTE = "torch.ByteStorage"
    BOOL = "torch.BoolStorage"


@dataclass(frozen=True)
class _Storage:
    """(numbers,) of one record."""

    numbers: np.ndarray


@dataclass(frozen=True, eq=False)
class _Text:
    """Bytes that protocol 2 spelled as text: (bytes,) uint8, UTF-8 of the characters 0 to 255."""

    raw: np.memmap


def read_torch(path: Path, scratch: Path | None = None) -> Any:
    """Read a file of ``torch.save``: containers, numbers, text, NumPy arrays and tensors; nothing it names is run.

    Args:
        path: written by torch 1.6 or later, with any ``pickle_protocol``.
        scratch: a folder with room for the arrays that a pickle of protocol 2 spells as text, and for bfloat16 numbers
            as float32; needed only if the file has them. None: the system's folder for temporary files.

    Returns:
        What was saved, as `pickles.read_pickled`; tensors as NumPy arrays of their type (bfloat16 as float32). Tensors,
        and arrays of 1 MiB or more, are read-only maps: of the file, or of an unnamed file in ``scratch``.

    Raises:
        AlignvisError: when the file is missing, cut, of another kind, or asks for anything but these; when its sizes,
            shapes and values contradict each other; when it exceeds the limits of `pickles.read_pickled`.
    """
    return _read(Path(path), scratch, values=True)


def outline_torch(path: Path) -> Any:
    """As `read_torch`, in a moment: arrays of 1 MiB or more that the file spells as text are zeros, taking no room."""
    return _read(Path(path), None, values=False)


def _read(path: Path, scratch: Path | None, values: bool) -> Any:
    content = open_bytes(path)
    head = content[:64].tobytes()
    if head[:4] != b"PK\3\4":
        found = OLD if head.startswith(LEGACY) else stand_in(head)
        raise AlignvisError(
            f"{path} {found}"
            if found
            else f"{path} begins with {head[:16]!r}, which no file of torch.save does; download it again"
        )
    records = zip_records(path, content)
    roots = [name.removesuffix("data.pkl") for name in records if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(roots) != 1:
        shown = ", ".join(name[:40] for name in list(records)[:3]) or "nothing"
        raise AlignvisError(
            f"{path} is a zip archive, but not one of torch.save (it holds {shown}); unpack it and give the file in it"
        )
    (root,) = roots
    if root + "constants.pkl" in records or any(name.startswith(f"{root}code/") for name in records):
        raise AlignvisError(
            f"{path} is a TorchScript program, not data; load it with torch and save its state_dict() with torch.save"
        )
    order = records.get(root + "byteorder")
    if order is not None and order[:8].tobytes() != b"little":
        raise AlignvisError(f"{path} was saved on a machine with its bytes in the other order; save it on another one")
    with Scratch(scratch, 3 * len(content)) as room:
        return _Reader(path, root, records, room if values else None).pickle()


class _Reader(Reader):
    """The pickle machine that also knows tensors, and leaves long text in the file."""

    names = Reader.names | {tag.value: tag for tag in _TorchTag}

    def __init__(self, path: Path, root: str, records: dict[str, np.memmap], scratch: Scratch | None) -> None:
        super().__init__(path, records[root + "data.pkl"])
        self.records = records
        self.root = root
        self.scratch = scratch
        self.storages: dict[tuple, _Storage] = {}
        self.claimed = 0  # bytes of all tensors together, and how many these may be
        self.most = 2 * sum(len(record) for record in records.values()) + SMALL
        self.decoded: dict[_Text, Left] = {}

    def refusal(self, found: str, remedy: str = AGAIN) -> AlignvisError:
        remedy = remedy.replace("numpy.save", "torch.save")
        return AlignvisError(
            f"{self.path} {found} at byte {self.at} of its data.pkl, where plain data, arrays and tensors were "
            f"expected; {remedy}"
        )

    def text(self, width: int) -> None:
        size = int.from_bytes(self.data[self.position : self.position + width], "little")
        start = self.position + width
        if size < MAPPED or size > len(self.data) - start:
            super().text(width)
        else:
            self.position = start + size
            self.stack.append(_Text(self.content[start : start + size]))

    def made(self, function: Any, arguments: Any) -> Any:
        match function if isinstance(function, Enum) else None, arguments:
            case Tag.ENCODE, (_Text() as text, str("latin1")):
                return text
            case _TorchTag.TENSOR, (_Storage() as storage, offset, tuple(shape), tuple(strides), _, _, *rest):
                if any(not isinstance(value, dict) or value for value in rest):
                    raise self.refusal("holds a tensor that is to be conjugated or negated")
                return self.tensor(storage.numbers, offset, shape, strides)
            case _TorchTag.PARAMETER, (np.ndarray() as tensor, _, _):
                return tensor
            case _TorchTag.DICT, ():
                return {}
            case _TorchTag.SIZE, (tuple(shape),):
                return shape
        return super().made(function, arguments)

    def build(self, _: None) -> None:
        described, state = self.pop(2)
        if type(described) is dict and type(state) is dict:
            self.stack.append(described)  # an ordered dict's attributes (`_metadata`) are not its entries
        else:
            self.stack += (described, state)
            super().build(None)

    def persistent(self, _: None) -> None:
        (described,) = self.pop()
        match described:
            case (str("storage"), _TorchTag() as kind, str(key), str(), int(count)) if type(count) is int:
                pass
            case _:
                raise self.refusal("refers to something that is no storage of a tensor")
        if (key, kind) not in self.storages:
            self.storages[key, kind] = _Storage(self.numbers(kind, key, count))
        if len(self.storages[key, kind].numbers) != count:
            raise self.refusal(f"describes its storage {key[:40]!r} in two ways")
        self.stack.append(self.storages[key, kind])

    def numbers(self, kind: _TorchTag, key: str, count: int) -> np.ndarray:
        """Give the numbers of one storage, a map of its record."""
        code = STORED.get(kind.value.removeprefix("torch."))
        record = self.records.get(f"{self.root}data/{key}")
        if code is None or record is None:
            raise self.refusal(f"refers to a storage {key[:40]!r} that the file does not have")
        dtype = np.dtype(code)
        if len(record) != count * dtype.itemsize:
            raise self.refusal(f"has {len(record)} bytes for the {count} numbers of its storage {key[:40]!r}")
        if not count:
            return np.empty(0, np.float32 if kind is _TorchTag.BFLOAT16 else dtype)
        if kind is _TorchTag.BOOL and record.max() > 1:
            raise self.refusal("holds truth values that are neither 0 nor 1")
        numbers = record.view(dtype)
        if kind is not _TorchTag.BFLOAT16:
            return numbers
        if self.scratch is None:
            return np.broadcast_to(np.float32(0), count)
        return self.scratch.keep(_widened(numbers)).view("<f4")

    def tensor(self, numbers: np.ndarray, offset: Any, shape: tuple, strides: tuple) -> np.ndarray:
        """View a storage as a tensor: ``offset`` and ``strides`` count numbers."""
        if (
            len(shape) != len(strides)
            or len(shape) > DIMENSIONS
            or not all(type(value) is int and 0 <= value < 2**48 for value in (offset, *shape, *strides))
        ):
            raise self.refusal("holds a tensor of an impossible shape")
        if 0 in shape:
            if prod(length or 1 for length in shape) >= 2**48:
                raise self.refusal("holds a tensor of an impossible shape")
            return np.empty(shape, numbers.dtype)
        last = offset + sum((length - 1) * stride for length, stride in zip(shape, strides, strict=True))
        if last >= len(numbers):
            raise self.refusal(f"holds a tensor of the shape {shape} that reaches beyond its storage")
        # A stride of zero would let a small file claim a tensor of any size, which the first sum with it would fill;
        # so would many tensors made of the same numbers.
        self.claimed += prod(shape) * numbers.itemsize
        if prod(shape) > len(numbers) or self.claimed > self.most:
            raise self.refusal(f"holds a tensor of the shape {shape} made of {len(numbers)} numbers", EXPANDED)
        step = numbers.strides[0]  # 0 where the numbers were not read
        return np.lib.stride_tricks.as_strided(
            numbers[offset:], shape, [stride * step for stride in strides], subok=True, writeable=False
        )

    def array(self, payload: Any, dtype: np.dtype, shape: tuple, order: str) -> Any:
        if not isinstance(payload, _Text):
            return super().array(payload, dtype, shape, order)
        if self.scratch is None:
            # A character takes one byte or two, so much is known without looking.
            fits = len(shape) <= DIMENSIONS and all(type(length) is int and length > 0 for length in shape)
            if dtype.hasobject or not fits or not prod(shape) * dtype.itemsize <= len(payload.raw):
                raise self.refusal(f"holds {len(payload.raw)} bytes of text for an array of the shape {shape}")
            return np.broadcast_to(np.zeros((), dtype), shape)
        if payload not in self.decoded:
            self.decoded[payload] = Left(self.scratch.keep(self.bytes_of(payload)))
        return super().array(self.decoded[payload], dtype, shape, order)

    def bytes_of(self, text: _Text) -> Iterator[bytes]:
        """Decode text piece by piece into the bytes that it stands for."""
        decoder = codecs.getincrementaldecoder("utf-8")()
        try:
            for start in range(0, len(text.raw), PIECE):
                piece = text.raw[start : start + PIECE].tobytes()
                yield decoder.decode(piece, final=start + PIECE >= len(text.raw)).encode("latin-1")
        except UnicodeEncodeError as error:
            raise self.refusal("holds bytes beyond 255") from error
        except UnicodeDecodeError as error:
            raise self.refusal("holds text that is not UTF-8") from error


EXPANDED = "load it with torch and save it again with torch.save, its tensors .contiguous()"
_Reader.steps = (
    Reader.steps
    | {
        b"Q": (_Reader.persistent, None),
        b"R": (_Reader.call, None),
        b"b": (_Reader.build, None),
    }
    | {opcode: (_Reader.text, width) for opcode, width in ((b"\x8c", 1), (b"X", 4), (b"\x8d", 8))}
)


def _widened(numbers: np.ndarray) -> Iterator[bytes]:
    """Give bfloat16 numbers, the upper halves of float32 ones, as float32, piece by piece."""
    for start in range(0, len(numbers), PIECE):
        yield (numbers[start : start + PIECE].astype("<u4") << np.uint32(16)).tobytes()
