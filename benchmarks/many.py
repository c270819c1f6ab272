"""How long `extract` takes to start, and to go on, in a folder of a million pictures (hard links), and its memory.

Start: from the call to the first batch put away. Go on: the same, when all but the last part are there. The parts are
written with zeros for embeddings, as making them would only take long.
"""

import argparse
import json
import os
import resource
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from alignvis.images.catalogue import load  # noqa: E402
from alignvis.images.extract import extract  # noqa: E402
from alignvis.images.making import plan  # noqa: E402
from alignvis.images.parts import claim, cut, stamps_of  # noqa: E402
from alignvis.images.pixels import pictures  # noqa: E402
from benchmarks.machine import machine  # noqa: E402

BATCH = 32


class Enough(Exception):
    """The first batch is put away."""


def first_batch(images: Path, out: Path) -> float:
    """Seconds until then."""

    def progress(done: int, total: int, text: str, note: str = "") -> None:
        if text == "embedding pictures":
            raise Enough

    begun = time.perf_counter()
    try:
        extract(images, [load("lowlevel", images, download=False)], out, batch=BATCH, progress=progress)
    except Enough:
        pass
    return time.perf_counter() - begun


def write_parts(images: Path, out: Path) -> None:
    encoder, ids = load("lowlevel", images, download=False), pictures(images)
    making = plan(images, ids, encoder, out, layers=(), sigmas=(), batch=BATCH, device="cpu", precision="fp32")
    with ThreadPoolExecutor() as readers:
        for rows in cut(len(ids), BATCH)[:-1]:
            part = claim(making, rows, images, readers)
            if part is not None:
                count = rows.stop - rows.start
                tensors = {"embeddings": np.zeros((count, encoder.row.dim), np.float32)}
                part.put(rows, tensors, np.ones((count, 32), np.uint8), stamps_of(images, ids[rows]))
                part.finish()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=1_000_000)
    parser.add_argument("--a-folder", type=int, default=1000)
    parser.add_argument("--scratch", type=Path, help="a folder on a file system that knows hard links")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
        images, out = Path(scratch, "images"), Path(scratch, "features")
        images.mkdir()
        for number in range(options.pictures):
            folder, within = divmod(number, options.a_folder)
            if not within:
                (images / f"{folder:05}").mkdir()
                original = images / f"{folder:05}" / f"{0:05}.png"
                Image.new("RGB", (32, 32), (folder % 256, 0, 0)).save(original)
            else:
                os.link(original, images / f"{folder:05}" / f"{within:05}.png")
        start = first_batch(images, out)
        write_parts(images, out)
        resume = first_batch(images, out)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(json.dumps({
        "benchmark": "many", "pictures": options.pictures, "n": 1, "start_seconds": round(start, 1),
        "resume_seconds": round(resume, 1), "peak_GiB": round(peak, 2), "machine": machine(),
    }))  # fmt: skip


if __name__ == "__main__":
    main()
