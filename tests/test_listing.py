import re
from dataclasses import asdict

import pytest
from click.testing import CliRunner

from alignvis.cli import main
from alignvis.encoders import ENCODERS, build
from alignvis.errors import AlignvisError
from alignvis.images.catalogue import CATALOGUE
from alignvis.listing import PURPOSES, brain_encoders, image_encoders, recipes
from alignvis.recipe import RECIPES


@pytest.fixture(autouse=True)
def alone(tmp_path, monkeypatch):
    """No other program's cache on this machine has a say."""
    for name in ("XDG_CACHE_HOME", "TORCH_HOME", "HF_HOME", "HF_HUB_CACHE", "HOME"):
        monkeypatch.setenv(name, str(tmp_path / "caches" / name))
    monkeypatch.chdir(tmp_path)


def test_everything_that_can_be_named_is_listed(tmp_path):
    assert [row["id"] for row, _ in image_encoders(tmp_path)] == list(CATALOGUE)
    for rows, names in ((brain_encoders(), ENCODERS), (recipes(), RECIPES)):
        assert [text.split()[0] for _, text in rows] == list(names)


def test_an_image_encoder_tells_all_that_one_needs_to_choose_it(tmp_path):
    rows = {row["id"]: (row, " ".join(text.split())) for row, text in image_encoders(tmp_path)}
    for id, (row, text) in rows.items():
        assert id in text and str(row["dim"]) in text and (row["twin"] is None or f"twin {row['twin']}" in text)
        assert ("aligned" in text.replace("aligned or", "")) or not row["aligned"]
        assert row["here"] == (not row["sources"]) and all(note in text for note in row["notes"])
    row, text = rows["gLocal_clip_vit-l-14"]
    assert row["download_megabytes"] == 935 and "not here, download about 935 MB" in text
    assert "openaipublic.azureedge.net, raw.githubusercontent.com" in text and "24 layers" in text
    assert rows["dreamsim_ensemble"][0]["download_megabytes"] == 343 + 1261  # one archive holds three of the files
    assert "download of unknown size" in rows["dreamsim_synclr_vitb16"][1]
    assert "needs no weights" in rows["lowlevel"][1]
    assert "licence BSD-3-Clause" in rows["harmonization_vgg16_noalign"][1]
    assert "inferred" in rows["CLIP_ViT-L14_noalign"][1] and "is not the alignment alone" in rows[
        "harmonization_levit_noalign"][1]  # fmt: skip


def test_a_family_is_headed_by_its_paper_and_licence_once(tmp_path):
    text = "\n".join(text for _, text in image_encoders(tmp_path))
    assert text.count("Fu et al. (2023), arXiv:2306.09344; MIT") == 1
    assert max(map(len, text.splitlines())) <= 110


def test_weights_that_are_here_are_seen(tmp_path):
    (tmp_path / "clip").mkdir()
    (tmp_path / "clip" / "ViT-L-14.pt").write_bytes(b"weights")
    rows = {row["id"]: (row, text) for row, text in image_encoders(tmp_path)}
    assert rows["CLIP_ViT-L14_noalign"][0]["here"] and rows["CLIP_ViT-L14_noalign"][0]["download_megabytes"] == 0
    assert rows["gLocal_clip_vit-l-14"][0]["download_megabytes"] == 2  # the transform is missing still
    archive = tmp_path / "dreamsim" / "dreamsim_synclr_vitb16_checkpoint.zip"
    archive.parent.mkdir()
    archive.write_bytes(b"archive")
    assert {row["id"]: row for row, _ in image_encoders(tmp_path)}["dreamsim_synclr_vitb16"]["here"]


def test_a_brain_encoder_says_what_it_is_for_in_one_line():
    assert list(PURPOSES) == list(ENCODERS)
    for row, text in brain_encoders():
        assert text.startswith(row["name"]) and text.endswith(row["note"]) and len(text) <= 120 and "\n" not in text
        assert row["note"].split(":")[0] in ("EEG, MEG", "fMRI", "any")


@pytest.mark.parametrize("name", [name for name in PURPOSES if name != "brain-mlp"])
def test_a_brain_encoder_takes_as_few_samples_as_it_says(name):
    number = re.search(r"(\d+) samples", PURPOSES[name])
    fewest = int(number[1]) if number else 1
    build(name, channels=3, times=fewest, dim=4)
    if fewest > 1:
        with pytest.raises(AlignvisError):
            build(name, channels=3, times=fewest - 1, dim=4)


def test_a_recipe_is_shown_by_what_it_has_otherwise_and_given_whole():
    shown = {row["name"]: (row, " ".join(text.split())) for row, text in recipes()}
    row, text = shown["alignvis-fixed"]
    assert text == "alignvis-fixed as alignvis, but schedule cosine, validation concept"
    assert {key: value for key, value in row.items() if key != "name"} == asdict(RECIPES["alignvis-fixed"])
    assert all(f"{key} " in shown["alignvis"][1] for key in asdict(RECIPES["alignvis"]))


def test_a_word_that_nothing_has_in_its_name_is_told(tmp_path):
    result = CliRunner().invoke(main, ["--root", str(tmp_path), "list", "recipes", "zzz"])
    assert result.exit_code == 1 and result.stdout == ""
    assert f"none of the recipes has 'zzz' in its name; alignvis --root {tmp_path} list recipes shows" in result.stderr
