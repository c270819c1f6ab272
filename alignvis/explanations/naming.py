"""What the figure of explained runs is called where nobody chose a name: by what is in it."""

import re
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from alignvis.runs import read_record
from alignvis.twins import twin_run

LONGEST = 180  # characters of words: a file's name has room for 255 bytes, with its ending and while it is written


def figure_name(root: Path, aligned: Sequence[Path], twin: Sequence[Path]) -> str:
    """Name the figure of `alignvis.figures.maps.draw_explanation`, without its ending; no two sets of runs share one.

    Of a run of this root beside its twin, "explain_RUN", RUN the aligned one; of a run alone, "explain_RUN_alone". Of
    others what they are, in the order of a run's own name, then eight hexadecimal digits of their names and weights,
    as the same subjects and seeds may be other runs:
    "explain_things-eeg2_sub-01-02-03_fine-and-fine_noalign_nice_alignvis_seed-0_1b2c3d4e".

    Raises:
        AlignvisError: when a run cannot be read.
    """
    runs = [Path(run).resolve() for run in (*aligned, *twin)]
    if all(run.parent == (root / "runs").resolve() for run in runs):
        if len(runs) == 1:
            return f"explain_{runs[0].name}_alone"
        beside = len(aligned) == len(twin) == 1 and twin_run(runs[0]) == runs[1]
        if beside and not runs[0].name.endswith("_alone"):
            return f"explain_{runs[0].name}"
    records = [read_record(run) for run in runs]
    words = [
        "-and-".join(_each(records, "dataset")),
        "-".join(["sub", *(f"{subject:02d}" for subject in sorted({one["subject"] for one in records}))]),
        "-and-".join(_each(records, "features")),
        "-and-".join(_each(records, "encoder")),
        "-and-".join(dict.fromkeys(one["recipe"]["name"] for one in records)),
        "-".join(["seed", *map(str, sorted({one["seed"] for one in records}))]),
    ]
    exact = sorted(f"{run.name} {record['weights_sha256']}" for run, record in zip(runs, records, strict=True))
    digits = sha256("\n".join(exact).encode()).hexdigest()[:8]
    told = re.sub(r"[^\w.+-]", "-", "_".join(words), flags=re.ASCII)[:LONGEST]
    return f"explain_{told}_{digits}"


def _each(records: Sequence[dict[str, Any]], key: str) -> list[str]:
    return list(dict.fromkeys(one[key] for one in records))
