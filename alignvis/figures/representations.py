"""Pictures of similarity analyses and encoding models: correlation over time, over channels and over the head."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from alignvis.figures.scalp import has_map, scalp_map
from alignvis.figures.style import (
    ALIGNED,
    COLOURS,
    FONT,
    PLAIN,
    QUIET,
    SEQUENTIAL,
    WIDTH,
    looks,
    new_figure,
    say_simulated,
)
from alignvis.recordings.montage import montage
from alignvis.representations.table import repetitions_averaged

PAD = 0.12  # inches at both sides: what the layout misjudges of labels stays on the figure
PANEL = 2.5  # inches, height of a panel
LINES = 5  # curves in a panel
PAIRS = 4  # pairs of an aligned encoder and its twin that are drawn, and maps
LETTERS = 110  # of a caption's line
TICKS = 12  # channels that are named beside a map

Row = Mapping[str, Any]


def draw_rsa(result: Mapping[str, Any]) -> Figure:
    """Draw a similarity analysis: correlation of brain and embedding at each time, beside the noise ceiling.

    One panel for each aligned encoder and its twin, one for all that have none. A bar below marks the times at which
    the correlation is above chance, corrected for all times.

    Args:
        result: of `similarity_analysis.similarity_over_time`.
    """
    with looks():
        panels = _panels(result["features"])
        figure = new_figure(WIDTH, PANEL * len(panels) + 1.1)
        figure.get_layout_engine().set(w_pad=PAD)
        axes = figure.subplots(len(panels), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
        for ax, rows in zip(axes, panels, strict=True):
            curves = [(row, row["r"], row["interval"]) for row in rows]
            _curves(ax, curves, result["times"], *_rsa_ceilings(result["ceiling"]))
            ax.set_ylabel(f"{result['correlation']} r\nof dissimilarities")
        _time_axis(axes[-1], result["times"])
        figure.supxlabel(_caption(_rsa_words(result, panels)), x=0.01, ha="left", fontsize=FONT)
        if result["simulated"]:
            say_simulated(figure)
    return figure


def draw_encoding(result: Mapping[str, Any], maps: Mapping[str, NDArray[np.floating]]) -> Figure:
    """Draw an encoding model: curves over time with their ceiling, and for each embedding a map of channels and times.

    Of recordings with one time, such as fMRI, how many voxels reach which correlation takes the place of the maps.

    Args:
        result: of `encoding_analysis.encode`.
        maps: beside it.
    """
    with looks():
        mapped = result["times"] is not None and result["channel_names"] is not None
        shown = _mapped(result) if mapped else []
        figure = new_figure(WIDTH, PANEL * (len(shown) + 1) + 1.2)
        figure.get_layout_engine().set(w_pad=PAD)
        heights = [1, len(shown)] if shown else [1]
        upper, *lower = figure.subfigures(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0]
        if result["times"] is None:
            _voxels(upper, result, maps)
        else:
            ax = upper.subplots()
            rows = [row for rows in _panels(result["features"]) for row in rows][:LINES]
            curves = [(row, row["curve"], row["interval"]) for row in rows]
            _curves(ax, curves, result["times"], None, result["ceiling"])
            ax.set_ylabel(f"Pearson r, mean over\n{result['region']} channels")
            _time_axis(ax, result["times"])
        if shown:
            _maps(lower[0], result, shown, maps)
        last = lower[0] if lower else upper
        last.supxlabel(_caption(_encoding_words(result, shown)), x=0.01, ha="left", fontsize=FONT)
        if result["simulated"]:
            say_simulated(upper)
    return figure


def _panels(rows: Sequence[Row]) -> list[list[Row]]:
    """Each aligned table with its twin, then all others together."""
    pairs = [
        [row, other]
        for row in rows
        for other in rows
        if row["aligned"] and not other["aligned"] and row["twin"] == other["features"]
        if row["image_set"] == other["image_set"]
    ]
    paired = [id(row) for pair in pairs for row in pair]
    others = [row for row in rows if id(row) not in paired]
    return [*pairs[:PAIRS], *([others[:LINES]] if others else [])]


def _look(row: Row, place: int, rows: Sequence[Row]) -> dict[str, Any]:
    """Aligned blue, its twin orange and dashed; what has no twin here in other colours."""
    names = [(other["features"], other["image_set"]) for other in rows]
    if (row["twin"], row["image_set"]) in names:
        return {"color": ALIGNED, "ls": "-"} if row["aligned"] else {"color": PLAIN, "ls": "--"}
    return {"color": COLOURS[2 + place % (len(COLOURS) - 2)], "ls": ("-", "--", "-.", ":")[place % 4]}


def _name(row: Row) -> str:
    return f"{row['features']}{' (aligned to people)' if row['aligned'] else ''}"


def _curves(
    ax: Axes,
    curves: Sequence[tuple[Row, Sequence[float | None], Sequence[Sequence[float | None]]]],
    times: Sequence[float] | None,
    across_subjects: tuple[Sequence[float | None], Sequence[float | None]] | None,
    of_repetitions: Sequence[float | None] | None,
) -> None:
    """Values over time with their intervals, the ceilings behind and the significant times below."""
    rows = [row for row, _, _ in curves]
    one = times is None and len(curves[0][1]) == 1
    count = len(curves[0][1])
    across = np.arange(count) if times is None else 1000 * np.asarray(times)
    reach = [-0.5, len(curves) - 0.5] if one else across  # of one time each embedding has a place of its own
    if across_subjects is not None:
        low, high = (np.resize(_numbers(bound), len(reach)) for bound in across_subjects)
        ax.fill_between(reach, low, high, color=QUIET, alpha=0.2, lw=0, label="noise ceiling (lower to upper bound)")
        ax.plot(reach, low, color=QUIET, lw=1, label="lower bound (other subjects)")
    if of_repetitions is not None:
        top = np.resize(_numbers(of_repetitions), len(reach))
        ax.plot(reach, top, color=QUIET, lw=1, ls="-.", label="noise ceiling within subjects (halves)")
    ax.axhline(0, color=QUIET, lw=1, ls=":")
    for place, (row, values, (lower, upper)) in enumerate(curves):
        look = _look(row, place, rows)
        if one:
            r, ends = _numbers(values)[0], [_numbers(lower)[0], _numbers(upper)[0]]
            filled = look["color"] if row["aligned"] else "white"
            ax.plot([place, place], ends, color=look["color"], lw=1)
            ax.plot([place], [r], "o", color=look["color"], mfc=filled, ms=6, mew=1.5, label=_name(row))
        else:
            ax.fill_between(across, _numbers(lower), _numbers(upper), color=look["color"], alpha=0.2, lw=0)
            ax.plot(across, _numbers(values), lw=1.4, label=_name(row), **look)
    if one:
        ax.set_xticks([])
        ax.set_xlim(-0.5, len(curves) - 0.5)
    else:
        ax.margins(x=0.01)
        bottom, top = ax.get_ylim()
        step = 0.06 * (top - bottom)
        for place, (row, _, _) in enumerate(curves):
            look, marked = _look(row, place, rows), np.array(row["significant"])
            height = bottom - (place + 0.3) * step
            ax.fill_between(
                across, height - 0.2 * step, height + 0.2 * step, where=marked, color=look["color"], lw=0, step="mid"
            )
        ax.set_ylim(bottom - (len(curves) + 0.3) * step, top)
        if times is not None and times[0] <= 0:
            ax.axvline(0, color=QUIET, lw=1)
    ax.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=2)


def _time_axis(ax: Axes, times: Sequence[float] | None) -> None:
    if times is not None:
        ax.set_xlabel("time after the picture came on (ms)")
    elif ax.get_xticks().size:
        ax.set_xlabel("sample (the table does not say when)")


def _rsa_ceilings(ceiling: Mapping[str, Any]) -> tuple[Any, Any]:
    """Lower and upper bound by other subjects, and the ceiling by halves of the repetitions, as far as there are."""
    subjects, repetitions = ceiling["subjects"], ceiling["repetitions"]
    return subjects and (subjects["lower"], subjects["upper"]), repetitions and repetitions["upper"]


def _mapped(result: Mapping[str, Any]) -> list[Row]:
    """The tables whose maps are drawn: pairs first."""
    return [row for rows in _panels(result["features"]) for row in rows][:PAIRS]


def mean_map(result: Mapping[str, Any], maps: Mapping[str, NDArray[np.floating]], what: str) -> NDArray[np.float64]:
    """Mean of a map over subjects, (channels, times); what is not known of a subject counts as nothing."""
    found = [np.asarray(maps[f"sub-{subject:02d}.{what}"], dtype=np.float64) for subject in result["subjects"]]
    return np.mean([np.where(np.isfinite(one), one, 0) for one in found], axis=0)


def _maps(figure: Any, result: Mapping[str, Any], rows: Sequence[Row], maps: Mapping[str, Any]) -> None:
    """A row an embedding: channels and times, and the head at the curve's best time; one scale of colours for all."""
    names, times = list(result["channel_names"]), 1000 * np.asarray(result["times"])
    order, ordered = _front_to_back(names)
    values = [mean_map(result, maps, f"{row['features']}.r") for row in rows]
    limits = (0.0, max(1e-3, *(float(one.max()) for one in values)))
    head = has_map(names)
    axes = figure.subplots(len(rows), 2 if head else 1, squeeze=False, width_ratios=[3.2, 1] if head else [1])
    half = (times[-1] - times[0]) / (len(times) - 1) / 2
    for (ax, *beside), row, one in zip(axes, rows, values, strict=True):
        image = ax.imshow(
            one[order],
            aspect="auto",
            interpolation="nearest",
            cmap=SEQUENTIAL,
            vmin=limits[0],
            vmax=limits[1],
            extent=(times[0] - half, times[-1] + half, len(names) - 0.5, -0.5),
        )
        ticks = np.unique(np.linspace(0, len(names) - 1, min(TICKS, len(names))).round().astype(int))
        ax.set_yticks(ticks, [names[order[tick]] for tick in ticks])
        ax.set_ylabel("channels, front to back" if ordered else "channels")
        ax.set_title(_name(row), loc="left")
        if beside:
            best = _marked(row)
            scalp_map(beside[0], one[:, best], names, limits=limits)
            beside[0].set_title(f"{times[best]:.0f} ms")
            ax.axvline(times[best], color="white", lw=1, ls="--")
    _time_axis(axes[-1, 0], result["times"])
    figure.colorbar(image, ax=axes, label="Pearson r (0 and below: darkest)", extend="min", shrink=0.8, pad=0.02)


def _marked(row: Row) -> int:
    """The sample whose map is drawn: that of the curve's highest point, which the table names too."""
    return int(row["peak"]["sample"])


def _front_to_back(names: Sequence[str]) -> tuple[list[int], bool]:
    """Channels by where they lie, those at the front first; in the table's order where that is not known."""
    places = montage(names).places
    if len(places) != len(names) or any(place is None for place in places.values()):
        return list(range(len(names))), False
    return sorted(range(len(names)), key=lambda i: -places[names[i]][1]), True


def _voxels(figure: Any, result: Mapping[str, Any], maps: Mapping[str, Any]) -> None:
    """The mean over voxels of each embedding, and how the voxels spread."""
    left, right = figure.subplots(1, 2, width_ratios=[1, 1.4])
    rows = [row for rows in _panels(result["features"]) for row in rows][:LINES]
    curves = [(row, row["curve"], row["interval"]) for row in rows]
    _curves(left, curves, None, None, result["ceiling"])
    left.get_legend().remove()
    left.set_ylabel(f"Pearson r, mean over {result['region']} channels")
    found = {_name(row): _pooled(result, maps, f"{row['features']}.r") for row in rows}
    bins = np.linspace(min(-0.2, *(float(one.min()) for one in found.values())), 1, 61)
    if result["ceiling"] is not None:
        limit = _pooled(result, maps, "ceiling")
        right.hist(limit, bins, color=QUIET, alpha=0.25, label="noise ceiling")
    for place, (row, (name, values)) in enumerate(zip(rows, found.items(), strict=True)):
        look = _look(row, place, rows)
        right.hist(values, bins, histtype="step", lw=1.4, label=name, **look)
    right.axvline(0, color=QUIET, lw=1, ls=":")
    right.set_xlabel("Pearson r of a channel or voxel")
    right.set_ylabel("channels or voxels, all subjects")
    figure.legend(*right.get_legend_handles_labels(), loc="outside upper right", ncols=2)


def _pooled(result: Mapping[str, Any], maps: Mapping[str, Any], what: str) -> NDArray[np.float64]:
    values = [np.ravel(maps[f"sub-{subject:02d}.{what}"]) for subject in result["subjects"]]
    joined = np.concatenate(values)
    return joined[np.isfinite(joined)].astype(np.float64)


def _numbers(values: Sequence[float | None]) -> NDArray[np.float64]:
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)


def _caption(sentences: Sequence[str]) -> str:
    return "\n".join(textwrap.wrap(" ".join(sentences), LETTERS))


def _said_subjects(result: Mapping[str, Any]) -> str:
    """Whom and what a result is of: dataset, subjects, images and repetitions."""
    numbers = result["subjects"]
    who = f"subject {numbers[0]}" if len(numbers) == 1 else f"{len(numbers)} subjects"
    return f"{result['dataset']}, {who}; {result['n']} test images, {repetitions_averaged(result)}"


def _common_words(result: Mapping[str, Any]) -> list[str]:
    mean = "Mean over subjects. " if len(result["subjects"]) > 1 else ""
    bars = " Bars below: p" if result["times"] is not None else " p"
    words = f"{mean}Shaded: 95 % bootstrap interval over {' and '.join(result['drawn'])}, {result['draws']:,} draws."
    if result["times"] is None:
        words = words.replace("Shaded:", "Lines:")
        return [words]
    words += (
        f"{bars} ≤ {result['level']:g}, corrected for all times, {result['permutations']:,} permutations of images."
    )
    return [words]


def _left_out(result: Mapping[str, Any], shown: int) -> list[str]:
    rest = len(result["features"]) - shown
    return [f"{rest} more embeddings are not drawn."] if rest else []


def _rsa_words(result: Mapping[str, Any], panels: Sequence[Sequence[Row]]) -> list[str]:
    metrics = f"Dissimilarity: {result['metric']} of brains, {result['embedding_metric']} of {result['target']}."
    return [
        f"{_said_subjects(result)}, {result['pairs']:,} pairs.",
        metrics,
        *_common_words(result),
        *_ceiling_words(result),
        *_left_out(result, sum(map(len, panels))),
    ]


def _ceiling_words(result: Mapping[str, Any]) -> list[str]:
    """How to read the ceilings: one of them is far above 0 even where nothing is shared."""
    words, count = [], len(result["subjects"])
    if result["ceiling"]["subjects"]:
        words.append(
            f"Noise ceiling of {count} subjects: the lower bound is by the mean of the others; the mean of the upper "
            f"one has the subject itself in it, so it is about 1/√{count} = {count**-0.5:.2f} even where nothing is "
            "shared."
        )
    if result["ceiling"]["repetitions"]:
        words.append("By halves: of what is each subject's own too, so it may lie higher.")
    return words


def _encoding_words(result: Mapping[str, Any], shown: Sequence[Row]) -> list[str]:
    trained = " to ".join(f"{number:,}" for number in (result["train_images"][:1] + result["train_images"][1:][-1:]))
    words = [
        f"{_said_subjects(result)}; ridge from {result['target']} fitted to {trained} training images.",
        *_common_words(result),
    ]
    if shown:
        mean = "Maps: mean over subjects; head" if len(result["subjects"]) > 1 else "Head"
        words.append(f"{mean} and dashed line: time of the highest mean over {result['region']} channels.")
    return words + (_left_out(result, len(shown)) if shown else [])
