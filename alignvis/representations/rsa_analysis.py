"""Similarity analysis of recordings: dissimilarity of brains and of embeddings, correlated at every time."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from alignvis.errors import AlignvisError
from alignvis.progress import Progress, silent
from alignvis.representations import rsa
from alignvis.representations.study import (
    Study,
    about_features,
    ceilings_of,
    embeddings_of,
    halved_responses,
    listed,
    mean_responses,
    provenance,
    twins,
)

HALVINGS = 5  # random cuts of the repetitions into halves
LEVEL = 0.05


def similarity_over_time(
    study: Study,
    *,
    metric: str = "pearson",
    embedding_metric: str = "pearson",
    draws: int = 1000,
    permutations: int = 1000,
    seed: int = 0,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Correlate the dissimilarities of brains and of each embedding over the pairs of test images, at every time.

    The test images are those of the recording with the most repetitions. Nothing is fitted to them.

    Args:
        metric, embedding_metric: of brains, over channels, and of embeddings; keys of `rsa.METRICS`.
        draws: of the bootstrap, over images and, where there are two or more, subjects.
        permutations: of the images.

    Returns:
        What JSON can hold: the provenance (`study.provenance`) and

        - ``features``: one a table: ``r`` (times) mean over subjects, ``interval`` at each time, ``p`` corrected for
          all times of this embedding by the maximum over them, ``significant``, ``by_subject``, ``peak`` and ``mean``
          over all times;
        - ``differences``: one for each aligned table beside its twin: ``r`` with a ``band`` that holds at all times;
        - ``ceiling``: ``subjects`` (lower and upper, by other subjects; Nili et al. 2014) and ``repetitions`` (by
          halves of the repetitions, mean over subjects), null where there are not two.

        Values that are not known are none.

    Raises:
        AlignvisError: when there are too few images or channels, or an embedding is the same for all images.
    """
    models = np.stack([_ranked_embedding(study, place, embedding_metric) for place in range(len(study.features))])
    brains, ceilings = [], []
    count = len(study.responses)
    for place in range(count):
        brains.append(rsa.unit_ranks(rsa.brain_dissimilarity(mean_responses(study, place, progress), metric)))
        ceilings.append(_repetitions_ceiling(study, place, metric, seed, progress))
        progress(place + 1, count, "comparing images by brain")
    stacked, images = np.stack(brains), len(study.images)
    over = ("images", "subjects") if count > 1 else ("images",)
    mean = stacked.mean(axis=0)
    null = rsa.shuffled(mean, models, images, permutations, seed, progress)
    drawn = rsa.bootstrap(stacked, models, images, draws, seed, over, progress)
    observed = [rsa.spearman(stacked, model) for model in models]
    rows = [
        about_features(table) | _summary(study, observed[place], null[place], drawn[place])
        for place, table in enumerate(study.features)
    ]
    across = rsa.subjects_ceiling(stacked) if count > 1 else None
    known = [ceiling for ceiling in ceilings if ceiling is not None]
    within = np.mean(known, axis=0) if len(known) == count else None
    ceiling = {
        "subjects": across and {"lower": listed(across[0]), "upper": listed(across[1])},
        "repetitions": None if within is None else {"upper": listed(within), "by_subject": listed(np.array(known))},
        "halvings": HALVINGS,
    }
    _reached(rows, across, within)
    return provenance(study) | {
        "analysis": "rsa",
        "pairs": images * (images - 1) // 2,
        "correlation": "Spearman",
        "metric": metric,
        "embedding_metric": embedding_metric,
        "draws": draws,
        "drawn": list(over),
        "permutations": permutations,
        "level": LEVEL,
        "seed": seed,
        "ceiling": ceiling,
        "features": rows,
        "differences": [_difference(study, a, b, observed, drawn) for a, b in twins(study)],
    }


def _ranked_embedding(study: Study, place: int, metric: str) -> NDArray[np.float32]:
    table = study.features[place]
    vectors = embeddings_of(study, table, study.images, study.responses[0].path)
    if vectors.shape[1] == 1 and metric == "pearson":
        raise AlignvisError(
            f"{table.path} has one number an image, of which there is no correlation; choose the embedding metric "
            "euclidean"
        )
    ranked = rsa.unit_ranks(rsa.METRICS[metric](vectors))
    if np.isnan(ranked).any():
        raise AlignvisError(
            f"{table.path}: all test images are equally far apart in {study.target}, so there is nothing to "
            "correlate; extract it again, or choose another tensor with --target"
        )
    return ranked


def _repetitions_ceiling(
    study: Study, place: int, metric: str, seed: int, progress: Progress
) -> NDArray[np.float64] | None:
    """Ceiling at each time from the matrices of two halves of the repetitions; what noise does to both is not shared.

    Spearman and Brown's step is exact for sums of independent errors; the error of a dissimilarity falls faster than
    with the repetitions where noise prevails, so that the ceiling is then on the low side.
    """
    halves = halved_responses(study, place, HALVINGS, seed, progress)
    if halves is None:
        return None
    found = []
    for done, (first, second) in enumerate(halves, start=1):
        ranked = [rsa.unit_ranks(rsa.brain_dissimilarity(half, metric)) for half in (first, second)]
        found.append(np.einsum("tp,tp->t", *ranked, dtype=np.float64))
        progress(done, HALVINGS, f"noise ceiling of subject {study.subjects[place]}")
    return ceilings_of(np.mean(found, axis=0), study.responses[place].test.shape[1])


def _summary(
    study: Study, by_subject: NDArray[np.float64], null: NDArray[np.float64], drawn: NDArray[np.float64]
) -> dict[str, Any]:
    r = by_subject.mean(axis=0)
    p = rsa.family_wise(r, null)
    low, high = rsa.interval(drawn)
    return {
        "r": listed(r),
        "interval": [listed(low), listed(high)],
        "p": listed(p),
        "significant": [bool(value <= LEVEL) for value in p],
        "by_subject": listed(by_subject),
        "peak": peak(study, r, p, drawn),
        "mean": mean_over_times(r, drawn),
    }


def peak(
    study: Study, r: NDArray[np.float64], p: NDArray[np.float64], drawn: NDArray[np.float64]
) -> dict[str, Any] | None:
    """The highest of (times,) values, and how well (draws, times) of a bootstrap place it.

    The interval of the value is that of its time, which was chosen for being the highest: it is optimistic.
    """
    if not np.isfinite(r).any():
        return None
    best = int(np.nanargmax(r))
    low, high = rsa.interval(drawn[:, best])
    found = {"r": listed(r[best]), "interval": [listed(low), listed(high)], "p": listed(p[best]), "sample": best}
    if study.times is None:
        return found | {"time": None, "time_interval": None, "first_significant": None}
    filled = np.where(np.isfinite(drawn), drawn, -np.inf)
    times = np.asarray(study.times)
    places = np.quantile(times[filled.argmax(axis=1)], [0.025, 0.975], method="nearest")
    early = np.flatnonzero(p <= LEVEL)
    first = study.times[int(early[0])] if len(early) else None
    return found | {"time": study.times[best], "time_interval": places.tolist(), "first_significant": first}


def mean_over_times(r: NDArray[np.float64], drawn: NDArray[np.float64]) -> dict[str, Any] | None:
    """Mean over the times at which all is known, with its interval: chosen for nothing."""
    known = np.isfinite(r) & np.isfinite(drawn).all(axis=0)
    if not known.any():
        return None
    low, high = rsa.interval(drawn[:, known].mean(axis=1))
    return {"r": listed(r[known].mean()), "interval": [listed(low), listed(high)], "samples": int(known.sum())}


def _reached(
    rows: list[dict[str, Any]],
    across: tuple[NDArray[np.float64], NDArray[np.float64]] | None,
    within: NDArray[np.float64] | None,
) -> None:
    """Put the ceilings at its time beside each peak."""
    for row in rows:
        if row["peak"] is not None:
            at = row["peak"]["sample"]
            row["peak"]["ceiling"] = {
                "lower": None if across is None else listed(across[0][at]),
                "upper": None if across is None else listed(across[1][at]),
                "repetitions": None if within is None else listed(within[at]),
            }


def _difference(
    study: Study, aligned: int, plain: int, observed: list[NDArray[np.float64]], drawn: NDArray[np.float64]
) -> dict[str, Any]:
    """Aligned minus twin, of the same images and subjects in each draw."""
    r = (observed[aligned] - observed[plain]).mean(axis=0)
    draws = drawn[aligned] - drawn[plain]
    low, high = rsa.simultaneous(r, draws, 1 - LEVEL)
    names = [study.features[place].document["encoder"] for place in (aligned, plain)]
    return {
        "aligned": names[0],
        "plain": names[1],
        "r": listed(r),
        "band": [listed(low), listed(high)],
        "excludes_zero": [bool(a > 0 or b < 0) for a, b in zip(low, high, strict=True)],
        "mean": mean_over_times(r, draws),
    }
