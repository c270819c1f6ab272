"""Unfinished runs on disk: what an interrupted run needs to go on, believed only where all of it fits."""

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from alignvis import files
from alignvis.decoder import Decoder
from alignvis.plans import Plan, Tables
from alignvis.recipe import Recipe
from alignvis.runs import NUMBER, save_tensors
from alignvis.stack import Stack
from alignvis.training import Course, Saved


def save_unfinished(
    plans: Sequence[Plan], tables: Tables, encoder: str, recipe: Recipe, stack: Stack, courses: Sequence[Course]
) -> None:
    """Write beside the finished runs what each run of a stack needs to go on."""
    for place, course in enumerate(courses):
        plan = plans[course.run]
        state = stack.state(place) | {"order": course.generator.get_state().cpu()}
        # what dropout draws from belongs to the whole stack, so only a run alone goes on with the same
        state |= {"random": torch.get_rng_state()} if len(courses) == 1 else {}
        about = _identity(plan, tables, encoder, recipe) | {"history": course.history}
        save_tensors(state, unfinished(plan.wanted.out), about)


def same_epoch(
    plans: Sequence[Plan], tables: Tables, encoder: str, recipe: Recipe, resumable: bool
) -> list[list[tuple[Plan, Saved | None]]]:
    """Runs that were interrupted after the same number of epochs, or not begun, go on together."""
    groups: dict[int, list[tuple[Plan, Saved | None]]] = {}
    for one in plans:
        saved = _read_unfinished(one, tables, encoder, recipe) if resumable else None
        groups.setdefault(len(saved[1].history) if saved else 0, []).append((one, saved))
    return [groups[epoch] for epoch in sorted(groups)]


def unfinished(out: Path) -> Path:
    """Where it lies, until the run is whole."""
    return out.with_name(f".{out.name}.safetensors")


def _identity(plan: Plan, tables: Tables, encoder: str, recipe: Recipe) -> dict[str, Any]:
    """What must be equal for an unfinished run to go on."""
    return {
        "table": "unfinished",
        "encoder": encoder,
        "recipe": asdict(recipe),
        "seed": plan.wanted.seed,
        "inputs": list(plan.fingerprints),
        "device": tables.device.type,
        "data": tables.responses.device.type,
        "torch": torch.__version__,
    }


def _read_unfinished(plan: Plan, tables: Tables, encoder: str, recipe: Recipe) -> Saved | None:
    """An unfinished run of the same tables and recipe; anything else that lies there is begun anew."""
    with (
        suppress(OSError, SafetensorError, KeyError, ValueError, TypeError),
        safe_open(unfinished(plan.wanted.out), "pt") as file,
    ):
        about = json.loads(file.metadata()["alignvis"])
        known = _identity(plan, tables, encoder, recipe)
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no dict)
        if {key: about[key] for key in known} == known and _goes_on(about["history"], recipe):
            fresh = Stack([Decoder(encoder, **plan.shape, recipe=recipe)]).state(0)
            fresh |= {"order": torch.Generator(tables.responses.device).get_state()}
            fresh |= {"random": torch.get_rng_state()} if "random" in state else {}
            if _kinds(state) == _kinds(fresh) and state["steps"] > 0:
                order = torch.Generator(tables.responses.device)
                order.set_state(state["order"])
                return state, Course(0, recipe.epochs, order, about["history"])
    return None


def _goes_on(history: Any, recipe: Recipe) -> bool:
    """Whether this is the history of a run that is not over."""
    row = {"epoch": int, "rate": NUMBER, "loss": NUMBER, "held_out_loss": NUMBER, "held_out_top1": NUMBER, "best": bool}
    return (
        files.fits(history, [row])
        and 0 < len(history) < recipe.epochs
        and [row["epoch"] for row in history] == list(range(len(history)))
        and any(row["best"] for row in history)
        and all(isfinite(row[key]) for row in history for key in row)
    )


def _kinds(tensors: dict[str, torch.Tensor]) -> dict[str, tuple[torch.Size, torch.dtype]]:
    return {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()}
