"""Recordings of every kind through the command line, with right files and with wrong ones."""

import json
import shutil

import numpy as np
import pytest

from alignvis import store
from alignvis.recordings.simulate_meg import simulate_things_meg
from alignvis.recordings.simulate_nsd import simulate_nsd
from tests import foreign_brains, foreign_features, raw_files
from tests.test_cli import run, sentence

VOLTS = 1e-5 * np.random.default_rng(0).standard_normal((3, 3000))
SHOWN = [(0.5 + 0.3 * n, f"c/{n % 4}.jpg" if n % 3 else "t/0.jpg", "train" if n % 3 else "test") for n in range(30)]


@pytest.fixture(scope="module")
def meg(tmp_path_factory):
    folder = tmp_path_factory.mktemp("meg")
    simulate_things_meg(folder, concepts=4, test=2, catch=1, parts=2)
    return folder


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    simulate_nsd(folder, sessions=4, trials_per_session=30, voxels=20, images=60, shared=10)
    return folder


def test_meg_is_prepared_and_says_what_it_left_out(meg, tmp_path):
    made = run("--root", tmp_path, "prepare", "things-meg", "--raw", meg / "raw", "--subject", 1, "--json")
    row = json.loads(made.stdout)
    assert row["train"] == [24, 1, 271, 201] and row["test"] == [2, 12, 271, 201] and not row["kept"]
    document = store.load_responses(row["path"]).document
    assert document["simulated"] and document["parameters"]["left_out"]["exp_of_test_concepts"] == 24
    words = ("--root", tmp_path, "prepare", "things-meg", "--raw", meg / "raw", "--subject", 1)
    assert run(*words).stdout.startswith("kept ")
    assert "was made with channels all" in sentence(*words, "--channels", "occipital")
    few = run(*words, "--channels", "occipital", "--sfreq", 100, "--window", "0.05:0.5", "--overwrite", "--json")
    assert json.loads(few.stdout)["train"][2] < 60 and json.loads(few.stdout)["train"][3] == 46


def test_wrong_meg_folders_are_refused_with_a_sentence(meg, tmp_path):
    words = ("--root", tmp_path, "prepare", "things-meg", "--subject", 1, "--raw")
    assert "has preprocessed_P1-epo.fif" in sentence(*words, tmp_path)
    shutil.copytree(meg / "raw", tmp_path / "raw")
    last = tmp_path / "raw/derivatives/preprocessed/preprocessed_P1-epo-1.fif"
    last.write_bytes(last.read_bytes()[:-1000])
    sentence(*words, tmp_path / "raw")
    last.unlink()
    assert "goes on in preprocessed_P1-epo-1.fif, which is not there" in sentence(*words, tmp_path / "raw")
    assert not list(tmp_path.glob("responses/*/*"))


def test_fmri_goes_from_its_files_to_embeddings_of_what_was_shown(scenes, tmp_path):
    made = run(
        "--root", tmp_path, "prepare", "nsd", "--raw", scenes / "raw", "--subject", 1, "--sessions", "1-3", "--json"
    )
    row = json.loads(made.stdout)
    brick = scenes / "images/nsd-simulated.hdf5"
    assert f"extract --images {brick} --shown-in {row['path']}" in made.stderr
    run("--root", tmp_path, "extract", "--images", brick, "--shown-in", row["path"], "--encoder", "lowlevel")
    features = store.load_features(tmp_path / "features/nsd-simulated/lowlevel.safetensors")
    responses = store.load_responses(row["path"])
    assert set(features.images) == {*responses.train_images, *responses.test_images}
    assert features.document["simulated"]
    single = run(
        "--root",
        tmp_path / "single",
        "prepare",
        "nsd",
        "--raw",
        scenes / "raw",
        "--subject",
        1,
        "--repetitions",
        2,
        2,
        "--json",
    )
    assert json.loads(single.stdout)["train"][1] == 2
    assert "subj02_nsdgeneral.hdf5" in sentence(
        "--root", tmp_path, "prepare", "nsd", "--raw", scenes / "raw", "--subject", 2
    )


def test_ones_own_recording_is_joined_with_its_events(tmp_path):
    raw = raw_files.write_brainvision(tmp_path / "a.vhdr", VOLTS, ["O1", "Oz", "Fp1"], 200.0)
    events = raw_files.write_events(tmp_path / "a.tsv", SHOWN)
    words = ("--root", tmp_path, "prepare", "mne", "--raw", raw, "--dataset", "mine", "--subject", 1)
    assert "Missing option '--events'" in sentence(*words, code=2)
    made = run(*words, "--events", events, "--window", "-0.1:0.5", "--json")
    table = store.load_responses(json.loads(made.stdout)["path"])
    assert table.train_images == [f"c/{n}.jpg" for n in range(4)] and table.test_images == ["t/0.jpg"]
    assert table.document["sfreq"] == 200 and table.document["tmin"] == -0.1 and table.train.shape[-1] == 120
    for name, (rows, said) in {
        "no-split": ([(1.0, "c/1.jpg")], "split"),
        "milliseconds": ([(1000 * onset, image, part) for onset, image, part in SHOWN], "beyond the end"),
        "out": ([(1.0, "../x.jpg", "train")], "line 2"),
    }.items():
        names = ("onset", "image", "split")[: len(rows[0])]
        wrong = raw_files.write_events(tmp_path / f"{name}.tsv", rows, names=names)
        assert said in sentence(*words, "--events", wrong, "--overwrite")
    assert "--window" in sentence(*words, "--events", events, "--window", "1:0", code=2)


def test_another_projects_recording_is_read_by_what_it_holds(tmp_path):
    planted = foreign_brains.eeg()
    folder = foreign_brains.ubp(tmp_path / "given_whiten/sub-03", foreign_brains.ubp_documents(planted))
    made = run("--root", tmp_path, "import", folder, "--float32", "--json")
    row = json.loads(made.stdout)
    table = store.load_responses(row["path"])
    assert (row["layout"], row["subject"]) == ("ubp", 3)
    order = [planted.ids["train"].index(image) for image in table.train_images]
    np.testing.assert_array_equal(table.train, planted.data["train"][order])
    assert "one is imported at a time" in sentence("--root", tmp_path, "import", folder, folder)
    (tmp_path / "text.npy").write_text("hello")
    sentence("--root", tmp_path, "import", tmp_path / "text.npy")


def test_what_leaves_comes_back_the_same(tmp_path):
    images = foreign_features.ids()
    ids = images["train"] + images["test"]
    values = foreign_features.vectors(len(ids), 5)
    foreign_features.write_images(tmp_path / "images/some", images)
    tree = foreign_features.write_tree(tmp_path / "tree/image_embeddings", ids, {"one": values})
    given = ("--images", tmp_path / "images/some")
    made = json.loads(run("--root", tmp_path, "import", tree, *given, "--json").stdout)
    table = made["table"]
    run("export", table, "--out", tmp_path / "left/image_embeddings", "--as", "alignvis")
    again = run("--root", tmp_path / "again", "import", tmp_path / "left/image_embeddings", *given, "--json")
    first, second = store.load_features(table), store.load_features(json.loads(again.stdout)["table"])
    assert first.images == second.images and np.array_equal(first.embeddings, second.embeddings)
    run("export", table, "--out", tmp_path / "arrays")
    assert np.array_equal(np.load(tmp_path / "arrays/embeddings.npy"), first.embeddings)
    assert run("export", table, "--out", tmp_path / "arrays").stdout.startswith("kept ")
