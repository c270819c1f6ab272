"""How every figure looks: one size of letters, colours that everyone can tell apart, saved whole as PNG, SVG or PDF."""

from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from alignvis import files
from alignvis.errors import AlignvisError

FONT = 8  # points, of all words
WIDTH = 7.0  # inches: two columns of a journal
DPI = 150
ALIGNED, PLAIN, QUIET = "#0072B2", "#D55E00", "#808080"  # Okabe and Ito: told apart by every kind of colour vision
COLOURS = (ALIGNED, PLAIN, "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
SEQUENTIAL, DIVERGING = "cividis", "PuOr_r"  # of maps: from nothing to much, and around zero
FORMATS = ("png", "svg", "pdf")
LOOK = {
    "font.size": FONT,
    "axes.titlesize": FONT,
    "axes.labelsize": FONT,
    "xtick.labelsize": FONT,
    "ytick.labelsize": FONT,
    "legend.fontsize": FONT,
    "figure.titlesize": FONT,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.parse_math": False,  # names are shown as they are, dollars and all
    "svg.fonttype": "none",
    "svg.hashsalt": "alignvis",  # the same figure gives the same bytes
    "pdf.fonttype": 42,
}


@contextmanager
def looks() -> Iterator[None]:
    """Draw and save inside this: matplotlib's settings are those of alignvis there, and are put back afterwards."""
    with matplotlib.rc_context(LOOK):
        yield


def new_figure(width: float = WIDTH, height: float = 3.0) -> Figure:
    """Make an empty figure, inches; no window is opened."""
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def say_simulated(figure: Figure, what: str = "brain") -> None:
    """Put it on the figure itself that what it shows was simulated."""
    figure.suptitle(f"SIMULATED {what}", color=PLAIN, weight="bold", fontsize=FONT)


def format_of(out: Path) -> str:
    """The format that a figure's name ends in; to be asked before minutes are spent on what it shows.

    Raises:
        AlignvisError: when that is none of `FORMATS`.
    """
    kind = out.suffix.lower().removeprefix(".")
    if kind not in FORMATS:
        raise AlignvisError(f"{out} is no name for a figure; let it end in .png, .svg or .pdf")
    return kind


def save(figure: Figure, out: Path) -> None:
    """Write a figure, whole or not at all, in the format that its name ends in.

    Raises:
        AlignvisError: as `format_of`.
    """
    kind = format_of(out)
    with looks(), files.whole_file(out) as partial:
        figure.savefig(partial, format=kind, metadata=_undated(kind))


def drawn(figure: Figure, kind: str = "svg") -> bytes:
    """A figure as the bytes of a file, to be put into a page."""
    held = BytesIO()
    with looks():
        figure.savefig(held, format=kind, metadata=_undated(kind))
    return held.getvalue()


def _undated(kind: str) -> dict[str, None]:
    """No date: the same figure gives the same bytes."""
    return {"png": {}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}[kind]
