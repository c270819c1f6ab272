"""The page's skeleton: head, contents, sections. No script, and a policy that lets nothing in from outside."""

from collections.abc import Sequence
from dataclasses import dataclass

from alignvis.reports.html import Html, element, join, paragraph
from alignvis.reports.look import STYLE

# The page may show pictures that it holds itself and use its own style; it may load, send, frame and run nothing.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


@dataclass(frozen=True)
class Section:
    """A part of the page under a heading.

    Attributes:
        name: of its place in the page, letters and hyphens.
        parts: what stands in it, in order.
    """

    name: str
    title: str
    parts: Sequence[Html]


def page(title: str, lead: Sequence[Html], sections: Sequence[Section], foot: Html) -> str:
    """Put a page together.

    Args:
        lead: what stands below the title.
        foot: the last words.

    Returns:
        A whole HTML document; nothing outside of it is needed to show it.
    """
    head = element(
        "head",
        element("meta", attributes={"charset": "utf-8"}),
        element("meta", attributes={"http-equiv": "Content-Security-Policy", "content": POLICY}),
        element("meta", attributes={"name": "viewport", "content": "width=device-width, initial-scale=1"}),
        element("meta", attributes={"name": "referrer", "content": "no-referrer"}),
        element("link", attributes={"rel": "icon", "href": "data:,"}),  # or a browser would ask for one
        element("title", title),
        element("style", Html(STYLE)),
    )
    links = (element("li", element("a", part.title, attributes={"href": f"#{part.name}"})) for part in sections)
    contents = element(
        "nav", element("h2", "Contents"), element("ol", *links), attributes={"aria-label": "Table of contents"}
    )
    main = (
        element(
            "section",
            element("h2", part.title, attributes={"id": f"{part.name}"}),
            *part.parts,
            attributes={"aria-labelledby": part.name},
        )
        for part in sections
    )
    body = element(
        "div",
        element("header", element("h1", title), *lead),
        contents,
        element("main", *main),
        element("footer", foot),
        attributes={"class": "page"},
    )
    whole = element("html", head, element("body", body), attributes={"lang": "en"})
    return f"<!doctype html>\n{whole}\n"


def simulated(what: str) -> Html:
    """The banner over whatever was not recorded from anyone."""
    words = element("strong", "SIMULATED")
    said = f". {what} They show that the way from recording to result is whole, and say nothing about people."
    return element("div", paragraph(join(words, said)), attributes={"class": "warn", "role": "note"})
