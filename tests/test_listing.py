from alignvis.encoders import ENCODERS
from alignvis.images.catalogue import CATALOGUE
from alignvis.listing import brain_encoders, image_encoders, recipes
from alignvis.training import RECIPES


def test_everything_that_can_be_named_is_listed():
    for rows, names in ((image_encoders(), CATALOGUE), (brain_encoders(), ENCODERS), (recipes(), RECIPES)):
        assert [text.split()[0] for _, text in rows] == list(names)


def test_an_aligned_encoder_names_its_twin_and_uncertain_origins_say_so():
    rows = {row["id"]: (row, text) for row, text in image_encoders()}
    row, text = rows["dreamsim_synclr_vitb16"]
    assert row["aligned"] and row["dim"] == 768 and "dreamsim_synclr_vitb16_noalign" in text
    assert rows["CLIP_ViT-L14_noalign"][0]["note"] and "inferred" in rows["CLIP_ViT-L14_noalign"][1]
