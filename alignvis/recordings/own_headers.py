"""What the header of a recording declares, checked against what is there before mne believes it.

mne makes room for whatever a header declares; here a damaged one is refused first, with a sentence.
"""

import math
import re
import struct
from pathlib import Path

from alignvis.errors import AlignvisError

LONGEST = 2**24  # bytes of a text header: a million channels
FORMATS = {"INT_16": 2, "INT_32": 4, "IEEE_FLOAT_32": 4}  # of BrainVision: bytes of a sample
CTF_HEADER, CTF_SIZES = 8, 1288  # bytes before the samples of a .meg4; where a .res4 keeps its sizes


def check_edf(path: Path, width: int) -> list[str]:
    """Check a file of EDF (``width`` 2) or BDF (3); return the channels sampled less often than the others.

    Those would be brought to the others' rate piece by piece, with an edge at each.

    Source: Kemp et al. (1992), doi:10.1016/0013-4694(92)90009-7, and www.edfplus.info.
    """
    size = path.stat().st_size
    with open(path, "rb") as file:
        start = file.read(256)
        channels = _whole(path, start[252:256], "number of channels")
        header = 256 * (channels + 1)
        if not 1 <= channels or header > size:
            raise _damaged(path, f"its header declares {channels} channels, and the file has {size:,} bytes")
        rest = file.read(header - 256)
    if start[192:197] in (b"EDF+D", b"BDF+D"):
        raise AlignvisError(f"{path} is interrupted ({start[192:197].decode()}); export it as one continuous recording")
    if _whole(path, start[184:192], "size of the header") != header:
        raise _damaged(path, f"its header declares {channels} channels and is not {header} bytes long")
    records = _whole(path, start[236:244], "number of records")
    duration = _number(path, start[244:252], "duration of a record")
    if not 0 < duration <= 1e6:
        raise _damaged(path, f"its header declares records of {duration:g} s")

    def column(offset: int, length: int) -> list[bytes]:
        first = offset * channels
        return [rest[first + length * k : first + length * (k + 1)] for k in range(channels)]

    labels = [text.decode("latin-1").strip() for text in column(0, 16)]
    samples = [_whole(path, text, "number of samples of a record") for text in column(216, 8)]
    if min(samples) < 0 or not sum(samples):
        raise _damaged(path, "its header declares records without samples")
    signals = [k for k, label in enumerate(labels) if label not in ("EDF Annotations", "BDF Annotations")]
    ranges = [column(offset, 8) for offset in (104, 112, 120, 128)]
    for k in signals:
        low, high, least, most = (_number(path, values[k], f"range of {labels[k]}") for values in ranges)
        if not math.isfinite(high - low) or high == low or most <= least:
            raise _damaged(path, f"channel {labels[k]} ranges from {low:g} to {high:g} and from {least:g} to {most:g}")
    there, left = divmod(size - header, width * sum(samples))
    if not signals or there == 0 or records not in (-1, there):
        raise AlignvisError(
            f"{path} declares {records} records and holds {there} and {left} bytes; it is cut or damaged: copy it again"
        )
    most = max(samples[k] for k in signals)
    return [labels[k] for k in signals if samples[k] < most]


def check_brainvision(path: Path) -> list[Path]:
    """Check a header of BrainVision; return it, the samples and the markers that it names.

    Source: BrainVision Core Data Format 1.0, Brain Products.
    """
    if path.stat().st_size > LONGEST:
        raise AlignvisError(f"{path} has {path.stat().st_size:,} bytes; a .vhdr is a short text beside the .eeg")
    text = path.read_bytes().decode("latin-1")
    if not re.match(r"\W*Brain ?Vision", text):
        raise AlignvisError(f"{path} does not begin like a header of BrainVision; give the .vhdr of the recording")
    found: dict[str, dict[str, str]] = {}
    section: dict[str, str] = {}
    for line in text.splitlines():
        line = line.strip()
        if line.startswith("[") and line.endswith("]"):
            section = found.setdefault(line[1:-1].lower(), {})
            if line.lower() == "[comment]":
                break
        elif "=" in line and not line.startswith(";"):
            key, value = line.split("=", 1)
            section[key.strip().lower()] = value.strip()
    common = found.get("common infos", {})
    channels = _whole(path, common.get("numberofchannels", "").encode(), "NumberOfChannels")
    named = sum(bool(re.fullmatch(r"ch\d+", key)) for key in found.get("channel infos", {}))
    if not 1 <= channels == named:
        raise _damaged(path, f"it declares {channels} channels and names {named}")
    interval = _number(path, common.get("samplinginterval", "").encode(), "SamplingInterval")
    if not 1 <= interval <= 1e9:
        raise _damaged(path, f"it declares a sample every {interval:g} microseconds")
    if common.get("dataformat", "").upper() != "BINARY":
        raise AlignvisError(f"{path} keeps its samples as text; export the recording as binary data")
    binary = found.get("binary infos", {}).get("binaryformat", "").upper()
    if binary not in FORMATS:
        raise _damaged(path, f"its BinaryFormat is {binary[:40]!r}, none of {', '.join(FORMATS)}")
    files = [path]
    for key in ("datafile", "markerfile"):
        name = common.get(key, "").replace("$b", path.stem)
        if key == "markerfile" and not name:
            continue
        if not name or {"/", "\\", "\0"} & set(name) or not (path.parent / name).is_file():
            raise AlignvisError(
                f"{path} names {name[:200]!r}, which is not beside it; put it there, or correct the name"
            )
        files.append(path.parent / name)
    size, row = files[1].stat().st_size, channels * FORMATS[binary]
    points = common.get("datapoints", "")
    if size == 0 or size % row or (points.isdecimal() and len(points) < 19 and int(points) * row != size):
        raise AlignvisError(
            f"{files[1]} has {size:,} bytes, which is no whole number of samples of {channels} channels, or not the "
            f"number that {path.name} declares; copy both again"
        )
    return files


def check_ctf(folder: Path) -> list[Path]:
    """Check a folder of CTF; return the files in it."""
    sizes, samples = folder / f"{folder.stem}.res4", folder / f"{folder.stem}.meg4"
    for path in (sizes, samples):
        if not path.is_file():
            raise AlignvisError(f"{folder} holds no {path.name}; copy the whole folder again, and do not rename it")
    with open(sizes, "rb") as file:
        start = file.read(CTF_SIZES + 16)
    if len(start) < CTF_SIZES + 16 or not start.startswith(b"MEG4"):
        raise _damaged(sizes, "it does not begin like a file of CTF")
    points, channels, rate = struct.unpack(">ihxxd", start[CTF_SIZES:])
    if points < 1 or channels < 1 or not 0 < rate <= 1e6:
        raise _damaged(sizes, f"it declares {channels} channels and {points} samples, {rate:g} of them a second")
    if sizes.stat().st_size < 1360 * channels:  # what is known of a channel
        raise _damaged(sizes, f"it declares {channels} channels and has {sizes.stat().st_size:,} bytes")
    size = samples.stat().st_size - CTF_HEADER
    if size < 1 or size % (4 * points * channels):
        raise AlignvisError(
            f"{samples} has {size + CTF_HEADER:,} bytes, which is no whole number of trials of {points} samples of "
            f"{channels} channels; copy the folder again"
        )
    return sorted(path for path in folder.iterdir() if path.is_file())


def _whole(path: Path, text: bytes, what: str) -> int:
    value = text.strip(b" \0")
    if not re.fullmatch(rb"[+-]?\d{1,18}", value):
        raise _damaged(path, f"its header gives {text[:40].decode('latin-1').strip()!r} as {what}")
    return int(value)


def _number(path: Path, text: bytes, what: str) -> float:
    value = text.strip(b" \0")
    if not re.fullmatch(rb"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?", value):
        raise _damaged(path, f"its header gives {text[:40].decode('latin-1').strip()!r} as {what}")
    return float(value)


def _damaged(path: Path, what: str) -> AlignvisError:
    return AlignvisError(f"{path} is damaged: {what}; copy it again")
