"""Frequency bands: what a decoder reads from each one."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alignvis.asking import Asked
from alignvis.averaging import band_pass, why_no_band
from alignvis.explanations.answers import answer
from alignvis.progress import Progress, silent

BANDS = {"delta": (0.5, 4.0), "theta": (4.0, 8.0), "alpha": (8.0, 13.0), "beta": (13.0, 30.0), "gamma": (30.0, 45.0)}


def fitting(rate: float, times: int) -> tuple[dict[str, tuple[float, float]], dict[str, str]]:
    """Choose the bands that responses of so many samples at this rate (Hz) can hold, cut at half the rate.

    Returns:
        Lowest and highest hertz of each band, and why each of the others was left out.
    """
    why = {name: why_no_band(*ends, rate, times) for name, ends in BANDS.items()}
    kept = {name: (low, min(high, rate / 2)) for name, (low, high) in BANDS.items() if not why[name]}
    return kept, {name: reason for name, reason in why.items() if reason}


def split(treated: Tensor, low: float, high: float, rate: float) -> tuple[Tensor, Tensor]:
    """Part responses, (queries, channels, times), into one band and the rest.

    What differs from the mean over the queries is filtered, as it is fed to the decoder: after normalisation, of the
    mean over repetitions. So the two parts add up to what the decoder knows; normalised after filtering, a weak band
    would be blown up to the size of a whole response, which the decoder has never seen. The mean stays in both.

    Returns:
        Only this band, and all but this band.
    """
    mean = treated.mean(dim=0)
    inside = torch.from_numpy(band_pass((treated - mean).numpy(), low, high, rate))
    return mean + inside, treated - inside


def read_bands(
    asked: Asked, treated: Tensor, times: NDArray[np.float64], progress: Progress = silent
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Ask about only one band, and about all but it, without retraining.

    Args:
        times: (times,) of the samples, s.

    Returns:
        One row a band: "name", "low", "high" (Hz), "only_top1", "only_interval", "without_top1", "without_interval",
        and the places of what retraining will say; and why each of the other bands was left out.
    """
    rate = (len(times) - 1) / float(times[-1] - times[0])
    kept, left_out = fitting(rate, len(times))
    return list(_rows(asked, treated, kept, rate, progress)), left_out


def _rows(
    asked: Asked, treated: Tensor, kept: dict[str, tuple[float, float]], rate: float, progress: Progress
) -> Iterator[dict[str, Any]]:
    for done, (name, (low, high)) in enumerate(kept.items(), start=1):
        alone, rest = (answer(asked, part) for part in split(treated, low, high, rate))
        yield {
            "name": name,
            "low": low,
            "high": high,
            "only_top1": alone.top1,
            "only_interval": alone.interval,
            "without_top1": rest.top1,
            "without_interval": rest.interval,
            "retrained_top1": None,
            "retrained_interval": None,
        }
        progress(done, len(kept), "filtering bands")
