"""Opens a recording of any common kind by way of mne, so that pieces of it can be read."""

import glob
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alignvis.channels import is_occipital
from alignvis.errors import AlignvisError
from alignvis.recordings.fif import check_fif
from alignvis.recordings.own_eeglab import open_set
from alignvis.recordings.own_headers import check_brainvision, check_ctf, check_edf

READABLE = "BrainVision (.vhdr), EDF (.edf), BDF (.bdf), EEGLAB (.set), FIF (.fif) and CTF (a .ds folder) can be read"
BESIDE = {".eeg": ".vhdr", ".vmrk": ".vhdr", ".fdt": ".set", ".meg4": ".ds folder", ".res4": ".ds folder"}
VOLTS, TESLA, GRADIENT = ("microvolts", 1e6), ("femtotesla", 1e15), ("femtotesla per centimetre", 1e13)
# By kind of channel, the unit that a table holds its values in, and how many of them mne's unit is: so that numbers are
# neither so small nor so large that half precision loses them.
UNITS = {
    "eeg": VOLTS,
    "mag": TESLA,
    "grad": GRADIENT,
    "seeg": VOLTS,
    "ecog": VOLTS,
    "dbs": VOLTS,
    "eog": VOLTS,
    "ecg": VOLTS,
    "emg": VOLTS,
    "ref_meg": TESLA,
}
OTHER = ("units of the recording", 1.0)
OTHERS = re.compile(
    r"[HV]?EOG|ECG|EKG|EMG|GSR|EDA|RESP|STATUS|TRIG", re.IGNORECASE
)  # how names of other channels begin
BRAIN = ("eeg", "mag", "grad", "seeg", "ecog", "dbs")
KINDS = {**{kind: (kind,) for kind in BRAIN}, "meg": ("mag", "grad")}


@dataclass(frozen=True)
class Recording:
    """One recording, opened.

    Attributes:
        data: ``data[rows, first:last]`` gives (rows, samples), in the unit of each channel's kind (`UNITS`).
        kinds: what each channel measures, as mne calls it.
        samples: how many there are of each channel.
        bads: channels that the recording itself calls bad.
        breaks: (breaks, 2) first sample and the one after the last of what no trial may touch; where the two are equal,
            the recording was interrupted before that sample.
        files: everything that it consists of.
        notes: sentences on what was left out.
    """

    path: Path
    name: str
    session: int
    data: Any
    channels: list[str]
    rate: float
    kinds: list[str]
    samples: int
    bads: list[str]
    breaks: NDArray[np.int64]
    files: list[Path]
    notes: list[str]


@dataclass(frozen=True)
class _Pieces:
    """Reads pieces of a recording of mne when they are asked for."""

    raw: Any
    scales: NDArray[np.float64]
    path: Path

    def __getitem__(self, where: tuple[NDArray[np.int64], slice]) -> NDArray[np.float64]:
        rows, span = where
        # mne wants ascending channels of some formats, and reads each once
        distinct, place = np.unique(rows, return_inverse=True)
        values = _by_mne(self.path, lambda: self.raw.get_data(distinct, int(span.start), int(span.stop)))
        if values.shape != (len(distinct), span.stop - span.start):
            raise AlignvisError(f"{self.path} has no samples {span.start:,} to {span.stop:,}; copy it again")
        with np.errstate(all="ignore"):  # what is no number is refused where it matters
            return values[place] * self.scales[rows, None]


def open_any(path: Path, session: int) -> Recording:
    """Open a recording, whatever its kind.

    Raises:
        AlignvisError: when there is none, or none that can be read, or when it is damaged.
    """
    ending = path.suffix.lower()
    if ending in BESIDE:
        raise AlignvisError(f"{path} is a part of a recording; give the {BESIDE[ending]} that it belongs to")
    if ending not in OPEN:
        raise AlignvisError(f"{path} is of no kind that is known here; {READABLE}")
    if not (path.is_dir() if ending == ".ds" else path.is_file()):
        raise AlignvisError(f"there is no {'folder' if ending == '.ds' else 'file'} {path}")
    try:
        recording = OPEN[ending](path, session)
    except OSError as error:
        raise AlignvisError(f"{path} could not be read ({error})") from error
    twice = [name for name in set(recording.channels) if recording.channels.count(name) > 1]
    if twice:
        raise AlignvisError(f"{path} has several channels called {min(twice)!r}; rename them")
    return recording


def _brainvision(path: Path, session: int) -> Recording:
    files = check_brainvision(path)
    return _opened(path, session, files, lambda io: io.read_raw_brainvision(path, verbose="error"))


def _edf(path: Path, session: int) -> Recording:
    slower = check_edf(path, 2)
    return _opened(path, session, [path], lambda io: io.read_raw_edf(path, exclude=slower, **QUIET), slower)


def _bdf(path: Path, session: int) -> Recording:
    slower = check_edf(path, 3)
    return _opened(path, session, [path], lambda io: io.read_raw_bdf(path, exclude=slower, **QUIET), slower)


QUIET: dict[str, Any] = {"infer_types": True, "verbose": "error"}


def _fif(path: Path, session: int) -> Recording:
    for part in (path, *_continuations(path)):
        check_fif(part)
    return _opened(path, session, [], lambda io: io.read_raw_fif(path, allow_maxshield=True, verbose="error"))


def _continuations(path: Path) -> list[Path]:
    """The further files that a long recording may go on in, by the names that mne gives them."""
    pattern = re.sub(r"_split-\d+_", "_split-*_", glob.escape(path.name))
    if pattern == glob.escape(path.name):
        pattern = f"{glob.escape(path.stem)}-[0-9]*.fif"
    return [part for part in sorted(path.parent.glob(pattern)) if part != path]


def _ctf(path: Path, session: int) -> Recording:
    files = check_ctf(path)
    return _opened(path, session, files, lambda io: io.read_raw_ctf(path, verbose="error"))


def _set(path: Path, session: int) -> Recording:
    found = open_set(path)
    samples = found.data.shape[1]
    return Recording(
        path, path.name, session, found.data, found.channels, found.rate, found.kinds, samples, [], found.breaks,
        found.files, [],
    )  # fmt: skip


OPEN: Mapping[str, Callable[[Path, int], Recording]] = {
    ".vhdr": _brainvision,
    ".edf": _edf,
    ".bdf": _bdf,
    ".set": _set,
    ".fif": _fif,
    ".ds": _ctf,
}


def _opened(
    path: Path, session: int, files: list[Path], read: Callable[[Any], Any], slower: Sequence[str] = ()
) -> Recording:
    import mne

    raw = _by_mne(path, lambda: read(mne.io))
    kinds = _by_mne(path, raw.get_channel_types)
    rate, samples = float(raw.info["sfreq"]), int(raw.n_times)
    if not (0 < rate <= 1e6 and samples > 0):
        raise AlignvisError(f"{path} has {samples} samples, {rate:g} of them a second; copy it again")
    scales = np.array([UNITS.get(kind, OTHER)[1] for kind in kinds])
    notes = []
    if slower:
        notes.append(
            f"{path.name}: {len(slower)} channels were left out, as they have fewer samples a second than the others "
            f"({', '.join(slower[:6])})"
        )
    breaks = _by_mne(path, lambda: _breaks(raw, rate))
    files = files or [path.with_name(Path(name).name) for name in raw.filenames]
    return Recording(
        path, path.name, session, _Pieces(raw, scales, path), list(raw.ch_names), rate, kinds, samples,
        list(raw.info["bads"]), breaks, files, notes,
    )  # fmt: skip


def _breaks(raw: Any, rate: float) -> NDArray[np.int64]:
    """What somebody marked as bad (descriptions that begin with BAD), and where the recording was interrupted."""
    found = []
    marks = raw.annotations
    onsets = raw.time_as_index(marks.onset, use_rounding=True, origin=marks.orig_time) if len(marks) else []
    for onset, duration, text in zip(onsets, marks.duration, marks.description, strict=True):
        if str(text).upper().startswith("BAD"):
            found.append((int(onset), int(onset) + int(np.ceil(round(float(duration) * rate, 6)))))
        elif re.match("EDGE|NEW SEGMENT|BOUNDARY", str(text).upper()):
            found.append((int(onset), int(onset)))
    return np.array(found, dtype=np.int64).reshape(-1, 2)


def _by_mne(path: Path, work: Callable[[], Any]) -> Any:
    """Let mne do something; whatever it does not like becomes one sentence."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return work()
    except AlignvisError:
        raise
    except Exception as error:  # mne raises whatever its readers meet
        said = " ".join(str(error).split())[:200] or type(error).__name__
        raise AlignvisError(f"{path} is not readable ({said}); it is damaged or of another kind: {READABLE}") from error


# --- channels --------------------------------------------------------------------------------------------------------


def choose(recordings: Sequence[Recording], option: str) -> tuple[list[str], list[str]]:
    """Read the option ``--channels``: the names of the channels that every recording has, and warnings.

    "all" means those of the kind that there are most of; a kind ("eeg", "mag", "grad", "meg", ...) means all of it;
    "occipital" means those of the kind that there are most of whose names say so (`channels.is_occipital`). Of these,
    what a recording calls bad, or what is called like an eye, a muscle or a heart, is left out. Names with commas
    between them are taken as they are.
    """
    first, notes = recordings[0], []
    kinds = dict(zip(first.channels, first.kinds, strict=True))
    if option in ("all", "occipital", *KINDS):
        most = max(BRAIN, key=first.kinds.count)
        wanted = KINDS.get(option, (most,))
        names = [name for name, kind in kinds.items() if kind in wanted]
        if option == "occipital":
            names = [name for name in names if is_occipital(name)]
        # Many formats call everything EEG; these never are.
        others = [name for name in names if OTHERS.match(name)]
        if others and len(others) < len(names):
            notes.append(f"channel {', '.join(others)} was left out, as no brain is measured there by its name")
            names = [name for name in names if name not in others]
        if not names:
            there = ", ".join(f"{first.kinds.count(kind)} {kind}" for kind in dict.fromkeys(first.kinds))
            raise AlignvisError(f"{first.path} has no channels for --channels {option}; it has {there}")
        bads = {name for recording in recordings for name in recording.bads}
        if bads & set(names):
            listed = [name for name in names if name in bads]
            notes.append(f"channel {', '.join(listed)} was left out, as a recording calls it bad")
            names = [name for name in names if name not in bads]
        if not names:
            raise AlignvisError(f"{first.path}: every channel for --channels {option} is called bad; name some instead")
    else:
        names = [name.strip() for name in option.split(",")]
        twice = [name for name in names if names.count(name) > 1]
        if twice:
            raise AlignvisError(f"--channels names {twice[0]} more than once; name each channel once")
    for recording in recordings:
        for name in names:
            if name not in recording.channels or recording.kinds[recording.channels.index(name)] == "stim":
                there = ",".join(
                    n for n, kind in zip(recording.channels, recording.kinds, strict=True) if kind != "stim"
                )
                raise AlignvisError(
                    f"{recording.path} has no channel called {name!r}; --channels takes all, occipital, a kind such as "
                    f"eeg or some of {there[:2000]}"
                )
    return names, notes


def unit_of(recording: Recording, names: Sequence[str]) -> str:
    """The unit of channels, or of each kind of them in turn."""
    kinds = [recording.kinds[recording.channels.index(name)] for name in names]
    return " and ".join(dict.fromkeys(UNITS.get(kind, OTHER)[0] for kind in kinds))
