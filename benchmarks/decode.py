"""Pictures a second from JPEG files of 500 x 500 pixels to CLIP's pixels, on all cores: ours against plain Pillow.

Ours also takes the digest and the stamp of each file. Plain Pillow runs in a `ProcessPoolExecutor` of as many
processes, which hand back arrays in chunks of the size that was the fastest of several. Both are held against threads,
and take turns, so that whatever else the machine does meets all of them.
"""

import argparse
import json
import os
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from statistics import median

import numpy as np
from numpy.typing import NDArray
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from alignvis.images.ahead import decode_ahead, decoders  # noqa: E402
from alignvis.images.pixels import GEOMETRIES, apply, decode, read  # noqa: E402
from alignvis.memory import keep_freed_memory  # noqa: E402
from benchmarks.extract import write_pictures  # noqa: E402
from benchmarks.machine import machine, seconds  # noqa: E402

CHUNKS = (1, 4, 8, 16, 32)


def plain(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as picture:
        width, height = (224 * edge // min(picture.size) for edge in picture.size)
        resized = picture.convert("RGB").resize((width, height), Image.Resampling.BICUBIC)
    left, top = round((width - 224) / 2), round((height - 224) / 2)
    return np.asarray(resized.crop((left, top, left + 224, top + 224)))


def threaded(path: Path) -> tuple[NDArray[np.uint8], bytes]:
    data = read(path)
    return apply(GEOMETRIES["clip"], decode(path, data)), sha256(data).digest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=256)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--runs", type=int, default=21)
    options = parser.parse_args()
    workers = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as scratch:
        write_pictures(Path(scratch, "images"), options.pictures)
        paths = sorted(Path(scratch, "images").iterdir())
        jobs = [(paths[start : start + options.batch], ["clip"]) for start in range(0, len(paths), options.batch)]
        # Forked before there are threads.
        with ProcessPoolExecutor(workers) as processes:
            list(processes.map(plain, paths[: 4 * workers]))
            keep_freed_memory()  # of this process, for both, as the command line does
            with ThreadPoolExecutor(workers) as threads, decoders(workers) as pool:

                def pillow(chunk: int) -> list[int]:
                    return [array[0, 0, 0] for array in processes.map(plain, paths, chunksize=chunk)]

                works = {
                    "ours": lambda: [pixels["clip"][0, 0, 0, 0] for pixels, _, _ in decode_ahead(jobs, pool, False)],
                    "pillow": lambda: pillow(fastest),
                    "threads": lambda: [array[0, 0, 0] for array, _ in threads.map(threaded, paths)],
                }
                tried = {chunk: min(seconds(lambda chunk=chunk: pillow(chunk)) for _ in range(3)) for chunk in CHUNKS}
                fastest = min(tried, key=tried.__getitem__)
                times: dict[str, list[float]] = {name: [] for name in works}
                for run in range(options.runs + 1):
                    for name, work in works.items():
                        taken = seconds(work)
                        if run:  # the first one warms up
                            times[name].append(taken)
    ratios = [one / two for one, two in zip(times["pillow"], times["ours"], strict=True)]
    print(json.dumps({
        "benchmark": "decode", "n": options.runs, "pictures": options.pictures, "batch": options.batch,
        "workers": workers, "pillow_chunk": fastest,
        "pictures_per_second_median": {name: round(options.pictures / median(each), 1) for name, each in times.items()},
        "pictures_per_second_best": {name: round(options.pictures / min(each), 1) for name, each in times.items()},
        "ratio_median": round(median(ratios), 3), "ratio_range": [round(min(ratios), 3), round(max(ratios), 3)],
        "machine": machine(),
    }))  # fmt: skip


if __name__ == "__main__":
    main()
