"""Runs that answered together: what `alignvis eval --committee` kept in ``ROOT/results``, if it follows from them."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from alignvis import files
from alignvis.committee import combine
from alignvis.errors import AlignvisError
from alignvis.intervals import interval as over_subjects
from alignvis.reports.entries import Entry, anew, cited, command
from alignvis.reports.html import Html, around, code, element, join, paragraph, table
from alignvis.reports.numbers import count, interval, mean, percent, plain
from alignvis.retrieval import ranks
from alignvis.scoring import read_similarity
from alignvis.spans import spans

Row = dict[str, Any]
NUMBER, AVERAGED = (int, float), "best member, seeds averaged"
MEMBER = {"encoder": str, "features": str, "target": str, "recipe": str, "held_out_mrr": NUMBER}
SCORED = {"who": str, "n": int, "gallery": int, "ranks": [int]}
SHAPE: Row = SCORED | {
    "dataset": str, "simulated": bool, "subject": int, "images_sha256": str, "seeds": [int], "members": [MEMBER],
    "held_out_mrr": [NUMBER], "held_out": int, "candidates": int, "runs": [str],
    "beside": [SCORED | {"seed": int}],
}  # fmt: skip


def read_committees(
    entries: Sequence[Entry], root: Path
) -> tuple[list[tuple[Row, list[Entry]]], list[str], list[Path]]:
    """Read ``results/committees.json``.

    Returns:
        Committees with their runs; sentences on those that are not to be shown; and the file, if it cannot be read.
    """
    path = root / "results" / "committees.json"
    if not path.is_file():
        return [], [], []
    line = command(root, "eval", "--committee")
    again = f"make it again with: {line}"
    try:
        found = files.read_json(path)
    except AlignvisError as error:
        return [], [anew(error, line)], [path]
    if not files.fits(found, {"committees": [SHAPE]}):
        return [], [f"{path} does not hold committees that can be shown; {again}"], [path]
    shown, notes = [], []
    for row in found["committees"]:
        runs = _members(row, entries)
        if not runs:
            notes.append(f"a committee of subject {row['subject']} in {path} has runs that are not on this page")
        elif not _follows(row, runs):
            notes.append(f"a committee of subject {row['subject']} in {path} does not follow from its runs; {again}")
        else:
            shown.append((row, runs))
    return shown, notes, []


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
    seeds, right = len(set(row["seeds"])), torch.arange(count_of)
    if not seeds or not names:
        return False
    placed, averaged = (ranks(combine(some), right).tolist() for some in (found, found[:seeds]))
    sizes = {(one["n"], one["gallery"], len(one["ranks"])) for one in (row, *row["beside"])}
    stated = [(entry.scores or {})["ranks"] for entry in runs[:seeds]]
    kinds = {"best member": stated, AVERAGED: [averaged]}  # the best by itself was taken first, in all its seeds
    beside: dict[str, list[list[int]]] = {}
    for one in row["beside"]:
        beside.setdefault(one["who"], []).append(one["ranks"])
    first = {(entry.scores or {})["images_sha256"] for entry in runs}
    return (
        placed == row["ranks"]
        and sizes == {(count_of, count_of, count_of)}
        and first == {row["images_sha256"]}
        and "best member" in beside
        and all(kinds.get(who) == places for who, places in beside.items())
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
    kinds = [_kinds(row) for row, _ in block]
    lines = []
    for who in dict.fromkeys(who for one in kinds for who in one):
        # of a single seed its average is that seed, so that each row over subjects is of all of them
        subjects = [[one | {"images_sha256": row["images_sha256"]} for one in kind.get(who, kind["best member"])]
                    for kind, (row, _) in zip(kinds, block, strict=True)]  # fmt: skip
        every = [runs if who == "committee" else runs[: len(set(row["seeds"]))] for row, runs in block]
        for (row, _), some, of_one in zip(block, subjects, every, strict=True):
            lines.append(_line(who, str(row["subject"]), [some], of_one))
        if len(block) > 1:
            of_all = sorted((run for of_one in every for run in of_one), key=lambda run: run.number)
            lines.append(_line(who, element("strong", f"all {len(block)}"), subjects, of_all))
    head = ("who", "subject", "n", "top-1 (95 % interval)", "top-5", "median rank", "MRR", "runs")
    simulated = " (SIMULATED brain)" if first["simulated"] else ""
    title = join(
        element("strong", "Committees."), f" {first['dataset']}{simulated}, {first['n']:,} test responses among "
        f"{first['gallery']:,} pictures. Mean of the similarities of several runs, each row standardised; members "
        "chosen on held-out training pictures, never on the test. Intervals: Wilson over pictures of one subject, of "
        "all subjects by bootstrap over subjects and pictures.",
    )  # fmt: skip
    place = element("p", "Numbers: ", code("results/committees.json"), ".", attributes={"class": "source"})
    told = [element("li", _told(row)) for row, _ in block]
    return [table(title, head, lines), place, element("ul", *told)]


def _kinds(row: Row) -> dict[str, list[Row]]:
    """A committee and those beside it, by who they are: the best member once a seed."""
    kinds = {"committee": [row]}
    for one in row["beside"]:
        kinds.setdefault(one["who"], []).append(one)
    return kinds


def _line(who: str, subject: object, subjects: Sequence[Sequence[Row]], runs: Sequence[Entry]) -> list[object]:
    """Everything from the ranks, which were proved; seeds are averaged, then subjects."""
    seeds = sorted({len(some) for some in subjects})
    told = "" if seeds == [1] else f", mean of {' to '.join(map(str, seeds[:: max(1, len(seeds) - 1)]))} seeds"

    def over(measure: Callable[[Sequence[int]], float | None]) -> float | None:
        return mean([mean([measure(one["ranks"]) for one in some]) for some in subjects])

    top1, ends = percent(over(lambda places: _among(places, 1)), unit=False), over_subjects(subjects)
    cells = [
        around(top1, interval(ends)) if ends else top1,
        percent(over(lambda places: _among(places, 5)), unit=False),
    ]
    cells += [plain(over(_median)), plain(over(lambda places: mean([1 / rank for rank in places])))]
    return [f"{who}{told}", subject, str(subjects[0][0]["n"]), *cells, cited(runs)]


def _among(places: Sequence[int], best: int) -> float | None:
    return mean([float(rank <= best) for rank in places])


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
