"""Fewer samples a second, as mne does it, written as one matrix."""

from math import ceil, log2

import numpy as np
from numpy.typing import NDArray

VALUES = 2**21  # padded, at once: what bounds the memory that long trials take


def fft_resampler(length: int, old: float, new: float) -> NDArray[np.float64]:
    """Build the matrix that takes ``length`` samples from the rate ``old`` to the rate ``new``.

    The method is that of ``mne.Epochs.resample`` (``method="fft"``, edge padding): pad to a power of two with the edge
    values, cut the spectrum above the new Nyquist frequency, transform back, drop the padding. It is linear in the
    samples, so it is a matrix, and one product with many signals is faster than many transforms.

    Args:
        length: samples of one signal before.
        old, new: samples a second before and after, ``new < old``.

    Returns:
        (length, round(length * new / old)); ``signals @ matrix`` resamples (signals, length).

    Source: `mne.filter.resample` (Gramfort et al. 2013, doi:10.3389/fnins.2013.00267); equal to it to rounding error.
    """
    padded, front, kept = _sizes(length, old, new)
    ratio = new / old
    drop, times = round(ratio * front), round(ratio * length)
    matrix, rows = np.empty((length, times)), max(1, VALUES // padded)
    for first in range(0, length, rows):
        unit = np.eye(min(rows, length - first), length, first)
        signals = np.pad(unit, ((0, 0), (front, padded - length - front)), mode="edge")
        bins = np.fft.rfft(signals, axis=1)[:, : kept // 2 + 1]
        if kept % 2 == 0:
            bins[:, kept // 2] *= 2  # the new Nyquist bin stands for both of its halves
        matrix[first : first + rows] = (np.fft.irfft(bins, n=kept, axis=1) * (kept / padded))[:, drop : drop + times]
    return matrix


def sample_times(length: int, old: float, new: float) -> NDArray[np.float64]:
    """Say when the resampled values were really measured, in seconds after the first sample of the signal.

    The padding in front is not a whole number of new samples, and the new length is rounded, so this differs from the
    nominal ``k / new``: by +1 ms throughout for 1201 samples from 1000 to 250 Hz.
    """
    padded, front, kept = _sizes(length, old, new)
    ratio = new / old
    return ((np.arange(round(ratio * length)) + round(ratio * front)) * (padded / kept) - front) / old


def _sizes(length: int, old: float, new: float) -> tuple[int, int, int]:
    padded = 2 ** ceil(log2(length + 2 * min(length // 8, 100)))
    return padded, (padded - length) // 2, round(new / old * padded)
