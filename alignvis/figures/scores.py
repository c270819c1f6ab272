"""Scores of runs: image encoders beside their twins, and what averaging repetitions brings."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from alignvis.errors import AlignvisError
from alignvis.figures.pooled import Pooled, coloured, interval_said, pool
from alignvis.figures.style import ALIGNED, PLAIN, QUIET, WIDTH, looks, new_figure, say_simulated
from alignvis.figures.words import INK, room_beside, wrapped
from alignvis.intervals import interval
from alignvis.spans import spans
from alignvis.table import repetitions

BLOCK = (
    "dataset",
    "simulated",
    "protocol",
    "encoder",
    "recipe",
    "n",
    "gallery",
    "repetitions",
)  # what one panel shares
ROW, HEAD, FOOT = 0.34, 0.95, 0.35  # inches: of an encoder and its twin, of what stands around a panel, of the legend
APART = 0.13  # of a row, between the two of it
MARKERS = "os^Dvp*h"
CURVES = ("features", "target", "encoder", "recipe")  # what curves share that are averaged
WILSON, BOTH = "Wilson over pictures", "bootstrap over subjects and pictures"


def draw_scores(scores: Sequence[dict[str, Any]]) -> Figure:
    """Draw top-1 of every image encoder beside its twin, with intervals, subjects and chance.

    A row is an aligned encoder (filled, blue) and its unaligned twin (open, orange), joined by a line; a panel is one
    protocol. Seeds are averaged before subjects. Intervals are 95 %, those of `alignvis eval`: by bootstrap over
    subjects and pictures, of one subject Wilson's over the test pictures.

    Args:
        scores: of `alignvis.evaluate`, one a run.

    Raises:
        AlignvisError: when there are none.
    """
    if not scores:
        raise AlignvisError("there are no scores to draw; make some with: alignvis eval")
    blocks: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for score in scores:
        blocks.setdefault(tuple(score[key] for key in BLOCK), []).append(score)
    rows = [_rows(block) for block in blocks.values()]
    room = room_beside([_name(row) for some in rows for row in some])
    with looks():
        figure = new_figure(WIDTH, sum(ROW * len(some) + HEAD for some in rows) + FOOT)
        panels = figure.subplots(len(rows), 1, squeeze=False, height_ratios=[ROW * len(some) + 0.3 for some in rows])
        for axes, block, some in zip(panels[:, 0], blocks.values(), rows, strict=True):
            _panel(axes, block, some, room)
        _legend(figure, scores)
        if all(score["simulated"] for score in scores):
            say_simulated(figure)
    return figure


def _rows(scores: Sequence[dict[str, Any]]) -> list[dict[bool, tuple[str, Pooled]]]:
    """What stands in one line: aligned encoder and twin, the line with the best first."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for score in scores:
        groups.setdefault((score["features"], score.get("target", "embeddings")), []).append(score)
    lines: dict[tuple[str, str], dict[bool, tuple[str, Pooled]]] = {}
    for (features, target), group in groups.items():
        aligned = group[0]["aligned"]
        twin = group[0].get("twin")
        head = features if aligned or (twin, target) not in groups else twin
        label = features + ("" if target == "embeddings" else f" ({target})")
        lines.setdefault((head, target), {})[aligned] = (label, _top1(group))
    return sorted(lines.values(), key=lambda line: -max(float(pooled.mean) for _, pooled in line.values()))


def _top1(scores: Sequence[dict[str, Any]]) -> Pooled:
    pooled = pool([(score["subject"], score["top1"]) for score in scores])
    subjects = [[score for score in scores if score["subject"] == subject] for subject in pooled.subjects]
    ends = interval(subjects)
    if ends is None:
        return replace(pooled, low=None, high=None, over=None)
    low, high = map(np.float64, ends)
    return replace(pooled, low=low, high=high, over=WILSON if len(subjects) == 1 else BOTH)


def _panel(
    axes: Axes, block: Sequence[dict[str, Any]], rows: Sequence[dict[bool, tuple[str, Pooled]]], room: float
) -> None:
    for place, row in enumerate(rows):
        at = {aligned: place + (APART if not aligned else -APART) * (len(row) > 1) for aligned in row}
        axes.plot([100 * float(row[k][1].mean) for k in row], list(at.values()), color=QUIET, lw=0.8, zorder=1)
        for aligned, (_, pooled) in row.items():
            _dot(axes, pooled, at[aligned], aligned)
    chance = block[0]["top1_chance"]
    axes.axvline(100 * chance, color=QUIET, ls=":", lw=1, zorder=0)
    axes.set_yticks(range(len(rows)), [_name(row) for row in rows])
    axes.set(ylim=(len(rows) - 0.5, -0.5), xlabel=f"right picture of {block[0]['gallery']} named first (top-1, %)")
    axes.set_xlim(0, max(axes.get_xlim()[1], 300 * chance))
    axes.tick_params(axis="y", length=0)
    axes.set_title(wrapped(_about(block, rows), room), loc="left", color=INK)


def _name(row: dict[bool, tuple[str, Pooled]]) -> str:
    """The aligned encoder's name; its twin's too where that says more than ``_noalign``."""
    if len(row) == 1 or row[False][0].replace("_noalign", "") == row[True][0]:
        return row[max(row)][0]
    return f"{row[True][0]}\n{row[False][0]}"


def _dot(axes: Axes, pooled: Pooled, y: float, aligned: bool) -> None:
    colour, fill = (ALIGNED, ALIGNED) if aligned else (PLAIN, "white")
    if pooled.low is not None and pooled.high is not None:
        axes.plot([100 * pooled.low, 100 * pooled.high], [y, y], color=colour, lw=1.2, zorder=2)
    if len(pooled.subjects) > 1:
        subjects = 100 * np.array(list(pooled.subjects.values()))
        axes.plot(subjects, [y] * len(subjects), ls="", marker="o", ms=2.5, mfc=fill, mec=colour, mew=0.5, alpha=0.5)
    axes.plot([100 * float(pooled.mean)], [y], marker="o", ms=5.5, mec=colour, mfc=fill, mew=1.2, zorder=4)


def _about(block: Sequence[dict[str, Any]], rows: Sequence[dict[bool, tuple[str, Pooled]]]) -> str:
    one = block[0]
    way = "trained on the same subject" if one["protocol"] != "leave-out" else "trained on other subjects"
    over = [pooled.over for row in rows for _, pooled in row.values()]
    return (
        f"{one['dataset']}{' (SIMULATED brain)' * one['simulated']}, {one['encoder']}, {one['recipe']}, {way}: "
        f"n = {one['n']} test responses, each {repetitions(one)}; "
        f"subjects {spans([score['subject'] for score in block], ', ')}, "
        f"seeds {spans([score['seed'] for score in block], ', ')}; "
        f"{_said(over)}"
    )


def _said(over: Sequence[str | None]) -> str:
    kinds = sorted({kind for kind in over if kind}, reverse=True)
    return f"95 % interval: {', '.join(kinds)}" if kinds else "no interval: all responses of all were right, or none"


def _legend(figure: Figure, scores: Sequence[dict[str, Any]]) -> None:
    kinds = {score["aligned"] for score in scores}
    handles = [
        Line2D([], [], marker="o", ls="", ms=5.5, mec=colour, mfc=fill, mew=1.2, label=label)
        for aligned, colour, fill, label in (
            (True, ALIGNED, ALIGNED, "aligned to people"),
            (False, PLAIN, "white", "not aligned"),
        )
        if aligned in kinds
    ]
    if len({score["subject"] for score in scores}) > 1:
        handles.append(Line2D([], [], marker="o", ls="", ms=2.5, color=QUIET, label="one subject"))
    handles.append(Line2D([], [], ls=":", color=QUIET, label="chance"))
    figure.legend(handles=handles, loc="outside lower center", ncols=4)


# --- repetitions -----------------------------------------------------------------------------------------------------


def draw_repetitions(curves: Sequence[dict[str, Any]]) -> Figure:
    """Draw top-1 against how many repetitions of a test picture are averaged, with interval bands and chance.

    Runs that differ in subject and seed alone are averaged, seeds first, then subjects; subjects are faint lines.
    Aligned encoders have filled marks, the first of them is blue; others have open marks and dashed lines, the first of
    them is orange.

    Args:
        curves: one a run: what ``repetitions.json`` holds ("repetitions", "top1", "top1_low", "top1_high", "draws",
            "n", "gallery", "chance", and of the run "dataset", "simulated", "subject", "run_seed", "encoder",
            "features", "target", "recipe", "aligned").

    Raises:
        AlignvisError: when there are none, or runs that are averaged have other numbers of repetitions.
    """
    if not curves:
        raise AlignvisError("there are no curves to draw; make some with: alignvis eval --curve")
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for curve in sorted(curves, key=lambda curve: not curve["aligned"]):
        groups.setdefault(tuple(curve[key] for key in CURVES), []).append(curve)
    labels = _labels(list(groups))
    colours = coloured([(key, group[0]["aligned"]) for key, group in groups.items()])
    columns = 1 if max(map(len, labels)) > 50 else 2
    with looks():
        figure = new_figure(WIDTH, 3.2 + 0.15 * (len(groups) // columns + 1))
        axes = figure.subplots()
        over = [
            _curve(axes, group, MARKERS[place % len(MARKERS)], colours[key], labels[place])
            for place, (key, group) in enumerate(groups.items())
        ]
        counts = sorted({count for curve in curves for count in curve["repetitions"]})
        axes.set_xscale("log")
        axes.set_xticks(counts, [str(count) for count in counts])
        axes.xaxis.set_minor_locator(NullLocator())
        for place, chance in enumerate(sorted({curve["chance"] for curve in curves})):
            axes.axhline(100 * chance, color=QUIET, ls=":", lw=1, zorder=0, label="_" * bool(place) + "chance")
        sizes = spans([curve["gallery"] for curve in curves], ", ")
        axes.set(xlabel="repetitions of a test picture that are averaged")
        axes.set_ylabel(f"right picture of {sizes}\nnamed first (top-1, %)")
        axes.set_ylim(bottom=0)
        axes.set_title(wrapped(_of_curves(curves, over), WIDTH - 0.6), loc="left", color=INK)
        figure.legend(loc="outside lower center", ncols=columns)
        if all(curve["simulated"] for curve in curves):
            say_simulated(figure)
    return figure


def _labels(kinds: Sequence[tuple[str, ...]]) -> list[str]:
    """What each line is called: its features, and of the rest what tells lines apart."""
    differ = [place for place in range(len(CURVES)) if place == 0 or len({kind[place] for kind in kinds}) > 1]
    return [", ".join(kind[place] for place in differ) for kind in kinds]


def _curve(axes: Axes, group: Sequence[dict[str, Any]], marker: str, colour: str, label: str) -> str | None:
    one = group[0]
    counts = one["repetitions"]
    if any(curve["repetitions"] != counts for curve in group):
        raise AlignvisError(
            f"runs on {one['features']} were asked about other numbers of repetitions, so their curves have no mean; "
            "draw them apart, or make them again with: alignvis eval --curve --overwrite"
        )
    fill, line = (colour, "-") if one["aligned"] else ("white", "--")
    bands = [np.stack([curve["top1_low"], curve["top1_high"]], axis=-1) for curve in group]
    pooled = pool([(curve["subject"], curve["top1"]) for curve in group], bands)
    if pooled.low is not None and pooled.high is not None:
        ends = np.clip([pooled.low, pooled.high], 0, 1)
        axes.fill_between(counts, 100 * ends[0], 100 * ends[1], color=colour, alpha=0.08, lw=0)
        for end in ends:
            axes.plot(counts, 100 * end, color=colour, lw=0.4, alpha=0.6, zorder=1)
    if len(pooled.subjects) > 1:
        for values in pooled.subjects.values():
            axes.plot(counts, 100 * values, color=colour, lw=0.5, ls=line, alpha=0.4)
    look = {"color": colour, "marker": marker, "mfc": fill, "mec": colour, "ls": line}
    axes.plot(counts, 100 * pooled.mean, ms=4.5, lw=1.3, label=label, **look)
    return pooled.over


def _of_curves(curves: Sequence[dict[str, Any]], over: Sequence[str | None]) -> str:
    one = curves[0]
    names = ", ".join(sorted({curve["dataset"] + " (SIMULATED brain)" * curve["simulated"] for curve in curves}))
    return (
        f"{names}, {', '.join(sorted({curve['encoder'] for curve in curves}))}: "
        f"n = {spans([curve['n'] for curve in curves], ', ')} test responses; mean of {one['draws']} random choices of "
        f"repetitions; subjects {spans([curve['subject'] for curve in curves], ', ')}, "
        f"seeds {spans([curve['run_seed'] for curve in curves], ', ')}; {interval_said(over)}"
    )
