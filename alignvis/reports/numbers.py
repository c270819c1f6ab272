"""How numbers of files are written on the page; what is no number is a dash."""

from collections.abc import Sequence
from math import isfinite
from typing import Any

from alignvis.reports.html import Html, around, text

DASH = "–"


def number(value: Any) -> float | None:
    """A finite number, or None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if isfinite(value) else None
    except OverflowError:  # an integer that no float holds
        return None


def pair(value: Any) -> tuple[float, float] | None:
    """Both ends of an interval, or None."""
    if not isinstance(value, list | tuple) or len(value) != 2:
        return None
    low, high = number(value[0]), number(value[1])
    return None if low is None or high is None else (low, high)


def numbers(value: Any) -> list[float]:
    """A list of finite numbers; empty if it is anything else."""
    found = [number(item) for item in value] if isinstance(value, list | tuple) else [None]
    return [] if None in found else [item for item in found if item is not None]


def percent(value: Any, unit: bool = True) -> str:
    """A share as per cent, one decimal."""
    share = number(value)
    return DASH if share is None else f"{100 * share:.1f}{' %' * unit}"


def interval(value: Any) -> str:
    """An interval of shares in per cent: "22.8 to 40.6"."""
    ends = pair(value)
    return DASH if ends is None else f"{_minus(100 * ends[0])} to {_minus(100 * ends[1])}"


def share(value: Any, ends: Any) -> Html:
    """A share with its interval, in a table: "31.0 (22.8 to 40.6)"."""
    shown = percent(value, unit=False)
    return around(shown, interval(ends)) if pair(ends) else text(shown)


def points(value: Any) -> str:
    """A difference of shares, in percentage points with its sign."""
    found = number(value)
    return DASH if found is None else ("+" if found > 0 else "") + _minus(100 * found)


def plain(value: Any, digits: int = 3) -> str:
    """Any other number."""
    found = number(value)
    return DASH if found is None else f"{found:.{digits}g}".replace("-", "−")


def mean(values: Sequence[Any]) -> float | None:
    """The mean of numbers; None if one of them is none."""
    found = [number(value) for value in values]
    return None if not found or None in found else sum(item for item in found if item is not None) / len(found)


def count(number: int, noun: str) -> str:
    """ "1 run", "2 runs"."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


def _minus(value: float) -> str:
    return f"{value:.1f}".replace("-", "−")
