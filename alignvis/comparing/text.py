"""Comparisons as two tables to read, what was found and how sure it is, with the protocol above. Never a p alone."""

import textwrap
from collections.abc import Sequence
from typing import Any

from alignvis.comparing.comparisons import TESTS, block_of
from alignvis.comparing.values import METRICS, Metric
from alignvis.table import repetitions

FOUND = ("", "A against B", "n", "mean", "A - B")
TESTED = ("", "t over subjects", "Wilcoxon over subjects", "signs over images")
WIDTH = 100  # of what stands above a table
SIDES = ("first", "second")


def comparisons_table(rows: Sequence[dict[str, Any]]) -> str:
    """Lay out rows of `compare`, with the protocol above each block."""
    blocks: dict[tuple, list[dict[str, Any]]] = {}
    for row in rows:
        blocks.setdefault((*block_of(row), row["metric"]), []).append(row)
    return "\n\n".join(_block(block) for block in blocks.values())


def _block(rows: Sequence[dict[str, Any]]) -> str:
    found, tested = zip(*(_cells(row, str(place)) for place, row in enumerate(rows, start=1)), strict=True)
    return "\n".join([*_protocol(rows), "", *_lines(FOUND, found), "", *_lines(TESTED, tested)])


def _lines(head: Sequence[str], rows: Sequence[tuple[list[str], ...]]) -> list[str]:
    """A table whose cells have several lines; the first column says which row of the other table a row goes with."""
    cells = [tuple([word] for word in head), *rows]
    widths = [max(len(line) for row in cells for line in row[column]) for column in range(len(head))]
    text = []
    for place, row in enumerate(cells):
        for line in range(max(map(len, row))):
            words = [(cell[line] if line < len(cell) else "").ljust(w) for cell, w in zip(row, widths, strict=True)]
            text.append("  ".join(words).rstrip())
        if place == 0:
            text.append("  ".join("-" * width for width in widths))
        elif place < len(rows):
            text.append("")
    return text


def _protocol(rows: Sequence[dict[str, Any]]) -> list[str]:
    one, metric = rows[0], METRICS[rows[0]["metric"]]
    simulated = " (SIMULATED brain)" if one["simulated"] else ""
    ways = [_way(one[side]["pool"]) for side in SIDES]
    recipes = [f"{one[side]['recipe']}, validation by {one[side]['validation']}" for side in SIDES]
    lines = [
        f"{one['dataset']}{simulated}: {one['n']} test responses, each {_repetitions(rows)}, among {one['gallery']} "
        "pictures",
        f"{_both(ways)}; recipe {_both(recipes)}",
        f"{metric.title}: means over seeds, then subjects; chance {_number(one['chance'], metric)}",
        f"A - B{' in ' + metric.unit if metric.unit else ''}; ± is the SD over seeds within a subject; in brackets "
        "95 % intervals, of t by t, else by bootstrap over subjects and images "
        f"({one['bootstrap']['resamples']:,} resamples, seed {one['bootstrap']['seed']})",
        f"p: two-sided, and by Holm over the {len(rows)} comparison{'s' * (len(rows) > 1)} of this table. Tests over "
        "subjects are about other subjects who see these images, the one over images (the signs of their differences "
        "exchanged) about other images seen by these subjects.",
    ]
    if {row[test]["family"] for row in rows for test in TESTS if row[test]} != {len(rows)}:
        lines.append("Where a test is impossible for a comparison, Holm is over the others.")
    if min(row["n_subjects"] for row in rows) == 1:
        lines.append("Of one subject the interval is over images alone, and nothing is said about other subjects.")
    if 2 <= min(row["n_subjects"] for row in rows) < 5:
        lines.append("Few subjects: the bootstrap is too short where they differ, and Wilcoxon's p cannot be small.")
    if any(one[side]["pool"] for side in SIDES):
        lines.append(
            "Subjects left out were decoded by what the same others taught: tests over subjects take them for "
            "independent of each other, which they are not quite."
        )
    return [part for line in lines for part in textwrap.wrap(line, WIDTH)]


def _repetitions(rows: Sequence[dict[str, Any]]) -> str:
    """Of what the responses of all rows are the mean."""
    known = [row["trials"] for row in rows if row["trials"]]
    least, most = min((one["min"] for one in known), default=0), max((one["max"] for one in known), default=0)
    return repetitions(rows[0] | {"trials": {"min": least, "max": most} if known else None})


def _way(pool: Sequence[int]) -> str:
    return f"trained on the other subjects of {', '.join(map(str, pool))}" if pool else "trained on the same subject"


def _both(words: Sequence[str]) -> str:
    return words[0] if words[0] == words[1] else f"A {words[0]}, B {words[1]}"


def _cells(row: dict[str, Any], number: str) -> tuple[tuple[list[str], ...], tuple[list[str], ...]]:
    metric = METRICS[row["metric"]]
    means = [_mean(row[side], metric) for side in SIDES]
    found = ([number], _names(row), _counts(row), means, _difference(row, metric))
    return found, ([number], _t(row, metric), _wilcoxon(row), _images(row))


def _names(row: dict[str, Any]) -> list[str]:
    """What differs stands behind A and B; what both share of brain encoder and features, below."""
    shown = [key for key in ("encoder", "features", "recipe") if key in row["differs"]] or ["encoder"]
    pool = "pool" in row["differs"]
    lines = []
    for name, side in zip("AB", SIDES, strict=True):
        words = [str(row[side][key]) for key in shown] if not pool or row["differs"] != ["pool"] else []
        words += [_way(row[side]["pool"])] if pool else []
        lines.append(f"{name} {', '.join(words)}")
    shared = [row["first"][key] for key in ("encoder", "features") if key not in row["differs"]]
    targets = [row[side]["target"] for side in SIDES]
    if targets != ["embeddings"] * 2:
        shared.append(f"learning {_both(targets)}")
    return [*lines, *([", ".join(shared)] if shared else [])]


def _counts(row: dict[str, Any]) -> list[str]:
    seeds = sorted({len(one["seeds"]) for one in row["subjects"]})
    span = str(seeds[0]) if len(seeds) == 1 else f"{seeds[0]}-{seeds[-1]}"
    count = row["n_subjects"]
    return [
        f"{count} subject{'s' * (count > 1)}",
        f"{span} seed{'s' * (seeds[-1] > 1)}",
        f"{row['n_images']} images",
    ]


def _mean(side: dict[str, Any], metric: Metric) -> str:
    low, high = (_number(end, metric) for end in side["interval"])
    return f"{_number(side['mean'], metric)} ({low} to {high})"


def _difference(row: dict[str, Any], metric: Metric) -> list[str]:
    low, high = row["interval"]
    lines = [
        _signed(row["difference"], metric),
        f"({_signed(low, metric)} to {_signed(high, metric)})",
    ]
    return [*lines, f"seeds ± {_number(row['seeds_sd'], metric)}"] if row["seeds_sd"] is not None else lines


def _t(row: dict[str, Any], metric: Metric) -> list[str]:
    found = row["t"]
    if found is None:
        return ["impossible: one subject"]
    if found["low"] is None:
        return [f"t({found['df']}) undefined:", "differences all equal", *([_p(found)] if found["p"] else [])]
    return [
        f"t({found['df']}) = {found['t']:.2f}, dz = {found['dz']:.2f}",
        f"({_signed(found['low'], metric)} to {_signed(found['high'], metric)})",
        _p(found),
    ]


def _wilcoxon(row: dict[str, Any]) -> list[str]:
    found = row["wilcoxon"]
    if found is None:
        return ["impossible: one subject"]
    zeros = f", {found['zeros']} zero" if found["zeros"] else ""
    return [
        f"W = {found['statistic']:g} of {found['most']:g}{zeros}",
        f"exact; at least {_rounded(found['smallest_p'])}",
        _p(found),
    ]


def _images(row: dict[str, Any]) -> list[str]:
    found = row["permutation"]
    how = f"all {found['permutations']:,}" if found["exact"] else f"{found['permutations']:,} drawn"
    return [f"{found['n']} of {row['n_images']} differ", how, _p(found)]


def _p(found: dict[str, Any]) -> str:
    return f"p {_rounded(found['p'])}, Holm {_rounded(found['p_holm'])}"


def _rounded(p: float) -> str:
    return f"{p:.2g}" if p < 0.001 else f"{p:.3f}"


def _number(value: float, metric: Metric) -> str:
    return f"{metric.scale * value:.{1 if metric.scale > 1 else 3}f}"


def _signed(value: float, metric: Metric) -> str:
    return f"{metric.scale * value:+.{1 if metric.scale > 1 else 3}f}"
