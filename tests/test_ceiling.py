import dataclasses

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view
from scipy.linalg import toeplitz
from scipy.special import ndtr

from alignvis.recordings import ceiling as module
from alignvis.recordings.brain import ELECTRODES, GAIN, KERNEL, RESPONSE, _place, drives, make_brain, record
from alignvis.recordings.ceiling import best_reading, ceiling, epoch_matrix
from alignvis.recordings.eeg2_files import CHANNELS


def brain(noise=6.0, amplitude=2.0, factors=6, seed=1):
    return make_brain(factors, noise, amplitude, np.random.default_rng(seed))


def behind(model):
    """The same brain under ten electrodes, to be quicker."""
    kept = [ELECTRODES.index(name) for name in "CPz P3 Pz P4 PO7 POz PO8 O1 Oz O2".split()]
    covariance = (model.mixing @ model.mixing.T)[np.ix_(kept, kept)]
    return dataclasses.replace(model, patterns=model.patterns[:, kept], mixing=np.linalg.cholesky(covariance))


def latents(pictures, factors=6, seed=2):
    return np.random.default_rng(seed).standard_normal((pictures, factors))


def shown(model, latent, sequences, seed):
    """A recording of random sequences, cut into prepared epochs: codes (trials,) and (trials, channels, times)."""
    generator = np.random.default_rng(seed)
    codes = generator.permutation(np.resize(np.arange(len(latent)), 20 * sequences))
    onsets = (500 + 5500 * np.arange(sequences)[:, None] + 200 * np.arange(20)).ravel()
    data = np.concatenate(list(record(model, onsets, drives(latent[codes]), 5500 * sequences, generator)), axis=1)
    windows = sliding_window_view(data, 1201, axis=1)[:, onsets - 200]
    return codes, (windows @ epoch_matrix().astype(np.float32)).transpose(1, 0, 2)


# --- the brain ---


def test_electrodes_are_those_of_the_recordings_and_lie_on_a_head():
    assert sorted(ELECTRODES) == sorted(CHANNELS) and len(ELECTRODES) == 63
    places = {name: _place(name) for name in ELECTRODES}
    assert len(set(places.values())) == 63
    assert (places["Oz"], places["O1"], places["T8"], places["Fp2"]) == ((0, 8), (-1, 8), (4, 4), (1, 0))
    assert ELECTRODES[:4] == ["Fp1", "F3", "F7", "FT9"] and ELECTRODES[-1] == "AF8"


def test_factors_are_answered_between_50_and_450_ms_and_strongest_behind():
    model = brain(factors=300)
    assert model.courses.shape == (303, RESPONSE)
    assert np.abs(model.courses[3:, :20]).max() < 0.01 and np.abs(model.courses[3:, 450:]).max() < 0.01
    np.testing.assert_allclose(model.courses.max(axis=1), 1, atol=1e-3)
    np.testing.assert_allclose(np.abs(model.patterns[3:]).max(axis=1), 2.0)
    strength = np.abs(model.patterns[3:]).mean(axis=0)
    back = np.array([name[0] in "PO" for name in ELECTRODES])
    ahead = np.array([name[0] in "FA" and name[:2] not in ("FC", "FT") for name in ELECTRODES])
    assert strength[back].mean() > 5 * strength[ahead].mean()


def test_noise_has_the_stated_size_spectrum_and_spread():
    model = brain(noise=6.0)
    samples = 280_000
    none = np.zeros(0, np.int64)
    data = np.concatenate(list(record(model, none, np.zeros((0, 9)), samples, np.random.default_rng(0))), axis=1)
    assert data.shape == (63, samples)
    np.testing.assert_allclose(data.std(axis=1), 6.0, rtol=0.2)
    assert data.std() == pytest.approx(6.0, rel=0.03)
    # Power falls as 1/f: equal in every octave.
    spectrum = np.abs(np.fft.rfft(data[:, : 2**18], axis=1)) ** 2
    frequency = np.fft.rfftfreq(2**18, 1e-3)
    octaves = [spectrum[:, (frequency >= low) & (frequency < 2 * low)].sum() for low in (1, 4, 16, 64, 200)]
    np.testing.assert_allclose(octaves, np.mean(octaves), rtol=0.15)
    near, far = (
        np.corrcoef(data[ELECTRODES.index("O1")], data[ELECTRODES.index(name)])[0, 1] for name in ("Oz", "Fp2")
    )
    assert near == pytest.approx(np.exp(-1 / (2 * 1.2**2)) / 1.1, abs=0.05) and abs(far) < 0.1


def test_recording_does_not_depend_on_where_it_is_cut_into_blocks():
    model = dataclasses.replace(brain(), mixing=np.zeros((63, 63)))  # only the responses, which are no matter of chance
    onsets = np.arange(300, 59_000, 200)
    strength = drives(latents(len(onsets)))
    parts = [
        np.concatenate(list(record(model, onsets, strength, 60_000, np.random.default_rng(0), block)), axis=1)
        for block in (2**15, 2**16)
    ]
    np.testing.assert_allclose(parts[0], parts[1], atol=1e-4)
    # The slow twin: one response after the other.
    generator = np.random.default_rng(0)
    gain = np.exp(GAIN * generator.standard_normal(len(onsets)))
    shift = np.rint(4 * generator.standard_normal(len(onsets))).astype(int)
    slow = np.zeros((63, 61_000))
    for onset, late, factor, row in zip(onsets, shift, gain, strength, strict=True):
        slow[:, onset + late : onset + late + RESPONSE] += factor * (model.patterns.T * row) @ model.courses
    np.testing.assert_allclose(parts[0], slow[:, :60_000], atol=1e-3)


# --- the reading ---


def test_epoch_takes_off_the_baseline_and_keeps_one_second():
    time = np.arange(-200, 1001) / 1000
    matrix = epoch_matrix()
    assert matrix.shape == (1201, 250)
    np.testing.assert_allclose(np.ones(1201) @ matrix, 0, atol=1e-12)
    ramp = np.sin(2 * np.pi * 3 * time)
    kept = (np.arange(250) * 4 + 1) / 1000  # mne's resampling is late by 1 ms
    expected = np.sin(2 * np.pi * 3 * kept) - ramp[:201].mean()
    np.testing.assert_allclose((ramp @ matrix)[:230], expected[:230], atol=0.01)


def test_reading_is_generalised_least_squares_written_out():
    """The slow twin: the whole covariance of three channels, inverted."""
    small = behind(brain(noise=2.0))
    small = dataclasses.replace(small, patterns=small.patterns[:, 6:9], mixing=small.mixing[6:9, 6:9])
    latent = latents(30)
    reading = best_reading(small, latent)
    space, time = module._responses(small)
    responses = np.einsum("dc,dt->dct", space, time).reshape(len(space), -1)
    mean, spread = module._strengths(latent)
    lagged = np.correlate(small.kernel, small.kernel, "full")[KERNEL - 1 :][:1201]
    temporal = epoch_matrix().T @ toeplitz(lagged) @ epoch_matrix()
    covariance = np.kron(small.mixing @ small.mixing.T, temporal) + responses.T @ spread @ responses
    signal = np.exp(GAIN**2 / 2) * responses[3 * 2 * 9 + 3 : 3 * 2 * 9 + 9]  # the fourth lag is the picture itself
    information = signal @ np.linalg.solve(covariance, signal.T)
    np.testing.assert_allclose(reading.covariance, np.linalg.inv(information), rtol=1e-6)
    weights = np.linalg.solve(information, np.linalg.solve(covariance, signal.T).T)
    np.testing.assert_allclose(reading.weights.reshape(6, -1), weights, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(reading.mean.ravel(), mean @ responses, atol=1e-9)


def test_average_epoch_is_known_to_its_end():
    model, latent = behind(brain(noise=0.01)), latents(40)
    latent -= latent.mean(axis=0)
    expected = best_reading(model, latent).mean
    _, epochs = shown(model, latent, 100, seed=5)
    np.testing.assert_allclose(epochs.mean(axis=0), expected, atol=0.1)
    assert np.ptp(expected[-1]) > 3


@pytest.mark.parametrize("noise", [1.0, 6.0])  # where neighbours, and where noise limits the reading
def test_reading_errs_as_it_says(noise):
    model, latent = behind(brain(noise)), latents(40)
    reading = best_reading(model, latent)
    codes, epochs = shown(model, latent, 150, seed=3)
    read = np.einsum("kct,nct->nk", reading.weights, epochs - reading.mean, optimize=True)
    error = read - latent[codes]
    predicted = reading.covariance
    # n = 3000 trials in bursts: a mean is known to about 4 %, a variance to about 4 % of itself.
    np.testing.assert_allclose(error.mean(axis=0) / np.sqrt(predicted.diagonal()), 0, atol=0.12)
    np.testing.assert_allclose(error.var(axis=0), predicted.diagonal(), rtol=0.15)
    slope = [np.polyfit(latent[codes][:, factor], read[:, factor], 1)[0] for factor in range(6)]
    np.testing.assert_allclose(slope, 1, atol=0.15)


@pytest.mark.parametrize("repetitions", [1, 4])
def test_oracle_reaches_the_ceiling_and_does_not_pass_it(repetitions):
    model, latent = behind(brain(noise=6.0)), latents(50)
    known = ceiling(model, latent, repetitions, np.random.default_rng(0))
    reading = best_reading(model, latent)
    codes, epochs = shown(model, latent, 160, seed=4)
    read = np.einsum("kct,nct->nk", reading.weights, epochs - reading.mean, optimize=True)
    precision = np.linalg.inv(reading.covariance)
    hits, pairs = [], []
    for picture in range(50):
        trials = read[codes == picture]
        trials = trials[: len(trials) // repetitions * repetitions].reshape(-1, repetitions, 6).mean(axis=1)
        away = trials[:, None] - latent
        distance = np.einsum("nik,kl,nil->ni", away, precision, away)
        hits += (distance.argmin(axis=1) == picture).tolist()
        pairs += ((distance > distance[:, [picture]]).sum(axis=1) / 49).tolist()
    assert 0.1 < known["top1"] < 0.9
    assert abs(np.mean(hits) - known["top1"]) < 3 * np.std(hits) / np.sqrt(len(hits)) + 3 * known["top1_error"]
    assert abs(np.mean(pairs) - known["pairwise"]) < 3 * np.std(pairs) / np.sqrt(len(pairs))


# --- the ceiling ---


def test_of_two_pictures_top1_is_the_pairwise_score():
    model, latent = behind(brain(noise=25.0)), latents(2)
    known = ceiling(model, latent, 4, np.random.default_rng(0), draws=20_000)
    away = latent[0] - latent[1]
    expected = ndtr(np.sqrt(4 * away @ np.linalg.solve(best_reading(model, latent).covariance, away)) / 2)
    assert known["pairwise"] == pytest.approx(expected, abs=1e-9) and 0.6 < expected < 0.95
    assert abs(known["top1"] - expected) < 4 * known["top1_error"]
    assert known["gallery"] == 2 and known["repetitions"] == 4 and known["draws"] == 40_000


def test_no_signal_is_chance_and_more_repetitions_help():
    blind = ceiling(behind(brain(noise=1e4)), latents(40), 1, np.random.default_rng(0))
    assert blind["top1"] == pytest.approx(1 / 40, abs=5 * blind["top1_error"])
    assert blind["top5"] == pytest.approx(5 / 40, abs=5 * blind["top5_error"])
    assert blind["pairwise"] == pytest.approx(0.5, abs=0.01)
    scores = [ceiling(behind(brain(noise=8.0)), latents(40), n, np.random.default_rng(0)) for n in (1, 4, 20, 400)]
    for score in ("top1", "top5", "pairwise"):
        values = [known[score] for known in scores]
        assert values == sorted(values) and values[0] < 0.95 and values[-1] > 0.995


def test_neighbours_gain_and_jitter_cost_something():
    """Without noise from the scalp the reading is still not perfect, since the epoch is not the picture's alone."""
    model, latent = behind(brain(noise=0.01)), latents(40)
    error = best_reading(model, latent).covariance.diagonal()
    assert (error > 1e-4).all()
    assert best_reading(behind(brain(noise=4.0)), latent).covariance.trace() > 2 * error.sum()
