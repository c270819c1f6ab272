"""Matrices in MATLAB files, against scipy, which writes and reads the same format by itself."""

import struct
import time
import tracemalloc
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import scipy.io

from alignvis.errors import AlignvisError
from alignvis.matlab import read_matrices

LARGEST = 2**20
DESIGN = {  # as nsd_expdesign.mat is built
    "masterordering": np.arange(1, 91).astype(float)[None],
    "basiccnt": np.arange(6, dtype=np.uint8).reshape(3, 2),
    "sharedix": np.array([[3, 70_000, 12]]),
    "subjectim": np.arange(1, 81, dtype=float).reshape(8, 10),
    "stimpattern": np.arange(24, dtype=np.int16).reshape(2, 3, 4),
}


def write(path: Path, variables: dict, compressed: bool = False) -> Path:
    scipy.io.savemat(path, variables, do_compression=compressed)
    return path


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("code", ["f8", "f4", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8"])
def test_numbers_of_every_type_are_those_that_scipy_reads(tmp_path, code, compressed):
    numbers = (np.arange(-6, 6).reshape(3, 4) * 20).astype(code)
    path = write(tmp_path / "x.mat", DESIGN | {"x": numbers}, compressed)
    found, theirs = read_matrices(path, LARGEST), scipy.io.loadmat(path)
    for name in (*DESIGN, "x"):
        assert np.array_equal(found[name], theirs[name]), name
    assert found["x"].dtype == np.dtype(code) and np.array_equal(found["x"], numbers)


def test_a_matrix_is_read_by_columns(tmp_path):
    found = read_matrices(write(tmp_path / "x.mat", {"x": np.arange(6.0).reshape(2, 3) / 7}), LARGEST)
    assert np.array_equal(found["x"], np.arange(6.0).reshape(2, 3) / 7)


def test_whatever_else_a_file_holds_does_not_hurt(tmp_path):
    cells = np.array(["a", 3.0], object)
    sparse = scipy.sparse.csc_array(np.eye(3))
    more = {"text": "abc", "cells": cells, "records": {"a": 1.0}, "complex": np.array([1j]), "sparse": sparse}
    found = read_matrices(write(tmp_path / "x.mat", more | DESIGN), LARGEST)
    assert [name for name, value in found.items() if value is None] == list(more)
    assert np.array_equal(found["subjectim"], DESIGN["subjectim"])


def test_numbers_written_on_the_other_kind_of_machine_are_read(tmp_path):
    """One variable by hand: flags, shape, name and numbers, all with the high byte first."""

    def element(kind: int, data: bytes) -> bytes:
        return struct.pack(">II", kind, len(data)) + data + bytes(-len(data) % 8)

    body = element(6, struct.pack(">II", 6, 0)) + element(5, struct.pack(">ii", 1, 3))
    body += element(1, b"x") + element(9, struct.pack(">3d", 1, 2.5, -3))
    (tmp_path / "x.mat").write_bytes(bytes(124) + b"\x01\x00MI" + element(14, body))
    assert read_matrices(tmp_path / "x.mat", LARGEST)["x"].tolist() == [[1, 2.5, -3]]


def test_a_missing_file_a_newer_one_and_a_large_one_are_told_apart(tmp_path):
    path = tmp_path / "x.mat"
    with pytest.raises(AlignvisError, match="x.mat could not be read"):
        read_matrices(path, LARGEST)
    path.write_bytes(b"MATLAB 7.3 MAT-file" + bytes(600))
    with pytest.raises(AlignvisError, match="of version 7.3, and version 5 is read; save it again with -v7"):
        read_matrices(path, LARGEST)
    path.write_bytes(bytes(LARGEST + 1))
    with pytest.raises(AlignvisError, match="has 1,048,577 bytes, and 1,048,576 were expected at most"):
        read_matrices(path, LARGEST)
    path.write_bytes(b"anything else" * 20)
    with pytest.raises(AlignvisError, match="does not begin like one"):
        read_matrices(path, LARGEST)


def head(*elements: tuple[int, bytes]) -> bytes:
    content = bytes(124) + b"\x00\x01IM"
    for kind, data in elements:
        content += struct.pack("<II", kind, len(data)) + data
    return content


def variable(shape: tuple[int, ...], stored: int, data: bytes, about: int = 6) -> bytes:
    def element(kind: int, data: bytes) -> bytes:
        return struct.pack("<II", kind, len(data)) + data + bytes(-len(data) % 8)

    shape = struct.pack(f"<{len(shape)}i", *shape)
    return element(6, struct.pack("<II", about, 0)) + element(5, shape) + element(1, b"x") + element(stored, data)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (head((15, zlib.compress(bytes(10 * LARGEST)))), "larger than it should be"),
        (head(*[(15, zlib.compress(bytes(LARGEST // 2)))] * 3), "larger than it should be"),
        (head((14, variable((-1, 4), 9, bytes(32)))), r"'x' has shape \(-1, 4\), and 32 bytes"),
        (head((14, variable((2, 3), 9, bytes(32)))), r"'x' has shape \(2, 3\), and 32 bytes"),
        (head((14, variable((2**31 - 1, 2**31 - 1), 9, bytes(32)))), "and 32 bytes of numbers"),
        (head((14, variable((500_000, 1), 2, bytes(500_000)))), "which is larger than it should be"),
        (head((14, variable((1, 2), 11, bytes(16)))), "numbers of 'x' are of the unknown type 11"),
        (head((14, variable((1, 4), 9, bytes(32))[:-16])), "it is cut"),
        (head((14, b"")), "values to unpack"),
        (head(*[(0, b"")] * 1002), "more than 1000 things"),
        (head((14, variable((1, 4), 9, bytes(32))))[:-1], "it is cut"),
    ],
)
def test_what_cannot_be_is_refused_at_once(tmp_path, content, sentence):
    (tmp_path / "x.mat").write_bytes(content)
    begun = time.monotonic()
    tracemalloc.start()
    try:
        with pytest.raises(AlignvisError, match=f"x.mat is no whole MATLAB file of version 5 .*{sentence}"):
            read_matrices(tmp_path / "x.mat", LARGEST)
        assert tracemalloc.get_traced_memory()[1] < 6 * LARGEST
    finally:
        tracemalloc.stop()
    assert time.monotonic() - begun < 1


@pytest.mark.parametrize("compressed", [True, False])
def test_a_damaged_file_is_a_sentence_or_still_matrices(tmp_path, compressed):
    file = BytesIO()
    scipy.io.savemat(file, DESIGN, do_compression=compressed)
    whole, rng, refused = file.getvalue(), np.random.default_rng(0), 0
    path = tmp_path / "x.mat"
    for round in range(500):
        content = bytearray(whole)
        if round % 3 == 0:
            content = content[: rng.integers(0, len(whole))]
        elif round % 3 == 1:
            content[rng.integers(100, len(whole))] ^= int(rng.integers(1, 256))
        else:
            place = rng.integers(124, len(whole) - 4)
            content[place : place + 4] = struct.pack("<I", int(rng.choice([2**31, 2**32 - 1, 2**16, 0])))
        path.write_bytes(content)
        try:
            found = read_matrices(path, LARGEST)
            assert all(value is None or isinstance(value, np.ndarray) for value in found.values())
        except AlignvisError as error:
            assert str(path) in str(error)
            refused += 1
    assert refused > 150
