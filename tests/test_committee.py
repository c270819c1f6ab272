"""Runs that answer together: what they give by hand, and that nothing of the test is in who is chosen."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from scipy.stats import zscore

from alignvis import committee, files, store
from alignvis.averaging import average
from alignvis.cli import main
from alignvis.committee import choose, combine, committees, held_out_similarities, score, standardise
from alignvis.errors import AlignvisError
from alignvis.recipe import Recipe
from alignvis.retrieval import measures, similarity
from alignvis.runs import load_decoder, read_record, read_scores, save_tensors
from alignvis.scoring import evaluate_run, read_similarity, score_all
from alignvis.table import committee_table
from alignvis.train_runs import train_run
from tests.tables import planted
from tests.test_leave_out import grid, subjects

RECIPE = Recipe(batch=32, epochs=3, rate=3e-3, schedule="cosine", validation="concept", share=0.3)
TABLE, FEATURES = "responses/tiny/sub-01.safetensors", "features/tiny/lowlevel.safetensors"


def train(root: Path, encoder: str, seed: int, name: str | None = None, recipe: Recipe = RECIPE) -> Path:
    run = root / "runs" / (name or f"{encoder}-{seed}")
    train_run(root / TABLE, root / FEATURES, run, encoder=encoder, recipe=recipe, recipe_name="test", seed=seed)
    evaluate_run(run)
    return run


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    root = planted(tmp_path_factory.mktemp("root"), noise=4.0)
    for seed in (0, 1):
        for encoder in ("linear", "eegproject"):
            train(root, encoder, seed)
    train(root, "lstm", 0)
    return root


@pytest.fixture
def root(trained, tmp_path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "root"))


def runs(root: Path, *names: str) -> list[Path]:
    return [root / "runs" / name for name in names or ("linear-0", "linear-1", "eegproject-0", "eegproject-1")]


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# --- by hand ---------------------------------------------------------------------------------------------------------


def test_rows_are_standardised_as_scipy_does_and_constant_ones_say_nothing():
    s = 5 + 3 * random(4, 6, 9)
    np.testing.assert_allclose(standardise(s), zscore(s.double().numpy(), axis=-1), atol=1e-12)
    s[0, 2] = 0.1
    assert (standardise(s)[0, 2] == 0).all() and torch.isfinite(standardise(s)).all()


def test_no_member_counts_more_because_its_similarities_spread_more():
    one, other = random(7, 9).double(), random(7, 9, seed=1).double()
    both = combine([one, other])
    torch.testing.assert_close(both, combine([1000 * one + 5, other / 1000 - 2]))
    torch.testing.assert_close(both, (standardise(one) + standardise(other)) / 2)
    assert torch.equal(both, combine([other, one]))


def test_errors_that_have_nothing_in_common_cancel():
    truth = torch.eye(50)
    members = [3 * truth + 1.5 * random(50, 50, seed=seed) for seed in range(6)]
    alone = [measures(one, torch.arange(50))["top1"] for one in members]
    assert measures(combine(members), torch.arange(50))["top1"] > max(alone) + 0.05


def wrong(*rows: int) -> torch.Tensor:
    """40 responses, of which those named are a little nearer to the next picture than to their own."""
    matrix = torch.eye(40)
    for row in rows:
        matrix[row, row + 1] = 1.2
    return standardise(matrix)[None]


def test_who_is_chosen_by_hand():
    """The best comes first; its copy, if second best alone, adds nothing; one that errs elsewhere mends it."""
    good, copy, other = wrong(*range(8)), wrong(*range(9)), wrong(*range(20, 32))
    noise = standardise(random(40, 40))[None]
    members, reached = choose([[noise], [copy], [good], [other]])
    assert members == [2, 3] and reached == pytest.approx([1 - 8 / 80, 1])  # ranks of 2, and then none
    assert choose([[noise], [noise]])[0] == [0]  # of equals the first, and its copy adds nothing
    assert choose([[good], [other], [copy]]) == ([0, 1], reached)


def test_the_choice_weighs_all_seeds_and_subjects_alike():
    truth = 3 * torch.eye(30)
    a = [standardise(torch.stack([truth + random(30, 30), truth + 9 * random(30, 30, seed=1)]))]
    assert score(a) == pytest.approx(np.mean([measures(one, torch.arange(30))["mrr"] for one in a[0]]))
    seeds = [standardise(truth + random(30, 30))[None], standardise(random(30, 30, seed=3))[None]]
    assert score(seeds) == pytest.approx(np.mean([measures(one[0], torch.arange(30))["mrr"] for one in seeds]))


# --- held-out similarities -------------------------------------------------------------------------------------------


def test_held_out_similarities_are_those_of_training_images_written_out(root):
    run = root / "runs/linear-0"
    record, table = read_record(run), store.load_responses(root / TABLE)
    found, ids = held_out_similarities(run)
    assert ids == sorted(record["split"]["validation"]) and found.shape == (1, 90, 90)
    features = store.load_features(root / FEATURES)
    treated = average(table, "train", RECIPE, lambda x: x, rows=[table.train_images.index(image) for image in ids])
    gallery = torch.from_numpy(features.embeddings[store.rows(features, ids, root)])
    decoder = load_decoder(run, record).eval()
    with torch.inference_mode():
        brain = decoder.brain(decoder.brain.prepare(treated))
    torch.testing.assert_close(found[0], similarity(brain, gallery))
    best = max(record["history"], key=lambda row: row["best"] * (row["epoch"] + 1))
    assert measures(found[0], torch.arange(90))["top1"] == pytest.approx(best["held_out_top1"], abs=1e-6)


def test_held_out_similarities_are_kept_until_something_changes(root, monkeypatch):
    run = root / "runs/linear-0"
    first, _ = held_out_similarities(run)
    asked = []
    monkeypatch.setattr(committee, "_held_out", lambda *rest: asked.append(1) or first + 1)
    assert torch.equal(held_out_similarities(run)[0], first) and not asked
    document = store.read_document(run / "validation.safetensors", "validation")
    for change in ({"weights_sha256": "0"}, {"inputs": []}, {"queries": document["queries"][::-1]}):
        save_tensors({"similarity": first}, run / "validation.safetensors", document | change)
        assert torch.equal(held_out_similarities(run)[0], first + 1)
    save_tensors({"similarity": first[:, :3]}, run / "validation.safetensors", document)
    assert torch.equal(held_out_similarities(run)[0], first + 1) and len(asked) == 4
    (run / "validation.safetensors").write_bytes(b"junk")
    assert torch.equal(held_out_similarities(run)[0], first + 1) and len(asked) == 5
    monkeypatch.undo()
    (root / FEATURES).unlink()
    (run / "validation.safetensors").unlink()
    with pytest.raises(AlignvisError, match="has changed or gone since .* was trained on it"):
        held_out_similarities(run)


def test_of_many_held_out_images_evenly_spaced_ones_are_taken(root, monkeypatch):
    monkeypatch.setattr(committee, "LARGEST", 10)
    found, ids = held_out_similarities(root / "runs/linear-0")
    every = sorted(read_record(root / "runs/linear-0")["split"]["validation"])
    assert found.shape == (1, 10, 10) and ids[0] == every[0] and ids[-1] == every[-1] and len(set(ids)) == 10


def test_a_left_out_subject_is_not_looked_at_in_the_choice(tmp_path):
    root = subjects(tmp_path)
    grid(root, encoders=("linear", "eegproject"))
    score_all(root)
    one = next((root / "runs").glob("*sub-03-from-01-02*_linear_*"))
    table = root / "responses/tiny/sub-03.safetensors"
    hidden = table.rename(table.with_suffix(".away"))
    found, _ = held_out_similarities(one)
    assert found.shape[0] == 2  # the two subjects it was trained on
    hidden.rename(table)
    results = committees(sorted((root / "runs").iterdir()))
    assert sorted(result["subject"] for result in results) == [1, 2, 3]
    assert all(result["protocol"] == "leave-out" for result in results)


# --- whole committees ------------------------------------------------------------------------------------------------


def test_a_committee_is_the_mean_of_its_members_and_says_who_they_are(root):
    (found,) = committees(runs(root))
    members = [tuple(member[key] for key in committee.KIND) for member in found["members"]]
    folders = [Path(run).name for run in found["runs"]]
    assert found["candidates"] == 2 and found["seeds"] == [0, 1] and found["held_out"] == 90
    assert len(folders) == 2 * len(members)
    stored = []
    for run in map(Path, found["runs"]):
        record = read_record(run)
        stored.append(read_similarity(run, record, read_scores(run, record))[0])
    expected = measures(combine(stored), torch.arange(40))
    assert {key: found[key] for key in expected} == pytest.approx(expected)
    assert found["n"] == 40 and found["top1_interval"][0] <= found["top1"] <= found["top1_interval"][1]
    assert len(found["held_out_mrr"]) == len(members) and found["held_out_mrr"] == sorted(found["held_out_mrr"])
    singles = [one for one in found["beside"] if one["who"] == "best member"]
    assert {one["encoder"] for one in singles} == {members[0][0]} and len(singles) == 2
    text = committee_table([found])
    assert f"{members[0][0]}, lowlevel, test: held-out MRR" in text and "SIMULATED" in text and "best member" in text


def test_seeds_alone_are_averaged_without_a_choice(root):
    (found,) = committees(runs(root, "linear-0", "linear-1"))
    assert len(found["members"]) == 1 and len(found["runs"]) == 2 and found["candidates"] == 1
    with pytest.raises(AlignvisError, match="a committee takes two runs at least"):
        committees(runs(root, "linear-0"))


def test_a_row_is_of_all_subjects_though_one_committee_is_of_one_kind_and_another_of_a_single_seed(root):
    (both,) = committees(runs(root))
    (seeds,) = committees(runs(root, "linear-0", "linear-1"))
    (single,) = committees(runs(root, "linear-0", "eegproject-0"))
    averaged = [one for one in seeds["beside"] if one["who"] == "best member, seeds averaged"]
    assert averaged[0]["ranks"] == seeds["ranks"]  # of one kind the committee is just this
    assert "seeds averaged" not in str(single["beside"])
    text = committee_table(
        [
            both | {"subject": 1},
            *(
                {**one, "subject": number, "beside": [beside | {"subject": number} for beside in one["beside"]]}
                for number, one in ((2, seeds), (3, single))
            ),
        ]
    )
    for who in ("committee  ", "best member  ", "best member, seeds averaged"):
        rows = [line for line in text.splitlines() if line.startswith(who)]
        assert [line[len("best member, seeds averaged") :].split()[0] for line in rows] == ["1", "2", "3", "all"], who
        assert rows[-1][len("best member, seeds averaged") :].split()[1] == "3"
    assert "seeds averaged: these seeds' similarities averaged" in " ".join(text.split())


def test_the_command_keeps_committees_and_replaces_them(root):
    shutil.rmtree(root / "runs/lstm-0")
    kept = root / "results" / "committees.json"
    done = CliRunner().invoke(main, ["--root", str(root), "eval", "--committee"])
    assert done.exit_code == 0 and f"wrote {kept}" in done.stderr, done.output
    document = files.read_json(kept)
    assert document["version"] == 1 and [one["candidates"] for one in document["committees"]] == [2]
    done = CliRunner().invoke(main, ["--root", str(root), "eval", "linear*", "--committee", "--json"])
    assert done.exit_code == 0, done.output
    (one,) = files.read_json(kept)["committees"]
    assert one["candidates"] == 1 and json.loads(done.stdout.splitlines()[-1]) == one


def test_nothing_of_the_test_is_in_the_choice(root, monkeypatch):
    """Test similarities turned into nonsense, those that were best worst: the same members, and other scores."""
    (before,) = committees(runs(root))
    looked = []
    original = committee.choose
    monkeypatch.setattr(committee, "read_similarity", lambda *rest: looked.append("test") or read_similarity(*rest))
    monkeypatch.setattr(committee, "choose", lambda *rest: looked.append("choice") or original(*rest))
    (again,) = committees(runs(root))
    assert looked[0] == "choice" and set(looked[1:]) == {"test"} and again["members"] == before["members"]
    for run in runs(root):
        path = run / "similarity.safetensors"
        document, scores = store.read_document(path), files.read_json(run / "scores.json")
        worst = -torch.eye(40) if "linear" in run.name else torch.eye(40)
        save_tensors({"similarity": worst}, path, document)
        fake = {"similarity_sha256": store.fingerprint(path), "top1": 0.0, "mrr": 0.03}
        files.write_json(run / "scores.json", scores | fake)
    (spoiled,) = committees(runs(root))
    assert spoiled["members"] == before["members"] and spoiled["held_out_mrr"] == before["held_out_mrr"]
    assert spoiled["top1"] != before["top1"]


def test_what_cannot_take_part_is_told(root):
    said: list[str] = []
    other = train(root, "linear", 0, "own", replace(RECIPE, share=0.2))  # other held-out images
    record = read_record(other)
    record["recipe"]["name"] = "another"
    files.write_json(other / "record.json", record)
    evaluate_run(other)
    everyone = [*runs(root), root / "runs/lstm-0", other, train(root, "linear", 5)]
    shutil.copytree(root / "runs/linear-1", root / "runs/twice")
    (found,) = committees([*everyone, root / "runs/twice"], say=said.append)
    assert found["candidates"] == 2 and found["seeds"] == [0, 1]
    for part in (
        "lstm, lowlevel, embeddings, test (subject 1) is left out of the committee: it was not trained with the seeds",
        "linear, lowlevel, embeddings, another (subject 1) is left out",
        "linear-5 is left out of the committee: the others have no seed 5",
        "twice is left out of the committee: ",
    ):
        assert sum(part in sentence for sentence in said) == 1, part
    assert len(said) == 4


def test_a_table_that_is_gone_leaves_its_runs_out(root):
    said: list[str] = []
    for run in runs(root):
        held_out_similarities(run)
    (root / "runs/eegproject-0/validation.safetensors").unlink()
    (root / TABLE).unlink()
    (found,) = committees(runs(root), say=said.append)
    assert [member["encoder"] for member in found["members"]] == ["linear"]
    assert len(said) == 1 and "sub-01.safetensors has changed or gone" in said[0]
