"""The question, and its answer in one sentence with numbers."""

from collections.abc import Sequence
from typing import Any

from alignvis import table
from alignvis.reports.entries import Entry, by_encoder
from alignvis.reports.html import Html, element, join, paragraph
from alignvis.reports.numbers import DASH, count, interval, mean, percent
from alignvis.reports.protocol import modality


def question(entries: Sequence[Entry]) -> list[Html]:
    """What was asked, in words that need no other."""
    record = entries[0].record
    kinds = dict.fromkeys(modality(entry) for entry in entries)
    galleries = sorted({(entry.scores or {}).get("gallery") for entry in entries if entry.scores})
    among = f"one of {galleries[0]:,}" if len(galleries) == 1 else "one of many"
    responses = " and ".join("brain responses" if kind == "brain" else f"{kind} responses" for kind in kinds)
    first = (
        f"People look at pictures while their brain is recorded. From the {responses} to a picture, which {among} test "
        "pictures was it? A small brain encoder maps each response into the space of an image model; the test picture "
        "whose embedding lies nearest is named."
    )
    if len({entry.record["aligned"] for entry in entries}) > 1 or record["aligned"]:
        first += (
            " And is the right picture named more often through an image model that was aligned to human similarity "
            "judgements than through the same model without that, its twin?"
        )
    return [paragraph(first)]


def top1(entries: Sequence[Entry]) -> tuple[float, tuple[float, float] | None, int] | None:
    """Top-1 of runs that differ in subject and seed alone: mean over seeds first, then over subjects.

    Returns:
        The share, its 95 % interval (by bootstrap over subjects and pictures, Wilson over pictures for one subject, as
        in `alignvis eval`), and the number of subjects; None without scores.
    """
    subjects: dict[int, list[dict[str, Any]]] = {}
    for entry in entries:
        if entry.scores:
            subjects.setdefault(entry.record["subject"], []).append(entry.scores)
    middle = mean([mean([score["top1"] for score in seeds]) for seeds in subjects.values()])
    if middle is None:
        return None
    return middle, table.interval(list(subjects.values())), len(subjects)


def best_answer(entries: Sequence[Entry]) -> list[Html]:
    """The answer where no encoder has its twin beside it: the best, its interval, chance."""
    found = [(runs, got) for runs in by_encoder(entries).values() if (got := top1(runs))]
    if not found:
        return []
    runs, (share, ends, subjects) = max(found, key=lambda item: item[1][0])
    scores = next(entry.scores for entry in runs if entry.scores)
    record = runs[0].record
    said = join(
        "Through ", element("strong", record["features"]), f" ({record['encoder']}), the right one of "
        f"{scores['gallery']:,} pictures was named first for ", element("strong", percent(share)),
        f" of the test responses ({spread(ends, subjects)}); chance is {percent(scores['top1_chance'])}.",
    )  # fmt: skip
    cards = [(percent(share), f"named first through {record['features']}; {spread(ends, subjects)}", kind_of(runs))]
    for other, (value, around, number) in found:
        if other is not runs and len(cards) < 3:
            cards.append((percent(value), f"through {other[0].record['features']} ({other[0].record['encoder']}); "
                          f"{spread(around, number)}", kind_of(other)))  # fmt: skip
    cards.append((percent(scores["top1_chance"]), f"chance, among {scores['gallery']:,} pictures", ""))
    return [paragraph(said, kind="answer"), shown(cards)]


def kind_of(entries: Sequence[Entry]) -> str:
    return "aligned" if entries[0].record["aligned"] else "plain"


def spread(ends: tuple[float, float] | None, subjects: int) -> str:
    """An interval with what it is over."""
    over = "over test pictures, one subject" if subjects == 1 else f"bootstrap over {subjects} subjects and pictures"
    if ends is None:
        return f"mean of {count(subjects, 'subject')}, who do not differ: no interval"
    return f"95 % interval {interval(ends)} %, {over}"


def shown(cards: Sequence[tuple[str, str, str]]) -> Html:
    """Numbers to be seen first: the number, what it is, and its kind ("aligned", "plain" or nothing)."""
    items = (
        element("li", element("b", value or DASH), element("span", what), attributes={"class": kind})
        for value, what, kind in cards
    )
    return element("ul", *items, attributes={"class": "cards"})
