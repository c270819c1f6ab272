"""What was found without a decoder: similarity analysis and encoding models, if they are of these recordings."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any

from alignvis import files
from alignvis.errors import AlignvisError
from alignvis.reports.entries import Entry, anew, command, missing
from alignvis.reports.html import Html, around, breakable, code, element, join, paragraph, picture, table
from alignvis.reports.numbers import DASH, count, number, numbers, pair, plain
from alignvis.representations.encoding import ALPHAS, FOLDS
from alignvis.representations.rsa import METRICS
from alignvis.representations.study import result_name
from alignvis.spans import spans

KINDS = {
    "rsa": ("Similarity analysis", "rsa", "How well the dissimilarities of embeddings follow those of the brain, "
                                          "over time."),
    "encoding": ("Encoding model", "encode", "How well responses are predicted from embeddings: the way back."),
}  # fmt: skip
SIGNATURE, LARGEST = b"\x89PNG\r\n\x1a\n", 3_000_000  # of a figure that is put into the page, bytes
MOST = 999_999  # of the numbers that subjects have on the command line
TABLE = {"path": str, "fingerprint": str}
ASKED = {"target": str, "channels": str, "window": str, "draws": int, "permutations": int, "seed": int}
OF_KIND: dict[str, dict[str, Any]] = {
    "rsa": {"metric": str, "embedding_metric": str},
    "encoding": {"alphas": [(int, float)], "folds": int},
}
SHAPE = {"analysis": str, "dataset": str, "subjects": [int], "simulated": bool, "n": int, "drawn": [str],
         "responses": [TABLE | {"subject": int}], "versions": dict,
         "features": [TABLE | {"features": str, "aligned": bool, "peak": (dict, NoneType)}]} | ASKED  # fmt: skip
SEVERAL = ("embedding", "highest correlation (95 % interval)", "at, ms", "p, corrected for all times", "from, ms",
           "noise ceiling there")  # fmt: skip
ONCE, OF_TIMES = ("embedding", "correlation (95 % interval)", "p", "noise ceiling"), (2, 4)  # of responses of one time
# what the command line takes of these, both ends; all else it takes as it is
TAKEN = {"draws": (100, 100_000), "permutations": (100, 100_000), "seed": (0, 2**31 - 1)}


@dataclass(frozen=True)
class Analysis:
    """A result that stands on the page.

    Attributes:
        kind: of `KINDS`.
        result: as the file at ``path`` has it, with all of `SHAPE`.
    """

    kind: str
    path: Path
    result: dict[str, Any]


def read_analyses(entries: Sequence[Entry], root: Path) -> tuple[list[Analysis], dict[str, list[str]], list[Path]]:
    """Read the results in ``ROOT/results`` that are of the recordings of these runs.

    Returns:
        These, for each kind sentences on files that hold no result, and these files.
    """
    ours = {entry.record["inputs"]["queries"]["fingerprint"] for entry in entries}
    ours |= {entry.scores["queries_fingerprint"] for entry in entries if entry.scores}
    found, notes, unread = [], {kind: [] for kind in KINDS}, []
    for kind in KINDS:
        for path in sorted((root / "results").glob(f"{kind}_*.json")):
            result, why = _read(kind, path)
            if result is None:
                notes[kind].append(anew(why, _again(kind, path, entries, root)))
                unread.append(path)
            elif {one["fingerprint"] for one in result["responses"]} & ours:
                found.append(Analysis(kind, path, result))
    return found, notes, unread


def _read(kind: str, path: Path) -> tuple[dict[str, Any] | None, str]:
    try:
        result = files.read_json(path)
    except AlignvisError as error:
        return None, str(error)
    if not files.fits(result, SHAPE | OF_KIND[kind]) or result["analysis"] != kind or not _whole(result):
        return None, f"{path} does not hold a result that can be shown"
    return result, ""


def _again(kind: str, path: Path, entries: Sequence[Entry], root: Path) -> str:
    """The command that replaces a file that cannot be read: of whom its name says, or else the runs do."""
    named = re.fullmatch(rf"{kind}_(.+)_sub-(\d{{2,6}}(?:-\d{{2,6}})*)(?:_(.+))?", path.stem, re.ASCII)
    if named:
        subjects, folder = [int(number) for number in named[2].split("-")], named[1]
    else:
        subjects, folder = sorted({entry.record["subject"] for entry in entries}), entries[0].record["dataset"]
    words = [KINDS[kind][1], "--subject", _typed(subjects), "--dataset", folder]
    words += ["--target", named[3]] if named and named[3] else []
    words += [] if named else ["--out", str(path.with_suffix(".png"))]
    return command(root, *words, "--overwrite")


def _typed(subjects: Sequence[int]) -> str:
    """Subjects in their order, as they are typed."""
    return spans(subjects) if list(subjects) == sorted(subjects) else ",".join(map(str, subjects))


def _whole(result: Mapping[str, Any]) -> bool:
    """Whether it is of somebody, and of whom its tables are."""
    subjects = result["subjects"]
    named = subjects == [one["subject"] for one in result["responses"]] and len(set(subjects)) == len(subjects)
    return bool(subjects and result["features"]) and named and all(0 <= subject <= MOST for subject in subjects)


def command_of(analysis: Analysis, root: Path) -> str | None:
    """The command that makes a result again, every choice stated; None where the command line has no such choice."""
    kind, result = analysis.kind, analysis.result
    asked = [*ASKED, *(("metric", "embedding_metric") if kind == "rsa" else ())]
    usual = [low <= result[key] <= high for key, (low, high) in TAKEN.items()]
    if kind == "rsa":
        usual += [result[key] in METRICS for key in ("metric", "embedding_metric")]
    else:
        usual += [result["alphas"] == list(ALPHAS), result["folds"] == FOLDS]
    if not all(usual):
        return None
    subjects = result["subjects"]
    folder = Path(result["responses"][0]["path"]).parent.name or result["dataset"]
    words = [KINDS[kind][1], "--subject", _typed(subjects), "--dataset", folder]
    for name in dict.fromkeys(one["features"] for one in result["features"]):
        words += ["--features", name]
    for key in asked:
        words += [f"--{key.replace('_', '-')}", str(result[key])]
    if analysis.path.stem != result_name(kind, folder, subjects, result["target"]):
        endings = [end for end in (".png", ".svg", ".pdf") if analysis.path.with_suffix(end).is_file()]
        words += ["--out", str(analysis.path.with_suffix((endings or [".png"])[0]))]
    return command(root, *words)


def analyses(
    entries: Sequence[Entry], root: Path, found: Sequence[Analysis], notes: Mapping[str, Sequence[str]]
) -> list[Html]:
    """Every result with its figure, and what could not be read.

    Args:
        found, notes: of `read_analyses`.
    """
    parts: list[Html] = []
    for kind, (title, verb, what) in KINDS.items():
        parts.append(element("h3", title))
        mine = [one for one in found if one.kind == kind]
        if not mine:
            subjects = spans([entry.record["subject"] for entry in entries])
            line = command(root, verb, "--subject", subjects, "--dataset", entries[0].record["dataset"])
            parts.append(missing("There is none of these recordings.", line))
        parts += [paragraph(why, kind="missing") for why in notes[kind]]
        for one in mine:
            parts += _shown(one.path, one.result, what)
    return parts


def _shown(path: Path, result: dict[str, Any], what: str) -> list[Html]:
    once = _once(result)
    rows = [[cell for place, cell in enumerate(_row(one)) if not once or place not in OF_TIMES]
            for one in result["features"]]  # fmt: skip
    head = ONCE if once else SEVERAL
    people = spans(result["subjects"])
    simulated = " SIMULATED brain." if result["simulated"] else ""
    title = join(
        element("strong", f"{result['dataset']}, subject{'s' * (len(result['subjects']) > 1)} {people}."),
        f"{simulated} {result['n']:,} test pictures. Intervals: bootstrap over {' and '.join(result['drawn'])}, "
        f"{result['draws']:,} draws.",
        "" if once else " The highest over times and its interval are optimistic, as the time was chosen by it.",
    )
    highest = "" if once else "highest "
    told = "; ".join(f"{one['features']}: {highest}{plain(_peak(one).get('r'), 2)}" for one in result["features"][:20])
    what = what.replace(", over time", "") if once else what
    figure = _figure(path.with_suffix(".png"), f"{what} {told}.", join(what, simulated))
    differing = [_difference(one, once) for one in result.get("differences", []) if isinstance(one, dict)]
    place = element("p", "Numbers: ", code(f"results/{path.name}"), ".", attributes={"class": "source"})
    return [figure, table(title, head, rows), *([element("ul", *differing)] if differing else []), place]


def _figure(path: Path, alt: str, caption: Html) -> Html:
    try:
        data = path.read_bytes() if path.is_file() and path.stat().st_size <= LARGEST else b""
    except OSError:
        data = b""
    if not data.startswith(SIGNATURE):
        return paragraph(f"Its figure, {path.name}, is not there as a PNG below 3 MB.", kind="missing")
    return picture(data, "png", alt, caption)


def _peak(one: dict[str, Any]) -> dict[str, Any]:
    """The highest correlation of an embedding; of none that is known nothing is."""
    return one["peak"] or {}


def _once(result: dict[str, Any]) -> bool:
    """Whether responses have one time, as those of fMRI: nothing is the highest of several then."""
    times = result.get("times")
    return isinstance(times, list) and len(times) == 1


def _row(one: dict[str, Any]) -> list[object]:
    peak = _peak(one)
    mark, kind = ("●", "aligned-mark") if one["aligned"] else ("○", "plain-mark")
    sign = element("span", mark, attributes={"class": kind, "aria-hidden": "true"})
    ends = pair(peak.get("interval"))
    value = plain(peak.get("r"), 2)
    shown = around(value, f"{plain(ends[0], 2)} to {plain(ends[1], 2)}") if ends else value
    return [join(sign, "\u00a0", breakable(one["features"])), shown, _ms(peak.get("time")),
            plain(peak.get("p"), 2), _ms(peak.get("first_significant")), _ceiling(peak.get("ceiling"))]  # fmt: skip


def _difference(one: dict[str, Any], once: bool) -> Html:
    mean = one.get("mean") if isinstance(one.get("mean"), dict) else {}
    ends, beyond = pair(mean.get("interval")), one.get("excludes_zero")
    times = sum(value is True for value in beyond) if isinstance(beyond, list) else 0
    within = f" (95 % interval {plain(ends[0], 2)} to {plain(ends[1], 2)})" if ends else ""
    if once:
        return element("li", f"{one.get('aligned')} minus {one.get('plain')}: {plain(mean.get('r'), 2)}{within}.")
    return element("li", f"{one.get('aligned')} minus {one.get('plain')}: {plain(mean.get('r'), 2)} on average "
                         "over times"
                   f"{within}; the band for all times at once excludes zero at {count(times, 'time')}.")  # fmt: skip


def _ms(value: Any) -> str:
    seconds = number(value)
    return DASH if seconds is None else f"{1000 * seconds:.0f}"


def _ceiling(value: Any) -> str:
    if isinstance(value, dict):
        known = numbers([part for part in (value.get("lower"), value.get("upper")) if part is not None])
        if known:
            return " to ".join(plain(end, 2) for end in known)
        return plain(value.get("repetitions"), 2)
    return plain(value, 2)
