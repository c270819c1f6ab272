"""Responses beside features on one device: split by image or by concept, batched for many runs without a loader."""

import queue
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

import torch
from torch import Tensor

from alignvis.errors import AlignvisError

AHEAD = 2  # batches gathered beside the one in use, where responses are streamed


@dataclass(frozen=True)
class Pairs:
    """What R runs learn from: which brains, which embeddings, which images. All tensors are on one device.

    Attributes:
        responses: (tables, images, ...) as the encoder's ``prepare`` returned them, or, if they are ``mixed``,
            (tables, images, repetitions, ...). Any floating type; batches are float32.
        features: (tables, images, dim) float32; image i of one is image i of the other.
        brains: (R, subjects) int64, the tables of responses that each run learns from.
        embeddings: (R,) int64, the table of features that each run learns.
        rows: (R, n) int64, the images that each run uses.
        mixed: how a step mixes the repetitions, a key of `MIXTURES`; none means that they were averaged before.
        streamed: batches are gathered ahead by a thread, as responses lie in a file or on another device.
    """

    responses: Tensor
    features: Tensor
    brains: Tensor
    embeddings: Tensor
    rows: Tensor
    mixed: str | None = None
    streamed: bool = False

    @classmethod
    def of(cls, responses: Tensor, features: Tensor) -> "Pairs":
        """One run that learns from one table, (images, ...), and one of embeddings, (images, dim)."""
        zero = torch.zeros(1, dtype=torch.int64, device=responses.device)
        everything = torch.arange(len(responses), device=responses.device)
        return cls(responses[None], features[None], zero[None], zero, everything[None])

    def __len__(self) -> int:
        """Images that each run uses."""
        return self.rows.shape[1]

    def to(self, device: str | torch.device) -> "Pairs":
        moved = {key: value.to(device) for key, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, **moved)

    def keep(self, runs: Tensor) -> "Pairs":
        """Go on with these runs only."""
        runs = runs.to(self.rows.device)
        return replace(self, brains=self.brains[runs], embeddings=self.embeddings[runs], rows=self.rows[runs])

    def batches(
        self, size: int, generators: Sequence[torch.Generator], device: torch.device | str | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Visit every response of every run once, in a fresh order, and drop the ragged end.

        With several subjects an epoch has as many laps, and a lap shows every image once, each from a subject drawn
        anew: a picture comes at most once a batch, so no batch can hold a false negative. Order, rows and result
        never leave the device: there is nothing here for a worker to do.

        Args:
            generators: one a run, on the device of the pairs.
            device: of the batches; none means where the pairs are.

        Yields:
            Responses (R, size, ...) and features (R, size, dim), both float32.
        """
        found = self._gathered(size, generators)
        if device is not None and torch.device(device).type != self.rows.device.type:
            found = (tuple(part.pin_memory().to(device, non_blocking=True) for part in pair) for pair in found)
        yield from _ahead(found) if self.streamed else found

    def chunks(self, size: int, subject: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Visit the images of every run in order, as seen by the subject at this place; repetitions are averaged."""
        for rows in self.rows.split(size, dim=1):
            yield self._batch(self.brains[:, subject : subject + 1].expand_as(rows), rows, None)

    def _gathered(self, size: int, generators: Sequence[torch.Generator]) -> Iterator[tuple[Tensor, Tensor]]:
        device, count, subjects = self.rows.device, len(self), self.brains.shape[1]
        whole = count // size * size

        def shuffled(generator: torch.Generator) -> Tensor:
            return torch.randperm(count, generator=generator, device=device)

        who = [
            torch.rand(subjects, count, generator=generator, device=device).argsort(dim=0) if subjects > 1 else None
            for generator in generators
        ]
        for lap in range(subjects):
            order = torch.stack([shuffled(generator)[:whole] for generator in generators])
            rows = self.rows.gather(1, order)
            if subjects > 1:
                places = torch.stack([place[lap] for place in who if place is not None]).gather(1, order)
                brains = self.brains.gather(1, places)
            else:
                brains = self.brains.expand(-1, whole)
            shares = None
            if self.mixed:
                size_of = (whole, self.responses.shape[2])
                shares = torch.stack([MIXTURES[self.mixed](*size_of, generator) for generator in generators])
            for start in range(0, whole, size):
                here = slice(start, start + size)
                yield self._batch(brains[:, here], rows[:, here], None if shares is None else shares[:, here])

    def _batch(self, brains: Tensor, rows: Tensor, shares: Tensor | None) -> tuple[Tensor, Tensor]:
        # rows of one matrix are copied in one piece each, ten times as fast as by two indices
        found = (brains * self.responses.shape[1] + rows).flatten()
        responses = self.responses.flatten(0, 1).index_select(0, found).unflatten(0, rows.shape).float()
        if shares is not None:
            responses = torch.einsum("rbk,rbk...->rb...", shares, responses)
        elif self.mixed:
            responses = responses.mean(dim=2)
        return responses, self.features[self.embeddings[:, None], rows].float()


def random_subset(count: int, repetitions: int, generator: torch.Generator) -> Tensor:
    """Average a random subset of the repetitions, each with one chance in two but one of them for certain.

    Returns:
        (count, repetitions) shares that sum to one.
    """
    device = generator.device
    drawn = torch.rand(count, repetitions, generator=generator, device=device) < 0.5
    sure = torch.rand(count, repetitions, generator=generator, device=device)
    drawn = (drawn | (sure == sure.amax(dim=1, keepdim=True))).float()
    return drawn / drawn.sum(dim=1, keepdim=True)


def random_pairs(count: int, repetitions: int, generator: torch.Generator) -> Tensor:
    """Mix two repetitions in a random proportion; of a single one there is nothing to mix.

    Returns:
        (count, repetitions) shares that sum to one.
    """
    device = generator.device
    order = torch.rand(count, repetitions, generator=generator, device=device).argsort(dim=1)
    share = torch.rand(count, generator=generator, device=device)[:, None]
    return torch.where(order == 0, share, 0.0) + torch.where(order == min(1, repetitions - 1), 1 - share, 0.0)


MIXTURES = {"subset": random_subset, "pairs": random_pairs}


def _ahead(batches: Iterator[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
    """Let a thread take from an iterator some items ahead of their use, in the same order."""
    ready: queue.Queue = queue.Queue(AHEAD)
    stop = threading.Event()

    def put(item: object) -> bool:
        while not stop.is_set():
            try:
                ready.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        try:
            for batch in batches:
                if not put(batch):
                    return
            put(None)
        except BaseException as error:  # it belongs to whoever waits for the batch
            put(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stop.set()
        thread.join()


def concept(image: str) -> str:
    """The concept of an image is the folder it lies in; a picture that lies in none, like a scene, is its own."""
    folder = PurePosixPath(image).parent
    return str(folder) if folder.name else image


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
    ordered = sorted(images)
    units = sorted({unit_of(image) for image in images})
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(units), generator=generator).tolist()
    held_out = {units[i] for i in order[: max(1, int(share * len(units)))]}
    place = {image: row for row, image in enumerate(images)}
    shuffled = [ordered[i] for i in torch.randperm(len(images), generator=generator).tolist()]
    sides = [
        torch.tensor([place[image] for image in shuffled if (unit_of(image) in held_out) is side])
        for side in (False, True)
    ]
    if min(len(side) for side in sides) < 2:
        raise AlignvisError(
            f"{len(images)} training images in {len(units)} {unit}s are too few: "
            f"holding out {share:.3g} of the {unit}s leaves {len(sides[0])} to train on and {len(sides[1])} to "
            "validate on; at least two of each are needed"
        )
    return sides[0].long(), sides[1].long()
