import io
import logging

import matplotlib
import numpy as np
import pytest
from matplotlib.image import imread

from alignvis.errors import AlignvisError
from alignvis.figures.scalp import colour_bar, has_map, limits_of, scalp_map
from alignvis.figures.style import drawn, looks, new_figure
from alignvis.recordings.brain import ELECTRODES
from alignvis.recordings.eeg2_files import CHANNEL_SETS
from alignvis.recordings.meg_brain import sensors

MEG = list(sensors())


def at(names: list[str], ends: tuple[str, ...]) -> np.ndarray:
    """1 where a channel's name begins with one of some letters, else 0."""
    return np.array([1.0 if name.startswith(ends) else 0.0 for name in names])


def painted(values: np.ndarray, names: list[str], **options) -> np.ndarray:
    """The map as pixels, (height, width), how bright each is."""
    with looks():
        figure = new_figure(3, 3)
        figure.set_layout_engine("none")
        axes = figure.add_axes((0, 0, 1, 1))
        scalp_map(axes, values, names, **options)
        for artist in [*axes.lines, *axes.collections]:
            artist.set_visible(False)
        return imread(io.BytesIO(drawn(figure, "png")))[..., :3].mean(axis=2)


def middle_of(bright: np.ndarray) -> tuple[float, float]:
    """Where the bright pixels of a map are: from the left and from the top, shares."""
    rows, columns = np.nonzero((bright > 0.6) & (bright < 0.99))
    return float(columns.mean() / bright.shape[1]), float(rows.mean() / bright.shape[0])


@pytest.mark.parametrize(
    ("names", "ends"), [(ELECTRODES, ("O", "PO")), (MEG, ("MLO", "MRO", "MZO"))], ids=["eeg", "meg"]
)
def test_what_lies_at_the_back_is_drawn_at_the_bottom(names, ends):
    right, down = middle_of(painted(at(names, ends), names))
    assert down > 0.7 and right == pytest.approx(0.5, abs=0.06)


@pytest.mark.parametrize(("ends", "place"), [(("T7", "FT7", "TP7", "C5"), "left"), (("Fp", "AF"), "front")])
def test_left_is_left_and_front_is_up(ends, place):
    right, down = middle_of(painted(at(ELECTRODES, ends), ELECTRODES))
    assert right < 0.3 if place == "left" else down < 0.3


def test_every_channel_is_marked_and_nowhere_else_is_a_mark():
    for names in (ELECTRODES, CHANNEL_SETS["occipital"], MEG):
        axes = new_figure().subplots()
        scalp_map(axes, np.arange(len(names)), names)
        marks = [line for line in axes.lines if line.get_marker() == "."]
        assert sum(len(line.get_xdata()) for line in marks) == len(names)


def test_zero_has_the_middle_colour_when_the_map_is_diverging():
    axes = new_figure().subplots()
    image = scalp_map(axes, np.linspace(-1, 3, 63), ELECTRODES, diverging=True)
    assert image.get_clim() == (-3, 3)
    assert scalp_map(axes, np.linspace(-1, 3, 63), ELECTRODES).get_clim() == (-1, 3)
    assert scalp_map(axes, np.zeros(63), ELECTRODES, limits=(0, 7)).get_clim() == (0, 7)
    assert limits_of([[1, 2], [-5, 0]], diverging=True) == (-5, 5)
    assert limits_of([[1, 2], [-5, 0]], diverging=False) == (-5, 2)
    low, high = limits_of([[2, 2]], diverging=False)
    assert low < 2 < high


def test_a_part_of_the_head_is_not_made_up_to_the_whole():
    back = painted(np.ones(17), CHANNEL_SETS["occipital"], limits=(0, 1))
    half = back.shape[0] // 2
    assert (back[:half] > 0.99).mean() > 0.9 and (back[half:] < 0.99).mean() > 0.2


def test_nothing_is_said_opened_or_changed(capfd, caplog):
    before = dict(matplotlib.rcParams)
    with caplog.at_level(logging.DEBUG):
        scalp_map(new_figure().subplots(), np.arange(63), ELECTRODES)
    import matplotlib.pyplot as plt

    assert capfd.readouterr() == ("", "") and not [record for record in caplog.records if record.name == "mne"]
    assert plt.get_fignums() == [] and dict(matplotlib.rcParams) == before


def test_without_places_a_note_stands_where_the_map_would():
    for names in (["voxel 1", "voxel 2"], ["Oz", "O1", "O2"], ["Fz", "Cz", "Cz-REF", "Oz", "Pz"][:1]):
        axes = new_figure().subplots()
        assert not has_map(names) and scalp_map(axes, np.ones(len(names)), names) is None
        assert "no map" in axes.texts[0].get_text()


def test_channels_without_a_place_are_left_out_and_counted():
    axes = new_figure().subplots()
    names = [*ELECTRODES, "EEG 64", "EEG 65"]
    image = scalp_map(axes, np.concatenate([np.ones(63), [99, 99]]), names, diverging=True)
    assert image.get_clim()[1] == pytest.approx(1) and "2 of 65" in axes.texts[0].get_text()


def test_two_names_of_one_place_are_averaged():
    axes = new_figure().subplots()
    image = scalp_map(axes, [1, 3, 0, 0, 0, 0], ["T7", "T3", "Fz", "Oz", "T8", "Pz"])
    assert image.get_clim() == (0, 2)


@pytest.mark.parametrize("values", [np.ones(62), np.full(63, np.nan), np.ones((63, 1))])
def test_values_that_do_not_belong_to_the_channels_are_refused(values):
    with pytest.raises(AlignvisError, match="63 channels takes one finite value each"):
        scalp_map(new_figure().subplots(), values, ELECTRODES)


def test_a_colour_bar_names_the_unit():
    figure = new_figure()
    axes = figure.subplots(1, 2)
    image = scalp_map(axes[1], np.arange(63), ELECTRODES)
    assert colour_bar(figure, image, axes, "points").ax.get_ylabel() == "points"
