import io
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest
import safetensors.torch
import torch

from alignvis.errors import AlignvisError
from alignvis.images import containers
from alignvis.images.containers import read_arrays, read_tensors
from alignvis.images.download import sha256

TENSORS = {
    "a": torch.arange(6.0).reshape(2, 3),
    "b": torch.tensor([1, 2]),
    "c": torch.ones(3).half(),
    "d": torch.ones(2).bfloat16(),
}


def sentence(read, path):
    """Read what must be refused, and give back the one sentence."""
    with pytest.raises(AlignvisError) as refused:
        read(path)
    assert str(path) in str(refused.value) and "\n" not in str(refused.value)
    return str(refused.value)


# --- tensors ---------------------------------------------------------------------------------------------------------


def test_safetensors_come_back_as_they_were_stored_whatever_the_name(tmp_path):
    safetensors.torch.save_file(TENSORS, tmp_path / "weights.pth")
    read = read_tensors(tmp_path / "weights.pth")
    assert set(read) == set(TENSORS)
    assert all(read[name].dtype == tensor.dtype and torch.equal(read[name], tensor) for name, tensor in TENSORS.items())


@pytest.mark.parametrize("zipped", [True, False])
def test_torch_files_are_told_by_their_content_whatever_the_name(tmp_path, zipped):
    torch.save(TENSORS, tmp_path / "weights.safetensors", _use_new_zipfile_serialization=zipped)
    assert torch.equal(read_tensors(tmp_path / "weights.safetensors")["a"], TENSORS["a"])


def test_a_safetensors_file_cut_anywhere_is_said_to_be_cut(tmp_path):
    content = safetensors.torch.save(TENSORS)
    path = tmp_path / "x.safetensors"
    for length in range(9, len(content), 11):
        path.write_bytes(content[:length])
        assert "safetensors file that is cut or damaged" in sentence(read_tensors, path)


@pytest.mark.parametrize(
    ("content", "looks"),
    [
        (b"<!DOCTYPE html><html><head>", "web page, not weights: the download needed a browser or consent"),
        (b"\xef\xbb\xbf\r\n  <HTML>", "web page"),
        (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code>', "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 5\n", "Git LFS pointer"),
        (b'{"error": "Entry not found"}', "text file that begins"),
        (b"Access to this model is restricted.\n", "text file that begins 'Access to this model is restricted.'"),
        ("größer".encode(), "text file"),
        (b"\x89HDF\r\n\x1a\n" + bytes(600), "HDF5"),
        (b"\x1f\x8b\x08" + bytes(600), "gzip"),
        (b"\x93NUMPY\1\0" + bytes(600), "numpy array"),
        (b"weights/".ljust(257, b"\0") + b"ustar\x0000" + bytes(300), "tar archive"),
        (bytes(5000), "nothing but zeros: the download did not finish"),
        (b"\x7fELF\2\1\1" + bytes(600), "begins with the bytes 7f 45 4c 46 02 01 01 00"),
        (struct.pack("<Q", 2**40) + b"{" + bytes(600), "begins with the bytes"),
        (b"PK\3\4" + bytes(600), "begins like a zip archive but is cut or damaged"),
        (b"PK", "begins like a zip archive but is cut or damaged"),
        (b"\x80", "is damaged"),
        (b"\x80\4\x95\0\0\0\0\0\0\0\0K\1.", "is damaged or of a kind that is not read here"),
        (b"", "is empty"),
    ],
)
def test_what_is_not_weights_is_called_what_it_looks_like(tmp_path, content, looks):
    (tmp_path / "ViT-B-32.pt").write_bytes(content)
    assert looks in sentence(read_tensors, tmp_path / "ViT-B-32.pt")


def test_folders_and_files_that_are_not_there(tmp_path):
    assert "is a folder" in sentence(read_tensors, tmp_path)
    assert "there is no file" in sentence(read_tensors, tmp_path / "nothing.pt")
    (tmp_path / "loop").symlink_to("loop")
    assert "cannot be read" in sentence(read_tensors, tmp_path / "loop")


def test_a_zip_of_something_else_says_what_it_holds(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as file:
        for name in ("dino_vitb16_pretrain.pth", "dino_vitb16_single_lora/adapter_config.json", "a", "b"):
            file.writestr(name, b"1")
    assert "(it holds dino_vitb16_pretrain.pth, dino_vitb16_single_lora/adapter_config.json, a ...)" in sentence(
        read_tensors, tmp_path / "x.zip"
    )


def test_zip_methods_that_unpack_to_any_size_in_one_step_are_refused(tmp_path):
    for method in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        with zipfile.ZipFile(tmp_path / "x.pt", "w", method) as file:
            file.writestr("x/data.pkl", b"\x80\2}.")
        assert "encrypted or packed in an unusual way" in sentence(read_tensors, tmp_path / "x.pt")


def test_encrypted_members_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as file:
        file.writestr("a.npy", b"secret")
    content = bytearray((tmp_path / "x.npz").read_bytes())
    content[content.index(b"PK\1\2") + 8] |= 1
    (tmp_path / "x.npz").write_bytes(content)
    assert "encrypted" in sentence(read_arrays, tmp_path / "x.npz")


# --- arrays ----------------------------------------------------------------------------------------------------------


def npy(header, data=b"", version=b"\1\0"):
    text = header.encode().ljust(118) + b"\n"
    return b"\x93NUMPY" + version + struct.pack("<H" if version == b"\1\0" else "<I", len(text)) + text + data


def write_npz(path, method=zipfile.ZIP_DEFLATED, **members):
    with zipfile.ZipFile(path, "w", method) as file:
        for name, content in members.items():
            file.writestr(f"{name}.npy", content)
    return path


def test_the_published_transforms_are_read_as_numpy_reads_them(shared_data):
    paths = sorted((shared_data / "glocal").rglob("*.npz"))
    assert len(paths) >= 4
    for path in paths:
        read = read_arrays(path)
        with np.load(path, allow_pickle=False) as wanted:
            assert set(read) == set(wanted.files)
            for name in wanted.files:
                assert read[name].dtype == wanted[name].dtype and np.array_equal(read[name], wanted[name])


def test_the_published_transform_of_clip_has_its_published_numbers(shared_data):
    path = shared_data / "glocal" / "clip_ViT-L" / "14" / "visual" / "transform.npz"
    assert sha256(path).startswith("4d9f969b1cac5334")
    read = read_arrays(path)
    assert set(read) == {"weights", "mean", "std"} and read["weights"].shape == (768, 768)
    assert read["mean"].shape == () and read["mean"].dtype == np.float64
    assert read["mean"] == pytest.approx(0.0028850087, rel=1e-7) and read["std"] == pytest.approx(0.69419601, rel=1e-7)
    x = np.sin(np.arange(768))
    y = (x - read["mean"]) / read["std"] @ read["weights"].astype(np.float64)
    assert np.linalg.norm(y) == pytest.approx(3.4052273, rel=1e-6) and y[0] == pytest.approx(0.0016465, abs=5e-8)


def test_arrays_of_every_layout_come_back(tmp_path):
    generator = np.random.default_rng(0)
    wanted = {
        "rows": generator.normal(size=(3, 4)),
        "columns": np.asfortranarray(generator.normal(size=(3, 4)).astype(np.float32)),
        "swapped": generator.normal(size=5).astype(">f8"),
        "scalar": np.float16(2.5),
        "empty": np.zeros((0, 3)),
        "whole": generator.integers(-9, 9, (2, 3, 4)),
    }
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "x.npz", **wanted)
        read = read_arrays(tmp_path / "x.npz")
        assert set(read) == set(wanted)
        for name, array in wanted.items():
            assert np.array_equal(read[name], array) and read[name].dtype == array.dtype and read[name].flags.writeable
    (tmp_path / "y.npz").write_bytes((write_npz(tmp_path / "z.npz", a=npy(HEADER, SIX, b"\2\0"))).read_bytes())
    assert np.array_equal(read_arrays(tmp_path / "y.npz")["a"], np.arange(6.0).reshape(2, 3))


HEADER = "{'descr': '<f8', 'fortran_order': False, 'shape': (2, 3), }"
SIX = np.arange(6.0).tobytes()


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (npy(HEADER, SIX[:-1]), "claims shape (2, 3) of float64 and has 47 bytes"),
        (npy(HEADER, SIX + b"\0"), "claims shape (2, 3) of float64 and has 49 bytes"),
        (npy(HEADER.replace("2, 3", "2000000000, 2000000000"), SIX), "claims shape"),
        (npy(HEADER.replace("2, 3", "-2, -3"), SIX), "not an array of plain numbers"),
        (npy(HEADER.replace("<f8", "|O"), SIX), "not an array of plain numbers"),
        (npy(HEADER.replace("<f8", "<U2"), SIX), "not an array of plain numbers"),
        (npy(HEADER.replace("<f8", "|V8"), SIX), "not an array of plain numbers"),
        (npy(HEADER.replace("<f8", "|b1"), SIX[:6]), "not an array of plain numbers"),
        (npy(HEADER.replace("<f8", "nonsense"), SIX), "not an array of plain numbers"),
        (npy("{'descr': __import__('os').system('true')}", SIX), "not an array of plain numbers"),
        (npy("(" * 100, SIX), "not an array of plain numbers"),
        (npy(HEADER, SIX, b"\7\0"), "not an array of plain numbers"),
        (b"\x93NUMPY\1\0\xff\xff", "not an array of plain numbers"),
        (b"no", "not an array of plain numbers"),
    ],
)
def test_an_array_that_is_not_what_it_claims_is_refused(tmp_path, content, found):
    said = sentence(read_arrays, write_npz(tmp_path / "x.npz", a=content))
    assert found in said


def test_pickled_objects_are_refused(tmp_path):
    np.savez(tmp_path / "x.npz", a=np.array([{"a": 1}], dtype=object))
    assert "not an array of plain numbers" in sentence(read_arrays, tmp_path / "x.npz")


def test_an_archive_that_would_unpack_beyond_measure_is_refused_before(tmp_path, monkeypatch):
    monkeypatch.setattr(containers, "ARRAYS_BYTES", 2**20)
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as file:
        for name in ("a.npy", "b.npy"):
            with file.open(name, "w") as member:
                for _ in range(40):
                    member.write(bytes(2**20))
    tracemalloc.start()
    try:
        assert "would unpack to 83,886,080 bytes" in sentence(read_arrays, tmp_path / "bomb.npz")
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_a_member_that_lies_about_its_size_is_refused(tmp_path):
    stream = io.BytesIO()
    np.savez_compressed(stream, a=np.zeros(10_000))
    content = bytearray(stream.getvalue())
    struct.pack_into("<I", content, content.index(b"PK\1\2") + 24, 300)  # the size in the directory; the data stay
    (tmp_path / "x.npz").write_bytes(content)
    assert "cut or damaged" in sentence(read_arrays, tmp_path / "x.npz")


def test_what_is_not_an_npz_is_called_what_it_looks_like(tmp_path):
    (tmp_path / "page.npz").write_bytes(b"<html>")
    assert "npz file; it is a web page" in sentence(read_arrays, tmp_path / "page.npz")
    torch.save(TENSORS, tmp_path / "x.npz")
    assert "not an npz file" in sentence(read_arrays, tmp_path / "x.npz")
    with zipfile.ZipFile(tmp_path / "none.npz", "w"):
        pass
    assert "not an npz file" in sentence(read_arrays, tmp_path / "none.npz")
    np.save(tmp_path / "one.npy", np.zeros(3))
    assert "single numpy array" in sentence(read_arrays, tmp_path / "one.npy")


def test_a_damaged_npz_never_gets_past_a_sentence(tmp_path):
    content = write_npz(tmp_path / "x.npz", a=npy(HEADER, SIX), b=npy(HEADER, SIX)).read_bytes()
    generator = np.random.default_rng(0)
    refused = 0
    for _ in range(600):
        broken = bytearray(content)
        broken[generator.integers(len(content))] = generator.integers(256)
        (tmp_path / "y.npz").write_bytes(
            broken[: None if generator.random() < 0.8 else generator.integers(1, len(content))]
        )
        try:
            read = read_arrays(tmp_path / "y.npz")
            assert all(isinstance(array, np.ndarray) for array in read.values())
        except AlignvisError:
            refused += 1
    assert 200 < refused < 600


def test_a_safetensors_file_whose_length_looks_like_a_pickle_is_read(tmp_path):
    """One header in 32 or so is of such a length that the file begins with the byte that pickles begin with."""
    tensor, path = torch.arange(6.0), tmp_path / "w.safetensors"
    for padding in range(1000):
        safetensors.torch.save_file({"a": tensor}, path, {"note": "x" * padding})
        if path.read_bytes()[0] == 0x80:
            break
    assert path.read_bytes()[0] == 0x80
    assert torch.equal(read_tensors(path)["a"], tensor)
