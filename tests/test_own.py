import json
import shutil

import numpy as np
import pytest
from click.testing import CliRunner

from alignvis.cli import main
from alignvis.errors import AlignvisError
from alignvis.recordings import own_noise
from alignvis.recordings.own import prepare
from alignvis.recordings.own_events import check_parts, read_events
from alignvis.recordings.own_files import choose, open_any
from alignvis.store import load_responses
from tests import raw_files as files
from tests import slow_own as slow

NAMES = "Fp1 Fp2 C3 C4 P7 P8 O1 O2".split()
RATE = 500
TRAIN, TEST = [f"train/cat_{k}.jpg" for k in range(9)], [f"test/dog_{k}.jpg" for k in range(2)]


def brain(seed, seconds=45, channels=8, rate=RATE):
    """Volts of correlated noise with drifts and offsets, and trials at odd moments: 3 of a training image, 4 of a test
    image, one more of the first of each."""
    rng = np.random.default_rng(seed)
    samples = seconds * rate
    drift = np.cumsum(rng.standard_normal((channels, samples)), axis=1)
    mixed = (np.eye(channels) + 0.2 * rng.standard_normal((channels, channels))) @ (
        8 * rng.standard_normal((channels, samples)) + 0.1 * drift
    )
    shown = [(image, "train") for image in [*TRAIN * 3, TRAIN[0]]] + [(image, "test") for image in [*TEST * 4, TEST[0]]]
    onsets = 1.5 + np.cumsum(0.9 + 0.25 * rng.random(len(shown)))
    rows = [(round(t, 4), *shown[k]) for t, k in zip(onsets, rng.permutation(len(shown)), strict=True)]
    return 1e-6 * (mixed + 40 * rng.standard_normal((channels, 1))), rows


@pytest.fixture(scope="module")
def sessions():
    return [brain(seed) for seed in (1, 2)]


@pytest.fixture
def make(tmp_path, sessions):
    """Write both sessions by a writer, prepare them, and give the table and what was said: `make(write, **options)`."""
    tables = [files.write_events(tmp_path / f"{k}.tsv", rows) for k, (_, rows) in enumerate(sessions)]

    def run(write, ending, volts=None, events=tables, **options):
        volts = volts or [voltage for voltage, _ in sessions]
        raws = [write(tmp_path / f"{k}{ending}", voltage, NAMES, RATE) for k, voltage in enumerate(volts)]
        out = tmp_path / "out" / "t.safetensors"
        asked = {"subject": 1, "dataset": "mine", "out": out, "dtype": "float32", "overwrite": True} | options
        said = prepare(raws, events=events, **asked)
        return load_responses(out), said, raws

    return run


def fif(path, *rest, **options):
    return files.write_fif(path, *rest, **{"skipped": 1234} | options)


def fdt(*rest):
    return files.write_set(*rest, beside=True, flat=True)


def zipped(*rest):
    return files.write_set(*rest, compressed=True, single=False)


WRITERS = {
    "FIF": (fif, "_raw.fif"),
    "BrainVision": (files.write_brainvision, ".vhdr"),
    "BrainVision, floats": (lambda *rest: files.write_brainvision(*rest, float32=True, vectorized=True), ".vhdr"),
    "EDF": (files.write_edf, ".edf"),
    "BDF": (files.write_edf, ".bdf"),
    "EEGLAB": (files.write_set, ".set"),
    "EEGLAB, samples beside": (fdt, ".set"),
    "EEGLAB, compressed": (zipped, ".set"),
}
OPTIONS = {
    "default": ({}, {}),
    "as recorded": ({"whiten": False}, {"treat": "leave"}),
    "scaled": ({"channels": ",".join(NAMES), "_few": True}, {"treat": "scale"}),
    "other window, no baseline": (
        {"window": (-0.1, 0.6), "baseline": None, "sfreq": 125.0, "repetitions": (2, 3)},
        {"window": (-0.1, 0.6), "baseline": None, "sfreq": 125, "repetitions": (2, 3)},
    ),
    "a late window at the recording's rate": (
        {"window": (0.1, 0.5), "baseline": (-0.1, 0.0), "sfreq": 500.0, "channels": "O2,Fp1"},
        {"window": (0.1, 0.5), "baseline": (-0.1, 0.0), "sfreq": None, "channels": ["O2", "Fp1"]},
    ),
}


def equal(table, expected, times, scale=1.0, tolerance=2e-6):
    for part in ("train", "test"):
        ids, values, numbers = expected[part]
        assert getattr(table, f"{part}_images") == ids
        np.testing.assert_array_equal(getattr(table, f"{part}_session"), numbers)
        got = getattr(table, part)
        assert got.shape == values.shape
        np.testing.assert_allclose(got, scale * values, rtol=0, atol=tolerance * np.abs(scale * values).max())
    assert table.document["tmin"] == pytest.approx(times[0], abs=1e-9)
    assert table.document["sfreq"] == pytest.approx(1 / np.diff(times).mean())


@pytest.mark.parametrize("kind", WRITERS)
def test_the_table_is_what_mne_and_loops_give_from_files_of_any_kind(make, sessions, kind):
    table, said, raws = make(*WRITERS[kind])
    expected, times = slow.prepare(raws, [rows for _, rows in sessions], NAMES)
    equal(table, expected, times)
    assert table.document["channels"] == NAMES and table.document["unit"] == "noise standard deviations"
    assert said["train"] == [9, 6, 8, 250] and said["test"] == [2, 8, 8, 250]
    assert said["warnings"] == [
        "2 train trials were left out: 6 of each image are kept, and images have 6 to 8",
        "2 test trials were left out: 8 of each image are kept, and images have 8 to 10",
    ]


@pytest.mark.parametrize("name", OPTIONS)
def test_the_table_is_what_mne_and_loops_give_whatever_is_asked(make, sessions, name, monkeypatch):
    ours, theirs = (dict(options) for options in OPTIONS[name])
    if ours.pop("_few", False):
        monkeypatch.setattr("alignvis.recordings.own._method", lambda *rest: (own_noise.SCALED, "too few"))
    table, said, raws = make(*WRITERS["FIF"], **ours)
    expected, times = slow.prepare(raws, [rows for _, rows in sessions], theirs.pop("channels", NAMES), **theirs)
    equal(table, expected, times, 1e6 if ours.get("whiten") is False else 1.0)
    units = {"as recorded": "microvolts", "scaled": "channel standard deviations"}
    assert table.document["unit"] == units.get(name, "noise standard deviations")


def test_one_recording_in_any_format_is_one_table(make):
    tables = {kind: make(*WRITERS[kind], whiten=False) for kind in WRITERS}
    tables = {kind: np.array(table.train) for kind, (table, *_) in tables.items()}
    reference = tables["FIF"]
    resolution = {"BrainVision": 0.1, "EDF": 0.1}  # microvolts of a step; floats and 24 bits are much finer
    for kind, values in tables.items():
        assert np.abs(values - reference).max() < resolution.get(kind, 2e-3), kind


@pytest.mark.parametrize("whiten", [None, True])
def test_the_unit_of_the_recording_cancels(make, sessions, whiten):
    table, *_ = make(*WRITERS["FIF"], whiten=whiten)
    before = np.array(table.train)
    table, *_ = make(*WRITERS["FIF"], volts=[1e6 * volts for volts, _ in sessions], whiten=whiten)
    np.testing.assert_allclose(table.train, before, rtol=1e-4, atol=1e-5)


def test_later_onsets_in_later_data_change_nothing(make, sessions, tmp_path):
    before = np.array(make(*WRITERS["FIF"])[0].train)
    rng = np.random.default_rng(5)
    volts, tables = [], []
    for number, (voltage, rows) in enumerate(sessions):
        volts.append(np.concatenate([1e-5 * rng.standard_normal((8, 3 * RATE)), voltage], axis=1))
        rows = [(round(onset + 3, 4), image, split) for onset, image, split in rows]
        tables.append(files.write_events(tmp_path / f"later{number}.tsv", rows))
    table, *_ = make(*WRITERS["FIF"], volts=volts, events=tables)
    np.testing.assert_array_equal(table.train, before)


def test_the_order_of_lines_and_channels_in_files_does_not_matter(make, sessions, tmp_path):
    table, *_ = make(*WRITERS["FIF"], channels="O1,C3,Fp1")
    before = np.array(table.train)
    tables = [
        files.write_events(tmp_path / f"r{k}.tsv", [(s, "x", i, o) for o, i, s in rows[::-1]],
                           names=("split", "other", "stim_file", "onset"))
        for k, (_, rows) in enumerate(sessions)
    ]  # fmt: skip

    def turned(path, volts, names, rate):
        return fif(
            path, volts[::-1] if path.name[0] == "1" else volts, names[::-1] if path.name[0] == "1" else names, rate
        )

    table, *_ = make(turned, "_raw.fif", events=tables, channels="O1,C3,Fp1")
    np.testing.assert_array_equal(table.train, before)


@pytest.mark.parametrize("whiten", [None, False])
def test_small_pieces_make_the_same_table(make, monkeypatch, whiten):
    whole = make(*WRITERS["EDF"], whiten=whiten)[0]
    whole = {part: np.array(getattr(whole, part)) for part in ("train", "test")}
    monkeypatch.setattr(own_noise, "VALUES", 20_000)  # 4 trials of 601 samples, 5 s
    pieces = make(*WRITERS["EDF"], whiten=whiten)[0]
    for part, values in whole.items():
        np.testing.assert_allclose(getattr(pieces, part), values, rtol=0, atol=1e-6 * np.abs(values).max())


def test_a_planted_response_is_found(tmp_path):
    rng = np.random.default_rng(0)
    volts, rows = brain(3, channels=8)
    shape = np.exp(-((np.arange(300) / RATE - 0.2) ** 2) / (2 * 0.03**2))  # at 200 ms after onset
    patterns = {image: rng.standard_normal(8) for image in TRAIN + TEST}
    for onset, image, _ in rows:
        first = round(onset * RATE)
        volts[:, first : first + 300] += 3e-5 * patterns[image][:, None] * shape
    raw = files.write_brainvision(tmp_path / "a.vhdr", volts, NAMES, RATE)
    events = files.write_events(tmp_path / "a.tsv", rows)
    prepare([raw], events=[events], subject=1, dataset="mine", out=tmp_path / "t.safetensors", whiten=False)
    table = load_responses(tmp_path / "t.safetensors")
    mean = table.train.astype(np.float64).mean(axis=1)
    wanted = np.array([patterns[image] for image in table.train_images])
    likeness = [np.corrcoef(mean[:, :, t].ravel(), wanted.ravel())[0, 1] for t in range(mean.shape[2])]
    best = table.document["tmin"] + np.argmax(likeness) / table.document["sfreq"]
    assert max(likeness) > 0.9 and 0.17 < best < 0.23 and max(likeness[:10]) < 0.6


def test_whitened_noise_is_white_and_a_common_response_stays(tmp_path):
    volts, rows = brain(4, seconds=45)
    for onset, _, _ in rows:  # the same for every image: no noise, and so not taken for it
        volts[6, round(onset * RATE) + 50 : round(onset * RATE) + 100] += 2e-4
    raw = files.write_fif(tmp_path / "a_raw.fif", volts, NAMES, RATE)
    events = files.write_events(tmp_path / "a.tsv", rows)
    prepare([raw], events=[events], subject=1, dataset="mine", out=tmp_path / "t.safetensors", dtype="float32")
    train = load_responses(tmp_path / "t.safetensors").train.astype(np.float64)
    noise = train - train.mean(axis=1, keepdims=True)
    noise -= noise.mean(axis=-1, keepdims=True)
    covariance = np.einsum("irct,irdt->cd", noise, noise) / (noise[:, :, 0].size * 2 / 3)  # of 3, 2 are free
    np.testing.assert_allclose(covariance, np.eye(8), atol=0.15)
    assert train[..., 25:50].mean(axis=(0, 1, 3)).max() > 5


# --- what is left out ------------------------------------------------------------------------------------------------


@pytest.fixture
def one(tmp_path, sessions):
    """One session as FIF, prepared from other events or annotations: returns (table, warnings)."""
    volts, rows = sessions[0]

    def run(rows=rows, write=files.write_fif, ending="_raw.fif", volts=volts, names=NAMES, writing=None, **options):
        raw = write(tmp_path / f"one{ending}", volts, list(names), RATE, **writing or {})
        events = files.write_events(tmp_path / "one.tsv", rows)
        out = tmp_path / "out" / "one.safetensors"
        asked = {"subject": 1, "dataset": "mine", "out": out, "dtype": "float32", "overwrite": True} | options
        said = prepare([raw], events=[events], **asked)
        return load_responses(out), said["warnings"]

    return run


def test_trials_at_the_ends_of_the_recording_are_left_out(one, sessions):
    volts, rows = sessions[0]
    samples = volts.shape[1]
    edges = [100, 99, samples - 501, samples - 500]  # a trial has 100 samples before its onset and 500 after
    extra = [(edge / RATE, "train/edge.jpg", "train") for edge in edges]
    table, warnings = one(rows + extra, whiten=False)
    assert table.train.shape[1] == 2 and table.train_images[-1] == "train/edge.jpg"
    assert "2 trials of one_raw.fif were left out, as the recording begins or ends within them" in warnings


@pytest.mark.parametrize(
    ("write", "ending", "marks"),
    [
        (fif, "_raw.fif", lambda a, b: {"annotations": [(a, b - a, "bad_muscle")]}),
        (
            files.write_brainvision,
            ".vhdr",
            lambda a, b: {"markers": [("Bad Interval", "BAD", round(a * RATE), round((b - a) * RATE))]},
        ),
        (files.write_set, ".set", lambda a, b: {"events": [("BAD", a * RATE + 1, (b - a) * RATE)]}),
    ],
)
def test_trials_that_touch_what_is_bad_are_left_out(one, write, ending, marks):
    # Onsets at 5, 8, 11, ... s; trials from 0.2 s before to 1 s after. Bad is 7.5 to 7.8 s: up to the very first sample
    # of the second trial, and 12 s to 12.2 s: from the last sample of the third.
    images = [(TRAIN + TEST)[k % 11] for k in range(12)]
    rows = [(5 + 3 * k, image, image.split("/")[0]) for k, image in enumerate(images)]
    whole, _ = one(rows, write, ending, whiten=False)
    assert whole.train.shape[:2] == (9, 1)
    table, warnings = one(rows, write, ending, writing=marks(7.5, 7.8), whiten=False)
    assert table.train_images == whole.train_images and not [w for w in warnings if "bad" in w]
    table, warnings = one(rows, write, ending, writing=marks(7.5, 7.802), whiten=False)
    assert TRAIN[1] not in table.train_images and len(table.train_images) == 8
    assert f"1 trials of one{ending} were left out, as they touch what is marked as bad or an interruption" in warnings
    table, _ = one(rows, write, ending, writing=marks(12.0, 12.2), whiten=False)
    assert TRAIN[2] not in table.train_images and len(table.train_images) == 8
    table, _ = one(rows, write, ending, writing=marks(12.002, 12.2), whiten=False)
    assert table.train_images == whole.train_images


@pytest.mark.parametrize(
    ("write", "ending", "marks"),
    [
        (fif, "_raw.fif", lambda sample: {"annotations": [(sample / RATE, 0, "EDGE boundary")]}),
        (files.write_brainvision, ".vhdr", lambda sample: {"markers": [("New Segment", "", sample, 1)]}),
        (files.write_set, ".set", lambda sample: {"events": [("boundary", sample + 0.5, 900.0)]}),
    ],
)
def test_no_trial_goes_across_an_interruption(one, write, ending, marks):
    images = [(TRAIN + TEST)[k % 11] for k in range(11)]
    rows = [(5 + 3 * k, image, image.split("/")[0]) for k, image in enumerate(images)]
    for sample, left_out in ((2400, False), (2401, True), (3000, True), (3001, False)):  # samples of the first trial
        table, _ = one(rows, write, ending, writing=marks(sample), whiten=False)
        assert (TRAIN[0] not in table.train_images) == left_out, sample


def test_channels_that_the_recording_calls_bad_are_left_out_unless_named(one):
    table, warnings = one(writing={"bads": ["C3"]})
    assert "C3" not in table.document["channels"] and len(table.document["channels"]) == 7
    assert "channel C3 was left out, as a recording calls it bad" in warnings
    table, warnings = one(writing={"bads": ["C3"]}, channels="C3,O1")
    assert table.document["channels"] == ["C3", "O1"] and not [w for w in warnings if "calls it bad" in w]


def test_slow_channels_of_an_edf_are_left_out(one):
    table, warnings = one(write=files.write_edf, ending=".edf", writing={"slow": ("Temp",)})
    assert table.document["channels"] == NAMES
    assert any("fewer samples a second than the others (Temp)" in warning for warning in warnings)


def test_lines_with_nothing_in_them_are_skipped(one, sessions):
    rows = sessions[0][1]
    more = [("n/a", "x.jpg", "train"), (3.0, "n/a", "test"), (3.5, "y.jpg", "n/a")]
    table, warnings = one(rows + more)
    assert table.train_images == TRAIN
    assert "3 lines of one.tsv were skipped, as a value in them is n/a" in warnings


# --- channels --------------------------------------------------------------------------------------------------------


def test_channels_by_kind_and_by_name(tmp_path):
    names = ["MLO11-1609", "MLF11-1609", "MRO12-1609", "MLO99", "Oz", "EOG", "TRIG"]
    kinds = ["mag", "mag", "mag", "grad", "eeg", "eog", "stim"]
    path = files.write_fif(tmp_path / "a_raw.fif", 1e-6 * np.ones((7, 2000)), names, 200, kinds=kinds)
    recording = open_any(path, 1)
    assert choose([recording], "all")[0] == names[:3]
    assert choose([recording], "meg")[0] == names[:4] and choose([recording], "grad")[0] == ["MLO99"]
    assert choose([recording], "eeg")[0] == ["Oz"]
    assert choose([recording], "occipital")[0] == ["MLO11-1609", "MRO12-1609"]
    assert choose([recording], " EOG,Oz ")[0] == ["EOG", "Oz"]
    for option, sentence in (
        ("TRIG", "no channel called 'TRIG'"),
        ("Fz", "no channel called 'Fz'.*MLO11-1609,MLF11-1609"),
        ("seeg", "no channels for --channels seeg; it has 3 mag, 1 grad, 1 eeg, 1 eog, 1 stim"),
        ("Oz,Oz", "names Oz more than once"),
    ):
        with pytest.raises(AlignvisError, match=sentence):
            choose([recording], option)


def test_magnetometers_are_kept_in_femtotesla(one):
    volts = 1e-13 * np.random.default_rng(0).standard_normal((8, 45 * RATE))
    names = [f"MLO{k}-1" for k in range(8)]
    table, _ = one(
        volts=volts, names=names, writing={"kinds": ["mag"] * 4 + ["grad"] * 4}, whiten=False, channels="meg"
    )
    assert table.document["unit"] == "femtotesla and femtotesla per centimetre"
    assert 40 < np.std(table.train[:, :, :4]) < 120 and 0.4 < np.std(table.train[:, :, 4:]) < 1.2
    table, _ = one(volts=volts, names=names, writing={"kinds": ["mag"] * 4 + ["grad"] * 4}, whiten=False,
                   channels="MLO7-1,MLO0-1")  # fmt: skip
    assert 0.4 < np.std(table.train[:, :, 0]) < 1.2 and 40 < np.std(table.train[:, :, 1]) < 120


# --- sessions of several recordings ----------------------------------------------------------------------------------


def of(part, rows):
    return [row for row in rows if row[2] == part]


def pieces(volts, rows, at):
    """Two recordings that a longer one could have been, cut at a whole second; each holds its trials as a whole."""
    first, second = volts[:, : (at + 1) * RATE + 10], volts[:, (at - 1) * RATE :]
    later = [(round(onset - at + 1, 4), image, split) for onset, image, split in rows if onset >= at]
    return [(first, [row for row in rows if row[0] < at]), (second, later)]


def grouped(a, b, name):
    """Recordings and the numbers of their sessions, from two whole ones."""
    return {
        "training and test apart": ([(a[0], of("train", a[1])), (b[0], of("test", b[1]))], [1, 1]),
        "test before training": ([(b[0], of("test", b[1])), (a[0], of("train", a[1]))], [7, 7]),
        "both mixed": ([a, b], [255, 255]),
        "two and two, in turn": (
            [piece for each in zip(pieces(*a, 20), pieces(*b, 15), strict=True) for piece in each],
            [9, 2, 9, 2],
        ),
        "a later session first": ([b, *pieces(*a, 25)], [3, 1, 1]),
    }[name]


GROUPS = ("training and test apart", "test before training", "both mixed", "two and two, in turn",
          "a later session first")  # fmt: skip


@pytest.fixture
def group(tmp_path, sessions):
    """Prepare recordings that share sessions: `group(recordings, numbers, **options)` gives table, what was said, files
    and events."""

    def run(recordings, numbers, **options):
        raws = [fif(tmp_path / f"g{k}_raw.fif", volts, NAMES, RATE) for k, (volts, _) in enumerate(recordings)]
        events = [files.write_events(tmp_path / f"g{k}.tsv", rows) for k, (_, rows) in enumerate(recordings)]
        out = tmp_path / "out" / "g.safetensors"
        asked = {"subject": 1, "dataset": "mine", "out": out, "dtype": "float32", "overwrite": True} | options
        said = prepare(raws, events=events, sessions=numbers, **asked)
        return load_responses(out), said, raws, events

    return run


@pytest.mark.parametrize("treat", ["whiten", "scale", "leave"])
@pytest.mark.parametrize("name", GROUPS)
def test_recordings_of_one_session_share_its_noise_as_mne_and_loops_say(group, sessions, name, treat, monkeypatch):
    recordings, numbers = grouped(*sessions, name)
    if treat == "scale":
        monkeypatch.setattr("alignvis.recordings.own._method", lambda *rest: (own_noise.SCALED, ""))
    table, _, raws, _ = group(recordings, numbers, whiten=False if treat == "leave" else None)
    expected, times = slow.prepare(raws, [rows for _, rows in recordings], NAMES, treat=treat, numbers=numbers)
    equal(table, expected, times, 1e6 if treat == "leave" else 1.0)
    assert table.document["parameters"]["sessions"] == sorted(set(numbers))
    assert set(np.unique(table.test_session)) == set(numbers)


@pytest.mark.parametrize("at", [14, 30])
@pytest.mark.parametrize("whiten", [None, False])
def test_a_recording_cut_in_two_is_one_session_with_the_same_table(group, sessions, at, whiten):
    whole = group([sessions[0]], None, whiten=whiten)[0]
    before = {part: np.array(getattr(whole, part)) for part in ("train", "test")}
    table, said, *_ = group(pieces(*sessions[0], at), [1, 1], whiten=whiten)
    for part, values in before.items():
        np.testing.assert_allclose(getattr(table, part), values, rtol=0, atol=1e-6 * np.abs(values).max())
        np.testing.assert_array_equal(getattr(table, f"{part}_session"), getattr(whole, f"{part}_session"))
    assert not [warning for warning in said["warnings"] if "begins or ends" in warning]


def test_repetitions_are_in_order_of_session_recording_and_time(group, sessions):
    recordings = [*pieces(*sessions[0], 20), sessions[1]]
    recordings = [
        (volts, [(3.0, TRAIN[0], "train"), (6.0, TEST[0], "test"), (9.0, TRAIN[0], "train"), (12.0, TEST[0], "test")])
        for volts, _ in recordings
    ]
    alone = [group([recording], None, whiten=False)[0] for recording in recordings]
    alone = {part: [np.array(getattr(table, part)) for table in alone] for part in ("train", "test")}
    for numbers, order in (([2, 1, 1], [1, 2, 0]), ([5, 9, 5], [0, 2, 1]), ([3, 3, 3], [0, 1, 2])):
        table = group(recordings, numbers, whiten=False)[0]
        for part, values in alone.items():
            np.testing.assert_array_equal(getattr(table, part), np.concatenate([values[k] for k in order], axis=1))
            shown = [numbers[k] for k in order for _ in range(2)]
            assert getattr(table, f"{part}_session").tolist() == [shown]


def test_recordings_of_one_session_may_differ_in_the_order_of_their_channels(tmp_path, sessions):
    tables = []
    for turn in (1, -1):
        raws = [fif(tmp_path / f"{k}{turn}_raw.fif", volts[::step], NAMES[::step], RATE)
                for k, ((volts, _), step) in enumerate(zip(sessions, (1, turn), strict=True))]  # fmt: skip
        events = [files.write_events(tmp_path / f"{k}.tsv", rows) for k, (_, rows) in enumerate(sessions)]
        out = tmp_path / f"{turn}.safetensors"
        prepare(raws, events=events, sessions=[1, 1], subject=1, dataset="mine", out=out, dtype="float32")
        tables.append(load_responses(out))
    np.testing.assert_array_equal(tables[0].train, tables[1].train)
    np.testing.assert_array_equal(tables[0].test, tables[1].test)


def test_numbers_of_sessions_change_nothing_but_themselves(group, sessions):
    table = group(list(sessions), None)[0]
    values, numbers = np.array(table.train), np.array(table.train_session)
    table = group(list(sessions), [3, 200])[0]
    np.testing.assert_array_equal(table.train, values)
    np.testing.assert_array_equal(table.train_session, np.where(numbers == 1, 3, 200))


@pytest.mark.parametrize("whiten", [None, True])
@pytest.mark.parametrize("enough", [True, False])
def test_a_session_of_test_images_alone_is_refused(group, sessions, whiten, enough):
    (volts, rows), (other, more) = sessions
    if not enough:  # noise of the first session cannot be told either
        rows = [(onset, f"train/{k}.jpg" if split == "train" else image, split) for k, (onset, image, split) in
                enumerate(rows)]  # fmt: skip
    apart = [(volts, rows), (other, of("test", more))]
    with pytest.raises(
        AlignvisError, match="session 8 has no training trial.*into one session.*--session, or.*--no-whi"
    ):
        group(apart, [4, 8], whiten=whiten)
    group(apart, [4, 8], whiten=False)
    if enough:
        assert group(apart, [4, 4], whiten=whiten)[0].document["unit"] == "noise standard deviations"


def test_repetitions_beyond_the_first_are_counted_over_a_session(group, sessions):
    """Each recording shows each image once; only together do they repeat."""
    once = [
        (volts, list({image: (onset, image, split) for onset, image, split in rows}.values()))
        for volts, rows in sessions
    ]
    said = group(once, None)[1]
    assert any("session 1 has 0 training trials beyond the first of each image" in text for text in said["warnings"])
    assert group(once, [1, 1])[0].document["unit"] == "noise standard deviations"  # 9 beyond for 8 channels
    fewer = [once[0], (once[1][0], [row for row in once[1][1] if row[1] not in TRAIN[:2]])]
    table, said, *_ = group(fewer, [1, 1])
    assert table.document["unit"] == "channel standard deviations"
    assert any("session 1 has 7 training trials beyond the first" in text for text in said["warnings"])


@pytest.mark.parametrize("whiten", [None, False])
@pytest.mark.parametrize("name", GROUPS)
def test_small_pieces_make_the_same_table_of_shared_sessions(group, sessions, name, whiten, monkeypatch):
    recordings, numbers = grouped(*sessions, name)
    whole = group(recordings, numbers, whiten=whiten)[0]
    whole = {part: np.array(getattr(whole, part)) for part in ("train", "test")}
    monkeypatch.setattr(own_noise, "VALUES", 20_000)
    table = group(recordings, numbers, whiten=whiten)[0]
    for part, values in whole.items():
        np.testing.assert_allclose(getattr(table, part), values, rtol=0, atol=1e-6 * np.abs(values).max())


@pytest.mark.parametrize(
    ("name", "at"),
    [*(("test before training", at) for at in (2, 5, 8)), *(("two and two, in turn", at) for at in (3, 8, 13, 18))],
)
def test_an_interrupted_call_on_shared_sessions_is_continued(group, sessions, name, at, tmp_path, monkeypatch):
    monkeypatch.setattr(own_noise, "VALUES", 60_000)
    monkeypatch.setattr("alignvis.recordings.filling.CHECKPOINT", 0.0)
    recordings, numbers = grouped(*sessions, name)
    *_, raws, events = group(recordings, numbers)
    out, reports = tmp_path / "out" / "g.safetensors", []
    whole = out.read_bytes()
    out.unlink()

    def interrupt(done, total, text, note=""):
        reports.append((done, total, text))
        if len(reports) == at:
            raise KeyboardInterrupt

    options = {"events": events, "sessions": numbers, "subject": 1, "dataset": "mine", "dtype": "float32", "out": out}
    with pytest.raises(KeyboardInterrupt):
        prepare(raws, progress=interrupt, **options)
    at = None
    reports.clear()
    prepare(raws, progress=interrupt, **options)
    assert out.read_bytes() == whole
    done = [report[0] for report in reports]
    assert done == sorted(done) and {report[1] for report in reports} == {done[-1]}
    # noise is told once a session, however many recordings that has
    told = [text for _, _, text in reports if text.startswith("noise")]
    assert told == sorted(told) and {text.split()[-1] for text in told} <= {str(number) for number in numbers}


@pytest.mark.parametrize("whiten", [None, False])
def test_progress_ends_at_its_total_where_a_session_has_nothing_that_is_kept(group, sessions, whiten):
    reports, options = [], {"repetitions": (2, 3), "whiten": whiten}
    group(list(sessions), [1, 2], progress=lambda *said, **more: reports.append(said), **options)
    kept = 9 * 2 + 2 * 3
    assert reports[-1][0] == kept if whiten is False else reports[-1][0] > kept
    assert reports[-1][0] == reports[-1][1] and {said[1] for said in reports} == {reports[-1][1]}


def test_another_grouping_is_another_table(group, sessions):
    group(list(sessions), None)
    assert group(list(sessions), [1, 2], overwrite=False)[1]["kept"]
    with pytest.raises(AlignvisError, match=r"was made with sessions \[1, 2\], and sessions \[1, 1\] is asked for"):
        group(list(sessions), [1, 1], overwrite=False)


def test_a_dead_channel_of_a_shared_session_is_named_with_its_files(group, sessions):
    dead = [volts.copy() for volts, _ in sessions]
    for volts in dead:
        volts[3] = 1e-5
    recordings = [(dead[0], of("train", sessions[0][1])), (dead[1], sessions[1][1])]
    with pytest.raises(AlignvisError, match=r"g0_raw.fif, \S*g1_raw.fif \(session 6\): channel C4 is dead"):
        group(recordings, [6, 6])
    recordings[1] = dead[1], of("test", sessions[1][1])
    with pytest.raises(AlignvisError, match=r"^\S*g0_raw.fif \(session 6\): channel C4 is dead"):
        group(recordings, [6, 6])


@pytest.mark.parametrize(
    ("numbers", "sentence"),
    [
        ([1], "there are 2 recordings and 1 numbers of sessions; give --session once for each --raw"),
        ([1, 1, 2], "there are 2 recordings and 3 numbers of sessions"),
        ([], "there are 2 recordings and 0 numbers of sessions"),
        ([1, 0], "no room for a session 0, as a table numbers sessions from 1 to 255"),
        ([256, 1], "no room for a session 256"),
    ],
)
def test_numbers_that_name_no_sessions_are_refused(group, sessions, numbers, sentence):
    with pytest.raises(AlignvisError, match=sentence):
        group(list(sessions), numbers)


def test_the_command_takes_a_session_for_each_recording(tmp_path, sessions):
    words = ["--root", str(tmp_path), "prepare", "mne", "--subject", "1", "--float32"]
    for k, (volts, rows) in enumerate(sessions):
        raw = fif(tmp_path / f"c{k}_raw.fif", volts, NAMES, RATE)
        events = files.write_events(tmp_path / f"c{k}.tsv", of(("train", "test")[k], rows))
        words += ["--raw", str(raw), "--events", str(events)]

    def said(*more, code):
        result = CliRunner().invoke(main, words + [str(word) for word in more])
        assert result.exit_code == code, result.output
        return result.output

    assert "session 2 has no training trial" in said(code=1)
    assert "2 recordings and 1 numbers of sessions" in said("--session", 1, code=1)
    assert "256 is not in the range 1<=x<=255" in said("--session", 256, "--session", 1, code=2)
    said("--session", 5, "--session", 5, code=0)
    table = load_responses(tmp_path / "responses" / "own" / "sub-01.safetensors")
    assert np.unique(table.test_session).tolist() == [5] and table.document["sfreq"] == 250
    assert table.document["asked"]["sfreq"] is None


def test_a_slow_recording_keeps_its_rate_unless_told_otherwise(one, sessions):
    volts, rows = sessions[0][0][:, ::4], sessions[0][1]  # 125 samples a second
    slower = lambda path, volts, names, rate: fif(path, volts, names, rate / 4)  # noqa: E731
    table, _ = one(rows, slower, volts=volts)
    assert table.document["sfreq"] == 125 and table.train.shape[-1] == 125
    assert table.document["parameters"]["resampling"]["method"] == "none"
    values = np.array(table.train)
    np.testing.assert_array_equal(one(rows, slower, volts=volts, sfreq=125.0)[0].train, values)
    with pytest.raises(AlignvisError, match="has 125 samples a second, and --sfreq 250"):
        one(rows, slower, volts=volts, sfreq=250.0)
    assert one()[0].document["sfreq"] == 250 and one(sfreq=500.0)[0].document["sfreq"] == 500


# --- whitening -------------------------------------------------------------------------------------------------------


def test_it_is_whitened_where_repetitions_allow_it(one, sessions):
    rows = [row for row in sessions[0][1] if row[2] == "test"]
    single = [(image_row[0], f"train/only_{k}.jpg", "train") for k, image_row in
              enumerate(row for row in sessions[0][1] if row[2] == "train")]  # fmt: skip
    pairs = [(onset, f"train/pair_{k % 20}.jpg", split) for k, (onset, _, split) in enumerate(single)]  # 8 beyond 20
    table, warnings = one(rows + pairs)
    assert table.document["unit"] == "noise standard deviations"
    fewer = [(o, f"train/pair_{k % 21}.jpg", s) for k, (o, _, s) in enumerate(single)]  # 7 beyond: channels are 8
    table, warnings = one(rows + fewer)
    assert table.document["unit"] == "channel standard deviations"
    assert any("7 training trials beyond the first of each image" in w and "8 channels" in w for w in warnings)
    assert table.document["parameters"]["whitening"]["method"] == "standard deviation"
    train = table.train.astype(np.float64)
    assert one(rows + fewer, whiten=True)[0].document["unit"] == "noise standard deviations"
    table, _ = one(rows + single)
    np.testing.assert_allclose(table.train.std(axis=(0, 1, 3)), 1, rtol=1e-5)
    assert train.shape[1] == 1
    with pytest.raises(AlignvisError, match="0 training trials beyond the first of each image.*leave --whiten out"):
        one(rows + single, whiten=True)


def test_an_image_shown_once_tells_nothing_about_noise(one, sessions, tmp_path):
    rows = [row for row in sessions[0][1] if row[1] != TRAIN[-1]]
    once = [row for row in sessions[0][1] if row[1] == TRAIN[-1]][:1]
    table, _ = one(rows + once)
    expected, times = slow.prepare([tmp_path / "one_raw.fif"], [rows + once], NAMES)
    assert table.train.shape[:2] == (9, 1)
    equal(table, expected, times)


def test_test_trials_do_not_reach_the_noise(one, sessions):
    volts, rows = sessions[0]
    table, _ = one()
    train = np.array(table.train)
    louder = volts.copy()
    tests = [row for row in rows if row[2] == "test"]
    trains = [round(row[0] * RATE) for row in rows if row[2] == "train"]
    for onset, *_ in tests:
        begin, end = round(onset * RATE), round(onset * RATE) + 400
        clear = np.ones(end - begin, dtype=bool)
        for other in trains:
            clear[max(0, other - 101 - begin) : max(0, other + 502 - begin)] = False
        louder[:, begin:end][:, clear] *= 5
    assert (louder != volts).any()
    table, _ = one(volts=louder)
    np.testing.assert_array_equal(table.train, train)


def test_a_dead_channel_is_named(one, sessions):
    volts = sessions[0][0].copy()
    volts[3] = 1e-5
    with pytest.raises(AlignvisError, match=r"one_raw.fif \(session 1\): channel C4 is dead"):
        one(volts=volts)
    few = [(row[0], f"{row[2]}/{k}.jpg", row[2]) for k, row in enumerate(sessions[0][1])]
    with pytest.raises(AlignvisError, match=r"one_raw.fif \(session 1\): channel C4 never changes"):
        one(few, volts=volts)


# --- going on, and what is there -------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [1, 4, 9, 12, 15])
def test_an_interrupted_call_is_continued_to_the_same_bytes(make, tmp_path, monkeypatch, at):
    monkeypatch.setattr(own_noise, "VALUES", 60_000)
    monkeypatch.setattr("alignvis.recordings.filling.CHECKPOINT", 0.0)
    make(*WRITERS["BrainVision"])
    out = tmp_path / "out" / "t.safetensors"
    whole, reports = out.read_bytes(), []
    out.unlink()
    raws = [tmp_path / f"{k}.vhdr" for k in (0, 1)]
    options = {"events": [tmp_path / f"{k}.tsv" for k in (0, 1)], "subject": 1, "dataset": "mine", "dtype": "float32"}

    def interrupt(done, total, text, note=""):
        reports.append((done, total, text))
        if len(reports) == at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(raws, out=out, progress=interrupt, **options)
    assert [path.name for path in out.parent.iterdir()] == ["t.safetensors.partial"]
    at = None
    reports.clear()
    prepare(raws, out=out, progress=interrupt, **options)
    assert out.read_bytes() == whole
    done = [report[0] for report in reports]
    assert done == sorted(done) and {report[1] for report in reports} == {done[-1]}


def test_what_is_there_is_kept_unless_something_else_is_asked_for(make, tmp_path, sessions):
    _, said, _ = make(*WRITERS["FIF"])
    assert not said["kept"]
    assert make(*WRITERS["FIF"], overwrite=False)[1]["kept"]
    with pytest.raises(AlignvisError, match="was made with whiten None, and whiten False is asked for"):
        make(*WRITERS["FIF"], overwrite=False, whiten=False)
    files.write_events(tmp_path / "0.tsv", sessions[0][1][1:])
    with pytest.raises(AlignvisError, match=r"was made with events \['0.tsv \("):
        make(*WRITERS["FIF"], overwrite=False)


def test_what_the_table_says_of_itself(make, tmp_path):
    table, said, _ = make(*WRITERS["EEGLAB, samples beside"], dataset="mine-simulated", subject=7)
    document = table.document
    assert (document["dataset"], document["subject"], document["simulated"]) == ("mine-simulated", 7, True)
    assert make(*WRITERS["FIF"])[0].document["simulated"] is False
    assert [source["file"] for source in document["sources"]] == ["0.set", "0.fdt", "1.set", "1.fdt", "0.tsv", "1.tsv"]
    assert document["parameters"]["resampling"] == {
        "method": "mne-fft",
        "from": 500.0,
        "measured_after_nominal_ms": [2.0, 2.0],
    }
    assert document["parameters"]["whitening"]["method"] == "mvnn"
    assert str(tmp_path) not in json.dumps(document)
    assert said["path"].endswith("t.safetensors") and said["dtype"] == "float32"


# --- refusals --------------------------------------------------------------------------------------------------------

TABLES = {
    "": "is empty",
    "\n \n": "is empty",
    "onset\timage\n1\ta.jpg\n": "line 1: there is no column called split",
    "onset,image,split\n1,a.jpg,train\n": "line 1: there is no column called onset.*with tabs between them",
    "onset\tonset\timage\tsplit\n": "line 1: two columns are called onset",
    "onset\timage\tsplit\n": "names no trial",
    "onset\timage\tsplit\n1\ta.jpg\n": "line 2: it has 2 values",
    "onset\timage\tsplit\n1\ta.jpg\ttrain\n\n2\tb.jpg\tval\n": "line 4: its split is 'val'",
    "onset\timage\tsplit\n1\t\ttrain\n": "line 2: its image is empty",
    "onset\timage\tsplit\none\ta.jpg\ttrain\n": "line 2: its onset 'one' is no number",
    "onset\timage\tsplit\n1,5\ta.jpg\ttrain\n": "line 2: its onset '1,5' is no number",
    "onset\timage\tsplit\n1_0\ta.jpg\ttrain\n": "line 2: its onset '1_0' is no number",
    "onset\timage\tsplit\nnan\ta.jpg\ttrain\n": "line 2: its onset 'nan' is no number",
    "onset\timage\tsplit\n1e999\ta.jpg\ttrain\n": "line 2: its onset '1e999' is no number",
    "onset\timage\tsplit\n-1\ta.jpg\ttrain\n": "line 2: its onset -1 s lies before",
    "onset\timage\tsplit\n1\t../a.jpg\ttrain\n": "line 2: '../a.jpg' is no path below the image folder",
    "onset\timage\tsplit\n1\ta/./b.jpg\ttrain\n": "line 2: 'a/./b.jpg' is no path",
    "onset\timage\tsplit\n1\t/a.jpg\ttrain\n": "line 2: '/a.jpg' is no path",
    "onset\timage\tsplit\n1\tC:/a.jpg\ttrain\n": "line 2: 'C:/a.jpg' is no path",
    "onset\timage\tsplit\n1\ta\\b.jpg\ttrain\n": r"line 2: 'a\\\\b.jpg' is no path",
    "onset\timage\tsplit\n1\ta\x00b.jpg\ttrain\n": "line 2: .* is no path",
    'onset\timage\tsplit\n1\t"a.jpg"\ttrain\n': "line 2: there is a quotation mark",
    "onset\timage\tsplit\n1\ta.jpg\ttrain\n2\tb.jpg\ttest\n1.0\tc.jpg\ttest\n": "line 4: .* the onset 1 s of line 2",
}


@pytest.mark.parametrize("text", TABLES)
def test_an_events_table_with_a_mistake_is_refused_with_its_line(tmp_path, text):
    (tmp_path / "e.tsv").write_text(text)
    with pytest.raises(AlignvisError, match=f"e.tsv.*{TABLES[text]}"):
        read_events(tmp_path / "e.tsv")


def test_tables_of_other_programs(tmp_path):
    path = tmp_path / "e.csv"
    path.write_bytes(b'\xef\xbb\xbfimage,"onset",note,split\r\n"a, b.jpg", 2.5,"x\r\ny",train\r\nc.jpg,.5,,test\r\n')
    events = read_events(path)
    assert (events.images, events.onsets.tolist(), events.parts.tolist()) == (["c.jpg", "a, b.jpg"], [0.5, 2.5], [1, 0])
    assert events.lines.tolist() == [4, 2]
    path.write_bytes(b'image,onset,split\n"a"b,1,train\n')
    with pytest.raises(AlignvisError, match="line 2: it is no line of a csv table"):
        read_events(path)
    path.write_bytes("onset\timage\tsplit\n".encode("utf-16"))
    with pytest.raises(AlignvisError, match="line 1: this is no UTF-8 text"):
        read_events(path)
    with pytest.raises(AlignvisError, match="there is no events table"):
        read_events(tmp_path / "none.tsv")


def test_an_image_in_both_parts_is_refused_with_both_lines(tmp_path):
    first = files.write_events(tmp_path / "a.tsv", [(1, "x.jpg", "train"), (2, "y.jpg", "test"), (3, "x.jpg", "test")])
    with pytest.raises(AlignvisError, match="a.tsv, line 4: 'x.jpg' is a test image here and a train image in line 2;"):
        check_parts([read_events(first)])
    files.write_events(first, [(1, "x.jpg", "train")])
    second = files.write_events(tmp_path / "b.tsv", [(1, "x.jpg", "test")])
    with pytest.raises(AlignvisError, match="b.tsv, line 2: .*in line 2 of .*a.tsv"):
        check_parts([read_events(path) for path in (first, second)])
    with pytest.raises(AlignvisError, match="b.tsv, line 2: 'x.jpg' is a test image here"):
        prepare(["a.fif", "b.fif"], events=[first, second], subject=1, dataset="mine", out=tmp_path / "t.safetensors")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"sfreq": 501.0}, "has 500 samples a second, and --sfreq 501"),
        ({"sfreq": 0.0}, "--sfreq 0"),
        ({"window": (0.5, 0.2)}, "window 0.5 0.2"),
        ({"baseline": (0.0, -0.1)}, "baseline 0 -0.1"),
        ({"baseline": (-2.0, 0.0)}, "baseline -2 0"),
        (
            {"repetitions": (3, 99)},
            "the test image 'test/dog_1.jpg' has 4 whole trials, and 99 were.*lower --repetitions",
        ),
        ({"repetitions": (0, 1)}, "--repetitions has to be at least 1"),
        ({"dtype": "float64"}, "not 'float64'"),
        ({"dataset": "../x"}, "'../x' cannot name a dataset"),
        ({"subject": 0}, "subject 0"),
        ({"channels": "Cz"}, "no channel called 'Cz'"),
        ({"rows": [(1.0, "a.jpg", "train")]}, "no whole trial of a test image"),
        ({"rows": [(1.0, "a.jpg", "test"), (44.9, "b.jpg", "train")]}, "no whole trial of a train image"),
        (
            {"rows": [(1.0, "a.jpg", "test"), (45.0, "b.jpg", "train")]},
            "line 3: its onset 45 s lies beyond the end of one",
        ),
    ],
)
def test_what_cannot_be_is_refused(one, options, sentence):
    with pytest.raises(AlignvisError, match=sentence):
        one(**options)


def test_recordings_that_do_not_fit_together_are_refused(tmp_path, sessions):
    volts, rows = sessions[0]
    events = files.write_events(tmp_path / "e.tsv", rows)
    options = {"subject": 1, "dataset": "mine", "out": tmp_path / "t.safetensors"}
    first = files.write_brainvision(tmp_path / "a.vhdr", volts, NAMES, RATE)
    with pytest.raises(AlignvisError, match="1 recordings and 2 events tables"):
        prepare([first], events=[events, events], **options)
    with pytest.raises(AlignvisError, match="a.vhdr is given more than once"):
        prepare([first, first], events=[events, events], **options)
    other = files.write_brainvision(tmp_path / "b.vhdr", volts, [*NAMES[:-1], "Iz"], RATE)
    with pytest.raises(AlignvisError, match="b.vhdr has no channel called 'O2'"):
        prepare([first, other], events=[events, events], **options)
    other = files.write_brainvision(tmp_path / "b.vhdr", volts, NAMES, 250)
    with pytest.raises(AlignvisError, match="500 in a.vhdr, 250 in b.vhdr"):
        prepare([first, other], events=[events, files.write_events(tmp_path / "f.tsv", rows[:5])], **options)
    only = files.write_events(tmp_path / "f.tsv", [row for row in rows if row[2] == "test"])
    other = files.write_brainvision(tmp_path / "b.vhdr", volts, NAMES, RATE)
    with pytest.raises(AlignvisError, match="session 2 has no training trial"):
        prepare([first, other], events=[events, only], **options)
    prepare([first, other], events=[events, only], **options, whiten=False)


def test_other_files_are_named_for_what_they_are(tmp_path, sessions):
    volts = sessions[0][0][:, :3000]
    files.write_brainvision(tmp_path / "a.vhdr", volts, NAMES, RATE)
    for name, sentence in (
        ("a.eeg", "is a part of a recording; give the .vhdr"),
        ("a.vmrk", "give the .vhdr"),
        ("a.txt", "of no kind that is known here; BrainVision"),
        ("b.vhdr", "there is no file"),
        ("b.ds", "there is no folder"),
        ("b.fif", "there is no file"),
    ):
        with pytest.raises(AlignvisError, match=sentence):
            open_any(tmp_path / name, 1)
    (tmp_path / "c.ds").mkdir()
    with pytest.raises(AlignvisError, match="holds no c.res4"):
        open_any(tmp_path / "c.ds", 1)
    (tmp_path / "c.ds" / "c.res4").write_bytes(b"MEG41RS" + bytes(3000))
    (tmp_path / "c.ds" / "c.meg4").write_bytes(b"MEG41CP" + bytes(3000))
    with pytest.raises(AlignvisError, match="c.res4 is damaged: it declares 0 channels"):
        open_any(tmp_path / "c.ds", 1)


DAMAGES = {
    "BrainVision: no samples beside": (".vhdr", ".eeg", lambda data: None, "'d.eeg', which is not beside it"),
    "BrainVision: cut": (".vhdr", ".eeg", lambda data: data[:-1], "no whole number of samples of 8 channels"),
    "BrainVision: too many channels": (
        ".vhdr", ".vhdr", lambda d: d.replace(b"Channels=8", b"Channels=999999999"), "999999999 channels and names 8"),
    "BrainVision: escapes": (
        ".vhdr", ".vhdr", lambda d: d.replace(b"DataFile=d", b"DataFile=../d"), "'../d.eeg', which is not beside it"),
    "BrainVision: text": (".vhdr", ".vhdr", lambda d: d.replace(b"BINARY", b"ASCII"), "keeps its samples as text"),
    "BrainVision: no rate": (".vhdr", ".vhdr", lambda d: d.replace(b"2000.0", b"x"), "as SamplingInterval"),
    "BrainVision: something else": (".vhdr", ".vhdr", lambda d: b"RIFF" + d, "does not begin like a header"),
    "EDF: cut": (".edf", ".edf", lambda d: d[:-9000], "declares 6 records and holds 4"),
    "EDF: many channels": (".edf", ".edf", lambda d: d[:252] + b"9999" + d[256:], "declares 9999 channels"),
    "EDF: many records": (".edf", ".edf", lambda d: d[:236] + b"99999999" + d[244:], "declares 99999999 records"),
    "EDF: interrupted": (".edf", ".edf", lambda d: d[:192] + b"EDF+D" + d[197:], "is interrupted"),
    "EDF: no range": (".edf", ".edf", lambda d: d[:1088] + d[1088 : 1088 + 8] * 16 + d[1216:], "ranges from"),
    "BDF: empty": (".bdf", ".bdf", lambda d: b"", "as number of channels"),
    "EEGLAB: cut": (".set", ".set", lambda d: d[:-100], "is no whole recording of EEGLAB"),
    "EEGLAB: no MATLAB file": (".set", ".set", lambda d: b"\0" * 200, "does not begin like a MATLAB file"),
    "EEGLAB: 7.3": (".set", ".set", lambda d: b"MATLAB 7.3 MAT-file" + d[19:], "saved in MATLAB's version 7.3"),
    "FIF: cut": ("_raw.fif", "_raw.fif", lambda d: d[:-5000], "d_raw.fif"),
    "FIF: something else": ("_raw.fif", "_raw.fif", lambda d: b"x" * 999, "d_raw.fif is no FIF"),
}  # fmt: skip
BY_ENDING = {
    ".vhdr": files.write_brainvision,
    ".edf": files.write_edf,
    ".bdf": files.write_edf,
    ".set": files.write_set,
    "_raw.fif": files.write_fif,
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_recording_is_refused_with_a_sentence(tmp_path, sessions, name):
    ending, which, damage, sentence = DAMAGES[name]
    path = BY_ENDING[ending](tmp_path / f"d{ending}", sessions[0][0][:, :3000], NAMES, RATE)
    broken = tmp_path / f"d{which}"
    content = damage(broken.read_bytes())
    broken.unlink()
    if content is not None:
        broken.write_bytes(content)
    with pytest.raises(AlignvisError, match=sentence):
        open_any(path, 1)


def test_a_compressed_bomb_is_refused(tmp_path, sessions):
    path = files.write_set(tmp_path / "d.set", np.zeros((8, 2_000_000)), NAMES, RATE, compressed=True)
    assert path.stat().st_size < 2e5
    with pytest.raises(AlignvisError, match="expands to more than 200 times its size"):
        open_any(path, 1)


def test_a_recording_of_eeglab_whose_samples_were_renamed_is_read(tmp_path, sessions):
    volts = sessions[0][0][:, :3000]
    path = files.write_set(tmp_path / "a.set", volts, NAMES, RATE, beside=True)
    moved = tmp_path / "b.set"
    shutil.copy(path, moved)
    with pytest.raises(AlignvisError) as caught:
        (tmp_path / "a.fdt").rename(tmp_path / "c.fdt")
        open_any(moved, 1)
    assert "'a.fdt', which is not beside it" in str(caught.value)
    (tmp_path / "c.fdt").rename(tmp_path / "b.fdt")
    recording = open_any(moved, 1)
    np.testing.assert_allclose(recording.data[np.arange(8), 0:3000], volts * 1e6, rtol=1e-6)
    (tmp_path / "b.fdt").write_bytes((tmp_path / "b.fdt").read_bytes()[:-4])
    with pytest.raises(AlignvisError, match="b.fdt has 95,996 bytes, and the 8 channels and 3000 samples"):
        open_any(moved, 1)


@pytest.mark.parametrize("ending", [*BY_ENDING, "z.set"])
def test_whatever_bytes_are_changed_there_is_a_recording_or_one_sentence(tmp_path, sessions, ending):
    rng = np.random.default_rng(len(ending))
    write = zipped if ending == "z.set" else BY_ENDING[ending]
    path = write(tmp_path / f"m{ending}", sessions[0][0][:, :1000], NAMES, RATE)
    target = path.with_suffix(".vmrk") if ending == ".vhdr" else path
    for broken in {path, target}:
        content = broken.read_bytes()
        for trial in range(60):
            changed = bytearray(content)
            if trial % 6 == 0:
                changed = changed[: rng.integers(len(changed))]
            else:
                head = min(len(changed), 4000)
                for place in rng.integers(head, size=rng.integers(1, 6)):
                    changed[place] = rng.integers(256) if trial % 2 else rng.choice(list(b"0123456789-.e\xff\x7f"))
            broken.write_bytes(changed)
            try:
                recording = open_any(path, 1)
                recording.data[np.arange(len(recording.channels)), 0 : min(100, recording.samples)]
            except AlignvisError as error:
                assert path.stem in str(error)
        broken.write_bytes(content)


def test_eyes_and_hearts_are_no_brains_even_where_a_format_calls_all_channels_eeg(tmp_path):
    volts = 1e-5 * np.random.default_rng(0).standard_normal((5, 1200))
    path = files.write_edf(tmp_path / "a.edf", volts, ["O1", "VEOG", "Oz", "ecg1", "Status"], 200.0)
    recording = open_any(path, 1)
    for option in ("all", "eeg"):
        names, notes = choose([recording], option)
        assert names == ["O1", "Oz"] and any("VEOG, ecg1" in note and "left out" in note for note in notes)
    assert choose([recording], "O1,VEOG")[0] == ["O1", "VEOG"]
