import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from alignvis import asking, averaging, files, plans, runs, scoring, store
from alignvis.errors import AlignvisError
from alignvis.recipe import Recipe
from alignvis.runs import load_decoder, read_recipe, read_record, read_scores, run_name
from alignvis.scoring import evaluate_run
from alignvis.train_runs import train_run
from tests.tables import planted

RECIPE = Recipe(batch=32, epochs=6, rate=3e-3, schedule="cosine", validation="concept")


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    root = planted(tmp_path_factory.mktemp("root"))
    train(root)
    return root


@pytest.fixture
def root(trained, tmp_path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "root"))


def train(root: Path, name: str = "one", **changes) -> dict:
    options = {"encoder": "linear", "recipe": RECIPE, "recipe_name": "test", "seed": 3, **changes}
    responses, features = root / "responses/tiny/sub-01.safetensors", root / "features/tiny/lowlevel.safetensors"
    return train_run(responses, features, root / "runs" / name, **options)


def test_the_right_pictures_are_found_among_test_images_that_were_never_seen(root):
    scores = evaluate_run(root / "runs" / "one")
    assert scores["top1"] > 0.5 > 10 * scores["top1_chance"]
    assert scores["top1_interval"][0] < scores["top1"] < scores["top1_interval"][1]
    assert (scores["n"], scores["gallery"], scores["repetitions"], scores["top5_chance"]) == (40, 40, 4, 5 / 40)
    assert scores["simulated"] is True and scores["seed"] == 3
    assert json.loads((root / "runs/one/scores.json").read_text())["top1"] == scores["top1"]


def test_nice_learns_too_and_its_dropout_follows_the_seed(root):
    for name in ("first", "again"):
        train(root, name, encoder="nice", recipe=replace(RECIPE, epochs=12))
    scores = evaluate_run(root / "runs" / "first")
    assert scores["top1"] > 0.25
    before = (root / "runs/first/similarity.safetensors").read_bytes()
    assert evaluate_run(root / "runs" / "first") == scores  # nothing is dropped out, no statistic is of the test batch
    assert (root / "runs/first/similarity.safetensors").read_bytes() == before
    assert len({(root / "runs" / name / "weights.safetensors").read_bytes() for name in ("first", "again")}) == 1


def test_scores_follow_from_the_stored_similarities(root):
    scores = evaluate_run(root / "runs" / "one")
    similarities = load_file(root / "runs/one/similarity.safetensors")["similarity"]
    places = (similarities >= np.diag(similarities)[:, None]).sum(axis=1)
    assert scores["top1"] == np.mean(places == 1) and scores["top3"] == np.mean(places <= 3)
    assert scores["median_rank"] == np.median(places)
    assert store.read_document(root / "runs/one/similarity.safetensors", "similarity")["gallery"][0].startswith(
        "test_images/"
    )


def test_the_same_seed_gives_the_same_bytes_and_another_seed_does_not(root):
    train(root, "again")
    train(root, "other", seed=4)
    first, again, other = (
        (root / "runs" / name / "weights.safetensors").read_bytes() for name in ("one", "again", "other")
    )
    assert first == again != other
    held_out = [set(read_record(root / "runs" / name)["split"]["validation"]) for name in ("one", "again", "other")]
    assert held_out[0] == held_out[1] != held_out[2]


def test_a_record_tells_what_was_done(root):
    record = read_record(root / "runs" / "one")
    responses = store.load_responses(root / "responses/tiny/sub-01.safetensors")
    train_side, validation = record["split"]["train"], record["split"]["validation"]
    assert sorted(train_side + validation) == sorted(responses.train_images)
    assert len(validation) == 30 and len({image.split("/")[1] for image in validation}) == 3
    assert record["recipe"] == {"name": "test", **vars(RECIPE)}
    assert record["inputs"]["features"]["path"] == "../../features/tiny/lowlevel.safetensors"
    assert len(record["history"]) == 6 and record["versions"]["torch"] == torch.__version__


def test_a_run_moves_with_its_root(root, tmp_path):
    moved = root.rename(tmp_path / "elsewhere")
    assert evaluate_run(moved / "runs" / "one")["n"] == 40


def test_test_responses_are_read_by_eval_alone(root, monkeypatch):
    parts = []
    original = averaging.average

    def spy(table, part, *rest, **options):
        parts.append(part)
        return original(table, part, *rest, **options)

    monkeypatch.setattr(plans, "average", spy)
    monkeypatch.setattr(asking, "average", spy)
    train(root, "spied")
    assert parts == ["train"]
    evaluate_run(root / "runs" / "spied")
    assert parts == ["train", "test"]


def test_nonsense_test_responses_change_no_weights(root):
    """Training on a table whose test part is garbage gives the same bytes: nothing of it is looked at."""
    path = root / "responses/tiny/sub-01.safetensors"
    arrays, document = load_file(path), store.read_document(path)
    save_file({**arrays, "test": np.full_like(arrays["test"], np.nan)}, path, {"alignvis": json.dumps(document)})
    train(root, "blind")
    assert (root / "runs/blind/weights.safetensors").read_bytes() == (
        root / "runs/one/weights.safetensors"
    ).read_bytes()
    with pytest.raises(AlignvisError, match="test response to .* is not finite"):
        evaluate_run(root / "runs" / "blind")


def test_a_test_image_that_was_trained_on_is_found_out(root):
    record = read_record(root / "runs" / "one")
    leak = store.load_responses(root / "responses/tiny/sub-01.safetensors").test_images[7]
    record["split"]["validation"].append(leak)
    files.write_json(root / "runs/one/record.json", record)
    with pytest.raises(AlignvisError, match=f"1 test images were used in training .*'{leak}'"):
        evaluate_run(root / "runs" / "one")


@pytest.mark.parametrize("kind", ["responses/tiny/sub-01", "features/tiny/lowlevel"])
def test_a_table_that_changed_since_training_is_refused(root, kind):
    path = root / f"{kind}.safetensors"
    document = store.read_document(path)
    save_file(load_file(path), path, {"alignvis": json.dumps({**document, "made": "otherwise"})})
    with pytest.raises(AlignvisError, match="has changed since .* was trained on it"):
        evaluate_run(root / "runs" / "one")
    path.unlink()
    with pytest.raises(AlignvisError, match="there is no file"):
        evaluate_run(root / "runs" / "one")


def test_a_run_never_overwrites_another_unasked(root):
    before = (root / "runs/one/record.json").read_bytes()
    with pytest.raises(AlignvisError, match="never overwrites another unasked"):
        train(root)
    assert (root / "runs/one/record.json").read_bytes() == before
    evaluate_run(root / "runs" / "one")
    train(root, overwrite=True, seed=5)
    assert read_record(root / "runs" / "one")["seed"] == 5 and not (root / "runs/one/scores.json").exists()


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError("disk")])
def test_an_interrupted_run_leaves_nothing(root, error):
    def stop(row):
        if row["epoch"] == 2:
            raise error

    with pytest.raises(type(error) if isinstance(error, OSError) else error):
        train(root, "stopped", report=stop)
    assert sorted(path.name for path in (root / "runs").iterdir()) == ["one"]


def test_a_disk_that_fills_while_saving_leaves_nothing(root, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(runs, "save_file", full)
    with pytest.raises(AlignvisError, match="No space left on device"):
        train(root, "full", recipe=replace(RECIPE, epochs=1))
    assert sorted(path.name for path in (root / "runs").iterdir()) == ["one"]


def test_what_is_not_a_run_is_refused(root, tmp_path):
    run = root / "runs" / "one"
    with pytest.raises(AlignvisError, match="there is no run"):
        evaluate_run(tmp_path / "nothing")
    with pytest.raises(AlignvisError, match="is not a run: it has no record.json"):
        evaluate_run(root)
    record = read_record(run)
    for change, sentence in [({"version": 2}, "newer alignvis"), ({"split": None}, "does not state split")]:
        files.write_json(run / "record.json", {**record, **change})
        with pytest.raises(AlignvisError, match=sentence):
            evaluate_run(run)
    (run / "record.json").write_text("[1]")
    with pytest.raises(AlignvisError, match="does not state dataset"):
        evaluate_run(run)


def test_a_record_that_is_wrong_anywhere_is_a_sentence(root):
    """Every value of the record, at any depth, replaced by something of another kind."""
    run = root / "runs" / "one"
    record = read_record(run)
    record["history"], record["split"] = record["history"][:1], {side: ids[:2] for side, ids in record["split"].items()}

    def spoiled(value):
        for other in (None, [], "x", {}, -1):
            if type(other) is not type(value):
                yield other
        if isinstance(value, dict):
            for key in value:
                yield {k: v for k, v in value.items() if k != key}
                yield from ({**value, key: other} for other in spoiled(value[key]))

    refused = 0
    for other in spoiled(record):
        files.write_json(run / "record.json", other)
        try:
            evaluate_run(run)
        except AlignvisError:
            refused += 1
    assert refused > 100


def test_a_recipe_of_before_there_were_bands_kept_all_of_them(root):
    run = root / "runs" / "one"
    record = read_record(run)
    expected = read_recipe(run, record)
    del record["recipe"]["band"]
    assert read_recipe(run, record) == expected and expected.band == "all"
    for changes, names in (({"rate": None}, "band, rate"), ({"sharpness": 1}, "band, sharpness")):
        stated = {key: value for key, value in (record["recipe"] | changes).items() if value is not None}
        with pytest.raises(AlignvisError, match=rf"not state a recipe of this alignvis \(it differs in {names}\)"):
            read_recipe(run, record | {"recipe": stated})


def test_scores_and_weights_belong_to_their_run(root):
    run, other = root / "runs" / "one", root / "runs" / "other"
    train(root, "other", seed=4)
    evaluate_run(run)
    assert read_scores(run, read_record(run))["seed"] == 3
    shutil.copy(run / "scores.json", other)
    with pytest.raises(AlignvisError, match="are of other weights"):
        read_scores(other, read_record(other))
    shutil.copy(run / "weights.safetensors", other)
    with pytest.raises(AlignvisError, match="the record states other ones"):
        evaluate_run(other)
    files.write_json(run / "scores.json", {"top1": 1.0})
    with pytest.raises(AlignvisError, match="do not state dataset"):
        read_scores(run, read_record(run))


@pytest.mark.parametrize("name", ["../../evil", "a\nb", "", "a/b", ".hidden"])
def test_a_table_cannot_place_a_run_outside_its_folder(root, name):
    features = store.load_features(root / "features/tiny/lowlevel.safetensors")
    evil = replace(features, document={**features.document, "encoder": name})
    for arguments in ((name, 1, features), ("tiny", 1, evil)):
        with pytest.raises(AlignvisError, match="cannot be part of a folder's name"):
            run_name(*arguments, "nice", "alignvis", 0)


def test_weights_that_do_not_fit_are_refused(root):
    run = root / "runs" / "one"
    record, weights = read_record(run), run / "weights.safetensors"
    whole = weights.read_bytes()
    for content in (whole[:100], b"<html>", b""):
        weights.write_bytes(content)
        with pytest.raises(AlignvisError, match="does not hold the weights of this run's linear"):
            load_decoder(run, record)
    weights.write_bytes(whole)
    with pytest.raises(AlignvisError, match="does not hold the weights of this run's nice"):
        load_decoder(run, {**record, "encoder": "nice"})


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), KeyboardInterrupt()])
def test_the_old_run_stays_until_the_new_one_has_its_name(root, monkeypatch, error):
    before = (root / "runs/one/record.json").read_bytes()
    rename = os.rename

    def fail(source, target):
        if Path(source).name == "one.partial":
            raise error
        rename(source, target)

    monkeypatch.setattr(runs.os, "rename", fail)
    with pytest.raises(type(error)):
        train(root, overwrite=True, seed=5)
    assert [path.name for path in (root / "runs").iterdir()] == ["one"]
    assert (root / "runs/one/record.json").read_bytes() == before
    monkeypatch.undo()
    train(root, overwrite=True, seed=5)
    assert [path.name for path in (root / "runs").iterdir()] == ["one"]


def test_a_link_to_a_run_is_replaced_and_its_target_left_alone(root, tmp_path):
    elsewhere = (root / "runs/one").rename(tmp_path / "kept")
    (root / "runs/one").symlink_to(elsewhere)
    train(root, overwrite=True, seed=5)
    assert not (root / "runs/one").is_symlink() and read_record(root / "runs/one")["seed"] == 5
    assert read_record(elsewhere)["seed"] == 3


def test_a_run_counts_once_however_often_it_is_named_and_a_broken_one_hides_no_other(root):
    train(root, "other", seed=4)
    (root / "runs/link").symlink_to(root / "runs/one")
    assert len(scoring.score_all(root)) == 2
    (root / "runs/other/weights.safetensors").write_bytes(b"x")
    broken: list[AlignvisError] = []
    scores = scoring.score_all(root, overwrite=True, broken=broken.append)
    assert [score["seed"] for score in scores] == [3] and len(broken) == 1
    assert "does not hold the weights" in str(broken[0])
    with pytest.raises(AlignvisError, match="does not hold the weights"):
        scoring.score_all(root, overwrite=True)


def test_numbers_that_are_none_are_refused(root):
    text = (root / "runs/one/record.json").read_text()
    (root / "runs/one/record.json").write_text(text.replace('"seconds": ', '"seconds": NaN, "was": '))
    with pytest.raises(AlignvisError, match="NaN is no number"):
        read_record(root / "runs/one")


def test_an_encoder_that_overfits_at_once_is_told_apart_from_one_that_learns_nothing(root, monkeypatch):
    monkeypatch.setattr(scoring, "_not_following", lambda *about: [])  # how many answers there are is made up
    said: list[str] = []
    record = read_record(root / "runs/one")
    evaluate_run(root / "runs/one")
    scores = files.read_json(root / "runs/one/scores.json")
    files.write_json(root / "runs/one/scores.json", scores | {"answers": 1})
    scoring.score_all(root, say=said.append)
    assert "named only 1 picture for 40 responses: from response to picture it has learned nothing" in said[-1]
    for row in record["history"][1:]:
        row["best"] = False
    files.write_json(root / "runs/one/record.json", record)
    scoring.score_all(root, say=said.append)
    assert "rose from the second epoch on and only the first was kept: it overfits" in said[-1]


def test_similarities_are_read_back_only_as_they_were_scored(root):
    run = root / "runs" / "one"
    scores, record = evaluate_run(run), read_record(run)
    similarities, ids = scoring.read_similarity(run, record, scores)
    assert torch.equal(similarities, torch.from_numpy(load_file(run / "similarity.safetensors")["similarity"]))
    assert ids == store.load_responses(root / "responses/tiny/sub-01.safetensors").test_images
    with pytest.raises(AlignvisError, match="name no similarities; .* alignvis eval .* --overwrite"):
        scoring.read_similarity(run, record, {k: v for k, v in scores.items() if k != "similarity_sha256"})
    with pytest.raises(AlignvisError, match="are of other weights"):
        scoring.read_similarity(run, {**record, "weights_sha256": "0"}, scores)
    document = store.read_document(run / "similarity.safetensors")
    runs.save_tensors({"similarity": similarities + 1}, run / "similarity.safetensors", document)
    with pytest.raises(AlignvisError, match="is not the file that the scores"):
        scoring.read_similarity(run, record, scores)
    (run / "similarity.safetensors").write_bytes(b"junk")
    with pytest.raises(AlignvisError, match="is not the file that the scores"):
        scoring.read_similarity(run, record, scores)
    (run / "similarity.safetensors").unlink()
    with pytest.raises(AlignvisError, match="is gone"):
        scoring.read_similarity(run, record, scores)


NAMES = [f"tiny_sub-0{subject}_{features}_nice_test_seed-0" for subject in (1, 2) for features in ("lowlevel", "vit")]


def named(root, names=NAMES):
    for name in names:
        (root / "runs" / name).mkdir(parents=True)
        (root / "runs" / name / "record.json").write_text("{}")
    (root / "runs/tiny_sub-03.partial").mkdir(parents=True)
    (root / "runs/tiny_sub-03.partial/record.json").write_text("{}")
    return root / "runs"


def test_a_run_is_named_by_a_folder_a_name_or_a_part_that_no_other_has(tmp_path):
    folder = named(tmp_path)
    for word in (NAMES[1], folder / NAMES[1], "sub-01_vit", "y_sub-01_v", folder / "sub-01_vit", "*1_vit*"):
        assert runs.named_run(tmp_path, word) == folder / NAMES[1], word
    (folder / "vit").mkdir()  # a whole name counts before a part of others, if it is of a run
    (folder / "vit/record.json").write_text("{}")
    assert runs.named_run(tmp_path, "vit") == folder / "vit"
    assert runs.named_run(tmp_path, folder) == folder  # for read_record to say what it lacks


def test_several_runs_are_named_by_patterns_each_once_in_the_order_asked_for(tmp_path):
    folder = named(tmp_path)
    found = runs.named_runs(tmp_path, ["*sub-02*seed-0", "sub-01_vit", "*vit*"])
    assert [run.name for run in found] == [NAMES[2], NAMES[3], NAMES[1]]
    assert runs.named_runs(tmp_path, [folder / "*sub-01*"]) == [folder / NAMES[0], folder / NAMES[1]]
    assert runs.matching_runs(tmp_path, "sub-01_vit") == []  # a part is no pattern
    assert [run.name for run in runs.matching_runs(tmp_path, "*")] == sorted(NAMES)  # and half a run is none


@pytest.mark.parametrize(
    "word, sentence",
    [
        ("lowlevel", r"part of the names of 2 runs \(tiny_sub-01_lowlevel_nice_test_seed-0, .*pattern '\*lowlevel\*'"),
        ("nice", r"of 4 runs \([^,]*, [^,]*, [^,]* and 1 more\)"),
        ("*lowlevel*", r"names 2 runs .*; name one"),
        ("tiny_sub-01_lowlevle_nice_test_seed-0", r"of the 4 in .*runs the nearest are tiny_sub-01_lowlevel_nice"),
        ("runs/sub-3", r"there is no run .*runs/sub-3; of the 4 in .*runs the nearest are"),
        ("*seed-7", r"of the 4 in .* the nearest are"),
        ("sub-03", "of the 4 in"),
    ],
)
def test_what_names_no_run_or_several_is_told_with_near_names(tmp_path, word, sentence):
    named(tmp_path)
    word = tmp_path / word if "/" in word else word
    with pytest.raises(AlignvisError, match=sentence) as caught:
        runs.named_run(tmp_path, word)
    assert "alignvis train" not in str(caught.value)


def test_training_is_advised_where_there_is_no_run(tmp_path):
    for ask in (lambda: runs.named_run(tmp_path, "vit"), lambda: read_record(tmp_path / "runs/vit")):
        with pytest.raises(AlignvisError, match="no other in .*runs; make one with: alignvis train"):
            ask()
    named(tmp_path)
    with pytest.raises(AlignvisError, match="of the 4 in .*runs the nearest are"):
        read_record(tmp_path / "runs/vit")
