"""The events table of one's own experiment: which image was shown when, and to what part it belongs."""

import csv
import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from alignvis.errors import AlignvisError

PARTS = ("train", "test")
COLUMNS = {"onset": ("onset",), "image": ("image", "stim_file"), "split": ("split",)}  # stim_file is BIDS's name
LARGEST = 2**26  # bytes: what is larger lists no images
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?", re.ASCII)
NOTHING = "n/a"  # what BIDS writes where there is no value


@dataclass(frozen=True)
class Events:
    """The image trials of one recording, in order of time.

    Attributes:
        onsets: (trials,) s after the first sample of the recording.
        images: the image of each trial: its path below the image folder.
        parts: (trials,) index into `PARTS`.
        lines: (trials,) the line of the file, from 1, that says so.
        skipped: lines that are no trials, as a value in them is n/a.
    """

    path: Path
    onsets: NDArray[np.float64]
    images: list[str]
    parts: NDArray[np.int64]
    lines: NDArray[np.int64]
    skipped: int


def read_events(path: Path) -> Events:
    """Read a table with one line a trial: tabs between the values, or commas where the file ends in .csv.

    The first line names the columns. ``onset`` is in seconds after the first sample of the recording, ``image`` (or
    ``stim_file``) a path below the image folder with forward slashes, ``split`` is train or test; other columns are
    ignored. Lines with n/a in one of the three are skipped. The order of lines does not matter.

    Raises:
        AlignvisError: with the number of the line that cannot be right.
    """
    rows = _rows(path, _text(path))
    place = _columns(path, next(rows, (1, []))[1])
    width = max(place.values()) + 1
    found: list[tuple[float, str, int, int]] = []
    skipped = 0
    for line, cells in rows:
        if len(cells) < width:
            raise AlignvisError(
                f"{path}, line {line}: it has {len(cells)} values, and the first line names {width} columns or more; "
                "every line needs a value for each column, n/a where there is none"
            )
        values = {name: cells[column].strip() for name, column in place.items()}
        for name, value in values.items():
            if not value:
                raise AlignvisError(f"{path}, line {line}: its {name} is empty; write n/a where there is none")
        if NOTHING in values.values():
            skipped += 1
            continue
        onset = _onset(path, line, values["onset"])
        _check_id(path, line, values["image"])
        if values["split"] not in PARTS:
            raise AlignvisError(
                f"{path}, line {line}: its split is {values['split']!r}; it has to be train or test, or n/a for a line "
                "that is left out"
            )
        found.append((onset, values["image"], PARTS.index(values["split"]), line))
    if not found:
        raise AlignvisError(f"{path} names no trial; it needs a line with onset, image and split for each")
    found.sort()
    for earlier, later in zip(found, found[1:], strict=False):
        if earlier[0] == later[0]:
            first, second = sorted((earlier[3], later[3]))
            raise AlignvisError(
                f"{path}, line {second}: it has the onset {later[0]:g} s of line {first}; two images cannot come up at "
                "once, so remove one of the lines"
            )
    onsets, images, parts, lines = zip(*found, strict=True)
    return Events(path, np.array(onsets), list(images), np.array(parts), np.array(lines), skipped)


def check_parts(tables: Sequence[Events]) -> None:
    """Refuse an image that is a training image here and a test image there: a score on it would not be honest."""
    known: dict[str, tuple[int, Events, int]] = {}
    for events in tables:
        for image, part, line in zip(events.images, events.parts, events.lines, strict=True):
            other, where, before = known.setdefault(image, (part, events, line))
            if other != part:
                there = f"line {before}" if where is events else f"line {before} of {where.path}"
                raise AlignvisError(
                    f"{events.path}, line {line}: {image!r} is a {PARTS[part]} image here and a {PARTS[other]} image "
                    f"in {there}; an image belongs to one part in all recordings"
                )


def _text(path: Path) -> str:
    if not path.is_file():
        raise AlignvisError(f"there is no events table {path}")
    try:
        with open(path, "rb") as file:
            content = file.read(LARGEST + 1)
    except OSError as error:
        raise AlignvisError(f"{path} could not be read ({error.strerror})") from error
    if len(content) > LARGEST:
        raise AlignvisError(f"{path} has more than {LARGEST >> 20} MB; an events table is a text with a line a trial")
    try:
        text = content.decode("utf-8-sig")  # Excel begins such a file with a mark
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise AlignvisError(f"{path}, line {line}: this is no UTF-8 text; save the table as UTF-8") from error
    if not text.strip():
        raise AlignvisError(f"{path} is empty; its first line has to name the columns onset, image and split")
    return text


def _rows(path: Path, text: str) -> Iterator[tuple[int, list[str]]]:
    """The lines that are not blank, with their numbers, as cells."""
    if path.suffix.lower() == ".csv":
        reader = csv.reader(io.StringIO(text, newline=""), strict=True)
        begins = 1
        try:
            for cells in reader:
                if any(cell.strip() for cell in cells):
                    yield begins, cells
                begins = reader.line_num + 1
        except csv.Error as error:
            raise AlignvisError(f"{path}, line {begins}: it is no line of a csv table ({error})") from error
        return
    for number, line in enumerate(io.StringIO(text), 1):
        if '"' in line:
            raise AlignvisError(
                f"{path}, line {number}: there is a quotation mark in it; a table with tabs has none: write the values "
                "bare, or give a .csv"
            )
        if line.strip():
            yield number, line.rstrip("\n").split("\t")


def _columns(path: Path, names: Sequence[str]) -> Mapping[str, int]:
    """Where the three columns stand."""
    names = [name.strip() for name in names]
    place = {}
    for wanted, spellings in COLUMNS.items():
        spelling = next((spelling for spelling in spellings if spelling in names), None)
        if spelling is None:
            between = "commas" if path.suffix.lower() == ".csv" else "tabs"
            raise AlignvisError(
                f"{path}, line 1: there is no column called {wanted}; it names {', '.join(names)[:200]}, and onset, "
                f"image and split are needed, with {between} between them"
            )
        if names.count(spelling) > 1:
            raise AlignvisError(f"{path}, line 1: two columns are called {spelling}; name each once")
        place[wanted] = names.index(spelling)
    return place


def _onset(path: Path, line: int, text: str) -> float:
    value = float(text) if NUMBER.fullmatch(text) else math.nan
    if not math.isfinite(value):
        raise AlignvisError(
            f"{path}, line {line}: its onset {text[:40]!r} is no number; it has to be seconds, such as 12.345"
        )
    if value < 0:
        raise AlignvisError(
            f"{path}, line {line}: its onset {value:g} s lies before the recording; onsets count from its first sample"
        )
    return value


def _check_id(path: Path, line: int, image: str) -> None:
    """Image ids become paths below a folder later: none may leave it, and each has one spelling."""
    odd = "\\" in image or not image.isprintable()
    if odd or re.match("[A-Za-z]:", image) or any(step in ("", ".", "..") for step in image.split("/")):
        raise AlignvisError(
            f"{path}, line {line}: {image[:200]!r} is no path below the image folder; write one such as "
            "cat/cat_01.jpg, with forward slashes"
        )
