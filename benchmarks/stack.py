"""Runs that step together: seconds a run for stacks of several sizes, on simulated responses of THINGS-EEG2's size.

Each stack is trained through the loop of the command line, its runs spread over subjects, seeds and embeddings as a
grid would have them. Beside the seconds stand the peak memory and, on a GPU, the share that the traffic of one pass
(1.8 MB a sample forward and backward in half precision, counted on the layers of NICE) has of what its memory could
have moved in that time.
"""

import argparse
import json
import resource
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from alignvis.decoder import Decoder  # noqa: E402
from alignvis.device import choose_device  # noqa: E402
from alignvis.pairs import Pairs  # noqa: E402
from alignvis.recipe import Recipe  # noqa: E402
from alignvis.training import fit  # noqa: E402
from benchmarks.machine import machine, set_up  # noqa: E402

CHANNELS, TIMES, DIM = 63, 250, 512
SAMPLE_BYTES = 1.8e6


def pairs(runs: int, images: int, subjects: int, device: torch.device) -> tuple[Pairs, Pairs]:
    """Noise of the right shape: the time does not depend on what there is to be learned."""
    generator = torch.Generator(device).manual_seed(0)
    prepare = Decoder("nice", channels=CHANNELS, times=TIMES, dim=DIM, recipe=Recipe()).brain.prepare
    tables = []
    for _ in range(subjects):
        responses = torch.randn(images, CHANNELS, TIMES, generator=generator, device=device)
        tables.append(prepare(responses))
        del responses
    features = torch.randn(2, images, DIM, generator=generator, device=device)
    orders = torch.stack([torch.randperm(images, generator=generator, device=device) for _ in range(runs)])
    held_out = images // 10
    numbers = torch.arange(runs, device=device)
    fitted = Pairs(torch.stack(tables), features, (numbers % subjects)[:, None], numbers % 2, orders[:, held_out:])
    return fitted, Pairs(fitted.responses, features, fitted.brains, fitted.embeddings, orders[:, :held_out])


def peak(device: torch.device) -> float:
    """GiB: of the GPU since it was last asked, of the process on a CPU."""
    if device.type == "cuda":
        bytes_used = torch.cuda.max_memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        return bytes_used / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--runs", type=int, nargs="+", default=[1, 5, 20, 50], help="Sizes of the stacks.")
    parser.add_argument("--images", type=int, default=16540)
    parser.add_argument("--subjects", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--bandwidth", type=float, default=4.3e12, help="Of the GPU's memory, bytes a second.")
    options = set_up(parser)
    device = choose_device(options.device)
    recipe = Recipe(epochs=options.epochs, patience=options.epochs, schedule="cosine")
    rows = []
    for runs in options.runs:
        train, held_out = pairs(runs, options.images, min(options.subjects, runs), device)
        networks = [
            Decoder("nice", channels=CHANNELS, times=TIMES, dim=DIM, recipe=recipe, seed=run) for run in range(runs)
        ]
        fit(networks, train, held_out, Recipe(epochs=1), list(range(runs)), device=device)  # warms up
        peak(device)
        begun = time.perf_counter()
        fit(networks, train, held_out, recipe, list(range(runs)), device=device)
        seconds = time.perf_counter() - begun
        row = {"runs": runs, "seconds": round(seconds, 2), "seconds_a_run": round(seconds / runs, 3)}
        row["peak_gib"] = round(peak(device), 2)
        if device.type == "cuda":
            traffic = SAMPLE_BYTES * len(train) // recipe.batch * recipe.batch * options.epochs * runs
            row["share_of_bandwidth"] = round(traffic / options.bandwidth / seconds, 3)
        rows.append(row)
        del train, held_out
    about = {"benchmark": "stack", "n": 1, "images": options.images, "epochs": options.epochs, "stacks": rows}
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    print(json.dumps(about | {"device": name, "machine": machine()}))


if __name__ == "__main__":
    main()
