"""A fake NSD: the published layout, numbers that have to be made whole, and a best score that can be had."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io

from alignvis import store
from alignvis.errors import AlignvisError
from alignvis.files import whole_file
from alignvis.images.catalogue import load
from alignvis.images.extract import extract
from alignvis.recordings import simulate_nsd as simulation
from alignvis.recordings.ceiling import best_scores
from alignvis.recordings.drawing import FACTORS
from alignvis.recordings.nsd import dataset_name, prepare
from alignvis.recordings.simulate_nsd import simulate_nsd

SMALL = {"sessions": 8, "trials_per_session": 30, "voxels": 40, "images": 100, "shared": 12, "noise": 2.0}


@pytest.fixture(scope="module")
def fake(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("fake")
    simulate_nsd(out, subjects=(1, 2), **SMALL)
    return out


@pytest.fixture(scope="module")
def large(tmp_path_factory) -> tuple[Path, dict]:
    out = tmp_path_factory.mktemp("large")
    return out, simulate_nsd(out, subjects=(1, 4))


def contents(out: Path) -> dict[str, bytes]:
    return {file.relative_to(out).as_posix(): file.read_bytes() for file in sorted(out.rglob("*")) if file.is_file()}


def latent(out: Path, images: list[str]) -> np.ndarray:
    factors = json.loads((out / "images" / "factors.json").read_text())["factors"]
    return np.array([factors[image] for image in images])


def test_the_files_are_laid_out_as_the_published_ones(fake):
    assert set(contents(fake)) == {
        "images/factors.json", "images/nsd-simulated.hdf5", "images/simulated.json",
        "raw/nsd_expdesign.mat", "raw/simulated.json",
        "raw/subj01_nsdgeneral.hdf5", "raw/subj01_nsdgeneral.ceiling.json",
        "raw/subj02_nsdgeneral.hdf5", "raw/subj02_nsdgeneral.ceiling.json",
    }  # fmt: skip
    with h5py.File(fake / "images" / "nsd-simulated.hdf5") as file:
        assert file["imgBrick"].shape == (100, 64, 64, 3) and file["imgBrick"].dtype == np.uint8
        assert file["simulated"][()] == 1 and file["imgBrick"][:].std(axis=(1, 2, 3)).min() > 5
    for subject, sessions in ((1, 8), (2, 6)):
        with h5py.File(fake / "raw" / f"subj0{subject}_nsdgeneral.hdf5") as file:
            assert file["voxels"].shape == (sessions * 30, 40) and file["voxels"].dtype == np.float32
            assert file["trials_per_session"][()] == 30 and file["simulated"][()] == 1
    design = scipy.io.loadmat(fake / "raw" / "nsd_expdesign.mat")
    order, lists, shared = design["masterordering"], design["subjectim"], design["sharedix"]
    assert order.shape == (1, 240) and lists.shape == (8, 80) and shared.shape == (1, 12)
    assert {array.dtype for array in (order, lists, shared)} == {np.dtype(float)}
    assert (np.bincount(order[0].astype(int)) == [0, *[3] * 80]).all()
    assert all(len(set(some)) == 80 and 1 <= min(some) and max(some) <= 100 for some in lists.tolist())
    for some in lists:
        assert set(some[:12]) == set(shared[0]) and not set(some[12:]) & set(shared[0])
    assert len({tuple(some) for some in lists.tolist()}) == 8


def test_the_same_call_gives_the_same_bytes_and_another_seed_others(fake, tmp_path):
    simulate_nsd(tmp_path / "again", subjects=(2,), **SMALL)
    again = contents(tmp_path / "again")
    assert again.items() <= contents(fake).items() and len(again) == 7
    simulate_nsd(tmp_path / "other", subjects=(2,), seed=1, **SMALL)
    other = contents(tmp_path / "other")
    assert all(other[name] != again[name] for name in again)


def test_a_call_that_was_interrupted_is_continued(fake, tmp_path, monkeypatch):
    def stop(done, total, text):
        if text == "recording subject 2" and done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        simulate_nsd(tmp_path, subjects=(1, 2), progress=stop, **SMALL)
    written = []
    monkeypatch.setattr(simulation, "whole_file", lambda path: (written.append(path.name), whole_file(path))[1])
    simulate_nsd(tmp_path, subjects=(1, 2), **SMALL)
    assert contents(tmp_path) == contents(fake)
    assert [name for name in written if name.endswith(".hdf5")] == ["subj02_nsdgeneral.hdf5"]


def test_it_is_prepared_as_a_simulation(fake, tmp_path):
    assert dataset_name(fake / "raw", 2) == "nsd-simulated"
    whole = prepare(fake / "raw", subject=1, out=tmp_path / "1.safetensors")
    assert whole["train"] == [68, 1, 40, 1] and whole["test"] == [12, 1, 40, 1] and whole["warnings"] == []
    prepare(fake / "raw", subject=2, out=tmp_path / "2.safetensors")
    for subject, fewest in ((1, 3), (2, 2)):
        document, arrays = store.read_table(tmp_path / f"{subject}.safetensors", "responses", {})
        assert document["simulated"] is True and arrays["test.trials"].min() == fewest
        known = json.loads((fake / "raw" / f"subj0{subject}_nsdgeneral.ceiling.json").read_text())
        assert known["simulated"] is True and known["gallery"] == len(arrays["test"])
        counts = np.bincount(arrays["test.trials"], minlength=4)[1:]
        assert known["trials"] == {"1": counts[0], "2": counts[1], "3": counts[2]}


def test_a_session_differs_from_the_next_by_more_than_pictures_do(fake):
    """The mean and the spread of a voxel wander, so that whoever does not z-score pays for it."""
    with h5py.File(fake / "raw" / "subj01_nsdgeneral.hdf5") as file:
        sessions = file["voxels"][:].reshape(8, 30, 40)
    assert sessions.mean(axis=1).std(axis=0).mean() > 0.7 * np.hypot(1, 2)
    assert np.log(sessions.std(axis=1)).std(axis=0).mean() > 0.25


def read_best(out: Path, table: store.Responses) -> float:
    """Top-1 of the likeliest picture, by voxels that are fitted to the training images; it may weigh them by trials."""
    shown, seen = latent(out, table.train_images), table.train[:, 0, :, 0].astype(float)
    weights = np.linalg.lstsq(shown, seen, rcond=None)[0]
    precise = weights / (seen - shown @ weights).var(axis=0)
    spread = np.linalg.cholesky(np.linalg.inv(precise @ weights.T))
    read = table.test[:, 0, :, 0].astype(float) @ precise.T @ np.linalg.inv(precise @ weights.T)
    placed, read = (np.linalg.solve(spread, some.T).T for some in (latent(out, table.test_images), read))
    return float((((read[:, None] - placed) ** 2).sum(axis=-1).argmin(axis=1) == np.arange(len(placed))).mean())


def test_the_best_score_is_nearly_reached_with_z_scoring_and_not_without(large, tmp_path):
    out, told = large
    for subject in (1, 4):
        prepare(out / "raw", subject=subject, out=tmp_path / "a.safetensors", overwrite=True)
        prepare(out / "raw", subject=subject, out=tmp_path / "b.safetensors", overwrite=True, zscore=False)
        scaled, plain = (read_best(out, store.load_responses(tmp_path / f"{name}.safetensors")) for name in "ab")
        best = told["ceiling"][subject]["top1"]
        error = np.sqrt(best * (1 - best) / told["ceiling"][subject]["gallery"])
        assert 0.6 * best < scaled < best + 3 * error, (subject, scaled, best)
        assert plain < scaled - 0.3, (subject, plain)


def test_fewer_trials_make_a_lower_best_score(large):
    first, fourth = (large[1]["ceiling"][subject] for subject in (1, 4))
    assert first["trials"] == {"1": 0, "2": 0, "3": 60} and min(fourth["trials"].values()) > 0
    assert first["top1"] > fourth["top1"] + 0.02 and first["pairwise"] > fourth["pairwise"]
    assert first["top1"] < 0.99  # or it would be no measure


def test_the_best_score_by_hand():
    """Two pictures that are 2 apart under unit noise: the nearer one is right with probability Phi(1), Phi(2) for 4."""
    latent, one = np.array([[0.5, 0.0], [2.5, 0.0]]), np.eye(2)
    known = best_scores(one, latent, np.array([1, 1]), np.random.default_rng(0), draws=20_000)
    assert abs(known["top1"] - 0.8413447) < 4 * known["top1_error"] < 0.02
    assert abs(known["pairwise"] - 0.8413447) < 1e-6 and known["top5"] == 1
    four = best_scores(one, latent, np.array([4, 4]), np.random.default_rng(0), draws=20_000)
    assert abs(four["top1"] - 0.9772499) < 4 * four["top1_error"] and abs(four["pairwise"] - 0.9772499) < 1e-6
    mixed = best_scores(4 * one, latent, np.array([4, 16]), np.random.default_rng(0), draws=20_000)
    assert abs(mixed["pairwise"] - (0.8413447 + 0.9772499) / 2) < 1e-6
    assert abs(mixed["top1"] - mixed["pairwise"]) < 4 * mixed["top1_error"]


def test_the_pictures_show_what_the_voxels_answer_to(large, tmp_path):
    """A linear map from `lowlevel` features of some pictures finds the factors of others."""
    out, told = large
    extract(Path(told["images"]), [load("lowlevel", Path("none"), download=False)], tmp_path, workers=2)
    table = store.load_features(tmp_path / "lowlevel.safetensors")
    assert table.document["simulated"] is True and table.document["image_set"] == "nsd-simulated"
    features, factors = table.embeddings.astype(float), latent(out, table.images)
    features = (features - features.mean(axis=0)) / (features.std(axis=0) + 1e-9)
    gram = features @ features.T
    dual = np.linalg.solve(gram[:700, :700] + 300 * np.eye(700), factors[:700])
    found = gram[700:, :700] @ dual
    right = [np.corrcoef(found[:, factor], factors[700:, factor])[0, 1] for factor in range(len(FACTORS))]
    assert np.median(right) > 0.6, right


def test_what_is_no_simulation_is_never_written_to(fake, tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "subj01_nsdgeneral.hdf5").write_bytes(b"years of work")
    for overwrite in (False, True):
        with pytest.raises(AlignvisError, match="already holds files that no simulation wrote"):
            simulate_nsd(tmp_path / "real", overwrite=overwrite, **SMALL)
    assert contents(tmp_path / "real") == {"subj01_nsdgeneral.hdf5": b"years of work"}


def test_another_simulation_is_replaced_only_when_told_to(fake, tmp_path):
    simulate_nsd(tmp_path, **SMALL)
    (tmp_path / "responses").mkdir()
    (tmp_path / "responses" / "kept").write_bytes(b"mine")
    before = contents(tmp_path)
    other = SMALL | {"noise": 3.0}
    with pytest.raises(AlignvisError, match="holds another simulation .noise 2.0 instead of 3.0"):
        simulate_nsd(tmp_path, **other)
    assert contents(tmp_path) == before
    simulate_nsd(tmp_path, overwrite=True, **other)
    simulate_nsd(tmp_path, overwrite=True, **SMALL)
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"sessions": 1}, "sessions is 1; the simulation can do 2 to 255"),
        ({"trials_per_session": 751}, "trials_per_session is 751"),
        ({"voxels": 17}, "voxels is 17; the simulation can do 18"),
        ({"images": 79}, "images is 79; the simulation can do 80"),
        ({"shared": 1}, "shared is 1"),
        ({"shared": 79}, "shared is 79; the simulation can do 2 to 78"),
        ({"noise": 0}, "noise is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"sessions": 7, "trials_per_session": 10}, "are 70 trials; every picture comes 3 times"),
        ({"sessions": 41, "trials_per_session": 750, "images": 20_000}, "are 30750 trials"),
        ({"subjects": ()}, r"the subjects are \[\]"),
        ({"subjects": (1, 1)}, r"the subjects are \[1, 1\]"),
        ({"subjects": (9,)}, r"the subjects are \[9\]"),
    ],
)
def test_what_cannot_be_simulated(tmp_path, wrong, words):
    with pytest.raises(AlignvisError, match=words):
        simulate_nsd(tmp_path / "out", **(SMALL | wrong))
    assert not (tmp_path / "out").exists()
