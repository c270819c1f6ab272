"""One picture of the claim: the more human an embedding, the better a brain is read through it?"""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.transforms import Bbox

from alignvis.alignment import CHANCE
from alignvis.errors import AlignvisError
from alignvis.figures.style import ALIGNED, DPI, FONT, PLAIN, QUIET, save
from alignvis.figures.words import from_to
from alignvis.human_scores import ENOUGH, PROTOCOLS, common_kind, retrieval_of

WIDTH, HEIGHT, LINE = 8.0, 5.2, 0.155  # inches: of the picture, of what is above the caption, of a line of it


def draw_alignment(rows: Sequence[dict[str, Any]], out: Path) -> None:
    """Draw how human each embedding is (across) and how well brains were read through it (up), with 95 % intervals.

    Across is the share of human choices answered alike if every table with runs has at least 100 of them, otherwise the
    correlation with SPoSE, which is a surrogate and is called so. Up are the runs of the kind that most tables share.
    An arrow leads from an encoder to its aligned twin. Tables without such runs stand as ticks at the bottom.

    Args:
        rows: of `alignvis.human_scores.score_tables`.
        out: PNG, SVG or PDF file to write.

    Raises:
        AlignvisError: when no table has runs with scores, or there is nothing to put them across.
    """
    save(_figure(rows), out)


def _figure(rows: Sequence[dict[str, Any]]) -> Figure:
    kind = common_kind(rows)
    if kind is None:
        raise AlignvisError(
            "no run that learned from these embeddings has a score, so there is nothing to draw; "
            "make some with: alignvis train, alignvis eval"
        )
    by_people = all(_across(row, True) for row in rows if retrieval_of(row, kind))
    points = [
        {**row, "x": x, "y": retrieval_of(row, kind)} for row in rows if (x := _across(row, by_people)) is not None
    ]
    shown, bare = [point for point in points if point["y"]], [point for point in points if not point["y"]]
    if not shown:
        raise AlignvisError(
            "no table that runs learned from could be compared with people: it takes 100 human choices, or SPoSE's "
            "embedding, in the folder of the human data"
        )
    lines = _caption(rows, points, bare, kind, by_people)
    below = LINE * (len(lines) + 1) / (HEIGHT + LINE * (len(lines) + 1))
    figure = Figure(figsize=(WIDTH, HEIGHT / (1 - below)), dpi=DPI)
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_axes((0.09, below + 0.17 * (1 - below), 0.88, 0.74 * (1 - below)))
    _frame(axes, points, shown, kind, by_people)
    for point in shown:
        _mark(axes, point)
    for point in bare:
        axes.plot([point["x"]["value"]] * 2, [0, 0.025], transform=axes.get_xaxis_transform(), color=QUIET, lw=1.5)
    _arrows(axes, shown)
    _legend(figure, shown, bare, below)
    figure.text(0.02, below, "\n".join(lines), fontsize=FONT, va="top", linespacing=1.3)
    canvas.draw()
    _label(axes, shown, canvas)
    return figure


def _across(row: dict[str, Any], by_people: bool) -> dict[str, Any] | None:
    if by_people:
        found = row["people"] and row["people"]["cosine"]
        return found if found and found["n"] >= ENOUGH else None
    found = row["surrogate"] and row["surrogate"]["cosine"]
    return found if found and found["value"] is not None else None


def _spread(score: dict[str, Any], middle: float) -> tuple[float, float]:
    """The interval, or the value twice where there is none."""
    low, high = score["interval"] or (middle, middle)
    return low, high


def _frame(
    axes: Axes, points: Sequence[dict[str, Any]], shown: Sequence[dict[str, Any]], kind: dict[str, Any], people: bool
) -> None:
    """Axes with room for labels, their names, and lines at chance."""
    chance = CHANCE if people else 0.0
    across = [chance, *(end for point in points for end in _spread(point["x"], point["x"]["value"]))]
    # an interval over two subjects reaches anywhere: it may leave the picture rather than flatten it
    best = max(point["y"]["top1"] for point in shown)
    up = min(2 * best, max(end for point in shown for end in _spread(point["y"], point["y"]["top1"])))
    margin = 0.08 * max(max(across) - min(across), 0.02)
    axes.set_xlim(min(across) - margin, max(across) + margin)
    axes.set_ylim(0, 1.12 * max(up, 2 * kind["chance"]))
    axes.axhline(kind["chance"], color=QUIET, ls=":", lw=1, zorder=0)
    axes.axvline(chance, color=QUIET, ls=":", lw=1, zorder=0)
    for text, place in ((f"chance {kind['chance']:.1%}", (0.995, kind["chance"])), ("chance", (chance, 0.99))):
        sideways = text == "chance"
        axes.text(
            *place,
            text,
            transform=axes.get_xaxis_transform() if sideways else axes.get_yaxis_transform(),
            rotation=90 if sideways else 0,
            ha="right",
            va="top" if sideways else "bottom",
            fontsize=FONT - 1,
            color=QUIET,
        )
    axes.set_xlabel(
        "how human: share of human odd-one-out choices answered alike"
        if people
        else "how human, by a SURROGATE: Spearman correlation of similarities with SPoSE's",
        fontsize=FONT + 1,
    )
    axes.set_ylabel(f"right picture of {kind['gallery']} named first (top-1)", fontsize=FONT + 1)
    axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.3g} %")
    if people:
        axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.3g} %")
    axes.tick_params(labelsize=FONT)
    axes.spines[["top", "right"]].set_visible(False)
    pretended = ["pictures"] * any(point["simulated"] for point in points) + ["brain"] * kind["simulated"]
    if pretended:
        axes.set_title(f"SIMULATED {' and '.join(pretended)}", fontsize=FONT + 4, color=PLAIN, weight="bold")


def _mark(axes: Axes, point: dict[str, Any]) -> None:
    x, y = point["x"]["value"], point["y"]["top1"]
    colour = ALIGNED if point["aligned"] else PLAIN
    low, high = _spread(point["y"], y)
    left, right = _spread(point["x"], x)
    axes.plot([x, x], [low, high], color=colour, lw=0.8, alpha=0.5, zorder=1)
    axes.plot([left, right], [y, y], color=colour, lw=0.8, alpha=0.5, zorder=1)
    axes.plot([x], [y], marker="o", ms=7, mec=colour, mew=1.5, mfc=colour if point["aligned"] else "white", zorder=3)


def _twins(shown: Sequence[dict[str, Any]]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Pairs of an encoder and its aligned twin on the same pictures."""
    plain = {(point["encoder"], point["image_set"]): point for point in shown if not point["aligned"]}
    pairs = ((plain.get((point["twin"], point["image_set"])), point) for point in shown if point["aligned"])
    return [(before, after) for before, after in pairs if before]


def _at(point: dict[str, Any]) -> tuple[float, float]:
    return point["x"]["value"], point["y"]["top1"]


def _arrows(axes: Axes, shown: Sequence[dict[str, Any]]) -> None:
    look = {"arrowstyle": "-|>", "color": "#404040", "lw": 1, "shrinkA": 5, "shrinkB": 5}
    for before, after in _twins(shown):
        axes.annotate("", xy=_at(after), xytext=_at(before), arrowprops=look, zorder=2)


def _legend(figure: Figure, shown: Sequence[dict[str, Any]], bare: Sequence[dict[str, Any]], bottom: float) -> None:
    handles = [
        Line2D([], [], marker="o", ls="", ms=7, mec=colour, mew=1.5, mfc=fill, label=label)
        for aligned, colour, fill, label in (
            (True, ALIGNED, ALIGNED, "aligned to people"),
            (False, PLAIN, "white", "not aligned"),
        )
        if any(point["aligned"] is aligned for point in shown)
    ]
    if bare:
        handles.append(Line2D([], [], marker="|", ls="", ms=8, mew=1.5, color=QUIET, label="no such runs"))
    figure.legend(
        handles=handles, loc="lower center", bbox_to_anchor=(0.53, bottom), ncols=3, fontsize=FONT, frameon=False
    )


def _label(axes: Axes, shown: Sequence[dict[str, Any]], canvas: FigureCanvasAgg) -> None:
    """Put each name near its marker where it covers least of names, markers and lines.

    ``<name>_noalign`` at the tail of an arrow to ``<name>`` goes without: the arrow says what it is.
    """
    renderer, halo = canvas.get_renderer(), withStroke(linewidth=2.5, foreground="white")
    inside = axes.get_window_extent(renderer)
    pixels = axes.transData.transform([_at(point) for point in shown])
    taken = [Bbox.from_extents(*(mark - 9), *(mark + 9)) for mark in pixels]
    lines = _strokes(axes, shown)
    told = [id(before) for before, after in _twins(shown) if before["encoder"] == f"{after['encoder']}_noalign"]
    several = len({point["image_set"] for point in shown}) > 1
    for place in np.argsort(-pixels[:, 1], kind="stable"):
        point, mark = shown[place], pixels[place]
        if id(point) in told:
            continue
        colour = ALIGNED if point["aligned"] else PLAIN
        name = f"{point['encoder']} ({point['image_set']})" if several else point["encoder"]
        text = axes.text(0, 0, name, fontsize=FONT, color=colour, zorder=4, gid="name", path_effects=[halo])
        size = text.get_window_extent(renderer)
        spots = _spots(mark, size.width, size.height)
        others = [box for other, box in enumerate(taken) if other != place]
        costs = [_cost(box, others, lines, inside) + distance for box, distance in spots]
        box, distance = spots[int(np.argmin(costs))]
        text.set(va="bottom", position=axes.transData.inverted().transform((box.x0, box.y0)))
        taken.append(box)
        if distance > 30:  # far enough away to need a line to its marker
            end = (np.clip(mark[0], box.x0, box.x1), np.clip(mark[1], box.y0, box.y1))
            axes.plot(*axes.transData.inverted().transform([mark, end]).T, color=colour, lw=0.8, ls="--", zorder=1)


def _spots(mark: np.ndarray, width: float, height: float) -> list[tuple[Bbox, float]]:
    """Boxes around a marker, nearer ones first, each with its distance in pixels."""
    spots = []
    for distance in (10, 22, 36, 52, 72, 96, 124):
        for sideways in (1.0, -1.0, 0.0, 0.5, -0.5):
            for up in (0.0, 1.0, -1.0, 0.5, -0.5):
                if abs(sideways) == 1 or abs(up) == 1:  # else the box would lie on its marker
                    centre = mark + (sideways * (distance + width / 2), up * (distance + height / 2))
                    spots.append(
                        (Bbox.from_bounds(*(centre - (width / 2, height / 2)), width, height), float(distance))
                    )
    return spots


def _strokes(axes: Axes, shown: Sequence[dict[str, Any]]) -> np.ndarray:
    """Points along all arrows and intervals, in pixels, close enough together for any name on them to cover some."""
    ends = 4 * [[_at(before), _at(after)] for before, after in _twins(shown)]  # rather an interval than an arrow
    for point in shown:
        x, y = _at(point)
        ends += [[(x, end) for end in _spread(point["y"], y)], [(end, y) for end in _spread(point["x"], x)]]
    pixels = axes.transData.transform(np.array(ends).reshape(-1, 2)).reshape(-1, 2, 2)
    along = np.linspace(0, 1, 60)[:, None, None]
    return ((1 - along) * pixels[:, 0] + along * pixels[:, 1]).reshape(-1, 2)


def _cost(box: Bbox, taken: Sequence[Bbox], lines: np.ndarray, inside: Bbox) -> float:
    """How much a box covers: other names and markers most, what leaves the axes next, lines least."""
    covered = sum(shared.width * shared.height for other in taken if (shared := Bbox.intersection(box, other)))
    outside = max(0, inside.x0 - box.x0) + max(0, box.x1 - inside.x1)
    outside += max(0, inside.y0 + 6 - box.y0) + max(0, box.y1 - inside.y1)
    low, high = np.array([box.x0, box.y0]) - 4, np.array([box.x1, box.y1]) + 4  # the white around a name covers too
    crossed = int(((lines >= low) & (lines <= high)).all(axis=1).sum())
    return 20 * covered + 20 * outside + 2 * crossed


def _caption(
    rows: Sequence[dict[str, Any]],
    points: Sequence[dict[str, Any]],
    bare: Sequence[dict[str, Any]],
    kind: dict[str, Any],
    by_people: bool,
) -> list[str]:
    """What stands in the picture and how many of each."""
    shown = [point for point in points if point["y"]]
    brain = f"{kind['dataset']}{' (SIMULATED brain)' if kind['simulated'] else ''}"
    runs = [point["y"]["runs"] for point in shown]
    subjects = [len(point["y"]["subjects"]) for point in shown]
    lines = [
        f"{len(shown)} encoder{'s' * (len(shown) > 1)}. Up: {brain}, {kind['brain']}, "
        f"{PROTOCOLS[kind['protocol']]}, "
        f"recipe {kind['recipe']}, {kind['n']} test responses of {kind['repetitions']} repetitions; runs an encoder: "
        f"{from_to(runs)}, subjects: {from_to(subjects)}; mean, 95 % interval over subjects, or over pictures where "
        "there is one subject."
    ]
    if any(before["encoder"] == f"{after['encoder']}_noalign" for before, after in _twins(shown)):
        lines.append("An arrow leads to an aligned encoder, named at its tip, from the same one without alignment.")
    concepts = [point["concepts"] for point in points]
    if by_people:
        choices = [point["x"]["n"] for point in points]
        lines.append(f"Across: {from_to(choices)} choices of people among THINGS concepts, 95 % Wilson interval.")
    else:
        lines.append(
            f"Across: {from_to(concepts)} THINGS concepts; SPoSE is a model fitted to people's choices, not people; "
            "95 % bootstrap interval over concepts."
        )
    if rows[0]["target"] != "embeddings":
        lines.append(f"Of {rows[0]['target']}, not of the encoders' ends.")
    if any(point["in_sample"] for point in points):
        lines.append("gLocal was fitted to people's choices among these concepts: its place across is in-sample.")
    if bare:
        lines.append(
            f"Ticks at the bottom: {len(bare)} more encoder{'s' * (len(bare) > 1)}, without runs of this kind."
        )
    if len(points) < len(rows):
        lines.append(f"Left out: {len(rows) - len(points)} tables that could not be compared with people.")
    return [part for line in lines for part in textwrap.wrap(line, 120)]
