"""A brain encoder of one's own, beside those of alignvis: any torch module that maps responses to embeddings.

The recording is SIMULATED, and so are its numbers. An encoder is a class that is registered by a name; what it must
offer stands in `Filters`. The name is known to the Python that registered it: train, evaluate and explain such runs
from a script like this one, since the `alignvis` command does not know your class.

    python own_brain_encoder.py --out my-brain-encoder
"""

import argparse
from pathlib import Path

import torch
from torch import nn

import alignvis

SET = "things-eeg2-simulated"


class Filters(nn.Module):
    """Spatial filters, then temporal ones, then one linear layer: (batch, channels, times) to (batch, dim).

    Args:
        channels, times: the shape of a response.
        dim: how long the vector for each response must be: the image embedding's length, or the projector's.
        head, parity: entries of the recipe that some published encoders heed; take them, and leave them alone.
    """

    def __init__(self, channels: int, times: int, dim: int, *, head: bool = True, parity: bool = False) -> None:
        super().__init__()
        self.space = nn.Conv1d(channels, 24, 1, bias=False)
        self.time = nn.Conv1d(24, 24, 7, padding=3, groups=24)
        self.pool = nn.AvgPool1d(5)
        self.dropout = nn.Dropout(0.25)
        self.map = nn.Linear(24 * (times // 5), dim)

    def prepare(self, responses: torch.Tensor) -> torch.Tensor:
        """Whatever is linear in the responses and has no weights: it is done once for all of them, not once a step."""
        return responses

    def forward(self, prepared: torch.Tensor) -> torch.Tensor:
        """Takes what `prepare` returned."""
        hidden = nn.functional.elu(self.time(self.space(prepared)))
        return self.map(self.dropout(self.pool(hidden)).flatten(1))


def main(root: Path) -> None:
    simulated = alignvis.simulate(root, concepts=30, test=30, test_repetitions=2, noise=1.0)
    pictures, responses = root / "images" / SET, root / "responses" / SET / "sub-01.safetensors"
    raw, about = Path(simulated["raw"]), {"channels": "occipital", "sfreq": 100.0}
    alignvis.prepare(raw, subject=1, images=pictures, out=responses, **about)
    encoder = alignvis.load_encoder("lowlevel", root / "weights")
    (features,) = alignvis.extract(pictures, [encoder], root / "features" / SET)
    print(f"SIMULATED: one subject's EEG and the pictures that it saw, in {root}")

    alignvis.ENCODERS["filters"] = Filters
    recipe = alignvis.Recipe(batch=32, epochs=15, rate=2e-3, schedule="cosine", validation="concept")
    for name in ("filters", "linear"):  # one's own, and the baseline that every table needs
        run = root / "runs" / name
        record = alignvis.train(responses, Path(features["table"]), run, encoder=name, recipe=recipe)
        scores = alignvis.evaluate(run)
        low, high = scores["top1_interval"]
        print(
            f"SIMULATED brain, {name}: the right one of {scores['gallery']} pictures was named first for "
            f"{scores['top1']:.0%} of {scores['n']} test responses (95 % interval {low:.0%} to {high:.0%}; chance "
            f"{scores['top1_chance']:.0%}), {len(record['history'])} epochs in {record['seconds']:.0f} s"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("own-brain-encoder"), help="new folder for all of it")
    chosen = parser.parse_args()
    if chosen.out.exists():
        parser.error(f"{chosen.out} exists; name a new folder with --out")
    main(chosen.out)
