"""Words on figures: how many fit, and their colour where they say what is seen."""

import textwrap
from collections.abc import Sequence

from alignvis.figures.style import WIDTH

INK = "#404040"
LETTER = 0.0605  # inches, about, of a letter of `FONT` points


def wrapped(text: str, inches: float) -> str:
    """Break a text into lines that fit into a width."""
    return "\n".join(textwrap.wrap(text, max(20, int(inches / LETTER))))


def room_beside(labels: Sequence[str]) -> float:
    """Inches that a figure has left beside labels at its left, of which each may have lines."""
    longest = max((len(line) for label in labels for line in label.split("\n")), default=0)
    return WIDTH - 0.25 - LETTER * longest


def averaged(repetitions: int | None) -> str:
    """What a response is the mean of, where that is more than one repetition."""
    return f", each the mean of {repetitions} repetitions," if repetitions and repetitions > 1 else ""


def from_to(numbers: Sequence[int]) -> str:
    """The lowest and the highest of whole numbers, or the one that all of them are."""
    low, high = min(numbers), max(numbers)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"
