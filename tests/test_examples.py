"""Each example is run as its reader would run it, and leaves what it says it leaves."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

from alignvis import store

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def run(name: str, folder: Path, *words: str) -> str:
    """Run an example in a folder of its own; its words on stdout."""
    command = [sys.executable, str(EXAMPLES / f"{name}.py"), *words]
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr
    assert "SIMULATED" in done.stdout and "Traceback" not in done.stderr
    return done.stdout


def scores(folder: Path, name: str) -> dict:
    return json.loads((folder / "runs" / name / "scores.json").read_text())


def test_every_example_has_a_test_and_says_that_its_data_are_made_up():
    source = Path(__file__).read_text(encoding="utf-8")
    for path in EXAMPLES.glob("*.py"):
        assert f'"{path.stem}"' in source, path
        text = path.read_text(encoding="utf-8")
        assert re.search("SIMULATED|MADE UP", text.split('"""')[1]) and len(text.splitlines()) < 130


def test_an_experiment_of_ones_own_goes_from_a_recording_to_a_score(tmp_path):
    said = run("own_eeg_experiment", tmp_path, "--out", "mine")
    found = scores(tmp_path / "mine", "mine")
    assert found["simulated"] is True and found["dataset"] == "mine-simulated" and found["n"] == 40
    assert found["top1_interval"][0] > 3 * found["top1_chance"]  # the planted answer is found again
    assert f"{found['top1']:.0%}" in said
    table = store.load_responses(tmp_path / "mine/responses/mine-simulated/sub-01.safetensors")
    assert table.test.shape[:2] == (40, 10) and table.document["parameters"]["whitening"]["method"] == "mvnn"


def test_an_image_encoder_of_ones_own_is_trained_on_like_any_other(tmp_path):
    said = run("own_image_encoder", tmp_path, "--out", "mine")
    found = scores(tmp_path / "mine", "colours")
    assert found["features"] == "colours" and found["top1"] > 1.5 * found["top1_chance"]
    table = store.load_features(tmp_path / "mine/features/things-eeg2-simulated/colours.safetensors")
    assert table.document["own"] is True and table.document["about"]["network"] and table.embeddings.shape[1] == 108
    assert "train --subject 1 --features colours" in said


def test_a_brain_encoder_of_ones_own_stands_beside_the_baseline(tmp_path):
    said = run("own_brain_encoder", tmp_path, "--out", "mine")
    for name in ("filters", "linear"):
        assert scores(tmp_path / "mine", name)["encoder"] == name and f"SIMULATED brain, {name}" in said
    assert scores(tmp_path / "mine", "filters")["top5"] > scores(tmp_path / "mine", "filters")["top5_chance"]


def test_a_figure_for_a_paper_is_drawn_from_a_study_with_the_difference_and_its_interval(tmp_path):
    said = run("paper_figure", tmp_path, "--out", "figure.svg")
    svg = (tmp_path / "figure.svg").read_text(encoding="utf-8")
    assert "SIMULATED" in svg and "fine_noalign" in svg and "</svg>" in svg
    low = float(re.search(r"95 % interval ([+-][\d.]+) to", said)[1])
    assert low > 0 and "3 subjects, 30 pictures" in said  # the embedding that sees more is read better


def test_nothing_is_written_over(tmp_path):
    (tmp_path / "there").mkdir()
    command = [sys.executable, str(EXAMPLES / "own_eeg_experiment.py"), "--out", "there"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2 and "there exists" in done.stderr and not list((tmp_path / "there").iterdir())
    assert all("if chosen.out.exists():" in path.read_text(encoding="utf-8") for path in EXAMPLES.glob("*.py"))
