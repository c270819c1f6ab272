"""Preprocessed THINGS-EEG2 files that other projects published -> a responses table.

Two are around under the same names: that of the dataset's authors (17 channels, 100 Hz, 100 times, osf.io/anp5v), saved
by numpy, and that of NICE, ATM and AlignVis (63 channels, 250 Hz, 250 times), a bare pickle. Both are whitened already.
Neither says when its samples were really measured, which follows from how they were resampled (`resample.py`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alignvis import store
from alignvis.errors import AlignvisError
from alignvis.pickles import read_pickled
from alignvis.progress import Progress
from alignvis.recordings.eeg2_files import PARTS, channel_names, channel_rows
from alignvis.recordings.resample import sample_times
from alignvis.recordings.sources import describe, hashing, sha256s
from alignvis.recordings.trials import permutation

FILES = {"train": "preprocessed_eeg_training.npy", "test": "preprocessed_eeg_test.npy"}
KEYS = ("preprocessed_eeg_data", "ch_names", "times")
VALUES = 2**22  # of a chunk: 34 MB in double precision
RECORDED = 1000.0  # samples a second of the recordings that the published files were made from
START = -0.2  # s after onset, where their trials began
# The published time axes, (first s, samples a second, samples), and how many samples a trial had before resampling.
PUBLISHED = {(-0.2, 100.0, 100): 1001, (0.0, 250.0, 250): 1201}
# The sessions of the published repetitions before they were permuted. Sessions 1 and 2 share the training images
# between them, and so do 3 and 4; which of the two showed an image is not in the file, so the first of each pair stands
# for both.
MERGED = {"train": (4, [1, 1, 3, 3]), "test": (80, [1] * 20 + [2] * 20 + [3] * 20 + [4] * 20)}


@dataclass(frozen=True)
class _Preprocessed:
    """One file: ``data`` (images, repetitions, channels, times), mapped; ``times`` (times,) s, of that length."""

    path: Path
    data: NDArray[np.floating]
    channels: list[str]
    times: NDArray[np.float64]


@dataclass(frozen=True)
class Clock:
    """When samples were taken: ``tmin`` s after onset the first, ``sfreq`` a second; ``parameters`` say how far that is
    from what the file states."""

    tmin: float
    sfreq: float
    parameters: dict[str, Any]


def is_preprocessed(folder: Path) -> bool:
    """Say whether a subject's folder holds preprocessed files and no raw sessions."""
    return not any(folder.glob("ses-*")) and any((folder / name).exists() for name in FILES.values())


def convert(
    raw: Path,
    folder: Path,
    ids: Mapping[str, Sequence[str]],
    about: Mapping[str, Any],
    out: Path,
    *,
    channels: str,
    sfreq: float,
    dtype: str,
    progress: Progress,
) -> None:
    """Convert one subject's preprocessed files, values as they are; an interrupted call continues with the unfinished
    file.

    Args:
        raw: the folder that source files are named below.
        folder: the subject's, below ``raw``.
        ids: image ids of both parts, one for each row of the files.
        about: what the document says whatever the input.
        channels: "all" that the files have, "occipital", or names with commas.
        sfreq: what the user asked for; the default 250 or the files' own rate.
        dtype: "float16" or "float32".

    Raises:
        AlignvisError: when a file is missing or of another kind, when the two do not fit together or to the images, or
            when a value is not finite.
    """
    files = {part: _open(folder / name, len(ids[part])) for part, name in FILES.items()}
    train, test = files["train"], files["test"]
    if train.channels != test.channels or not np.array_equal(train.times, test.times):
        raise AlignvisError(f"{train.path} and {test.path} differ in their channels or times; download both again")
    rate = round(1 / float(np.diff(train.times).mean()), 6)
    if sfreq not in (250.0, rate):
        raise AlignvisError(
            f"{train.path} has {rate:g} samples a second; for --sfreq {sfreq:g} give the raw recordings"
        )
    measured = clock(train.times, rate)
    names = train.channels if channels == "all" else channel_names(channels)
    rows = channel_rows(train.path, train.channels, names)
    sessions = {part: merged_sessions(part, files[part].data.shape[1]) for part in PARTS}
    document = about | {
        "channels": names,
        "sfreq": measured.sfreq,
        "tmin": measured.tmin,
        **{f"{part}_images": list(ids[part]) for part in PARTS},
        "parameters": {
            "preprocessed_elsewhere": True,
            "sessions": {part: _note(part, files[part].data.shape[1]) for part in PARTS},
            **measured.parameters,
        },
        "sources": describe([file.path for file in files.values()], raw),
    }
    layout = {part: (dtype, (*f.data.shape[:2], len(names), len(f.times))) for part, f in files.items()}
    layout |= {f"{part}.session": ("uint8", layout[part][1][:2]) for part in PARTS}
    layout["sources.sha256"] = ("uint8", (len(files), 32))
    table = store.begin(out, layout, document)
    total, done = sum(len(file.data) for file in files.values()), 0
    for index, (part, file) in enumerate(files.items()):
        digest = table["sources.sha256"][index]
        if not (digest.any() and np.array_equal(digest, sha256s([file.path])[0])):
            digest[...] = 0  # whatever was there is made again
            with hashing([file.path]) as hashes:
                table[f"{part}.session"][...] = sessions[part]
                size = max(1, VALUES // file.data[0].size)
                for first in range(0, len(file.data), size):
                    try:
                        _copy(table[part], file, rows, slice(first, first + size))
                    except AlignvisError:  # the file will be another one before this can succeed
                        store.discard(out)
                        raise
                    progress(done + min(first + size, len(file.data)), total, f"{part} images")
                table[part].flush()
                table[f"{part}.session"].flush()
                digest[...] = hashes[0].result()
                table["sources.sha256"].flush()
        done += len(file.data)
    store.commit(out)


def _copy(part: np.memmap, file: _Preprocessed, rows: NDArray[np.int64], images: slice) -> None:
    with np.errstate(all="ignore"):  # said below
        values = file.data[images][:, :, rows].astype(np.float32)
    largest = np.abs(values).max(axis=(0, 1, 3))
    if not (largest <= np.finfo(part.dtype).max).all():  # false for NaN too
        worst = int(np.argmin(largest <= np.finfo(part.dtype).max))
        raise AlignvisError(
            f"{file.path}: channel {file.channels[rows[worst]]} has the value {largest[worst]:g} within images "
            f"{images.start + 1} to {images.start + len(values)}, which {part.dtype} does not hold; download it again"
        )
    part[images] = values


def clock(times: NDArray[np.float64], rate: float) -> Clock:
    """Work out when the samples of a published file were measured.

    The resampler's padding in front is no whole number of new samples, and at 100 Hz not even the padded length is: the
    authors' samples lie 9.990 ms apart, and 3.5 to 4.5 ms before the times in their file. Those of 250 Hz lie 4 ms
    apart, as they should, and 1 ms late throughout, like those made here from the raw recordings: they keep the times
    of their file.
    """
    tmin = round(float(times[0]), 9)
    length = PUBLISHED.get((tmin, rate, len(times)))
    if length is None:
        return Clock(tmin, rate, {})
    measured = sample_times(length, RECORDED, rate)[-len(times) :] + START
    late = [round(1000 * float(measured[end] - times[end]), 3) for end in (0, -1)]
    parameters: dict[str, Any] = {"resampling": {"measured_after_nominal_ms": late}}
    if late[0] == late[1]:
        return Clock(tmin, rate, parameters)
    parameters["resampling"] |= {"nominal_tmin": tmin, "nominal_sfreq": rate}
    return Clock(round(float(measured[0]), 9), round(1 / float(np.diff(measured).mean()), 9), parameters)


def merged_sessions(part: str, repetitions: int) -> NDArray[np.uint8]:
    """The session of each repetition by the published order of merging; zeros where there are others."""
    published, merged = MERGED[part]
    if repetitions != published:
        return np.zeros(repetitions, dtype=np.uint8)
    return np.array(merged, dtype=np.uint8)[permutation(published)]


def _note(part: str, repetitions: int) -> str:
    if repetitions != MERGED[part][0]:
        return "unknown, written as 0"
    if part == "train":
        return "by the published order of merging: 1 stands for session 1 or 2, 3 for session 3 or 4"
    return "by the published order of merging"


def _open(path: Path, images: int) -> _Preprocessed:
    content = read_pickled(path)
    if not isinstance(content, dict) or any(key not in content for key in KEYS):
        found = f"has {', '.join(map(str, content))}" if isinstance(content, dict) else f"is a {type(content).__name__}"
        raise AlignvisError(f"{path} {found}; a preprocessed file of THINGS-EEG2 has {', '.join(KEYS)}")
    data, channels, times = (content[key] for key in KEYS)
    if not isinstance(data, np.ndarray) or data.ndim != 4 or data.dtype.kind != "f" or 0 in data.shape:
        raise AlignvisError(
            f"{path}: {KEYS[0]} is {getattr(data, 'shape', type(data).__name__)}; expected images, "
            "repetitions, channels and times"
        )
    if not isinstance(channels, list) or len(channels) != data.shape[2] or len(set(map(str, channels))) < len(channels):
        raise AlignvisError(f"{path} has {data.shape[2]} channels, and ch_names does not name each of them once")
    if len(data) != images:
        raise AlignvisError(
            f"{path} has {len(data)} images and --images has {images}; rows are matched by order, so both have to "
            "be whole"
        )
    # The published 63-channel files keep the time axis from before they were trimmed: 300 times for 250 samples.
    fits = (
        isinstance(times, np.ndarray)
        and times.ndim == 1
        and times.dtype.kind == "f"
        and len(times) >= data.shape[3] > 1
    )
    axis = np.asarray(times[-data.shape[3] :], dtype=np.float64) if fits else np.zeros(2)
    steps = np.diff(axis)
    if not fits or not (steps > 0).all() or np.ptp(steps) > 1e-6 or (len(times) > len(axis) and axis[0] < -1e-9):
        raise AlignvisError(f"{path}: its times do not fit its {data.shape[3]} samples; download the file again")
    return _Preprocessed(path, data, [str(channel) for channel in channels], axis)
