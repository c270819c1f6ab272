"""Parts of a table: where they are cut, who has them, what is done again, and what they are joined to."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignvis.errors import AlignvisError
from alignvis.files import Busy
from alignvis.images import parts
from alignvis.images.making import Making
from alignvis.images.parts import Part, claim, compare, cut, merge, path_of, stamps_of
from alignvis.store import load_features, read_table

POOL = ThreadPoolExecutor(2)


@given(count=st.integers(1, 5000), batch=st.integers(1, 700))
def test_parts_follow_each_other_and_cut_no_batch(count, batch):
    rows = cut(count, batch)
    assert [row for part in rows for row in range(part.start, part.stop)] == list(range(count))
    assert all(part.start % batch == 0 for part in rows)
    assert all(part.stop - part.start <= max(parts.PART, batch) for part in rows)


@pytest.fixture
def folder(tmp_path) -> Path:
    images = tmp_path / "images"
    images.mkdir()
    for number in range(10):
        (images / f"{number}.png").write_bytes(bytes([number]) * 20)
    return images


@pytest.fixture
def making(folder, tmp_path) -> Making:
    document = {
        "version": 1, "table": "features", "encoder": "e", "aligned": False, "twin": None, "image_set": "images",
        "images": [f"{number}.png" for number in range(10)], "skipped": [],
    }  # fmt: skip
    return Making(tmp_path / "out" / "e.safetensors", document, {"embeddings": 3, "layer.1": 2})


ROWS = [slice(0, 4), slice(4, 8), slice(8, 10)]


def fill(part: Part, making: Making, folder: Path, bad: tuple[int, ...] = ()) -> None:
    """Row i of the table is i everywhere, and -i in the layer."""
    rows = part.rows
    numbers = np.arange(rows.start, rows.stop, dtype="f4")
    digests = np.stack([np.frombuffer(_sha(folder / making.images[row]), np.uint8) for row in numbers.astype(int)])
    digests[[row - rows.start for row in bad if rows.start <= row < rows.stop]] = 0
    stamps = stamps_of(folder, making.images[rows])
    tensors = {"embeddings": np.repeat(numbers[:, None], 3, 1), "layer.1": -np.repeat(numbers[:, None], 2, 1)}
    part.put(rows, tensors, digests, stamps)


def _sha(path: Path) -> bytes:
    return sha256(path.read_bytes()).digest()


def test_parts_are_joined_to_the_table_and_go(making, folder):
    for rows in ROWS[::-1]:
        part = claim(making, rows, folder, POOL)
        assert part.lacks(rows, False)
        fill(part, making, folder)
        part.finish()
        assert claim(making, rows, folder, POOL) is None
    merge(making, ROWS, {"more": 1})
    table = load_features(making.path)
    assert table.images == making.images and table.document["more"] == 1 and table.document["skipped"] == []
    assert table.embeddings[:, 1].tolist() == list(range(10))
    assert load_features(making.path, "layer.1").embeddings[:, 0].tolist() == [-number for number in range(10)]
    assert not parts.folder_of(making).exists()


def test_pictures_that_could_not_be_read_are_left_out(making, folder):
    for rows in ROWS:
        part = claim(making, rows, folder, POOL)
        fill(part, making, folder, bad=(3, 4, 8, 9))
        part.checkpoint()
        assert part.lacks(rows, False) and not part.lacks(rows, True)
        part.finish()
    merge(making, ROWS, {})
    table = load_features(making.path)
    assert table.document["skipped"] == ["3.png", "4.png", "8.png", "9.png"]
    assert table.embeddings[:, 0].tolist() == [0, 1, 2, 5, 6, 7]


def test_what_nobody_finished_is_continued(making, folder):
    part = claim(making, ROWS[1], folder, POOL)
    first = slice(4, 6)
    digests = np.ones((2, 32), np.uint8)
    digests[0] = np.frombuffer(_sha(folder / "4.png"), np.uint8)
    part.put(
        first, {"embeddings": np.ones((2, 3), "f4"), "layer.1": np.ones((2, 2), "f4")}, digests, np.ones((2, 2), int)
    )
    part.leave()
    again = claim(making, ROWS[1], folder, POOL)
    # The stamps differ, so both were read: the first is what it was.
    assert not again.lacks(slice(4, 5), False) and again.lacks(slice(5, 6), False)
    assert (again.maps["images.stamp"][0] == stamps_of(folder, ["4.png"])[0]).all()
    again.leave()


def test_a_part_without_work_leaves_nothing(making, folder):
    claim(making, ROWS[0], folder, POOL).leave()
    assert not making.path.parent.exists() or not any(making.path.parent.iterdir())


def test_of_a_part_of_another_making_nothing_is_kept(making, folder):
    part = claim(making, ROWS[0], folder, POOL)
    fill(part, making, folder)
    part.finish()
    other = Making(making.path, {**making.document, "batch": 9}, making.sizes)
    again = claim(other, ROWS[0], folder, POOL)
    assert again.lacks(ROWS[0], True)
    again.leave()


def test_another_process_does_not_get_a_part_that_is_taken(making, folder, tmp_path):
    program = (
        "import sys; from pathlib import Path; from alignvis.files import hold\n"
        "hold(Path(sys.argv[1])); print('held', flush=True); sys.stdin.read()"
    )
    partial = Path(f"{path_of(making, ROWS[0])}.partial")
    partial.parent.mkdir(parents=True)
    other = subprocess.Popen(
        [sys.executable, "-c", program, partial], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout.readline() == "held\n"
    with pytest.raises(Busy):
        claim(making, ROWS[0], folder, POOL)
    other.communicate("")
    part = claim(making, ROWS[0], folder, POOL)
    assert part is not None
    part.leave()


def test_a_picture_is_read_again_only_when_its_file_was_touched(making, folder, monkeypatch):
    part = claim(making, ROWS[0], folder, POOL)
    fill(part, making, folder)
    part.finish()
    read = []
    monkeypatch.setattr(parts, "read", lambda path: read.append(path.name) or path.read_bytes())
    assert claim(making, ROWS[0], folder, POOL) is None and read == []
    os.utime(folder / "2.png")
    touched = claim(making, ROWS[0], folder, POOL)
    assert read == ["2.png"] and not touched.lacks(ROWS[0], False)
    touched.finish()
    assert claim(making, ROWS[0], folder, POOL) is None and read == ["2.png"]


@pytest.mark.parametrize("how", ["written", "same size and time", "gone"])
def test_a_row_whose_picture_changed_is_made_again(making, folder, how):
    part = claim(making, ROWS[0], folder, POOL)
    fill(part, making, folder)
    part.finish()
    path = folder / "1.png"
    before = path.stat()
    if how == "gone":
        path.unlink()
    else:
        path.write_bytes(b"x" * (30 if how == "written" else 20))
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    again = claim(making, ROWS[0], folder, POOL)
    assert [again.lacks(slice(row, row + 1), False) for row in range(4)] == [False, True, False, False]
    again.leave()


def test_a_bad_picture_that_was_mended_is_tried_again(making, folder):
    part = claim(making, ROWS[0], folder, POOL)
    fill(part, making, folder, bad=(1, 2))
    part.finish()
    assert claim(making, ROWS[0], folder, POOL) is None
    (folder / "1.png").write_bytes(b"mended")
    again = claim(making, ROWS[0], folder, POOL)
    assert [again.lacks(slice(row, row + 1), True) for row in range(4)] == [False, True, False, False]
    again.leave()


def test_compare_reads_what_has_no_stamp(folder):
    ids = ["0.png", "1.png", "2.png"]
    digests = np.stack([np.frombuffer(_sha(folder / image), np.uint8) for image in ids])
    digests[1] = 7
    digests[2] = 0  # not made yet
    said = []
    changed, now = compare(
        folder, ids, digests, np.zeros((3, 2), np.int64), POOL, lambda *words: said.append(words[:2])
    )
    assert changed.tolist() == [False, True, False] and said == [(1, 2), (2, 2)]
    assert (now == stamps_of(folder, ids)).all() and (now > 0).all()


def test_a_damaged_part_is_made_again(making, folder):
    part = claim(making, ROWS[0], folder, POOL)
    fill(part, making, folder)
    part.finish()
    path = path_of(making, ROWS[0])
    path.write_bytes(path.read_bytes()[:-5])
    again = claim(making, ROWS[0], folder, POOL)
    assert again is not None and again.lacks(ROWS[0], False)
    again.leave()


def test_joining_that_was_interrupted_is_done_again(making, folder, monkeypatch):
    for rows in ROWS:
        part = claim(making, rows, folder, POOL)
        fill(part, making, folder)
        part.finish()

    def stop(path):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(parts, "commit", stop)
        with pytest.raises(KeyboardInterrupt):
            merge(making, ROWS, {})
    assert not making.path.exists()
    merge(making, ROWS, {})
    assert load_features(making.path).embeddings[:, 0].tolist() == list(range(10))
    assert sorted(path.name for path in making.path.parent.iterdir()) == ["e.safetensors"]


def test_no_good_picture_makes_no_table(making, folder):
    for rows in ROWS:
        part = claim(making, rows, folder, POOL)
        fill(part, making, folder, bad=tuple(range(10)))
        part.finish()
    with pytest.raises(AlignvisError, match="none of the pictures of images can be read"):
        merge(making, ROWS, {})
    assert not any(making.path.parent.iterdir())


def test_the_stamp_and_the_digest_stand_in_the_table(making, folder):
    for rows in ROWS:
        part = claim(making, rows, folder, POOL)
        fill(part, making, folder)
        part.finish()
    merge(making, ROWS, {})
    _, arrays = read_table(making.path, "features", {"images.sha256": ("U8", 2), "images.stamp": ("I64", 2)})
    assert (arrays["images.stamp"] == stamps_of(folder, making.images)).all()
    assert [row.tobytes() for row in arrays["images.sha256"]] == [_sha(folder / image) for image in making.images]
