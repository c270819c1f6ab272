"""A fake NSD in the published layout: drawn pictures, voxels that answer to them, and a known best score."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io
from numpy.typing import NDArray

from alignvis.errors import AlignvisError
from alignvis.files import whole_file, write_json
from alignvis.hdf5 import require_h5py
from alignvis.progress import Progress, silent
from alignvis.recordings import simulation_folder
from alignvis.recordings.ceiling import best_scores
from alignvis.recordings.drawing import FACTORS, paint
from alignvis.recordings.nsd_files import BETAS, DESIGN, EXPERIMENT, MOST_SESSIONS, MOST_VOXELS, SUBJECTS, TRIALS

IMAGE_SET = "nsd-simulated"
SIDE = 64  # pixels of a picture
REPETITIONS = 3  # of each picture in the whole experiment
OFFSET = 1.0  # standard deviation over sessions of a voxel's mean, in those of its trials
GAIN = 0.4  # standard deviation over sessions of the logarithm of a voxel's gain
TEXT = b"MATLAB 5.0 MAT-file, simulated by alignvis"  # without the time that scipy notes


@dataclass(frozen=True)
class Design:
    """Everything that decides what is simulated, but the subject.

    Attributes:
        sessions, trials_per_session: of the whole experiment, in which a subject sees each of its pictures three times.
        voxels: of a subject.
        images: pictures in the stimulus file.
        shared: of these, pictures that every subject sees; they are the test pictures.
        noise: standard deviation of a trial's noise in a voxel, in those of what pictures evoke there.
    """

    sessions: int
    trials_per_session: int
    voxels: int
    images: int
    shared: int
    noise: float
    seed: int

    @property
    def trials(self) -> int:
        return self.sessions * self.trials_per_session

    def held(self, subject: int) -> int:
        """Sessions that a subject came to: those with an even number left early, as half of the published ones did."""
        return self.sessions if subject % 2 else self.sessions - max(1, self.sessions // 4)


@dataclass(frozen=True)
class Shown:
    """What there is to see, and when.

    Attributes:
        latent: (images, factors) standard normal.
        order: (trials,) numbers from 1 into each subject's list.
        lists: (8, images of a subject) numbers from 1 into the stimulus file; the first are the shared ones.
    """

    latent: NDArray[np.float64]
    order: NDArray[np.int64]
    lists: NDArray[np.int64]


def simulate_nsd(
    out: Path,
    *,
    subjects: Sequence[int] = (1,),
    sessions: int = 20,
    trials_per_session: int = 75,
    voxels: int = 300,
    images: int = 800,
    shared: int = 60,
    noise: float = 6.0,
    seed: int = 0,
    overwrite: bool = False,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Write a fake NSD to `out`/raw and `out`/images/nsd-simulated.hdf5.

    A second call with the same parameters continues the first: whole files are kept. It may name further subjects; all
    have the same order of trials and the same shared pictures. Subjects with an even number lack the last quarter of
    the sessions, so that some test pictures have one or two trials, or none. The same parameters always give the same
    bytes, given the same versions.

    Args:
        subjects: numbers from 1 to 8.
        overwrite: replace an earlier simulation of other parameters; nothing but a simulation is ever replaced.
        The others are those of `Design`.

    Returns:
        raw, images (paths), parameters, subjects, bytes, and ceiling: by subject, what `best_scores` returns, and
            trials, how many test pictures have one, two, three.

    Raises:
        AlignvisError: when h5py is not installed, a parameter is out of range, or `out` holds something else than this
            very simulation.

    Source: files and design of Allen et al. (2022), doi:10.1038/s41593-021-00962-x; smaller, and pictures that are not
        shared may be seen by several subjects.
    """
    out = Path(out)
    design = Design(sessions, trials_per_session, voxels, images, shared, noise, seed)
    _check(design, subjects)
    require_h5py(out / "images" / f"{IMAGE_SET}.hdf5")
    pictures, raw = out / "images", out / "raw"
    simulation_folder.begin(out, pictures)
    said = simulation_folder.statement("nsd", asdict(design), ("numpy", "scipy", "pillow", "h5py"))
    for folder in (raw, pictures):
        simulation_folder.claim(folder, said, overwrite)
    shown = _shown(design)
    _write_pictures(pictures / f"{IMAGE_SET}.hdf5", shown, design, progress)
    ids = [f"nsd-{row:05d}" for row in range(images)]
    factors = dict(zip(ids, shown.latent.tolist(), strict=True))
    write_json(pictures / "factors.json", {"simulated": True, "names": list(FACTORS), "factors": factors})
    _write_design(raw / DESIGN, shown, design)
    ceilings = {}
    for subject in subjects:
        weights = _weights(design, subject)
        known = _known(design, shown, weights, subject)
        path = raw / BETAS[0].format(subject)
        _write_betas(path, shown, design, weights, subject, progress)
        write_json(path.with_suffix(".ceiling.json"), {"simulated": True, **known})
        ceilings[subject] = known
    return {
        "raw": str(raw),
        "images": str(pictures / f"{IMAGE_SET}.hdf5"),
        "parameters": asdict(design),
        "subjects": list(subjects),
        "bytes": sum(file.stat().st_size for folder in (raw, pictures) for file in folder.iterdir()),
        "ceiling": ceilings,
    }


def _shown(design: Design) -> Shown:
    """Draw the pictures' factors, the order of the trials, and the pictures that each subject sees."""
    generator = _generator(design)
    latent = generator.standard_normal((design.images, len(FACTORS)))
    each = design.trials // REPETITIONS
    order = generator.permutation(np.repeat(np.arange(each), REPETITIONS)) + 1
    everything = generator.permutation(design.images) + 1
    shared, others = everything[: design.shared], everything[design.shared :]
    own = [generator.choice(others, each - design.shared, replace=False) for _ in range(SUBJECTS)]
    return Shown(latent, order, np.stack([np.concatenate([shared, some]) for some in own]))


def _weights(design: Design, subject: int) -> NDArray[np.float64]:
    """(factors, voxels): what one standard deviation of a factor adds to a voxel; all of them together give 1."""
    return _generator(design, subject).standard_normal((len(FACTORS), design.voxels)) / np.sqrt(len(FACTORS))


def _known(design: Design, shown: Shown, weights: NDArray[np.float64], subject: int) -> dict[str, Any]:
    """The best score of a subject, for the trials of the test pictures that it has."""
    held = shown.order[: design.held(subject) * design.trials_per_session]
    trials = np.bincount(held, minlength=design.shared + 1)[1 : design.shared + 1]
    rows = shown.lists[subject - 1][: design.shared][trials > 0] - 1
    covariance = design.noise**2 * np.linalg.inv(weights @ weights.T)
    known = best_scores(covariance, shown.latent[rows], trials[trials > 0], _generator(design, subject, 0))
    return known | {"trials": {str(count): int((trials == count).sum()) for count in range(1, REPETITIONS + 1)}}


# --- files -----------------------------------------------------------------------------------------------------------


def _write_pictures(path: Path, shown: Shown, design: Design, progress: Progress) -> None:
    if path.is_file():
        return
    import h5py

    content = BytesIO()  # since HDF5 ends the process with a signal when it meets a full disk
    with h5py.File(content, "w") as file:
        brick = file.create_dataset("imgBrick", (design.images, SIDE, SIDE, 3), np.uint8)
        file.create_dataset("simulated", data=np.uint8(1))
        for row, latent in enumerate(shown.latent):
            brick[row] = paint(latent, SIDE, SIDE, _generator(design, 0, 1 + row))
            progress(row + 1, design.images, "drawing pictures")
    with whole_file(path) as partial:
        partial.write_bytes(content.getbuffer())


def _write_design(path: Path, shown: Shown, design: Design) -> None:
    """Numbers are stored as floating point, so that a reader has to make whole ones of them."""
    content = BytesIO()
    variables: Mapping[str, NDArray[np.float64]] = {
        "masterordering": shown.order[None].astype(float),
        "sharedix": np.sort(shown.lists[0, : design.shared])[None].astype(float),
        "subjectim": shown.lists.astype(float),
    }
    scipy.io.savemat(content, variables)
    with whole_file(path) as partial:
        partial.write_bytes(TEXT.ljust(116) + content.getvalue()[116:])


def _write_betas(
    path: Path, shown: Shown, design: Design, weights: NDArray[np.float64], subject: int, progress: Progress
) -> None:
    """A voxel of a trial is its answer to the picture and noise, times a gain and plus an offset of the session."""
    if path.is_file():
        return
    import h5py

    size, held = float(np.hypot(1, design.noise)), design.held(subject)
    content = BytesIO()
    with h5py.File(content, "w") as file:
        betas = file.create_dataset("voxels", (held * design.trials_per_session, design.voxels), np.float32)
        file.create_dataset("simulated", data=np.uint8(1))
        file.create_dataset("trials_per_session", data=np.int64(design.trials_per_session))
        for session in range(held):
            generator = _generator(design, subject, 1 + session)
            gain = np.exp(GAIN * generator.standard_normal(design.voxels))
            offset = OFFSET * size * generator.standard_normal(design.voxels)
            trials = slice(session * design.trials_per_session, (session + 1) * design.trials_per_session)
            rows = shown.lists[subject - 1][shown.order[trials] - 1] - 1
            noise = design.noise * generator.standard_normal((design.trials_per_session, design.voxels))
            betas[trials] = gain * (shown.latent[rows] @ weights + noise) + offset
            progress(session + 1, held, f"recording subject {subject}")
    with whole_file(path) as partial:
        partial.write_bytes(content.getbuffer())


def _generator(design: Design, *about: int) -> np.random.Generator:
    """Random numbers of their own for everything, so that a continued call draws what an uninterrupted one would."""
    return np.random.default_rng([design.seed, *about])


def _check(design: Design, subjects: Sequence[int]) -> None:
    each = design.trials // REPETITIONS
    ranges = {
        "sessions": (2, MOST_SESSIONS),
        "trials_per_session": (6, TRIALS),
        "voxels": (len(FACTORS), MOST_VOXELS),
        "shared": (2, each - 2),
        "images": (each, 73_000),
        "noise": (1e-3, 1e3),
        "seed": (0, 2**32 - 1),
    }
    simulation_folder.check_ranges(design, ranges)
    if design.trials % REPETITIONS or design.trials > EXPERIMENT:
        raise AlignvisError(
            f"{design.sessions} sessions of {design.trials_per_session} are {design.trials} trials; every picture "
            f"comes {REPETITIONS} times, so choose a multiple of that, up to {EXPERIMENT:,}"
        )
    simulation_folder.check_subjects(subjects, SUBJECTS)
