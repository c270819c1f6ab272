"""A fake THINGS-EEG2 in the published layout: drawn pictures, a brain that answers to them, and a known best score."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alignvis.errors import AlignvisError
from alignvis.files import whole_file, write_json
from alignvis.progress import Progress, silent
from alignvis.recordings.brain import ELECTRODES, RATE, Brain, drives, make_brain, record
from alignvis.recordings.ceiling import SEQUENCE, SOA, ceiling
from alignvis.recordings.drawing import FACTORS
from alignvis.recordings.eeg2_files import RAW_FILES
from alignvis.recordings.eeg2_writer import npy_bytes, write_recording
from alignvis.recordings.schedule import SESSIONS, concept_halves, sequences
from alignvis.recordings.simulation_folder import (
    MARKER,
    begin,
    check_ranges,
    check_subjects,
    claim,
    clear,
    found,
    statement,
    whole_files,
)
from alignvis.recordings.stimuli import Pictures, make_pictures, write_pictures
from alignvis.recordings.trials import TARGET

IMAGE_SET = "things-eeg2-simulated"
TRAIN_REPETITIONS = 2  # in one session
MOST_CONCEPTS = 9999  # pictures are coded up to ten times this, and the catch picture above
LIBRARIES = ("numpy", "scipy", "pillow")  # that the bytes depend on
LARGEST = 2**32 - 1  # bytes of a recording: pickle protocol 3, which the published files have, counts with 32 bits


@dataclass(frozen=True)
class Design:
    """Everything that decides what is simulated, but the subject.

    Attributes:
        concepts: training concepts, of ten pictures each.
        test: test pictures, each of a concept of its own.
        test_repetitions: of each test picture in each of the four sessions.
        noise: standard deviation of each channel, uV.
        amplitude: of the answer to one standard deviation of one factor where it is strongest, uV.
        lead, tail: seconds before the first and after the last 200 ms of each sequence of twenty pictures.
        flat_channel: an electrode that records nothing.
    """

    concepts: int
    test: int
    test_repetitions: int
    noise: float
    amplitude: float
    seed: int
    lead: float
    tail: float
    flat_channel: str | None


def simulate_things_eeg2(
    out: Path,
    *,
    subjects: Sequence[int] = (1,),
    concepts: int = 80,
    test: int = 100,
    test_repetitions: int = 2,
    noise: float = 1.5,
    amplitude: float = 2.0,
    seed: int = 0,
    lead: float = 0.5,
    tail: float = 1.0,
    flat_channel: str | None = None,
    overwrite: bool = False,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Write a fake THINGS-EEG2 to `out`/raw/sub-NN and `out`/images/things-eeg2-simulated.

    A second call with the same parameters continues the first: whole files are kept. It may name further subjects; all
    see the same pictures. The same parameters always give the same bytes, given the same versions.

    Args:
        subjects: numbers from 1 to 99.
        overwrite: replace an earlier simulation of other parameters; nothing but a simulation is ever replaced.
        The others are those of `Design`.

    Returns:
        raw, images (paths), parameters, subjects, bytes, and ceiling: by subject, what `ceiling.ceiling` returns.

    Raises:
        AlignvisError: when a parameter is out of range, or `out` holds something else than this very simulation.

    Source: layout, codes and design of Gifford et al. (2022), doi:10.1016/j.neuroimage.2022.119754; smaller, with
        shorter pauses between sequences, and each file one recording instead of several concatenated ones.
    """
    out = Path(out)
    design = Design(concepts, test, test_repetitions, noise, amplitude, seed, lead, tail, flat_channel)
    _check(design, subjects)
    images, raw = out / "images" / IMAGE_SET, out / "raw"
    begin(out, images)
    shown = statement("things-eeg2", {"concepts": concepts, "test": test, "seed": seed}, LIBRARIES)
    if overwrite and found(images) not in (None, shown):
        for marker in raw.glob(f"sub-*/{MARKER}"):  # whoever saw the old pictures goes with them, and goes first
            clear(marker.parent)
    claim(images, shown, overwrite)
    pictures = make_pictures(concepts, test, _generator(seed))
    write_pictures(images, pictures, seed, progress)
    with whole_file(images / "image_metadata.npy") as partial:
        partial.write_bytes(npy_bytes(pictures.metadata()))
    write_json(images / "factors.json", {"simulated": True, "names": list(FACTORS), "factors": pictures.factors()})

    ceilings = {}
    for subject in subjects:
        folder = raw / f"sub-{subject:02d}"
        repetitions = {"train": TRAIN_REPETITIONS, "test": test_repetitions}
        said = statement("things-eeg2", asdict(design), LIBRARIES)
        claim(folder, {"subject": subject, "repetitions": repetitions} | said, overwrite)
        brain = make_brain(len(FACTORS), noise, amplitude, _generator(seed, subject))
        known = ceiling(brain, pictures.latent["test"], SESSIONS * test_repetitions, _generator(seed, subject, 0, 1))
        write_json(folder / "ceiling.json", {"simulated": True, **known})
        ceilings[subject] = known
        _write_sessions(folder, brain, pictures, design, subject, progress)
    return {
        "raw": str(raw),
        "images": str(images),
        "parameters": asdict(design),
        "subjects": list(subjects),
        "bytes": sum(file.stat().st_size for folder in (raw, images) for file in whole_files(folder)),
        "ceiling": ceilings,
    }


# --- files -----------------------------------------------------------------------------------------------------------


def _write_sessions(
    folder: Path, brain: Brain, pictures: Pictures, design: Design, subject: int, progress: Progress
) -> None:
    """Write the eight recordings of one subject; those that are there are kept."""
    halves = concept_halves(design.concepts, _generator(design.seed, subject, 0, 2))
    for session, train in enumerate(halves, 1):
        shown = {
            "train": (train, TRAIN_REPETITIONS, 2),
            "test": (np.arange(1, design.test + 1), design.test_repetitions, 1),
        }
        for number, (part, (codes, repetitions, spare)) in enumerate(shown.items()):
            path = folder / f"ses-{session:02d}" / RAW_FILES[part]
            if not path.is_file():
                generator = _generator(design.seed, subject, session, number)
                order = sequences(codes, repetitions, spare, generator)
                rows = np.where(order == TARGET, -1, order - 1)
                latent = np.concatenate([pictures.latent[part], pictures.target[None]])[rows]
                _write_recording(path, brain, order, latent, design, generator)
            done = 2 * (session - 1) + number + 1
            progress(done, 2 * SESSIONS, f"recording sub-{subject:02d}")


def _write_recording(
    path: Path,
    brain: Brain,
    order: NDArray[np.int64],
    latent: NDArray[np.float64],
    design: Design,
    generator: np.random.Generator,
) -> None:
    """Record one file.

    Args:
        order: (sequences, 20) codes.
        latent: (sequences, 20, factors).
    """
    length = _sequence_samples(design)
    first = np.arange(len(order)) * length + round(design.lead * RATE)
    onsets = (first[:, None] + SOA * np.arange(SEQUENCE)).ravel()
    codes = np.zeros(len(order) * length)
    codes[onsets] = order.ravel()
    recorded = np.array([[name != design.flat_channel] for name in ELECTRODES])
    blocks = record(brain, onsets, drives(latent.reshape(len(onsets), -1)), len(codes), generator)
    write_recording(path, ELECTRODES, codes, (recorded * block for block in blocks))


def _sequence_samples(design: Design) -> int:
    return round(design.lead * RATE) + SEQUENCE * SOA + round(design.tail * RATE)


def _generator(*key: int) -> np.random.Generator:
    """The random numbers of (seed, subject, session, purpose); subject 0 is the pictures'."""
    return np.random.default_rng([*key, *[0] * (4 - len(key))])


def _check(design: Design, subjects: Sequence[int]) -> None:
    ranges = {
        "concepts": (2, MOST_CONCEPTS),
        "test": (2, TARGET - 1),
        "test_repetitions": (1, 1000),
        "noise": (1e-3, 1e3),
        "amplitude": (0, 1e3),
        "seed": (0, 2**32 - 1),
        # An epoch begins 0.2 s before its picture and ends 1 s after it, that is 0.8 s after the last 200 ms.
        "lead": (0.25, 60),
        "tail": (0.85, 60),
    }
    check_ranges(design, ranges)
    if design.flat_channel is not None and design.flat_channel not in ELECTRODES:
        raise AlignvisError(f"no electrode is called {design.flat_channel!r}; there are: {' '.join(ELECTRODES)}")
    check_subjects(subjects, 99)
    most = max(TRAIN_REPETITIONS * 10 * math.ceil(design.concepts / 2), design.test_repetitions * design.test)
    size = 8 * (len(ELECTRODES) + 1) * _sequence_samples(design) * math.ceil(1.01 * most / (SEQUENCE - 0.1))
    if size > LARGEST:
        raise AlignvisError(
            f"one recording would have {size / 1e9:.1f} GB, and the published format holds {LARGEST / 1e9:.1f} GB; "
            "choose fewer concepts, test pictures or repetitions"
        )
