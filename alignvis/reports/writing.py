"""Gathers what the files of runs hold, and writes the page."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import alignvis
from alignvis import files
from alignvis.errors import AlignvisError
from alignvis.progress import Progress, silent
from alignvis.reports.analyses import analyses, read_analyses
from alignvis.reports.committees import committees, read_committees
from alignvis.reports.curves import overview, repetitions, training
from alignvis.reports.differences import answers, compared, differences, of_kind
from alignvis.reports.entries import Entry, by_kind, read_entries
from alignvis.reports.html import Html, element, join, paragraph
from alignvis.reports.maps import explanations, retrieved
from alignvis.reports.named import named_comparisons, read_named
from alignvis.reports.numbers import count
from alignvis.reports.page import Section, page, simulated
from alignvis.reports.protocol import named, protocol
from alignvis.reports.question import best_answer, question
from alignvis.reports.reproduce import reproduce
from alignvis.reports.scores import tables

TITLE = "Which picture was it?"


def write_report(
    root: Path,
    runs: Sequence[Path],
    out: Path,
    *,
    title: str = TITLE,
    overwrite: bool = False,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Write one HTML page on runs: question, answer, protocol, tables, curves, maps, pictures, how to find it again.

    The page needs nothing outside of it: pictures are in it, there is no script, and its policy forbids to load or send
    anything. Nothing is trained or scored; what is missing is said on the page with the command that makes it.

    Args:
        root: folder that holds ``runs/``, ``images/`` and ``results/``.
        runs: folders of runs, or their names in ``root/runs``; none means all.
        out: the file to write.
        title: the page's.
        overwrite: replace a file that is there.
        progress: counts the page's parts.

    Returns:
        "report" (path), "runs" (how many), "scored" (how many of them), "bytes", and "unread": the files in
        ``results/`` of which something could not be read, as the page says too.

    Raises:
        AlignvisError: when there are no runs, one that was named is no run, or the file is there already.
    """
    root, out = Path(root), Path(out)
    if out.exists() and not overwrite:
        raise AlignvisError(f"{out} is there already; replace it with --overwrite, or choose another with --out")
    if out.suffix.lower() not in (".html", ".htm"):
        raise AlignvisError(f"{out} is no name for a page; let it end in .html")
    entries = read_entries(root, [Path(run) for run in runs])
    sections = []
    made, unread = _sections(entries, root)
    for done, (name, heading, make) in enumerate(made, start=1):
        parts = make()
        if parts:
            sections.append(Section(name, heading, parts))
        progress(done, len(made), "writing the report")
    lead = [paragraph(_lead(entries), kind="lead")]
    fakes = [entry for entry in entries if entry.record["simulated"]]
    if fakes:
        whose = "The" if len(fakes) == len(entries) else f"In {len(fakes)} of {len(entries)} runs the"
        lead.append(simulated(f"{whose} brain responses were made by a computer."))
    foot = join(
        f"Written by alignvis {alignvis.__version__} from the files of ", element("code", str(root / "runs")), "."
    )
    text = page(title, [*lead, *question(entries)], sections, foot)
    with files.whole_file(out) as partial:
        partial.write_text(text, encoding="utf-8")
    return {
        "report": str(out),
        "runs": len(entries),
        "scored": sum(entry.scores is not None for entry in entries),
        "bytes": out.stat().st_size,
        "unread": [str(path) for path in unread],
    }


def _sections(entries: list[Entry], root: Path) -> tuple[list[tuple[str, str, Callable[[], list[Html]]]], list[Path]]:
    """Name, heading and maker of every part, in order, of which an empty one is left out; and files not to be read."""
    kinds = by_kind(entries)
    rows, notes = compared(entries, root)
    named_rows, left_out, no_comparisons = read_named(entries, root, rows)
    together, unproved, no_committees = read_committees(entries, root)
    analysed, bad, no_results = read_analyses(entries, root)
    parts = [
        ("answer", "The answer", lambda: _answer(kinds, rows)),
        ("protocol", "The protocol", lambda: protocol(kinds)),
        ("scores", "Scores", lambda: _scores(entries, kinds, root, together, unproved)),
        ("twins", "Aligned against twin", lambda: differences(entries, rows, notes, root, named=bool(named_rows))),
        ("compared", "Compared", lambda: named_comparisons(named_rows, left_out)),
        ("repetitions", "What repetitions bring", lambda: repetitions(entries, root)),
        ("training", "Training", lambda: training(entries)),
        ("maps", "When, where and in which band", lambda: explanations(entries, root)),
        ("pictures", "What pictures were taken for", lambda: retrieved(entries, root)),
        ("analyses", "Without a decoder", lambda: analyses(entries, root, analysed, bad)),
        (
            "reproduce",
            "How to reproduce it",
            lambda: reproduce(entries, root, rows, named_rows, bool(together), analysed),
        ),
    ]
    return parts, [*no_comparisons, *no_committees, *no_results]


def _scores(
    entries: Sequence[Entry],
    kinds: Sequence[Sequence[Entry]],
    root: Path,
    together: Sequence[tuple[dict[str, Any], list[Entry]]],
    unproved: Sequence[str],
) -> list[Html]:
    return [*overview(entries), *tables(kinds, root), *committees(together, unproved)]


def _answer(kinds: Sequence[Sequence[Entry]], rows: Sequence[dict[str, Any]]) -> list[Html]:
    """An answer for each kind of runs that may be compared."""
    parts: list[Html] = []
    for entries in kinds:
        mine = of_kind(rows, entries)
        if len(kinds) > 1:
            parts.append(element("h3", named(entries)))
        parts += answers(mine, entries) if mine else best_answer(entries)
    if not parts:
        parts.append(paragraph("None of these runs has scores yet.", kind="missing"))
    return parts


def _lead(entries: Sequence[Entry]) -> str:
    datasets = ", ".join(dict.fromkeys(entry.record["dataset"] for entry in entries))
    subjects = {(entry.record["dataset"], entry.record["subject"]) for entry in entries}
    features = {entry.record["features"] for entry in entries}
    about = [count(len(subjects), "subject"), count(len(features), "image embedding"), count(len(entries), "run")]
    return f"{datasets}: {', '.join(about)}"
