"""Seconds and memory of an exact search in a gallery on disk, beside one plain matrix product of data in memory.

Rounds alternate: the product (torch, float32, all threads, its arguments in memory already), then the search of the
same vectors in tables on disk (in the page cache), which also measures them, finds what is not finite and keeps the
best. With --memory, the whole command in a process of its own: peak of RssAnon and of VmHWM, mapped pages included,
once for a tenth of the gallery and once for all of it. Linux only.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from alignvis import store  # noqa: E402
from alignvis.searching.nearest import Shard, nearest  # noqa: E402
from benchmarks.machine import machine, seconds, set_up  # noqa: E402
from tests.tables import features_document, planted  # noqa: E402


def write(folder: Path, rows: int, dim: int, shards: int) -> list[Path]:
    """Write tables of noise, filled through maps."""
    paths = []
    for number in range(shards):
        path = folder / f"{number:03}.safetensors"
        start, stop = rows * number // shards, rows * (number + 1) // shards
        images = [f"web/{row:09}.jpg" for row in range(start, stop)]
        maps = store.begin(path, {"embeddings": ("<f4", (len(images), dim))}, features_document(images))
        generator = np.random.default_rng(number)
        for begin in range(0, len(images), 10_000):
            part = maps["embeddings"][begin : begin + 10_000]
            part[...] = generator.standard_normal(part.shape, np.float32)
        store.commit(path)
        paths.append(path)
    return paths


def shard(path: Path) -> Shard:
    array = store.read_table(path, "features", {})[1]["embeddings"]
    return Shard(path, *array.shape, offset=array.offset)


def speed(paths: list[Path], queries: int, k: int, rounds: int) -> dict:
    """Alternate the two in one process."""
    shards = [shard(path) for path in paths]
    dim = shards[0].dim
    held = np.empty((sum(one.rows for one in shards), dim), np.float32)
    first = 0
    for one in shards:
        with open(one.path, "rb", buffering=0) as file:
            one.read(file, 0, held[first : first + one.rows])
        first += one.rows
    gallery = torch.from_numpy(held)
    asked = torch.randn(queries, dim, generator=torch.Generator().manual_seed(0))
    product = torch.empty(queries, len(gallery))
    plain, ours, loads, processor = [], [], [], []
    for turn in range(rounds + 1):
        begun = time.process_time()
        one = seconds(lambda: torch.mm(asked, gallery.T, out=product))
        middle = time.process_time()
        two = seconds(lambda: nearest(asked, shards, k))
        if turn:  # the first round warms up
            plain.append(one)
            ours.append(two)
            loads.append(round(os.getloadavg()[0], 1))
            processor.append((time.process_time() - middle) / (middle - begun))
    ratios = [b / a for a, b in zip(plain, ours, strict=True)]
    return {
        "product_s": round(statistics.median(plain), 2),
        "search_s": round(statistics.median(ours), 2),
        "ratio": round(statistics.median(ratios), 2),
        "ratio_spread": [round(min(ratios), 2), round(max(ratios), 2)],
        "processor_ratio": round(statistics.median(processor), 2),  # others' work disturbs it less
        "processor_ratio_spread": [round(min(processor), 2), round(max(processor), 2)],
        "n": rounds,
        "load": loads,
    }


def peak(command: list[str]) -> dict:
    """Seconds and peaks, in MB, of the memory of a process: its own, and with the pages of mapped files."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=ROOT)
    begun, anonymous, resident = time.perf_counter(), 0, 0
    while process.poll() is None:
        try:
            lines = dict(line.split(":") for line in Path(f"/proc/{process.pid}/status").read_text().splitlines())
            anonymous = max(anonymous, int(lines.get("RssAnon", "0 kB").split()[0]))
            resident = max(resident, int(lines.get("VmHWM", "0 kB").split()[0]))
        except OSError:
            break
        time.sleep(0.02)
    if process.wait():
        raise SystemExit(f"the search ended with exit code {process.returncode}")
    found = {"seconds": round(time.perf_counter() - begun, 1)}
    return found | {"peak_anonymous_mb": round(anonymous / 1024), "peak_resident_mb": round(resident / 1024)}


def memory(folder: Path, paths: list[Path], dim: int) -> dict:
    """The whole command, on a tenth of the gallery and on all of it."""
    from alignvis.recipe import Recipe
    from alignvis.train_runs import train_run
    from tests.tables import write_features

    root = planted(folder / "root")
    table = root / "features/tiny/lowlevel.safetensors"
    images = store.read_document(table, "features")["images"]
    write_features(table, np.random.default_rng(0).standard_normal((len(images), dim)), images)
    recipe = Recipe(batch=32, epochs=2, validation="concept")
    train_run(root / "responses/tiny/sub-01.safetensors", table, root / "runs/one", encoder="linear", recipe=recipe)
    found = {}
    for name, some in (("a_tenth", paths[: max(1, len(paths) // 10)]), ("whole", paths)):
        command = [sys.executable, "-m", "alignvis", "--root", str(root), "search", "one", "--out", str(folder / name)]
        found[name] = peak([*command, *(word for path in some for word in ("--gallery", str(path)))])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=768)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--shards", type=int, default=10)
    parser.add_argument("-k", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--memory", action="store_true", help="measure the whole command's memory instead")
    parser.add_argument("--folder", type=Path, help="where to put the gallery for a while [default: the system's]")
    options = set_up(parser)
    result = {"benchmark": "search", "rows": options.rows, "dim": options.dim, "queries": options.queries}
    result |= {"k": options.k, "shards": options.shards}
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        (Path(name) / "gallery").mkdir()
        paths = write(Path(name) / "gallery", options.rows, options.dim, options.shards)
        if options.memory:
            result |= memory(Path(name), paths, options.dim)
        else:
            result |= speed(paths, options.queries, options.k, options.rounds)
    print(json.dumps(result | {"load_now": round(os.getloadavg()[0], 1), "machine": machine()}))


if __name__ == "__main__":
    main()
