"""How training went: the loss and the share named first on held-out training pictures, epoch by epoch."""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from alignvis.figures.pooled import coloured
from alignvis.figures.style import QUIET, WIDTH, looks, new_figure, say_simulated

STYLES = ("-", "--", ":", "-.")
LONGEST = 40  # letters of a name in the legend


def draw_training(records: Sequence[dict[str, Any]]) -> Figure:
    """Draw the history of runs: held-out loss on the left, held-out top-1 on the right, the kept epoch marked.

    Args:
        records: of runs, as stored in ``record.json``. Aligned ones have filled marks and the first is blue, others
            open ones and the first is orange; each brain encoder has its own kind of line.
    """
    records = sorted(records, key=lambda record: not record["aligned"])
    encoders = list(dict.fromkeys(record["encoder"] for record in records))
    colours = coloured([(_name(record), record["aligned"]) for record in records])
    handles = _legend(records, encoders, colours)
    columns = 3 if max(len(handle.get_label()) for handle in handles) < 36 else 2
    with looks():
        figure = new_figure(WIDTH, 2.55 + 0.15 * -(-len(handles) // columns))
        left, right = figure.subplots(1, 2)
        for record in records:
            style = STYLES[encoders.index(record["encoder"]) % len(STYLES)]
            _draw(left, right, record, colours[_name(record)], style)
        held_out = {len(record["split"]["validation"]) for record in records}
        for chance in {1 / count for count in held_out if count}:
            right.axhline(100 * chance, color=QUIET, ls=":", lw=1)
        left.set(xlabel="epoch", ylabel="held-out loss (nats)")
        right.set(xlabel="epoch", ylabel="held-out top-1 (%)")
        right.set_ylim(bottom=0)
        figure.legend(handles=handles, loc="outside lower center", ncols=columns)
        if any(record["simulated"] for record in records):
            say_simulated(figure)
    return figure


def _name(record: dict[str, Any]) -> str:
    target = record["recipe"].get("target", "embeddings")
    return record["features"] + ("" if target == "embeddings" else f" ({target})")


def _draw(left: Any, right: Any, record: dict[str, Any], colour: str, style: str) -> None:
    fill = colour if record["aligned"] else "white"
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


def _legend(
    records: Sequence[dict[str, Any]], encoders: Sequence[str], colours: Mapping[Hashable, str]
) -> list[Line2D]:
    kinds = {_name(record): record["aligned"] for record in records}
    handles = []
    for name, aligned in kinds.items():
        look = {"color": colours[name], "mec": colours[name], "mfc": colours[name] if aligned else "white"}
        label = f"{name[:LONGEST]}, {'aligned' if aligned else 'not aligned'}"
        handles.append(Line2D([], [], marker="o", ms=5, lw=1, label=label, **look))
    if len(encoders) > 1:
        handles += [
            Line2D([], [], color="black", lw=1, ls=STYLES[place % len(STYLES)], label=name[:LONGEST])
            for place, name in enumerate(encoders)
        ]
    handles.append(Line2D([], [], color=QUIET, ls=":", lw=1, label="chance"))
    return handles
