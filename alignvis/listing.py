"""What can be named in a command."""

import textwrap
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from alignvis.encoders import ENCODERS
from alignvis.images.catalogue import CATALOGUE, DEFAULT, LICENCES
from alignvis.images.weights import found
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


def image_encoders(weights: Path) -> list[Row]:
    """Every image encoder, family by family: what it is, where it comes from, and whether its files are here.

    Args:
        weights: the ``weights/`` folder.
    """
    rows: list[Row] = []
    keys = ("id", "family", "dim", "depth", "aligned", "twin", "licence", "paper")
    width = max(map(len, CATALOGUE))
    family = None
    for row in CATALOGUE.values():
        about = {key: getattr(row, key) for key in keys}
        missing = [source for source in row.sources if found(source, weights) is None]
        sizes = {source.url: source.megabytes for source in missing}  # an archive is fetched once for all in it
        about |= {
            "sources": [source.url for source in row.sources],
            "files": [str(weights / source.file) for source in row.sources],
            "here": not missing,
            "download_megabytes": None if None in sizes.values() else sum(sizes.values()),
            "notes": [note for note in (row.warning, row.uncertain) if note],
        }
        head = [] if row.family == family else [f"{row.family}: {row.paper}; {row.licence}"]
        family = row.family
        text = f"  {row.id:{width}} {row.dim:5}  {'aligned' if row.aligned else '-':7}  {_weights(about)}"
        hosts = ", ".join(dict.fromkeys(urlsplit(url).netloc for url in about["sources"]))
        below = ["taken by default"] if row.id in DEFAULT else []
        below += [f"twin {row.twin}"] if row.twin else []
        below += [f"from {hosts}"] if hosts else []
        below += [f"{row.depth} layers"] if row.depth else []
        below += [] if row.licence in LICENCES.values() or not row.sources else [f"licence {row.licence}"]
        notes = [line for note in about["notes"] for line in _wrapped(f"note: {note}")]
        rows.append((about, "\n".join([*head, text, *_wrapped("; ".join(below)), *notes])))
    return rows


def _weights(about: dict[str, Any]) -> str:
    if about["here"]:
        return "here" if about["sources"] else "needs no weights"
    size = about["download_megabytes"]
    return "not here, download of unknown size" if size is None else f"not here, download about {size:,} MB"


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, 106, initial_indent=" " * 4, subsequent_indent=" " * 4)


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
