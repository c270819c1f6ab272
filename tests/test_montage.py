import math
import warnings

import mne
import numpy as np
import pytest

from alignvis.recordings.brain import ELECTRODES
from alignvis.recordings.meg_brain import sensors
from alignvis.recordings.montage import montage


def test_all_electrodes_of_things_eeg2_and_all_sensors_of_things_meg_have_a_place():
    eeg, meg = montage(ELECTRODES), montage(list(sensors()))
    assert (eeg.kind, eeg.unknown, len(eeg.places)) == ("eeg", [], 63)
    assert (meg.kind, meg.unknown, len(meg.places)) == ("meg", [], 271)


def test_the_nose_is_up_and_the_left_ear_left():
    places = montage(["Fpz", "Oz", "T7", "T8", "Cz"]).places
    assert places["Fpz"] == pytest.approx((0, 1), abs=0.12) and places["Oz"] == pytest.approx((0, -1), abs=0.12)
    assert places["T7"] == pytest.approx((-1, 0), abs=0.12) and places["T8"] == pytest.approx((1, 0), abs=0.12)
    assert places["Cz"] == pytest.approx((0, 0), abs=0.05)
    of_meg = montage(["MLO11", "MRO11", "MLF11", "MRF11", "MZC01"]).places
    assert of_meg["MLO11"][0] < 0 < of_meg["MRO11"][0] and of_meg["MLF11"][0] < 0 < of_meg["MRF11"][0]
    assert of_meg["MLO11"][1] < of_meg["MZC01"][1] < of_meg["MLF11"][1]


def test_left_and_right_mirror_each_other():
    places = montage(ELECTRODES).places
    for left, right in (("O1", "O2"), ("FT9", "FT10"), ("P7", "P8"), ("AF3", "AF4")):
        assert places[left] == pytest.approx((-places[right][0], places[right][1]), abs=0.04)


def test_electrodes_lie_as_mne_itself_lays_them_out():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        info = mne.create_info(ELECTRODES, 100, "eeg").set_montage("standard_1005")
    layout = mne.channels.find_layout(info)
    theirs = np.array([layout.pos[layout.names.index(name)][:2] for name in ELECTRODES])
    ours = montage(ELECTRODES).array(ELECTRODES)
    for axis in (0, 1):
        assert np.corrcoef(ours[:, axis], theirs[:, axis])[0, 1] > 0.99


def test_sensors_lie_as_in_the_layout_of_ctf_and_fill_the_circle():
    names = list(sensors())
    layout = mne.channels.read_layout("CTF275")
    theirs = np.array([layout.pos[layout.names.index(name[:5])][:2] for name in names])
    ours = montage(names).array(names)
    for axis in (0, 1):
        assert np.corrcoef(ours[:, axis], theirs[:, axis])[0, 1] > 0.9999
    assert ours.min(axis=0) == pytest.approx((-1, -1), abs=0.01) and ours.max(axis=0) == pytest.approx((1, 1), abs=0.01)


@pytest.mark.parametrize("name", ["oz", "OZ", " Oz ", "EEG Oz", "EEG Oz-REF", "EEG OZ-A1", "Oz-M2", "Oz_LE"])
def test_names_are_known_as_files_of_recordings_write_them(name):
    assert montage([name]).places[name] == montage(["Oz"]).places["Oz"]


@pytest.mark.parametrize("name", ["EEG 001", "E12", "voxel 3", "O1-O2", "B12", "A1", "A2", "", "MLC1", "MEG0111", "1"])
def test_other_names_have_no_place_and_are_no_error(name):
    found = montage([name, "Cz"])
    assert found.places[name] is None and found.unknown == [name] and found.places["Cz"] is not None


def test_numbers_of_helmets_make_no_difference_and_nothing_is_known_of_voxels():
    places = montage(["MLC11-1609", "MLC12-3305", "MLC13"]).places
    bare = montage(["MLC11", "MLC12", "MLC13"]).places
    assert list(places.values()) == list(bare.values())
    nothing = montage([f"voxel {i}" for i in range(9)])
    assert nothing.kind is None and len(nothing.unknown) == 9
    assert montage([]).kind is None


def test_channels_of_another_kind_than_most_have_no_place():
    meg = montage(["MLC11", "MLC12", "MRC11", "Oz"])
    assert meg.kind == "meg" and meg.unknown == ["Oz"]
    eeg = montage(["Oz", "O1", "O2", "MLC11"])
    assert eeg.kind == "eeg" and eeg.unknown == ["MLC11"]


def test_distance_from_the_vertex_is_the_polar_angle():
    places = montage(["Cz", "C3", "T7", "Pz", "Oz"]).places
    away = {name: math.hypot(*place) for name, place in places.items()}
    assert away["C3"] == pytest.approx(away["T7"] / 2, abs=0.08) and away["Pz"] == pytest.approx(0.5, abs=0.1)


def test_the_array_of_places_says_where_there_is_none():
    array = montage(["Oz", "x1"]).array(["x1", "Oz", "never"])
    assert np.isnan(array[[0, 2]]).all() and np.isfinite(array[1]).all() and array.shape == (3, 2)
