"""Fills the responses table of THINGS-EEG2, session by session, in bounded memory."""

import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alignvis import store
from alignvis.errors import AlignvisError
from alignvis.progress import Progress
from alignvis.recordings.eeg2_files import PARTS, Recording
from alignvis.recordings.epochs import Epoch, chunks, responses
from alignvis.recordings.sources import hashing, sha256s
from alignvis.recordings.trials import Plan
from alignvis.recordings.whiten import covariance, whitener

PASSES = {"train": 2, "test": 1}


def fill(
    out: Path,
    document: Mapping[str, Any],
    recordings: Mapping[tuple[int, str], Recording],
    plans: Mapping[str, Plan],
    cut: Epoch,
    dtype: str,
    progress: Progress,
) -> None:
    """Fill and name the table; a session whose sources' digests are there, and still the same, is done already."""
    names, times = document["channels"], cut.matrix.shape[1]
    layout = {part: (dtype, (*plans[part].sessions.shape, len(names), times)) for part in PARTS}
    layout |= {f"{part}.session": ("uint8", plans[part].sessions.shape) for part in PARTS}
    layout["sources.sha256"] = ("uint8", (len(recordings), 32))
    table = store.begin(out, layout, document)
    for part in PARTS:
        table[f"{part}.session"][...] = plans[part].sessions

    total = sum(passes * len(p.onsets) for part, passes in PASSES.items() for p in plans[part].places.values())
    done = 0

    def advance(trials: int, text: str) -> None:
        nonlocal done
        done += trials
        progress(done, total, text)

    for first, session in zip(range(0, len(recordings), len(PARTS)), plans["train"].places, strict=True):
        digests = table["sources.sha256"][first : first + len(PARTS)]
        here = {part: recordings[session, part] for part in PARTS}
        if digests.any(axis=1).all() and np.array_equal(
            digests, sha256s([recording.path for recording in here.values()])
        ):
            advance(
                sum(passes * len(plans[part].places[session].onsets) for part, passes in PASSES.items()), "already done"
            )
            continue
        digests[...] = 0  # whatever was there is made again
        with hashing([recording.path for recording in here.values()]) as hashes:
            try:
                _fill_session(table, session, here, plans, cut, names, out.parent, advance)
            except AlignvisError:  # the recording will be another one before this can succeed
                store.discard(out)
                raise
            for part in PARTS:
                table[part].flush()
                table[f"{part}.session"].flush()
            # Only now: a digest says that everything made from its file is on the disk.
            digests[...] = [digest.result() for digest in hashes]
            table["sources.sha256"].flush()
    store.commit(out)


def _fill_session(
    table: Mapping[str, np.memmap],
    session: int,
    recordings: Mapping[str, Recording],
    plans: Mapping[str, Plan],
    cut: Epoch,
    names: Sequence[str],
    scratch_folder: Path,
    advance: Callable[[int, str], None],
) -> None:
    """Fill in one session: its training trials in two passes, since each needs the covariance of all; its test trials.

    Between the passes the trials are in an unnamed file: 2.1 GB that memory need not hold. To cut and resample them
    again would take several times as long as to read them.
    """
    places = plans["train"].places[session]
    pick = recordings["train"].rows(names)
    sums = np.zeros((len(names), len(names)))
    with tempfile.TemporaryFile(dir=scratch_folder) as scratch:
        for chunk in chunks(places.onsets):
            trials = responses(recordings["train"], pick, cut, places.onsets[chunk])
            sums += covariance(trials) * len(trials)
            try:
                scratch.write(trials)
            except OSError as error:
                raise AlignvisError(
                    f"{scratch_folder} has no room for the trials of a session on the way ({error.strerror}); free "
                    f"{8e-9 * len(places.onsets) * trials[0].size:.1f} GB or choose another --root"
                ) from error
            advance(len(trials), f"session {session}: training trials")
        try:
            whiten = whitener(sums / len(places.onsets), names)
        except AlignvisError as error:
            raise AlignvisError(f"{recordings['train'].path} (session {session}): {error}") from error
        scratch.seek(0)
        for chunk in chunks(places.onsets):
            shape = (len(places.onsets[chunk]), len(names), cut.matrix.shape[1])
            trials = np.frombuffer(scratch.read(8 * math.prod(shape))).reshape(shape)
            _put(table["train"], places.rows[chunk], places.slots[chunk], whiten @ trials, recordings["train"])
            advance(len(trials), f"session {session}: whitening")
    places = plans["test"].places[session]
    pick = recordings["test"].rows(names)
    for chunk in chunks(places.onsets):
        trials = responses(recordings["test"], pick, cut, places.onsets[chunk])
        _put(table["test"], places.rows[chunk], places.slots[chunk], whiten @ trials, recordings["test"])
        advance(len(trials), f"session {session}: test trials")


def _put(
    part: np.memmap,
    rows: NDArray[np.int64],
    slots: NDArray[np.int64],
    whitened: NDArray[np.float64],
    recording: Recording,
) -> None:
    placed = slots >= 0
    values = whitened[placed].astype(np.float32)
    if not np.abs(values).max(initial=0) <= np.finfo(part.dtype).max:
        raise AlignvisError(
            f"{recording.path} (session {recording.session}) reaches {np.abs(values).max():.3g} noise standard "
            "deviations, too large for float16; choose --float32, or leave the channel out"
        )
    part[rows[placed], slots[placed]] = values
