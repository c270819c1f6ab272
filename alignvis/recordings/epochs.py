"""From a continuous recording to single-trial responses, a few trials at a time."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from alignvis.errors import AlignvisError
from alignvis.recordings.resample import fft_resampler, sample_times

BASELINE = (-0.2, 0.0)  # s, both ends included
TRIALS = 128  # of a chunk: 77 MB of 63 channels and 1201 samples
SPAN = 2**16  # samples that the trials of a chunk begin within: 33 MB of 63 channels
LARGEST = 1e9  # volts, microvolts or any unit in use: what is larger was never measured
MATRIX = 2**23  # numbers: 67 MB; a trial of more samples would take more memory than all that is read at once


class Recording(Protocol):
    """What trials are cut out of: ``data[rows, first:last]`` gives (rows, samples), whether mapped or read then."""

    path: Path
    name: str
    session: int
    data: Any
    channels: list[str]
    rate: float


@dataclass(frozen=True)
class Epoch:
    """How a trial is cut out of a recording.

    Attributes:
        before, after: samples of the recording before and after the onset.
        matrix: (before + 1 + after, times) float64: takes the baseline off, resamples, keeps the window.
        tmin: s after onset, of the first sample kept.
        shift: s by which the first and the last sample were measured later than their nominal time.
        rate: samples a second of the recording.
        window, baseline: s after onset; no baseline where none is taken off.
    """

    before: int
    after: int
    matrix: NDArray[np.float64]
    tmin: float
    shift: tuple[float, float]
    rate: float
    window: tuple[float, float]
    baseline: tuple[float, float] | None


def epoch(
    recordings: Iterable[Recording],
    sfreq: float | None,
    window: tuple[float, float],
    baseline: tuple[float, float] | None = BASELINE,
) -> Epoch:
    """Work out how trials are cut out; see `things_eeg2.prepare` for the arguments.

    The trial runs from the earlier of baseline and window to the window's end. It is resampled as a whole, as
    published: the window alone would have other edges, and so other values.

    Args:
        sfreq: samples a second of the table; none keeps those of the recordings.
    """
    rates = {recording.rate: recording.name for recording in recordings}
    if len(rates) > 1:
        found = ", ".join(f"{rate:g} in {name}" for rate, name in rates.items())
        raise AlignvisError(
            f"the recordings differ in their samples a second ({found}); prepare those sessions one by one"
        )
    (rate,) = rates
    if sfreq is not None and not 1 <= sfreq < rate:
        raise AlignvisError(f"--sfreq {sfreq:g} has to be at least 1 and below the recording's {rate:g}")
    if not -1 <= window[0] < window[1] <= 5 or window[1] <= 0:
        raise AlignvisError(
            f"window {window[0]:g} {window[1]:g} has to lie within -1 and 5 s and to end after the onset"
        )
    if baseline is not None and not -1 <= baseline[0] <= baseline[1] <= window[1]:
        raise AlignvisError(
            f"baseline {baseline[0]:g} {baseline[1]:g} has to lie between -1 s and the window's end, {window[1]:g} s"
        )
    start = min(window[0], baseline[0] if baseline else window[0])
    before, after = round(-start * rate), round(window[1] * rate)
    length = before + 1 + after
    if length * (length if sfreq is None else round(length * sfreq / rate)) > MATRIX:
        kept = "at the recording's rate" if sfreq is None else f"at {sfreq:g} Hz"
        raise AlignvisError(
            f"a trial has {length} samples in {rates[rate]}, too many to be kept {kept}; choose a shorter window or a "
            "lower --sfreq"
        )
    if sfreq is None:
        sfreq, matrix = rate, np.eye(length)[:, :-1]  # the window's end is left out
        measured, skip = (np.arange(length) - before) / rate, before + round(window[0] * rate)
        tmin = float(measured[skip])
    else:
        matrix = fft_resampler(length, rate, sfreq)
        measured, skip = sample_times(length, rate, sfreq) - before / rate, round((window[0] - start) * sfreq)
        tmin = round(start + skip / sfreq, 9)
    if baseline is not None:
        first, last = (before + round(edge * rate) for edge in baseline)
        # The mean over the baseline, times what the resampler makes of a constant, is taken off in the same product.
        matrix[first : last + 1] -= matrix.sum(axis=0) / (last + 1 - first)
    if skip >= matrix.shape[1]:
        raise AlignvisError(
            f"window {window[0]:g} {window[1]:g} is shorter than one sample at {sfreq:g} Hz; make it longer"
        )
    measured = measured[skip : matrix.shape[1]]
    shift = (measured - tmin - np.arange(len(measured)) / sfreq)[[0, -1]].tolist()
    return Epoch(before, after, np.ascontiguousarray(matrix[:, skip:]), tmin, tuple(shift), rate, window, baseline)


def chunks(onsets: NDArray[np.int64], trials: int | None = None, span: int | None = None) -> Iterator[slice]:
    """Divide trials in order of time into runs of a few that lie near each other, so that they are read together.

    Args:
        trials: at most so many; 128 where nothing is said.
        span: samples that they begin within; about a minute of THINGS-EEG2 where nothing is said.
    """
    trials, span = trials or TRIALS, span or SPAN
    edges = np.flatnonzero(np.diff(onsets // span)) + 1
    for begin, end in zip([0, *edges], [*edges, len(onsets)], strict=True):
        for first in range(begin, end, trials):
            yield slice(first, min(first + trials, end))


def responses(
    recording: Recording, rows: NDArray[np.int64], cut: Epoch, onsets: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Cut out the trials of one chunk.

    Args:
        rows: the channels' rows in the recording.
        onsets: (trials,) ascending.

    Returns:
        (trials, channels, times), C-contiguous, in the recording's unit.

    Raises:
        AlignvisError: when a sample is not finite.
    """
    begin, end = onsets[0] - cut.before, onsets[-1] + cut.after + 1
    with np.errstate(invalid="ignore"):  # what is no number is refused below
        span = recording.data[rows, begin:end].astype(np.float64, copy=False)
    trials = sliding_window_view(span, len(cut.matrix), axis=1).transpose(1, 0, 2)[onsets - onsets[0]]
    if not (np.abs(span) <= LARGEST).all():  # false for NaN too; a pause between two trials may hold anything
        broken = np.argwhere(~(np.abs(trials) <= LARGEST))
        if len(broken):
            trial, channel, sample = broken[0]
            raise AlignvisError(
                f"{recording.path} (session {recording.session}): channel {recording.channels[rows[channel]]} has the "
                f"value {trials[trial, channel, sample]} at sample {onsets[trial] - cut.before + sample}, which was "
                "never measured; leave that channel out, or copy the file again"
            )
    # One product: matmul of three dimensions would start a small one for each channel.
    values = trials.reshape(-1, len(cut.matrix)) @ cut.matrix
    return values.reshape(*trials.shape[:2], -1)
