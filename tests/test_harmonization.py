"""Photographs through a harmonised Keras file and its timm twin, from files in the published layouts to the table."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from alignvis import store
from alignvis.errors import AlignvisError
from alignvis.images.catalogue import CATALOGUE, IMAGENET, load
from alignvis.images.encoder import build
from alignvis.images.extract import extract
from alignvis.images.tf_resize import tf_bicubic
from alignvis.images.vit import Architecture
from tests import keras_h5
from tests.vit_files import as_dino, embed, random_model, read, write

SMALL = Architecture(16, 48, 2, 4, 14)


@pytest.fixture
def photos(shared_data) -> Path:
    return shared_data / "photos"


@pytest.fixture
def model(tmp_path):
    return random_model(SMALL)


@pytest.fixture
def weights(tmp_path, model) -> Path:
    hf = read(write(model, tmp_path / "hub"))
    folder = tmp_path / "weights"
    for id, name in (("harmonization_vitb16", "h5"), ("harmonization_vitb16_noalign", "safetensors")):
        path = folder / CATALOGUE[id].sources[0].file
        path.parent.mkdir(parents=True)
        if name == "h5":
            keras_h5.write(path, keras_h5.vit(hf, SMALL.depth))
        else:
            head = {"head.weight": torch.zeros(10, SMALL.width), "head.bias": torch.zeros(10)}
            save_file({name: tensor.contiguous() for name, tensor in (as_dino(hf) | head).items()}, path)
    return folder


def small(id: str):
    row = CATALOGUE[id]
    branch = replace(row.branches[0], architecture=SMALL)
    return replace(row, branches=(branch,), dim=SMALL.dim)


def test_a_harmonised_encoder_sees_pictures_as_tensorflow_shows_them(photos, weights, model, tmp_path):
    encoder = build(small("harmonization_vitb16"), weights, download=False)
    (told,) = extract(photos, [encoder], tmp_path / "features", layers="all")
    table = store.load_features(Path(told["table"]))
    assert table.document["aligned"] and table.document["twin"] == "harmonization_vitb16_noalign"
    assert table.document["weights"][0]["file"] == "vit-b16_harmonized.h5"
    mean, std = (torch.tensor(values)[:, None, None] for values in IMAGENET)
    for image, embedding in zip(table.images, table.embeddings, strict=True):
        seen = tf_bicubic(np.asarray(Image.open(photos / image).convert("RGB")), 224)
        pixels = (torch.from_numpy(seen).permute(2, 0, 1) / 255 - mean) / std
        expected = embed(model, pixels[None], "norm")[0].numpy()
        assert np.linalg.norm(embedding - expected) <= 2e-5 * np.linalg.norm(expected)


def test_its_twin_sees_them_as_timm_shows_them(photos, weights, model, tmp_path):
    encoder = build(small("harmonization_vitb16_noalign"), weights, download=False)
    (told,) = extract(photos, [encoder], tmp_path / "features")
    table = store.load_features(Path(told["table"]))
    assert not table.document["aligned"] and table.document["preprocessing"]["size"] == 248
    for image, embedding in zip(table.images, table.embeddings, strict=True):
        picture = Image.open(photos / image).convert("RGB")
        short = min(picture.size)
        picture = picture.resize([248 * edge // short for edge in picture.size], Image.Resampling.BICUBIC)
        left, top = (round((edge - 224) / 2) for edge in picture.size)
        seen = np.asarray(picture.crop((left, top, left + 224, top + 224)))
        pixels = (torch.from_numpy(seen.copy()).permute(2, 0, 1) / 255 - 0.5) / 0.5
        expected = embed(model, pixels[None], "norm")[0].numpy()
        assert np.linalg.norm(embedding - expected) <= 5e-6 * np.linalg.norm(expected)


def test_either_kind_of_file_serves_either_id_and_another_model_does_not(weights, tmp_path):
    """The network is the same; what differs is how pictures are shown to it, which the id says."""
    keras = weights / CATALOGUE["harmonization_vitb16"].sources[0].file
    timm = weights / CATALOGUE["harmonization_vitb16_noalign"].sources[0].file
    one, two = (build(small("harmonization_vitb16"), tmp_path, given=file, download=False) for file in (keras, timm))
    pixels = torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(one(pixels), two(pixels), atol=1e-6)
    with pytest.raises(AlignvisError, match="is a Keras file of a vision transformer, and a ConvNeXt was expected"):
        load("harmonization_convnext", tmp_path, given=keras, download=False)
