import errno
import hashlib
import json
import shutil
import tempfile

import numpy as np
import pytest

from alignvis.errors import AlignvisError
from alignvis.recordings import epochs
from alignvis.recordings.things_eeg2 import prepare
from alignvis.store import load_responses, read_table
from tests import slow_things_eeg2 as slow


@pytest.fixture(scope="module")
def subject(tmp_path_factory):
    """One subject: 16 training and 2 test images, four sessions, 2 to 4 and 20 to 22 trials of an image in each."""
    return slow.write_subject(tmp_path_factory.mktemp("subject"))


@pytest.fixture(scope="module")
def reference(subject, tmp_path_factory):
    out = tmp_path_factory.mktemp("reference") / "responses" / "sub-01.safetensors"
    summary = prepare(subject[0], subject=1, images=subject[1], out=out)
    return out, summary


TINY = {"concepts": 2, "per_concept": 1, "test": 1, "test_repetitions": 4}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return slow.write_subject(tmp_path_factory.mktemp("tiny"), **TINY)


@pytest.fixture
def copy(tiny, tmp_path):
    """A tiny subject to break: its raw folder, its image folder, and how it is prepared."""
    raw, images = (shutil.copytree(folder, tmp_path / folder.name) for folder in tiny)

    def run(**options):
        options = {
            "sessions": (1, 2),
            "repetitions": (2, 4),
            "out": tmp_path / "out" / "t.safetensors",
            "overwrite": True,
        } | options
        return prepare(raw, **{"subject": 1, "images": images} | options)

    return raw, images, run


def edit(path, change, **content):
    """Write a raw file again after ``change(data)`` and with other names or another rate."""
    data = np.load(path, allow_pickle=True).item()["raw_eeg_data"]
    change(data)
    slow.write_recording(path, data, **content)


OPTIONS = {
    "as published": ({}, {}),
    "the authors' channels, rate and window": (
        {"channels": "occipital", "sfreq": 100.0, "window": (-0.2, 0.8)},
        {"channels": slow.NICE[-17:], "sfreq": 100, "window": (-0.2, 0.8)},
    ),
    "sessions that share some images": (
        {"sessions": (3, 1), "repetitions": (1, 7), "channels": "Oz, Fp1,TP8"},
        {"sessions": (1, 3), "repetitions": (1, 7), "channels": ["Oz", "Fp1", "TP8"]},
    ),
    "half a second at 100 Hz": ({"sfreq": 100.0, "window": (0.0, 0.5)}, {"sfreq": 100, "window": (0.0, 0.5)}),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_the_table_is_what_mne_and_loops_give(subject, tmp_path, monkeypatch, name):
    ours, published = OPTIONS[name]
    monkeypatch.setattr(epochs, "TRIALS", 16)
    raw, images = subject
    prepare(raw, subject=1, images=images, out=tmp_path / "t.safetensors", dtype="float32", **ours)
    table = load_responses(tmp_path / "t.safetensors")
    expected, times = slow.prepare(raw / "sub-01", **published)
    assert table.document["sfreq"] == pytest.approx(1 / np.diff(times).mean())
    assert table.document["tmin"] == pytest.approx(times[0], abs=1e-9)
    assert table.document["channels"] == list(published.get("channels", slow.NICE))
    assert table.document["parameters"]["sessions"] == list(published.get("sessions", (1, 2, 3, 4)))
    metadata = np.load(images / "image_metadata.npy", allow_pickle=True).item()
    for part, folder in (("train", "training_images"), ("test", "test_images")):
        codes, responses, sessions = expected[part]
        ids = [
            f"{folder}/{metadata[f'{part}_img_concepts'][c - 1]}/{metadata[f'{part}_img_files'][c - 1]}" for c in codes
        ]
        assert getattr(table, f"{part}_images") == ids
        np.testing.assert_array_equal(getattr(table, f"{part}_session"), sessions)
        np.testing.assert_allclose(getattr(table, part), responses, rtol=1e-5, atol=1e-5)


def test_half_precision_is_single_precision_rounded_once(subject, reference, tmp_path):
    raw, images = subject
    prepare(raw, subject=1, images=images, out=tmp_path / "t.safetensors", dtype="float32")
    single, half = load_responses(tmp_path / "t.safetensors"), load_responses(reference[0])
    for part in ("train", "test"):
        assert getattr(half, part).dtype == np.float16
        np.testing.assert_array_equal(getattr(half, part), getattr(single, part).astype(np.float16))


def test_what_the_table_says_of_itself(subject, reference):
    raw, _ = subject
    out, summary = reference
    table = load_responses(out)
    document = table.document
    assert document["dataset"] == "things-eeg2" and document["subject"] == 1 and document["simulated"] is False
    assert document["unit"] == "noise standard deviations"
    assert document["channels"] == slow.NICE
    assert (document["sfreq"], document["tmin"]) == (250.0, 0.0)
    assert document["parameters"]["resampling"] == {
        "method": "mne-fft",
        "from": 1000.0,
        "measured_after_nominal_ms": [1.0, 1.0],
    }
    assert document["parameters"]["selection"] == {
        "seed": 20200220,
        "repetitions_in_a_session": {"train": 2, "test": 20},
    }
    assert document["parameters"]["sessions"] == [1, 2, 3, 4]
    assert [source["file"] for source in document["sources"]][:3] == [
        "sub-01/ses-01/raw_eeg_training.npy",
        "sub-01/ses-01/raw_eeg_test.npy",
        "sub-01/ses-02/raw_eeg_training.npy",
    ]
    assert all(source["bytes"] == (raw / source["file"]).stat().st_size for source in document["sources"])
    assert table.train.shape == (16, 4, 63, 250) and table.test.shape == (2, 80, 63, 250)
    assert summary["train"] == [16, 4, 63, 250] and summary["path"] == str(out)
    assert np.isfinite(table.train).all() and np.isfinite(table.test).all()
    assert not (table.train == 0).all(axis=(2, 3)).any() and not (table.test == 0).all(axis=(2, 3)).any()


def test_the_digests_are_those_of_the_sources(subject, reference):
    document, arrays = read_table(reference[0], "responses", {"sources.sha256": ("U8", 2)})
    for source, digest in zip(document["sources"], arrays["sources.sha256"], strict=True):
        content = (subject[0] / source["file"]).read_bytes()
        assert digest.tobytes() == hashlib.sha256(content).digest()


def test_training_noise_is_white(reference):
    train = load_responses(reference[0]).train.astype(np.float64)
    centred = train - train.mean(axis=-1, keepdims=True)
    noise = np.einsum("irct,irdt->cd", centred, centred) / centred[:, :, 0].size
    assert 0.75 < np.diag(noise).min() and np.diag(noise).max() < 1  # the shrinkage takes the rest
    assert np.abs(noise - np.diag(np.diag(noise))).max() < 0.2


# --- going on after an interruption ----------------------------------------------------------------------------------


class Interrupt:
    """Press Ctrl-C at the n-th report of progress; remember the reports."""

    def __init__(self, at=None):
        self.at, self.reports = at, []

    def __call__(self, done, total, text):
        self.reports.append((done, total, text))
        if len(self.reports) == self.at:
            raise KeyboardInterrupt


def test_progress_counts_up_to_its_total(copy):
    _, _, run = copy
    progress = Interrupt()
    run(progress=progress)
    done = [report[0] for report in progress.reports]
    assert done == sorted(done) and {report[1] for report in progress.reports} == {done[-1]}


@pytest.mark.parametrize("at", [1, 2, 3, 4, 6, 10, 12])
def test_an_interrupted_call_is_continued_to_the_same_bytes(subject, reference, tmp_path, at):
    raw, images = subject
    out = tmp_path / "t.safetensors"
    with pytest.raises(KeyboardInterrupt):
        prepare(raw, subject=1, images=images, out=out, progress=Interrupt(at))
    assert [path.name for path in tmp_path.iterdir()] == ["t.safetensors.partial"]
    progress = Interrupt()
    prepare(raw, subject=1, images=images, out=out, progress=progress)
    assert [path.name for path in tmp_path.iterdir()] == ["t.safetensors"]
    assert out.read_bytes() == reference[0].read_bytes()
    already = [text for _, _, text in progress.reports].count("already done")
    assert already == (at - 1) // 3  # three reports a session, one chunk each
    assert progress.reports[-1][0] == progress.reports[-1][1]


def test_a_finished_session_is_not_done_again_unless_its_recording_changed(copy, tmp_path):
    raw, _, run = copy
    path, texts = tmp_path / "out" / "t.safetensors", []
    run()
    whole = path.read_bytes()
    with pytest.raises(KeyboardInterrupt):
        run(progress=Interrupt(4))
    run(progress=lambda done, total, text: texts.append(text))
    assert path.read_bytes() == whole
    assert "already done" in texts and not any(text.startswith("session 1") for text in texts)
    with pytest.raises(KeyboardInterrupt):
        run(progress=Interrupt(4))
    edit(raw / "sub-01" / "ses-01" / "raw_eeg_training.npy", lambda data: np.negative(data[:63], out=data[:63]))
    run()
    continued = path.read_bytes()
    run()
    assert continued == path.read_bytes() != whole


def test_a_recording_that_is_refused_leaves_nothing(copy, tmp_path):
    raw, _, run = copy
    run()
    before = (tmp_path / "out" / "t.safetensors").read_bytes()
    edit(raw / "sub-01" / "ses-02" / "raw_eeg_training.npy", lambda data: data[5].fill(0))
    with pytest.raises(AlignvisError, match="ses-02"):
        run()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["t.safetensors"]
    assert (tmp_path / "out" / "t.safetensors").read_bytes() == before


def test_responses_are_on_the_disk_before_a_digest_says_so(copy, monkeypatch):
    flushed, flush = [], np.memmap.flush

    def remember(array):
        flushed.append(array.shape)
        flush(array)

    monkeypatch.setattr(np.memmap, "flush", remember)
    copy[2]()
    session = [(2, 2, 63, 250), (2, 2), (1, 8, 63, 250), (1, 8), (4, 32)]  # train, test, and last the digests
    assert flushed == 2 * session


def test_other_options_start_afresh(copy, tmp_path):
    _, _, run = copy
    run(window=(0.0, 0.9))
    whole = (tmp_path / "out" / "t.safetensors").read_bytes()
    with pytest.raises(KeyboardInterrupt):
        run(progress=Interrupt(4))
    run(window=(0.0, 0.9))
    assert (tmp_path / "out" / "t.safetensors").read_bytes() == whole


def test_a_full_disk_is_a_sentence(copy, monkeypatch):
    class Full:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

        def write(self, _):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **_: Full())
    with pytest.raises(AlignvisError, match="No space left on device"):
        copy[2]()


# --- simulated subjects, image lists ---------------------------------------------------------------------------------


def test_a_simulated_subject_says_so(copy, tmp_path):
    raw, _, run = copy
    marker = {"simulated": True, "repetitions": {"train": 2, "test": 3}}
    (raw / "sub-01" / "simulated.json").write_text(json.dumps(marker))
    summary = run(repetitions=None)
    table = load_responses(tmp_path / "out" / "t.safetensors")
    assert table.document["simulated"] is True and table.document["dataset"] == "things-eeg2-simulated"
    assert table.train.shape[:2] == (2, 2) and table.test.shape[:2] == (1, 6)
    assert summary["warnings"] == []


def test_a_recording_of_another_size_than_the_published_is_remarked_on(copy):
    warnings = copy[2]()["warnings"]
    assert len(warnings) == 4
    assert warnings[0].startswith(
        "sub-01/ses-01/raw_eeg_training.npy: 4 trials of 1 images, 4 to 4 of each; the published"
    )


def test_trials_without_their_end_are_left_out_and_counted(copy, tmp_path):
    raw, _, run = copy
    path = raw / "sub-01" / "ses-01" / "raw_eeg_training.npy"
    run()
    whole = load_responses(tmp_path / "out" / "t.safetensors").train[:, 0].copy()

    def early(data):
        data[63, 100] = 1

    edit(path, early)
    summary = run()
    assert (
        "sub-01/ses-01/raw_eeg_training.npy: 1 trials were left out, as the recording begins or ends"
        in summary["warnings"][0]
    )
    np.testing.assert_array_equal(load_responses(tmp_path / "out" / "t.safetensors").train[:, 0], whole)


def test_left_out_trials_are_counted(subject, tmp_path):
    summary = prepare(*subject[:1], subject=1, images=subject[1], out=tmp_path / "t.safetensors", sessions=(1, 3))
    table = load_responses(tmp_path / "t.safetensors")
    assert table.train.shape[1] == 2 and table.test.shape[1] == 40
    shared = 2 * 8 - len(table.train_images)
    assert 0 < shared < 8
    assert summary["warnings"][-1].startswith(f"{2 * shared} train trials were left out")


def test_without_metadata_the_sorted_folders_are_the_codes(copy, tmp_path):
    raw, images, run = copy
    run()
    named = load_responses(tmp_path / "out" / "t.safetensors")
    for image in [*named.train_images, *named.test_images]:
        (images / image).parent.mkdir(parents=True)
        (images / image).touch()
        (images / image).with_name(".DS_Store").touch()
    (images / "image_metadata.npy").unlink()
    with pytest.raises(AlignvisError, match="training_images holds 2 pictures, and the event codes count 16540"):
        run()
    marker = {"simulated": True, "repetitions": {"train": 2, "test": 4}}
    (raw / "sub-01" / "simulated.json").write_text(json.dumps(marker))
    run()
    listed = load_responses(tmp_path / "out" / "t.safetensors")
    assert (listed.train_images, listed.test_images) == (named.train_images, named.test_images)
    np.testing.assert_array_equal(listed.train, named.train)


# --- what is refused -------------------------------------------------------------------------------------------------


def refuses(run, *parts, **options):
    with pytest.raises(AlignvisError) as caught:
        run(**options)
    for part in parts:
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_wrong_folder_is_described(copy, tmp_path):
    raw, images, run = copy
    refuses(run, "sub-07", "raw holds sub-01", subject=7)
    (tmp_path / "nothing").mkdir()

    def elsewhere(folder):
        return lambda **_: prepare(folder, subject=1, images=images, out=tmp_path / "t.safetensors")

    refuses(elsewhere(tmp_path / "nothing"), "nothing is empty")
    refuses(elsewhere(tmp_path / "absent"), "absent is no folder")
    refuses(elsewhere(raw / "sub-01"), "holds ses-01, ses-02, ses-03, ses-04")
    assert not (tmp_path / "t.safetensors.partial").exists()


def test_a_missing_session_or_file_is_named(copy):
    raw, _, run = copy
    (raw / "sub-01" / "ses-02" / "raw_eeg_test.npy").unlink()
    refuses(run, "no file", "ses-02/raw_eeg_test.npy", "holds raw_eeg_training.npy")
    shutil.rmtree(raw / "sub-01" / "ses-02")
    refuses(run, "no folder", "ses-02", "holds ses-01, ses-03, ses-04", "--sessions")


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"sessions": (1, 5)}, "--sessions"),
        ({"sessions": (1, 1)}, "--sessions"),
        ({"sessions": ()}, "--sessions"),
        ({"sfreq": 1000.0}, "--sfreq 1000"),
        ({"sfreq": 0.0}, "--sfreq 0"),
        ({"sfreq": float("nan")}, "--sfreq nan"),
        ({"window": (0.5, 0.5)}, "window 0.5 0.5"),
        ({"window": (-0.5, 0.0)}, "window -0.5 0"),
        ({"window": (0.0, 1e9)}, "window 0 1e+09"),
        ({"window": (0.98, 1.0), "sfreq": 5.0}, "shorter than one sample"),
        ({"dtype": "float64"}, "'float64'"),
        ({"repetitions": (0, 4)}, "--repetitions"),
        ({"channels": "Oz,Xx"}, "no channel called 'Xx'"),
        ({"channels": "stim"}, "no channel called 'stim'"),
        ({"channels": "Oz,O1,Oz"}, "Oz more than once"),
        ({"channels": ""}, "no channel called ''"),
    ],
)
def test_impossible_options_are_named(copy, options, part):
    refuses(copy[2], part, **options)


def test_an_image_with_too_few_trials_is_named(copy):
    raw, _, run = copy
    refuses(
        run,
        "ses-01/raw_eeg_test.npy",
        "session 1",
        "has 7 whole trials",
        "00001_other0",
        "--repetitions",
        repetitions=(2, 8),
    )
    refuses(run, "ses-01/raw_eeg_training.npy", "session 1", "--repetitions", repetitions=(9, 4))


def test_an_image_without_a_trial_is_named(copy):
    raw, images, run = copy
    slow.write_metadata(images, 3, 1, 1)
    refuses(
        run, "1 of the 3 train images", "ses-01/raw_eeg_training.npy and", "training_images/00003_thing2/thing2_00b.jpg"
    )
    run(sessions=(1, 3))  # neither pair is complete, so nothing is missing
    slow.write_metadata(images, 2, 1, 2)
    refuses(run, "1 of the 2 test images", "ses-01/raw_eeg_test.npy", "test_images/00002_other1/other1_06s.jpg")


def test_a_code_beyond_the_images_is_named(copy):
    _, images, run = copy
    slow.write_metadata(images, 1, 1, 1)
    refuses(run, "raw_eeg_training.npy", "code 2", "pictures for 1 to 1")


def test_an_image_folder_of_another_dataset_is_refused(copy):
    raw, images, run = copy
    np.save(images / "image_metadata.npy", np.array({"images": ["a.jpg"]}, dtype=object), allow_pickle=True)
    refuses(run, "image_metadata.npy has no list of names called train_img_concepts")
    np.save(images / "image_metadata.npy", np.arange(3))
    refuses(run, "image_metadata.npy is no image metadata")
    (images / "image_metadata.npy").unlink()
    (images / "object_images").mkdir()
    refuses(run, "neither image_metadata.npy nor training_images/", "images holds object_images")


@pytest.mark.parametrize("name", ["../secret", "..", "a\\b", "", 3])
def test_an_image_name_that_leaves_the_folder_is_refused(copy, name):
    _, images, run = copy
    path = images / "image_metadata.npy"
    metadata = np.load(path, allow_pickle=True).item()
    np.save(path, np.array(metadata | {"test_img_files": [name]}, dtype=object), allow_pickle=True)
    refuses(run, "test_img_files")


def test_image_lists_that_do_not_fit_are_refused(copy):
    _, images, run = copy
    path = images / "image_metadata.npy"
    metadata = np.load(path, allow_pickle=True).item()
    for change, part in (
        ({"test_img_files": ["a.jpg", "b.jpg"]}, "1 concepts and 2 files"),
        ({"test_img_files": ["a.jpg"] * 2, "test_img_concepts": ["a"] * 2}, "twice"),
    ):
        np.save(path, np.array(metadata | change, dtype=object), allow_pickle=True)
        refuses(run, part)


@pytest.mark.parametrize("value", [np.nan, np.inf, -1e300])
@pytest.mark.parametrize("name", ["training", "test"])
def test_a_sample_that_is_no_voltage_is_named(copy, value, name):
    raw, _, run = copy
    row = slow.RECORDED.index("POz")

    def spoil(data):
        data[row, 600] = value

    edit(raw / "sub-01" / "ses-02" / f"raw_eeg_{name}.npy", spoil)
    refuses(run, f"ses-02/raw_eeg_{name}.npy", "session 2", "POz", "sample 600")


def test_a_broken_sample_between_trials_does_no_harm(copy, tmp_path):
    raw, _, run = copy
    path = raw / "sub-01" / "ses-01" / "raw_eeg_training.npy"

    def pause(data):  # a trial at 300 .. 1300, one at 4200, and nothing between
        data[63] = 0
        data[63, [300, 4200 - 2000]] = np.unique(codes)[:1]
        data[0, 1350] = np.nan

    data = np.load(path, allow_pickle=True).item()["raw_eeg_data"]
    codes = data[63][(data[63] > 0) & (data[63] < 99999)]
    long = np.concatenate([data, data], axis=1)
    pause(long)
    slow.write_recording(path, long)
    run()
    assert np.isfinite(load_responses(tmp_path / "out" / "t.safetensors").train).all()


def test_a_dead_channel_is_named(copy):
    raw, _, run = copy
    row = slow.RECORDED.index("FT9")

    def die(data):
        data[row] = 0.0123

    edit(raw / "sub-01" / "ses-02" / "raw_eeg_training.npy", die)
    refuses(run, "ses-02/raw_eeg_training.npy", "session 2", "channel FT9 is dead")
    run(channels="occipital")


def test_values_too_large_for_half_precision_are_refused(copy, tmp_path):
    raw, _, run = copy
    row = slow.RECORDED.index("Cz")

    def pop(data):
        data[row, 900:] = 5.0

    edit(raw / "sub-01" / "ses-01" / "raw_eeg_test.npy", pop)
    refuses(run, "ses-01/raw_eeg_test.npy", "session 1", "noise standard deviations", "--float32")
    run(dtype="float32")
    assert np.abs(load_responses(tmp_path / "out" / "t.safetensors").test).max() > 65504


def test_a_file_that_is_no_recording_is_refused(copy):
    raw, images, run = copy
    path = raw / "sub-01" / "ses-01" / "raw_eeg_training.npy"
    data = np.load(path, allow_pickle=True).item()["raw_eeg_data"]
    shutil.copy(images / "image_metadata.npy", path)
    refuses(run, "raw_eeg_training.npy has train_img_concepts", "a raw recording of THINGS-EEG2 has raw_eeg_data")
    np.save(path, data)
    refuses(run, "is a memmap", "raw_eeg_data")
    slow.write_recording(path, data[:50])
    refuses(run, "raw_eeg_data is (50, 2400)", "each of the 64 channel names")
    slow.write_recording(path, data, names=[*slow.RECORDED, "trigger"])
    refuses(run, "'stim'")
    slow.write_recording(path, data, names=[*slow.RECORDED[:-1], "Fp1", "stim"])
    refuses(run, "each channel once")
    slow.write_recording(path, data, names=[*slow.RECORDED[:-1], "A8", "stim"])
    refuses(run, "no channel called 'AF8'", "A8")
    slow.write_recording(path, data, names=[*slow.RECORDED[:-1], 8, "stim"])
    refuses(run, "no list of channel names")
    slow.write_recording(path, data, sfreq="1000")
    refuses(run, "sfreq is '1000'")
    slow.write_recording(path, data, sfreq=500)
    refuses(run, "differ in their samples a second", "500 in sub-01/ses-01/raw_eeg_training.npy")
    data[63] = 0
    slow.write_recording(path, data)
    refuses(run, "raw_eeg_training.npy: its stimulus channel has no picture in it")


@pytest.mark.parametrize(
    "text", ["{}", "[]", '{"repetitions": {"train": 2, "test": 0}}', '{"repetitions": {"train": true}}']
)
def test_a_broken_marker_is_refused(copy, text):
    raw, _, run = copy
    (raw / "sub-01" / "simulated.json").write_text(text)
    refuses(run, "simulated.json", "simulate again", repetitions=None)


def test_chunks_cover_all_trials_in_order_and_are_small():
    onsets = np.sort(np.random.default_rng(0).integers(0, 10**6, 5000))
    slices = list(epochs.chunks(onsets))
    np.testing.assert_array_equal(np.concatenate([onsets[chunk] for chunk in slices]), onsets)
    assert max(len(onsets[chunk]) for chunk in slices) <= 128
    assert max(np.ptp(onsets[chunk]) for chunk in slices) < 2**16
    assert len(list(epochs.chunks(np.array([0, 10**9, 10**9 + 1])))) == 2
