"""Trained on all subjects but one, and asked about that one: from tables on disk to the score."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from alignvis import grid as grids
from alignvis import plans, store
from alignvis.errors import AlignvisError
from alignvis.grid import train_grid
from alignvis.loss import info_nce
from alignvis.plans import Tables, Wanted, plan
from alignvis.recipe import Recipe
from alignvis.retrieval import similarity
from alignvis.runs import load_decoder, read_record
from alignvis.scoring import evaluate_run, score_all
from alignvis.table import scores_table
from alignvis.train_runs import train_stack
from tests.tables import image_ids, planted, write_features, write_responses

QUICK = {"batch": 32, "epochs": 8, "rate": 5e-3, "schedule": "cosine"}
TRAIN, TEST = image_ids(20, 8), image_ids(30, 1, "test_images")
TABLE = "responses/tiny/sub-{:02d}.safetensors"


def subjects(root: Path, count: int = 3, alike: bool = True, noise: float = 0.4, images: int = 140) -> Path:
    """Subjects whose responses are a linear map of the embedding, the same for all or each one's own.

    Each sees so many of the 160 training images and all test images, in an order of his own.
    """
    embeddings = np.random.default_rng(0).standard_normal((len(TRAIN) + len(TEST), 8))
    place = {image: row for row, image in enumerate([*TRAIN, *TEST])}
    for subject in range(1, count + 1):
        rng = np.random.default_rng(subject)
        mixing = np.random.default_rng(99 if alike else 100 + subject).standard_normal((8, 3, 10)) / 8**0.5
        seen = [TRAIN[i] for i in rng.permutation(len(TRAIN))[:images]]
        tested = [TEST[i] for i in rng.permutation(len(TEST))]

        def responses(ids: list[str], repetitions: int, rng=rng, mixing=mixing) -> np.ndarray:
            signal = np.einsum("id,dct->ict", embeddings[[place[image] for image in ids]], mixing)[:, None]
            return signal + noise * rng.standard_normal((len(ids), repetitions, 3, 10))

        ids = seen, tested
        write_responses(root / TABLE.format(subject), responses(seen, 2), responses(tested, 4), ids, subject=subject)
    order = np.random.default_rng(1).permutation(len(embeddings))
    path = root / "features" / "tiny" / "lowlevel.safetensors"
    write_features(path, embeddings[order], [[*TRAIN, *TEST][i] for i in order])
    return root


def grid(root: Path, who=(1, 2, 3), **options) -> dict[int, tuple[Path, dict]]:
    options = {"encoders": ["linear"], "changes": QUICK, "leave_out": True, **options}
    runs = train_grid(root, subjects=who, say=lambda text: None, detail=lambda text: None, **options)
    return {record["subject"]: (run, record) for run, record in runs}


def wanted(root: Path, subject: int, others: tuple[int, ...]) -> Wanted:
    tables = tuple(root / TABLE.format(other) for other in others)
    features = root / "features/tiny/lowlevel.safetensors"
    return Wanted(root / "runs" / "mine", subject, tables, root / TABLE.format(subject), features, 0)


def train(one: Wanted, recipe: Recipe) -> dict:
    (made,) = [plan(one, "linear", recipe)]
    tables = Tables([made], "linear", recipe, torch.device("cpu"), scratch=one.out.parent)
    return train_stack([made], tables, "linear", recipe, "own")[one.out]


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Path, dict[int, tuple[Path, dict]], dict[int, dict]]:
    root = subjects(tmp_path_factory.mktemp("alike"))
    runs = grid(root)
    return root, runs, {score["subject"]: score for score in score_all(root)}


def test_every_subject_is_left_out_once_and_says_so(trained):
    root, runs, scores = trained
    assert sorted(runs) == sorted(scores) == [1, 2, 3]
    for subject, (run, record) in runs.items():
        assert record["protocol"] == scores[subject]["protocol"] == "leave-out"
        assert record["trained_on"] == [other for other in (1, 2, 3) if other != subject]
        assert record["inputs"]["queries"] == {"path": f"../../{TABLE.format(subject)}", "fingerprint": None}
        stated = [table["path"] for table in record["inputs"]["responses"]]
        assert stated == [f"../../{TABLE.format(other)}" for other in record["trained_on"]]
        assert "_alignvis-leave-out+" in run.name and "+batch-32" in run.name and f"sub-{subject:02d}" in run.name
        assert scores[subject]["queries_fingerprint"] == store.fingerprint(root / TABLE.format(subject))


def test_what_others_taught_is_known_of_a_subject_who_was_never_seen(trained):
    for score in trained[2].values():
        assert score["top1"] > 0.6 > 15 * score["top1_chance"] and score["n"] == 30


def test_nothing_is_known_of_a_subject_who_is_unlike_the_others(tmp_path):
    """Each one's brain mixes in a way of its own: those trained on are decoded, who was left out is not."""
    root = subjects(tmp_path, alike=False)
    (_, record), *_ = grid(root, changes={**QUICK, "epochs": 15}).values()
    assert max(row["held_out_top1"] for row in record["history"]) > 0.5
    assert np.mean([score["top1"] for score in score_all(root)]) < 0.15


def test_subjects_meet_in_the_pictures_that_all_of_them_saw(trained):
    root, runs, _ = trained
    seen = {subject: set(store.load_responses(root / TABLE.format(subject)).train_images) for subject in (1, 2, 3)}
    assert seen[1] != seen[2] != seen[3]
    for subject, (_, record) in runs.items():
        first, second = (seen[other] for other in (1, 2, 3) if other != subject)
        split = record["split"]
        assert sorted([*split["train"], *split["validation"]]) == sorted(first & second)


def test_the_choice_of_the_epoch_is_made_on_concepts_and_subjects_of_training(trained):
    """The best held-out loss is that of the kept weights on held-out concepts, as the training subjects saw them."""
    root, runs, _ = trained
    features = store.load_features(root / "features/tiny/lowlevel.safetensors")
    for run, record in runs.values():
        fitted, held_out = record["split"]["train"], record["split"]["validation"]
        folders = [{image.split("/")[1] for image in side} for side in (fitted, held_out)]
        assert len(folders[1]) == 2 and not folders[0] & folders[1]
        decoder, losses = load_decoder(run, record).eval(), []
        image = torch.from_numpy(features.embeddings[store.rows(features, held_out, features.path)])
        for other in record["trained_on"]:
            table = store.load_responses(root / TABLE.format(other))
            x = torch.tensor(table.train[[table.train_images.index(image) for image in held_out]])
            x = ((x - x.mean(-1, keepdim=True)) / x.norm(dim=-1, keepdim=True)).mean(dim=1)
            with torch.inference_mode():
                losses.append(info_nce(decoder.brain(x.flatten(1)), image, 25.0).item())
        assert min(row["held_out_loss"] for row in record["history"]) == pytest.approx(sum(losses) / 2, rel=1e-4)


def test_the_score_is_that_of_the_subject_who_was_left_out(trained):
    """Written out from the table: mean of normalised repetitions, decoded, compared with the test pictures."""
    root, runs, scores = trained
    features = store.load_features(root / "features/tiny/lowlevel.safetensors")
    for subject, (run, record) in runs.items():
        table = store.load_responses(root / TABLE.format(subject))
        x = torch.tensor(table.test)
        x = ((x - x.mean(-1, keepdim=True)) / x.norm(dim=-1, keepdim=True)).mean(dim=1)
        with torch.inference_mode():
            brain = load_decoder(run, record).eval().brain(x.flatten(1))
        rows = store.rows(features, table.test_images, table.path)
        similarities = similarity(brain, torch.from_numpy(features.embeddings[rows])).numpy()
        np.testing.assert_allclose(load_file(run / "similarity.safetensors")["similarity"], similarities, atol=1e-5)
        assert scores[subject]["top1"] == np.mean(similarities.argmax(axis=1) == np.arange(30))
        assert store.read_document(run / "similarity.safetensors")["queries"] == table.test_images


@pytest.mark.parametrize("projector", [0, 6])
@pytest.mark.parametrize(("sides", "centre"), [("none", False), ("image", True)])
def test_a_score_follows_the_recipe_in_everything(tmp_path, projector, sides, centre):
    """Channels, window and normalisation of the test responses, projector, sides and centring."""
    root = subjects(tmp_path)
    recipe = Recipe(
        **QUICK, sides=sides, centre=centre, projector=projector, channels="O2,O1", window="0.02:0.09",
        normalisation="mean", temperature=0.5, validation="concept",
    )  # fmt: skip
    train(wanted(root, 3, (1, 2)), recipe)
    run = root / "runs" / "mine"
    scores, record = evaluate_run(run), read_record(run)
    table, features = store.load_responses(root / TABLE.format(3)), store.load_features(wanted(root, 3, (1,)).features)
    x = torch.tensor(table.test).mean(dim=1)[:, [2, 0], 2:9]
    x = x - x.mean(-1, keepdim=True)
    x = x / x.norm(dim=-1, keepdim=True)
    gallery = torch.from_numpy(features.embeddings[store.rows(features, table.test_images, table.path)])
    with torch.inference_mode():
        brain, image, _ = load_decoder(run, record).eval()(x.flatten(1), gallery)
    assert image.shape == (30, projector or 8)
    if centre:
        brain, image = (side - side.mean(dim=1, keepdim=True) for side in (brain, image))
    image = image / image.norm(dim=1, keepdim=True) if sides == "image" else image
    similarities = (brain @ image.T).numpy()
    np.testing.assert_allclose(
        load_file(run / "similarity.safetensors")["similarity"], similarities, rtol=1e-4, atol=1e-5
    )
    assert scores["top1"] == np.mean(similarities.argmax(axis=1) == np.arange(30))


def test_the_table_of_who_is_left_out_is_away_while_others_are_trained_on(trained, tmp_path, monkeypatch):
    """The file has another name from the planning of a run to its end, and the weights are the same to the bit."""
    root = subjects(tmp_path)

    def away(function, wanted_of):
        def without(first, *rest, **options):
            path = wanted_of(first).queries
            hidden = path.rename(path.with_suffix(".away"))
            try:
                return function(first, *rest, **options)
            finally:
                hidden.rename(path)

        return without

    monkeypatch.setattr(grids, "plan", away(grids.plan, lambda wanted: wanted))
    for name in ("Tables", "train_stack"):
        monkeypatch.setattr(grids, name, away(getattr(grids, name), lambda made: made[0].wanted))
    for subject, (_, record) in grid(root).items():
        assert record["weights_sha256"] == trained[1][subject][1]["weights_sha256"]


def test_each_training_table_is_averaged_for_the_runs_that_learn_from_it_and_no_test_response_is(tmp_path, monkeypatch):
    root, log, average = subjects(tmp_path), [], plans.average

    def spy(table, part, *rest, **options):
        log.append((part, table.document["subject"]))
        return average(table, part, *rest, **options)

    monkeypatch.setattr(plans, "average", spy)
    grid(root)
    assert log == [("train", other) for subject in (1, 2, 3) for other in (1, 2, 3) if other != subject]


def recipe_of(record: dict) -> Recipe:
    return Recipe(**{key: value for key, value in record["recipe"].items() if key != "name"})


def test_a_subject_may_be_recorded_after_the_run_that_asks_about_him(tmp_path):
    root = subjects(tmp_path)
    path = root / TABLE.format(3)
    hidden = path.rename(path.with_suffix(".later"))
    recipe = Recipe(**QUICK, validation="concept")
    record = train(wanted(root, 3, (1, 2)), recipe)
    assert (record["protocol"], record["trained_on"], record["subject"]) == ("leave-out", [1, 2], 3)
    run = root / "runs" / "mine"
    with pytest.raises(AlignvisError, match=f"{path} is not there, and {run} is to be asked about subject 3"):
        evaluate_run(run)
    with pytest.raises(AlignvisError, match=f"{path} is not there, and {run} is to be asked about subject 3"):
        score_all(root)
    hidden.rename(path)
    assert evaluate_run(run)["top1"] > 0.6
    (root / TABLE.format(2)).replace(path)
    with pytest.raises(AlignvisError, match="holds subject 2 of tiny, and .* is to be asked about subject 3 of tiny"):
        evaluate_run(run)


def test_what_the_left_out_table_holds_changes_no_weights(trained, tmp_path):
    """Its responses are no numbers at all, its pictures others, and it is found out only when it is asked."""
    root = subjects(tmp_path)
    path = root / TABLE.format(3)
    arrays, document = load_file(path), store.read_document(path)
    arrays = {name: np.full_like(x, np.nan) if x.dtype.kind == "f" else x for name, x in arrays.items()}
    strange = {**document, "train_images": [f"other/{i}.jpg" for i in range(140)], "channels": ["a", "b", "c"]}
    save_file(arrays, path, {"alignvis": json.dumps(strange)})
    recipe = recipe_of(trained[1][3][1])
    assert train(wanted(root, 3, (1, 2)), recipe)["weights_sha256"] == trained[1][3][1]["weights_sha256"]
    with pytest.raises(AlignvisError, match="in another order; prepare all subjects alike"):
        evaluate_run(root / "runs" / "mine")


def test_each_training_subject_matters(trained, tmp_path):
    """Weights follow from both tables: another second subject gives other ones."""
    root = subjects(tmp_path)
    recipe = recipe_of(trained[1][3][1])
    record = train(wanted(root, 3, (1,)), recipe)
    assert record["protocol"] == "leave-out" and record["weights_sha256"] != trained[1][3][1]["weights_sha256"]
    assert record["trained_on"] == [1]


def test_a_test_picture_of_the_left_out_that_others_were_trained_on_is_found_out(tmp_path):
    root = subjects(tmp_path)
    table = store.load_responses(root / TABLE.format(3))
    train(wanted(root, 3, (1, 2)), Recipe(**QUICK, validation="concept"))
    shown = read_record(root / "runs" / "mine")["split"]["train"][0]
    tested = [shown, *table.test_images[1:]]
    ids = [image for image in table.train_images if image != shown] + ["training_images/x/y.jpg"]
    write_responses(table.path, table.train, table.test, (ids[: len(table.train)], tested), subject=3)
    with pytest.raises(AlignvisError, match=f"1 test images were used in training .*'{shown}'"):
        evaluate_run(root / "runs" / "mine")


def test_one_subject_leaves_no_one_to_train_on(tmp_path):
    planted(tmp_path)
    with pytest.raises(AlignvisError, match="--leave-out trains on all subjects given but one; give at least two"):
        grid(tmp_path, who=(1,))
    with pytest.raises(AlignvisError, match="no responses of subject 2"):
        grid(tmp_path, who=(1, 2))
    assert not (tmp_path / "runs").exists()


def test_within_and_leave_out_stand_side_by_side(tmp_path):
    """Planted subjects share their pictures but not their brains, and what is asked of whom is in the names."""
    for subject in (1, 2):
        planted(tmp_path, subject=subject, concepts=8, times=20)
    changes = {**QUICK, "epochs": 2}
    grid(tmp_path, who=(1, 2), changes=changes)
    within = grid(tmp_path, who=(1, 2), changes=changes, leave_out=False)
    assert {record["protocol"] for _, record in within.values()} == {"within"}
    assert {tuple(record["trained_on"]) for _, record in within.values()} == {(1,), (2,)}
    assert len(list((tmp_path / "runs").iterdir())) == 4 == len(score_all(tmp_path))


def test_a_table_under_anothers_name_is_refused_before_anything_is_trained(tmp_path):
    root = subjects(tmp_path)
    (root / TABLE.format(3)).replace(root / TABLE.format(2))
    with pytest.raises(AlignvisError, match="sub-02.safetensors holds subject 3"):
        grid(root, who=(1, 2))
    assert not (root / "runs").exists() or not any((root / "runs").iterdir())


def test_a_score_of_a_left_out_table_that_changed_since_is_marked(tmp_path):
    root, said = subjects(tmp_path, count=2), []
    grid(root, who=(1, 2), changes={**QUICK, "epochs": 1})
    score_all(root, say=said.append)
    path = root / TABLE.format(1)
    save_file(load_file(path), path, {"alignvis": json.dumps({**store.read_document(path), "made": "otherwise"})})
    said.clear()
    score_all(root, say=said.append)  # the other run was trained on that table, and of it this is said
    (note,) = [text for text in said if f"{path} has changed" in text]
    assert "and 1 more run were scored" in note


def test_a_table_that_cannot_be_used_does_not_keep_others_from_being_trained(tmp_path):
    root = subjects(tmp_path)
    path = root / TABLE.format(1)
    table = load_file(path)
    save_file({**table, "train": table["train"] * np.nan}, path, {"alignvis": json.dumps(store.read_document(path))})
    with pytest.raises(AlignvisError, match="is not finite"):
        grid(root, changes={**QUICK, "epochs": 1}, leave_out=False)
    assert len(list((root / "runs").iterdir())) == 2


def test_subjects_of_different_datasets_leave_no_one_to_train_on(tmp_path):
    root = subjects(tmp_path, count=2)
    (root / "responses/other").mkdir()
    (root / TABLE.format(2)).rename(root / "responses/other/sub-02.safetensors")
    with pytest.raises(AlignvisError):
        grid(root, who=(1, 2))


@pytest.mark.parametrize("change", [{"sfreq": 200.0}, {"tmin": 5.0}])
def test_subjects_that_were_recorded_otherwise_are_neither_pooled_nor_asked(tmp_path, change):
    root = subjects(tmp_path)
    path = root / TABLE.format(3)
    before = path.read_bytes()
    table, document = load_file(path), store.read_document(path)
    save_file(table, path, {"alignvis": json.dumps(document | change)})
    with pytest.raises(AlignvisError, match="differ in their channels, times or unit"):
        grid(root, changes={**QUICK, "epochs": 1})
    path.write_bytes(before)
    grid(root, changes={**QUICK, "epochs": 1})
    save_file(table, path, {"alignvis": json.dumps(document | change)})
    with pytest.raises(AlignvisError, match="sub-03.* was not recorded like those that .*prepare all subjects alike"):
        score_all(root, [next((root / "runs").glob("*sub-03-from-01-02*"))])


def test_other_subjects_to_learn_from_make_another_run(tmp_path):
    root = subjects(tmp_path)
    everyone = grid(root, changes={**QUICK, "epochs": 1})
    fewer = grid(root, who=(1, 2), changes={**QUICK, "epochs": 1})
    assert len(everyone) == 3 and len(fewer) == 2 and len(list((root / "runs").iterdir())) == 5
    table = scores_table(score_all(root))
    assert "trained on the other subjects of 1, 2, 3;" in table and "trained on the other subjects of 1, 2;" in table
