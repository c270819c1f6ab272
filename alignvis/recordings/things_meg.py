"""THINGS-MEG as downloaded -> a responses table.

Hebart, Contier, Teichmann et al. (2023), "THINGS-data, a multimodal collection of large-scale datasets for
investigating object representations in human brain and behavior", doi:10.7554/eLife.82580; data at OpenNeuro, ds004212.
The published preprocessed trials are read as they are, a few at a time and in the order of the files.
"""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alignvis.channels import is_occipital
from alignvis.errors import AlignvisError
from alignvis.progress import Progress, silent
from alignvis.recordings.filling import PARTS, Block, about, check_dtype, check_sources, fill, is_there, summary
from alignvis.recordings.meg_files import (
    CATCH,
    EXP,
    TEST,
    Recording,
    Trials,
    chain,
    first_file,
    image_id,
    open_recording,
    read_trials,
    simulation,
)
from alignvis.recordings.resample import fft_resampler, sample_times
from alignvis.recordings.sources import describe

RATE = 200.0  # samples a second of the published files
WINDOW = (0.0, 1.0)
TRIALS = 64  # read at once: 39 MB of 271 channels and 281 samples, and twice that while mne picks channels
# What a published subject's files hold.
CHANNELS, SAMPLES, START = 271, 281, -0.1
COUNTS = {"exp": 22248, "test": 2400, "catch": 2400}
TRAIN_IMAGES = 19848  # exp pictures of the concepts that no test picture shows
PREPROCESSED = {
    "published": "by the authors: filtered 0.1 to 40 Hz, each trial and channel z-scored by its -0.1 to 0 s",
    "simulated": "each trial and channel z-scored by its -0.1 to 0 s",
}
CONFOUND = (
    "each training image was shown once, the images of a concept in different sessions: what differs between sessions "
    "differs between images too"
)


@dataclass(frozen=True)
class Cut:
    """How a trial becomes a response.

    Attributes:
        rate: samples a second, before.
        matrix: (samples, all times) float64 that resamples a whole trial; None where the rate stays.
        keep: the times that are kept.
        sfreq, tmin, times: of the response: samples a second, s after onset of the first, how many.
        shift: s by which the first and the last were measured later than their nominal times.
    """

    rate: float
    matrix: NDArray[np.float64] | None
    keep: slice
    sfreq: float
    tmin: float
    times: int
    shift: tuple[float, float]

    def __call__(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """(trials, channels, samples) to (trials, channels, times)."""
        # A product for each trial, of one size: so a trial's values do not depend on which others it is read with.
        return values[:, :, self.keep] if self.matrix is None else np.matmul(values, self.matrix[:, self.keep])


@dataclass(frozen=True)
class Part:
    """One part (training or test) of the table.

    Attributes:
        images: (rows,) image ids, by their number in THINGS.
        trials: (rows, repetitions) which trial of the files each response is.
        left_out: trials of images that were shown more often than others.
    """

    images: list[str]
    trials: NDArray[np.int64]
    left_out: int


def dataset_name(raw: Path, subject: int) -> str:
    """What a subject's table is filed under: simulated recordings never stand among real ones."""
    return "things-meg" if simulation(first_file(Path(raw), subject)) is None else "things-meg-simulated"


def prepare(
    raw: Path,
    *,
    subject: int,
    images: Path | None = None,
    out: Path,
    sessions: Sequence[int] | None = None,
    channels: str = "all",
    sfreq: float = RATE,
    window: tuple[float, float] = WINDOW,
    dtype: str = "float16",
    overwrite: bool = False,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Turn one subject's preprocessed trials into a responses table, in baseline standard deviations as published.

    Training images are those of the experiment's trials whose concept no test trial shows; catch trials are left out.
    Images stand in the order of their THINGS numbers, the repetitions of one in the order of session, run and onset.
    Nothing is scaled and no baseline subtracted, as both was done before publication. A call that was interrupted
    continues with the first unfinished block.

    Args:
        raw: the dataset's folder, with derivatives/preprocessed below it, or the folder of preprocessed_P1-epo.fif.
        images: the picture folder. Where it has images_meg/, the image ids are the paths of the experiment; without
            that, and without a folder, they follow the tree of the THINGS database, <concept>/<file>.jpg.
        out: the table to write.
        sessions: which of the twelve to use, or all.
        channels: "all", "occipital" (those whose third letter is O) or names with commas.
        sfreq: samples a second of the table, at most the 200 of the files; below that, whole trials (-0.1 to 1.3 s) are
            resampled and then cut.
        window: (first, last) s after onset, both included; each counts as the nearest sample, as in mne's crop.
        dtype: "float16" or "float32"; the former is the latter rounded once.
        overwrite: replace a table that is there; otherwise one made with the same options is kept.

    Returns:
        What `filling.summary` says of the table.

    Raises:
        AlignvisError: when a table made with other options is in the way, when a part of the files is missing, renamed
            or damaged, when one image number stands for two pictures or an image for training and test.

    Source: the steps of github.com/ViCCo-Group/THINGS-data for THINGS-MEG and of AlignVis, with a stable order.
    """
    begun = time.monotonic()
    raw, out = Path(raw), Path(out)
    sfreq, window = float(sfreq), (float(window[0]), float(window[1]))
    check_dtype(dtype)
    first = first_file(raw, subject)
    simulated = simulation(first) is not None
    as_published = images is not None and (Path(images) / "images_meg").is_dir()
    asked = {
        "sessions": None if sessions is None else sorted(sessions),
        "channels": channels,
        "sfreq": sfreq,
        "window": list(window),
        "image_ids": "paths of the experiment" if as_published else "paths of the THINGS database",
        "dtype": dtype,
    }
    if is_there(out, asked, overwrite):
        check_sources(out, chain(first))
        return summary(out, True, begun, [])
    recording = open_recording(first)
    trials = read_trials(recording)
    names, cut = channel_names(channels, recording.channels), epoch(recording, sfreq, window)
    concepts = np.unique(trials.category[trials.kind == TEST])
    fresh = (trials.kind == EXP) & ~np.isin(trials.category, concepts)
    warnings = [] if simulated else _unexpected(recording, trials, fresh)
    differing = int(((recording.codes != trials.image) & (trials.kind != CATCH)).sum())
    if differing:
        warnings.append(
            f"the event codes of {differing} trials are not the numbers of their images; the trials' own description "
            "was used, as the authors advise"
        )
    chosen = _of_sessions(trials, sessions)
    parts = {
        "train": _part("train", trials, np.flatnonzero(fresh & chosen), as_published),
        "test": _part("test", trials, np.flatnonzero((trials.kind == TEST) & chosen), as_published),
    }
    _refuse_shared(parts)
    taken = int(((trials.kind == EXP) & ~fresh & chosen).sum())
    warnings.append(
        f"left out: {int((trials.kind == CATCH).sum())} catch trials, and {taken} trials of the {len(concepts)} "
        "concepts that the test pictures show"
    )
    for part in PARTS:
        if parts[part].left_out:
            warnings.append(
                f"{parts[part].left_out} {part} trials were left out, as some images were shown more often than "
                f"others: the table has {parts[part].trials.shape[1]} repetitions of each"
            )
    head = about(dataset_name(raw, subject), subject, "baseline standard deviations", simulated, asked)
    document = head | {
        "channels": names,
        "sfreq": cut.sfreq,
        "tmin": cut.tmin,
        **{f"{part}_images": parts[part].images for part in PARTS},
        "parameters": _parameters(trials, fresh, parts, cut, window, simulated),
        "sources": describe(recording.files, raw),
    }
    rows = np.array([recording.channels.index(name) for name in names])
    fill(
        out,
        document,
        {part: trials.session[parts[part].trials].astype(np.uint8) for part in PARTS},
        (len(names), cut.times),
        _blocks(parts),
        lambda block: cut(recording.values(block.where, rows)),
        dtype=dtype,
        sources=recording.files,
        progress=progress,
    )
    return summary(out, False, begun, warnings)


def channel_names(channels: str, recorded: Sequence[str]) -> list[str]:
    """Say which channels are asked for.

    Args:
        channels: "all", "occipital" or names with commas.
        recorded: what the files have, in their order.
    """
    if channels == "all":
        return list(recorded)
    if channels == "occipital":
        names = [name for name in recorded if is_occipital(name)]
        if not names:
            raise AlignvisError(f"no channel is occipital, with O for its third letter (the first is {recorded[0]})")
        return names
    names = [name.strip() for name in channels.split(",")]
    unknown = [name for name in names if name not in recorded]
    if unknown or len(set(names)) < len(names):
        wrong = f"no channel is called {unknown[0]!r}" if unknown else "a channel is named twice"
        raise AlignvisError(
            f"{wrong} in --channels; there are {len(recorded)}, for example {', '.join(recorded[:3])}, and the words "
            "all and occipital"
        )
    return names


def epoch(recording: Recording, sfreq: float, window: tuple[float, float]) -> Cut:
    """Work out how trials are resampled and cut; see `prepare` for the arguments."""
    rate, start, samples = recording.rate, recording.tmin, recording.samples
    if not 1 <= sfreq <= rate:
        raise AlignvisError(f"--sfreq {sfreq:g} has to be at least 1 and at most the {rate:g} of {recording.files[0]}")
    end = start + (samples - 1) / rate
    if not start - 0.5 / rate < window[0] < window[1] < end + 0.5 / rate:
        raise AlignvisError(
            f"window {window[0]:g} {window[1]:g} has to lie within the trials, which last from {start:g} to {end:g} s"
        )
    matrix, late = None, np.zeros(samples)
    if sfreq < rate:
        matrix = fft_resampler(samples, rate, sfreq)
        late = sample_times(samples, rate, sfreq) - np.arange(matrix.shape[1]) / sfreq
        samples = matrix.shape[1]
    times = start + np.arange(samples) / sfreq
    half = 0.5 / sfreq + 1e-9  # whatever rounding does to a sample just between two others, it is kept
    low, high = (round(edge * sfreq) / sfreq for edge in window)
    kept = np.flatnonzero((times >= low - half) & (times <= high + half))
    if len(kept) == 0:
        raise AlignvisError(f"window {window[0]:g} {window[1]:g} holds no sample at {sfreq:g} Hz; make it longer")
    keep = slice(int(kept[0]), int(kept[-1]) + 1)
    shift = (float(late[kept[0]]), float(late[kept[-1]]))
    return Cut(rate, matrix, keep, sfreq, round(float(times[kept[0]]), 9), len(kept), shift)


def _of_sessions(trials: Trials, sessions: Sequence[int] | None) -> NDArray[np.bool_]:
    """Whether each trial is of the sessions asked for."""
    there = np.unique(trials.session[trials.kind != CATCH])
    missing = [session for session in sessions or () if session not in there]
    if missing or (sessions is not None and not len(sessions)):
        raise AlignvisError(
            f"there is no session {', '.join(map(str, missing)) or 'asked for'} in the files, which have "
            f"{', '.join(map(str, there))}; choose others with --sessions"
        )
    return np.isin(trials.session, there if sessions is None else list(sessions))


def _part(part: str, trials: Trials, chosen: NDArray[np.int64], as_published: bool) -> Part:
    """Order some trials by image, and by time within an image; of every image as many as the rarest has."""
    if len(chosen) == 0:
        raise AlignvisError(f"the files have no {part} trial to be used; are these all parts of ds004212's files?")
    keys = (trials.onset, trials.run, trials.session, trials.image)  # the last counts most
    chosen = chosen[np.lexsort([key[chosen] for key in keys])]
    numbers, first, counts = np.unique(trials.image[chosen], return_index=True, return_counts=True)
    kept = counts.min()
    path_of: dict[int, str] = {}
    for trial in chosen:
        known = path_of.setdefault(int(trials.image[trial]), trials.paths[trial])
        if known != trials.paths[trial]:
            raise AlignvisError(
                f"image number {trials.image[trial]} stands for {known!r} and for {trials.paths[trial]!r}; the "
                "description of the trials is damaged: download the files again"
            )
    ids = [image_id(path_of[number], EXP if part == "train" else TEST, as_published) for number in numbers.tolist()]
    if len(set(ids)) < len(ids):
        twice = Counter(ids).most_common(1)[0][0]
        raise AlignvisError(
            f"{twice} has two image numbers; the description of the trials is damaged: download it again"
        )
    return Part(ids, chosen[first[:, None] + np.arange(kept)], int((counts - kept).sum()))


def _refuse_shared(parts: dict[str, Part]) -> None:
    shared = set(parts["train"].images) & set(parts["test"].images)
    if shared:
        raise AlignvisError(
            f"{len(shared)} images are both training and test images (the first is {min(shared)!r}), though their "
            "concepts differ; the description of the trials is damaged: download the files again"
        )


def _blocks(parts: dict[str, Part]) -> list[Block]:
    """Divide all responses into runs of trials that lie beside each other in the files, in their order."""
    last = max(int(part.trials.max()) for part in parts.values())
    blocks = []
    place = {}
    for name, part in parts.items():
        order = np.argsort(part.trials, axis=None)
        place[name] = part.trials.ravel()[order], *np.divmod(order, part.trials.shape[1])
    for begin in range(0, last + 1, TRIALS):
        for name, (trials, rows, slots) in place.items():
            here = slice(*np.searchsorted(trials, (begin, begin + TRIALS)))
            if here.start < here.stop:
                text = f"{name} trials"
                blocks.append(Block(name, rows[here], slots[here], trials[here], text))
    return blocks


def _unexpected(recording: Recording, trials: Trials, fresh: NDArray[np.bool_]) -> list[str]:
    """Say where a subject's files differ from what was published."""
    found = _counts(trials) | {"training": int(fresh.sum())}
    expected = COUNTS | {"training": TRAIN_IMAGES}
    sentences = []
    if found != expected:
        said = [", ".join(f"{count:,} {name}" for name, count in counts.items()) for counts in (found, expected)]
        sentences.append(f"the files have trials as follows: {said[0]}; the published ones: {said[1]}")
    shape = (len(recording.channels), recording.samples, recording.rate, round(recording.tmin, 6))
    if shape != (CHANNELS, SAMPLES, RATE, START):
        sentences.append(
            f"the trials have {shape[0]} channels and {shape[1]} samples at {shape[2]:g} Hz from {shape[3]:g} s; the "
            f"published ones have {CHANNELS} and {SAMPLES} at {RATE:g} Hz from {START:g} s"
        )
    further = recording.files[0].with_name(f"{recording.files[0].stem}-{len(recording.files)}.fif")
    if further.exists():
        sentences.append(f"{further.name} is there, but {recording.files[-1].name} says that it is the last part")
    return sentences


def _counts(trials: Trials) -> dict[str, int]:
    return {name: int((trials.kind == kind).sum()) for name, kind in (("exp", EXP), ("test", TEST), ("catch", CATCH))}


def _parameters(
    trials: Trials,
    fresh: NDArray[np.bool_],
    parts: dict[str, Part],
    cut: Cut,
    window: tuple[float, float],
    simulated: bool,
) -> dict[str, Any]:
    counts = _counts(trials)
    resampling = {
        "method": "mne-fft",
        "of": "the whole trial",
        "from": cut.rate,
        "measured_after_nominal_ms": [round(1000 * shift, 3) for shift in cut.shift],
    }
    used = np.concatenate([part.trials.ravel() for part in parts.values()])
    return {
        "sessions": np.unique(trials.session[used]).tolist(),
        "window": list(window),
        "window_ends": "both included",
        "preprocessed": PREPROCESSED["simulated" if simulated else "published"],
        "resampling": None if cut.matrix is None else resampling,
        "trials": counts,
        "left_out": {
            "catch": counts["catch"],
            "exp_of_test_concepts": counts["exp"] - int(fresh.sum()),
            "test_concepts": len(np.unique(trials.category[trials.kind == TEST])),
            **{f"{name}_repetitions": part.left_out for name, part in parts.items()},
        },
        "session_and_image": CONFOUND,
    }
