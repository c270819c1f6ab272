"""Responses beside features on one device: averaged once, split by image or by concept, batched without a loader."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alignvis.errors import AlignvisError
from alignvis.progress import Progress, silent
from alignvis.store import Responses

CHUNK = 512  # images averaged at a time: what bounds the memory beside the result


@dataclass(frozen=True)
class Pairs:
    """What the brain did, beside what was shown; row i of one belongs to row i of the other.

    Attributes:
        responses: (images, ...) float32, as the encoder's ``prepare`` returned them.
        features: (images, dim) float32.
    """

    responses: Tensor
    features: Tensor

    def __len__(self) -> int:
        return len(self.responses)

    def __getitem__(self, rows: Tensor | slice) -> "Pairs":
        return Pairs(self.responses[rows], self.features[rows])

    def to(self, device: str | torch.device) -> "Pairs":
        return Pairs(self.responses.to(device), self.features.to(device))

    def batches(self, size: int, generator: torch.Generator) -> Iterator["Pairs"]:
        """Visit every image once, in a fresh order, and drop the ragged end.

        Each image comes at most once per batch, so no batch can hold a false negative. Order, rows and result never
        leave the device: there is nothing here for a worker to do.
        """
        order = torch.randperm(len(self), generator=generator, device=self.responses.device)
        for rows in order[: len(self) // size * size].split(size):
            yield self[rows]


def unit_repetitions(responses: NDArray[np.float32]) -> NDArray[np.float32]:
    """Centre every repetition and channel over time and divide by the root of its sum of squares before centring.

    Args:
        responses: (images, repetitions, channels, times), any unit, as it cancels; at least two times.

    Source: Rajabi et al. (2025), arXiv:2502.03081, as published: the norm is that of the uncentred signal. A flat
        channel gives zeros instead of their NaN.
    """
    norm = np.sqrt(np.square(responses).sum(axis=-1, keepdims=True))
    return (responses - responses.mean(axis=-1, keepdims=True)) / np.maximum(norm, np.finfo(np.float32).tiny)


NORMALISATIONS: dict[str, Callable[[NDArray[np.float32]], NDArray[np.float32]]] = {
    "repetition": unit_repetitions,
    "none": lambda responses: responses,
}


def average(
    table: Responses,
    part: str,
    normalisation: str,
    prepare: Callable[[Tensor], Tensor],
    progress: Progress = silent,
) -> Tensor:
    """Normalise and average the repetitions of every image, once, and hand the mean to the encoder's ``prepare``.

    Args:
        part: "train" or "test".
        normalisation: a key of `NORMALISATIONS`, applied before averaging.
        prepare: (images, channels, times) float32 to (images, ...), row by row.

    Returns:
        What ``prepare`` returns for all images, float32. The table itself is only ever read in chunks.

    Raises:
        AlignvisError: when a value is not finite, naming the image and channel, or when a channel is zero throughout.
    """
    array: NDArray = getattr(table, part)
    images: list[str] = getattr(table, f"{part}_images")
    channels: list[str] = table.document["channels"]
    if normalisation == "repetition" and array.shape[-1] == 1:
        raise AlignvisError(
            f"{table.path} has one time a response, which cannot be normalised over time; use a recipe without"
        )
    if not len(images):
        raise AlignvisError(f"{table.path} has no {part} images; prepare the recording again")
    alive = np.zeros(len(channels), dtype=bool)
    result: Tensor | None = None
    for start in range(0, len(images), CHUNK):
        responses = array[start : start + CHUNK].astype(np.float32)
        broken = np.argwhere(~np.isfinite(responses.sum(axis=(1, 3))))
        if len(broken):
            image, channel = broken[0]
            raise AlignvisError(
                f"{table.path}: the {part} response to {images[start + image]!r} is not finite in channel "
                f"{channels[channel]}; prepare the recording again, or leave that channel out"
            )
        alive |= responses.any(axis=(0, 1, 3))
        prepared = prepare(torch.from_numpy(NORMALISATIONS[normalisation](responses).mean(axis=1)))
        if result is None:
            result = prepared.new_empty(len(images), *prepared.shape[1:])
        result[start : start + CHUNK] = prepared
        progress(min(start + CHUNK, len(images)), len(images), f"averaging {part} repetitions")
    if not alive.all():
        dead = ", ".join(name for name, lives in zip(channels, alive, strict=True) if not lives)
        raise AlignvisError(
            f"{table.path}: channel {dead} is zero in every {part} response; leave it out and prepare again"
        )
    assert result is not None
    return result


def concept(image: str) -> str:
    """The concept of an image is the folder it lies in."""
    return str(PurePosixPath(image).parent)


def split(images: Sequence[str], unit: str, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Choose which images are trained on and which are held out for every choice that training makes.

    Args:
        images: ids of the training images. Which of them are held out depends on the set of ids, not on its order.
        unit: "image" holds out single images, whose concepts are also trained on (the published protocol);
            "concept" holds out whole concepts, as the test does.
        share: of the units, held out; at least one unit is.
        seed: of the choice; all subjects with the same images share it.

    Returns:
        Rows to train on and rows held out, each in random order.

    Raises:
        AlignvisError: when fewer than two images would be left on either side.
    """
    unit_of = {"image": str, "concept": concept}[unit]
    units = sorted({unit_of(image) for image in images})
    generator = torch.Generator().manual_seed(seed)
    held_out = {units[i] for i in torch.randperm(len(units), generator=generator)[: max(1, int(share * len(units)))]}
    place = {image: row for row, image in enumerate(images)}
    shuffled = [sorted(images)[i] for i in torch.randperm(len(images), generator=generator)]
    sides = [
        torch.tensor([place[image] for image in shuffled if (unit_of(image) in held_out) is side])
        for side in (False, True)
    ]
    if min(len(side) for side in sides) < 2:
        raise AlignvisError(
            f"{len(images)} training images in {len(units)} {unit}s are too few: "
            f"holding out {share:.0%} of the {unit}s leaves {len(sides[0])} to train on and {len(sides[1])} to "
            "validate on; at least two of each are needed"
        )
    return sides[0].long(), sides[1].long()
