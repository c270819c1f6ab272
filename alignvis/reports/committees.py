"""Runs that answered together: what `alignvis eval --committee` kept in ``ROOT/results``, if it follows from them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from alignvis import files
from alignvis.committee import combine
from alignvis.errors import AlignvisError
from alignvis.intervals import interval as over_subjects
from alignvis.reports.entries import Entry, cited, command
from alignvis.reports.html import Html, code, element, join, paragraph, table
from alignvis.reports.numbers import count, interval, mean, percent, plain
from alignvis.retrieval import ranks
from alignvis.scoring import read_similarity
from alignvis.spans import spans
from alignvis.stats import wilson

Row = dict[str, Any]
NUMBER = (int, float)
MEMBER = {"encoder": str, "features": str, "target": str, "recipe": str, "held_out_mrr": NUMBER}
SCORED = {"who": str, "n": int, "gallery": int, "ranks": [int]}
SHAPE: Row = SCORED | {
    "dataset": str, "simulated": bool, "subject": int, "images_sha256": str, "seeds": [int], "members": [MEMBER],
    "held_out_mrr": [NUMBER], "held_out": int, "candidates": int, "runs": [str],
    "beside": [SCORED | {"seed": int}],
}  # fmt: skip


def read_committees(entries: Sequence[Entry], root: Path) -> tuple[list[tuple[Row, list[Entry]]], list[str]]:
    """Read ``results/committees.json``: committees with their runs, and sentences on those that are not to be shown."""
    path = root / "results" / "committees.json"
    if not path.is_file():
        return [], []
    again = f"make it again with: {command(root, 'eval', '--committee')}"
    try:
        found = files.read_json(path)
    except AlignvisError as error:
        return [], [str(error)]
    if not files.fits(found, {"committees": [SHAPE]}):
        return [], [f"{path} does not hold committees that can be shown; {again}"]
    shown, notes = [], []
    for row in found["committees"]:
        runs = _members(row, entries)
        if not runs:
            notes.append(f"a committee of subject {row['subject']} in {path} has runs that are not on this page")
        elif not _follows(row, runs):
            notes.append(f"a committee of subject {row['subject']} in {path} does not follow from its runs; {again}")
        else:
            shown.append((row, runs))
    return shown, notes


def _members(row: Row, entries: Sequence[Entry]) -> list[Entry]:
    """The runs of a committee, by the names of their folders; nothing if one is not on the page."""
    known = {entry.name: entry for entry in entries if entry.scores and entry.record["subject"] == row["subject"]}
    names = [Path(run).name for run in row["runs"]]
    return [known[name] for name in names] if names and set(names) <= set(known) else []


def _follows(row: Row, runs: Sequence[Entry]) -> bool:
    """Whether the ranks are those of the mean of the similarities of its runs, and the others those of its runs."""
    found, names = [], None
    try:
        for entry in runs:
            similarities, ids = read_similarity(entry.path, entry.record, entry.scores or {})
            order = sorted(range(len(ids)), key=ids.__getitem__)
            named = [ids[place] for place in order]
            if names not in (None, named) or similarities.shape[0] != similarities.shape[1]:
                return False
            names = named
            found.append(similarities[order][:, order])
    except AlignvisError:
        return False
    count_of = len(names or [])
    placed = ranks(combine(found), torch.arange(count_of)).tolist()
    sizes = {(one["n"], one["gallery"], len(one["ranks"])) for one in (row, *row["beside"])}
    stated = {tuple((entry.scores or {})["ranks"]) for entry in runs}
    single = [one for one in row["beside"] if one["who"] == "best member"]
    first = {(entry.scores or {})["images_sha256"] for entry in runs}
    return (
        placed == row["ranks"]
        and sizes == {(count_of, count_of, count_of)}
        and first == {row["images_sha256"]}
        and bool(single)
        and all(tuple(one["ranks"]) in stated for one in single)
    )


def committees(found: Sequence[tuple[Row, list[Entry]]], notes: Sequence[str]) -> list[Html]:
    """A table of committees, each beside its best member, who is in them and how they were chosen."""
    if not found and not notes:
        return []
    parts = [element("h3", "Runs that answer together")]
    blocks: dict[tuple, list[tuple[Row, list[Entry]]]] = {}
    for row, runs in found:
        blocks.setdefault(runs[0].alike[:4] + runs[0].alike[5:], []).append((row, runs))  # of any recipe
    for block in blocks.values():
        parts += _block(block)
    return parts + [paragraph(note, kind="missing") for note in notes]


def _block(block: Sequence[tuple[Row, list[Entry]]]) -> list[Html]:
    first = block[0][0]
    lines = []
    for row, runs in block:
        lines += [_line(str(row["subject"]), who, some, cited(runs) if who == "committee" else "")
                  for who, some in _kinds(row).items()]  # fmt: skip
    if len(block) > 1:
        lines.append(_line(f"all {len(block)}", "committee", [row for row, _ in block], "", block))
    head = ("subject", "who", "n", "top-1 (95 % interval)", "top-5", "median rank", "MRR", "runs")
    simulated = " (SIMULATED brain)" if first["simulated"] else ""
    title = join(
        element("strong", "Committees."), f" {first['dataset']}{simulated}, {first['n']:,} test responses among "
        f"{first['gallery']:,} pictures. Mean of the similarities of several runs, each row standardised; members "
        "chosen on held-out training pictures, never on the test. Intervals: Wilson over pictures of one subject, of "
        "all subjects by bootstrap over subjects and pictures.",
    )  # fmt: skip
    place = element("p", "Numbers: ", code("results/committees.json"), ".", attributes={"class": "source"})
    told = [element("li", _told(row)) for row, _ in block]
    return [table(title, head, lines, names=2), place, element("ul", *told)]


def _kinds(row: Row) -> dict[str, list[Row]]:
    kinds = {"committee": [row]}
    for one in row["beside"]:
        kinds.setdefault(one["who"], []).append(one)
    return kinds


def _line(
    subject: str, who: str, some: Sequence[Row], runs: object, block: Sequence[tuple[Row, list[Entry]]] = ()
) -> list[object]:
    """Everything from the ranks, which were proved; seeds, or subjects, are averaged."""
    n, seeds = some[0]["n"], "" if len(some) == 1 or block else f", mean of {len(some)} seeds"
    top1 = [mean([float(rank == 1) for rank in one["ranks"]]) for one in some]
    middle = mean(top1)
    scored = [[one | {"top1": share}] for one, share in zip(some, top1, strict=True)]
    ends = over_subjects(scored) if block else wilson(middle or 0.0, n)
    top5 = mean([mean([float(rank <= 5) for rank in one["ranks"]]) for one in some])
    middle_rank = mean([_median(one["ranks"]) for one in some])
    reciprocal = mean([mean([1 / rank for rank in one["ranks"]]) for one in some])
    around = join(" ", Html("<wbr>"), f"({interval(ends)})") if ends else ""
    return [subject, f"{who}{seeds}", str(n), join(percent(middle, unit=False), around), percent(top5, unit=False),
            plain(middle_rank), plain(reciprocal), runs]  # fmt: skip


def _median(places: Sequence[int]) -> float:
    ordered, half = sorted(places), len(places) // 2
    return float(ordered[half]) if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


def _told(row: Row) -> Html:
    members = []
    for member in row["members"][:20]:
        of = "" if member["target"] == "embeddings" else f" ({member['target']})"
        members.append(f"{member['encoder']}, {member['features']}{of}, {member['recipe']} (held-out MRR "
                       f"{plain(member['held_out_mrr'])})")  # fmt: skip
    last = f"; together {plain(row['held_out_mrr'][-1])}" if row["held_out_mrr"] else ""
    return join(
        element("strong", f"Subject {row['subject']}"), f", seeds {spans(row['seeds'])}: {'; '.join(members)}{last}. "
        f"Members chosen on held-out training pictures ({row['held_out']:,} a seed) among "
        f"{count(row['candidates'], 'kind')} of run; held-out MRR is what was maximised, and no result.",
    )  # fmt: skip
