"""One NICE training step: the loop's own against the published layer order, in turn, on the same machine.

Forward, loss, backward, clip and AdamW on a batch of 128 responses of 63 channels x 250 times to 512 dimensions,
float32. The rival is the published order of layers with torch's own clipping and AdamW. The average over time, which
ours takes once for a whole data set, is timed apart. Both keep freed memory, as the command line does, unless the
allocator is left as it is.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from alignvis.decoder import Decoder  # noqa: E402
from alignvis.loss import info_nce  # noqa: E402
from alignvis.memory import keep_freed_memory  # noqa: E402
from alignvis.recipe import Recipe  # noqa: E402
from alignvis.stack import Stack  # noqa: E402
from benchmarks.machine import machine  # noqa: E402
from tests.published_nice import published_from  # noqa: E402

RECIPE = Recipe()


def our_step(decoder: Decoder, prepared: Tensor, features: Tensor) -> Callable[[], None]:
    stack, rate = Stack([decoder]), torch.tensor([RECIPE.rate])

    def step() -> None:
        brain, image, scale = stack(prepared[None], features[None])
        info_nce(brain, image, scale).sum().backward()
        stack.step(rate, RECIPE.decay, RECIPE.clip, RECIPE.scale_rate)

    return step


def published_step(encoder: nn.Module, responses: Tensor, features: Tensor) -> Callable[[], None]:
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=RECIPE.rate, weight_decay=RECIPE.decay)

    def step() -> None:
        loss = info_nce(encoder(responses), features, 1 / RECIPE.temperature)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(encoder.parameters(), RECIPE.clip)
        optimizer.step()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--default-allocator", action="store_true")
    options = parser.parse_args()
    if not options.default_allocator:
        keep_freed_memory()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    responses, features = torch.randn(128, 63, 250), torch.randn(128, 512)
    decoder = Decoder("nice", channels=63, times=250, dim=512, recipe=RECIPE)
    begun = time.perf_counter()
    prepared = decoder.brain.prepare(responses)
    once = time.perf_counter() - begun
    steps = {
        "ours": our_step(decoder, prepared, features),
        "published": published_step(published_from(decoder.brain, 63, 250, 512), responses, features),
    }
    times: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(options.steps + 2):
        for name, step in steps.items():
            begun = time.perf_counter()
            step()
            if turn >= 2:  # the first steps warm up
                times[name].append(time.perf_counter() - begun)
    ratios = [a / b for a, b in zip(times["published"], times["ours"], strict=True)]
    print(
        json.dumps(
            {
                "benchmark": "nice_step",
                "allocator": "default" if options.default_allocator else "keeps freed memory",
                "n": options.steps,
                "seconds_ours": round(median(times["ours"]), 4),
                "seconds_published": round(median(times["published"]), 4),
                "times_faster": round(median(ratios), 2),
                "times_faster_range": [round(min(ratios), 2), round(max(ratios), 2)],
                "seconds_prepare_once_per_128": round(once, 4),
                "machine": machine(),
            }
        )
    )


if __name__ == "__main__":
    main()
