"""What a file from outside holds, be it a recording or another project's, and the command that makes a table of it."""

import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from shlex import quote
from typing import Any

from alignvis import hdf5
from alignvis.errors import AlignvisError
from alignvis.exchange import features
from alignvis.exchange.sniff import recognise
from alignvis.images.brick import ARRAY, open_brick
from alignvis.recordings import meg_files
from alignvis.recordings.eeg2_files import open_recording
from alignvis.recordings.nsd_files import open_betas
from alignvis.recordings.own_files import open_any

Row = tuple[dict[str, Any], str]


def look(path: Path) -> Row:
    """Say what a file or folder holds, without reading its values.

    Returns:
        A JSON-able row and its sentence.

    Raises:
        AlignvisError: when it is damaged, or nothing that can be made into a table.
    """
    for pattern, tell in TELL.items():
        if re.search(pattern, path.name, re.IGNORECASE):
            about, text = tell(path)
            return {"table": None, **about}, text
    kind, layout = recognise(path)
    return {"table": None, "holds": kind, "layout": layout}, (
        f"{kind} in the layout {layout}, not a table yet: alignvis import {quote(str(path))}"
    )


def is_foreign(path: Path) -> bool:
    """Whether a safetensors file is another project's."""
    with suppress(AlignvisError):
        return features.recognise(path) is not None
    return False


def _eeg2(path: Path) -> Row:
    recording = open_recording(path, 0, path.name)
    channels, samples = len(recording.channels) - 1, recording.data.shape[1]
    events = int((recording.stim() != 0).sum())
    return {"holds": "recording", "layout": "things-eeg2", "channels": channels, "events": events}, (
        f"a raw recording of THINGS-EEG2: {channels} channels x {samples:,} samples at {recording.rate:g} Hz, "
        f"{events:,} events; make a table with: alignvis prepare things-eeg2 --raw DIR --subject N"
    )


def _meg(path: Path) -> Row:
    recording = meg_files.open_recording(path)
    kinds = meg_files.read_trials(recording).kind
    channels, training, test = len(recording.channels), (kinds == meg_files.EXP).sum(), (kinds == meg_files.TEST).sum()
    about = {"holds": "recording", "layout": "things-meg", "channels": channels, "trials": len(kinds)}
    return about | {"training": int(training), "test": int(test)}, (
        f"epochs of THINGS-MEG in {len(recording.files)} files: {len(kinds):,} trials ({training:,} of the experiment, "
        f"{test:,} of the test) x {channels} channels x {recording.samples} samples at {recording.rate:g} Hz; make a "
        "table with: alignvis prepare things-meg --raw DIR --subject N"
    )


def _meg_part(path: Path) -> Row:
    first = re.sub(r"-epo-\d+\.fif$", "-epo.fif", path.name)
    return {"holds": "recording", "layout": "things-meg", "part_of": first}, (
        f"a further part of {first}: alignvis check {quote(str(path.with_name(first)))}"
    )


def _hdf5(path: Path) -> Row:
    with hdf5.opened(path) as file, hdf5.told(path):
        is_brick = hdf5.has(file, ARRAY)
    if is_brick:
        with open_brick(path) as brick:
            return {"holds": "pictures", "layout": "nsd", "images": len(brick)}, (
                f"{len(brick):,} pictures of NSD; embed them with: alignvis extract --images {quote(str(path))}"
            )
    with open_betas(path) as betas:
        about = {"holds": "recording", "layout": "nsd", "sessions": betas.sessions, "voxels": betas.voxels}
        return about, (
            f"betas of NSD: {betas.sessions} sessions of {betas.per_session} trials x {betas.voxels:,} voxels; make a "
            "table with: alignvis prepare nsd --raw DIR --subject N"
        )


def _own(path: Path) -> Row:
    recording = open_any(path, 1)
    kinds = {kind: recording.kinds.count(kind) for kind in dict.fromkeys(recording.kinds)}
    shown = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
    return {"holds": "recording", "layout": "mne", "channels": kinds, "sfreq": recording.rate}, (
        f"a recording of {shown} channels, {recording.samples / recording.rate:,.1f} s at {recording.rate:g} Hz; make "
        f"a table with: alignvis prepare mne --raw {quote(str(path))} --events FILE.tsv"
    )


TELL: dict[str, Callable[[Path], Row]] = {
    r"^raw_eeg_(training|test)\.npy$": _eeg2,
    r"-epo\.fif$": _meg,
    r"-epo-\d+\.fif$": _meg_part,
    r"\.(hdf5|h5)$": _hdf5,
    r"\.(vhdr|edf|bdf|set|fif|ds)$": _own,
}
