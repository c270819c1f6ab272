"""What a score says beside its ranks: who proves that the test was new, centres of classes, small galleries."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.numpy import load_file, save_file

from alignvis import files, scoring, store
from alignvis.asking import ask, prove
from alignvis.cli import main
from alignvis.errors import AlignvisError
from alignvis.recipe import Recipe
from alignvis.retrieval import measures, n_way, ranks
from alignvis.runs import read_record, read_scores, save_tensors
from alignvis.scoring import evaluate_run, score_all
from alignvis.train_runs import train_run
from alignvis.transductive import transductive
from tests.tables import image_ids, planted, responses_document, write_features, write_responses

RECIPE = Recipe(batch=32, epochs=4, rate=3e-3, schedule="cosine", validation="concept")
TABLE, FEATURES = "responses/tiny/sub-01.safetensors", "features/tiny/lowlevel.safetensors"


def train(root: Path, name: str = "one", **changes) -> Path:
    options = {"encoder": "linear", "recipe": RECIPE, "seed": 3, **changes}
    train_run(root / TABLE, root / FEATURES, root / "runs" / name, **options)
    return root / "runs" / name


def digests(root: Path, change=lambda rows, place: None) -> None:
    """Give every picture of the features a digest of its own, and change some before anything is trained."""
    arrays, document = load_file(root / FEATURES), store.read_document(root / FEATURES)
    place = {image: row for row, image in enumerate(document["images"])}
    arrays["images.sha256"] = np.random.default_rng(0).integers(0, 256, (len(place), 32)).astype("u1")
    change(arrays["images.sha256"], place)
    save_file(arrays, root / FEATURES, {"alignvis": json.dumps(document)})


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    root = planted(tmp_path_factory.mktemp("root"))
    digests(root)
    evaluate_run(train(root))
    return root


@pytest.fixture
def root(trained, tmp_path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "root"))


def test_everything_follows_from_the_stored_similarities(root):
    run = root / "runs/one"
    scores = read_scores(run, read_record(run))
    similarities, ids = scoring.read_similarity(run, read_record(run), scores)
    targets = torch.arange(40)
    assert {key: scores[key] for key in measures(similarities, targets)} == measures(similarities, targets)
    back = scores["image_to_brain"]
    assert {key: back[key] for key in measures(similarities.T, targets)} == measures(similarities.T, targets)
    assert back["ranks"] == [ranks(similarities.T, targets)[ids.index(image)].item() for image in sorted(ids)]
    assert scores["transductive"] == transductive(similarities, targets)
    places = ranks(similarities, targets)
    assert scores["n_way"] == {"2": n_way(places, 40, 2), "10": n_way(places, 40, 10)}  # as far as the gallery goes
    assert scores["ranks"] == [places[ids.index(image)].item() for image in sorted(ids)]
    assert scores["top10_chance"] == 0.25 and scores["mrr_chance"] == pytest.approx(
        sum(1 / k for k in range(1, 41)) / 40
    )
    assert scores["subset_galleries"] is None and scores["class_centres"] is None and scores["trials"] is None
    assert 0.5 < scores["reliability"] <= 1


def test_ranks_stand_in_the_order_of_the_ids_whatever_that_of_the_table(root):
    old = store.load_responses(root / TABLE)
    order = np.random.default_rng(5).permutation(40)
    ids = old.train_images, [old.test_images[row] for row in order]
    write_responses(root / TABLE, old.train, old.test[order], ids)
    shuffled, kept = evaluate_run(train(root, "shuffled")), files.read_json(root / "runs/one/scores.json")
    assert shuffled["ranks"] == kept["ranks"] and shuffled["images_sha256"] == kept["images_sha256"]
    (read,) = score_all(root, [Path("shuffled")])  # and follows from similarities in the order of the table
    assert len(set(read["ranks"])) > 1 and read["ranks"] == shuffled["ranks"]


# --- leakage ---------------------------------------------------------------------------------------------------------


def test_what_is_proved_is_counted(root):
    scores = files.read_json(root / "runs/one/scores.json")
    # the made-up concepts of the test are called like those of training, but of other pictures
    expected = {
        "train": 270,
        "validation": 30,
        "test": 40,
        "shared_images": 0,
        "shared_pictures": 0,
        "shared_concepts": 30,
    }
    assert scores["leakage"] == expected


def test_digests_that_are_none_prove_nothing_and_do_not_accuse(tmp_path):
    root = planted(tmp_path)  # every digest is the same stand-in
    assert evaluate_run(train(root))["leakage"]["shared_pictures"] is None
    digests(root, lambda rows, place: rows.__setitem__(0, 0))  # a broken picture
    assert evaluate_run(train(root, "two"))["leakage"]["shared_pictures"] is None


@pytest.mark.parametrize("stored", [False, True])
def test_a_test_picture_under_another_name_in_training_is_found_out(root, stored):
    """By the digest of its file, also when the score is only read."""
    run, record = root / "runs/one", read_record(root / "runs/one")
    first = sorted(record["split"]["validation"])[4]
    test = store.load_responses(root / TABLE).test_images[7]
    digests(root, lambda rows, place: rows.__setitem__(place[test], rows[place[first]]))
    record["inputs"]["features"]["fingerprint"] = store.fingerprint(root / FEATURES)
    files.write_json(run / "record.json", record)
    with pytest.raises(AlignvisError, match=f"1 test pictures were used in training .*{test}.* same file as '{first}'"):
        score_all(root) if stored else evaluate_run(run)


def test_a_stored_score_of_a_test_image_that_was_trained_on_is_refused(root):
    run, record = root / "runs/one", read_record(root / "runs/one")
    record["split"]["train"].append(store.load_responses(root / TABLE).test_images[3])
    files.write_json(run / "record.json", record)
    with pytest.raises(AlignvisError, match="1 test images were used in training"):
        score_all(root)
    result = CliRunner().invoke(main, ["--root", str(root), "eval"])
    assert result.exit_code == 1 and "1 test images were used in training" in result.stderr and not result.stdout


@pytest.mark.parametrize("kept", [0, 5, -1])
def test_a_record_that_does_not_name_all_it_was_trained_on_proves_nothing(root, kept):
    run, record = root / "runs/one", read_record(root / "runs/one")
    record["split"]["train"] = record["split"]["train"][:kept]
    files.write_json(run / "record.json", record)
    with pytest.raises(AlignvisError, match="does not name the training images of its tables"):
        evaluate_run(run)


def test_concepts_are_told_apart_by_name_and_not_by_number():
    assert [scoring_concept(image) for image in ("a/00003_cat/x.jpg", "b/00007_cat/y.jpg", "cat/cat_01b.jpg")] == [
        "cat"
    ] * 3
    assert (
        scoring_concept("nsd-00012") == "nsd-00012"
        and scoring_concept("training_images/00001_ice_cream/i.jpg") == "ice_cream"
    )


def scoring_concept(image: str) -> str:
    from alignvis.asking import _concept

    return _concept(image)


# --- other galleries -------------------------------------------------------------------------------------------------


def centres(root: Path, *, names: list[str], dim: int = 8, seed: int = 1, **changes) -> Path:
    path = root / "features/tiny/lowlevel-centres.safetensors"
    rng = np.random.default_rng(seed)
    write_features(path, rng.standard_normal((len(names), dim)), names, gallery="class centres", **changes)
    return path


def test_class_centres_are_a_gallery_of_their_own(root):
    run = root / "runs/one"
    before = files.read_json(run / "scores.json")
    asked = ask(run)
    folders = [image.rpartition("/")[0] for image in asked.images]
    path = centres(root, names=sorted([*folders, "test_images/more"], reverse=True))
    found = evaluate_run(run)
    assert {key: value for key, value in found.items() if key != "class_centres"} == {
        key: value for key, value in before.items() if key != "class_centres"
    }
    table = store.load_features(path)
    gallery = asked.image(torch.from_numpy(table.embeddings[[table.images.index(name) for name in folders]]))
    expected = measures(asked.similarities(asked.treated(), gallery), torch.arange(40))
    inner = found["class_centres"]
    assert {key: inner[key] for key in expected} == expected and inner["gallery"] == 40  # the tests' concepts alone
    assert inner["table"] == "../../features/tiny/lowlevel-centres.safetensors" and len(inner["ranks"]) == 40
    text = CliRunner().invoke(main, ["--root", str(root), "eval"]).stdout
    assert "among 40 class centres" in text
    for change in ({"top1": 0.5}, {"top1_chance": 0.3}, {"mrr_interval": [0.1, 0.2]}, {"ranks": [40] * 40}):
        files.write_json(run / "scores.json", found | {"class_centres": inner | change})
        with pytest.raises(AlignvisError, match=r"do not follow from its similarities \(class_centres\)"):
            score_all(root)


def test_several_pictures_of_a_concept_share_its_centre(tmp_path):
    rng = np.random.default_rng(0)
    ids = image_ids(20, 5), image_ids(12, 2, "test_images")
    embeddings = rng.standard_normal((124, 8))
    signal = np.einsum("id,dct->ict", embeddings, rng.standard_normal((8, 3, 20)))[:, None]
    noise = 0.1 * rng.standard_normal((124, 2, 3, 20))
    write_responses(tmp_path / TABLE, (signal + noise)[:100], (signal + noise)[100:], ids)
    write_features(tmp_path / FEATURES, embeddings, ids[0] + ids[1])
    folders = list(dict.fromkeys(image.rpartition("/")[0] for image in ids[1]))
    means = embeddings[100:].reshape(12, 2, 8).mean(axis=1)
    path = tmp_path / "features/tiny/lowlevel-centres.safetensors"
    write_features(path, means, folders, gallery="class centres")
    run = train(tmp_path)
    inner, asked = evaluate_run(run)["class_centres"], ask(run)
    places = ranks(asked.similarities(asked.treated(), torch.from_numpy(means).float()), torch.arange(24) // 2)
    assert inner["gallery"] == 12 and inner["top1_chance"] == 1 / 12 and inner["ranks"] == places.tolist()
    assert inner["top1"] == (places == 1).double().mean() > 0


def test_tables_that_are_no_centres_of_all_test_concepts_are_left_alone_and_wrong_sizes_are_told(root):
    run = root / "runs/one"
    folders = [image.rpartition("/")[0] for image in ask(run).images]
    path = centres(root, names=folders[1:])
    assert evaluate_run(run)["class_centres"] is None
    path.unlink()
    write_features(path, np.ones((40, 8)) * np.arange(1, 41)[:, None], folders)  # does not say that it holds centres
    assert evaluate_run(run)["class_centres"] is None
    path.unlink()
    centres(root, names=folders, dim=5)
    with pytest.raises(AlignvisError, match="holds centres of 5 numbers, and .* learned embeddings of 8"):
        evaluate_run(run)


def nsd(root: Path, tests: int, trials: bool = True) -> Path:
    """A recording like that of NSD: one time, test responses that are means of one to three trials."""
    rng = np.random.default_rng(0)
    ids = [f"nsd-{row:05d}" for row in range(200 + tests)]
    embeddings = rng.standard_normal((len(ids), 8))
    voxels = embeddings @ rng.standard_normal((8, 30)) + 3 * rng.standard_normal((len(ids), 30))
    arrays = {"train": voxels[:200, None, :, None].astype("f4"), "test": voxels[200:, None, :, None].astype("f4")}
    arrays |= {f"{part}.session": np.ones(arrays[part].shape[:2], "u1") for part in ("train", "test")}
    if trials:
        arrays["test.trials"] = rng.integers(1, 4, tests).astype("u1")
    names = [f"voxel-{number}" for number in range(30)]
    document = responses_document(ids[:200], ids[200:], dataset="nsd-simulated", channels=names, sfreq=None, tmin=None)
    store.write_table(root / TABLE, arrays, document)
    write_features(root / FEATURES, embeddings, ids)
    return train(root, recipe=Recipe(batch=32, epochs=3, rate=3e-3, normalisation="none"))


def test_nsd_has_small_galleries_beside_the_whole_one_and_says_of_how_many_trials(tmp_path):
    run = nsd(tmp_path, 400)
    scores = evaluate_run(run)
    small = scores["subset_galleries"]
    assert (small["size"], small["draws"], scores["gallery"]) == (300, 30, 400)
    places = ranks(scoring.read_similarity(run, read_record(run), scores)[0], torch.arange(400))
    assert small["brain_to_image"]["top1"] == pytest.approx(n_way(places, 400, 300), abs=0.02)
    assert scores["trials"] == pytest.approx({"min": 1, "max": 3, "mean": 2}, abs=0.2)
    text = CliRunner().invoke(main, ["--root", str(tmp_path), "eval"]).stdout
    assert "each the mean of 1 to 3 trials, among 400 pictures" in text and "300-way, another and easier" in text
    assert scores["leakage"]["shared_concepts"] == 0 and scores["reliability"] is None


def test_few_test_pictures_of_nsd_have_no_small_galleries(tmp_path):
    assert evaluate_run(nsd(tmp_path, 300, trials=False))["subset_galleries"] is None


# --- reading again ---------------------------------------------------------------------------------------------------


def test_scores_of_an_earlier_alignvis_say_what_to_do(root):
    run = root / "runs/one"
    scores = files.read_json(run / "scores.json")
    for key in ("mrr", "n_way", "leakage", "similarity_sha256", "ranks", "reliability"):
        files.write_json(run / "scores.json", {k: v for k, v in scores.items() if k != key})
        with pytest.raises(AlignvisError, match=f"do not state {key}; score it again with: alignvis eval --overwrite"):
            score_all(root)
    for change in ({"top1": 1.5}, {"median_rank": 0}, {"n": 0}, {"ranks": [0] * 40}, {"class_centres": {"top1": 1}}):
        files.write_json(run / "scores.json", scores | change)
        with pytest.raises(AlignvisError, match="score it again with: alignvis eval --overwrite"):
            score_all(root)
    assert score_all(root, overwrite=True)[0]["top1"] == scores["top1"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"top1": 0.99}, "do not follow from its similarities (top1)"),
        ({"top5": 0.99, "mrr": 0.99}, "do not follow from its similarities (top5, mrr)"),
        ({"ranks": [1] * 40}, "do not follow from its similarities (ranks)"),
        ({"top1_interval": [0.9]}, "do not follow from its similarities (top1_interval)"),
        ({"mrr_chance": 0.5}, "do not follow from its similarities (mrr_chance)"),
        ({"n_way": {"two": "x"}}, "do not follow from its similarities (n_way)"),
        ({"n_way": {"2": 0.5}}, "do not follow from its similarities (n_way)"),
        ({"images_sha256": "another"}, "do not follow from its similarities (images_sha256)"),
        (
            {"transductive": {"csls": {"top1": 1.0, "top5": 1.0}, "one_to_one": {}}},
            "do not follow from its similarities (transductive)",
        ),
        ({"aligned": True}, "state another aligned than its record"),
        ({"subject": 2, "seed": 9}, "state another subject, seed than its record"),
        ({"validation": "another"}, "state another validation than its record"),
        ({"n": 0, "ranks": []}, "do not state n, ranks"),
        ({"reliability": 10**400}, "too large a number); score it again with: alignvis --root"),
        ({"top1_chance": 10**400}, "too large a number"),
        ({"reliability": 1.5}, "do not state reliability"),
        ({"answers": 1}, "do not follow from its similarities (answers)"),
        ({"repetitions": 0}, "do not state repetitions"),
        ({"trials": {"min": 3, "max": 1, "mean": 2.0}}, "do not state trials"),
        ({"trials": {"min": [1], "max": 1, "mean": 2.0}}, "do not state trials"),
        ({"galleries": ["x"]}, "do not state galleries"),
        ({"seeds": 5}, "do not state seed"),
        ({"subset_galleries": {"size": 300, "draws": 30}}, "do not state subset_galleries"),
    ],
)
def test_a_stored_score_is_believed_no_more_than_a_new_one(root, change, said):
    path = root / "runs/one/scores.json"
    files.write_json(path, files.read_json(path) | change)
    result = CliRunner().invoke(main, ["--root", str(root), "eval", "--full", "--transductive"])
    assert result.exit_code == 1 and said in result.output and "eval" in result.output.rpartition("again with")[2]
    assert "top-1 %" not in result.output
    assert CliRunner().invoke(main, ["--root", str(root), "eval", "--overwrite"]).exit_code == 0


@pytest.mark.parametrize("part", ["train", "validation"])
def test_a_test_image_that_chose_the_epoch_is_refused_like_one_that_was_learned_from(root, part):
    run = root / "runs/one"
    record = read_record(run)
    tested = store.load_responses(root / TABLE).test_images
    record["split"][part] = [*record["split"][part], tested[3]]
    with pytest.raises(AlignvisError, match=r"1 test images were used in training \(the first is 'test_images/"):
        prove(run, record, tested, None)  # the digests are not known: ids alone say it
    files.write_json(run / "record.json", record)
    result = CliRunner().invoke(main, ["--root", str(root), "eval"])  # of a stored score
    assert result.exit_code == 1 and "1 test images were used in training" in result.output


def test_a_note_is_said_once_however_many_runs_it_is_about(root, monkeypatch):
    monkeypatch.setattr(scoring, "_not_following", lambda *about: [])  # how many answers there are is made up
    for name in ("two", "three"):
        evaluate_run(train(root, name, seed=4))
    for seed, name in enumerate(("one", "two", "three")):
        path = root / "runs" / name / "scores.json"
        files.write_json(path, files.read_json(path) | {"answers": 1, "seed": seed})
        record = files.read_json(path.with_name("record.json"))
        files.write_json(path.with_name("record.json"), record | {"seed": seed})
    digests(root, lambda rows, place: rows.__setitem__(0, 9))
    said: list[str] = []
    score_all(root, say=said.append)
    assert len(said) == 2
    assert "lowlevel.safetensors has changed or gone since" in said[0] and "and 2 more runs were scored" in said[0]
    assert (
        "and 2 more runs named at most 1 picture each for 40 responses: from response to picture they have" in said[1]
    )


def test_a_copy_of_a_run_is_no_second_seed(root):
    shutil.copytree(root / "runs/one", root / "runs/one copy")
    told: list[str] = []
    (score,) = score_all(root, broken=lambda error: told.append(str(error)))
    assert score["run"].endswith("one") and len(told) == 1
    assert "one copy are of the same subject, seed and recipe, so which one counts is not clear" in told[0]
    result = CliRunner().invoke(main, ["--root", str(root), "eval"])
    assert result.exit_code == 1 and "  1        1  " in result.stdout and "one copy" in result.stderr
    with pytest.raises(AlignvisError, match="same subject, seed and recipe"):
        score_all(root)


def test_another_leakage_than_the_record_shows_is_told(root):
    path = root / "runs/one/scores.json"
    scores = files.read_json(path)
    for key in ("train", "shared_images", "shared_pictures"):
        files.write_json(path, scores | {"leakage": scores["leakage"] | {key: 3}})
        with pytest.raises(AlignvisError, match=rf"state another leakage \({key}\) than its record shows"):
            score_all(root)


def test_what_is_not_finite_is_told_with_its_run(root):
    run = root / "runs/one"
    scores = read_scores(run, read_record(run))
    document = store.read_document(run / "similarity.safetensors")
    similarities = torch.eye(40)
    similarities[3, 4] = torch.nan
    save_tensors({"similarity": similarities}, run / "similarity.safetensors", document)
    files.write_json(
        run / "scores.json", scores | {"similarity_sha256": store.fingerprint(run / "similarity.safetensors")}
    )
    with pytest.raises(AlignvisError, match=r"one/similarity.safetensors: some similarities are not finite"):
        score_all(root)


def test_a_name_of_no_run_hides_no_other_and_what_comes_next_is_named(root):
    train(root, "two", seed=4)
    words = ["--root", str(root), "eval", "nothing", "tw", "--committee"]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 1 and "seeds" in result.stdout
    assert "there is no run nothing; of the 2 in" in result.stderr and "(and 1 more)" in result.stderr
    result = CliRunner().invoke(main, words[:3] + ["nothing", "--committee"])
    assert result.exit_code == 1 and "there is no run nothing; of the 2 in" in result.stderr and not result.stdout
    result = CliRunner().invoke(main, words[:3])
    assert f"next: alignvis --root {root} report" in result.stderr  # nothing aligned stands beside a twin
    for name, aligned in (("one", False), ("two", True)):
        for file in ("record.json", "scores.json"):
            path = root / "runs" / name / file
            files.write_json(path, files.read_json(path) | {"aligned": aligned})
    assert f"next: alignvis --root {root} compare" in CliRunner().invoke(main, words[:3]).stderr


def test_options_that_make_no_sense_are_refused(root):
    result = CliRunner().invoke(main, ["--root", str(root), "eval", "--draws", "3"])
    assert result.exit_code == 2 and "--draws is of the repetitions of --curve" in result.output
    result = CliRunner().invoke(main, ["--root", str(root), "eval", "--committee"])
    assert result.exit_code == 1 and "a committee takes two runs at least" in result.output
    lines = CliRunner().invoke(main, ["--root", str(root), "eval", "--curve", "--draws", "2", "--json"]).stdout
    score, curve = map(json.loads, lines.splitlines())
    assert score["top1"] == curve["curve"]["top1"][-1] and curve["curve"]["draws"] == 2 and curve["run"] == score["run"]
