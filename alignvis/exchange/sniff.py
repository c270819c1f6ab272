"""What a file that another project wrote is, by what it holds."""

from pathlib import Path

from alignvis.errors import AlignvisError
from alignvis.exchange import brains, features

KNOWN = (
    "recordings of NICE, ATM and AlignVis (.npy, .pkl), UBP (.pt), NeuroBridge and SAMGA (.npy with info.json) and "
    "ZEISS (.npy with meta_*.json); features of AlignVis (.npy trees and .tar shards), ATM and UBP (.pt), NICE and "
    "NeuroBridge (.npy) and ZEISS (.safetensors)"
)


def recognise(path: Path) -> tuple[str, str]:
    """Name the table that a path becomes, "responses" or "features", and the layout that it is in.

    Raises:
        AlignvisError: when it is in none that is known, or cannot be read.
    """
    for kind, layouts in (("responses", brains), ("features", features)):
        layout = layouts.recognise(path)
        if layout is not None:
            return kind, layout
    raise AlignvisError(f"{path} is in none of the layouts that are read: {KNOWN}")
