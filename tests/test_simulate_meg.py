import json
import shutil

import mne
import numpy as np
import pytest
from PIL import Image
from scipy.special import ndtr

from alignvis.errors import AlignvisError
from alignvis.recordings.ceiling import best_scores
from alignvis.recordings.drawing import FACTORS
from alignvis.recordings.fif import check_fif
from alignvis.recordings.meg_brain import (
    COMMON,
    drives,
    error_covariance,
    fields,
    make_meg_brain,
    sensors,
    standardise,
)
from alignvis.recordings.simulate_meg import simulate_things_meg
from alignvis.recordings.things_meg import prepare
from alignvis.store import load_responses
from tests import slow_things_meg as slow

SMALL = {"concepts": 4, "test": 2, "catch": 1, "parts": 3, "noise": 1000.0}
RAW = "raw/derivatives/preprocessed"
SET = "images/things-meg-simulated"
FIRST = "preprocessed_P1-epo.fif"


def contents(folder):
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    folder = tmp_path_factory.mktemp("small") / "out"
    summary = simulate_things_meg(folder, **SMALL)
    assert summary["bytes"] == sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    return folder


@pytest.fixture(scope="module")
def epochs(small):
    return mne.read_epochs(small / RAW / FIRST, preload=True, verbose="error")


# --- the published layout ---


def test_chain_is_as_published(small, epochs):
    assert sorted(path.name for path in (small / RAW).glob("*.fif")) == [
        "preprocessed_P1-epo-1.fif", "preprocessed_P1-epo-2.fif", FIRST,
    ]  # fmt: skip
    assert len(epochs) == 12 * (4 + 2 + 1) and epochs.get_data(copy=False).shape[1:] == (271, 281)
    assert (
        epochs.info["sfreq"] == 200
        and epochs.times[0] == pytest.approx(-0.1)
        and epochs.times[-1] == pytest.approx(1.3)
    )
    assert set(epochs.get_channel_types()) == {"mag"} and epochs.info["dev_head_t"] is None
    names = epochs.ch_names
    assert len(set(names)) == 271 and all(name[0] == "M" and name.endswith("-1609") for name in names)
    assert {name[1] for name in names} == set("LRZ") and {name[2] for name in names} == set("CFOPT")
    assert "MRO11-1609" not in names and sum(name[2] == "O" for name in names) == 39
    assert (np.diff(epochs.events[:, 0]) > 0).all()


def test_trials_are_described_as_published(small, epochs):
    rows = epochs.metadata
    assert all(list(row) == slow.COLUMNS for row in rows)
    kinds = np.array([row["trial_type"] for row in rows])
    assert [(kinds == kind).sum() for kind in ("exp", "test", "catch")] == [48, 24, 12]
    for row, code in zip(rows, epochs.events[:, 2], strict=True):
        if row["trial_type"] == "catch":
            assert code == 999999 and row["category_nr"] is None and row["things_image_nr"] is None
            continue
        assert code == row["things_image_nr"] != row["image_nr"]
        assert (row["test_image_nr"] is None) == (row["trial_type"] == "exp")
        if row["trial_type"] == "exp":
            assert row["image_nr"] == (row["category_nr"] - 1) * 12 + row["exemplar_nr"]
    shown = [(row["session_nr"], row["run_nr"], row["onset"]) for row in rows]
    assert shown == sorted(shown) and {session for session, _, _ in shown} == set(range(1, 13))
    pairs = {(row["things_image_nr"], row["image_path"]) for row in rows if row["trial_type"] != "catch"}
    assert len({number for number, _ in pairs}) == len({path for _, path in pairs}) == len(pairs) == 4 * 12 + 2
    every = [row["image_nr"] for row in rows if row["trial_type"] == "exp"]
    assert sorted(every) == list(range(1, 49))  # each once, and of one concept one in each session
    for concept in range(1, 5):
        of = [row["session_nr"] for row in rows if row["trial_type"] == "exp" and row["category_nr"] == concept]
        assert sorted(of) == list(range(1, 13))
    tests = {row["image_path"] for row in rows if row["trial_type"] == "test"}
    assert len(tests) == 2
    for path in tests:
        assert sorted(row["session_nr"] for row in rows if row["image_path"] == path) == list(range(1, 13))
    exp = {row["category_nr"] for row in rows if row["trial_type"] == "exp"}
    assert {row["category_nr"] for row in rows if row["trial_type"] == "test"} < exp


def test_trials_are_in_baseline_standard_deviations(epochs):
    before = epochs.get_data(copy=False)[:, :, :21]
    np.testing.assert_allclose(before.mean(axis=2), 0, atol=1e-5)
    np.testing.assert_allclose(before.std(axis=2), 1, rtol=1e-5)
    alike = np.abs(np.corrcoef(before.reshape(len(before), -1)) - np.eye(len(before)))
    assert alike.max() < 0.4  # the noise of no trial comes again, in another part or session


def test_parts_are_linked_as_mne_links_them(epochs, small, tmp_path):
    """Kind, type and order of all tags are those of a file that mne split by itself."""
    info = mne.create_info(epochs.ch_names[:9], 200.0, "mag")
    data = epochs.get_data(copy=True)[:, :9]
    few = mne.EpochsArray(data, info, epochs.events, -0.1, metadata=epochs.metadata, verbose="error")
    few.save(tmp_path / FIRST, split_size="1.3MB", verbose="error")
    theirs = sorted(tmp_path.glob("*.fif"))
    assert len(theirs) >= 3
    for name in (FIRST, "preprocessed_P1-epo-1.fif"):
        ours, other = ([(tag.kind, tag.type) for tag in check_fif(folder / name)] for folder in (small / RAW, tmp_path))
        channel = [tag for tag in ours if tag[0] == 203]
        assert len(channel) == 271
        assert [tag for tag in ours if tag[0] != 203] == [tag for tag in other if tag[0] != 203]
    assert len({tuple(log) for log in epochs.drop_log}) == 1  # none is called dropped once the parts are together


def test_pictures_are_those_of_the_table(small, tmp_path):
    summary = prepare(small / "raw", subject=1, images=small / SET, out=tmp_path / "t.safetensors")
    table = load_responses(tmp_path / "t.safetensors")
    assert [note[:8] for note in summary["warnings"]] == ["left out"] and summary["dataset"] == "things-meg-simulated"
    assert table.train.shape == (24, 1, 271, 201) and table.test.shape == (2, 12, 271, 201)
    there = {path.relative_to(small / SET).as_posix() for path in (small / SET).rglob("*.jpg")}
    factors = json.loads((small / SET / "factors.json").read_text())
    assert {*table.train_images, *table.test_images} < there == set(factors["factors"])
    assert len(there) == 4 * 12 + 2 and factors["names"] == list(FACTORS)
    with Image.open(small / SET / table.test_images[0]) as image:
        assert image.format == "JPEG" and min(image.size) >= 256
    train = np.array([factors["factors"][image] for image in table.train_images])
    np.testing.assert_allclose(train.mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(train.std(axis=0), 1)


def test_the_table_is_what_mne_and_loops_give(small, tmp_path):
    prepare(small / "raw", subject=1, out=tmp_path / "t.safetensors", dtype="float32")
    table = load_responses(tmp_path / "t.safetensors")
    expected, _ = slow.prepare(small / RAW / FIRST)
    for part in ("train", "test"):
        ids, responses, sessions = expected[part]
        assert getattr(table, f"{part}_images") == ids
        np.testing.assert_array_equal(getattr(table, part), responses.astype(np.float32))
        np.testing.assert_array_equal(getattr(table, f"{part}_session"), sessions)


def test_markers_say_that_it_is_not_real(small):
    for marker in (small / RAW / "simulated.json", small / SET / "simulated.json"):
        said = json.loads(marker.read_text())
        assert said["simulated"] is True and said["dataset"] == "things-meg" and said["parameters"]["seed"] == 0
        assert "mne" in said["versions"]
    known = json.loads((small / RAW / "ceiling_P1.json").read_text())
    assert known["simulated"] is True and known["repetitions"] == 12 and known["gallery"] == 2


# --- the known ceiling ---


def test_two_pictures_are_told_apart_as_often_as_two_normals():
    latent = np.array([[0.0, 0.0], [1.5, 0.0]])
    known = best_scores(np.diag([4.0, 9.0]), latent, np.full(len(latent), 4), np.random.default_rng(0), draws=20_000)
    expected = ndtr(1.5 / (2 / np.sqrt(4)) / 2)
    assert known["pairwise"] == pytest.approx(expected, abs=1e-12)
    assert known["top1"] == pytest.approx(expected, abs=5 * known["top1_error"]) and known["top5"] == 1.0


def test_the_best_reading_is_as_good_as_its_covariance_says_and_standardised_trials_are_no_better():
    """Least squares on the whole covariance of 3 channels and 280 samples, without the closed form's Gram matrices."""
    brain = make_meg_brain(2, 30.0, 40.0, np.random.default_rng(1))
    sensor = [list(sensors()).index(f"M{name}-1609") for name in ("LO22", "ZO02", "RO33")]
    space = np.linalg.cholesky((brain.space @ brain.space.T)[np.ix_(sensor, sensor)])
    brain = type(brain)(brain.patterns[:, sensor], brain.courses, space, brain.time)
    subtract = (np.eye(281) - (np.arange(281) < 21) / 21)[1:]  # each sample, less the mean of the first 21
    courses = brain.courses @ subtract.T
    signal = np.array([np.outer(brain.patterns[source], courses[source]).ravel() for source in range(len(courses))])
    noise = np.kron(brain.space @ brain.space.T, subtract @ brain.time @ brain.time.T @ subtract.T)
    own = signal[len(COMMON) :]
    covariance = np.linalg.inv(own @ np.linalg.solve(noise, own.T))
    np.testing.assert_allclose(error_covariance(brain), covariance, rtol=1e-6)

    weights = covariance @ np.linalg.solve(noise, own.T).T
    rng = np.random.default_rng(2)
    latent = rng.standard_normal((4000, 2))
    trials = fields(brain, latent, rng)
    seen = (trials @ subtract.T).reshape(len(latent), -1) - drives(latent)[0, : len(COMMON)] @ signal[: len(COMMON)]
    errors = seen @ weights.T - latent
    np.testing.assert_allclose(np.cov(errors.T), covariance, atol=5 / np.sqrt(4000) * np.diag(covariance).max())
    assert np.abs(errors.mean(axis=0)).max() < 5 * np.sqrt(np.diag(covariance).max() / 4000)

    features = standardise(trials)[:, :, 21:90:4].reshape(len(latent), -1)
    features = features - features[:2000].mean(axis=0)
    learned = np.linalg.lstsq(features[:2000], latent[:2000], rcond=None)[0]
    left = latent[2000:] - features[2000:] @ learned
    # The error of any reader of one trial is at least the posterior variance under the best one.
    posterior = np.diag(np.linalg.inv(np.eye(2) + np.linalg.inv(covariance)))
    assert (left.var(axis=0) > posterior * (1 - 4 / np.sqrt(1000))).all()
    assert left.var(axis=0).mean() < 0.9  # and yet the trials tell something


def test_nothing_is_answered_before_the_picture():
    brain = make_meg_brain(18, 100.0, 40.0, np.random.default_rng(0))
    assert (brain.courses[:, :21] == 0).all() and (brain.courses[:, :31].max(axis=1) < 0.25).all()
    peaks = 5 * brain.courses.argmax(axis=1) - 100
    assert peaks.min() >= 90 and peaks.max() <= 260


# --- plausibility ---


@pytest.fixture(scope="module")
def halves(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plausible")
    simulate_things_meg(folder / "out", concepts=13, test=12, catch=0, parts=2, amplitude=80.0)
    out = folder / "t.safetensors"
    prepare(folder / "out/raw", subject=1, out=out, window=(-0.1, 1.3), dtype="float32")
    test = np.array(load_responses(out).test)
    return test[:, ::2].mean(axis=1), test[:, 1::2].mean(axis=1)


def reliability(first, second, channels, seconds):
    """Share of pictures whose own other half is the most similar of 12."""
    begin, end = (round((edge + 0.1) * 200) for edge in seconds)
    scaled = []
    for half in (first, second):
        rows = half[:, channels, begin:end].reshape(12, -1)
        rows = rows - rows.mean(axis=0)
        scaled.append(rows / np.linalg.norm(rows, axis=1, keepdims=True))
    return ((scaled[0] @ scaled[1].T).argmax(axis=1) == np.arange(12)).mean()


def test_information_is_behind_from_100_to_300_ms(halves):
    first, second = halves
    names = list(sensors())
    back, front = ([row for row, name in enumerate(names) if name[2] == region] for region in "OF")
    assert reliability(first, second, back, (0.1, 0.3)) == 1.0
    assert reliability(first, second, front, (0.1, 0.3)) < 0.5
    for seconds in ((-0.1, 0.045), (0.6, 0.8), (1.0, 1.3)):
        assert reliability(first, second, back, seconds) < 0.34
    assert reliability(first, np.roll(second, 1, axis=0), back, (0.1, 0.3)) < 0.34


def test_every_picture_evokes_the_same_at_the_back(halves):
    names = list(sensors())
    evoked = np.abs(np.mean(halves, axis=(0, 1)))
    size = {
        region: evoked[[n for n, name in enumerate(names) if name[2] == region]][:, 30:80].mean() for region in "OF"
    }
    assert size["O"] > 3 * size["F"]


# --- the same again, and what is refused ---


def test_same_seed_same_bytes_other_seed_other_everything(small, tmp_path):
    simulate_things_meg(tmp_path / "again", **SMALL)
    first, again = contents(small), contents(tmp_path / "again")
    assert first.keys() == again.keys() and all(first[name] == again[name] for name in first)
    simulate_things_meg(tmp_path / "other", **SMALL, seed=1)
    other = contents(tmp_path / "other")
    assert not {name for name in first.keys() & other.keys() if first[name] == other[name]}


def test_no_file_names_the_machine(small):
    for path in (small / RAW).glob("*.fif"):
        content = path.read_bytes()
        ids = [content[tag.position + 20 : tag.position + 28] for tag in check_fif(path) if tag.type == 31]
        assert ids and set(ids) == {bytes(8)}


def test_further_subject_sees_the_same_pictures_with_another_brain(small, tmp_path):
    shutil.copytree(small, tmp_path / "out")
    before = contents(tmp_path / "out")
    summary = simulate_things_meg(tmp_path / "out", **SMALL, subjects=(1, 2))
    after = contents(tmp_path / "out")
    assert all(after[name] == before[name] for name in before) and summary["subjects"] == [1, 2]
    assert {name.split("/")[-1][:15] for name in after.keys() - before.keys()} == {"preprocessed_P2", "ceiling_P2.json"}
    assert summary["ceiling"][1]["pairwise"] != summary["ceiling"][2]["pairwise"]
    prepare(tmp_path / "out/raw", subject=1, out=tmp_path / "1")
    prepare(tmp_path / "out/raw", subject=2, out=tmp_path / "2")
    one, two = (load_responses(tmp_path / name) for name in "12")
    assert one.train_images == two.train_images and one.test_images == two.test_images
    assert (one.train_session != two.train_session).any()
    first, second = (
        mne.read_epochs(tmp_path / "out" / RAW / f"preprocessed_P{n}-epo.fif", verbose="error")[0].get_data()[0, :, :21]
        for n in (1, 2)
    )
    assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 0.3  # nor are the noises the same


def test_interrupted_call_leaves_nothing_half_and_continues(small, tmp_path):
    calls = []

    def stop(done, total, text, note=""):
        calls.append(text)
        if len(calls) == stop.at:
            raise KeyboardInterrupt

    whole = contents(small)
    for at in (5, 52, 3):  # amid the pictures, and after the second part
        stop.at, calls[:] = at, []
        try:
            simulate_things_meg(tmp_path / "out", **SMALL, progress=stop)
        except KeyboardInterrupt:
            pass
        there = contents(tmp_path / "out")
        assert all(whole[name] == there[name] for name in there)
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.fif")}
    assert len(kept) == 2
    simulate_things_meg(tmp_path / "out", **SMALL)
    assert contents(tmp_path / "out") == whole
    assert all(path.stat().st_mtime_ns == time for path, time in kept.items())


def test_foreign_folders_are_refused_and_left_alone(small, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full/thesis.tex").write_text("precious")
    for overwrite in (False, True):
        with pytest.raises(AlignvisError, match="thesis.tex"):
            simulate_things_meg(tmp_path / "full", **SMALL, overwrite=overwrite)
    assert contents(tmp_path / "full") == {"thesis.tex": b"precious"}
    shutil.copytree(small, tmp_path / "real")
    (tmp_path / "real" / RAW / "simulated.json").unlink()
    before = contents(tmp_path / "real")
    for overwrite in (False, True):
        with pytest.raises(AlignvisError, match="may be a real recording"):
            simulate_things_meg(tmp_path / "real", **SMALL, overwrite=overwrite)
    assert contents(tmp_path / "real") == before
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(AlignvisError, match="cannot be made"):
        simulate_things_meg(tmp_path / "file", **SMALL)
    (tmp_path / "real" / RAW / "simulated.json").write_text('{"simulated": false}')
    with pytest.raises(AlignvisError, match="not the statement of a simulation"):
        simulate_things_meg(tmp_path / "real", **SMALL, overwrite=True)


def test_other_parameters_are_refused_unless_overwritten(small, tmp_path):
    shutil.copytree(small, tmp_path / "out")
    with pytest.raises(AlignvisError, match="seed 0 instead of 4"):
        simulate_things_meg(tmp_path / "out", **SMALL, seed=4)
    with pytest.raises(AlignvisError, match="noise 1000.0 instead of 1.0"):
        simulate_things_meg(tmp_path / "out", **SMALL | {"noise": 1.0})
    assert contents(tmp_path / "out") == contents(small)
    fewer = SMALL | {"parts": 1}
    simulate_things_meg(tmp_path / "out", **fewer, seed=4, overwrite=True)
    simulate_things_meg(tmp_path / "new", **fewer, seed=4)
    assert contents(tmp_path / "out") == contents(tmp_path / "new")  # no part of the longer chain is left


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"concepts": 2}, "concepts is 2"),
        ({"test": 1}, "test is 1"),
        ({"test": 4}, "test is 4; the simulation can do 2 to 3"),
        ({"catch": -1}, "catch is -1"),
        ({"noise": 0.0}, "noise is 0"),
        ({"noise": float("nan")}, "noise is nan"),
        ({"amplitude": -1.0}, "amplitude is -1"),
        ({"seed": -1}, "seed is -1"),
        ({"parts": 0}, "parts is 0"),
        ({"parts": 100}, "parts is 100"),
        ({"subjects": (1, 1)}, "different numbers"),
        ({"subjects": ()}, "different numbers"),
        ({"subjects": (0,)}, "different numbers"),
        ({"concepts": 1854, "test": 200, "catch": 200, "parts": 3}, "choose more parts"),
    ],
)
def test_impossible_choices_are_refused(wrong, said, tmp_path):
    with pytest.raises(AlignvisError, match=said):
        simulate_things_meg(tmp_path / "out", **SMALL | wrong)
    assert not (tmp_path / "out").exists()
