"""Seconds and memory of `alignvis prepare mne` on a simulated BrainVision recording, beside mne with trials in memory.

Each runs in a process of its own on the same files, which are in the page cache. mne cuts the trials out, takes the
baseline off and resamples; ours does that and writes a table, once with values as recorded and once whitened. Memory is
the peak of RssAnon: what the process itself holds, without the pages of mapped files. Linux only.
"""

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.apart import measure, tell  # noqa: E402
from benchmarks.machine import machine  # noqa: E402
from tests import raw_files as files  # noqa: E402

CHANNELS, RATE, APART = 63, 1000, 0.3  # Hz, s between onsets
WHO = ("mne", "ours", "ours whitened")


def write(folder: Path, minutes: float) -> int:
    """Write a recording and its events, images four times each, one in ten a test image; return its bytes."""
    rng = np.random.default_rng(0)
    volts = 1e-5 * rng.standard_normal((CHANNELS, round(60 * minutes * RATE)), dtype=np.float32)
    path = files.write_brainvision(folder / "a.vhdr", volts, [f"E{k}" for k in range(CHANNELS)], RATE)
    onsets = np.round(np.arange(1.0, 60 * minutes - 2, APART), 4)
    images = rng.permutation(np.arange(len(onsets)) // 4)
    rows = [
        (onset, f"{'test' if image % 10 == 0 else 'train'}/{image}.jpg", "test" if image % 10 == 0 else "train")
        for onset, image in zip(onsets.tolist(), images.tolist(), strict=True)
    ]
    files.write_events(folder / "a.tsv", rows)
    return path.with_suffix(".eeg").stat().st_size


def run(who: str, folder: Path) -> None:
    """Run one of them."""
    import mne

    from alignvis.recordings.own import prepare
    from alignvis.recordings.own_events import read_events

    if who == "mne":
        raw = mne.io.read_raw_brainvision(folder / "a.vhdr", verbose="error")
        onsets = np.rint(read_events(folder / "a.tsv").onsets * RATE).astype(int)
        events = np.stack([onsets, np.zeros_like(onsets), np.ones_like(onsets)], axis=1)
        mne.Epochs(raw, events, tmin=-0.2, tmax=1.0, preload=True, verbose="error").resample(250, verbose="error")
    else:
        prepare(
            [folder / "a.vhdr"],
            events=[folder / "a.tsv"],
            subject=1,
            dataset="benchmark-simulated",
            out=folder / f"{who}.safetensors",
            whiten=who == "ours whitened",
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, nargs="+", default=[5.0, 10.0], help="length of the recording")
    parser.add_argument("--folder", type=Path, help="where to put the files for a while [default: the system's]")
    parser.add_argument("--run", nargs=2, metavar=("WHO", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        tell(lambda: run(options.run[0], Path(options.run[1])))
        return
    result = {"benchmark": "prepare_own", "n": 1, "channels": CHANNELS, "rate": RATE, "seconds_between_onsets": APART}
    for minutes in options.minutes:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            size = write(Path(folder), minutes)
            result[f"{minutes:g} minutes"] = {"raw_mb": round(size / 1e6)} | {
                w: measure(__file__, w, Path(folder)) for w in WHO
            }
    import mne

    result["load"] = round(os.getloadavg()[0], 1)
    result["machine"] = machine() | {"mne": mne.__version__}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
