"""Seconds and memory of `alignvis prepare nsd` beside the published approach, and its seconds by the number of trials.

The published approach has all voxels in memory, and then takes the trials of one image after the other out of them
(`published` below; written anew from what it does). Each runs in a process of its own on the same file, which is in the
page cache. Memory is the peak of RssAnon: what the process itself holds, without the pages of mapped files, which the
system may take back. Linux only.
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

SESSION, SESSIONS, SHARED, VOXELS = 750, 40, 1000, 15_724  # of the published design, and of subject 1


def write(folder: Path, sessions: int, voxels: int) -> None:
    """Write the first so many sessions of a subject, noise in every voxel, and the design of all forty."""
    import h5py
    import scipy.io

    rng = np.random.default_rng(0)
    each = SESSION * SESSIONS // 3
    order = rng.permutation(np.repeat(np.arange(each) + 1, 3))
    lists = np.stack([rng.permutation(73_000)[:each] + 1] * 8)
    design = {"masterordering": order[None], "subjectim": lists, "sharedix": np.sort(lists[0, :SHARED])[None]}
    scipy.io.savemat(folder / "nsd_expdesign.mat", {name: value.astype(float) for name, value in design.items()})
    with h5py.File(folder / "subj01_nsdgeneral.hdf5", "w") as file:
        betas = file.create_dataset("voxels", (sessions * SESSION, voxels), np.float32)
        for session in range(sessions):
            betas[session * SESSION : (session + 1) * SESSION] = rng.standard_normal((SESSION, voxels), np.float32)


def ours(folder: Path) -> None:
    from alignvis.recordings.nsd import prepare

    prepare(folder, subject=1, out=folder / "ours.safetensors", overwrite=True)


def published(folder: Path) -> None:
    """Means of each image's trials, from voxels that are all in memory, saved as two arrays; nothing is z-scored."""
    import h5py
    import scipy.io

    design = scipy.io.loadmat(folder / "nsd_expdesign.mat")
    with h5py.File(folder / "subj01_nsdgeneral.hdf5") as file:
        voxels = file["voxels"][:]
    numbers = design["masterordering"].ravel().astype(int)[: len(voxels)]
    trials: dict[str, dict[int, list[int]]] = {"train": {}, "test": {}}
    for trial, number in enumerate(numbers):
        picture = int(design["subjectim"][0, number - 1]) - 1
        trials["test" if number <= SHARED else "train"].setdefault(picture, []).append(trial)
    for part, images in trials.items():
        means = np.zeros((len(images), voxels.shape[1]))  # as numpy makes it, in double precision
        for row, some in enumerate(images.values()):
            means[row] = voxels[sorted(some)].mean(axis=0)
        np.save(folder / f"{part}.npy", means)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", type=int, nargs="+", default=[10, 20, 37], help="sizes to measure, ascending")
    parser.add_argument("--voxels", type=int, default=VOXELS, help="of the subject")
    parser.add_argument("--published", type=int, default=37, help="sessions up to which the published approach runs")
    parser.add_argument("--folder", type=Path, help="where to put 3 GB for a while [default: the system's]")
    parser.add_argument("--run", nargs=2, metavar=("WHO", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        tell(lambda: {"ours": ours, "published": published}[options.run[0]](Path(options.run[1])))
        return
    result = {"benchmark": "prepare_nsd", "n": 1, "voxels": options.voxels, "trials": {}}
    for sessions in options.sessions:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            write(Path(folder), sessions, options.voxels)
            size = (Path(folder) / "subj01_nsdgeneral.hdf5").stat().st_size
            who = ("ours", "published") if sessions <= options.published else ("ours",)
            measured = {name: measure(__file__, name, Path(folder)) for name in who}
            result["trials"][str(sessions * SESSION)] = {"raw_mb": size // 10**6} | measured
    from benchmarks.machine import machine  # here, since it loads torch, which neither of the two needs

    result["load"] = round(os.getloadavg()[0], 1)
    result["machine"] = machine()
    print(json.dumps(result))


if __name__ == "__main__":
    main()
