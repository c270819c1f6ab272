"""A trained run, ready to be asked: its decoder, the test responses and the test pictures, proved to fit together.

Test responses are read here and nowhere else in training or its choices: `scoring`, and what explains scores, ask.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from alignvis import store
from alignvis.averaging import average, chosen_channels, recording_of, shape_of
from alignvis.decoder import Decoder
from alignvis.device import choose_device
from alignvis.errors import AlignvisError
from alignvis.progress import Progress, silent
from alignvis.recipe import Recipe
from alignvis.retrieval import similarity
from alignvis.runs import load_decoder, read_recipe, read_record, stated_path
from alignvis.store import Features, Responses

CHUNK = 256  # responses a step of the decoder


@dataclass(frozen=True)
class Asked:
    """A run and what it is asked about.

    Attributes:
        decoder: in evaluation mode, on ``device``.
        responses: the table with the test responses: of the subject trained on, or of the one that was left out.
        features: the table that the run learned from, its target in the place of ``embeddings``.
        gallery: (pictures, shared) image vectors of the test pictures, in the order of ``responses.test_images``.
    """

    run: Path
    record: dict[str, Any]
    recipe: Recipe
    decoder: Decoder
    responses: Responses
    features: Features
    gallery: Tensor
    device: torch.device

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
        options = {"apart": apart, "device": self.device, "progress": progress}
        return average(self.responses, "test", self.recipe, lambda responses: responses, **options).cpu()

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
    for table in record["inputs"]["responses"]:
        _input(run, table, "responses")
    seen = set(record["split"]["train"]) | set(record["split"]["validation"])
    leaked = seen & set(responses.test_images)
    if leaked:
        raise AlignvisError(
            f"{run}: {len(leaked)} test images were used in training (the first is {min(leaked)!r}); "
            "a score on them would not be honest: train again"
        )
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
    pictures = torch.from_numpy(features.embeddings[store.rows(features, responses.test_images, responses.path)])
    decoder.eval().to(where)
    with torch.inference_mode():
        gallery = decoder.image(pictures.to(where)).float()
    return Asked(run, record, recipe, decoder, responses, features, gallery, where)


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
