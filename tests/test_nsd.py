"""NSD to a responses table: against a slow twin, by hand, and what is refused."""

import resource
import time
import tracemalloc
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io

from alignvis import store
from alignvis.errors import AlignvisError
from alignvis.recordings import filling, nsd
from tests import slow_nsd as slow

SESSIONS, EACH, VOXELS, SHARED = 6, 30, 7, 9


def betas(trials: int = SESSIONS * EACH, voxels: int = VOXELS, seed: int = 0) -> np.ndarray:
    """Voxels whose mean and spread are others in every session."""
    rng = np.random.default_rng(seed)
    days = trials // EACH
    values = rng.standard_normal((days, EACH, voxels)) * rng.uniform(0.5, 4, (days, 1, voxels))
    return (values + 5 * rng.standard_normal((days, 1, voxels))).reshape(trials, voxels).astype(np.float32)


@pytest.fixture
def raw(tmp_path) -> Path:
    return slow.write(tmp_path / "raw", betas(), slow.design(SESSIONS, EACH, SHARED), per_session=EACH)


def table(path: Path) -> store.Responses:
    return store.load_responses(path)


def trials_of(path: Path) -> dict[str, np.ndarray]:
    _, arrays = store.read_table(path, "responses", {"train.trials": ("U8", 1), "test.trials": ("U8", 1)})
    return {part: arrays[f"{part}.trials"] for part in ("train", "test")}


def prepare(raw: Path, **options):
    out = raw.parent / "out.safetensors"
    return nsd.prepare(raw, **{"subject": 1, "out": out, "dtype": "float32", "overwrite": True} | options)


def sentence(raw: Path, **options) -> str:
    with pytest.raises(AlignvisError) as told:
        prepare(raw, **options)
    assert not list(raw.parent.glob("out*"))
    return str(told.value)


# --- values ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"subject": 3},
        {"zscore": False},
        {"sessions": [5, 1, 2]},
        {"sessions": [4], "zscore": False},
        {"repetitions": (2, 3)},
        {"repetitions": (1, 2), "sessions": [1, 2, 3, 6]},
        {"repetitions": (3, 1), "zscore": False},
    ],
)
def test_the_table_is_that_of_the_slow_twin(tmp_path, options):
    subject = options.get("subject", 1)
    raw = slow.write(tmp_path / "raw", betas(), slow.design(SESSIONS, EACH, SHARED), subject, per_session=EACH)
    result = prepare(raw, **options)
    found, counts = table(Path(result["path"])), trials_of(Path(result["path"]))
    twin = slow.prepare(
        raw,
        subject,
        EACH,
        sorted(options["sessions"]) if "sessions" in options else None,
        options.get("zscore", True),
        options.get("repetitions"),
    )
    assert found.train_images == list(twin["train"]) and found.test_images == list(twin["test"])
    for part, values, sessions in (
        ("train", found.train, found.train_session),
        ("test", found.test, found.test_session),
    ):
        expected = np.array([answer[0] for answer in twin[part].values()])
        assert np.abs(values[..., 0] - expected).max() < 3e-6
        assert sessions.tolist() == [answer[1] for answer in twin[part].values()]
        assert counts[part].tolist() == [answer[2] for answer in twin[part].values()]
    assert result["dataset"] == "nsd-simulated" and result["train"] == list(found.train.shape)


def test_two_sessions_by_hand(tmp_path):
    """Pictures 1 and 2 are shared; 3, 4, 5 and 6 are trained on; what a session is scaled by comes from those alone."""
    shown = {
        "masterordering": np.array([[1, 3, 4, 2, 5, 3, 6, 2, 4, 1]]),
        "subjectim": np.tile([20, 10, 7, 8, 40, 30], (8, 1)),
        "sharedix": np.array([[10, 20]]),
    }
    first = np.array([[100, 0], [1, 0.1], [3, 0.1], [50, 0], [5, 0.1]], float)
    second = np.array([[10, 1], [20, 2], [9, 1], [30, 3], [-9, 1]], float)
    raw = slow.write(tmp_path / "raw", np.concatenate([first, second]), shown, per_session=5)
    result = prepare(raw)
    found, counts = table(tmp_path / "out.safetensors"), trials_of(tmp_path / "out.safetensors")
    assert found.train_images == ["nsd-00006", "nsd-00007", "nsd-00029", "nsd-00039"]
    assert found.test_images == ["nsd-00009", "nsd-00019"]
    day_1, day_2 = np.std([1, 3, 5]), np.std([10, 20, 30])
    three = ((1 - 3) / day_1 + (10 - 20) / day_2) / 2
    four = (0 + (30 - 20) / day_2) / 2
    assert np.allclose(found.train[:, 0, 0, 0], [three, four, 0, (5 - 3) / day_1], atol=1e-6)
    assert np.allclose(found.test[:, 0, 0, 0], [((50 - 3) / day_1 + (9 - 20) / day_2) / 2,
                                                ((100 - 3) / day_1 + (-9 - 20) / day_2) / 2], atol=1e-5)  # fmt: skip
    # the second voxel says 0.1 throughout the training trials of the first session, of which no mean is exactly 0.1
    assert np.allclose(found.train[:, 0, 1, 0], [(0 + (1 - 2) / np.std([1, 2, 3])) / 2, (1 / np.std([1, 2, 3])) / 2,
                                                 0, 0], atol=1e-6)  # fmt: skip
    assert found.train_session[:, 0].tolist() == [0, 0, 2, 1] and found.test_session[:, 0].tolist() == [0, 0]
    assert counts["train"].tolist() == [2, 2, 1, 1] and counts["test"].tolist() == [2, 2]
    assert found.document["channels"] == ["voxel-00000", "voxel-00001"]
    assert found.document["sfreq"] is None and found.document["tmin"] is None
    assert found.document["unit"] == "session standard deviations"
    assert result["warnings"] == [
        "1 voxels do not change among the training trials of a session, and are 0 there (the first is voxel-00001 in "
        "session 1)"
    ]


def test_no_test_trial_has_a_say_in_how_training_images_are_scaled(tmp_path):
    shown = slow.design(SESSIONS, EACH, SHARED)
    values = betas()
    prepare(slow.write(tmp_path / "raw", values, shown, per_session=EACH))
    before = np.array(table(tmp_path / "out.safetensors").train)
    test = np.isin(shown["subjectim"][0][shown["masterordering"][0] - 1], shown["sharedix"])
    assert 0 < test.sum() == 3 * SHARED
    values[test] = 1000 * np.random.default_rng(1).standard_normal((test.sum(), VOXELS))
    prepare(slow.write(tmp_path / "raw", values, shown, per_session=EACH))
    assert np.array_equal(table(tmp_path / "out.safetensors").train, before)


@pytest.mark.parametrize(
    "made",
    [
        {"chunks": (EACH, VOXELS)},
        {"chunks": (7, 3)},
        {"chunks": (7, 3), "compression": "gzip", "shuffle": True},
        {"chunks": (180, 5), "compression": "gzip"},
        {"chunks": (1, VOXELS), "shuffle": True},
        {"name": "betas"},
        {"dtype": ">f4"},
        {"dtype": "f8"},
    ],
)
def test_how_the_file_stores_betas_changes_nothing(raw, tmp_path, made):
    prepare(raw)
    one = table(tmp_path / "out.safetensors")
    other = slow.write(
        tmp_path / "other" / "raw", betas(), slow.design(SESSIONS, EACH, SHARED), per_session=EACH, **made
    )
    prepare(other)
    two = table(tmp_path / "other" / "out.safetensors")
    assert np.array_equal(one.train, two.train) and np.array_equal(one.test, two.test)


def test_how_many_voxels_are_scaled_at_a_time_changes_no_byte(raw, tmp_path, monkeypatch):
    whole = prepare(raw)
    content = Path(whole["path"]).read_bytes()
    for columns in (1, 3):
        monkeypatch.setattr(nsd, "COLUMNS", columns)
        prepare(raw)
        assert Path(whole["path"]).read_bytes() == content


def test_whole_numbers_of_any_scale_come_out_as_the_z_scores_that_they_are(tmp_path):
    shown, values = slow.design(SESSIONS, EACH, SHARED), betas()
    whole = np.rint(300 * values).astype(np.int16)
    prepare(slow.write(tmp_path / "raw", whole, shown, per_session=EACH))
    found = np.array(table(tmp_path / "out.safetensors").train)
    prepare(slow.write(tmp_path / "raw", whole.astype(np.float32) / 300, shown, per_session=EACH))
    assert np.abs(table(tmp_path / "out.safetensors").train - found).max() < 1e-4


def test_the_published_size_of_a_session_holds_where_no_other_is_stated(tmp_path):
    shown = slow.design(4, 750, 30, pictures=1200)
    values = np.random.default_rng(0).standard_normal((1500, 3)).astype(np.float32)
    raw = slow.write(tmp_path / "raw", values, shown)
    result = prepare(raw)
    assert result["dataset"] == "nsd" and nsd.dataset_name(raw, 1) == "nsd"
    found = table(tmp_path / "out.safetensors")
    assert found.document["simulated"] is False and set(found.train_session.ravel()) == {0, 1, 2}
    twin = slow.prepare(raw, 1, 750)
    assert list(twin["test"]) == found.test_images
    assert np.abs(found.test[..., 0] - np.array([answer[0] for answer in twin["test"].values()])).max() < 3e-6
    assert any("of the 30 shared images were not shown" in text for text in result["warnings"]) == (
        len(found.test_images) < 30
    )


def test_a_table_in_half_precision_is_the_other_one_rounded_once(raw, tmp_path):
    prepare(raw)
    full = np.array(table(tmp_path / "out.safetensors").train)
    prepare(raw, dtype="float16")
    half = table(tmp_path / "out.safetensors").train
    assert half.dtype == np.float16 and np.array_equal(half, full.astype(np.float16))


# --- what is said ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scale", "shift", "odd"), [(1, 0, False), (1, 0.8, True), (300, 0, True), (0.1, 0, True), (0.02, 0.1, True)]
)
def test_betas_that_do_not_look_z_scored_are_said_to(tmp_path, scale, shift, odd):
    values = np.random.default_rng(0).standard_normal((SESSIONS * EACH, VOXELS)) * scale + shift
    raw = slow.write(tmp_path / "raw", values, slow.design(SESSIONS, EACH, SHARED), per_session=EACH)
    said = prepare(raw, zscore=False)["warnings"]
    assert any(f"the betas of {SESSIONS} sessions do not look z-scored" in text for text in said) == odd
    assert table(tmp_path / "out.safetensors").document["unit"] == "betas as given"
    assert prepare(raw)["warnings"] == []


def test_images_with_too_few_trials_are_left_out_and_counted(raw, tmp_path):
    said = prepare(raw, sessions=[1, 2, 3], repetitions=(2, 2))["warnings"]
    twin = slow.prepare(raw, 1, EACH, [1, 2, 3])
    few = {part: sum(answer[2] < 2 for answer in twin[part].values()) for part in twin}
    assert few["train"] and f"{few['train']} training images were left out, as they have fewer than 2 trials" in said
    assert few["test"] and f"{few['test']} test images were left out, as they have fewer than 2 trials" in said


def test_a_table_that_is_there_is_kept_and_another_one_is_in_the_way(raw, tmp_path):
    first = prepare(raw, overwrite=False)
    assert not first["kept"] and prepare(raw, overwrite=False)["kept"]
    assert prepare(raw, overwrite=False, sessions=range(1, SESSIONS + 1))["kept"]
    with pytest.raises(AlignvisError, match="was made with zscore True, and zscore False is asked for"):
        prepare(raw, overwrite=False, zscore=False)


def test_files_may_lie_a_level_deeper(raw, tmp_path):
    for number, name in enumerate(("subj01_nsdgeneral.hdf5", "nsd_expdesign.mat")):
        (raw / f"folder {number}").mkdir()
        (raw / name).rename(raw / f"folder {number}" / name)
    (raw / "folder 1" / "deeper").mkdir()
    assert prepare(raw)["test"][0] == SHARED
    assert [source["file"] for source in table(tmp_path / "out.safetensors").document["sources"]] == [
        "folder 0/subj01_nsdgeneral.hdf5",
        "folder 1/nsd_expdesign.mat",
    ]


@pytest.mark.parametrize("at", [0, 1, 4, 7])
@pytest.mark.parametrize("options", [{}, {"repetitions": (2, 1)}])
def test_a_call_that_was_interrupted_is_continued_to_the_same_bytes(raw, tmp_path, monkeypatch, at, options):
    monkeypatch.setattr(filling, "CHECKPOINT", 0.0)
    whole = Path(prepare(raw, out=tmp_path / "whole.safetensors", **options)["path"]).read_bytes()
    left = iter(range(at))

    def stop(done, total, text):
        if next(left, None) is None:
            raise KeyboardInterrupt

    out = tmp_path / "cut.safetensors"
    with pytest.raises(KeyboardInterrupt):
        prepare(raw, out=out, progress=stop, **options)
    assert not out.exists() and store.partial_name(out).exists()
    put, written = filling._put, []
    monkeypatch.setattr(filling, "_put", lambda part, block, *rest: (written.append(block), put(part, block, *rest)))
    prepare(raw, out=out, **options)
    assert out.read_bytes() == whole
    assert 0 < len(written) < 2 * SESSIONS - at


def test_a_file_that_was_touched_meanwhile_is_read_again(raw, tmp_path, monkeypatch):
    monkeypatch.setattr(filling, "CHECKPOINT", 0.0)
    left = iter(range(6))

    def stop(done, total, text):
        if next(left, None) is None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(raw, progress=stop)
    with h5py.File(raw / "subj01_nsdgeneral.hdf5", "a") as file:
        file["voxels"][...] = betas(seed=1)
    prepare(raw)
    twin = slow.prepare(raw, 1, EACH)["train"]
    found = table(tmp_path / "out.safetensors").train[..., 0]
    assert np.abs(found - np.array([answer[0] for answer in twin.values()])).max() < 3e-6


def test_no_more_than_a_session_and_unfinished_sums_is_held(tmp_path):
    sessions, voxels = 40, 8000
    shown = slow.design(sessions, EACH, SHARED, pictures=500)
    values = np.tile(betas(sessions * EACH), (1, 1 + voxels // VOXELS))[:, :voxels]
    raw = slow.write(tmp_path / "raw", values, shown, per_session=EACH)
    size = values.nbytes
    del values
    tracemalloc.start()
    try:
        prepare(raw)
        assert tracemalloc.get_traced_memory()[1] < 0.6 * size
    finally:
        tracemalloc.stop()


# --- what is refused -------------------------------------------------------------------------------------------------


def change(raw: Path, **changed) -> Path:
    """Write the design anew with some of it changed, or, for None, left out."""
    shown = slow.design(SESSIONS, EACH, SHARED) | changed
    scipy.io.savemat(raw / "nsd_expdesign.mat", {name: value for name, value in shown.items() if value is not None})
    return raw


def test_missing_files_are_named_with_what_is_there(raw):
    assert (
        "do not hold subj02_nsdgeneral.hdf5 or betas_all_subj02_fp32_renorm.hdf5, the betas of subject 2"
        in sentence(raw, subject=2)
    )
    assert "(it holds nsd_expdesign.mat, subj01_nsdgeneral.hdf5)" in sentence(raw, subject=2)
    assert "NSD has the subjects 1 to 8" in sentence(raw, subject=9)
    (raw / "nsd_expdesign.mat").unlink()
    assert "do not hold nsd_expdesign.mat, what each trial showed" in sentence(raw)
    assert "cannot be read (No such file or directory)" in sentence(raw / "nowhere")
    (raw / "v1").mkdir()
    (raw / "v1" / "subj01_nsdgeneral.hdf5").write_bytes(b"")
    assert "both hold the betas of subject 1; move one of them away" in sentence(raw)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"sessions": [0]}, "has the sessions 1 to 6, and [0] were asked for"),
        ({"sessions": [7]}, "has the sessions 1 to 6, and [7] were asked for"),
        ({"sessions": [1, 1]}, "has the sessions 1 to 6, and [1, 1] were asked for"),
        ({"sessions": []}, "has the sessions 1 to 6, and [] were asked for"),
        ({"repetitions": (0, 1)}, "has to be 1 to 255 of each, not 0 1"),
        ({"repetitions": (4, 1)}, "showed no training image 4 times"),
        ({"repetitions": (1, 4)}, "showed no test image 4 times"),
        ({"dtype": "float64"}, "a table holds float16 or float32, not 'float64'"),
    ],
)
def test_what_cannot_be_asked_for(raw, options, words):
    assert words in sentence(raw, **options)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"masterordering": None}, "and numbers called 'masterordering' were expected"),
        ({"subjectim": None}, "and numbers called 'subjectim' were expected"),
        ({"sharedix": None}, "and numbers called 'sharedix' were expected"),
        ({"sharedix": "abc"}, "and numbers called 'sharedix' were expected"),
        ({"masterordering": np.zeros((1, 180))}, "'masterordering' has values from 0 to 0"),
        ({"masterordering": np.full((1, 180), 1.5)}, "and whole numbers from 1 to 100,000"),
        ({"masterordering": np.full((1, 180), np.nan)}, "and whole numbers from 1 to 100,000"),
        ({"masterordering": np.full((1, 180), 61)}, "the trials name up to 61 pictures"),
        ({"masterordering": np.ones((1, 179))}, "180 trials, and"),
        ({"subjectim": np.ones((60, 8))}, "'subjectim' has shape (60, 8)"),
        ({"subjectim": np.full((8, 60), 100_001.0)}, "values from 100001 to 100001"),
        ({"sharedix": np.array([[99_999]])}, "showed no test image at all"),
    ],
)
def test_a_design_that_cannot_be(raw, changed, words):
    assert words in sentence(change(raw, **changed))


def test_numbers_in_the_design_may_be_of_any_type(raw, tmp_path):
    prepare(raw)
    shown, content = slow.design(SESSIONS, EACH, SHARED), (tmp_path / "out.safetensors").read_bytes()
    change(raw, masterordering=shown["masterordering"].astype(np.uint8), subjectim=shown["subjectim"].astype(float),
           sharedix=shown["sharedix"].T.astype(np.int16))  # fmt: skip
    prepare(raw)
    tables = table(tmp_path / "out.safetensors")
    assert tables.test_images == [f"nsd-{number - 1:05d}" for number in shown["sharedix"][0]]
    assert (tmp_path / "out.safetensors").stat().st_size == len(content)


def test_a_design_of_the_published_size_must_share_the_first_of_each_list(tmp_path):
    each = 10_000
    lists = np.tile(np.arange(each) + 1, (8, 1))
    shown = {
        "masterordering": np.random.default_rng(0).permutation(np.repeat(np.arange(each) + 1, 3))[None],
        "subjectim": lists,
        "sharedix": np.arange(1000)[None] + 1,
    }
    values = np.random.default_rng(0).standard_normal((37 * 750, 2)).astype(np.float32)
    result = prepare(slow.write(tmp_path / "raw", values, shown))
    shown_37 = shown["masterordering"][0, : 37 * 750]
    assert result["train"] == [len({n for n in shown_37.tolist() if n > 1000}), 1, 2, 1]
    assert result["test"] == [len({n for n in shown_37.tolist() if n <= 1000}), 1, 2, 1]
    shown["sharedix"] = np.arange(1000)[None] + 2
    (tmp_path / "out.safetensors").unlink()
    raw = slow.write(tmp_path / "raw", values, shown)
    assert "'sharedix' does not name the first 1000 pictures of subject 1" in sentence(raw)


def test_values_that_are_no_numbers_are_refused_by_voxel_and_session(tmp_path):
    for value, zscore in ((np.nan, True), (np.inf, True), (np.nan, False), (-np.inf, False)):
        values = betas()
        values[2 * EACH + 3, 4] = value
        raw = slow.write(tmp_path / "raw", values, slow.design(SESSIONS, EACH, SHARED), per_session=EACH)
        assert "voxel-00004 has a value in session 3 that is not finite" in sentence(raw, zscore=zscore)


def test_files_that_are_not_what_they_are_called(raw):
    path, shown = raw / "subj01_nsdgeneral.hdf5", slow.design(SESSIONS, EACH, SHARED)
    slow.write(raw, betas(), shown, name="images")
    assert "holds 'images', and 'voxels' or 'betas', trials x voxels, was expected" in sentence(raw)
    slow.write(raw, betas()[:-1], shown, per_session=EACH)
    assert "holds 179 trials, which are not whole sessions of 30" in sentence(raw)
    slow.write(raw, betas(), shown)
    assert "holds 180 trials, which are not whole sessions of 750" in sentence(raw)
    slow.write(raw, betas(), shown, per_session=751)
    assert "not whole sessions of 751" in sentence(raw)
    slow.write(raw, betas(), shown, per_session=-30)
    assert "not whole sessions of -30" in sentence(raw)
    slow.write(raw, betas()[..., None], shown, per_session=EACH)
    assert "its 'voxels' has shape (180, 7, 1), and 2 dimensions were expected" in sentence(raw)
    slow.write(raw, np.zeros((180, 0)), shown, per_session=EACH)
    assert "its 'voxels' has shape (180, 0)" in sentence(raw)
    slow.write(raw, betas().astype(complex), shown, per_session=EACH)
    assert "not of numbers" in sentence(raw)
    slow.write(raw, np.zeros((30, 50_001), np.float16), shown, per_session=EACH)
    assert "has 50,001 voxels, and up to 50,000 can be read" in sentence(raw)
    path.write_bytes(b"Not found")
    assert "is not an HDF5 file" in sentence(raw)


def test_a_session_without_training_trials_has_no_scale(tmp_path):
    shown = {
        "masterordering": np.array([[1, 2, 1, 3, 4, 5]]),
        "subjectim": np.tile(np.arange(5) + 1, (8, 1)),
        "sharedix": np.array([[1, 2]]),
    }
    raw = slow.write(tmp_path / "raw", betas(EACH)[:6], shown, per_session=3)
    assert "session 1 has 0 training trials, and a spread needs two" in sentence(raw)
    assert prepare(raw, zscore=False)["train"] == [3, 1, VOXELS, 1]


@pytest.mark.parametrize("made", [{}, {"chunks": (25, 7), "compression": "gzip", "shuffle": True}])
def test_damaged_files_never_get_past_a_sentence(tmp_path, made):
    raw = slow.write(tmp_path / "raw", betas(), slow.design(SESSIONS, EACH, SHARED), per_session=EACH, **made)
    rng, refused = np.random.default_rng(0), 0
    whole = {name: (raw / name).read_bytes() for name in ("subj01_nsdgeneral.hdf5", "nsd_expdesign.mat")}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in range(120):
        name = list(whole)[number % 4 == 3]
        content = bytearray(whole[name])
        if number % 3 == 0:
            content = content[: rng.integers(8, len(content))]
        elif number % 3 == 1:
            filled = np.flatnonzero(np.frombuffer(whole[name], np.uint8))
            for place in rng.choice(filled[filled >= 8][:1500], 2):
                content[place] = rng.integers(256)
        else:
            place = rng.integers(8, min(len(content), 4000) - 8)
            content[place : place + 8] = int(rng.choice(np.array([2**64 - 1, 2**63, 2**40, 2**31], "u8"))).to_bytes(
                8, "little"
            )
        for other, bytes_ in whole.items():
            (raw / other).write_bytes(content if other == name else bytes_)
        begun = time.monotonic()
        try:
            prepare(raw)
        except AlignvisError as error:
            refused += 1
            assert "raw" in str(error)
        assert time.monotonic() - begun < 2
    assert refused > 40
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 1024
