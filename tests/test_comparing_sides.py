"""Runs whose similarities were written by hand: which are compared with which, and which are left out."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from alignvis import files
from alignvis.comparing import compare, comparisons_table
from alignvis.errors import AlignvisError
from tests.compared import FAST, IMAGES, RECIPE, broken_run, places_of, scored_run, study, write


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> Path:
    return scored_run(tmp_path_factory.mktemp("template"))


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
            {"galleries": "class centres"},
            {"places": np.ones(12, int), "images": [f"{number}.jpg" for number in range(12)]},
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
    assert (row["first"]["pool"], row["second"]["pool"]) == ([1, 2, 3], [])
    write(tmp_path, template, name="few", protocol="leave-out", trained_on=[2])
    with pytest.raises(AlignvisError, match=r"few has \(1, 2\) and .* has \(1, 2, 3\), the same subject as training s"):
        compare(tmp_path, "few", "*_human_[1l]*", **FAST)


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
    with pytest.raises(AlignvisError, match=f"nothing can be compared yet: 2 runs .*with: alignvis eval {run}"):
        compare(tmp_path)
    with pytest.raises(AlignvisError, match="nothing can be compared yet: 2 runs"):
        compare(tmp_path, "human", "human_noalign")
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


def answers(run: Path, count: int) -> None:
    files.write_json(run / "scores.json", files.read_json(run / "scores.json") | {"answers": count})


def test_only_what_was_compared_is_said_to_have_given_the_same_answer(template, tmp_path):
    study(tmp_path, template, seeds=1)
    write(tmp_path, template, "human", 4)  # without a partner
    for subject in (1, 4):
        answers(tmp_path / f"runs/tiny_sub-{subject:02d}_human_linear_seed-0", 1)
    path = tmp_path / "runs/tiny_sub-01_human_linear_seed-0/scores.json"
    files.write_json(path, files.read_json(path) | {"queries_fingerprint": "another"})
    said: list[str] = []
    (row,) = compare(tmp_path, **FAST, say=said.append)
    assert row["n_subjects"] == 2 and len(said) == 2 and all("left out" in note for note in said)
    answers(tmp_path / "runs/tiny_sub-02_human_noalign_linear_seed-0", 1)
    compare(tmp_path, **FAST, say=said.append)
    assert "sub-02_human_noalign_linear_seed-0 named only 1 picture for 24 responses" in said[-1]


def test_of_runs_without_a_score_only_those_that_were_asked_for_are_said(template, tmp_path):
    study(tmp_path, template, subjects=2, seeds=1)
    write(tmp_path, template, "plain", name="plain", scored=False, aligned=False, twin=None)
    said: list[str] = []
    compare(tmp_path, **FAST, say=said.append)
    assert not said  # of what is no aligned encoder and no twin of one
    write(tmp_path, template, "human", 9, scored=False, encoder="nice")
    for words in (("*_human_linear_*", "*_human_noalign_linear_*"), ("*sub-01_human_l*", "*sub-01_human_n*")):
        compare(tmp_path, *words, **FAST, say=said.append)
    assert not said
    compare(tmp_path, "human", "human_noalign", **FAST, say=said.append)
    (note,) = said
    assert "1 run has no score yet" in note and "tiny_sub-09_human_nice_seed-0" in note


def test_what_has_no_score_is_said_once_where_nothing_is_compared_and_few_are_named(template, tmp_path):
    for subject in (1, 2, 3, 4):
        last = write(tmp_path, template, "human", subject, scored=False)
    said: list[str] = []
    with pytest.raises(AlignvisError, match=r"nothing can be compared yet: 4 runs .* and 1 more\); .* eval$"):
        compare(tmp_path, say=said.append, **FAST)
    shutil.rmtree(last)
    with pytest.raises(AlignvisError, match=r"3 runs .*sub-03[^ ]*\); .* eval [^ ]*sub-01[^ ]* [^ ]* [^ ]*$"):
        compare(tmp_path, say=said.append, **FAST)
    assert not said


def test_a_twin_may_be_stated_by_the_unaligned_one_alone(template, tmp_path):
    write(tmp_path, template, "human", twin=None)
    write(tmp_path, template, "human_noalign")
    (row,) = compare(tmp_path, **FAST)
    assert (row["first"]["features"], row["second"]["features"]) == ("human", "human_noalign")


def test_what_differs_in_more_than_was_asked_for_is_not_compared(template, tmp_path):
    write(tmp_path, template, "human", encoder="nice")
    write(tmp_path, template, "human_noalign", encoder="linear")
    for words in (("human", "human_noalign"), ("nice", "linear")):
        with pytest.raises(AlignvisError, match="has a partner in .* that is equal in all else"):
            compare(tmp_path, *words, **FAST)
    (row,) = compare(tmp_path, "*_human_nice_*", "*_linear_*", **FAST)  # runs may differ in anything that is said
    assert row["differs"] == ["features", "encoder"]


def test_what_the_second_side_has_alone_is_said_too(template, tmp_path):
    study(tmp_path, template, subjects=2, seeds=1)
    for seed in (5, 3, 1, 2, 4):
        write(tmp_path, template, "human_noalign", 12, seed)
    write(tmp_path, template, "human_noalign", 5, encoder="nice")
    said: list[str] = []
    (row,) = compare(tmp_path, **FAST, say=said.append)
    assert [one["subject"] for one in row["subjects"]] == [1, 2]
    assert said == [
        "note: 5 scored runs have no partner in human and were left out: subject 12 seed 1, 2, 3, 4, 5 of "
        "human_noalign (tiny, linear, test)",
        "note: 1 scored run has no partner in human and was left out: subject 5 seed 0 of human_noalign (tiny, nice, "
        "test)",
    ]


def test_who_shares_some_of_a_factor_differs_in_another(template, tmp_path):
    for features, encoder in (("human", "linear"), ("human", "nice"), ("human_noalign", "linear")):
        write(tmp_path, template, features, encoder=encoder)
    (row,) = compare(tmp_path, "*_human_[ln]i*", "*_noalign_*", **FAST)
    assert row["differs"] == ["features"] and row["first"]["encoder"] == row["second"]["encoder"] == "linear"


def test_a_name_of_features_is_no_name_of_a_run(template, tmp_path):
    study(tmp_path, template, subjects=2, seeds=1)
    write(tmp_path, template, "other", name="human")
    (row,) = compare(tmp_path, "human", "human_noalign", **FAST)
    assert row["first"]["features"] == "human" and row["n_subjects"] == 2


def test_a_run_named_in_two_ways_is_one_run(template, tmp_path):
    study(tmp_path, template, subjects=1, seeds=1)
    (tmp_path / "link").symlink_to(tmp_path / "runs/tiny_sub-01_human_linear_seed-0")
    for words in ((str(tmp_path / "link"), "*_human_linear_*"), ("*_human_linear_*", str(tmp_path / "link"))):
        with pytest.raises(AlignvisError, match="is on both sides"):
            compare(tmp_path, *words, **FAST)
    (row,) = compare(tmp_path, str(tmp_path / "link"), "*_human_noalign_*", **FAST)
    assert row["n_subjects"] == 1


def changed(run: Path, change) -> None:
    record = files.read_json(run / "record.json")
    change(record)
    files.write_json(run / "record.json", record)


def test_the_order_in_which_a_record_names_what_was_learned_is_no_difference(template, tmp_path):
    runs = [write(tmp_path, template, name) for name in ("human", "human_noalign")]
    for run, turn in zip(runs, (1, -1), strict=True):
        changed(run, lambda record, turn=turn: record["split"].update(train=record["split"]["train"][::turn]))
        two = [files.read_json(run / "record.json")["inputs"]["responses"][0] | {"fingerprint": name} for name in "ab"]
        changed(run, lambda record, two=two, turn=turn: record["inputs"].update(responses=two[::turn]))
    assert compare(tmp_path, **FAST)[0]["n_subjects"] == 1


def test_training_images_may_differ_where_recipes_or_training_subjects_do(template, tmp_path):
    write(tmp_path, template)
    slow = write(tmp_path, template, name="slow", recipe_name="slow", recipe=replace(RECIPE, rate=1e-4))
    pooled = write(tmp_path, template, name="pooled", protocol="leave-out", trained_on=[2, 3])
    for run in (slow, pooled):
        changed(run, lambda record: record["split"]["train"].pop())
        (row,) = compare(tmp_path, run.name, "tiny_*", **FAST)
        assert row["differs"] == ["recipe" if run is slow else "pool"]


def test_what_has_no_score_in_this_folder_is_scored_without_naming_it(template, tmp_path, monkeypatch):
    write(tmp_path, template, scored=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(AlignvisError, match="score it with: alignvis eval runs/tiny"):
        compare(Path("."), **FAST)


def test_one_picture_is_no_gallery_and_two_are(template, tmp_path):
    for count in (1, 2):
        root, ids = tmp_path / str(count), ["a.jpg", "b.jpg"][:count]
        for name in ("human", "human_noalign"):
            write(root, template, name, places=np.ones(count, int), images=ids)
    assert compare(tmp_path / "2", metric="pairwise", **FAST)[0]["first"]["mean"] == 1
    with pytest.raises(AlignvisError, match="was asked among one picture only, which says nothing"):
        compare(tmp_path / "1", **FAST)
