"""The recipe, the schedule and the loop, written out once."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from math import cos, pi
from typing import Any

import torch
from torch import nn

from alignvis.errors import AlignvisError
from alignvis.loss import LOSSES
from alignvis.pairs import Pairs
from alignvis.retrieval import ranks, similarity, top_k

LOWEST_RATE = 1e-7
VALIDATION_BATCH = 64  # published; a loss over 64 candidates can only be compared with others over 64


@dataclass(frozen=True)
class Recipe:
    """Everything that decides how a run is trained, apart from its data, its encoder and its seed.

    Attributes:
        rate: learning rate at the start.
        batch: images a step; as many candidates each response is contrasted with.
        epochs: passes over the training images.
        temperature: of the contrast; the scale of the logits is its inverse. Fixed.
        decay: weight decay of AdamW.
        clip: largest norm of the gradient.
        patience: epochs without a better held-out loss after which training ends.
        schedule: a key of `SCHEDULES`.
        loss: a key of `loss.LOSSES`.
        normalisation: a key of `pairs.NORMALISATIONS`.
        validation: what is held out: "image" or "concept".
        share: how much of it is held out.
    """

    rate: float = 2e-4
    batch: int = 128
    epochs: int = 50
    temperature: float = 0.04
    decay: float = 0.1
    clip: float = 1.0
    patience: int = 30
    schedule: str = "published"
    loss: str = "infonce"
    normalisation: str = "repetition"
    validation: str = "image"
    share: float = 0.1


RECIPES: dict[str, Recipe] = {
    # What made the published numbers, with the schedule that the published code has and not the one it names.
    "alignvis": Recipe(),
    "alignvis-fixed": Recipe(schedule="cosine", validation="concept"),
}


def published_rate(progress: float, held_out_loss: float | None, recipe: Recipe) -> float:
    """The published code hands the held-out loss to a cosine of period 10 as if it were the epoch."""
    if held_out_loss is None:  # the first epoch
        return recipe.rate
    return LOWEST_RATE + (recipe.rate - LOWEST_RATE) * (1 + cos(pi * (held_out_loss % 10) / 10)) / 2


def cosine_rate(progress: float, held_out_loss: float | None, recipe: Recipe) -> float:
    """Half a cosine from the full rate to the lowest, over the whole run."""
    return LOWEST_RATE + (recipe.rate - LOWEST_RATE) * (1 + cos(pi * progress)) / 2


# (share of all steps that are done, held-out loss after the last epoch, recipe) -> learning rate
SCHEDULES: dict[str, Callable[[float, float | None, Recipe], float]] = {
    "published": published_rate,
    "cosine": cosine_rate,
}


def fit(
    encoder: nn.Module,
    train: Pairs,
    held_out: Pairs,
    recipe: Recipe,
    seed: int,
    report: Callable[[dict[str, Any]], None] = lambda row: None,
) -> list[dict[str, Any]]:
    """Train an encoder and leave it with the weights of its best epoch: the one with the lowest held-out loss.

    The order of the images comes from ``seed``; dropout draws from torch's global generator, which the caller seeds.

    Args:
        encoder: maps a batch of ``train.responses`` to (batch, dim).
        train, held_out: on the encoder's device; no image is in both.
        report: called after each epoch with its row.

    Returns:
        One row an epoch: "epoch", "rate" at its end, "loss", "held_out_loss", "held_out_top1" among all held-out
        images, and "best", true where the weights were kept.

    Raises:
        AlignvisError: when there are fewer training images than a batch takes, or the loss is not finite.
    """
    if len(train) < recipe.batch:
        raise AlignvisError(
            f"{len(train)} images are left to train on and a batch takes {recipe.batch}; choose a smaller --batch"
        )
    device = train.responses.device
    loss_of, rate_of, scale = LOSSES[recipe.loss], SCHEDULES[recipe.schedule], 1 / recipe.temperature
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=recipe.rate, weight_decay=recipe.decay)
    generator = torch.Generator(device).manual_seed(seed)
    mixed = torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")
    per_epoch = len(train) // recipe.batch
    steps, step, held_out_loss, rate = per_epoch * recipe.epochs, 0, None, recipe.rate
    history: list[dict[str, Any]] = []
    best, weights = float("inf"), {}

    for epoch in range(recipe.epochs):
        encoder.train()
        total = torch.zeros((), device=device)
        for batch in train.batches(recipe.batch, generator):
            rate = rate_of(step / steps, held_out_loss, recipe)
            for group in optimizer.param_groups:
                group["lr"] = rate
            with mixed:
                brain = encoder(batch.responses)
            loss = loss_of(brain.float(), batch.features, scale)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(encoder.parameters(), recipe.clip)
            optimizer.step()
            total += loss.detach()  # .item() here would make the host wait for every step
            step += 1

        encoder.eval()
        with torch.inference_mode(), mixed:
            brain = encoder(held_out.responses).float()
        with torch.inference_mode():
            parts = zip(brain.split(VALIDATION_BATCH), held_out.features.split(VALIDATION_BATCH), strict=True)
            held_out_loss = sum(len(a) * loss_of(a, b, scale) for a, b in parts).item() / len(held_out)
            row = {"epoch": epoch, "rate": rate, "loss": total.item() / per_epoch, "held_out_loss": held_out_loss}
            if not all(abs(row[key]) < float("inf") for key in ("loss", "held_out_loss")):
                raise AlignvisError(
                    f"the loss is not finite in epoch {epoch}: training diverged; choose a lower --rate"
                )
            places = ranks(similarity(brain, held_out.features), torch.arange(len(held_out), device=device))
        row |= {"held_out_top1": top_k(places, 1), "best": held_out_loss < best}
        history.append(row)
        report(row)
        if row["best"]:
            best, weights, best_epoch = held_out_loss, copy.deepcopy(encoder.state_dict()), epoch
        elif epoch - best_epoch >= recipe.patience:
            break

    encoder.load_state_dict(weights)
    return history
