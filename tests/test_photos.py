"""Eight real photographs, none square, through five families of encoders from files in the official layouts."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from transformers import BitImageProcessorPil, CLIPImageProcessorPil, ViTImageProcessorPil

from alignvis import store
from alignvis.images.catalogue import CATALOGUE
from alignvis.images.encoder import build
from alignvis.images.extract import extract
from tests.vit_files import as_dino, as_openai, embed, random_model, read, write

FAMILIES = ("CLIP_ViT-B32_noalign", "OpenCLIP_ViT-B16_laion2b_noalign", "DINO_ViT-B16_noalign",
            "DINOv2_ViT-B14_size-rule_noalign", "dreamsim_synclr_vitb16_noalign")  # fmt: skip


def processor(geometry: str, statistics):
    """The whole preprocessing, as transformers has it."""
    about = {"image_mean": list(statistics[0]), "image_std": list(statistics[1])}
    size = {"height": 224, "width": 224}
    if geometry == "squash-bilinear-224":
        return ViTImageProcessorPil(resample=2, size=size, **about)
    if geometry == "squash-bicubic-224":
        return ViTImageProcessorPil(resample=3, size=size, **about)
    if geometry == "bicubic-256-crop-224":
        return BitImageProcessorPil(resample=3, size={"shortest_edge": 256}, crop_size=size, **about)
    return CLIPImageProcessorPil(**about)


def as_torchvision(picture: Image.Image, statistics) -> torch.Tensor:
    """What OpenCLIP does, written out: shortest edge to 224, crop offsets rounded half to even."""
    width, height = picture.size
    short = min(width, height)
    picture = picture.resize((int(224 * width / short), int(224 * height / short)), Image.Resampling.BICUBIC)
    left, top = (round((side - 224) / 2) for side in picture.size)
    pixels = torch.from_numpy(np.asarray(picture.crop((left, top, left + 224, top + 224))).copy()).permute(2, 0, 1)
    mean, std = (torch.tensor(values)[:, None, None] for values in statistics)
    return (pixels / 255 - mean) / std


@pytest.mark.parametrize("id", FAMILIES)
def test_a_photograph_gives_the_embedding_that_transformers_gives(shared_data, tmp_path, id):
    row = CATALOGUE[id]
    branch = replace(row.branches[0], architecture=replace(row.branches[0].architecture, depth=2))
    row = replace(row, branches=(branch,))
    model = random_model(branch.architecture)
    hub = read(write(model, tmp_path / "hub"))
    official = as_openai(hub) if branch.architecture.output == "projected" else as_dino(hub)
    if "synclr" in id:
        official = {"model": {f"module.visual.{name}": tensor for name, tensor in official.items()}}
    path = tmp_path / "weights" / row.sources[0].file
    path.parent.mkdir(parents=True)
    if path.suffix == ".safetensors":
        save_file({name: tensor.contiguous() for name, tensor in official.items()}, path)
    else:
        torch.save(official, path)
    photos = shared_data / "photos"
    (made,) = extract(photos, [build(row, tmp_path / "weights", download=False)], tmp_path / "features")
    table = store.load_features(Path(made["table"]))
    pictures = [Image.open(photos / image).convert("RGB") for image in table.images]
    assert len(pictures) == 8 and all(picture.width != picture.height for picture in pictures)
    if row.geometry == "clip":
        pixels = torch.stack([as_torchvision(picture, branch.statistics) for picture in pictures])
    else:
        pixels = processor(row.geometry, branch.statistics)(pictures, return_tensors="pt")["pixel_values"]
    with torch.inference_mode():
        theirs = embed(model, pixels, branch.architecture.output).numpy()
    assert np.linalg.norm(table.embeddings - theirs) <= 5e-6 * np.linalg.norm(theirs)
