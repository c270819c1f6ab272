"""Figures of this package as pictures inside the page."""

import re
import warnings

from alignvis.figures.style import Figure, drawn
from alignvis.reports.html import Html, paragraph, picture

LARGEST = 500_000  # bytes of a drawing in lines; what is larger is drawn in points
FORBIDDEN = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f]|\xef\xbf[\xbe\xbf]|\xed[\xa0-\xbf][\x80-\xbf]")  # in XML


def inlined(figure: Figure, alt: str, caption: object, *, photographs: bool = False) -> Html:
    """A figure in lines, sharp at any size; in points where it holds photographs, or lines would take more room."""
    for words in figure.findobj(lambda artist: hasattr(artist, "set_parse_math")):
        if "$" in words.get_text():  # of a name in a file: no formula
            words.set_parse_math(False)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="constrained_layout not applied")
            lines = b"" if photographs else FORBIDDEN.sub(b"?", drawn(figure, "svg"))
            if 0 < len(lines) <= LARGEST:
                return picture(lines, "svg+xml", alt, caption)
            return picture(drawn(figure, "png"), "png", alt, caption)
    except UserWarning:  # of names that are longer than the figure is wide; the tables have them
        return paragraph("A figure is left out: the names in it are too long to be drawn.", kind="missing")
