"""Groups of channels by where their names say that they lie."""

import re
from collections.abc import Sequence

from alignvis.channels import MEG

REGIONS = ("frontal", "central", "temporal", "parietal", "occipital", "other")
OF_MEG = {"F": "frontal", "C": "central", "T": "temporal", "P": "parietal", "O": "occipital"}
OF_EEG = {  # letters of the 10-20, 10-10 and 10-5 systems
    "frontal": "FP AFP AF AFF F",
    "central": "FFC FC FCC C CCP CP CPP",
    "temporal": "FFT FT FTT T TTP TP TPP",
    "parietal": "P",
    "occipital": "PPO PO POO O OI I",
}
LETTERS = {letters: region for region, rows in OF_EEG.items() for letters in rows.split()}
ELECTRODE = re.compile(r"([A-Z]+?)(Z|\d{1,2}H?)")


def region(channel: str) -> str:
    """Say over which part of the head a channel lies: one of `REGIONS`.

    Of EEG the letters of the 10-10 system decide: those between two lobes go to the one that the electrodes lie over
    more: FC and CP to central, FT and TP to temporal, PO to occipital. Of CTF's MEG it is the third letter. Every other
    name, such as a voxel's or A1's, is of "other".
    """
    if MEG.match(channel):
        return OF_MEG[channel[2]]
    match = ELECTRODE.fullmatch(channel.strip().upper())
    return LETTERS.get(match[1], "other") if match else "other"


def regions(channels: Sequence[str]) -> dict[str, list[int]]:
    """Find the places of the channels of every region that has some, in the order of `REGIONS`."""
    found: dict[str, list[int]] = {name: [] for name in REGIONS}
    for place, channel in enumerate(channels):
        found[region(channel)].append(place)
    return {name: places for name, places in found.items() if places}
