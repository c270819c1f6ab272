import mne
import numpy as np
import pytest

from alignvis.recordings.resample import fft_resampler, sample_times


@pytest.mark.parametrize(
    ("length", "old", "new"),
    [(1201, 1000, 250), (1001, 1000, 100), (501, 1000, 512), (37, 200, 61.5), (2000, 500, 128)],
)
def test_the_matrix_is_what_mne_does(length, old, new):
    signals = np.random.default_rng(0).standard_normal((3, length)).cumsum(axis=1)
    expected = mne.filter.resample(signals, new, old, npad="auto", pad="edge", verbose=False)
    np.testing.assert_allclose(signals @ fft_resampler(length, old, new), expected, atol=1e-11 * np.abs(signals).max())


def test_a_constant_stays_what_it_is():
    np.testing.assert_allclose(np.ones(1201) @ fft_resampler(1201, 1000, 250), 1, atol=1e-12)


def test_published_sizes():
    assert fft_resampler(1201, 1000, 250).shape == (1201, 300)
    assert fft_resampler(1001, 1000, 100).shape == (1001, 100)


@pytest.mark.parametrize(("length", "new"), [(1201, 250), (1001, 100)])
def test_values_are_those_of_the_times_stated(length, new):
    # A slow sine that is flat at both ends, so that padding with edges changes nothing.
    def signal(seconds):
        return np.sin(2 * np.pi * 7 * seconds) * np.exp(-(((seconds - length / 2000) / 0.12) ** 2))

    values = signal(np.arange(length) / 1000) @ fft_resampler(length, 1000, new)
    times = sample_times(length, 1000, new)
    np.testing.assert_allclose(values, signal(times), atol=1e-5)
    assert np.abs(values - signal(np.arange(len(values)) / new)).max() > 0.02  # the nominal times are not the true ones


def test_published_shifts():
    np.testing.assert_allclose(sample_times(1201, 1000, 250) - np.arange(300) / 250, 0.001, atol=1e-12)
    at_100 = sample_times(1001, 1000, 100)
    np.testing.assert_allclose(at_100, -0.0035 + np.arange(100) * 0.00999, atol=1e-4)
