"""Seconds and memory of `alignvis prepare things-eeg2` on sessions of the published size, beside mne and loops.

Both run in a process of their own on the same files, which are in the page cache. Memory is the peak of RssAnon: what
the process itself holds, without the pages of mapped files, which the system may take back. Linux only.
"""

import argparse
import json
import os
import struct
import sys
import tempfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.apart import measure, tell  # noqa: E402
from benchmarks.machine import machine  # noqa: E402
from tests import slow_things_eeg2 as slow  # noqa: E402

# sequences of 20, targets, images, repetitions kept of each, samples in a sequence; from the published design
DESIGN = {"training": (840, 90, 8270, 2, 6489), "test": (204, 24, 200, 20, 6489)}


def sizes(name: str, scale: float) -> tuple[int, int, int]:
    """Return sequences, targets and images of one recording of that share of the published size."""
    sequences, targets, images, repetitions, _ = DESIGN[name]
    sequences, targets = round(sequences * scale), round(targets * scale)
    return sequences, targets, min(round(images * scale), (20 * sequences - targets) // repetitions)


def codes(name: str, scale: float, session: int, rng: np.random.Generator) -> np.ndarray:
    """Draw the event codes of one recording, (sequences, 20). Two sessions share the training images between them."""
    sequences, targets, images = sizes(name, scale)
    first = 1 + images * ((session - 1) % 2 if name == "training" else 0)
    shown = np.repeat(np.arange(images) + first, DESIGN[name][3])
    extra = np.arange(20 * sequences - targets - len(shown)) % images + first
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


def write_sessions(folder: Path, scale: float, count: int) -> None:
    """Write sessions and the published number of image ids, or of several smaller sessions what they show."""
    concepts, each = (1654, 10) if count == 1 else (2 * sizes("training", scale)[2], 1)
    slow.write_metadata(folder / "images", concepts, each, sizes("test", scale)[2])
    for session in range(1, count + 1):
        rng = np.random.default_rng(session)
        for name in DESIGN:
            path = folder / "raw" / "sub-01" / f"ses-{session:02d}" / f"raw_eeg_{name}.npy"
            write_recording(path, codes(name, scale, session, rng), DESIGN[name][4], rng)


def run(who: str, folder: Path, count: int) -> None:
    """Run one of the two on the first sessions."""
    sessions = tuple(range(1, count + 1))
    if who == "twin":
        slow.prepare(folder / "raw" / "sub-01", sessions=sessions)
        return
    from alignvis.recordings.things_eeg2 import prepare

    out = folder / "ours.safetensors"
    prepare(folder / "raw", subject=1, images=folder / "images", out=out, sessions=sessions, overwrite=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, default=1.0, help="share of a published session for ours")
    parser.add_argument("--sessions", type=int, nargs="*", default=[1], help="numbers of sessions for ours")
    parser.add_argument(
        "--twin-scale", type=float, default=0.25, help="share for both; the twin needs 20 GB at 1; 0: none"
    )
    parser.add_argument("--folder", type=Path, help="where to put 4 GB a session for a while [default: the system's]")
    parser.add_argument("--run", nargs=3, metavar=("WHO", "FOLDER", "COUNT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        tell(lambda: run(options.run[0], Path(options.run[1]), int(options.run[2])))
        return
    result = {"benchmark": "prepare", "n": 1}
    for scale, who, counts in (
        (options.scale, ["ours"], options.sessions),
        (options.twin_scale, ["ours", "twin"], [1]),
    ):
        if scale:
            with tempfile.TemporaryDirectory(dir=options.folder) as folder:
                write_sessions(Path(folder), scale, max(counts))
                for count in counts:
                    folders = [Path(folder, "raw", "sub-01", f"ses-{session + 1:02d}") for session in range(count)]
                    megabytes = sum(path.stat().st_size for ses in folders for path in ses.iterdir()) // 10**6
                    measured = {name: measure(__file__, name, Path(folder), count) for name in who}
                    result[f"{count} sessions x {scale:g}"] = {"raw_mb": megabytes} | measured
    import mne

    result["load"] = round(os.getloadavg()[0], 1)
    result["machine"] = machine() | {"mne": mne.__version__}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
