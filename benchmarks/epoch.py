"""One whole epoch of NICE, data handling included: ours against the published loop, in turn, in the same run.

Batches of 128 responses of 63 channels x 250 times, four repetitions of each, to 512 dimensions, float32. The published
loop treats and averages the repetitions of every item anew and reads its embedding from a file of its own; ours does
that once for a whole data set (`average`), which is timed apart and, divided by the published 50 epochs, added. Neither
looks at held-out images. Both keep freed memory, as the command line does, unless the allocator is left as it is.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from statistics import median

import numpy as np
import torch
from torch.utils.data import DataLoader

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from alignvis import store  # noqa: E402
from alignvis.averaging import average  # noqa: E402
from alignvis.decoder import Decoder  # noqa: E402
from alignvis.pairs import Pairs  # noqa: E402
from alignvis.stack import Stack  # noqa: E402
from benchmarks.machine import allocator, machine, seconds, set_up  # noqa: E402
from benchmarks.nice_step import RECIPE, our_step  # noqa: E402
from tests.published_loop import BATCH, Shown, make_optimizer, train_epoch, write_embeddings  # noqa: E402
from tests.published_nice import PublishedNice  # noqa: E402
from tests.tables import image_ids, write_responses  # noqa: E402

CHANNELS, TIMES, DIM, REPETITIONS = 63, 250, 512, 4


def our_epoch(stack: Stack, pairs: Pairs, generator: torch.Generator) -> float:
    """The steps of one epoch, as `alignvis.training.fit` takes them."""
    stack.train()
    total = torch.zeros(1)
    for responses, features in pairs.batches(BATCH, [generator]):
        total += our_step(stack, responses, features)
    return total.item() / (len(pairs) // BATCH)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=1280)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--workers", type=int, default=0, help="processes that load items of the published loop")
    options = set_up(parser)
    torch.manual_seed(0)
    ids = image_ids(-(-options.images // 10), 10)[: options.images]
    generator = np.random.default_rng(0)
    responses = generator.standard_normal((len(ids), REPETITIONS, CHANNELS, TIMES), dtype=np.float32)
    embeddings = generator.standard_normal((len(ids), DIM), dtype=np.float32)

    with tempfile.TemporaryDirectory() as folder:
        names = [f"E{channel}" for channel in range(CHANNELS)]
        path = Path(folder) / "responses.safetensors"
        write_responses(path, responses, responses[:1], (ids, ["test_images/1/1.jpg"]), channels=names)
        table = store.load_responses(path)
        decoder = Decoder("nice", channels=CHANNELS, times=TIMES, dim=DIM, recipe=RECIPE)
        once = seconds(lambda: average(table, "train", RECIPE, decoder.brain.prepare))
        pairs = Pairs.of(average(table, "train", RECIPE, decoder.brain.prepare), torch.from_numpy(embeddings))
        stack, order = Stack([decoder]), torch.Generator().manual_seed(0)

        published = PublishedNice(CHANNELS, TIMES, DIM)
        optimizer = make_optimizer(published, RECIPE.rate)
        shown = Shown(responses, write_embeddings(Path(folder) / "embeddings", embeddings))
        loader = DataLoader(shown, BATCH, shuffle=True, drop_last=True, num_workers=options.workers)

        rivals = {
            "ours": lambda: our_epoch(stack, pairs, order),
            "published": lambda: train_epoch(published, loader, optimizer),
        }
        times: dict[str, list[float]] = {name: [] for name in rivals}
        for repeat in range(options.repeats + 1):
            for name, epoch in rivals.items():
                taken = seconds(epoch)
                if repeat:  # the first epoch warms up
                    times[name].append(taken)
    share = once / RECIPE.epochs
    apart = [b / a for a, b in zip(times["ours"], times["published"], strict=True)]
    whole = [b / (a + share) for a, b in zip(times["ours"], times["published"], strict=True)]
    print(
        json.dumps(
            {
                "benchmark": "epoch",
                "allocator": allocator(options),
                "images": options.images,
                "n": options.repeats,
                "workers": options.workers,
                "seconds_ours": round(median(times["ours"]), 3),
                "seconds_ours_prepare_once": round(once, 3),
                "seconds_ours_prepare_over_50_epochs": round(share, 4),
                "seconds_published": round(median(times["published"]), 3),
                "times_faster": round(median(apart), 2),
                "times_faster_range": [round(min(apart), 2), round(max(apart), 2)],
                "times_faster_with_prepare": round(median(whole), 2),
                "machine": machine(),
            }
        )
    )


if __name__ == "__main__":
    main()
