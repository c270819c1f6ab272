"""A trained run, ready to be asked: its decoder, the test responses and the test pictures, proved to fit together.

Test responses are read here and nowhere else in training or its choices: `scoring`, and what explains scores, ask.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alignvis import store
from alignvis.averaging import NORMALISATIONS, average, chosen_channels, recording_of, shape_of
from alignvis.decoder import Decoder
from alignvis.device import choose_device
from alignvis.errors import AlignvisError
from alignvis.progress import Progress, silent
from alignvis.recipe import Recipe
from alignvis.retrieval import similarity
from alignvis.runs import load_decoder, read_recipe, read_record, stated_path
from alignvis.store import Features, Responses

CHUNK = 256  # responses a step of the decoder
ROOM = 2**28  # bytes of single repetitions and their averages that are held at a time


@dataclass(frozen=True)
class Asked:
    """A run and what it is asked about.

    Attributes:
        decoder: in evaluation mode, on ``device``.
        responses: the table with the test responses: of the subject trained on, or of the one that was left out.
        features: the table that the run learned from, its target in the place of ``embeddings``.
        gallery: (pictures, shared) image vectors of the test pictures, in the order of ``responses.test_images``.
        leakage: what `prove` found.
    """

    run: Path
    record: dict[str, Any]
    recipe: Recipe
    decoder: Decoder
    responses: Responses
    features: Features
    gallery: Tensor
    device: torch.device
    leakage: dict[str, int | None]

    @property
    def images(self) -> list[str]:
        """The test images: query i is the response to image i, and picture i of the gallery."""
        return self.responses.test_images

    @property
    def targets(self) -> Tensor:
        """(queries,) the column of each query's own picture."""
        return torch.arange(len(self.images))

    def treated(self, *, apart: bool = False, progress: Progress = silent) -> Tensor:
        """Read the test responses as the decoder is fed them, before the encoder's own ``prepare``.

        Returns:
            (queries, channels, times) float32 on the CPU, the mean over repetitions, or with ``apart``
            (queries, repetitions, channels, times).
        """
        count, repetitions = self.responses.test.shape[:2]
        if not apart and repetitions > 1:  # the same to the bit, without all the repetitions in memory
            whole = torch.empty(count, *shape_of(self.responses, self.recipe))
            for rows, means in self.averages(np.ones((1, count, repetitions), bool), progress=progress):
                whole[rows] = means[0].cpu()
            return whole
        options = {"apart": apart, "device": self.device, "progress": progress}
        return average(self.responses, "test", self.recipe, lambda responses: responses, **options).cpu()

    def averages(
        self, subsets: NDArray[np.bool_], *, progress: Progress = silent
    ) -> Iterator[tuple[NDArray[np.int64], Tensor]]:
        """Average subsets of the test repetitions instead of all of them, for some images at a time.

        Args:
            subsets: (subsets, queries, repetitions), true for what goes into a mean; one repetition each at least.

        Yields:
            Rows of the queries, and their responses as the decoder is fed them, (subsets, rows, channels, times)
            float32, on the device. Where the recipe normalises the mean, it is the mean of the subset.
        """
        mean_first = self.recipe.normalisation == "mean"
        recipe = replace(self.recipe, normalisation="none") if mean_first else self.recipe
        count, repetitions = subsets.shape[1:]
        one = 4 * int(np.prod(self.responses.test.shape[2:])) * (3 * repetitions + 2 * len(subsets))
        parts = -(-count // max(1, ROOM // one))
        done = 0
        for start in range(parts):
            # spread over the table, so that a channel that was dead for a while is not taken for one that always was
            rows = np.arange(start, count, parts)
            options = {"rows": rows, "apart": True, "device": self.device}
            single = average(self.responses, "test", recipe, lambda responses: responses, **options)
            chosen = torch.from_numpy(subsets[:, rows]).to(single)
            chosen /= chosen.sum(dim=2, keepdim=True)
            means = torch.einsum("sir,irct->sict", chosen, single)
            for subset in np.flatnonzero(subsets[:, rows].all(axis=(1, 2))):  # as `average` rounds
                means[subset] = single.mean(dim=1)
            if mean_first:
                means = NORMALISATIONS["mean"](means.flatten(0, 1)[:, None]).view(means.shape)
            yield rows, means
            done += len(rows)
            progress(done, count, "averaging test repetitions")

    def brain(self, treated: Tensor) -> Tensor:
        """Map responses, (queries, channels, times), to brain vectors, (queries, shared) float32, on the device."""
        with torch.inference_mode():
            parts = [
                self.decoder.brain(self.decoder.brain.prepare(part.to(self.device))) for part in treated.split(CHUNK)
            ]
            return torch.cat(parts).float()

    def image(self, embeddings: Tensor) -> Tensor:
        """Map embeddings, (pictures, dim), to image vectors, (pictures, shared) float32, on the device."""
        with torch.inference_mode():
            return self.decoder.image(embeddings.to(self.device)).float()

    def similarities(self, treated: Tensor, gallery: Tensor | None = None) -> Tensor:
        """Compare responses, (queries, channels, times), with the gallery: (queries, pictures) on the CPU."""
        gallery = self.gallery if gallery is None else gallery
        with torch.inference_mode():
            return similarity(self.brain(treated), gallery, self.recipe.sides, self.recipe.centre).cpu()

    @property
    def trials(self) -> dict[str, float] | None:
        """Of how many trials a test response is the mean where the table has averaged them: "min", "max", "mean"."""
        _, arrays = store.read_table(self.responses.path, "responses", {})
        counts = arrays.get("test.trials")
        if counts is None or not counts.size or self.responses.test.shape[1] > 1:
            return None
        return {"min": int(counts.min()), "max": int(counts.max()), "mean": float(counts.mean())}


def ask(run: Path, *, device: str = "cpu") -> Asked:
    """Open a run and the tables that it is asked with.

    Raises:
        AlignvisError: when the run is not whole, its tables are gone or have changed since, they were recorded in
            another way than those trained on, or a test image was trained on.
    """
    run, where = Path(run), choose_device(device)
    record = read_record(run)
    recipe, decoder = read_recipe(run, record), load_decoder(run, record)
    responses, features = (
        _queries(run, record),
        store.load_features(_input(run, record["inputs"]["features"], "features"), recipe.target),
    )
    leakage = prove(run, record, responses.test_images, features.path)
    taught = [
        set(store.read_document(_input(run, table, "responses"))["train_images"])
        for table in record["inputs"]["responses"]
    ]
    if not taught or set.intersection(*taught) != {*record["split"]["train"], *record["split"]["validation"]}:
        raise AlignvisError(
            f"{run / 'record.json'} does not name the training images of its tables as those it was trained on, so "
            "nothing proves that the test images are new to it; train again"
        )
    check_alike(responses, run, record, recipe)
    pictures = torch.from_numpy(features.embeddings[store.rows(features, responses.test_images, responses.path)])
    decoder.eval().to(where)
    with torch.inference_mode():
        gallery = decoder.image(pictures.to(where)).float()
    return Asked(run, record, recipe, decoder, responses, features, gallery, where, leakage)


def check_alike(responses: Responses, run: Path, record: dict[str, Any], recipe: Recipe) -> None:
    """Make sure that responses were recorded as those that a run learned from: channels, times, unit.

    Raises:
        AlignvisError: when they were not.
    """
    names = [responses.document["channels"][place] for place in chosen_channels(responses, recipe.channels)]
    shape = record["shape"]
    if names != record["channels"] or shape_of(responses, recipe) != (shape["channels"], shape["times"]):
        raise AlignvisError(
            f"{responses.path} has {len(names)} channels x {shape_of(responses, recipe)[1]} times and {run} was "
            f"trained on {shape['channels']} x {shape['times']}, or in another order; prepare all subjects alike"
        )
    if recording_of(responses, recipe) != record["recording"]:
        stated = ", ".join(f"{key} {value}" for key, value in record["recording"].items())
        raise AlignvisError(
            f"{responses.path} was not recorded like those that {run} learned from ({stated}); "
            "prepare all subjects alike"
        )


def prove(run: Path, record: dict[str, Any], tested: Sequence[str], features: Path | None) -> dict[str, int | None]:
    """Make sure that no test picture was seen in training: neither under its own id nor under another one.

    Args:
        tested: ids of the test images.
        features: the table learned from, which knows the pictures' files by their digests; none if it is gone.

    Returns:
        How many images there are in "train", "validation" and "test"; "shared_images" and "shared_pictures", 0, or none
        for pictures whose digests are not known; and "shared_concepts": of how many of the test's concepts other
        pictures were seen, which is no fault, but another claim than that of new concepts.

    Raises:
        AlignvisError: when a test image, or a picture of the same content, was trained on or validated with.
    """
    train, validation, test = set(record["split"]["train"]), set(record["split"]["validation"]), set(tested)
    leaked = (train | validation) & test
    if leaked:
        raise AlignvisError(
            f"{run}: {len(leaked)} test images were used in training (the first is {min(leaked)!r}); "
            "a score on them would not be honest: train again"
        )
    digests = {} if features is None else _digests(features, store.fingerprint(features))
    known = all(image in digests for image in train | validation | test)
    seen = {digests[image]: image for image in sorted(train | validation)} if known else {}
    twice = {image: seen[digests[image]] for image in sorted(test) if known and digests[image] in seen}
    if twice:
        image = min(twice)
        raise AlignvisError(
            f"{run}: {len(twice)} test pictures were used in training under another name (the first, {image!r}, is the "
            f"same file as {twice[image]!r}); a score on them would not be honest: take them out, and train again"
        )
    shared = {_concept(image) for image in train | validation} & {_concept(image) for image in test}
    counts = {"train": len(train), "validation": len(validation), "test": len(test), "shared_images": 0}
    return counts | {"shared_pictures": 0 if known else None, "shared_concepts": len(shared)}


@lru_cache(maxsize=4)
def _digests(features: Path, fingerprint: str) -> dict[str, bytes]:
    """The digest of each picture's file, as far as a table has them; what stands in for one, like zeros, is none."""
    document, arrays = store.read_table(features, "features", {})
    digests = arrays.get("images.sha256")
    if digests is None or digests.shape != (len(document["images"]), 32):
        return {}
    real = (digests != digests[:, :1]).any(axis=1)
    return {image: digests[row].tobytes() for row, image in enumerate(document["images"]) if real[row]}


def _concept(image: str) -> str:
    """The folder that a picture lies in, without the number that training and test count anew; else the picture."""
    folder = PurePosixPath(image).parent.name
    return re.sub(r"^\d+_", "", folder) if folder else image


def _queries(run: Path, record: dict[str, Any]) -> Responses:
    """The table with the test responses: of the subject trained on, or of the one that was left out."""
    table = record["inputs"]["queries"]
    path = stated_path(run, table)
    if not path.is_file() and record["protocol"] == "leave-out":
        raise AlignvisError(
            f"{path} is not there, and {run} is to be asked about subject {record['subject']}; prepare that subject"
        )
    responses = store.load_responses(_input(run, table, "responses") if table["fingerprint"] else path)
    if responses.document["subject"] != record["subject"] or responses.document["dataset"] != record["dataset"]:
        raise AlignvisError(
            f"{path} holds subject {responses.document['subject']} of {responses.document['dataset']}, and {run} is to "
            f"be asked about subject {record['subject']} of {record['dataset']}; give the file its own name back"
        )
    return responses


def _input(run: Path, table: dict[str, Any], kind: str) -> Path:
    """Find a table that a run was trained on, and make sure that it is still the same."""
    path = stated_path(run, table)
    store.read_document(path, kind)
    if store.fingerprint(path) != table["fingerprint"]:
        raise AlignvisError(f"{path} has changed since {run} was trained on it; restore it, or train again")
    return path
