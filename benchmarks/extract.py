"""Pictures a second through CLIP ViT-B/32 or L/14 (random weights): ours against transformers, in turn, same threads.

Compute alone, batch by batch; and from JPEG files of 500 x 500 pixels, the size of THINGS, to embeddings: ours writes a
table, transformers does what its documentation shows (processor, then model). The `lowlevel` encoder likewise.
"""

import argparse
import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from statistics import median

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import CLIPImageProcessorPil, CLIPVisionConfig, CLIPVisionModelWithProjection

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from alignvis.images.catalogue import CATALOGUE, ImageEncoder, load  # noqa: E402
from alignvis.images.encoder import build  # noqa: E402
from alignvis.images.extract import extract  # noqa: E402
from benchmarks.machine import machine, seconds  # noqa: E402

MODELS = {  # what transformers calls it; the defaults are ViT-B
    "B32": {"patch_size": 32, "projection_dim": 512},
    "L14": {
        "patch_size": 14,
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "projection_dim": 768,
    },
}


def write_pictures(folder: Path, count: int) -> None:
    """Smooth fields with grain, which compress about as far as photographs do."""
    folder.mkdir()
    draw = np.random.default_rng(0)
    for number in range(count):
        coarse = Image.fromarray(draw.integers(0, 256, (9, 9, 3), dtype=np.uint8)).resize(
            (500, 500), Image.Resampling.BICUBIC
        )
        picture = np.clip(np.asarray(coarse) + draw.normal(0, 8, (500, 500, 1)), 0, 255).astype(np.uint8)
        Image.fromarray(picture).save(folder / f"{number:04}.jpg", quality=90)


def without_files(name: str) -> ImageEncoder:
    """An encoder of the catalogue with random weights."""
    row = CATALOGUE[name]
    (branch,) = row.branches
    return build(replace(row, branches=(replace(branch, sources=()),)), Path("weights"), download=False)


def by_transformers(model: CLIPVisionModelWithProjection, paths: list[Path], batch: int) -> list[Tensor]:
    processor, embeddings = CLIPImageProcessorPil(), []
    for start in range(0, len(paths), batch):
        pictures = [Image.open(path) for path in paths[start : start + batch]]
        pixels = processor(pictures, return_tensors="pt")["pixel_values"]
        with torch.inference_mode():
            embeddings.append(model(pixels).image_embeds)
    return embeddings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=MODELS, default="B32")
    parser.add_argument("--pictures", type=int, default=128)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()

    ours, lowlevel = (
        without_files(f"CLIP_ViT-{options.model}_noalign"),
        load("lowlevel", Path("weights"), download=False),
    )
    config = CLIPVisionConfig(**MODELS[options.model])
    theirs = CLIPVisionModelWithProjection._from_config(config, attn_implementation="sdpa").eval()
    generator = torch.Generator().manual_seed(0)
    pixels = torch.rand(options.batch, 3, 224, 224, generator=generator)
    small = torch.rand(options.batch, 3, 96, 96, generator=generator)

    with tempfile.TemporaryDirectory() as scratch:
        folder, out = Path(scratch, "images"), Path(scratch, "features")
        write_pictures(folder, options.pictures)
        paths = sorted(folder.iterdir())

        def ours_of(encoder: ImageEncoder) -> object:
            return extract(folder, [encoder], out, batch=options.batch, overwrite=True)

        works = {
            "vit_compute_ours": (options.batch, lambda: ours(pixels)),
            "vit_compute_transformers": (options.batch, lambda: theirs(pixels)),
            "vit_files_ours": (options.pictures, lambda: ours_of(ours)),
            "vit_files_transformers": (options.pictures, lambda: by_transformers(theirs, paths, options.batch)),
            "lowlevel_compute": (options.batch, lambda: lowlevel(small)),
            "lowlevel_files": (options.pictures, lambda: ours_of(lowlevel)),
        }
        times: dict[str, list[float]] = {name: [] for name in works}
        with torch.inference_mode():
            for run in range(options.runs + 1):
                for name, (_, work) in works.items():
                    taken = seconds(work)
                    if run:  # the first one warms up
                        times[name].append(taken)
    rates = {name: round(works[name][0] / median(taken), 1) for name, taken in times.items()}
    print(json.dumps({
        "benchmark": "extract", "model": options.model, "n": options.runs,
        "pictures": options.pictures, "batch": options.batch,
        "pictures_per_second_median": rates,
        "pictures_per_second_best": {name: round(works[name][0] / min(taken), 1) for name, taken in times.items()},
        "compute_ratio": round(rates["vit_compute_ours"] / rates["vit_compute_transformers"], 2),
        "files_ratio": round(rates["vit_files_ours"] / rates["vit_files_transformers"], 2), "machine": machine(),
    }))  # fmt: skip


if __name__ == "__main__":
    main()
