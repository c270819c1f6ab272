"""Seconds and memory of `alignvis prepare things-eeg2` on one session of the published size, beside mne and loops.

Both run in a process of their own on the same files, which are in the page cache. Memory is the peak of RssAnon: what
the process itself holds, without the pages of mapped files, which the system may take back. Linux only.
"""

import argparse
import json
import os
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.machine import machine  # noqa: E402
from tests import slow_things_eeg2 as slow  # noqa: E402

# sequences of 20, targets, images, repetitions kept of each, samples in a sequence; from the published design
DESIGN = {"training": (840, 90, 8270, 2, 6489), "test": (204, 24, 200, 20, 6489)}


def sizes(name: str, scale: float) -> tuple[int, int, int]:
    """Return sequences, targets and images of one recording of that share of the published size."""
    sequences, targets, images, repetitions, _ = DESIGN[name]
    sequences, targets = round(sequences * scale), round(targets * scale)
    return sequences, targets, min(round(images * scale), (20 * sequences - targets) // repetitions)


def codes(name: str, scale: float, rng: np.random.Generator) -> np.ndarray:
    """Draw the event codes of one recording, (sequences, 20)."""
    sequences, targets, images = sizes(name, scale)
    shown = np.repeat(np.arange(images) + 1, DESIGN[name][3])
    extra = np.arange(20 * sequences - targets - len(shown)) % images + 1
    return rng.permutation(np.concatenate([shown, extra, np.full(targets, 99999)])).reshape(sequences, 20)


def write_recording(path: Path, events: np.ndarray, sequence: int, rng: np.random.Generator) -> None:
    """Write a raw file row by row: the published dictionary, as `numpy.save` would write it if it fitted in memory."""
    samples, small = len(events) * sequence, 70_000
    slow.write_recording(path, np.full((64, small), np.pi))
    content = path.read_bytes()
    payload = np.full((64, small), np.pi).tobytes()
    before, after = content.split(payload)
    assert before.count(b"J" + struct.pack("<i", small)) == 1 and before.endswith(
        b"B" + struct.pack("<I", len(payload))
    )
    before = before.replace(b"J" + struct.pack("<i", small), b"J" + struct.pack("<i", samples))
    with open(path, "wb") as file:
        file.write(before[:-4] + struct.pack("<I", 64 * samples * 8))
        for _ in range(63):
            file.write(1e-5 * rng.standard_normal(samples))
        stim = np.zeros((len(events), sequence))
        stim[:, 1200 + 200 * np.arange(20)] = events
        file.write(stim)
        file.write(after)


def write_session(folder: Path, scale: float) -> None:
    """Write one session and the published number of image ids."""
    rng = np.random.default_rng(0)
    slow.write_metadata(folder / "images", 1654, 10, sizes("test", scale)[2])
    for name in DESIGN:
        path = folder / "raw" / "sub-01" / "ses-01" / f"raw_eeg_{name}.npy"
        write_recording(path, codes(name, scale, rng), DESIGN[name][4], rng)


def measure(who: str, folder: Path) -> dict[str, float]:
    """Run one of the two in a process of its own; sample its anonymous memory every 20 ms."""
    process = subprocess.Popen([sys.executable, __file__, "--run", who, str(folder)], stdout=subprocess.PIPE, text=True)
    peak = 0
    while process.poll() is None:
        try:
            status = Path(f"/proc/{process.pid}/status").read_text()
        except OSError:
            break
        peak = max([peak, *(int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon"))])
        time.sleep(0.02)
    output, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"{who} ended with exit code {process.returncode}")
    return json.loads(output) | {"peak_anonymous_mb": round(peak / 1024)}


def run(who: str, folder: Path) -> None:
    """Run one of the two here, and say how long it took."""
    begun = time.perf_counter()
    if who == "ours":
        from alignvis.recordings.things_eeg2 import prepare

        prepare(folder / "raw", subject=1, images=folder / "images", out=folder / "ours.safetensors", sessions=(1,))
    else:
        slow.prepare(folder / "raw" / "sub-01", sessions=(1,))
    cpu = time.process_time()  # what counts where others use the machine too
    print(json.dumps({"seconds": round(time.perf_counter() - begun, 1), "cpu_seconds": round(cpu, 1)}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, default=1.0, help="share of a published session for ours")
    parser.add_argument(
        "--twin-scale", type=float, default=0.25, help="share for both; the twin needs 20 GB at 1; 0: none"
    )
    parser.add_argument("--folder", type=Path, help="where to put 4 GB for a while [default: the system's]")
    parser.add_argument("--run", nargs=2, metavar=("WHO", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        run(options.run[0], Path(options.run[1]))
        return
    result = {"benchmark": "prepare", "n": 1, "unit": "one session"}
    for scale, who in ((options.scale, ("ours",)), (options.twin_scale, ("ours", "twin"))):
        if scale:
            with tempfile.TemporaryDirectory(dir=options.folder) as folder:
                write_session(Path(folder), scale)
                megabytes = sum(path.stat().st_size for path in Path(folder, "raw").rglob("*.npy")) // 10**6
                measured = {name: measure(name, Path(folder)) for name in who}
                result[f"scale {scale:g}"] = {"raw_mb": megabytes} | measured
    import mne

    result["load"] = round(os.getloadavg()[0], 1)
    result["machine"] = machine() | {"mne": mne.__version__}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
