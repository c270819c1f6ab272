"""Recordings and embeddings of the same pictures, opened together for analyses that train no decoder."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from alignvis import reliability, store
from alignvis.averaging import average, chosen_channels, chosen_times, recording_of
from alignvis.errors import AlignvisError
from alignvis.finding import find_features, who_learns_from_whom
from alignvis.progress import Progress, silent
from alignvis.recipe import Recipe
from alignvis.store import Features, Responses
from alignvis.versions import versions

BYTES = 128 * 2**20  # of repetitions that are in memory at a time
SMALLEST = 1e-9  # Hz


@dataclass(frozen=True)
class Study:
    """Recordings of one dataset and the embeddings of its pictures.

    Attributes:
        dataset: as the responses tables call it.
        simulated: the brains, or the pictures, are.
        recipe: channels and window; responses are averaged over repetitions as they are, without normalisation.
        responses: one table a subject.
        features: one table an image encoder, the target in the place of ``embeddings``.
        target: which tensor of the features tables that is.
        images: the test images that all subjects saw, in the order of the first one's table.
        times: (samples,) s after the picture came on, or nothing where there is one time or the tables do not say.
        channels: of each subject.
    """

    dataset: str
    simulated: bool
    recipe: Recipe
    responses: tuple[Responses, ...]
    features: tuple[Features, ...]
    target: str
    images: tuple[str, ...]
    times: tuple[float, ...] | None
    channels: tuple[tuple[str, ...], ...]

    @property
    def subjects(self) -> list[int]:
        return [table.document["subject"] for table in self.responses]


def open_study(
    root: Path,
    subjects: Sequence[int],
    *,
    dataset: str | None = None,
    features: Sequence[str] = (),
    target: str = "embeddings",
    channels: str = "all",
    window: str = "all",
) -> Study:
    """Open the recordings of some subjects and the embeddings that fit them, joined by image id.

    Args:
        features: image encoders; none means every table that fits, so an aligned one stands beside its twin.
        target: tensor of the features tables, like layer.6.patches.
        channels, window: as in a recipe: all, occipital or names; all, or seconds like 0:0.6.

    Raises:
        AlignvisError: when a table is missing or broken, the subjects are of several datasets, were recorded or
            prepared differently, or saw too few of the same test images.
    """
    recipe = Recipe(normalisation="none", channels=channels, window=window)
    found = who_learns_from_whom(root, list(dict.fromkeys(subjects)), dataset, False)
    folders = sorted({path.parent.name for _, _, path in found})
    if len(folders) > 1:
        raise AlignvisError(
            f"{root / 'responses'} holds subject {subjects[0]} of {' and of '.join(folders)}; choose one with --dataset"
        )
    responses = tuple(store.load_responses(path) for _, _, path in found)
    first = responses[0]
    for table in responses[1:]:
        _alike(first, table, recipe)
    seen = set(first.test_images).intersection(*(table.test_images for table in responses))
    images = tuple(image for image in first.test_images if image in seen)
    if not images:
        raise AlignvisError(
            f"{first.path} and {responses[-1].path} have no test image in common; analyse these subjects one by one"
        )
    tables = tuple(store.load_features(path, target) for path in find_features(root, first, features, target))
    for table in tables:
        for recording in responses[1:]:
            store.rows(table, [*recording.train_images, *recording.test_images], recording.path)
    documents = [table.document for table in (*responses, *tables)]
    return Study(
        first.document["dataset"],
        any(bool(document.get("simulated")) for document in documents),
        recipe,
        responses,
        tables,
        target,
        images,
        _times(first, recipe),
        tuple(
            tuple(table.document["channels"][place] for place in chosen_channels(table, channels))
            for table in responses
        ),
    )


def _alike(first: Responses, other: Responses, recipe: Recipe) -> None:
    """Refuse recordings of which the same sample is not the same time, or the same number not the same."""
    sizes = [chosen_times(table, recipe.window) for table in (first, other)]
    counts = [size.stop - size.start for size in sizes]
    stated = [{key: table.document.get(key) for key in ("dataset", "simulated")} for table in (first, other)]
    if counts[0] != counts[1] or recording_of(first, recipe) != recording_of(other, recipe) or stated[0] != stated[1]:
        raise AlignvisError(
            f"{other.path} was not recorded or prepared like {first.path} ({_said(other, recipe, counts[1])}, and not "
            f"{_said(first, recipe, counts[0])}); prepare all subjects alike"
        )


def _said(table: Responses, recipe: Recipe, samples: int) -> str:
    stated = {"dataset": table.document.get("dataset"), "simulated": bool(table.document.get("simulated"))}
    stated |= {"samples": samples, **recording_of(table, recipe)}
    return ", ".join(f"{key} {value}" for key, value in stated.items())


def _times(table: Responses, recipe: Recipe) -> tuple[float, ...] | None:
    """When the chosen samples were taken, s, if the table says so and there is more than one."""
    first, rate = (table.document.get(key) for key in ("tmin", "sfreq"))
    chosen = chosen_times(table, recipe.window)
    known = all(isinstance(value, int | float) and not isinstance(value, bool) for value in (first, rate))
    if chosen.stop - chosen.start == 1 or not known or not rate > SMALLEST or not abs(first) < 1e6:
        return None
    return tuple(round(float(first + place / rate), 6) for place in range(chosen.start, chosen.stop))


def shown_rows(study: Study, subject: int) -> list[int]:
    """Rows of the study's images among the test images of the subject at this place."""
    place = {image: row for row, image in enumerate(study.responses[subject].test_images)}
    return [place[image] for image in study.images]


def mean_responses(study: Study, subject: int, progress: Progress = silent) -> NDArray[np.float32]:
    """Mean test responses of the subject at this place, (images, channels, times), in the unit of its table."""
    parts, done, text = [], 0, f"averaging repetitions of subject {study.subjects[subject]}"
    for rows in _parts(study, subject):
        parts.append(average(study.responses[subject], "test", study.recipe, _same, rows=rows))
        done += len(rows)
        progress(done, len(study.images), text)
    return torch.cat(parts).numpy()


def _parts(study: Study, subject: int) -> list[list[int]]:
    """Rows of the study's images, so many at a time that their repetitions fit in `BYTES`."""
    rows = shown_rows(study, subject)
    each = max(1, BYTES // (4 * int(np.prod(study.responses[subject].test.shape[1:]))))
    return [part.tolist() for part in np.array_split(np.array(rows), -(-len(rows) // each))]


def halved_responses(
    study: Study, subject: int, draws: int, seed: int, progress: Progress = silent
) -> NDArray[np.float32] | None:
    """Means of random halves of the test repetitions, each image cut by itself; of an odd number one is left out.

    Returns:
        (draws, 2, images, channels, times), or nothing where there is one repetition.
    """
    table, rows = study.responses[subject], shown_rows(study, subject)
    repetitions = table.test.shape[1]
    if repetitions < 2:
        return None
    rng = np.random.default_rng(seed)
    chosen = np.stack([reliability.halves(len(rows), repetitions, rng) for _ in range(draws)])
    shares = torch.from_numpy(chosen.astype(np.float32) / (repetitions // 2))
    result: NDArray[np.float32] | None = None
    done = 0
    for part in _parts(study, subject):
        some = slice(done, done + len(part))
        single = average(table, "test", study.recipe, _same, rows=part, apart=True)
        found = torch.einsum("dhir,irct->dhict", shares[:, :, some], single).numpy()
        if result is None:
            result = np.empty((draws, 2, len(rows), *found.shape[3:]), np.float32)
        result[:, :, some] = found
        done += len(part)
        progress(done, len(rows), f"halving repetitions of subject {study.subjects[subject]}")
    return result


def ceilings_of(correlations: NDArray[np.floating], repetitions: int) -> NDArray[np.float64]:
    """Noise ceiling from correlations of halves: Spearman and Brown's, and then the root.

    Returns:
        As many, in [0, 1]: the highest correlation with the mean of all repetitions that a perfect model could have. 0
        where halves do not correlate, nan where the correlation is not known.
    """
    flat = np.asarray(correlations, dtype=np.float64).ravel()
    times = repetitions / (repetitions // 2)
    # halves opposed so strongly that no reliability gives it are as good as unrelated
    steps = [value if np.isnan(value) else reliability.stepped_up(value, times) or 0.0 for value in flat]
    found = [step if np.isnan(step) else reliability.noise_ceiling(step) for step in steps]
    return np.array(found).reshape(np.shape(correlations))


def embeddings_of(study: Study, table: Features, images: Sequence[str], wanted_by: Path) -> NDArray[np.float32]:
    """Embeddings of images, by id and in their order, (images, dim)."""
    return table.embeddings[store.rows(table, images, wanted_by)]


def provenance(study: Study) -> dict[str, Any]:
    """What every result says of where it comes from."""
    tables = []
    for table, channels in zip(study.responses, study.channels, strict=True):
        trials = store.read_table(table.path, "responses", {})[1].get("test.trials")
        tables.append(
            {
                "subject": table.document["subject"],
                "path": str(table.path),
                "fingerprint": store.fingerprint(table.path),
                "repetitions": table.test.shape[1],
                "trials": None if trials is None else [int(trials.min()), int(trials.max())],
                "channels": len(channels),
            }
        )
    return {
        "version": store.VERSION,
        "dataset": study.dataset,
        "simulated": study.simulated,
        "subjects": study.subjects,
        "n": len(study.images),
        "images": "test images",
        "repetitions": sorted({table.test.shape[1] for table in study.responses}),
        "channels": study.recipe.channels,
        "window": study.recipe.window,
        "times": None if study.times is None else list(study.times),
        "target": study.target,
        "responses": tables,
        "versions": versions(),
    }


def result_name(what: str, folder: str, subjects: Sequence[int], target: str) -> str:
    """What the files of a result are called, before their endings, where nobody chose another name.

    Args:
        what: rsa or encoding.
        folder: of the responses tables.
    """
    numbers = "-".join(f"{number:02d}" for number in subjects)
    return f"{what}_{folder}_sub-{numbers}" + ("" if target == "embeddings" else f"_{target}")


def about_features(table: Features) -> dict[str, Any]:
    """What a result says of a features table."""
    return {
        "features": table.document["encoder"],
        "image_set": table.document.get("image_set", table.path.parent.name),
        "aligned": table.document["aligned"],
        "twin": table.document["twin"],
        "dim": table.embeddings.shape[1],
        "path": str(table.path),
        "fingerprint": store.fingerprint(table.path),
    }


def twins(study: Study) -> list[tuple[int, int]]:
    """Places of each aligned table and its unaligned twin, on the same images."""
    found = []
    for place, table in enumerate(study.features):
        for other, plain in enumerate(study.features):
            pair = table.document["aligned"] and not plain.document["aligned"]
            if pair and table.document["twin"] == plain.document["encoder"] and table.path.parent == plain.path.parent:
                found.append((place, other))
    return found


def listed(values: NDArray[np.floating]) -> Any:
    """Numbers for JSON, none where one is not known."""
    if values.ndim == 0:
        return round(float(values), 6) if np.isfinite(values) else None
    return [listed(value) for value in values]


def _same(responses: torch.Tensor) -> torch.Tensor:
    return responses
