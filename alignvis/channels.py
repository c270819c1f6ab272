"""What channels are called, and where that says they lie."""

import re

MEG = re.compile(r"M[LRZ][CFOPT]\d\d")  # CTF's names: side, region, row and place


def is_occipital(name: str) -> bool:
    """Tell whether a channel lies over visual cortex by its name.

    Of EEG these are the names of the 10-10 system that begin with O or P (in THINGS-EEG2 the 17 that its authors kept),
    of CTF's MEG those whose third letter is O, like MLO11-1609.
    """
    return name[2] == "O" if MEG.match(name) else name[:1] in ("O", "P")
