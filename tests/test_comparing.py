"""Runs whose similarities were written by hand: what is said of a comparison, in numbers and in words."""

import json
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import torch
from click.testing import CliRunner

from alignvis import files, store
from alignvis.cli import main
from alignvis.comparing import METRICS, compare, comparisons, comparisons_table
from alignvis.comparing.values import chance_of
from alignvis.errors import AlignvisError
from alignvis.paired import holm, permutation
from alignvis.retrieval import measures
from alignvis.runs import read_record
from alignvis.stats import bootstrap
from tests.compared import FAST, IMAGES, broken_run, places_of, scored_run, similarities, study, write


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> Path:
    return scored_run(tmp_path_factory.mktemp("template"))


def test_aligned_encoders_stand_against_their_twins_and_every_number_is_that_of_scipy(template, tmp_path):
    made = study(tmp_path, template)
    (row,) = compare(tmp_path, resamples=500, permutations=300, seed=3)
    hits = {
        name: np.stack([np.mean([made[name, subject, seed] == 1 for seed in (0, 1)], axis=0) for subject in (1, 2, 3)])
        for name in ("human", "human_noalign")
    }
    first, second = hits["human"], hits["human_noalign"]
    assert (row["first"]["features"], row["second"]["features"]) == ("human", "human_noalign")
    assert (row["first"]["aligned"], row["second"]["aligned"], row["differs"]) == (True, False, ["features"])
    assert row["first"]["mean"] == pytest.approx(first.mean()) and row["second"]["mean"] == pytest.approx(second.mean())
    assert row["difference"] == pytest.approx(first.mean() - second.mean()) and row["difference"] > 0
    assert row["interval"] == pytest.approx(bootstrap(first - second, resamples=500, seed=3))
    assert row["first"]["interval"] == pytest.approx(bootstrap(first, resamples=500, seed=3))
    assert row["second"]["interval"] == pytest.approx(bootstrap(second, resamples=500, seed=3))
    t = scipy.stats.ttest_rel(first.mean(axis=1), second.mean(axis=1))
    assert (row["t"]["t"], row["t"]["p"], row["t"]["df"]) == pytest.approx((t.statistic, t.pvalue, 2))
    exact = scipy.stats.wilcoxon(first.mean(axis=1), second.mean(axis=1), method="exact")
    assert row["wilcoxon"]["p"] == pytest.approx(exact.pvalue) and row["wilcoxon"]["smallest_p"] == 0.25
    signs = permutation((first - second).mean(axis=0), permutations=300, seed=3)
    assert row["permutation"]["p"] == signs.p and row["permutation"]["n"] == signs.n
    each = [
        [(made["human", s, k] == 1).mean() - (made["human_noalign", s, k] == 1).mean() for k in (0, 1)]
        for s in (1, 2, 3)
    ]
    assert row["seeds_sd"] == pytest.approx(np.sqrt(np.mean(np.var(each, axis=1, ddof=1))))
    assert (row["n_subjects"], row["n_images"], row["n"], row["gallery"], row["repetitions"]) == (3, 24, 24, 24, 4)
    assert row["chance"] == 1 / 24 and row["simulated"] is True and row["left_out"] == []
    assert row["t"]["p_holm"] == row["t"]["p"] and row["t"]["family"] == 1
    assert len(row["runs"]) == 6
    for pair in row["runs"]:
        for side in ("first", "second"):
            run = Path(pair[side]["run"])
            assert pair[side]["weights_sha256"] == store.fingerprint(run / "weights.safetensors")
            assert pair[side]["similarity_sha256"] == store.fingerprint(run / "similarity.safetensors")
            assert read_record(run)["seed"] == pair["seed"] and read_record(run)["subject"] == pair["subject"]
    json.dumps(row, allow_nan=False)


@pytest.mark.parametrize("metric", METRICS)
def test_each_metric_is_the_mean_over_images_that_eval_states(template, tmp_path, metric):
    made = study(tmp_path, template, subjects=1, seeds=1)
    (row,) = compare(tmp_path, metric=metric, **FAST)
    for side in ("first", "second"):
        matrix = torch.from_numpy(similarities(made[row[side]["features"], 1, 0]))
        assert row[side]["mean"] == pytest.approx(measures(matrix, torch.arange(IMAGES))[metric])
    assert row["chance"] == chance_of(metric, IMAGES)
    harmonic = sum(1 / place for place in range(1, IMAGES + 1))
    by_hand = {"top1": 1 / IMAGES, "top5": 5 / IMAGES, "mrr": harmonic / IMAGES, "pairwise": 0.5}
    assert row["chance"] == pytest.approx(by_hand[metric])
    assert METRICS[metric].title in comparisons_table([row])


def test_by_hand(template, tmp_path):
    """Four images of 24 at ranks 1, 1, 2 and 24 of the first encoder, and at 1, 2, 2 and 23 of the other."""
    for features, places in (("human", [1, 1, 2, 24]), ("human_noalign", [1, 2, 2, 23])):
        write(tmp_path, template, features, places=np.array(places * 6))
    expected = {
        "top1": (0.5, 0.25),
        "top5": (0.75, 0.75),
        "mrr": ((2.5 + 1 / 24) / 4, (2 + 1 / 23) / 4),
        "pairwise": ((1 + 1 + 22 / 23 + 0) / 4, (1 + 2 * 22 / 23 + 1 / 23) / 4),
    }
    for metric, (first, second) in expected.items():
        (row,) = compare(tmp_path, metric=metric, **FAST)
        assert (row["first"]["mean"], row["second"]["mean"]) == pytest.approx((first, second)), metric


def test_the_other_way_round_is_the_same_with_the_sign_changed(template, tmp_path):
    study(tmp_path, template)
    (row,), (turned,) = (
        compare(tmp_path, *names, **FAST) for names in (("human", "human_noalign"), ("human_noalign", "human"))
    )
    assert turned["difference"] == pytest.approx(-row["difference"])
    assert turned["interval"] == pytest.approx([-end for end in row["interval"][::-1]])
    for test in ("t", "wilcoxon", "permutation"):
        assert turned[test]["p"] == pytest.approx(row[test]["p"])
    assert turned["t"]["dz"] == pytest.approx(-row["t"]["dz"])


def test_equal_answers_differ_in_nothing(template, tmp_path):
    for subject in (1, 2, 3):
        for features in ("human", "human_noalign"):
            write(tmp_path, template, features, subject, places=places_of(subject))
    (row,) = compare(tmp_path, **FAST)
    assert (row["difference"], row["interval"]) == (0.0, [0.0, 0.0])
    assert [row[test]["p"] for test in ("t", "wilcoxon", "permutation")] == [1.0, 1.0, 1.0]
    assert "differences all equal" in comparisons_table([row])


def test_one_subject_is_tested_over_images_alone(template, tmp_path):
    study(tmp_path, template, subjects=1)
    (row,) = compare(tmp_path, **FAST)
    assert row["t"] is None and row["wilcoxon"] is None and row["permutation"]["p"] > 0
    assert row["interval_over"] == "images of this subject"
    text = comparisons_table([row])
    assert text.count("impossible: one subject") == 2 and "Of one subject the interval is over images alone" in text


def test_holm_is_over_the_encoders_of_a_table(template, tmp_path):
    for features in ("human", "human_noalign", "other", "other_noalign", "third", "third_noalign"):
        for subject in (1, 2, 3, 4):
            ease = {"human": 1.5, "other": 0.4}.get(features, 0.0)
            write(tmp_path, template, features, subject, places=places_of(subject + 7 * len(features), ease))
    rows = compare(tmp_path, **FAST)
    assert len(rows) == 3
    for test in ("t", "wilcoxon", "permutation"):
        assert [row[test]["p_holm"] for row in rows] == holm([row[test]["p"] for row in rows])
        assert {row[test]["family"] for row in rows} == {3}
    text = " ".join(comparisons_table(rows).split())
    assert "by Holm over the 3 comparisons of this table" in text and "Holm is over the others" not in text
    for features in ("lonely", "lonely_noalign"):
        write(tmp_path, template, features)
    rows = compare(tmp_path, **FAST)
    assert [rows[1][test] and rows[1][test]["family"] for test in ("t", "wilcoxon", "permutation")] == [None, None, 4]
    assert rows[0]["t"]["family"] == 3 and "Holm is over the others" in comparisons_table(rows)


def test_images_are_joined_by_id_and_subjects_may_have_seen_others(template, tmp_path):
    ids = [f"test_images/{number:05d}/x.jpg" for number in range(IMAGES)]
    order = np.random.default_rng(0).permutation(IMAGES)
    places = {name: places_of(seed) for name, seed in (("human", 1), ("human_noalign", 2))}
    for name, seen in places.items():
        write(tmp_path, template, name, 1, places=seen, images=ids)
        shuffled = order if name == "human" else np.arange(IMAGES)
        write(tmp_path, template, name, 2, places=seen[shuffled], images=[ids[place] for place in shuffled])
    (row,) = compare(tmp_path, **FAST)
    both = (places["human"] == 1) * 1.0 - (places["human_noalign"] == 1)
    assert row["permutation"]["n"] == (both != 0).sum() and row["n_images"] == IMAGES
    assert row["permutation"]["p"] == permutation(both, permutations=199).p
    assert row["bootstrap"]["images"] == "shared"
    for name, seen in places.items():
        mine = [image.replace("/x", "/y") for image in ids]
        write(tmp_path, template, name, 3, places=seen, images=mine)
    (row,) = compare(tmp_path, **FAST)
    assert row["bootstrap"]["images"] == "of each subject" and row["n_images"] == 2 * IMAGES
    assert row["interval"] == pytest.approx(bootstrap([both] * 3, resamples=200))
    assert [one["images"] for one in row["subjects"]] == [IMAGES] * 3


def test_pictures_that_were_shown_a_varying_number_of_times_are_said_to_be(template, tmp_path):
    for subject, least, most in ((1, 2, 3), (2, 1, 2)):
        for name in ("human", "human_noalign"):
            about = {"repetitions": 1, "trials": {"min": least, "max": most, "mean": 2.0}}
            write(tmp_path, template, name, subject, **about)
    (row,) = compare(tmp_path, metric="pairwise", **FAST)
    assert row["trials"] == {"min": 1, "max": 3}
    text = comparisons_table([row])
    assert "each the mean of 1 to 3 trials, among" in text and "1 repetitions" not in text
    for order in ((row, row | {"trials": {"min": 2, "max": 4}}), (row | {"trials": {"min": 2, "max": 4}}, row)):
        assert "each the mean of 1 to 4 trials, among" in comparisons_table(order)  # of all that stands below
    assert "± is the SD over seeds within a subject" in text


def test_two_way_accuracy_is_not_rounded_to_single_precision(template, tmp_path):
    made = study(tmp_path, template)
    (row,) = compare(tmp_path, metric="pairwise", **FAST)
    of = [np.mean((IMAGES - made["human", s, seed]) / (IMAGES - 1)) for s in (1, 2, 3) for seed in (0, 1)]
    assert row["first"]["mean"] == pytest.approx(np.mean(of), abs=1e-14)


def run(*words: str | Path, code: int = 0):
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result


def test_a_table_says_what_its_row_says(template, tmp_path):
    study(tmp_path, template)
    (row,) = compare(tmp_path, **FAST)
    row |= {"difference": -0.0125, "interval": [-0.05, 0.025], "seeds_sd": 0.031}
    row["first"] |= {"mean": 0.2, "interval": [0.1, 0.3]}
    row["t"] |= {"t": -1.5, "df": 2, "dz": -0.866, "low": -0.04, "high": 0.015, "p": 0.27, "p_holm": 0.54}
    row["wilcoxon"] |= {"statistic": 1.5, "most": 6.0, "zeros": 1, "smallest_p": 0.5, "p": 0.75, "p_holm": 1.0}
    row["permutation"] |= {"n": 11, "permutations": 10_000, "exact": False, "p": 0.0001, "p_holm": 0.0002}
    text = comparisons_table([row])
    for cell in (
        "20.0 (10.0 to 30.0)",
        "  -1.2\n",
        "(-5.0 to +2.5)",
        "seeds ± 3.1",
        "t(2) = -1.50, dz = -0.87",
        "(-4.0 to +1.5)",
        "p 0.270, Holm 0.540",
        "W = 1.5 of 6, 1 zero",
        "exact; at least 0.500",
        "p 0.750, Holm 1.000",
        "11 of 24 differ",
        "10,000 drawn",
        "p 0.0001, Holm 0.0002",
        "3 subjects",
        "2 seeds ",
        "chance 4.2",
    ):
        assert cell in text, cell
    assert "SIMULATED" in text and "SIMULATED" not in comparisons_table([row | {"simulated": False}])
    for side in ("first", "second"):  # the longest names that there are, and twelve of them
        row[side] |= {"features": "harmonization_convnext_tiny_noalign", "encoder": "temporal-spatial"}
    lines = comparisons_table([row] * 12).splitlines()
    assert max(map(len, lines)) <= 100
    starts = [line.split()[0] for line in lines if line[:2].strip().isdigit()]
    assert starts == 2 * [str(place) for place in range(1, 13)]  # each stands in both tables


def test_the_command_prints_a_table_and_keeps_the_whole_result(template, tmp_path):
    study(tmp_path, template)
    for features in ("other", "other_noalign"):
        write(tmp_path, template, features, 1)
    words = ("--root", tmp_path, "compare", "--resamples", 200, "--permutations", 210, "--seed", 4)
    table = run(*words)
    assert (
        "tiny (SIMULATED brain): 24 test responses, each the mean of 4 repetitions, among 24 pictures" in table.stdout
    )
    assert "A human" in table.stdout and "B human_noalign" in table.stdout and "t(2) = " in table.stdout
    kept = tmp_path / "results" / "compare.json"
    assert f"wrote {kept}" in table.stderr
    before, document = kept.read_bytes(), files.read_json(kept)
    shown = run(*words, "--json")
    rows = [json.loads(line) for line in shown.stdout.splitlines()]
    assert rows == document["comparisons"] and len(rows) == 2
    assert rows[0]["bootstrap"] == {"images": "shared", "resamples": 200, "seed": 4}
    assert (rows[0]["permutation"]["permutations"], rows[0]["permutation"]["seed"]) == (210, 4)
    assert rows[0]["versions"].keys() == {"alignvis", "python", "torch", "numpy", "scipy"}
    assert shown.stderr.splitlines()[-1] == f"the same is in {kept}" and kept.read_bytes() == before
    other = run(*words, "--metric", "mrr")
    assert f"{kept} differs from this and was kept; --overwrite replaces it" in other.stderr
    assert kept.read_bytes() == before
    run(*words, "--metric", "mrr", "--overwrite", "human", "human_noalign")
    assert [row["metric"] for row in files.read_json(kept)["comparisons"]] == ["mrr"]
    own = tmp_path / "mine.json"
    run(*words, "--out", own)
    assert own.read_bytes() == before
    assert "is there already" in run(*words, "--out", own, code=1).stderr


def test_the_command_says_what_is_wrong_after_what_is_right(template, tmp_path):
    study(tmp_path, template, seeds=1)
    broken_run(tmp_path / "runs/tiny_sub-01_human_linear_seed-0", "gone")
    words = ("--root", tmp_path, "compare", "--resamples", 200, "--permutations", 200)
    result = run(*words, code=1)
    assert "A human" in result.stdout and "is gone; score it again" in result.stderr
    assert "is gone" in files.read_json(tmp_path / "results/compare.json")["notes"][-1]
    for subject in (2, 3):
        broken_run(tmp_path / f"runs/tiny_sub-{subject:02d}_human_linear_seed-0", "gone")
    result = run(*words, "--overwrite", code=1)
    assert "is gone" in result.stderr and not result.stdout
    assert "alone cannot be compared" in run(*words, "human", code=1).stderr


def test_a_test_that_gave_no_p_is_no_member_of_its_family():
    """Subjects who differ by exactly the same amount give no t: what is not asked need not be corrected for."""
    side = {"pool": [1], "recipe": "r", "validation": "concept"}
    about = {"first": side, "second": side, "dataset": "d", "simulated": True, "n": 9, "gallery": 9, "repetitions": 4}
    rows = [
        {**about, "t": {"p": p}, "wilcoxon": None, "permutation": {"p": 0.02}, "trials": None}
        for p in (0.01, None, 0.04)
    ]
    comparisons._adjust(rows)
    assert [row["t"]["p_holm"] for row in rows] == [pytest.approx(0.02), None, pytest.approx(0.04)]
    assert {row["t"]["family"] for row in rows} == {2} and {row["permutation"]["family"] for row in rows} == {3}
    assert rows[0]["permutation"]["p_holm"] == pytest.approx(0.06)


PROTOCOL = {"dataset": "d", "simulated": True, "n": 9, "gallery": 9, "repetitions": 4}


@pytest.mark.parametrize("key", ["pool", "recipe", "validation", *PROTOCOL])
@pytest.mark.parametrize("side", ["first", "second"])
def test_a_family_is_of_one_protocol_and_of_all_that_was_compared_by_it(side, key):
    def row(p: float, of_side: dict, shared: dict) -> dict:
        sides = {name: {"pool": [], "recipe": "r", "validation": "image", "features": "f"} for name in ("first", side)}
        sides = {"second": dict(sides["first"])} | sides
        sides[side] = sides[side] | of_side
        return {**PROTOCOL, **sides, "permutation": {"p": p}, "t": None, "wilcoxon": None, "trials": None, **shared}

    change = ({}, {key: 3}) if key in PROTOCOL else ({key: [1] if key == "pool" else "other"}, {})
    rows = [row(0.01, {}, {}), row(0.04, {"features": "g"}, {}), row(0.03, *change)]
    comparisons._adjust(rows)
    assert [one["permutation"]["family"] for one in rows] == [2, 2, 1]
    assert [one["permutation"]["p_holm"] for one in rows] == pytest.approx([0.02, 0.04, 0.03])


def test_a_result_that_is_no_result_is_kept_as_it_is(template, tmp_path):
    study(tmp_path, template, subjects=1, seeds=1)
    kept = tmp_path / "results" / "compare.json"
    kept.parent.mkdir()
    kept.write_text("{")
    result = run("--root", tmp_path, "compare", "--resamples", 200, "--permutations", 200)
    assert "differs from this and was kept" in result.stderr and kept.read_text() == "{"


@pytest.mark.parametrize("measure", ["top1", "top5", "mrr", "pairwise"])
@pytest.mark.parametrize("by", [1 / IMAGES, -1 / IMAGES, 1e-6])
def test_what_is_stated_must_be_what_is_compared(template, tmp_path, measure, by):
    for name in ("human", "human_noalign"):
        run = write(tmp_path, template, name, places=np.arange(1, IMAGES + 1))
    scores = files.read_json(run / "scores.json")
    files.write_json(run / "scores.json", scores | {measure: scores[measure] + by})
    with pytest.raises(AlignvisError, match="state a .* and its similarities give|do not follow from"):
        compare(tmp_path, metric=measure, **FAST)
