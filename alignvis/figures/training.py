"""How training went: the loss and the share named first on held-out training pictures, epoch by epoch."""

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from alignvis.figures.style import ALIGNED, PLAIN, QUIET, WIDTH, looks, new_figure, say_simulated

STYLES = ("-", "--", ":", "-.")


def draw_training(records: Sequence[dict[str, Any]]) -> Figure:
    """Draw the history of runs: held-out loss on the left, held-out top-1 on the right, the kept epoch marked.

    Args:
        records: of runs, as stored in ``record.json``. Aligned ones are blue with filled marks, the others orange with
            open ones; each brain encoder has its own kind of line.
    """
    with looks():
        figure = new_figure(WIDTH, 2.7)
        left, right = figure.subplots(1, 2)
        encoders = list(dict.fromkeys(record["encoder"] for record in records))
        for record in records:
            _draw(left, right, record, STYLES[encoders.index(record["encoder"]) % len(STYLES)])
        held_out = {len(record["split"]["validation"]) for record in records}
        for chance in {1 / count for count in held_out if count}:
            right.axhline(100 * chance, color=QUIET, ls=":", lw=1)
        left.set(xlabel="epoch", ylabel="held-out loss (nats)")
        right.set(xlabel="epoch", ylabel="held-out top-1 (%)")
        right.set_ylim(bottom=0)
        figure.legend(handles=_legend(records, encoders), loc="outside lower center", ncols=3)
        if any(record["simulated"] for record in records):
            say_simulated(figure)
    return figure


def _draw(left: Any, right: Any, record: dict[str, Any], style: str) -> None:
    colour, fill = (ALIGNED, ALIGNED) if record["aligned"] else (PLAIN, "white")
    rows = [row for row in record["history"] if isinstance(row.get("held_out_loss"), int | float)]
    if not rows:
        return
    epochs = [row["epoch"] + 1 for row in rows]
    best = next((place for place, row in reversed([*enumerate(rows)]) if row["best"]), None)
    for axes, values in (
        (left, [row["held_out_loss"] for row in rows]),
        (right, [100 * row["held_out_top1"] for row in rows]),
    ):
        axes.plot(epochs, values, color=colour, ls=style, lw=1)
        if best is not None:
            axes.plot(epochs[best], values[best], "o", ms=5, mec=colour, mfc=fill, mew=1.2, zorder=3)


def _legend(records: Sequence[dict[str, Any]], encoders: Sequence[str]) -> list[Line2D]:
    handles = [
        Line2D([], [], color=colour, marker="o", ms=5, mec=colour, mfc=fill, lw=1, label=label)
        for aligned, colour, fill, label in (
            (True, ALIGNED, ALIGNED, "aligned"),
            (False, PLAIN, "white", "not aligned"),
        )
        if any(record["aligned"] is aligned for record in records)
    ]
    if len(encoders) > 1:
        handles += [
            Line2D([], [], color="black", lw=1, ls=STYLES[place % len(STYLES)], label=name[:40].replace("$", r"\$"))
            for place, name in enumerate(encoders)
        ]
    handles.append(Line2D([], [], color=QUIET, ls=":", lw=1, label="chance"))
    return handles
