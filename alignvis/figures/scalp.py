"""Maps of the head: a value a channel, drawn where the channels lie, as seen from above with the nose up."""

from collections.abc import Sequence

import mne
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colorbar import Colorbar
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from mne.viz import plot_topomap
from numpy.typing import NDArray

from alignvis.errors import AlignvisError
from alignvis.figures.style import DIVERGING, QUIET, SEQUENTIAL
from alignvis.recordings.montage import montage

FEWEST = 4  # channels: between fewer there is nothing to draw a map of
FINE = 96  # points of the map along one side


def has_map(names: Sequence[str]) -> bool:
    """Whether enough of these channels have a place, and not all on one line, for a map to be drawn."""
    places = np.array([place for place in montage(names).places.values() if place is not None])
    return len(np.unique(places, axis=0)) >= FEWEST and np.linalg.matrix_rank(places - places.mean(axis=0)) == 2


def scalp_map(
    axes: Axes,
    values: Sequence[float] | NDArray[np.floating],
    names: Sequence[str],
    *,
    limits: tuple[float, float] | None = None,
    diverging: bool = False,
) -> AxesImage | None:
    """Draw a value a channel as a map of the head, each channel that went into it as a dot.

    Between the channels the map is interpolated (cubic, as mne does it), beyond the outermost ones of a whole-head
    recording it is extrapolated to the edge, and beyond those that cover a part of the head it ends near them. A
    channel without a place is left out and counted below the map. Negative contours are dashed, so that the sign of a
    diverging map can be told without colours.

    Args:
        axes: to draw into; nothing else of matplotlib is touched and no window opened.
        values: (channels,), finite.
        names: of the channels.
        limits: values of the darkest and the lightest colour; by default the smallest and the largest one, or with
            ``diverging`` as far below zero as above.
        diverging: zero has the middle colour.

    Returns:
        What a colour bar is made of; None where there is no place for a map, which is written in its stead.

    Raises:
        AlignvisError: when values and names do not agree in number, or a value is not finite.
    """
    values = np.asarray(values, dtype=np.float64)
    if values.shape != (len(names),) or not np.isfinite(values).all():
        raise AlignvisError(
            f"a map of {len(names)} channels takes one finite value each, and got {values.shape} of which "
            f"{int((~np.isfinite(values)).sum())} are not finite"
        )
    axes.set_axis_off()
    if not has_map(names):
        axes.text(0.5, 0.5, "no map: the channels' names\nsay no place", ha="center", va="center", color=QUIET)
        return None
    found = montage(names)
    places = found.array(names)
    known = np.isfinite(places[:, 0])
    spots, which = np.unique(places[known], axis=0, return_inverse=True)
    merged = np.bincount(which.ravel(), values[known]) / np.bincount(which.ravel())  # two names of one place
    low, high = limits or limits_of([merged], diverging=diverging)
    with mne.use_log_level("error"):
        image, _ = plot_topomap(
            merged,
            spots,
            ch_type="mag" if found.kind == "meg" else "eeg",
            sphere=1.0,
            sensors="k.",
            contours=_contours(low, high),
            extrapolate="head" if _whole_head(spots) else "local",
            res=FINE,
            cmap=DIVERGING if diverging else SEQUENTIAL,
            vlim=(low, high),
            axes=axes,
            show=False,
        )
    for line in axes.lines:  # the outline of the head, and the channels
        line.set(linewidth=0.8, markersize=1.6 if len(spots) <= 80 else 0.8, markeredgewidth=0)
    for contours in axes.collections:
        contours.set_linewidth(0.4)
    if not known.all():
        missing = int((~known).sum())
        note = f"{missing} of {len(names)} channels\nhave no known place"
        axes.text(0.5, 0, note, ha="center", va="top", color=QUIET, transform=axes.transAxes)
    return image


def limits_of(maps: Sequence[Sequence[float] | NDArray[np.floating]], *, diverging: bool) -> tuple[float, float]:
    """Limits that maps of one colour bar share: as far below zero as above, or from the smallest to the largest."""
    values = np.concatenate([np.ravel(np.asarray(values, dtype=np.float64)) for values in maps])
    low, high = (-np.abs(values).max(), np.abs(values).max()) if diverging else (values.min(), values.max())
    room = 0.0 if high > low else max(abs(high), 1.0) * 1e-3  # a constant map has one colour, and a bar around it
    return float(low - room), float(high + room)


def colour_bar(figure: Figure, image: AxesImage, axes: Sequence[Axes], unit: str, *, shrink: float = 0.8) -> Colorbar:
    """Put one colour bar, with its unit, beside the axes that share it."""
    bar = figure.colorbar(image, ax=list(axes), label=unit, shrink=shrink, aspect=15, pad=0.02)
    bar.outline.set_linewidth(0.5)
    bar.ax.tick_params(width=0.5, length=2)
    return bar


def _contours(low: float, high: float) -> NDArray[np.float64]:
    """Five levels between the limits, without the limits themselves."""
    return np.linspace(low, high, 7)[1:-1]


def _whole_head(spots: NDArray[np.float64]) -> bool:
    """Whether channels lie in front, behind and on both sides."""
    return bool((spots.max(axis=0) > 0.6).all() and (spots.min(axis=0) < -0.6).all())
