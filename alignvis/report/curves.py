"""Curves: how training went, and what more repetitions of a test picture bring."""

from collections.abc import Sequence
from pathlib import Path

from alignvis.figures.style import drawn
from alignvis.figures.training import draw_training
from alignvis.report.entries import Entry, cited, source
from alignvis.report.html import Html, element, join, picture
from alignvis.report.numbers import count, percent
from alignvis.report.protocol import named

MOST = 40  # words on runs in one text for those who do not see a figure


def training(kinds: Sequence[Sequence[Entry]], root: Path) -> list[Html]:
    """The history of training, a figure for each kind of runs that may be compared."""
    parts: list[Html] = []
    for entries in kinds:
        if len(kinds) > 1:
            parts.append(element("h3", named(entries)))
        told = [_ended(entry) for entry in entries[:MOST]]
        caption = join(
            "Loss and share named first on training pictures that were held out, after each epoch; a mark is the epoch "
            f"that was kept, that of the lowest loss. {count(len(entries), 'run')} ", cited(entries), ". Test pictures "
            "play no part in it.",
        )  # fmt: skip
        figure = draw_training([entry.record for entry in entries])
        parts += [picture(drawn(figure), "svg+xml", f"Training. {' '.join(told)}", caption)]
        parts.append(source("record.json, history", entries))
    return parts


def _ended(entry: Entry) -> str:
    record = entry.record
    best = next((row for row in reversed(record["history"]) if row["best"]), record["history"][-1])
    return (
        f"Run {entry.number}, {record['features']}: epoch {best['epoch'] + 1} of {len(record['history'])} kept, "
        f"held-out top-1 {percent(best['held_out_top1'])}."
    )
