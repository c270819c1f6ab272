import pickle

import mne
import numpy as np
import pytest

from alignvis.averaging import chosen_times
from alignvis.errors import AlignvisError
from alignvis.recordings import layouts
from alignvis.recordings.things_eeg2 import prepare
from alignvis.store import load_responses
from tests import slow_things_eeg2 as slow

CONTENT = "preprocessed_eeg_data", "ch_names", "times"


def save(path, data, channels, times, *, bare):
    """Write one preprocessed file: a bare pickle as NICE does, or by numpy as the authors did."""
    content = dict(zip(CONTENT, (data, list(channels), times), strict=True))
    path.parent.mkdir(parents=True, exist_ok=True)
    if bare:
        path.write_bytes(pickle.dumps(content, protocol=4))
    else:
        np.save(path, np.array(content, dtype=object), allow_pickle=True)


def noise(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


KINDS = {
    "NICE": {"channels": slow.NICE, "times": np.arange(-50, 250) / 250, "samples": 250, "bare": True},
    "authors": {"channels": slow.NICE[-17:], "times": np.arange(-20, 80) / 100, "samples": 100, "bare": False},
}


@pytest.fixture
def folders(tmp_path):
    """The files of both parts, of any kind: 6 training and 2 test images; returns (prepare, write)."""
    slow.write_metadata(tmp_path / "images", 3, 2, 2)
    place = tmp_path / "Preprocessed_data" / "sub-03"

    def write(channels, times, samples, bare, shapes=((6, 4), (2, 80))):
        arrays = [noise(*shape, len(channels), samples, seed=seed) for seed, shape in enumerate(shapes)]
        for name, array in zip(("training", "test"), arrays, strict=True):
            save(place / f"preprocessed_eeg_{name}.npy", array, channels, times, bare=bare)
        return arrays

    def run(**options):
        options = {
            "subject": 3,
            "images": tmp_path / "images",
            "out": tmp_path / "out" / "t.safetensors",
            "overwrite": True,
        } | options
        summary = prepare(tmp_path / "Preprocessed_data", **options)
        return load_responses(options["out"]), summary

    return run, write


@pytest.mark.parametrize("kind", KINDS)
def test_values_are_taken_over_as_they_are(folders, kind, monkeypatch):
    run, write = folders
    monkeypatch.setattr(layouts, "VALUES", 200_000)
    train, test = write(**KINDS[kind])
    table, summary = run()
    np.testing.assert_array_equal(table.train, train.astype(np.float32).astype(np.float16))
    np.testing.assert_array_equal(table.test, test.astype(np.float32).astype(np.float16))
    table, _ = run(dtype="float32")
    np.testing.assert_array_equal(table.test, test.astype(np.float32))
    assert table.document["channels"] == list(KINDS[kind]["channels"])
    assert table.train_images[:3] == [
        "training_images/00001_thing0/thing0_00b.jpg",
        "training_images/00001_thing0/thing0_01b.jpg",
        "training_images/00002_thing1/thing1_00b.jpg",
    ]
    assert table.test_images == ["test_images/00001_other0/other0_06s.jpg", "test_images/00002_other1/other1_06s.jpg"]
    assert table.document["sources"][0]["file"] == "sub-03/preprocessed_eeg_training.npy"
    assert table.document["dataset"] == "things-eeg2" and table.document["subject"] == 3
    assert summary["train"] == list(train.shape) and summary["warnings"] == []


def test_the_time_axis_fits_the_samples(folders):
    run, write = folders
    write(**KINDS["NICE"])
    table, _ = run()
    assert (table.document["sfreq"], table.document["tmin"]) == (250.0, 0.0)  # 300 times, 50 of them before the onset
    assert table.document["parameters"]["resampling"] == {"measured_after_nominal_ms": [1.0, 1.0]}
    write(**KINDS["NICE"] | {"times": np.arange(250) / 250})
    table, _ = run()
    assert table.document["parameters"]["resampling"] == {"measured_after_nominal_ms": [1.0, 1.0]}


def test_the_authors_files_tell_the_times_at_which_their_samples_were_measured(folders):
    run, write = folders
    write(**KINDS["authors"])
    for sfreq in (250.0, 100.0):  # asked for: the default, or the rate that the file states
        table, _ = run(sfreq=sfreq)
    with pytest.raises(AlignvisError, match="100 samples a second; for --sfreq 100.098"):
        run(sfreq=100.098)
    document = table.document
    assert document["tmin"] == pytest.approx(-0.2035, abs=5e-5)
    assert 1 / document["sfreq"] == pytest.approx(0.009990, abs=5e-7)
    assert document["parameters"]["resampling"] == {
        "measured_after_nominal_ms": [pytest.approx(-3.5, abs=0.05), pytest.approx(-4.5, abs=0.05)],
        "nominal_tmin": -0.2,
        "nominal_sfreq": 100.0,
    }


def phase_times(frequency, start, end, rate):
    """When mne's resampled samples of one trial were measured, by the phase of a sine around each of them: (s, ms)."""
    onset_at = 3000  # samples into a recording of 7 s
    seconds = (np.arange(7000) - onset_at) / 1000
    waves = np.array([np.sin(2 * np.pi * frequency * seconds), np.cos(2 * np.pi * frequency * seconds)])
    raw = mne.io.RawArray(waves, mne.create_info(2, 1000.0, "eeg"), verbose="error")
    events = np.array([[onset_at, 0, 1]])
    epochs = mne.Epochs(raw, events, tmin=start, tmax=end, baseline=None, preload=True, verbose="error")
    sine, cosine = epochs.resample(rate, verbose="error").get_data(copy=False)[0]
    return np.unwrap(np.arctan2(sine, cosine)) / (2 * np.pi * frequency), epochs.times


@pytest.mark.parametrize(("kind", "end"), [("authors", 0.8), ("NICE", 1.0)])
def test_the_stated_times_are_those_of_a_sine_that_mne_resampled(folders, kind, end):
    run, write = folders
    write(**KINDS[kind])
    document = run()[0].document
    samples, rate = KINDS[kind]["samples"], {"authors": 100, "NICE": 250}[kind]
    measured, nominal = (axis[-samples:] for axis in phase_times(7.0, -0.2, end, rate))
    np.testing.assert_allclose(nominal, KINDS[kind]["times"][-samples:], atol=1e-9)
    middle = slice(samples // 5, -samples // 5)  # the edges of a trial ring
    line = np.polyfit(np.arange(samples)[middle], measured[middle], 1)
    measured = np.polyval(line - [0, round((line[1] - nominal[0]) * 7) / 7], np.arange(samples))  # whole periods off
    stated = document["tmin"] + np.arange(samples) / document["sfreq"]
    late = document["parameters"]["resampling"]["measured_after_nominal_ms"]
    np.testing.assert_allclose(measured, nominal + np.linspace(*late, samples) / 1000, atol=1e-4)
    if kind == "authors":
        np.testing.assert_allclose(measured, stated, atol=1e-4)
        assert np.abs(measured - nominal).min() > 3e-3


def test_a_window_is_chosen_by_the_time_of_measurement(folders):
    run, write = folders
    write(**KINDS["authors"])
    table, _ = run()
    # Sample 20, nominally at 0, was measured 3.7 ms before the image came up.
    assert chosen_times(table, "0:1") == slice(21, 100)
    assert chosen_times(table, "-0.2:0") == slice(1, 21)


def test_times_of_another_making_are_taken_as_they_are_stated(folders):
    run, write = folders
    for times in (np.arange(-20, 80) / 100 + 0.1, np.arange(-10, 90) / 100, np.arange(100) / 100 - 0.2 + 1e-3):
        write(**KINDS["authors"] | {"times": times})
        document = run()[0].document
        assert (document["sfreq"], document["tmin"]) == (100.0, round(float(times[0]), 9))
        assert "resampling" not in document["parameters"]


def test_channels_are_picked_by_name(folders):
    run, write = folders
    train, _ = write(**KINDS["NICE"])
    table, _ = run(channels="Oz,Fp1", dtype="float32")
    np.testing.assert_array_equal(table.train, train[:, :, [61, 0]].astype(np.float32))
    table, _ = run(channels="occipital", dtype="float32")
    np.testing.assert_array_equal(table.train, train[:, :, -17:].astype(np.float32))


def test_sessions_follow_from_the_published_order(folders):
    run, write = folders
    write(**KINDS["NICE"])
    table, _ = run()
    assert table.train_session.tolist() == [[3, 1, 3, 1]] * 6
    assert table.test_session[0].tolist()[:8] == [4, 4, 2, 3, 3, 2, 4, 4]  # 61 73 26 56 42 37 72 78, by twenties
    assert np.bincount(table.test_session[1]).tolist() == [0, 20, 20, 20, 20]
    assert "1 stands for session 1 or 2" in table.document["parameters"]["sessions"]["train"]


def test_sessions_of_other_counts_are_unknown(folders):
    run, write = folders
    write(**KINDS["NICE"], shapes=((6, 2), (2, 40)))
    table, _ = run()
    assert not table.train_session.any() and not table.test_session.any()
    assert table.document["parameters"]["sessions"]["test"] == "unknown, written as 0"


def test_a_published_file_and_the_raw_recordings_give_one_table(tmp_path):
    raw, images = slow.write_subject(tmp_path)
    prepare(raw, subject=1, images=images, out=tmp_path / "raw.safetensors", channels="occipital", sfreq=50.0)
    ours = load_responses(tmp_path / "raw.safetensors")
    tables, times = slow.prepare(raw / "sub-01", channels=slow.NICE[-17:], sfreq=50)
    for part, name in (("train", "training"), ("test", "test")):
        path = tmp_path / "published" / "sub-01" / f"preprocessed_eeg_{name}.npy"
        save(path, tables[part][1], slow.NICE[-17:], times, bare=True)
    prepare(tmp_path / "published", subject=1, images=images, out=tmp_path / "published.safetensors")
    theirs = load_responses(tmp_path / "published.safetensors")
    assert (theirs.train_images, theirs.test_images) == (ours.train_images, ours.test_images)
    assert (theirs.document["sfreq"], theirs.document["tmin"]) == (ours.document["sfreq"], ours.document["tmin"])
    np.testing.assert_allclose(theirs.train, ours.train, rtol=1e-3)
    np.testing.assert_allclose(theirs.test, ours.test, rtol=1e-3, atol=1e-6)
    np.testing.assert_array_equal(theirs.test_session, ours.test_session)
    np.testing.assert_array_equal(theirs.train_session, np.where(ours.train_session <= 2, 1, 3))


@pytest.mark.parametrize("at", [1, 3, 7, 8])
def test_an_interrupted_call_is_continued_to_the_same_bytes(folders, tmp_path, monkeypatch, at):
    run, write = folders
    monkeypatch.setattr(layouts, "VALUES", 70_000)
    write(**KINDS["NICE"])
    run()
    whole = (tmp_path / "out" / "t.safetensors").read_bytes()
    (tmp_path / "out" / "t.safetensors").unlink()
    reports = []

    def interrupt(done, total, text):
        reports.append((done, total))
        if len(reports) == at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(progress=interrupt)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["t.safetensors.partial"]
    reports.clear()
    at = None
    run(progress=interrupt)
    assert (tmp_path / "out" / "t.safetensors").read_bytes() == whole
    assert reports[-1] == (8, 8)


def test_a_finished_file_is_not_read_again_unless_it_changed(folders, tmp_path):
    run, write = folders
    train, test = write(**KINDS["NICE"])

    def interrupt(done, total, text):
        if text == "test images":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(progress=interrupt)
    texts: set[str] = set()
    table, _ = run(progress=lambda done, total, text: texts.add(text))
    assert texts == {"test images"}
    np.testing.assert_array_equal(table.train, train.astype(np.float32).astype(np.float16))
    with pytest.raises(KeyboardInterrupt):
        run(progress=interrupt)
    path = tmp_path / "Preprocessed_data" / "sub-03" / "preprocessed_eeg_training.npy"
    save(path, -train, slow.NICE, KINDS["NICE"]["times"], bare=True)
    table, _ = run()
    np.testing.assert_array_equal(table.train, -train.astype(np.float32).astype(np.float16))
    np.testing.assert_array_equal(table.test, test.astype(np.float32).astype(np.float16))


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"sessions": (1, 2)}, ("--sessions cannot change",)),
        ({"window": (0.0, 0.5)}, (" window cannot change",)),
        ({"repetitions": (1, 20)}, ("--repetitions cannot change",)),
        ({"sfreq": 125.0}, ("250 samples a second", "--sfreq 125")),
        ({"channels": "Oz,Fz"}, ("no channel called 'Fz'",)),
    ],
)
def test_what_was_decided_elsewhere_cannot_be_asked_for(folders, options, parts):
    run, write = folders
    write(**KINDS["NICE"])
    with pytest.raises(AlignvisError) as caught:
        run(**options)
    for part in parts:
        assert part in str(caught.value)


def test_a_file_of_another_kind_is_refused(folders, tmp_path):
    run, write = folders
    train, test = write(**KINDS["NICE"])
    place = tmp_path / "Preprocessed_data" / "sub-03"
    path, times = place / "preprocessed_eeg_training.npy", KINDS["NICE"]["times"]

    def refused(*parts, data=train, channels=slow.NICE, times=times):
        save(path, data, channels, times, bare=True)
        with pytest.raises(AlignvisError) as caught:
            run()
        for part in ("preprocessed_eeg_training.npy", *parts):
            assert part in str(caught.value)
        assert not (tmp_path / "out" / "t.safetensors").exists()

    refused("(24, 63, 250)", data=train.reshape(24, 63, 250))
    refused("expected images, repetitions, channels and times", data=(100 * train).astype(np.int16))
    refused("has 5 images and --images has 6", data=train[:5])
    refused("63 channels", channels=slow.NICE[:-1])
    refused("63 channels", channels=[*slow.NICE[:-1], "Fp1"])
    refused("times do not fit", times=times[:249])
    refused("times do not fit", times=np.arange(-100, 200) / 250)  # trimmed, and yet it would begin before the onset
    refused("times do not fit", times=times[::-1])
    refused("times do not fit", times=np.where(times > 0.5, times + 0.1, times))
    refused("times do not fit", times=list(times))
    refused("differ in their channels", channels=slow.NICE[::-1])
    refused("differ in their channels or times", times=times + 0.1)
    for value in (np.nan, np.inf, 1e6):
        spoiled = train.copy()
        spoiled[4, 1, 2, 3] = value
        refused("channel AF7", "images 1 to 6", data=spoiled)
    np.save(path, train)
    with pytest.raises(
        AlignvisError, match="is a memmap; a preprocessed file of THINGS-EEG2 has preprocessed_eeg_data"
    ):
        run()
    path.unlink()
    with pytest.raises(AlignvisError, match="preprocessed_eeg_training.npy"):
        run()


def test_a_malicious_file_is_refused_and_not_run(folders, tmp_path):
    run, write = folders
    write(**KINDS["NICE"])

    class Malicious:
        def __reduce__(self):
            return (tmp_path.__class__.touch, (tmp_path / "owned",))

    path = tmp_path / "Preprocessed_data" / "sub-03" / "preprocessed_eeg_test.npy"
    path.write_bytes(pickle.dumps({"preprocessed_eeg_data": Malicious(), "ch_names": [], "times": []}, protocol=4))
    with pytest.raises(AlignvisError, match="preprocessed_eeg_test.npy"):
        run()
    assert not (tmp_path / "owned").exists()


def test_raw_sessions_come_first(folders, tmp_path):
    run, write = folders
    write(**KINDS["NICE"])
    (tmp_path / "Preprocessed_data" / "sub-03" / "ses-01").mkdir()
    with pytest.raises(AlignvisError, match="ses-01/raw_eeg_training.npy"):
        run()
