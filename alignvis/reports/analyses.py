"""What was found without a decoder: similarity analysis and encoding models, if they are of these recordings."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from alignvis import files
from alignvis.errors import AlignvisError
from alignvis.reports.entries import Entry, command, missing
from alignvis.reports.html import Html, code, element, join, paragraph, picture, table
from alignvis.reports.numbers import DASH, number, numbers, pair, plain, several

KINDS = {
    "rsa": ("Similarity analysis", "rsa", "How well the dissimilarities of embeddings follow those of the brain, "
                                          "over time."),
    "encoding": ("Encoding model", "encode", "How well responses are predicted from embeddings: the way back."),
}  # fmt: skip
SIGNATURE, LARGEST = b"\x89PNG\r\n\x1a\n", 3_000_000  # of a figure that is put into the page, bytes
SHAPE = {"dataset": str, "subjects": [int], "simulated": bool, "n": int, "responses": [{"fingerprint": str}],
         "features": [{"features": str, "aligned": bool, "peak": dict}]}  # fmt: skip


def analyses(entries: Sequence[Entry], root: Path) -> list[Html]:
    """Results in ``ROOT/results`` that are of the recordings of these runs, with their figures."""
    ours = {entry.record["inputs"]["queries"]["fingerprint"] for entry in entries}
    ours |= {entry.scores["queries_fingerprint"] for entry in entries if entry.scores}
    parts: list[Html] = []
    for kind, (title, verb, what) in KINDS.items():
        parts.append(element("h3", title))
        found, others = [], []
        for path in sorted((root / "results").glob(f"{kind}_*.json")):
            result, why = _read(path)
            if result is None:
                others.append(why)
            elif {one["fingerprint"] for one in result["responses"]} & ours:
                found.append((path, result))
        if not found:
            subjects = several([entry.record["subject"] for entry in entries])
            line = command(root, verb, "--subject", subjects, "--dataset", entries[0].record["dataset"])
            parts.append(missing("There is none of these recordings.", line))
        parts += [paragraph(why, kind="missing") for why in others]
        for path, result in found:
            parts += _shown(path, result, what)
    return parts


def _read(path: Path) -> tuple[dict[str, Any] | None, str]:
    try:
        result = files.read_json(path)
    except AlignvisError as error:
        return None, str(error)
    return (result, "") if files.fits(result, SHAPE) else (None, f"{path} does not hold a result that can be shown")


def _shown(path: Path, result: dict[str, Any], what: str) -> list[Html]:
    rows = [_row(one) for one in result["features"]]
    head = ("embedding", "highest correlation (95 % interval)", "at, ms", "p, corrected for all times", "from, ms",
            "noise ceiling there")  # fmt: skip
    people = several(result["subjects"])
    simulated = " SIMULATED brain." if result["simulated"] else ""
    title = join(element("strong", f"{result['dataset']}, subjects {people}."), f"{simulated} {result['n']} test "
        "pictures. "
                 "The highest over times and its interval are optimistic, as the time was chosen by it.")  # fmt: skip
    told = "; ".join(f"{one['features']}: highest {plain(one['peak'].get('r'), 2)}" for one in result["features"][:20])
    figure = _figure(path.with_suffix(".png"), f"{what} {told}.", join(what, simulated))
    differing = [_difference(one) for one in result.get("differences", []) if isinstance(one, dict)]
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


def _row(one: dict[str, Any]) -> list[object]:
    peak = one["peak"]
    mark, kind = ("●", "aligned-mark") if one["aligned"] else ("○", "plain-mark")
    sign = element("span", mark, attributes={"class": kind, "aria-hidden": "true"})
    ends = pair(peak.get("interval"))
    around = f" ({plain(ends[0], 2)} to {plain(ends[1], 2)})" if ends else ""
    return [join(sign, "\u00a0", one["features"]), f"{plain(peak.get('r'), 2)}{around}", _ms(peak.get("time")),
            plain(peak.get("p"), 2), _ms(peak.get("first_significant")), _ceiling(peak.get("ceiling"))]  # fmt: skip


def _difference(one: dict[str, Any]) -> Html:
    mean = one.get("mean") if isinstance(one.get("mean"), dict) else {}
    ends, beyond = pair(mean.get("interval")), one.get("excludes_zero")
    times = sum(value is True for value in beyond) if isinstance(beyond, list) else 0
    around = f" (95 % interval {plain(ends[0], 2)} to {plain(ends[1], 2)})" if ends else ""
    return element("li", f"{one.get('aligned')} minus {one.get('plain')}: {plain(mean.get('r'), 2)} on average "
                         "over times"
                   f"{around}; the band for all times at once excludes zero at {times} times.")  # fmt: skip


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
