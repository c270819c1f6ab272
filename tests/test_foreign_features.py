"""Features of other projects become tables whose every row is the right image's, or one sentence."""

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch

from alignvis import check, finding, store
from alignvis.errors import AlignvisError
from alignvis.exchange import trees
from alignvis.exchange.features import import_features, recognise
from alignvis.images import making
from tests import foreign_features as foreign
from tests.foreign_features import vectors
from tests.tables import write_responses

IDS = foreign.ids()
ALL = IDS["train"] + IDS["test"]
SORTED = sorted(ALL)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return foreign.write_images(tmp_path_factory.mktemp("set") / "pictures", IDS)


def rows_of(path) -> dict[str, np.ndarray]:
    table = store.load_features(path)
    return dict(zip(table.images, table.embeddings, strict=True))


def one(paths, **options) -> tuple[dict, store.Features]:
    (made,) = import_features(paths, **options)
    return made, store.load_features(made["table"])


def refused(match, paths, **options) -> str:
    with pytest.raises(AlignvisError, match=match) as caught:
        import_features(paths, **options)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 900
    return str(caught.value)


# --- trees and shards ------------------------------------------------------------------------------------------------

ENCODERS = {
    "CLIP_ViT-B32_noalign": vectors(17, 6),
    "dreamsim_clip_vitb32": vectors(17, 5, seed=1, unit=True),
    "my_own_net": vectors(17, 4, seed=2).astype("f8"),
    "half": vectors(17, 3, seed=3).astype("f2"),
}


def slow_tree(folder, encoder: str) -> dict[str, np.ndarray]:
    """The plain way: every file loaded by numpy, found by its ending."""
    found = {}
    for path in folder.rglob(f"*_{encoder}.npy"):
        stem = path.name[: -len(f"_{encoder}.npy")]
        place = path.relative_to(folder).parent / f"{stem}.jpg"
        found[place.as_posix()] = np.load(path).ravel().astype("f4")
    return found


@pytest.mark.parametrize("with_images", [True, False])
@pytest.mark.parametrize("as_shards", [True, False])
def test_every_encoder_of_a_tree_becomes_a_table_with_each_picture_s_own_vector(
    tmp_path, images, with_images, as_shards
):
    tree = foreign.write_tree(tmp_path / "data" / "image_embeddings", ALL, ENCODERS)
    path = tree.parent
    if as_shards:
        path = foreign.write_shards(tmp_path / "tars", ALL, ENCODERS)[0].parent
    assert recognise(path) == ("alignvis-shards" if as_shards else "alignvis-tree")
    made = import_features([path], root=tmp_path, images=images if with_images else None, image_set="tiny")
    assert [row["encoder"] for row in made] == sorted(ENCODERS)
    for row in made:
        expected = slow_tree(tree, row["encoder"])
        found = rows_of(row["table"])
        assert list(found) == SORTED and found.keys() == expected.keys()
        assert all((found[image] == expected[image]).all() for image in found)
        assert (row["images"], row["dim"], row["kept"]) == (17, ENCODERS[row["encoder"]].shape[1], False)


def test_a_table_says_what_is_known_of_the_encoder_and_where_the_vectors_are_from(tmp_path, images):
    tree = foreign.write_tree(tmp_path / "image_embeddings", ALL, ENCODERS)
    made = {row["encoder"]: row for row in import_features([tree], root=tmp_path, images=images)}
    assert made["half"]["table"] == str(tmp_path / "features" / "pictures" / "half.safetensors")
    aligned = store.read_document(made["dreamsim_clip_vitb32"]["table"], "features")
    assert (aligned["aligned"], aligned["twin"]) == (True, "dreamsim_clip_vitb32_noalign")
    assert aligned["normalised"] is True and aligned["simulated"] is False and "precision" not in aligned
    assert any("have 5 numbers, and those of dreamsim_clip_vitb32 here have 512" in text for text in aligned["claims"])
    own = store.read_document(made["my_own_net"]["table"], "features")
    assert (own["aligned"], own["twin"], own["normalised"]) == (False, None, False)
    assert any("no encoder of this package is called 'my_own_net'" in text for text in own["claims"])
    size = sum(path.stat().st_size for path in tree.rglob("*_half.npy"))
    assert store.read_document(made["half"]["table"])["imported"] == {
        "layout": "alignvis-tree",
        "files": [{"file": "image_embeddings", "files": 17, "bytes": size}],
    }


def test_shards_are_named_with_their_digests(tmp_path):
    tars = foreign.write_shards(tmp_path / "tars", ALL, {"half": ENCODERS["half"]})
    made, table = one(tars, root=tmp_path)
    assert [entry["file"] for entry in table.document["imported"]["files"]] == [path.name for path in tars]
    assert all(len(entry["sha256"]) == 64 for entry in table.document["imported"]["files"])
    assert table.document["image_set"] == "things-eeg2" and "simulated" not in table.document
    assert any("taken to end in .jpg" in text for text in made["claims"])
    assert any("12 training and 5 test images, and the published set 16,540 and 200" in text for text in made["claims"])


def test_one_encoder_of_many_is_imported_when_it_is_asked_for(tmp_path):
    tree = foreign.write_tree(tmp_path / "tree", ALL, ENCODERS)
    made, _ = one([tree], root=tmp_path, encoder="half")
    assert made["encoder"] == "half" and len(list((tmp_path / "features").rglob("*.safetensors"))) == 1
    refused("no embeddings of 'third'", [tree], root=tmp_path, encoder="third")


def test_names_are_split_where_the_picture_s_name_ends(tmp_path):
    """Pictures that are not called as those of THINGS, and one whose name goes on like an encoder's."""
    names = ["training_images/00001_cat/cat.jpg", "training_images/00001_cat/cat_half.png"]
    folder = foreign.write_images(tmp_path / "images" / "things-eeg2", {"train": names, "test": IDS["test"]})
    tree = foreign.write_tree(tmp_path / "tree", names, {"half_size": vectors(2, 3)})
    refused("may be .*cat.jpg by half_half_size or .*cat_half.png by half_size", [tree], root=tmp_path)
    _, table = one([tree], root=tmp_path, encoder="half_size")  # finds the folder of that name in the root
    assert table.images == names and (table.embeddings == vectors(2, 3)).all()
    assert table.document["image_set"] == "things-eeg2"
    plain = foreign.write_tree(tmp_path / "plain", names[:1], {"half_size": vectors(1, 3)})
    for path in folder.rglob("*.*"):
        path.unlink()
    other = tmp_path / "elsewhere"
    refused("does not say where the picture's name ends", [plain], root=other)
    made, table = one([plain], root=other, encoder="half_size")
    assert table.images == names[:1] and made["encoder"] == "half_size"
    longest = foreign.write_tree(tmp_path / "longest", names[:1], {"dreamsim_clip_vitb32": vectors(1, 3)})
    assert one([longest], root=other, encoder=None)[0]["encoder"] == "dreamsim_clip_vitb32"
    refused("no embeddings of 'clip_vitb32'", [longest], root=other, encoder="clip_vitb32")


def test_a_concept_called_like_an_encoder_is_no_encoder(tmp_path):
    names = ["test_images/00001_clip/clip_01b.jpg", "test_images/00002_paper_clip/paper_clip_02s.jpg"]
    tree = foreign.write_tree(tmp_path / "tree", names, {"clip_01b_x": vectors(2, 3)})
    _, table = one([tree], root=tmp_path)
    assert table.document["encoder"] == "clip_01b_x" and table.images == names


def test_the_pictures_of_meg_get_the_ids_that_recordings_give_them(tmp_path):
    tree = tmp_path / "image_embeddings"
    for place in ("images_meg/aardvark/aardvark_01b", "images_test_meg/yak_14s"):
        (tree / place).parent.mkdir(parents=True, exist_ok=True)
        np.save(tree / f"{place}_half.npy", vectors(1, 3))
    made, table = one([tree], root=tmp_path)
    assert table.images == ["aardvark/aardvark_01b.jpg", "yak/yak_14s.jpg"]
    assert table.document["image_set"] == "things-meg" and not any("published" in text for text in made["claims"])
    (tmp_path / "tars").mkdir()
    with tarfile.open(tmp_path / "tars" / "things_meg-image_embeddings-000000.tar", "w") as tar:
        tar.add(tree, "image_embeddings")
    assert one([tmp_path / "tars"], root=tmp_path / "b")[1].images == table.images
    numbered = foreign.write_tree(
        tmp_path / "eeg", ["training_images/00001_aardvark/aardvark_01b"], {"half": vectors(1, 3)}
    )
    folder = foreign.write_images(tmp_path / "things", {"all": ["aardvark/aardvark_01b.jpg", "yak/yak_14s.jpg"]})
    made, table = one([numbered], root=tmp_path, images=folder)
    assert table.images == ["aardvark/aardvark_01b.jpg"]
    assert any("1 of the 2 images in" in text for text in made["claims"])


def test_what_is_there_is_kept_and_what_differs_is_not_replaced_unasked(tmp_path, images):
    tree = foreign.write_tree(tmp_path / "tree", ALL, {"half": vectors(17, 3)})
    options = {"root": tmp_path, "images": images}
    made, _ = one([tree], **options)
    before = Path(made["table"]).read_bytes()
    assert one([tree], **options)[0]["kept"] and Path(made["table"]).read_bytes() == before
    assert not one([tree], **options, overwrite=True)[0]["kept"] and Path(made["table"]).read_bytes() == before
    changed = next(tree.rglob("*.npy"))
    np.save(changed, np.load(changed) + 1)
    text = refused("differs in: the files of its pictures", [tree], **options)
    assert "--overwrite" in text and Path(made["table"]).read_bytes() == before
    _, table = one([tree], **options, overwrite=True)
    assert Path(made["table"]).read_bytes() != before
    assert not list(tmp_path.rglob("*.partial"))


def test_a_table_is_kept_by_another_version_that_has_other_things_to_say(tmp_path, images):
    paths = write_pair(tmp_path, "atm")
    made, table = one(paths, root=tmp_path, images=images, encoder="net")
    document = {**table.document, "claims": ["none"], "versions": {"alignvis": "0.0.1"}}
    store.write_table(table.path, {"embeddings": np.array(table.embeddings)}, document)
    assert one(paths, root=tmp_path, images=images, encoder="net")[0]["kept"]


def test_a_table_in_the_way_of_one_encoder_leaves_the_others_unwritten(tmp_path, images):
    one([foreign.write_tree(tmp_path / "one", ALL, {"b": vectors(17, 3)})], root=tmp_path, images=images)
    both = foreign.write_tree(tmp_path / "both", ALL, {"a": vectors(17, 3), "b": vectors(17, 3, seed=1)})
    refused("b.safetensors is a table of another making", [both], root=tmp_path, images=images)
    assert [path.name for path in (tmp_path / "features").rglob("*.*")] == ["b.safetensors"]


def test_pieces_do_not_change_the_table(tmp_path, images, monkeypatch):
    from alignvis.exchange import joined

    tree = foreign.write_tree(tmp_path / "tree", ALL, {"half": vectors(17, 3)})
    whole = Path(one([tree], root=tmp_path / "a", images=images)[0]["table"]).read_bytes()
    monkeypatch.setattr(joined, "CHUNK", 5 * 3 * 4)
    assert Path(one([tree], root=tmp_path / "b", images=images)[0]["table"]).read_bytes() == whole


def test_an_interruption_leaves_nothing_half_done(tmp_path, images):
    tree = foreign.write_tree(tmp_path / "tree", ALL, {"half": vectors(17, 3)})

    def stop(done, total, text, note=""):
        if text.startswith("writing"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_features([tree], root=tmp_path, images=images, progress=stop)
    assert not list((tmp_path / "features").rglob("*.*"))
    assert not one([tree], root=tmp_path, images=images)[0]["kept"]


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n", "is a Git LFS pointer"),
        (b"\xef\xbb\xbf  <!DOCTYPE html><html>", "is a web page"),
        (b"\x93NUMPY", "is no .npy file of floating-point numbers"),
        (foreign.npy(vectors(2, 3)), r"shape \(2, 3\); expected one vector"),
        (foreign.npy(np.float32(3)), r"shape \(\); expected one vector"),
        (foreign.npy(np.zeros(0, "f4")), r"shape \(0,\); expected one vector"),
        (foreign.npy(np.zeros(3, "i8")), "is no .npy file of floating-point numbers"),
        (foreign.npy(np.zeros(3, "f4"))[:-1], "11 bytes for 3 numbers"),
        (foreign.npy(np.zeros(3, "f4")) + b"0", "13 bytes for 3 numbers"),
        (foreign.npy(np.zeros(3, "f4")).replace(b"(3,)", b"(9223372036854775807,)"), "is no .npy|numbers of float32"),
        (foreign.npy(np.zeros(4, "f4")), "holds 4 numbers of float32, and others of half hold 3"),
        (foreign.npy(np.zeros(3, "f8")), "holds 3 numbers of float64, and others of half hold 3 of float32"),
        (foreign.npy(np.array([1, np.nan, 2], "f4")), "by half is not finite"),
        (foreign.npy(np.array([1, np.inf, 2], "f4")), "by half is not finite"),
        (b"\x93NUMPY\1\0" + b"0" * 2**22, "too many for the vector of one picture"),
    ],
)
def test_a_broken_file_of_a_tree_is_named(tmp_path, images, content, match):
    tree = foreign.write_tree(tmp_path / "tree", ALL, {"half": vectors(17, 3)})
    broken = tree / f"{ALL[3].removesuffix('.jpg')}_half.npy"
    broken.write_bytes(content)
    text = refused(match, [tree], root=tmp_path, images=images)
    assert ALL[3].removesuffix(".jpg") in text
    assert not list((tmp_path / "features").rglob("*.*"))


def test_numbers_too_large_for_float32_are_refused(tmp_path, images):
    tree = foreign.write_tree(tmp_path / "tree", ALL, {"half": np.full((17, 3), 1e39)})
    refused("is not finite in float32", [tree], root=tmp_path, images=images)


@pytest.mark.parametrize(("scale", "expected"), [(1.0009, True), (0.9991, True), (1.0011, False), (0.9989, False)])
def test_normalised_is_said_when_every_row_is(tmp_path, images, scale, expected):
    values = vectors(17, 300, unit=True)
    values[5] *= scale
    _, table = one([foreign.write_tree(tmp_path / "tree", ALL, {"half": values})], root=tmp_path, images=images)
    assert (
        table.document["normalised"] is expected and (table.embeddings == values[[ALL.index(i) for i in SORTED]]).all()
    )


def test_images_of_another_set_are_refused(tmp_path, images):
    tree = foreign.write_tree(tmp_path / "tree", foreign.ids(training=6)["train"], {"half": vectors(18, 3)})
    refused("embeddings of 6 images that are not in .*--images", [tree], root=tmp_path, images=images)


def test_pictures_that_are_missing_or_differ_in_the_suffix_are_refused(tmp_path):
    tree = foreign.write_tree(tmp_path / "tree", ALL, {"half": vectors(17, 3)})
    folder = foreign.write_images(tmp_path / "images", IDS, metadata=True)
    (folder / ALL[0]).unlink()
    refused("lacks 1 of the 17 pictures", [tree], root=tmp_path, images=folder)
    (folder / "image_metadata.npy").unlink()
    (folder / ALL[1].replace(".jpg", ".png")).write_bytes(b"")
    refused("differ in the suffix alone", [tree], root=tmp_path, images=folder)


def test_names_alone_will_do_and_that_is_said(tmp_path):
    tree = foreign.write_tree(tmp_path / "tree", ALL, {"half": vectors(17, 3)})
    folder = foreign.write_images(tmp_path / "images", foreign.ids(suffix=".png"), pictures=False, metadata=True)
    made, table = one([tree], root=tmp_path, images=folder)
    assert table.images == [image.replace(".jpg", ".png") for image in SORTED]
    assert sum("there are no pictures in" in text for text in made["claims"]) == 2


def test_other_archives_beside_the_shards_are_left_alone(tmp_path):
    tars = foreign.write_shards(tmp_path / "tars", ALL, {"half": vectors(17, 3)})
    with tarfile.open(tars[0].with_name("things_eeg_2-Preprocessed-000000.tar"), "w") as tar:
        tar.add(__file__, "sub-01/readme.txt")
    made, table = one([tars[0].parent], root=tmp_path)
    assert made["images"] == 17 and len(table.document["imported"]["files"]) == len(tars) > 1


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_every_version_of_the_npy_format_is_read(tmp_path, version):
    path = foreign.write_tree(tmp_path / "tree", ALL[:1], {"half": vectors(1, 3)})
    with open(next(path.rglob("*.npy")), "wb") as file:
        np.lib.format.write_array(file, vectors(1, 3)[0], version)
    assert (one([path], root=tmp_path)[1].embeddings == vectors(1, 3)).all()


def test_names_that_are_not_utf_8_are_refused(tmp_path):
    tree = foreign.write_tree(
        tmp_path / "tree", ["training_images/00001_c\udce4t/cat_01b.jpg"], {"half": vectors(1, 3)}
    )
    refused("not UTF-8", [tree], root=tmp_path)


def test_a_file_given_twice_is_refused(tmp_path):
    tars = foreign.write_shards(tmp_path / "tars", ALL, {"half": vectors(17, 3)})
    refused("which was there already", [tars[0], tars[0]], root=tmp_path)


def test_a_tree_that_changes_while_it_is_read_is_refused(tmp_path, monkeypatch):
    tree = foreign.write_tree(tmp_path / "tree", ALL, {"half": vectors(17, 3)})
    contents = trees._contents
    monkeypatch.setattr(trees, "_contents", lambda source: list(contents(source))[1:])
    refused("lost 1 files while it was read", [tree], root=tmp_path)


# --- one file of many rows -------------------------------------------------------------------------------------------

TRAIN, TEST = vectors(12, 8, seed=4), vectors(5, 8, seed=5)


def write_pair(folder, layout):
    if layout == "atm":
        return [
            foreign.write_atm(folder / "train.pt", TRAIN, 4),
            foreign.write_atm(folder / "test.pt", TEST, 5),
        ]
    if layout == "zeiss":
        return [
            foreign.write_zeiss(folder / "train.safetensors", TRAIN, 4),
            foreign.write_zeiss(folder / "test.safetensors", TEST, 5),
        ]
    names = ("image_train.npy", "image_test.npy") if layout == "neurobridge" else ("maps_training.npy", "maps_test.npy")
    np.save(folder / names[0], TRAIN.reshape(4, 3, 8) if layout == "neurobridge" else TRAIN[:, None])
    np.save(folder / names[1], TEST[:, None])
    return [folder / name for name in names]


@pytest.mark.parametrize("layout", ["atm", "zeiss", "neurobridge", "nice"])
def test_rows_without_names_are_those_of_the_documented_order(tmp_path, images, layout):
    paths = write_pair(tmp_path, layout)
    assert recognise(paths[0]) == layout
    made, table = one(paths, root=tmp_path, images=images, encoder="net")
    expected = dict(zip(IDS["train"], TRAIN, strict=True)) | dict(zip(IDS["test"], TEST, strict=True))
    if layout == "zeiss":
        expected = {image: row.astype("f2") for image, row in expected.items()}
    found = rows_of(made["table"])
    assert list(found) == SORTED and all((found[image] == expected[image]).all() for image in SORTED)
    assert [entry["file"] for entry in table.document["imported"]["files"]] == [path.name for path in paths]
    assert any("in the order of the image set" in text for text in made["claims"])
    assert any("text_features of" in text for text in made["claims"]) == (layout in ("atm", "zeiss"))
    assert one(paths, root=tmp_path, images=images, encoder="net")[0]["kept"]


def test_test_images_of_neurobridge_have_the_shape_of_those_of_nice(tmp_path, images):
    train, test = write_pair(tmp_path, "neurobridge")
    test = test.rename(tmp_path / "evaluation.npy")
    assert recognise(test) == "nice"
    made, _ = one([train, test], root=tmp_path, images=images, encoder="net")
    assert made["layout"] == "neurobridge" and made["images"] == 17


def test_the_order_of_the_metadata_comes_before_that_of_the_folders(tmp_path):
    turned = {part: mine[::-1] for part, mine in IDS.items()}
    folder = foreign.write_images(tmp_path / "images", turned, metadata=True)
    made, _ = one(write_pair(tmp_path, "atm"), root=tmp_path, images=folder, encoder="net")
    found = rows_of(made["table"])
    assert (found[IDS["train"][-1]] == TRAIN[0]).all() and (found[IDS["test"][0]] == TEST[-1]).all()


@pytest.mark.parametrize("layout", ["atm", "zeiss", "neurobridge", "nice"])
def test_without_an_image_set_they_are_refused(tmp_path, layout):
    paths = write_pair(tmp_path, layout)
    refused("does not name its images; name with --images the folder", paths, root=tmp_path, encoder="net")
    flat = foreign.write_images(tmp_path / "flat", {"all": ["cat/cat_01b.jpg"]})
    text = refused("does not name its images", paths, root=tmp_path, images=flat, encoder="net")
    assert str(flat) in text


def test_rows_that_fit_no_part_are_refused(tmp_path, images):
    np.save(tmp_path / "maps.npy", vectors(13, 8)[:, None])
    refused(
        r"has 13 rows, of shape \(13, 1, 8\), and .* has 12 train images of 4 concepts and 5 test images of 5",
        [tmp_path / "maps.npy"], root=tmp_path, images=images, encoder="net",
    )  # fmt: skip
    atm = foreign.write_atm(tmp_path / "train.pt", vectors(4, 8), 4)  # centres belong to NICE
    refused("has 4 rows", [atm], root=tmp_path, images=images, encoder="net")


def test_where_both_parts_have_as_many_images_the_name_decides(tmp_path):
    folder = foreign.write_images(tmp_path / "images", foreign.ids(training=5, each=1))
    paths = [foreign.write_atm(tmp_path / f"{part}.pt", vectors(5, 8, seed), 5) for seed, part in enumerate(IDS)]
    made, _ = one(paths, root=tmp_path, images=folder, encoder="net")
    found = rows_of(made["table"])
    assert (found[IDS["test"][4]] == vectors(5, 8, 1)[4]).all() and len(found) == 10
    unclear = paths[0].rename(tmp_path / "one.pt")
    refused("has 5 rows", [unclear], root=tmp_path / "b", images=folder, encoder="net")


def test_files_that_do_not_say_their_encoder_need_it_named(tmp_path, images):
    paths = write_pair(tmp_path, "atm")
    refused("does not say which encoder made it", paths, root=tmp_path, images=images)
    refused("have 8 numbers|embeddings of 8 numbers, and those of CLIP_RN50_noalign have 1024", paths, root=tmp_path,
            images=images, encoder="CLIP_RN50_noalign")  # fmt: skip
    refused("cannot name a file", paths, root=tmp_path, images=images, encoder="../net")
    for name in ("a/b", "..", ".", ""):
        refused("cannot name a folder", paths, root=tmp_path, images=images, encoder="net", image_set=name)
    refused("nowhere", paths, root=tmp_path, images=tmp_path / "nowhere", encoder="net")


def test_two_files_for_the_same_images_are_refused_unless_they_are_the_same(tmp_path, images):
    paths = write_pair(tmp_path, "atm")
    again = foreign.write_atm(tmp_path / "again.pt", TEST * np.arange(1, 6, dtype="f4")[:, None], 5)
    made, _ = one([*paths, again], root=tmp_path, images=images, encoder="net")
    assert any("again.pt holds the same embeddings as test.pt" in text for text in made["claims"])
    other = foreign.write_atm(tmp_path / "other.pt", TEST[::-1].copy(), 5)
    refused("both have 5 rows for the same images, and differ", [*paths, other], root=tmp_path / "b", images=images,
            encoder="net")  # fmt: skip
    wider = foreign.write_atm(tmp_path / "wider.pt", vectors(5, 9), 5)
    refused("have different sizes", [paths[0], wider], root=tmp_path / "b", images=images, encoder="net")


def test_files_of_two_layouts_are_not_joined(tmp_path, images):
    paths = [write_pair(tmp_path, "atm")[0], write_pair(tmp_path, "zeiss")[1]]
    refused("in several layouts", paths, root=tmp_path, images=images, encoder="net")
    refused("no files were named", [], root=tmp_path)


# --- UBP -------------------------------------------------------------------------------------------------------------


def test_vectors_by_path_are_joined_by_path(tmp_path, images):
    order = np.random.default_rng(0).permutation(17)
    shuffled = [ALL[row] for row in order]
    path = foreign.write_ubp(tmp_path / "net.pt", {None: vectors(17, 8)}, shuffled)
    assert recognise(path) == "ubp"
    made, table = one([path], root=tmp_path, images=images, encoder="net")
    assert table.images == SORTED
    assert (table.embeddings == vectors(17, 8)[[shuffled.index(image) for image in SORTED]]).all()
    made, table = one([path], root=tmp_path / "alone", encoder="net")
    assert table.images == SORTED and any("no pictures were there" in text for text in made["claims"])


def test_every_level_of_blur_is_a_table_of_its_own_joined_over_files(tmp_path, images):
    levels = {"low": vectors(17, 8), "high": vectors(17, 8, seed=1)}
    train = foreign.write_ubp(tmp_path / "train.pt", {k: v[:12] for k, v in levels.items()}, IDS["train"])
    test = foreign.write_ubp(tmp_path / "test.pt", {k: v[12:] for k, v in levels.items()}, IDS["test"])
    made = import_features([train, test], root=tmp_path, images=images, encoder="net")
    assert [row["encoder"] for row in made] == ["net-low", "net-high"]
    for row in made:
        found, level = rows_of(row["table"]), row["encoder"].split("-")[1]
        assert all((found[image] == levels[level][place]).all() for place, image in enumerate(ALL))
        assert store.read_document(row["table"])["level"] == level


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ({"train_images/a/b.jpg": torch.zeros(3), "c": torch.zeros(3)}, "names 'c' among its pictures"),
        ({"train_images/a/b.jpg": torch.zeros(3), "test_images/../../b.jpg": torch.zeros(3)}, "no path of a picture"),
        ({"train_images/a/b.jpg": torch.zeros(3), "train_images/a/c.jpg": torch.zeros(4)}, "not one vector of 3"),
        ({"train_images/a/b.jpg": torch.zeros(2, 2)}, "not one vector of 4"),
        ({"train_images/a/b.jpg": torch.zeros(3), "train_images/a/c.jpg": torch.zeros(3, 2)}, "not one vector of 3"),
        ({"train_images/a/b.jpg": torch.zeros(3), "train_images/a/c.jpg": "x"}, "not one vector of 3"),
        (
            {"train_images/a/b.jpg": torch.zeros(3), "./train_images/a/b.jpg": torch.zeros(3)},
            "names one picture twice",
        ),
        ({"train_images/a/b.jpg": torch.tensor([1.0, float("nan")])}, "is not finite"),
        ({"a/b": {"train_images/a/b.jpg": torch.zeros(3)}}, "has a level 'a/b'"),
        ({"low": {"train_images/a/b.jpg": torch.zeros(3)}, "high": 3}, "in none of the layouts"),
        ({"img_features": [1, 2]}, "img_features is list"),
        ({"img_features": torch.zeros(3, dtype=torch.int64)}, "embeddings are floating-point numbers"),
        ({"img_features": torch.zeros(2, 2, 2, 2)}, "embeddings are floating-point numbers"),
        ([torch.zeros(3)], "in none of the layouts"),
    ],
)
def test_torch_files_of_other_content_are_refused(tmp_path, content, match):
    torch.save(content, tmp_path / "net.pt")
    refused(match, [tmp_path / "net.pt"], root=tmp_path, encoder="net")


# --- class centres ---------------------------------------------------------------------------------------------------


def nice(folder, **files) -> list:
    for name, values in files.items():
        np.save(folder / f"{name}.npy", values)
    return [folder / f"{name}.npy" for name in files]


def test_centres_are_told_from_the_images_by_what_is_in_them(tmp_path, images):
    """One project ships the images' own embeddings under the name of the centres; the rows say so."""
    centres = vectors(5, 8, seed=6)
    paths = nice(tmp_path, maps_test=TEST[:, None], center_clip=centres)
    first, second = import_features(paths, root=tmp_path, images=images, encoder="net")
    assert (rows_of(first["table"])[IDS["test"][2]] == TEST[2]).all()
    gallery = store.load_features(second["table"])
    assert second["encoder"] == "net-centres" and gallery.document["gallery"] == "class centres"
    assert gallery.images == [f"test_images/{c:05d}_thing{c}" for c in range(1, 6)]
    assert (gallery.embeddings == centres).all() and not any("cannot be told" in text for text in second["claims"])
    assert not set(gallery.images) & set(ALL)

    unnamed = nice(tmp_path, center=centres, zzz=TEST)  # the first in the alphabet is not the first looked at
    made = import_features(unnamed, root=tmp_path / "c", images=images, encoder="net")
    assert [row["encoder"] for row in made] == ["net", "net-centres"]
    assert (store.load_features(made[1]["table"]).embeddings == centres).all()

    longer = nice(tmp_path, center_clip=3 * TEST)
    made, table = one([paths[0], *longer], root=tmp_path / "b", images=images, encoder="net")
    assert any("center_clip.npy holds the embeddings of the very 5 test images" in text for text in made["claims"])
    assert table.images == sorted(IDS["test"])


def test_a_table_that_is_there_tells_centres_too(tmp_path, images):
    options = {"root": tmp_path, "images": images, "encoder": "net"}
    one(write_pair(tmp_path, "nice"), **options)
    same, other = nice(tmp_path, unclear=TEST, centres_of=vectors(5, 8, seed=6))
    refused("nothing is left to import: unclear.npy holds the embeddings of the very 5", [same], **options)
    assert one([other], **options)[0]["encoder"] == "net-centres"
    one([tmp_path / "maps_test.npy"], **(options | {"root": tmp_path / "b"}))
    assert one([other], **(options | {"root": tmp_path / "b"}))[0]["encoder"] == "net-centres"
    wider = nice(tmp_path, wider=vectors(5, 9))
    refused("is a table of another making", wider, **options)


def test_alone_they_cannot_be_told_and_that_is_said(tmp_path, images):
    unclear, named = nice(tmp_path, unclear=TEST, center_clip=TEST)
    made, table = one([unclear], root=tmp_path / "a", images=images, encoder="net")
    assert table.images == sorted(IDS["test"]) and any(
        "cannot be told from it alone" in text for text in made["claims"]
    )
    made, table = one([named], root=tmp_path / "b", images=images, encoder="net")
    assert made["encoder"] == "net-centres" and any("because of its name" in text for text in made["claims"])
    both = nice(tmp_path, one=TEST, two=vectors(5, 8, seed=7))
    refused("nothing tells which of them are class centres", both, root=tmp_path / "c", images=images, encoder="net")


def test_centres_of_training_concepts_are_known_by_their_number(tmp_path, images):
    made, table = one(nice(tmp_path, maps=vectors(4, 8)), root=tmp_path, images=images, encoder="net")
    assert table.images == [f"training_images/{c:05d}_thing{c}" for c in range(1, 5)]
    assert made["encoder"] == "net-centres" and table.document["twin"] is None
    aligned = nice(tmp_path, maps=vectors(4, 512))
    _, table = one(aligned, root=tmp_path, images=images, encoder="dreamsim_clip_vitb32")
    assert table.document["aligned"] is True and table.document["twin"] is None


def test_training_images_in_two_axes_are_no_riddle(tmp_path, images):
    made, table = one(nice(tmp_path, center=TRAIN), root=tmp_path, images=images, encoder="net")
    assert table.images == sorted(IDS["train"]) and not any("told" in text for text in made["claims"])


def test_no_recording_can_be_matched_with_class_centres(tmp_path, images):
    one(nice(tmp_path, center=TEST), root=tmp_path, images=images, encoder="net")
    responses = write_responses(
        tmp_path / "responses/tiny/sub-01.safetensors", np.zeros((12, 1, 3, 4)), np.zeros((5, 1, 3, 4)),
        (IDS["train"], IDS["test"]),
    )  # fmt: skip
    with pytest.raises(AlignvisError, match="none of the 17 images"):
        finding.find_features(tmp_path, store.load_responses(responses))


# --- the rest of the package ------------------------------------------------------------------------------------------


def test_an_imported_table_is_found_checked_and_not_taken_for_an_extracted_one(tmp_path, images):
    (images / "simulated.json").write_text('{"simulated": true}')  # as the responses are
    made, table = one(write_pair(tmp_path, "atm"), root=tmp_path, images=images, encoder="net")
    responses = write_responses(
        tmp_path / "responses/tiny/sub-01.safetensors", np.zeros((12, 1, 3, 4)), np.zeros((5, 1, 3, 4)),
        (IDS["train"], IDS["test"]),
    )  # fmt: skip
    assert [str(path) for path in finding.find_features(tmp_path, store.load_responses(responses))] == [made["table"]]
    (row, text) = list(check.check_all(tmp_path, [table.path]))[0]
    assert row["whole"] and row["images"] == 17 and row["precision"] is None
    document = {**table.document, "precision": "fp32", "weights": []}
    wanted = making.Making(table.path, document, {"embeddings": 8})
    with pytest.raises(AlignvisError, match="of another making"):
        making.is_there(wanted, skip_bad=False)


def test_simulated_pictures_make_a_simulated_table(tmp_path):
    folder = foreign.write_images(tmp_path / "images", IDS)
    (folder / "simulated.json").write_text(json.dumps({"simulated": True}))
    assert (
        one(write_pair(tmp_path, "atm"), root=tmp_path, images=folder, encoder="net")[1].document["simulated"] is True
    )


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        (b"<html>", "is a web page"),
        (b"PK\3\4 and nothing more", "."),
        (foreign.npy(vectors(5, 8))[:-1], "."),
        (foreign.npy(np.zeros((5, 8), "i4")), "in none of the layouts"),
        (foreign.npy(np.zeros((5, 8, 1, 1), "f4")), "in none of the layouts"),
        (safetensors.numpy.save({"img_features": np.zeros((5, 8), "f4")})[:-1], "no whole safetensors file"),
        (safetensors.numpy.save({"img_features": np.zeros((5, 8), "i4")}), "img_features is I32"),
        (safetensors.numpy.save({"img_features": np.zeros((5, 257, 8), "f4")}), "without the maps of all patches"),
        (safetensors.numpy.save({"embeddings": np.zeros((5, 8), "f4")}), "in none of the layouts"),
        (b"nothing at all", "in none of the layouts"),
    ],
)
def test_files_that_are_something_else_are_refused(tmp_path, images, content, match):
    path = tmp_path / "file"
    path.write_bytes(content)
    assert str(path) in refused(match, [path], root=tmp_path, images=images, encoder="net")


def test_folders_and_missing_files_are_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    assert recognise(tmp_path / "empty") is None
    refused("in none of the layouts", [tmp_path / "empty"], root=tmp_path)
    refused("could not be read", [tmp_path / "nothing"], root=tmp_path)
    with tarfile.open(tmp_path / "other.tar", "w") as tar:
        tar.add(__file__, "readme.npy")
    assert recognise(tmp_path / "other.tar") is None


# --- real data -------------------------------------------------------------------------------------------------------


def test_the_published_features_of_nice_are_matched_with_the_200_test_images(tmp_path, shared_data):
    folder = shared_data / "clip-features"
    stems = (folder / "things_eeg2_test200_image_stems.txt").read_text().split()
    concepts = [f"{row:05d}_{stem.rsplit('_', 1)[0]}" for row, stem in enumerate(stems, 1)]
    test = [f"test_images/{concept}/{stem}.jpg" for concept, stem in zip(concepts, stems, strict=True)]
    train = [f"training_images/{c:05d}_x/x_{n:02d}b.jpg" for c in range(1, 1655) for n in range(1, 11)]
    images = foreign.write_images(tmp_path / "things", {"train": train, "test": test}, pictures=False, metadata=True)
    path = folder / "clip_feature_maps_test.npy"
    assert recognise(path) == "nice"
    made, table = one([path], root=tmp_path, images=images, encoder="CLIP_ViT-L14_noalign")
    assert table.images == test and (made["images"], made["dim"]) == (200, 768)
    assert (table.embeddings == np.load(path)[:, 0]).all()
    assert table.document["normalised"] is True and table.document["aligned"] is False
    assert not any("published set" in text or "no encoder" in text for text in made["claims"])
    assert any("16540 of the 16740 images" in text for text in made["claims"])
