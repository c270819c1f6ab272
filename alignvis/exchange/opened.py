"""A recording of another project once it is opened, and the checks that every layout shares."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alignvis.channels import MEG
from alignvis.errors import AlignvisError
from alignvis.files import read_json
from alignvis.recordings.eeg2_files import CHANNELS

JSON_BYTES = 2**20
RATES = (10, 20_000)  # Hz; what is outside counts samples or milliseconds
DEFAULTS = {"eeg": (250.0, 0.0), "meg": (200.0, 0.0)}  # samples a second, and time of the first in s


@dataclass(frozen=True)
class Part:
    """The training or the test responses of a file.

    Attributes:
        data: (..., channels, times), mapped.
        places: (images, repetitions), which response of ``data`` each is, all its leading axes counted as one.
        sessions: (images, repetitions), 0 for unknown.
        images: image ids, one a row.
    """

    path: Path
    data: NDArray[np.floating]
    places: NDArray[np.int64]
    sessions: NDArray[np.uint8]
    images: list[str]


@dataclass(frozen=True)
class Recording:
    """One subject's files, opened.

    Attributes:
        kind: "eeg" or "meg".
        unit: of the values.
        sfreq, tmin: samples a second, and the time of the first in seconds after the image's onset.
        claims: sentences on what could not be checked.
    """

    kind: str
    train: Part
    test: Part
    unit: str
    channels: list[str]
    sfreq: float
    tmin: float
    claims: list[str]


def in_rows(path: Path, data: NDArray, ids: list[str], sessions: NDArray[np.uint8]) -> Part:
    """A part whose responses lie in the order of the table already."""
    shape = (len(ids), math.prod(data.shape[:-2]) // len(ids))
    return Part(path, data, np.arange(math.prod(shape)).reshape(shape), np.broadcast_to(sessions, shape), ids)


def put_together(parts: Mapping[str, Part], contents: Mapping[str, Any], unit: str, claims: list[str]) -> Recording:
    """Check that the two parts fit together."""
    train, test = parts["train"], parts["test"]
    if train.data.shape[-2:] != test.data.shape[-2:]:
        sizes = [" x ".join(map(str, part.data.shape[-2:])) for part in (train, test)]
        raise AlignvisError(
            f"{train.path} has {sizes[0]} channels x times and {test.path} {sizes[1]}; download both again"
        )
    for part in parts.values():
        if len(set(part.images)) < len(part.images):
            twice = next(image for image in part.images if part.images.count(image) > 1)
            raise AlignvisError(f"{part.path} has more than one row for the image {twice!r}; make it again")
    shared = set(train.images) & set(test.images)
    if shared:
        raise AlignvisError(
            f"{train.path} and {test.path} share {len(shared)} images (the first is {min(shared)!r}); a score on them "
            "would not be honest"
        )
    found = {}
    once = train.places.shape[1] == 1
    for name, part in parts.items():
        kind, channels, said = channels_of(part.path, contents[name].get("ch_names"), part.data.shape[-2], once)
        found[name] = (kind, channels, *axis_of(part.path, contents[name].get("times"), part.data.shape[-1], kind))
    if found["train"] != found["test"]:
        raise AlignvisError(f"{train.path} and {test.path} differ in their channels or times; download both again")
    kind, channels, sfreq, tmin = found["train"]
    claims = claims + said
    if contents["train"].get("times") is None:
        claims.append(f"the files do not say when a sample was taken; {sfreq:g} a second from {tmin:g} s on is usual")
    return Recording(kind, train, test, unit, channels, sfreq, tmin, claims)


def channels_of(path: Path, names: Any, count: int, once: bool) -> tuple[str, list[str], list[str]]:
    """Say whether channels are of EEG or MEG, what they are called, and what is to be said of that.

    Args:
        once: whether each training image was shown once, as in THINGS-MEG; THINGS-EEG2 shows it four times.
    """
    if isinstance(names, np.ndarray) and names.shape == (count,):
        names = names.tolist()
    if names is None:
        if count == len(CHANNELS):
            return "eeg", list(CHANNELS), ["the files name no channels; the usual order of the 63 is assumed"]
        if not once:
            raise AlignvisError(
                f"{path} has {count} channels and no ch_names, and the usual order is known of the {len(CHANNELS)} of "
                "EEG alone; add the names in their order"
            )
        numbered = [f"channel-{number:03d}" for number in range(1, count + 1)]
        return "meg", numbered, [f"the files name no channels; they are numbered from 1 to {count}"]
    if (
        not isinstance(names, list | tuple)
        or not all(isinstance(name, str) and name for name in names)
        or len(set(names)) != count
        or len(names) != count
    ):
        raise AlignvisError(f"{path} has {count} channels, and ch_names does not name each of them once")
    return ("meg" if all(MEG.match(name) for name in names) else "eeg"), [str(name) for name in names], []


def axis_of(path: Path, times: Any, count: int, kind: str) -> tuple[float, float]:
    """Give samples a second and the time of the first sample.

    Files keep the time axis from before they were trimmed, 300 times for 250 samples: those from 0 on are meant.

    Raises:
        AlignvisError: when the times are no even axis in seconds, or there are more than samples and it is not clear
            which are meant.
    """
    if times is None:
        return DEFAULTS[kind]
    listed = times.tolist() if isinstance(times, np.ndarray) and times.ndim == 1 else times
    fits = isinstance(listed, list) and len(listed) >= count > 1
    if not fits or not all(isinstance(time, int | float) and abs(time) < 1e6 for time in listed):
        raise AlignvisError(f"{path}: its times do not fit its {count} samples; download the file again")
    axis = np.array(listed, dtype=np.float64)
    steps = np.diff(axis)
    if not (steps > 1e-5).all() or np.ptp(steps) > 1e-6:
        raise AlignvisError(f"{path}: its times do not fit any samples, as they are not even; download the file again")
    rate = round(1 / float(steps.mean()), 6)
    if not RATES[0] <= rate <= RATES[1]:
        raise AlignvisError(
            f"{path}: its times do not fit any recording, {rate:g} samples a second, if they are seconds; write seconds"
        )
    first = len(axis) - count
    if first and abs(axis[first]) > 0.5 / rate:  # not trimmed to what follows the onset
        first = 0
    if len(axis) > count and abs(axis[first]) > 0.5 / rate:
        raise AlignvisError(
            f"{path}: its times do not fit its {count} samples: there are {len(axis)}, and neither the first nor the "
            "last of them begin at 0; write those of the samples"
        )
    return rate, round(float(axis[first]), 9)


def with_keys(path: Path, content: Any, wanted: str) -> dict[str, Any]:
    if not isinstance(content, dict) or any(key not in content for key in wanted.split()):
        found = f"has {', '.join(map(str, content))[:200]}" if isinstance(content, dict) else f"is {shape_of(content)}"
        raise AlignvisError(f"{path} {found}; expected {', '.join(wanted.split())}")
    return content


def numbers(path: Path, data: Any, axes: int) -> NDArray[np.floating]:
    if not isinstance(data, np.ndarray) or data.dtype.kind != "f" or data.ndim != axes or 0 in data.shape:
        raise AlignvisError(f"{path} holds {shape_of(data)}; expected responses, numbers along {axes} axes")
    return data


def shape_of(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"an array of {value.dtype} of the shape {value.shape}"
    return f"a {type(value).__name__}"


def read_info(path: Path) -> dict[str, Any]:
    try:
        size = path.stat().st_size
    except OSError as error:
        raise AlignvisError(
            f"{path} could not be read ({error.strerror}); it belongs to the arrays beside it"
        ) from error
    if size > JSON_BYTES:
        raise AlignvisError(f"{path} has {size:,} bytes; channel names and times take far fewer: download it again")
    document = read_json(path)
    if not isinstance(document, dict):
        raise AlignvisError(f"{path} holds a {type(document).__name__}; expected ch_names and times by name")
    return document
