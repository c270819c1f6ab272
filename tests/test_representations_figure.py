"""Figures of similarity analyses and encoding models: every word that a reader needs, and nothing outside or on top."""

import numpy as np
import pytest
from matplotlib.text import Text

from alignvis.figures.representations import draw_encoding, draw_rsa, mean_map
from alignvis.figures.style import ALIGNED, FONT, PLAIN, drawn
from alignvis.recordings.brain import ELECTRODES
from alignvis.representations.encoding_analysis import encode
from alignvis.representations.rsa_analysis import similarity_over_time
from alignvis.representations.study import open_study
from alignvis.representations.table import encoding_table, rsa_table
from tests import tables

FEW = {"draws": 100, "permutations": 100}


@pytest.fixture(scope="module")
def whole_head(tmp_path_factory):
    """Two subjects with 63 channels; an aligned table that is the cause, its twin that is not."""
    root, rng = tmp_path_factory.mktemp("head"), np.random.default_rng(0)
    ids = tables.image_ids(6, 5), tables.image_ids(20, 1, "test_images")
    images, embeddings = [*ids[0], *ids[1]], rng.standard_normal((50, 5))
    course = np.exp(-0.5 * ((np.arange(10) - 5) / 1.5) ** 2)
    for subject in (1, 2):
        signal = np.einsum("id,dc,t->ict", embeddings, rng.standard_normal((5, 63)), course)[:, None]
        noisy = [part + 0.7 * rng.standard_normal((len(part), 4, 63, 10)) for part in (signal[:30], signal[30:])]
        path = root / "responses" / "tiny" / f"sub-{subject:02d}.safetensors"
        tables.write_responses(path, *noisy, ids, subject=subject, channels=list(ELECTRODES), tmin=-0.02)
    folder = root / "features" / "tiny"
    tables.write_features(folder / "a.safetensors", embeddings, images, encoder="a", aligned=True, twin="b")
    tables.write_features(folder / "b.safetensors", rng.standard_normal((50, 5)), images, encoder="b", twin="a")
    return open_study(root, [1, 2])


@pytest.fixture(scope="module")
def similar(whole_head):
    return similarity_over_time(whole_head, **FEW)


@pytest.fixture(scope="module")
def encoded(whole_head):
    return encode(whole_head, **FEW)


def words(figure) -> str:
    return drawn(figure, "svg").decode()


def test_a_similarity_figure_says_what_it_shows(similar):
    text = words(draw_rsa(similar))
    for word in (
        "SIMULATED",
        "time after the picture came on (ms)",
        "Spearman r",
        "noise ceiling (lower to upper bound)",
        "lower bound (other subjects)",
        "noise ceiling within subjects (halves)",
        "1/√2 = 0.71 even",
        "a (aligned to people)",
        "2 subjects; 20 test images, 4 repetitions averaged, 190 pairs",
    ):
        assert word in text, word


def test_real_data_are_not_called_simulated(similar, encoded):
    assert "SIMULATED" not in words(draw_rsa({**similar, "simulated": False}))
    assert "SIMULATED" not in words(draw_encoding({**encoded[0], "simulated": False}, encoded[1]))


def test_curves_are_the_numbers_in_milliseconds_and_the_twin_is_orange_and_dashed(similar):
    figure = draw_rsa(similar)
    (ax,) = figure.axes
    found = {line.get_label(): line for line in ax.get_lines()}
    for row, name, colour, style in (
        (similar["features"][0], "a (aligned to people)", ALIGNED, "-"),
        (similar["features"][1], "b", PLAIN, "--"),
    ):
        line = found[name]
        assert np.allclose(line.get_ydata(), row["r"]) and (line.get_color(), line.get_linestyle()) == (colour, style)
        assert np.allclose(line.get_xdata(), np.arange(-20, 80, 10))
    onset = [line for line in ax.get_lines() if list(line.get_xdata()) == [0, 0]]
    assert len(onset) == 1


def test_the_bar_below_is_under_the_significant_times_only(similar):
    row = similar["features"][0]
    marked = np.array(row["significant"])
    assert marked.any() and not marked.all()
    (ax,) = draw_rsa(similar).axes
    lowest = min(np.nanmin(row["interval"][0]) for row in similar["features"])
    bars = [
        path.vertices
        for shade in ax.collections
        for path in shade.get_paths()
        if len(path.vertices) and path.vertices[:, 1].max() < lowest
    ]
    across = np.concatenate(bars)[:, 0]
    times = 1000 * np.array(similar["times"])
    assert across.min() >= times[marked].min() - 5.1 and across.max() <= times[marked].max() + 5.1


def test_an_encoding_figure_has_maps_of_one_scale_and_heads(encoded):
    result, maps = encoded
    figure = draw_encoding(result, maps)
    text = words(figure)
    for word in ("SIMULATED", "noise ceiling", "channels, front to back", "Pearson r", "mean over", "occipital"):
        assert word in text, word
    images = [image for ax in figure.axes for image in ax.get_images() if image.get_array().shape == (63, 10)]
    assert len(images) == 2 and images[0].get_clim() == images[1].get_clim()
    shown = np.asarray(images[0].get_array())
    expected = mean_map(result, maps, "a.r")
    assert np.isclose(images[0].get_clim()[1], max(expected.max(), mean_map(result, maps, "b.r").max()))
    ticks = [label.get_text() for label in images[0].axes.get_yticklabels()]
    assert ticks[0].startswith(("Fp", "AF")) and ticks[-1] in ("O1", "Oz", "O2")
    for image, row in zip(images, result["features"], strict=True):  # as the table: the best mean over the region
        marks = [line.get_xdata()[0] for line in image.axes.get_lines() if line.get_linestyle() == "--"]
        assert marks == [1000 * row["peak"]["time"]]
        assert f"{1000 * row['peak']['time']:.0f} ms" in text
    row = list(ELECTRODES).index(ticks[-1])
    assert np.allclose(shown[-1], expected[row])


def test_all_words_have_one_size_and_lie_on_the_figure(similar, encoded):
    for figure in (draw_rsa(similar), draw_encoding(*encoded)):
        drawn(figure, "png")
        texts = [text for text in figure.findobj(Text) if text.get_text().strip()]
        assert {text.get_fontsize() for text in texts} == {FONT}
        box, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
        assert box.x0 >= -0.01 and box.y0 >= -0.01 and box.x1 <= width + 0.01 and box.y1 <= height + 0.01


def test_the_same_figure_gives_the_same_bytes(similar):
    assert drawn(draw_rsa(similar), "svg") == drawn(draw_rsa(similar), "svg")


def test_many_tables_are_told_apart_and_what_is_left_out_is_said(similar):
    single = [{**similar["features"][1], "features": f"encoder {place}", "twin": None} for place in range(7)]
    text = words(draw_rsa({**similar, "features": [*similar["features"], *single]}))
    assert "2 more embeddings are not drawn" in text and "encoder 4" in text and "encoder 5" not in text
    figure = draw_rsa({**similar, "features": single[:5]})
    looks = {
        (line.get_color(), line.get_linestyle()) for line in figure.axes[0].get_lines() if line.get_label()[0] == "e"
    }
    assert len(looks) == 5 and not {ALIGNED, PLAIN} & {colour for colour, _ in looks}


def test_one_time_is_a_point_with_its_interval_and_a_histogram_of_voxels(encoded, similar):
    result, maps = encoded
    one = {name: values[:, 5:6] for name, values in maps.items()}
    rows = [
        {**row, "curve": row["curve"][5:6], "interval": [ends[5:6] for ends in row["interval"]]}
        for row in result["features"]
    ]
    figure = draw_encoding({**result, "times": None, "ceiling": result["ceiling"][5:6], "features": rows}, one)
    text = words(figure)
    assert "Pearson r of a channel or voxel" in text and "came on" not in text and "SIMULATED" in text
    rows = [
        {**row, "r": row["r"][5:6], "interval": [ends[5:6] for ends in row["interval"]]} for row in similar["features"]
    ]
    bounds = {key: similar["ceiling"]["subjects"][key][5:6] for key in ("lower", "upper")}
    ceiling = {"subjects": bounds, "repetitions": None}
    text = words(draw_rsa({**similar, "times": None, "features": rows, "ceiling": ceiling}))
    assert "lower bound (other subjects)" in text and "came on" not in text


def test_what_is_not_known_is_a_gap(similar):
    rows = [
        {**row, "r": [None, *row["r"][1:]], "interval": [[None, *ends[1:]] for ends in row["interval"]]}
        for row in similar["features"]
    ]
    line = draw_rsa({**similar, "features": rows}).axes[0].get_lines()
    assert any(np.isnan(one.get_ydata()[0]) for one in line if len(one.get_ydata()) == 10)


def test_tables_say_what_the_numbers_are_of(similar, encoded):
    text = rsa_table(similar)
    assert text.startswith("tiny (SIMULATED), subjects 1, 2: 20 test images, 4 repetitions averaged; 190 pairs")
    peak = similar["features"][0]["peak"]
    assert f"{peak['r']:.3f}" in text and f"{1000 * peak['time']:.0f}" in text and "a minus b" in text
    lower, upper = peak["ceiling"]["lower"], peak["ceiling"]["upper"]
    assert f"{lower:.3f} to {upper:.3f}" in text and "about 0.71 (1/sqrt(2)) even where they share nothing" in text
    text = encoding_table(encoded[0])
    best = encoded[0]["features"][0]["by_subject"][1]["best"]
    assert f"{best['r']:.3f} {best['channel']}" in " ".join(text.split()) and "ridge fitted to 30 training" in text
    assert "share of all channels x times whose correlation is above chance" in text and "% p <= 0.05" in text
    assert "highest mean over occipital channels, as the figure's dashed line" in text
    assert "concepts of test images are those of training images too" in text


def test_averages_of_trials_say_so(similar):
    scan = {**similar, "repetitions": [1], "responses": [{"trials": [1, 3]}]}
    assert "1 repetition averaged, each of 1 to 3 trials" in rsa_table(scan)
    scan = {**similar, "repetitions": [1], "responses": [{"trials": [3, 3]}]}
    assert "each of 3 trials;" in rsa_table(scan)
