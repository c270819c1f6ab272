"""`alignvis rsa` and `alignvis encode`, as typed."""

import json

import numpy as np
import pytest
from click.testing import CliRunner

from alignvis import store
from alignvis.cli import main
from alignvis.representations.encoding_analysis import read_maps
from tests import tables


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("root")
    for subject in (1, 2):
        tables.planted(folder, subject=subject, times=8)
    return folder


def run(root, *words):
    few = () if "--help" in words else ("--draws", "100", "--permutations", "100")
    return CliRunner().invoke(main, ["--root", str(root), *words, *few])


def test_rsa_writes_numbers_and_figure_and_names_the_next_command(root):
    found = run(root, "rsa", "--subject", "1-2")
    assert found.exit_code == 0, found.output
    assert "tiny (SIMULATED), subjects 1, 2: 40 test images" in found.stdout
    assert f"next: alignvis --root {root} encode --subject 1,2" in found.stderr and "does not show" not in found.stderr
    path = root / "results" / "rsa_tiny_sub-01-02.json"
    stored = json.loads(path.read_text())
    assert stored["analysis"] == "rsa" and path.with_suffix(".png").read_bytes()[:4] == b"\x89PNG"
    again = run(root, "rsa", "--subject", "1-2")
    assert again.exit_code == 1 and "is there already; replace it with --overwrite" in again.stderr
    before = path.stat().st_mtime_ns
    assert run(root, "rsa", "--subject", "1-2", "--overwrite", "--quiet").exit_code == 0
    assert path.stat().st_mtime_ns > before


def test_encode_writes_maps_beside_and_their_fingerprint(root, tmp_path):
    out = tmp_path / "deep" / "figure.svg"
    found = run(root, "encode", "--subject", "1", "--features", "lowlevel", "--out", str(out), "--json")
    assert found.exit_code == 0, found.output
    printed, stored = json.loads(found.stdout), json.loads(out.with_suffix(".json").read_text())
    assert f"next: alignvis --root {root} report\n" in found.stderr  # and not rsa again
    told = f"`alignvis --root {root} report` does not show it, as it takes encoding_*.json in {root / 'results'} alone"
    assert told in found.stderr and printed["figure"] == str(out) and out.read_text().startswith("<?xml")
    assert stored["maps_sha256"] == store.fingerprint(out.with_suffix(".safetensors"))
    document, maps = read_maps(out.with_suffix(".safetensors"))
    assert document["simulated"] is True and maps["sub-01.lowlevel.r"].shape == (3, 8)
    best = stored["features"][0]["by_subject"][0]["best"]["r"]
    assert np.isclose(maps["sub-01.lowlevel.r"].max(), best, atol=1e-5)


def test_options_reach_the_analysis(root, tmp_path):
    out = tmp_path / "a.png"
    words = ("--metric", "euclidean", "--embedding-metric", "cosine", "--channels", "O1,Oz", "--window", "0:0.05")
    found = run(root, "rsa", "--subject", "2", "--seed", "5", "--out", str(out), "--json", *words)
    assert found.exit_code == 0, found.output
    stored = json.loads(found.stdout)
    assert (stored["metric"], stored["embedding_metric"], stored["seed"]) == ("euclidean", "cosine", 5)
    assert stored["times"] == [0, 0.01, 0.02, 0.03, 0.04] and stored["responses"][0]["channels"] == 2
    assert (stored["draws"], stored["permutations"]) == (100, 100)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("rsa", "--subject", "7"), "there are no responses of subject 7"),
        (("rsa", "--subject", "1", "--features", "clip"), "there are no features of 'clip'"),
        (("rsa", "--subject", "1", "--target", "layer.3"), "holds no 'layer.3'"),
        (("rsa", "--subject", "1", "--channels", "Q9"), "has no channel called 'Q9'"),
        (("rsa", "--subject", "1", "--window", "5:6"), "has no sample in --window 5.0:6.0"),
        (("rsa", "--subject", "1", "--channels", "O1"), "needs 3 or more channels and there are 1"),
        (("encode", "--subject", "1", "--out", "x.gif"), "is no name for a figure"),
        (("encode", "--subject", "1", "--dataset", "../tiny"), "is not the name of a folder"),
    ],
)
def test_a_mistake_is_one_sentence_and_leaves_nothing(root, words, said):
    before = sorted(root.rglob("*"))
    found = run(root, *words)
    assert found.exit_code == 1 and said in found.stderr and "Traceback" not in found.output
    assert sorted(root.rglob("*")) == before


def test_a_broken_value_names_its_file(root, tmp_path):
    table = store.load_responses(root / "responses" / "tiny" / "sub-01.safetensors")
    for part in ("train", "test"):
        arrays = {"train": np.array(table.train), "test": np.array(table.test)}
        arrays[part][3, 0, 1, 2] = np.nan
        folder = tmp_path / part
        path = folder / "responses" / "tiny" / "sub-01.safetensors"
        tables.write_responses(path, arrays["train"], arrays["test"], (table.train_images, table.test_images))
        (folder / "features").symlink_to(root / "features")
        found = run(folder, "encode", "--subject", "1")
        assert found.exit_code == 1 and f"{path}: the {part} response" in found.stderr and "Oz" in found.stderr
    assert run(tmp_path / "train", "rsa", "--subject", "1").exit_code == 0  # test images are all that it reads


def test_help_says_what_is_done():
    for command in ("rsa", "encode"):
        text = CliRunner().invoke(main, [command, "--help"]).output
        assert "test images" in text and "--overwrite" in text
