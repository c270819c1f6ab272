"""Explanations of several runs as one side of a figure: aligned encoders, or their unaligned twins."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alignvis.errors import AlignvisError
from alignvis.explanations.explain import gained, read_explanation
from alignvis.figures.pooled import Pooled, pool
from alignvis.recordings.montage import montage

Explanation = tuple[dict[str, Any], Mapping[str, NDArray[np.floating]]]  # of `read_explanation`


@dataclass(frozen=True)
class Side:
    """What the runs of one side say together; what some of them lack is None.

    Attributes:
        aligned: whether their image encoders are aligned to people.
        found: what each run's ``explain.json`` states.
        gradcam: (channels or 1, times), in multiples of its mean, so that maps of different scale can be compared.
        first_order: (channels, times) similarity lost without each sample, to first order, where it is positive, in
            multiples of its mean.
        windows, regions: (windows,) and (regions,) top-1 lost without each, shares.
        channels: (channels,) similarity lost without each.
        kept, retrained: (windows,) top-1 with one window alone, without and with retraining, shares.
        only, without, bands: (bands,) top-1 with one band alone, with all others, and retrained on one alone, shares.
    """

    aligned: bool
    found: list[dict[str, Any]]
    gradcam: Pooled | None
    first_order: Pooled
    windows: Pooled | None
    regions: Pooled | None
    channels: Pooled
    kept: Pooled | None
    retrained: Pooled | None
    only: Pooled | None
    without: Pooled | None
    bands: Pooled | None

    @property
    def one(self) -> dict[str, Any]:
        """What the first run states, for all that the runs share."""
        return self.found[0]

    @property
    def top1(self) -> float:
        """With nothing taken away, share."""
        return float(pool([(found["subject"], found["top1"]) for found in self.found]).mean)

    @property
    def pooled(self) -> list[Pooled]:
        """All that was pooled with intervals."""
        parts = (self.windows, self.regions, self.kept, self.retrained, self.only, self.without, self.bands)
        return [part for part in parts if part is not None]


def read_sides(aligned: Sequence[Path], twin: Sequence[Path]) -> list[Side]:
    """Read the explanations of both sides, of which one may be empty.

    Raises:
        AlignvisError: when there are none, one cannot be read, or they are not of the same channels, times and windows.
    """
    runs = {True: [Path(run) for run in aligned], False: [Path(run) for run in twin]}
    read = {side: [read_explanation(run) for run in paths] for side, paths in runs.items()}
    everything = [(run, found) for side in runs for run, (found, _) in zip(runs[side], read[side], strict=True)]
    if not everything:
        raise AlignvisError("there is no explanation to draw; name runs that `alignvis explain` has explained")
    first_run, first = everything[0]
    for run, found in everything[1:]:
        for what, of in SHARED.items():
            if of(found) != of(first):
                raise AlignvisError(
                    f"{run} and {first_run} were explained over other {what}, so they cannot stand in one figure; draw "
                    "them apart, or explain them alike with: alignvis explain --overwrite"
                )
    return [_side(side, explanations) for side, explanations in read.items() if explanations]


SHARED: dict[str, Callable[[dict[str, Any]], Any]] = {
    "datasets": lambda found: found["dataset"],
    "channels": lambda found: found["channels"],
    "times": lambda found: found["times"],
    "regions": lambda found: [row["name"] for row in found["occlusion"]["regions"]],
    "windows": lambda found: [(row["start"], row["end"]) for row in found["occlusion"]["windows"]],
    "kept windows": lambda found: [(row["start"], row["end"]) for row in found["kept"]],
    "bands": lambda found: [(row["name"], row["low"], row["high"]) for row in found["bands"]],
    "galleries": lambda found: found["gallery"],
}


def _side(aligned: bool, explanations: Sequence[Explanation]) -> Side:
    found = [one for one, _ in explanations]
    subjects = [one["subject"] for one in found]

    def of_rows(rows: Callable[[dict[str, Any]], Any], value: str, interval: str) -> Pooled | None:
        """Pool one number of the rows of every run; None where a run has no rows, or they lack the number."""
        lists = [rows(one) for one in found]
        if any(not some or any(row.get(value) is None for row in some) for some in lists):
            return None
        values = [(subject, [row[value] for row in some]) for subject, some in zip(subjects, lists, strict=True)]
        return pool(values, [[row[interval] for row in some] for some in lists])

    retrained = {tuple((row["start"], row["end"]) for row in one.get("retrained") or ()) for one in found}
    return Side(
        aligned=aligned,
        found=found,
        gradcam=_gradcam(explanations),
        first_order=pool([(one["subject"], _even(gained(arrays["first_order"]))) for one, arrays in explanations]),
        windows=of_rows(lambda one: one["occlusion"]["windows"], "drop", "drop_interval"),
        regions=of_rows(lambda one: one["occlusion"]["regions"], "drop", "drop_interval"),
        channels=pool([(one["subject"], one["occlusion"]["channels"]) for one in found]),
        kept=of_rows(lambda one: one["kept"], "top1", "top1_interval"),
        retrained=of_rows(lambda one: one["retrained"], "top1", "top1_interval") if len(retrained) == 1 else None,
        only=of_rows(lambda one: one["bands"], "only_top1", "only_interval"),
        without=of_rows(lambda one: one["bands"], "without_top1", "without_interval"),
        bands=of_rows(lambda one: one["bands"], "retrained_top1", "retrained_interval"),
    )


def _gradcam(explanations: Sequence[Explanation]) -> Pooled | None:
    """Mean over queries of every run, scaled to a mean of 1, pooled; None where a run has none or other rows."""
    maps = []
    for found, arrays in explanations:
        if not found["gradcam"] or "gradcam" not in arrays:
            return None
        maps.append((found["subject"], _even(np.asarray(arrays["gradcam"]).mean(axis=0, dtype=np.float64))))
    return pool(maps) if len({values.shape for _, values in maps}) == 1 else None


def _even(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """A map in multiples of its mean, so that maps of different scale can be compared."""
    scale = np.abs(values).mean()
    return values / scale if scale > 0 else values


def ordered(found: dict[str, Any]) -> tuple[NDArray[np.int64], list[tuple[str, int]]]:
    """Order channels by region, front to back, and from left to right within a region.

    Returns:
        (channels,) places in ``found["channels"]``, and how many each region has, by name in that order. Where places
        are not known, regions and channels stay in the order in which they are stated.
    """
    names = found["channels"]
    places = montage(names).array(names)
    row = {name: place for place, name in enumerate(names)}
    groups = [(name, [row[one] for one in some if one in row]) for name, some in found["regions"].items()]
    rest = sorted(set(range(len(names))) - {place for _, some in groups for place in some})
    groups = [(name, some) for name, some in [*groups, ("other", rest)] if some]
    if np.isfinite(places).any():
        groups.sort(key=lambda group: -_mean(places[group[1], 1]))
        groups = [(name, sorted(some, key=lambda place: _number(places[place, 0]))) for name, some in groups]
    order = np.array([place for _, some in groups for place in some], dtype=np.int64)
    return order, [(name, len(some)) for name, some in groups]


def _mean(values: NDArray[np.float64]) -> float:
    """Of what is known; nothing known comes last."""
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else -np.inf


def _number(value: float) -> float:
    return float(value) if np.isfinite(value) else np.inf
