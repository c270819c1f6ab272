"""What can be named in a command."""

import textwrap
from dataclasses import asdict
from typing import Any

from alignvis.encoders import ENCODERS
from alignvis.images.catalogue import CATALOGUE
from alignvis.training import RECIPES

Row = tuple[dict[str, Any], str]


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
    """Every brain encoder by name."""
    return [({"name": name}, f"{name:10} {(kind.__doc__ or '').splitlines()[0]}") for name, kind in ENCODERS.items()]


def recipes() -> list[Row]:
    """Every recipe with its numbers."""
    return [
        ({"name": name, **asdict(recipe)}, f"{name:15} " + ", ".join(f"{k} {v}" for k, v in asdict(recipe).items()))
        for name, recipe in RECIPES.items()
    ]
