"""Runs of one shape trained in stacks and written one by one as they end."""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from operator import index
from pathlib import Path
from typing import Any

import torch

from alignvis import store
from alignvis.decoder import Decoder
from alignvis.device import choose_device
from alignvis.errors import AlignvisError
from alignvis.plans import Plan, Tables, Wanted, plan
from alignvis.progress import Progress, silent
from alignvis.recipe import RECIPES, Recipe, choose_recipe
from alignvis.runs import working_on, write_run
from alignvis.stack import Stack
from alignvis.training import Course, fit
from alignvis.unfinished import same_epoch, save_unfinished, unfinished
from alignvis.versions import versions

SAVE_EVERY = 10.0  # seconds, at least, between two savings of unfinished runs
SAVE_SHARE = 0.05  # of the time that saving may take
Outcome = dict[str, Any] | AlignvisError  # the record of a run, or why there is none


def train_run(
    responses: Path,
    features: Path,
    out: Path,
    *,
    encoder: str = "nice",
    recipe: Recipe | str = "alignvis",
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
        recipe, recipe_name: what to do, an entry of `RECIPES` or its name, as it is or changed by
            `dataclasses.replace`; and what it is called in tables, by default its name, or "own" if it has none.
        report: called after each epoch with its row of the history.

    Returns:
        The run's record, as stored in ``record.json``.

    Raises:
        AlignvisError: when the tables do not fit together, there are too few images, or training diverges.
    """
    responses, features, out = Path(responses), Path(features), Path(out)
    if isinstance(recipe, str):
        _, recipe = choose_recipe(recipe, {})
    if out.exists() and not overwrite:
        raise AlignvisError(
            f"{out} exists, and a run never overwrites another unasked; remove it, or ask for --overwrite"
        )
    where = choose_device(device)
    recipe_name = recipe_name or next((name for name, known in RECIPES.items() if known == recipe), "own")
    subject = store.load_responses(responses).document["subject"]
    one = plan(Wanted(out, subject, (responses,), responses, features, index(seed)), encoder, recipe)
    with working_on(out):
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

    Unfinished runs are saved beside the finished ones every ten seconds, or less often where that takes long; a later
    call with the same tables and recipe goes on from there.

    Args:
        plans: of one key, all of them among those that ``tables`` was made for.

    Returns:
        What became of each run, by its folder.
    """
    begun, device = time.perf_counter(), tables.device
    outcomes: dict[Path, Outcome] = {}
    for together in same_epoch(plans, tables, encoder, recipe, resumable=not overwrite):
        here, saved = [plan for plan, _ in together], [state for _, state in together if state]
        train, held_out = tables.pairs(here)
        networks = [Decoder(encoder, **plan.shape, recipe=recipe, seed=plan.wanted.seed) for plan in here]
        torch.manual_seed(here[0].wanted.seed)
        if saved and "random" in saved[0][0]:
            torch.set_rng_state(saved[0][0]["random"])
        last, cost = time.monotonic(), 0.0

        def finish(course: Course, state: dict[str, torch.Tensor], here: Sequence[Plan] = here) -> None:
            plan = here[course.run]
            out = plan.wanted.out
            if course.failure:
                outcomes[out] = AlignvisError(f"{out.name}: {course.failure}")
            else:
                about = {"device": device.type, "threads": torch.get_num_threads(), "stack": len(plans)}
                about["seconds"] = round(time.perf_counter() - begun, 3)
                record = _record(plan, encoder, {"name": recipe_name, **asdict(recipe)}, course) | about
                try:
                    plan.check_tables()
                    outcomes[out] = write_run(out, record, state, overwrite)
                except AlignvisError as error:
                    outcomes[out] = error
            unfinished(out).unlink(missing_ok=True)

        def save(stack: Stack, courses: Sequence[Course], here: Sequence[Plan] = here) -> None:
            nonlocal last, cost
            start = time.monotonic()
            if start - last < max(SAVE_EVERY, cost / SAVE_SHARE):
                return
            save_unfinished(here, tables, encoder, recipe, stack, courses)
            last = time.monotonic()
            cost = last - start

        fit(
            networks,
            train,
            held_out,
            recipe,
            [plan.wanted.seed for plan in here],
            device=device,
            report=report,
            finish=finish,
            resume=[(state, replace(course, run=place)) for place, (state, course) in enumerate(saved)],
            save=save,
        )
    return outcomes


def _record(plan: Plan, encoder: str, recipe: dict[str, Any], course: Course) -> dict[str, Any]:
    wanted = plan.wanted
    tables = [store.read_document(path, "responses") for path in wanted.responses]
    features = store.read_document(wanted.features, "features")
    first, known = tables[0], dict(zip(wanted.tables, plan.fingerprints, strict=True))

    def stated(path: Path, fingerprint: str | None) -> dict[str, Any]:
        return {"path": Path(os.path.relpath(path, wanted.out)).as_posix(), "fingerprint": fingerprint}

    return {
        "version": store.VERSION,
        "dataset": first["dataset"],
        "simulated": any(bool(table.get("simulated", False)) for table in tables),
        "protocol": "leave-out" if wanted.leave_out else "within",
        "subject": wanted.subject,
        "trained_on": [table["subject"] for table in tables],
        "encoder": encoder,
        "shape": plan.shape,
        "channels": plan.channels,
        "recording": plan.recording,
        "features": features["encoder"],
        "aligned": features["aligned"],
        "twin": features["twin"],
        "recipe": recipe,
        "seed": wanted.seed,
        "repetitions": plan.repetitions,
        "inputs": {
            "responses": [stated(path, known[path]) for path in wanted.responses],
            "features": stated(wanted.features, known[wanted.features]),
            "queries": stated(wanted.queries, known.get(wanted.queries)),  # none of a subject that is left out
        },
        "split": {
            side: [plan.images[row] for row in rows.tolist()]
            for side, rows in (("train", plan.fitted), ("validation", plan.held_out))
        },
        "history": course.history,
        "versions": versions(),
    }
