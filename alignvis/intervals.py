"""Intervals of scores: over the test pictures of one subject, and over subjects and their pictures."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from alignvis.retrieval import each
from alignvis.stats import bootstrap, bootstrap_of_medians, mean_interval, median_interval, wilson

Interval = tuple[float, float]
Score = dict[str, Any]


def measure_interval(places: Sequence[Sequence[int]], gallery: int, measure: str) -> Interval | None:
    """Interval of a measure of one subject over its test pictures, 95 %, seeds averaged first: they are no pictures.

    Of shares Wilson's, of other means as `stats.mean_interval`, of medians by order statistics: the mean over seeds of
    its ends.

    Args:
        places: (seeds, queries), ranks from 1 to ``gallery``.
        measure: as `retrieval.each` takes it.

    Returns:
        None where the pictures do not tell how others differ: where all say the same, or there are too few.

    Raises:
        AlignvisError: when there is no such measure.

    Source: as `stats.wilson`, `stats.mean_interval` and `stats.median_interval`.
    """
    if measure == "median_rank":
        ends = [median_interval(seed) for seed in places]
        return None if None in ends else tuple(np.mean(ends, axis=0).tolist())
    values = _each(places, gallery, measure).mean(axis=0)
    if measure.startswith("top"):
        return wilson(float(values.mean()), len(values))
    return mean_interval(values)


def within(places: Sequence[int], gallery: int, measures: Sequence[str]) -> list[list[float] | None]:
    """`measure_interval` of several measures of one run, for JSON."""
    found = [measure_interval([places], gallery, measure) for measure in measures]
    return [None if ends is None else list(ends) for ends in found]


def interval(subjects: Sequence[Sequence[Score]], measure: str = "top1") -> Interval | None:
    """Interval of a mean over subjects of means over seeds, 95 %.

    Of one subject as `measure_interval`; of several by `stats.bootstrap` over subjects and pictures.

    Args:
        subjects: of each its scores, one a seed: "subject", "ranks", by sorted image id, "gallery", and
            "images_sha256", which is equal where the pictures are.

    Returns:
        None where all say the same, or the seeds of a subject were asked about other pictures.
    """
    ordered = sorted(subjects, key=lambda seeds: seeds[0]["subject"])  # draws do not depend on the order of folders
    pictures = [{score["images_sha256"] for score in seeds} for seeds in ordered]
    if any(len(found) > 1 for found in pictures):
        return None
    gallery = ordered[0][0]["gallery"]
    places = [[score["ranks"] for score in seeds] for seeds in ordered]
    if len(ordered) == 1:
        return measure_interval(places[0], gallery, measure)
    values = [_each(seeds, gallery, measure) for seeds in places]
    means = [one.mean(axis=0) for one in values]
    if len({value for one in means for value in one.tolist()}) == 1:
        return None
    same = len(set.union(*pictures)) == 1
    if measure == "median_rank":
        return bootstrap_of_medians(values, shared=same)
    return bootstrap(np.stack(means) if same else means)


def _each(places: Sequence[Sequence[int]], gallery: int, measure: str) -> NDArray[np.float64]:
    return np.stack([each(torch.tensor(seed), gallery, measure).numpy() for seed in places])
