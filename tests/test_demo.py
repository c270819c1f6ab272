from pathlib import Path

import numpy as np
import pytest

from alignvis import store
from alignvis.demo import SIZES, run_demo
from alignvis.images import catalogue
from alignvis.images.extract import extract
from alignvis.recordings.simulate import IMAGE_SET

COMMITTED = Path(__file__).resolve().parents[1] / "features" / "demo" / "lowlevel.safetensors"


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> tuple[Path, dict]:
    out = tmp_path_factory.mktemp("demo") / "demo"
    return out, run_demo(out, fast=True)


def test_the_decoder_is_far_above_chance_and_true_factors_beat_random_weights(demo):
    scores = {score["features"]: score for score in demo[1]["scores"]}
    assert scores["lowlevel"]["top1_interval"][0] > 2 * scores["lowlevel"]["top1_chance"]
    assert scores["lowlevel"]["top1"] > scores["untrained_vit"]["top1"]
    assert scores["lowlevel"]["median_rank"] < scores["untrained_vit"]["median_rank"]
    assert scores["lowlevel"]["top1"] <= demo[1]["ceiling"]["top1"]


def test_the_text_says_that_the_brain_is_simulated_and_names_ceiling_and_chance(demo):
    text = demo[1]["text"]
    for part in ("SIMULATED", "ceiling: top-1", "chance: top-1 2.0%", demo[1]["picture"], "among 50 pictures"):
        assert part in text


def test_the_page_and_the_maps_are_there_and_say_that_the_brain_is_simulated(demo):
    page = Path(demo[1]["report"]).read_text(encoding="utf-8")
    assert "SIMULATED" in page and "lowlevel" in page and "untrained_vit" in page
    for key in ("picture", "explanation"):
        assert Path(demo[1][key]).stat().st_size > 20_000 and demo[1][key] in demo[1]["text"]


def test_a_demo_that_is_done_is_only_read(demo):
    out, first = demo
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")}
    again = run_demo(out, fast=True)
    assert again["scores"] == first["scores"]
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")} == before


def test_the_committed_table_is_what_the_demo_pictures_give(demo, tmp_path):
    assert SIZES[True]["concepts"] == 40, "the committed table belongs to these pictures"
    (made,) = extract(demo[0] / "images" / IMAGE_SET, [catalogue.load("lowlevel", tmp_path)], tmp_path)
    fresh, committed = store.load_features(Path(made["table"])), store.load_features(COMMITTED)
    assert fresh.images == committed.images
    np.testing.assert_allclose(fresh.embeddings, committed.embeddings, rtol=1e-3, atol=1e-4)
