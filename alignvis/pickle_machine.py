"""The pickle machine: it interprets the opcodes of a pickle as plain data and runs nothing.

A pickle is a program: unpickling runs it. Allowing only NumPy's own functions is no cure, since `dtype.__setstate__`
lets a file clear the flags that say "these are object pointers". So the opcodes are interpreted here: a name in the
file becomes a tag, a call of a tag becomes plain data, and no function, class or `__setstate__` is ever looked up or
handed anything.
"""

import math
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np

from alignvis.errors import AlignvisError

MAPPED = 2**20  # bytes; a byte string of this size or more is not read but left in the file
SMALL = 64 * 2**20  # bytes that one file may make us hold in memory, arrays copied out of it included
OPCODES = 2**21  # bounds time, stack and memo; the largest published file needs about 300,000
OBJECT = 64  # bytes that a container or a text takes, however little is in it
DEPTH = 32  # containers within containers
INTEGER = 9  # bytes; holds every int64 and uint64
NAME = 256  # bytes in the name of a module and of what is in it

NUMBERS = "b1 i1 u1 i2 u2 i4 u4 i8 u8 f2 f4 f8".split()
ELEMENTS = (str, bytes, int, float, type(None), np.generic)  # of an object array
KEYS = (str, int, float, np.integer)  # of a dict; tuples are left out, as hashing nested ones can take exponential time

AGAIN = "download it again, or save it again with numpy.save as plain numbers, text, lists and dicts"
TRUNCATED = "it is truncated: download it again"


class Tag(Enum):
    """The names that a file may mention. A tag is no function: nothing can be called by way of it."""

    ARRAY_TYPE = "numpy.ndarray"
    DTYPE = "numpy.dtype"
    ARRAY = "numpy.core.multiarray._reconstruct"
    SCALAR = "numpy.core.multiarray.scalar"
    BUFFER = "numpy.core.numeric._frombuffer"  # an array in protocol 5
    ENCODE = "_codecs.encode"  # bytes in protocol 2
    NO_BYTES = "__builtin__.bytes"  # and no bytes at all in protocol 2


@dataclass(frozen=True)
class Left:
    """A byte string that was not read: (bytes,) uint8, a map of the place where it lies."""

    raw: np.memmap

    def __len__(self) -> int:
        return len(self.raw)


@dataclass
class _Announced:
    """A dtype (of this code) or an array (without a code) before BUILD has described it, and what it then is."""

    code: str | None
    built: bool = False
    value: Any = None


def dtype_of(order: str, code: str) -> np.dtype | None:
    """Give the dtype of this byte order and code if it is one of numbers, text or objects, else None."""
    if code in ("O", "O8"):
        return np.dtype("O")
    if code not in NUMBERS and not re.fullmatch("[SU](0|[1-9][0-9]{0,6})", code):
        return None
    one_byte = code[0] == "S" or code in ("b1", "i1", "u1")
    return np.dtype(order + code) if order in (("|",) if one_byte else ("<", ">")) else None


class Reader:
    """The pickle machine over plain data: a stack with marks in it, and a memo.

    A file of more than this, such as tensors, is read by a machine that knows more ``names`` and ``steps``.
    """

    names: Mapping[str, Enum] = {tag.value: tag for tag in Tag}

    def __init__(self, path: Path, content: np.memmap) -> None:
        self.path = path
        self.content = content
        self.data = memoryview(content)
        self.position = self.at = 0  # of the next byte, and of the current opcode
        self.held = self.mapped = 0  # bytes taken into memory, and bytes of arrays left in the file
        self.stack: list[Any] = []
        self.marks = [0]
        self.memo: dict[int, Any] = {}

    def refusal(self, found: str, remedy: str = AGAIN) -> AlignvisError:
        return AlignvisError(f"{self.path} {found} at byte {self.at}, where plain NumPy data was expected; {remedy}")

    def pickle(self) -> Any:
        """Interpret the rest of the file; the limits, and the check of the result, keep a hostile file finite."""
        self.at = self.position
        head = bytes(self.data[self.at : self.at + 16])
        if len(head) < 2 or head[0] != 0x80 or not 2 <= head[1] <= 5:
            raise self.refusal(f"holds {head!r} instead of a pickle of protocol 2 to 5")
        self.position += 2
        for _ in range(OPCODES):
            self.at = self.position
            opcode = self.take(1)
            if opcode == b".":
                return self.result()
            if opcode not in self.steps:
                raise self.refusal(f"holds the pickle opcode {opcode!r}")
            step, argument = self.steps[opcode]
            step(self, argument)
        raise self.refusal(f"still goes on after {OPCODES} pickle opcodes")

    def result(self) -> Any:
        if len(self.stack) != 1 or len(self.marks) > 1:
            raise self.refusal(f"ends its pickle with {len(self.stack)} objects instead of one")
        if self.position != len(self.data):
            raise self.refusal(f"has {len(self.data) - self.position} bytes too many after the end of its pickle")
        # Every path is walked, not every object: a list that holds itself, or one list ten times on each of ten levels,
        # is small here and endless for whoever compares or prints it.
        walk, seen = [iter(self.stack)], 1  # what is left of each container on the way down
        while walk:
            value = next(walk[-1], walk)
            if value is walk:
                walk.pop()
            elif type(value) in (list, tuple, dict):
                seen += len(value)
                if len(walk) > DEPTH or seen > OPCODES:
                    raise self.refusal(f"ends containers nested deeper than {DEPTH}, in themselves or without bound")
                walk.append(iter(value.values() if type(value) is dict else value))
            elif not isinstance(value, ELEMENTS + (np.ndarray,)):
                raise self.refusal(f"ends data with a stray dtype, function, array or byte string of {MAPPED} or more")
        return self.stack[0]

    def charge(self, size: int) -> None:
        self.held += size
        if self.held > SMALL:
            raise self.refusal(f"takes more than {SMALL} bytes of memory", "save it again with numpy.save")

    def take(self, size: int) -> bytes:
        if size > len(self.data) - self.position:
            raise self.refusal("ends within what starts", TRUNCATED)
        self.charge(size)
        self.position += size
        return bytes(self.data[self.position - size : self.position])

    def integer(self, width: int) -> int:
        return int.from_bytes(self.take(width), "little")

    def top(self) -> Any:
        if len(self.stack) <= self.marks[-1]:
            raise self.refusal("holds a pickle opcode that finds nothing to work on")
        return self.stack[-1]

    def pop(self, count: int | None = 1) -> list[Any]:
        """Take so many objects off the stack, or with None all those after the last mark."""
        start = len(self.stack) - count if count is not None else self.marks.pop() if len(self.marks) > 1 else -1
        if start < self.marks[-1]:
            raise self.refusal("holds a pickle opcode that finds too little to work on")
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def mark(self, _: None) -> None:
        self.marks.append(len(self.stack))

    def put(self, width: int) -> None:
        self.memo[self.integer(width) if width else len(self.memo)] = self.top()

    def get(self, width: int) -> None:
        index = self.integer(width)
        if index not in self.memo:
            raise self.refusal(f"refers to an object {index} that it has not defined")
        value = self.memo[index]
        self.stack.append(value.value if isinstance(value, _Announced) and value.built else value)

    def constant(self, value: bool | None) -> None:
        self.stack.append(value)

    def container(self, kind: type) -> None:
        self.charge(OBJECT)
        self.stack.append(kind())

    def number(self, layout: str) -> None:
        self.stack.append(struct.unpack(layout, self.take(struct.calcsize(layout)))[0])

    def long_integer(self, width: int) -> None:
        size = self.integer(width)
        if size > INTEGER:
            raise self.refusal(f"holds an integer of {size} bytes (at most {INTEGER})")
        self.stack.append(int.from_bytes(self.take(size), "little", signed=True))

    def text(self, width: int) -> None:
        self.charge(OBJECT)
        try:
            self.stack.append(self.take(self.integer(width)).decode())
        except UnicodeDecodeError as error:
            raise self.refusal("holds text that is not UTF-8") from error

    def byte_string(self, width: int) -> None:
        size = self.integer(width)
        if size < MAPPED or size > len(self.data) - self.position:
            self.stack.append(self.take(size))  # which refuses what is not there
        else:
            self.stack.append(Left(self.content[self.position : self.position + size]))
            self.position += size

    def make_tuple(self, length: int | None) -> None:
        self.stack.append(tuple(self.pop(length)))

    def append(self, count: int | None) -> None:
        items = self.pop(count)
        if type(self.top()) is not list:
            raise self.refusal(f"appends to a {type(self.top()).__name__}")
        self.top().extend(items)

    def set_item(self, count: int | None) -> None:
        items = self.pop(count)
        if type(self.top()) is not dict or len(items) % 2:
            raise self.refusal(f"sets {len(items)} keys and values in a {type(self.top()).__name__}")
        if not all(isinstance(key, KEYS) for key in items[::2]):
            raise self.refusal("holds a dict with keys other than text and numbers")
        self.top().update(zip(items[::2], items[1::2], strict=True))

    def name(self, _: None) -> None:
        module, *rest = bytes(self.data[self.position : self.position + NAME]).split(b"\n", 2)
        if len(rest) < 2:
            raise self.refusal("holds a name without an end")
        self.take(len(module) + len(rest[0]) + 2)
        self.stack += [module.decode("latin-1"), rest[0].decode("latin-1")]
        self.name_from_stack(None)

    def name_from_stack(self, _: None) -> None:
        module, name = self.pop(2)
        if type(module) is not str or type(name) is not str:
            raise self.refusal("holds a name that is not text")
        full = f"{module}.{name}"
        known = full.replace("numpy._core.", "numpy.core.")  # NumPy 2 and NumPy 1
        if known not in self.names:
            remedy = "nothing was run; get the data from their authors as plain numbers and text, saved with numpy.save"
            if full.startswith("pandas."):
                remedy = "export its columns again as plain NumPy, with .to_numpy(dtype=object)"
            raise self.refusal(f"asks for {full[:NAME]!r}", remedy)
        self.stack.append(self.names[known])

    def call(self, _: None) -> None:
        function, arguments = self.pop(2)
        self.stack.append(self.made(function, arguments))

    def made(self, function: Any, arguments: Any) -> Any:
        """Give what a call of this tag with these arguments stands for."""
        # Every pattern asks for the type first: an array that stands in a constant's place has no truth value for ==.
        match function if isinstance(function, Tag) else None, arguments:
            case Tag.ARRAY, (Tag() as kind, _, _) if kind is Tag.ARRAY_TYPE:
                return _Announced(None)
            case Tag.DTYPE, (str(code), int(), int()):
                return _Announced(code)
            case Tag.SCALAR, (np.dtype() as dtype, bytes(payload)) if not dtype.hasobject:
                return self.array(payload, dtype, (), "C")[()]
            case Tag.BUFFER, (payload, np.dtype() as dtype, tuple(shape), str(order)) if order in ("C", "F"):
                return self.array(payload, dtype, shape, order)
            case Tag.BUFFER, (bytes() | Left() as payload, np.dtype() as dtype, tuple(shape), str("K"), tuple(axes)):
                made = self.array(payload, dtype, shape, "C")
                if not all(type(axis) is int for axis in axes) or sorted(axes) != list(range(len(shape))):
                    raise self.refusal("holds an array of impossible axes")
                return made.transpose(axes)
            case Tag.ENCODE, (str(text), str("latin1")):
                self.charge(len(text))
                made = text.encode("latin-1", "ignore")
                if len(made) != len(text):
                    raise self.refusal("holds bytes beyond 255")
                return made
            case Tag.NO_BYTES, ():
                return b""
        raise self.refusal("calls something, or with something, that is not as NumPy does it")

    def build(self, _: None) -> None:
        announced, state = self.pop(2)
        match announced, state:
            case _Announced(str(code), False), (int(3), str(order), None, None, None, int(size), int(), int()):
                value = dtype_of(order, code)
                if value is None or size not in (-1, value.itemsize):
                    raise self.refusal(f"holds values of dtype {(order + code)[:80]!r}")
            case _Announced(None, False), (int(1), tuple(shape), np.dtype() as dtype, int(fortran), payload):
                value = self.array(payload, dtype, shape, "F" if fortran else "C")
            case _:
                raise self.refusal("describes an array or a dtype otherwise than NumPy does")
        announced.built, announced.value = True, value
        self.stack.append(value)

    def array(self, payload: Any, dtype: np.dtype, shape: tuple, order: str) -> Any:
        """Give bytes (or listed objects) a dtype and a shape, if they have it; bytes left in the file stay there."""
        if not isinstance(payload, list if dtype.hasobject else (bytes, Left)):
            raise self.refusal(f"makes an array of {dtype} out of a {type(payload).__name__}")
        given = len(payload) * (dtype.itemsize if dtype.hasobject else 1)
        # An empty array needs no bytes, so its other lengths are held to what memory could hold.
        possible = len(shape) <= 32 and all(type(length) is int and length >= 0 for length in shape)
        if not possible or (0 in shape and dtype.itemsize * math.prod(length or 1 for length in shape) > SMALL):
            raise self.refusal("holds an array of an impossible shape")
        size = dtype.itemsize * math.prod(shape)
        if given != size or (dtype.itemsize == 0 and shape):
            found = f"holds {given} bytes for {size} bytes of {dtype} in the shape {str(shape)[:80]}"
            raise self.refusal(found, TRUNCATED if given < size else AGAIN)
        if dtype.hasobject:
            self.charge(given)
            if shape and not all(isinstance(element, ELEMENTS) for element in payload):
                raise self.refusal("holds an object array of other things than text and numbers")
            return np.fromiter(payload, dtype, len(payload)).reshape(shape) if shape else payload[0]
        if given == 0:
            return np.empty(shape, dtype, order)
        if isinstance(payload, Left):
            self.mapped += given
            if self.mapped > len(self.data):
                raise self.refusal("claims the same bytes for one array more")
            raw = payload.raw
        else:
            self.charge(given)  # a million arrays may be copies of one byte string
            raw = np.frombuffer(payload, np.uint8).copy()
        # Text and bools are read through, even mapped ones: NumPy raises SystemError on meeting text that is not
        # Unicode, and computes nonsense with a bool that is neither 0 nor 1.
        if dtype.kind == "U" and raw.view(np.dtype("u4").newbyteorder(dtype.byteorder)).max() > 0x10FFFF:
            raise self.refusal("holds text that is not Unicode")
        if dtype.kind == "b" and raw.max() > 1:
            raise self.refusal("holds truth values that are neither 0 nor 1")
        return raw.view(dtype).reshape(shape, order=order)


Reader.steps = {
    opcode: (step, argument)
    for step, opcodes in {
        Reader.take: {b"\x95": 8},  # FRAME is only a hint for buffering
        Reader.mark: {b"(": None},
        Reader.put: {b"q": 1, b"r": 4, b"\x94": 0},
        Reader.get: {b"h": 1, b"j": 4},
        Reader.constant: {b"N": None, b"\x88": True, b"\x89": False},
        Reader.number: {b"J": "<i", b"K": "<B", b"M": "<H", b"G": ">d"},
        Reader.long_integer: {b"\x8a": 1},
        Reader.text: {b"\x8c": 1, b"X": 4, b"\x8d": 8},
        Reader.byte_string: {b"C": 1, b"B": 4, b"\x8e": 8, b"\x96": 8},
        Reader.container: {b"]": list, b"}": dict},
        Reader.make_tuple: {b")": 0, b"\x85": 1, b"\x86": 2, b"\x87": 3, b"t": None},
        Reader.append: {b"a": 1, b"e": None},
        Reader.set_item: {b"s": 2, b"u": None},
        Reader.name: {b"c": None},
        Reader.name_from_stack: {b"\x93": None},
        Reader.call: {b"R": None},
        Reader.build: {b"b": None},
    }.items()
    for opcode, argument in opcodes.items()
}
