import hashlib
import json
import os
import random
import struct
from pathlib import Path

import numpy as np
import pytest

from alignvis.errors import AlignvisError
from alignvis.recordings import fif, meg_files, things_meg
from alignvis.recordings.fif import check_fif
from alignvis.recordings.meg_files import EXP, TEST, Recording, image_id, open_recording
from alignvis.recordings.things_meg import dataset_name, prepare
from alignvis.store import load_responses
from tests import slow_things_meg as slow

FIRST = "preprocessed_P1-epo.fif"


@pytest.fixture(scope="module")
def subject(tmp_path_factory):
    """One subject: 12 training and 2 test images in three parts, images shown once or twice, 6 or 7 times."""
    folder = tmp_path_factory.mktemp("meg")
    slow.write_subject(folder / "derivatives/preprocessed")
    return folder


@pytest.fixture(scope="module")
def reference(subject, tmp_path_factory):
    out = tmp_path_factory.mktemp("reference") / "sub-01.safetensors"
    summary = prepare(subject, subject=1, out=out, dtype="float32")
    return out, summary


@pytest.fixture
def spoilt(tmp_path):
    """How to prepare a subject whose rows, events or data were spoilt by ``change``."""

    def run(change, images=None, **content):
        slow.write_subject(tmp_path / "raw", change=change, split_size="2GB", **content)
        return prepare(tmp_path / "raw", subject=1, images=images, out=tmp_path / "t.safetensors", overwrite=True)

    return run


def contents(path):
    table = load_responses(path)
    return [np.array(getattr(table, name)) for name in ("train", "test", "train_session", "test_session")]


# --- what the table holds ---


OPTIONS = {
    "as published": ({}, {}),
    "a window before the onset, some channels": (
        {"window": (-0.1, 0.45), "channels": "MZO02-1609, MLF21-1609"},
        {"window": (-0.1, 0.45), "channels": ["MZO02-1609", "MLF21-1609"]},
    ),
    "occipital channels at 100 Hz, whole trial": (
        {"channels": "occipital", "sfreq": 100.0, "window": (-0.1, 1.3)},
        {"channels": ["MLO11-1609", "MRO52-1609", "MZO02-1609"], "sfreq": 100.0, "window": (-0.1, 1.3)},
    ),
    "a rate whose samples miss the onset": ({"sfreq": 128.0}, {"sfreq": 128.0}),
    "a rate whose samples miss the onset by more": (
        {"sfreq": 64.0, "window": (0.1, 0.9)},
        {"sfreq": 64.0, "window": (0.1, 0.9)},
    ),
    "two sessions": ({"sessions": (3, 1)}, {"sessions": (1, 3)}),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_the_table_is_what_mne_and_loops_give(subject, tmp_path, name):
    ours, plain = OPTIONS[name]
    out = tmp_path / "t.safetensors"
    prepare(subject, subject=1, out=out, dtype="float32", **ours)
    table = load_responses(out)
    expected, times = slow.prepare(subject / "derivatives/preprocessed" / FIRST, **plain)
    assert table.document["sfreq"] == plain.get("sfreq", 200.0)
    assert table.document["tmin"] == pytest.approx(times[0], abs=1e-9)
    assert table.document["channels"] == plain.get("channels", slow.NAMES)
    for part in ("train", "test"):
        ids, responses, sessions = expected[part]
        assert getattr(table, f"{part}_images") == ids
        np.testing.assert_array_equal(getattr(table, f"{part}_session"), sessions)
        if "sfreq" in plain:
            np.testing.assert_allclose(getattr(table, part), responses, rtol=1e-5, atol=1e-5)
        else:
            np.testing.assert_array_equal(getattr(table, part), responses.astype(np.float32))


def test_published_window_has_201_samples(reference):
    table = load_responses(reference[0])
    assert table.train.shape == (12, 1, 6, 201) and table.test.shape == (2, 6, 6, 201)
    assert (table.document["tmin"], table.document["sfreq"]) == (0.0, 200.0)


def test_resampled_values_are_measured_later_than_their_nominal_times(subject, tmp_path):
    """281 samples are padded to 512 with 115 in front; of half as many, 58 are dropped: 116 samples, one too many."""
    prepare(subject, subject=1, out=tmp_path / "t.safetensors", sfreq=100.0)
    assert load_responses(tmp_path / "t.safetensors").document["parameters"]["resampling"] == {
        "method": "mne-fft", "of": "the whole trial", "from": 200.0, "measured_after_nominal_ms": [5.0, 5.0],
    }  # fmt: skip


def test_half_precision_is_single_precision_rounded_once(subject, reference, tmp_path):
    prepare(subject, subject=1, out=tmp_path / "t.safetensors")
    for single, half in zip(contents(reference[0])[:2], contents(tmp_path / "t.safetensors")[:2], strict=True):
        assert half.dtype == np.float16
        np.testing.assert_array_equal(half, single.astype(np.float16))


def test_either_folder_is_the_raw_folder(subject, reference, tmp_path):
    prepare(subject / "derivatives/preprocessed", subject=1, out=tmp_path / "t.safetensors", dtype="float32")
    for one, other in zip(contents(reference[0]), contents(tmp_path / "t.safetensors"), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("sfreq", [200.0, 90.0])
def test_how_many_trials_are_read_at_once_changes_nothing(subject, tmp_path, monkeypatch, sfreq):
    found = []
    for size in (1, 5, 1000):
        monkeypatch.setattr(things_meg, "TRIALS", size)
        prepare(subject, subject=1, out=tmp_path / f"{size}.safetensors", sfreq=sfreq, dtype="float32")
        found.append([array.tobytes() for array in contents(tmp_path / f"{size}.safetensors")])
    assert found[0] == found[1] == found[2]


def test_only_the_trials_of_the_table_are_read_each_once_and_in_the_order_of_the_files(subject, tmp_path, monkeypatch):
    read, values = [], Recording.values
    monkeypatch.setattr(things_meg, "TRIALS", 4)
    monkeypatch.setattr(
        Recording, "values", lambda self, trials, rows: read.append(trials) or values(self, trials, rows)
    )
    prepare(subject, subject=1, out=tmp_path / "t.safetensors")
    every = np.concatenate(read)
    assert len(every) == len(set(every.tolist())) == 12 + 2 * 6  # of 35
    assert [trials.min() // 4 for trials in read] == sorted(trials.min() // 4 for trials in read)
    assert all((np.diff(trials) > 0).all() and trials.max() // 4 == trials.min() // 4 for trials in read)


def test_interrupted_call_continues_to_the_same_bytes(subject, reference, tmp_path, monkeypatch):
    monkeypatch.setattr(things_meg, "TRIALS", 4)
    out = tmp_path / "t.safetensors"
    read, values = [], Recording.values
    monkeypatch.setattr(
        Recording, "values", lambda self, trials, rows: read.append(trials) or values(self, trials, rows)
    )

    def stop(done, total, text, note=""):
        if done > 12:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(subject, subject=1, out=out, dtype="float32", progress=stop)
    assert not out.exists()
    first = len(read)
    prepare(subject, subject=1, out=out, dtype="float32")
    assert len(np.unique(np.concatenate(read))) == len(np.concatenate(read)) == 24 and 0 < first < len(read)
    for one, other in zip(contents(reference[0]), contents(out), strict=True):
        np.testing.assert_array_equal(one, other)


def test_what_the_table_says_of_itself(subject, reference):
    document = load_responses(reference[0]).document
    assert document["dataset"] == "things-meg" and document["subject"] == 1 and document["simulated"] is False
    assert document["unit"] == "baseline standard deviations"
    said = document["parameters"]
    assert said["trials"] == {"exp": 19, "test": 13, "catch": 3}
    assert said["left_out"] == {
        "catch": 3, "exp_of_test_concepts": 6, "test_concepts": 2, "train_repetitions": 1, "test_repetitions": 1,
    }  # fmt: skip
    assert said["sessions"] == [1, 2, 3] and said["window"] == [0.0, 1.0] and said["resampling"] is None
    assert "session" in said["session_and_image"] and "once" in said["session_and_image"]
    parts = [FIRST, "preprocessed_P1-epo-1.fif", "preprocessed_P1-epo-2.fif"]
    assert [source["file"] for source in document["sources"]] == [f"derivatives/preprocessed/{part}" for part in parts]
    digests = load_sources(reference[0])
    for part, digest in zip(parts, digests, strict=True):
        assert hashlib.sha256((subject / "derivatives/preprocessed" / part).read_bytes()).digest() == bytes(digest)


def load_sources(path):
    from alignvis.store import read_table

    return read_table(path, "responses", {})[1]["sources.sha256"]


def test_whoever_has_other_files_than_published_is_told(reference):
    warnings = " | ".join(reference[1]["warnings"])
    assert "19 exp, 13 test, 3 catch, 13 training" in warnings and "22,248 exp, 2,400 test, 2,400 catch" in warnings
    assert "6 channels and 281 samples" in warnings
    assert "1 train trials were left out" in warnings and "1 test trials were left out" in warnings
    assert "the table has 6 repetitions of each" in warnings


def test_published_size_is_what_it_takes_to_stay_silent(subject, monkeypatch, tmp_path):
    monkeypatch.setattr(things_meg, "COUNTS", {"exp": 19, "test": 13, "catch": 3})
    monkeypatch.setattr(things_meg, "TRAIN_IMAGES", 13)
    monkeypatch.setattr(things_meg, "CHANNELS", 6)
    warnings = prepare(subject, subject=1, out=tmp_path / "t.safetensors")["warnings"]
    assert len(warnings) == 3 and all("left out" in sentence for sentence in warnings)
    assert warnings[0].startswith("left out: 3 catch trials, and 6 trials of the 2 concepts")


def test_part_that_the_chain_does_not_reach_is_told(chain, tmp_path):
    content = (chain / "preprocessed_P1-epo-2.fif").read_bytes()
    (chain / "preprocessed_P1-epo-3.fif").write_bytes(content)
    warnings = prepare(chain, subject=1, out=tmp_path / "t.safetensors")["warnings"]
    assert any("epo-3.fif is there, but preprocessed_P1-epo-2.fif says" in sentence for sentence in warnings)


def test_event_codes_that_differ_are_told_and_not_believed(spoilt, tmp_path, reference):
    def change(rows, events, data):
        kinds = [row["trial_type"] for row in rows]
        events[[kinds.index("exp"), kinds.index("test"), kinds.index("catch")], 2] = 4242

    summary = spoilt(change)
    assert any("the event codes of 2 trials" in sentence for sentence in summary["warnings"])
    assert load_responses(tmp_path / "t.safetensors").train_images == load_responses(reference[0]).train_images


def test_nothing_reaches_the_terminal(subject, tmp_path, capfd):
    prepare(subject, subject=1, out=tmp_path / "t.safetensors")
    assert capfd.readouterr() == ("", "")


def test_table_that_is_there_is_kept_and_one_of_other_options_refused(subject, tmp_path):
    out = tmp_path / "t.safetensors"
    prepare(subject, subject=1, out=out)
    assert prepare(subject, subject=1, out=out)["kept"] is True
    with pytest.raises(AlignvisError, match="channels all, and channels occipital"):
        prepare(subject, subject=1, out=out, channels="occipital")
    with pytest.raises(AlignvisError, match="sessions None, and sessions .1, 2. is asked for"):
        prepare(subject, subject=1, out=out, sessions=(2, 1))
    with pytest.raises(AlignvisError, match="image_ids paths of the THINGS database, and image_ids paths of the exp"):
        (tmp_path / "images_meg").mkdir()
        prepare(subject, subject=1, out=out, images=tmp_path)
    assert prepare(subject, subject=1, out=out, channels="occipital", overwrite=True)["train"][2] == 3


# --- image ids ---


def test_ids_follow_the_picture_folder(subject, tmp_path):
    (tmp_path / "tree/a_thing8").mkdir(parents=True)
    (tmp_path / "published/images_meg").mkdir(parents=True)
    prepare(subject, subject=1, images=tmp_path / "tree", out=tmp_path / "tree.safetensors")
    prepare(subject, subject=1, images=tmp_path / "published", out=tmp_path / "published.safetensors")
    tree, published = (load_responses(tmp_path / f"{name}.safetensors") for name in ("tree", "published"))
    assert tree.train_images[0] == "a_thing8/a_thing8_01b.jpg" and tree.test_images[0] == "a_thing7/a_thing7_09b.jpg"
    assert published.train_images[0] == "images_meg/a_thing8/a_thing8_01b.jpg"
    assert published.test_images[0] == "images_test_meg/a_thing7_09b.jpg"
    np.testing.assert_array_equal(tree.train, published.train)


def test_ids_by_hand():
    assert image_id("images_meg/ice_cream/ice_cream_01b.jpg", EXP, False) == "ice_cream/ice_cream_01b.jpg"
    assert image_id("images_test_meg/bat1_14s.jpg", TEST, False) == "bat1/bat1_14s.jpg"
    assert image_id("images_test_meg/bat1_14s.jpg", TEST, True) == "images_test_meg/bat1_14s.jpg"


@pytest.mark.parametrize(
    "path",
    ["", "/etc/passwd", "images_meg/../x_01.jpg", "images_meg/a/../../x_01.jpg", "images_meg//x_01.jpg",
     "images_meg\\a\\x_01.jpg", "images_meg/a/..\\x_01.jpg", "images_meg/./x_01.jpg", "images_meg/C:/x_01.jpg",
     "images_meg/a/x_\n01.jpg", "images_meg/a/\0x_01.jpg", "other/a/x_01.jpg", "images_meg/x_01.jpg",
     "images_meg/a/b/x_01.jpg", "images_test_meg/x_01.jpg"],
)  # fmt: skip
@pytest.mark.parametrize("as_published", [True, False])
def test_paths_that_lead_elsewhere_are_refused(path, as_published):
    with pytest.raises(AlignvisError, match="expected images_meg/<concept>/<file>.jpg"):
        image_id(path, EXP, as_published)


@pytest.mark.parametrize("name", ["cat.jpg", "_01b.jpg"])
def test_names_without_a_concept_are_refused(name):
    with pytest.raises(AlignvisError, match="no concept in its name"):
        image_id(f"images_test_meg/{name}", TEST, False)


# --- what is refused ---


def put(field, value):
    def change(rows, events, data):
        next(row for row in rows if row["trial_type"] == "exp" and row["category_nr"] == 1)[field] = value

    return change


def no_test(rows, events, data):
    for row in rows:
        row |= {"trial_type": "exp", "category_nr": 1.0, "things_image_nr": 1.0, "image_path": "images_meg/a/a_1.jpg"}


def no_training(rows, events, data):
    for row in rows:
        row["category_nr"] = 1.0


def shared(rows, events, data):
    for row in rows:
        if row["trial_type"] == "test" and row["category_nr"] == 2:
            row["image_path"] = "images_test_meg/a_thing8_01b.jpg"


def two_numbers(rows, events, data):
    for row in rows:
        if row["things_image_nr"] == 302:
            row["image_path"] = "images_meg/a_thing6/a_thing6_01b.jpg"


def renamed_once(rows, events, data):
    next(row for row in rows if row["things_image_nr"] == 602)["image_path"] = "images_meg/a/a_01b.jpg"


def without(field):
    def change(rows, events, data):
        for row in rows:
            del row[field]

    return change


def infinite(rows, events, data):
    trial = next(n for n, row in enumerate(rows) if row["trial_type"] == "exp" and row["category_nr"] == 1)
    data[trial, 2, 100] = np.inf


WRONG = {
    "kind": (put("trial_type", "filler"), "trial_type 'filler'; expected exp, test, catch"),
    "no kind": (put("trial_type", None), "trial_type 'None'"),
    "broken number": (put("things_image_nr", 1.5), "things_image_nr '1.5'; expected a whole number"),
    "no number": (put("category_nr", None), "category_nr 'None'"),
    "not a number": (put("session_nr", float("nan")), "session_nr 'nan'"),
    "endless number": (put("things_image_nr", float("inf")), "things_image_nr 'inf'"),
    "huge number": (put("things_image_nr", 10**400), "things_image_nr '1000"),
    "text": (put("run_nr", "2"), "run_nr '2'"),
    "truth": (put("run_nr", True), "run_nr 'True'"),
    "late session": (put("session_nr", 256), "session_nr '256'; expected a whole number from 1 to 255"),
    "session 0": (put("session_nr", 0), "session_nr '0'"),
    "onset": (put("onset", None), "onset 'None'; expected seconds"),
    "path": (put("image_path", 7), "image_path '7'; expected a path"),
    "hostile path": (put("image_path", "images_meg/../x_1.jpg"), "is called 'images_meg/../x_1.jpg'; expected"),
    "two pictures": (renamed_once, "image number 602 stands for 'images_meg/.*' and for 'images_meg/"),
    "two numbers": (two_numbers, "a_thing6/a_thing6_01b.jpg has two image numbers"),
    "shared": (shared, "1 images are both training and test images .the first is 'a_thing8/a_thing8_01b.jpg'.* though"),
    "no test": (no_test, "no test trial"),
    "no training": (no_training, "no train trial"),
    "columns": (without("run_nr"), "does not describe its trials by run_nr"),
    "infinite": (infinite, "channel MRO52-1609 has the value inf"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_descriptions_that_cannot_be_are_refused(spoilt, name):
    change, said = WRONG[name]
    with pytest.raises(AlignvisError, match=said):
        spoilt(change)


def test_trial_without_description_is_refused():
    with pytest.raises(AlignvisError, match="says nothing of its trials"):
        meg_files._columns(Path("x.fif"), None, 3)
    with pytest.raises(AlignvisError, match="describes 1 of 3 trials"):
        meg_files._columns(Path("x.fif"), [dict.fromkeys(slow.COLUMNS)], 3)
    with pytest.raises(AlignvisError, match="describes trial 2 by '7'"):
        meg_files._columns(Path("x.fif"), [dict.fromkeys(slow.COLUMNS), 7], 2)


CHOICES = {
    "channels": ({"channels": "MLO99"}, "no channel is called 'MLO99'"),
    "twice": ({"channels": "MLO11-1609,MLO11-1609"}, "named twice"),
    "rate": ({"sfreq": 250.0}, "--sfreq 250 has to be at least 1 and at most the 200"),
    "no rate": ({"sfreq": float("nan")}, "--sfreq nan"),
    "early": ({"window": (-0.2, 1.0)}, "window -0.2 1 has to lie within the trials, which last from -0.1 to 1.3 s"),
    "late": ({"window": (0.0, 1.4)}, "window 0 1.4"),
    "backwards": ({"window": (0.5, 0.4)}, "window 0.5 0.4"),
    "nothing": ({"window": (0.0, float("nan"))}, "window 0 nan"),
    "session": ({"sessions": (1, 4)}, "no session 4 in the files, which have 1, 2, 3"),
    "no session": ({"sessions": ()}, "no session asked for"),
    "dtype": ({"dtype": "float64"}, "float16 or float32, not 'float64'"),
    "subject": ({"subject": 2}, "has preprocessed_P2-epo.fif .there are preprocessed_P1-epo-1.fif"),
}


@pytest.mark.parametrize("name", CHOICES)
def test_impossible_choices_are_refused(subject, tmp_path, name):
    options, said = CHOICES[name]
    with pytest.raises(AlignvisError, match=said):
        prepare(subject, **{"subject": 1, "out": tmp_path / "t.safetensors"} | options)
    assert not list(tmp_path.iterdir())


def test_no_occipital_channel(tmp_path):
    slow.write_subject(tmp_path / "raw", names=["A", "B", "MLC11"])
    with pytest.raises(AlignvisError, match="no channel is occipital"):
        prepare(tmp_path / "raw", subject=1, out=tmp_path / "t.safetensors", channels="occipital")


# --- the chain ---


@pytest.fixture
def chain(tmp_path):
    _, names = slow.write_subject(tmp_path / "raw")
    assert names == ["preprocessed_P1-epo-1.fif", "preprocessed_P1-epo-2.fif", FIRST]
    return tmp_path / "raw"


def open_chain(folder):
    return open_recording(meg_files.first_file(folder, 1))


def test_missing_part_is_named(chain):
    (chain / "preprocessed_P1-epo-2.fif").unlink()
    with pytest.raises(AlignvisError, match="epo-1.fif goes on in preprocessed_P1-epo-2.fif, which is not there"):
        open_chain(chain)


def test_renamed_chain_is_told(chain):
    for path in chain.glob("*.fif"):
        path.rename(path.with_name(path.name.replace("P1", "P3")))
    with pytest.raises(AlignvisError, match="'preprocessed_P1-epo-1.fif', and preprocessed_P3-epo-1.fif was expected"):
        prepare(chain, subject=3, out=chain / "t.safetensors")


@pytest.mark.parametrize("name", ["../secret-epo.fif", "/dev/zero", "preprocessed_P1-epo.fif", "a\nb"])
def test_part_that_leads_elsewhere_is_refused(chain, name):
    rename_next(chain / FIRST, name)
    with pytest.raises(AlignvisError, match="says that it goes on in"):
        open_chain(chain)


def rename_next(path, name):
    """Write another name of the next part into a file."""
    content = path.read_bytes()
    old = b"preprocessed_P1-epo-1.fif"
    header, new = struct.pack(">iIii", 118, 10, len(old), 0), name.encode()
    assert content.count(header + old) == 1
    path.write_bytes(content.replace(header + old, struct.pack(">iIii", 118, 10, len(new), 0) + new))


def test_link_without_its_file_is_told(chain):
    (chain / FIRST).unlink()
    (chain / FIRST).symlink_to(chain / ".git/annex/objects/MD5E-s8")
    with pytest.raises(AlignvisError, match="link to a file that was not downloaded"):
        open_chain(chain)


def test_links_are_followed_to_parts_of_other_names(chain, tmp_path):
    store = tmp_path / "annex"
    store.mkdir()
    for number, path in enumerate(sorted(chain.glob("*.fif"))):
        path.rename(store / f"MD5E-{number}.fif")
        path.symlink_to(store / f"MD5E-{number}.fif")
    assert len(open_chain(chain).codes) == 35


def test_empty_folder_and_wrong_files(tmp_path):
    with pytest.raises(AlignvisError, match="there is no FIF file"):
        prepare(tmp_path, subject=1, out=tmp_path / "t")
    (tmp_path / FIRST).write_bytes(b"\x1f\x8b" + bytes(100))
    with pytest.raises(AlignvisError, match="gunzip"):
        open_chain(tmp_path)
    (tmp_path / FIRST).write_text("an error page of the server, saved under the file's name")
    with pytest.raises(AlignvisError, match="is no FIF file"):
        open_chain(tmp_path)
    (tmp_path / FIRST).unlink()
    (tmp_path / FIRST).mkdir()
    with pytest.raises(AlignvisError, match="there is no file"):
        open_chain(tmp_path)


def test_recording_that_holds_no_epochs_is_refused(tmp_path):
    import mne

    raw = mne.io.RawArray(np.zeros((2, 100)), mne.create_info(2, 100.0, "mag"), verbose="error")
    raw.save(tmp_path / "x_raw.fif", verbose="error")
    (tmp_path / "x_raw.fif").rename(tmp_path / FIRST)
    with pytest.raises(AlignvisError, match="does not hold one set of epochs"):
        open_chain(tmp_path)


def test_every_truncation_is_told(chain):
    whole = (chain / FIRST).read_bytes()
    tags = check_fif(chain / FIRST)
    ends = {len(whole) - 1, len(whole) // 2, 10, 0} | {tag.position + cut for tag in tags for cut in (0, 5, 16, 17)}
    for end in sorted(end for end in ends if end < len(whole)):
        (chain / FIRST).write_bytes(whole[:end])
        with pytest.raises(AlignvisError, match=FIRST):
            open_chain(chain)


def test_simulated_recordings_never_pass_for_real_ones(chain, tmp_path):
    assert dataset_name(chain, 1) == "things-meg"
    (chain / "simulated.json").write_text(json.dumps({"simulated": True}))
    assert dataset_name(chain, 1) == "things-meg-simulated"
    summary = prepare(chain, subject=1, out=tmp_path / "t.safetensors")
    assert summary["dataset"] == "things-meg-simulated" and not any("published" in said for said in summary["warnings"])
    document = load_responses(tmp_path / "t.safetensors").document
    assert document["simulated"] is True and "authors" not in document["parameters"]["preprocessed"]
    (chain / "simulated.json").write_text("[]")
    with pytest.raises(AlignvisError, match="does not say what was simulated"):
        dataset_name(chain, 1)


def test_metadata_as_a_table_of_pandas_reads_the_same(subject):
    """A stand-in: pandas is no dependency; of its tables we use `columns`, `len` and the columns' `tolist`."""

    class Column(list):
        def tolist(self):
            return list(self)

    class Table:
        def __init__(self, rows):
            self.rows, self.columns = rows, list(rows[0])

        def __len__(self):
            return len(self.rows)

        def __getitem__(self, name):
            return Column(float("nan") if row[name] is None else row[name] for row in self.rows)

    recording = open_chain(subject)
    rows = recording.epochs.metadata
    from_rows = meg_files.read_trials(recording)
    fields = vars(recording) | {"epochs": type("Epochs", (), {"metadata": Table(rows)})()}
    from_table = meg_files.read_trials(Recording(**fields))
    for name, values in vars(from_rows).items():
        np.testing.assert_array_equal(values, getattr(from_table, name))


# --- FIF ---


def tag(kind, form, content=b"", following=0):
    return struct.pack(">iIii", kind, form, len(content), following) + content


START = tag(100, 31, bytes(20)) + tag(101, 3, struct.pack(">i", -1))
END = tag(108, 0, b"", -1)
I4 = struct.Struct(">4i").pack


def test_fif_by_hand(tmp_path):
    path = tmp_path / "x.fif"
    matrix = bytes(4 * 6) + struct.pack(">3i", 3, 2, 2)
    path.write_bytes(START + tag(200, 3, struct.pack(">i", -7)) + tag(5, 4 | 1 << 30, matrix) + END + b"ignored")
    tags = check_fif(path)
    assert [found.kind for found in tags] == [100, 101, 200, 5, 108] and tags[-1].next == -1
    assert tags[2].position == 36 + 20 and fif.integer(path, tags[2]) == -7 and fif.read(path, tags[3]) == matrix
    with pytest.raises(AlignvisError, match="the tag of kind 5 at byte 76 should hold one whole number"):
        fif.integer(path, tags[3])


def directory(*entries):
    return b"".join(struct.pack(">iIii", *entry) for entry in entries)


def with_directory(*entries):
    start = START[:-4] + struct.pack(">i", 76)
    return start + tag(200, 3, bytes(4)) + tag(102, 32, directory(*entries), -1)


GOOD = ((100, 31, 20, 0), (101, 3, 4, 36), (200, 3, 4, 56), (-1, 0xFFFFFFFF, -1, -1))


def test_directory_of_what_is_there_is_fine(tmp_path):
    (tmp_path / "x.fif").write_bytes(with_directory(*GOOD))
    assert len(check_fif(tmp_path / "x.fif")) == 4


def test_tags_may_leave_gaps(tmp_path):
    gap = tag(100, 31, bytes(20), 40) + bytes(4) + tag(101, 3, struct.pack(">i", -1)) + END
    (tmp_path / "x.fif").write_bytes(gap)
    assert [found.position for found in check_fif(tmp_path / "x.fif")] == [0, 40, 60]


def test_sparse_matrices_that_fit_are_fine(tmp_path):
    """Two values with their places, where each of the 3 columns or 2 rows begins and ends, and four numbers."""
    for coding, lines in ((1 << 20, 3), (1 << 21, 2)):
        content = bytes(2 * 4 + 2 * 4 + 4 * (lines + 1)) + I4(2, 2, 3, 2)
        (tmp_path / "x.fif").write_bytes(START + tag(5, 4 | 1 << 30 | coding, content) + END)
        assert len(check_fif(tmp_path / "x.fif")) == 4


SPARSE = 4 | 1 << 30 | 1 << 20
DAMAGED = {
    "beyond the end": (START + struct.pack(">iIii", 200, 3, 100, 0) + bytes(99), "claims 100 of the file's 171 bytes"),
    "negative size": (START + struct.pack(">iIii", 200, 3, -16, 0) + END, "claims -16 of"),
    "negative kind": (START + tag(-200, 3) + END, "kind -200"),
    "half a header": (START + b"abc", "ends within the tag at byte 56"),
    "backwards": (START + tag(200, 3, b"", 36) + END, "says that the next one is at byte 36"),
    "itself": (START + tag(200, 3, b"", 56) + END, "says that the next one is at byte 56"),
    "far away": (START + tag(200, 3, b"", 2**30) + END, "says that the next one is at byte 1,073,741,824"),
    "next -2": (START + tag(200, 3, b"", -2) + END, "next one is at byte -2"),
    "no directory pointer": (START[:36] + END, "second tag is not the pointer"),
    "huge matrix": (START + tag(5, 4 | 1 << 30, bytes(4) + I4(2**30, 2**30, 2**30, 3)) + END, "instead of"),
    "negative matrix": (START + tag(5, 4 | 1 << 30, bytes(4) + I4(-1, -1, 1, 3)) + END, "20 bytes instead of 16"),
    "matrix of no dimension": (START + tag(5, 4 | 1 << 30, bytes(4) + I4(1, 1, 1, 0)) + END, "claims 0 dimensions"),
    "matrix of many": (START + tag(5, 4 | 1 << 30, bytes(4) + I4(1, 1, 1, 2**31 - 1)) + END, "claims 2,147,483,647 d"),
    "matrix too short": (START + tag(5, 4 | 1 << 30, b"ab") + END, "claims 0 dimensions"),
    "sparse": (START + tag(5, SPARSE, bytes(16) + I4(2**30, 1, 1, 2)) + END, "instead of"),
    "negative sparse": (START + tag(5, SPARSE, bytes(16) + I4(-2, 1, 1, 2)) + END, "sparse matrix"),
    "points": (START + tag(5, 36, struct.pack(">3i", 1, 1, 2**30)) + END, "instead of 12,884,901,900"),
    "short points": (START + tag(5, 36, bytes(6)) + END, "6 bytes instead of 12"),
    "short channel": (START + tag(203, 30, bytes(20)) + END, "has 20 bytes instead of 96"),
    "nested": (START + tag(104, 3, bytes(4)) * 101 + END, "nested 101 deep"),
    "blocks": (START + (tag(104, 3, bytes(4)) + tag(105, 3, bytes(4))) * 10_001 + END, "more than"),
    "directory outside": (START[:-4] + struct.pack(">i", 57) + END, "directory should be at byte 57"),
    "directory of others": (with_directory(GOOD[0], (300, 3, 4, 36)), "names a tag of kind 300 at byte 36"),
    "directory of nothing": (with_directory((100, 31, 20, 1)), "kind 100 at byte 1,"),
    "directory in circles": (with_directory(GOOD[1], GOOD[0]), "kind 100 at byte 0,"),
    "directory too long": (with_directory(*GOOD * 2), "directory has 128 bytes for 4 tags"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_skeletons_are_refused(tmp_path, name):
    content, said = DAMAGED[name]
    (tmp_path / "x.fif").write_bytes(content)
    with pytest.raises(AlignvisError, match=said):
        check_fif(tmp_path / "x.fif")


def test_endless_tags_and_texts_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(fif, "MOST_TAGS", 10)
    (tmp_path / "x.fif").write_bytes(START + tag(200, 3) * 20 + END)
    with pytest.raises(AlignvisError, match="more than 10 tags"):
        check_fif(tmp_path / "x.fif")
    for text in (b"[" + b"{}," * 1_000_001, bytes(2**24 + 1)):
        (tmp_path / "x.fif").write_bytes(START + tag(200, 10, text) + END)
        with pytest.raises(AlignvisError, match="more than a reader can use"):
            check_fif(tmp_path / "x.fif")


def replace_tag(path, kind, content):
    """Give the only tag of a kind another content of its length."""
    (found,) = (tag for tag in check_fif(path) if tag.kind == kind)
    assert len(content) == found.size
    with open(path, "r+b") as file:
        file.seek(found.position + 16)
        file.write(content)


@pytest.mark.parametrize(("first", "last"), [(0, -1), (-(2**31), 2**31 - 1), (0, 5000), (3, 3)])
def test_absurd_trial_lengths_are_refused_before_times_are_made(chain, first, last):
    replace_tag(chain / FIRST, 208, struct.pack(">i", first))
    replace_tag(chain / FIRST, 209, struct.pack(">i", last))
    with pytest.raises(AlignvisError, match="samples a trial in"):
        open_chain(chain)


def test_large_tags_beside_the_trials_are_refused(chain, monkeypatch):
    monkeypatch.setattr(meg_files, "LARGEST_TAG", 4000)  # the description of the trials has more
    with pytest.raises(AlignvisError, match="beside its trials it has a tag of"):
        open_chain(chain)


def test_opening_loads_no_trial(subject):
    assert open_chain(subject).epochs.preload is False


def test_more_rows_than_trials_are_refused_before_they_are_made(chain):
    (text,) = (found for found in check_fif(chain / FIRST) if found.type == 10 and found.size > 2000)
    content = (chain / FIRST).read_bytes()
    rows = b"[" + b"{}," * 1000 + b"{}]"
    after = content[text.position + 16 + text.size :]
    (chain / FIRST).write_bytes(content[: text.position] + tag(text.kind, 10, rows) + after)
    with pytest.raises(AlignvisError, match="describes 1,001 trials, and has room for"):
        open_chain(chain)


@pytest.mark.parametrize("rate", [0.0, -200.0, float("nan"), float("inf"), 1e-30, 1e30])
def test_absurd_rates_are_refused(chain, rate):
    for path in chain.glob("*.fif"):
        replace_tag(path, 201, struct.pack(">f", rate))
    with pytest.raises(AlignvisError, match=FIRST):
        open_chain(chain)


def test_mutated_files_end_with_a_table_or_one_sentence(chain, tmp_path):
    """Flips, truncations and huge numbers, most of them in the headers, where they hurt."""
    rng = random.Random(0)
    whole = (chain / FIRST).read_bytes()
    epochs = next(found.position for found in check_fif(chain / FIRST) if found.kind == 302)
    refused = 0
    for _ in range(80):
        content = bytearray(whole)
        for _ in range(rng.choice([1, 1, 2, 8])):
            at = rng.randrange(epochs + 16 if rng.random() < 0.8 else len(content) - 4)
            what = rng.choice([os.urandom(1), b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", bytes(4), b"\x00\x00\x10\x00"])
            content[at : at + len(what)] = what
        if rng.random() < 0.2:
            del content[rng.randrange(len(content)) :]
        (chain / FIRST).write_bytes(content)
        try:
            prepare(chain, subject=1, out=tmp_path / "t.safetensors", overwrite=True)
        except AlignvisError as error:
            refused += 1
            assert "\n" not in str(error)
    assert 20 < refused
