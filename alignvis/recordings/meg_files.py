"""The files of THINGS-MEG: a chain of FIF parts for each subject, opened by mne once every part has been checked."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alignvis.errors import AlignvisError
from alignvis.files import read_json
from alignvis.recordings.fif import NEXT_NONE, STRING, Tag, check_fif, integer, read

FOLDER = "derivatives/preprocessed"
MARKER = "simulated.json"
EXP, TEST, CATCH = range(3)
TYPES = {"exp": EXP, "test": TEST, "catch": CATCH}
COLUMNS = (
    "trial_type", "image_nr", "category_nr", "exemplar_nr", "test_image_nr", "things_category_nr", "things_image_nr",
    "things_exemplar_nr", "image_path", "onset", "image_on", "image_off", "responded", "key_id", "key_time", "RT",
    "session_nr", "run_nr",
)  # fmt: skip
# Kinds of FIF tags and what a part's may hold.
REF_ROLE, REF_NAME, FIRST_SAMPLE, LAST_SAMPLE, EPOCHS, NEXT_FILE = 115, 118, 208, 209, 302, 2
MOST_SAMPLES = 4096  # of a trial, which has 281; at the rate of the recording it would have 1681
MOST_TAGS = 20_000  # some for each channel
LARGEST_TAG = 2**24  # bytes of anything but the trials; the largest, a part's metadata, has about 3 million


@dataclass(frozen=True)
class Recording:
    """One subject's trials, still on the disk.

    Attributes:
        files: the parts, in order.
        epochs: mne's, not loaded; `values` reads from it.
        channels: in the order of the files.
        rate: samples a second.
        tmin, samples: s after onset of the first sample of a trial, and how many there are.
        codes: (trials,) the event code of each trial.
    """

    files: list[Path]
    epochs: Any
    channels: list[str]
    rate: float
    tmin: float
    samples: int
    codes: NDArray[np.int64]

    def values(self, trials: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Read the (trials, rows, samples) of some trials and channels, in baseline standard deviations."""
        with _mne(self.files[0]):
            return self.epochs.get_data(picks=rows, item=trials, verbose="error")


@dataclass(frozen=True)
class Trials:
    """What was shown in every trial, in the order of the files; (trials,) each.

    Attributes:
        kind: `EXP`, `TEST` or `CATCH`.
        image: number of the picture in THINGS; 0 in a catch trial.
        category: number of its concept; 0 in a catch trial.
        session, run: from 1; 0 in a catch trial.
        onset: s after the beginning of the run; 0 in a catch trial.
        paths: of the picture, as the experiment had it; empty in a catch trial.
    """

    kind: NDArray[np.int64]
    image: NDArray[np.int64]
    category: NDArray[np.int64]
    session: NDArray[np.int64]
    run: NDArray[np.int64]
    onset: NDArray[np.float64]
    paths: list[str]


# --- files -----------------------------------------------------------------------------------------------------------


def first_file(raw: Path, subject: int) -> Path:
    """Find the first part of a subject's chain, below the dataset's root or in the folder itself."""
    name = f"preprocessed_P{subject}-epo.fif"
    for folder in (raw / FOLDER, raw):
        # A link whose file was not downloaded is there, and is told apart when it is opened.
        if (folder / name).exists() or (folder / name).is_symlink():
            return folder / name
    near = sorted({path.name for folder in (raw / FOLDER, raw) if folder.is_dir() for path in folder.glob("*.fif")})
    found = f"there are {', '.join(near[:6])}" if near else "there is no FIF file"
    raise AlignvisError(
        f"neither {raw} nor its {FOLDER} has {name} ({found}); give the folder of ds004212 with --raw and leave the "
        "files their names"
    )


def simulation(first: Path) -> dict[str, Any] | None:
    """Say what a simulation states beside its files; None where they are real ones."""
    marker = first.parent / MARKER
    if not marker.is_file():
        return None
    stated = read_json(marker)
    if not isinstance(stated, dict) or stated.get("simulated") is not True:
        raise AlignvisError(f"{marker} does not say what was simulated; simulate again")
    return stated


def chain(first: Path) -> list[Path]:
    """Follow a subject's files from the first, check each, and refuse a chain that mne would not follow to its end."""
    files = [first]
    while True:
        path = files[-1]
        tags = check_fif(path)
        _check_part(path, tags)
        name = _next_name(path, tags)
        if name is None:
            return files
        expected = f"{first.stem}-{len(files)}.fif"
        if name != expected:
            raise AlignvisError(
                f"{path} says that it goes on in {name!r}, and {expected} was expected: the files were renamed, or "
                "this one is damaged; give them the names that they were published with"
            )
        files.append(path.with_name(name))
        if not files[-1].is_file():
            raise AlignvisError(
                f"{path} goes on in {name}, which is not there; download all parts of {first.name} into one folder"
            )


def _check_part(path: Path, tags: Sequence[Tag]) -> None:
    """Check what mne would take a part's word for."""
    if tags[-1].next != NEXT_NONE or len(tags) > MOST_TAGS:
        raise AlignvisError(
            f"{path} is damaged: it does not end with the last of {len(tags):,} tags; download it again"
        )
    found = {kind: [tag for tag in tags if tag.kind == kind] for kind in (FIRST_SAMPLE, LAST_SAMPLE, EPOCHS)}
    if any(len(of_kind) != 1 for of_kind in found.values()):
        raise AlignvisError(f"{path} does not hold one set of epochs; a file of preprocessed trials was expected")
    (first,), (last,), (epochs,) = found.values()
    samples = integer(path, last) - integer(path, first) + 1
    if not 1 < samples <= MOST_SAMPLES or epochs.size < 4 * samples:
        raise AlignvisError(
            f"{path} claims {samples:,} samples a trial in {epochs.size:,} bytes, and the published files have 281; "
            "download it again"
        )
    most = epochs.size // (4 * samples)
    for tag in tags:
        # mne makes an object of every row, whether or not there is a trial for it.
        rows = read(path, tag).count(b"{") if tag.type == STRING and tag.size > most else 0
        if rows > most:
            raise AlignvisError(f"{path} describes {rows:,} trials, and has room for {most:,}; download it again")
    large = next((tag for tag in tags if tag.size > LARGEST_TAG and tag is not epochs), None)
    if large:
        raise AlignvisError(
            f"{path} is damaged: beside its trials it has a tag of {large.size:,} bytes; download it again"
        )


def _next_name(path: Path, tags: Sequence[Tag]) -> str | None:
    """The name of the file that a part goes on in."""
    roles = [integer(path, tag) for tag in tags if tag.kind == REF_ROLE]
    names = [tag for tag in tags if tag.kind == REF_NAME]
    if not roles and not names:
        return None
    if roles != [NEXT_FILE] or len(names) != 1 or names[0].type != STRING:
        raise AlignvisError(f"{path} does not say clearly which file it goes on in; download it again")
    return read(path, names[0]).decode("latin1")


def open_recording(first: Path) -> Recording:
    """Open a subject's chain without loading a trial.

    Raises:
        AlignvisError: when a part is missing, renamed or damaged, or is not what mne can read.
    """
    files = chain(first)
    with _mne(first):
        import mne

        epochs = mne.read_epochs(first, proj=False, preload=False, verbose="error")
        rate, channels = float(epochs.info["sfreq"]), list(epochs.ch_names)
        codes = np.asarray(epochs.events[:, 2], dtype=np.int64)
        times = np.asarray(epochs.times, dtype=np.float64)
    if not (1 <= rate <= 1e5 and np.allclose(np.diff(times) * rate, 1)) or not len(codes):
        raise AlignvisError(f"{first} claims {len(codes)} trials at {rate:g} samples a second; download it again")
    return Recording(files, epochs, channels, rate, float(times[0]), len(times), codes)


@contextmanager
def _mne(path: Path) -> Iterator[None]:
    """Let mne neither speak nor raise anything but a sentence."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        except Exception as error:
            said = f"{type(error).__name__} {' '.join(str(error).split())[:200]}".strip()
            raise AlignvisError(
                f"{path} or a later part of it cannot be read as epochs ({said}); download all parts again"
            ) from error


# --- trials ----------------------------------------------------------------------------------------------------------


def read_trials(recording: Recording) -> Trials:
    """Read what the files say of every trial: a table where pandas is installed, a list of dicts where it is not.

    Raises:
        AlignvisError: when a column or a trial's entry in it is missing or is no such thing.
    """
    path = recording.files[0]
    columns = _columns(path, recording.epochs.metadata, len(recording.codes))
    kinds = np.zeros(len(recording.codes), dtype=np.int64)
    numbers = {name: np.zeros(len(kinds), dtype=np.int64) for name in ("image", "category", "session", "run")}
    fields = {"image": "things_image_nr", "category": "category_nr", "session": "session_nr", "run": "run_nr"}
    onsets, paths = np.zeros(len(kinds)), [""] * len(kinds)
    for trial, kind in enumerate(columns["trial_type"]):
        if not isinstance(kind, str) or kind not in TYPES:
            raise _wrong(path, trial, "trial_type", kind, ", ".join(TYPES))
        kinds[trial] = TYPES[kind]
        if kinds[trial] == CATCH:
            continue
        for name, field in fields.items():
            value = columns[field][trial]
            most = 255 if name == "session" else 2**31 - 1
            if not _is_number(value) or value != int(value) or not 1 <= value <= most:
                raise _wrong(path, trial, field, value, f"a whole number from 1 to {most}")
            numbers[name][trial] = int(value)
        onset, shown = columns["onset"][trial], columns["image_path"][trial]
        if not _is_number(onset):
            raise _wrong(path, trial, "onset", onset, "seconds")
        if not isinstance(shown, str):
            raise _wrong(path, trial, "image_path", shown, "a path")
        onsets[trial], paths[trial] = onset, shown
    return Trials(kinds, onset=onsets, paths=paths, **numbers)


def _columns(path: Path, metadata: Any, trials: int) -> dict[str, list[Any]]:
    """Take the columns we need from either form of mne's metadata."""
    needed = ("trial_type", "things_image_nr", "category_nr", "session_nr", "run_nr", "onset", "image_path")
    rows = metadata if isinstance(metadata, list) else []
    names = (
        set().union(*(row for row in rows if isinstance(row, dict))) if rows else set(getattr(metadata, "columns", ()))
    )
    missing = [name for name in needed if name not in names]
    if metadata is None or len(metadata) != trials or missing:
        found = "says nothing of its trials" if metadata is None else f"describes {len(metadata)} of {trials} trials"
        if missing and metadata is not None:
            found = f"does not describe its trials by {', '.join(missing)}"
        raise AlignvisError(f"{path} {found}; the preprocessed files of ds004212 have {len(COLUMNS)} columns for each")
    if not rows:
        return {name: metadata[name].tolist() for name in needed}
    for trial, row in enumerate(rows):
        if not isinstance(row, dict):
            raise AlignvisError(
                f"{path} describes trial {trial + 1} by {str(row)[:40]!r}; a row of a table was expected"
            )
    return {name: [row.get(name) for row in rows] for name in needed}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e15  # false for NaN too


def _wrong(path: Path, trial: int, field: str, value: Any, expected: str) -> AlignvisError:
    return AlignvisError(
        f"{path}: trial {trial + 1} has the {field} {str(value)[:80]!r}; expected {expected}: download the file again"
    )


def image_id(path: str, kind: int, as_published: bool) -> str:
    """Turn the path that the experiment knew a picture by into its id.

    Args:
        path: images_meg/<concept>/<file>, or images_test_meg/<file>.
        kind: `EXP` or `TEST`.
        as_published: keep it, as the picture folder has these folders; else it has the tree of the THINGS database,
            <concept>/<file>. The concept of a test picture is its file's name up to the last underscore.

    Raises:
        AlignvisError: when it is no such path; what a file says never leads out of the picture folder.
    """
    parts = path.split("/")
    folder, count = {EXP: ("images_meg", 3), TEST: ("images_test_meg", 2)}[kind]
    plain = path.isprintable() and not {*"\\:"} & {*path} and not {"", ".", ".."} & {*parts}
    if not plain or len(parts) != count or parts[0] != folder:
        shape = f"{folder}/<concept>/<file>.jpg" if kind == EXP else f"{folder}/<file>.jpg"
        raise AlignvisError(f"a picture of the trials is called {path[:120]!r}; expected {shape}")
    if as_published:
        return path
    concept, underscore, _ = PurePosixPath(path).stem.rpartition("_")
    if not underscore or not concept:
        raise AlignvisError(f"the picture {path[:120]!r} has no concept in its name; expected <concept>_<number>.jpg")
    return f"{concept}/{parts[-1]}"
