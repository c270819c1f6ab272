"""The pickles inside the files of torch, carried out by a machine that can make nothing but plain data.

A pickle is a small program. `pickletools` decodes its opcodes, which executes nothing; the machine here carries out
those that torch writes. It knows containers, numbers, text and tensors, and imports nothing that the file names.
"""

import pickletools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from alignvis.errors import AlignvisError

STEPS = 2_000_000  # opcodes; a tensor takes about 40, a checkpoint with its optimizer some 100,000

STORAGES = {
    "torch DoubleStorage": torch.float64,
    "torch FloatStorage": torch.float32,
    "torch HalfStorage": torch.float16,
    "torch BFloat16Storage": torch.bfloat16,
    "torch LongStorage": torch.int64,
    "torch IntStorage": torch.int32,
    "torch ShortStorage": torch.int16,
    "torch CharStorage": torch.int8,
    "torch ByteStorage": torch.uint8,
    "torch BoolStorage": torch.bool,
}
TENSOR, PARAMETER = "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_parameter"
EMPTY_DICT, SIZE = "collections OrderedDict", "torch Size"
TYPED = "torch.jit._pickle "  # build_intlist, restore_type_tag, ...: TorchScript's lists, with their type
SCRIPT = "__torch__"


@dataclass(frozen=True)
class Storage:
    """A run of numbers in the file: their type, the key they lie under, how many there are."""

    dtype: torch.dtype
    key: str
    count: int


@dataclass(frozen=True)
class Stored:
    """A tensor not read yet: a window on a storage, in numbers (not bytes)."""

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


@dataclass(frozen=True)
class Name:
    """What the pickle would import, as "module name"; here it stays a name."""

    text: str


class Module:
    """A TorchScript object: its attributes, without its code."""

    attributes: Mapping[str, Any] = MappingProxyType({})


def interpret(path: Path, pickled: Any) -> tuple[Any, dict[str, Storage]]:
    """Carry out one pickle.

    Args:
        path: the file, for the sentence of an error.
        pickled: bytes, or an open file, which is then read up to the end of the pickle.

    Returns:
        What the pickle makes, with a `Stored` for each tensor, and the storages it mentions, by key.

    Raises:
        AlignvisError: when it names anything but tensors and plain containers.
        ValueError, TypeError, LookupError: when it is damaged.
    """
    stack: list[Any] = []
    marks: list[int] = []  # where on the stack the items of a container begin
    memo: dict[int, Any] = {}
    storages: dict[str, Storage] = {}
    for step, (opcode, argument, _) in enumerate(pickletools.genops(pickled)):
        if step == STEPS:
            raise ValueError(f"its pickle has more than {STEPS:,} steps")
        match opcode.name:
            case "PROTO":
                pass
            case "MARK":
                marks.append(len(stack))
            case "NONE":
                stack.append(None)
            case "NEWTRUE" | "NEWFALSE":
                stack.append(opcode.name == "NEWTRUE")
            case "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT" | "BINUNICODE":
                stack.append(argument)
            case "EMPTY_DICT":
                stack.append({})
            case "EMPTY_LIST":
                stack.append([])
            case "EMPTY_TUPLE":
                stack.append(())
            case "TUPLE":
                stack.append(tuple(_above(stack, marks.pop())))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                stack[-int(opcode.name[-1]) :] = [tuple(stack[-int(opcode.name[-1]) :])]
            case "APPEND":
                item = stack.pop()
                _of(list, stack[-1]).append(item)
            case "APPENDS":
                items = _above(stack, marks.pop())
                _of(list, stack[-1]).extend(items)
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                _of(dict, stack[-1])[_of(str | int, key)] = value
            case "SETITEMS":
                items = _above(stack, marks.pop())
                for key, value in zip(items[::2], items[1::2], strict=True):
                    _of(dict, stack[-1])[_of(str | int, key)] = value
            case "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "GLOBAL":
                stack.append(_name(path, argument))
            case "NEWOBJ":
                stack.pop()
                if not _of(Name, stack.pop()).text.startswith(SCRIPT):
                    raise ValueError("it makes an object that is not TorchScript's")
                stack.append(Module())
            case "BUILD":
                state = _of(dict, stack.pop())
                # An ordered dict's state is its own attributes (`_metadata`), not its entries.
                if isinstance(_of(Module | dict, stack[-1]), Module):
                    stack[-1].attributes = state
            case "REDUCE":
                arguments, function = _of(tuple, stack.pop()), _of(Name, stack.pop())
                stack.append(_call(function.text, arguments))
            case "BINPERSID":
                storage = _storage(stack.pop())
                if storages.setdefault(storage.key, storage) != storage:
                    raise ValueError(f"it describes its storage {storage.key!r} in two ways")
                stack.append(storage)
            case "STOP":
                return stack.pop(), storages
            case _:
                raise ValueError(f"its pickle has the opcode {opcode.name}, which torch does not write")
    raise ValueError("its pickle has no end")


def _above(stack: list[Any], mark: int) -> list[Any]:
    items = stack[mark:]
    del stack[mark:]
    return items


def _of(kind: Any, value: Any) -> Any:
    if not isinstance(value, kind):
        raise TypeError(f"its pickle has a {type(value).__name__} where a {getattr(kind, '__name__', kind)} belongs")
    return value


def _name(path: Path, text: str) -> Name:
    if text in STORAGES or text in (TENSOR, PARAMETER, EMPTY_DICT, SIZE) or text.startswith((TYPED, SCRIPT)):
        return Name(text)
    raise AlignvisError(
        f"{path} holds objects other than tensors ({text.replace(' ', '.')[:80]}), so it is not opened; "
        "give a file that holds the weights alone"
    )


def _call(function: str, arguments: tuple) -> Any:
    if function == TENSOR:
        storage, offset, size, stride, _, _, *metadata = arguments
        if any(metadata):
            raise ValueError("it holds a tensor that is to be conjugated or negated")
        return Stored(_of(Storage, storage), _of(int, offset), _of(tuple, size), _of(tuple, stride))
    if function == PARAMETER:
        return _of(Stored, arguments[0])
    if function == EMPTY_DICT and arguments == ():
        return {}
    if function == SIZE:
        return tuple(_of(tuple, arguments[0]))
    if function.startswith(TYPED):
        return arguments[0]
    raise ValueError(f"it calls {function.replace(' ', '.')} with {len(arguments)} arguments")


def _storage(described: Any) -> Storage:
    kind, dtype, key, _, count, *part = _of(tuple, described)
    if kind != "storage" or any(part):
        raise ValueError("it refers to something that is not a whole storage")
    return Storage(STORAGES[_of(Name, dtype).text], _of(str, key), _of(int, count))
