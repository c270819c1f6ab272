"""Pieces of HTML. Whatever is not `Html` already is text, and is escaped: names in files may hold anything."""

import base64
import re
from collections.abc import Callable, Mapping, Sequence
from html import escape
from types import MappingProxyType

NOTHING: Mapping[str, str] = MappingProxyType({})
VOID = ("meta", "link", "img", "br", "hr", "col", "wbr")
# What is not shown as a character, or turns the direction of those that follow: it could make a name look like another.
UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff]")

INTERVAL = "95 % interval"  # as headings name it
OPTION = re.compile("--?[a-z][a-z-]{0,22}")  # of a command; what is longer may not fit a narrow screen


class Html(str):
    """Text that is markup already, made by the functions below."""


def text(value: object) -> Html:
    """Escape whatever is not markup yet; characters that would not be seen are shown as a replacement character."""
    if isinstance(value, Html):
        return value
    return Html(escape(UNSEEN.sub("\ufffd", str(value)), quote=True))


def join(*parts: object, between: str = "") -> Html:
    """One piece after the other."""
    return Html(text(between).join(text(part) for part in parts))


def element(name: str, *inside: object, attributes: Mapping[str, str] = NOTHING) -> Html:
    """An element with everything in it escaped, its attributes too."""
    stated = "".join(f' {key}="{text(str(value))}"' for key, value in attributes.items())
    return Html(f"<{name}{stated}>" if name in VOID else f"<{name}{stated}>{join(*inside)}</{name}>")


def paragraph(*inside: object, kind: str = "") -> Html:
    return element("p", *inside, attributes={"class": kind} if kind else NOTHING)


def code(value: object) -> Html:
    return element("code", value)


def commands(lines: Sequence[str]) -> Html:
    """Commands to be pasted, one a line."""
    return element("pre", *(typed(line) for line in lines))


def typed(line: str) -> Html:
    """A command as it is typed, none of its options taken apart at a hyphen."""
    return element("code", _whole(line, lambda word: OPTION.fullmatch(word) is not None))


def breakable(name: object) -> Html:
    """A name that may be taken apart after an underscore, and is whole when it is copied."""
    return join(*str(name).split("_"), between=Html("_<wbr>"))


def around(value: object, ends: str) -> Html:
    """A number of a table with its interval, which is quieter and on a line of its own: "31.0 (22.8 to 40.6)"."""
    return join(value, " ", element("span", f"({ends})", attributes={"class": "around"}))


def listed(items: Sequence[object]) -> Html:
    return element("ul", *(element("li", item) for item in items))


def described(rows: Sequence[tuple[object, object]]) -> Html:
    """Terms and what they are."""
    pairs = (element("div", element("dt", term), element("dd", what)) for term, what in rows)
    return element("dl", *pairs)


def table(caption: object, head: Sequence[str], rows: Sequence[Sequence[object]], *, names: int = 1) -> Html:
    """A table in a box of its own, which scrolls where the page is narrow.

    Args:
        head: of the columns.
        names: how many of the first columns hold words; the others hold numbers.
    """
    kinds = ["name" if place < names else "number" for place in range(len(head))]
    titles = (
        element("th", _heading(title), attributes={"scope": "col", "class": kind})
        for title, kind in zip(head, kinds, strict=True)
    )
    lines = []
    for row in rows:
        first, *others = row
        cells = [element("th", first, attributes={"scope": "row", "class": "name"})]
        cells += [element("td", cell, attributes={"class": kind}) for cell, kind in zip(others, kinds[1:], strict=True)]
        lines.append(element("tr", *cells))
    body = element("thead", element("tr", *titles)), element("tbody", *lines)
    label = re.sub(r"<[^>]*>", "", text(caption))  # no tag is left, and what was text is escaped already
    box = Html(f'<div class="wide" role="region" tabindex="0" aria-label="{label}">')
    return join(paragraph(caption, kind="caption"), box, element("table", *body), Html("</div>"))


def _heading(title: str) -> Html:
    """Words of a heading, of which none is taken apart at a hyphen; what is said of intervals as these are shown."""
    said, found, _ = title.partition(f" ({INTERVAL})")
    words = _whole(said, lambda word: "-" in word)
    return around(words, INTERVAL) if found else words


def _whole(words: str, chosen: Callable[[str], bool]) -> Html:
    """Words with a space between them, those that are chosen never on two lines."""
    parts = (
        element("span", word, attributes={"class": "whole"}) if chosen(word) else word for word in words.split(" ")
    )
    return join(*parts, between=" ")


def picture(data: bytes, kind: str, alt: str, caption: object) -> Html:
    """A figure with its picture in the page itself.

    Args:
        kind: "png", "jpeg" or "svg+xml".
        alt: what it shows, with the numbers, for those who do not see it.
    """
    source = f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"
    drawn = element("img", attributes={"src": source, "alt": alt})
    card = element("div", drawn, attributes={"class": "card", "tabindex": "0", "role": "group", "aria-label": "figure"})
    return element("figure", card, element("figcaption", caption))
