"""The slow twin of `alignvis.recordings.own`: mne.Epochs with everything in memory, and a loop for each step.

It has no code in common with the package.
"""

import mne
import numpy as np
from scipy.linalg import fractional_matrix_power

OPENERS = {
    ".vhdr": mne.io.read_raw_brainvision,
    ".edf": mne.io.read_raw_edf,
    ".bdf": mne.io.read_raw_bdf,
    ".set": mne.io.read_raw_eeglab,
    ".fif": mne.io.read_raw_fif,
}


def shrunk(x):
    """Ledoit and Wolf's covariance of one trial (times, channels) on channels of unit variance."""
    n, p = x.shape
    scale = x.std(axis=0)
    z = (x - x.mean(axis=0)) / scale
    s = z.T @ z / n
    m = np.trace(s) / p
    d2 = np.sum((s - m * np.eye(p)) ** 2) / p
    b2 = sum(np.sum((np.outer(row, row) - s) ** 2) for row in z) / n**2 / p
    share = min(b2, d2) / d2
    return np.outer(scale, scale) * ((1 - share) * s + share * m * np.eye(p))


def trials_of(path, rows, channels, window, baseline, sfreq):
    """The trials of one recording as (image, split, (channels, times)), in order of time, and the times."""
    raw = OPENERS[path.suffix](path, preload=True, verbose="error")
    rate = raw.info["sfreq"]
    rows = sorted(rows)
    events = np.array([[int(round(onset * rate)) + raw.first_samp, 0, 1 + k] for k, (onset, *_) in enumerate(rows)])
    raw.pick(channels)
    start = min(window[0], baseline[0]) if baseline else window[0]
    cut = mne.Epochs(
        raw, events, tmin=start, tmax=window[1], baseline=baseline, preload=True, verbose="error", proj=False
    )
    if sfreq is not None and sfreq < rate:
        cut.resample(sfreq, verbose="error")
    inside = (cut.times >= window[0] - 1e-9) & (cut.times < window[1] - 1e-9)
    data = cut.get_data(picks=channels)[:, :, inside]
    found = [(rows[code - 1][1], rows[code - 1][2], trial) for code, trial in zip(cut.events[:, 2], data, strict=True)]
    return found, cut.times[inside]


def prepare(
    raws,
    tables,
    channels,
    window=(0.0, 1.0),
    baseline=(-0.2, 0.0),
    sfreq=250.0,
    treat="whiten",
    repetitions=None,
    numbers=None,
):
    """Return {part: (ids, values, sessions)} and the times; values are in volts if ``treat`` is "leave"."""
    numbers = numbers or [1 + k for k in range(len(raws))]
    kept = {"train": {}, "test": {}}
    for session in range(1, 256):
        found = []
        for path, rows, number in zip(raws, tables, numbers, strict=True):
            if number == session:
                more, times = trials_of(path, rows, channels, window, baseline, sfreq)
                found += more
        if not found:
            continue
        training = {}
        for image, split, trial in found:
            if split == "train":
                training.setdefault(image, []).append(trial)
        if treat == "whiten":
            covariances = []
            for same in training.values():
                n = len(same)
                if n > 1:
                    covariances += [shrunk((trial - np.mean(same, axis=0)).T) * n / (n - 1) for trial in same]
            matrix = fractional_matrix_power(np.mean(covariances, axis=0), -0.5)
        elif treat == "scale":
            values = np.concatenate([trial for same in training.values() for trial in same], axis=1)
            matrix = np.diag(1 / values.std(axis=1))
        else:
            matrix = np.eye(len(channels))
        for image, split, trial in found:
            kept[split].setdefault(image, []).append((matrix @ trial, session))
    tables = {}
    for number, (part, images) in enumerate(kept.items()):
        count = repetitions[number] if repetitions else min(len(same) for same in images.values())
        ids = sorted(images)
        values = np.array([[trial for trial, _ in images[image][:count]] for image in ids])
        tables[part] = ids, values, np.array([[session for _, session in images[image][:count]] for image in ids])
    return tables, times
