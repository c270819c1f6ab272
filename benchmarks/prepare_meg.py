"""Seconds and memory of `alignvis prepare things-meg`, beside the plain way: mne reads all, crops, sorts, hands out.

Both run in a process of their own on the same simulated files, which are in the page cache. Memory is the peak of
RssAnon: what the process itself holds, without the pages of mapped files, which the system may take back. Linux only.
"""

import argparse
import json
import math
import os
import sys
import tempfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from alignvis.progress import silent  # noqa: E402
from benchmarks.apart import measure, tell  # noqa: E402
from benchmarks.machine import machine  # noqa: E402

DESIGN = (1854, 200, 200)  # concepts, test pictures and catch trials of one of the twelve published sessions
PART = 2**29  # bytes of a part; the published ones have 2 GB, which the simulation would have to hold several times


def write_subject(folder: Path, scale: float) -> None:
    """Write one simulated subject of that share of the published size, without pictures."""
    from alignvis.recordings import simulate_meg
    from alignvis.recordings.meg_brain import make_meg_brain

    concepts, test, catch = (max(3, round(count * scale)) for count in DESIGN)
    size = 4 * 271 * 281 * 12 * (concepts + test + catch)
    design = simulate_meg.MegDesign(concepts, test, catch, 100.0, 40.0, 0, math.ceil(size / PART))
    pictures = simulate_meg.make_things_tree(concepts, test, np.random.default_rng(0))
    brain = make_meg_brain(pictures.latent["train"].shape[1], 100.0, 40.0, np.random.default_rng(1))
    simulate_meg.write_subject(folder, brain, pictures, design, 1, silent)


def plain(folder: Path) -> None:
    """Read everything, crop, sort by event, and take the training and the test trials: the published notebook."""
    import mne

    epochs = mne.read_epochs(folder / "preprocessed_P1-epo.fif", preload=True, verbose="error")
    epochs.crop(0.0, 1.0)
    epochs = epochs[np.argsort(epochs.events[:, 2], kind="stable")]
    kind = np.array([row["trial_type"] for row in epochs.metadata])
    category = np.array([row["category_nr"] or 0 for row in epochs.metadata])
    concepts = np.unique(category[kind == "test"])
    train = epochs[(kind == "exp") & ~np.isin(category, concepts)].get_data(copy=False)
    test = epochs[kind == "test"].get_data(copy=False)
    np.save(folder / "train.npy", train)
    np.save(folder / "test.npy", test)


def ours(folder: Path) -> None:
    from alignvis.recordings.things_meg import prepare

    prepare(folder, subject=1, out=folder / "ours.safetensors")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--scale", type=float, nargs="+", default=[0.25, 0.5, 1.0], help="shares of a published subject for ours"
    )
    parser.add_argument(
        "--plain-scale", type=float, default=0.25, help="up to which share the plain way runs; it needs 30 GB at 1"
    )
    parser.add_argument("--folder", type=Path, help="where to put 11 GB for a while [default: the system's]")
    parser.add_argument("--run", nargs=2, metavar=("WHO", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        tell(lambda: {"ours": ours, "plain": plain}[options.run[0]](Path(options.run[1])))
        return
    import mne

    result = {"benchmark": "prepare things-meg", "n": 1, "unit": "one subject"}
    for scale in options.scale:
        with tempfile.TemporaryDirectory(dir=options.folder) as name:
            folder = Path(name)
            write_subject(folder, scale)
            epochs = sum(12 * max(3, round(count * scale)) for count in DESIGN)
            megabytes = sum(path.stat().st_size for path in folder.glob("*.fif")) // 10**6
            measured = {"ours": measure(__file__, "ours", folder)}
            (folder / "ours.safetensors").unlink()
            if scale <= options.plain_scale:
                measured["plain"] = measure(__file__, "plain", folder)
            for found in measured.values():
                found["ms_per_trial"] = round(1000 * found["seconds"] / epochs, 2)
            result[f"scale {scale:g}"] = {"trials": epochs, "raw_mb": megabytes} | measured
    result["load"] = round(os.getloadavg()[0], 1)
    result["machine"] = machine() | {"mne": mne.__version__}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
