"""What a user types and sees around pictures: `extract` with layers and blurs, `score`, `list`, several processes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alignvis import store
from tests.tables import features_document
from tests.test_cli import run, sentence

VITS = ("--encoder", "untrained_vit", "--encoder", "lowlevel")


@pytest.fixture
def root(tmp_path) -> Path:
    folder = tmp_path / "images" / "tiny"
    folder.mkdir(parents=True)
    draw = np.random.default_rng(0)
    for name in ("cat_01b", "dog_01b", "hammer_01b", "tree_01b"):
        Image.fromarray(draw.integers(0, 256, (50, 60, 3), dtype=np.uint8)).save(folder / f"{name}.png")
    return tmp_path


def table(root: Path, encoder: str) -> Path:
    return root / "features" / "tiny" / f"{encoder}.safetensors"


def test_layers_and_blurs_from_the_command_line(root):
    said = run("--root", root, "extract", *VITS, "--layers", "all", "--blur", "0,1.5,3").stdout.splitlines()
    assert said[0] == f"wrote {table(root, 'untrained_vit')}: 4 images x 192, 6 layers, blurs of 1.5, 3 pixels"
    assert said[1] == f"wrote {table(root, 'lowlevel')}: 4 images x 704, blurs of 1.5, 3 pixels"
    _, arrays = store.read_table(table(root, "untrained_vit"), "features", {})
    assert len(store.vectors(arrays)) == 3 * (1 + 2 * 6)
    checked = run("--root", root, "check").stdout
    assert "beside them layers 1, 2, 3, 4, 5, 6 (class, patches); blurs of 1.5, 3 pixels" in checked
    kept = run("--root", root, "extract", "--encoder", "untrained_vit", "--layers", "2,4-5", "--json")
    assert json.loads(kept.stdout)["kept"]


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["--layers", "7"], 1, "untrained_vit has layers 1 to 6, and layer 7 was asked for"),
        (["--layers", "0"], 1, "untrained_vit has layers 1 to 6, and layer 0 was asked for"),
        (["--layers", "some"], 2, "'some' is not a number, a list like 1,3 or a range like 1-4"),
        (["--blur", "-1"], 2, "'-1' is not a list of numbers from 0 on, like 0,1,3,9"),
        (["--blur", "1;2"], 2, "is not a list of numbers"),
        (["--blur", "5000"], 1, "each is 0 or from 0.1 to 1000"),
    ],
)
def test_wrong_layers_and_blurs_are_sentences(root, words, code, says):
    assert says in sentence("--root", root, "extract", "--encoder", "untrained_vit", *words, code=code)
    assert not table(root, "untrained_vit").exists()


def test_bf16_says_how_near_it_is(root):
    said = run("--root", root, "extract", *VITS, "--precision", "bf16").stdout
    assert said.count("smallest cosine to fp32 in a sample 0.99") + said.count("in a sample 1.00") == 2
    assert 0.999 < store.read_document(table(root, "untrained_vit"))["bf16_cosine"] < 1


def test_two_processes_make_what_one_makes_and_one_tells(root):
    words = ["-m", "alignvis", "--root", str(root), "extract", *VITS, "--batch", "2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", *words]
    done = subprocess.run(torchrun, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0 and done.stdout.count("wrote") == 2 and done.stderr.count("next: alignvis") == 1
    together = [table(root, name).read_bytes() for name in ("untrained_vit", "lowlevel")]
    subprocess.run([sys.executable, *words, "--overwrite"], check=True, env=environment, capture_output=True)
    assert [table(root, name).read_bytes() for name in ("untrained_vit", "lowlevel")] == together


def test_an_encoder_that_is_no_controlled_twin_says_so(root, tmp_path):
    text = sentence("--root", root, "extract", "--encoder", "harmonization_levit", "--offline")
    place = root / "weights" / "harmonization" / "levit_small_harmonized.h5"
    assert f"serrelab/prj_harmonization/models/levit_small_harmonized.h5 to {place}" in text
    asked = ("--encoder", "gLocal_clip_vit-l-14", "--encoder", "dreamsim_synclr_vitb16", "--offline")
    text = sentence("--root", root, "extract", *asked)  # all that is missing at once, an archive once
    assert text.startswith("Error: 3 files are neither in") and text.count("https://") == 3
    assert f"to {root / 'weights/dreamsim/dreamsim_synclr_vitb16_checkpoint.zip'}" in text
    listed = run("--root", root, "list").stdout
    assert "harmonization_levit differs from it in training, resize and normalisation too" in " ".join(listed.split())


# --- score -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def scored(tmp_path, shared_data) -> Path:
    """A root with people's choices and one table: what a model fitted to people says of all concepts."""
    (tmp_path / "things").symlink_to(shared_data / "things")
    spose = np.loadtxt(shared_data / "things" / "spose_embedding_66d_sorted.txt", dtype="f4")
    names = (shared_data / "things" / "unique_id.txt").read_text().split()
    some = np.random.default_rng(0).permutation(len(names))[:600]
    arrays = {"embeddings": spose[some], "images.sha256": np.ones((len(some), 32), "u1")}
    document = features_document([f"{names[row]}/{names[row]}_01b.jpg" for row in some], encoder="spose")
    store.write_table(tmp_path / "features" / "tiny" / "spose.safetensors", arrays, document)
    return tmp_path


def test_score_says_how_human_a_table_is(scored):
    result = run("--root", scored, "score")
    assert "spose" in result.stdout and "SURROGATE" in result.stdout and "chance 33.3%" in result.stdout
    assert "no run that learned embeddings of these tables has a score yet, so nothing was drawn" in result.stderr
    row = json.loads(run("--root", scored, "score", scored / "features/tiny/spose.safetensors", "--json").stdout)
    assert row["concepts"] == 600 and row["people"]["n"] > 30 and row["surrogate"]["cosine"]["value"] > 0.999


def test_score_refuses_with_a_sentence(scored, root):
    assert "there are no features in" in sentence("--root", root / "none", "score")
    assert "there is no file" in sentence("--root", scored, "score", scored / "gone.safetensors")
    (scored / "things").unlink()
    assert "unique_id.txt" in sentence("--root", scored, "score")


def test_a_list_can_be_cut_to_what_one_looks_for(root):
    ids = [
        json.loads(line)["id"]
        for line in run("--root", root, "list", "encoders", "SYNCLR", "--json").stdout.splitlines()
    ]
    assert ids == ["SynCLR_ViT-B16_noalign", "dreamsim_synclr_vitb16", "dreamsim_synclr_vitb16_noalign"]
    assert "taken by default" in run("--root", root, "list", "encoders", "synclr").stdout
    assert run("--root", root, "list", "recipes", "fmri").stdout.count("as alignvis, but") == 2
