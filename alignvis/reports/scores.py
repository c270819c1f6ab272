"""Tables of scores: one row an encoder, features and subject; galleries of different kinds stay apart."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from alignvis.intervals import interval
from alignvis.reports.entries import Entry, by_encoder, cited, command, labelled, missing, source
from alignvis.reports.html import Html, around, element, join, paragraph, table
from alignvis.reports.numbers import DASH, count, mean, number, percent, plain
from alignvis.reports.numbers import interval as shown
from alignvis.reports.protocol import averaged, named
from alignvis.retrieval import TOP, chances
from alignvis.scoring import gives_same_answer

HEAD = ("embedding and brain encoder", "subject", "seeds")
Find = Callable[[dict[str, Any]], dict[str, Any]]


def _whole(scores: dict[str, Any]) -> dict[str, Any]:
    return scores


@dataclass(frozen=True)
class Column:
    """One column of a table of scores.

    Attributes:
        title: what stands above it.
        value: what scores say, a share or another number.
        share: whether it is a share, shown per cent.
        measure: which one it is, where ranks tell its interval, as `intervals.interval` takes it.
        of: the part of scores that holds these ranks.
    """

    title: str
    value: Callable[[dict[str, Any]], Any]
    share: bool = True
    measure: str | None = None
    of: Find = _whole


def tables(kinds: Sequence[Sequence[Entry]], root: Path) -> list[Html]:
    """All tables of scores, a group of them for each kind of runs that may be compared."""
    parts = [
        paragraph("All shares are per cent. ", Html("● aligned to human similarity judgements, ○ not aligned. "),
                  "In brackets: 95 % intervals. Rows of one subject: mean over seeds ± SD over seeds; interval over "
                  "test pictures, of shares among the best k Wilson's, of other means by their variance, of medians by "
                  "order statistics. Rows of all subjects: mean over subjects; interval by bootstrap over subjects and "
                  "pictures, which is too short for fewer than five subjects. MRR: mean of one over the rank. Numbers "
                  "in square brackets are the runs, listed at the end.", kind="note"),
    ]  # fmt: skip
    for entries in kinds:
        if len(kinds) > 1:
            parts.append(element("h3", named(entries)))
        parts += _of_one_kind(entries, root)
    return parts


def _of_one_kind(entries: Sequence[Entry], root: Path) -> list[Html]:
    scored = [entry for entry in entries if entry.scores]
    bare = [entry for entry in entries if not entry.scores]
    parts = [
        missing(join("Run ", cited([entry]), f" has no scores to show: {entry.lacking}."),
                command(root, "eval", *(["--overwrite"] if "no scores yet" not in entry.lacking else []), _name(entry)))
        for entry in bare
    ]  # fmt: skip
    if not scored:
        return parts
    first = scored[0].scores or {}
    n, gallery = first["n"], first["gallery"]
    about = f"{n:,} test responses, each the mean of {averaged(first)}, among {gallery:,} pictures"
    parts += [_table(join(element("strong", "From brain to picture."), f" Which picture was seen? {about}."), scored,
                     _usual(_whole), _chance(gallery)),
              source("scores.json", scored)]  # fmt: skip
    parts += _same_answer(scored)
    parts += _optional(scored, root, gallery)
    return parts


def _same_answer(scored: Sequence[Entry]) -> list[Html]:
    """Say which runs named nearly always the same picture: their scores are no measure of the brain."""
    poor = [entry for entry in scored if gives_same_answer(entry.scores or {})]
    if not poor:
        return []
    most, n = max((entry.scores or {})["answers"] for entry in poor), max((entry.scores or {})["n"] for entry in poor)
    runs = f"Run{'s' * (len(poor) > 1)} "
    words = (
        f" named {'at most' if len(poor) > 1 else 'only'} {count(most, 'picture')}{' each' * (len(poor) > 1)} for "
        f"{n:,} responses: nearly always the same answer, so from response to picture nothing was learned."
    )
    said = join(element("strong", "NEARLY ALWAYS THE SAME PICTURE. "), runs, cited(poor), words)
    return [element("div", paragraph(said), attributes={"class": "warn", "role": "note"})]


def _optional(scored: Sequence[Entry], root: Path, gallery: int) -> list[Html]:
    """The tables of what only some scores have."""
    parts: list[Html] = []
    backwards = [entry for entry in scored if _part(entry, "image_to_brain")]
    if backwards:
        columns = _usual(_within("image_to_brain"))
        title = join(element("strong", "From picture to brain."), " Which response belongs to a picture? Same matrix.")
        parts += [_table(title, backwards, columns, _chance(gallery)), source("scores.json, image_to_brain", backwards)]
    else:
        again = command(root, "eval", "--overwrite", *(_name(entry) for entry in scored[:3]))
        parts.append(missing("The scores are of an earlier version, without the other direction, n-way accuracy and "
                             "transductive scores.", again))  # fmt: skip
    ways = [entry for entry in scored if _part(entry, "n_way")]
    if ways:
        sizes = sorted({key for entry in ways for key in _part(entry, "n_way") if key.isdecimal()}, key=int)[:8]
        columns = [_n_way(size) for size in sizes]
        title = join(element("strong", "Right among n."), " Exact expectation over all sets of n − 1 other pictures of "
                     "the gallery; nothing was drawn.")  # fmt: skip
        chance = [percent(1 / int(size), unit=False) for size in sizes]
        parts += [_table(title, ways, columns, chance), source("scores.json, n_way", ways)]
    parts += _other_galleries(scored)
    parts += _transductive(scored, gallery)
    return parts


def _other_galleries(scored: Sequence[Entry]) -> list[Html]:
    parts: list[Html] = []
    centres = [entry for entry in scored if _part(entry, "class_centres")]
    if centres:
        size = number(_part(centres[0], "class_centres").get("gallery"))
        columns = _usual(_within("class_centres"))
        title = join(element("strong", "Among class centres."), f" The gallery is {plain(size, 6)} means over other "
                     "pictures of each concept, not the pictures seen: an easier or harder question, never to be "
                     "mixed with the one above.")  # fmt: skip
        parts += [_table(title, centres, columns, _chance(size)), source("scores.json, class_centres", centres)]
    subsets = [entry for entry in scored if _part(entry, "subset_galleries")]
    if subsets:
        about = _part(subsets[0], "subset_galleries")
        columns = [
            column
            for way, words in (("brain_to_image", "brain to picture"), ("image_to_brain", "picture to brain"))
            for column in (_share(f"{words}, top-1", _within("subset_galleries", way), "top1"),
                           _share("SD over draws", _within("subset_galleries", way), "top1_sd"))
        ]  # fmt: skip
        size = number(about.get("size"))
        title = join(element("strong", f"Among {plain(size, 6)} drawn pictures."), f" Mean of "
                     f"{plain(about.get('draws'), 6)} draws from the gallery, as published for NSD.")  # fmt: skip
        chance = percent(1 / size, unit=False) if size else DASH
        parts += [_table(title, subsets, columns, [chance, "", chance, ""]),
                  source("scores.json, subset_galleries", subsets)]  # fmt: skip
    return parts


def _transductive(scored: Sequence[Entry], gallery: int) -> list[Html]:
    found = [entry for entry in scored if _part(entry, "transductive")]
    if not found:
        return []
    columns = [
        _share("CSLS, top-1", _within("transductive", "csls"), "top1"),
        _share("CSLS, top-5", _within("transductive", "csls"), "top5"),
        _share("one-to-one, top-1", _within("transductive", "one_to_one"), "top1"),
    ]
    words = (
        "These scores look at all test responses at once: they know that each picture was shown exactly once, or how "
        "near everything is to everything. A decoder that meets one response at a time cannot do that, so they are not "
        "to be compared with the tables above."
    )
    warning = element("div", paragraph(element("strong", "TRANSDUCTIVE. "), words),
                      attributes={"class": "warn", "role": "note"})  # fmt: skip
    title = join(element("strong", "Transductive scores."), " Cross-domain similarity local scaling; one-to-one "
                 "matching.")  # fmt: skip
    chance = [percent(1 / gallery, unit=False), percent(min(5, gallery) / gallery, unit=False),
              percent(1 / gallery, unit=False)]  # fmt: skip
    return [warning, _table(title, found, columns, chance), source("scores.json, transductive", found)]


# --- columns ---------------------------------------------------------------------------------------------------------


def _name(entry: Entry) -> str:
    return entry.name


def _part(entry: Entry, key: str) -> dict[str, Any]:
    found = (entry.scores or {}).get(key)
    return found if isinstance(found, dict) else {}


def _within(*keys: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Find a part of scores; nothing if it is not there."""

    def find(scores: dict[str, Any]) -> dict[str, Any]:
        for key in keys:
            inner = scores.get(key)
            scores = inner if isinstance(inner, dict) else {}
        return scores

    return find


def _share(title: str, find: Find, key: str) -> Column:
    return Column(title, lambda scores: find(scores).get(key))


def _n_way(size: str) -> Column:
    return Column(f"{int(size)}-way", lambda scores: _within("n_way")(scores).get(size), measure=f"{int(size)}-way")


def _usual(find: Find) -> list[Column]:
    """All measures of one direction, each with its interval."""

    def column(title: str, measure: str, share: bool = True) -> Column:
        return Column(title, lambda scores: find(scores).get(measure), share, measure, find)

    shares = [column(f"top-{k}" + " (95 % interval)" * (k == 1), f"top{k}") for k in TOP]
    shares.append(column("pairwise", "pairwise"))
    return [*shares, column("median rank", "median_rank", False), column("MRR", "mrr", False)]


def _chance(gallery: float | None) -> list[str]:
    """What guessing gives, in the order of the usual columns."""
    if not gallery:
        return [DASH] * 7
    known = chances(int(gallery))
    shares = [percent(known[key], unit=False) for key in (*(f"top{k}" for k in TOP), "pairwise")]
    return [*shares, plain(known["median_rank"]), plain(known["mrr"])]


# --- rows ------------------------------------------------------------------------------------------------------------


def _table(caption: Html, entries: Sequence[Entry], columns: Sequence[Column], chance: Sequence[str]) -> Html:
    shown = [column for column in columns if any(_value(column, entry) is not None for entry in entries)]
    kept = [value for column, value in zip(columns, chance, strict=True) if column in shown]
    rows: list[list[object]] = []
    for runs in by_encoder(entries).values():
        label = labelled(runs[0])
        subjects: dict[int, list[Entry]] = {}
        for run in sorted(runs, key=lambda run: (run.record["subject"], run.record["seed"])):
            subjects.setdefault(run.record["subject"], []).append(run)
        for subject, of_one in subjects.items():
            cells = [_over_seeds(column, of_one) for column in shown]
            rows.append([label, str(subject), str(len(of_one)), *cells, cited(of_one)])
        if len(subjects) > 1:
            cells = [_over_subjects(column, list(subjects.values())) for column in shown]
            rows.append([label, element("strong", f"all {len(subjects)}"), "", *cells, cited(runs)])
    rows.append([element("em", "chance"), "", "", *kept, ""])
    return table(caption, [*HEAD, *(column.title for column in shown), "runs"], rows)


def _value(column: Column, entry: Entry) -> float | None:
    return number(column.value(entry.scores or {}))


def _over_seeds(column: Column, entries: Sequence[Entry]) -> str | Html:
    values = [_value(column, entry) for entry in entries]
    middle = mean(values)
    if middle is None:
        return DASH
    said = join(_form(column, middle))
    if column.share and len(values) > 1:
        spread = f"± {100 * np.std(values, ddof=1):.1f}"
        said = join(said, " ", Html("<wbr>"), element("span", spread, attributes={"class": "whole"}))
    return _around(said, column, [entries])


def _over_subjects(column: Column, subjects: Sequence[Sequence[Entry]]) -> str | Html:
    middle = mean([mean([_value(column, entry) for entry in entries]) for entries in subjects])
    return DASH if middle is None else _around(_form(column, middle), column, subjects)


def _form(column: Column, value: float) -> str:
    return percent(value, unit=False) if column.share else plain(value)


def _around(said: object, column: Column, subjects: Sequence[Sequence[Entry]]) -> Html:
    """What a cell says with its interval, where ranks tell it."""
    parts = [[column.of(entry.scores or {}) for entry in entries] for entries in subjects]
    if column.measure is None or not all("ranks" in part for seeds in parts for part in seeds):
        return join(said)
    about = [
        [(entry.scores or {}) | part for entry, part in zip(entries, seeds, strict=True)]
        for entries, seeds in zip(subjects, parts, strict=True)
    ]
    ends = interval(about, column.measure)
    if ends is None:
        return join(said)
    return around(said, shown(ends) if column.share else " to ".join(map(plain, ends)))
