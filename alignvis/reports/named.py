"""What `alignvis compare` was asked for by name and kept in ``ROOT/results``, if it is of the runs of this page."""

from collections.abc import Sequence
from math import isclose
from pathlib import Path
from types import NoneType
from typing import Any

from alignvis import files
from alignvis.comparing import METRICS
from alignvis.errors import AlignvisError
from alignvis.figures.comparison import draw_comparison
from alignvis.reports.differences import few, tested
from alignvis.reports.drawing import inlined
from alignvis.reports.entries import Entry, anew, command
from alignvis.reports.html import Html, around, code, element, join, paragraph, table
from alignvis.reports.numbers import DASH, count, mean, number, pair

Row = dict[str, Any]
NUMBER, MAYBE = (int, float), (int, float, NoneType)
OF_RUN = {"run": str, "weights_sha256": str, "similarity_sha256": str}
SIDE = {"features": str, "encoder": str, "recipe": str, "pool": [int], "aligned": bool, "mean": NUMBER,
        "interval": [NUMBER]}  # fmt: skip
TESTED = {"p": MAYBE, "p_holm": MAYBE}
SHAPE: Row = {
    "metric": str, "first": SIDE, "second": SIDE, "dataset": str, "simulated": bool, "n": int, "gallery": int,
    "galleries": str, "repetitions": int, "chance": NUMBER, "difference": NUMBER, "interval": [NUMBER],
    "interval_over": str, "bootstrap": {"resamples": int, "seed": int}, "seeds_sd": MAYBE, "n_subjects": int,
    "n_images": int, "t": (dict, NoneType), "wilcoxon": (dict, NoneType), "permutation": TESTED | {"n": int,
    "family": int}, "subjects": [{"subject": int, "difference": NUMBER}],
    "runs": [{"subject": int, "seed": int, "queries_fingerprint": str, "first": OF_RUN, "second": OF_RUN}],
}  # fmt: skip
T = TESTED | {"t": MAYBE, "df": int, "low": MAYBE, "high": MAYBE}
WILCOXON = TESTED | {"smallest_p": MAYBE}
SIDES = ("first", "second")


def read_named(entries: Sequence[Entry], root: Path, twins: Sequence[Row]) -> tuple[list[Row], list[str], list[Path]]:
    """Read ``results/compare.json``.

    Args:
        twins: comparisons that the page shows already.

    Returns:
        Its other comparisons, as far as they are of runs of the page, as these are now; sentences on the rest;
        and the file, if something in it cannot be read.
    """
    path = root / "results" / "compare.json"
    if not path.is_file():
        return [], [], []
    line = command(root, "compare", "--overwrite")
    again = f"make it again with: {line}"
    try:
        found = files.read_json(path)
    except AlignvisError as error:
        return [], [anew(error, line)], [path]
    if not files.fits(found, {"comparisons": [dict]}):
        return [], [f"{path} does not hold comparisons that can be shown; {again}"], [path]
    shown, spoiled, elsewhere = [], 0, 0
    there = {_runs(row) for row in twins if row["metric"] == "top1"}
    for row in found["comparisons"]:
        if not _sound(row):
            spoiled += 1
        elif not _of_these(row, entries):
            elsewhere += 1
        elif row["metric"] != "top1" or _runs(row) not in there:
            shown.append(row)
    notes = []
    if spoiled:
        notes.append(f"{count(spoiled, 'comparison')} in {path} cannot be read and {_were(spoiled)} left out; {again}")
    if elsewhere:
        notes.append(
            f"{count(elsewhere, 'comparison')} in {path} {_were(elsewhere)} left out: not of runs on this page as they "
            f"are scored now; {again}"
        )
    return shown, notes, [path] * (spoiled > 0)


def _were(number_of: int) -> str:
    return "was" if number_of == 1 else "were"


def _runs(row: Row) -> frozenset[tuple[str, ...]]:
    return frozenset(tuple(one[side]["similarity_sha256"] for side in SIDES) for one in row["runs"])


def _sound(row: Row) -> bool:
    """Whether a row has all that is shown of it, and numbers are numbers."""
    if not files.fits(row, SHAPE) or row["metric"] not in METRICS or not row["runs"] or not row["subjects"]:
        return False
    if not all(row[name] is None or files.fits(row[name], kinds) for name, kinds in (("t", T), ("wilcoxon", WILCOXON))):
        return False
    held = [row["chance"], row["difference"], *(row[side]["mean"] for side in SIDES)]
    held += [one["difference"] for one in row["subjects"]]
    ends = [pair(part["interval"]) for part in (row, row["first"], row["second"])]
    return all(number(value) is not None and abs(value) <= 1 for value in held) and all(
        end is not None and -1 <= end[0] <= end[1] <= 1 for end in ends
    )


def _of_these(row: Row, entries: Sequence[Entry]) -> bool:
    """Whether a comparison is of runs of the page, with the weights and similarities that it names, and their scores.

    A digest, not a path, says which run: paths are relative to where the comparison was made.
    """
    known = {(entry.record["weights_sha256"], entry.scores["similarity_sha256"]): entry.scores
             for entry in entries if entry.scores}  # fmt: skip
    metric, means = row["metric"], []
    for side in SIDES:
        subjects: dict[int, list[float]] = {}
        for one in row["runs"]:
            scores = known.get((one[side]["weights_sha256"], one[side]["similarity_sha256"]))
            same = scores is not None and (scores["subject"], scores["seed"]) == (one["subject"], one["seed"])
            if not same or one["queries_fingerprint"] != scores["queries_fingerprint"]:
                return False
            subjects.setdefault(one["subject"], []).append(scores[metric])
        means.append(mean([mean(seeds) for seeds in subjects.values()]))
        if means[-1] is None or not isclose(means[-1], row[side]["mean"], abs_tol=1e-5):
            return False
    return isclose(means[0] - means[1], row["difference"], abs_tol=2e-5)


def command_of(row: Row, root: Path) -> str:
    """The command that makes a comparison again, as far as features or brain encoders are what differs."""
    names = [[row[side][key] for side in SIDES] for key in ("features", "encoder")]
    differing = [pair_of for pair_of in names if pair_of[0] != pair_of[1]]
    words = differing[0] if len(differing) == 1 else [Path(row["runs"][0][side]["run"]).name for side in SIDES]
    words = ["compare", *words] + (["--metric", row["metric"]] if row["metric"] != "top1" else [])
    return command(root, *words, "--overwrite")


def named_comparisons(rows: Sequence[Row], notes: Sequence[str]) -> list[Html]:
    """A figure and a table of comparisons for each metric, and what was left out."""
    parts: list[Html] = []
    for metric in dict.fromkeys(row["metric"] for row in rows):
        parts += _of_metric([row for row in rows if row["metric"] == metric])
    if notes:
        parts.append(element("ul", *(element("li", note) for note in notes), attributes={"class": "note"}))
    return parts


def _of_metric(rows: Sequence[Row]) -> list[Html]:
    metric = METRICS[rows[0]["metric"]]
    scale, digits = metric.scale, 1 if metric.scale == 100 else 3

    def shown(value: float, sign: bool = True) -> str:
        text = f"{scale * value:{'+' if sign and value else ''}.{digits}f}"
        return text.replace("-", "−")

    def ends(interval: Sequence[float], sign: bool = True) -> str:
        return f"{shown(interval[0], sign)} to {shown(interval[1], sign)}"

    def side(one: Row) -> Html:
        return around(shown(one["mean"], False), ends(one["interval"], False))

    lines = [
        [
            _name(row),
            str(row["n_subjects"]),
            str(row["n_images"]),
            side(row["first"]),
            side(row["second"]),
            around(element("strong", shown(row["difference"])), ends(row["interval"])),
            DASH if number(row["seeds_sd"]) is None else f"± {scale * row['seeds_sd']:.{digits}f}",
        ]
        for row in rows
    ]
    tests = [[_name(row), f"{shown(row['difference'])} ({ends(row['interval'])})", *tested(row, ends)] for row in rows]
    head = ("A − B", "subjects", "pictures", "A (95 % interval)", "B (95 % interval)",
            f"difference{', ' * bool(metric.unit)}{metric.unit} (95 % interval)", "SD over seeds")  # fmt: skip
    of_tests = ("A − B", "difference (95 % interval)", "paired t over subjects", "exact Wilcoxon over subjects",
                "signs over pictures")  # fmt: skip
    drawn = rows[0]["bootstrap"]
    over = " or ".join(dict.fromkeys(row["interval_over"] for row in rows))
    datasets = ", ".join(dict.fromkeys(row["dataset"] + " (SIMULATED brain)" * row["simulated"] for row in rows))
    chance = " or ".join(dict.fromkeys(shown(row["chance"], False) for row in rows))
    title = join(element("strong", f"Compared by {metric.title}."), f" {datasets}; chance {chance}. "
                 f"Means over seeds, then subjects. Intervals: percentile bootstrap "
                 f"over {over}, {drawn['resamples']:,} resamples, seed {drawn['seed']}.")  # fmt: skip
    family = count(max(row["permutation"]["family"] for row in rows), "comparison")
    tested_by = join(element("strong", "Tests of the difference."), f" p: two-sided, then by Holm over {family}.")
    told = "; ".join(f"{_words(row)}: {shown(row['difference'])} ({ends(row['interval'])})" for row in rows[:20])
    figure = inlined(draw_comparison(rows), f"Differences in {metric.title}. {told}.", "Differences, A minus B.")
    note = few(rows)
    place = element("p", "Numbers: ", code("results/compare.json"), ".", attributes={"class": "source"})
    parts = [figure, table(title, head, lines), place, table(tested_by, of_tests, tests)]
    return [*parts, *([paragraph(note, kind="note")] if note else [])]


def _words(row: Row) -> str:
    keys = [key for key in ("features", "encoder", "recipe") if row["first"][key] != row["second"][key]] or ["features"]
    return " − ".join(", ".join(row[side][key] for key in keys) for side in SIDES)


def _name(row: Row) -> Html:
    same = [row["first"][key] for key in ("features", "encoder") if row["first"][key] == row["second"][key]]
    return join(_words(row), element("br"), ", ".join(same))
