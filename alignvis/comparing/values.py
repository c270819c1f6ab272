"""What a run says of each test image, from its stored similarities."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from alignvis import store
from alignvis.comparing.sides import Scored
from alignvis.errors import AlignvisError
from alignvis.retrieval import chances, each, of_places, ranks
from alignvis.runs import score_again
from alignvis.scoring import read_similarity


@dataclass(frozen=True)
class Metric:
    """One of `retrieval.measures` that is a mean over images.

    Attributes:
        name: as `retrieval.each` takes it.
        title, unit: what tables call it, and its differences.
        scale: what it is multiplied by there.
    """

    name: str
    title: str
    unit: str
    scale: float


METRICS = {
    metric.name: metric
    for metric in (
        Metric("top1", "top-1, %", "points", 100),
        Metric("top5", "top-5, %", "points", 100),
        Metric("mrr", "mean reciprocal rank", "", 1),
        Metric("pairwise", "pairwise (two-way) accuracy, %", "points", 100),
    )
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
    found, values = of_places(places, gallery), each(places, gallery, metric.name)
    wrong = [name for name in METRICS if abs(found[name] - one.scores[name]) > 1e-9]
    if wrong:
        stated, given = (of[wrong[0]] for of in (one.scores, found))
        raise AlignvisError(
            f"the scores in {one.run} state a {METRICS[wrong[0]].title.removesuffix(', %')} of {stated:.4f} and its "
            f"similarities give {given:.4f}; {score_again(one.run)}"
        )
    return Values(values.numpy(), images)


def chance_of(name: str, gallery: int) -> float:
    """What a metric is on average for one who orders the gallery at random."""
    known: dict[str, Any] = chances(gallery)
    return known[name]
