"""Similarity analysis and encoding model of tables: what is joined, what is refused, what the simulator must show."""

import json
import sys
from importlib import metadata

import numpy as np
import pytest
from scipy.stats import pearsonr

from alignvis import store
from alignvis.errors import AlignvisError
from alignvis.images import catalogue
from alignvis.images.extract import extract
from alignvis.recordings.simulate import IMAGE_SET, simulate_things_eeg2
from alignvis.recordings.things_eeg2 import prepare
from alignvis.representations import encoding_analysis, rsa, rsa_analysis, study
from alignvis.versions import versions
from tests import tables

FEW = {"draws": 100, "permutations": 100}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    root = tmp_path_factory.mktemp("tiny")
    for subject in (1, 2):
        tables.planted(root, subject=subject, times=12)
    path = root / "features" / "tiny" / "lowlevel.safetensors"
    table = store.load_features(path)
    noise = np.random.default_rng(7).standard_normal(table.embeddings.shape)
    about = {"encoder": "lowlevel_people", "aligned": True, "twin": "lowlevel"}
    tables.write_features(path.with_name("lowlevel_people.safetensors"), noise, table.images, **about)
    return root


@pytest.fixture(scope="module")
def similar(tiny):
    return rsa_analysis.similarity_over_time(study.open_study(tiny, [1, 2]), **FEW)


@pytest.fixture(scope="module")
def encoded(tiny):
    return encoding_analysis.encode(study.open_study(tiny, [1, 2]), **FEW)


def test_rows_are_joined_by_id_and_repetitions_averaged(tiny, similar):
    table = store.load_responses(tiny / "responses" / "tiny" / "sub-02.safetensors")
    features = store.load_features(tiny / "features" / "tiny" / "lowlevel.safetensors")
    row = next(row for row in similar["features"] if row["features"] == "lowlevel")
    place = [features.images.index(image) for image in table.test_images]
    model = rsa.pearson_dissimilarity(features.embeddings[place])
    from scipy.stats import spearmanr

    brain = rsa.brain_dissimilarity(table.test.mean(axis=1))
    expected = [spearmanr(one, model).statistic for one in brain]
    assert np.allclose(row["by_subject"][1], expected, atol=1e-4)
    assert np.allclose(row["r"], np.mean(row["by_subject"], axis=0), atol=1e-5)


def test_a_result_says_where_it_comes_from_and_json_can_hold_it(tiny, similar, encoded):
    for result in (similar, encoded[0]):
        again = json.loads(json.dumps(result, allow_nan=False))
        assert again["simulated"] is True and again["subjects"] == [1, 2] and again["n"] == 40
        assert again["repetitions"] == [4] and again["seed"] == 0 and again["drawn"] == ["images", "subjects"]
        path = tiny / "responses" / "tiny" / "sub-01.safetensors"
        assert again["responses"][0]["fingerprint"] == store.fingerprint(path)
        assert {row["features"] for row in again["features"]} == {"lowlevel", "lowlevel_people"}
        assert again["times"][:2] == [0, 0.01] and len(again["times"]) == 12


def test_results_say_what_they_were_made_with_as_what_is_installed_says_itself(similar, encoded):
    assert similar["versions"] == encoded[0]["versions"] == versions()
    assert versions().keys() == {"alignvis", "python", "torch", "numpy", "scipy"}
    assert versions()["python"] == sys.version.split()[0]
    for name in versions().keys() - {"python"}:  # some say there what they were compiled for: 2.9.0+cu128
        assert versions()[name].partition("+")[0] == metadata.version(name).partition("+")[0]


def test_files_of_results_are_called_after_what_they_are_of():
    assert study.result_name("rsa", "tiny", [10, 2], "embeddings") == "rsa_tiny_sub-10-02"
    assert study.result_name("encoding", "tiny", [1], "layer.6.cls") == "encoding_tiny_sub-01_layer.6.cls"


def test_what_was_planted_is_found_and_what_was_not_is_not(similar, encoded):
    for rows in (similar["features"], encoded[0]["features"]):
        found = {row["features"]: row for row in rows}
        assert all(found["lowlevel"]["significant"][2:10]) and found["lowlevel"]["peak"]["p"] <= 1 / 101 + 1e-6
        assert not any(found["lowlevel_people"]["significant"])
    row = next(row for row in encoded[0]["features"] if row["features"] == "lowlevel")
    assert row["peak"]["r"] > 0.9 and 0.95 < row["peak"]["share"] < 1.05


def test_an_aligned_table_is_compared_with_its_twin(similar, encoded):
    for result in (similar, encoded[0]):
        (row,) = result["differences"]
        assert (row["aligned"], row["plain"]) == ("lowlevel_people", "lowlevel")
        assert row["mean"]["r"] < row["mean"]["interval"][1] < 0 and any(row["excludes_zero"])
        rows = {one["features"]: one for one in result["features"]}
        key = "r" if result["analysis"] == "rsa" else "curve"
        expected = np.subtract(rows["lowlevel_people"][key], rows["lowlevel"][key])
        assert np.allclose(row["r"], expected, atol=1e-5)


def test_ceilings_are_above_what_was_reached_and_beside_each_peak(similar):
    ceiling = similar["ceiling"]
    for row in similar["features"]:
        at = row["peak"]["sample"]
        assert row["peak"]["ceiling"]["upper"] == ceiling["subjects"]["upper"][at] > row["peak"]["r"]
        assert row["peak"]["ceiling"]["repetitions"] == ceiling["repetitions"]["upper"][at] > row["peak"]["r"]
    assert np.allclose(
        ceiling["repetitions"]["upper"], np.mean(ceiling["repetitions"]["by_subject"], axis=0), atol=1e-5
    )


def test_one_subject_has_no_bounds_by_others(tiny):
    result = rsa_analysis.similarity_over_time(study.open_study(tiny, [2], features=["lowlevel"]), **FEW)
    assert result["ceiling"]["subjects"] is None and result["drawn"] == ["images"] and not result["differences"]
    assert len(result["features"][0]["by_subject"]) == 1


def test_the_same_seed_gives_the_same_numbers_and_another_others(tiny):
    opened = study.open_study(tiny, [1], features=["lowlevel"])
    one, again, other = (rsa_analysis.similarity_over_time(opened, **FEW, seed=seed) for seed in (1, 1, 2))
    assert one == again
    assert one["features"][0]["interval"] != other["features"][0]["interval"]
    assert one["features"][0]["r"] == other["features"][0]["r"]


def test_images_that_not_all_saw_are_left_out(tiny, tmp_path):
    for subject in (1, 2):
        table = store.load_responses(tiny / "responses" / "tiny" / f"sub-{subject:02d}.safetensors")
        order = np.arange(40) if subject == 1 else np.r_[39:4:-1]  # fewer, and in another order
        ids = table.train_images, [table.test_images[row] for row in order]
        path = tmp_path / "responses" / "tiny" / f"sub-{subject:02d}.safetensors"
        tables.write_responses(path, table.train, table.test[order], ids, subject=subject)
    (tmp_path / "features").symlink_to(tiny / "features")
    opened = study.open_study(tmp_path, [1, 2], features=["lowlevel"])
    assert list(opened.images) == table.test_images[5:]
    whole = study.mean_responses(study.open_study(tiny, [1, 2]), 1)
    assert np.array_equal(study.mean_responses(opened, 1), whole[5:])


def test_halves_are_disjoint_and_of_equal_size(tiny):
    opened = study.open_study(tiny, [1])
    found = study.halved_responses(opened, 0, 3, 0)
    assert found.shape == (3, 2, 40, 3, 12)
    assert np.allclose(found.mean(axis=1), study.mean_responses(opened, 0), atol=1e-5)
    assert not np.allclose(found[0], found[1])


def test_maps_are_the_correlations_of_channels_and_times(tiny, encoded):
    result, maps = encoded
    assert set(maps) == {
        f"sub-{subject:02d}.{what}"
        for subject in (1, 2)
        for what in ("ceiling", *(f"{name}.{one}" for name in ("lowlevel", "lowlevel_people") for one in "rp"))
    }
    row = next(row for row in result["features"] if row["features"] == "lowlevel")
    assert maps["sub-01.lowlevel.r"].shape == (3, 12)
    assert np.allclose(maps["sub-01.lowlevel.r"].mean(axis=0), row["by_subject"][0]["curve"], atol=1e-5)
    best = row["by_subject"][0]["best"]
    channel, sample = np.unravel_index(maps["sub-01.lowlevel.r"].argmax(), (3, 12))
    assert best["channel"] == tables.CHANNELS[channel] and best["time"] == result["times"][sample]
    assert np.isclose(best["r"], maps["sub-01.lowlevel.r"].max(), atol=1e-5)
    assert np.isclose(best["ceiling"], maps["sub-01.ceiling"][channel, sample], atol=1e-5)


def test_the_ceiling_over_time_is_of_the_mean_over_channels(tiny, encoded):
    """The mean of channels' ceilings, which are never below 0, would lie above 0 where there is nothing to explain."""
    result, maps = encoded
    opened, expected = study.open_study(tiny, [1, 2]), []
    for place in (0, 1):
        halves = study.halved_responses(opened, place, encoding_analysis.HALVINGS, result["seed"])
        r = [[pearsonr(one[:, c, t], other[:, c, t]).statistic for c in range(3) for t in range(12)]
             for one, other in halves]  # fmt: skip
        expected.append(
            study.ceilings_of(np.reshape(r, (-1, 3, 12)).mean(axis=(0, 1)), opened.responses[place].test.shape[1])
        )
    assert np.allclose(result["ceiling"], np.mean(expected, axis=0), atol=1e-4)
    of_channels = np.mean([maps[f"sub-0{subject}.ceiling"].mean(axis=0) for subject in (1, 2)], axis=0)
    assert (np.mean(expected, axis=0) < of_channels - 0.01).any()  # in some sample without a signal


def test_blocks_of_targets_change_nothing(tiny, encoded, monkeypatch):
    monkeypatch.setattr(encoding_analysis, "BYTES", 4 * 8 * 11 * 7)  # seven targets at a time
    again = encoding_analysis.encode(study.open_study(tiny, [1], features=["lowlevel"]), **FEW)[1]
    assert np.allclose(again["sub-01.lowlevel.r"], encoded[1]["sub-01.lowlevel.r"], atol=1e-5)


def test_test_images_decide_on_nothing(tiny, tmp_path, encoded):
    table = store.load_responses(tiny / "responses" / "tiny" / "sub-01.safetensors")
    other = np.random.default_rng(3).standard_normal(table.test.shape)
    path = tmp_path / "responses" / "tiny" / "sub-01.safetensors"
    tables.write_responses(path, table.train, other, (table.train_images, table.test_images))
    (tmp_path / "features").symlink_to(tiny / "features")
    result, _ = encoding_analysis.encode(study.open_study(tmp_path, [1], features=["lowlevel"]), **FEW)
    before = next(row for row in encoded[0]["features"] if row["features"] == "lowlevel")["by_subject"][0]
    after = result["features"][0]["by_subject"][0]
    keys = ("alpha_median", "alpha_lowest_share", "alpha_highest_share", "held_out_explained_best")
    assert [before[key] for key in keys] == [after[key] for key in keys]


def test_one_time_gives_one_value_and_voxels_are_summarised(tmp_path):
    rng = np.random.default_rng(0)
    ids = [f"nsd-{place:05d}" for place in range(80)], [f"nsd-{place:05d}" for place in range(80, 120)]
    embeddings = rng.standard_normal((120, 6))
    voxels = embeddings @ rng.standard_normal((6, 30)) + rng.standard_normal((120, 30))
    names = [f"voxel {place}" for place in range(30)]
    parts = [part[:, None, :, None] for part in (voxels[:80], voxels[80:])]
    path = tmp_path / "responses" / "scan" / "sub-01.safetensors"
    tables.write_responses(path, *parts, ids, dataset="scan", channels=names, sfreq=None, tmin=None)
    tables.write_features(tmp_path / "features" / "scan" / "lowlevel.safetensors", embeddings, [*ids[0], *ids[1]])
    opened = study.open_study(tmp_path, [1])
    result = rsa_analysis.similarity_over_time(opened, **FEW)
    assert result["times"] is None and len(result["features"][0]["r"]) == 1
    assert result["features"][0]["peak"]["time"] is None and result["features"][0]["r"][0] > 0.5
    assert result["ceiling"] == {"subjects": None, "repetitions": None, "halvings": rsa_analysis.HALVINGS}
    encoded, maps = encoding_analysis.encode(opened, **FEW)
    spread = encoded["features"][0]["by_subject"][0]["spread"]
    assert np.isclose(spread["0.5"], np.median(maps["sub-01.lowlevel.r"]), atol=1e-5) and encoded["region"] == "all"
    assert encoded["ceiling"] is None and encoded["features"][0]["peak"]["share"] is None


def changed(tiny, tmp_path, **changes):
    """A root whose second subject's table was made otherwise."""
    for subject, other in ((1, {}), (2, changes)):
        table = store.load_responses(tiny / "responses" / "tiny" / f"sub-{subject:02d}.safetensors")
        stop = other.pop("samples", 12)
        path = tmp_path / "responses" / "tiny" / f"sub-{subject:02d}.safetensors"
        ids = table.train_images, other.pop("test_ids", table.test_images)
        tables.write_responses(path, table.train[..., :stop], table.test[..., :stop], ids, subject=subject, **other)
    (tmp_path / "features").symlink_to(tiny / "features")
    return tmp_path


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"samples": 11}, "samples 11, first"),
        ({"tmin": -0.1}, "first -0.1"),
        ({"unit": "V"}, "unit V"),
        ({"simulated": False}, "simulated False"),
    ],
)
def test_subjects_that_were_recorded_otherwise_are_refused(tiny, tmp_path, changes, said):
    with pytest.raises(AlignvisError, match=f"sub-02.safetensors was not recorded or prepared like .*{said}"):
        study.open_study(changed(tiny, tmp_path, **changes), [1, 2])


def test_subjects_who_saw_other_images_are_refused(tiny, tmp_path):
    others = [f"others/{place}.jpg" for place in range(40)]
    with pytest.raises(AlignvisError, match="have no test image in common"):
        study.open_study(changed(tiny, tmp_path, test_ids=others), [1, 2])


def test_two_datasets_of_one_subject_are_refused(tiny, tmp_path):
    root = changed(tiny, tmp_path)
    (root / "responses" / "other").symlink_to(root / "responses" / "tiny")
    with pytest.raises(AlignvisError, match="subject 1 of other and of tiny; choose one with --dataset"):
        study.open_study(root, [1])
    assert study.open_study(root, [1], dataset="tiny").dataset == "tiny"


def test_equal_embeddings_are_refused(tiny, tmp_path):
    (tmp_path / "responses").symlink_to(tiny / "responses")
    images = store.load_features(tiny / "features" / "tiny" / "lowlevel.safetensors").images
    tables.write_features(tmp_path / "features" / "tiny" / "flat.safetensors", np.ones((len(images), 4)), images)
    opened = study.open_study(tmp_path, [1])
    with pytest.raises(AlignvisError, match="all test images are equally far apart in embeddings"):
        rsa_analysis.similarity_over_time(opened)
    with pytest.raises(AlignvisError, match="the embeddings of all training images are the same"):
        encoding_analysis.encode(opened)


def test_too_few_test_images_are_refused(tmp_path):
    opened = study.open_study(tables.planted(tmp_path, tests=9, times=12), [1])
    for analysis in (rsa_analysis.similarity_over_time, encoding_analysis.encode):
        with pytest.raises(AlignvisError, match="there are 9 test images, and this analysis needs 10"):
            analysis(opened)


def test_concepts_shared_by_training_and_test_are_counted(tiny, encoded):
    # the planted tables call the concepts of test images like those of training images: thing1 to thing30
    assert encoded[0]["shared_concepts"] == 30


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    root = tmp_path_factory.mktemp("simulated")
    made = simulate_things_eeg2(root, concepts=16, test=50, noise=1.0)
    images, raw = root / "images" / IMAGE_SET, root / "raw"
    assert made["subjects"] == [1]
    prepare(raw, subject=1, images=images, out=root / "responses" / IMAGE_SET / "sub-01.safetensors", sfreq=100)
    encoders = [catalogue.load(name, root / "weights") for name in ("lowlevel", "untrained_vit")]
    extract(images, encoders, root / "features" / IMAGE_SET, workers=1)
    return study.open_study(root, [1])


def test_low_level_features_are_found_between_60_and_300_ms(simulated):
    """The simulated brain answers to low-level properties of its pictures from 50 to 300 ms after they come on."""
    result = rsa_analysis.similarity_over_time(simulated, **FEW)
    found = {row["features"]: row for row in result["features"]}
    peak, times = found["lowlevel"]["peak"], np.array(result["times"])
    marked = times[np.array(found["lowlevel"]["significant"])]
    assert 0.06 <= peak["time"] <= 0.3 and peak["r"] > 0.12 and peak["p"] <= 0.01
    assert ((marked >= 0.05) & (marked <= 0.31)).mean() > 0.9
    late = np.array(found["lowlevel"]["r"])[times > 0.4]
    assert abs(late.mean()) < 0.05
    assert found["untrained_vit"]["mean"]["r"] < found["lowlevel"]["mean"]["r"]


def test_the_encoding_model_is_best_at_the_back_and_better_from_what_drives_the_brain(simulated):
    result, maps = encoding_analysis.encode(simulated, **FEW)
    found = {row["features"]: row for row in result["features"]}
    assert 0.06 <= found["lowlevel"]["peak"]["time"] <= 0.3 and result["region"] == "occipital"
    place = [row for row, name in enumerate(result["channel_names"]) if name[0] in "OP"]
    assert np.allclose(found["lowlevel"]["curve"], maps["sub-01.lowlevel.r"][place].mean(axis=0), atol=1e-4)
    assert found["untrained_vit"]["peak"]["r"] < found["lowlevel"]["peak"]["r"] - 0.05
    names, r = np.array(result["channel_names"]), maps["sub-01.lowlevel.r"]
    early = (np.array(result["times"]) > 0.08) & (np.array(result["times"]) < 0.25)
    back = np.array([name[0] in "OP" for name in names])
    front = np.array([name.startswith(("Fp", "AF", "F")) and not name.startswith(("FC", "FT")) for name in names])
    assert r[back][:, early].mean() > r[front][:, early].mean() + 0.15
    best = found["lowlevel"]["by_subject"][0]["best"]
    assert best["p"] <= 0.01 and not best["channel"].startswith(("Fp", "AF"))


def test_a_time_at_which_nothing_varies_is_not_known(tiny, tmp_path):
    from alignvis.figures.representations import draw_encoding, draw_rsa
    from alignvis.figures.style import drawn

    table = store.load_responses(tiny / "responses" / "tiny" / "sub-01.safetensors")
    train, test = np.array(table.train), np.array(table.test)
    test[..., 0] = train[..., 4] = 0
    path = tmp_path / "responses" / "tiny" / "sub-01.safetensors"
    tables.write_responses(path, train, test, (table.train_images, table.test_images))
    (tmp_path / "features").symlink_to(tiny / "features")
    opened = study.open_study(tmp_path, [1])
    result = rsa_analysis.similarity_over_time(opened, **FEW)
    for row in result["features"]:
        assert row["r"][0] is None and None not in row["r"][1:] and row["p"][0] is None and not row["significant"][0]
        assert row["mean"]["samples"] == 11
    assert result["differences"][0]["band"][0][0] is None
    encoded, maps = encoding_analysis.encode(opened, **FEW)
    for row in encoded["features"]:
        assert np.isnan(maps[f"sub-01.{row['features']}.r"][:, [0, 4]]).all() and row["peak"]["sample"] not in (0, 4)
    json.dumps([result, encoded], allow_nan=False)
    assert drawn(draw_rsa(result)) and drawn(draw_encoding(encoded, maps))


def test_chance_is_that_of_the_mean_over_subjects(tiny, monkeypatch):
    opened, seen, real = study.open_study(tiny, [1, 2]), [], rsa.shuffled

    def shuffled(brains, *others):
        seen.append(brains)
        return real(brains, *others)

    monkeypatch.setattr(rsa, "shuffled", shuffled)
    result = rsa_analysis.similarity_over_time(opened, **FEW)
    brains = [rsa.unit_ranks(rsa.brain_dissimilarity(study.mean_responses(opened, place))) for place in (0, 1)]
    assert np.allclose(seen[0], np.mean(brains, axis=0), atol=1e-6)
    place = next(place for place, table in enumerate(opened.features) if table.document["aligned"])
    table = opened.features[place]
    model = rsa.unit_ranks(rsa.pearson_dissimilarity(table.embeddings[store.rows(table, opened.images, table.path)]))
    expected = rsa.family_wise(rsa.spearman(seen[0], model), real(seen[0], model[None], 40, 100)[0])
    assert np.allclose(result["features"][place]["p"], expected, atol=1e-5)


def test_three_repetitions_are_stepped_up_from_one(tiny, tmp_path):
    table = store.load_responses(tiny / "responses" / "tiny" / "sub-01.safetensors")
    path = tmp_path / "responses" / "tiny" / "sub-01.safetensors"
    tables.write_responses(path, table.train, table.test[:, :3], (table.train_images, table.test_images))
    (tmp_path / "features").symlink_to(tiny / "features")
    opened = study.open_study(tmp_path, [1], features=["lowlevel"])
    halves = study.halved_responses(opened, 0, rsa_analysis.HALVINGS, 0)
    ranks = [[rsa.unit_ranks(rsa.brain_dissimilarity(half)) for half in pair] for pair in halves]
    r = np.mean([np.einsum("tp,tp->t", *pair) for pair in ranks], axis=0)
    expected = np.sqrt((3 * r / (1 + 2 * r)).clip(0))
    result = rsa_analysis.similarity_over_time(opened, **FEW)
    assert np.allclose(result["ceiling"]["repetitions"]["upper"], expected, atol=1e-4)


def test_folds_are_of_concepts_and_each_subject_has_its_own_training_images(tiny, tmp_path, encoded, monkeypatch):
    table = store.load_responses(tiny / "responses" / "tiny" / "sub-02.safetensors")
    path = tmp_path / "responses" / "tiny" / "sub-01.safetensors"
    rows = np.arange(299, -1, -2)  # half of the images, the other way round: other rows than the first subject's
    ids = [table.train_images[row] for row in rows], table.test_images
    tables.write_responses(path, table.train[rows], table.test, ids, subject=1)
    path.with_name("sub-02.safetensors").symlink_to(table.path)
    (tmp_path / "features").symlink_to(tiny / "features")
    groups, real = [], encoding_analysis.encoding.folds_of

    def folds_of(names, *others):
        groups.append(names)
        return real(names, *others)

    monkeypatch.setattr(encoding_analysis.encoding, "folds_of", folds_of)
    _, maps = encoding_analysis.encode(study.open_study(tmp_path, [1, 2], features=["lowlevel"]), **FEW)
    assert [len(names) for names in groups] == [150, 300] and {len(set(names)) for names in groups} == {30}
    assert np.allclose(maps["sub-02.lowlevel.r"], encoded[1]["sub-02.lowlevel.r"], atol=1e-5)
    assert maps["sub-01.lowlevel.r"][:, 2:10].min() > 0.8
