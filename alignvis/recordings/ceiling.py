"""How well anyone could read a simulated recording: the model is known, so the best score is too."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import toeplitz
from scipy.special import ndtr

from alignvis.recordings.brain import COMMON, GAIN, JITTER, KERNEL, RATE, RESPONSE, Brain, drives
from alignvis.recordings.resample import fft_resampler

BEFORE, AFTER = 200, 1000  # ms of an epoch around the picture's onset
SOA = 200  # ms from one picture to the next
SEQUENCE = 20  # pictures in a row
LAGS = range(-3, 5)  # neighbours whose responses reach into an epoch, in pictures
MEAN_GAIN = float(np.exp(GAIN**2 / 2))


@dataclass(frozen=True)
class Reading:
    """The best linear reading of the latent factors from one trial, z-hat = weights . (epoch - mean).

    Attributes:
        weights: (factors, channels, times) per uV.
        mean: (channels, times) uV, what an average picture evokes, neighbours included.
        covariance: (factors, factors) of the error of z-hat, for one trial; n trials have an n-th of it.
    """

    weights: NDArray[np.float64]
    mean: NDArray[np.float64]
    covariance: NDArray[np.float64]


def epoch_matrix() -> NDArray[np.float64]:
    """(1201, 250): takes the baseline off the samples around an onset, resamples them to 250 Hz, keeps 0 to 0.996 s.

    These are the steps that THINGS-EEG2 is prepared with, up to the whitening, which loses nothing.
    """
    matrix = fft_resampler(BEFORE + 1 + AFTER, RATE, 250)
    matrix[: BEFORE + 1] -= matrix.sum(axis=0) / (BEFORE + 1)
    return matrix[:, BEFORE // 4 :]


def best_reading(brain: Brain, latent: NDArray[np.float64]) -> Reading:
    """Derive the generalised least-squares reading of one trial.

    An epoch is y = sum_d theta_d v_d + noise. The v_d are the sources' responses to the picture and to the neighbours
    that overlap with it, and their derivatives (latency jitter, to first order); theta varies from trial to trial with
    neighbours, gain and jitter (covariance C) around a mean that is linear in the picture's factors (E z + constant).
    With G the Gram matrix of the v_d under the noise's precision, the information on z is E' (G^-1 + C)^-1 E.
    The noise is a product of a spatial and a temporal covariance, so G needs no matrix larger than (times, times).

    Args:
        latent: (pictures, factors) of the test pictures, which are each other's neighbours.
    """
    factors = latent.shape[1]
    space, time = _responses(brain)
    mean, spread = _strengths(latent)
    temporal = _temporal_covariance(brain)
    space_by = np.linalg.solve(brain.mixing @ brain.mixing.T, space.T).T
    time_by = np.linalg.solve(temporal, time.T).T
    gram = (space_by @ space.T) * (time_by @ time.T)

    picked = np.zeros((len(gram), factors))
    own = LAGS.index(0) * 2 * len(brain.patterns) + len(COMMON)
    picked[own : own + factors] = MEAN_GAIN * np.eye(factors)
    # (G^-1 + C)^-1 in a form that needs no inverse of G, which is close to singular.
    read = np.linalg.solve(np.eye(len(gram)) + spread @ gram, picked)
    covariance = np.linalg.inv(read.T @ gram @ picked)
    covariance = (covariance + covariance.T) / 2
    weights = np.einsum("kd,dc,dt->kct", covariance @ read.T, space_by, time_by, optimize=True)
    return Reading(weights, np.einsum("d,dc,dt->ct", mean, space, time, optimize=True), covariance)


def ceiling(
    brain: Brain, latent: NDArray[np.float64], repetitions: int, generator: np.random.Generator, draws: int = 200
) -> dict[str, Any]:
    """Compute the best scores (`best_scores`) of a reader who knows the brain, the noise and every picture's factors.

    No reader of the prepared epochs does better, but for what is not linear and Gaussian in neighbours, gain and
    jitter, and for assigning pictures to all the recordings at once.

    Args:
        latent: (pictures, factors) of the test pictures.
        repetitions: trials averaged for each picture.

    Returns:
        What `best_scores` does, and repetitions.
    """
    covariance = best_reading(brain, latent).covariance
    return best_scores(covariance, latent, np.full(len(latent), repetitions), generator, draws) | {
        "repetitions": repetitions
    }


def best_scores(
    covariance: NDArray[np.float64],
    latent: NDArray[np.float64],
    trials: NDArray[np.int64],
    generator: np.random.Generator,
    draws: int = 200,
) -> dict[str, Any]:
    """Compute the best scores that a reader of one picture at a time can expect, who takes the likeliest of them.

    Top-k is a Monte Carlo over the noise in `draws` rounds of all pictures; pairwise is exact: the mean over i != j of
    Phi(|z_i - z_j| / 2) in units of picture i's noise.

    Args:
        covariance: (factors, factors) of the error of the best reading of one trial.
        latent: (pictures, factors) of the pictures.
        trials: (pictures,) how many each is the mean of.

    Returns:
        top1, top5 and pairwise in [0, 1], top1_error and top5_error (standard errors of the Monte Carlo), gallery and
        draws (picture by picture).
    """
    placed = np.linalg.solve(np.linalg.cholesky(covariance), latent.T).T
    sharpness = np.sqrt(trials)[:, None]
    squares = (placed**2).sum(axis=1)
    distances = np.sqrt(np.maximum(squares[:, None] + squares - 2 * placed @ placed.T, 0))
    others = ~np.eye(len(latent), dtype=bool)
    hits = np.zeros(2, dtype=np.int64)
    for _ in range(draws):
        read = placed + generator.standard_normal(placed.shape) / sharpness
        closeness = read @ placed.T - squares / 2
        rank = (closeness > closeness.diagonal()[:, None]).sum(axis=1)
        hits += [(rank < 1).sum(), (rank < 5).sum()]
    count = draws * len(latent)
    top1, top5 = (hits / count).tolist()
    return {
        "top1": top1,
        "top1_error": float(np.sqrt(top1 * (1 - top1) / count)),
        "top5": top5,
        "top5_error": float(np.sqrt(top5 * (1 - top5) / count)),
        "pairwise": float(ndtr(distances * sharpness / 2)[others].mean()),
        "gallery": len(latent),
        "draws": count,
    }


def _responses(brain: Brain) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Scalp pattern and epoch of every (lag, order, source): (terms, channels) and (terms, times).

    Order 0 is the response, blurred by the jitter; order 1 its derivative per ms.
    """
    reach = np.arange(-6 * round(JITTER), 6 * round(JITTER) + 1)
    blur = ndtr((reach + 0.5) / JITTER) - ndtr((reach - 0.5) / JITTER)
    sources = len(brain.patterns)
    start = 1500  # of the response in a stretch that holds every window
    stretch = np.zeros((sources, 4000))
    stretch[:, start : start + RESPONSE] = brain.courses
    blurred = np.stack([np.convolve(course, blur, mode="same") for course in stretch])
    orders = np.stack([blurred, np.gradient(blurred, axis=1)])
    firsts = [start - lag * SOA - BEFORE for lag in LAGS]
    windows = np.stack([orders[:, :, first : first + BEFORE + 1 + AFTER] for first in firsts])
    time = (windows @ epoch_matrix()).reshape(len(LAGS) * 2 * sources, -1)
    return np.tile(brain.patterns, (len(LAGS) * 2, 1)), time


def _strengths(latent: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean (terms,) and covariance (terms, terms) of how strongly each (lag, order, source) is in an epoch.

    The picture's own factors are left out of the mean and of the covariance: they are the signal.
    """
    strength = drives(latent)
    average, second = strength.mean(axis=0), strength.T @ strength / len(strength)
    square = np.exp(2 * GAIN**2)  # mean of the squared gain
    shift = JITTER**2 + 1 / 12  # variance of the jitter, in whole samples
    sources = strength.shape[1]
    means = np.zeros((SEQUENCE, len(LAGS), 2, sources))
    covariance = np.zeros((len(LAGS), 2, sources, len(LAGS), 2, sources))
    for index, lag in enumerate(LAGS):
        present = np.array([0 <= position + lag < SEQUENCE for position in range(SEQUENCE)])
        if lag == 0:
            means[:, index, 0, : len(COMMON)] = MEAN_GAIN
            known = second
        else:
            means[present, index, 0] = MEAN_GAIN * average
            known = np.outer(average, average)
        covariance[index, 0, :, index, 0] = present.mean() * (square * second - MEAN_GAIN**2 * known)
        covariance[index, 1, :, index, 1] = present.mean() * square * shift * second
    terms = len(LAGS) * 2 * sources
    means = means.reshape(SEQUENCE, terms)
    return means.mean(axis=0), covariance.reshape(terms, terms) + np.cov(means.T, bias=True)


def _temporal_covariance(brain: Brain) -> NDArray[np.float64]:
    """Covariance (times, times) of one prepared epoch of unit noise."""
    power = np.abs(np.fft.rfft(brain.kernel, 2 * KERNEL)) ** 2
    matrix = epoch_matrix()
    return matrix.T @ toeplitz(np.fft.irfft(power)[: len(matrix)]) @ matrix
