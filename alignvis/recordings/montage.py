"""Where the channels of a recording lie on the head, by their names, as seen from above with the nose up."""

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from mne.channels import get_builtin_montages, make_standard_montage, read_layout
from numpy.typing import NDArray

EEG = ("colin27_1005", "standard_1005")  # the same positions; newer versions of mne have the first name
MEG = "CTF275"
CIRCLE = ("Fpz", "T7", "Oz", "T8")  # electrodes that lie on the circle of the drawn head
EARS = ("A1", "A2")  # no place on the scalp; and in BioSemi's own naming these are two electrodes at the vertex
CTF = re.compile(r"(M[LRZ][CFOPT]\d\d)(?:-\d+)?")  # sensor, and the number of the helmet
CALLED = re.compile(r"(?:EEG[ _-]+)?([A-Z]+\d{0,2})(?:[ _-]+(?:REF|LE|AVG?|A1|A2|M1|M2))?", re.IGNORECASE)


@dataclass(frozen=True)
class Montage:
    """The places of channels.

    Attributes:
        kind: "eeg", "meg", or None when no channel's name is known.
        places: name -> (right, front), in radii of the drawn head, whose middle is (0, 0); None for a channel whose
            name is not known, or that is of another kind than most.
    """

    kind: str | None
    places: dict[str, tuple[float, float] | None]

    @property
    def unknown(self) -> list[str]:
        """The names without a place."""
        return [name for name, place in self.places.items() if place is None]

    def array(self, names: Sequence[str]) -> NDArray[np.float64]:
        """The places of some channels, (channels, 2); not a number where there is none."""
        return np.array([self.places.get(name) or (np.nan, np.nan) for name in names]).reshape(-1, 2)


def montage(names: Sequence[str]) -> Montage:
    """Find the places of channels by their names.

    EEG electrodes are known by the names of the 10-5 system, which holds 10-10 and 10-20, in any case and also as
    ``EEG Fp1-REF``; their polar angle, seen from the middle of the circle through Fpz, T7, Oz and T8, becomes the
    distance from the vertex. MEG sensors are known by CTF's names, like ``MLC11`` or ``MLC11-1609``, with the places of
    the layout of 275 sensors, stretched to the circle. Names that are not known are no error.

    Args:
        names: of the channels, each once; voxels and numbered channels have no place.

    Source: mne's "standard_1005" montage and "CTF275" layout; the azimuthal equidistant projection is that of EEGLAB.
    """
    of_meg = {name: found[1].upper() for name in names if (found := CTF.fullmatch(name.strip().upper()))}
    if len(of_meg) > len(names) / 2:
        sensors = _sensors()
        places = {name: sensors.get(of_meg.get(name, "")) for name in names}
        return Montage("meg" if any(places.values()) else None, places)
    electrodes = _electrodes()
    places = {name: electrodes.get(_plain(name)) for name in names}
    return Montage("eeg" if any(places.values()) else None, places)


def _plain(name: str) -> str:
    """An electrode's name in capitals, without what files of recordings put around it."""
    found = CALLED.fullmatch(name.strip())
    return found[1].upper() if found else ""


@lru_cache(maxsize=1)
def _electrodes() -> dict[str, tuple[float, float]]:
    known = get_builtin_montages()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        places = make_standard_montage(next(name for name in EEG if name in known)).get_positions()["ch_pos"]
    middle = _middle(np.array([places[name] for name in CIRCLE]))
    right, front, up = (np.array(list(places.values())) - middle).T
    from_vertex = np.arctan2(np.hypot(right, front), up) / (np.pi / 2)
    around = np.arctan2(front, right)
    flat = zip(from_vertex * np.cos(around), from_vertex * np.sin(around), strict=True)
    named = dict(zip(places, flat, strict=True))
    return {name.upper(): (float(x), float(y)) for name, (x, y) in named.items() if name not in EARS}


def _middle(circle: NDArray[np.float64]) -> NDArray[np.float64]:
    """The point from which front and back, and left and right, of (4, 3) places are equally far."""
    front, left, back, right = circle
    return np.array([(left + right)[0] / 2, (front + back)[1] / 2, circle[:, 2].mean()])


@lru_cache(maxsize=1)
def _sensors() -> dict[str, tuple[float, float]]:
    layout = read_layout(MEG)
    corners = np.array(layout.pos)
    places = corners[:, :2] + corners[:, 2:] / 2
    low, high = places.min(axis=0), places.max(axis=0)
    places = 2 * (places - low) / (high - low) - 1
    return {name: (float(x), float(y)) for name, (x, y) in zip(layout.names, places, strict=True)}
