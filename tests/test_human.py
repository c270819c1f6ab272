"""The published human data as read, and every way in which a file of it can be wrong."""

import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import scipy.io

from alignvis import human
from alignvis.alignment import choice_similarity, correlation, dot, odd_one_out
from alignvis.errors import AlignvisError
from alignvis.human import by_concept, concept_of, read_human
from alignvis.store import load_features
from tests.tables import write_features

FILES = list(human.ORIGINS)


@pytest.fixture
def things(tmp_path, shared_data) -> Path:
    folder = tmp_path / "things"
    folder.mkdir()
    for name in FILES:
        shutil.copy(shared_data / "things" / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def people(shared_data) -> human.Human:
    return read_human(shared_data / "things")


def test_the_published_files_are_read_whole(people):
    assert len(people.concepts) == 1854 and people.concepts[:2] == ["aardvark", "abacus"]
    assert people.triplets.shape == (2171, 3) and people.triplets[0].tolist() == [1244, 1049, 493]
    assert people.triplets_from == "2171trials_humans.txt"
    assert people.spose.shape == (1854, 66) and people.spose[0, 0] == pytest.approx(0.008836339)
    assert [people.concepts[row] for row in people.objects[:3]] == ["pizza", "beaver", "macadamia"]
    assert people.dissimilarities.shape == (48, 48) and people.missing == []


def test_rows_are_joined_by_concept_and_not_by_the_alphabet(people, things):
    """Twenty concepts stand elsewhere in Python's order; the number changes little, and so nobody would see it."""

    def hits(order: list[str]) -> int:
        place = {concept: row for row, concept in enumerate(people.concepts)}
        spose = people.spose[[place[concept] for concept in order]]
        return int(odd_one_out(dot(spose), people.triplets, strict=True).sum())

    assert hits(people.concepts) == 1423 and 1423 / 2171 == pytest.approx(0.6555, abs=5e-5)
    assert hits(sorted(people.concepts)) == 1416 and 1416 / 2171 == pytest.approx(0.6522, abs=5e-5)
    (things / "unique_id.txt").write_text("\n".join(sorted(people.concepts)))
    with pytest.raises(AlignvisError, match=r"not the official ones in the official order \(it is sorted\)"):
        read_human(things)


def test_objects_are_told_by_name_as_their_numbers_are_of_another_order(people, shared_data):
    """The published numbers give .9039, with a camera_lens in place of camera1; the name fits people better."""
    lines = (shared_data / "things" / human.OBJECT_NAMES).read_text().splitlines()[1:]
    numbered = np.array([int(line.split(",")[0]) for line in lines])
    (differs,) = np.flatnonzero(numbered != people.objects)
    assert people.concepts[numbered[differs]] == "camera_lens" and people.concepts[people.objects[differs]] == "camera1"
    similar = 1 - people.dissimilarities
    found = [
        correlation(choice_similarity(dot(people.spose[rows])), similar, ranked=False)["value"]
        for rows in (numbered, people.objects)
    ]
    assert found == pytest.approx([0.9039, 0.9060], abs=5e-5)


@pytest.mark.parametrize(
    ("image", "concept"),
    [
        ("training_images/00001_aardvark/aardvark_01b.jpg", "aardvark"),
        ("test_images/00107_hot-air_balloon/hot-air_balloon_13s.jpg", "hot-air_balloon"),
        ("camera1_01b.jpg", "camera1"),
        ("camera1.jpg", "camera1"),
        ("camera_lens.png", "camera_lens"),
        ("x/bandanna_01b.jpg", "bandana"),
        ("bandana.jpg", "bandana"),
        ("ice_cream_12n.jpg", "ice_cream"),
        ("thing7_03.jpg", "thing7"),
    ],
)
def test_the_concept_of_an_image(image, concept):
    assert concept_of(image) == concept


def test_every_picture_of_things_eeg2s_test_is_of_another_concept(people, shared_data):
    stems = (shared_data / "clip-features" / "things_eeg2_test200_image_stems.txt").read_text().split()
    assert len({concept_of(f"{stem}.jpg") for stem in stems} & set(people.concepts)) == 200


def test_the_images_of_a_concept_are_averaged(tmp_path, people):
    images = ["b/zucchini_02s.jpg", "b/aardvark_01b.jpg", "b/nothing_01b.jpg", "a/zucchini_01b.jpg", "bandanna_01b.jpg"]
    embeddings = np.array([[1.0, 2.0], [3.0, 4.0], [9.0, 9.0], [5.0, 8.0], [7.0, 0.0]])
    table = load_features(write_features(tmp_path / "a.safetensors", embeddings, images))
    found = by_concept(table, people.concepts)
    assert [people.concepts[row] for row in found.rows] == ["aardvark", "bandana", "zucchini"]
    assert found.embeddings.tolist() == [[3, 4], [7, 0], [3, 5]] and found.images.tolist() == [1, 1, 2]


def test_other_pictures_are_refused_with_what_was_found(tmp_path, people):
    path = write_features(tmp_path / "a.safetensors", np.ones((1, 2)), ["test_images/00001_bobiga/bobiga_01b.jpg"])
    with pytest.raises(AlignvisError, match="none of the 1 images in .* is of a THINGS concept .*bobiga_01b.*'bobiga'"):
        by_concept(load_features(path), people.concepts)


def test_only_the_concepts_are_needed_and_what_is_missing_is_said(things):
    for name in FILES[1:]:
        (things / name).unlink()
    found = read_human(things)
    assert [found.triplets, found.triplets_from, found.objects, found.dissimilarities, found.spose] == [None] * 5
    assert len(found.missing) == 4
    for name, sentence in zip(FILES[1:], found.missing, strict=True):
        assert name in sentence and "github.com" in sentence
    (things / FILES[0]).unlink()
    with pytest.raises(AlignvisError, match="there is no .*unique_id.txt; get the order of the concepts from osf.io"):
        read_human(things)


def test_half_of_the_objects_is_none_of_them(things):
    (things / human.OBJECT_NAMES).unlink()
    found = read_human(things)
    assert found.objects is None and found.dissimilarities is None and len(found.missing) == 1


def test_an_official_file_of_triplets_may_be_named(things, tmp_path):
    (tmp_path / "testset1.txt").write_text("0 1 2\n1853 0 5\n")
    (things / human.TRIPLETS).unlink()
    found = read_human(things, tmp_path / "testset1.txt")
    assert found.triplets.tolist() == [[0, 1, 2], [1853, 0, 5]] and found.triplets_from == "testset1.txt"
    assert found.missing == []
    with pytest.raises(AlignvisError, match="there is no file .*nowhere.txt"):
        read_human(things, tmp_path / "nowhere.txt")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "is no table of 3 numbers"),
        ("1 2\n3 4\n", "has 2 columns and 3 were expected"),
        ("1 2 3\n4 5\n", "is no table of 3 numbers"),
        ("1 2 3.5\n", "is no table of 3 numbers"),
        ("1 2 nan\n", "is no table of 3 numbers"),
        ("1 2 aardvark\n", "is no table of 3 numbers"),
        ("1 2 99999999999999999999\n", "is no table of 3 numbers"),
        ("0 2 3\n4 5 1854\n", r"triplet 2 is \[4, 5, 1854\], and concepts are counted from 0 to 1853; download"),
        ("-1 2 3\n", r"triplet 1 is \[-1, 2, 3\]"),
        ("1 2 1854\n", "it seems to count from 1: subtract 1"),
        ("1 2 3\n5 4 5\n", r"triplet 2 is \[5, 4, 5\], which names a concept twice"),
        ("5 5 4\n", "names a concept twice"),
        ("4 5 5\n", "names a concept twice"),
    ],
)
def test_triplets_that_cannot_be_are_refused(things, text, sentence):
    (things / human.TRIPLETS).write_text(text)
    with pytest.raises(AlignvisError, match=sentence):
        read_human(things)


def test_bytes_that_are_no_text_are_refused(things):
    for name in (human.TRIPLETS, human.SPOSE, human.OBJECT_NAMES, human.NAMES):
        whole = (things / name).read_bytes()
        (things / name).write_bytes(b"\xff\xfe\x00" * 50)
        with pytest.raises(AlignvisError, match=name):
            read_human(things)
        (things / name).write_bytes(whole)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda names: names[:-1], r"names 1853 concepts in 1853 lines; the official list has 1,854"),
        (lambda names: names[:-1] + names[:1], "names 1853 concepts in 1854 lines"),
        (lambda names: [*names[:-1], "zebu"], "not the official ones in the official order;"),
        (lambda names: names[1::-1] + names[2:], "not the official ones in the official order;"),
    ],
)
def test_concepts_that_are_not_the_official_ones_are_refused(things, people, change, sentence):
    (things / human.NAMES).write_text("\n".join(change(people.concepts)))
    with pytest.raises(AlignvisError, match=sentence):
        read_human(things)


def test_line_ends_of_other_systems_do_not_matter(things, people):
    (things / human.NAMES).write_bytes("\r\n".join(people.concepts).encode())
    assert read_human(things).concepts == people.concepts


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda x: x[:-1], "has 1853 rows and 1,854 were expected"),
        (lambda x: x[:, :-1], "has 65 columns and 66 were expected"),
        (lambda x: np.where(np.arange(len(x))[:, None] == 6, np.nan, x), "row 7 is not finite"),
        (lambda x: np.where(np.arange(len(x))[:, None] == 6, np.inf, x), "row 7 is not finite"),
    ],
)
def test_an_embedding_that_cannot_be_is_refused(things, people, change, sentence):
    np.savetxt(things / human.SPOSE, change(people.spose), fmt="%.3f")
    with pytest.raises(AlignvisError, match=sentence):
        read_human(things)


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("image_name", "name", "0 of them with an image_name"),
        ("pizza_01b", "pizzza_01b", "names 'pizzza_01b.jpg', which no concept is called"),
        ("pizza_01b", "beaver_02s", "names 47 different concepts, not 48"),
        ("\n1192,pizza_01b.jpg", "\n1192", "which no concept is called"),
    ],
)
def test_names_of_objects_that_cannot_be_are_refused(things, old, new, sentence):
    path = things / human.OBJECT_NAMES
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(AlignvisError, match=sentence):
        read_human(things)


def test_too_few_objects_are_refused(things):
    path = things / human.OBJECT_NAMES
    path.write_text("\n".join(path.read_text().splitlines()[:-1]))
    with pytest.raises(AlignvisError, match="has 47 rows, 47 of them with an image_name; 48 were expected"):
        read_human(things)


def changed(matrix: np.ndarray, places: dict[tuple[int, int], float]) -> np.ndarray:
    matrix = matrix.copy()
    for place, value in places.items():
        matrix[place] = value
    return matrix


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda m: {"RDM48_triplet": changed(m, {(0, 1): 0.123})}, "is not symmetric"),
        (lambda m: {"RDM48_triplet": changed(m, {(3, 3): 0.5})}, "zeros on its diagonal"),
        (lambda m: {"RDM48_triplet": changed(m, {(0, 1): np.nan, (1, 0): np.nan})}, "numbers that are not finite"),
        (lambda m: {"RDM48_triplet": changed(m, {(0, 1): 1.5, (1, 0): 1.5})}, "values from 0 to 1.5"),
        (lambda m: {"RDM48_triplet": changed(m, {(0, 1): -0.5, (1, 0): -0.5})}, "values from -0.5"),
        (lambda m: {"RDM48_triplet": m[:47, :47]}, r"holds 'RDM48_triplet' \(47, 47\); a matrix"),
        (lambda m: {"RDM48_triplet": m.astype("i4")}, "holds 'RDM48_triplet'; a matrix of numbers"),
        (lambda m: {"RDM48_triplet": m + 1j}, "holds 'RDM48_triplet'; a matrix of numbers"),
        (lambda m: {"other": m}, r"holds 'other' \(48, 48\); a matrix of numbers 'RDM48_triplet' \(48, 48\) was"),
        (lambda m: {"RDM48_triplet": np.full((48, 48), 0.5, object)}, "holds 'RDM48_triplet'; a matrix"),
        (lambda m: {"RDM48_triplet": {"a": m}}, "holds 'RDM48_triplet'; a matrix"),
        (lambda m: {"RDM48_triplet": "x" * 48}, "holds 'RDM48_triplet'; a matrix"),
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_matrix_that_cannot_be_is_refused(things, people, make, sentence):
    scipy.io.savemat(things / human.RDM, make(people.dissimilarities))
    with pytest.raises(AlignvisError, match=sentence):
        read_human(things)


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("values", [np.float64, np.rint])
def test_the_matrix_is_the_one_that_scipy_reads(things, people, values, compressed):
    """Whole numbers are stored in fewer bytes; another variable may come first."""
    path = things / human.RDM
    matrix = values(people.dissimilarities)
    scipy.io.savemat(path, {"a": np.arange(3.0), "RDM48_triplet": matrix}, do_compression=compressed)
    found = human._read_dissimilarities(path)
    assert np.array_equal(found, matrix) and np.array_equal(found, scipy.io.loadmat(path)["RDM48_triplet"])


@pytest.mark.parametrize("compressed", [True, False])
def test_a_damaged_matrix_is_a_sentence_or_still_one(things, people, compressed):
    """Cut at any length, and any byte changed; scipy's reader ends the process on some of these."""
    path = things / human.RDM
    scipy.io.savemat(path, {"RDM48_triplet": people.dissimilarities}, do_compression=compressed)
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    spoiled = [whole[:length] for length in rng.integers(0, len(whole), 60)]
    for place in [*range(124, 200), *rng.integers(0, len(whole), 300)]:
        content = bytearray(whole)
        content[place] ^= int(rng.integers(1, 256))
        spoiled.append(bytes(content))
    refused = 0
    for content in spoiled:
        path.write_bytes(content)
        try:
            assert human._read_dissimilarities(path).shape == (48, 48)
        except AlignvisError as error:
            assert str(path) in str(error)
            refused += 1
    assert refused > (400 if compressed else 100)


def test_a_matrix_that_grows_when_unpacked_is_refused(things):
    packed = zlib.compress(bytes(10_000_000))
    tag = struct.pack("<II", 15, len(packed))
    (things / human.RDM).write_bytes(bytes(124) + b"\x00\x01IM" + tag + packed)
    with pytest.raises(AlignvisError, match="larger than it should be"):
        read_human(things)


def test_a_large_matrix_file_is_not_opened(things):
    (things / human.RDM).write_bytes(b"\0" * 1_000_001)
    with pytest.raises(AlignvisError, match="has 1,000,001 bytes, and the published file 8,294"):
        read_human(things)
