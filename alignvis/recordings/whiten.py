"""Multivariate noise normalisation: sensor noise made equally large in, and independent across, all channels."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from alignvis.errors import AlignvisError

SINGULAR = 1e-12  # smallest admissible ratio of the smallest to the largest eigenvalue


def covariance(trials: NDArray[np.floating]) -> NDArray[np.float64]:
    """Average the shrunk covariance of single trials; the time points of a trial are its observations.

    For one trial of p channels and n times, moments divided by n: standardise each channel to Z, with deviations s,
    and shrink the correlation S = Z Z' / n towards m I with m = tr(S) / p:

        C = s s' o ((1 - a) S + a m I),  a = min(b, d) / d,
        d = (|S|^2 - p m^2) / p,  b = (mean_t |z_t|^4 - |S|^2) / (p n).

    Args:
        trials: (trials, channels, times) in volt or any other unit.

    Returns:
        (channels, channels) float64, in that unit squared.

    Source: dims "epochs" of multivariate noise normalisation, Guggenmos et al. (2018),
        doi:10.1016/j.neuroimage.2018.02.044; shrinkage of Ledoit & Wolf (2004), doi:10.1016/S0047-259X(03)00096-4,
        on standardised data, as scikit-learn's `_cov(shrinkage="auto")` applies it in the published pipelines. There, a
        channel that is constant in a trial gets s = 1, and so a variance of a m of the unit squared, be it volt or
        microvolt; here it adds nothing.
    """
    trials = np.asarray(trials, dtype=np.float64)
    channels, times = trials.shape[1:]
    mean = trials.mean(axis=2, keepdims=True)
    centred = trials - mean
    variance = np.square(centred).mean(axis=2, keepdims=True)
    # A channel stuck at one value for a trial has the variance of rounding; scaled to 1 it would count as signal.
    rounding = np.finfo(np.float64).eps * (times * np.abs(mean))
    deviation = np.where(variance <= rounding**2, 0.0, np.sqrt(variance))
    centred /= np.where(deviation == 0, 1.0, deviation)
    correlation = centred @ centred.transpose(0, 2, 1) / times
    level = np.trace(correlation, axis1=1, axis2=2) / channels
    squares = np.square(correlation).sum(axis=(1, 2))
    distance = (squares - channels * level**2) / channels
    fourth = np.square(np.square(centred).sum(axis=1)).mean(axis=1)
    error = np.minimum((fourth - squares) / (channels * times), distance)
    shrinkage = np.divide(error, distance, out=np.zeros_like(error), where=error > 0)[:, None, None]
    shrunk = (1 - shrinkage) * correlation + (shrinkage * level[:, None, None]) * np.eye(channels)
    return (shrunk * (deviation * deviation.transpose(0, 2, 1))).mean(axis=0)


def whitener(covariance: NDArray[np.float64], channels: Sequence[str]) -> NDArray[np.float64]:
    """Invert the square root of a covariance: W = V diag(w^-1/2) V' with covariance = V diag(w) V'.

    ``W @ response`` has unit variance in, and no correlation between, all channels; W is symmetric, so each channel
    stays as near to itself as that allows (ZCA).

    Args:
        covariance: (channels, channels), as `covariance` gives it.
        channels: their names.

    Raises:
        AlignvisError: when a channel carries no signal of its own, so that the covariance has no inverse.
    """
    if not np.isfinite(covariance).all():
        worst = int(np.argmax(~np.isfinite(np.diag(covariance))))
        raise AlignvisError(
            f"channel {channels[worst]} is too large for its variance to be a number; leave it out of the channels"
        )
    values, vectors = np.linalg.eigh(covariance)
    if values[0] <= SINGULAR * values[-1]:
        worst = int(np.argmax(np.abs(vectors[:, 0])))
        raise AlignvisError(
            f"channel {channels[worst]} is dead or a copy of others (the covariance's smallest eigenvalue is "
            f"{values[0]:.3g}, "
            f"its largest {values[-1]:.3g}); leave that channel out of the channels"
        )
    return (vectors / np.sqrt(values)) @ vectors.T
