"""What every simulation does with its parameters and folders.

A marker in each folder says that a simulation wrote it, and nothing without one is ever written to or removed.
"""

import shutil
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from alignvis.errors import AlignvisError
from alignvis.files import read_json, write_json

MARKER = "simulated.json"


def check_ranges(design: Any, ranges: Mapping[str, tuple[float, float]]) -> None:
    """Refuse a parameter of a simulation that is out of its range, both ends included."""
    for name, (low, high) in ranges.items():
        value = getattr(design, name)
        if not low <= value <= high:
            raise AlignvisError(f"{name} is {value}; the simulation can do {low:g} to {high:g}: choose another value")


def check_subjects(subjects: Sequence[int], most: int) -> None:
    """Refuse what are no different numbers from 1 to the most that there may be."""
    if not subjects or len(set(subjects)) != len(subjects) or not all(1 <= subject <= most for subject in subjects):
        raise AlignvisError(f"the subjects are {list(subjects)}; name one or more different numbers from 1 to {most}")


def statement(dataset: str, parameters: Mapping[str, Any], libraries: Sequence[str]) -> dict[str, Any]:
    """What the marker of a folder says: what every other file in it is part of, and what wrote them."""
    versions = {name: version(name) for name in ("alignvis", *libraries)}
    return {"simulated": True, "dataset": dataset, "parameters": dict(parameters), "versions": versions}


def whole_files(folder: Path) -> list[Path]:
    """The whole files below a folder."""
    return sorted(file for file in folder.rglob("*") if file.is_file() and file.suffix != ".partial")


def begin(out: Path, images: Path) -> None:
    """Make the folder of a simulation.

    Raises:
        AlignvisError: when it cannot be made, or holds files and no picture folder that a simulation wrote.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise AlignvisError(f"the folder {out} cannot be made ({error.strerror}); choose another --out") from error
    strange = [] if (images / MARKER).is_file() else whole_files(out)
    if strange:
        raise AlignvisError(
            f"{out} already holds files that no simulation wrote (for example {strange[0].relative_to(out)}); choose a "
            "new folder with --out"
        )


def found(folder: Path) -> dict[str, Any] | None:
    """Read the marker of a folder, if it has one."""
    marker = folder / MARKER
    if not marker.is_file():
        return None
    said = read_json(marker)
    if not isinstance(said, dict) or said.get("simulated") is not True or not isinstance(said.get("parameters"), dict):
        raise AlignvisError(f"{marker} is not the statement of a simulation; choose a new folder with --out")
    return said


def claim(folder: Path, said: Mapping[str, Any], overwrite: bool) -> None:
    """Make a folder ours before anything is written to it.

    Raises:
        AlignvisError: when it belongs to something else.
    """
    there = found(folder)
    if there == said:
        return
    if there is None and whole_files(folder):
        raise AlignvisError(
            f"{folder} holds files but no {MARKER}, so it may be a real recording; choose a new folder with --out"
        )
    if there is not None:
        if not overwrite:
            old, new = there["parameters"], said["parameters"]
            other = [
                f"{name} {old.get(name)!r} instead of {value!r}"
                for name, value in new.items()
                if old.get(name) != value
            ]
            raise AlignvisError(
                f"{folder} holds another simulation ({', '.join(other) or 'made by other versions'}); choose a new "
                "folder with --out, or replace it with --overwrite"
            )
        clear(folder)
    write_json(folder / MARKER, said)


def clear(folder: Path) -> None:
    """Remove what a simulation wrote; its marker goes last, so that an interrupted call can be repeated."""
    for path in folder.iterdir():
        if path.name != MARKER:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    (folder / MARKER).unlink()
