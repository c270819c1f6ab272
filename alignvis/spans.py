"""Whole numbers in few words."""

from collections.abc import Iterable


def spans(numbers: Iterable[int], between: str = ",") -> str:
    """Numbers and ranges with both ends, as they are typed after ``--subject``: 1, 2, 3 and 7 are "1-3,7"."""
    found = set(numbers)
    ordered = sorted(found)
    starts = [number for number in ordered if number - 1 not in found]
    ends = [number for number in ordered if number + 1 not in found]
    return between.join(str(low) if low == high else f"{low}-{high}" for low, high in zip(starts, ends, strict=True))
