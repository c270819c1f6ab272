"""Which trials of THINGS-EEG2 are kept, and where each one stands in the table."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from alignvis.errors import AlignvisError

TARGET = 99999  # the event code of the target picture, which is no stimulus
SEED = 20200220  # of the published selection


@dataclass(frozen=True)
class Trials:
    """The image trials of one recording, in the order in which they were shown.

    Attributes:
        onsets: (trials,) the sample at which the picture came up.
        images: (trials,) the picture, as an index into the image list of its part (event code - 1).
        cut_off: trials that are left out since the recording begins or ends within them.
    """

    onsets: NDArray[np.int64]
    images: NDArray[np.int64]
    cut_off: int


@dataclass(frozen=True)
class Places:
    """The kept trials of one session, in the order in which they were shown.

    Attributes:
        onsets: (trials,) as in `Trials`.
        rows, slots: (trials,) the row and the repetition of the table that the trial becomes. The slot is -1 for a
            trial that only the noise covariance is fitted on, since its image has more repetitions than the table.
    """

    onsets: NDArray[np.int64]
    rows: NDArray[np.int64]
    slots: NDArray[np.int64]


@dataclass(frozen=True)
class Plan:
    """One part (training or test) of the table.

    Attributes:
        images: (rows,) ascending indices into the image list.
        sessions: (rows, repetitions) uint8, the session that each repetition was recorded in.
        places: by session.
        left_out: how many kept trials found no slot.
    """

    images: NDArray[np.int64]
    sessions: NDArray[np.uint8]
    places: dict[int, Places]
    left_out: int


def find_trials(stim: NDArray[np.floating], images: int, before: int, after: int) -> Trials:
    """Find the pictures in a stimulus channel: zero except for a pulse that carries the picture's code at its onset.

    A run of equal samples is one event, and a trial whose samples ``onset - before .. onset + after`` are not all
    recorded is left out, as in ``mne.find_events`` and ``mne.Epochs``.

    Args:
        stim: (samples,) event codes: 1 .. ``images``, or 99999 for the target.
        images: how many pictures there are.

    Raises:
        AlignvisError: when there is no event, or a code that stands for no picture.
    """
    if not (np.abs(stim) < 2**31).all():  # false for NaN too
        raise AlignvisError("its stimulus channel has values that are no event codes; download the file again")
    codes = np.rint(stim).astype(np.int64)
    onsets = np.flatnonzero((codes != 0) & (np.concatenate([[0], codes[:-1]]) != codes))
    codes = codes[onsets]
    shown = codes != TARGET
    onsets, codes = onsets[shown], codes[shown]
    if len(codes) == 0:
        raise AlignvisError("its stimulus channel has no picture in it; download the file again")
    foreign = (codes < 1) | (codes > images)
    if foreign.any():
        raise AlignvisError(
            f"its stimulus channel has the code {codes[foreign][0]} at sample {onsets[foreign][0]}, but there are "
            f"pictures for 1 to {images} only; give the --images folder of this dataset"
        )
    whole = (onsets >= before) & (onsets + after < len(stim))
    return Trials(onsets[whole], codes[whole] - 1, int((~whole).sum()))


def permutation(n: int) -> NDArray[np.int64]:
    """Return the published order of n things: what ``sklearn.utils.shuffle(random_state=20200220)`` gives.

    The generator is made anew each time, so the order depends on n alone; numpy has frozen its stream.
    """
    return np.random.RandomState(SEED).permutation(n)


def select(images: NDArray[np.int64], repetitions: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Choose the same number of trials for each picture of one recording.

    Args:
        images: (trials,) the picture of each trial; each occurs at least ``repetitions`` times.

    Returns:
        The distinct pictures, ascending, and (pictures, repetitions) indices of trials: of the n trials of a picture,
        in the order shown, those that the first entries of ``permutation(n)`` name.
    """
    distinct, counts = np.unique(images, return_counts=True)
    in_order = np.argsort(images, kind="stable")
    first = np.cumsum(counts) - counts
    chosen = np.empty((len(distinct), repetitions), dtype=np.int64)
    for n in np.unique(counts):
        same = counts == n
        chosen[same] = in_order[first[same, None] + permutation(n)[:repetitions]]
    return distinct, chosen


def plan(trials: Mapping[int, Trials], repetitions: int) -> Plan:
    """Give each selected trial of all sessions its place in the table.

    The repetitions of a picture are put in the order of the sessions and then permuted, as published. Every picture
    gets as many as the one with the fewest has; of a picture that has more, the earlier sessions' are taken.

    Args:
        trials: by session; no picture occurs less often than ``repetitions`` in a session that shows it.
        repetitions: trials to keep of each picture in each session.
    """
    chosen = {session: select(trials[session].images, repetitions) for session in sorted(trials)}
    images, appearances = np.unique(np.concatenate([shown for shown, _ in chosen.values()]), return_counts=True)
    kept = int(appearances.min()) * repetitions
    slot_of = np.full(int(appearances.max()) * repetitions, -1)
    slot_of[:kept] = np.argsort(permutation(kept))
    sessions = np.zeros((len(images), kept), dtype=np.uint8)
    filled = np.zeros(len(images), dtype=np.int64)
    places, left_out = {}, 0
    for session, (shown, trial) in chosen.items():
        row = np.searchsorted(images, shown)
        slots = slot_of[filled[row, None] + np.arange(repetitions)]
        rows = np.broadcast_to(row[:, None], slots.shape)
        filled[row] += repetitions
        placed = slots >= 0
        sessions[rows[placed], slots[placed]] = session
        left_out += int((~placed).sum())
        by_onset = np.argsort(trial, axis=None)
        places[session] = Places(
            trials[session].onsets[trial.ravel()[by_onset]], rows.ravel()[by_onset], slots.ravel()[by_onset]
        )
    return Plan(images, sessions, places, left_out)
