"""A pickle is a program; these tests state that we read its data and never run it."""

import ast
import copy
import io
import os
import pickle
import random
import resource
import struct
import subprocess
import sys
import textwrap
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from alignvis import pickle_machine, pickles
from alignvis.errors import AlignvisError
from alignvis.pickles import read_pickled

PROTOCOLS = (2, 3, 4, 5)
MIB = 2**20


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("pickles") / "file.npy"


def load(path: Path, content: bytes):
    path.write_bytes(content)
    return read_pickled(path)


def refused(path: Path, content: bytes) -> str:
    with pytest.raises(AlignvisError) as caught:
        load(path, content)
    text = str(caught.value)
    assert str(path) in text and "\n" not in text and len(text) < 600
    return text


def saved(value) -> bytes:
    """What numpy.save makes of an object."""
    wrapped = np.empty((), object)
    wrapped[()] = value
    return numpy_file(wrapped)


def numpy_file(array: np.ndarray, version: tuple[int, int] | None = None) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, array, version)
    return file.getvalue()


def same(found, wanted) -> bool:
    """Equal values of equal types all the way down; NaN equals NaN."""
    if isinstance(wanted, np.ndarray):
        alike = isinstance(found, np.ndarray) and found.dtype == wanted.dtype and found.shape == wanted.shape
        if alike and wanted.dtype.hasobject:
            return all(same(a, b) for a, b in zip(found.ravel(), wanted.ravel(), strict=True))
        return alike and found.tobytes() == wanted.tobytes()
    if type(found) is not type(wanted):
        return False
    if isinstance(wanted, dict):
        return list(found) == list(wanted) and all(same(found[key], wanted[key]) for key in wanted)
    if isinstance(wanted, (list, tuple)):
        return len(found) == len(wanted) and all(same(a, b) for a, b in zip(found, wanted, strict=True))
    return found == wanted or (found != found and wanted != wanted)


# --- an assembler for pickles that no pickler writes -----------------------------------------------------------------

NEW = b"cnumpy._core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R"
NO_SIZE = b"J\xff\xff\xff\xffJ\xff\xff\xff\xff"


def bare(body: bytes) -> bytes:
    return b"\x80\x04" + body + b"."


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def lengths(*values: int) -> bytes:
    return b"(" + b"".join(b"\x8a\x09" + value.to_bytes(9, "little", signed=True) for value in values) + b"t"


def byte_string(value: bytes) -> bytes:
    return b"B" + struct.pack("<I", len(value)) + value


def dtype(
    code: str, order: str = "<", fields: bytes = b"NNN", sizes: bytes = NO_SIZE, flags: bytes = b"K\x00"
) -> bytes:
    return b"cnumpy\ndtype\n" + text(code) + b"\x89\x88\x87R(K\x03" + text(order) + fields + sizes + flags + b"tb"


def array(shape: bytes, kind: bytes, payload: bytes) -> bytes:
    return NEW + b"(K\x01" + shape + kind + b"\x89" + payload + b"tb"


F8 = dtype("f8")
EIGHT = byte_string(struct.pack("<d", 8.0))


def test_the_assembler_writes_what_pickle_itself_reads():
    assert same(pickle.loads(bare(array(lengths(1), F8, EIGHT))), np.array([8.0]))


# --- what was saved comes back -------------------------------------------------------------------------------------

CODES = ["?", "i1", "u1", "<i2", ">i2", "<u2", "<i4", ">u4", "<i8", ">i8", "<u8", "<f2", "<f4", ">f4", "<f8", ">f8"]
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=300)
    | st.binary(max_size=300)
    | arrays.arrays(
        st.sampled_from([np.dtype(code) for code in [*CODES, "<U3", ">U2", "S4"]]), arrays.array_shapes(max_side=4)
    )
    | st.lists(st.text(max_size=5) | st.integers(-9, 9) | st.none(), max_size=4).map(lambda row: np.array(row, object))
    | st.sampled_from(
        [np.float64(0.5), np.float32(-1), np.int64(7), np.bool_(True), np.str_("é"), np.str_(""), np.bytes_(b"x")]
    )
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(st.text(max_size=4) | st.integers(0, 2**40), inner, max_size=4)
    ),
    max_leaves=12,
)


@settings(max_examples=120, deadline=None)
@given(value=VALUES, protocol=st.sampled_from(PROTOCOLS))
def test_any_plain_value_comes_back_as_it_was_saved(path, value, protocol):
    assert same(load(path, pickle.dumps(value, protocol)), value)
    if not isinstance(value, np.ndarray):
        assert same(load(path, saved(value)), value)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("code", [*CODES, "<U3", ">U3", "S3"])
def test_every_dtype_order_and_shape_comes_back(path, code, protocol):
    values = np.random.default_rng(0).integers(0, 2, (2, 3, 4))
    for source in (
        values,
        values.transpose(2, 1, 0),
        values.transpose(1, 0, 2),
        values[:, ::2],
        values[:0],
        values[0, 0, 0],
    ):
        wanted = np.array(source, np.dtype(code), order="K")
        found = load(path, pickle.dumps(wanted, protocol))
        assert same(found, wanted) and found.flags.writeable and type(found) is np.ndarray
        assert same(load(path, numpy_file(wanted)), wanted)


@pytest.mark.parametrize("protocol", (3, 4, 5))
@pytest.mark.parametrize("code", ["<f8", ">f8", "<f4", "?", "<U5", "S7"])
@pytest.mark.parametrize("order", ["C", "F", "K"])
def test_large_arrays_are_maps_of_the_file(path, code, order, protocol):
    columns = MIB // (3 * 100 * np.dtype(code).itemsize) + 1
    values = np.random.default_rng(1).integers(0, 2, (3, 100, columns)).astype(code)
    values = values.transpose(1, 0, 2) if order == "K" else np.asarray(values, order=order)
    document = {"odd": "x" * protocol, "values": values, "after": [1.5]}
    for content in (pickle.dumps(document, protocol), saved(document)):
        found = load(path, content)
        assert isinstance(found["values"], np.memmap) and not found["values"].flags.writeable
        assert same(found["values"], values) and found["after"] == [1.5]
    assert found["values"].flags.f_contiguous == (order == "F")


def test_an_array_is_mapped_from_one_mebibyte_on(path):
    for size, kind in ((MIB - 1, np.ndarray), (MIB, np.memmap)):
        values = np.arange(size, dtype=np.uint8)
        for content in (pickle.dumps(values, 4), numpy_file(values)):
            found = load(path, content)
            assert type(found) is kind and same(found, values)


def test_a_map_shows_what_the_file_holds_now(path):
    found = load(path, pickle.dumps(np.full(MIB // 8, 1.5), 4))
    place = path.read_bytes().index(struct.pack("<d", 1.5))
    with open(path, "r+b") as file:
        file.seek(place)
        file.write(struct.pack("<d", 4.25))
    assert found[0] == 4.25 and found[1] == 1.5


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
@pytest.mark.parametrize("order", ["C", "F"])
def test_plain_numpy_files_of_every_version_are_read(path, version, order):
    for shape in ((), (0,), (5,), (2, 3), (300, 500)):
        wanted = np.asarray(np.random.default_rng(2).normal(size=shape), ">f8", order=order)
        found = load(path, numpy_file(wanted, version))
        assert same(found, wanted) and isinstance(found, np.memmap) == (wanted.nbytes >= MIB)
        assert found.flags.f_contiguous == wanted.flags.f_contiguous


def test_an_object_array_of_names_is_read_from_either_container(path):
    names = np.array([["aardvark_01b.jpg", "ä.jpg"], [None, 3]], object, order="F")
    assert same(load(path, numpy_file(names)), names)
    assert same(load(path, pickle.dumps(names, 4)), names)
    assert same(load(path, pickle.dumps(np.array([], object), 4)), np.array([], object))


def test_a_bytearray_comes_out_as_bytes(path):
    assert load(path, pickle.dumps([bytearray(b"ab")], 5)) == [b"ab"]


def test_one_object_in_two_places_is_read_in_both(path):
    shared, number = [1], np.arange(3)
    found = load(path, pickle.dumps([shared, shared, number, number], 4))
    assert found[0] is found[1] and found[2] is found[3] and same(found[2], number)


# protocol 3 and 4, as numpy 1.19 and numpy 2.4 write {"sfreq": 1000, "raw_eeg_data": [[1.0, 2.0]]}
NUMPY_1 = (
    b"\x80\x03}q\x00(X\x05\x00\x00\x00sfreqq\x01M\xe8\x03X\x0c\x00\x00\x00raw_eeg_dataq\x02cnumpy.core.multiarray\n_reconstruct\n"
    b"q\x03cnumpy\nndarray\nq\x04K\x00\x85q\x05C\x01bq\x06\x87q\x07Rq\x08(K\x01K\x01K\x02\x86q\tcnumpy\ndtype\nq\n"
    b"X\x02\x00\x00\x00f8q\x0bK\x00K\x01\x87q\x0cRq\r(K\x03X\x01\x00\x00\x00<q\x0eNNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tq\x0fb"
    b"\x89C\x10\x00\x00\x00\x00\x00\x00\xf0?\x00\x00\x00\x00\x00\x00\x00@q\x10tq\x11bu."
)
NUMPY_2 = (
    b"\x80\x04\x95\xc1\x00\x00\x00\x00\x00\x00\x00}\x94(\x8c\x05sfreq\x94M\xe8\x03\x8c\x0craw_eeg_data\x94"
    b"\x8c\x16numpy._core.multiarray\x94\x8c\x0c_reconstruct\x94\x93\x94\x8c\x05numpy\x94\x8c\x07ndarray\x94\x93\x94K\x00\x85\x94"
    b"C\x01b\x94\x87\x94R\x94(K\x01K\x01K\x02\x86\x94h\x06\x8c\x05dtype\x94\x93\x94\x8c\x02f8\x94\x89\x88\x87\x94R\x94"
    b"(K\x03\x8c\x01<\x94NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00t\x94b\x89"
    b"C\x10\x00\x00\x00\x00\x00\x00\xf0?\x00\x00\x00\x00\x00\x00\x00@\x94t\x94bu."
)
# protocol 3, as numpy 1.19 saves {"lowpass": 100}
WRAPPER = (
    b"\x93NUMPY\x01\x00v\x00{'descr': '|O', 'fortran_order': False, 'shape': (), }" + b" " * 63 + b"\n"
    b"\x80\x03cnumpy.core.multiarray\n_reconstruct\nq\x00cnumpy\nndarray\nq\x01K\x00\x85q\x02C\x01bq\x03\x87q\x04Rq\x05"
    b"(K\x01)cnumpy\ndtype\nq\x06X\x02\x00\x00\x00O8q\x07K\x00K\x01\x87q\x08Rq\t(K\x03X\x01\x00\x00\x00|q\nNNN"
    b"J\xff\xff\xff\xffJ\xff\xff\xff\xffK?tq\x0bb\x89]q\x0c}q\rX\x07\x00\x00\x00lowpassq\x0eKdsatq\x0fb."
)


@pytest.mark.parametrize("content", [NUMPY_1, NUMPY_2])
def test_files_of_numpy_1_and_2_are_read_to_the_byte(path, content):
    assert same(load(path, content), {"sfreq": 1000, "raw_eeg_data": np.array([[1.0, 2.0]])})


def test_the_published_wrapper_is_taken_off(path):
    assert load(path, WRAPPER) == {"lowpass": 100}


@pytest.mark.parametrize("core", [b"numpy.core", b"numpy._core"])
def test_scalars_and_protocol_5_buffers_are_read_in_both_spellings(path, core):
    scalar = b"c" + core + b".multiarray\nscalar\n" + F8 + EIGHT + b"\x86R"
    buffer = b"c" + core + b".numeric\n_frombuffer\n(" + EIGHT + F8 + lengths(1) + text("C") + b"tR"
    assert same(load(path, bare(scalar + buffer + b"\x86")), (np.float64(8.0), np.array([8.0])))


def test_a_file_beyond_four_gibibytes_is_not_read(path):
    size = 5 * 2**30
    head = (
        b"\x80\x04}"
        + text("data")
        + NEW
        + b"(K\x01"
        + lengths(2, size // 16)
        + F8
        + b"\x88\x8e"
        + struct.pack("<Q", size)
    )
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    tracemalloc.start()
    try:
        with open(path, "wb") as file:
            file.write(head)
            file.seek(size - 8, os.SEEK_CUR)
            file.write(struct.pack("<d", 2.5) + b"tbs" + text("sfreq") + b"M\xfa\x00s.")
        found = read_pickled(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    try:
        assert isinstance(found["data"], np.memmap) and found["data"].flags.f_contiguous and found["sfreq"] == 250
        assert found["data"].shape == (2, size // 16) and found["data"][-1, -1] == 2.5 and found["data"][0, 0] == 0.0
        assert peak < MIB and resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000
    finally:
        path.unlink()


# --- what is no plain data is refused --------------------------------------------------------------------------------


class Bomb:
    def __init__(self, function, argument):
        self.function, self.argument = function, argument

    def __reduce__(self):
        return self.function, (self.argument,)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("module, function", [("posix", os.system), ("builtins", eval), ("builtins", exec)])
def test_a_function_in_the_file_is_named_and_not_run(path, module, function, protocol):
    sentinel = path.with_name("sentinel")
    code = f"touch {sentinel}" if function is os.system else f"__import__('pathlib').Path({str(sentinel)!r}).touch()"
    content = pickle.dumps({"preprocessed_eeg_data": Bomb(function, code)}, protocol)
    for bomb in (content, saved(Bomb(function, code))):
        assert function.__name__ in refused(path, bomb) and not sentinel.exists()
    assert "nothing was run" in refused(path, content)
    pickle.loads(content)  # the bomb is a real one
    assert sentinel.exists()
    sentinel.unlink()


@pytest.mark.parametrize(
    "body",
    [
        b"cos\nsystem\n" + text("true") + b"\x85R",
        text("os") + text("system") + b"\x93" + text("true") + b"\x85R",
        text("numpy") + text("load") + b"\x93",
        b"cnumpy._core.multiarray\nscalar\nK\x01\x85R",
        b"cnumpy\nndarray\n" + lengths(3) + b"\x85R",  # would be memory that nobody has written
        b"c_codecs\nencode\n" + text("abc") + text("rot13") + b"\x86R",
        b"c_codecs\nencode\n" + text("Ā") + text("latin1") + b"\x86R",
        b"ccopyreg\n_reconstructor\n",
        b"cnumpy\ndtype\n",
        F8,
        NEW,
        b"cnumpy\ndtype\n" + text("f8") + b"\x89\x88\x87R",
        b"]K\x01b",
        b"K\x01K\x02R",
        b"cnumpy.core.multiarray\n_reconstruct\nK\x01K\x02K\x03\x87R",
        b"c" + b"x" * 1000,
        b"K\x01K\x02\x93",
        b"]K\x01K\x02s",
        b"}K\x01a",
        b"}(K\x01u",
        b"})K\x02s",  # a tuple as key
        b"e",
        b"(K\x01",
        b"K\x01K\x02",
        b"h\x05",
        b"K\x01(\x94",
        b"K\x01(\x85t\x86",  # reaches below its mark
        b"K\x01(\x94t\x86",
        array(lengths(1), F8, EIGHT).replace(b"\nndarray", b"\ndtype"),
        b"cnumpy.core.numeric\n_frombuffer\n(](K\x01e" + dtype("O8", "|") + b")" + text("K") + b")tR",
        b")" + b"\x85" * 100_000 + text("system") + b"\x93",
        b"\x8a\x0a" + bytes(10),
        b"\x8c\x01\xff",
        b"I1\n",
        b"P1\n",
        b"\x81",
        b"",
    ],
)
def test_what_no_plain_pickle_does_is_refused(path, body):
    assert "at byte" in refused(path, bare(body))


ODD = [
    array(lengths(2), F8, byte_string(bytes(16))),
    NEW,
    F8,
    b"(K\x01K\x02t",
    b"]",
    b"}",
    b"N",
    text("C"),
    b"cnumpy\ndtype\n",
    b"K\x05",
]


def test_odd_objects_in_every_place_of_a_call_are_refused_or_read(path):
    """An array where a constant belongs must not be compared with it: that has no truth value."""
    calls = {
        b"cnumpy.core.multiarray\n_reconstruct\n": [b"cnumpy\nndarray\n", lengths(0), byte_string(b"b")],
        b"cnumpy\ndtype\n": [text("f8"), b"\x89", b"\x88"],
        b"cnumpy.core.multiarray\nscalar\n": [F8, EIGHT],
        b"cnumpy.core.numeric\n_frombuffer\n": [EIGHT, F8, lengths(1), text("C")],
        b"cnumpy._core.numeric\n_frombuffer\n": [EIGHT, F8, lengths(1), text("K"), lengths(0)],
        b"c_codecs\nencode\n": [text("a"), text("latin1")],
        NEW: [b"K\x01", lengths(1), F8, b"\x89", EIGHT],
        b"cnumpy\ndtype\n" + text("f8") + b"\x89\x88\x87R": [
            b"K\x03",
            text("<"),
            b"N",
            b"N",
            b"N",
            b"K\x08",
            b"K\x08",
            b"K\x00",
        ],
    }
    outcomes = set()
    for function, arguments in calls.items():
        for place in range(len(arguments)):
            for odd in [*ODD, b"(" + b"".join(ODD) + b"t"]:
                changed = [*arguments[:place], odd, *arguments[place + 1 :]]
                path.write_bytes(
                    bare(function + b"(" + b"".join(changed) + b"t" + (b"b" if function.endswith(b"R") else b"R"))
                )
                outcomes.add(outcome(path))
        for count in range(len(arguments)):
            made = function + b"(" + b"".join(arguments[:count]) + b"t" + (b"b" if function.endswith(b"R") else b"R")
            refused(path, bare(made))
        refused(path, bare(b"cnumpy\nndarray\n" + b"".join(arguments) + b"\x87R"))
        for odd in ODD:
            refused(path, bare(odd + b"(" + b"".join(arguments) + b"tR"))
    assert outcomes == {"read", "refused"}


def outcome(path: Path) -> str:
    """Read a file, use what comes out as a user would, and say how that went; anything but these two is a failure."""
    try:
        value = read_pickled(path)
    except AlignvisError as error:
        assert "\n" not in str(error)
        return "refused"
    touch(value)
    return "read"


def touch(value) -> None:
    repr(value)
    copy.deepcopy(value)
    if isinstance(value, dict):
        value = list(value.values())
    for inner in value if isinstance(value, (list, tuple)) else ():
        touch(inner)
    if isinstance(value, np.ndarray):
        value.tolist()
        value.copy()


def test_pandas_columns_say_how_to_export_them(path):
    body = text("pandas._libs.arrays") + text("__pyx_unpickle_NDArrayBacked") + b"\x93"
    assert "to_numpy" in refused(path, bare(body)) and "pandas._libs.arrays" in refused(path, bare(body))


def test_a_sentence_names_the_place(path):
    assert "b'I' at byte 4" in refused(path, bare(b"K\x07I1\n"))
    assert "'os.system' at byte 4" in refused(path, bare(b"K\x07cos\nsystem\n"))


@pytest.mark.parametrize("flags", [b"K\x00", b"K?"])
@pytest.mark.parametrize("code", ["O8", "O"])
def test_bytes_never_become_object_pointers(path, code, flags):
    """dtype.__setstate__ believes the file's flags, so NumPy itself would take these bytes for addresses."""
    for order in "|<":
        kind = dtype(code, order, flags=flags)
        refused(path, bare(array(lengths(1), kind, byte_string(b"ABCDEFGH"))))
        refused(path, bare(b"cnumpy.core.multiarray\nscalar\n" + kind + byte_string(b"ABCDEFGH") + b"\x86R"))
        refused(
            path,
            bare(
                b"cnumpy.core.numeric\n_frombuffer\n(" + byte_string(b"A" * 8) + kind + lengths(1) + text("C") + b"tR"
            ),
        )
        large = b"\x8e" + struct.pack("<Q", MIB) + b"A" * MIB
        refused(path, bare(array(lengths(MIB // 8), kind, large)))
    refused(
        path,
        b"\x93NUMPY\x01\x00v\x00"
        + b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }".ljust(117)
        + b"\n"
        + b"A" * 8,
    )


@pytest.mark.parametrize(
    "kind",
    [
        dtype("f8", "|"),
        dtype("f8", ""),
        dtype("f8", "="),
        dtype("f8", "<>"),
        dtype("i1", "<"),
        dtype("V8", "|"),
        dtype("c16"),
        dtype("M8"),
        dtype("f16"),
        dtype("f8,f8"),
        dtype("U"),
        dtype("U-1"),
        dtype("U99999999999"),
        dtype("f8", fields=text("names") + b"NN"),
        dtype("f8", fields=b"N(" + text("a") + b"tN"),
        dtype("f8", fields=b"NN}"),
        dtype("f8", sizes=b"K\x10K\x08"),
        dtype("f8", flags=b""),
    ],
)
def test_dtypes_beyond_numbers_and_text_are_refused(path, kind):
    for size in (8, 16):
        refused(path, bare(array(lengths(1), kind, byte_string(bytes(size)))))


@pytest.mark.parametrize(
    "shape",
    [
        (2,),
        (-1,),
        (-1, -1),
        (2**62,),
        (2**63,),
        (2**32, 2**32),
        (2**61 + 1,),  # 8 bytes, if multiplied in 64 bits
        (2**62, 2**62, 0),
        (0, 2**40),
        (0,),
        (1,) * 33,
        (1, 2),
    ],
)
def test_shapes_that_the_bytes_do_not_have_are_refused(path, shape):
    tracemalloc.start()
    try:
        refused(path, bare(array(lengths(*shape), F8, byte_string(bytes(0 if 0 in shape[1:] else 8)))))
        refused(path, bare(array(lengths(*shape), dtype("O8", "|"), b"]" + (b"" if 0 in shape[1:] else b"Na"))))
        header = (
            f"{{'descr': '<f8', 'fortran_order': False, 'shape': ({', '.join(map(str, shape))},), }}".encode().ljust(
                217
            )
        )
        data = bytes(0 if 0 in shape[1:] else 8)
        refused(path, b"\x93NUMPY\x01\x00" + struct.pack("<H", 218) + header + b"\n" + data)
        assert tracemalloc.get_traced_memory()[1] < MIB
    finally:
        tracemalloc.stop()


def test_shapes_that_are_none_are_refused(path):
    for shape in (b"N", b"K\x01", b"\x88\x85", b"G" + struct.pack(">d", 1.0) + b"\x85", text("1") + b"\x85", b"]\x85"):
        refused(path, bare(array(shape, F8, EIGHT)))
    deep = b")" * 1 + b"\x85" * 100_000
    refused(path, bare(array(deep, F8, EIGHT)))


@pytest.mark.parametrize("opcode, width", [(b"X", 4), (b"B", 4), (b"\x8d", 8), (b"\x8e", 8), (b"\x96", 8)])
def test_declared_sizes_are_checked_before_memory_is_taken(path, opcode, width):
    tracemalloc.start()
    try:
        for size in (9, 2**31, 2 ** (8 * width - 1), 2 ** (8 * width) - 1):
            size = min(size, 2 ** (8 * width) - 1)
            found = refused(path, bare(opcode + size.to_bytes(width, "little") + b"1234567"))
            assert "truncated" in found and "at byte 2," in found
        assert tracemalloc.get_traced_memory()[1] < MIB
    finally:
        tracemalloc.stop()


def test_small_content_beyond_64_mib_is_refused_unread(path):
    with open(path, "wb") as file:
        file.write(b"\x80\x04\x8d" + struct.pack("<Q", 65 * MIB))
        file.seek(65 * MIB, os.SEEK_CUR)
        file.write(b".")
    tracemalloc.start()
    try:
        with pytest.raises(AlignvisError, match="memory"):
            read_pickled(path)
        assert tracemalloc.get_traced_memory()[1] < MIB
    finally:
        tracemalloc.stop()


def test_one_byte_string_cannot_be_copied_without_end(path):
    payload, again = byte_string(bytes(MIB - 8)) + b"\x94", array(lengths(MIB // 8 - 1), F8, b"h\x00")
    assert len(load(path, bare(b"](" + payload + again * 60 + b"e"))) == 61
    assert "memory" in refused(path, bare(b"](" + payload + again * 64 + b"e"))


def test_bytes_left_in_the_file_belong_to_one_array(path):
    payload = b"\x8e" + struct.pack("<Q", MIB) + bytes(MIB) + b"\x94"
    kind = dtype("b1", "|")
    once, again = array(lengths(MIB), kind, payload), array(lengths(MIB), kind, b"h\x00")
    assert same(load(path, bare(once)), np.zeros(MIB, bool))
    assert "one array more" in refused(path, bare(b"](" + once + again + b"e"))


def test_large_bytes_that_belong_to_no_array_are_refused(path):
    assert "byte string" in refused(path, pickle.dumps({"a": bytes(MIB)}, 4))
    assert load(path, pickle.dumps({"a": bytes(MIB - 1)}, 4)) == {"a": bytes(MIB - 1)}


def test_the_number_of_opcodes_is_bounded(path, monkeypatch):
    monkeypatch.setattr(pickle_machine, "OPCODES", 100)
    assert len(load(path, bare(b"](" + b"N" * 96 + b"e"))) == 96
    assert "100" in refused(path, bare(b"](" + b"N" * 97 + b"e"))


def test_containers_nest_32_deep_and_no_deeper(path):
    for opcodes in (b"]" * 32 + b"a" * 31, b")" + b"\x85" * 31):
        found = load(path, bare(opcodes))
        assert repr(found).count("[") + repr(found).count("(") == 32
    for content in (b"]" * 33 + b"a" * 32, b")" + b"\x85" * 32, b"]" * 100_000 + b"a" * 99_999, b"(" * 99_999):
        refused(path, bare(content))
    refused(path, bare((b"}" + text("a")) * 50_000 + b"N" + b"s" * 50_000))


@pytest.mark.parametrize(
    "body",
    [
        b"]\x94h\x00a",  # a list in itself
        b"]\x94h\x00\x85a",  # a list in a tuple in itself
        b"}\x94K\x01h\x00s",
        b"]\x94(" + b"h\x00" * 1000 + b"e",
        NEW + b"\x94(K\x01)" + dtype("O8", "|") + b"\x89]h\x00atb",  # an object array in itself
        b"(N\x85\x94" + b"".join(b"(" + (b"h" + bytes([level])) * 10 + b"t\x94" for level in range(12)) + b"t",
    ],
)
def test_data_without_end_are_refused(path, body, monkeypatch):
    monkeypatch.setattr(pickle_machine, "OPCODES", 100_000)
    refused(path, bare(body))


def test_values_that_numpy_could_not_use_are_refused(path):
    for value, code, order in ((0x110000, "U1", "<"), (0xFFFFFFFF, "U1", ">")):
        data = value.to_bytes(4, "big" if order == ">" else "little")
        kind = dtype(code, order, sizes=b"K\x04K\x04", flags=b"K\x08")
        assert "Unicode" in refused(path, bare(array(lengths(1), kind, byte_string(data))))
        fine = (0x10FFFF).to_bytes(4, "big" if order == ">" else "little")
        assert load(path, bare(array(lengths(1), kind, byte_string(fine))))[0] == "\U0010ffff"
    truth = array(lengths(2), dtype("b1", "|"), byte_string(b"\x01\x02"))
    assert "truth" in refused(path, bare(truth))
    large = numpy_file(np.full(MIB, 1, np.uint8)).replace(b"|u1", b"|b1")
    assert load(path, large).all()
    assert "truth" in refused(path, large[:-1] + b"\x02")


def test_numbers_are_made_of_bytes_and_objects_of_a_list(path):
    refused(path, bare(array(lengths(1), dtype("O8", "|"), byte_string(b"A"))))
    refused(path, bare(array(lengths(1), F8, b"](" + b"K\x01" * 8 + b"e")))


def test_object_arrays_hold_text_and_numbers_only(path):
    ragged = np.empty(2, object)
    ragged[:] = [[1], [2, 3]]
    assert "object array" in refused(path, pickle.dumps(ragged, 4))


def test_a_header_and_its_pickle_must_agree(path):
    names = numpy_file(np.array(["a", "b"], object))
    assert "shape" in refused(path, names.replace(b"(2,)", b"(1,)"))
    assert "version 9.0" in refused(path, numpy_file(np.zeros(3)).replace(b"\x01\x00v", b"\x09\x00v"))
    assert "header" in refused(path, numpy_file(np.zeros(3, [("a", "f8")])))
    assert "header" in refused(path, numpy_file(np.zeros(3, np.complex64)))
    refused(path, b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**32 - 1))
    number = b"9" * 5000
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (" + number + b",), }\n"
    refused(path, b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header)


DOCUMENT = {
    "preprocessed_eeg_data": np.arange(12, dtype=">f4").reshape(3, 4).T,
    "ch_names": ["Fp1", "Fp1", "é"],
    "times": np.linspace(0, 1, 3),
    "names": np.array(["ab", None], object),
    "text": np.array(["x", "yz"]),
    "flag": np.array([True, False]),
    "more": (1, 2.5, None, True, -7, 2**40, b"bytes", np.float64(2.5), np.str_("s"), {"a": [()]}),
}
CORPUS = [pickle.dumps(DOCUMENT, protocol) for protocol in PROTOCOLS] + [saved(DOCUMENT), NUMPY_1, NUMPY_2, WRAPPER]
CORPUS += [numpy_file(np.arange(6.0).reshape(2, 3)), numpy_file(np.array(["a", "b"], object))]


def test_a_file_cut_short_anywhere_is_refused(path):
    for content in (NUMPY_1, NUMPY_2, WRAPPER, CORPUS[3], CORPUS[-2], CORPUS[-1]):
        path.write_bytes(content)
        for end in reversed(range(len(content))):
            os.truncate(path, end)
            assert outcome(path) == "refused"


def test_a_file_with_something_behind_its_end_is_refused(path):
    for content in CORPUS:
        refused(path, content + b"\x00")
        refused(path, content + content)


@pytest.mark.parametrize(
    "content",
    [
        b"<!DOCTYPE html><html></html>",
        b"version https://git-lfs.github.com/spec/v1\n",
        b"PK\x03\x04",
        b"\x80",
        b"\x80\x01N.",
        b"\x80\x06N.",
    ]
    + [pickle.dumps({"a": 1}, protocol) for protocol in (0, 1)],
)
def test_files_of_another_kind_say_what_they_start_with(path, content):
    assert repr(content[:16]) in refused(path, content)


def test_missing_empty_and_unreadable_files_are_refused(path):
    assert "empty" in refused(path, b"")
    pipe = path.with_name("pipe")
    os.mkfifo(pipe)
    for place, word in ((path.with_name("none"), "does not exist"), (path.parent, "folder"), (pipe, "device")):
        with pytest.raises(AlignvisError, match=word):
            read_pickled(place)
    with pytest.raises(AlignvisError, match="could not be read"):
        read_pickled(path.with_name("x" * 300))


# --- damaged files either read or are refused ------------------------------------------------------------------------


def mutations(corpus: list[bytes], count: int, seed: int):
    """Damage files: flip, overwrite with extremes, delete, double, splice with another file."""
    dice = random.Random(seed)
    extremes = [
        b"\xff" * 4,
        b"\xff" * 8,
        bytes(8),
        b"\x7f" + b"\xff" * 7,
        b"\x00\x00\x00\x80",
        b"(",
        b"t",
        b".",
        b"R",
        b"b",
        b"h\x00",
    ]
    for _ in range(count):
        content = bytearray(dice.choice(corpus))
        for _ in range(dice.choice([1, 1, 1, 2, 5])):
            start = dice.randrange(len(content) + 1)
            stop = min(len(content), start + dice.randrange(1, 12))
            kind = dice.randrange(5)
            if kind == 0 and start < len(content):
                content[start] ^= 1 << dice.randrange(8)
            elif kind == 1:
                piece = dice.choice(extremes)
                content[start : start + len(piece)] = piece
            elif kind == 2:
                del content[start:stop]
            elif kind == 3:
                content[start:start] = content[start:stop]
            else:
                other = dice.choice(corpus)
                where = dice.randrange(len(other))
                content[start:stop] = other[where : where + dice.randrange(1, 40)]
        yield bytes(content)


def test_a_damaged_file_is_read_or_refused(path):
    outcomes = []
    for content in mutations(CORPUS, 2000, seed=3):
        path.write_bytes(content)
        outcomes.append(outcome(path))
    assert 50 < outcomes.count("read") < 1950


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_a_file_damaged_with_intent_is_read_or_refused(path, data):
    content = data.draw(st.sampled_from(CORPUS))
    start = data.draw(st.integers(0, len(content)))
    stop = data.draw(st.integers(start, min(len(content), start + 20)))
    path.write_bytes(content[:start] + data.draw(st.binary(max_size=20)) + content[stop:])
    outcome(path)


@settings(max_examples=300, deadline=None)
@given(
    opcodes=st.lists(
        st.sampled_from([*pickle_machine.Reader.steps, *ODD, b"h\x00", b"K\x01", EIGHT, lengths(1), text("f8"), b"."]),
        max_size=40,
    )
)
def test_any_program_is_read_or_refused(path, opcodes):
    path.write_bytes(bare(b"".join(opcodes)))
    outcome(path)


def test_no_damaged_file_takes_the_interpreter_down(path):
    script = f"""
        import sys, pathlib
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from test_pickles import CORPUS, mutations, outcome
        path = pathlib.Path({str(path.with_name("child.npy"))!r})
        for content in mutations(CORPUS, 2000, seed=4):
            path.write_bytes(content)
            outcome(path)
        print("alive")
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "alive\n"), done.stderr


@pytest.mark.parametrize("module", [pickles, pickle_machine], ids=lambda module: module.__name__)
def test_the_reader_cannot_unpickle(module):
    """Neither pickle nor numpy's own loaders are within its reach."""
    tree = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not imported & {"pickle", "_pickle", "pickletools", "marshal", "shelve", "importlib", "joblib", "torch"}
    called = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert not called & {"load", "loads", "Unpickler", "__setstate__", "__reduce__", "read_array"}
    assert not {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)} & {
        "eval",
        "exec",
        "getattr",
        "__import__",
    }
