"""One NICE training step: ours against the published layer order, in turn, on the same machine in the same run.

Forward, loss, backward, clip and AdamW on a batch of 128 responses of 63 channels x 250 times to 512 dimensions,
float32. The average over time, which ours takes once for a whole data set, is timed apart. Both rivals keep freed
memory, as the command line does, unless the allocator is left as it is.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from statistics import median

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from alignvis.encoders import build  # noqa: E402
from alignvis.loss import info_nce  # noqa: E402
from alignvis.memory import keep_freed_memory  # noqa: E402
from benchmarks.machine import machine  # noqa: E402
from tests.published_nice import published_from  # noqa: E402


def seconds_a_step(encoder: nn.Module, responses: Tensor, features: Tensor, optimizer: torch.optim.Optimizer) -> float:
    begun = time.perf_counter()
    loss = info_nce(encoder(responses), features, 25.0)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(encoder.parameters(), 1.0)
    optimizer.step()
    return time.perf_counter() - begun


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
    ours = build("nice", channels=63, times=250, dim=512)
    published = published_from(ours, 63, 250, 512)
    begun = time.perf_counter()
    prepared = ours.prepare(responses)
    once = time.perf_counter() - begun
    rivals = {"ours": (ours, prepared), "published": (published, responses)}
    optimizers = {
        name: torch.optim.AdamW(encoder.parameters(), weight_decay=0.1) for name, (encoder, _) in rivals.items()
    }
    times: dict[str, list[float]] = {name: [] for name in rivals}
    for step in range(options.steps + 2):
        for name, (encoder, inputs) in rivals.items():
            seconds = seconds_a_step(encoder, inputs, features, optimizers[name])
            if step >= 2:  # the first steps warm up
                times[name].append(seconds)
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
