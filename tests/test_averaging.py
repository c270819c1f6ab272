import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.signal import butter, sosfiltfilt

from alignvis import averaging, store
from alignvis.averaging import average, band_pass, chosen_channels, chosen_times, shape_of, times_of, unit_repetitions
from alignvis.channels import is_occipital
from alignvis.errors import AlignvisError
from alignvis.recipe import Recipe
from alignvis.recordings.brain import ELECTRODES
from tests.tables import CHANNELS, image_ids, write_responses

IDS = image_ids(20, 10), image_ids(3, 1, "test_images")
NONE, PUBLISHED = Recipe(normalisation="none"), Recipe()


def table(tmp_path, train: np.ndarray | None = None, repetitions: int = 2, **document):
    rng = np.random.default_rng(0)
    train = rng.standard_normal((200, repetitions, 3, 6)) if train is None else train
    return store.load_responses(
        write_responses(tmp_path / "r", train, rng.standard_normal((3, 4, *train.shape[2:])), IDS, **document)
    )


def few(
    tmp_path, channels=("Fp1", "O1", "Cz", "POz"), times: int = 40, images: int = 5, repetitions: int = 3, **stated
):
    """A table of a few images, whose values are far from symmetric in every axis."""
    train = np.random.default_rng(7).standard_normal((images, repetitions, len(channels), times)) + 0.5
    train *= 1 + np.arange(len(channels))[:, None]
    ids = image_ids(1, images), image_ids(3, 1, "test_images")
    path = write_responses(tmp_path / "few", train, train[:3, :1], ids, channels=list(channels), **stated)
    return store.load_responses(path), train.astype("f4").astype("f8")


def averaged(responses, **options) -> np.ndarray:
    return average(responses, "train", replace(NONE, **options), lambda x: x).numpy()


def gauss(x: np.ndarray, sigma: float) -> np.ndarray:
    """Smooth the last axis by the sum that a Gaussian is, cut off at four deviations, ends held."""
    reach = int(4 * sigma + 0.5)
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    places = np.arange(x.shape[-1])[:, None] + np.arange(-reach, reach + 1)
    return (x[..., places.clip(0, x.shape[-1] - 1)] * (weights / weights.sum())).sum(axis=-1)


def test_repetitions_are_normalised_as_published():
    x = torch.from_numpy(np.random.default_rng(1).standard_normal((2, 3, 4, 50)).astype("f4") + 2)
    ours = unit_repetitions(x)
    for one, wanted in zip(ours.reshape(-1, 50).numpy(), x.reshape(-1, 50).numpy(), strict=True):
        np.testing.assert_allclose(one, (wanted - wanted.mean()) / np.sqrt((wanted**2).sum()), rtol=1e-4, atol=1e-6)
    for unit in (1e-6, 1e-13, 1000.0):  # volts and teslas are small numbers, whose squares still are numbers
        torch.testing.assert_close(unit_repetitions(unit * x), ours, rtol=1e-4, atol=1e-6)
    assert not unit_repetitions(torch.zeros(1, 1, 1, 5)).any()


@pytest.mark.parametrize("repetitions", [1, 2, 5])
def test_the_mean_is_over_repetitions_and_over_nothing_else(tmp_path, repetitions, monkeypatch):
    monkeypatch.setattr(averaging, "CHUNK", 64)  # not a divisor of 200
    responses = table(tmp_path, repetitions=repetitions)
    plain = average(responses, "train", NONE, lambda x: x)
    np.testing.assert_allclose(plain.numpy(), np.asarray(responses.train).mean(axis=1), rtol=1e-5, atol=1e-6)
    first = average(responses, "train", PUBLISHED, lambda x: x)
    np.testing.assert_allclose(
        first.numpy(), unit_repetitions(torch.tensor(responses.train)).mean(dim=1).numpy(), rtol=1e-5, atol=1e-6
    )
    assert average(responses, "test", NONE, lambda x: x.flatten(1)).shape == (3, 18)


def test_however_few_images_memory_holds_the_result_is_the_same(tmp_path, monkeypatch):
    responses = table(tmp_path, repetitions=3)
    read, original = [], averaging._read
    monkeypatch.setattr(
        averaging, "_read", lambda array, rows, *rest: read.append(len(rows)) or original(array, rows, *rest)
    )
    whole = average(responses, "train", PUBLISHED, lambda x: x, apart=True)
    assert read == [len(responses.train)]
    monkeypatch.setattr(averaging, "BYTES", 7 * 4 * responses.train[0].size)
    assert torch.equal(average(responses, "train", PUBLISHED, lambda x: x, apart=True), whole)
    assert max(read[1:]) == 7
    monkeypatch.setattr(averaging, "BYTES", 1)
    assert torch.equal(average(responses, "train", PUBLISHED, lambda x: x, apart=True), whole)


def test_the_four_normalisations_by_hand(tmp_path):
    """One channel of two repetitions: (3, 4, 5) and (0, 4, 8)."""
    train = np.broadcast_to(np.array([[[3.0, 4, 5]], [[0.0, 4, 8]]]), (200, 2, 1, 3)).copy()
    responses = table(tmp_path, train, channels=["Oz"])
    side = 1 / 2**0.5
    expected = {
        "none": [1.5, 4, 6.5],
        "repetition": (np.array([-1, 0, 1]) / 50**0.5 + np.array([-4, 0, 4]) / 80**0.5) / 2,
        "repetition-centred": [-side, 0, side],
        "mean": [-side, 0, side],
    }
    for name, values in expected.items():
        np.testing.assert_allclose(averaged(responses, normalisation=name)[0, 0], values, rtol=1e-5, atol=1e-6)
    train[:, 1] = [8, 4, 0]  # repetitions that contradict each other: only the mean of the two is made large again
    responses = table(tmp_path, train, channels=["Oz"])
    np.testing.assert_allclose(averaged(responses, normalisation="repetition-centred")[0, 0], [0, 0, 0], atol=1e-6)
    np.testing.assert_allclose(averaged(responses, normalisation="mean")[0, 0], [side, 0, -side], atol=1e-6)


@pytest.mark.parametrize("normalisation", ["repetition-centred", "mean"])
def test_a_flat_repetition_is_nothing(tmp_path, normalisation):
    train = np.random.default_rng(0).standard_normal((200, 2, 3, 7))
    train[5, :, 1] = 103.3
    ours = averaged(table(tmp_path, train), normalisation=normalisation)
    np.testing.assert_allclose(ours[5, 1], 0, atol=0.1)


def test_what_each_normalisation_does_not_depend_on(tmp_path):
    responses, train = few(tmp_path, channels=("O1", "Oz", "O2"))
    scaled = table(tmp_path, np.resize(3 * train, (200, *train.shape[1:])))
    shifted = table(tmp_path / "s", np.resize(train + 7, (200, *train.shape[1:])))
    for name, scale_free, offset_free in [
        ("none", False, False), ("repetition", True, False), ("repetition-centred", True, True), ("mean", True, True),
    ]:  # fmt: skip
        plain, times_3, plus_7 = (averaged(t, normalisation=name)[:5] for t in (responses, scaled, shifted))
        assert np.allclose(plain, times_3, atol=1e-5) is scale_free, name
        assert np.allclose(plain, plus_7, atol=1e-5) is offset_free, name
    norms = np.linalg.norm(averaged(responses, normalisation="mean"), axis=-1)
    np.testing.assert_allclose(norms, 1, rtol=1e-5)


def test_channels_are_found_by_name_and_come_in_the_order_asked_for(tmp_path):
    responses, train = few(tmp_path)
    for wanted, places in {
        "all": [0, 1, 2, 3],
        "occipital": [1, 3],
        "POz,Fp1": [3, 0],
        "Cz": [2],
        "POz,Fp1,Cz,O1": [3, 0, 2, 1],
        " Cz , O1,Cz": [2, 1],
    }.items():
        assert chosen_channels(responses, wanted) == places
        np.testing.assert_allclose(averaged(responses, channels=wanted), train.mean(axis=1)[:, places], atol=1e-5)
        assert shape_of(responses, replace(NONE, channels=wanted)) == (len(places), 40)


def test_the_occipital_channels_of_things_eeg2_are_the_published_17(tmp_path):
    responses, _ = few(tmp_path, channels=ELECTRODES)
    expected = "Pz P3 P7 O1 Oz O2 P4 P8 P1 P5 PO7 PO3 POz PO4 PO8 P6 P2".split()
    assert sorted(ELECTRODES[place] for place in chosen_channels(responses, "occipital")) == sorted(expected)


def test_the_occipital_sensors_of_meg_are_those_whose_third_letter_is_o(tmp_path):
    names = "MLO11-1609 MZO01-1609 MLP12-1609 MRO53 MRC15-1609 MLOX1 O1".split()
    assert [name for name in names if is_occipital(name)] == ["MLO11-1609", "MZO01-1609", "MRO53", "O1"]
    responses, _ = few(tmp_path, channels=("MLP12-1609", "MRO53-1609", "MZC01-1609"))
    assert chosen_channels(responses, "occipital") == [1]


def test_channels_that_are_not_there_are_refused(tmp_path):
    responses, _ = few(tmp_path)
    with pytest.raises(AlignvisError, match="no channel called 'o1'; it has Fp1, O1, Cz, POz"):
        averaged(responses, channels="Cz,o1")
    frontal, _ = few(tmp_path, channels=("Fp1", "Cz"))
    with pytest.raises(AlignvisError, match="no channel with an occipital name"):
        averaged(frontal, channels="occipital")


@pytest.mark.parametrize("rate", [100.0, 250.0, 256.0, 1000.0])
@pytest.mark.parametrize("first", [-200, -13, 0, 5])
def test_a_window_includes_its_start_and_not_its_end(tmp_path, rate, first):
    """Samples lie at k / rate for whole k, here asked for by the very numbers at which they were taken."""
    responses, train = few(tmp_path, times=300, images=3, sfreq=rate, tmin=first / rate)
    for start, end in [(0, 1), (3, 40), (7, 71), (290, 300)]:
        window = f"{(first + start) / rate}:{(first + end) / rate}"
        assert chosen_times(responses, window) == slice(start, end), window
        np.testing.assert_allclose(averaged(responses, window=window), train.mean(axis=1)[..., start:end], atol=1e-5)
        assert shape_of(responses, replace(NONE, window=window)) == (4, end - start)
    between = f"{(first + 2.5) / rate}:{(first + 4.5) / rate}"
    assert chosen_times(responses, between) == slice(3, 5)
    assert chosen_times(responses, "-99:99") == chosen_times(responses, "all") == slice(0, 300)


def test_a_window_that_cannot_be_had_is_refused(tmp_path):
    responses, _ = few(tmp_path, sfreq=100.0, tmin=-0.1)
    for window in ("0.3:0.5", "-1.0:-0.1", "0.001:0.009"):
        with pytest.raises(AlignvisError, match=f"no sample in --window {window}: it goes from -0.1 to 0.29 s"):
            averaged(responses, window=window)
    for stated in ({"sfreq": None}, {"tmin": None}, {"sfreq": 0}, {"sfreq": -100.0}, {"sfreq": "100"}, {"tmin": []}):
        responses, _ = few(tmp_path, **stated)
        with pytest.raises(
            AlignvisError,
            match="does not say when its samples were taken; leave --window",
        ):
            averaged(responses, window="0:0.2")


@pytest.mark.parametrize("times", [1, 2, 7, 40, 41, 100])
def test_resampling_is_numpys_interpolation_with_both_ends_kept(tmp_path, times):
    responses, train = few(tmp_path)
    ours = averaged(responses, resample=times)
    places = np.linspace(0, 39, times)
    for image, channel in np.ndindex(5, 4):
        expected = np.interp(places, np.arange(40), train.mean(axis=1)[image, channel])
        np.testing.assert_allclose(ours[image, channel], expected, rtol=1e-4, atol=1e-5)
    assert ours.shape == (5, 4, times)
    assert shape_of(responses, replace(NONE, resample=times)) == (4, times)


def test_smoothing_is_a_gaussian_sum_of_so_many_milliseconds(tmp_path):
    for rate, sigma in ((100.0, 2.0), (250.0, 5.0), (1000.0, 20.0)):  # samples in 20 ms
        responses, train = few(tmp_path, sfreq=rate)
        ours = averaged(responses, smoothing=20.0)
        np.testing.assert_allclose(ours, gauss(train, sigma).mean(axis=1), rtol=1e-4, atol=1e-5)
        assert not np.allclose(ours, train.mean(axis=1), atol=0.1)


def test_responses_are_smoothed_before_the_window_is_cut(tmp_path):
    """What is smoothed first knows of the samples beside the window; otherwise its ends would repeat themselves."""
    responses, train = few(tmp_path, sfreq=100.0, tmin=-0.1)
    ours = averaged(responses, smoothing=20.0, window="0:0.1")
    np.testing.assert_allclose(ours, gauss(train, 2.0).mean(axis=1)[..., 10:20], rtol=1e-4, atol=1e-5)
    assert not np.allclose(ours, gauss(train[..., 10:20], 2.0).mean(axis=1), atol=0.05)


@pytest.mark.parametrize(("low", "high"), [(8, 13), (30, 45), (0, 20), (20, 45), (20, 60)])
def test_a_band_is_kept_and_what_lies_outside_is_not(low, high):
    """Sines of 3 to 47 Hz through the filter, in their middle: the gain that order 4, twice, has in theory."""
    rate, time = 100.0, np.arange(1000) / 100
    for frequency in (3, 10.2, 25, 35, 47):
        phases = np.array([0.3, 1.7])[:, None]
        sine = np.sin(2 * np.pi * frequency * time + phases)
        kept = band_pass(sine[None, None], low, high, rate)[0, 0]
        ends = [edge for edge in (low, high) if 0 < edge < 50]
        warped, edges = np.tan(np.pi * frequency / rate), [np.tan(np.pi * edge / rate) for edge in ends]
        if len(edges) == 2:
            away = (warped**2 - edges[0] * edges[1]) / (warped * (edges[1] - edges[0]))
        else:
            away = warped / edges[0] if not low else edges[0] / warped
        gain = 1 / (1 + away**8)
        np.testing.assert_allclose(kept[:, 300:700], gain * sine[:, 300:700], atol=2e-3)  # no shift in time either


def test_a_band_is_scipys_filter_with_one_cycle_of_padding():
    x = np.random.default_rng(0).standard_normal((3, 2, 4, 250)).astype("f4")
    for low, high, padding in ((8, 13, 32), (0.5, 4, 249), (4, 8, 63)):
        filters = butter(4, (low, high), "bandpass", fs=250, output="sos")
        expected = sosfiltfilt(filters, x.astype("f8"), axis=-1, padtype="odd", padlen=padding)
        np.testing.assert_allclose(band_pass(x, low, high, 250.0), expected, atol=1e-5)
    assert band_pass(x, 0, 125, 250.0) is not None and np.array_equal(band_pass(x, 0, 125, 250.0), x)  # everything


def test_responses_are_filtered_before_the_window_is_cut(tmp_path):
    responses, train = few(tmp_path, sfreq=100.0, tmin=-0.1)
    filters = butter(4, (8, 20), "bandpass", fs=100, output="sos")
    expected = sosfiltfilt(filters, train, axis=-1, padlen=13).mean(axis=1)[..., 10:20]
    np.testing.assert_allclose(averaged(responses, band="8:20", window="0:0.1"), expected, atol=1e-5)
    smooth = gauss(sosfiltfilt(filters, train, axis=-1, padlen=13), 2.0).mean(axis=1)
    np.testing.assert_allclose(averaged(responses, band="8:20", smoothing=20.0), smooth, atol=1e-4)


def test_a_band_that_cannot_be_had_is_refused(tmp_path):
    responses, _ = few(tmp_path, sfreq=100.0)  # 0.4 s
    for band, why in {
        "48:60": "samples at 100 Hz hold nothing above 50 Hz",
        "0.5:4": "0.4 s are less than one cycle of 1.41 Hz",
        "0:2": "0.4 s are less than one cycle of 2 Hz",
    }.items():
        with pytest.raises(AlignvisError, match=f"--band {band} cannot be cut out of the responses in .*: {why}"):
            averaged(responses, band=band)
    assert averaged(responses, band="2:4").shape == averaged(responses, band="47:60").shape == (5, 4, 40)
    responses, _ = few(tmp_path, sfreq=None)
    with pytest.raises(AlignvisError, match="does not say when its samples were taken; leave .*--band"):
        averaged(responses, band="8:13")


def test_the_times_of_what_an_encoder_is_fed(tmp_path):
    responses, _ = few(tmp_path, sfreq=100.0, tmin=-0.1)
    np.testing.assert_allclose(times_of(responses, NONE), np.arange(-10, 30) / 100, atol=1e-12)
    np.testing.assert_allclose(times_of(responses, replace(NONE, window="0:0.1")), np.arange(10) / 100, atol=1e-12)
    cut = replace(NONE, window="0:0.1", resample=4)
    np.testing.assert_allclose(times_of(responses, cut), [0, 0.03, 0.06, 0.09], atol=1e-12)


@pytest.mark.parametrize("rate", [None, 0, -5.0, "100"])
def test_smoothing_needs_to_know_the_sampling_rate(tmp_path, rate):
    responses, _ = few(tmp_path, sfreq=rate)
    with pytest.raises(AlignvisError, match="does not say when its samples were taken; leave .*--smoothing out"):
        averaged(responses, smoothing=20.0)


def test_everything_at_once_in_the_order_that_is_promised(tmp_path, monkeypatch):
    monkeypatch.setattr(averaging, "CHUNK", 2)
    responses, train = few(tmp_path, sfreq=250.0, tmin=-0.02)
    recipe = Recipe(smoothing=8.0, channels="POz,O1", window="0:0.1", resample=13, normalisation="repetition-centred")
    x = gauss(train, 2.0)[:, :, [3, 1], 5:30]
    x = np.apply_along_axis(lambda y: np.interp(np.linspace(0, 24, 13), np.arange(25), y), -1, x)
    x = x - x.mean(axis=-1, keepdims=True)
    x = x / np.linalg.norm(x, axis=-1, keepdims=True)
    ours = average(responses, "train", recipe, lambda x: 10 * x)
    np.testing.assert_allclose(ours.numpy(), 10 * x.mean(axis=1), rtol=1e-3, atol=1e-4)
    apart = average(responses, "train", recipe, lambda x: 10 * x.flatten(1), apart=True)
    np.testing.assert_allclose(apart.numpy(), 10 * x.reshape(5, 3, -1), rtol=1e-3, atol=1e-4)


def test_rows_come_in_the_order_asked_for_and_fill_what_they_are_given(tmp_path, monkeypatch):
    monkeypatch.setattr(averaging, "CHUNK", 2)
    responses, train = few(tmp_path)
    given, asked, told = torch.full((3, 4, 40), torch.nan), [], []

    def into(*shape):
        asked.append(shape)
        return given

    result = average(
        responses, "train", NONE, lambda x: x, rows=[4, 0, 2], into=into, progress=lambda *what: told.append(what[:2])
    )
    assert result is given and asked == [(3, 4, 40)] and told == [(2, 3), (3, 3)]
    np.testing.assert_allclose(given.numpy(), train.mean(axis=1)[[4, 0, 2]], atol=1e-5)
    apart = average(responses, "train", NONE, lambda x: x, rows=[1], apart=True)
    np.testing.assert_allclose(apart.numpy(), train[[1]], rtol=1e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_value_that_is_not_finite_is_named(tmp_path, value):
    train = np.ones((200, 2, 3, 6))
    train[130, 1, 2, 4] = value
    with pytest.raises(
        AlignvisError, match=f"train response to '{IDS[0][130]}' is not finite in channel {CHANNELS[2]}"
    ):
        average(table(tmp_path, train), "train", NONE, lambda x: x)
    with pytest.raises(AlignvisError, match=f"response to '{IDS[0][130]}' is not finite in channel {CHANNELS[2]}"):
        average(table(tmp_path, train), "train", replace(NONE, channels="O1,O2"), lambda x: x, rows=[0, 130])
    assert averaged(table(tmp_path, train), channels="Oz,O1").shape == (200, 2, 6)  # as that sentence advises


def test_a_dead_channel_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(averaging, "CHUNK", 64)
    train = np.random.default_rng(0).standard_normal((200, 2, 3, 6))
    train[:, :, 1] = 0
    train[64:, :, 0] = 0  # flat in some trials only, which is no dead channel
    train[::2, :, 2] = 0
    with pytest.raises(AlignvisError, match="channel Oz is zero in every train response"):
        average(table(tmp_path, train), "train", PUBLISHED, lambda x: x)
    assert averaged(table(tmp_path, train), channels="O2,O1").shape == (200, 2, 6)


def test_one_time_cannot_be_normalised_over_time(tmp_path):
    with pytest.raises(AlignvisError, match="one time a response"):
        average(table(tmp_path, np.ones((200, 2, 3, 1))), "train", PUBLISHED, lambda x: x)
    longer, _ = few(tmp_path, sfreq=100.0)
    for options in ({"resample": 1}, {"window": "0:0.01"}):
        with pytest.raises(AlignvisError, match=f"{re.escape(str(longer.path))} has one time a response"):
            average(longer, "train", replace(PUBLISHED, **options), lambda x: x)
    assert averaged(longer, window="0:0.01").shape == (5, 4, 1)


@pytest.mark.parametrize("normalisation", ["repetition", "repetition-centred", "mean"])
@pytest.mark.parametrize("unit", [1e-15, 1e-6, 1e20])
def test_the_unit_cancels_however_odd_it_is(tmp_path, normalisation, unit):
    """Squares of tesla vanish in single precision, and squares of 1e20 overflow."""
    train = np.random.default_rng(0).standard_normal((200, 2, 3, 7))
    plain = averaged(table(tmp_path, train), normalisation=normalisation)
    odd = averaged(table(tmp_path / "odd", train * unit), normalisation=normalisation)
    np.testing.assert_allclose(odd, plain, rtol=1e-4, atol=1e-6)


def test_of_one_time_nothing_is_interpolated_or_smoothed(tmp_path):
    for change in ({"resample": 100}, {"smoothing": 5.0}):
        with pytest.raises(
            AlignvisError, match="one time a response, of which --resample and --smoothing make nothing"
        ):
            averaged(table(tmp_path, np.ones((200, 2, 3, 1))), normalisation="none", **change)


def test_smoothing_over_more_than_a_response_is_refused(tmp_path):
    responses, _ = few(tmp_path, sfreq=100.0)
    with pytest.raises(AlignvisError, match="--smoothing 1e.09 ms is longer than a response"):
        averaged(responses, smoothing=1e9)
