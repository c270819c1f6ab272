"""Runs of one shape trained in stacks and written one by one as they end."""

import json
import os
import platform
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

import alignvis
from alignvis import store
from alignvis.decoder import Decoder
from alignvis.device import choose_device
from alignvis.errors import AlignvisError
from alignvis.plans import Plan, Tables, Wanted, plan
from alignvis.progress import Progress, silent
from alignvis.recipe import RECIPES, Recipe
from alignvis.runs import save_tensors, write_run
from alignvis.stack import Stack
from alignvis.training import Course, Saved, fit

SAVE_EVERY = 60.0  # seconds between two savings of unfinished runs
Outcome = dict[str, Any] | AlignvisError  # the record of a run, or why there is none


def train_run(
    responses: Path,
    features: Path,
    out: Path,
    *,
    encoder: str = "nice",
    recipe: Recipe = RECIPES["alignvis"],
    recipe_name: str | None = None,
    seed: int = 0,
    device: str = "cpu",
    overwrite: bool = False,
    report: Callable[[dict[str, Any]], None] = lambda row: None,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Train one brain encoder on one subject's training responses and leave a run folder: whole, or not at all.

    Seeds torch's global generator, since dropout can take no other. The same files, recipe and seed give the same
    bytes on the same CPU with the same number of threads, interrupted or not.

    Args:
        responses, features: the two tables; joined by image id. The test images are not read.
        out: new folder of the run; one that is there is replaced with ``overwrite``, once the new one is whole.
        recipe, recipe_name: what to do, and what it is called in tables: by default its name in `RECIPES`, or "own".
        report: called after each epoch with its row of the history.

    Returns:
        The run's record, as stored in ``record.json``.

    Raises:
        AlignvisError: when the tables do not fit together, there are too few images, or training diverges.
    """
    responses, features, out = Path(responses), Path(features), Path(out)
    if out.exists() and not overwrite:
        raise AlignvisError(
            f"{out} exists, and a run never overwrites another unasked; remove it, or ask for --overwrite"
        )
    where = choose_device(device)
    recipe_name = recipe_name or next((name for name, known in RECIPES.items() if known == recipe), "own")
    subject = store.load_responses(responses).document["subject"]
    one = plan(Wanted(out, subject, (responses,), responses, features, seed), encoder, recipe)
    tables = Tables([one], encoder, recipe, where, scratch=out.parent, progress=progress)
    outcomes = train_stack(
        [one],
        tables,
        encoder,
        recipe,
        recipe_name,
        overwrite=overwrite,
        report=lambda course: report(course.history[-1]),
    )
    if isinstance(outcomes[out], AlignvisError):
        raise outcomes[out]
    return outcomes[out]


def train_stack(
    plans: Sequence[Plan],
    tables: Tables,
    encoder: str,
    recipe: Recipe,
    recipe_name: str,
    *,
    overwrite: bool = False,
    report: Callable[[Course], None] = lambda course: None,
) -> dict[Path, Outcome]:
    """Train runs of one shape together and write each as it ends.

    Unfinished runs are saved beside the finished ones about once a minute; a later call with the same tables and
    recipe goes on from there.

    Args:
        plans: of one key, all of them among those that ``tables`` was made for.

    Returns:
        What became of each run, by its folder.
    """
    begun, device = time.perf_counter(), tables.device
    outcomes: dict[Path, Outcome] = {}
    for together in _same_epoch(plans, encoder, recipe, resumable=not overwrite):
        here, saved = [plan for plan, _ in together], [state for _, state in together if state]
        train, held_out = tables.pairs(here)
        networks = [Decoder(encoder, **plan.shape, recipe=recipe, seed=plan.wanted.seed) for plan in here]
        torch.manual_seed(here[0].wanted.seed)
        if saved and "random" in saved[0][0]:
            torch.set_rng_state(saved[0][0]["random"])
        last = time.monotonic()

        def finish(course: Course, state: dict[str, torch.Tensor], here: Sequence[Plan] = here) -> None:
            plan = here[course.run]
            out = plan.wanted.out
            if course.failure:
                outcomes[out] = AlignvisError(f"{out.name}: {course.failure}")
            else:
                about = {"device": device.type, "threads": torch.get_num_threads(), "stack": len(plans)}
                about["seconds"] = round(time.perf_counter() - begun, 3)
                record = _record(plan, encoder, {"name": recipe_name, **asdict(recipe)}, course) | about
                outcomes[out] = write_run(out, record, state, overwrite)
            _unfinished(out).unlink(missing_ok=True)

        def save(stack: Stack, courses: Sequence[Course], here: Sequence[Plan] = here) -> None:
            nonlocal last
            if time.monotonic() - last < SAVE_EVERY:
                return
            for place, course in enumerate(courses):
                state = stack.state(place) | {"order": course.generator.get_state().cpu()}
                state |= {"random": torch.get_rng_state()} if len(courses) == 1 else {}
                about = _identity(here[course.run], encoder, recipe) | {"history": course.history}
                save_tensors(state, _unfinished(here[course.run].wanted.out), about)
            last = time.monotonic()

        fit(
            networks,
            train,
            held_out,
            recipe,
            [plan.wanted.seed for plan in here],
            device=device,
            report=report,
            finish=finish,
            resume=[
                (state, Course(place, recipe.epochs, _generator(state, train), course.history))
                for place, (state, course) in enumerate(saved)
            ],
            save=save,
        )
    return outcomes


def _generator(state: dict[str, torch.Tensor], train: Any) -> torch.Generator:
    generator = torch.Generator(train.rows.device)
    generator.set_state(state["order"])
    return generator


def _same_epoch(
    plans: Sequence[Plan], encoder: str, recipe: Recipe, resumable: bool
) -> list[list[tuple[Plan, Saved | None]]]:
    """Runs that were interrupted after the same number of epochs, or not begun, go on together."""
    groups: dict[int, list[tuple[Plan, Saved | None]]] = {}
    for one in plans:
        saved = _read_unfinished(one, encoder, recipe) if resumable else None
        groups.setdefault(len(saved[1].history) if saved else 0, []).append((one, saved))
    return [groups[epoch] for epoch in sorted(groups)]


def _unfinished(out: Path) -> Path:
    return out.with_name(f".{out.name}.safetensors")


def _identity(plan: Plan, encoder: str, recipe: Recipe) -> dict[str, Any]:
    """What must be equal for an unfinished run to go on."""
    return {
        "table": "unfinished",
        "encoder": encoder,
        "recipe": asdict(recipe),
        "seed": plan.wanted.seed,
        "inputs": [store.fingerprint(path) for path in (*plan.wanted.responses, plan.wanted.features)],
        "torch": torch.__version__,
    }


def _read_unfinished(plan: Plan, encoder: str, recipe: Recipe) -> Saved | None:
    """An unfinished run of the same tables and recipe; anything else that lies there is begun anew."""
    with (
        suppress(OSError, SafetensorError, KeyError, ValueError, TypeError),
        safe_open(_unfinished(plan.wanted.out), "pt") as file,
    ):
        about = json.loads(file.metadata()["alignvis"])
        if {key: about[key] for key in _identity(plan, encoder, recipe)} == _identity(plan, encoder, recipe):
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no dict)
            return state, Course(0, recipe.epochs, torch.Generator(), about["history"])
    return None


def _record(plan: Plan, encoder: str, recipe: dict[str, Any], course: Course) -> dict[str, Any]:
    wanted = plan.wanted
    tables, features = [store.load_responses(path) for path in wanted.responses], store.load_features(wanted.features)
    first = tables[0].document

    def stated(path: Path, known: bool = True) -> dict[str, Any]:
        place = Path(os.path.relpath(path, wanted.out)).as_posix()
        return {"path": place, "fingerprint": store.fingerprint(path) if known else None}

    return {
        "version": store.VERSION,
        "dataset": first["dataset"],
        "simulated": any(bool(table.document.get("simulated", False)) for table in tables),
        "protocol": "leave-out" if wanted.leave_out else "within",
        "subject": wanted.subject,
        "trained_on": [table.document["subject"] for table in tables],
        "encoder": encoder,
        "shape": plan.shape,
        "channels": plan.channels,
        "features": features.document["encoder"],
        "aligned": features.document["aligned"],
        "twin": features.document["twin"],
        "recipe": recipe,
        "seed": wanted.seed,
        "repetitions": plan.repetitions,
        "inputs": {
            "responses": [stated(path) for path in wanted.responses],
            "features": stated(wanted.features),
            "queries": stated(wanted.queries, known=not wanted.leave_out),
        },
        "split": {
            side: [plan.images[row] for row in rows.tolist()]
            for side, rows in (("train", plan.fitted), ("validation", plan.held_out))
        },
        "history": course.history,
        "versions": {
            "alignvis": alignvis.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
        },
    }
