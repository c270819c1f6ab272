"""Gathers what the files of runs hold, and writes the page."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import alignvis
from alignvis import files
from alignvis.errors import AlignvisError
from alignvis.progress import Progress, silent
from alignvis.report.curves import training
from alignvis.report.entries import Entry, by_kind, read_entries
from alignvis.report.html import Html, element, join, paragraph
from alignvis.report.numbers import count
from alignvis.report.page import Section, page, simulated
from alignvis.report.protocol import named, protocol
from alignvis.report.question import best_answer, question
from alignvis.report.reproduce import reproduce
from alignvis.report.scores import tables

TITLE = "Which picture was it?"
Part = tuple[str, str, Callable[[list[list[Entry]], Path], list[Html]]]
PARTS: tuple[Part, ...] = (
    ("answer", "The answer", lambda kinds, root: answer(kinds)),
    ("protocol", "The protocol", lambda kinds, root: protocol(kinds)),
    ("scores", "Scores", tables),
    ("training", "Training", training),
    ("reproduce", "How to reproduce it", lambda kinds, root: reproduce(_all(kinds), root)),
)


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
        "report" (path), "runs" (how many), "scored" (how many of them), "bytes".

    Raises:
        AlignvisError: when there are no runs, one that was named is no run, or the file is there already.
    """
    root, out = Path(root), Path(out)
    if out.exists() and not overwrite:
        raise AlignvisError(f"{out} is there already; replace it with --overwrite, or choose another with --out")
    if out.suffix.lower() not in (".html", ".htm"):
        raise AlignvisError(f"{out} is no name for a page; let it end in .html")
    entries = read_entries(root, [Path(run) for run in runs])
    kinds = by_kind(entries)
    sections = []
    for done, (name, heading, make) in enumerate(PARTS, start=1):
        parts = make(kinds, root)
        if parts:
            sections.append(Section(name, heading, parts))
        progress(done, len(PARTS), "writing the report")
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
    }


def answer(kinds: Sequence[Sequence[Entry]]) -> list[Html]:
    """An answer for each kind of runs that may be compared."""
    parts: list[Html] = []
    for entries in kinds:
        if len(kinds) > 1:
            parts.append(element("h3", named(entries)))
        parts += best_answer(entries)
    return parts


def _all(kinds: Sequence[Sequence[Entry]]) -> list[Entry]:
    return sorted((entry for entries in kinds for entry in entries), key=lambda entry: entry.number)


def _lead(entries: Sequence[Entry]) -> str:
    datasets = ", ".join(dict.fromkeys(entry.record["dataset"] for entry in entries))
    subjects = {(entry.record["dataset"], entry.record["subject"]) for entry in entries}
    features = {entry.record["features"] for entry in entries}
    about = [count(len(subjects), "subject"), count(len(features), "image embedding"), count(len(entries), "run")]
    return f"{datasets}: {', '.join(about)}"
