"""Every row here is made up: the numbers say nothing about any encoder."""

from itertools import combinations

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.text import Annotation, Text

from alignvis.errors import AlignvisError
from alignvis.figures.alignment import _figure, draw_alignment

PAIRS = [
    "dreamsim_synclr_vitb16",
    "dreamsim_open_clip_vitb32",
    "gLocal_openclip_vit-l-14_laion2b_s32b_b82k",
    "gLocal_clip_vit-l-14",
    "gLocal_dino-vit-base-p16",
    "harmonization_vitb16",
]


def row(encoder: str, x: float, y: float | None, *, aligned: bool = False, twin: str | None = None, **changes) -> dict:
    """One made-up row, in the form of `score_tables`."""
    kind = {"dataset": "things-eeg2", "simulated": False, "brain": "nice", "recipe": "alignvis", "pool": ()}
    kind |= {"validation": "concept", "protocol": "within", "n": 200, "gallery": 200, "repetitions": 80}
    kind |= {"chance": 0.005}
    mean = {"top1": y, "interval": y and [y - 0.04, y + 0.04], "interval_over": "subjects", "runs": 30}
    mean |= {"subjects": list(range(1, 11)), "seeds": [0, 1, 2]}
    choices = {"value": x, "n": 2171, "interval": [x - 0.02, x + 0.02]}
    correlation = {"value": 2 * (x - 1 / 3), "interval": [2 * (x - 1 / 3) - 0.05, 2 * (x - 1 / 3) + 0.05]}
    return {
        "encoder": encoder,
        "target": "embeddings",
        "image_set": "things-eeg2",
        "aligned": aligned,
        "twin": twin,
        "concepts": 1854,
        "in_sample": encoder.startswith("gLocal") and aligned,
        "simulated": False,
        "people": {"file": "made-up.txt", "n": 2171, "of": 2171, "cosine": choices},
        "surrogate": {"cosine": correlation},
        "retrieval": [] if y is None else [kind | mean],
        **changes,
    }


def pairs(count: int, seed: int = 0) -> list[dict]:
    rng = np.random.default_rng(seed)
    rows = []
    for name in PAIRS[:count]:
        x, y = rng.uniform(0.38, 0.5), rng.uniform(0.1, 0.25)
        rows.append(row(f"{name}_noalign", x, y, twin=name))
        rows.append(row(name, x + 0.06, y + rng.uniform(0, 0.1), aligned=True, twin=f"{name}_noalign"))
    return rows


def names(figure: Figure) -> list[Text]:
    return figure.findobj(lambda artist: artist.get_gid() == "name")


def words(figure: Figure) -> str:
    return " ".join(" ".join(text.get_text() for text in figure.findobj(Text)).split())


def fillings(figure: Figure) -> list[tuple[float, bool]]:
    """Where each marker stands, and whether it is filled."""
    lines = [line for line in figure.axes[0].lines if line.get_marker() == "o"]
    return [(line.get_xdata()[0], line.get_markerfacecolor() != "white") for line in lines]


@pytest.mark.parametrize("seed", range(4))
def test_no_name_covers_another_or_leaves_the_picture(seed):
    rows = pairs(6, seed)
    for each in rows[::2]:
        each["encoder"] += "_other"  # so that twins of other names are named too
        rows[rows.index(each) + 1]["twin"] = each["encoder"]
    figure = _figure(rows)
    boxes = [text.get_window_extent() for text in names(figure)]
    whole = figure.axes[0].get_window_extent()
    assert len(boxes) == 12
    for box in boxes:
        assert whole.x0 - 1 < box.x0 and box.x1 < whole.x1 + 1 and whole.y0 - 1 < box.y0 and box.y1 < whole.y1 + 1
    for one, other in combinations(boxes, 2):
        assert not one.overlaps(other)


def test_aligned_ones_are_filled_and_arrows_lead_to_them():
    rows = [*pairs(2), row("alone", 0.4, 0.1), row("aligned-alone", 0.42, 0.15, aligned=True, twin="not here")]
    figure = _figure(rows)
    assert fillings(figure) == [(each["people"]["cosine"]["value"], each["aligned"]) for each in rows]
    arrows = [text for text in figure.axes[0].texts if isinstance(text, Annotation)]
    ends = [(arrow.xyann, arrow.xy) for arrow in arrows]
    places = [(each["people"]["cosine"]["value"], each["retrieval"][0]["top1"]) for each in rows]
    assert ends == [(places[0], places[1]), (places[2], places[3])]
    assert {text.get_text() for text in names(figure)} == {*PAIRS[:2], "alone", "aligned-alone"}


def test_twins_of_other_pictures_are_no_twins():
    rows = pairs(1)
    rows[0]["image_set"] = "other"
    figure = _figure(rows)
    assert not [text for text in figure.axes[0].texts if isinstance(text, Annotation)]
    assert {text.get_text() for text in names(figure)} == {f"{PAIRS[0]} (things-eeg2)", f"{PAIRS[0]}_noalign (other)"}


def test_across_are_people_where_there_are_enough_choices_and_a_surrogate_otherwise():
    rows = pairs(1)
    assert "share of human odd-one-out choices" in words(_figure(rows)) and "SURROGATE" not in words(_figure(rows))
    assert "2,171 choices of people" in words(_figure(rows))
    rows[0]["people"]["cosine"]["n"] = 99
    figure = _figure(rows)
    assert "by a SURROGATE: Spearman correlation" in words(figure) and "1,854 THINGS concepts" in words(figure)
    assert [x for x, _ in fillings(figure)] == [each["surrogate"]["cosine"]["value"] for each in rows]
    rows[0]["people"]["cosine"]["n"] = 100
    assert "SURROGATE" not in words(_figure(rows))


def test_encoders_without_runs_are_ticks_and_what_cannot_be_placed_is_counted():
    rows = [*pairs(1), row("bare", 0.4, None), row("few", 0.4, None), row("none", 0.4, None, people=None)]
    rows[3]["people"]["cosine"]["n"] = 2
    figure = _figure(rows)
    ticks = [line for line in figure.axes[0].lines if list(line.get_ydata()) == [0, 0.025]]
    assert [line.get_xdata()[0] for line in ticks] == [0.4]
    assert "Ticks at the bottom: 1 more encoder, without" in words(figure) and "Left out: 2 tables" in words(figure)
    assert len(fillings(figure)) == 2 and "no such runs" in words(figure)


def test_only_runs_of_one_kind_are_drawn():
    rows = pairs(2)
    other = rows[0]["retrieval"][0] | {"brain": "linear", "top1": 0.9}
    rows[0]["retrieval"].insert(0, other)
    figure = _figure(rows)
    assert len(fillings(figure)) == 4 and figure.axes[0].get_ylim()[1] < 0.6 and "nice" in words(figure)


def test_simulated_data_say_so():
    rows = pairs(1)
    assert "SIMULATED" not in words(_figure(rows))
    rows[1]["simulated"] = True
    assert "SIMULATED pictures" in words(_figure(rows))
    rows = pairs(1)
    for each in rows:
        each["retrieval"][0]["simulated"] = True
    assert "SIMULATED brain" in words(_figure(rows)) and "(SIMULATED brain)" in words(_figure(rows))


def test_chance_is_drawn_on_both_sides():
    axes = _figure(pairs(1)).axes[0]
    dotted = [line for line in axes.lines if line.get_linestyle() == ":"]
    assert [list(dotted[0].get_ydata()), list(dotted[1].get_xdata())] == [[0.005, 0.005], [1 / 3, 1 / 3]]
    assert axes.get_ylim()[0] == 0 and axes.get_xlim()[0] < 1 / 3


def test_intervals_are_drawn_where_they_are():
    rows = pairs(1)
    rows[0]["retrieval"][0]["interval"] = None
    rows[1]["retrieval"][0]["interval"] = [0.0, 1.0]  # of two subjects
    axes = _figure(rows).axes[0]
    x, y = rows[1]["people"]["cosine"]["value"], rows[1]["retrieval"][0]["top1"]
    drawn = [[list(line.get_xdata()), list(line.get_ydata())] for line in axes.lines]
    assert [[x, x], [0.0, 1.0]] in drawn and [rows[1]["people"]["cosine"]["interval"], [y, y]] in drawn
    assert y < axes.get_ylim()[1] < 2.5 * y


def test_nothing_to_draw_is_a_sentence(tmp_path):
    for rows, sentence in (
        ([], "no run that learned from these embeddings has a score"),
        ([row("a", 0.4, None)], "no run that learned from these embeddings has a score"),
        (
            [row("a", 0.4, 0.1, people=None, surrogate=None)],
            "could be compared with people: it takes 100 human choices",
        ),
    ):
        with pytest.raises(AlignvisError, match=sentence):
            draw_alignment(rows, tmp_path / "a.png")
    assert not list(tmp_path.iterdir())


def test_the_file_is_whole(tmp_path):
    for count in (1, 6):
        draw_alignment(pairs(count), tmp_path / f"{count}.png")
        pixels = imread(tmp_path / f"{count}.png")
        assert pixels.shape[1] == 1200 and pixels[..., :3].min() < 0.2
    assert not list(tmp_path.glob("*.partial"))
