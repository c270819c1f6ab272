"""An image encoder of one's own, beside those of alignvis: any torch module becomes a features table.

The recording is SIMULATED, and so are its numbers. The encoder here is a small untrained network: put your own in its
place. `write_features` is all that is needed: an array with a row for each picture, and the pictures' ids.

    python own_image_encoder.py --out my-encoder
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

import alignvis

SET = "things-eeg2-simulated"


class Colours(nn.Module):
    """Mean colour in each field of a grid: (batch, 3, height, width) in [0, 1] to (batch, 3 * side * side)."""

    def __init__(self, side: int = 6) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(side)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.pool(pixels).flatten(1)


def embed(network: nn.Module, folder: Path, images: list[str], batch: int = 32) -> np.ndarray:
    """Embed pictures as the network expects them: here squashed to 64 x 64 pixels in [0, 1]. (images, dim) float32."""
    network.eval()
    rows = []
    for start in range(0, len(images), batch):
        pictures = [
            Image.open(folder / image).convert("RGB").resize((64, 64)) for image in images[start : start + batch]
        ]
        pixels = torch.from_numpy(np.stack([np.asarray(picture) for picture in pictures])).permute(0, 3, 1, 2) / 255
        with torch.inference_mode():
            rows.append(network(pixels).numpy())
    return np.concatenate(rows)


def main(root: Path) -> None:
    simulated = alignvis.simulate(root, concepts=24, test=30, test_repetitions=2, noise=1.0)
    pictures, responses = root / "images" / SET, root / "responses" / SET / "sub-01.safetensors"
    raw, about = Path(simulated["raw"]), {"channels": "occipital", "sfreq": 100.0}
    alignvis.prepare(raw, subject=1, images=pictures, out=responses, **about)
    print(f"SIMULATED: one subject's EEG and the pictures that it saw, in {root}")

    images = sorted(path.relative_to(pictures).as_posix() for path in pictures.rglob("*.jpg"))
    embeddings = embed(Colours(), pictures, images)
    table = alignvis.write_features(
        root / "features" / SET,
        embeddings,
        images,
        encoder="colours",
        aligned=False,  # True if human similarity judgements went into it; `twin` then names the same encoder without
        simulated=True,  # the pictures are drawn; leave it out, or False, for photographs
        about={"network": "mean colour of 6 x 6 fields", "pixels": "64 x 64, squashed"},
    )
    print(f"wrote {table}: {embeddings.shape[0]} images x {embeddings.shape[1]}")

    recipe = alignvis.Recipe(batch=32, epochs=25, rate=2e-3, schedule="cosine", validation="concept", window="0:0.6")
    run = root / "runs" / "colours"
    alignvis.train(responses, table, run, encoder="linear", recipe=recipe)
    scores = alignvis.evaluate(run)
    low, high = scores["top1_interval"]
    print(
        f"SIMULATED brain, through an encoder of one's own: the right one of {scores['gallery']} pictures was "
        "named first "
        f"for {scores['top1']:.0%} of {scores['n']} test responses (95 % interval {low:.0%} to {high:.0%}; chance "
        f"{scores['top1_chance']:.0%})"
    )
    print(f"next: alignvis --root {root} train --subject 1 --features colours")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("own-image-encoder"), help="new folder for all of it")
    chosen = parser.parse_args()
    if chosen.out.exists():
        parser.error(f"{chosen.out} exists; name a new folder with --out")
    main(chosen.out)
