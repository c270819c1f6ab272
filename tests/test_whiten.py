import numpy as np
import pytest

from alignvis.errors import AlignvisError
from alignvis.recordings.whiten import covariance, whitener
from tests import slow_things_eeg2 as slow


def mixed(trials=20, channels=7, times=40, seed=0):
    rng = np.random.default_rng(seed)
    mixing = rng.standard_normal((channels, channels))
    return mixing @ rng.standard_normal((trials, channels, times)) + 3 * rng.standard_normal((trials, channels, 1))


def test_covariance_is_the_mean_of_scikit_learns_single_ones():
    trials = mixed()
    singly = [slow.shrunk(trial) for trial in trials]
    np.testing.assert_allclose(covariance(trials), np.mean(singly, axis=0), rtol=1e-12)


def test_more_channels_than_times_are_shrunk_until_they_can_be_inverted():
    trials = mixed(trials=1, channels=30, times=10)
    assert np.linalg.matrix_rank(np.cov(trials[0])) == 9
    assert np.linalg.eigvalsh(covariance(trials)).min() > 0
    np.testing.assert_allclose(covariance(trials), slow.shrunk(trials[0]), rtol=1e-12)


def test_shrinkage_by_hand():
    # z1 = (1, 1, -1, -1), z2 = (1, 1, 1, -3) / sqrt(3), so they correlate by 1 / sqrt(3), d = (8/3 - 2) / 2 = 1/3;
    # mean_t |z_t|^4 = (3 (4/3)^2 + 4^2) / 4 = 16/3, so b = (16/3 - 8/3) / 8 = 1/3 and a = 1: all of it is shrunk away.
    trial = np.array([[[2.0, 2, -2, -2], [1, 1, 1, -3]]])
    np.testing.assert_allclose(covariance(trial), [[4, 0], [0, 3]], atol=1e-14)
    # The same correlation over a hundred times as many samples: a hundredth of the shrinkage.
    np.testing.assert_allclose(covariance(np.tile(trial, 100))[0, 1], 0.99 * 2, rtol=1e-12)


def test_one_channel_has_its_plain_variance():
    trials = mixed(channels=1)
    np.testing.assert_allclose(covariance(trials), [[trials.var(axis=2).mean()]])


def test_the_unit_cancels():
    trials = mixed()
    volts = 1e-6 * trials
    names = list("abcdefg")
    a = whitener(covariance(trials), names) @ trials
    b = whitener(covariance(volts), names) @ volts
    np.testing.assert_allclose(a, b, rtol=1e-9)


def test_single_precision_input_is_summed_in_double_precision():
    trials = mixed().astype(np.float32)
    np.testing.assert_array_equal(covariance(trials), covariance(trials.astype(np.float64)))


def test_channel_stuck_for_one_trial_adds_nothing_to_it():
    trials = mixed(trials=1, channels=3)
    trials[0, 1] = 0.1 * (1 + np.finfo(float).eps * np.tile([0, 1], 20))  # one value, but for its rounding
    stuck = covariance(trials)
    assert abs(stuck[1, 1]) < 1e-30 and np.abs(stuck[1]).max() < 1e-15
    # S has a zero row then, so m = tr(S) / p is 2/3 and not 1.
    z = (trials[0] - trials[0].mean(axis=1, keepdims=True)) / trials[0].std(axis=1, keepdims=True)
    z[1] = 0
    s = z @ z.T / 40
    d = ((s**2).sum() - 4 / 3) / 3
    a = min((((z**2).sum(axis=0) ** 2).mean() - (s**2).sum()) / 120, d) / d
    np.testing.assert_allclose(stuck[0, 0], trials[0, 0].var() * ((1 - a) + a * 2 / 3), rtol=1e-12)


def test_whitened_noise_is_white():
    noise = covariance(mixed(trials=200))
    whiten = whitener(noise, list("abcdefg"))
    np.testing.assert_allclose(whiten @ noise @ whiten, np.eye(7), atol=1e-11)
    np.testing.assert_allclose(whiten, whiten.T, atol=1e-14)
    assert np.linalg.eigvalsh(whiten).min() > 0  # the symmetric root: no channel changes its sign or its place


@pytest.mark.parametrize("value", [0.0, 1e-22])
def test_dead_channel_is_named(value):
    trials = mixed()
    trials[:, 2] = value * np.random.default_rng(0).standard_normal((20, 40))
    with pytest.raises(AlignvisError, match="channel c is dead"):
        whitener(covariance(trials), list("abcdefg"))


def test_a_channel_that_copies_another_is_named():
    noise = np.cov(mixed(trials=1, times=1000)[0])
    noise[4], noise[:, 4] = noise[3].copy(), noise[:, 3].copy()
    noise[4, 4] = noise[3, 3]
    with pytest.raises(AlignvisError, match="channel [de] is dead or a copy"):
        whitener(noise, list("abcdefg"))


def test_a_very_quiet_channel_is_no_dead_one():
    trials = mixed(channels=2) * np.array([[1.0], [1e-5]])  # an eigenvalue ratio of about 1e-10
    whitened = whitener(covariance(trials), ["a", "b"]) @ trials
    np.testing.assert_allclose(whitened.std(axis=2).mean(axis=0), 1, atol=0.2)


def test_a_variance_that_is_no_number_names_its_channel():
    with pytest.raises(AlignvisError, match="channel b is too large"):
        whitener(np.array([[1.0, 0.0], [0.0, np.inf]]), ["a", "b"])
