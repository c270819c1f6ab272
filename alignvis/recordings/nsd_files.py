"""The files of NSD: a subject's betas, trial by trial, and the design that says which picture each trial showed."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from alignvis.errors import AlignvisError
from alignvis.hdf5 import Stored, begins_as_hdf5, opened, stored, told, whole_number
from alignvis.matlab import read_matrices

SUBJECTS = 8
TRIALS = 750  # in a session
EXPERIMENT = 30_000  # trials that the published design has for a subject
BETAS = ("subj{:02d}_nsdgeneral.hdf5", "betas_all_subj{:02d}_fp32_renorm.hdf5")  # of MindEye, and of MindEye2
ARRAYS = ("voxels", "betas")
DESIGN = "nsd_expdesign.mat"
DESIGN_BYTES = 2**24  # the published design has about 1 MB
MOST_VOXELS = 50_000  # the published files have up to 17,907
MOST_SESSIONS = 255  # that a table can number
MOST_PICTURES = 100_000  # the published brick has 73,000
KINDS = {"f": (2, 4, 8), "i": (1, 2, 4)}


@dataclass(frozen=True)
class Betas:
    """A subject's answers to every trial, in the order of time.

    Attributes:
        stored: (trials, voxels).
        per_session: trials in a session.
    """

    path: Path
    stored: Stored
    per_session: int
    simulated: bool

    @property
    def sessions(self) -> int:
        return self.stored.shape[0] // self.per_session

    @property
    def voxels(self) -> int:
        return self.stored.shape[1]

    def session(self, number: int) -> NDArray:
        """The answers in a session, counted from 1: (trials, voxels)."""
        return self.stored.read((number - 1) * self.per_session, number * self.per_session)


@dataclass(frozen=True)
class Design:
    """What a subject was shown.

    Attributes:
        rows: (trials,) the picture of each trial, as its row in the stimulus file, from 0.
        shared: (trials,) whether all subjects were to see it; those are the test pictures.
        pictures: how many are shared.
    """

    path: Path
    rows: NDArray[np.int64]
    shared: NDArray[np.bool_]
    pictures: int


def find_betas(raw: Path, subject: int) -> Path:
    """Find a subject's betas in a folder, or one level below.

    Raises:
        AlignvisError: when there is none, or more than one.
    """
    if not 1 <= subject <= SUBJECTS:
        raise AlignvisError(f"subject {subject} was asked for; NSD has the subjects 1 to {SUBJECTS}")
    return _find(raw, [name.format(subject) for name in BETAS], f"the betas of subject {subject}")


def find_design(raw: Path) -> Path:
    """Find the design in a folder, or one level below; AlignvisError when there is none, or more than one."""
    return _find(raw, [DESIGN], "what each trial showed")


def _find(raw: Path, wanted: list[str], what: str) -> Path:
    try:
        entries = sorted(os.scandir(raw), key=lambda entry: entry.name)
        folders = [raw, *(raw / entry.name for entry in entries if entry.is_dir())]
    except OSError as error:
        raise AlignvisError(f"{raw} cannot be read ({error.strerror}); give the folder with NSD's files") from error
    found = [folder / name for name in wanted for folder in folders if (folder / name).is_file()]
    if len(found) == 1:
        return found[0]
    if found:
        raise AlignvisError(f"{found[0]} and {found[1]} both hold {what}; move one of them away")
    there = ", ".join(entry.name for entry in entries[:8]) or "nothing"
    raise AlignvisError(
        f"{raw} and the folders in it do not hold {' or '.join(wanted)}, {what} (it holds {there}); download it, or "
        "give the folder where it lies"
    )


@contextmanager
def open_betas(path: Path) -> Iterator[Betas]:
    """Open a subject's betas, of which a session at a time is read.

    Raises:
        AlignvisError: when the file is damaged, does not hold them, or not in whole sessions.
    """
    if not begins_as_hdf5(path):
        raise AlignvisError(f"{path} is not an HDF5 file; download it again")
    with opened(path) as file:
        with told(path):
            simulated = bool(whole_number(file, "simulated"))
            stated = whole_number(file, "trials_per_session") if simulated else None
        with stored(path, file, ARRAYS, "'voxels' or 'betas', trials x voxels,", KINDS, 2) as array:
            per_session = TRIALS if stated is None else stated
            trials, voxels = array.shape
            if not 1 <= per_session <= TRIALS or trials % per_session or trials // per_session > MOST_SESSIONS:
                raise AlignvisError(
                    f"{path} holds {trials} trials, which are not whole sessions of {per_session}; download it again"
                )
            if voxels > MOST_VOXELS:
                raise AlignvisError(
                    f"{path} has {voxels:,} voxels, and up to {MOST_VOXELS:,} can be read; choose some of them, like "
                    "those of nsdgeneral"
                )
            yield Betas(path, array, per_session, simulated)


def read_design(path: Path, subject: int) -> Design:
    """Read which picture each of a subject's trials showed.

    All subjects share one order of trials, of numbers into a list of pictures that each has for itself; the first of
    each list are shared.

    Raises:
        AlignvisError: when the file is damaged, or the design contradicts itself.
    """
    found = read_matrices(path, DESIGN_BYTES)
    order = _whole(path, found, "masterordering").ravel()
    lists = _whole(path, found, "subjectim")
    shared = _whole(path, found, "sharedix").ravel()
    if lists.ndim != 2 or len(lists) != SUBJECTS or order.max() > lists.shape[1]:
        raise AlignvisError(
            f"{path}: 'subjectim' has shape {lists.shape}, and the trials name up to {order.max()} pictures of "
            f"{SUBJECTS} subjects; download it again"
        )
    pictures = lists[subject - 1][order - 1]
    is_shared = np.isin(pictures, shared)
    if len(order) == EXPERIMENT and (is_shared != (order <= len(shared))).any():
        raise AlignvisError(
            f"{path}: 'sharedix' does not name the first {len(shared)} pictures of subject {subject}, which are "
            "shared in the published design; download it again"
        )
    return Design(path, pictures - 1, is_shared, len(np.unique(shared)))


def _whole(path: Path, found: dict[str, NDArray | None], name: str) -> NDArray[np.int64]:
    """Numbers that count from 1, whatever they are stored as."""
    numbers = found.get(name)
    if numbers is None or not numbers.size:
        raise AlignvisError(
            f"{path} holds {', '.join(map(repr, found)) or 'nothing'}, and numbers called {name!r} were expected; "
            "download it again"
        )
    if not ((numbers >= 1) & (numbers <= MOST_PICTURES)).all() or (numbers != np.floor(numbers)).any():
        raise AlignvisError(
            f"{path}: {name!r} has values from {numbers.min():g} to {numbers.max():g}, and whole numbers from 1 to "
            f"{MOST_PICTURES:,} were expected; download it again"
        )
    return numbers.astype(np.int64)
