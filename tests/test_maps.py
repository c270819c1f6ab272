import re

import numpy as np
import pytest
from matplotlib.figure import Figure
from scipy import stats

from alignvis import files
from alignvis.errors import AlignvisError
from alignvis.figures.explained import ordered, read_sides
from alignvis.figures.maps import draw_explanation
from alignvis.figures.pooled import interval_said, pool
from alignvis.recordings.brain import ELECTRODES
from alignvis.spans import spans
from tests.explained import explained

TIMES = [round(0.05 * step - 0.1, 3) for step in range(14)]
BACK = np.array([1.0 if name.startswith(("O", "PO")) else 0.0 for name in ELECTRODES])
FEW = ["Fp1", "Cz", "T7", "Pz", "O1", "O2"]


def panels(figure: Figure) -> dict[str, list]:
    """Axes by their titles, those of maps and the like once a side."""
    found: dict[str, list] = {}
    for axes in figure.axes:
        found.setdefault(axes.get_title(), []).append(axes)
    return found


def words(figure: Figure) -> str:
    return " ".join(" ".join(text.get_text() for part in [figure, *figure.subfigs] for text in part.texts).split())


def planted(folder, aligned=True, channels=ELECTRODES, early=0.15, **options):
    """A run whose Grad-CAM is large at the back and early."""
    back = np.array([1.0 if name.startswith(("O", "PO")) else 0.0 for name in channels])
    gradcam = np.outer(back + 0.1, np.exp(-((np.array(TIMES) - early) ** 2) / 0.005))
    features = "good" if aligned else "good_noalign"
    options = {"gradcam": gradcam, "loss": 0.1 * back, "aligned": aligned, "features": features} | options
    return explained(folder, list(channels), TIMES, **options)


# --- averages --------------------------------------------------------------------------------------------------------


def test_seeds_are_averaged_before_subjects():
    found = pool([(1, 0.0), (1, 0.0), (1, 0.9), (2, 0.5)])
    assert found.mean == pytest.approx((0.3 + 0.5) / 2) and found.runs == 4
    assert {subject: float(value) for subject, value in found.subjects.items()} == pytest.approx({1: 0.3, 2: 0.5})


def test_the_interval_over_three_subjects_is_students_t():
    values = np.random.default_rng(0).normal(0, 1, (5, 3))
    found = pool([(subject, row) for subject, row in enumerate(values)], [np.zeros((3, 2))] * 5)
    low, high = stats.t.interval(0.95, 4, values.mean(axis=0), stats.sem(values, axis=0))
    assert found.low == pytest.approx(low) and found.high == pytest.approx(high) and found.over == "subjects"


def test_where_all_subjects_are_equal_there_is_no_interval():
    """They do not tell how others differ; nor do means over seeds that differ by rounding."""
    found = pool([(1, [0.2, 0.1]), (2, [0.2, 0.4]), (3, [0.2, 0.3])])
    assert np.isnan(found.low).tolist() == np.isnan(found.high).tolist() == [True, False]
    assert interval_said(["subjects", found.over]) == "95 % interval over subjects (none where all are equal)"
    seeds = [(subject, value) for subject, some in enumerate([[0.1, 0.2, 0.3], [0.3, 0.2, 0.1], [0.2] * 3])
             for value in some]  # fmt: skip
    alike = pool(seeds)
    assert alike.low is None and alike.high is None and alike.mean == pytest.approx(0.2)
    assert "none where all are equal" in interval_said([alike.over])
    assert interval_said([pool([(1, 0.1), (2, 0.2), (3, 0.3)]).over]) == "95 % interval over subjects"


def test_one_subject_has_the_interval_over_its_pictures_and_two_have_none():
    one = pool([(1, [0.1, 0.2]), (1, [0.3, 0.2])], [[[0, 0.2], [0.1, 0.3]], [[0.2, 0.4], [0.1, 0.3]]])
    assert one.low == pytest.approx([0.1, 0.1]) and one.high == pytest.approx([0.3, 0.3]) and one.over == "pictures"
    two = pool([(1, 0.1), (2, 0.9)], [[0, 0.2], [0.8, 1]])
    assert two.low is None and two.over is None
    assert "no interval" in interval_said([two.over]) and interval_said(["pictures", None]).endswith("over pictures")


def test_numbers_are_said_in_ranges():
    assert spans([3, 1, 2, 7, 2], ", ") == "1-3, 7" and spans([4], ", ") == "4" and spans([1, 3], ", ") == "1, 3"


# --- the order of channels -------------------------------------------------------------------------------------------


def test_channels_stand_by_region_from_front_to_back_and_left_to_right():
    names = ["O2", "Pz", "O1", "Fp2", "Cz", "Fp1", "x"]
    regions = {"occipital": ["O2", "O1"], "parietal": ["Pz"], "central": ["Cz"], "frontal": ["Fp2", "Fp1"]}
    order, groups = ordered({"channels": names, "regions": regions})
    assert [names[place] for place in order] == ["Fp1", "Fp2", "Cz", "Pz", "O1", "O2", "x"]
    assert groups == [("frontal", 2), ("central", 1), ("parietal", 1), ("occipital", 2), ("other", 1)]


def test_channels_without_places_stay_as_they_are():
    order, groups = ordered({"channels": ["v1", "v2", "v3"], "regions": {"b": ["v3"], "a": ["v1", "v2"]}})
    assert list(order) == [2, 0, 1] and groups == [("b", 1), ("a", 2)]


# --- the figure ------------------------------------------------------------------------------------------------------


def test_grad_cam_is_drawn_channels_by_times_with_the_back_at_the_bottom(tmp_path):
    figure = draw_explanation([planted(tmp_path / "a")], [planted(tmp_path / "b", aligned=False, early=0.4)])
    found = panels(figure)
    left, right = found["Grad-CAM, aligned"][0].images[0], found["Grad-CAM, not aligned"][0].images[0]
    for image, early in ((left, 0.15), (right, 0.4)):
        values = np.asarray(image.get_array())
        assert values.shape == (63, len(TIMES)) and values.mean() == pytest.approx(1)
        assert values[-8:].mean() > 5 * values[:40].mean()
        assert TIMES[values.mean(axis=0).argmax()] == early
        start, end, bottom, top = image.get_extent()
        assert (start, end) == pytest.approx((TIMES[0] - 0.025, TIMES[-1] + 0.025)) and (bottom, top) == (63, 0)
    labels = [label.get_text() for label in found["Grad-CAM, aligned"][0].get_yticklabels()]
    assert labels[0].startswith("frontal (") and labels[-1] == "occipital (8)"
    assert "1: evenly spread" in "".join(axes.get_ylabel() for axes in figure.axes)


def test_both_sides_have_the_same_colours_whatever_their_size(tmp_path):
    strong = planted(tmp_path / "a", aligned=False, loss=np.linspace(0, 5, 63))
    weak = planted(tmp_path / "b", gradcam=np.ones((63, len(TIMES))), loss=np.linspace(0, 1, 63))
    found = panels(draw_explanation([weak], [strong]))
    for kind in ("", "Grad-CAM, "):
        sides = [found[f"{kind}{name}"] for name in ("aligned", "not aligned")]
        for one, other in zip(*sides, strict=True):
            assert one.images[0].get_clim() == other.images[0].get_clim()
    low, high = found["aligned"][0].images[0].get_clim()
    assert (low, high) == (-5, 5)
    most = np.asarray(found["Grad-CAM, not aligned"][0].images[0].get_array()).max()
    assert found["Grad-CAM, aligned"][0].images[0].get_clim() == (0, most)


def test_curves_say_what_was_written(tmp_path):
    figure = draw_explanation([planted(tmp_path / "a")], [planted(tmp_path / "b", aligned=False)])
    found = panels(figure)
    (lost,) = [axes for title, axes in found.items() if title.startswith("without a window of 200 ms")]
    lines = [line for line in lost[0].lines if len(line.get_xdata()) == 5]
    assert len(lines) == 2 and lines[0].get_linestyle() == "-" and lines[1].get_linestyle() == "--"
    assert np.asarray(lines[0].get_xdata()) == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])
    assert np.asarray(lines[0].get_ydata()) == pytest.approx([10] * 5)
    band = lost[0].collections[0].get_paths()[0].vertices[:, 1]
    assert (band.min(), band.max()) == pytest.approx((5, 15))
    (kept,) = found["with one window of 200 ms alone"]
    assert [line.get_ydata()[0] for line in kept.lines if line.get_linestyle() == ":"] == pytest.approx([100 / 6])
    (regions,) = found["without all channels of a region"]
    assert [bar.get_width() for bar in regions.patches] == pytest.approx([10] * 10)
    assert [label.get_text() for label in regions.get_yticklabels()][0].startswith("frontal")
    assert len([title for title in found if "band" in title]) == 2


def test_each_region_has_its_own_bar(tmp_path):
    run = planted(tmp_path / "a", channels=FEW)
    found = files.read_json(run / "explain.json")
    lost = {"frontal": 0.01, "central": 0.02, "temporal": 0.03, "parietal": 0.04, "occipital": 0.05}
    found["occlusion"]["regions"].reverse()  # the file says nothing about the order in which they are drawn
    for row in found["occlusion"]["regions"]:
        row.update(drop=lost[row["name"]], drop_interval=[lost[row["name"]] - 0.1, lost[row["name"]] + 0.2])
    files.write_json(run / "explain.json", found)
    (axes,) = panels(draw_explanation([run], []))["without all channels of a region"]
    names = [label.get_text().split()[0] for label in axes.get_yticklabels()]
    assert sorted(names) == sorted(lost) and names[0] == "frontal" and names[-1] == "occipital"
    assert [bar.get_width() for bar in axes.patches] == pytest.approx([100 * lost[name] for name in names])
    intervals = [
        line.get_xdata() for line in axes.lines if len(set(line.get_ydata())) == 1 and line.get_color() == "black"
    ]
    assert np.array(intervals) == pytest.approx(np.array([[100 * lost[n] - 10, 100 * lost[n] + 20] for n in names]))


def test_retraining_on_other_windows_is_not_averaged(tmp_path):
    runs = [planted(tmp_path / name, channels=FEW, retrained=True, subject=place) for place, name in enumerate("ab")]
    (side,) = read_sides(runs, [])
    assert side.retrained.mean == pytest.approx([0.2] * 3)
    found = files.read_json(runs[0] / "explain.json")
    found["retrained"][0]["start"] += 0.01
    files.write_json(runs[0] / "explain.json", found)
    (side,) = read_sides(runs, [])
    assert side.retrained is None and side.bands is not None


def test_runs_of_one_side_are_averaged_and_counted(tmp_path):
    def run(name, subject, seed, drop):
        folder = planted(tmp_path / name, subject=subject, seed=seed)
        found = files.read_json(folder / "explain.json")
        for row in found["occlusion"]["windows"]:
            row["drop"] = drop
        files.write_json(folder / "explain.json", found)
        return folder

    runs = [run("a", 1, 0, 0.0), run("b", 1, 1, 0.2), run("c", 2, 0, 0.3), run("d", 4, 0, 0.5)]
    (side,) = read_sides(runs, [])
    assert side.windows.mean == pytest.approx([0.3] * 5)
    text = words(draw_explanation(runs, []))
    assert "subjects 1-2, 4, seeds 0-1, 4 runs" in text and "95 % interval over subjects" in text


def test_a_group_has_no_interval_of_no_width_and_an_interval_between_none_is_seen(tmp_path):
    def run(subject):
        folder = planted(tmp_path / f"{subject}", subject=subject)
        found = files.read_json(folder / "explain.json")
        for place, lost in ((1, 0.1 * subject), (3, 0.2 * subject), (4, 0.2)):
            found["occlusion"]["windows"][place]["drop"] = lost
        found["occlusion"]["windows"][4]["drop"] = 0.1 * subject
        found["bands"][0]["only_top1"] = 0.1 * subject
        files.write_json(folder / "explain.json", found)
        return folder

    figure = draw_explanation([run(subject) for subject in (1, 2, 3)], [])
    found = panels(figure)
    (lost,) = found["without a window of 200 ms"]
    half = 100 * 0.1 * stats.t.ppf(0.975, 2) / np.sqrt(3)
    shapes = [path.vertices for path in lost.collections[0].get_paths()]
    assert {round(x, 6) for shape in shapes if np.ptp(shape[:, 0]) for x in shape[:, 0]} == {0.3, 0.4}
    (segment,) = lost.collections[1].get_segments()
    assert segment == pytest.approx(np.array([[0.1, 20 - half], [0.1, 20 + half]]))
    (bands,) = [axes for title, some in found.items() if title.startswith("with one band alone") for axes in some]
    seen = [one for one in bands.collections[0].get_segments() if np.isfinite(one).all() and len(one)]
    assert len(seen) == 1 and np.ptp(seen[0][:, 1]) == pytest.approx(20 + half)  # it ends at none
    (regions,) = found["without all channels of a region"]
    assert not [line for line in regions.lines if line.get_color() == "black"]
    assert "95 % interval over subjects (none where all are equal)." in words(figure)
    assert "95 % interval" in [text.get_text() for text in figure.legends[0].get_texts()]


def test_what_has_to_be_known_stands_on_the_figure(tmp_path):
    figure = draw_explanation([planted(tmp_path / "a")], [planted(tmp_path / "b", aligned=False)])
    text = words(figure)
    for part in (
        "tiny (SIMULATED brain), nice, test",
        "n = 6 test responses, each the mean of 4 repetitions, among 6 pictures",
        "Aligned: good,",
    ):
        assert part in text
    assert "Not aligned: good_noalign" in text and "Spearman 0.15" in text
    assert figure.get_suptitle() == "SIMULATED brain"
    real = draw_explanation([planted(tmp_path / "c", simulated=False)], [])
    assert real.get_suptitle() == "" and "SIMULATED" not in words(real)


# --- what is missing -------------------------------------------------------------------------------------------------


def test_without_grad_cam_its_place_is_left_out_and_the_reason_said(tmp_path):
    figure = draw_explanation([planted(tmp_path / "a", gradcam=None)], [])
    assert not [title for title in panels(figure) if "Grad-CAM" in title]
    assert "No Grad-CAM: it has no convolution over time." in words(figure)


def test_where_the_first_layer_mixes_channels_grad_cam_has_only_a_course(tmp_path):
    figure = draw_explanation([planted(tmp_path / "a", gradcam=np.ones((1, len(TIMES))))], [])
    assert [title for title in panels(figure) if "Grad-CAM" in title] == ["Grad-CAM, mean over channels"]


def test_fmri_has_no_times_no_bands_and_no_places(tmp_path):
    run = explained(tmp_path / "a", [f"voxel {i}" for i in range(40)], [0.0])
    figure = draw_explanation([run], [])
    assert set(panels(figure)) == {"without a channel", "without all channels of a region"}
    assert "No map of the head" in words(figure)


def test_unknown_names_leave_the_maps_out(tmp_path):
    found = panels(draw_explanation([planted(tmp_path / "a", channels=[f"EEG {i:03d}" for i in range(9)])], []))
    assert "aligned" not in found and len(found["Grad-CAM, aligned"]) == 1 and "without a channel" in found
    assert found["Grad-CAM, aligned"][0].get_ylabel() == "channels"


def test_no_bands_and_no_retraining_leave_no_trace(tmp_path):
    bare = panels(draw_explanation([planted(tmp_path / "a", bands=False)], []))
    assert not [title for title in bare if "band" in title]
    full = draw_explanation([planted(tmp_path / "b", retrained=True)], [])
    labels = [text.get_text() for text in full.legends[0].get_texts()]
    assert labels == ["aligned to people", "95 % interval", "trained on that alone", "chance"]


def test_a_map_over_steps_that_are_no_times_is_not_drawn_over_time(tmp_path):
    run = planted(tmp_path / "a")
    found = files.read_json(run / "explain.json")
    found["gradcam"]["note"] = "its steps are tokens"
    files.write_json(run / "explain.json", found)
    figure = draw_explanation([run], [])
    assert not [title for title in panels(figure) if "Grad-CAM" in title]
    assert "its steps are tokens" in words(figure)


def test_grad_cam_of_nothing_but_zeros_is_drawn(tmp_path):
    figure = draw_explanation([planted(tmp_path / "a", channels=FEW, gradcam=np.zeros((6, len(TIMES))))], [])
    assert (np.asarray(panels(figure)["Grad-CAM, aligned"][0].images[0].get_array()) == 0).all()


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("what", "options"),
    [
        ("channels", {"channels": ["Fz", *FEW[1:]]}),
        ("datasets", {"dataset": "other"}),
        ("galleries", {"n": 7}),
        ("bands", {"bands": False}),
    ],
)
def test_explanations_that_do_not_fit_together_are_refused(tmp_path, what, options):
    one = planted(tmp_path / "a", channels=FEW)
    other = planted(tmp_path / "b", **({"channels": FEW, "aligned": False} | options))
    with pytest.raises(AlignvisError, match=f"were explained over other {what}"):
        draw_explanation([one], [other])


def test_nothing_to_draw_and_no_explanation_are_sentences(tmp_path):
    with pytest.raises(AlignvisError, match="there is no explanation to draw"):
        draw_explanation([], [])
    run = planted(tmp_path / "a", channels=FEW)
    (run / "explain.json").unlink()
    with pytest.raises(AlignvisError, match=re.escape(f"{run} is not explained yet")):
        draw_explanation([run], [])


def test_words_do_not_lie_on_each_other(tmp_path):
    sides = [planted(tmp_path / "a", retrained=True)], [planted(tmp_path / "b", aligned=False, retrained=True)]
    figure = draw_explanation(*sides)
    figure.canvas.draw()
    texts = [axes.title for axes in figure.axes if axes.get_title()]
    texts += [label for axes in figure.axes for label in (axes.xaxis.label, axes.yaxis.label) if label.get_text()]
    for axes in [axes for axes in figure.axes if axes.axison]:
        low, high = axes.get_xlim()
        texts += [label for label in axes.get_xticklabels() if low <= label.get_position()[0] <= high]
    boxes = [text.get_window_extent() for text in texts]
    covered = [
        (texts[i].get_text(), texts[j].get_text())
        for i, one in enumerate(boxes)
        for j, two in enumerate(boxes[:i])
        if one.overlaps(two)
    ]
    assert not covered
    width, height = figure.canvas.get_width_height()
    assert all(box.x0 >= 0 and box.x1 <= width and box.y0 >= 0 and box.y1 <= height for box in boxes)
