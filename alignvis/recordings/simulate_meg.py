"""A fake THINGS-MEG in the published layout: drawn pictures, a brain that answers to them, and a known best score."""

import struct
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alignvis.errors import AlignvisError
from alignvis.files import whole_file, write_json
from alignvis.progress import Progress, silent
from alignvis.recordings import simulation_folder as folders
from alignvis.recordings.ceiling import best_scores
from alignvis.recordings.drawing import FACTORS
from alignvis.recordings.fif import BLOCK_END, BLOCK_START, HEADER, ID, INT, STRING, check_fif
from alignvis.recordings.meg_brain import (
    RATE,
    SAMPLES,
    START,
    MegBrain,
    error_covariance,
    fields,
    make_meg_brain,
    sensors,
    standardise,
)
from alignvis.recordings.meg_files import COLUMNS, FOLDER, NEXT_FILE, REF_NAME, REF_ROLE
from alignvis.recordings.stimuli import SPREAD, Pictures, invent_words, write_pictures

IMAGE_SET = "things-meg-simulated"
SESSIONS, RUNS = 12, 10
CATCH_CODE = 999999
CATCH_IMAGES = 200  # numbers that the published list keeps for them
LARGEST = 2**31 - 2**24  # bytes of a part's trials: FIF counts with 31 bits
LIBRARIES = ("numpy", "scipy", "pillow", "mne")


@dataclass(frozen=True)
class MegDesign:
    """Everything that decides what is simulated, but the subject.

    Attributes:
        concepts: of twelve pictures each, one shown in each of the twelve sessions.
        test: how many of them have a further picture, the test picture, which every session shows.
        catch: trials of a session that ask for a button press.
        noise: standard deviation of each channel, fT.
        amplitude: of the answer to one standard deviation of one factor where it is strongest, fT.
        parts: files of a subject.
    """

    concepts: int
    test: int
    catch: int
    noise: float
    amplitude: float
    seed: int
    parts: int


@dataclass(frozen=True)
class ThingsTree(Pictures):
    """Pictures in the tree of the THINGS database; "train" are those that are shown once, concept by concept.

    Attributes:
        tested: (test,) the concept of each test picture, from 0.
    """

    tested: NDArray[np.int64]

    def ids(self, part: str) -> list[str]:
        return [f"{word}/{file}" for word, file in zip(self.concepts[part], self.files[part], strict=True)]


def simulate_things_meg(
    out: Path,
    *,
    subjects: Sequence[int] = (1,),
    concepts: int = 36,
    test: int = 10,
    catch: int = 2,
    noise: float = 100.0,
    amplitude: float = 40.0,
    seed: int = 0,
    parts: int = 4,
    overwrite: bool = False,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Write a fake THINGS-MEG to `out`/raw/derivatives/preprocessed and `out`/images/things-meg-simulated.

    A second call with the same parameters continues the first: whole files are kept. It may name further subjects; all
    see the same pictures. The same parameters always give the same bytes, given the same versions.

    Args:
        subjects: numbers from 1 to 99.
        overwrite: replace an earlier simulation of other parameters; nothing but a simulation is ever replaced.
        The others are those of `MegDesign`.

    Returns:
        raw, images (paths), parameters, subjects, bytes, and ceiling: by subject, what `ceiling.best_scores` returns.

    Raises:
        AlignvisError: when a parameter is out of range, or `out` holds something else than this very simulation.

    Source: layout, columns and design of ds004212 (Hebart et al. 2023, doi:10.7554/eLife.82580); smaller, responses
        linear in the factors and noise Gaussian, so that the best score is known.
    """
    out = Path(out)
    design = MegDesign(concepts, test, catch, noise, amplitude, seed, parts)
    _check(design, subjects)
    images, folder = out / "images" / IMAGE_SET, out / "raw" / FOLDER
    folders.begin(out, images)
    # The recordings first: those of other pictures must not stand beside the new ones.
    folders.claim(folder, folders.statement("things-meg", asdict(design), LIBRARIES), overwrite)
    shown = {"concepts": concepts, "test": test, "seed": seed}
    folders.claim(images, folders.statement("things-meg", shown, LIBRARIES), overwrite)
    pictures = make_things_tree(concepts, test, _generator(seed))
    write_pictures(images, pictures, seed, progress)
    write_json(images / "factors.json", {"simulated": True, "names": list(FACTORS), "factors": pictures.factors()})

    ceilings = {}
    for subject in subjects:
        brain = make_meg_brain(len(FACTORS), noise, amplitude, _generator(seed, subject))
        tested = pictures.latent["test"]
        # Whoever reads trials that were divided by their baseline's spread knows less: better only by chance.
        known = best_scores(error_covariance(brain), tested, np.full(test, SESSIONS), _generator(seed, subject, 0, 1))
        known["repetitions"] = SESSIONS
        write_json(folder / f"ceiling_P{subject}.json", {"simulated": True, **known})
        ceilings[subject] = known
        write_subject(folder, brain, pictures, design, subject, progress)
    return {
        "raw": str(out / "raw"),
        "images": str(images),
        "parameters": asdict(design),
        "subjects": list(subjects),
        "bytes": sum(file.stat().st_size for place in (folder, images) for file in folders.whole_files(place)),
        "ceiling": ceilings,
    }


def make_things_tree(concepts: int, test: int, generator: np.random.Generator) -> ThingsTree:
    """Draw factors and names of `concepts` x 12 pictures, and of one more of each of `test` concepts.

    The factors have mean 0 and variance 1 over the pictures that may be trained on: those of concepts without a test
    picture.
    """
    centre = generator.standard_normal((concepts, len(FACTORS)))
    tested = np.sort(generator.permutation(concepts)[:test])
    rows = {"train": np.repeat(np.arange(concepts), SESSIONS), "test": tested}
    latent = {
        part: centre[concept] + SPREAD * generator.standard_normal((len(concept), len(FACTORS)))
        for part, concept in rows.items()
    }
    fresh = latent["train"][~np.isin(rows["train"], tested)]
    latent = {part: (values - fresh.mean(axis=0)) / fresh.std(axis=0) for part, values in latent.items()}
    word = sorted(invent_words(concepts, generator))  # the alphabet numbers concepts, as in THINGS
    names = {part: [word[concept] for concept in concept_of] for part, concept_of in rows.items()}
    files = {
        "train": [
            f"{name}_{row % SESSIONS + 1:02d}{'s' if row % SESSIONS else 'b'}.jpg"
            for row, name in enumerate(names["train"])
        ],
        "test": [f"{name}_{SESSIONS + 1}s.jpg" for name in names["test"]],
    }
    target = generator.standard_normal(len(FACTORS))
    return ThingsTree(names, names, files, latent, target, tested)


# --- trials ----------------------------------------------------------------------------------------------------------


def schedule(
    design: MegDesign, pictures: ThingsTree, generator: np.random.Generator
) -> tuple[list[dict[str, Any]], NDArray[np.int64], NDArray[np.float64]]:
    """Say what a subject sees: every session one picture of each concept, every test picture and some catch pictures.

    Returns:
        The 18 published columns of every trial, in order of time; (trials, 3) events as mne has them, at 200 Hz; and
        the (trials, factors) of what is shown.
    """
    exemplars = generator.permutation(SESSIONS)
    rows, latent = [], []
    for session, exemplar in enumerate(exemplars.tolist(), 1):
        trials = [("exp", concept, exemplar) for concept in range(design.concepts)]
        trials += [("test", number, SESSIONS) for number in range(design.test)]
        trials += [("catch", number, 0) for number in range(design.catch)]
        for place, index in enumerate(generator.permutation(len(trials)).tolist()):
            run = 1 + place * RUNS // len(trials)
            onset = round(2 + 1.5 * (place - (run - 1) * len(trials) // RUNS) + generator.uniform(0, 0.2), 3)
            kind, number, exemplar_of = trials[index]
            rows.append(_columns(design, pictures, kind, number, exemplar_of, session, run, onset))
            if kind == "exp":
                latent.append(pictures.latent["train"][number * SESSIONS + exemplar_of])
            else:
                latent.append(pictures.latent["test"][number] if kind == "test" else pictures.target)
    codes = [row["things_image_nr"] or CATCH_CODE for row in rows]
    samples = 300 * np.arange(1, len(rows) + 1)
    return rows, np.column_stack([samples, np.zeros_like(samples), codes]).astype(np.int64), np.array(latent)


def _columns(
    design: MegDesign,
    pictures: ThingsTree,
    kind: str,
    number: int,
    exemplar: int,
    session: int,
    run: int,
    onset: float,
) -> dict[str, Any]:
    """The description of one trial; numbers that catch trials lack are floats, as a table of pandas makes them."""
    row = dict.fromkeys(COLUMNS) | {"trial_type": kind, "session_nr": session, "run_nr": run, "onset": onset}
    row |= {"image_on": onset, "image_off": round(onset + 0.5, 3), "responded": float(kind == "catch")}
    if kind == "catch":
        row["image_nr"] = design.concepts * SESSIONS + 1 + number % CATCH_IMAGES
        row["image_path"] = f"images_catch_meg/catch{number + 1:03d}.jpg"
        return row | {"key_id": 1.0, "key_time": onset + 0.4, "RT": 0.4}
    concept = number if kind == "exp" else int(pictures.tested[number])
    things = concept + 4  # the database has concepts that were not shown, so that a mix-up of the numbers shows
    row |= {
        "category_nr": float(concept + 1),
        "exemplar_nr": float(exemplar + 1),
        "things_category_nr": float(things),
        "things_image_nr": float((things - 1) * (SESSIONS + 3) + exemplar + 1),
        "things_exemplar_nr": float(exemplar + 1),
    }
    if kind == "exp":
        at = concept * SESSIONS + exemplar
        return row | {"image_nr": at + 1, "image_path": f"images_meg/{pictures.ids('train')[at]}"}
    row |= {"image_nr": design.concepts * SESSIONS + CATCH_IMAGES + number + 1, "test_image_nr": float(number + 1)}
    return row | {"image_path": f"images_test_meg/{pictures.files['test'][number]}"}


# --- files -----------------------------------------------------------------------------------------------------------


def write_subject(
    folder: Path, brain: MegBrain, pictures: ThingsTree, design: MegDesign, subject: int, progress: Progress
) -> None:
    """Write the chain of one subject, in the memory of a few times one part; parts that are there are kept."""
    rows, events, latent = schedule(design, pictures, _generator(design.seed, subject, 0, 2))
    stem = f"preprocessed_P{subject}-epo"
    names = [f"{stem}.fif", *(f"{stem}-{part}.fif" for part in range(1, design.parts))]
    for part, trials in enumerate(np.array_split(np.arange(len(rows)), design.parts)):
        if not (folder / names[part]).is_file():
            generator = _generator(design.seed, subject, 1, part)
            data = standardise(fields(brain, latent[trials], generator))
            following = names[part + 1] if part + 1 < design.parts else None
            with whole_file(folder / names[part]) as partial:
                _write_part(partial, data, events, rows, trials, following, part + 1)
        progress(part + 1, design.parts, f"recording P{subject}")


def _write_part(
    path: Path,
    data: NDArray[np.float64],
    events: NDArray[np.int64],
    rows: Sequence[dict[str, Any]],
    trials: NDArray[np.int64],
    following: str | None,
    number: int,
) -> None:
    """Let mne write one part by itself, as it would write it within the whole, and link it to the next.

    Args:
        path: what to call it for now.
        data: (trials, channels, samples) of this part.
        events, rows: of all parts.
        following, number: the next part's name, and which one that is.
    """
    import mne

    kept = np.isin(np.arange(len(rows)), trials)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the name, which is the right one only when the file is whole
        epochs = mne.EpochsArray(
            data,
            mne.create_info(list(sensors()), RATE, "mag", verbose="error"),
            events[trials],
            START,
            {str(code): int(code) for code in np.unique(events[:, 2])},
            on_missing="ignore",
            metadata=[rows[trial] for trial in trials],
            selection=trials,
            drop_log=tuple(() if whole else ("IGNORED",) for whole in kept),
            verbose="error",
        )
        epochs.save(path, split_size="2GB", fmt="single", overwrite=True, verbose="error")
    _without_machine(path)
    if following is not None:
        _link(path, following, number)


def _without_machine(path: Path) -> None:
    """Take the number of the machine out of a file's ids, so that every machine writes the same bytes."""
    ids = [tag for tag in check_fif(path) if tag.type == ID]
    with open(path, "r+b") as file:
        for tag in ids:
            file.seek(tag.position + HEADER.size + 4)
            file.write(bytes(8))


def _link(path: Path, following: str, number: int) -> None:
    """Add the block that names the next part, where mne has it: before the three blocks end that hold the trials."""
    at = check_fif(path)[-4].position
    text = following.encode()
    block = [
        (BLOCK_START, INT, struct.pack(">i", 118)),
        (REF_ROLE, INT, struct.pack(">i", NEXT_FILE)),
        (REF_NAME, STRING, text),
        (117, INT, struct.pack(">i", number)),
        (BLOCK_END, INT, struct.pack(">i", 118)),
    ]
    with open(path, "r+b") as file:
        file.seek(at)
        tail = file.read()
        file.seek(at)
        for kind, form, content in block:
            file.write(HEADER.pack(kind, form, len(content), 0) + content)
        file.write(tail)


def _generator(*key: int) -> np.random.Generator:
    """The random numbers of (seed, subject, purpose, part); subject 0 is the pictures'."""
    return np.random.default_rng([*key, *[0] * (4 - len(key))])


def _check(design: MegDesign, subjects: Sequence[int]) -> None:
    trials = SESSIONS * (design.concepts + design.test + design.catch)
    ranges = {
        "concepts": (3, 1854),
        "test": (2, design.concepts - 1),
        "catch": (0, CATCH_IMAGES),
        "noise": (1e-3, 1e6),
        "amplitude": (0, 1e6),
        "seed": (0, 2**32 - 1),
        "parts": (1, min(99, trials)),
    }
    folders.check_ranges(design, ranges)
    folders.check_subjects(subjects, 99)
    size = 4 * len(sensors()) * SAMPLES * -(-trials // design.parts)
    if size > LARGEST:
        raise AlignvisError(
            f"one part would have {size / 1e9:.1f} GB, and the format holds {LARGEST / 1e9:.1f} GB; choose more parts"
        )
