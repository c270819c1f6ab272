"""What a run says of each test image, from its stored similarities."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alignvis import store
from alignvis.comparing.sides import Scored
from alignvis.errors import AlignvisError
from alignvis.retrieval import chances, ranks
from alignvis.scoring import read_similarity


@dataclass(frozen=True)
class Metric:
    """A value an image.

    Attributes:
        of: (ranks (images,) from 1, gallery size) -> (images,).
        title, unit: what tables call it, and its differences.
        scale: what it is multiplied by there.
    """

    of: Callable[[Tensor, int], Tensor]
    title: str
    unit: str
    scale: float


METRICS = {
    "top1": Metric(lambda places, gallery: places <= 1, "top-1, %", "points", 100),
    "top5": Metric(lambda places, gallery: places <= 5, "top-5, %", "points", 100),
    "mrr": Metric(lambda places, gallery: places.double().reciprocal(), "mean reciprocal rank", "", 1),
    "pairwise": Metric(
        lambda places, gallery: (gallery - places).double() / (gallery - 1),
        "pairwise (two-way) accuracy, %",
        "points",
        100,
    ),
}


@dataclass(frozen=True)
class Values:
    """Attributes:
    values: (images,) float64, by the metric asked for.
    images: their ids.
    """

    values: NDArray[np.float64]
    images: list[str]


def metric_of(name: str) -> Metric:
    """Find a metric by name."""
    if name not in METRICS:
        raise AlignvisError(f"{name!r} is no metric to compare by; choose one of {', '.join(METRICS)}")
    return METRICS[name]


def values_of(one: Scored, metric: Metric) -> Values:
    """Read what a run says of each test image: a tie counts against it, as in its scores.

    Raises:
        AlignvisError: when the weights are others than those that were scored, or the similarities are not those that
            the scores were taken from.
    """
    weights = one.run / "weights.safetensors"
    if weights.is_file() and store.fingerprint(weights) != one.scores["weights_sha256"]:
        raise AlignvisError(
            f"{weights} has changed since {one.run} was scored; restore it, or train that run again with --overwrite"
        )
    similarities, images = read_similarity(one.run, one.record, one.scores)
    gallery = similarities.shape[1]
    if gallery < 2:
        raise AlignvisError(f"{one.run} was asked among one picture only, which says nothing; record more test images")
    places = ranks(similarities, torch.arange(len(images)))
    top1 = (places == 1).double().mean().item()
    if abs(top1 - one.scores["top1"]) > 1e-9:
        raise AlignvisError(
            f"the scores in {one.run} state a top-1 of {one.scores['top1']:.4f} and its similarities give {top1:.4f}; "
            f"score it again with: alignvis eval {one.run} --overwrite"
        )
    return Values(metric.of(places, gallery).double().numpy(), images)


def chance_of(name: str, gallery: int) -> float:
    """What a metric is on average for one who orders the gallery at random."""
    known: dict[str, Any] = chances(gallery)
    return known[name]
