"""Runs explained, stored, read again, retrained; random weights; twins; the command."""

import json
import re
import shutil
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from scipy.stats import spearmanr

from alignvis import files, store
from alignvis.asking import ask
from alignvis.cli import main
from alignvis.errors import AlignvisError
from alignvis.explanations import retraining
from alignvis.explanations.answers import most_kept, most_lost
from alignvis.explanations.explain import by_concept, early_share, explain_run, queries_of, read_explanation
from alignvis.explanations.gradcam import gradcam
from alignvis.explanations.naming import figure_name
from alignvis.explanations.occlusion import first_order
from alignvis.explanations.randomised import agreement, between, fresh, randomised
from alignvis.explanations.regions import regions
from alignvis.explanations.retraining import retrained
from alignvis.recipe import Recipe
from alignvis.recordings.brain import ELECTRODES
from alignvis.runs import (
    all_runs,
    changed_inputs,
    inputs_of,
    matching_runs,
    named_run,
    named_runs,
    read_recipe,
    read_record,
    stated_path,
)
from alignvis.train_runs import train_run
from alignvis.twins import by_kind, twin_run
from tests.hidden import CHANNELS, RECIPE, TIMES, hidden, simulated_brain, trained
from tests.reported import written
from tests.tables import image_ids, write_features, write_responses

LIKE_EEG = replace(RECIPE, epochs=12, rate=2e-3, normalisation="repetition")


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A root with an aligned run and its twin, the first one explained."""
    root = hidden(tmp_path_factory.mktemp("explained"), twin=True)
    trained(root, "linear", "aligned")
    trained(root, "linear", "twin", "plain_noalign")
    trained(root, "linear", "other-seed", "plain_noalign", seed=1)
    explain_run(root / "runs" / "aligned")
    return root


@pytest.fixture
def root(made, tmp_path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "root"))


@pytest.fixture(scope="module")
def brain(tmp_path_factory) -> Path:
    """A root in which the simulator's brain answers."""
    return simulated_brain(tmp_path_factory.mktemp("brain"), images=300, tests=40)


def test_on_the_simulator_the_planted_time_and_place_are_found_in_numbers(brain):
    """It answers from 50 to 300 ms, at C, CP, P, PO and O electrodes."""
    found = explain_run(trained(brain, "nice", recipe=LIKE_EEG), step=0.05)
    assert found["top1"] > 0.3 and found["simulated"]
    starts = np.array([row["start"] for row in found["occlusion"]["windows"]])
    drops = np.clip([row["similarity_drop"] for row in found["occlusion"]["windows"]], 0, None)
    assert drops[(starts >= 0.025) & (starts < 0.3)].sum() > 0.85 * drops.sum()
    best = max(found["kept"], key=lambda row: row["top1"])
    assert 0.025 <= best["start"] < 0.3
    by_region = {row["name"]: row["similarity_drop"] for row in found["occlusion"]["regions"]}
    posterior = sum(by_region[name] for name in ("central", "parietal", "occipital"))
    assert posterior > 0.85 * sum(abs(value) for value in by_region.values())
    lost = np.array(found["occlusion"]["channels"])
    groups = regions(ELECTRODES)
    frontal, back = lost[groups["frontal"]].mean(), lost[groups["parietal"] + groups["occipital"]].mean()
    assert back > 4 * abs(frontal)
    single = found["first_order"]
    assert single["before_300ms"] > 0.55 and 0.05 < single["peak"] < 0.3  # spread evenly it would be 0.3
    assert sum(single["share_by_region"][name] for name in ("central", "parietal", "occipital")) > 0.7
    assert found["gradcam"]["before_300ms"] > 0.3  # a step of NICE sees 300 ms, so its map is as broad
    shares = found["gradcam"]["share_by_region"]
    assert sum(shares.values()) == pytest.approx(1)
    assert shares["central"] + shares["parietal"] + shares["occipital"] > 38 / 63  # more than their share of channels


def test_maps_of_two_seeds_agree_more_than_maps_of_random_weights_do(brain):
    recipe = replace(LIKE_EEG, channels="occipital")  # 17 channels, for the time it takes
    asked = [ask(trained(brain, "nice", f"seed-{seed}", recipe=recipe, seed=seed)) for seed in (0, 1)]
    maps = [gradcam(one, one.treated()) for one in asked]
    seeds, random = randomised(asked[0], asked[0].treated(), gradcam, maps[0])
    same = between([one.mean(axis=0) for one in maps])
    assert seeds == [1, 2, 3, 4, 5] and len(random) == 5
    assert same > np.mean(random) + 0.1 and max(random) < 0.95
    assert agreement(maps[0].mean(axis=0), maps[0].mean(axis=0)) == pytest.approx(1)


def test_random_weights_are_not_those_of_the_run_and_the_gallery_is_their_own(root):
    recipe = replace(RECIPE, epochs=1, projector=5)
    asked = ask(trained(root, "linear", "projected", recipe=recipe, seed=2))
    other = fresh(asked, 3)
    for ours, theirs in zip(asked.decoder.parameters(), other.decoder.parameters(), strict=True):
        assert ours.shape == theirs.shape and not np.allclose(ours.detach(), theirs.detach())
    assert other.gallery.shape == asked.gallery.shape and not np.allclose(asked.gallery, other.gallery)
    seeds, _ = randomised(asked, asked.treated(), first_order, first_order(asked, asked.treated()))
    assert 2 not in seeds and len(set(seeds)) == 5
    assert not other.decoder.training


def test_agreement_is_spearmans_correlation_of_sizes():
    rng = np.random.default_rng(0)
    first, second = rng.standard_normal((2, 4, 30))
    assert agreement(first, second) == pytest.approx(spearmanr(abs(first).ravel(), abs(second).ravel())[0])
    assert agreement(first, -2 * first) == pytest.approx(1) and agreement(first, np.ones((4, 30))) == 0
    assert between([first]) is None and between([first, first, first]) == pytest.approx(1)
    expected = np.mean([agreement(first, second), agreement(first, abs(first)), agreement(second, abs(first))])
    assert between([first, second, abs(first)]) == pytest.approx(expected)


def test_what_is_written_is_what_is_read_and_says_what_it_is_of(root):
    run = root / "runs" / "aligned"
    found, arrays = read_explanation(run)
    record = read_record(run)
    assert found["weights_sha256"] == record["weights_sha256"] and found["channels"] == CHANNELS
    assert found["queries_fingerprint"] == store.fingerprint(root / "responses/tiny/sub-01.safetensors")
    assert found["regions"]["occipital"] == ["Oz"] and found["n"] == found["gallery"] == 40
    np.testing.assert_allclose(found["times"], np.arange(TIMES) / 100, atol=1e-9)
    assert found["gradcam"] is None and "no convolution" in found["no_gradcam"]
    assert {name: array.shape for name, array in arrays.items()} == {
        "first_order": (40, 5, 100), "windows": (40, 39), "regions": (40, 5), "channels": (40, 5),
    }  # fmt: skip
    np.testing.assert_allclose(arrays["channels"].mean(axis=0), found["occlusion"]["channels"], atol=1e-6)
    assert queries_of(run) == image_ids(40, 1, "test_images")
    stamp = (run / "explain.json").stat().st_mtime_ns
    assert explain_run(run) == found and (run / "explain.json").stat().st_mtime_ns == stamp
    with pytest.raises(AlignvisError, match="has windows of 0.05 s, 0.025 s apart, and 0.1 and 0.05 were asked for"):
        explain_run(run, width=0.1, step=0.05)
    assert len(explain_run(run, width=0.1, step=0.05, overwrite=True)["kept"]) == 19


def test_two_explanations_are_the_same_bytes(root):
    run = root / "runs" / "aligned"
    before = [(run / name).read_bytes() for name in ("explain.json", "explain.safetensors")]
    explain_run(run, overwrite=True)
    assert [(run / name).read_bytes() for name in ("explain.json", "explain.safetensors")] == before


def test_what_does_not_belong_together_is_refused(root):
    run = root / "runs" / "aligned"
    with pytest.raises(AlignvisError, match="is not explained yet; explain it with: alignvis explain twin"):
        read_explanation(root / "runs" / "twin")
    for name in ("explain.json", "explain.safetensors"):
        shutil.copy(run / name, root / "runs" / "twin")
    with pytest.raises(AlignvisError, match="is of other weights than"):
        read_explanation(root / "runs" / "twin")
    good = files.read_json(run / "explain.json")
    for change, sentence in [
        ({"kept": [{"start": 1}]}, "does not state kept"),
        ({"gradcam": {"peak": "now"}}, "does not state gradcam"),
        ({"occlusion": good["occlusion"] | {"channels": ["x"]}}, "does not state occlusion"),
        ({"occlusion": good["occlusion"] | {"channels": [1.0]}}, "do not fit together"),
        ({"n": 41}, "do not fit together"),
        ({"version": 2}, "newer alignvis"),
        ({"maps_sha256": "0"}, "is not the file that"),
    ]:
        files.write_json(run / "explain.json", good | change)
        with pytest.raises(AlignvisError, match=sentence):
            read_explanation(run)
    for broken in ("[1]", "{", "null", '{"gradcam": NaN}'):
        (run / "explain.json").write_text(broken)
        with pytest.raises(AlignvisError):
            read_explanation(run)
    files.write_json(run / "explain.json", good)
    (run / "explain.safetensors").unlink()
    with pytest.raises(AlignvisError, match="is not the file that"):
        read_explanation(run)


def test_maps_are_averaged_by_concept():
    maps = np.arange(12.0).reshape(3, 2, 2)
    found = by_concept(maps, ["test_images/a/1.jpg", "test_images/b/1.jpg", "test_images/a/2.jpg"])
    assert {name: value.tolist() for name, value in found.items()} == {
        "test_images/a": [[4, 5], [6, 7]], "test_images/b": [[4, 5], [6, 7]],
    }  # fmt: skip


def test_the_share_before_300_ms_by_hand():
    profile, times = np.array([1.0, 2.0, 3.0, 4.0]), np.array([0.0, 0.2, 0.3, 0.4])
    assert early_share(profile, times) == pytest.approx(0.3)
    assert early_share(profile * 0, times) is None


def test_of_one_time_there_are_channels_and_nothing_else(tmp_path):
    rng = np.random.default_rng(0)
    ids = image_ids(20, 10), image_ids(20, 1, "test_images")
    embeddings = rng.standard_normal((220, 6))
    signal = (embeddings @ rng.standard_normal((6, 12)))[:, None, :, None]
    tables = signal[:200].repeat(2, 1), signal[200:].repeat(2, 1)
    about = {"channels": [f"voxel-{voxel:05d}" for voxel in range(12)], "sfreq": None, "tmin": None}
    write_responses(tmp_path / "responses/tiny/sub-01.safetensors", *tables, ids, **about)
    write_features(tmp_path / "features/tiny/plain.safetensors", embeddings, ids[0] + ids[1])
    run = trained(tmp_path, "linear", recipe=replace(RECIPE, normalisation="none"))
    found = explain_run(run, retrain=True)
    assert found["times"] == [0.0] and found["occlusion"]["windows"] == found["kept"] == found["bands"] == []
    assert found["retrained"] is None and list(found["regions"]) == ["other"]
    assert len(found["occlusion"]["channels"]) == 12 and read_explanation(run)[0] == found


def test_a_recording_that_does_not_say_its_times_is_a_sentence(tmp_path):
    root = hidden(tmp_path)
    path = root / "responses/tiny/sub-01.safetensors"
    table = store.load_responses(path)
    ids = table.train_images, table.test_images
    train, test = np.array(table.train), np.array(table.test)
    del table
    write_responses(path, train, test, ids, channels=CHANNELS, sfreq=None)
    with pytest.raises(AlignvisError, match="does not say when its samples were taken, so nothing can be said about"):
        explain_run(trained(root, "linear", recipe=replace(RECIPE, epochs=1)))


# --- retraining ------------------------------------------------------------------------------------------------------


def test_a_window_and_a_band_are_runs_of_their_own(tmp_path):
    root = hidden(tmp_path)
    recipe = replace(RECIPE, epochs=2)
    tables = root / "responses/tiny/sub-01.safetensors", root / "features/tiny/plain.safetensors"
    run = root / "runs" / "one"
    train_run(*tables, run, encoder="nice", recipe=recipe, recipe_name="mine", seed=4)
    asked = ask(run)
    out, scores = retrained(asked, {"window": "0.4:0.6"})
    assert out == run / "retrained" / "tiny_sub-01_plain_linear_mine+window-0.4-0.6_seed-4"
    record = read_record(out)
    assert [stated_path(out, table) for table in inputs_of(record)] == list(tables)
    assert not changed_inputs(out, record) and ask(out).record == record
    assert read_recipe(out, record) == replace(recipe, window="0.4:0.6") and record["seed"] == 4
    assert (record["shape"]["times"], record["encoder"], scores["encoder"]) == (20, "linear", "linear")
    assert scores["top1"] == json.loads((out / "scores.json").read_text())["top1"]
    stamp = (out / "record.json").stat().st_mtime_ns
    assert retrained(asked, {"window": "0.4:0.6"})[1]["top1"] == scores["top1"]
    assert (out / "record.json").stat().st_mtime_ns == stamp
    out, scores = retrained(asked, {"band": "4:8"})
    assert out.name == "tiny_sub-01_plain_nice_mine+band-4-8_seed-4" and scores["encoder"] == "nice"
    record = read_record(out)
    files.write_json(out / "record.json", record | {"recipe": record["recipe"] | {"rate": 0.5}})
    with pytest.raises(AlignvisError, match="is there already and was trained by another recipe or on other tables"):
        retrained(asked, {"band": "4:8"})


def test_runs_that_explain_another_are_in_no_list_of_runs_and_go_with_it(tmp_path, monkeypatch):
    root = hidden(tmp_path)
    run = trained(root, "linear", "one", recipe=replace(RECIPE, epochs=1))
    real, seen = retraining.train_stack, []

    def stops(*given, **options):
        seen.append(given[0][0].wanted.out.name)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return real(*given, **options)

    monkeypatch.setattr(retraining, "train_stack", stops)
    with pytest.raises(KeyboardInterrupt):
        explain_run(run, width=0.5, step=0.5, retrain=True)
    assert not (run / "explain.json").exists() or read_explanation(run)[0]["retrained"] is None
    found = explain_run(run, width=0.5, step=0.5, retrain=True)
    assert len(seen) == 1 + len(set(seen)) and seen[2] == seen[3]  # what was whole is not trained again
    names = [row["run"] for row in (*found["retrained"], *found["bands"])]
    assert sorted(path.name for path in (run / "retrained").iterdir()) == sorted(names) and len(names) > 3
    assert all_runs(root) == named_runs(root) == [run] and matching_runs(root, "*") == [run]
    scored = invoke(root, "eval")
    assert scored.exit_code == 0 and "window" not in scored.stdout
    assert named_run(root, run / "retrained" / names[0]) == run / "retrained" / names[0]  # by its folder it is found
    assert by_kind(all_runs(root)) == [([run], [])]
    tables = root / "responses/tiny/sub-01.safetensors", root / "features/tiny/plain.safetensors"
    train_run(*tables, run, encoder="linear", recipe=replace(RECIPE, epochs=2), recipe_name="hidden", overwrite=True)
    assert sorted(path.name for path in run.iterdir()) == ["record.json", "weights.safetensors"]
    assert [path.name for path in (root / "runs").iterdir()] == ["one"]


def test_a_retrained_run_is_called_as_train_would_call_it(tmp_path):
    root = hidden(tmp_path)
    tables = root / "responses/tiny/sub-01.safetensors", root / "features/tiny/plain.safetensors"
    recipe = Recipe(epochs=1, batch=50, normalisation="none")
    name = "alignvis+batch-50+epochs-1+normalisation-none"
    train_run(*tables, root / "runs" / "one", encoder="linear", recipe=recipe, recipe_name=name)
    out, _ = retrained(ask(root / "runs" / "one"), {"band": "8:13"})
    assert out.name == "tiny_sub-01_plain_linear_alignvis+batch-50+epochs-1+normalisation-none+band-8-13_seed-0"


def test_with_retraining_the_window_in_which_pictures_differ_is_found(root):
    run, said = root / "runs" / "aligned", []
    again = {"width": 0.1, "step": 0.1, "say": said.append}
    before = explain_run(run, overwrite=True, **again)
    found = explain_run(run, retrain=True, **again)
    alike = [{key: row[key] for key in old} for row, old in zip(found["bands"], before["bands"], strict=True)]
    assert [{**row, "retrained_top1": None, "retrained_interval": None} for row in alike] == before["bands"]
    assert {**found, "retrained": None, "bands": before["bands"]} == before  # the rest was not done again
    assert [(row["start"], row["end"]) for row in found["retrained"]][:2] == [(0.0, 0.1), (0.1, 0.2)]
    assert len(found["retrained"]) == 10 and "training 15 runs" in said[0]
    inside = [row["top1"] for row in found["retrained"] if 0.4 <= row["start"] < 0.595]
    outside = [row["top1"] for row in found["retrained"] if not 0.4 <= row["start"] < 0.595]
    assert len(inside) == 2 and min(inside) > 0.25 > 0.15 > max(outside)
    assert all(0 <= row["retrained_top1"] <= 1 and len(row["retrained_interval"]) == 2 for row in found["bands"])
    assert read_explanation(run)[0] == found
    said.clear()
    assert explain_run(run, retrain=True, **again) == found == explain_run(run, **again) and not said
    (root / "responses/tiny/sub-01.safetensors").unlink()
    assert explain_run(run, **again) == found and "has changed or gone since" in said[0]


def test_a_window_of_one_sample_cannot_be_normalised(root):
    recipe = replace(RECIPE, epochs=1, normalisation="mean")
    with pytest.raises(AlignvisError, match="--width 0.01 leaves a single sample"):
        explain_run(trained(root, "linear", "fine", recipe=recipe), width=0.01, step=0.1, retrain=True)


# --- twins and the command -------------------------------------------------------------------------------------------


def test_a_twin_differs_in_the_image_encoder_alone(root):
    runs = root / "runs"
    assert twin_run(runs / "aligned") == runs / "twin" and twin_run(runs / "twin") == runs / "aligned"
    assert twin_run(runs / "other-seed") is None
    (runs / "twin" / "record.json").write_text("{")
    assert twin_run(runs / "aligned") is None


def test_kinds_of_runs(root):
    runs = [root / "runs" / name for name in ("aligned", "twin", "other-seed")]
    assert by_kind(runs) == [([runs[0]], [runs[1], runs[2]])]
    other = trained(root, "linear", "short", recipe=replace(RECIPE, epochs=1))
    record = read_record(other)
    files.write_json(other / "record.json", record | {"recipe": record["recipe"] | {"name": "shorter"}})
    assert by_kind([*runs, other]) == [([runs[0]], [runs[1], runs[2]]), ([other], [])]


def invoke(root: Path, *words: str):
    return CliRunner().invoke(main, ["--root", str(root), *words])


def test_the_command_explains_a_run_and_its_twin_and_draws_them(root):
    result = invoke(root, "explain", "aligned")
    assert result.exit_code == 0, result.output
    assert "aligned  SIMULATED" in result.stdout and "twin  SIMULATED" in result.stdout
    assert "without occipital" in result.stdout and "no Grad-CAM: linear has no convolution" in result.stdout
    figure = root / "results" / "explain_aligned.png"
    assert figure.read_bytes()[:4] == b"\x89PNG"
    before = figure.read_bytes()
    again = invoke(root, "explain", "twin")
    assert figure.read_bytes() == before and f"{figure} is there already and was kept" in again.stderr
    alone = invoke(root, "explain", "aligned", "--json", "--no-twin")
    assert json.loads(alone.stdout) == {"run": str(root / "runs/aligned"), **read_explanation(root / "runs/aligned")[0]}
    assert figure.read_bytes() == before and "was kept" not in alone.stderr
    assert (root / "results" / "explain_aligned_alone.png").read_bytes() != before


def test_the_figure_of_a_group_is_called_by_what_is_in_it_and_by_nothing_else(root):
    together = invoke(root, "explain", "aligned", "other-seed", "--no-twin")
    assert together.exit_code == 0, together.output
    (figure,) = (root / "results").iterdir()
    assert re.fullmatch(
        r"explain_tiny_sub-01_plain-and-plain_noalign_linear_hidden_seed-0-1_[0-9a-f]{8}\.png", figure.name
    )
    for words in (["aligned"], ["other-seed"], ["aligned", "twin", "other-seed"]):
        one = invoke(root, "explain", *words)
        assert one.exit_code == 0 and "was kept" not in one.stderr, words
    assert len(list((root / "results").iterdir())) == 4
    again = invoke(root, "explain", "other-seed", "aligned", "--no-twin")
    assert f"{figure} is there already and was kept" in again.stderr


def test_other_runs_never_share_the_name_of_a_figure(root, tmp_path):
    """Every set of runs that can be drawn together, here, of hostile names, and of another root."""
    runs = root / "runs"
    shutil.copytree(runs / "aligned", runs / "aligned_alone")
    for number in (2, 3):
        copy = runs / f"sub-{number}"
        shutil.copytree(runs / "other-seed", copy)
        files.write_json(copy / "record.json", read_record(copy) | {"subject": number})
    aligned, plain = (
        [runs / name for name in some]
        for some in (("aligned", "aligned_alone"), ("twin", "other-seed", "sub-2", "sub-3"))
    )
    sets = [(first, second) for first in _subsets(aligned) for second in _subsets(plain) if first or second]
    elsewhere = shutil.copytree(runs, tmp_path / "other" / "runs")
    sets += [([elsewhere / "aligned"], [elsewhere / "twin"])]
    names = [figure_name(root, *one) for one in sets]
    assert len(set(names)) == len(names) == 2**6
    assert figure_name(root, [runs / "aligned"], plain[:1]) == "explain_aligned"
    assert figure_name(root, [], plain[:1]) == "explain_twin_alone"
    assert figure_name(root, [], plain[::-1]) == figure_name(root, [], plain)  # as they were named in another order
    assert "_sub-01-02-03_" in figure_name(root, [], plain[1:])
    record = read_record(plain[3])
    long = {"recipe": record["recipe"] | {"name": "é/" * 300}}
    files.write_json(plain[3] / "record.json", record | long)
    name = figure_name(root, [], plain)
    assert name.isascii() and "/" not in name and len(name) < 220


def _subsets(runs: list[Path]) -> list[list[Path]]:
    return [list(some) for count in range(len(runs) + 1) for some in combinations(runs, count)]


def test_command_and_page_name_the_same_window_with_its_interval(root):
    """Of windows that cost as much top-1, that which costs most similarity; none where none costs any."""
    path = root / "runs/aligned/explain.json"
    good = files.read_json(path)
    for column in ("windows", "regions"):
        for place, row in enumerate(good["occlusion"][column]):
            lost = 0.2 if 1 <= place <= 3 else 0.0
            row |= {"drop": lost, "drop_interval": [lost - 0.3, lost + 0.1], "similarity_drop": 0.01 * (place == 2)}
            row["similarity_drop"] += 0.5 * (place == 4)  # of no top-1, which comes first
    for place, row in enumerate(good["kept"]):
        row |= {"top1": 0.5, "top1_interval": [0.25, 0.75], "similarity": -abs(place - 7.0)}
    files.write_json(path, good)
    said = invoke(root, "explain", "aligned", "--no-twin").stdout
    assert "window that costs most      50 to 100 ms  top-1 -20.0 points [-30.0, +10.0], similarity -0.010" in said
    assert "best window alone          175 to 225 ms  top-1 50.0% [25.0%, 75.0%]" in said
    page = written(root)
    (row,) = page.table("most lost by a region")
    region = good["occlusion"]["regions"][2]["name"]
    assert row["most lost by a window, points of top-1"] == "20.0 (−10.0 to 30.0) without 50–100 ms"
    assert row["most lost by a region"] == f"20.0 (−10.0 to 30.0) without {region}"
    assert row["most kept by one window, %"] == "50.0 (25.0 to 75.0) with 175–225 ms"
    told = "lost by a window: 20.0 (−10.0 to 30.0) points without 50–100 ms, lost by a region: 20.0 (−10.0 to 30.0) "
    assert any(f"{told}points without {region}" in image["alt"] for image in page.of("img"))
    for row in (*good["occlusion"]["windows"], *good["occlusion"]["regions"]):
        row["drop"] = min(row["drop"], 0.0)
    good["occlusion"]["windows"][3]["drop"] = -0.1
    files.write_json(path, good)
    said = invoke(root, "explain", "aligned", "--no-twin").stdout
    assert "window that costs most    none: top-1 is no lower without any one of them" in said
    (row,) = written(root).table("most lost by a region")
    assert row["most lost by a window, points of top-1"] == row["most lost by a region"] == "nothing"


def test_of_no_rows_nothing_is_most():
    assert most_lost([]) is None and most_kept([]) is None


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["nothing"], "there is no run"),
        (["aligned", "--out", "x.jpg"], "let it end in .png, .svg or .pdf"),
        (["aligned", "--width", "0"], "0.0 is not in the range"),
        (["other-seed", "--width", "9"], "--width 9 does not fit"),
        ([], "Missing argument"),
    ],
)
def test_the_commands_mistakes_are_sentences(root, words, sentence):
    result = invoke(root, "explain", *words)
    assert result.exit_code != 0 and sentence in result.output and "Traceback" not in result.output
