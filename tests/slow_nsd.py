"""NSD written and prepared the plain way: everything in memory, one image after the other; shares no code with ours."""

from pathlib import Path

import h5py
import numpy as np
import scipy.io
from numpy.typing import NDArray

Design = dict[str, NDArray]


def design(sessions: int, per_session: int, shared: int, seed: int = 0, pictures: int = 90) -> Design:
    """Each picture three times in all sessions together, and eight lists of pictures whose first ones are shared."""
    rng = np.random.default_rng(seed)
    each = sessions * per_session // 3
    everything = rng.permutation(pictures) + 1
    lists = [np.concatenate([everything[:shared], rng.permutation(everything[shared:])[: each - shared]])] * 8
    lists = [np.concatenate([some[:shared], rng.permutation(some[shared:])]) for some in lists]
    return {
        "masterordering": rng.permutation(np.repeat(np.arange(each) + 1, 3))[None],
        "subjectim": np.stack(lists),
        "sharedix": np.sort(everything[:shared])[None],
        "basiccnt": np.zeros((3, sessions), np.uint8),
        "stimpattern": np.zeros((sessions, 2, 5)),
    }


def write(folder: Path, betas: NDArray, shown: Design, subject: int = 1, name: str = "voxels", **made) -> Path:
    """Write betas, (trials, voxels), and the design; `made` is how HDF5 stores them."""
    per_session = made.pop("per_session", None)
    folder.mkdir(parents=True, exist_ok=True)
    with h5py.File(folder / f"subj{subject:02d}_nsdgeneral.hdf5", "w") as file:
        file.create_dataset(name, data=betas, **made)
        if per_session:
            file.create_dataset("simulated", data=np.uint8(1))
            file.create_dataset("trials_per_session", data=per_session)
    scipy.io.savemat(folder / "nsd_expdesign.mat", shown, do_compression=True)
    return folder


def prepare(
    folder: Path,
    subject: int,
    per_session: int,
    sessions: list[int] | None = None,
    zscore: bool = True,
    repetitions: tuple[int, int] | None = None,
) -> dict[str, dict]:
    """By part, {image id: (list of the responses, list of their sessions, trials)}, in the order of the ids."""
    with h5py.File(folder / f"subj{subject:02d}_nsdgeneral.hdf5") as file:
        betas = file["voxels"][()].astype(np.float64)
    shown = scipy.io.loadmat(folder / "nsd_expdesign.mat")
    shared = {int(number) for number in shown["sharedix"][0]}
    trials = []  # (picture, session, betas)
    for session in sessions or range(1, len(betas) // per_session + 1):
        today = []
        for trial in range((session - 1) * per_session, session * per_session):
            number = int(shown["masterordering"][0, trial])
            today.append((int(shown["subjectim"][subject - 1, number - 1]), session, betas[trial]))
        training = np.stack([values for picture, _, values in today if picture not in shared])
        for picture, _, values in today:
            if zscore:
                spread = training.std(axis=0)
                values = np.where(spread == 0, 0, (values - training.mean(axis=0)) / np.where(spread == 0, 1, spread))
            trials.append((picture, session, values))
    parts = {}
    for place, part in enumerate(("train", "test")):
        parts[part] = {}
        for picture in sorted({picture for picture, _, _ in trials}):
            if (picture in shared) != (part == "test"):
                continue
            own = [(values, session) for other, session, values in trials if other == picture]
            if repetitions:
                if len(own) < repetitions[place]:
                    continue
                own = own[: repetitions[place]]
                answer = ([values for values, _ in own], [session for _, session in own], len(own))
            else:
                mean = sum(values for values, _ in own) / len(own)
                alone = own[0][1] if all(session == own[0][1] for _, session in own) else 0
                answer = ([mean], [alone], len(own))
            parts[part][f"nsd-{picture - 1:05d}"] = answer
    return parts
