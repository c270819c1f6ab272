"""THINGS-EEG2 as downloaded -> a responses table.

Gifford, Dwivedi, Roig & Cichy (2022), "A large and rich EEG dataset for modeling human visual object recognition",
doi:10.1016/j.neuroimage.2022.119754; data at osf.io/3jk45. The defaults reproduce the preprocessing that NICE (Song et
al. 2024, arXiv:2308.13234), ATM and AlignVis share. The recordings are mapped and read forward, a few trials at a time.
"""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from alignvis.errors import AlignvisError
from alignvis.progress import Progress, silent
from alignvis.recordings import layouts
from alignvis.recordings.eeg2_files import (
    PARTS,
    Recording,
    channel_names,
    image_ids,
    open_recording,
    session_files,
    simulation,
    subject_folder,
)
from alignvis.recordings.eeg2_table import fill
from alignvis.recordings.epochs import Epoch, epoch
from alignvis.recordings.filling import about, check_dtype, is_there, summary
from alignvis.recordings.sources import describe
from alignvis.recordings.trials import SEED, Trials, find_trials, plan

SESSIONS = (1, 2, 3, 4)
WINDOW = (0.0, 1.0)
REPETITIONS = (2, 20)
PAIRS = ((1, 2), (3, 4))  # sessions that share the training images between them
# What one recording of the published data holds: trials, images, fewest and most trials of an image.
DESIGN = {"train": (16710, 8270, 2, 4), "test": (4056, 200, 20, 21)}

Trialsets = dict[str, dict[int, Trials]]  # part -> session -> trials


def dataset_name(raw: Path, subject: int) -> str:
    """What a subject's table is filed under: simulated recordings never stand among real ones."""
    return "things-eeg2" if simulation(subject_folder(raw, subject)) is None else "things-eeg2-simulated"


def prepare(
    raw: Path,
    *,
    subject: int,
    images: Path,
    out: Path,
    sessions: Sequence[int] = SESSIONS,
    channels: str = "all",
    sfreq: float = 250.0,
    window: tuple[float, float] = WINDOW,
    repetitions: tuple[int, int] | None = None,
    dtype: str = "float16",
    overwrite: bool = False,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Turn one subject's recordings into a responses table, in noise standard deviations.

    Each trial is cut out, its mean before onset (-0.2 to 0 s) subtracted, resampled, and whitened with the noise
    covariance of its session's training trials. A call that was interrupted continues with the first unfinished
    session. Where the folder holds the published preprocessed files instead of sessions, those are converted
    (`layouts.py`).

    Args:
        raw: the folder that holds sub-01, sub-02, ...
        images: the folder that holds image_metadata.npy, or training_images/ and test_images/.
        out: the table to write.
        sessions: which of the four to use; an image is in the table if one of them showed it.
        channels: "all" (63, in the order of NICE), "occipital" (the 17 whose names begin with O or P) or names with
            commas.
        sfreq: samples a second of the table, below the recording's 1000.
        window: (first, last) s after onset; the last sample is left out.
        repetitions: trials to keep of each (training, test) image in a session; the published (2, 20) by default, or
            what a simulated subject states.
        dtype: "float16" or "float32"; the former is the latter rounded once.
        overwrite: replace a table that is there; otherwise one made with the same options is kept.

    Returns:
        What was written: path, dataset, shapes, seconds, ``kept`` (it was there), and ``warnings``, sentences on what
            was left out or unexpected.

    Raises:
        AlignvisError: when a table made with other options is in the way, when a file is missing or not of this
            dataset, when an image has too few trials, when a channel is dead or a sample not finite.

    Source: the pipeline of github.com/eeyhsong/NICE-EEG, which trims the responses but not their times; here both fit.
    """
    begun = time.monotonic()
    raw, images, out = Path(raw), Path(images), Path(out)
    sfreq, window = float(sfreq), (float(window[0]), float(window[1]))
    check_dtype(dtype)
    folder = subject_folder(raw, subject)
    marker = simulation(folder)
    ids = image_ids(images, published=marker is None)
    asked = {
        "sessions": sorted(sessions),
        "channels": channels,
        "sfreq": sfreq,
        "window": list(window),
        "repetitions": repetitions and list(repetitions),
        "dtype": dtype,
    }
    if is_there(out, asked, overwrite):
        return summary(out, True, begun, [])
    head = about(dataset_name(raw, subject), subject, "noise standard deviations", marker is not None, asked)
    if layouts.is_preprocessed(folder):
        changed = {
            "--sessions": tuple(sessions) != SESSIONS,
            "window": window != WINDOW,
            "--repetitions": repetitions is not None,
        }
        asked = [option for option, value in changed.items() if value]
        if asked:
            raise AlignvisError(
                f"{folder} holds preprocessed files, which {asked[0]} cannot change; give the raw recordings"
            )
        warnings: list[str] = []
        layouts.convert(raw, folder, ids, head, out, channels=channels, sfreq=sfreq, dtype=dtype, progress=progress)
    else:
        names, keep = channel_names(channels), repetitions or marker or REPETITIONS
        if min(keep) < 1:
            raise AlignvisError(f"--repetitions has to be at least 1 of each, not {keep[0]} {keep[1]}")
        recordings = _open_all(raw, folder, sessions)
        for recording in recordings.values():
            recording.rows(names)  # refused now rather than after the first session
        cut = epoch(recordings.values(), sfreq, window)
        trials, warnings = _trials(recordings, ids, cut, keep, published=marker is None)
        plans = {part: plan(trials[part], count) for part, count in zip(PARTS, keep, strict=True)}
        for part in PARTS:
            if plans[part].left_out:
                warnings.append(
                    f"{plans[part].left_out} {part} trials were left out, as some images were shown in fewer of the "
                    f"sessions than others: the table has {plans[part].sessions.shape[1]} repetitions of each"
                )
        document = head | {
            "channels": names,
            "sfreq": sfreq,
            "tmin": cut.tmin,
            **{f"{part}_images": [ids[part][image] for image in plans[part].images] for part in PARTS},
            "parameters": _parameters(cut, keep, sorted(sessions)),
            "sources": describe([recording.path for recording in recordings.values()], raw),
        }
        fill(out, document, recordings, plans, cut, dtype, progress)
    return summary(out, False, begun, warnings)


def _open_all(raw: Path, folder: Path, sessions: Sequence[int]) -> dict[tuple[int, str], Recording]:
    files = session_files(folder, sessions)
    return {key: open_recording(path, key[0], path.relative_to(raw).as_posix()) for key, path in files.items()}


def _trials(
    recordings: Mapping[tuple[int, str], Recording],
    ids: Mapping[str, Sequence[str]],
    cut: Epoch,
    keep: tuple[int, int],
    published: bool,
) -> tuple[Trialsets, list[str]]:
    """Find the trials of every recording, and say what is odd about them; too few trials of an image are refused."""
    trials: Trialsets = {part: {} for part in PARTS}
    warnings = []
    for (session, part), recording in recordings.items():
        wanted = keep[PARTS.index(part)]
        try:
            found = find_trials(recording.stim(), len(ids[part]), cut.before, cut.after)
        except AlignvisError as error:
            raise AlignvisError(f"{recording.path}: {error}") from error
        counts = np.bincount(found.images, minlength=len(ids[part]))
        few = np.flatnonzero((counts > 0) & (counts < wanted))
        if len(few) or len(found.images) == 0:
            image = few[0] if len(few) else 0
            raise AlignvisError(
                f"{recording.path}: session {session} has {counts[image]} whole trials of the {part} image "
                f"{ids[part][image]}, and {wanted} were to be kept of each; lower --repetitions (now {keep[0]} "
                f"{keep[1]})"
            )
        if found.cut_off:
            warnings.append(
                f"{recording.name}: {found.cut_off} trials were left out, as the recording begins or ends within them"
            )
        some = counts[counts > 0]
        shape = (len(found.images) + found.cut_off, len(some), int(some.min()), int(some.max()))
        expected = DESIGN[part]
        if published and (shape[:2] != expected[:2] or shape[2] < expected[2] or shape[3] > expected[3]):
            warnings.append(
                f"{recording.name}: {shape[0]} trials of {shape[1]} images, {shape[2]} to {shape[3]} of each; the "
                f"published design has {expected[0]} of {expected[1]}, {expected[2]} to {expected[3]} of each"
            )
        trials[part][session] = found
    _refuse_gaps(trials, ids, recordings)
    return trials, warnings


def _refuse_gaps(
    trials: Trialsets, ids: Mapping[str, Sequence[str]], recordings: Mapping[tuple[int, str], Recording]
) -> None:
    """Refuse an image without a trial: each session shows every test image, and each pair every training image."""
    complete = {
        "test": [(session,) for session in trials["test"]],
        "train": [p for p in PAIRS if trials["train"].keys() >= {*p}],
    }
    for part, groups in complete.items():
        for group in groups:
            shown = np.concatenate([trials[part][session].images for session in group])
            missing = np.setdiff1d(np.arange(len(ids[part])), shown)
            if len(missing):
                files = " and ".join(recordings[session, part].name for session in group)
                raise AlignvisError(
                    f"{len(missing)} of the {len(ids[part])} {part} images have no whole trial in {files} (the first "
                    f"is {ids[part][missing[0]]}); download what is incomplete again, or leave it out with --sessions"
                )


def _parameters(cut: Epoch, keep: tuple[int, int], sessions: Sequence[int]) -> dict[str, Any]:
    return {
        "sessions": list(sessions),
        "window": list(cut.window),
        "baseline": list(cut.baseline),
        "resampling": {
            "method": "mne-fft",
            "from": cut.rate,
            "measured_after_nominal_ms": [round(1000 * shift, 3) for shift in cut.shift],
        },
        "whitening": {
            "method": "mvnn",
            "dims": "epochs",
            "covariance": "Ledoit-Wolf on standardised channels",
            "fitted_on": "training trials of the same session, within the window",
        },
        "selection": {"seed": SEED, "repetitions_in_a_session": dict(zip(PARTS, keep, strict=True))},
    }
