"""Pictures that were shown, and the pictures that each run took them for."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.text import Text

from alignvis.figures.style import ALIGNED, DPI, FONT, PLAIN, QUIET, WIDTH, looks, new_figure, save
from alignvis.figures.words import LETTER
from alignvis.progress import Progress, silent
from alignvis.showing import BEST, CHOSEN, FIRST, MEDIAN, WORST, Answer, Decoded, Look, Row, Showing, looking, show
from alignvis.table import repetitions

HIT, MISS = ALIGNED, "#B0B0B0"  # told apart by every kind of colour vision, and by the width of the frame
SIMULATED = "SIMULATED brain"
THICK, THIN = 3.0, 0.6  # points
SHARP = 2 * DPI  # pixels an inch that a picture is given; what is saved has `DPI`
LAST = 0x0590  # letters before this are Latin, Greek, Cyrillic and Armenian
LINE, EDGE, RANK = 0.145, 0.08, 0.36  # inches: of a line of words, around the figure, of the column with the rank
SMALLEST, LARGEST = 0.46, 0.8  # inches: of a picture, so that a similarity fits under it


@dataclass(frozen=True)
class _Plan:
    """Where things stand, inches from the left and from the top."""

    side: float
    width: float
    height: float
    groups: list[float]
    head: list[list[str]]
    title: list[str]
    caption: list[str]

    @property
    def top(self) -> float:
        """Where the first row begins."""
        return EDGE + LINE * (len(self.title) + max(map(len, self.head)) + 0.9)

    @property
    def row(self) -> float:
        """From one row to the next: a line with the picture's id, the pictures, a line of similarities."""
        return self.side + 2.4 * LINE


def show_retrievals(runs: Sequence[Path], images: Path, out: Path, *, queries: int = 6, top: int = 5) -> None:
    """Draw, for the first test pictures, what was shown and what each run took it for; the right answer is framed.

    Args:
        runs: scored runs on the same test images; one group of columns each.
        images: the image-set folder, or NSD's file of pictures.
        out: file to write, PNG, SVG or PDF.
        queries: rows; the first test images in the table's order, so nobody chose them.
        top: how many answers of each run, most similar first.
    """
    with looking(images) as look:
        figure = draw_retrievals(show(runs, first=queries, top=top), look)
    save(figure, out)


def draw_retrievals(showing: Showing, look: Look, progress: Progress = silent) -> Figure:
    """Draw a row a test picture: what was shown, and what was most similar to the response to it in each run.

    Under each picture stands its similarity, before them the rank of the right picture, which has a thick frame.
    Pictures are embedded with no more pixels than can be seen at the size at which they are shown.

    Args:
        showing: of `alignvis.showing.show`.
        look: of `alignvis.showing.looking`.

    Raises:
        AlignvisError: when a picture is missing or broken.
    """
    plan = _plan(showing)
    with looks():
        figure = new_figure(plan.width, plan.height)
        figure.set_layout_engine("none")
        _words(figure, showing, plan)
        for place, row in enumerate(showing.rows):
            why = _why(row, place)
            _row(figure, plan, plan.top + place * plan.row, why, row, look)
            progress(place + 1, len(showing.rows), "drawing pictures")
    return figure


def _plan(showing: Showing) -> _Plan:
    count, top = len(showing.runs), len(showing.rows[0].answers[0].nearest)
    room = WIDTH - 2 * EDGE - count * RANK
    side = min(max(room / (1 + count * top), SMALLEST), LARGEST)
    groups = [EDGE + side + place * (RANK + top * side) for place in range(count)]
    width = groups[-1] + RANK + top * side + EDGE
    head = [_head(one, int(top * side / (1.08 * LETTER))) for one in showing.runs]
    letters = int((width - 2 * EDGE) / LETTER)
    title, caption = textwrap.wrap(_title(showing), letters), textwrap.wrap(_caption(showing), letters)
    if any(one.record["simulated"] for one in showing.runs):
        title.insert(0, SIMULATED)
    blank = _Plan(side, width, 0.0, groups, head, title, caption)
    height = blank.top + len(showing.rows) * blank.row + LINE * (len(caption) + 0.5) + EDGE
    return _Plan(side, width, height, groups, head, title, caption)


def _head(one: Decoded, letters: int) -> list[str]:
    low, high = one.scores["top1_interval"]
    kind = "aligned" if one.record["aligned"] else "not aligned"
    score = f"top-1 {100 * one.scores['top1']:.1f} % ({100 * low:.1f} to {100 * high:.1f})"
    return [*textwrap.wrap(one.label, max(letters, 10)), *textwrap.wrap(f"{kind}; {score}", max(letters, 10))]


def _title(showing: Showing) -> str:
    record, scores = showing.runs[0].record, showing.runs[0].scores
    brain = f"{record['dataset']}, subject {record['subject']}, {record['encoder']}, seed {record['seed']}"
    return (
        f"{brain}: {len(showing.rows)} of {scores['n']} test responses, each {repetitions(scores)}, "
        f"among {scores['gallery']} pictures"
    )


def _caption(showing: Showing) -> str:
    whys = {row.why for row in showing.rows}
    if whys & {BEST, MEDIAN, WORST}:
        by = f" in {showing.runs[0].label}" if len(showing.runs) > 1 else ""
        chosen = f"Rows: best, median and worst by the rank of the right picture{by}; equal ranks by margin, then id."
    elif FIRST in whys:
        chosen = "Rows: the first test pictures of the table; nobody chose them."
    else:
        chosen = "Rows: chosen by hand."
    return (
        f"Left: the picture that was shown. Then the most similar pictures, best first; under each its "
        f"{_unit(showing.runs)}. Thick frame: the right one. Rank: its place among all; ties count against it. {chosen}"
    )


def _unit(runs: Sequence[Decoded]) -> str:
    recipes: list[dict[str, Any]] = [one.record["recipe"] for one in runs]
    if any(recipe.get("sides", "both") != "both" for recipe in recipes):
        return "similarity to the response (a scalar product, no unit)"
    if all(recipe.get("centre", True) for recipe in recipes):
        return "similarity to the response (correlation, -1 to 1)"
    return "similarity to the response (cosine, -1 to 1)"


def _words(figure: Figure, showing: Showing, plan: _Plan) -> None:
    for place, line in enumerate(plan.title):
        look = {"color": PLAIN, "weight": "bold"} if line == SIMULATED else {}
        _say(figure, plan, EDGE, EDGE + LINE * place, line, **look)
    below = plan.top - LINE * 0.35
    for one, left, lines in zip(showing.runs, plan.groups, plan.head, strict=True):
        _say(figure, plan, left + RANK / 2, below, "rank", ha="center", va="bottom", color=QUIET)
        for place, line in enumerate(reversed(lines)):
            colour = ALIGNED if one.record["aligned"] else PLAIN
            _say(figure, plan, left + RANK, below - LINE * place, line, va="bottom", color=colour)
    _say(figure, plan, EDGE, below, "shown", va="bottom", color=QUIET)
    start = plan.top + len(showing.rows) * plan.row
    for place, line in enumerate(plan.caption):
        _say(figure, plan, EDGE, start + LINE * (place + 0.3), line, color=QUIET)


def _row(figure: Figure, plan: _Plan, top: float, why: str, row: Row, look: Look) -> None:
    letters = int((plan.width - 2 * EDGE) / LETTER) - len(why) - 2
    image = _known(row.image if len(row.image) <= letters else f"...{row.image[3 - letters :]}")
    line = _say(figure, plan, EDGE, top + 0.1 * LINE, f"{why}: {image}")
    while line.get_window_extent().x1 > figure.bbox.x1 and len(image) > 4:  # of letters wider than most
        image = f"...{image[4:].removeprefix('..')}"
        line.set_text(f"{why}: {image}")
    pictures = top + 1.2 * LINE
    _picture(figure, plan, EDGE, pictures, row.image, look, None)
    for left, answer in zip(plan.groups, row.answers, strict=True):
        _answers(figure, plan, left, pictures, row.image, answer, look)


def _answers(figure: Figure, plan: _Plan, left: float, top: float, image: str, answer: Answer, look: Look) -> None:
    weight = "bold" if answer.rank == 1 else "normal"
    _say(figure, plan, left + RANK / 2, top + plan.side / 2, str(answer.rank), ha="center", va="center", weight=weight)
    for place, (near, similarity) in enumerate(zip(answer.nearest, answer.similarities, strict=True)):
        x = left + RANK + place * plan.side
        _picture(figure, plan, x, top, near, look, near == image)
        middle = x + plan.side / 2
        _say(figure, plan, middle, top + plan.side + 0.12 * LINE, _number(similarity), ha="center", color="#404040")


def _why(row: Row, place: int) -> str:
    """What a row is, in words that are not taken for an answer's."""
    if row.why == FIRST:
        count = place + 1
        ending = "th" if count % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(count % 10, "th")
        return f"{count}{ending} in the table"
    if row.why in (BEST, MEDIAN, WORST):
        return f"{row.why} rank"
    return "chosen by hand" if row.why == CHOSEN else row.why


def _known(text: str) -> str:
    """A text with a question mark for each letter that matplotlib's own font may lack."""
    return "".join(letter if letter.isprintable() and ord(letter) < LAST else "?" for letter in text)


def _number(similarity: float) -> str:
    """Two decimals where they say something, in as few letters as fit under a picture."""
    return f"{similarity:.2f}" if abs(similarity) < 100 else f"{similarity:.0e}"


def _picture(figure: Figure, plan: _Plan, left: float, top: float, image: str, look: Look, hit: bool | None) -> None:
    inner = 0.94 * plan.side  # room between neighbours
    bottom = plan.height - top - plan.side + (plan.side - inner) / 2
    box = (left + (plan.side - inner) / 2) / plan.width, bottom / plan.height, inner / plan.width, inner / plan.height
    axes = figure.add_axes(box)
    axes.imshow(look(image, round(inner * SHARP)))
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set(visible=hit is not None, color=HIT if hit else MISS, linewidth=THICK if hit else THIN)


def _say(figure: Figure, plan: _Plan, x: float, y: float, text: str, **look: Any) -> Text:
    about = {"ha": "left", "va": "top", "fontsize": FONT, **look}
    return figure.text(x / plan.width, 1 - y / plan.height, text, parse_math=False, **about)
