"""From a responses table to what a brain encoder is fed: channels and times chosen, repetitions averaged."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d
from torch import Tensor

from alignvis.errors import AlignvisError
from alignvis.progress import Progress, silent
from alignvis.recipe import Recipe, seconds
from alignvis.store import Responses

CHUNK = 512  # images at a time: what bounds the memory beside the result
TINY = np.finfo(np.float32).tiny


def unit_repetitions(responses: NDArray[np.float32]) -> NDArray[np.float32]:
    """Centre every repetition and channel over time and divide by the root of its sum of squares before centring.

    Args:
        responses: (images, repetitions, channels, times), any unit, as it cancels; at least two times.

    Source: Rajabi et al. (2025), arXiv:2502.03081, as published: the norm is that of the uncentred signal. A flat
        channel gives zeros instead of their NaN.
    """
    norm = np.sqrt(np.square(responses).sum(axis=-1, keepdims=True))
    return (responses - responses.mean(axis=-1, keepdims=True)) / np.maximum(norm, TINY)


def centred_unit(responses: NDArray[np.float32]) -> NDArray[np.float32]:
    """As `unit_repetitions`, but the norm is that of what is left when the mean is gone: free of any offset."""
    centred = responses - responses.mean(axis=-1, keepdims=True)
    return centred / np.maximum(np.sqrt(np.square(centred).sum(axis=-1, keepdims=True)), TINY)


def centred_unit_mean(responses: NDArray[np.float32]) -> NDArray[np.float32]:
    """Average the repetitions first, so that the result has the same norm however many there are."""
    return centred_unit(responses.mean(axis=1, keepdims=True))


# (images, repetitions, channels, times) -> the same, or with one repetition
NORMALISATIONS: dict[str, Callable[[NDArray[np.float32]], NDArray[np.float32]]] = {
    "repetition": unit_repetitions,
    "repetition-centred": centred_unit,
    "mean": centred_unit_mean,
    "none": lambda responses: responses,
}


def chosen_channels(table: Responses, wanted: str) -> list[int]:
    """Find channels by name: "all", "occipital" (names that begin with O or P), or names with commas between them."""
    names: list[str] = table.document["channels"]
    if wanted == "all":
        return list(range(len(names)))
    if wanted == "occipital":
        found = [place for place, name in enumerate(names) if name[:1] in ("O", "P")]
        if not found:
            raise AlignvisError(f"{table.path} has no channel whose name begins with O or P; name some with --channels")
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
    first, rate = table.document.get("tmin"), table.document.get("sfreq")
    if not isinstance(first, int | float) or not isinstance(rate, int | float) or not rate > 0:
        raise AlignvisError(f"{table.path} does not say when its samples were taken; leave --window out")
    times = first + np.arange(samples) / rate
    inside = np.flatnonzero((times >= wanted[0] - 1e-9) & (times < wanted[1] - 1e-9))
    if not len(inside):
        raise AlignvisError(
            f"{table.path} has no sample in --window {window}: it goes from {times[0]:g} to {times[-1]:g} s"
        )
    return slice(int(inside[0]), int(inside[-1]) + 1)


def shape_of(table: Responses, recipe: Recipe) -> tuple[int, int]:
    """Channels and times that are left of a response."""
    times = chosen_times(table, recipe.window)
    return len(chosen_channels(table, recipe.channels)), recipe.resample or times.stop - times.start


def interpolate(responses: NDArray[np.float32], times: int) -> NDArray[np.float32]:
    """Interpolate linearly over the last axis, end points kept."""
    place = np.linspace(0, responses.shape[-1] - 1, times)
    left = np.minimum(place.astype(int), max(0, responses.shape[-1] - 2))
    share = (place - left).astype(np.float32)
    right = np.minimum(left + 1, responses.shape[-1] - 1)
    return responses[..., left] * (1 - share) + responses[..., right] * share


def average(
    table: Responses,
    part: str,
    recipe: Recipe,
    prepare: Callable[[Tensor], Tensor],
    *,
    rows: Sequence[int] | None = None,
    apart: bool = False,
    into: Callable[..., Tensor] = torch.empty,
    progress: Progress = silent,
) -> Tensor:
    """Bring the responses to every image into the form that an encoder takes, once for all epochs and runs.

    Smoothing, channels and window, interpolation, normalisation, then the mean over repetitions, in that order, and
    the encoder's ``prepare``.

    Args:
        part: "train" or "test".
        prepare: (images, channels, times) float32 to (images, ...), row by row.
        rows: of the table, in the order wanted; none means all.
        apart: leave the repetitions side by side, for those who mix them anew at every step.
        into: makes the tensor that is filled, from its shape.

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
    if recipe.normalisation != "none" and (recipe.resample or times.stop - times.start) == 1:
        raise AlignvisError(
            f"{table.path} has one time a response, which cannot be normalised over time; use a recipe without"
        )
    if not len(order):
        raise AlignvisError(f"{table.path} has no {part} images; prepare the recording again")
    alive = np.zeros(len(channels), dtype=bool)
    result: Tensor | None = None
    for start in range(0, len(order), CHUNK):
        responses = array[order[start : start + CHUNK]].astype(np.float32)[:, :, channels]
        broken = np.argwhere(~np.isfinite(responses.sum(axis=(1, 3))))
        if len(broken):
            image, channel = broken[0]
            raise AlignvisError(
                f"{table.path}: the {part} response to {ids[order[start + image]]!r} is not finite in channel "
                f"{names[channel]}; prepare the recording again, or leave that channel out"
            )
        alive |= responses.any(axis=(0, 1, 3))
        treated = NORMALISATIONS[recipe.normalisation](_cut(responses, times, recipe, table))
        treated = treated if apart else treated.mean(axis=1, keepdims=True)
        images, repetitions = treated.shape[:2]
        prepared = prepare(torch.from_numpy(treated.reshape(-1, *treated.shape[2:])))
        prepared = prepared.view(images, repetitions, *prepared.shape[1:]) if apart else prepared
        if result is None:
            result = into(len(order), *prepared.shape[1:])
        result[start : start + CHUNK] = prepared
        progress(min(start + CHUNK, len(order)), len(order), f"averaging {part} repetitions")
    if not alive.all():
        dead = ", ".join(name for name, lives in zip(names, alive, strict=True) if not lives)
        raise AlignvisError(
            f"{table.path}: channel {dead} is zero in every {part} response; leave it out with --channels"
        )
    assert result is not None
    return result


def _cut(responses: NDArray[np.float32], times: slice, recipe: Recipe, table: Responses) -> NDArray[np.float32]:
    if recipe.smoothing:
        samples = recipe.smoothing / 1000 * table.document["sfreq"]
        responses = gaussian_filter1d(responses, samples, axis=-1, mode="nearest")
    responses = responses[..., times]
    return interpolate(responses, recipe.resample) if recipe.resample else responses
