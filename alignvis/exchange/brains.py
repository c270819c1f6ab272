"""Recordings that other projects wrote -> a responses table."""

import os
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alignvis import store
from alignvis.errors import AlignvisError
from alignvis.exchange import brain_layouts
from alignvis.exchange.brain_layouts import PARTS
from alignvis.exchange.opened import Recording
from alignvis.exchange.torch_numpy import outline_torch
from alignvis.pickles import read_pickled
from alignvis.progress import Progress, silent
from alignvis.recordings import filling
from alignvis.recordings.sources import describe

VALUES = 2**22  # of a block: 34 MB in double precision
SUBJECT = re.compile(r"(?<![a-zA-Z])sub[-_]?0*([1-9][0-9]{0,3})(?![0-9])")  # sub-01, sub1
DATASETS = {"eeg": "things-eeg2", "meg": "things-meg"}
IMAGES = {"eeg": "images/things-eeg2", "meg": "images/things-meg"}  # where they are if nobody says
KEYS = {  # of a pickled dict
    "nice": {"preprocessed_eeg_data", "ch_names", "times"},
    "alignvis-meg": {"meg_data", "meg_labels", "meg_images"},
    "atm-meg": {"meg_data", "ch_names", "times"},
}


@dataclass(frozen=True)
class Layout:
    """A way to lay out one subject's recording.

    Attributes:
        files: what it has, each with its possible names below the subject's folder; {subject} stands for the number.
        open: opens them.
        kind: tells "eeg" from "meg".
    """

    files: dict[str, tuple[str, ...]]
    open: Callable[[brain_layouts.Files, Path | None, Path], Recording]
    kind: Callable[[brain_layouts.Files], str]


LAYOUTS = {
    "nice": Layout(
        {"train": ("preprocessed_eeg_training.npy",), "test": ("preprocessed_eeg_test.npy",)},
        brain_layouts.open_nice,
        lambda files: "eeg",
    ),
    "ubp": Layout({"train": ("train.pt",), "test": ("test.pt",)}, brain_layouts.open_ubp, brain_layouts.kind_of_ubp),
    "neurobridge": Layout(
        {"train": ("train.npy",), "test": ("test.npy",), "info": ("info.json", "../info.json")},
        brain_layouts.open_neurobridge,
        brain_layouts.kind_of_neurobridge,
    ),
    "zeiss": Layout(
        {
            "train": ("preprocessed_eeg_training_sub-{subject}.npy", "preprocessed_eeg_training.npy"),
            "test": ("preprocessed_eeg_test_sub-{subject}.npy", "preprocessed_eeg_test.npy"),
            "train conditions": ("img_conditions_training_sub-{subject}.npy", "img_conditions_training.npy"),
            "test conditions": ("img_conditions_test_sub-{subject}.npy", "img_conditions_test.npy"),
            "meta": ("meta_sub-{subject}.json", "meta.json"),
        },
        brain_layouts.open_zeiss,
        lambda files: "eeg",
    ),
    "alignvis-meg": Layout(
        {"train": ("train_sub{subject}.pkl",), "test": ("test_sub{subject}.pkl",)},
        brain_layouts.open_alignvis_meg,
        lambda files: "meg",
    ),
    "atm-meg": Layout(
        {"train": ("preprocessed_meg_training.pkl",), "test": ("preprocessed_meg_zs_test.pkl",)},
        brain_layouts.open_atm_meg,
        lambda files: "meg",
    ),
}


def recognise(path: Path) -> str | None:
    """Name the layout of a recording by what it holds: names, headers and keys; no responses are read.

    Args:
        path: a file of a recording, its folder, or the folder above, with sub-01 and so on in it.

    Returns:
        One of `LAYOUTS`; None when it is no recording of others.

    Raises:
        AlignvisError: when the file cannot be read, or is damaged.
    """
    path = Path(path)
    if path.is_dir():
        subjects = sorted(folder for folder in path.glob("sub*") if folder.is_dir())
        for folder in (path, *subjects[:1]):
            for layout in LAYOUTS.values():
                for what in PARTS:
                    for file, _ in _matches(folder, layout.files[what]):
                        return _sniff(file)
        return None
    if path.suffix == ".json" or path.name.startswith("img_conditions_"):
        return recognise(path.parent)
    return _sniff(path)


def import_responses(
    path: Path,
    *,
    root: Path,
    subject: int | None = None,
    images: Path | None = None,
    dataset: str | None = None,
    dtype: str = "float16",
    overwrite: bool = False,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Make the responses table of one subject from files that another project wrote, values as they are.

    Args:
        path: a file of the recording, its folder, or the folder above together with ``subject``.
        root: the table becomes ``root/responses/<dataset>/sub-NN.safetensors``.
        subject: whose it is; None: as the path says.
        images: folder of the images that were shown, with image_metadata.npy or training_images/ and test_images/.
            None: ``root/images/things-eeg2`` or ``things-meg``, if it is there.
        dataset: None: "things-eeg2-" or "things-meg-" and the layout.
        dtype: "float16" or "float32".

    Returns:
        As `filling.summary`, with "layout" and "claims", sentences on what could not be checked.

    Raises:
        AlignvisError: when the files are of no known layout, damaged, incomplete, of another subject, or disagree with
            each other or with the images; when values are not finite or too large for the dtype.
    """
    begun = time.monotonic()
    path, root = Path(path), Path(root)
    name = recognise(path)
    if name is None:
        raise AlignvisError(
            f"{path} is no recording in a layout that is known ({', '.join(LAYOUTS)}); give one of its files, the "
            "subject's folder, or the folder above with --subject"
        )
    filling.check_dtype(dtype)
    layout = LAYOUTS[name]
    folder, subject = _locate(path, layout, subject)
    files = {what: _file(folder, patterns, subject, name) for what, patterns in layout.files.items()}
    kind = layout.kind(files)
    dataset = dataset or f"{DATASETS[kind]}-{name}"
    filling.check_dataset(dataset)
    out = root / "responses" / dataset / f"sub-{subject:02d}.safetensors"
    asked = {"layout": name, "dtype": dtype, "bytes": sum(file.stat().st_size for file in files.values())}
    kept = filling.is_there(out, asked, overwrite)
    if images is None and (root / IMAGES[kind]).is_dir():
        images = root / IMAGES[kind]
    recording = layout.open(files, images, out.parent)
    if kept:
        filling.check_sources(out, list(files.values()))
        _check_images(out, recording, images)
    else:
        document = filling.about(dataset, subject, recording.unit, False, asked) | {
            "channels": recording.channels,
            "sfreq": recording.sfreq,
            "tmin": recording.tmin,
            "train_images": recording.train.images,
            "test_images": recording.test.images,
            "parameters": {"imported": name, "claims": recording.claims},
            "sources": describe(list(files.values()), folder.parent),
        }
        _fill(out, document, recording, dtype, list(files.values()), progress)
    parameters = store.read_document(out, "responses").get("parameters")
    claims = parameters.get("claims", []) if isinstance(parameters, dict) else []
    return filling.summary(out, kept, begun, []) | {"layout": name, "claims": claims}


def _check_images(out: Path, recording: Recording, images: Path | None) -> None:
    """A table is kept only if its rows stand for the images that they would stand for now."""
    there = store.read_document(out, "responses")
    for part, now in (("train", recording.train.images), ("test", recording.test.images)):
        for before, after in zip(there[f"{part}_images"], now, strict=False):
            if before != after:
                raise AlignvisError(
                    f"{out} was made with other images ({before!r} where {images} has {after!r}); --overwrite replaces "
                    "it"
                )


def _fill(
    out: Path,
    document: dict[str, Any],
    recording: Recording,
    dtype: str,
    sources: Sequence[Path],
    progress: Progress,
) -> None:
    parts = {"train": recording.train, "test": recording.test}
    shape = recording.train.data.shape[-2:]
    blocks = []
    for name, part in parts.items():
        images, repetitions = part.places.shape
        size = max(1, VALUES // (repetitions * shape[0] * shape[1]))
        for first in range(0, images, size):
            rows, slots = np.mgrid[first : min(first + size, images), :repetitions].reshape(2, -1)
            blocks.append(filling.Block(name, rows, slots, None, f"{name} images"))

    def read(block: filling.Block) -> NDArray[np.floating]:
        part = parts[block.part]
        return part.data[np.unravel_index(part.places[block.rows, block.slots], part.data.shape[:-2])]

    sessions = {name: part.sessions for name, part in parts.items()}
    filling.fill(out, document, sessions, shape, blocks, read, dtype=dtype, sources=sources, progress=progress)


# --- where the files are ---------------------------------------------------------------------------------------------


def _sniff(path: Path) -> str | None:
    """Name the layout of one file by what it holds."""
    if path.suffix in (".pt", ".pth"):
        content = outline_torch(path)
        return "ubp" if isinstance(content, dict) and {"eeg", "img"} <= content.keys() else None
    if path.suffix not in (".npy", ".pkl"):
        return None
    content = read_pickled(path)
    if isinstance(content, dict):
        for name, keys in KEYS.items():
            if keys <= content.keys():
                return name
    if isinstance(content, np.ndarray) and content.ndim == 5 and content.dtype.kind == "f":
        for name, beside in (("zeiss", "train conditions"), ("zeiss", "test conditions"), ("neurobridge", "info")):
            if _matches(path.parent, LAYOUTS[name].files[beside]):
                return name
    return None


def _locate(path: Path, layout: Layout, subject: int | None) -> tuple[Path, int]:
    """Find the folder of the files, and whose they are."""
    path = Path(os.path.abspath(path))
    folder, names = path, [path.name]
    if not path.is_dir():
        folder, names = path.parent, [path.name, path.parent.name]
    elif not any(_matches(path, layout.files[part]) for part in PARTS):
        there = sorted(inner for inner in path.glob("sub*") if inner.is_dir() and _number(inner.name) is not None)
        wanted = [inner for inner in there if _number(inner.name) == subject]
        if not wanted:
            raise AlignvisError(
                f"{path} holds {', '.join(inner.name for inner in there[:6])}{' ...' if len(there) > 6 else ''}; say "
                f"which is to be imported, {'--subject' if subject is None else f'as there is no subject {subject}'}"
            )
        folder, names = wanted[0], [wanted[0].name]
    said = {number for number in map(_number, names) if number is not None}
    if not said and subject is None:
        said = {number for part in PARTS for _, number in _matches(folder, layout.files[part]) if number is not None}
    if len(said | {subject} - {None}) > 1:
        raise AlignvisError(
            f"{path} says subject {' and '.join(map(str, sorted(said)))}"
            + (
                f", and --subject {subject} is asked for; leave that out"
                if subject
                else "; give one file, or --subject"
            )
        )
    if subject is None and not said:
        raise AlignvisError(f"{path} does not say whose recording it is (no sub-01 or the like in it); give --subject")
    return folder, subject or said.pop()


def _number(name: str) -> int | None:
    found = SUBJECT.search(name)
    return int(found[1]) if found else None


def _matches(folder: Path, patterns: Sequence[str]) -> list[tuple[Path, int | None]]:
    """Find files of a folder by the patterns of their names, in this order, with the subject that the name says."""
    found: list[tuple[Path, int | None]] = []
    for pattern in patterns:
        before, subject, after = pattern.partition("{subject}")
        if not subject:
            found += [(folder / pattern, None)] if (folder / pattern).is_file() else []
            continue
        expression = re.compile(f"{re.escape(before)}0*([1-9][0-9]{{0,3}}){re.escape(after)}")
        for path in sorted(folder.glob(f"{before}*{after}")):
            if match := expression.fullmatch(path.name):
                found.append((path, int(match[1])))
    return found


def _file(folder: Path, patterns: Sequence[str], subject: int, name: str) -> Path:
    for path, number in _matches(folder, patterns):
        if number in (None, subject):
            return path
    wanted = " or ".join(pattern.replace("{subject}", f"{subject:02d}") for pattern in patterns)
    raise AlignvisError(f"{folder} has no {wanted}, which belongs to a recording in the layout {name!r}; download it")
