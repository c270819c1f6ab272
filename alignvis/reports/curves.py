"""Curves: how training went, and what more repetitions of a test picture bring."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from alignvis.errors import AlignvisError
from alignvis.figures.pooled import FEWEST
from alignvis.figures.scores import draw_repetitions, draw_scores
from alignvis.figures.training import draw_training
from alignvis.repetitions import read_curve
from alignvis.reports.drawing import inlined
from alignvis.reports.entries import Entry, by_encoder, by_kind, cited, command, labelled, missing, source
from alignvis.reports.html import Html, element, join, paragraph, table
from alignvis.reports.numbers import DASH, count, percent, share
from alignvis.reports.protocol import named
from alignvis.reports.question import spread, top1

MOST = 40  # runs that the text for those who do not see a figure speaks of


def training(entries: Sequence[Entry]) -> list[Html]:
    """The history of training, a figure for each kind of runs that may be compared."""
    parts: list[Html] = []
    kinds = by_kind(entries)
    for some in kinds:
        if len(kinds) > 1:
            parts.append(element("h3", named(some)))
        told = " ".join(_ended(entry) for entry in some[:MOST])
        caption = join(
            "Loss and share named first on training pictures that were held out, after each epoch; a mark is the epoch "
            f"that was kept, that of the lowest loss. {count(len(some), 'run')} ", cited(some), ". Test pictures "
                "play no "
            "part in it.",
        )  # fmt: skip
        figure = draw_training([entry.record for entry in some])
        parts += [inlined(figure, f"Training. {told}", caption), source("record.json, history", some)]
    return parts


def _ended(entry: Entry) -> str:
    record = entry.record
    best = next((row for row in reversed(record["history"]) if row["best"]), record["history"][-1])
    return (
        f"Run {entry.number}, {record['features']}: epoch {best['epoch'] + 1} of {len(record['history'])} kept, "
        "held-out "
        f"top-1 {percent(best['held_out_top1'])}."
    )


def overview(entries: Sequence[Entry]) -> list[Html]:
    """All top-1 scores in one figure: aligned encoders beside their twins."""
    scored = [entry for entry in entries if entry.scores]
    if not scored:
        return []
    told = []
    for runs in by_encoder(scored).values():
        found = top1(runs)
        if found and len(told) < MOST:
            kind = "aligned" if runs[0].record["aligned"] else "not aligned"
            value, ends, subjects = found
            told.append(f"{runs[0].record['features']} ({kind}): {percent(value)}, {spread(ends, subjects)}.")
    caption = "Top-1 of each image encoder beside its twin; small marks are subjects, the dotted line is chance."
    figure = draw_scores([entry.scores or {} for entry in scored])
    return [inlined(figure, f"Top-1 scores. {' '.join(told)}", caption), source("scores.json", scored)]


def repetitions(entries: Sequence[Entry], root: Path) -> list[Html]:
    """Top-1 against the number of test repetitions averaged."""
    scored = [entry for entry in entries if entry.scores]
    several = [entry for entry in scored if (entry.scores or {})["repetitions"] > 1]
    found: list[tuple[Entry, dict[str, Any]]] = []
    broken: list[str] = []
    for entry in several:
        try:
            curve = read_curve(entry.path, entry.record, (entry.scores or {})["queries_fingerprint"])
        except AlignvisError as error:
            broken.append(str(error))
            continue
        if curve is not None:
            found.append((entry, curve))
    if not several:
        return []
    more = f" (and {len(broken) - 1} more like this)" if len(broken) > 1 else ""
    parts = [paragraph(f"{broken[0]}{more}", kind="missing")] if broken else []
    if len(found) < len(several) and not parts:
        what = "How much averaging repetitions brings was not measured" + (" for all runs." if found else ".")
        parts.append(missing(what, command(root, "eval", "--curve", *(entry.name for entry in several[:3]))))
    for some in by_kind([entry for entry, _ in found]):
        parts += _curve([(entry, curve) for entry, curve in found if entry in some])
    return parts


def _known(entry: Entry, curve: dict[str, Any]) -> dict[str, Any]:
    """A curve with what the record says of its run; "seed" in its file is that of the draws."""
    record = entry.record
    keys = ("dataset", "simulated", "subject", "protocol", "encoder", "features", "aligned")
    about = {key: record[key] for key in keys} | {"run_seed": record["seed"], "recipe": record["recipe"]["name"]}
    return curve | about | {"target": record["recipe"].get("target", "embeddings")}


def _curve(found: Sequence[tuple[Entry, dict[str, Any]]]) -> list[Html]:
    entries, curves = [entry for entry, _ in found], [_known(entry, curve) for entry, curve in found]
    counts = sorted({number for curve in curves for number in curve["repetitions"]})
    rows: list[list[object]] = []
    for entry, curve in found:
        at = dict(
            zip(
                curve["repetitions"],
                zip(curve["top1"], curve["top1_low"], curve["top1_high"], strict=True),
                strict=True,
            )
        )
        cells = [share(at[number][0], at[number][1:]) if number in at else DASH for number in counts]
        record = entry.record
        rows.append([labelled(entry), str(record["subject"]), str(record["seed"]), *cells, cited([entry])])
    head = (
        "embedding and brain encoder",
        "subject",
        "seed",
        *(count(number, "repetition") for number in counts),
        "run",
    )
    draws = max(curve["draws"] for curve in curves)
    title = join(element("strong", "Top-1 by repetitions averaged"), ", per cent, with 95 % Wilson interval over "
        "pictures; "
                 f"mean over {count(draws, 'random draw')} of so many of each picture's repetitions. Nothing was "
                 "trained "
                 "again.")  # fmt: skip
    first, last = counts[0], counts[-1]
    told = "; ".join(
        f"{entry.record['features']}, subject {entry.record['subject']}: {percent(curve['top1'][0])} with {first}, "
        f"{percent(curve['top1'][-1])} with {last}"
        for entry, curve in found[:MOST]
    )
    caption = "Accuracy against the number of test repetitions averaged."
    if len({entry.record["subject"] for entry in entries}) >= FEWEST:
        caption += (
            " Intervals over subjects are Student's here and not the bootstrap over subjects and pictures of the score "
            "tables, as curves keep no single pictures."
        )
    return [inlined(draw_repetitions(curves), "Top-1 by repetitions. "
                                              f"{told}.", caption), table(title, head, rows),
            source("repetitions.json", entries)]  # fmt: skip
