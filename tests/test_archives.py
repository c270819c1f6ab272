"""A tar archive is walked, never extracted: its plain files come out as they are, or one sentence does."""

import io
import random
import tarfile
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from alignvis.errors import AlignvisError
from alignvis.exchange.archives import is_tar, tar_files
from alignvis.exchange.features import import_features
from tests import foreign_features as foreign

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}
LONG = "/".join(
    ["image_embeddings", "training_images", "00001_" + "a" * 60, "a" * 60 + "_01b_dreamsim_clip_vitb32.npy"]
)


def pack(path: Path, files: dict[str, bytes], style: int = tarfile.PAX_FORMAT, **attributes) -> Path:
    with tarfile.open(path, "w", format=style) as tar:
        for name, data in files.items():
            add(tar, name, data, **attributes)
    return path


def add(tar: tarfile.TarFile, name: str, data: bytes = b"", **attributes) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mtime = len(data), 1700000000.5
    for key, value in attributes.items():
        setattr(member, key, value)
    tar.addfile(member, io.BytesIO(data) if member.isreg() else None)


def walked(path: Path) -> list[tuple[str, bytes]]:
    return [(name, bytes(data)) for name, data in tar_files(path)]


def refused(match: str, path: Path) -> None:
    with pytest.raises(AlignvisError, match=match) as caught:
        walked(path)
    text = str(caught.value)
    assert str(path) in text and "\n" not in text and len(text) < 600


@pytest.mark.parametrize("style", FORMATS.values(), ids=FORMATS)
def test_files_come_out_as_tarfile_has_them(tmp_path, style):
    files = {"a.npy": b"", "b/c.npy": b"x" * 511, "b/d.npy": b"y" * 512, "e": b"z" * 513, LONG: b"long"}
    files |= {"ümläut/ä.npy": b"1"} if style != tarfile.USTAR_FORMAT else {}
    path = pack(tmp_path / "a.tar", files, style)
    with tarfile.open(path) as tar:
        expected = [(member.name, tar.extractfile(member).read()) for member in tar]
    assert walked(path) == expected == list(files.items()) and is_tar(path)


def test_folders_are_passed_over_and_dots_taken_away(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        add(tar, "./x", type=tarfile.DIRTYPE)
        add(tar, "./x/./a.npy", b"1")
    assert walked(tmp_path / "a.tar") == [("x/a.npy", b"1")]


def test_an_archive_without_files_is_walked_to_its_end(tmp_path):
    assert walked(pack(tmp_path / "a.tar", {})) == []


@pytest.mark.parametrize(
    ("kind", "match"),
    [
        (tarfile.SYMTYPE, "a symbolic link"),
        (tarfile.LNKTYPE, "a hard link"),
        (tarfile.CHRTYPE, "a device"),
        (tarfile.BLKTYPE, "a device"),
        (tarfile.FIFOTYPE, "a pipe"),
        (tarfile.GNUTYPE_SPARSE, "is sparse"),
        (b"V", "of the kind b'V'"),
    ],
)
def test_what_is_no_plain_file_is_refused(tmp_path, kind, match):
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.GNU_FORMAT) as tar:
        add(tar, "a.npy", b"1")
        member = tarfile.TarInfo("b.npy")
        member.type, member.linkname = kind, "/etc/passwd"
        tar.addfile(member)
    refused(match, tmp_path / "a.tar")


@pytest.mark.parametrize("name", ["../a.npy", "x/../../a.npy", "/etc/a.npy", "x//a.npy", "..", "C:/a.npy", "x\\a.npy"])
@pytest.mark.parametrize("style", [tarfile.USTAR_FORMAT, tarfile.PAX_FORMAT])
def test_paths_that_lead_elsewhere_are_refused(tmp_path, name, style):
    refused("a path that leads elsewhere", pack(tmp_path / "a.tar", {"b": b"", name: b"1"}, style))


def test_long_names_that_lead_elsewhere_are_refused_too(tmp_path):
    for style in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        refused("leads elsewhere", pack(tmp_path / f"{style}.tar", {"a" * 120 + "/../../x": b"1"}, style))


def test_attributes_of_pax_that_change_what_a_file_is_are_refused(tmp_path):
    sparse = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}
    refused("a sparse file", pack(tmp_path / "a.tar", {"a": b"1"}, pax_headers=sparse))
    with tarfile.open(tmp_path / "b.tar", "w", pax_headers={"path": "everything"}) as tar:
        add(tar, "a", b"1")
    refused("one path or size for all files", tmp_path / "b.tar")
    with tarfile.open(tmp_path / "c.tar", "w", pax_headers={"comment": "harmless"}) as tar:
        add(tar, "a", b"1")
    assert walked(tmp_path / "c.tar") == [("a", b"1")]
    large = pack(tmp_path / "d.tar", {"a": b"1"}, pax_headers={"comment": "x" * 2**17})
    refused("has attributes of 131,", large)


@pytest.mark.parametrize(
    ("size", "match"),
    [("5", "."), ("1000000", "announces 1,000,000 bytes"), ("-1", "a size of '-1'"), ("1" * 5000, "a size of '1111")],
)
def test_a_size_in_attributes_is_checked(tmp_path, size, match):
    refused(match, pack(tmp_path / "a.tar", {"a": b"1" * 700}, pax_headers={"size": size}))


def header(size: bytes, name: bytes = b"a.npy", kind: bytes = b"0") -> bytes:
    """A header with this in the field of the size, and the right sum."""
    data = bytearray(tarfile.TarInfo("x").tobuf(tarfile.USTAR_FORMAT))
    data[:100] = name.ljust(100, b"\0")
    data[124:136] = size.ljust(12, b"\0")
    data[156:157] = kind
    data[148:156] = b" " * 8
    data[148:156] = b"%06o\0 " % sum(data)
    return bytes(data)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "is empty"),
        (header(b"00000000001") + b"1" + b"\0" * 511, "without the end mark"),
        (header(b"00000001000") + b"1" * 512, "without the end mark"),
        (header(b"77777777777") + b"1" * 512, "announces 8,589,934,591 bytes"),
        (header(b"00000001130") + b"1" * 512, "announces 600 bytes at byte 0 and has 512 left"),
        (header(b"\x80" + b"\xff" * 11) + b"1" * 512, "announces 309,485,009,821,345,068,724,781,055 bytes"),
        (header(b"\xff" * 12) + b"1" * 512, "in place of a number"),
        (header(b"12345678") + b"1" * 512, "in place of a number"),
        (header(b"-1") + b"1" * 512, "in place of a number"),
        (header(b"") + b"1" * 512, "in place of a number"),
        (header(b"0")[:400], "without the end mark"),
        (header(b"0").replace(b"a.npy", b"b.npy") + b"\0" * 1024, "its sum is wrong"),
        (header(b"0", b"\xff") + b"\0" * 1024, "a name that is not UTF-8"),
        (header(b"0", b"") + b"\0" * 1024, "a path that leads elsewhere"),
        (header(b"1", kind=b"5") + b"\0" * 1536, "of the kind b'5'"),
        (header(b"12", kind=b"x") + b"12 path=b.npy".ljust(512, b"\0") + b"\0" * 1024, "damaged attributes"),
        (header(b"1", kind=b"x") + b"x".ljust(512, b"\0") + b"\0" * 1024, "damaged attributes"),
        (header(b"15", kind=b"x") + b"13 path=b.npy\n".ljust(512, b"\0") + b"\0" * 1024, "attributes"),
        (header(b"16", kind=b"x") + b"14 path=b.npy\n".ljust(512, b"\0") + b"\0" * 1024, "that does not follow"),
        (header(b"16", kind=b"x") + b"99 path=b.npy\n".ljust(512, b"\0") + header(b"0") + b"\0" * 1024, "damaged attr"),
        (header(b"16", kind=b"x") + b"14 path=b.npyX".ljust(512, b"\0") + header(b"0") + b"\0" * 1024, "damaged attr"),
        (header(b"16", kind=b"x") + b"-4 path=b.npy\n".ljust(512, b"\0") + b"\0" * 1024, "damaged attributes"),
        (header(b"0") + b"\0" * 1024 + header(b"0") + b"\0" * 1024, "after its end mark"),
        (header(b"0") + b"\0" * (2**20 + 1024), "after its end mark"),
    ],
)
def test_damaged_archives_are_refused(tmp_path, content, match):
    path = tmp_path / "a.tar"
    path.write_bytes(content)
    refused(match, path)


def test_duplicates_nested_archives_and_vectors_of_impossible_size_are_refused_on_import(tmp_path):
    name = "training_images/00001_cat/cat_01b_half.npy"
    data = foreign.npy(np.ones(3, "f4"))

    def refuses(match, *members):
        with tarfile.open(tmp_path / "a.tar", "w") as tar:
            for member in members:
                add(tar, *member)
        with pytest.raises(AlignvisError, match=match):
            import_features([tmp_path / "a.tar"], root=tmp_path)
        assert not list((tmp_path / "features").rglob("*.*"))

    refuses("which was there already", (name, data), (name, data))
    refuses("which was there already", (name, data), (f"image_embeddings/{name}", data))
    inner = (tmp_path / "a.tar").read_bytes()
    refuses("is no .npy file", (name, inner))
    refuses("too many for the vector of one picture", (name, data + b"0" * 2**22))
    refuses("a path that leads elsewhere", (name, data), (f"../{name}", data))
    refuses("does not say where", (name, data), ("training_images/00001_cat/cat_01b_.npy", data))
    refuses("does not say where", (name, data), ("training_images/00001_cat/cat_01b_a b.npy", data))


def test_an_archive_of_links_to_files_of_this_machine_reads_none_of_them(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        add(tar, "training_images/00001_cat/cat_01b_half.npy", foreign.npy(np.ones(3, "f4")))
        add(tar, "test_images/00001_dog/dog_01b_half.npy", type=tarfile.SYMTYPE, linkname="/etc/hostname")
    with pytest.raises(AlignvisError, match="a symbolic link"):
        import_features([tmp_path / "a.tar"], root=tmp_path)


def test_mutated_archives_end_well_and_soon(tmp_path):
    """Flipped, cut, doubled and rewritten: the files as they were, or one sentence; never more than a second."""
    good = pack(tmp_path / "good.tar", {LONG: b"1" * 700, "a/b.npy": b"2" * 20}).read_bytes()
    random_numbers, path = random.Random(0), tmp_path / "bad.tar"
    slowest, refusals = 0.0, 0
    tracemalloc.start()
    try:
        for _ in range(400):
            data = bytearray(good)
            match random_numbers.randrange(4):
                case 0:
                    data[random_numbers.randrange(len(data))] ^= 1 << random_numbers.randrange(8)
                case 1:
                    del data[random_numbers.randrange(len(data)) :]
                case 2:
                    start = 512 * random_numbers.randrange(len(data) // 512)
                    data[start:start] = data[start : start + 512]
                case _:
                    start = random_numbers.choice([124, 148, 156, 0, 345, 512])
                    data[start : start + 12] = random_numbers.randbytes(12)
            path.write_bytes(data)
            begun = time.perf_counter()
            try:
                walked(path)
            except AlignvisError as error:
                refusals += 1
                assert "\n" not in str(error)
            slowest = max(slowest, time.perf_counter() - begun)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()
    assert slowest < 1 and refusals > 200
