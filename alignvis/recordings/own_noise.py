"""Single trials of one's own recordings, freed of what differs between channels by noise alone."""

import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from alignvis.errors import AlignvisError
from alignvis.progress import Progress
from alignvis.recordings.epochs import Epoch, chunks, responses
from alignvis.recordings.filling import PARTS, Block
from alignvis.recordings.own_files import Recording
from alignvis.recordings.whiten import covariance, whitener

WHITENED, SCALED, UNTOUCHED = "mvnn", "standard deviation", "none"
VALUES = 2**23  # numbers of a chunk before resampling, and of the stretch it lies in: 67 MB in double precision
ROUNDING = 1e-10  # share of the largest deviation that resampling leaves in a channel that never changes

Transform = Callable[[NDArray[np.float64]], NDArray[np.float64]]


@dataclass(frozen=True)
class Trials:
    """The trials of one part in one recording, in order of time.

    Attributes:
        onsets: (trials,) sample of the onset.
        rows, slots: (trials,) the row and the repetition of the table that the trial becomes; the slot is -1 for one
            that only tells about the noise, since its image has more trials than the table.
    """

    onsets: NDArray[np.int64]
    rows: NDArray[np.int64]
    slots: NDArray[np.int64]


def blocks(
    recordings: Sequence[Recording], places: Sequence[Mapping[str, Trials]], cut: Epoch, channels: int
) -> list[Block]:
    """Divide the trials of a table into blocks that are read together; ``where`` is the recording's place, and which of
    its trials they are.

    Args:
        recordings: in order of sessions, so that the blocks of one session follow each other.
    """
    work = []
    for place, (recording, here) in enumerate(zip(recordings, places, strict=True)):
        for part in PARTS:
            trials = np.flatnonzero(here[part].slots >= 0)
            for chunk in _chunks(here[part].onsets[trials], cut, channels):
                mine = trials[chunk]
                text = f"{part} trials of session {recording.session}"
                work.append(Block(part, here[part].rows[mine], here[part].slots[mine], (place, mine), text))
    return work


def reader(
    recordings: Sequence[Recording],
    places: Sequence[Mapping[str, Trials]],
    cut: Epoch,
    names: Sequence[str],
    method: str,
    folder: Path,
    progress: Progress,
) -> tuple[Callable[[Block], NDArray[np.float64]], Progress]:
    """Make what reads blocks, and what tells how far it is.

    Before the first block of a session all of its training trials are cut out, for the noise of each is told by all.
    They wait in a file without a name: gigabytes that memory need not hold, and that are not cut out twice.

    Args:
        recordings: in order of sessions.
        folder: where that file lies.
    """
    first = method != UNTOUCHED
    kept: Counter[int] = Counter()  # trials of each session that the table keeps
    ahead: Counter[int] = Counter()  # trials of each session that are cut out before its first block
    offsets = []  # of each recording, the training trials that others of its session have before it
    for recording, here in zip(recordings, places, strict=True):
        kept[recording.session] += sum(int((here[part].slots >= 0).sum()) for part in PARTS)
        offsets.append(ahead[recording.session])
        ahead[recording.session] += len(here["train"].onsets) if first else 0
    begins = dict(zip(kept, accumulate(kept.values(), initial=0), strict=False))
    ahead = Counter({session: trials for session, trials in ahead.items() if kept[session]})
    total = ahead.total() + kept.total()
    held: dict[int, tuple[NDArray[np.float64], Transform]] = {}
    furthest = 0

    def say(done: int, text: str) -> None:
        nonlocal furthest
        furthest = max(furthest, done)  # a session that was half done has its noise told again
        progress(furthest, total, text)

    def tell(done: int, _: int, text: str, note: str = "") -> None:
        """Count what came before the first block of a session as soon as a block of it is done."""
        say(done + sum(trials for session, trials in ahead.items() if done > begins[session]), text)

    def noise(session: int) -> tuple[NDArray[np.float64], Transform]:
        """The training trials of a session, in order of recordings and time, and what frees trials of its noise."""
        told = [
            (recording, here["train"])
            for recording, here in zip(recordings, places, strict=True)
            if recording.session == session and len(here["train"].onsets)
        ]
        before = begins[session] + sum(trials for earlier, trials in ahead.items() if earlier < session)
        waiting = _cut_all(told, names, cut, folder, lambda done: say(before + done, f"noise of session {session}"))
        try:
            if method == WHITENED:
                return waiting, _whitening(waiting, np.concatenate([trials.rows for _, trials in told]), names)
            return waiting, _scaling(waiting, names)
        except AlignvisError as error:
            listed = ", ".join(str(recording.path) for recording, _ in told)
            raise AlignvisError(f"{listed} (session {session}): {error}") from error

    def read(block: Block) -> NDArray[np.float64]:
        place, trials = block.where
        recording, session = recordings[place], recordings[place].session
        if first and session not in held:
            held.clear()
            held[session] = noise(session)
        if first and block.part == "train":
            waiting, transform = held[session]
            return transform(waiting[offsets[place] + trials])
        values = responses(recording, _rows(recording, names), cut, places[place][block.part].onsets[trials])
        return held[session][1](values) if first else values

    return read, tell


def _rows(recording: Recording, names: Sequence[str]) -> NDArray[np.int64]:
    return np.array([recording.channels.index(name) for name in names])


def _cut_all(
    told: Sequence[tuple[Recording, Trials]],
    names: Sequence[str],
    cut: Epoch,
    folder: Path,
    advance: Callable[[int], None],
) -> NDArray[np.float64]:
    """Cut out trials, recording by recording, into an unnamed file, and map that: (trials, channels, times)."""
    shape = (sum(len(trials.onsets) for _, trials in told), len(names), cut.matrix.shape[1])
    with tempfile.TemporaryFile(dir=folder) as file:
        done = 0
        for recording, trials in told:
            for chunk in _chunks(trials.onsets, cut, len(names)):
                values = responses(recording, _rows(recording, names), cut, trials.onsets[chunk])
                try:
                    file.write(values)
                except OSError as error:
                    raise AlignvisError(
                        f"{folder} has no room for the training trials of a session on the way ({error.strerror}); "
                        f"free {8e-9 * np.prod(shape):.1f} GB or choose another --root"
                    ) from error
                done += len(values)
                advance(done)
        file.flush()
        return np.memmap(file, np.float64, "r", shape=shape)


def _chunks(onsets: NDArray[np.int64], cut: Epoch, channels: int) -> list[slice]:
    if not len(onsets):
        return []
    trials = max(1, VALUES // (channels * len(cut.matrix)))
    return list(chunks(onsets, trials, max(1, VALUES // channels)))


def _whitening(trials: NDArray[np.float64], rows: NDArray[np.int64], names: Sequence[str]) -> Transform:
    """Whiten by the deviations of trials from their image's mean.

    Of n trials, deviations from their own mean have (n - 1) / n of the noise's variance, so they are made larger by
    that; an image with one trial tells nothing about noise.
    """
    sums, count = np.zeros((len(names), len(names))), 0
    size = max(1, VALUES // trials[0].size)
    order = np.argsort(rows, kind="stable")
    for image in np.split(order, np.flatnonzero(np.diff(rows[order])) + 1):
        if len(image) < 2:
            continue
        pieces = [image[first : first + size] for first in range(0, len(image), size)]
        mean = sum(trials[piece].sum(axis=0) for piece in pieces) / len(image)
        for piece in pieces:
            deviations = (trials[piece] - mean) * np.sqrt(len(image) / (len(image) - 1))
            sums += covariance(deviations) * len(piece)
        count += len(image)
    matrix = whitener(sums / count, names)
    return lambda values: matrix @ values


def _scaling(trials: NDArray[np.float64], names: Sequence[str]) -> Transform:
    """Divide each channel by its standard deviation over trials and times."""
    size = max(1, VALUES // trials[0].size)
    pieces = [trials[first : first + size] for first in range(0, len(trials), size)]
    count = len(trials) * trials.shape[2]
    mean = sum(piece.sum(axis=(0, 2)) for piece in pieces) / count
    squares = sum(np.square(piece - mean[:, None]).sum(axis=(0, 2)) for piece in pieces)
    deviation = np.sqrt(squares / count)
    dead = np.flatnonzero(~(deviation > ROUNDING * deviation.max()))
    if len(dead):
        raise AlignvisError(f"channel {names[dead[0]]} never changes; leave that channel out of the channels")
    return lambda values: values / deviation[:, None]
