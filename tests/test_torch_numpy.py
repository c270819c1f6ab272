"""Files of torch.save are read as torch reads them, without torch and without running what they name."""

import collections
import io
import os
import struct
import tempfile
import time
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from alignvis.errors import AlignvisError
from alignvis.exchange import zip_records
from alignvis.exchange.torch_numpy import outline_torch, read_torch
from tests.test_pickles import ODD, VALUES, Bomb, bare, lengths, mutations, same, text, touch

PROTOCOLS = (2, 3, 4, 5)
MIB = 2**20
TYPES = {
    torch.float64: "f8", torch.float32: "f4", torch.float16: "f2", torch.bfloat16: "f4", torch.int64: "i8",
    torch.int32: "i4", torch.int16: "i2", torch.int8: "i1", torch.uint8: "u1", torch.bool: "?",
}  # fmt: skip


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("torch") / "file.pt"


def saved(path: Path, value, protocol: int = 2):
    torch.save(value, path, pickle_protocol=protocol)
    return read_torch(path, path.parent)


def refused(path: Path, content: bytes | None = None) -> str:
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(AlignvisError) as caught:
        read_torch(path, path.parent)
    found = str(caught.value)
    assert str(path) in found and "\n" not in found and len(found) < 700
    return found


def expected(value):
    """What was saved, its tensors as torch's own arrays."""
    if isinstance(value, torch.Tensor):
        value = value.detach()
        return (value.float() if value.dtype == torch.bfloat16 else value).numpy()
    if isinstance(value, dict):
        return {key: expected(inner) for key, inner in value.items()}
    return type(value)(map(expected, value)) if type(value) in (list, tuple) else value


# --- as torch reads it -----------------------------------------------------------------------------------------------


@settings(max_examples=80, deadline=None)
@given(value=VALUES, protocol=st.sampled_from(PROTOCOLS))
def test_any_plain_value_comes_back_as_it_was_saved(path, value, protocol):
    document = {"value": value, "tensor": torch.arange(3.0)}
    assert same(saved(path, document, protocol), expected(document))


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_tensors_of_every_type_are_maps_of_the_file(path, dtype, protocol):
    values = torch.randint(0, 2, (3, 4, 5), generator=torch.Generator().manual_seed(0)).to(dtype)
    document = {
        "whole": values,
        "turned": values.permute(2, 0, 1),
        "part": values[1:, ::2, 2],
        "number": values[2, 3, 4],
        "none": values[:0],
        "empty": torch.zeros(0, dtype=dtype),
        "deep": [{"again": (values,)}],
    }
    found = saved(path, document, protocol)
    assert same(found, expected(document)) and same(found, expected(torch.load(path, weights_only=False)))
    assert found["whole"].dtype == TYPES[dtype] and not found["whole"].flags.writeable
    assert isinstance(found["whole"], np.memmap)


def test_bfloat16_is_widened_exactly(path):
    values = torch.tensor([0.0, -0.0, 1.0, 3.140625, 1e-40, -3e38, float("inf")], dtype=torch.bfloat16).repeat(200_000)
    assert saved(path, {"a": values, "b": values[3:5]})["a"].tobytes() == values.float().numpy().tobytes()
    outlined = outline_torch(path)
    assert [array.shape for array in outlined.values()] == [values.shape, (2,)]
    assert not any(array.any() or any(array.strides) for array in outlined.values())


def test_views_of_one_storage_share_their_bytes(path):
    values = torch.arange(1000.0)
    found = saved(path, [values[:500], values[250:], torch.nn.Parameter(values)])
    assert same(found, expected([values[:500], values[250:], values]))
    assert np.shares_memory(found[0], found[1]) and np.shares_memory(found[1], found[2])
    assert path.stat().st_size < 8000


def test_state_dicts_and_sizes_are_plain_containers(path):
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    found = saved(
        path, {"model": model.state_dict(), "size": torch.Size([2, 3]), "o": collections.OrderedDict(b=1, a=2)}
    )
    assert list(found["model"]) == list(model.state_dict()) and type(found["model"]) is dict
    assert found["size"] == (2, 3) and list(found["o"]) == ["b", "a"]
    np.testing.assert_array_equal(found["model"]["0.weight"], model[0].weight.detach().numpy())


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("code", ["<f2", ">f4", "<f8", "u1", "?", "<U7", "S5"])
@pytest.mark.parametrize("order", ["C", "F", "K"])
def test_large_arrays_stay_on_the_disk_in_every_protocol(path, code, order, protocol):
    """Protocol 2 spells them as text of up to twice their size."""
    columns = MIB // (3 * 100 * np.dtype(code).itemsize) + 1
    values = np.random.default_rng(1).normal(0, 100, (3, 100, columns))
    values = (values > 0) if code == "?" else values.astype("i2") if code[1] in "US1" else values
    values = values.astype(code)
    values = values.transpose(1, 0, 2) if order == "K" else np.asarray(values, order=order)
    document = {"odd": "x" * protocol, "values": values, "again": values, "after": torch.ones(2)}
    found = saved(path, document, protocol)
    assert isinstance(found["values"], np.memmap) and not found["values"].flags.writeable
    assert same(found, expected(document))
    outlined = outline_torch(path)
    assert outlined["values"].shape == values.shape and outlined["values"].dtype == values.dtype


@pytest.mark.parametrize("every", [bytes(range(256)), b"\xff", b"\xc3", b"\x7f\x80"])
def test_every_byte_survives_its_spelling_as_text(path, every):
    """Characters of two bytes straddle the pieces in which text is decoded."""
    for shift in range(3):
        values = np.frombuffer((b"a" * shift + every * (3 * MIB // len(every))), np.uint8)
        found = saved(path, values, 2)
        assert isinstance(found, np.memmap) and found.tobytes() == values.tobytes()


def test_an_array_spelled_as_text_is_decoded_without_memory_and_without_a_name(path, tmp_path):
    values = np.random.default_rng(0).integers(0, 256, 40 * MIB, dtype=np.uint8)
    torch.save({"values": values}, path)
    tracemalloc.start()
    try:
        found = read_torch(path, tmp_path / "new")["values"]
        assert tracemalloc.get_traced_memory()[1] < 12 * MIB
        tracemalloc.reset_peak()
        begun = time.perf_counter()
        assert outline_torch(path)["values"].shape == values.shape
        assert time.perf_counter() - begun < 0.2 and tracemalloc.get_traced_memory()[1] < 2 * MIB
    finally:
        tracemalloc.stop()
    assert list((tmp_path / "new").iterdir()) == []
    assert (found == values).all()


def test_a_file_without_text_needs_no_room(path, monkeypatch):
    monkeypatch.setattr(tempfile, "TemporaryFile", None)
    torch.save({"a": np.zeros(2 * MIB), "b": torch.zeros(9)}, path, pickle_protocol=5)
    assert read_torch(path)["a"].shape == (2 * MIB,)


def test_no_room_is_said(path, tmp_path):
    torch.save(np.zeros(2 * MIB, np.uint8), path)
    (tmp_path / "file").touch()
    with pytest.raises(AlignvisError, match="has no room"):
        read_torch(path, tmp_path / "file")


# --- an assembler for archives that torch does not write ---------------------------------------------------------


def archive(data: bytes, storages=None, more=None, method=zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as opened:
        records = {"data.pkl": data, "byteorder": b"little", "version": b"3\n"}
        records |= {f"data/{key}": raw for key, raw in (storages or {}).items()} | (more or {})
        for name, content in records.items():
            opened.writestr(f"archive/{name}", content)
    return file.getvalue()


def storage(kind: str = "FloatStorage", key: str = "0", count: bytes = b"K\x04") -> bytes:
    return b"(" + text("storage") + f"ctorch\n{kind}\n".encode() + text(key) + text("cpu") + count + b"tQ"


def tensor(numbers: bytes, offset: bytes, shape: bytes, strides: bytes, more: bytes = b"") -> bytes:
    head = b"ctorch._utils\n_rebuild_tensor_v2\n("
    return head + numbers + offset + shape + strides + b"\x89ccollections\nOrderedDict\n)R" + more + b"tR"


FOUR = struct.pack("<4f", 1, 2, 3, 4)


def test_the_assembler_writes_what_torch_itself_reads(path):
    path.write_bytes(archive(bare(tensor(storage(), b"K\x01", lengths(2), lengths(2))), {"0": FOUR}))
    assert torch.load(path, weights_only=False).tolist() == [2, 4]
    assert read_torch(path).tolist() == [2, 4]


@pytest.mark.parametrize(
    "offset, shape, strides",
    [
        (0, (5,), (1,)),
        (1, (4,), (1,)),
        (4, (1,), (1,)),
        (0, (2, 2), (3, 1)),
        (-1, (1,), (1,)),
        (0, (-1,), (1,)),
        (3, (2,), (-1,)),
        (0, (1, 2), (1,)),
        (0, (8,), (0,)),
        (0, (2**40,), (0,)),
        (0, (2**62, 2**62), (0, 0)),
        (0, (2**62,), (2**62,)),
        (2**63 - 1, (1,), (1,)),
        (0, (0, 2**60), (1, 1)),
        (0, (0, 2**30, 2**30), (1, 1, 1)),
        (0, (1,) * 17, (1,) * 17),
    ],
)
def test_tensors_that_reach_beyond_their_storage_are_refused(path, offset, shape, strides):
    body = tensor(
        storage(), b"\x8a\x09" + offset.to_bytes(9, "little", signed=True), lengths(*shape), lengths(*strides)
    )
    assert "tensor" in refused(path, archive(bare(body), {"0": FOUR}))


@pytest.mark.parametrize(
    "body",
    [
        storage(),
        storage(kind="Tensor"),
        storage(kind="ComplexFloatStorage"),
        storage(key="1"),
        storage(key="../data.pkl"),
        storage(count=b"K\x05"),
        storage(count=b"K\x03"),
        storage(count=b"\x8a\x09" + (2**62).to_bytes(9, "little")),
        storage(count=b"J\xff\xff\xff\xff"),
        storage(count=b"\x88"),
        storage(count=b"N"),
        storage() + b"0",
        b"Q",
        b"NQ",
        b")Q",
        text("storage") + b"\x85Q",
        b"(" + text("module") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + b"K\x04tQ",
        b"(" + text("storage") + text("torch.FloatStorage") + text("0") + text("cpu") + b"K\x04tQ",
        b"(" + storage() + storage(kind="IntStorage") + b"l",
        b"ctorch\nFloatStorage\n",
        b"ctorch\nFloatStorage\n)R",
        b"ctorch._utils\n_rebuild_tensor_v2\n",
        b"ctorch._utils\n_rebuild_tensor_v3\n",
        b"ctorch._utils\n_rebuild_parameter\nNNN\x87R",
        b"ctorch\nSize\nN\x85R",
        b"ctorch\nSize\n)R",
        b"ctorch\nfloat32\n",
        b"ctorch.hub\nload\n",
        b"ccollections\nOrderedDict\n](K\x01K\x02\x86e\x85R",
        b"}K\x01b",
        b"]}b",
        tensor(storage(), b"N", lengths(2), lengths(1)),
        tensor(storage(), b"K\x00", b"N", lengths(1)),
        tensor(storage(), b"K\x00", b"(\x88t", lengths(1)),
        tensor(storage(), b"K\x00", lengths(2), b"(Nt"),
        tensor(b"N", b"K\x00", lengths(2), lengths(1)),
        tensor(storage(), b"K\x00", lengths(2), lengths(1), b"}" + text("conj") + b"\x88s"),
        tensor(storage(), b"K\x00", lengths(2), lengths(1), b"K\x01"),
        tensor(storage(count=b"K\x03"), b"K\x00", lengths(2), lengths(1)),
        b"]\x94h\x00a",
        b"]" * 40 + b"a" * 39,
        b"",
    ],
)
def test_what_torch_does_not_write_is_refused(path, body):
    assert "byte" in refused(path, archive(bare(body), {"0": FOUR}))


def test_odd_objects_in_every_place_of_a_call_are_refused_or_read(path):
    calls = {
        b"ctorch._utils\n_rebuild_tensor_v2\n": [storage(), b"K\x00", lengths(2), lengths(1), b"\x89", b"}"],
        b"ctorch._utils\n_rebuild_parameter\n": [tensor(storage(), b"K\x00", lengths(2), lengths(1)), b"\x88", b"}"],
        b"ctorch\nSize\n": [lengths(1)],
        b"ccollections\nOrderedDict\n": [],
    }
    for function, arguments in calls.items():
        for place in range(len(arguments)):
            for odd in [*ODD, storage(), tensor(storage(), b"K\x00", lengths(2), lengths(1))]:
                changed = [*arguments[:place], odd, *arguments[place + 1 :]]
                path.write_bytes(archive(bare(function + b"(" + b"".join(changed) + b"tR"), {"0": FOUR}))
                outcome(path)


def test_one_storage_is_described_in_one_way(path):
    once, less = (tensor(storage(count=count), b"K\x00", lengths(2), lengths(1)) for count in (b"K\x04", b"K\x03"))
    assert "two ways" in refused(path, archive(bare(b"(" + once + less + b"t"), {"0": FOUR}))
    other = tensor(storage("IntStorage"), b"K\x00", lengths(2), lengths(1))
    assert len(read_archive(path, archive(bare(b"(" + once + other + b"t"), {"0": FOUR}))) == 2


def test_truth_values_are_zero_and_one(path):
    body = bare(tensor(storage("BoolStorage"), b"K\x00", lengths(4), lengths(1)))
    assert read_archive(path, archive(body, {"0": b"\1\0\1\1"})).tolist() == [True, False, True, True]
    assert "truth" in refused(path, archive(body, {"0": b"\1\0\2\1"}))


def read_archive(path: Path, content: bytes):
    path.write_bytes(content)
    return read_torch(path, path.parent)


def test_text_that_is_no_bytes_is_refused(path):
    def spelled(characters: str, shape: int, code: str = "u1") -> bytes:
        encoded = b"c_codecs\nencode\n" + text(characters) + text("latin1") + b"\x86R"
        made = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + text("b") + b"\x87R"
        kind = (
            b"cnumpy\ndtype\n"
            + text(code)
            + b"\x89\x88\x87R(K\x03"
            + text("|")
            + b"NNN"
            + b"J\xff\xff\xff\xff" * 2
            + b"K\0tb"
        )
        return archive(bare(made + b"(K\x01" + lengths(shape) + kind + b"\x89" + encoded + b"tb"))

    assert read_archive(path, spelled("ÿ" * MIB, MIB)).sum() == 255 * MIB
    assert "beyond 255" in refused(path, spelled("ÿ" * MIB + "Ā", MIB + 1))
    assert "UTF-8" in refused(path, spelled("ÿ" * MIB, MIB).replace(b"\xc3\xbf" * 9, b"\xc3\xbf" * 8 + b"\xc3\xc3", 1))
    assert "truncated" in refused(path, spelled("ÿ" * MIB, MIB + 1))
    assert "holds" in refused(path, spelled("ÿ" * MIB, MIB - 1))
    assert read_archive(path, spelled("\1" * MIB + "\0", MIB + 1, "b1")).sum() == MIB
    assert "truth" in refused(path, spelled("\1" * MIB + "\2", MIB + 1, "b1"))
    alone = archive(bare(text("x" * MIB)))
    assert "stray" in refused(path, alone)
    assert "stray" in refused(path, archive(bare(b"c_codecs\nencode\n" + text("x" * MIB) + text("latin1") + b"\x86R")))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_function_in_the_file_is_named_and_not_run(path, protocol):
    sentinel = path.with_name("sentinel")
    torch.save({"eeg": Bomb(os.system, f"touch {sentinel}")}, path, pickle_protocol=protocol)
    assert "system" in refused(path) and not sentinel.exists()
    torch.load(path, weights_only=False)  # the bomb is a real one
    assert sentinel.exists()
    sentinel.unlink()


# --- the archive -----------------------------------------------------------------------------------------------------


def test_records_that_are_not_stored_as_they_are_are_refused(path):
    body = bare(tensor(storage(), b"K\x00", lengths(4), lengths(1)))
    assert "compressed" in refused(path, archive(body, {"0": FOUR}, method=zipfile.ZIP_DEFLATED))
    assert "compressed" in refused(path, archive(body, {"0": bytes(200 * MIB)}, method=zipfile.ZIP_DEFLATED))
    whole = archive(body, {"0": FOUR})
    directory = whole.index(b"PK\1\2")
    encrypted = bytearray(whole)
    encrypted[directory + 8] |= 1
    assert "encrypted" in refused(path, bytes(encrypted))


def test_a_directory_that_lies_is_refused(path):
    body = bare(tensor(storage(), b"K\x00", lengths(4), lengths(1)))
    whole = archive(body, {"0": FOUR})
    entries = [place for place in range(len(whole)) if whole[place : place + 4] == b"PK\1\2"]

    def changed(at: int, layout: str, value: int) -> str:
        data = bytearray(whole)
        struct.pack_into(layout, data, at, value)
        return refused(path, bytes(data))

    last = entries[-1]
    for offset in (1, entries[0], len(whole), 2**32 - 2):
        assert "where the directory says" in changed(last + 42, "<L", offset)
    assert "where the directory says" in changed(last + 42, "<L", 0)  # another record is there
    assert "compressed" in changed(last + 10, "<H", zipfile.ZIP_DEFLATED)
    assert "on top of each other" in changed_both(path, whole, last, entries[0])
    for size in (2**31, len(whole), 17):
        assert "reaches beyond" in changed_size(path, whole, last, size)
    end = len(whole) - 22
    assert "directory" in changed(end + 10, "<H", 5)
    assert "directory" in changed(end + 12, "<L", 2**32 - 1)
    assert "directory" in changed(end + 16, "<L", 7)
    assert "directory" in changed(end + 20, "<H", 1)
    assert "not one of torch.save" in changed(end + 10, "<H", 0)
    assert "directory" in changed(last + 28, "<H", 2**16 - 1)


def changed_size(path: Path, whole: bytes, entry: int, size: int) -> str:
    data = bytearray(whole)
    struct.pack_into("<LL", data, entry + 20, size, size)
    return refused(path, bytes(data))


def changed_both(path: Path, whole: bytes, entry: int, other: int) -> str:
    """Make a record the header's neighbour: it reaches over the start of the next one."""
    data = bytearray(whole)
    first = struct.unpack_from("<L", data, other + 20)[0]
    struct.pack_into("<LL", data, other + 20, first + 10, first + 10)
    return refused(path, bytes(data))


def test_the_same_record_twice_is_refused(path):
    with pytest.warns(UserWarning, match="Duplicate name"), zipfile.ZipFile(path, "w") as opened:
        opened.writestr("archive/data.pkl", bare(b"N"))
        opened.writestr("archive/data.pkl", bare(b"K\x01"))
    assert "two records" in refused(path)


def test_64_bit_directories_are_read(path, monkeypatch):
    """Records beyond 4 GiB are told in 64-bit fields; here small ones are, which zip allows as well."""
    values = {"a": np.arange(9.0), "b": torch.arange(5)}
    torch.save(values, path)
    with zipfile.ZipFile(path) as opened:
        records = {name: opened.read(name) for name in opened.namelist()}
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 10)
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 1)
    with zipfile.ZipFile(path, "w") as opened:
        for name, content in records.items():
            with opened.open(name, "w", force_zip64=True) as file:
                file.write(content)
    monkeypatch.undo()
    whole = path.read_bytes()
    assert b"PK\6\6" in whole and b"PK\6\7" in whole and whole[whole.index(b"PK\1\2") + 24 :][:4] == b"\xff" * 4
    assert same(read_torch(path), expected(values))
    for place in (whole.index(b"PK\6\6") + 48, whole.index(b"PK\6\7") + 8):
        data = bytearray(whole)
        struct.pack_into("<Q", data, place, 2**63)
        refused(path, bytes(data))


def test_many_records_are_bounded(path, monkeypatch):
    torch.save({str(number): torch.zeros(1) for number in range(20)}, path)
    monkeypatch.setattr(zip_records, "ENTRIES", 10)
    assert "at most 10" in refused(path)
    monkeypatch.undo()
    monkeypatch.setattr(zip_records, "NAMES", 100)
    assert "directory" in refused(path)


def test_thousands_of_tensors_are_read_in_a_moment(path):
    torch.save({f"training_images/{number:05d}.jpg": torch.full((4,), float(number)) for number in range(3000)}, path)
    begun = time.perf_counter()
    found = read_torch(path)
    assert time.perf_counter() - begun < 5 and found["training_images/02999.jpg"].tolist() == [2999] * 4


def test_files_of_another_kind_say_what_they_are(path):
    torch.save({"a": torch.zeros(3)}, path, _use_new_zipfile_serialization=False)
    assert "before version 1.6" in refused(path)
    for name in ("constants.pkl", "code/__torch__.py"):
        assert "TorchScript" in refused(path, archive(bare(b"N"), more={name: b""}))
    assert "web page" in refused(path, b"<!DOCTYPE html>")
    assert "LFS" in refused(path, b"version https://git-lfs.github.com/spec/v1\n")
    assert "begins with" in refused(path, b"\x93NUMPY")
    assert "empty" in refused(path, b"")
    assert "other order" in refused(path, archive(bare(b"N"), more={"byteorder": b"big"}))
    with zipfile.ZipFile(path, "w") as opened:
        opened.writestr("a.txt", "x")
    assert "a.txt" in refused(path)
    with pytest.raises(AlignvisError, match="is a folder"):
        read_torch(path.parent)
    with pytest.raises(AlignvisError, match="does not exist"):
        read_torch(path.with_name("none"))


# --- damaged files ---------------------------------------------------------------------------------------------------


def outcome(path: Path) -> str:
    try:
        touch(read_torch(path, path.parent))
        answer = "read"
    except AlignvisError as error:
        assert "\n" not in str(error)
        answer = "refused"
    try:
        touch(outline_torch(path))
    except AlignvisError:
        pass
    return answer


def corpus(path: Path) -> list[bytes]:
    document = {
        "eeg": np.arange(24, dtype=np.float16).reshape(2, 3, 4),
        "img": np.array([["train_images/a/b.jpg"] * 2]),
        "objects": np.array(["a", None], object),
        "tensor": torch.arange(12.0).reshape(3, 4).T,
        "half": torch.ones(3, dtype=torch.bfloat16),
        "flags": torch.tensor([True, False]),
        "nested": [{"a": (1, 2.5, None, b"x", np.float32(2))}],
    }
    contents = []
    for protocol in PROTOCOLS:
        torch.save(document, path, pickle_protocol=protocol)
        contents.append(path.read_bytes())
    return [*contents, archive(bare(tensor(storage(), b"K\x01", lengths(2), lengths(2))), {"0": FOUR})]


def test_a_file_cut_short_anywhere_is_refused(path):
    for content in corpus(path)[::4]:
        path.write_bytes(content)
        for end in reversed(range(len(content))):
            os.truncate(path, end)
            if end % 7 == 0 or end < 40:
                refused(path)


def test_a_damaged_file_is_read_or_refused(path):
    outcomes = []
    for content in mutations(corpus(path), 1200, seed=5):
        path.write_bytes(content)
        begun = time.perf_counter()
        outcomes.append(outcome(path))
        assert time.perf_counter() - begun < 1
    assert 20 < outcomes.count("read") < 1180
