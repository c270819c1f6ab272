"""Similarity analyses and encoding models as tables for the terminal."""

from collections.abc import Mapping, Sequence
from typing import Any


def rsa_table(result: Mapping[str, Any]) -> str:
    """One row an embedding, with what the numbers are of above and how to read them below."""
    rows = [_row(row, row["peak"], _bounds(row["peak"]), row["mean"]) for row in result["features"]]
    return "\n".join(
        [
            f"{_said(result)}; {result['pairs']:,} pairs of images, Spearman's correlation",
            *_columns([["features", "aligned", "r", "95 % interval", "p", *_TIMES, "ceiling", "mean r"], *rows]),
            *_differences(result),
            "the test images are taken, as they have the most repetitions; nothing is fitted to them",
            *_reading(result),
            *_ceilings(result),
        ]
    )


def _ceilings(result: Mapping[str, Any]) -> list[str]:
    count = len(result["subjects"])
    if result["ceiling"]["subjects"] is None:
        return ["ceiling: by halves of the repetitions (halves)"]
    return [
        f"ceiling: lower bound by the mean of the other subjects, upper bound by the mean of all {count}, which is "
        f"about {count**-0.5:.2f} (1/sqrt({count})) even where they share nothing"
    ]


def encoding_table(result: Mapping[str, Any]) -> str:
    """One row an embedding, then the best channel of each subject."""
    rows = [_row(row, row["peak"], _share(row["peak"]), None) for row in result["features"]]
    best = [
        [row["features"], str(one["subject"]), *_best(one["best"]), f"{100 * one['significant_share']:.1f}"]
        for row in result["features"]
        for one in row["by_subject"]
    ]
    trained = " to ".join(f"{number:,}" for number in _ends(result["train_images"]))
    lines = [
        f"{_said(result)}; ridge fitted to {trained} training images, mean over {result['region']} channels",
        *_columns([["features", "aligned", "r", "95 % interval", "p", *_TIMES, "ceiling"], *rows]),
        *_differences(result),
        "",
        *_columns([["features", "subject", "best r", "channel", "ms", "p", "ceiling", "% p <= 0.05"], *best]),
        *_reading(result),
        f"ceiling: by halves of the test repetitions, and how much of it is reached; at ms: highest mean over "
        f"{result['region']} channels, as the figure's dashed line",
        "best r, ms: of the one best of all channels and times; % p <= 0.05: share of all channels x times whose "
        "correlation is above chance, p corrected for all of both",
    ]
    if result["shared_concepts"]:
        lines.append(f"note: {result['shared_concepts']} concepts of test images are those of training images too")
    return "\n".join(lines)


_TIMES = ("at ms", "95 % interval", "from ms")


def _row(
    row: Mapping[str, Any], peak: Mapping[str, Any] | None, ceiling: str, mean: Mapping[str, Any] | None
) -> list[str]:
    cells = [row["features"], "yes" if row["aligned"] else "no"]
    if peak is None:
        return [*cells, "not known"]
    cells += [f"{peak['r']:.3f}", _interval(peak["interval"], "{:.3f}"), f"{peak['p']:.3g}"]
    if peak["time"] is None:
        cells += ["-", "-", "-"]
    else:
        first = peak["first_significant"]
        times = [1000 * time for time in peak["time_interval"]]
        cells += [f"{1000 * peak['time']:.0f}", _interval(times, "{:.0f}"), _ms(first)]
    cells.append(ceiling)
    return cells if mean is None else [*cells, f"{mean['r']:.3f} ({_interval(mean['interval'], '{:.3f}')})"]


def _ms(time: float | None) -> str:
    return "-" if time is None else f"{1000 * time:.0f}"


def _interval(ends: Sequence[float | None], form: str) -> str:
    return "-" if None in ends else " to ".join(form.format(end) for end in ends)


def _bounds(peak: Mapping[str, Any] | None) -> str:
    found = (peak or {}).get("ceiling") or {}
    if found.get("upper") is not None:
        return f"{found['lower']:.3f} to {found['upper']:.3f}"
    return "-" if found.get("repetitions") is None else f"{found['repetitions']:.3f} (halves)"


def _share(peak: Mapping[str, Any] | None) -> str:
    if peak is None or peak["ceiling"] is None:
        return "-"
    share = "" if peak["share"] is None else f" ({100 * peak['share']:.0f} % of it)"
    return f"{peak['ceiling']:.3f}{share}"


def _best(best: Mapping[str, Any] | None) -> list[str]:
    if best is None:
        return ["not known", "-", "-", "-", "-"]
    limit = "-" if best["ceiling"] is None else f"{best['ceiling']:.3f}"
    return [f"{best['r']:.3f}", best["channel"], _ms(best["time"]), f"{best['p']:.3g}", limit]


def _ends(numbers: Sequence[int]) -> list[int]:
    return [numbers[0], *numbers[1:][-1:]]


def _said(result: Mapping[str, Any]) -> str:
    numbers = result["subjects"]
    who = f"subject{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers))}"
    drawn = " (SIMULATED)" if result["simulated"] else ""
    return f"{result['dataset']}{drawn}, {who}: {result['n']} test images, {repetitions_averaged(result)}"


def repetitions_averaged(result: Mapping[str, Any]) -> str:
    """How many repetitions the responses of a result are the mean of, or trials where their table averaged these."""
    counts = result["repetitions"]
    found = " to ".join(map(str, _ends(counts))) + f" repetition{'s' * (counts[-1] > 1)} averaged"
    trials = [end for table in result["responses"] for end in table["trials"] or ()]
    if not trials:
        return found
    span = f"{min(trials)} to {max(trials)}" if min(trials) < max(trials) else f"{min(trials)}"
    return f"{found}, each of {span} trial{'s' * (max(trials) > 1)}"


def _differences(result: Mapping[str, Any]) -> list[str]:
    lines = []
    for row in result["differences"]:
        above, below = (
            sum(a > 0 for a in row["band"][0] if a is not None),
            sum(b < 0 for b in row["band"][1] if b is not None),
        )
        if row["mean"] is not None:
            mean = f"{row['mean']['r']:+.4f} ({_interval(row['mean']['interval'], '{:+.4f}')}) on average over times"
            lines.append(
                f"{row['aligned']} minus {row['plain']}: {mean}; simultaneous 95 % band above 0 at {above} and below "
                f"at {below} of {len(row['r'])} times"
            )
    return lines


def _reading(result: Mapping[str, Any]) -> list[str]:
    lines = [
        f"interval: bootstrap over {' and '.join(result['drawn'])}, {result['draws']:,} draws; p: highest over all "
        f"times in {result['permutations']:,} permutations of images, so corrected for them"
    ]
    if result["times"] is not None:
        lines.append("r is that of the best time, which makes it and its interval optimistic; from: first p <= 0.05")
    return lines


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[place]) for row in rows if place < len(row)) for place in range(max(map(len, rows)))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)).rstrip() for row in rows]
