"""One picture of where, when and in which band pictures are found, with aligned encoders and with their twins."""

from collections.abc import Callable, Sequence
from pathlib import Path

from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from alignvis.errors import AlignvisError
from alignvis.figures import panels
from alignvis.figures.explained import Side, read_sides
from alignvis.figures.pooled import interval_said
from alignvis.figures.scalp import has_map
from alignvis.figures.style import ALIGNED, PLAIN, QUIET, WIDTH, looks, new_figure, say_simulated
from alignvis.figures.words import INK, averaged, wrapped
from alignvis.spans import spans

LINE = 0.14  # inches

Row = tuple[float, Callable[[SubFigure], None]]  # height in inches, and what draws it


def draw_explanation(aligned: Sequence[Path], twin: Sequence[Path]) -> Figure:
    """Draw explained runs on aligned image encoders beside runs on their unaligned twins.

    From the top: Grad-CAM over channels and times; its mean over channels, and over time as a map of the head; what
    similarity is lost without single samples, to first order; top-1 lost without a window of time, and similarity lost
    without a channel as a map; top-1 with one window alone, and lost without a region; top-1 with one frequency band,
    and without it. What there is not is left out. Several runs a side
    are averaged, seeds first, then subjects; intervals are over subjects where there are three, else over the test
    pictures of the one subject. Maps that belong together have the same colours.

    Args:
        aligned, twin: folders of runs that `alignvis explain` has explained; one of both may be empty.

    Raises:
        AlignvisError: when an explanation is missing or broken, when they do not fit together, or hold nothing.
    """
    return draw_sides(read_sides(aligned, twin))


def draw_sides(sides: Sequence[Side]) -> Figure:
    """Draw what `alignvis.figures.explained.read_sides` has read."""
    rows = _rows(sides)
    if not rows:
        raise AlignvisError(f"the explanation of a run on {sides[0].one['features']} holds nothing that can be drawn")
    facts = [part for line in _facts(sides) for part in wrapped(line, WIDTH - 0.1).split("\n")]
    simulated = any(found["simulated"] for side in sides for found in side.found)
    heights = [LINE * (len(facts) + 0.5), *(height for height, _ in rows)]
    with looks():
        figure = new_figure(WIDTH, sum(heights) + 0.3 + 0.25 * simulated)
        parts = figure.subfigures(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0]
        parts[0].text(0.01, 0.98, "\n".join(facts), va="top", color=INK, linespacing=1.25, parse_math=False)
        for part, (_, draw) in zip(parts[1:], rows, strict=True):
            draw(part)
        if simulated:
            say_simulated(figure)
        figure.legend(handles=_handles(sides), loc="outside lower center", ncols=5)
    return figure


def _rows(sides: Sequence[Side]) -> list[Row]:
    """What there is to draw, from the top."""
    one = sides[0].one
    timed, placed = len(one["times"]) > 1, has_map(one["channels"])
    looked = [side for side in sides if side.gradcam is not None and not _note(side)]
    rows: list[Row] = []
    if looked and timed:
        by_channel = all(side.one["gradcam"]["channel_axis"] for side in looked)
        if by_channel:
            rows.append((_tall(len(one["channels"])), lambda part: panels.heat(part, looked, "gradcam")))
        rows.append((1.9, lambda part: _beside_maps(part, looked, "gradcam", placed and by_channel)))
    if timed and len(one["channels"]) > 1 and any(side.first_order.mean.any() for side in sides):
        rows.append((_tall(len(one["channels"])), lambda part: panels.heat(part, sides, "first_order")))
    if timed and any(side.windows is not None for side in sides):
        rows.append((1.9, lambda part: _beside_maps(part, sides, "occlusion", placed)))
    elif placed:
        rows.append(
            (1.9, lambda part: panels.maps(part, part.subplots(1, len(sides), squeeze=False)[0], sides, "occlusion"))
        )
    if not placed and len(one["channels"]) > 1:
        rows.append((1.7, lambda part: panels.channel_losses(part.subplots(), sides)))
    kept, several = timed and any(side.kept is not None for side in sides), len(one["occlusion"]["regions"]) > 0
    if kept or several:
        rows.append((1.9, lambda part: _kept_and_regions(part, sides, kept, several)))
    if one["bands"]:
        rows.append((1.9, lambda part: panels.bands(part.subplots(1, 2), sides)))
    return rows


def _tall(channels: int) -> float:
    """Inches of a map of so many channels."""
    return 1.8 if channels < 30 else 2.5


def _note(side: Side) -> str:
    """Why a map over steps is none over time, if it is not."""
    return next((found["gradcam"].get("note", "") for found in side.found if found["gradcam"]), "")


def _beside_maps(part: SubFigure, sides: Sequence[Side], of: str, placed: bool) -> None:
    course = panels.gradcam_course if of == "gradcam" else panels.lost_course
    if not placed:
        course(part.subplots(), sides)
        return
    axes = part.subplots(1, 1 + len(sides), width_ratios=[1.5, *[1.0] * len(sides)])
    course(axes[0], sides)
    panels.maps(part, axes[1:], sides, of)


def _kept_and_regions(part: SubFigure, sides: Sequence[Side], kept: bool, regions: bool) -> None:
    axes = part.subplots(1, kept + regions, squeeze=False)[0]
    if kept:
        panels.kept_course(axes[0], sides)
    if regions:
        panels.regions(axes[-1], sides)


def _facts(sides: Sequence[Side]) -> list[str]:
    """What was explained, and what has to be known to read it."""
    one = sides[0].one
    brain = " (SIMULATED brain)" * one["simulated"]
    lines = [
        f"{one['dataset']}{brain}, {_all(sides, 'encoder')}, {_all(sides, 'recipe')}: "
        f"n = {one['n']} test responses{averaged(one.get('repetitions'))} among {one['gallery']} pictures; "
        f"{interval_said([pooled.over for side in sides for pooled in side.pooled])}."
    ]
    for side in sides:
        subjects, seeds = (spans([found[key] for found in side.found], ", ") for key in ("subject", "seed"))
        lines.append(
            f"{panels.kind(side).capitalize()}: {_all([side], 'features')}, subjects {subjects}, seeds {seeds}, "
            f"{len(side.found)} run{'s' * (len(side.found) > 1)}, top-1 {100 * side.top1:.1f} %. {_random(side)}"
        )
    reasons = {found["no_gradcam"] for side in sides for found in side.found if found["no_gradcam"]}
    lines += [f"No Grad-CAM: {reason}." for reason in sorted(reasons)]
    lines += [f"No Grad-CAM over time: {note}." for note in sorted({_note(side) for side in sides} - {""})]
    if not has_map(one["channels"]):
        lines.append("No map of the head: the channels' names say no place.")
    return lines


def _random(side: Side) -> str:
    """How much a map owes to what was learned."""
    values = [value for found in side.found for value in found["randomised"]["correlation"]]
    if not values:
        return ""
    return f"Its maps against those of random weights: Spearman {sum(values) / len(values):.2f}."


def _all(sides: Sequence[Side], key: str) -> str:
    return ", ".join(sorted({found[key] for side in sides for found in side.found}))


def _handles(sides: Sequence[Side]) -> list[Line2D | Patch]:
    handles: list[Line2D | Patch] = []
    for aligned, colour, fill, dashes, label in (
        (True, ALIGNED, ALIGNED, "-", "aligned to people"),
        (False, PLAIN, "white", "--", "not aligned"),
    ):
        if any(side.aligned is aligned for side in sides):
            handles.append(Line2D([], [], color=colour, marker="o", ms=4, mfc=fill, ls=dashes, label=label))
    if any(pooled.low is not None for side in sides for pooled in side.pooled):
        handles.append(Patch(color=QUIET, alpha=0.3, lw=0, label="95 % interval"))
    if any(side.retrained is not None or side.bands is not None for side in sides):
        handles.append(Line2D([], [], color=QUIET, marker="D", ms=4, ls="", label="trained on that alone"))
    if any(side.kept is not None or side.only is not None for side in sides):
        handles.append(Line2D([], [], color=QUIET, ls=":", label="chance"))
    return handles
