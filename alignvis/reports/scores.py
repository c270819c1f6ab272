"""Tables of scores: one row an encoder, features and subject; galleries of different kinds stay apart."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from alignvis.reports.entries import Entry, by_encoder, cited, command, marked, missing, source
from alignvis.reports.html import Html, element, join, paragraph, table
from alignvis.reports.numbers import DASH, count, mean, number, percent, plain
from alignvis.reports.numbers import interval as shown
from alignvis.reports.protocol import averaged, named
from alignvis.scoring import gives_same_answer
from alignvis.stats import wilson
from alignvis.table import interval

HEAD = ("brain encoder", "embedding", "subject", "seeds")
Find = Callable[[dict[str, Any]], dict[str, Any]]
Column = tuple[str, Callable[[dict[str, Any]], Any], str, Find]  # title, value, kind, and the part of scores it is of


def tables(kinds: Sequence[Sequence[Entry]], root: Path) -> list[Html]:
    """All tables of scores, a group of them for each kind of runs that may be compared."""
    parts = [
        paragraph("All shares are per cent. ", Html("● aligned to human similarity judgements, ○ not aligned. "),
                  "Rows of one subject: mean over seeds ± SD over seeds, 95 % Wilson interval over test pictures. Rows "
                  "of all subjects: mean over subjects, 95 % interval by bootstrap over subjects and pictures, which "
                  "is too short for fewer than five subjects; from picture to brain it has none. "
                  "MRR: mean of one over the rank. Numbers in brackets are the runs, listed at the end.", kind="note"),
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
                     [_top1(lambda scores: scores, "top1"), *_usual(lambda scores: scores)], _chance(gallery)),
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
        columns = [_top1(_within("image_to_brain"), "top1"), *_usual(_within("image_to_brain"))]
        title = join(element("strong", "From picture to brain."), " Which response belongs to a picture? Same matrix.")
        parts += [_table(title, backwards, columns, _chance(gallery)), source("scores.json, image_to_brain", backwards)]
    else:
        again = command(root, "eval", "--overwrite", *(_name(entry) for entry in scored[:3]))
        parts.append(missing("The scores are of an earlier version, without the other direction, n-way accuracy and "
                             "transductive scores.", again))  # fmt: skip
    ways = [entry for entry in scored if _part(entry, "n_way")]
    if ways:
        sizes = sorted({key for entry in ways for key in _part(entry, "n_way") if key.isdecimal()}, key=int)[:8]
        columns = [_share(f"{int(size)}-way", _within("n_way"), size) for size in sizes]
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
        columns = [_top1(_within("class_centres"), "top1"), *_usual(_within("class_centres"))]
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


def _top1(find: Callable[[dict[str, Any]], dict[str, Any]], key: str) -> Column:
    return "top-1 (95 % interval)", lambda scores: find(scores).get(key), "with interval", find


def _share(title: str, find: Callable[[dict[str, Any]], dict[str, Any]], key: str) -> Column:
    return title, lambda scores: find(scores).get(key), "share", find


def _usual(find: Callable[[dict[str, Any]], dict[str, Any]]) -> list[Column]:
    columns = [_share(f"top-{k}", find, f"top{k}") for k in (3, 5, 10)]
    columns.append(_share("pairwise", find, "pairwise"))
    columns.append(("median rank", lambda scores: find(scores).get("median_rank"), "number", find))
    columns.append(("MRR", lambda scores: find(scores).get("mrr"), "number", find))
    return columns


def _chance(gallery: float | None) -> list[str]:
    """What guessing gives, in the order of the usual columns."""
    if not gallery:
        return [DASH] * 7
    tops = [percent(min(k, gallery) / gallery, unit=False) for k in (1, 3, 5, 10)]
    reciprocal = float(np.mean(1 / np.arange(1, int(gallery) + 1))) if gallery < 1e7 else None
    return [*tops, "50.0", plain((gallery + 1) / 2), plain(reciprocal)]


# --- rows ------------------------------------------------------------------------------------------------------------


def _table(caption: Html, entries: Sequence[Entry], columns: Sequence[Column], chance: Sequence[str]) -> Html:
    shown = [column for column in columns if any(_value(column, entry) is not None for entry in entries)]
    kept = [value for column, value in zip(columns, chance, strict=True) if column in shown]
    rows: list[list[object]] = []
    for runs in by_encoder(entries).values():
        label = [runs[0].record["encoder"], marked(runs[0])]
        subjects: dict[int, list[Entry]] = {}
        for run in sorted(runs, key=lambda run: (run.record["subject"], run.record["seed"])):
            subjects.setdefault(run.record["subject"], []).append(run)
        for subject, of_one in subjects.items():
            cells = [_over_seeds(column, of_one) for column in shown]
            rows.append([*label, str(subject), str(len(of_one)), *cells, cited(of_one)])
        if len(subjects) > 1:
            cells = [_over_subjects(column, list(subjects.values())) for column in shown]
            rows.append([*label, element("strong", f"all {len(subjects)}"), "", *cells, cited(runs)])
    rows.append([element("em", "chance"), "", "", "", *kept, ""])
    return table(caption, [*HEAD, *(column[0] for column in shown), "runs"], rows, names=2)


def _value(column: Column, entry: Entry) -> float | None:
    return number(column[1](entry.scores or {}))


def _over_seeds(column: Column, entries: Sequence[Entry]) -> str | Html:
    values = [_value(column, entry) for entry in entries]
    middle = mean(values)
    if middle is None:
        return DASH
    if column[2] == "number":
        return plain(middle)
    shown_mean = join(percent(middle, unit=False))
    if len(values) > 1:
        shown_mean = join(shown_mean, " ", Html("<wbr>"), f"± {100 * np.std(values, ddof=1):.1f}")
    if column[2] == "share" or not 0 <= middle <= 1:
        return shown_mean
    return join(shown_mean, _around(wilson(middle, (entries[0].scores or {})["n"])))


def _around(ends: tuple[float, float] | None) -> Html:
    """An interval, on a line of its own where there is little room."""
    return join("" if ends is None else join(" ", Html("<wbr>"), f"({shown(ends)})"))


def _over_subjects(column: Column, subjects: Sequence[Sequence[Entry]]) -> str | Html:
    means = [mean([_value(column, entry) for entry in entries]) for entries in subjects]
    middle = mean(means)
    if middle is None:
        return DASH
    if column[2] == "number":
        return plain(middle)
    if column[2] == "share":
        return percent(middle, unit=False)
    found = [[column[3](entry.scores or {}) for entry in entries] for entries in subjects]
    ranked = all("ranks" in one for seeds in found for one in seeds)
    about = [
        [(entry.scores or {}) | one for entry, one in zip(entries, seeds, strict=True)]
        for entries, seeds in zip(subjects, found, strict=True)
    ]
    return join(percent(middle, unit=False), _around(interval(about)) if ranked else "")
