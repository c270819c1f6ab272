"""Scores against the repetitions averaged: against the long way round, and on responses of known noise."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from alignvis import asking, files, repetitions, store
from alignvis.asking import ask
from alignvis.averaging import average
from alignvis.errors import AlignvisError
from alignvis.recipe import Recipe
from alignvis.repetitions import curve_of, measure_curve, read_curve, read_reliably, steps
from alignvis.retrieval import ranks, top_k
from alignvis.runs import read_record
from alignvis.scoring import evaluate_run
from alignvis.stats import wilson
from alignvis.train_runs import train_run
from tests.tables import planted, write_responses

RECIPE = Recipe(batch=32, epochs=6, rate=3e-3, schedule="cosine", validation="concept")


def made(root: Path, noise: float = 4.0, **changes) -> Path:
    planted(root, noise=noise)
    run, recipe = root / "runs" / "one", replace(RECIPE, **changes)
    tables = root / "responses/tiny/sub-01.safetensors", root / "features/tiny/lowlevel.safetensors"
    train_run(*tables, run, encoder="linear", recipe=recipe, seed=3)
    return run


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    run = made(tmp_path_factory.mktemp("root"))
    evaluate_run(run)
    return run


@pytest.fixture
def run(trained, tmp_path) -> Path:
    return Path(shutil.copytree(trained.parent.parent, tmp_path / "root")) / "runs" / "one"


def test_steps():
    assert [steps(count) for count in (1, 2, 3, 4, 12)] == [[1], [1, 2], [1, 2, 3], [1, 2, 4], [1, 2, 4, 8, 12]]
    assert steps(80) == [1, 2, 4, 8, 16, 32, 64, 80]


def test_all_repetitions_give_the_score_and_fewer_give_less(run):
    curve, scores = measure_curve(run), json.loads((run / "scores.json").read_text())
    assert curve["repetitions"] == [1, 2, 4] and curve["draws"] == 20 and curve["n"] == curve["gallery"] == 40
    assert (curve["top1"][-1], curve["top5"][-1]) == (scores["top1"], scores["top5"])
    assert curve["top1"][0] < curve["top1"][1] < curve["top1"][2] and curve["top5"][0] < curve["top5"][2]
    assert [curve["top1_low"][1], curve["top1_high"][1]] == list(wilson(curve["top1"][1], 40))
    assert curve["top1_sd"][0] > 0 == curve["top1_sd"][2] and curve["chance"] == 1 / 40 and curve["simulated"]


@pytest.mark.parametrize("normalisation", ["repetition", "mean", "none"])
def test_subsets_are_averaged_as_the_recipe_says(tmp_path, normalisation):
    """A subset of all is what is scored, and a subset of some is what a table of these repetitions alone gives."""
    run = made(tmp_path, normalisation=normalisation)
    asked = ask(run)
    everything = np.ones((1, 40, 4), bool)
    ((rows, means),) = asked.averages(everything)
    torch.testing.assert_close(means[0], asked.treated(), rtol=1e-4, atol=1e-5)
    assert rows.tolist() == list(range(40))
    some = np.zeros((2, 40, 4), bool)
    some[0, :, [1, 3]] = some[1, :, 2] = True
    table = asked.responses
    for subset, kept in enumerate(([1, 3], [2])):
        fewer = replace(table, test=table.test[:, kept], test_session=table.test_session[:, kept])
        expected = average(fewer, "test", asked.recipe, lambda responses: responses)
        ((_, means),) = asked.averages(some)
        torch.testing.assert_close(means[subset], expected, rtol=1e-4, atol=1e-5)


def test_memory_is_bounded_and_the_parts_make_the_whole(run, monkeypatch):
    asked, subsets = ask(run), np.random.default_rng(0).random((3, 40, 4)) < 0.5
    subsets[..., 0] = True
    ((_, whole),) = asked.averages(subsets)
    monkeypatch.setattr(asking, "ROOM", 4 * 3 * 120 * (12 + 6) * 7)
    parts = list(asked.averages(subsets))
    assert len(parts) == 6 and max(len(rows) for rows, _ in parts) == 7
    assert sorted(np.concatenate([rows for rows, _ in parts]).tolist()) == list(range(40))
    for rows, means in parts:
        torch.testing.assert_close(means, whole[:, rows])
    treated = average(asked.responses, "test", asked.recipe, lambda responses: responses)
    assert torch.equal(asked.treated(), treated)  # to the bit
    shares = measure_curve(run, draws=3)
    monkeypatch.undo()
    assert measure_curve(run, draws=3)["top1"] == shares["top1"]


def test_a_channel_that_was_dead_for_a_while_is_no_dead_channel(run, monkeypatch):
    table = run.parents[1] / "responses/tiny/sub-01.safetensors"
    old = store.load_responses(table)
    test = np.array(old.test)
    test[:20, :, 1] = 0  # as if the first pictures had been shown before the electrode was mended
    write_responses(table, old.train, test, (old.train_images, old.test_images))
    renew(run, table)
    monkeypatch.setattr(asking, "ROOM", 4 * 3 * 120 * (12 + 22) * 5)
    evaluate_run(run)


def renew(run: Path, table: Path) -> None:
    """Let the record of a run state the table as it is now."""
    record = read_record(run)
    for one in (record["inputs"]["queries"], *record["inputs"]["responses"]):
        one["fingerprint"] = store.fingerprint(table)
    files.write_json(run / "record.json", record)


def test_one_repetition_is_the_mean_over_single_trials(run):
    """With one repetition the curve estimates what all single trials give, one by one, without any drawing."""
    asked = ask(run)
    single = asked.treated(apart=True)
    places = [ranks(asked.similarities(single[:, r]), asked.targets) for r in range(4)]
    expected = np.mean([top_k(one, 1) for one in places])
    assert measure_curve(run, draws=300)["top1"][0] == pytest.approx(expected, abs=0.01)


def test_the_draws_differ_from_image_to_image(run, monkeypatch):
    drawn = []
    original = asking.Asked.averages

    def spy(self, subsets, **options):
        drawn.append(subsets)
        return original(self, subsets, **options)

    monkeypatch.setattr(asking.Asked, "averages", spy)
    measure_curve(run, draws=6)
    (subsets,) = drawn
    assert len(subsets) == 2 * 6 + 6 + 6 + 1  # halves, of one, of two, all
    assert (subsets[12:18].sum(axis=2) == 1).all() and (subsets[18:24].sum(axis=2) == 2).all()
    assert (subsets[18:24] >= subsets[12:18]).all()  # nested
    assert len(np.unique(subsets[12], axis=0)) == 4 and len(np.unique(subsets[12:18, 0], axis=0)) > 1


def test_a_curve_is_read_again_unless_something_changed(run):
    record, queries = read_record(run), run.parents[1] / "responses/tiny/sub-01.safetensors"
    first = curve_of(run, draws=4)
    marked = first | {"note": "as it was"}
    files.write_json(run / "repetitions.json", marked)
    assert curve_of(run) == curve_of(run, draws=4) == marked
    assert "note" not in curve_of(run, draws=5) and "note" not in curve_of(run, overwrite=True)
    files.write_json(run / "repetitions.json", marked)
    assert read_curve(run, {**record, "weights_sha256": "0"}, store.fingerprint(queries)) is None
    assert read_curve(run, record, "0") is None and read_curve(run, record, store.fingerprint(queries)) == marked
    for change in ({"top1": [2.0, 0, 0]}, {"top5": []}, {"reliability": ["x", 1, 1]}, {"n": 0}, {"chance": None}):
        files.write_json(run / "repetitions.json", marked | change)
        with pytest.raises(AlignvisError, match="does not state .* as a curve does; measure it again"):
            curve_of(run)


def test_one_response_an_image_has_no_curve_and_no_reliability(run):
    table = run.parents[1] / "responses/tiny/sub-01.safetensors"
    old = store.load_responses(table)
    write_responses(table, old.train, old.test[:, :1], (old.train_images, old.test_images))
    renew(run, table)
    assert evaluate_run(run)["reliability"] is None
    with pytest.raises(AlignvisError, match="has one response a test image, so .* has no curve over repetitions"):
        measure_curve(run)
    with pytest.raises(AlignvisError, match="--draws 0 draws nothing"):
        measure_curve(run, draws=0)


def test_reliability_of_what_a_linear_decoder_reads_is_known(tmp_path):
    """A linear map of signal plus noise: variance between pictures and between repetitions, number by number."""
    run = made(tmp_path, noise=3.0, normalisation="none")
    asked = ask(run)
    vectors = torch.stack([asked.brain(one) for one in asked.treated(apart=True).unbind(1)], dim=1).double()
    noise = vectors.var(dim=1).mean(dim=0)  # (dim,) of one repetition, unbiased
    signal = vectors.mean(dim=1).var(dim=0) - noise / 4
    truth = (signal / (signal + noise / 4)).mean().item()
    assert read_reliably(asked, draws=50)[1] == pytest.approx(truth, abs=0.06)
    curve = measure_curve(run, draws=50)
    one = (signal / (signal + noise)).mean().item()
    assert curve["reliability"][0] == pytest.approx(one, abs=0.08) and curve["reliability"] == sorted(
        curve["reliability"]
    )
    assert curve["ceiling"] == pytest.approx([value**0.5 for value in curve["reliability"]])
    assert repetitions.HALVES == 5 and torch.equal(read_reliably(asked)[0], asked.similarities(asked.treated()))


def test_pure_noise_stays_at_chance_however_many_are_averaged(run):
    table = run.parents[1] / "responses/tiny/sub-01.safetensors"
    old = store.load_responses(table)
    rng = np.random.default_rng(0)
    write_responses(table, old.train, rng.standard_normal(old.test.shape), (old.train_images, old.test_images))
    renew(run, table)
    curve = measure_curve(run)
    assert max(curve["top1"][:2]) < 0.06 and all(low <= 1 / 40 for low in curve["top1_low"])
    assert abs(curve["reliability"][-1]) < 0.3
