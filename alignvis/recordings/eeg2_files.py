"""Where THINGS-EEG2 keeps things, and what its files have to hold."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alignvis.channels import is_occipital
from alignvis.errors import AlignvisError
from alignvis.files import read_json
from alignvis.pickles import read_pickled

PARTS = ("train", "test")
RAW_FILES = {"train": "raw_eeg_training.npy", "test": "raw_eeg_test.npy"}
IMAGE_FOLDERS = {"train": "training_images", "test": "test_images"}
IMAGES = {"train": 16540, "test": 200}  # of the published set
PICTURES = {".jpg", ".jpeg", ".png"}
STIM = "stim"

# The order of NICE and of everyone after it: front to back, left to right.
CHANNELS = (
    "Fp1 Fp2 AF7 AF3 AFz AF4 AF8 F7 F5 F3 F1 F2 F4 F6 F8 FT9 FT7 FC5 FC3 FC1 FCz FC2 FC4 FC6 FT8 FT10 T7 C5 C3 C1 Cz "
    "C2 C4 C6 T8 TP9 TP7 CP5 CP3 CP1 CPz CP2 CP4 CP6 TP8 TP10 P7 P5 P3 P1 Pz P2 P4 P6 P8 PO7 PO3 POz PO4 PO8 "
    "O1 Oz O2"
).split()
CHANNEL_SETS = {"all": CHANNELS, "occipital": [name for name in CHANNELS if is_occipital(name)]}


@dataclass(frozen=True)
class Recording:
    """One raw file, mapped.

    Attributes:
        name: its path below the raw folder.
        data: (channels, samples), any byte order; EEG in volts, and one row of event codes.
        channels: the rows' names.
        rate: samples a second.
    """

    path: Path
    name: str
    session: int
    data: NDArray[np.floating]
    channels: list[str]
    rate: float

    def rows(self, names: Sequence[str]) -> NDArray[np.int64]:
        """Find channels' rows by name: recordings need not agree in their order."""
        return channel_rows(self.path, self.channels, names)

    def stim(self) -> NDArray[np.float64]:
        """Copy the row of event codes."""
        return np.array(self.data[self.channels.index(STIM)], dtype=np.float64)


def subject_folder(raw: Path, subject: int) -> Path:
    """Find a subject's folder."""
    folder = raw / f"sub-{subject:02d}"
    if not folder.is_dir():
        raise AlignvisError(
            f"there is no folder {folder}; {_inside(raw)}: --raw is the folder that holds sub-01, sub-02, ..."
        )
    return folder


def session_files(folder: Path, sessions: Sequence[int]) -> dict[tuple[int, str], Path]:
    """Find the raw files of the sessions asked for, by (session, part), in order."""
    if not sessions or len(set(sessions)) < len(sessions) or not set(sessions) <= {1, 2, 3, 4}:
        raise AlignvisError(
            f"--sessions are some of 1, 2, 3 and 4, each once, not {', '.join(map(str, sessions)) or 'none'}"
        )
    files = {}
    for session in sorted(sessions):
        place = folder / f"ses-{session:02d}"
        if not place.is_dir():
            raise AlignvisError(
                f"there is no folder {place}; {_inside(folder)}: download it, or name others with --sessions"
            )
        for part, name in RAW_FILES.items():
            if not (place / name).is_file():
                raise AlignvisError(f"there is no file {place / name}; {_inside(place)}: download it")
            files[session, part] = place / name
    return files


def open_recording(path: Path, session: int, name: str) -> Recording:
    """Map one raw file, and check that it is one."""
    content = read_pickled(path)
    wanted = ("raw_eeg_data", "ch_names", "sfreq")
    if not isinstance(content, dict) or any(key not in content for key in wanted):
        found = f"has {', '.join(map(str, content))}" if isinstance(content, dict) else f"is a {type(content).__name__}"
        raise AlignvisError(f"{path} {found}; a raw recording of THINGS-EEG2 has {', '.join(wanted)}")
    data, channels, rate = (content[key] for key in wanted)
    if not isinstance(channels, list) or not all(isinstance(channel, str) for channel in channels):
        raise AlignvisError(f"{path}: ch_names is no list of channel names; download the file again")
    if not isinstance(data, np.ndarray) or data.ndim != 2 or data.dtype.kind != "f" or len(data) != len(channels):
        shape = getattr(data, "shape", type(data).__name__)
        raise AlignvisError(
            f"{path}: raw_eeg_data is {shape}; expected one row for each of the {len(channels)} channel names"
        )
    if len(set(channels)) < len(channels) or STIM not in channels:
        raise AlignvisError(
            f"{path}: ch_names has to have each channel once, and one called {STIM!r}; download the file again"
        )
    if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 < rate <= 1e5:
        raise AlignvisError(f"{path}: sfreq is {rate!r}; expected 1000 samples a second")
    return Recording(path, name, session, data, channels, float(rate))


def channel_names(option: str) -> list[str]:
    """Read the option ``--channels``: "all", "occipital" or names with commas between them."""
    names = CHANNEL_SETS.get(option) or [name.strip() for name in option.split(",")]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise AlignvisError(f"--channels names {twice} more than once; name each channel once")
    return names


def channel_rows(path: Path, there: Sequence[str], names: Sequence[str]) -> NDArray[np.int64]:
    """Find channels among those of a file; one that is not there is refused."""
    for name in names:
        if name not in there or name == STIM:
            found = ",".join(channel for channel in there if channel != STIM)
            raise AlignvisError(
                f"{path} has no channel called {name!r}; --channels takes all, occipital or some of {found}"
            )
    return np.array([there.index(name) for name in names])


def simulation(folder: Path) -> tuple[int, int] | None:
    """Say how many (training, test) trials a simulated subject has of an image in a session; None for a real one."""
    path = folder / "simulated.json"
    if not path.exists():
        return None
    marker = read_json(path)
    counts = marker.get("repetitions") if isinstance(marker, dict) else None
    if not isinstance(counts, dict) or not all(type(counts.get(part)) is int and counts[part] > 0 for part in PARTS):
        raise AlignvisError(
            f'{path} does not say {{"simulated": true, "repetitions": {{"train": ., "test": .}}}}; simulate again'
        )
    return counts["train"], counts["test"]


def image_ids(images: Path, published: bool) -> dict[str, list[str]]:
    """List the images of both parts in the order of their event codes, as paths below the image folder.

    The order is that of image_metadata.npy; without that file, that of the sorted folders, which is the same.

    Args:
        published: whether the folders, when they are all there is to go by, have to hold the published images.
    """
    path = images / "image_metadata.npy"
    if path.is_file():
        return _from_metadata(path, read_pickled(path))
    ids = {}
    for part, name in IMAGE_FOLDERS.items():
        folder = images / name
        if not folder.is_dir():
            raise AlignvisError(
                f"{images} has neither image_metadata.npy nor {name}/; {_inside(images)}: --images is the folder that "
                "holds them"
            )
        pictures = sorted(
            (concept.name, file.name)
            for concept in folder.iterdir()
            if concept.is_dir()
            for file in concept.iterdir()
            if file.suffix.lower() in PICTURES
        )
        ids[part] = [f"{name}/{concept}/{file}" for concept, file in pictures]
        if not ids[part] or (published and len(ids[part]) != IMAGES[part]):
            raise AlignvisError(
                f"{folder} holds {len(ids[part])} pictures, and the event codes count {IMAGES[part]}; unpack it again, "
                "or put image_metadata.npy beside it"
            )
    return ids


def _from_metadata(path: Path, metadata: Any) -> dict[str, list[str]]:
    if not isinstance(metadata, Mapping):
        raise AlignvisError(
            f"{path} is no image metadata of THINGS-EEG2: it holds a {type(metadata).__name__}, not a dictionary"
        )
    ids = {}
    for part, folder in IMAGE_FOLDERS.items():
        concepts, files = (metadata.get(f"{part}_img_{what}") for what in ("concepts", "files"))
        for value, what in ((concepts, "concepts"), (files, "files")):
            if not isinstance(value, list) or not value or not all(map(_is_name, value)):
                raise AlignvisError(f"{path} has no list of names called {part}_img_{what}; take it from osf.io/y63gw")
        if len(concepts) != len(files):
            raise AlignvisError(
                f"{path} names {len(concepts)} concepts and {len(files)} files of the {part} images; take it from "
                "osf.io/y63gw"
            )
        ids[part] = [f"{folder}/{concept}/{file}" for concept, file in zip(concepts, files, strict=True)]
        if len(set(ids[part])) < len(ids[part]):
            raise AlignvisError(f"{path} names one of the {part} images twice; take it from osf.io/y63gw")
    return ids


def _is_name(value: Any) -> bool:
    """Admit what can name one file or folder; image ids become paths later."""
    return isinstance(value, str) and value not in ("", ".", "..") and not {"/", "\\", "\0"} & set(value)


def _inside(folder: Path) -> str:
    """Say what a folder holds, for a sentence on what it does not."""
    if not folder.is_dir():
        return f"{folder} is no folder"
    names = sorted(entry.name for entry in folder.iterdir())
    shown = ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
    return f"{folder} holds {shown}" if names else f"{folder} is empty"
