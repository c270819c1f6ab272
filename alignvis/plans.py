"""From tables to what the loop takes: runs of one shape, their tables read once and joined by image id."""

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from alignvis import store
from alignvis.averaging import average, chosen_channels, recording_of, shape_of
from alignvis.encoders import build
from alignvis.errors import AlignvisError
from alignvis.memory import available_memory
from alignvis.pairs import Pairs, split
from alignvis.progress import Progress, silent
from alignvis.recipe import Recipe


@dataclass(frozen=True)
class Wanted:
    """One run to be trained.

    Attributes:
        out: the run's folder.
        subject: that is asked about at test; with ``leave_out`` it is none of those trained on.
        responses: tables of the subjects trained on.
        queries: table of the subject asked about, which training does not read unless it is trained on as well.
        features: table of the embeddings.
        seed: of the first weights, the split, the order of the images and dropout.
    """

    out: Path
    subject: int
    responses: tuple[Path, ...]
    queries: Path
    features: Path
    seed: int

    @property
    def tables(self) -> tuple[Path, ...]:
        """All that is trained on."""
        return (*self.responses, self.features)

    @property
    def leave_out(self) -> bool:
        return self.queries not in self.responses


@dataclass(frozen=True)
class Plan:
    """A wanted run with what its tables say: all that is needed to tell which others it can step together with.

    Attributes:
        images: training images that all its subjects saw, sorted by id.
        fitted, held_out: rows of ``images``.
        shape: channels, times and dim, as the encoder is built with.
        channels: their names.
        recording: when the samples were taken, and their unit if it matters.
        fingerprints: of the tables of responses and of the features, as they were when the plan was made.
    """

    wanted: Wanted
    images: list[str]
    fitted: Tensor
    held_out: Tensor
    shape: dict[str, int]
    channels: list[str]
    repetitions: int
    recording: dict[str, object]
    fingerprints: tuple[str, ...]

    def check_tables(self) -> None:
        """Make sure that the tables are still those that the plan was made of."""
        for path, known in zip(self.wanted.tables, self.fingerprints, strict=True):
            if not path.is_file() or store.fingerprint(path) != known:
                raise AlignvisError(f"{path} changed while it was being read; run the same command again")

    @cached_property
    def key(self) -> tuple:
        """Runs of the same key can step together."""
        wanted = self.wanted
        return (
            *self.shape.values(), self.repetitions, len(self.fitted), len(self.held_out), len(wanted.responses),
            hash(tuple(self.images)),
        )  # fmt: skip


def plan(wanted: Wanted, encoder: str, recipe: Recipe) -> Plan:
    """Read what the tables of a wanted run say of themselves, and split their images.

    Raises:
        AlignvisError: when they do not fit together, or not with the brain encoder.
    """
    # before they are read, so that a change from here on is noticed; what is missing is told when it is read
    fingerprints = tuple(store.fingerprint(path) for path in wanted.tables if path.is_file())
    tables = [store.load_responses(path) for path in wanted.responses]
    features = store.load_features(wanted.features, recipe.target)
    first = tables[0]
    names = [first.document["channels"][place] for place in chosen_channels(first, recipe.channels)]
    for table in tables:
        same = [table.document["channels"][place] for place in chosen_channels(table, recipe.channels)] == names
        same = same and recording_of(table, recipe) == recording_of(first, recipe)
        if not same or shape_of(table, recipe) != shape_of(first, recipe):
            raise AlignvisError(
                f"{table.path} and {first.path} differ in their channels, times or unit and cannot be pooled; prepare "
                "all subjects in the same way"
            )
        if table.train.shape[1] != first.train.shape[1] and recipe.repetitions != "all":
            raise AlignvisError(
                f"{table.path} has {table.train.shape[1]} training repetitions and {first.path} "
                f"{first.train.shape[1]}, which cannot be mixed as one; choose --repetitions all"
            )
    images = sorted(set(first.train_images).intersection(*(table.train_images for table in tables)))
    if not images:
        raise AlignvisError(
            f"the subjects from {first.path} to {tables[-1].path} have no training image in common; pool others"
        )
    store.rows(features, images, first.path)
    channels, times = shape_of(first, recipe)
    shape = {"channels": channels, "times": times, "dim": features.embeddings.shape[1]}
    with torch.device("meta"):  # asks if such an encoder can be built, and builds nothing
        build(encoder, **shape)
    return Plan(
        wanted,
        images,
        *split(images, recipe.validation, recipe.share, wanted.seed),
        shape,
        names,
        first.train.shape[1],
        recording_of(first, recipe),
        fingerprints,
    )


class Tables:
    """The tables of runs of one shape, read once; any of the runs finds its pairs here.

    Responses are kept as float32 where that takes no more than half of the memory there is, else as float16, else as
    float16 in an unnamed file on disk from which batches are gathered ahead of their use. With a GPU the same holds
    for its memory, and what does not fit there stays in that of the machine.

    Args:
        plans: of runs with one key.
        encoder: name of the brain encoder, whose ``prepare`` is applied.
        scratch: folder for what does not fit into memory.
        say: told where the data went if not simply into memory.
        memory: bytes that may be taken, of the device and of the machine; none means half of what there is.
    """

    def __init__(
        self,
        plans: Sequence[Plan],
        encoder: str,
        recipe: Recipe,
        device: torch.device,
        *,
        scratch: Path,
        say: Callable[[str], None] = lambda text: None,
        progress: Progress = silent,
        memory: tuple[int, int] | None = None,
    ) -> None:
        self.recipe, self.device = recipe, device
        for plan in plans:
            plan.check_tables()
        self.sources = list(dict.fromkeys(path for plan in plans for path in plan.wanted.responses))
        self.targets = list(dict.fromkeys(plan.wanted.features for plan in plans))
        images, prepare = plans[0].images, build(encoder, **plans[0].shape).prepare
        tables = [store.load_responses(path) for path in self.sources]
        features = [store.load_features(path, recipe.target) for path in self.targets]
        apart = recipe.repetitions != "all"
        probe = prepare(torch.zeros(1, plans[0].shape["channels"], plans[0].shape["times"])).shape[1:]
        shape = (len(tables), len(images), *([plans[0].repetitions] if apart else []), *probe)
        # unscaled float32 may be volts, of which float16 would leave nothing
        halves = recipe.normalisation != "none" or all(table.train.dtype == np.float16 for table in tables)
        where, dtype, self.streamed = _place(shape, halves, device, memory or _half(device), say)
        if where == "disk":
            try:
                scratch.mkdir(parents=True, exist_ok=True)
                with tempfile.NamedTemporaryFile(dir=scratch) as file:  # its map outlives its name
                    if hasattr(os, "posix_fallocate"):
                        os.posix_fallocate(file.fileno(), 0, prod(shape) * dtype.itemsize)
                    self.responses = torch.from_file(file.name, shared=True, size=prod(shape), dtype=dtype).view(shape)
            except OSError as error:
                raise AlignvisError(
                    f"{scratch} has no room for {prod(shape) * dtype.itemsize / 2**30:.1f} GiB of responses "
                    f"({error.strerror}); free some, or choose another --root"
                ) from error
        else:
            self.responses = torch.empty(shape, dtype=dtype, device=where)
        for place, table in enumerate(tables):
            row_of = {image: row for row, image in enumerate(table.train_images)}
            average(
                table,
                "train",
                recipe,
                prepare,
                rows=[row_of[image] for image in images],
                apart=apart,
                into=lambda *shape, place=place: self.responses[place],
                device=device,
                progress=progress,
            )
        rows = [table.embeddings[store.rows(table, images, tables[0].path)] for table in features]
        self.features = torch.stack([torch.from_numpy(embeddings) for embeddings in rows]).to(self.responses.device)
        for plan in plans:
            plan.check_tables()

    def pairs(self, plans: Sequence[Plan]) -> tuple[Pairs, Pairs]:
        """What these runs are fitted on, and what is held out for their choices."""
        home = self.responses.device
        pairs = Pairs(
            self.responses,
            self.features,
            torch.tensor([[self.sources.index(path) for path in plan.wanted.responses] for plan in plans], device=home),
            torch.tensor([self.targets.index(plan.wanted.features) for plan in plans], device=home),
            torch.stack([plan.fitted for plan in plans]).to(home),
            mixed=None if self.recipe.repetitions == "all" else self.recipe.repetitions,
            streamed=self.streamed,
        )
        return pairs, replace(pairs, rows=torch.stack([plan.held_out for plan in plans]).to(home))


def sections(plans: Sequence[Plan], recipe: Recipe, device: torch.device) -> Iterator[list[Plan]]:
    """Cut plans into parts of one shape whose tables are kept in memory together.

    A CPU trains one run after the other, so there a part is what shares its recordings; a GPU steps as many together
    as fit, so there a part has as many recordings as half of its memory takes as float16.
    """
    parts: dict[tuple, list[Plan]] = {}
    for plan in plans:
        parts.setdefault((*plan.key, plan.wanted.responses if device.type == "cpu" else None), []).append(plan)
    for part in parts.values():
        shape = part[0].shape
        apart = 1 if recipe.repetitions == "all" else part[0].repetitions
        one = 2 * len(part[0].images) * apart * shape["channels"] * shape["times"]
        room = len(part) if device.type == "cpu" else max(1, _half(device)[0] // one)
        here: list[Plan] = []
        for plan in part:
            tables = {path for other in (*here, plan) for path in other.wanted.responses}
            if here and len(tables) > max(room, len(plan.wanted.responses)):
                yield here
                here = []
            here.append(plan)
        yield here


def _half(device: torch.device) -> tuple[int, int]:
    """Half of what the device and the machine have left, bytes."""
    machine = available_memory() // 2
    return (torch.cuda.mem_get_info(device)[0] // 2 if device.type == "cuda" else machine), machine


def _place(
    shape: tuple[int, ...], halves: bool, device: torch.device, memory: tuple[int, int], say: Callable[[str], None]
) -> tuple[torch.device | str, torch.dtype, bool]:
    """Where the responses go, of which type, and whether they are streamed from there."""
    small = torch.float16 if halves else torch.float32
    for dtype in dict.fromkeys((torch.float32, small)):
        size = dtype.itemsize * prod(shape)
        if size <= memory[0]:
            return device, dtype, False
    text = f"the responses take {size / 2**30:.1f} GiB and {memory[0] / 2**30:.1f} GiB may be taken"
    if device.type != "cpu" and size <= memory[1]:
        say(f"note: {text} of the GPU's memory, so they stay in the machine's and are streamed from there")
        return "cpu", small, True
    say(f"note: {text} of memory, so they are streamed from a file on disk")
    return "disk", small, True
