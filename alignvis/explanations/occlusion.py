"""Occlusion: what is lost when a part of every response no longer tells pictures apart."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alignvis.asking import CHUNK, Asked
from alignvis.errors import AlignvisError
from alignvis.explanations.answers import Answer, answer, drop
from alignvis.progress import Progress, silent
from alignvis.retrieval import similarity

MANY = 400  # channels, beyond which each one's loss is taken to first order: an fMRI recording has thousands

Window = tuple[float, float, slice]  # start and end, s, and the samples within


def windows(times: NDArray[np.float64], width: float, step: float) -> list[Window]:
    """Lay windows over a response: of the same width, a step apart, the first one at the first sample.

    Args:
        times: (times,) of the samples, s, evenly spaced.
        width, step: s.

    Raises:
        AlignvisError: when a window is shorter than a sample or longer than a response.
    """
    spacing = (times[-1] - times[0]) / (len(times) - 1)
    length = len(times) * spacing
    if not spacing * (1 - 1e-6) <= width <= length * (1 + 1e-6):
        raise AlignvisError(
            f"--width {width:g} does not fit: a response lasts {length:.4g} s, a sample {spacing:.4g} s; choose one "
            "between the two"
        )
    if not step > 0:
        raise AlignvisError(f"--step {step:g} goes nowhere; choose more than 0 s")
    found = []
    for number in range(int((length - width) / step + 1e-6) + 1):
        start = round(float(times[0] + number * step), 6)
        end = round(start + width, 6)
        inside = np.flatnonzero((times >= start - 1e-6) & (times < end - 1e-6))
        found.append((start, end, slice(int(inside[0]), int(inside[-1]) + 1)))
    return found


def occluded(treated: Tensor, channels: Sequence[int] | slice, times: slice) -> Tensor:
    """Put the mean over the queries in the place of some channels at some times: (queries, channels, times).

    So nothing is lost but what differs between the pictures there.
    """
    changed = treated.clone()
    part = treated[:, channels, times]
    changed[:, channels, times] = part.mean(dim=0).expand_as(part)
    return changed


def only(treated: Tensor, times: slice) -> Tensor:
    """Keep some times and put the mean over the queries in the place of all else."""
    changed = treated.mean(dim=0).expand_as(treated).clone()
    changed[..., times] = treated[..., times]
    return changed


def occlude_windows(
    asked: Asked, treated: Tensor, baseline: Answer, laid: Sequence[Window], progress: Progress = silent
) -> tuple[list[dict[str, Any]], NDArray[np.float32]]:
    """Occlude all channels in one window after the other.

    Returns:
        One row a window: "start", "end" (s) and what `answers.drop` returns; and (queries, windows), what the
        similarity of each query with its own picture lost.
    """
    parts = ({"start": start, "end": end} for start, end, _ in laid)
    changed = (occluded(treated, slice(None), inside) for *_, inside in laid)
    return _dropped(asked, baseline, parts, changed, len(laid), "occluding windows", progress)


def occlude_regions(
    asked: Asked, treated: Tensor, baseline: Answer, regions: Mapping[str, Sequence[int]], progress: Progress = silent
) -> tuple[list[dict[str, Any]], NDArray[np.float32]]:
    """Occlude all times of one group of channels after the other, as `occlude_windows`; rows have a "name"."""
    parts = ({"name": name} for name in regions)
    changed = (occluded(treated, list(places), slice(None)) for places in regions.values())
    return _dropped(asked, baseline, parts, changed, len(regions), "occluding regions", progress)


def occlude_channels(
    asked: Asked, treated: Tensor, baseline: Answer, progress: Progress = silent
) -> tuple[list[float] | None, NDArray[np.float32]]:
    """Occlude all times of each channel by itself; of more than `MANY` channels, to first order (`first_order`).

    Returns:
        Top-1 without each channel, or None where that was not asked; and (queries, channels), what the similarity of
        each query with its own picture lost.
    """
    channels = treated.shape[1]
    if channels > MANY:
        return None, first_order(asked, treated, progress).sum(axis=2)
    changed = (occluded(treated, [channel], slice(None)) for channel in range(channels))
    rows, lost = _dropped(
        asked, baseline, ({} for _ in range(channels)), changed, channels, "occluding channels", progress
    )
    return [row["top1"] for row in rows], lost


def keep_windows(
    asked: Asked, treated: Tensor, laid: Sequence[Window], progress: Progress = silent
) -> list[dict[str, Any]]:
    """Accuracy over time without retraining: only one window tells pictures apart, all else is the mean over them.

    Returns:
        One row a window: "start", "end" (s), "top1", "top1_interval", and "similarity" with the own picture.
    """
    rows = []
    for start, end, inside in laid:
        kept = answer(asked, only(treated, inside))
        row = {"start": start, "end": end, "top1": kept.top1, "top1_interval": kept.interval}
        rows.append(row | {"similarity": float(kept.own.mean())})
        progress(len(rows), len(laid), "keeping windows")
    return rows


def first_order(asked: Asked, treated: Tensor, progress: Progress = silent) -> NDArray[np.float32]:
    """What the similarity of each query with its own picture would lose through each value, were it linear in it.

    Returns:
        (queries, channels, times): gradient times the difference from the mean over the queries. It tells what a part
        is worth that is a small share of all; as length does not count, all parts together are worth nothing.
    """
    mean, found = treated.mean(dim=0), []
    for part, pictures in zip(treated.split(CHUNK), asked.gallery.split(CHUNK), strict=True):
        with torch.enable_grad():
            pictures = pictures.clone()  # it may be of inference mode, whose tensors take part in no gradient
            leaf = part.clone().to(asked.device).requires_grad_()
            vectors = asked.decoder.brain(asked.decoder.brain.prepare(leaf)).float()
            own = similarity(vectors[:, None], pictures[:, None], asked.recipe.sides, asked.recipe.centre)
            (gradient,) = torch.autograd.grad(own.sum(), leaf)
        found.append((gradient.cpu() * (part - mean)).numpy())
        progress(sum(map(len, found)), len(treated), "occluding to first order")
    return np.concatenate(found)


def _dropped(
    asked: Asked,
    baseline: Answer,
    parts: Iterator[dict[str, Any]],
    changed: Iterator[Tensor],
    total: int,
    text: str,
    progress: Progress,
) -> tuple[list[dict[str, Any]], NDArray[np.float32]]:
    rows, lost = [], []
    for about, responses in zip(parts, changed, strict=True):
        after = answer(asked, responses)
        rows.append(about | drop(baseline, after))
        lost.append(baseline.own - after.own)
        progress(len(rows), total, text)
    return rows, np.stack(lost, axis=1).astype(np.float32)
