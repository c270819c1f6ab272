"""The tables of a gallery: how they are found, what they must hold, and which pictures are the same."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from alignvis import store
from alignvis.errors import AlignvisError
from alignvis.searching import shards
from alignvis.searching.shards import find_tables, open_tables
from tests.tables import write_features

DIM = 8


def table(path: Path, images: list[str], vectors: np.ndarray | None = None, **changes) -> Path:
    vectors = np.random.default_rng(len(images)).standard_normal((len(images), DIM)) if vectors is None else vectors
    return write_features(path, vectors, images, **changes)


def opened(*paths: Path, learned: Path | None = None, sides: str = "both", wanted: tuple[str, ...] = ()):
    return open_tables(paths, store.load_features(learned or paths[0]), "embeddings", sides, wanted)


def test_tables_are_found_in_folders_by_patterns_and_by_name_and_each_but_once(tmp_path, monkeypatch):
    names = ["b.safetensors", "a/z.safetensors", "a/b/c.safetensors", "a/search_x.parts/d/e.safetensors", "a/notes.txt"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    monkeypatch.chdir(tmp_path)
    nested, single, top = Path("a/b/c.safetensors"), Path("a/z.safetensors"), Path("b.safetensors")
    assert find_tables(["a"]) == [nested, single]  # what a search keeps while it is at work is no gallery
    assert find_tables([str(top), "a/*.safetensors", "a"]) == [top, single, nested]
    assert find_tables(["*/*safetensors", "b.*"]) == [single, top]
    for name in ("n", "m", "k", "l"):
        shutil.copy(top, f"{name}.table")
    assert find_tables(["?.table"]) == [Path(f"{name}.table") for name in "klmn"]
    assert find_tables(["a/search_x.parts"]) == find_tables([Path("a/search_x.parts/d")])  # unless it is asked for
    Path("link.safetensors").symlink_to(top)
    Path("folder").symlink_to("a")
    assert find_tables(["link.safetensors", top]) == [Path("link.safetensors")]
    assert find_tables([single, "folder/z.safetensors", tmp_path / single]) == [single]


def test_a_table_that_lacks_what_the_run_learned_is_a_sentence(tmp_path):
    one = table(tmp_path / "a.safetensors", ["a"])
    with pytest.raises(AlignvisError, match="a.safetensors holds no 'layer4', which the run learned; .*--layers"):
        open_tables([one], store.load_features(one), "layer4", "both", [])


@pytest.mark.parametrize(("key", "sides"), [("level", "both"), ("preprocessing", "both"), ("normalised", "none")])
def test_what_both_tables_state_of_how_they_were_made_must_be_the_same(tmp_path, key, sides):
    learned = table(tmp_path / "learned.safetensors", ["a"], **{key: 1})
    silent = table(tmp_path / "silent.safetensors", ["b"])
    other = table(tmp_path / "other.safetensors", ["c"], **{key: 2})
    assert opened(silent, learned=learned, sides=sides) and opened(other, learned=silent, sides=sides)
    with pytest.raises(
        AlignvisError, match=f"other.safetensors was made with another {key} than .*learned.safetensors"
    ):
        opened(other, learned=learned, sides=sides)
    if key == "normalised":  # lengths do not count for a similarity that divides by them
        assert opened(other, learned=learned, sides="both")


def test_weights_in_another_order_are_the_same_weights(tmp_path):
    one, two = ({"file": name, "sha256": name * 64} for name in "ab")
    learned = table(tmp_path / "learned.safetensors", ["a"], weights=[one, two])
    assert opened(table(tmp_path / "same.safetensors", ["b"], weights=[two, one]), learned=learned)
    for weights in ("unknown", [], ["b"], [{"sha256": 3}]):  # which says nothing
        silent = table(tmp_path / "silent.safetensors", ["b"], weights=weights)
        assert opened(silent, learned=learned) and opened(learned, learned=silent)
    with pytest.raises(AlignvisError, match="made with other weights"):
        opened(table(tmp_path / "other.safetensors", ["b"], weights=[two]), learned=learned)


def test_two_names_with_one_hash_are_two_names(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "hash", lambda image: 7, raising=False)
    one = table(tmp_path / "a.safetensors", ["a", "b"])
    assert opened(one).tables[0].shard.rows == 2
    document = store.read_document(one)
    save_file(load_file(one), one, {"alignvis": json.dumps({**document, "images": ["b", "b"]})})
    with pytest.raises(AlignvisError, match="names the image 'b' more than once"):
        open_tables([one], store.load_features(table(tmp_path / "l.safetensors", ["a"])), "embeddings", "both", [])


@pytest.mark.parametrize("count", [1, 2])
def test_names_that_are_no_text_are_refused_in_one_table_and_in_many(tmp_path, count):
    paths = [table(tmp_path / f"{number}.safetensors", [f"{number}.jpg"]) for number in range(count)]
    learned = table(tmp_path / "learned.safetensors", ["a"])
    document = store.read_document(paths[-1])
    about = json.dumps({**document, "images": ["\ud800.jpg"]})
    save_file(load_file(paths[-1]), paths[-1], {"alignvis": about})
    with pytest.raises(AlignvisError, match=f"{count - 1}.safetensors names an image that is no text"):
        opened(*paths, learned=learned)


def test_repeats_are_found_far_down_in_a_large_table(tmp_path):
    images = [f"{row}" for row in range(100_003)]
    vectors = np.zeros((len(images), DIM), "f4")
    vectors[[1, 99_999, 100_000, 100_001]] = np.arange(1, 5)[:, None]
    large = table(tmp_path / "large.safetensors", images, vectors)
    again = np.array([[4.0], [9], [1], [2], [3]]) * np.ones(DIM)
    small = table(tmp_path / "small.safetensors", ["100001", "new", "1", "99999", "100000"], again)
    gallery = opened(large, small, wanted=("100001", "new", "nowhere"))
    assert gallery.left_out.tolist() == [100_003, 100_005, 100_006, 100_007]
    assert gallery.places.tolist() == [100_001, 100_004, -1]
    assert opened(small, large).left_out.tolist() == [6, 100_004, 100_005, 100_006]


def test_more_repeats_than_memory_is_meant_for_are_refused(tmp_path, monkeypatch):
    paths = [table(tmp_path / f"{number}.safetensors", ["a", "b"]) for number in range(3)]
    monkeypatch.setattr(shards, "MOST_TWICE", 4)
    assert opened(*paths).left_out.tolist() == [2, 3, 4, 5]
    monkeypatch.setattr(shards, "MOST_TWICE", 3)
    with pytest.raises(AlignvisError, match="names 4 images more than once; give every table once"):
        opened(*paths)


@pytest.mark.parametrize("length", [1e-3, 1, 1e3])
def test_vectors_of_one_picture_may_differ_by_a_thousandth_of_their_length(tmp_path, length):
    vector = length * np.eye(DIM)[:1]
    one = table(tmp_path / "one.safetensors", ["a"], vector)
    aside = length * np.eye(DIM)[1:2]
    assert opened(one, table(tmp_path / "near.safetensors", ["a"], vector + 0.99e-3 * aside)).left_out.tolist() == [1]
    with pytest.raises(AlignvisError, match="one.safetensors and .*far.safetensors both name the image 'a'"):
        opened(one, table(tmp_path / "far.safetensors", ["a"], vector + 1.01e-3 * aside))


def test_two_vectors_of_zeros_are_the_same(tmp_path):
    paths = [table(tmp_path / f"{number}.safetensors", ["a"], np.zeros((1, DIM))) for number in range(2)]
    assert opened(*paths).left_out.tolist() == [1]


def test_each_of_many_repeats_is_looked_at(tmp_path):
    images = [f"{row}" for row in range(10_001)]
    vectors = np.random.default_rng(0).standard_normal((len(images), DIM)).astype("f4")
    one = table(tmp_path / "one.safetensors", images, vectors)
    vectors[-1] += 1
    with pytest.raises(AlignvisError, match="both name the image '10000', and their vectors of it differ"):
        opened(one, table(tmp_path / "two.safetensors", ["new", *images], np.concatenate([vectors[:1], vectors])))


def test_a_picture_is_compared_with_the_first_of_its_name(tmp_path):
    """And not with the one before it: each step may be small, and the way long."""
    paths = [table(tmp_path / f"{step}.safetensors", ["a"], np.full((1, DIM), 1 + step * 8e-4)) for step in range(3)]
    assert opened(*paths[:2]).left_out.tolist() == [1]
    with pytest.raises(AlignvisError, match="0.safetensors and .*2.safetensors both name the image 'a'"):
        opened(*paths)


@pytest.mark.parametrize("half", [slice(0, 8), slice(8, 16)])
def test_names_whose_digests_are_half_the_same_are_two(tmp_path, monkeypatch, half):
    class Digest:
        def __init__(self, image: bytes, digest_size: int) -> None:
            self.raw = bytearray(digest_size)
            self.raw[half] = image[:8].ljust(8)

        def digest(self) -> bytes:
            return bytes(self.raw)

    monkeypatch.setattr(shards.hashlib, "blake2b", Digest)
    paths = [table(tmp_path / f"{name}.safetensors", [name]) for name in ("xa", "xb")]
    assert not len(opened(*paths).left_out)
