"""Runs whose similarities were written by hand: what is compared, with what, and what is said of it."""

import json
import shutil
from dataclasses import asdict, replace
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
from alignvis.recipe import Recipe
from alignvis.retrieval import measures
from alignvis.runs import read_record, save_tensors
from alignvis.scoring import evaluate_run
from alignvis.stats import bootstrap
from alignvis.train_runs import train_run
from tests.tables import planted

RECIPE = Recipe(batch=32, epochs=1, rate=3e-3, schedule="cosine", validation="concept")
IMAGES = 24
FAST = {"resamples": 200, "permutations": 199}


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> Path:
    """One run that was really trained and scored; the others are written after it."""
    root = planted(tmp_path_factory.mktemp("template"), concepts=6, tests=IMAGES, times=60)
    train_run(
        root / "responses/tiny/sub-01.safetensors",
        root / "features/tiny/lowlevel.safetensors",
        root / "runs/one",
        encoder="linear",
        recipe=RECIPE,
        recipe_name="test",
    )
    evaluate_run(root / "runs/one")
    return root / "runs/one"


def similarities(places: np.ndarray) -> np.ndarray:
    """(queries, pictures) in which the right picture of each query has the rank asked for."""
    n = len(places)
    found = np.zeros((n, n), np.float32)
    for row, place in enumerate(places):
        others = [column for column in range(n) if column != row]
        found[row, others[: place - 1]] = 1
        found[row, others[place - 1 :]] = -1
    return found


def places_of(seed: int, ease: float = 0.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.minimum(IMAGES, 1 + np.floor(rng.exponential(3 * np.exp(-ease), IMAGES))).astype(int)


def write(
    root: Path,
    template: Path,
    features: str = "human",
    subject: int = 1,
    seed: int = 0,
    places: np.ndarray | None = None,
    *,
    name: str | None = None,
    images: list[str] | None = None,
    scored: bool = True,
    recipe_name: str = "test",
    recipe: Recipe = RECIPE,
    **changes,
) -> Path:
    """A scored run, whose pictures came at these ranks; ``changes`` go into its record and its scores."""
    run = root / "runs" / (name or f"tiny_sub-{subject:02d}_{features}_{changes.get('encoder', 'linear')}_seed-{seed}")
    shutil.copytree(template, run)
    places = places_of(sum(features.encode()) + 100 * subject + 10 * seed) if places is None else places
    record, scores = read_record(run), files.read_json(run / "scores.json")
    aligned = not features.endswith("_noalign")
    twin = f"{features}_noalign" if aligned else features.removesuffix("_noalign")
    about = {"features": features, "subject": subject, "seed": seed, "aligned": aligned, "twin": twin}
    about |= {"trained_on": [subject], **changes}
    record["inputs"]["responses"][0]["fingerprint"] = f"recording-{about['trained_on']}"
    record |= {key: value for key, value in about.items() if key in record}
    record["recipe"] = {"name": recipe_name, **asdict(recipe)}
    ids = images or store.read_document(run / "similarity.safetensors")["queries"]
    save_tensors(
        {"similarity": torch.from_numpy(similarities(places))},
        run / "similarity.safetensors",
        {"table": "similarity", "queries": ids, "gallery": ids},
    )
    scores |= {"queries_fingerprint": f"queries-{subject}", "top1": float((places == 1).mean()), "recipe": recipe_name}
    scores |= {"similarity_sha256": store.fingerprint(run / "similarity.safetensors"), **about}
    files.write_json(run / "record.json", record)
    (run / "scores.json").unlink()
    if scored:
        files.write_json(run / "scores.json", scores)
    return run


def study(root: Path, template: Path, subjects: int = 3, seeds: int = 2) -> dict[tuple[str, int, int], np.ndarray]:
    """A human-aligned encoder and its twin; returns the ranks, by features, subject and seed."""
    made = {}
    for features, ease in (("human", 0.8), ("human_noalign", 0.0)):
        for subject in range(1, subjects + 1):
            for seed in range(seeds):
                places = places_of(100 * subject + 10 * seed + aligned(features), ease)
                made[features, subject, seed] = places
                write(root, template, features, subject, seed, places)
    return made


def aligned(features: str) -> bool:
    return not features.endswith("_noalign")


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


def test_seeds_are_averaged_within_subjects_and_those_without_a_partner_are_said(template, tmp_path):
    made = study(tmp_path, template, subjects=2, seeds=2)
    write(tmp_path, template, "human", 1, 7, places=np.ones(IMAGES, int))  # would change every mean
    write(tmp_path, template, "human", 3, 0, places=np.ones(IMAGES, int))
    shutil.rmtree(tmp_path / "runs/tiny_sub-02_human_noalign_linear_seed-1")
    said: list[str] = []
    (row,) = compare(tmp_path, say=said.append, **FAST)
    one, other = row["subjects"]
    assert (one["subject"], one["seeds"], other["subject"], other["seeds"]) == (1, [0, 1], 2, [0])
    share = {key: (places == 1).mean() for key, places in made.items()}
    assert one["first"] == pytest.approx((share["human", 1, 0] + share["human", 1, 1]) / 2)
    assert other["first"] == pytest.approx(share["human", 2, 0]) and other["seeds_sd"] is None
    assert row["first"]["mean"] == pytest.approx((one["first"] + other["first"]) / 2)  # not over runs
    assert row["n_subjects"] == 2
    (sentence,) = row["left_out"]
    assert "3 scored runs have no partner in human_noalign" in sentence and f"note: {sentence}" in said
    assert "subject 1 seed 7; subject 2 seed 1; subject 3 seed 0" in sentence
    assert "1-2 seeds" in comparisons_table([row])


def test_an_encoder_whose_twin_was_never_asked_is_said(template, tmp_path):
    study(tmp_path, template, subjects=2, seeds=1)
    write(tmp_path, template, "lonely", 1)
    said: list[str] = []
    assert len(compare(tmp_path, say=said.append, **FAST)) == 1
    assert said == [
        "note: 1 scored run of lonely has no partner and was left out: there is no scored run of lonely_noalign"
    ]


def test_one_subject_is_tested_over_images_alone(template, tmp_path):
    study(tmp_path, template, subjects=1)
    (row,) = compare(tmp_path, **FAST)
    assert row["t"] is None and row["wilcoxon"] is None and row["permutation"]["p"] > 0
    assert row["interval_over"] == "images of this subject"
    text = comparisons_table([row])
    assert text.count("impossible: one subject") == 2 and "Of one subject the interval is over images alone" in text


def test_like_is_compared_with_like_only(template, tmp_path):
    other = replace(RECIPE, rate=1e-3)
    write(tmp_path, template, "human", places=places_of(1))
    for place, changes in enumerate(
        (
            {"recipe_name": "another", "recipe": other},
            {"recipe": other},  # of the same name
            {"encoder": "nice"},
            {"dataset": "tinier"},
            {"simulated": False},
            {"repetitions": 3},
            {"protocol": "leave-out", "trained_on": [2, 3]},
        )
    ):
        write(tmp_path, template, "human_noalign", name=f"unlike-{place}", **changes)
    said: list[str] = []
    with pytest.raises(AlignvisError, match="no human-aligned encoder and its unaligned twin have scored runs alike"):
        compare(tmp_path, say=said.append, **FAST)
    write(tmp_path, template, "human_noalign", places=places_of(2))
    (row,) = compare(tmp_path, **FAST)
    assert row["second"]["mean"] == (places_of(2) == 1).mean() and row["n_subjects"] == 1


def test_subjects_left_out_and_subjects_trained_on_stand_apart(template, tmp_path):
    study(tmp_path, template)
    for features in ("human", "human_noalign"):
        for subject in (1, 2, 3):
            pool = {"protocol": "leave-out", "trained_on": [s for s in (1, 2, 3) if s != subject]}
            write(tmp_path, template, features, subject, name=f"pooled_{features}_{subject}", **pool)
    rows = compare(tmp_path, **FAST)
    assert sorted(row["first"]["pool"] for row in rows) == [[], [1, 2, 3]]
    assert [row["t"]["family"] for row in rows] == [1, 1]
    text = comparisons_table(rows)
    assert "trained on the same subject" in text and "trained on the other subjects of 1, 2, 3" in text
    assert " ".join(text.split()).count("take them for independent") == 1
    (row,) = compare(tmp_path, "pooled_human_?", "tiny_*_human_linear_*", **FAST)
    assert row["differs"] == ["pool"] and row["n_subjects"] == 3


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


def test_brain_encoders_and_recipes_are_compared_too(template, tmp_path):
    for features in ("human", "human_noalign"):
        for encoder in ("linear", "nice"):
            for subject in (1, 2):
                write(tmp_path, template, features, subject, encoder=encoder)
    rows = compare(tmp_path, "nice", "linear", **FAST)
    assert [(row["first"]["encoder"], row["second"]["encoder"]) for row in rows] == [("nice", "linear")] * 2
    assert [row["first"]["features"] for row in rows] == ["human", "human_noalign"]
    assert {row["t"]["family"] for row in rows} == {2}
    for subject in (1, 2):
        changed = {"recipe_name": "slow", "recipe": replace(RECIPE, rate=1e-4)}
        write(tmp_path, template, "human", subject, name=f"slow_{subject}", **changed)
    (row,) = compare(tmp_path, "slow_*", "*_human_linear_*", **FAST)
    assert row["differs"] == ["recipe"] and (row["first"]["recipe"], row["second"]["recipe"]) == ("slow", "test")
    assert "recipe A slow, validation by concept, B test" in comparisons_table([row])
    folder = str(tmp_path / "runs" / "slow_1")
    (row,) = compare(tmp_path, folder, "tiny_sub-01_human_linear_seed-0", **FAST)
    assert row["n_subjects"] == 1 and row["runs"][0]["first"]["run"] == folder


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


def test_pairs_that_were_not_asked_the_same_are_left_out(template, tmp_path):
    study(tmp_path, template, subjects=5, seeds=1)
    ids = [f"test_images/{number:05d}/x.jpg" for number in range(IMAGES)]

    def spoil(subject: int, name: str, change) -> None:
        run = tmp_path / f"runs/tiny_sub-{subject:02d}_human_linear_seed-0"
        value = files.read_json(run / name)
        change(value)
        files.write_json(run / name, value)

    spoil(2, "scores.json", lambda scores: scores.update(queries_fingerprint="another"))
    spoil(3, "record.json", lambda record: record["inputs"]["responses"][0].update(fingerprint="another"))
    spoil(4, "record.json", lambda record: record["split"]["train"].pop())
    shutil.rmtree(tmp_path / "runs/tiny_sub-05_human_linear_seed-0")
    write(tmp_path, template, "human", 5, images=ids)
    (row,) = compare(tmp_path, **FAST)
    assert [one["subject"] for one in row["subjects"]] == [1]
    reasons = ("different test responses", "different recordings", "different training images", "different test images")
    for subject, reason in zip((2, 3, 4, 5), reasons, strict=True):
        (sentence,) = [text for text in row["left_out"] if reason in text]
        assert f"sub-{subject:02d}_human_linear" in sentence and sentence.endswith("and were left out")
    for name in ("human", "human_noalign"):  # both of another recording than the other seed
        write(tmp_path, template, name, 1, 1, queries_fingerprint="another")
    (row,) = compare(tmp_path, **FAST)
    assert row["subjects"][0]["seeds"] == [0]
    assert any("other test responses than the first seed" in text for text in row["left_out"])


def test_pictures_that_were_shown_a_varying_number_of_times_are_said_to_be(template, tmp_path):
    for subject, most in ((1, 3), (2, 2)):
        for name in ("human", "human_noalign"):
            about = {"repetitions": 1, "trials": {"min": 1, "max": most, "mean": 1.5}}
            write(tmp_path, template, name, subject, **about)
    (row,) = compare(tmp_path, metric="pairwise", **FAST)
    assert row["trials"] == {"min": 1, "max": 3}
    text = comparisons_table([row])
    assert "each the mean of 1 to 3 trials, among" in text and "1 repetitions" not in text
    assert "± is the SD over seeds within a subject" in text


def test_two_way_accuracy_is_not_rounded_to_single_precision(template, tmp_path):
    made = study(tmp_path, template)
    (row,) = compare(tmp_path, metric="pairwise", **FAST)
    of = [np.mean((IMAGES - made["human", s, seed]) / (IMAGES - 1)) for s in (1, 2, 3) for seed in (0, 1)]
    assert row["first"]["mean"] == pytest.approx(np.mean(of), abs=1e-14)


def broken_run(run: Path, how: str) -> None:
    path = run / "similarity.safetensors"
    if how == "truncated":
        path.write_bytes(path.read_bytes()[:-50])
    elif how == "gone":
        path.unlink()
    elif how == "another":
        shutil.copy(path.parent.parent / "tiny_sub-02_human_linear_seed-0" / path.name, path)
    elif how == "not finite":
        document = store.read_document(path)
        save_tensors({"similarity": torch.full((IMAGES, IMAGES), torch.nan)}, path, document)
        scores = files.read_json(run / "scores.json") | {"similarity_sha256": store.fingerprint(path)}
        files.write_json(run / "scores.json", scores)
    elif how == "top1":
        files.write_json(run / "scores.json", files.read_json(run / "scores.json") | {"top1": 0.987})
    elif how == "trained again":
        record = files.read_json(run / "record.json") | {"weights_sha256": "0" * 64}
        files.write_json(run / "record.json", record)
    elif how == "weights":
        (run / "weights.safetensors").write_bytes(b"other weights")
    elif how == "record":
        (run / "record.json").write_text("{")


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        ("truncated", "is not the file that the scores .* were taken from"),
        ("gone", "is gone; score it again with: alignvis eval"),
        ("another", "is not the file that the scores .* were taken from"),
        ("not finite", "not finite"),
        ("top1", "state a top-1 of 0.9870 and its similarities give"),
        ("trained again", "are of other weights"),
        ("weights", "has changed since .* was scored"),
        ("record", "not readable as JSON"),
    ],
)
def test_a_run_that_cannot_be_trusted_is_told_and_the_others_are_compared(template, tmp_path, how, sentence):
    study(tmp_path, template, seeds=1)
    broken_run(tmp_path / "runs/tiny_sub-01_human_linear_seed-0", how)
    with pytest.raises(AlignvisError, match=sentence):
        compare(tmp_path, **FAST)
    broken: list[AlignvisError] = []
    (row,) = compare(tmp_path, broken=broken.append, **FAST)
    assert len(broken) == 1 and [one["subject"] for one in row["subjects"]] == [2, 3]
    assert len(row["left_out"]) == 1


def test_nothing_but_runs_is_needed_and_weights_may_be_gone(template, tmp_path):
    study(tmp_path, template, subjects=2, seeds=1)
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]
    for weights in tmp_path.glob("runs/*/weights.safetensors"):
        weights.unlink()
    assert compare(tmp_path, **FAST)[0]["n_subjects"] == 2


def test_unscored_runs_are_named_with_what_scores_them(template, tmp_path):
    run = write(tmp_path, template, "human", scored=False)
    write(tmp_path, template, "human_noalign", scored=False)
    with pytest.raises(
        AlignvisError, match=f"nothing can be compared yet: 2 runs .*alignvis --root {tmp_path} eval {run}"
    ):
        compare(tmp_path)
    study(tmp_path / "other", template, subjects=1, seeds=1)
    write(tmp_path / "other", template, "human", 9, scored=False)
    said: list[str] = []
    compare(tmp_path / "other", say=said.append, **FAST)
    assert said[0].startswith(
        "note: 1 run has no score yet and was left out (tiny_sub-09_human_linear_seed-0); score it"
    )


def test_the_same_question_answered_twice_is_refused(template, tmp_path):
    study(tmp_path, template, subjects=2, seeds=1)
    write(tmp_path, template, "human", 1, name="again")
    with pytest.raises(AlignvisError, match="are of the same subject, seed and recipe"):
        compare(tmp_path, **FAST)
    broken: list[AlignvisError] = []
    (row,) = compare(tmp_path, broken=broken.append, **FAST)
    assert [one["subject"] for one in row["subjects"]] == [2] and len(broken) == 1
    (tmp_path / "runs/again").rename(tmp_path / "elsewhere")
    (tmp_path / "runs/link").symlink_to(tmp_path / "runs/tiny_sub-01_human_linear_seed-0")
    assert compare(tmp_path, **FAST)[0]["n_subjects"] == 2  # a link is no second run


def test_what_cannot_be_compared_is_a_sentence(template, tmp_path):
    with pytest.raises(AlignvisError, match="no human-aligned encoder and its unaligned twin"):
        compare(tmp_path)
    with pytest.raises(AlignvisError, match="there are no runs in"):
        compare(tmp_path, "a", "b")
    study(tmp_path, template, subjects=2, seeds=2)
    write(tmp_path, template, "fourth", 3)
    for words, sentence in {
        ("human", None): "'human' alone cannot be compared",
        ("human", "human"): "cannot be compared with itself",
        ("human", "humane"): "called 'humane'; did you mean human",
        ("human", "linear"): "'human' are features and 'linear' is a brain encoder",
        ("human", "fourth"): "no run of human has a partner in fourth",
        ("*_human_*", "*sub-01_human_*"): "is on both sides",
        ("*_human_*seed-0", "*_human_*seed-1"): "so there is nothing to compare",
        ("human", "*nothing*"): r"called '\*nothing\*'",
        ("human", "/../**["): "called",
        ("*_linear_seed-0", "elsewhere"): "called 'elsewhere'",
    }.items():
        with pytest.raises(AlignvisError, match=sentence):
            compare(tmp_path, *words, **FAST)
    write(tmp_path, template, "human", 1, name="n1", encoder="nice")
    write(tmp_path, template, "human", 1, name="n2", encoder="lstm")
    with pytest.raises(
        AlignvisError, match=r"has lstm, nice and .* has linear as brain encoder, so who belongs to whom"
    ):
        compare(tmp_path, "n?", "*_human_linear_*", **FAST)
    with pytest.raises(AlignvisError, match="'top2' is no metric"):
        compare(tmp_path, metric="top2")


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


def test_runs_that_gave_all_responses_the_same_answer_are_said_to_be_among_the_rows(template, tmp_path):
    study(tmp_path, template)
    said: list[str] = []
    compare(tmp_path, **FAST, say=said.append)
    assert not said
    for run in ("tiny_sub-01_human_linear_seed-0", "tiny_sub-02_human_noalign_linear_seed-1"):
        path = tmp_path / "runs" / run / "scores.json"
        files.write_json(path, files.read_json(path) | {"answers": 1})
    compare(tmp_path, **FAST, say=said.append)
    (note,) = said
    assert "1 more run named at most 1 picture each for 24 responses: from response to picture they have" in note
    said.clear()
    compare(tmp_path, "tiny_sub-03_human_linear_*", "tiny_sub-03_human_noalign_*", **FAST, say=said.append)
    assert not said  # of runs that are no part of it, nothing


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
