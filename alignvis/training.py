"""The loop, written out once, for as many runs as step together."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

import torch
from torch import Tensor

from alignvis.decoder import Decoder
from alignvis.errors import AlignvisError
from alignvis.loss import LOSSES
from alignvis.pairs import Pairs
from alignvis.recipe import Recipe
from alignvis.retrieval import named_first, similarity
from alignvis.stack import Stack

VALIDATION_BATCH = 64  # published; a loss over 64 candidates can only be compared with others over 64
EVALUATED = 256  # held-out images a step: what bounds the memory that looking at them takes


@dataclass
class Course:
    """How one run went so far.

    Attributes:
        run: its place among the networks.
        epochs: at most.
        generator: of the order of its images, on the device of the pairs.
        history: one row an epoch: "epoch", "rate" at its end, "loss", "held_out_loss", "held_out_top1" among all
            held-out images, and "best", true where the weights were kept.
        failure: why it ended without a result.
    """

    run: int
    epochs: int
    generator: torch.Generator
    history: list[dict[str, Any]] = field(default_factory=list)
    failure: str | None = None

    @property
    def losses(self) -> list[float]:
        return [row["held_out_loss"] for row in self.history]

    def add(self, rate: float, loss: float, held_out_loss: float, top1: float) -> dict[str, Any]:
        best = isfinite(held_out_loss) and held_out_loss < min(self.losses, default=float("inf"))
        row = {"epoch": len(self.history), "rate": rate, "loss": loss, "held_out_loss": held_out_loss}
        self.history.append(row | {"held_out_top1": top1, "best": best})
        if not (isfinite(loss) and isfinite(held_out_loss)):
            self.failure = (
                f"the loss is not finite in epoch {row['epoch'] + 1}: training diverged; choose a lower --rate"
            )
        return self.history[-1]

    def ended(self, patience: int) -> bool:
        """A run ends after its last epoch, when its patience is over, or when it has failed."""
        best = max((row["epoch"] for row in self.history if row["best"]), default=0)
        return bool(self.failure) or len(self.history) == self.epochs or len(self.history) - 1 - best >= patience


# what a run needs to go on as if it had never been stopped: its rows of the stack, its course
Saved = tuple[dict[str, Tensor], Course]


def fit(
    networks: Sequence[Decoder],
    train: Pairs,
    held_out: Pairs,
    recipe: Recipe,
    seeds: Sequence[int],
    *,
    device: torch.device | str = "cpu",
    report: Callable[[Course], None] = lambda course: None,
    finish: Callable[[Course, dict[str, Tensor]], None] = lambda course, state: None,
    resume: Sequence[Saved] = (),
    save: Callable[[Stack, Sequence[Course]], None] = lambda stack, courses: None,
) -> list[Course]:
    """Train R networks, each on its own pairs, and hand over the weights of each one's best epoch.

    The best epoch is the one with the lowest held-out loss. The runs share nothing but their steps: one that diverges
    or whose patience ends leaves, and the others go on. The order of the images comes from ``seeds``; dropout draws
    from torch's global generator, which the caller seeds.

    Args:
        networks: on the CPU; not changed.
        train, held_out: R runs each; no image is in both.
        report: called after each epoch of each run.
        finish: called when a run has ended, with the state of its best epoch, on the CPU.
        resume: of every run, what ``save`` was given after the same number of epochs.
        save: called after each epoch.

    Returns:
        The course of each run.

    Raises:
        AlignvisError: when there are fewer training images than a batch takes.
    """
    if len(train) < recipe.batch:
        raise AlignvisError(
            f"{len(train)} images are left to train on and a batch takes {recipe.batch}; "
            f"choose --batch {len(train)} or less"
        )
    device, loss_of = torch.device(device), LOSSES[recipe.loss]
    treatment = {"sides": recipe.sides, "centre": recipe.centre}
    stack = Stack(networks, device)
    home = train.rows.device
    courses = [Course(run, recipe.epochs, torch.Generator(home).manual_seed(seed)) for run, seed in enumerate(seeds)]
    if resume:
        courses = [course for _, course in resume]
        stack.load([state for state, _ in resume])
    everyone = list(courses)
    mixed = torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")
    per_epoch = len(train) // recipe.batch * train.brains.shape[1]
    steps = per_epoch * recipe.epochs

    for epoch in range(len(courses[0].history), recipe.epochs):
        stack.train()
        rates = [
            [recipe.rate_at(epoch * per_epoch + step, steps, per_epoch, course.losses) for course in courses]
            for step in range(per_epoch)
        ]
        rate = torch.tensor(rates, device=device)
        total = torch.zeros(len(courses), device=device)
        generators = [course.generator for course in courses]
        for step, (responses, features) in enumerate(train.batches(recipe.batch, generators, device)):
            with mixed:
                brain, image, scale = stack(responses, features)
            losses = loss_of(brain.float(), image.float(), scale, **treatment)
            losses.sum().backward()
            stack.step(rate[step], recipe.decay, recipe.clip, recipe.scale_rate)
            total += losses.detach()  # .item() here would make the host wait for every step

        held_out_loss, top1 = _look(stack, held_out, recipe, device, mixed)
        # the one moment of an epoch at which the host waits
        results = torch.stack([(total / per_epoch).double(), held_out_loss.double(), top1]).T.tolist()
        for course, last, result in zip(courses, rates[-1], results, strict=True):
            course.add(last, *result)
            report(course)
        stack.remember(torch.tensor([course.history[-1]["best"] for course in courses], device=device))
        ended = [course.ended(recipe.patience) for course in courses]
        for place in (place for place, over in enumerate(ended) if over):
            finish(courses[place], stack.best_state(place))
        if all(ended):
            break
        if any(ended):
            going = torch.tensor([place for place, over in enumerate(ended) if not over], device=device)
            courses = [courses[place] for place in going.tolist()]
            stack.keep(going)
            train, held_out = train.keep(going), held_out.keep(going)
        save(stack, courses)
    return everyone


def _look(
    stack: Stack, held_out: Pairs, recipe: Recipe, device: torch.device, mixed: torch.autocast
) -> tuple[Tensor, Tensor]:
    """Loss and top-1 of every run on its held-out images, (R,) each: the mean over the subjects it learns from."""
    stack.train(False)
    loss_of, treatment = LOSSES[recipe.loss], {"sides": recipe.sides, "centre": recipe.centre}
    subjects, losses, shares = held_out.brains.shape[1], [], []
    with torch.inference_mode():
        for subject in range(subjects):
            found = []
            for responses, features in held_out.chunks(EVALUATED, subject):
                with mixed:
                    brain, image, scale = stack(responses.to(device), features.to(device))
                found.append((brain.float(), image.float()))
            brain, image = (torch.cat(parts, dim=1) for parts in zip(*found, strict=True))
            parts = zip(brain.split(VALIDATION_BATCH, dim=1), image.split(VALIDATION_BATCH, dim=1), strict=True)
            losses.append(sum(a.shape[1] * loss_of(a, b, scale, **treatment) for a, b in parts) / len(held_out))
            # run by run, as all similarities of all runs at once may be more than fits
            named = [named_first(similarity(a, b, **treatment)) for a, b in zip(brain, image, strict=True)]
            shares.append(torch.stack(named))
    return torch.stack(losses).mean(dim=0), torch.stack(shares).mean(dim=0)
