"""Model randomisation: a map that stays the same when the weights are drawn anew explains the data, not the model."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr
from torch import Tensor

from alignvis import store
from alignvis.asking import Asked
from alignvis.decoder import Decoder
from alignvis.progress import Progress, silent

SEEDS = 5
Mapper = Callable[[Asked, Tensor], NDArray[np.float32]]  # (queries, channels, times) to maps, (queries, ...)


def fresh(asked: Asked, seed: int) -> Asked:
    """The same question put to a decoder of new weights, none of them trained."""
    decoder = Decoder(asked.record["encoder"], **asked.record["shape"], recipe=asked.recipe, seed=seed)
    decoder.eval().to(asked.device)
    rows = store.rows(asked.features, asked.images, asked.responses.path)
    pictures = torch.from_numpy(asked.features.embeddings[rows])
    with torch.inference_mode():
        gallery = decoder.image(pictures.to(asked.device)).float()
    return replace(asked, decoder=decoder, gallery=gallery)


def agreement(first: NDArray[np.floating], second: NDArray[np.floating]) -> float:
    """Spearman's correlation of the sizes of two maps, value by value; 0 if one is the same everywhere."""
    sizes = [np.abs(one).ravel() for one in (first, second)]
    if any((size == size[0]).all() for size in sizes):
        return 0.0
    return float(spearmanr(*sizes).statistic)


def randomised(
    asked: Asked, treated: Tensor, mapper: Mapper, trained: NDArray[np.float32], progress: Progress = silent
) -> tuple[list[int], list[float]]:
    """Compare the mean map over queries with those of decoders of fresh weights.

    Args:
        mapper: makes the maps.
        trained: what it made of the trained decoder, (queries, ...).

    Returns:
        The seeds of the fresh weights, none of them the run's own, and the `agreement` with each.

    Source: Adebayo et al. (2018), arXiv:1810.03292, all layers at once, of the mean map instead of single ones.
    """
    seeds = [asked.record["seed"] + 1 + number for number in range(SEEDS)]
    mean, found = trained.mean(axis=0), []
    for seed in seeds:
        found.append(agreement(mean, mapper(fresh(asked, seed), treated).mean(axis=0)))
        progress(len(found), SEEDS, "maps of random weights")
    return seeds, found


def between(maps: Sequence[NDArray[np.floating]]) -> float | None:
    """Mean `agreement` of all pairs of maps, such as those of several seeds; None of fewer than two."""
    pairs = [(first, second) for place, first in enumerate(maps) for second in maps[place + 1 :]]
    return float(np.mean([agreement(*pair) for pair in pairs])) if pairs else None
