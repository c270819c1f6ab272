import numpy as np
import pytest

from alignvis.errors import AlignvisError
from alignvis.figures.comparison import draw_comparison
from alignvis.figures.scores import draw_repetitions, draw_scores
from alignvis.figures.style import ALIGNED, PLAIN
from alignvis.figures.training import draw_training
from alignvis.figures.words import from_to
from alignvis.stats import bootstrap, wilson


def score(features="good", aligned=True, twin="good_noalign", subject=1, seed=0, top1=0.5, **changes):
    about = {"dataset": "tiny", "simulated": False, "protocol": "within", "encoder": "nice", "recipe": "test"}
    hits = round(200 * top1)  # other pictures of another seed
    about |= {"ranks": np.roll([1] * hits + [2] * (200 - hits), 7 * seed).tolist(), "images_sha256": "x"}
    about |= {"n": 200, "gallery": 200, "repetitions": 80, "top1_chance": 0.005, "trials": None, "target": "embeddings"}
    about |= {"features": features, "aligned": aligned, "twin": twin, "subject": subject, "seed": seed, "top1": top1}
    return about | changes


def plain(**changes):
    return score("good_noalign", False, "good", **changes)


def dots(axes) -> list[tuple[float, float, str, str]]:
    """The large dots: across, down, edge and fill."""
    found = [line for line in axes.lines if line.get_marker() == "o" and line.get_markersize() > 5]
    return [
        (line.get_xdata()[0], line.get_ydata()[0], line.get_markeredgecolor(), line.get_markerfacecolor())
        for line in found
    ]


def labels(axes) -> list[str]:
    return [label.get_text() for label in axes.get_yticklabels()]


# --- scores ----------------------------------------------------------------------------------------------------------


def test_seeds_are_averaged_then_subjects_and_twins_share_a_row():
    scores = [score(top1=0.2), score(seed=1, top1=0.4), score(subject=2, top1=0.6), plain(top1=0.1)]
    (axes,) = draw_scores(scores).axes
    (x1, y1, edge1, fill1), (x2, y2, edge2, fill2) = dots(axes)
    assert (x1, x2) == pytest.approx((100 * (0.3 + 0.6) / 2, 10))
    assert (edge1, fill1, edge2, fill2) == (ALIGNED, ALIGNED, PLAIN, "white")
    assert labels(axes) == ["good"] and abs(y1) < 0.5 and abs(y2) < 0.5 and y1 < y2
    joined = [line for line in axes.lines if list(line.get_ydata()) == [y1, y2]]
    assert np.asarray(joined[0].get_xdata()) == pytest.approx([x1, x2])


def test_the_best_encoder_stands_at_the_top_and_one_without_a_twin_alone():
    scores = [score("a", top1=0.1, twin=None), score("b", top1=0.4, twin=None), plain(top1=0.3), score(top1=0.2)]
    (axes,) = draw_scores(scores).axes
    assert labels(axes) == ["b", "good", "a"] and axes.get_ylim() == (2.5, -0.5)


def test_intervals_are_those_of_eval_by_bootstrap_over_subjects_and_pictures_and_wilsons_of_one_subject():
    def interval(scores):
        (axes,) = draw_scores(scores).axes
        (line,) = [line for line in axes.lines if line.get_linewidth() == 1.2 and line.get_marker() == "None"]
        return np.asarray(line.get_xdata())

    for shares in ([0.4, 0.5, 0.7], [0.4, 0.7]):
        scores = [score(subject=subject, top1=share) for subject, share in enumerate(shares)]
        ends = bootstrap(np.array([one["ranks"] for one in scores]) == 1)
        assert interval(scores) == pytest.approx(100 * np.array(ends))
    assert interval([score(top1=0.4), score(seed=1, top1=0.6)]) == pytest.approx(100 * np.array(wilson(0.5, 200)))
    titles = [
        " ".join(draw_scores(some).axes[0].get_title(loc="left").split()) for some in (scores, [score()], scores[:1])
    ]
    assert titles[0].endswith("95 % interval: bootstrap over subjects and pictures")
    assert titles[1].endswith("95 % interval: Wilson over pictures")
    (axes,) = draw_scores([score(subject=1, top1=0.0), score(subject=2, top1=0.0)]).axes
    assert not [line for line in axes.lines if line.get_linewidth() == 1.2 and line.get_marker() == "None"]
    assert "no interval" in " ".join(axes.get_title(loc="left").split())


def test_every_subject_is_a_faint_dot_and_chance_a_dotted_line():
    (axes,) = draw_scores([score(subject=subject, top1=0.1 * subject) for subject in (1, 2, 3)]).axes
    (subjects,) = [line for line in axes.lines if line.get_markersize() == 2.5]
    assert np.asarray(subjects.get_xdata()) == pytest.approx([10, 20, 30]) and subjects.get_alpha() < 1
    (chance,) = [line for line in axes.lines if line.get_linestyle() == ":"]
    assert chance.get_xdata()[0] == pytest.approx(0.5)


def test_scores_of_other_protocols_have_panels_of_their_own():
    other = score(dataset="meg", n=100, gallery=100, simulated=True, top1_chance=0.01)
    figure = draw_scores([score(), other, score("b", encoder="linear")])
    titles = [" ".join(axes.get_title(loc="left").split()) for axes in figure.axes]
    assert len(titles) == 3 and sum("SIMULATED" in title for title in titles) == 1 and figure.get_suptitle() == ""
    assert "tiny, nice, test, trained on the same subject: n = 200 test responses, each the mean of 80" in titles[0]
    assert "right picture of 100 named first (top-1, %)" in [axes.get_xlabel() for axes in figure.axes]
    of_trials = draw_scores([score(repetitions=1, trials={"min": 1, "max": 3, "mean": 2.5})]).axes[0]
    assert "each the mean of 1 to 3 trials" in " ".join(of_trials.get_title(loc="left").split())
    assert draw_scores([other]).get_suptitle() == "SIMULATED brain"


def test_inner_layers_are_named_and_paired_with_their_own():
    scores = [score(), plain(), score(target="layer.6"), plain(target="layer.6", top1=0.1)]
    (axes,) = draw_scores(scores).axes
    assert sorted(labels(axes)) == ["good", "good (layer.6)"]
    (axes,) = draw_scores([score("glocal", twin="clip"), score("clip", False, "glocal")]).axes
    assert labels(axes) == ["glocal\nclip"]


# --- repetitions -----------------------------------------------------------------------------------------------------


def curve(top1, **changes):
    counts = [1, 2, 4, 8]
    about = {"repetitions": counts, "top1": top1, "top1_low": [t - 0.02 for t in top1]}
    about |= {"top1_high": [t + 0.02 for t in top1], "draws": 20, "chance": 0.005, "run_seed": changes.get("seed", 0)}
    return score(**changes) | about | {"seed": 0}  # of the draws


def marked(axes) -> list:
    """The lines of encoders, apart from those around bands, of subjects and of chance."""
    return [line for line in axes.lines if line.get_marker() != "None"]


def test_a_curve_has_its_band_and_the_axis_doubles_evenly():
    figure = draw_repetitions([curve([0.1, 0.2, 0.3, 0.4]), curve([0.1] * 4, **{"features": "x", "aligned": False})])
    (axes,) = figure.axes
    assert axes.get_xscale() == "log" and list(axes.get_xticks()) == [1, 2, 4, 8]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "2", "4", "8"]
    good, bad = marked(axes)
    (chance,) = [line for line in axes.lines if line.get_linestyle() == ":"]
    assert np.asarray(good.get_ydata()) == pytest.approx([10, 20, 30, 40]) and good.get_linestyle() == "-"
    assert (bad.get_linestyle(), bad.get_markerfacecolor()) == ("--", "white")
    assert chance.get_linestyle() == ":" and chance.get_ydata()[0] == pytest.approx(0.5)
    ends = axes.collections[0].get_paths()[0].vertices[:, 1]
    assert (ends.min(), ends.max()) == pytest.approx((8, 42))


def test_curves_of_subjects_are_averaged_after_those_of_seeds():
    curves = [curve([0.1] * 4), curve([0.3] * 4, seed=1), curve([0.8] * 4, subject=2)]
    (axes,) = draw_repetitions(curves).axes
    lines = [line for line in axes.lines if line.get_linestyle() == "-"]
    assert sorted({round(float(line.get_ydata()[0]), 6) for line in lines[:3]}) == [20, 50, 80]
    assert "subjects 1-2, seeds 0-1;" in " ".join(axes.get_title(loc="left").split())


def test_curves_of_other_brain_encoders_recipes_or_layers_are_no_seeds_of_each_other():
    others = [
        curve([0.1 * place] * 4, **{key: "other"}) for place, key in enumerate(("encoder", "recipe", "target"), 1)
    ]
    figure = draw_repetitions([curve([0.5] * 4), *others])
    assert sorted(round(line.get_ydata()[0]) for line in marked(figure.axes[0])) == [10, 20, 30, 50]
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names[0] == "good, embeddings, nice, test" and len(set(names)) == 5


def record(features: str, aligned: bool, encoder: str = "nice") -> dict:
    history = [{"epoch": 0, "held_out_loss": 2.0, "held_out_top1": 0.1, "best": True}]
    about = {"features": features, "aligned": aligned, "encoder": encoder, "history": history, "simulated": False}
    return about | {"split": {"validation": ["a", "b"]}, "recipe": {"target": "embeddings"}}


def test_encoders_of_one_side_have_colours_of_their_own_and_the_legend_names_them():
    names = [("a", False), ("b", False), ("c", False), ("d", True), ("e", True)]
    curves = [curve([0.1] * 4, features=name, aligned=aligned) for name, aligned in names]
    records = [record(name, aligned) for name, aligned in names]
    for figure, ends in ((draw_repetitions(curves), ""), (draw_training(records), "aligned")):
        axes, legend = figure.axes[0], figure.legends[0]
        assert len({line.get_color() for line in marked(axes)}) == 5
        assert {line.get_markerfacecolor() == "white" for line in marked(axes)} == {True, False}
        handles = {text.get_text(): line for text, line in zip(legend.get_texts(), legend.get_lines(), strict=True)}
        assert [name for name in handles if name != "chance"] == [
            f"{name}{f', not {ends}' * (not aligned) + f', {ends}' * aligned if ends else ''}"
            for name, aligned in sorted(names, key=lambda one: not one[1])
        ]
        first = {name[0]: line.get_color() for name, line in handles.items()}
        assert first["d"] == ALIGNED and first["a"] == PLAIN
        assert all(line.get_markerfacecolor() == ("white" if name[0] in "abc" else line.get_color())
                   for name, line in handles.items() if name != "chance")  # fmt: skip


def test_the_words_beside_the_axis_stay_below_the_title():
    figure = draw_repetitions([curve([0.1] * 4, subject=subject, gallery=16540) for subject in range(3)])
    figure.canvas.draw()
    (axes,) = figure.axes
    (title,) = [text for text in axes.get_children() if getattr(text, "get_text", str)() == axes.get_title("left")]
    assert axes.yaxis.label.get_window_extent().y1 <= title.get_window_extent().y0
    assert figure.bbox.y0 <= axes.yaxis.label.get_window_extent().y0


def test_curves_over_other_numbers_of_repetitions_have_no_mean():
    other = curve([0.1] * 4, subject=2) | {"repetitions": [1, 2, 4, 12]}
    with pytest.raises(AlignvisError, match="good were asked about other numbers of repetitions"):
        draw_repetitions([curve([0.1] * 4), other])


# --- comparisons -----------------------------------------------------------------------------------------------------


def comparison(difference=0.2, subjects=(0.1, 0.3), **changes):
    sides = [{"features": name, "encoder": "nice", "recipe": "test", "pool": []} for name in ("good", "good_noalign")]
    about = {"metric": "top1", "first": sides[0], "second": sides[1], "dataset": "tiny", "simulated": True}
    about |= {"gallery": 200, "galleries": "test images", "repetitions": 80, "n_images": 200}
    about |= {"difference": difference, "interval": [0.15, 0.25], "interval_over": "subjects and images"}
    about |= {
        "n_subjects": len(subjects),
        "subjects": [{"subject": i, "difference": d} for i, d in enumerate(subjects)],
    }
    return about | changes


def test_a_comparison_is_a_dot_with_its_interval_and_its_subjects():
    figure = draw_comparison([comparison()])
    (axes,) = figure.axes
    interval, mean, subjects, zero = axes.lines
    assert np.asarray(interval.get_xdata()) == pytest.approx([15, 25]) and mean.get_xdata()[0] == pytest.approx(20)
    assert np.asarray(subjects.get_xdata()) == pytest.approx([10, 30]) and zero.get_xdata()[0] == 0
    assert labels(axes) == ["good\nagainst good_noalign"] and axes.get_xlabel() == "difference in top-1 (points)"
    title = " ".join(axes.get_title(loc="left").split())
    assert "2 subjects, 200 test images, each the mean of 80 repetitions, among 200 test images" in title
    assert "95 % bootstrap interval over subjects and images" in title and figure.get_suptitle() == "SIMULATED brain"


def test_numbers_that_differ_between_comparisons_are_said_from_the_lowest_to_the_highest():
    rows = [comparison(n_images=1200), comparison(n_images=982, subjects=(0.1, 0.2, 0.3)), comparison(n_images=1000)]
    (axes,) = draw_comparison([row | {"gallery": 1200} for row in rows]).axes
    said = " ".join(axes.get_title(loc="left").split())
    assert ": 2 to 3 subjects, 982 to 1,200 test images, each the mean" in said and "among 1,200 test images" in said
    assert (from_to([1854]), from_to([7, 7]), from_to([3, 1, 2])) == ("1,854", "7", "1 to 3")


def test_one_repetition_is_no_mean():
    (axes,) = draw_comparison([comparison(repetitions=1)]).axes
    assert "200 test images among 200 test images" in " ".join(axes.get_title(loc="left").split())


def test_a_reciprocal_rank_has_no_unit_and_one_subject_no_dots_of_its_own():
    (axes,) = draw_comparison([comparison(metric="mrr", subjects=(0.2,))]).axes
    assert axes.get_xlabel() == "difference in mean reciprocal rank" and len(axes.lines) == 3
    assert ": 1 subject, 200 test images" in " ".join(axes.get_title(loc="left").split())
    assert axes.lines[1].get_xdata()[0] == pytest.approx(0.2)


def test_comparisons_of_other_metrics_or_datasets_are_not_mixed():
    rows = [comparison(), comparison(metric="top5"), comparison(dataset="other", simulated=False), comparison(0.1)]
    figure = draw_comparison(rows)
    assert [len(labels(axes)) for axes in figure.axes] == [2, 1, 1] and figure.get_suptitle() == ""


def test_brain_encoders_are_named_where_they_are_what_differs():
    row = comparison()
    row["second"] = row["first"] | {"encoder": "linear"}
    assert labels(draw_comparison([row]).axes[0]) == ["nice\nagainst linear"]


@pytest.mark.parametrize("draw", [draw_scores, draw_repetitions, draw_comparison])
def test_nothing_to_draw_is_a_sentence(draw):
    with pytest.raises(AlignvisError, match="there (are|is) no .* to draw; make (some|one) with: alignvis"):
        draw([])


@pytest.mark.parametrize("long", ["good", "harmonization_vitb16_imagenet_and_then_some"])
def test_titles_stay_on_the_figure(long):
    scores = [score(long, top1=0.9, recipe="alignvis-fixed+rate-0.002+batch-32+epochs-25"), plain(top1=0.1)]
    row = comparison()
    row["first"] = row["first"] | {"features": long, "recipe": "alignvis-fixed+rate-0.002+batch-32+epochs-25"}
    for figure in (draw_scores(scores), draw_comparison([row]), draw_repetitions([curve([0.1] * 4, features=long)])):
        figure.canvas.draw()
        for axes in figure.axes:
            (title,) = [
                text for text in axes.get_children() if getattr(text, "get_text", str)() == axes.get_title("left")
            ]
            box = title.get_window_extent()
            assert box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1
