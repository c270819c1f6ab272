"""Recordings of one's own experiment, of any kind that mne reads -> a responses table.

Beside each recording stands an events table that says which image was shown when, and to what part it belongs
(`own_events.py`). The recordings are read forward in pieces, never as a whole.
"""

import hashlib
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alignvis.errors import AlignvisError
from alignvis.progress import Progress, silent
from alignvis.recordings.epochs import BASELINE, Epoch, epoch
from alignvis.recordings.filling import PARTS, about, check_dataset, check_dtype, check_sources, fill, is_there, summary
from alignvis.recordings.own_events import Events, check_parts, read_events
from alignvis.recordings.own_files import Recording, choose, open_any, unit_of
from alignvis.recordings.own_noise import SCALED, UNTOUCHED, WHITENED, Trials, blocks, reader
from alignvis.recordings.sources import describe

WINDOW = (0.0, 1.0)
SFREQ = 250.0
SESSIONS = 255  # what a table can number
UNITS = {WHITENED: "noise standard deviations", SCALED: "channel standard deviations"}


@dataclass(frozen=True)
class _Found:
    """The whole trials of one recording in order of time: ``onsets`` in samples, the index of each one's part, and its
    image; and sentences on the others."""

    onsets: NDArray[np.int64]
    parts: NDArray[np.int64]
    images: list[str]
    notes: list[str]


def prepare(
    raw: Sequence[Path],
    *,
    events: Sequence[Path],
    subject: int,
    dataset: str,
    out: Path,
    channels: str = "all",
    window: tuple[float, float] = WINDOW,
    baseline: tuple[float, float] | None = BASELINE,
    sfreq: float | None = None,
    whiten: bool | None = None,
    repetitions: tuple[int, int] | None = None,
    sessions: Sequence[int] | None = None,
    dtype: str = "float16",
    overwrite: bool = False,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Turn one subject's recordings into a responses table.

    Each trial is cut out, its mean over the baseline subtracted, resampled as `mne.Epochs.resample` does, and whitened
    with the noise covariance of its session's training trials: of what differs between the trials of one image. A trial
    that the recording does not hold as a whole, or that touches what is marked as bad, is left out. A call that was
    interrupted continues.

    Args:
        raw: the recordings: BrainVision (.vhdr), EDF, BDF, EEGLAB (.set), FIF or CTF (a .ds folder).
        events: for each recording its events table.
        dataset: what the table is filed under; a name that ends in -simulated says so in the table.
        out: the table to write.
        channels: "all" of the kind that there are most of, a kind such as "eeg" or "meg", "occipital", or names with
            commas.
        window: (first, last) s after onset; the last sample is left out.
        baseline: (first, last) s after onset, both included; none takes nothing off.
        sfreq: samples a second of the table: 250, or those of the recordings where that is lower; a number that is the
            recordings' own keeps them.
        whiten: None whitens if in every session the training trials that an image has beyond its first are, over all
            images, at least as many as the channels, and otherwise divides each channel by its standard deviation over
            the session's training trials; True insists; False leaves values as they were recorded.
        repetitions: trials to keep of each (training, test) image over all sessions; by default as many as the image
            with the fewest has. The first ones are kept: in order of session, then of recordings as given, then time.
        sessions: for each recording the number of the session that it belongs to, 1 to 255; by default each is one of
            its own, numbered as given. Recordings of one session share their noise, so that one of test images alone is
            whitened by the training trials of another.
        dtype: "float16" or "float32".
        overwrite: replace a table that is there; otherwise one made with the same options is kept.

    Returns:
        What was written; see `filling.summary`.

    Raises:
        AlignvisError: when a recording or an events table is missing or damaged, when the two do not fit together, when
            an image has fewer trials than asked for, when a channel is dead or a sample not finite.

    Source: whitening after Guggenmos et al. (2018), doi:10.1016/j.neuroimage.2018.02.044, with the noise as they define
        it; the pipeline of THINGS-EEG2 (`things_eeg2.py`) takes whole trials for noise instead.
    """
    begun = time.monotonic()
    raw, events, out = [Path(path) for path in raw], [Path(path) for path in events], Path(out)
    numbers = list(range(1, len(raw) + 1)) if sessions is None else [int(number) for number in sessions]
    _check_call(raw, events, numbers, subject, dataset, dtype, repetitions)
    order = sorted(range(len(raw)), key=numbers.__getitem__)  # as given within a session
    raw, events, numbers = ([each[place] for place in order] for each in (raw, events, numbers))
    tables = [read_events(path) for path in events]
    check_parts(tables)
    asked = {
        "recordings": [path.name for path in raw],
        "events": [f"{path.name} ({hashlib.sha256(path.read_bytes()).hexdigest()[:12]})" for path in events],
        "channels": channels,
        "window": [float(edge) for edge in window],
        "baseline": baseline and [float(edge) for edge in baseline],
        "sfreq": sfreq and float(sfreq),
        "whiten": whiten,
        "repetitions": repetitions and list(repetitions),
        "sessions": numbers,
        "dtype": dtype,
    }
    recordings = [open_any(*each) for each in zip(raw, numbers, strict=True)]
    sources = [path for recording in recordings for path in recording.files] + events
    sources = [Path(os.path.abspath(path)) for path in sources]
    if is_there(out, asked, overwrite):
        check_sources(out, sources)
        return summary(out, True, begun, [])
    names, warnings = choose(recordings, channels)
    rate = _rate(recordings[0], sfreq)
    cut = epoch(recordings, None if rate == recordings[0].rate else rate, window, baseline)
    found = [_whole(*each, cut) for each in zip(recordings, tables, strict=True)]
    warnings += [note for recording in recordings for note in recording.notes] + [
        n for each in found for n in each.notes
    ]
    ids, shown_in, places, notes = _plan(found, numbers, repetitions)
    warnings += notes
    method, note = _method(places, numbers, len(names), whiten)
    warnings += [note] if note else []

    import mne

    document = about(dataset, subject, UNITS.get(method) or unit_of(recordings[0], names), _simulated(dataset), asked)
    document |= {
        "channels": names,
        "sfreq": rate,
        "tmin": cut.tmin,
        **{f"{part}_images": ids[part] for part in PARTS},
        "parameters": _parameters(cut, rate, method, sorted(set(numbers))),
        "sources": describe(sources, Path(os.path.commonpath([path.parent for path in sources]))),
        "versions": document["versions"] | {"mne": mne.__version__},
    }
    work = blocks(recordings, places, cut, len(names))
    read, progress = reader(recordings, places, cut, names, method, out.parent, progress)
    shape = len(names), cut.matrix.shape[1]
    fill(out, document, shown_in, shape, work, read, dtype=dtype, sources=sources, progress=progress)
    return summary(out, False, begun, warnings)


def _check_call(
    raw: Sequence[Path],
    events: Sequence[Path],
    numbers: Sequence[int],
    subject: int,
    dataset: str,
    dtype: str,
    repetitions: tuple[int, int] | None,
) -> None:
    if not raw or len(raw) != len(events):
        raise AlignvisError(
            f"there are {len(raw)} recordings and {len(events)} events tables; give at least one recording, and for "
            "each its events table, in the same order"
        )
    if len(raw) != len(numbers):
        raise AlignvisError(
            f"there are {len(raw)} recordings and {len(numbers)} numbers of sessions; give --session once for each "
            "--raw, in the same order, or leave it out"
        )
    beyond = [number for number in numbers if not 1 <= number <= SESSIONS]
    if beyond:
        raise AlignvisError(
            f"there is no room for a session {beyond[0]}, as a table numbers sessions from 1 to {SESSIONS}; put "
            "recordings that belong together into one session with --session"
        )
    twice = [path for place, path in enumerate(raw) if path in raw[:place]]
    if twice:
        raise AlignvisError(f"{twice[0]} is given more than once; give each recording once")
    check_dataset(dataset)
    if subject < 1:
        raise AlignvisError(f"the table cannot be filed under subject {subject}; subjects count from 1")
    check_dtype(dtype)
    if repetitions is not None and min(repetitions) < 1:
        raise AlignvisError(f"--repetitions has to be at least 1 of each, not {repetitions[0]} {repetitions[1]}")


def _simulated(dataset: str) -> bool:
    return dataset.endswith("-simulated")


def _rate(recording: Recording, sfreq: float | None) -> float:
    """Samples a second of the table."""
    if sfreq is None:
        return min(SFREQ, recording.rate)
    if sfreq > recording.rate:
        raise AlignvisError(
            f"{recording.path} has {recording.rate:g} samples a second, and --sfreq {sfreq:g} would have to invent "
            f"some; choose {recording.rate:g} or less"
        )
    return float(sfreq)


def _whole(recording: Recording, events: Events, cut: Epoch) -> _Found:
    """The trials of a recording that can be used; an onset outside it is a mistake."""
    onsets = np.rint(events.onsets * recording.rate)
    beyond = np.flatnonzero(onsets >= recording.samples)
    if len(beyond):
        worst = beyond[0]
        raise AlignvisError(
            f"{events.path}, line {events.lines[worst]}: its onset {events.onsets[worst]:g} s lies beyond the end of "
            f"{recording.path.name}, which has {recording.samples / recording.rate:g} s; onsets are seconds "
            "after its first sample"
        )
    onsets = onsets.astype(np.int64)
    first, last = onsets - cut.before, onsets + cut.after
    inside = (first >= 0) & (last < recording.samples)
    bad = np.zeros(len(onsets), dtype=bool)
    for begin, end in recording.breaks:
        bad |= (begin <= last) & (first < end)
    notes = []
    for lines, reason in (
        (events.skipped, f"lines of {events.path.name} were skipped, as a value in them is n/a"),
        ((~inside).sum(), f"trials of {recording.name} were left out, as the recording begins or ends within them"),
        (
            (inside & bad).sum(),
            f"trials of {recording.name} were left out, as they touch what is marked as bad or an interruption",
        ),
    ):
        if lines:
            notes.append(f"{lines} {reason}")
    keep = np.flatnonzero(inside & ~bad)
    return _Found(onsets[keep], events.parts[keep], [events.images[trial] for trial in keep], notes)


def _plan(
    found: Sequence[_Found], numbers: Sequence[int], repetitions: tuple[int, int] | None
) -> tuple[dict[str, list[str]], dict[str, NDArray[np.uint8]], list[dict[str, Trials]], list[str]]:
    """Give each trial its place: images in order of their ids, the trials of an image in order of recordings and time.

    Args:
        numbers: the session of each recording, ascending.

    Returns:
        The image ids and the sessions of both parts, the trials of every recording by part, and sentences on what was
        left out.
    """
    ids: dict[str, list[str]] = {}
    sessions: dict[str, NDArray[np.uint8]] = {}
    places: list[dict[str, Trials]] = [{} for _ in found]
    notes = []
    for number, part in enumerate(PARTS):
        trials = [np.flatnonzero(each.parts == number) for each in found]
        shown = [[each.images[trial] for trial in mine] for each, mine in zip(found, trials, strict=True)]
        ids[part] = sorted({image for images in shown for image in images})
        if not ids[part]:
            raise AlignvisError(
                f"there is no whole trial of a {part} image; the events tables need lines with split {part}"
            )
        row_of = {image: row for row, image in enumerate(ids[part])}
        rows = [np.array([row_of[image] for image in images], dtype=np.int64) for images in shown]
        counts = np.bincount(np.concatenate(rows), minlength=len(ids[part]))
        kept = int(counts.min()) if repetitions is None else repetitions[number]
        if counts.min() < kept:
            few = int(counts.argmin())
            raise AlignvisError(
                f"the {part} image {ids[part][few]!r} has {counts[few]} whole trials, and {kept} were to be kept of "
                f"each ({(counts < kept).sum()} of {len(counts)} images have fewer); lower --repetitions"
            )
        sessions[part] = np.zeros((len(ids[part]), kept), dtype=np.uint8)
        filled = np.zeros(len(ids[part]), dtype=np.int64)
        for session, each, mine, row, here in zip(numbers, found, trials, rows, places, strict=True):
            slots = np.empty(len(row), dtype=np.int64)
            for trial, image in enumerate(row):
                slots[trial] = filled[image]
                filled[image] += 1
            slots[slots >= kept] = -1
            sessions[part][row[slots >= 0], slots[slots >= 0]] = session
            here[part] = Trials(each.onsets[mine], row, slots)
        if counts.sum() > kept * len(counts):
            notes.append(
                f"{counts.sum() - kept * len(counts)} {part} trials were left out: {kept} of each image are kept, and "
                f"images have {counts.min()} to {counts.max()}"
            )
    return ids, sessions, places, notes


def _method(
    places: Sequence[dict[str, Trials]], numbers: Sequence[int], channels: int, whiten: bool | None
) -> tuple[str, str]:
    """How noise is treated, and what the user should know about it."""
    if whiten is False:
        return UNTOUCHED, ""
    rows: dict[int, list[NDArray[np.int64]]] = {}
    for session, here in zip(numbers, places, strict=True):
        rows.setdefault(session, []).append(here["train"].rows)
    trials_of = {session: np.concatenate(parts) for session, parts in rows.items()}
    for session, trials in trials_of.items():
        if not len(trials):
            raise AlignvisError(
                f"session {session} has no training trial, so there is nothing to tell its noise by; put its recording "
                "into one session with one that has some by --session, or choose --no-whiten"
            )
    for session, trials in trials_of.items():
        beyond = len(trials) - len(np.unique(trials))
        if beyond < (1 if whiten else channels):
            why = (
                f"session {session} has {beyond} training trials beyond the first of each image, and noise is what "
                "differs between those of one image"
            )
            if whiten:
                raise AlignvisError(f"{why}; show images again within a session, or leave --whiten out")
            return (
                SCALED,
                f"{why}: too few for {channels} channels, so each is divided by its standard deviation instead",
            )
    return WHITENED, ""


def _parameters(cut: Epoch, rate: float, method: str, sessions: list[int]) -> dict[str, Any]:
    noise: dict[str, Any] = {"method": method}
    if method == WHITENED:
        noise |= {
            "dims": "epochs",
            "covariance": "Ledoit-Wolf on standardised channels",
            "fitted_on": "deviations of the session's training trials from the mean of their image there",
        }
    elif method == SCALED:
        noise |= {"fitted_on": "training trials of the same session, within the window"}
    return {
        "sessions": sessions,
        "window": list(cut.window),
        "baseline": cut.baseline and list(cut.baseline),
        "resampling": {
            "method": "none" if rate == cut.rate else "mne-fft",
            "from": cut.rate,
            "measured_after_nominal_ms": [round(1000 * shift, 3) for shift in cut.shift],
        },
        "whitening": noise,
        "selection": "the first trials of each image",
    }
