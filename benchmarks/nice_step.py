"""One NICE training step: the loop's own against the published layer order, in turn, on the same machine.

Forward, loss, backward, clip and AdamW on a batch of 128 responses of 63 channels x 250 times to 512 dimensions,
float32. The rival is the published order of layers with torch's own clipping and AdamW. The average over time, which
ours takes once for a whole data set, is timed apart. Both keep freed memory, as the command line does, unless the
allocator is left as it is.
"""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from alignvis.decoder import Decoder  # noqa: E402
from alignvis.loss import info_nce  # noqa: E402
from alignvis.recipe import Recipe  # noqa: E402
from alignvis.stack import Stack  # noqa: E402
from benchmarks.machine import allocator, machine, seconds, set_up  # noqa: E402
from tests.published_nice import published_from  # noqa: E402

RECIPE = Recipe()


def our_step(stack: Stack, prepared: Tensor, features: Tensor) -> Tensor:
    """One step as `alignvis.training.fit` takes it; returns the loss of each run."""
    brain, image, scale = stack(prepared, features)
    losses = info_nce(brain, image, scale)
    losses.sum().backward()
    rate = torch.full((len(stack),), RECIPE.rate)
    stack.step(rate, RECIPE.decay, RECIPE.clip, RECIPE.scale_rate)
    return losses.detach()


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
    options = set_up(parser)
    torch.manual_seed(0)
    responses, features = torch.randn(128, 63, 250), torch.randn(128, 512)
    decoder = Decoder("nice", channels=63, times=250, dim=512, recipe=RECIPE)
    once = seconds(lambda: decoder.brain.prepare(responses))
    prepared, stack = decoder.brain.prepare(responses), Stack([decoder])
    steps = {
        "ours": lambda: our_step(stack, prepared[None], features[None]),
        "published": published_step(published_from(decoder.brain, 63, 250, 512), responses, features),
    }
    times: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(options.steps + 2):
        for name, step in steps.items():
            taken = seconds(step)
            if turn >= 2:  # the first steps warm up
                times[name].append(taken)
    ratios = [a / b for a, b in zip(times["published"], times["ours"], strict=True)]
    print(
        json.dumps(
            {
                "benchmark": "nice_step",
                "allocator": allocator(options),
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
