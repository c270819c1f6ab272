"""A search in parts: what a part on disk must be, which parts a rank does, and when tables have changed."""

import json
import os
import shutil
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from alignvis import files, store
from alignvis.errors import AlignvisError
from alignvis.searching import parts
from alignvis.searching import search as searching
from alignvis.searching.nearest import prepare_queries
from alignvis.searching.parts import Search, joined, search_parts
from alignvis.searching.search import read_search, search_gallery
from alignvis.searching.shards import names_at, open_tables, vectors_at
from tests.tables import features_document, planted, write_features
from tests.test_runs import train

DIM = 8


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    root = planted(tmp_path_factory.mktemp("root"))
    train(root)
    return root


@pytest.fixture
def root(trained, tmp_path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "root"))


def written(folder: Path, *names: list[str]) -> list[Path]:
    """Tables of one picture a name; the same vector wherever a name stands."""
    paths = []
    for number, images in enumerate(names):
        path = folder / f"{number}.safetensors"
        rows = [np.random.default_rng(list(image.encode())).standard_normal(DIM) for image in images]
        if rows:
            write_features(path, np.stack(rows), images)
        else:
            empty = {"embeddings": np.empty((0, DIM), "f4")}
            save_file(empty, path, {"alignvis": json.dumps(features_document([]))})
        paths.append(path)
    return paths


def opened(folder: Path, *names: list[str]):
    paths = written(folder, *names)
    learned = next(path for path, images in zip(paths, names, strict=True) if images)
    return open_tables(paths, store.load_features(learned), "embeddings", "both", [])


def search_of(folder: Path, *names: list[str], k: int = 3) -> Search:
    gallery = opened(folder, *names)
    queries = torch.randn(4, DIM, generator=torch.Generator().manual_seed(0))
    right = np.full(4, np.inf, np.float32)
    work = folder / "work"
    work.mkdir()
    return Search(prepare_queries(queries), list("wxyz"), gallery.tables, right, gallery.left_out, k, work)


def test_empty_tables_anywhere_leave_every_row_in_its_place(tmp_path):
    names = [[], list("abc"), [], [], list("de"), []]
    gallery = opened(tmp_path, *names)
    flat = [name for some in names for name in some]
    vectors = np.concatenate([load_file(tmp_path / f"{place}.safetensors")["embeddings"] for place in (1, 4)])
    order = [4, 0, 3, 2, 1]
    np.testing.assert_array_equal(vectors_at(gallery.tables, order), vectors[order])
    assert names_at(gallery.tables, np.arange(5)) == flat


def test_rows_that_repeat_are_in_order_and_never_listed(tmp_path):
    images = [f"{row:03}.jpg" for row in range(40)]
    mixed = [images[(7 * row) % 40] for row in range(40)]
    gallery = opened(tmp_path, images, mixed, [*images[::-1], "new.jpg"])
    np.testing.assert_array_equal(gallery.left_out, np.arange(40, 120))
    search = search_of(tmp_path / "again", images, mixed, [*images[::-1], "new.jpg"], k=41)
    search_parts(search, pytest.fail)
    rows = joined(search).rows
    assert (np.sort(rows, axis=1) == [*range(40), 120]).all()


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("scores", lambda array: array.astype(np.float64)),
        ("rows", lambda array: array.astype(np.int32)),
        ("tied", lambda array: array[:-1]),
        ("above", lambda array: None),
    ],
)
def test_a_part_of_another_kind_is_searched_again(tmp_path, name, change):
    search = search_of(tmp_path, list("abcdef"))
    search_parts(search, pytest.fail)
    (path,) = search.folder.glob("*.safetensors")
    before, arrays = path.read_bytes(), load_file(path)
    arrays[name] = change(arrays[name])
    save_file({key: array for key, array in arrays.items() if array is not None}, path)
    with pytest.raises(AlignvisError, match="was removed while its search was at work"):
        joined(search)
    search_parts(search, pytest.fail)
    assert path.read_bytes() == before


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_a_rank_begins_at_its_own_part_and_does_all_that_nobody_has_done(tmp_path, monkeypatch, rank):
    search, real, seen = search_of(tmp_path, *([name] for name in "abcdef")), parts.scan, []

    def spy(queries, shard, *rest, **options):
        seen.append(shard.path.stem)
        real(queries, shard, *rest, **options)

    monkeypatch.setattr(parts, "scan", spy)
    monkeypatch.setattr(parts, "rank", lambda: rank)
    monkeypatch.setattr(parts, "processes", lambda: 3)
    search_parts(search, pytest.fail)
    assert seen == [str((2 * rank + place) % 6) for place in range(6)]
    assert (np.sort(joined(search).rows, axis=1) >= 0).all()


def test_the_part_of_the_responses_belongs_to_a_search(root):
    gallery = [root / "features/tiny/lowlevel.safetensors"]
    about = search_gallery(root, Path("one"), gallery, part="train")[1]
    assert about["part"] == "train"
    with pytest.raises(AlignvisError, match="holds another search"):
        search_gallery(root, Path("one"), gallery, part="test")


def test_a_table_that_changes_in_a_part_or_after_all_is_found_out(root, monkeypatch):
    table = root / "features/tiny/lowlevel.safetensors"
    gallery = root / "web.safetensors"
    shutil.copy(table, gallery)
    real, late = parts.scan, searching.joined

    def changes(*given, **options):
        real(*given, **options)
        os.utime(gallery)

    monkeypatch.setattr(parts, "scan", changes)
    with pytest.raises(AlignvisError, match="web.safetensors has changed during the search; search again"):
        search_gallery(root, Path("one"), [gallery])
    monkeypatch.undo()

    def changes_late(search):
        os.utime(gallery)
        return late(search)

    monkeypatch.setattr(searching, "joined", changes_late)
    with pytest.raises(AlignvisError, match="a table of the gallery has changed during the search; .* was not written"):
        search_gallery(root, Path("one"), [gallery])
    assert not (root / "results/search_one").exists()


def busy_for(monkeypatch, times: int, stem: str) -> None:
    """Let another process be at work on one part when it is looked at for the first times."""
    real, looks = parts.holding, []

    def held(lock: Path):
        if lock.stem.endswith(stem):
            looks.append(lock)
            if len(looks) <= times:
                raise files.Busy("another process is writing")
        return real(lock)

    monkeypatch.setattr(parts, "holding", held)
    monkeypatch.setattr(parts, "WAIT", 0)


def test_the_first_process_stays_until_a_part_of_another_is_done_and_says_so_once(tmp_path, monkeypatch):
    search, said = search_of(tmp_path, list("abc"), list("de")), []
    busy_for(monkeypatch, 4, "3")
    search_parts(search, said.append)
    assert said == ["note: other processes are at work on 1 parts of the gallery; waiting for them"]
    assert (joined(search).rows >= 0).all()
    assert sorted(path.name for path in search.folder.iterdir()) == [f"{row:012}.safetensors" for row in (0, 3)]


def test_progress_is_of_the_whole_gallery_whoever_searched_it(tmp_path, monkeypatch):
    search, seen = search_of(tmp_path, list("abcdef"), list("ghij")), []
    monkeypatch.setattr(parts, "PART", 4 * DIM)
    for expected in ([4, 6, 10, 10], [10]):  # what lies there is not searched again
        seen.clear()
        search_parts(search, pytest.fail, lambda *told: seen.append(told))
        assert seen == [(done, 10, "searching the gallery") for done in expected]


def test_a_part_is_one_row_at_least(tmp_path, monkeypatch):
    search = search_of(tmp_path, list("abc"), list("de"))
    monkeypatch.setattr(parts, "PART", DIM // 2)
    search_parts(search, pytest.fail)
    assert len(list(search.folder.iterdir())) == 5
    whole = search_of(tmp_path / "whole", list("abc"), list("de"))
    search_parts(whole, pytest.fail)
    np.testing.assert_array_equal(joined(search).rows, joined(whole).rows)


def test_a_part_that_vanishes_while_it_is_read_is_a_sentence(tmp_path, monkeypatch):
    search = search_of(tmp_path, list("abcdef"))
    search_parts(search, pytest.fail)

    def gone(path):
        path.unlink()
        return load_file(path)

    monkeypatch.setattr(parts, "load_file", gone)
    with pytest.raises(AlignvisError, match="was removed while its search was at work"):
        joined(search)


def test_a_lock_leaves_no_file_in_the_folder_and_none_open(tmp_path):
    """Parts are many, and a process may have but so many files open."""
    lock, before = tmp_path / "a.lock", len(os.listdir("/dev/fd"))
    with suppress(ZeroDivisionError), parts.holding(lock):
        assert lock.exists() and len(os.listdir("/dev/fd")) == before + 1
        raise ZeroDivisionError
    assert not lock.exists() and len(os.listdir("/dev/fd")) == before


def test_the_rank_of_a_picture_is_that_of_its_first_vector(root):
    """Its own picture stands in two tables, and the vectors are those of two machines."""
    table = store.load_features(root / "features/tiny/lowlevel.safetensors")
    alone, before = search_gallery(root, Path("one"), [table.path], out=root / "alone")
    jitter = 1 + 1e-5 * np.random.default_rng(0).standard_normal(table.embeddings.shape)
    again = write_features(root / "z.safetensors", table.embeddings * jitter, table.images)
    about = search_gallery(root, Path("one"), [table.path, again], out=root / "twice")[1]
    assert about["repeated"] == len(table.images)
    for key in ("rank", "row", "similarity", "tied"):
        np.testing.assert_array_equal(read_search(root / "twice")[1][key], read_search(alone)[1][key])
    assert before["top1"] == about["top1"] and about["ties"] == 0
