"""Pictures in one array of an HDF5 file: embedded like the same pictures in a folder, and read when they are needed."""

import os
import re
import subprocess
import sys
import tracemalloc
from hashlib import sha256
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from alignvis import store
from alignvis.errors import AlignvisError
from alignvis.images import ahead, brick, parts
from alignvis.images import extract as extraction
from alignvis.images.catalogue import load
from alignvis.images.extract import extract
from tests.test_extract import Sketch

COUNT = 23


def drawn(count: int = COUNT, height: int = 40, width: int = 50, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def write(path: Path, pictures: np.ndarray, simulated: bool = False, **made) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file.create_dataset("imgBrick", data=pictures, **made)
        if simulated:
            file.create_dataset("simulated", data=np.uint8(1))
    return path


def two() -> list[Sketch]:
    return [Sketch("one", "clip"), Sketch("two", "squash-bilinear-224", seed=1)]


def contents(out: Path) -> dict[str, bytes]:
    files = [path for path in sorted(out.rglob("*")) if path.is_file()]
    return {re.sub(r"/[0-9a-f]{12}/", "/", path.relative_to(out).as_posix()): path.read_bytes() for path in files}


@pytest.fixture
def images(tmp_path) -> Path:
    return write(tmp_path / "nsd_stimuli.hdf5", drawn())


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(parts, "PART", 4)
    monkeypatch.setattr(extraction, "CHECKPOINT", 0.0)


def test_a_picture_is_embedded_as_it_is_from_a_folder(images, tmp_path):
    for row, picture in enumerate(drawn()):
        (tmp_path / "set").mkdir(exist_ok=True)
        Image.fromarray(picture).save(tmp_path / "set" / f"{row:05d}.png")
    (from_brick, _) = extract(images, two(), tmp_path / "a", batch=4, workers=1)
    extract(tmp_path / "set", two(), tmp_path / "b", batch=4, workers=1)
    for name in ("one", "two"):
        ours, theirs = (store.load_features(tmp_path / out / f"{name}.safetensors") for out in "ab")
        assert np.array_equal(ours.embeddings, theirs.embeddings) and len(ours.embeddings) == COUNT
        assert ours.images == [f"nsd-{row:05d}" for row in range(COUNT)]
        assert ours.document["image_set"] == "nsd_stimuli" and ours.document["simulated"] is False
    assert from_brick["images"] == COUNT and not from_brick["kept"]
    _, arrays = store.read_table(tmp_path / "a" / "one.safetensors", "features", {})
    for row, picture in enumerate(drawn()):
        assert arrays["images.sha256"][row].tobytes() == sha256(picture.tobytes()).digest()
    status = images.stat()
    stamp = [max(status.st_mtime_ns, status.st_ctime_ns), status.st_size]
    assert (arrays["images.stamp"] == stamp).all()


@pytest.mark.parametrize(
    "made",
    [
        {"chunks": (1, 40, 50, 3)},
        {"chunks": (5, 20, 50, 3), "compression": "gzip"},
        {"chunks": (2, 40, 50, 1), "compression": "gzip", "shuffle": True},
    ],
)
def test_how_the_file_stores_pictures_changes_nothing(images, tmp_path, made):
    other = write(tmp_path / "other" / "nsd_stimuli.hdf5", drawn(), **made)
    for name, path in (("a", images), ("b", other)):
        extract(path, two(), tmp_path / name, batch=4, workers=1)
    for name in ("one", "two"):
        one, two_ = (store.load_features(tmp_path / out / f"{name}.safetensors") for out in "ab")
        assert np.array_equal(one.embeddings, two_.embeddings)


def test_a_simulated_file_says_so_itself(tmp_path):
    path = write(tmp_path / "x.hdf5", drawn(3), simulated=True)
    extract(path, two()[:1], tmp_path / "out", workers=1)
    document = store.read_document(tmp_path / "out" / "one.safetensors")
    assert document["simulated"] is True and document["image_set"] == "x"


def test_the_pictures_that_a_recording_showed_are_enough(images, tmp_path):
    extract(images, two(), tmp_path / "all", batch=4, workers=1)
    only = ["nsd-00020", "nsd-00003", "nsd-00007", "nsd-00003"]
    extract(images, two(), tmp_path / "some", only=only, batch=4, workers=1)
    every, some = (store.load_features(tmp_path / out / "one.safetensors") for out in ("all", "some"))
    assert some.images == ["nsd-00003", "nsd-00007", "nsd-00020"]
    assert np.allclose(some.embeddings, every.embeddings[[3, 7, 20]], atol=1e-5)
    assert extract(images, two(), tmp_path / "some", only=only[:3], batch=4, workers=1)[0]["kept"]
    with pytest.raises(AlignvisError, match="is a table of another making .*images"):
        extract(images, two(), tmp_path / "some", only=only[:2], workers=1)


def test_of_a_folder_too_some_pictures_are_enough(tmp_path):
    (tmp_path / "set").mkdir()
    for name in ("b.png", "a.png", "c.png"):
        Image.fromarray(drawn(1)[0]).save(tmp_path / "set" / name)
    extract(tmp_path / "set", two()[:1], tmp_path / "out", only=("c.png", "a.png"), workers=1)
    assert store.load_features(tmp_path / "out" / "one.safetensors").images == ["a.png", "c.png"]


def test_pictures_that_are_not_there_are_refused(images, tmp_path):
    for only, words in (
        (["nsd-00001", "nsd-00023", "x.png"], "2 of the 3 pictures asked for are not in .* is 'nsd-00023'"),
        ([], "no picture of .* was asked for"),
    ):
        with pytest.raises(AlignvisError, match=words):
            extract(images, two(), tmp_path / "out", only=only, workers=1)
    assert not (tmp_path / "out").exists()


def test_calls_for_other_pictures_keep_their_parts_apart(images, tmp_path, small):
    """What one leaves unfinished is not taken for the other's."""
    left = iter(range(2))

    def stop(*_):
        if next(left, None) is None:
            raise KeyboardInterrupt

    some = [f"nsd-{row:05d}" for row in range(1, COUNT)]
    with pytest.raises(KeyboardInterrupt):
        extract(images, two(), tmp_path / "out", batch=4, workers=1, progress=stop)
    extract(images, two(), tmp_path / "new", only=some, batch=4, workers=1)
    before = contents(tmp_path / "out")
    extract(images, two()[:1], tmp_path / "out", only=some, batch=4, workers=1)
    after = contents(tmp_path / "out")
    assert before.items() <= after.items() and any("parts" in name for name in before)
    assert after["one.safetensors"] == contents(tmp_path / "new")["one.safetensors"]


@pytest.mark.parametrize("at", [0, 2])
def test_a_call_that_was_interrupted_is_continued_to_the_same_bytes(images, tmp_path, small, monkeypatch, at):
    extract(images, two(), tmp_path / "whole", batch=4, workers=2)
    left = iter(range(at))

    def stop(*_):
        if next(left, None) is None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extract(images, two(), tmp_path / "cut", batch=4, workers=2, progress=stop)
    asked, submit = [], ahead.Decoders.submit

    def noted(self, paths, geometries):
        asked.extend(paths)
        return submit(self, paths, geometries)

    monkeypatch.setattr(ahead.Decoders, "submit", noted)
    extract(images, two(), tmp_path / "cut", batch=4, workers=2)
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")
    assert 0 < len(asked) <= COUNT - 4 * (at + 1)


def test_pictures_that_were_changed_meanwhile_are_embedded_again_and_no_others(images, tmp_path, small, monkeypatch):
    left = iter(range(3))

    def stop(*_):
        if next(left, None) is None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extract(images, two(), tmp_path / "out", batch=4, workers=1, progress=stop)
    pictures = drawn()
    pictures[1] = 255 - pictures[1]
    with h5py.File(images, "a") as file:
        file["imgBrick"][1] = pictures[1]
    asked, submit = [], ahead.Decoders.submit
    monkeypatch.setattr(
        ahead.Decoders,
        "submit",
        lambda self, paths, geometries: (asked.extend(paths), submit(self, paths, geometries))[1],
    )
    extract(images, two(), tmp_path / "out", batch=4, workers=1)
    rows = {int(path.name[4:]) for path in asked}
    assert {0, 1, 2, 3} <= rows and not {4, 5, 6, 7} & rows
    monkeypatch.undo()
    extract(images, two(), tmp_path / "new", batch=4, workers=1)
    assert contents(tmp_path / "out")["one.safetensors"] == contents(tmp_path / "new")["one.safetensors"]


def test_a_whole_table_of_a_changed_file_is_refused_and_of_a_touched_one_kept(images, tmp_path):
    extract(images, two(), tmp_path / "out", workers=1)
    os.utime(images, ns=(1, 1))
    assert all(table["kept"] for table in extract(images, two(), tmp_path / "out", workers=1))
    with h5py.File(images, "a") as file:
        file["imgBrick"][2] = 7
        file["imgBrick"][9] = 7
    with pytest.raises(AlignvisError, match="2 pictures of .* are not what they were .*the first is 'nsd-00002'"):
        extract(images, two(), tmp_path / "out", workers=1)


def test_processes_share_a_file(images, tmp_path, monkeypatch):
    program = """
import sys
from pathlib import Path
from alignvis.images import extract, parts
from alignvis.images.catalogue import load
parts.PART = 4
encoders = [load("lowlevel", Path("none"), download=False)]
extract.extract(Path(sys.argv[1]), encoders, Path(sys.argv[2]), batch=4, workers=1)
"""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])}

    def start(out: str, rank: int, count: int) -> subprocess.Popen:
        stated = {"RANK": str(rank), "LOCAL_RANK": "0", "WORLD_SIZE": str(count)}
        return subprocess.Popen(
            [sys.executable, "-c", program, str(images), str(tmp_path / out)], env=environment | stated
        )

    processes = [start("both", 0, 2), start("both", 1, 2)]
    monkeypatch.setattr(parts, "PART", 4)
    extract(images, [load("lowlevel", Path("none"), download=False)], tmp_path / "alone", batch=4, workers=1)
    assert [process.wait(120) for process in processes] == [0, 0]
    assert contents(tmp_path / "both") == contents(tmp_path / "alone") and len(contents(tmp_path / "alone")) == 1


def test_a_piece_that_is_damaged_costs_its_pictures_only(tmp_path):
    path = write(tmp_path / "x.hdf5", drawn(), chunks=(4, 40, 50, 3), compression="gzip")
    with h5py.File(path) as file:
        about = file["imgBrick"].id.get_chunk_info_by_coord((8, 0, 0, 0))
    with open(path, "r+b") as file:
        file.seek(about.byte_offset + about.size // 2)
        file.write(bytes(64))
    with pytest.raises(AlignvisError, match="x.hdf5 looks like an HDF5 file, but is damaged .*cannot be unpacked"):
        extract(path, two(), tmp_path / "out", batch=4, workers=1)
    (told, _) = extract(path, two(), tmp_path / "out", batch=4, workers=1, skip_bad=True)
    assert told["skipped"] == [f"nsd-{row:05d}" for row in (8, 9, 10, 11)] and told["images"] == COUNT - 4


def test_only_a_picture_at_a_time_is_in_memory(tmp_path):
    path = write(tmp_path / "x.hdf5", np.zeros((2000, 100, 100, 3), np.uint8))  # 60 MB
    tracemalloc.start()
    try:
        assert len(brick.brick_pictures(path)) == 2000
        with brick.Reader() as reader:
            for row in (0, 1999, 3):
                assert reader.pixels(path / f"nsd-{row:05d}").shape == (100, 100, 3)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_a_file_stays_open_for_the_next_picture_and_is_opened_again_when_it_changes(images, monkeypatch):
    opened, real = [], brick.open_brick
    monkeypatch.setattr(brick, "open_brick", lambda path: (opened.append(path), real(path))[1])
    with brick.Reader() as reader:
        for row in (3, 4, 22, 3):
            assert np.array_equal(reader.pixels(images / f"nsd-{row:05d}"), drawn()[row])
        assert len(opened) == 1
        write(images.with_name("new"), drawn(seed=1)).replace(images)
        assert np.array_equal(reader.pixels(images / "nsd-00003"), drawn(seed=1)[3]) and len(opened) == 2
        with pytest.raises(AlignvisError, match="holds 23 pictures, and nsd-00023 is none of them"):
            reader.pixels(images / "nsd-00023")
    with h5py.File(images, "a"):  # nobody holds it any more
        pass


def sentence(path: Path, tmp_path: Path) -> str:
    with pytest.raises(AlignvisError) as told:
        extract(path, two(), tmp_path / "out", workers=1)
    return str(told.value)


def test_files_that_are_no_pictures_are_refused(tmp_path):
    path = tmp_path / "x.hdf5"
    path.write_bytes(b"no")
    assert "is a file, but not one of pictures" in sentence(path, tmp_path)
    assert "is missing; expected a folder of pictures" in sentence(tmp_path / "nowhere", tmp_path)
    with h5py.File(path, "w") as file:
        file["images"] = drawn(2)
    assert "holds 'images', and an array of pictures called 'imgBrick' was expected" in sentence(path, tmp_path)
    assert "holds pictures of shape (40, 50, 1)" in sentence(write(path, drawn()[..., :1]), tmp_path)
    assert "holds pictures of shape (3, 40, 50)" in sentence(write(path, drawn().transpose(0, 3, 1, 2)), tmp_path)
    assert "not of numbers" in sentence(write(path, drawn().astype(np.float32)), tmp_path)
    assert "has shape (40, 50, 3), and 4 dimensions" in sentence(write(path, drawn()[0]), tmp_path)
    assert "no edge 100 times the other" in sentence(write(path, np.zeros((1, 1, 101, 3), np.uint8)), tmp_path)
    assert "of at most 16,777,216 pixels" in sentence(write(path, np.zeros((1, 4097, 4096, 3), np.uint8)), tmp_path)
    assert "holds 100,001 pictures" in sentence(write(path, np.zeros((100_001, 1, 1, 3), np.uint8)), tmp_path)


def test_the_names_of_sets():
    assert brick.set_name(Path(__file__)) == "test_brick"
    assert brick.set_name(Path(__file__).parent) == "tests"
