"""The panels of a figure of explanations: each draws one kind of answer of both sides into given axes."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from numpy.typing import NDArray

from alignvis.figures.explained import Side, ordered
from alignvis.figures.pooled import Pooled
from alignvis.figures.scalp import colour_bar, limits_of, scalp_map
from alignvis.figures.style import ALIGNED, PLAIN, QUIET, SEQUENTIAL
from alignvis.recordings.montage import montage

TIME = "time after the picture came on (s)"
GRADCAM = "Grad-CAM\n(1: evenly spread)"
SINGLE = "similarity lost\n(1: evenly spread)"
THIN = 0.8  # points
MARKER = 4.0  # points


def colour(side: Side) -> str:
    return ALIGNED if side.aligned else PLAIN


def fill(side: Side) -> str:
    return ALIGNED if side.aligned else "white"


def dashes(side: Side) -> str:
    return "-" if side.aligned else "--"


def kind(side: Side) -> str:
    return "aligned" if side.aligned else "not aligned"


def edges(times: Sequence[float]) -> tuple[float, float]:
    """When the first sample begins and the last one ends, s."""
    half = (times[-1] - times[0]) / (len(times) - 1) / 2
    return times[0] - half, times[-1] + half


def heat(figure: Figure | SubFigure, sides: Sequence[Side], of: str) -> None:
    """Grad-CAM, or what single samples are worth: channels by times, a map a side; regions are named at the left."""
    panels = figure.subplots(1, len(sides), squeeze=False, sharey=True)[0]
    order, groups = ordered(sides[0].one)
    pooled = [side.gradcam if of == "gradcam" else side.first_order for side in sides]
    maps = [one.mean[order] for one in pooled if one is not None]
    borders = np.cumsum([0, *(count for _, count in groups)])
    image = None
    for axes, side, values in zip(panels, sides, maps, strict=True):
        start, end = edges(side.one["times"])
        image = axes.imshow(
            values,
            aspect="auto",
            interpolation="nearest",
            extent=(start, end, len(values), 0),
            cmap=SEQUENTIAL,
            vmin=min(0.0, limits_of(maps, diverging=False)[0]),
            vmax=limits_of(maps, diverging=False)[1],
        )
        for border in borders[1:-1]:
            axes.axhline(border, color="white", lw=THIN)
        onset(axes, start, "white")
        axes.set(xlabel=TIME)
        what = "Grad-CAM" if of == "gradcam" else "without single samples, to first order"
        axes.set_title(f"{what}, {kind(side)}" if len(sides) < 2 or of == "gradcam" else what, color=colour(side))
        axes.tick_params(axis="y", length=0)
    panels[0].set_yticks((borders[:-1] + borders[1:]) / 2, [f"{name} ({count})" for name, count in groups])
    known = montage(sides[0].one["channels"]).kind is not None
    panels[0].set_ylabel("channels, front to back" if known else "channels")
    assert image is not None
    colour_bar(figure, image, list(panels), GRADCAM if of == "gradcam" else SINGLE)


def maps(figure: Figure | SubFigure, panels: Sequence[Axes], sides: Sequence[Side], of: str) -> None:
    """A map of the head a side, all of the same colours: Grad-CAM's mean over time, or what each channel is worth."""
    diverging = of == "occlusion"
    values: list[NDArray[np.float64]] = []
    for side in sides:
        values.append(side.channels.mean if diverging or side.gradcam is None else side.gradcam.mean.mean(axis=1))
    limits = limits_of(values, diverging=diverging)
    if not diverging:
        limits = (min(0.0, limits[0]), limits[1])
    images = []
    for axes, side, one in zip(panels, sides, values, strict=True):
        images.append(scalp_map(axes, one, side.one["channels"], limits=limits, diverging=diverging))
        axes.set_title(kind(side) if diverging else f"Grad-CAM, {kind(side)}", color=colour(side))
    if images[-1] is not None:
        unit = "similarity lost\nwithout a channel" if diverging else GRADCAM
        colour_bar(figure, images[-1], panels, unit, shrink=0.75)


def channel_losses(axes: Axes, sides: Sequence[Side]) -> None:
    """Similarity lost without each channel, the largest first: what there is to see of channels without a place."""
    for side in sides:
        values = np.sort(side.channels.mean)[::-1]
        rank = 100 * (np.arange(len(values)) + 0.5) / len(values)
        axes.plot(rank, values, color=colour(side), ls=dashes(side))
    axes.axhline(0, color=QUIET, lw=THIN)
    count = len(sides[0].one["channels"])
    axes.set(
        xlabel=f"channels, the largest first (% of {count:,})", ylabel="similarity lost", title="without a channel"
    )


def clock(axes: Axes, times: Sequence[float]) -> None:
    """Let the axis go from the first sample to the last, whatever is drawn."""
    axes.set(xlim=edges(times), xlabel=TIME)
    onset(axes, times[0])


def onset(axes: Axes, start: float, shade: str = QUIET) -> None:
    """Mark when the picture came on, where that is within the axes and not at their edge."""
    if start < -0.01:
        axes.axvline(0, color=shade, lw=THIN, ls="-")


def gradcam_course(axes: Axes, sides: Sequence[Side]) -> None:
    """Grad-CAM's mean over channels, against time."""
    for side in sides:
        if side.gradcam is not None:
            times = np.array(side.one["times"])
            axes.plot(times, side.gradcam.mean.mean(axis=0), color=colour(side), ls=dashes(side))
            for values in list(side.gradcam.subjects.values()) * (len(side.gradcam.subjects) > 1):
                axes.plot(times, values.mean(axis=0), color=colour(side), ls=dashes(side), lw=0.5, alpha=0.4)
    axes.axhline(1, color=QUIET, lw=THIN, ls=":")
    clock(axes, sides[0].one["times"])
    axes.set(ylabel=GRADCAM, title="Grad-CAM, mean over channels")
    axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))


def lost_course(axes: Axes, sides: Sequence[Side]) -> None:
    """Top-1 lost without one window of time."""
    for side in sides:
        if side.windows is not None:
            _course(axes, side, side.windows, _middles(side.one["occlusion"]["windows"]), share=False)
    axes.axhline(0, color=QUIET, lw=THIN)
    clock(axes, sides[0].one["times"])
    width = sides[0].one["occlusion"]["width"]
    axes.set(ylabel="top-1 lost (points)", title=f"without a window of {1000 * width:g} ms")


def kept_course(axes: Axes, sides: Sequence[Side]) -> None:
    """Top-1 with one window of time alone, also of runs that were trained on it alone."""
    for side in sides:
        if side.kept is not None:
            _course(axes, side, side.kept, _middles(side.one["kept"]), share=True)
        if side.retrained is not None:
            middle = _middles(side.one["retrained"])
            _bars(axes, side, side.retrained, middle, marker="D", share=True)
    chance(axes, sides)
    clock(axes, sides[0].one["times"])
    widths = {round(1000 * (row["end"] - row["start"])) for row in sides[0].one["kept"]}
    axes.set(ylabel="top-1 (%)", title=f"with one window of {min(widths)} ms alone")
    axes.set_ylim(bottom=0)


def regions(axes: Axes, sides: Sequence[Side]) -> None:
    """Top-1 lost without all channels of one region."""
    names = [row["name"] for row in sides[0].one["occlusion"]["regions"]]
    counts = {name: len(channels) for name, channels in sides[0].one["regions"].items()}
    front = [name for name, _ in ordered(sides[0].one)[1] if name in names]
    order = [names.index(name) for name in [*front, *(name for name in names if name not in front)]]
    high = 0.38 if len(sides) > 1 else 0.6
    for place, side in enumerate(sides):
        if side.regions is None:
            continue
        pooled, at = side.regions, np.arange(len(names)) + (place - (len(sides) - 1) / 2) * high
        axes.barh(at, 100 * pooled.mean[order], height=high, color=fill(side), edgecolor=colour(side), lw=1)
        if pooled.low is not None and pooled.high is not None:
            for row, y in zip(order, at, strict=True):
                axes.plot(100 * np.array([pooled.low[row], pooled.high[row]]), [y, y], color="black", lw=THIN)
    axes.axvline(0, color=QUIET, lw=THIN)
    axes.set_yticks(range(len(names)), [f"{names[row]} ({counts.get(names[row], 0)})" for row in order])
    axes.tick_params(axis="y", length=0)
    axes.set(ylim=(len(names) - 0.4, -0.6), xlabel="top-1 lost (points)", title="without all channels of a region")


def bands(panels: Sequence[Axes], sides: Sequence[Side]) -> None:
    """Top-1 with one band alone, and with all others."""
    rows = sides[0].one["bands"]
    names = [f"{row['name']}\n{row['low']:g} to {row['high']:g}" for row in rows]
    for axes, title in zip(panels, ("with one band alone", "with all but one band"), strict=True):
        alone = title == "with one band alone"
        for place, side in enumerate(sides):
            at = np.arange(len(rows)) + (place - (len(sides) - 1) / 2) * 0.22
            pooled = side.only if alone else side.without
            if pooled is not None:
                _bars(axes, side, pooled, at, marker="o", share=True)
            if alone and side.bands is not None:
                _bars(axes, side, side.bands, at + 0.1, marker="D", share=True)
            axes.axhline(100 * side.top1, color=colour(side), ls=dashes(side), lw=THIN, zorder=0)
        chance(axes, sides)
        axes.set_xticks(range(len(rows)), names)
        axes.set(xlabel="band (Hz)", ylabel="top-1 (%)", xlim=(-0.5, len(rows) - 0.5))
        axes.set_title(f"{title} (lines: with all of them)")
        axes.set_ylim(0, 1.06 * axes.get_ylim()[1])


def chance(axes: Axes, sides: Sequence[Side]) -> None:
    axes.axhline(100 / sides[0].one["gallery"], color=QUIET, ls=":", lw=1, zorder=0)


def _middles(rows: Sequence[dict[str, float]]) -> NDArray[np.float64]:
    return np.array([(row["start"] + row["end"]) / 2 for row in rows])


def _course(axes: Axes, side: Side, pooled: Pooled, times: NDArray[np.float64], *, share: bool) -> None:
    if pooled.low is not None and pooled.high is not None:
        low, high = _ends(pooled, share)
        axes.fill_between(times, low, high, color=colour(side), alpha=0.15, lw=0)
        known = np.pad(np.isfinite(low), 1)
        lone = known[1:-1] & ~known[:-2] & ~known[2:]  # a band of one point has no area
        axes.vlines(times[lone], low[lone], high[lone], color=colour(side), lw=THIN, alpha=0.5)
    look = {"marker": "o", "ms": 2.5, "mfc": fill(side), "mew": 0.8} if len(times) <= 60 else {}
    axes.plot(times, 100 * pooled.mean, color=colour(side), ls=dashes(side), **look)


def _bars(axes: Axes, side: Side, pooled: Pooled, at: NDArray[np.float64], *, marker: str, share: bool) -> None:
    if pooled.low is not None and pooled.high is not None:
        axes.vlines(at, *_ends(pooled, share), color=colour(side), lw=1)
    axes.plot(at, 100 * pooled.mean, ls="", marker=marker, ms=MARKER, mfc=fill(side), mec=colour(side), zorder=3)


def _ends(pooled: Pooled, share: bool) -> NDArray[np.float64]:
    """The interval in percent; of a share it ends at none and at all, which t does not know."""
    ends = np.stack([pooled.low, pooled.high])
    return 100 * (np.clip(ends, 0, 1) if share else ends)
