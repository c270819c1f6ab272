"""Arrays in HDF5 files: what h5py reads, piece by piece, and nothing that leads out of the file or claims too much."""

import os
import resource
import signal
import struct
import sys
import time
import tracemalloc
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest

from alignvis import hdf5
from alignvis.errors import AlignvisError

KINDS = {"f": (2, 4, 8), "i": (2, 4), "u": (1,)}


def write(path: Path, array: np.ndarray, **made) -> Path:
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=array, **made)
    return path


def read(path: Path, *slices: tuple[int, int], dimensions: int = 2) -> list[np.ndarray]:
    with (
        hdf5.opened(path) as file,
        hdf5.stored(path, file, ["x", "y"], "an array 'x'", KINDS, dimensions) as array,
    ):
        return [array.read(*some) for some in slices or [(0, array.shape[0])]]


def sentence(path: Path) -> str:
    tracemalloc.start()
    begun = time.monotonic()
    try:
        with pytest.raises(AlignvisError) as told:
            read(path)
        assert tracemalloc.get_traced_memory()[1] < 2**27 + 2**24 and time.monotonic() - begun < 1
    finally:
        tracemalloc.stop()
    assert str(path) in str(told.value)
    return str(told.value)


@pytest.mark.parametrize(
    "made",
    [
        {},
        {"chunks": (4, 3)},
        {"chunks": (4, 5), "compression": "gzip"},
        {"chunks": (1, 5), "compression": "gzip", "shuffle": True},
        {"chunks": (23, 1), "shuffle": True},
        {"chunks": (23, 5), "compression": "gzip", "compression_opts": 9, "shuffle": True},
        {"chunks": (4, 3), "maxshape": (None, 5)},
        {"chunks": (4, 3), "maxshape": (None, None), "compression": "gzip"},
    ],
)
@pytest.mark.parametrize("code", ["<f4", ">f4", "<f2", ">f8", "<i2", "u1"])
@pytest.mark.parametrize("library", ["earliest", "latest"])
def test_rows_are_those_that_h5py_reads(tmp_path, made, code, library):
    array = (100 * np.random.default_rng(0).random((23, 5))).astype(code)
    with h5py.File(tmp_path / "x.h5", "w", libver=library) as file:
        file.create_dataset("x", data=array, **made)
    slices = [(0, 23), (0, 1), (3, 4), (3, 9), (4, 8), (22, 23), (7, 7)]
    for found, (first, last) in zip(read(tmp_path / "x.h5", *slices), slices, strict=True):
        assert found.dtype == np.dtype(code) and np.array_equal(found, array[first:last])


def test_four_dimensions_are_read_like_two(tmp_path):
    array = np.random.default_rng(0).integers(0, 256, (7, 5, 6, 3), dtype=np.uint8)
    path = write(tmp_path / "x.h5", array, chunks=(2, 2, 4, 2), compression="gzip")
    assert np.array_equal(read(path, (1, 6), dimensions=4)[0], array[1:6])


def test_pieces_of_late_are_kept_up_to_a_bound(tmp_path, monkeypatch):
    path = write(tmp_path / "x.h5", np.arange(100.0).reshape(50, 2), chunks=(10, 2))
    unpacked = hdf5.Stored._unpacked
    asked = []
    monkeypatch.setattr(hdf5.Stored, "_unpacked", lambda self, at: (asked.append(at), unpacked(self, at))[1])
    read(path, *[(row, row + 1) for row in range(50)])
    assert asked == [(10 * band, 0) for band in range(5)]
    asked.clear()
    monkeypatch.setattr(hdf5, "LARGEST_CHUNK", 2 * 160)
    found = read(path, (0, 50), (0, 50))
    assert len(asked) > 5 and np.array_equal(found[1], np.arange(100.0).reshape(50, 2))


def test_without_h5py_its_name_is_said(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    assert 'is an HDF5 file, and h5py, which reads those, is missing; pip install "alignvis[hdf5]"' in sentence(
        tmp_path / "x.h5"
    )


def test_what_is_there_is_said_when_the_array_is_not(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["other"] = 1
    assert "holds 'other', and an array 'x' was expected" in sentence(tmp_path / "x.h5")
    with h5py.File(tmp_path / "x.h5", "w"):
        pass
    assert "holds nothing, and an array 'x' was expected" in sentence(tmp_path / "x.h5")


def test_links_and_arrays_of_other_files_are_refused(tmp_path):
    outside, path = write(tmp_path / "secret.h5", np.ones((3, 2))), tmp_path / "x.h5"
    (tmp_path / "secret.bin").write_bytes(bytes(48))
    layout = h5py.VirtualLayout(shape=(3, 2), dtype="f8")
    layout[:] = h5py.VirtualSource(outside, "x", shape=(3, 2))

    def fresh():
        return h5py.File(path, "w")

    with fresh() as file:
        file["x"] = h5py.ExternalLink(str(outside), "/x")
    assert "is a link that leads elsewhere" in sentence(path)
    with fresh() as file:
        file["real"] = np.ones((3, 2))
        file["x"] = h5py.SoftLink("/real")
    assert "is a link that leads elsewhere" in sentence(path)
    with fresh() as file:
        file.create_dataset("x", (3, 2), "f8", external=[(str(tmp_path / "secret.bin"), 0, 48)])
    assert "lies in another file" in sentence(path)
    with fresh() as file:
        file.create_virtual_dataset("x", layout)
    assert "put together from other arrays" in sentence(path)


@pytest.mark.parametrize(
    ("made", "words"),
    [
        ({"compression": "lzf"}, "packed by the filters [32000]"),
        ({"fletcher32": True}, "packed by the filters [3]"),
        ({"scaleoffset": 2}, "packed by the filters [6"),
    ],
)
def test_other_ways_to_pack_are_refused(tmp_path, made, words):
    assert words in sentence(write(tmp_path / "x.h5", np.ones((3, 2)), chunks=(1, 2), **made))


def test_what_is_no_array_of_numbers_is_refused(tmp_path):
    path = tmp_path / "x.h5"
    for value in (np.array([[b"ab"]]), np.ones((2, 2), complex), np.ones((2, 2), "i8"), np.ones((2, 2), bool)):
        assert "not of numbers" in sentence(write(path, value))
    assert "has shape (2, 2, 2), and 2 dimensions were expected" in sentence(write(path, np.ones((2, 2, 2))))
    assert "has shape (), and 2 dimensions" in sentence(write(path, np.float32(1)))
    assert "has shape (0, 2), and 2 dimensions" in sentence(write(path, np.ones((0, 2))))
    with h5py.File(path, "w") as file:
        file.create_group("x")
    assert "is not a tensor" in sentence(path)
    with h5py.File(path, "w", userblock_size=512) as file:
        file["x"] = np.ones((2, 2))
    assert "begins with something else" in sentence(path)


def test_a_file_cannot_claim_more_than_it_could_hold(tmp_path):
    path = tmp_path / "x.h5"
    for shape, made, words in (
        ((10**6, 10**6), {}, "claims 4000000000000 bytes"),
        ((10**6, 10**6), {"chunks": (1000, 100)}, "claims 4000000000000 bytes"),
        ((10**6, 10**6), {"chunks": (1000, 100), "compression": "gzip"}, "claims 4000000000000 bytes"),
        ((10, 10), {}, "and they are not there"),
        ((10, 10), {"chunks": (5, 10), "compression": "gzip"}, "is missing"),
    ):
        with h5py.File(path, "w") as file:
            file.create_dataset("x", shape, "f4", **made)
            file["padding"] = np.zeros(1000)
        assert words in sentence(path)
    with h5py.File(path, "w") as file:
        file.create_dataset("x", (2, 2**25), "f4", chunks=(2, 2**25), compression="gzip")[0, :5] = 1
    assert "in pieces of (2, 33554432), which are larger than 67108864 bytes" in sentence(path)


def swap(path: Path, old: bytes, new: bytes) -> None:
    content = path.read_bytes()
    assert content.count(old) == 1 and len(old) == len(new)
    path.write_bytes(content.replace(old, new))


def test_a_piece_that_grows_when_unpacked_is_cut_off_and_refused(tmp_path):
    """HDF5 itself would double its memory until the end of the stream: a quarter of a gigabyte here."""
    array = np.random.default_rng(0).random((500, 500))
    path = write(tmp_path / "x.h5", array, chunks=(500, 500), compression="gzip")
    packed = zlib.compress(array.tobytes(), 4)
    bomb = zlib.compress(bytes(2**28))
    swap(path, packed, bomb + bytes(len(packed) - len(bomb)))
    assert "has not 2000000 bytes" in sentence(path)
    write(path, array, chunks=(500, 500), compression="gzip")
    short = zlib.compress(array.tobytes()[:-8])
    swap(path, packed, short + bytes(len(packed) - len(short)))
    assert "has not 2000000 bytes" in sentence(path)
    write(path, array, chunks=(500, 500), compression="gzip")
    swap(path, packed, packed[:-1] + bytes([packed[-1] ^ 1]))  # the checksum at the very end
    assert "cannot be unpacked" in sentence(path)


def test_a_piece_that_is_packed_otherwise_than_the_others_is_refused(tmp_path):
    path = write(tmp_path / "x.h5", np.ones((4, 2)), chunks=(2, 2), compression="gzip", shuffle=True)
    with h5py.File(path, "a") as file:
        file["x"].id.write_direct_chunk((2, 0), zlib.compress(np.ones((2, 2)).tobytes()), filter_mask=1)  # not shuffled
    assert "is missing or packed otherwise" in sentence(path)


def test_numbers_that_a_file_states(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["yes"], file["many"], file["text"], file["float"] = np.uint8(1), np.arange(3), "abc", 1.5
        file["array"] = np.ones(1, np.int8)
    with hdf5.opened(tmp_path / "x.h5") as file:
        assert hdf5.whole_number(file, "yes") == 1 and hdf5.whole_number(file, "no") is None
        for name in ("many", "text", "float", "array"):
            with pytest.raises(ValueError, match=f"{name}"):
                hdf5.whole_number(file, name)


def test_a_file_cut_anywhere_is_refused(tmp_path):
    content = write(tmp_path / "x.h5", np.random.default_rng(0).random((40, 30)), chunks=(10, 30)).read_bytes()
    for length in range(0, len(content), len(content) // 40):
        (tmp_path / "cut.h5").write_bytes(content[:length])
        assert "is damaged or of a kind" in sentence(tmp_path / "cut.h5")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a crash is to be survived in a process of its own")
@pytest.mark.parametrize("made", [{}, {"chunks": (10, 7)}, {"chunks": (1, 4), "compression": "gzip", "shuffle": True}])
def test_a_damaged_file_never_gets_past_a_sentence(tmp_path, made):
    """In one process of its own, which a signal would end."""
    content = write(tmp_path / "x.h5", np.random.default_rng(0).random((40, 28)), **made).read_bytes()
    filled = np.flatnonzero(np.frombuffer(content, np.uint8))
    child = os.fork()
    if child == 0:
        signal.alarm(120)
        rng, before, path = (
            np.random.default_rng(1),
            resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
            tmp_path / "y.h5",
        )
        wrong = 0
        for number in range(400):
            broken = bytearray(content)
            if number % 2:
                for place in rng.choice(filled[filled >= 8], 2):
                    broken[place] = rng.integers(256)
            else:
                place = rng.integers(8, min(4000, len(broken)) - 8)
                broken[place : place + 8] = struct.pack("<Q", [2**64 - 1, 2**63, 2**40, 2**31, 0][number // 2 % 5])
            path.write_bytes(broken)
            begun = time.monotonic()
            try:
                read(path)
            except AlignvisError as error:
                wrong += str(path) not in str(error)
            except BaseException:
                wrong += 1
            wrong += time.monotonic() - begun > 1
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        os._exit(min(wrong, 100) + 100 * (grown > 200 * 1024))
    assert os.waitpid(child, 0)[1] == 0
