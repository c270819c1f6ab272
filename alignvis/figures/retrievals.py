"""Pictures of results. No window is opened and no global state is touched: a figure is made, saved and gone."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.image import imread
from safetensors.numpy import load_file

from alignvis import files, store
from alignvis.runs import read_record

HIT, MISS = "#0072B2", "#B0B0B0"  # told apart by every kind of colour vision, and by the width of the frame
FONT = 9  # points


def show_retrievals(runs: Sequence[Path], images: Path, out: Path, *, queries: int = 6, top: int = 5) -> None:
    """Draw, for the first test pictures, what was shown and what each run took it for; the right answer is framed.

    Args:
        runs: scored runs on the same test images; one group of columns each.
        images: the image-set folder.
        out: PNG file to write.
        queries: rows; the first test images in the table's order, so nobody chose them.
        top: how many answers of each run, most similar first.
    """
    documents = [store.read_document(run / "similarity.safetensors", "similarity") for run in runs]
    similarities = [load_file(run / "similarity.safetensors")["similarity"] for run in runs]
    records = [read_record(run) for run in runs]
    ids = documents[0]["gallery"]
    queries, top = min(queries, len(ids)), min(top, len(ids))
    columns = 1 + len(runs) * (top + 1)  # an empty column before each run
    widths = [1.0] + [width for _ in runs for width in (0.25, *[1.0] * top)]
    figure = Figure(figsize=(sum(widths) * 0.95, queries * 0.95 + 0.8), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0, hspace=0)
    axes = figure.subplots(queries, columns, squeeze=False, width_ratios=widths)
    for cell in axes.flat:
        cell.axis("off")
    for row in range(queries):
        _picture(axes[row, 0], images / ids[row])
        for place, similarity in enumerate(similarities):
            best = np.argsort(-similarity[row], kind="stable")[:top]
            for rank, column in enumerate(best):
                _picture(
                    axes[row, 2 + place * (top + 1) + rank], images / ids[column], frame=HIT if column == row else MISS
                )
    axes[0, 0].set_title("shown", fontsize=FONT)
    for place, record in enumerate(records):
        middle = axes[0, 2 + place * (top + 1) + (top - 1) // 2]
        middle.set_title(f"decoded through {record['features']}, best first", fontsize=FONT)
    brain = "SIMULATED brain" if records[0]["simulated"] else records[0]["dataset"]
    about = f"{brain}, subject {records[0]['subject']}: the first {queries} of {len(ids)} test pictures"
    figure.suptitle(f"{about}; the right one has a thick frame", fontsize=FONT + 2)
    with files.whole_file(out) as partial:
        figure.savefig(partial, dpi=150, format="png")


def _picture(axes, path: Path, frame: str | None = None) -> None:
    pixels = imread(path)
    side = min(pixels.shape[:2])
    top, left = ((length - side) // 2 for length in pixels.shape[:2])
    axes.imshow(pixels[top : top + side, left : left + side])
    if frame:
        axes.axis("on")
        axes.set(xticks=[], yticks=[])
        for spine in axes.spines.values():
            spine.set(color=frame, linewidth=3.5 if frame == HIT else 0.8)
