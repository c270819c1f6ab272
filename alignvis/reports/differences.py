"""Aligned encoders against their unaligned twins: differences with intervals and tests, never a p-value alone."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from alignvis.comparing import compare
from alignvis.errors import AlignvisError
from alignvis.reports.entries import Entry, by_kind, command, missing, source
from alignvis.reports.html import Html, element, join, paragraph, table
from alignvis.reports.numbers import DASH, count, number, pair, plain, points, share
from alignvis.reports.protocol import named as called
from alignvis.spans import spans

Row = dict[str, Any]


def compared(entries: Sequence[Entry], root: Path) -> tuple[list[Row], list[str]]:
    """Compare aligned encoders with their twins, from the stored similarities, as `alignvis compare` does.

    Returns:
        Its rows whose runs are all among the entries, and sentences on what was left out.
    """
    notes: list[str] = []
    if not any(entry.record["aligned"] and entry.scores for entry in entries):
        return [], notes
    try:
        rows = compare(root, say=notes.append, broken=lambda error: notes.append(str(error)))
    except AlignvisError as error:
        return [], [str(error)]
    known = {entry.path.resolve() for entry in entries}
    here = [row for row in rows if _runs(row) <= known]
    others = len(rows) - len(here)
    if others:
        notes.append(f"{count(others, 'comparison')} in {root / 'runs'} rest on runs that are not on this page")
    return here, notes


def of_kind(rows: Sequence[Row], entries: Sequence[Entry]) -> list[Row]:
    """The comparisons of some runs."""
    known = {entry.path.resolve() for entry in entries}
    return [row for row in rows if _runs(row) & known]


def entries_of(row: Row, entries: Sequence[Entry]) -> list[Entry]:
    runs = _runs(row)
    return [entry for entry in entries if entry.path.resolve() in runs]


def _runs(row: Row) -> set[Path]:
    return {Path(pair[side]["run"]).resolve() for pair in row["runs"] for side in ("first", "second")}


def differences(
    entries: Sequence[Entry], rows: Sequence[Row], notes: Sequence[str], root: Path, *, named: bool = False
) -> list[Html]:
    """A table of comparisons for each kind of runs, what each subject did, and what was left out.

    Args:
        named: whether the page has another part, on what was compared by name.
    """
    parts: list[Html] = []
    if not rows:
        aligned = sorted({entry.record["features"] for entry in entries if entry.record["aligned"]})
        why = "No run here learned from an encoder that was aligned to human similarity judgements, so there is no " \
              "twin to compare with."  # fmt: skip
        if aligned:
            names = ", ".join(aligned)
            why = f"No aligned encoder ({names}) has its unaligned twin beside it with scores of the same kind."
        if named:
            below = element("a", "Compared", attributes={"href": "#compared"})
            parts.append(element("p", why, " What was compared by name stands under ", below, "."))
        else:
            parts.append(missing(why, command(root, "compare" if aligned else "extract")))
    kinds = by_kind(entries)
    for some in kinds:
        mine = of_kind(rows, some)
        if mine and len(kinds) > 1:
            parts.append(element("h3", called(some)))
        parts += _of_one_kind(mine, some) if mine else []
    if notes:
        parts.append(
            element("ul", *(element("li", note) for note in dict.fromkeys(notes)), attributes={"class": "note"})
        )
    return parts


def _of_one_kind(rows: Sequence[Row], entries: Sequence[Entry]) -> list[Html]:
    lines = [
        [
            join(row["first"]["features"], " − ", row["second"]["features"], element("br"), row["first"]["encoder"]),
            f"{row['n_subjects']}",
            f"{row['n_images']}",
            share(row["first"]["mean"], row["first"]["interval"]),
            share(row["second"]["mean"], row["second"]["interval"]),
            element("strong", points(row["difference"])),
            _ends(row["interval"]),
            f"± {100 * row['seeds_sd']:.1f}" if number(row["seeds_sd"]) is not None else "one seed",
        ]
        for row in rows
    ]
    head = ("aligned − twin", "subjects", "pictures", "aligned, top-1 %", "twin, top-1 %", "difference, points",
            "95 % interval", "SD over seeds")  # fmt: skip
    drawn = rows[0]["bootstrap"]
    over = " or ".join(dict.fromkeys(row["interval_over"] for row in rows))
    title = join(element("strong", "Aligned against twin."), f" Top-1, means over seeds, then subjects. Intervals: "
                 f"percentile bootstrap over {over}, {drawn['resamples']:,} resamples, seed "
                 f"{drawn['seed']}.")  # fmt: skip
    used = [entry for row in rows for entry in entries_of(row, entries)]
    used = sorted({entry.number: entry for entry in used}.values(), key=lambda entry: entry.number)
    parts = [table(title, head, lines), source("similarity.safetensors", used)]
    return [*parts, *_tests(rows), *_by_subject(rows, entries)]


def _tests(rows: Sequence[Row]) -> list[Html]:
    lines = [
        [
            join(row["first"]["features"], " − ", row["second"]["features"], element("br"), row["first"]["encoder"]),
            f"{points(row['difference'])} ({_ends(row['interval'])})",
            *tested(row, _ends),
        ]
        for row in rows
    ]
    head = ("aligned − twin", "difference, points (95 % interval)", "paired t over subjects",
            "exact Wilcoxon over subjects", "signs over pictures")  # fmt: skip
    family = max(row["permutation"]["family"] for row in rows)
    title = join(element("strong", "Tests of the difference."), f" p: two-sided, then by Holm over "
                 f"{count(family, 'comparison')}.")  # fmt: skip
    note = (
        "Tests over subjects are about other subjects who see these pictures, the one over pictures about other "
        "pictures seen by these subjects. With few subjects Wilcoxon's p cannot be small: the smallest that is "
        "possible stands beside it."
    )
    return [table(title, head, lines), paragraph(f"{note} {few(rows)}".strip(), kind="note")]


def few(rows: Sequence[Row]) -> str:
    """What is to be known where there are few subjects; nothing where there are not."""
    if any(2 <= row["n_subjects"] < 5 for row in rows):
        return "Of fewer than five subjects who differ a bootstrap interval is too short; the t interval is safer."
    return ""


def _by_subject(rows: Sequence[Row], entries: Sequence[Entry]) -> list[Html]:
    if all(row["n_subjects"] == 1 for row in rows):
        return []
    lines = [
        [
            f"{row['first']['features']} − {row['second']['features']} ({row['first']['encoder']})",
            str(one["subject"]),
            spans(one["seeds"]) if min(one["seeds"]) >= 0 else str(len(one["seeds"])),
            share(one["first"], None),
            share(one["second"], None),
            points(one["difference"]),
        ]
        for row in rows
        for one in row["subjects"]
    ]
    head = ("aligned − twin", "subject", "seeds", "aligned, top-1 %", "twin, top-1 %", "difference, points")
    return [table(join(element("strong", "Subject by subject."), " Means over seeds."), head, lines)]


def answers(rows: Sequence[Row], entries: Sequence[Entry]) -> list[Html]:
    """The answer in one sentence with its numbers, and these to be seen first."""
    if len(rows) == 1:
        return _one_answer(rows[0], entries)
    above = sum(row["interval"][0] > 0 for row in rows)
    below = sum(row["interval"][1] < 0 for row in rows)
    ordered = sorted(rows, key=lambda row: row["difference"])
    low, high = ordered[0], ordered[-1]
    said = join(
        "In ", element("strong", f"{above} of {len(rows)}"), " comparisons of an aligned image encoder with its "
            "twin the "
        "aligned one named the right picture first more often, with a 95 % interval above zero; in ",
        f"{below or 'none'} less often, with an interval below zero. Differences are from ",
        element("strong", f"{points(low['difference'])} points"), f" ({_ends(low['interval'])}; "
            f"{low['first']['features']}) to ",
        element("strong", f"{points(high['difference'])} points"), f" ({_ends(high['interval'])}; "
        f"{high['first']['features']}); chance is {100 * rows[0]['chance']:.3g} %.",
    )  # fmt: skip
    return [paragraph(said, kind="answer")]


def _one_answer(row: Row, entries: Sequence[Entry]) -> list[Html]:
    one, other = row["first"], row["second"]
    clear = row["interval"][0] > 0 or row["interval"][1] < 0
    doubt = "" if clear else " The interval holds zero: these runs do not tell the two apart."
    people = count(row["n_subjects"], "subject")
    said = join(
        "Through ", element("strong", one["features"]), ", aligned to human similarity judgements, the right one of "
        f"{row['gallery']:,} pictures was named first for ", element("strong", f"{100 * one['mean']:.1f} %"),
        " of the test responses, through its unaligned twin ", element("strong", other["features"]), " for ",
        element("strong", f"{100 * other['mean']:.1f} %"), ": a difference of ",
        element("strong", f"{points(row['difference'])} points"), f" (95 % interval {_ends(row['interval'])}, over "
        f"{row['interval_over']}; {people}, {row['n_images']:,} pictures). Chance is {100 * row['chance']:.3g} "
        f"%.{doubt}",
    )  # fmt: skip
    cards = [
        ("aligned", f"{100 * one['mean']:.1f} %", f"through {one['features']}, aligned; 95 % interval {_plain(one)}"),
        ("plain", f"{100 * other['mean']:.1f} %", f"through {other['features']}, its twin; 95 % interval "
                                                  f"{_plain(other)}"),
        ("", points(row["difference"]), f"points of difference; 95 % interval {_ends(row['interval'])}"),
        ("", f"{100 * row['chance']:.3g} %", f"chance, among {row['gallery']:,} pictures"),
    ]  # fmt: skip
    items = (
        element("li", element("b", value), element("span", what), attributes={"class": kind})
        for kind, value, what in cards
    )
    return [paragraph(said, kind="answer"), element("ul", *items, attributes={"class": "cards"})]


def _plain(side: Row) -> str:
    return f"{100 * side['interval'][0]:.1f} to {100 * side['interval'][1]:.1f}"


def _ends(interval: Sequence[float]) -> str:
    return f"{points(interval[0])} to {points(interval[1])}"


def _p(found: Row) -> str:
    if number(found["p"]) is None:
        return "p undefined"
    return f"p {plain(found['p'], 2)}, Holm {plain(found['p_holm'], 2)}"


def tested(row: Row, ends: Callable[[Sequence[float]], str]) -> list[Html]:
    """The cells of the tests of one comparison: t and Wilcoxon over subjects, signs over pictures."""
    return [_t(row["t"], ends), _wilcoxon(row["wilcoxon"]), _signs(row["permutation"])]


def _t(found: Row | None, ends: Callable[[Sequence[float]], str]) -> Html:
    if found is None:
        return join("one subject")
    if number(found["t"]) is None:
        return join("differences all equal")
    around = DASH if pair((found["low"], found["high"])) is None else f"({ends((found['low'], found['high']))})"
    return join(f"t({found['df']}) = {found['t']:.2f}", element("br"), around, element("br"), _p(found))


def _wilcoxon(found: Row | None) -> Html:
    if found is None:
        return join("one subject")
    return join(_p(found), element("br"), f"smallest possible {plain(found['smallest_p'], 2)}")


def _signs(found: Row) -> Html:
    return join(_p(found), element("br"), f"{found['n']} differ" if "n" in found else DASH)
