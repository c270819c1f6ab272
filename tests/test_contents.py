"""What `check` says of files that are no tables."""

import json

import numpy as np
import pytest

from alignvis import store
from alignvis.check import check_all
from alignvis.contents import look
from alignvis.errors import AlignvisError
from alignvis.finding import find_features
from alignvis.recordings.simulate_meg import simulate_things_meg
from alignvis.recordings.simulate_nsd import simulate_nsd
from tests import foreign_brains, foreign_features, raw_files, slow_things_eeg2
from tests.tables import planted, write_features

VOLTS = 1e-5 * np.random.default_rng(0).standard_normal((3, 500))


def eeg2(folder):
    data = np.zeros((64, 3000))
    data[63, [500, 900]] = 1, 2
    slow_things_eeg2.write_recording(folder / "raw_eeg_test.npy", data)
    return folder / "raw_eeg_test.npy", "63 channels x 3,000 samples at 1000 Hz, 2 events", "prepare things-eeg2"


def meg(folder):
    simulate_things_meg(folder, concepts=4, test=2, catch=1, parts=2)
    path = folder / "raw/derivatives/preprocessed/preprocessed_P1-epo.fif"
    return path, "in 2 files: 84 trials (48 of the experiment, 24 of the test) x 271 channels", "prepare things-meg"


def betas(folder):
    simulate_nsd(folder, sessions=2, trials_per_session=30, voxels=20, images=40, shared=10)
    return folder / "raw/subj01_nsdgeneral.hdf5", "2 sessions of 30 trials x 20 voxels", "prepare nsd"


def brick(folder):
    betas(folder)
    return folder / "images/nsd-simulated.hdf5", "40 pictures of NSD", "extract --images"


def own(folder):
    path = raw_files.write_brainvision(folder / "a.vhdr", VOLTS, ["O1", "Oz", "O2"], 250.0)
    return path, "a recording of 3 eeg channels, 2.0 s at 250 Hz", "prepare mne --raw"


def foreign_recording(folder):
    return foreign_brains.ubp(folder / "sub-01", foreign_brains.ubp_documents(foreign_brains.eeg())), "ubp", "import"


def foreign_table(folder):
    return (
        foreign_features.write_zeiss(folder / "f.safetensors", np.ones((4, 3)), 2),
        "features in the layout",
        "import",
    )


@pytest.mark.parametrize("write", [eeg2, meg, betas, brick, own, foreign_recording, foreign_table])
def test_a_file_from_outside_says_what_it_holds_and_which_command_reads_it(write, tmp_path):
    path, holds, command = write(tmp_path)
    ((row, text),) = check_all(tmp_path, [path])
    assert row["whole"] and holds in text and f"alignvis {command}" in text
    json.dumps(row)


def test_what_is_damaged_or_nothing_we_know_is_told(tmp_path):
    path, _, _ = own(tmp_path)
    path.with_suffix(".eeg").write_bytes(b"1234")
    (tmp_path / "notes.txt").write_text("hello")
    rows = [row for row, _ in check_all(tmp_path, [path, tmp_path / "notes.txt", tmp_path / "none.fif"])]
    assert [row["whole"] for row in rows] == [False, False, False]
    assert "in none of the layouts" in rows[1]["problem"] and "there is no file" in rows[2]["problem"]
    with pytest.raises(AlignvisError, match="in none of the layouts"):
        look(tmp_path)


def test_a_recording_names_the_features_that_fit_or_how_near_the_nearest_comes(tmp_path):
    root = planted(tmp_path)
    responses = root / "responses/tiny/sub-01.safetensors"
    ((row, text),) = check_all(root, [responses])
    assert row["features"] == [str(root / "features/tiny/lowlevel.safetensors")] and "; fits " in text
    table = root / "features/tiny/lowlevel.safetensors"
    old = store.load_features(table)
    values, images = np.array(old.embeddings[3:]), old.images[3:]
    table.unlink()
    ((_, text),) = check_all(root, [responses])
    assert "there are no features yet: alignvis extract" in text
    write_features(table, values, images)
    ((row, text),) = check_all(root, [responses])
    assert row["features"] == [] and "lacks 3): alignvis extract" in text


def test_drawn_pictures_and_real_ones_never_stand_for_each_other(tmp_path):
    root = planted(tmp_path)
    responses = store.load_responses(root / "responses/tiny/sub-01.safetensors")
    path = root / "features/tiny/lowlevel.safetensors"
    old = store.load_features(path)
    values, images = np.array(old.embeddings), old.images
    for simulated, fits in ((True, True), (False, False)):
        path.unlink()
        write_features(path, values, images, simulated=simulated)
        ((row, _),) = check_all(root, [responses.path])
        assert row["features"] == ([str(path)] if fits else [])
        if fits:
            assert find_features(root, responses) == [path]
        else:
            for wanted in ((), ("lowlevel",)):
                with pytest.raises(AlignvisError, match="sub-01.* is simulated and .*lowlevel.* is not"):
                    find_features(root, responses, wanted)


def test_a_further_part_of_a_chain_names_the_first(tmp_path):
    path, _, _ = meg(tmp_path)
    ((row, text),) = check_all(tmp_path, [path.with_name("preprocessed_P1-epo-1.fif")])
    assert row["whole"] and "a further part of preprocessed_P1-epo.fif" in text
