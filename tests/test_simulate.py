import ast
import json
import pickle
import shutil

import numpy as np
import pytest
from PIL import Image

from alignvis.errors import AlignvisError
from alignvis.recordings.brain import ELECTRODES
from alignvis.recordings.ceiling import epoch_matrix
from alignvis.recordings.drawing import FACTORS
from alignvis.recordings.simulate import simulate_things_eeg2

SMALL = {"concepts": 2, "test": 3, "test_repetitions": 1, "noise": 6.0, "lead": 0.25, "tail": 0.85}
SET = "images/things-eeg2-simulated"
TARGET = 99999


def load(path):
    """What the published file is opened with; ours alone, so that nothing hostile is unpickled."""
    return np.load(path, allow_pickle=True).item()


def contents(folder):
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """A subject whose 40 test pictures are shown twice in each session."""
    folder = tmp_path_factory.mktemp("simulated") / "out"
    chosen = {"concepts": 5, "test": 40, "test_repetitions": 2, "noise": 4.0, "lead": 0.25, "tail": 0.85}
    summary = simulate_things_eeg2(folder, **chosen, seed=3)
    (folder.parent / "summary.json").write_text(json.dumps(summary))
    return folder


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    folder = tmp_path_factory.mktemp("small") / "out"
    simulate_things_eeg2(folder, **SMALL)
    return folder


# --- the published layout ---


def test_recordings_are_as_published(out):
    for session in range(1, 5):
        for part in ("training", "test"):
            recording = load(out / f"raw/sub-01/ses-0{session}/raw_eeg_{part}.npy")
            assert list(recording) == ["raw_eeg_data", "ch_names", "ch_types", "sfreq", "highpass", "lowpass"]
            data = recording["raw_eeg_data"]
            assert data.dtype == np.float64 and data.shape[0] == 64 and data.flags["C_CONTIGUOUS"]
            assert data.shape[1] % 5100 == 0  # sequences of 0.25 + 20 x 0.2 + 0.85 s
            assert recording["ch_names"] == [*ELECTRODES, "stim"]
            assert recording["ch_types"] == ["eeg"] * 63 + ["stim"]
            assert (recording["sfreq"], recording["highpass"], recording["lowpass"]) == (1000, 0.01, 100)
            assert type(recording["sfreq"]) is int
            # volts: 4 uV of noise and some uV of responses
            assert 3e-6 < data[:63].std() < 8e-6 and (data[:63].std(axis=1) > 1e-6).all()
            onsets = np.flatnonzero(data[63])
            assert (data[63][onsets] == np.rint(data[63][onsets])).all()
            steps = np.diff(onsets).reshape(-1)
            assert sorted(set(steps)) == [200, 1300] and (steps == 1300).sum() == data.shape[1] // 5100 - 1
            assert onsets[0] == 250


def test_recording_is_byte_for_byte_what_numpy_saves(small):
    path = small / "raw/sub-01/ses-02/raw_eeg_test.npy"
    found = path.read_bytes()
    assert found[:8] == b"\x93NUMPY\x01\x00"
    length = int.from_bytes(found[8:10], "little")
    assert ast.literal_eval(found[10 : 10 + length].decode()) == {"descr": "|O", "fortran_order": False, "shape": ()}
    again = pickle.dumps(np.load(path, allow_pickle=True), protocol=3)
    assert found[10 + length :] == again.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")


def test_image_lists_are_as_published(out):
    lists = load(out / SET / "image_metadata.npy")
    assert list(lists) == [
        f"{part}_img_{name}" for part in ("train", "test") for name in ("concepts", "concepts_THINGS", "files")
    ]
    for part, folder, each in (("train", "training_images", 10), ("test", "test_images", 1)):
        concepts, things, files = (lists[f"{part}_img_{name}"] for name in ("concepts", "concepts_THINGS", "files"))
        assert len(concepts) == len(things) == len(files) == {"train": 50, "test": 40}[part]
        paths = [f"{folder}/{concept}/{file}" for concept, file in zip(concepts, files, strict=True)]
        there = sorted(file.relative_to(out / SET).as_posix() for file in (out / SET / folder).rglob("*.jpg"))
        assert paths == there  # the order of a plain sort, and nothing more or less on disk
        for row, (concept, thing, file) in enumerate(zip(concepts, things, files, strict=True)):
            number, name = concept.split("_")
            assert int(number) == row // each + 1 and len(number) == 5
            assert thing.split("_")[1] == name and len(thing) == len(concept)
            assert thing != concept  # so that a mix-up of the two numberings shows
            assert file == f"{name}_{row % each + 1:02d}{'s' if row % each else 'b'}.jpg"
    train, test = (set(lists[f"{part}_img_concepts_THINGS"]) for part in ("train", "test"))
    assert len(train) == 5 and len(test) == 40 and not train & test
    everything = sorted(train | test)
    assert [thing.split("_")[1] for thing in everything] == sorted(thing.split("_")[1] for thing in everything)


def test_pictures_are_jpegs_of_several_shapes(out):
    shapes = set()
    for path in (out / SET).rglob("*.jpg"):
        with Image.open(path) as image:
            assert image.format == "JPEG" and image.mode == "RGB" and min(image.size) >= 256
            shapes.add(image.size)
    assert shapes == {(256, 256), (320, 256), (256, 340), (300, 300)}


def test_factors_are_standard_and_concepts_hang_together(out):
    table = json.loads((out / SET / "factors.json").read_text())
    assert table["names"] == list(FACTORS) and len(FACTORS) >= 16 and table["simulated"] is True
    assert set(table["factors"]) == {p.relative_to(out / SET).as_posix() for p in (out / SET).rglob("*.jpg")}
    train = np.array([row for image, row in table["factors"].items() if image.startswith("training_images/")])
    assert train.shape == (50, len(FACTORS))
    np.testing.assert_allclose(train.mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(train.std(axis=0), 1)
    within = train.reshape(5, 10, -1).var(axis=1, ddof=1).mean()
    assert 0.2 < within < 0.75  # 0.49 of 1.49, were there many concepts


def test_markers_say_that_it_is_not_real(out):
    for marker in (out / "raw/sub-01/simulated.json", out / SET / "simulated.json"):
        said = json.loads(marker.read_text())
        assert said["simulated"] is True and said["parameters"]["seed"] == 3 and "numpy" in said["versions"]
    said = json.loads((out / "raw/sub-01/simulated.json").read_text())
    assert said["repetitions"] == {"train": 2, "test": 2} and said["subject"] == 1
    assert said["parameters"]["noise"] == 4.0 and said["parameters"]["amplitude"] == 2.0
    known = json.loads((out / "raw/sub-01/ceiling.json").read_text())
    assert known["repetitions"] == 8 and known["gallery"] == 40 and 0.9 < known["top1"] <= 1
    summary = json.loads((out.parent / "summary.json").read_text())
    assert known == {"simulated": True, **summary["ceiling"]["1"]}
    raw_and_images = [len(data) for data in contents(out).values()]
    assert summary["bytes"] == sum(raw_and_images)


# --- the design ---


def test_sessions_show_what_they_should(out):
    shown = {}
    for session in range(1, 5):
        for part in ("training", "test"):
            stim = load(out / f"raw/sub-01/ses-0{session}/raw_eeg_{part}.npy")["raw_eeg_data"][63]
            codes, counts = np.unique(stim[(stim > 0) & (stim != TARGET)].astype(int), return_counts=True)
            assert (stim == TARGET).any()
            shown[part, session] = set(codes)
            assert counts.min() == 2 and counts.max() <= (4 if part == "training" else 3)
        assert shown["test", session] == set(range(1, 41))
    for first, second in ((1, 2), (3, 4)):
        assert shown["training", first] | shown["training", second] == set(range(1, 51))
        assert not shown["training", first] & shown["training", second]


# --- the same again, and what is refused ---


def test_same_seed_same_bytes_other_seed_other_everything(small, tmp_path):
    simulate_things_eeg2(tmp_path / "again", **SMALL)
    first, again = contents(small), contents(tmp_path / "again")
    assert first.keys() == again.keys() and all(first[name] == again[name] for name in first)
    simulate_things_eeg2(tmp_path / "other", **SMALL, seed=1)
    other = contents(tmp_path / "other")
    assert not {name for name in first.keys() & other.keys() if first[name] == other[name]}


def test_further_subject_sees_the_same_pictures_with_another_brain(small, tmp_path):
    shutil.copytree(small, tmp_path / "out")
    before = contents(tmp_path / "out")
    summary = simulate_things_eeg2(tmp_path / "out", **SMALL, subjects=(1, 2))
    after = contents(tmp_path / "out")
    assert all(after[name] == before[name] for name in before) and summary["subjects"] == [1, 2]
    assert {name.split("/")[1] for name in after.keys() - before.keys()} == {"sub-02"}
    one, two = (load(tmp_path / f"out/raw/sub-0{n}/ses-01/raw_eeg_test.npy")["raw_eeg_data"] for n in (1, 2))
    assert np.abs(np.corrcoef(one[14], two[14])[0, 1]) < 0.3
    assert (one[63] != two[63]).any()
    assert summary["ceiling"][1]["pairwise"] != summary["ceiling"][2]["pairwise"]  # other scalp patterns


def test_interrupted_call_leaves_nothing_half_and_continues(small, tmp_path):
    calls = []

    def stop(done, total, text):
        calls.append(text)
        if len(calls) == stop.at:
            raise KeyboardInterrupt

    whole = contents(small)
    for at in (5, 20, 3):  # amid the pictures, and amid the recordings
        stop.at, calls[:] = at, []
        try:
            simulate_things_eeg2(tmp_path / "out", **SMALL, progress=stop)
        except KeyboardInterrupt:
            pass
        there = contents(tmp_path / "out")
        assert all(whole[name] == there[name] for name in there)
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.jpg")}
    simulate_things_eeg2(tmp_path / "out", **SMALL)
    assert contents(tmp_path / "out") == whole
    assert all(path.stat().st_mtime_ns == time for path, time in kept.items())


def test_recordings_are_not_written_twice(small, tmp_path):
    shutil.copytree(small, tmp_path / "out")
    lost = tmp_path / "out/raw/sub-01/ses-03/raw_eeg_test.npy"
    lost.unlink()
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("raw_eeg*")}
    simulate_things_eeg2(tmp_path / "out", **SMALL)
    assert contents(tmp_path / "out") == contents(small)
    assert all(path.stat().st_mtime_ns == time for path, time in times.items())


def test_foreign_folders_are_refused_and_left_alone(small, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full/thesis.tex").write_text("precious")
    for overwrite in (False, True):
        with pytest.raises(AlignvisError, match="thesis.tex"):
            simulate_things_eeg2(tmp_path / "full", **SMALL, overwrite=overwrite)
    assert contents(tmp_path / "full") == {"thesis.tex": b"precious"}

    shutil.copytree(small, tmp_path / "real")
    (tmp_path / "real/raw/sub-07/ses-01").mkdir(parents=True)
    (tmp_path / "real/raw/sub-07/ses-01/raw_eeg_test.npy").write_text("real")
    for overwrite in (False, True):
        with pytest.raises(AlignvisError, match="may be a real recording"):
            simulate_things_eeg2(tmp_path / "real", **SMALL, subjects=[7], overwrite=overwrite)
    assert (tmp_path / "real/raw/sub-07/ses-01/raw_eeg_test.npy").read_text() == "real"

    (tmp_path / "file").write_text("no folder")
    with pytest.raises(AlignvisError, match="cannot be made"):
        simulate_things_eeg2(tmp_path / "file", **SMALL)
    shutil.copytree(small, tmp_path / "odd")
    (tmp_path / "odd" / SET / "simulated.json").write_text('{"simulated": false}')
    with pytest.raises(AlignvisError, match="not the statement of a simulation"):
        simulate_things_eeg2(tmp_path / "odd", **SMALL, overwrite=True)


def test_other_parameters_are_refused_unless_overwritten(small, tmp_path):
    shutil.copytree(small, tmp_path / "out")
    shutil.copytree(small / "raw/sub-01", tmp_path / "out/raw/sub-02")
    (tmp_path / "out/raw/sub-09").mkdir()
    (tmp_path / "out/raw/sub-09/mine.npy").write_text("real")
    with pytest.raises(AlignvisError, match="seed 0 instead of 4"):
        simulate_things_eeg2(tmp_path / "out", **SMALL, seed=4)
    with pytest.raises(AlignvisError, match="noise 6.0 instead of 1.0"):
        simulate_things_eeg2(tmp_path / "out", **SMALL | {"noise": 1.0})
    simulate_things_eeg2(tmp_path / "out", **SMALL, seed=4, overwrite=True)
    simulate_things_eeg2(tmp_path / "new", **SMALL, seed=4)
    assert (tmp_path / "out/raw/sub-09/mine.npy").read_text() == "real"
    shutil.rmtree(tmp_path / "out/raw/sub-09")
    # Nobody who saw the old pictures is left.
    assert contents(tmp_path / "out") == contents(tmp_path / "new")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"concepts": 1}, "concepts is 1"),
        ({"test": 1}, "test is 1"),
        ({"test_repetitions": 0}, "test_repetitions is 0"),
        ({"noise": 0.0}, "noise is 0"),
        ({"noise": float("nan")}, "noise is nan"),
        ({"amplitude": -1.0}, "amplitude is -1"),
        ({"seed": -1}, "seed is -1"),
        ({"lead": 0.1}, "lead is 0.1"),
        ({"tail": 0.5}, "tail is 0.5"),
        ({"flat_channel": "Fz"}, "no electrode is called 'Fz'"),
        ({"subjects": (1, 1)}, "different numbers"),
        ({"subjects": ()}, "different numbers"),
        ({"subjects": (0,)}, "different numbers"),
        ({"concepts": 9000}, "choose fewer concepts"),
        ({"test": 9000, "test_repetitions": 50}, "choose fewer concepts"),
    ],
)
def test_impossible_choices_are_refused(wrong, said, tmp_path):
    with pytest.raises(AlignvisError, match=said):
        simulate_things_eeg2(tmp_path / "out", **SMALL | wrong)
    assert not (tmp_path / "out").exists()


def test_flat_channel_is_flat(small, tmp_path):
    simulate_things_eeg2(tmp_path / "out", **SMALL, flat_channel="PO7")
    flat = load(tmp_path / "out/raw/sub-01/ses-01/raw_eeg_test.npy")["raw_eeg_data"]
    whole = load(small / "raw/sub-01/ses-01/raw_eeg_test.npy")["raw_eeg_data"]
    row = ELECTRODES.index("PO7")
    assert (flat[row] == 0).all() and whole[row].std() > 0
    assert (np.delete(flat, row, axis=0) == np.delete(whole, row, axis=0)).all()


# --- plausibility ---


def averages(out, sessions, late=0):
    """(40 pictures, 63, 250) mean epochs of the test pictures, in uV."""
    total, count = np.zeros((40, 63, 1201)), np.zeros(40)
    for session in sessions:
        data = load(out / f"raw/sub-01/ses-0{session}/raw_eeg_test.npy")["raw_eeg_data"]
        onsets = np.flatnonzero(data[63])
        for onset in onsets[(data[63][onsets] != TARGET) & (onsets + late + 1001 <= data.shape[1])]:
            picture = int(data[63, onset]) - 1
            total[picture] += 1e6 * data[:63, onset + late - 200 : onset + late + 1001]
            count[picture] += 1
    return total / count[:, None, None] @ epoch_matrix()


@pytest.fixture(scope="module")
def halves(out):
    return averages(out, (1, 2)), averages(out, (3, 4))


def reliability(first, second, channels, times):
    """Share of pictures whose own other half is the most similar of 40."""
    scaled = []
    for half in (first, second):
        rows = half[:, channels][:, :, times].reshape(40, -1)
        rows = rows - rows.mean(axis=0)
        scaled.append(rows / np.linalg.norm(rows, axis=1, keepdims=True))
    return ((scaled[0] @ scaled[1].T).argmax(axis=1) == np.arange(40)).mean()


def test_information_is_behind_from_100_to_300_ms_and_gone_when_shifted(out, halves):
    first, second = halves
    back = [index for index, name in enumerate(ELECTRODES) if name[0] in "OP"]
    front = [index for index, name in enumerate(ELECTRODES) if name[:2] in ("Fp", "AF") or name in ("F5", "F6", "F7")]
    best = reliability(first, second, back, slice(25, 75))
    assert best > 0.5
    assert reliability(first, second, front, slice(25, 75)) < 0.5 * best
    for chance in (slice(0, 10), slice(125, 175), slice(175, 250)):
        assert reliability(first, second, back, chance) < 0.15
    shifted = averages(out, (1, 2), late=1000), averages(out, (3, 4), late=1000)
    assert reliability(*shifted, back, slice(25, 75)) < 0.15
    assert reliability(first, np.roll(second, 1, axis=0), back, slice(25, 75)) < 0.15


def test_rhythm_of_the_pictures_is_in_the_average(halves):
    mean = np.mean(halves, axis=(0, 1))[ELECTRODES.index("Oz")]
    power = np.abs(np.fft.rfft(mean)) ** 2
    assert power[1:26].argmax() + 1 in (5, 10)  # Hz: a picture every 200 ms
