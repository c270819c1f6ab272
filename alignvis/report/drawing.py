"""Figures of this package as pictures inside the page."""

import re

from alignvis.figures.style import Figure, drawn
from alignvis.report.html import Html, picture

LARGEST = 500_000  # bytes of a drawing in lines; what is larger is drawn in points
FORBIDDEN = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f]|\xef\xbf[\xbe\xbf]|\xed[\xa0-\xbf][\x80-\xbf]")  # in XML


def inlined(figure: Figure, alt: str, caption: object, *, photographs: bool = False) -> Html:
    """A figure in lines, sharp at any size; in points where it holds photographs, or lines would take more room."""
    if photographs:
        return picture(drawn(figure, "png"), "png", alt, caption)
    lines = FORBIDDEN.sub(b"?", drawn(figure, "svg"))
    if len(lines) <= LARGEST:
        return picture(lines, "svg+xml", alt, caption)
    return picture(drawn(figure, "png"), "png", alt, caption)
