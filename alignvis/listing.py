"""What can be named in a command."""

import textwrap
from dataclasses import asdict
from typing import Any

from alignvis.encoders import ENCODERS
from alignvis.images.catalogue import CATALOGUE
from alignvis.recipe import RECIPES

Row = tuple[dict[str, Any], str]

# What each brain encoder is for, and the fewest samples in time that it takes.
PURPOSES = {
    "nice": "EEG, MEG: filters in time, then in space, as most published results have; 75 samples or more",
    "atms": "EEG, MEG: attention between channels before NICE; slower, for comparison with ATM-S; 2 samples or more",
    "eegnet": "EEG, MEG: small and fast, the convolutional baseline of the field; 32 samples or more",
    "eegconformer": "EEG, MEG: convolutions and a transformer over time, for comparison; 34 samples or more",
    "resnet1d": "EEG, MEG: deep convolutions over time, the slowest, for comparison; a multiple of 128 samples",
    "lstm": "EEG, MEG: a recurrent network, for comparison; 2 samples or more",
    "brain-mlp": "fMRI: a wide residual perceptron over all voxels; takes any shape",
    "eegproject": "EEG, MEG: one flat layer and a residual one, best of recent results on 17 channels; takes any shape",
    "linear": "any: one linear map, the baseline that every table needs; takes any shape",
}


def image_encoders() -> list[Row]:
    """Every image encoder: its id, dimension, twin, and what one should know of it."""
    rows: list[Row] = []
    width = max(map(len, CATALOGUE))
    for row in CATALOGUE.values():
        about = {key: getattr(row, key) for key in ("id", "family", "dim", "aligned", "twin", "licence", "paper")}
        about |= {"files": [source.file for source in row.sources], "note": row.warning or row.uncertain}
        side = f"aligned, twin {row.twin}" if row.aligned else "not aligned"
        note = textwrap.fill(about["note"] or "", 100, initial_indent=" " * 4, subsequent_indent=" " * 4)
        rows.append((about, f"{row.id:{width}} {row.dim:5}  {side}" + (f"\n{note}" if note else "")))
    return rows


def brain_encoders() -> list[Row]:
    """Every brain encoder: its name and what it is for."""
    width = max(map(len, ENCODERS))
    return [({"name": name, "note": PURPOSES[name]}, f"{name:{width}}  {PURPOSES[name]}") for name in ENCODERS]


def recipes() -> list[Row]:
    """Every recipe: the first with all its entries, the others by what they have otherwise."""
    rows: list[Row] = []
    first = asdict(next(iter(RECIPES.values())))
    for name, recipe in RECIPES.items():
        entries = asdict(recipe)
        shown = {key: value for key, value in entries.items() if not rows or value != first[key]}
        text = ("" if not rows else "as alignvis, but ") + ", ".join(f"{key} {value}" for key, value in shown.items())
        indent = " " * 26
        rows.append(({"name": name, **entries}, textwrap.fill(f"{name:25} {text}", 110, subsequent_indent=indent)))
    return rows
