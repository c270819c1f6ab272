"""What comparisons found: differences with their intervals, and every subject."""

import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from alignvis.comparing.values import METRICS
from alignvis.errors import AlignvisError
from alignvis.figures.style import ALIGNED, QUIET, WIDTH, looks, new_figure, say_simulated
from alignvis.figures.words import INK, averaged, from_to, room_beside, wrapped

BLOCK = (
    "dataset",
    "simulated",
    "metric",
    "gallery",
    "galleries",
    "repetitions",
    "interval_over",
)  # what a panel shares
ROW, HEAD, FOOT = 0.36, 1.0, 0.35  # inches: of a comparison, of what stands around a panel, of the legend
NAME = 44  # letters of a line of a comparison's name
TITLES = {"top1": "top-1", "top5": "top-5", "mrr": "mean reciprocal rank", "pairwise": "pairwise accuracy"}


def draw_comparison(rows: Sequence[dict[str, Any]]) -> Figure:
    """Draw the difference of each comparison with its 95 % bootstrap interval, each subject a dot, and zero.

    Args:
        rows: of `alignvis.comparing.compare`, one a comparison, in the order in which they are drawn.

    Raises:
        AlignvisError: when there are none.
    """
    if not rows:
        raise AlignvisError("there is no comparison to draw; make one with: alignvis compare")
    blocks: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        blocks.setdefault(tuple(row[key] for key in BLOCK), []).append(row)
    heights = [ROW * len(block) + 0.3 for block in blocks.values()]
    room = room_beside([_name(row) for row in rows])
    with looks():
        figure = new_figure(WIDTH, sum(heights) + (HEAD - 0.3) * len(blocks) + FOOT)
        panels = figure.subplots(len(blocks), 1, squeeze=False, height_ratios=heights)[:, 0]
        for axes, block in zip(panels, blocks.values(), strict=True):
            _panel(axes, block, room)
        handles = [Line2D([], [], marker="o", ms=5.5, color=ALIGNED, label="mean, 95 % interval")]
        if any(row["n_subjects"] > 1 for row in rows):
            handles.append(Line2D([], [], marker="o", ls="", ms=3, mec=INK, mfc="white", mew=0.6, label="one subject"))
        handles.append(Line2D([], [], color=QUIET, label="no difference"))
        figure.legend(handles=handles, loc="outside lower center", ncols=3)
        if all(row["simulated"] for row in rows):
            say_simulated(figure)
    return figure


def _panel(axes: Axes, rows: Sequence[dict[str, Any]], room: float) -> None:
    one = rows[0]
    metric = METRICS[one["metric"]]
    for place, row in enumerate(rows):
        axes.plot(metric.scale * np.array(row["interval"]), [place, place], color=ALIGNED, lw=1.4, zorder=2)
        axes.plot([metric.scale * row["difference"]], [place], marker="o", ms=5.5, color=ALIGNED, zorder=4)
        if row["n_subjects"] > 1:
            subjects = [metric.scale * subject["difference"] for subject in row["subjects"]]
            look = {"marker": "o", "ms": 3, "mfc": "white", "mec": INK, "mew": 0.6}
            axes.plot(subjects, [place + 0.22] * len(subjects), ls="", alpha=0.8, zorder=3, **look)
    axes.axvline(0, color=QUIET, lw=0.8, zorder=0)
    axes.set_yticks(range(len(rows)), [_name(row) for row in rows])
    axes.tick_params(axis="y", length=0)
    unit = f" ({metric.unit})" if metric.unit else ""
    axes.set(ylim=(len(rows) - 0.5, -0.5), xlabel=f"difference in {TITLES.get(one['metric'], one['metric'])}{unit}")
    axes.set_title(wrapped(_about(rows), room), loc="left", color=INK)


def _name(row: dict[str, Any]) -> str:
    """First against second, in what they differ; brain encoders where they differ, or panels have several."""
    first, second = row["first"], row["second"]
    keys = [key for key in ("features", "encoder", "recipe") if first[key] != second[key]] or ["pool"]
    names = [", ".join(str(side[key]) for key in keys) for side in (first, second)]
    lines = [*textwrap.wrap(names[0], NAME), *textwrap.wrap(f"against {names[1]}", NAME)]
    return "\n".join(lines)


def _about(rows: Sequence[dict[str, Any]]) -> str:
    one = rows[0]
    brains = sorted({side["encoder"] for row in rows for side in (row["first"], row["second"])})
    recipes = sorted({side["recipe"] for row in rows for side in (row["first"], row["second"])})
    several = "s" * any(row["n_subjects"] > 1 for row in rows)
    return (
        f"{one['dataset']}{' (SIMULATED brain)' * one['simulated']}, {', '.join(brains)}, {', '.join(recipes)}: "
        f"{from_to([row['n_subjects'] for row in rows])} subject{several}, "
        f"{from_to([row['n_images'] for row in rows])} test images{averaged(one['repetitions'])} "
        f"among {one['gallery']:,} {one['galleries']}; 95 % bootstrap interval over {one['interval_over']}"
    )
