import re
from dataclasses import asdict

import pytest

from alignvis.encoders import ENCODERS, build
from alignvis.errors import AlignvisError
from alignvis.images.catalogue import CATALOGUE
from alignvis.listing import PURPOSES, brain_encoders, image_encoders, recipes
from alignvis.recipe import RECIPES


def test_everything_that_can_be_named_is_listed():
    for rows, names in ((image_encoders(), CATALOGUE), (brain_encoders(), ENCODERS), (recipes(), RECIPES)):
        assert [text.split()[0] for _, text in rows] == list(names)


def test_an_aligned_encoder_names_its_twin_and_uncertain_origins_say_so():
    rows = {row["id"]: (row, text) for row, text in image_encoders()}
    row, text = rows["dreamsim_synclr_vitb16"]
    assert row["aligned"] and row["dim"] == 768 and "dreamsim_synclr_vitb16_noalign" in text
    assert rows["CLIP_ViT-L14_noalign"][0]["note"] and "inferred" in rows["CLIP_ViT-L14_noalign"][1]


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
