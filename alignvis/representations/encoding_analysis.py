"""Encoding model of recordings: embeddings to channels and times, fitted to training images, tried on test images."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from alignvis import store
from alignvis.averaging import average
from alignvis.channels import is_occipital
from alignvis.pairs import concept
from alignvis.progress import Progress, silent
from alignvis.representations import encoding, rsa
from alignvis.representations.encoding import Design
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
from alignvis.store import Features

HALVINGS = 5  # random cuts of the repetitions into halves
LEVEL = 0.05
BYTES = 600 * 2**20  # of sums of products, and what is made of them
SHARES = (0.05, 0.25, 0.5, 0.75, 0.95)

# (images, targets) float32 that an encoding model is measured against, and the ceiling of each target
Measured = tuple[NDArray[np.float32], NDArray[np.float64] | None]


def encode(
    study: Study,
    *,
    alphas: Sequence[float] = encoding.ALPHAS,
    folds: int = encoding.FOLDS,
    draws: int = 1000,
    permutations: int = 1000,
    seed: int = 0,
    progress: Progress = silent,
) -> tuple[dict[str, Any], dict[str, NDArray[np.float32]]]:
    """Predict each subject's responses from each embedding, and correlate them with those measured, over test images.

    The model is fitted to the mean responses to the training images; the penalty of each channel and time is chosen for
    it alone by cross-validation in which a concept is never on both sides. Test images decide on nothing.

    Args:
        alphas: penalties to choose from, times the number of images fitted on.
        draws: of the bootstrap, over test images and, where there are two or more, subjects.
        permutations: of the test images.

    Returns:
        What JSON can hold: the provenance (`study.provenance`) and ``features``, one a table: ``curve`` (times) mean
        over subjects and over the channels of ``region``, with ``interval``, ``p`` corrected for all times, ``ceiling``
        and ``peak``; and ``by_subject``, each with its best channel and time, ``p`` corrected for all of both, the
        penalties, and the spread over channels or voxels at the peak. ``differences`` compare each aligned table with
        its twin.

        Maps for a file beside it: ``sub-NN.<features>.r`` and ``.p`` and ``sub-NN.ceiling``, (channels, times) float32,
        nan where not known.

    Raises:
        AlignvisError: when there are too few training concepts or test images.
    """
    measured, ceilings, maps = [], [], {}
    for place, subject in enumerate(study.subjects):
        values, halves = _measured(study, place, seed, progress)
        repetitions = study.responses[place].test.shape[1]
        ceiling = None if halves is None else ceilings_of(halves, repetitions)
        measured.append((values, ceiling))
        if halves is not None and ceiling is not None:
            maps[f"sub-{subject:02d}.ceiling"] = ceiling.reshape(_shape(study, place)).astype(np.float32)
            # of the mean, and not the mean of ceilings: these are never below 0, and where nothing is reliable so is
            # their mean above it; by the root's and the formula's curvature it is as high or higher
            ceilings.append(ceilings_of(_curve(study, place, halves), repetitions))
    ceiling = np.mean(ceilings, axis=0) if len(ceilings) == len(study.subjects) else None
    rows, curves = [], []
    for table in study.features:
        row, drawn, found = _encode(study, table, measured, ceiling, alphas, folds, draws, permutations, seed, progress)
        rows.append(row)
        curves.append(drawn)
        maps |= found
    about = {
        "analysis": "encoding",
        "train_images": sorted({len(table.train_images) for table in study.responses}),
        "train_repetitions": sorted({table.train.shape[1] for table in study.responses}),
        "shared_concepts": _shared_concepts(study),
        "region": _region_name(study),
        "alphas": list(alphas),
        "folds": folds,
        "draws": draws,
        "drawn": ["images", "subjects"] if len(study.subjects) > 1 else ["images"],
        "permutations": permutations,
        "halvings": HALVINGS,
        "level": LEVEL,
        "seed": seed,
        "channel_names": list(study.channels[0]) if len(set(study.channels)) == 1 else None,
        "ceiling": None if ceiling is None else listed(ceiling),
        "features": rows,
        "differences": [_difference(study, rows[a], rows[b], curves[a], curves[b]) for a, b in twins(study)],
    }
    return provenance(study) | about, maps


def _shape(study: Study, place: int) -> tuple[int, int]:
    """Channels and times of the subject at this place."""
    count = len(study.channels[place])
    return count, -1


def _measured(study: Study, place: int, seed: int, progress: Progress) -> Measured:
    """Mean test responses, (images, targets), and how halves of the repetitions correlate in each target."""
    means = mean_responses(study, place, progress)
    rsa.enough_images(len(means))
    halves = halved_responses(study, place, HALVINGS, seed, progress)
    flat = means.reshape(len(means), -1)
    if halves is None:
        return flat, None
    first, second = halves.reshape(*halves.shape[:3], -1).swapaxes(0, 1)
    return flat, np.mean([encoding.correlate(*pair) for pair in zip(first, second, strict=True)], axis=0)


def _region(study: Study, place: int) -> NDArray[np.bool_]:
    """Channels that the curve is the mean of: those with an occipital name, and all where none has."""
    found = np.array([is_occipital(name) for name in study.channels[place]])
    return found if _region_name(study) == "occipital" else np.ones_like(found)


def _region_name(study: Study) -> str:
    """Occipital if all subjects have such channels."""
    return "occipital" if all(any(map(is_occipital, names)) for names in study.channels) else "all"


def _curve(study: Study, place: int, values: NDArray[np.floating]) -> NDArray[np.float64]:
    """Mean over the region's channels of (..., targets) values: (..., times). What is not known counts as nothing."""
    grid = values.reshape(*values.shape[:-1], *_shape(study, place))[..., _region(study, place), :]
    return np.where(np.isfinite(grid), grid, 0).mean(axis=-2, dtype=np.float64)


def _shared_concepts(study: Study) -> int:
    """Concepts of test images that images fitted on are of too; images in no folder have no concept."""
    trained = {concept(image) for table in study.responses for image in table.train_images}
    return len({_bare(name) for name in map(concept, study.images)} & {_bare(name) for name in trained})


def _bare(name: str) -> str:
    """A concept without the number that its folder begins with, which is another among training and test images."""
    last = name.rpartition("/")[2]
    number, _, rest = last.partition("_")
    return rest if number.isdigit() and rest else last


def _encode(
    study: Study,
    table: Features,
    measured: Sequence[Measured],
    ceiling: NDArray[np.float64] | None,
    alphas: Sequence[float],
    folds: int,
    draws: int,
    permutations: int,
    seed: int,
    progress: Progress,
) -> tuple[dict[str, Any], NDArray[np.float64], dict[str, NDArray[np.float32]]]:
    """One embedding: its row of the result, (draws, times) of its curve, and its maps."""
    name, by_subject, maps, made = table.document["encoder"], [], {}, None
    curves, drawn, null = [], [], []
    for place, subject in enumerate(study.subjects):

        def told(done: int, total: int, what: str, of: str = f"subject {subject}, {name}") -> None:
            progress(done, total, f"{what}, {of}")

        made = _design(study, table, place, folds, seed, told, made)
        predicted, alpha, explained = _predicted(study, table, place, made[1], alphas, told)
        values, limit = measured[place]
        r = encoding.correlate(predicted, values)
        told(0, 2, "chance and spread")
        shuffled = encoding.shuffled_correlations(predicted, values, permutations, seed)
        told(1, 2, "chance and spread")
        p = rsa.family_wise(r, shuffled)
        again = encoding.drawn_correlations(predicted, values, draws, seed)
        told(2, 2, "chance and spread")
        shape = _shape(study, place)
        maps[f"sub-{subject:02d}.{name}.r"] = r.reshape(shape).astype(np.float32)
        maps[f"sub-{subject:02d}.{name}.p"] = p.reshape(shape).astype(np.float32)
        curves.append(_curve(study, place, r))
        null.append(_curve(study, place, shuffled))
        drawn.append(_curve(study, place, again))
        by_subject.append(
            {"subject": subject, "curve": listed(curves[-1])}
            | _best(study, place, r, p, limit, again)
            | _penalties(alpha, alphas, explained)
        )
    curve, chance = np.mean(curves, axis=0), np.mean(null, axis=0)
    rng = np.random.default_rng(seed)
    count = len(study.subjects)
    shares = rng.multinomial(count, np.full(count, 1 / count), draws) / count  # of one subject: always that one
    spread = np.einsum("ds,sdt->dt", shares, np.stack(drawn))
    p = rsa.family_wise(curve, chance)
    low, high = rsa.interval(spread)
    row = about_features(table) | {
        "curve": listed(curve),
        "interval": [listed(low), listed(high)],
        "p": listed(p),
        "significant": [bool(value <= LEVEL) for value in p],
        "peak": _peak(study, curve, p, spread, ceiling),
        "by_subject": by_subject,
    }
    return row, spread, maps


Made = tuple[tuple[str, ...], Design]


def _design(
    study: Study, table: Features, place: int, folds: int, seed: int, progress: Progress, before: Made | None
) -> Made:
    """The decomposed features of a subject's training images; those of the subject before where it saw the same."""
    recording = study.responses[place]
    images = tuple(recording.train_images)
    if before is not None and before[0] == images:
        return before
    vectors = embeddings_of(study, table, images, recording.path)
    dealt = encoding.folds_of([concept(image) for image in images], folds, seed)
    return images, encoding.design(vectors, dealt, progress)


def _predicted(
    study: Study, table: Features, place: int, made: Design, alphas: Sequence[float], progress: Progress
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Predictions of the test images, (images, targets); the penalty and the held-out variance explained of each."""
    recording = study.responses[place]
    unseen = embeddings_of(study, table, study.images, recording.path)
    samples = _samples(study, recording.train)
    targets = len(study.channels[place]) * samples
    dim = made.features.shape[1]
    each = max(1, BYTES // (4 * dim * (len(made.rows) + 6)))
    found = []
    for some in np.array_split(np.arange(targets), -(-targets // each)):
        block = slice(int(some[0]), int(some[-1]) + 1)

        def read(rows: NDArray[np.int64], block: slice = block) -> NDArray[np.float32]:
            means = average(recording, "train", study.recipe, lambda responses: responses, rows=rows.tolist())
            return means.flatten(1).numpy()[:, block]

        size = max(1, encoding.IMAGES * 2**20 // max(1, 4 * int(np.prod(recording.train.shape[1:]))))
        model = encoding.fit(made, read, alphas, min(encoding.IMAGES, size), progress)
        found.append((encoding.predict(made, model, unseen), model.alphas, model.explained))
    return tuple(np.concatenate(parts, axis=-1) for parts in zip(*found, strict=True))


def _samples(study: Study, train: NDArray[np.floating]) -> int:
    return train.shape[-1] if study.times is None else len(study.times)


def _best(
    study: Study,
    place: int,
    r: NDArray[np.float64],
    p: NDArray[np.float64],
    ceiling: NDArray[np.float64] | None,
    again: NDArray[np.floating],
) -> dict[str, Any]:
    """The best channel and time of a subject, and the spread over channels at the time that is best on average."""
    known = np.isfinite(r)
    if not known.any():
        return {"best": None, "spread": None, "significant_share": 0.0}
    target = int(np.nanargmax(r))
    grid = r.reshape(_shape(study, place))
    channel, sample = divmod(target, grid.shape[1])
    low, high = rsa.interval(again[:, target])
    limit = None if ceiling is None else listed(ceiling[target])
    best = {
        "r": listed(r[target]),
        "interval": [listed(low), listed(high)],
        "p": listed(p[target]),
        "channel": study.channels[place][channel],
        "time": None if study.times is None else study.times[sample],
        "ceiling": limit,
        "share": round(float(r[target]) / limit, 6) if limit else None,
    }
    means = np.where(known, r, 0).reshape(grid.shape).mean(axis=0)
    column = grid[:, int(means.argmax())]
    column = column[np.isfinite(column)]
    spread = {f"{share:g}": listed(np.quantile(column, share)) for share in SHARES}
    return {"best": best, "spread": spread, "significant_share": float((p <= LEVEL).mean())}


def _penalties(alpha: NDArray[np.float64], alphas: Sequence[float], explained: NDArray[np.float64]) -> dict[str, Any]:
    """Which penalties were chosen; those at the end of the grid might have been chosen beyond it."""
    return {
        "alpha_median": float(np.median(alpha)),
        "alpha_lowest_share": float((alpha == min(alphas)).mean()),
        "alpha_highest_share": float((alpha == max(alphas)).mean()),
        "held_out_explained_best": listed(np.nanmax(explained)) if np.isfinite(explained).any() else None,
    }


def _peak(
    study: Study,
    curve: NDArray[np.float64],
    p: NDArray[np.float64],
    drawn: NDArray[np.float64],
    ceiling: NDArray[np.float64] | None,
) -> dict[str, Any]:
    """The highest point of the curve; its interval is that of its time, which was chosen for being the highest."""
    best = int(curve.argmax())
    low, high = rsa.interval(drawn[:, best])
    limit = None if ceiling is None else listed(ceiling[best])
    found = {
        "r": listed(curve[best]),
        "interval": [listed(low), listed(high)],
        "p": listed(p[best]),
        "sample": best,
        "ceiling": limit,
        "share": round(float(curve[best]) / limit, 6) if limit else None,
    }
    if study.times is None:
        return found | {"time": None, "time_interval": None, "first_significant": None}
    times = np.asarray(study.times)
    places = np.quantile(times[drawn.argmax(axis=1)], [0.025, 0.975], method="nearest")
    early = np.flatnonzero(p <= LEVEL)
    return found | {
        "time": study.times[best],
        "time_interval": places.tolist(),
        "first_significant": study.times[int(early[0])] if len(early) else None,
    }


def _difference(
    study: Study, aligned: Mapping[str, Any], plain: Mapping[str, Any], a: NDArray[np.float64], b: NDArray[np.float64]
) -> dict[str, Any]:
    """Aligned minus twin, of the same images and subjects in each draw."""
    r, draws = np.array(aligned["curve"]) - np.array(plain["curve"]), a - b
    low, high = rsa.simultaneous(r, draws, 1 - LEVEL)
    mean = rsa.interval(draws.mean(axis=1))
    return {
        "aligned": aligned["features"],
        "plain": plain["features"],
        "r": listed(r),
        "band": [listed(low), listed(high)],
        "excludes_zero": [bool(x > 0 or y < 0) for x, y in zip(low, high, strict=True)],
        "mean": {"r": listed(r.mean()), "interval": [listed(end) for end in mean], "samples": len(r)},
    }


def maps_document(result: Mapping[str, Any]) -> dict[str, Any]:
    """What the header of the file with the maps says."""
    keys = ("dataset", "simulated", "subjects", "target", "times", "channel_names")
    return {"table": "encoding", **{key: result[key] for key in keys}}


def as_tensors(maps: Mapping[str, NDArray[np.float32]]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(np.ascontiguousarray(values)) for name, values in maps.items()}


def read_maps(path: Path) -> tuple[dict[str, Any], dict[str, NDArray[np.float32]]]:
    """Read the maps of an encoding analysis: its document, and (channels, times) by name."""
    document, arrays = store.read_table(path, "encoding", {})
    return document, {name: np.asarray(values) for name, values in arrays.items()}
