"""Maps: where, when and in which band the pictures were found; and what single pictures were taken for."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from alignvis.errors import AlignvisError
from alignvis.explanations.answers import most_kept, most_lost
from alignvis.explanations.explain import read_explanation
from alignvis.figures.maps import draw_explanation
from alignvis.figures.retrievals import draw_retrievals
from alignvis.reports.drawing import inlined
from alignvis.reports.entries import Entry, cited, command, labelled, missing, source
from alignvis.reports.html import Html, around, element, join, paragraph, table
from alignvis.reports.numbers import DASH, count, interval, number, numbers, percent, plain
from alignvis.showing import image_folder, looking, show
from alignvis.twins import by_kind, twin_run

MOST_FIGURES = 4  # of retrieved pictures, on a page
SHOWN = 2  # best, median and worst pictures, of each


def explanations(entries: Sequence[Entry], root: Path) -> list[Html]:
    """What `alignvis explain` found, a figure and a table for each kind of runs."""
    found: dict[Path, tuple[Entry, dict[str, Any]]] = {}
    parts: list[Html] = []
    for entry in entries:
        if (entry.path / "explain.json").is_file():
            try:
                found[entry.path] = (entry, read_explanation(entry.path)[0])
            except AlignvisError as error:
                parts.append(paragraph(str(error), kind="missing"))
    bare = [entry for entry in entries if not (entry.path / "explain.json").is_file()]
    if bare:
        what = "No run was explained yet." if not found else f"Not explained yet: {count(len(bare), 'run')} "
        told = join(what, cited(bare), ".") if found else what
        parts.append(missing(told, command(root, "explain", *(entry.name for entry in bare[:3]))))
    for aligned, plain_runs in by_kind(list(found)):
        these = sorted((found[run] for run in (*aligned, *plain_runs)), key=lambda one: one[0].number)
        try:
            figure = draw_explanation(aligned, plain_runs)
        except AlignvisError as error:
            parts.append(paragraph(str(error), kind="missing"))
            continue
        told = "; ".join(
            f"run {entry.number}, {entry.record['features']}: {_told(about)}" for entry, about in these[:20]
        )
        caption = join("What these runs lose without a window of time, a region or a channel, and keep with it "
                       "alone; where "
                       "there is Grad-CAM, what their last convolution answers to. Runs ",
                       cited([entry for entry, _ in these]), ".")  # fmt: skip
        parts += [inlined(figure, f"Explanations. {told}.", caption), _table(these),
                  source("explain.json", [entry for entry, _ in these])]  # fmt: skip
    return parts


def _told(found: dict[str, Any]) -> str:
    parts = (("window", _ms, found["occlusion"]["windows"]), ("region", _name, found["occlusion"]["regions"]))
    said = [f"lost by a {part}: {_said(rows, what)}" for part, what, rows in parts if rows]
    early = number((found["gradcam"] or {}).get("before_300ms"))
    if early is not None:
        said.append(f"Grad-CAM before 300 ms {percent(early)}")
    return ", ".join(said) or "nothing to tell"


def _table(these: Sequence[tuple[Entry, dict[str, Any]]]) -> Html:
    rows: list[list[object]] = []
    for entry, found in these:
        gradcam = found["gradcam"] or {}
        random = numbers(found["randomised"].get("correlation"))
        rows.append([
            labelled(entry), str(entry.record["subject"]),
            _lost(found["occlusion"]["windows"], _ms), _lost(found["occlusion"]["regions"], _name),
            _kept(kept) if (kept := most_kept(found["kept"])) else DASH,
            percent(gradcam.get("before_300ms"), unit=False),
            plain(sum(random) / len(random), 2) if random else DASH, cited([entry]),
        ])  # fmt: skip
    head = ("embedding and brain encoder", "subject", "most lost by a window, points of top-1", "most lost by a region",
            "most kept by one window, %", "Grad-CAM before 300 ms, %", "correlation with maps of random weights",
            "run")  # fmt: skip
    title = join(element("strong", "Explanations in numbers."), " In brackets 95 % intervals over pictures, which take "
                 "no account of choosing the largest of several. The last but one column should be low: a map that "
                 "random weights give too says nothing about what was learned.")  # fmt: skip
    return table(title, head, rows, names=1)


def _kept(row: dict[str, Any]) -> Html:
    return join(around(percent(row["top1"], unit=False), interval(row["top1_interval"])), f" with {_ms(row)}")


def _ms(row: dict[str, Any]) -> str:
    return f"{1000 * row['start']:.0f}–{1000 * row['end']:.0f} ms"


def _name(row: dict[str, Any]) -> str:
    return row["name"]


def _lost(rows: Sequence[dict[str, Any]], what: Callable[[dict[str, Any]], str]) -> Html:
    """What is lost without the part that most is lost without, with its interval."""
    worst = most_lost(rows)
    if worst is None:
        return join("nothing" if rows else DASH)
    lost = around(percent(worst["drop"], unit=False), interval(worst["drop_interval"]))
    return join(lost, f" without {what(worst)}")


def _said(rows: Sequence[dict[str, Any]], what: Callable[[dict[str, Any]], str]) -> str:
    """The same in plain words."""
    worst = most_lost(rows)
    if worst is None:
        return "nothing"
    ends = interval(worst["drop_interval"])
    return f"{percent(worst['drop'], unit=False)} ({ends}) points without {what(worst)}"


def retrieved(entries: Sequence[Entry], root: Path) -> list[Html]:
    """Best, median and worst test pictures of some runs, beside their twins."""
    scored = {entry.path.resolve(): entry for entry in entries if entry.scores}
    done: set[tuple[Any, ...]] = set()
    pairs: list[tuple[Entry, Entry | None]] = []
    # the first subject and seed of each embedding, with its twin: nobody chose them
    for entry in sorted(
        scored.values(), key=lambda one: (not one.record["aligned"], one.record["subject"], one.number)
    ):
        if _kind(entry) in done:
            continue
        twin = twin_run(entry.path)
        other = scored.get(twin.resolve()) if twin else None
        pairs.append((entry, other))
        done |= {_kind(one) for one in (entry, other) if one}
    parts = [part for entry, other in pairs[:MOST_FIGURES] for part in _pictures(entry, other, root)]
    if len(pairs) > MOST_FIGURES:
        names = [entry.name for entry, _ in pairs[MOST_FIGURES:]]
        words = f"{count(len(names), 'more embedding')} left out, to keep the page small."
        parts.append(missing(words, command(root, "show", names[0])))
    return parts


def _kind(entry: Entry) -> tuple[Any, ...]:
    record = entry.record
    return (record["dataset"], record["protocol"], record["encoder"], record["recipe"]["name"], record["features"])


def _pictures(entry: Entry, other: Entry | None, root: Path) -> list[Html]:
    used = [entry, *([other] if other else [])]
    try:
        showing = show([one.path for one in used], best=SHOWN, median=SHOWN, worst=SHOWN)
        with looking(image_folder(root, entry.path)) as look:
            figure = draw_retrievals(showing, look)
    except AlignvisError as error:
        return [missing(join("Pictures of run ", cited([entry]), f" cannot be shown: {error}."),
                        command(root, "show", entry.name))]  # fmt: skip
    told = "; ".join(
        f"{row.why} {row.image}: right picture on rank {' and '.join(str(answer.rank) for answer in row.answers)}"
        for row in showing.rows
    )
    beside = f", beside its twin {other.record['features']}" if other else ""
    caption = join(f"Test pictures that {entry.record['features']} ranked best, by the middle and worst{beside}; "
                   "subject "
                   f"{entry.record['subject']}, seed {entry.record['seed']}. They were chosen by rank, not by "
                   "hand. Runs ",
                   cited(used), ".")  # fmt: skip
    return [
        inlined(figure, f"Retrieved pictures. {told}.", caption, photographs=True),
        source("similarity.safetensors", used),
    ]
