import errno
import hashlib
import json
import os
import resource
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from alignvis import files, store
from alignvis.errors import AlignvisError
from alignvis.files import partial_name, read_json, whole_file
from tests.tables import CHANNELS, features_document, image_ids, responses_document, write_features, write_responses

IMAGES = image_ids(3, 2)
TESTS = image_ids(2, 1, "test_images")


@pytest.fixture
def features(tmp_path: Path) -> Path:
    return write_features(tmp_path / "features.safetensors", np.arange(24.0).reshape(6, 4), IMAGES)


@pytest.fixture
def responses(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    return write_responses(
        tmp_path / "sub-01.safetensors",
        rng.standard_normal((6, 2, 3, 5)),
        rng.standard_normal((2, 4, 3, 5)),
        (IMAGES, TESTS),
    )


def rewrite(path: Path, document: dict | None = None, **arrays: np.ndarray) -> None:
    """Write a table again with the independent library, changed in one thing."""
    old = store.read_document(path)
    save_file({**load_file(path), **arrays}, path, {"alignvis": json.dumps(document if document is not None else old)})


def test_a_table_is_what_the_safetensors_library_reads(features):
    assert np.array_equal(load_file(features)["embeddings"], np.arange(24, dtype="f4").reshape(6, 4))
    assert np.array_equal(store.load_features(features).embeddings, load_file(features)["embeddings"])
    assert store.load_features(features).images == IMAGES


def test_a_responses_table_round_trips_and_stays_on_disk(responses):
    table, arrays = store.load_responses(responses), load_file(responses)
    for name in ("train", "test", "train_session", "test_session"):
        value = getattr(table, name)
        assert isinstance(value, np.memmap) and not value.flags.writeable
        assert np.array_equal(value, arrays[name.replace("_", ".")])
    assert (table.train_images, table.test_images) == (IMAGES, TESTS)


def test_the_bytes_of_a_table_are_pinned(tmp_path):
    store.write_table(tmp_path / "t", {"a": np.array([1.0, 2.0], "f4"), "b": np.array([7], "u1")}, {"version": 1})
    header = (
        b'{"__metadata__": {"alignvis": "{\\"version\\": 1}"}, '
        b'"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}, '
        b'"b": {"dtype": "U8", "shape": [1], "data_offsets": [8, 9]}}'
    )
    header += b" " * (-len(header) % 8)
    assert (tmp_path / "t").read_bytes() == struct.pack("<Q", len(header)) + header + struct.pack("<2fB", 1, 2, 7)


def test_a_table_has_no_name_until_it_is_whole_and_goes_on_where_it_stopped(tmp_path):
    path, layout = tmp_path / "sub" / "t.safetensors", {"a": ("<f4", (4, 2))}
    store.begin(path, layout, {"version": 1})["a"][1] = 3
    assert not path.exists()
    again = store.begin(path, layout, {"version": 1})["a"]
    assert again.tolist() == [[0, 0], [3, 3], [0, 0], [0, 0]]
    for otherwise in ({"version": 3}, {"version": 1, "made": "otherwise"}):  # of the same length, and of another
        again[...] = 5
        again = store.begin(path, layout, otherwise)["a"]
        assert not again.any()
    store.commit(path)
    assert sorted(file.name for file in path.parent.iterdir()) == ["t.safetensors"]
    assert store.begin(path, layout, {"version": 1})["a"].sum() == 0
    store.discard(path)
    assert sorted(file.name for file in path.parent.iterdir()) == ["t.safetensors"]


def test_two_processes_do_not_write_one_table(tmp_path):
    """The second is told, the first is not disturbed, and when it has ended, killed or not, the second may go on."""
    code = (
        "import sys, time; from pathlib import Path; from alignvis import store\n"
        "maps = store.begin(Path(sys.argv[1]), {'a': ('<f4', (4,))}, {'version': 1})\n"
        "maps['a'][0] = 7; print('ready', flush=True); time.sleep(60)\n"
    )
    path = tmp_path / "t"
    with subprocess.Popen([sys.executable, "-c", code, path], stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout.readline() == "ready\n"
        with pytest.raises(AlignvisError, match="another process is writing .*t.partial; run this again"):
            store.begin(path, {"a": ("<f4", (8,))}, {"version": 1})
        first.kill()
    assert store.begin(path, {"a": ("<f4", (4,))}, {"version": 1})["a"].tolist() == [7, 0, 0, 0]
    store.discard(path)


def test_an_error_while_writing_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match="broadcast"):
        store.write_table(tmp_path / "t", {"a": Stubborn(np.zeros(3, "f4"))}, {"version": 1})
    with pytest.raises(KeyboardInterrupt), files.whole_file(tmp_path / "f") as partial:
        partial.write_text("half")
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


class Stubborn(np.ndarray):
    """Says that it has more rows than it can give."""

    def __new__(cls, array):
        return array.view(cls)

    @property
    def shape(self):
        return (5,)


def test_others_may_read_what_was_written_as_far_as_the_umask_lets_them(tmp_path):
    """Some writers make their file anew, for the owner alone: on a shared folder nobody else could read a run."""
    path = tmp_path / "a.safetensors"
    (tmp_path / "plain").touch()
    partial_name(path).touch(mode=0o600)  # what an earlier call left
    with whole_file(path) as partial:
        save_file({"a": np.ones(3)}, partial)
        partial.chmod(0o600)
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_numbers_that_no_float_holds_are_refused(tmp_path):
    path = tmp_path / "a.json"
    for number in (2**63, -(2**63) - 1, 10**400):
        path.write_text(json.dumps({"n": number}))
        with pytest.raises(AlignvisError, match="too large a number"):
            read_json(path)
    path.write_text(json.dumps([2**63 - 1, -(2**63)]))
    assert read_json(path) == [2**63 - 1, -(2**63)]


def test_a_whole_file_replaces_the_old_one_only_at_the_end(tmp_path):
    (tmp_path / "f").write_text("old")
    with files.whole_file(tmp_path / "f") as partial:
        partial.write_text("new")
        assert (tmp_path / "f").read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["f"] and (tmp_path / "f").read_text() == "new"


def test_a_disk_without_room_is_told_before_anything_is_written(tmp_path):
    """The limit on file sizes makes the operating system itself refuse, as a full disk does."""
    code = (
        "import sys, signal, numpy as np; from pathlib import Path; from alignvis import store, errors\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "try: store.write_table(Path(sys.argv[1]), {'a': np.ones(100_000, 'f4')}, {'version': 1})\n"
        "except errors.AlignvisError as error: sys.exit(str(error))\n"
    )
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))  # noqa: E731
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "t"], preexec_fn=limit, capture_output=True, text=True, check=False
    )
    assert (
        done.returncode == 1
        and "needs 0.4 MB and could not be written" in done.stderr
        and "Traceback" not in done.stderr
    )
    assert not list(tmp_path.iterdir())


def test_a_full_disk_names_the_reason(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(AlignvisError, match=r"No space left on device.*nothing was kept"):
        store.write_table(tmp_path / "t", {"a": np.ones(10, "f4")}, {"version": 1})
    assert not list(tmp_path.iterdir())


def test_a_truncated_file_is_refused_at_every_length(features):
    whole = features.read_bytes()
    for length in [*range(0, 200, 7), *range(200, len(whole), 41), len(whole) - 1]:
        features.write_bytes(whole[:length])
        with pytest.raises(AlignvisError, match="not a whole safetensors file"):
            store.load_features(features)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [(b"<html><body>404</body></html>", "not a whole safetensors file"), (b"", "not a whole safetensors file")],
)
def test_a_file_of_another_kind_is_refused(tmp_path, content, sentence):
    (tmp_path / "f").write_bytes(content)
    with pytest.raises(AlignvisError, match=sentence):
        store.load_features(tmp_path / "f")


def test_what_is_not_a_table_is_refused(tmp_path, features, responses):
    with pytest.raises(AlignvisError, match="there is no file"):
        store.load_features(tmp_path / "nothing")
    with pytest.raises(AlignvisError, match="there is no file"):
        store.load_features(tmp_path)
    with pytest.raises(AlignvisError, match="is a 'responses' table; a 'features' table was expected"):
        store.load_features(responses)
    with pytest.raises(AlignvisError, match="is a 'features' table; a 'responses' table was expected"):
        store.load_responses(features)
    save_file({"embeddings": np.ones((2, 2), "f4")}, tmp_path / "plain")
    with pytest.raises(AlignvisError, match="not a table of alignvis"):
        store.load_features(tmp_path / "plain")
    save_file({"embeddings": np.ones((2, 2), "f4")}, tmp_path / "odd", {"alignvis": "[" * 100_000})
    with pytest.raises(AlignvisError, match="is not JSON"):
        store.load_features(tmp_path / "odd")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"version": 2}, "format version 2, and this alignvis reads up to 1; update alignvis"),
        ({"version": "1"}, "does not state a version"),
        ({"images": IMAGES[:-1]}, "has 6 rows but names 5 images"),
        ({"images": [*IMAGES[:-1], IMAGES[0]]}, f"names the image '{IMAGES[0]}' more than once"),
        ({"images": list(range(6))}, "does not state images"),
        ({"images": None}, "does not state images"),
        ({"encoder": 3}, "does not state encoder"),
        ({"aligned": 1}, "does not state aligned"),
    ],
)
def test_a_features_header_that_does_not_fit_is_refused(features, change, sentence):
    rewrite(features, features_document(IMAGES) | change)
    with pytest.raises(AlignvisError, match=sentence):
        store.load_features(features)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_an_embedding_that_is_not_finite_is_named(features, value):
    broken = load_file(features)["embeddings"]
    broken[4, 2] = value
    rewrite(features, embeddings=broken)
    with pytest.raises(AlignvisError, match=f"1 of 6 images are not finite .*'{IMAGES[4]}'"):
        store.load_features(features)


def test_features_of_another_type_or_shape_are_refused(features):
    for array, sentence in [
        (np.ones((6, 4), "f8"), "of type F64"),
        (np.ones((6, 4), "f2"), "is F16 with shape"),
        (np.ones(6, "f4"), r"shape \(6,\)"),
        (np.ones((6, 0), "f4"), "nothing in it"),
    ]:
        rewrite(features, embeddings=array)
        with pytest.raises(AlignvisError, match=sentence):
            store.load_features(features)
    save_file({"other": np.ones(1, "f4")}, features, {"alignvis": json.dumps(features_document(IMAGES))})
    with pytest.raises(AlignvisError, match="no tensor called 'embeddings'"):
        store.load_features(features)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"channels": CHANNELS[:2]}, "train has 3 channels but its header does not name 3"),
        ({"channels": None}, "does not state channels"),
        ({"subject": "1"}, "does not state subject"),
        ({"dataset": None}, "does not state dataset"),
        ({"train_images": IMAGES[:3]}, "has 6 rows but names 3 images under 'train_images'"),
        ({"test_images": [IMAGES[0], TESTS[0]]}, "1 images are both training and test images .* would not be honest"),
        ({"version": 9}, "update alignvis"),
    ],
)
def test_a_responses_header_that_does_not_fit_is_refused(responses, change, sentence):
    rewrite(responses, responses_document(IMAGES, TESTS) | change)
    with pytest.raises(AlignvisError, match=sentence):
        store.load_responses(responses)


def test_responses_of_other_shapes_are_refused(responses):
    for arrays, sentence in [
        ({"train": np.ones((6, 2, 3), "f4")}, "with 4 dimensions"),
        ({"train.session": np.ones((6, 3), "u1")}, r"sessions of train do not have its shape \(6, 2\)"),
        ({"test": np.ones((2, 4, 2, 5), "f4")}, "test has 2 channels"),
    ]:
        whole = responses.read_bytes()
        rewrite(responses, **arrays)
        with pytest.raises(AlignvisError, match=sentence):
            store.load_responses(responses)
        responses.write_bytes(whole)


def test_rows_are_joined_by_id_whatever_the_order(features):
    table = store.load_features(features)
    wanted = [IMAGES[i] for i in (5, 0, 3)]
    assert np.array_equal(
        table.embeddings[store.rows(table, wanted, Path("w"))], np.arange(24).reshape(6, 4)[[5, 0, 3]]
    )


def test_images_that_are_missing_are_named(features):
    table = store.load_features(features)
    with pytest.raises(AlignvisError, match=r"1 of the 2 images in w are not in .* \(the first is 'x.jpg'\)"):
        store.rows(table, [IMAGES[0], "x.jpg"], Path("w"))
    with pytest.raises(AlignvisError, match="tables of different image sets"):
        store.rows(table, TESTS, Path("w"))


def test_a_fingerprint_is_of_all_bytes(features):
    assert store.fingerprint(features) == hashlib.sha256(features.read_bytes()).hexdigest()
    embeddings = load_file(features)["embeddings"]
    first = store.fingerprint(features)
    write_features(features, embeddings[::-1], IMAGES)  # the same header, size and digests of pictures
    assert store.fingerprint(features) != first


def test_a_name_that_cannot_be_written_is_refused(tmp_path):
    with pytest.raises(AlignvisError, match="not UTF-8"):
        store.write_table(tmp_path / "t", {"a": np.ones(1, "f4")}, {"version": 1, "image_set": "\udcff"})
    assert not list(tmp_path.iterdir())


def test_json_is_written_whole_and_read_with_a_sentence(tmp_path):
    files.write_json(tmp_path / "a.json", {"ä": [1, 2.5]})
    assert files.read_json(tmp_path / "a.json") == {"ä": [1, 2.5]}
    with pytest.raises(ValueError):
        files.write_json(tmp_path / "b.json", float("nan"))
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]
    (tmp_path / "a.json").write_bytes(b"{\xff")
    with pytest.raises(AlignvisError, match="not readable as JSON"):
        files.read_json(tmp_path / "a.json")
    with pytest.raises(AlignvisError, match="there is no file"):
        files.read_json(tmp_path / "c.json")


def test_train_and_test_of_other_shapes_are_refused(tmp_path):
    ids = image_ids(2, 10), image_ids(3, 1, "test_images")
    path = write_responses(tmp_path / "r", np.ones((20, 2, 3, 8)), np.ones((3, 2, 3, 6)), ids)
    with pytest.raises(AlignvisError, match="train has 3 x 8 channels x times and test 3 x 6; make it again"):
        store.load_responses(path)
