"""From a responses table to what a brain encoder is fed: channels and times chosen, repetitions averaged."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from math import prod, sqrt

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d
from scipy.signal import butter, sosfiltfilt
from torch import Tensor

from alignvis.channels import is_occipital
from alignvis.errors import AlignvisError
from alignvis.progress import Progress, silent
from alignvis.recipe import Recipe, hertz, seconds
from alignvis.store import Responses

CHUNK = 512  # images at a time, or fewer if they take more than this: what bounds the memory beside the result
BYTES = 2**28
SENSIBLE = {"tmin": (-1e6, 1e6), "sfreq": (0, 1e9)}  # beyond these a table's header is wrong
ORDER = 4  # of the band-pass filter, which runs forwards and backwards
FLAT = 1e-6  # of its own size: as much as rounding leaves of a flat channel
TINY = torch.finfo(torch.float32).tiny


def size_of(responses: Tensor) -> Tensor:
    """Root of the sum of squares over time, summed in float64: in volts squares would vanish, in odd units overflow."""
    return torch.linalg.vector_norm(responses, dim=-1, keepdim=True, dtype=torch.float64).float()


def unit_repetitions(responses: Tensor) -> Tensor:
    """Centre every repetition and channel over time and divide by the root of its sum of squares before centring.

    Args:
        responses: (images, repetitions, channels, times), any unit, as it cancels; at least two times.

    Source: Rajabi et al. (2025), arXiv:2502.03081, as published: the norm is that of the uncentred signal. A flat
        channel gives zeros instead of their NaN.
    """
    return (responses - responses.mean(dim=-1, keepdim=True)).div_(size_of(responses).clamp_(min=TINY))


def centred_unit(responses: Tensor) -> Tensor:
    """As `unit_repetitions`, but the norm is that of what is left when the mean is gone: free of any offset."""
    centred = responses - responses.mean(dim=-1, keepdim=True)
    norm, whole = size_of(centred), size_of(responses)
    # what rounding leaves of a constant is no response
    return torch.where(norm > FLAT * whole, centred / norm.clamp(min=TINY), 0.0)


def centred_unit_mean(responses: Tensor) -> Tensor:
    """Average the repetitions first, so that the result has the same norm however many there are."""
    return centred_unit(responses.mean(dim=1, keepdim=True))


# (images, repetitions, channels, times) -> the same, or with one repetition
NORMALISATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "repetition": unit_repetitions,
    "repetition-centred": centred_unit,
    "mean": centred_unit_mean,
    "none": lambda responses: responses,
}


def chosen_channels(table: Responses, wanted: str) -> list[int]:
    """Find channels by name: "all", "occipital" (see `channels.is_occipital`), or names with commas between them."""
    names: list[str] = table.document["channels"]
    if wanted == "all":
        return list(range(len(names)))
    if wanted == "occipital":
        found = [place for place, name in enumerate(names) if is_occipital(name)]
        if not found:
            raise AlignvisError(
                f"{table.path} has no channel with an occipital name (EEG: O or P first; CTF: O third); name some "
                "with --channels"
            )
        return found
    asked = list(dict.fromkeys(name.strip() for name in wanted.split(",")))
    for name in asked:
        if name not in names:
            raise AlignvisError(f"{table.path} has no channel called {name!r}; it has {', '.join(names)}")
    return [names.index(name) for name in asked]


def chosen_times(table: Responses, window: str) -> slice:
    """Find the samples within a window of time, its start included and its end not.

    Raises:
        AlignvisError: when there are none, or the table does not say when its samples were taken.
    """
    wanted, samples = seconds(window), table.train.shape[-1]
    if wanted is None:
        return slice(0, samples)
    times = stated(table, "tmin") + np.arange(samples) / stated(table, "sfreq")
    inside = np.flatnonzero((times >= wanted[0] - 1e-9) & (times < wanted[1] - 1e-9))
    if not len(inside):
        raise AlignvisError(
            f"{table.path} has no sample in --window {window}: it goes from {times[0]:g} to {times[-1]:g} s"
        )
    return slice(int(inside[0]), int(inside[-1]) + 1)


def stated(table: Responses, key: str) -> float:
    """When a table says that its first sample was taken, s, or how many there are in a second: "tmin" or "sfreq"."""
    value, (low, high) = table.document.get(key), SENSIBLE[key]
    if not isinstance(value, int | float) or not low < value < high:
        raise AlignvisError(
            f"{table.path} does not say when its samples were taken; leave --window, --band and --smoothing out"
        )
    return value


def times_of(table: Responses, recipe: Recipe) -> NDArray[np.float64]:
    """When the samples that an encoder is fed were taken, in seconds after the image came on: (times,).

    Raises:
        AlignvisError: when the table does not say.
    """
    window = chosen_times(table, recipe.window)
    times = stated(table, "tmin") + np.arange(window.start, window.stop) / stated(table, "sfreq")
    return np.linspace(times[0], times[-1], recipe.resample) if recipe.resample else times


def why_no_band(low: float, high: float, rate: float, times: int) -> str | None:
    """Say why a band cannot be cut out of responses of so many samples at this rate; None if it can.

    One cycle at the band's middle (the geometric mean of its ends; of a band from 0 Hz on, its upper end) has to fit
    into a response, since less than that is a slope and no oscillation.
    """
    middle = sqrt(low * high) if low else high
    if low >= 0.95 * rate / 2:
        return f"samples at {rate:g} Hz hold nothing above {rate / 2:g} Hz"
    if times / rate < 1 / middle:
        return f"{times / rate:g} s are less than one cycle of {middle:.3g} Hz"
    return None


def band_pass(responses: NDArray[np.floating], low: float, high: float, rate: float) -> NDArray[np.float32]:
    """Keep what oscillates from ``low`` to ``high`` hertz, without shifting it in time.

    A Butterworth filter of order 4, once forwards and once backwards, so that it falls to a half (-6 dB) at its ends. A
    band from 0 Hz on keeps the mean, and one that ends at half the rate or above keeps all above ``low``. Both ends are
    continued by their own reflection through the end point (odd padding) for one cycle of ``low``, or as far as the
    response is long.

    Args:
        responses: (..., times), any unit.
        rate: samples in a second, Hz.

    Source: scipy.signal.butter and sosfiltfilt; Widmann et al. (2015), doi:10.1016/j.jneumeth.2014.08.002, on why
        the padding should be of the length of what the filter rings.
    """
    nyquist, times = rate / 2, responses.shape[-1]
    if not low and high >= nyquist:
        return np.asarray(responses, np.float32)
    kind, ends = ("lowpass", high) if not low else ("highpass", low) if high >= nyquist else ("bandpass", (low, high))
    filters = butter(ORDER, ends, kind, fs=rate, output="sos")
    padding = min(times - 1, int(np.ceil(rate / (low or high))))
    filtered = np.empty(responses.shape, np.float32)
    for row in np.ndindex(responses.shape[:1] if responses.ndim > 1 else ()):  # scipy's copies are of 64 bits
        filtered[row] = sosfiltfilt(filters, responses[row].astype(np.float64), padlen=padding)
    return filtered


def shape_of(table: Responses, recipe: Recipe) -> tuple[int, int]:
    """Channels and times that are left of a response.

    Raises:
        AlignvisError: when the recipe asks for what the table does not have, or is to normalise a single time.
    """
    window = chosen_times(table, recipe.window)
    times = recipe.resample or window.stop - window.start
    if window.stop - window.start == 1 and (recipe.resample > 1 or recipe.smoothing):
        raise AlignvisError(
            f"{table.path} has one time a response, of which --resample and --smoothing make nothing; leave them out"
        )
    band = hertz(recipe.band)
    why = why_no_band(*band, stated(table, "sfreq"), table.train.shape[-1]) if band else None
    if why:
        raise AlignvisError(f"--band {recipe.band} cannot be cut out of the responses in {table.path}: {why}")
    if recipe.normalisation != "none" and times == 1:
        raise AlignvisError(
            f"{table.path} has one time a response, which cannot be normalised over time; choose --normalisation none"
        )
    if recipe.smoothing and recipe.smoothing / 1000 * stated(table, "sfreq") > table.train.shape[-1]:
        raise AlignvisError(
            f"--smoothing {recipe.smoothing:g} ms is longer than a response in {table.path}; choose less"
        )
    return len(chosen_channels(table, recipe.channels)), times


def recording_of(table: Responses, recipe: Recipe) -> dict[str, object]:
    """What must be equal for responses to mean the same: when they were taken and, unless it cancels, their unit."""
    first, rate = (table.document.get(key) for key in ("tmin", "sfreq"))
    with suppress(AlignvisError):  # what makes no sense is compared as it stands
        start = chosen_times(table, recipe.window).start
        first = round(stated(table, "tmin") + start / stated(table, "sfreq"), 6)  # s, of the first sample chosen
    unit = {"unit": table.document.get("unit")} if recipe.normalisation == "none" else {}
    return {"first": first, "sfreq": rate, **unit}


def interpolate(responses: Tensor, times: int) -> Tensor:
    """Interpolate linearly over the last axis, end points kept."""
    last, device = responses.shape[-1] - 1, responses.device
    place = torch.linspace(0, last, times, dtype=torch.float64, device=device)
    left = place.long().clamp_(max=max(0, last - 1))
    share = (place - left).float()
    return responses[..., left] * (1 - share) + responses[..., (left + 1).clamp_(max=last)] * share


def average(
    table: Responses,
    part: str,
    recipe: Recipe,
    prepare: Callable[[Tensor], Tensor],
    *,
    rows: Sequence[int] | None = None,
    apart: bool = False,
    into: Callable[..., Tensor] = torch.empty,
    device: torch.device | str = "cpu",
    progress: Progress = silent,
) -> Tensor:
    """Bring the responses to every image into the form that an encoder takes, once for all epochs and runs.

    Band, smoothing, channels and window, interpolation, normalisation, then the mean over repetitions, in that order,
    and the encoder's ``prepare``.

    Args:
        part: "train" or "test".
        prepare: (images, channels, times) float32 to (images, ...), row by row.
        rows: of the table, in the order wanted; none means all.
        apart: leave the repetitions side by side, for those who mix them anew at every step.
        into: makes the tensor that is filled, from its shape; on whatever device.
        device: that does the arithmetic.

    Returns:
        (images, ...), or (images, repetitions, ...) with ``apart``. The table itself is only ever read in chunks.

    Raises:
        AlignvisError: when a value is not finite, naming the image and channel, or when a channel is zero throughout.
    """
    array: NDArray = getattr(table, part)
    ids: list[str] = getattr(table, f"{part}_images")
    order = np.arange(len(ids)) if rows is None else np.asarray(rows)
    channels, times = chosen_channels(table, recipe.channels), chosen_times(table, recipe.window)
    names = [table.document["channels"][place] for place in channels]
    shape_of(table, recipe)  # refuses what cannot be done
    if not len(order):
        raise AlignvisError(f"{table.path} has no {part} images; prepare the recording again")
    alive = torch.zeros(len(channels), dtype=torch.bool, device=device)
    result: Tensor | None = None
    step = max(1, min(CHUNK, BYTES // (4 * prod(array.shape[1:]))))
    for start in range(0, len(order), step):
        responses = _read(array, order[start : start + step], channels, times, recipe, table).to(device).float()
        broken = (~torch.isfinite(responses.sum(dim=(1, 3)))).nonzero()
        if len(broken):
            image, channel = broken[0].tolist()
            raise AlignvisError(
                f"{table.path}: the {part} response to {ids[order[start + image]]!r} is not finite in channel "
                f"{names[channel]}; prepare the recording again, or leave that channel out"
            )
        alive |= responses.any(dim=3).any(dim=1).any(dim=0)
        responses = interpolate(responses, recipe.resample) if recipe.resample else responses
        treated = NORMALISATIONS[recipe.normalisation](responses)
        treated = treated if apart else treated.mean(dim=1, keepdim=True)
        images, repetitions = treated.shape[:2]
        prepared = prepare(treated.flatten(0, 1))
        prepared = prepared.view(images, repetitions, *prepared.shape[1:]) if apart else prepared
        if result is None:
            result = into(len(order), *prepared.shape[1:])
        result[start : start + step] = prepared
        progress(min(start + step, len(order)), len(order), f"averaging {part} repetitions")
    if not alive.all():
        dead = ", ".join(name for name, lives in zip(names, alive.tolist(), strict=True) if not lives)
        raise AlignvisError(
            f"{table.path}: channel {dead} is zero in every {part} response; leave it out with --channels"
        )
    assert result is not None
    return result


def _read(array: NDArray, rows: NDArray, channels: list[int], times: slice, recipe: Recipe, table: Responses) -> Tensor:
    """Some rows of a table, filtered and cut, of the table's own type if they need no filter."""
    responses = array[rows]
    if len(channels) < responses.shape[2] or channels != sorted(channels):
        responses = responses[:, :, channels]
    band = hertz(recipe.band)
    if band:
        responses = band_pass(responses, *band, stated(table, "sfreq"))
    if recipe.smoothing:
        samples = recipe.smoothing / 1000 * stated(table, "sfreq")
        responses = gaussian_filter1d(responses.astype(np.float32), samples, axis=-1, mode="nearest")
    return torch.from_numpy(responses[..., times])
