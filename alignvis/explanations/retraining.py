"""Runs trained anew on less of every response: one window of time, one band of frequencies."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from alignvis import store
from alignvis.asking import Asked
from alignvis.averaging import shape_of
from alignvis.encoders import build
from alignvis.errors import AlignvisError
from alignvis.plans import Tables, Wanted, plan
from alignvis.progress import Progress, silent
from alignvis.recipe import RECIPES, Recipe, choose_recipe
from alignvis.runs import inputs_of, read_recipe, read_record, read_scores, run_name, stated_path, working_on
from alignvis.scoring import evaluate_run
from alignvis.train_runs import train_stack

FOLDER = "retrained"  # within the folder of the run that they explain


def retrained(asked: Asked, changes: dict[str, Any], progress: Progress = silent) -> tuple[Path, dict[str, Any]]:
    """Train a run that differs from this one in entries of its recipe, and score it; what is there already is read.

    It is a run like any other, of a name that says the changes, on the same tables and with the same seed; but as it
    only explains this one, it lies in its folder ``retrained``, where a list of all runs does not come upon it, and
    goes with it. A brain encoder that does not fit the shorter responses is replaced by "linear".

    Args:
        changes: entries of the recipe.

    Returns:
        Its folder, ``<run>/retrained/<name>``, and its scores.

    Raises:
        AlignvisError: when the changes leave nothing to learn from, training fails, or a run of that name is another.
    """
    run, record = asked.run, asked.record
    recipe = replace(asked.recipe, **changes)
    encoder = _encoder(asked, recipe)
    name = _name(record["recipe"]["name"], asked.recipe, recipe)
    about = (record["dataset"], record["subject"], asked.features, encoder, name, record["seed"])
    leave_out = record["protocol"] == "leave-out"
    out = run / FOLDER / run_name(*about, record["trained_on"] if leave_out else [])
    if out.exists():
        _check(out, record, run, recipe)
    else:
        _train(_wanted(asked, out), encoder, recipe, name, asked.device, progress)
    if (out / "scores.json").is_file():
        return out, read_scores(out, read_record(out))
    return out, evaluate_run(out, device=asked.device.type)


def _encoder(asked: Asked, recipe: Recipe) -> str:
    """The run's own brain encoder, if it can be built for what the recipe leaves of a response."""
    channels, times = shape_of(asked.responses, recipe)
    try:
        with torch.device("meta"):
            build(asked.record["encoder"], channels=channels, times=times, dim=8)
    except AlignvisError:
        return "linear"
    return asked.record["encoder"]


def _name(before: str, old: Recipe, new: Recipe) -> str:
    """What a recipe is called that was made from another; of `RECIPES`, as `alignvis train` would call it."""
    base, changed = before.partition("+")[0], {key: value for key, value in asdict(new).items()}
    if base in RECIPES:
        return choose_recipe(base, changed)[0]
    words = [f"{key}-{value}" for key, value in changed.items() if value != asdict(old)[key]]
    return "+".join([before, *words]).replace(":", "-")


def _wanted(asked: Asked, out: Path) -> Wanted:
    run, inputs = asked.run, asked.record["inputs"]
    responses = tuple(stated_path(run, table) for table in inputs["responses"])
    queries = stated_path(run, inputs["queries"])
    features = stated_path(run, inputs["features"])
    return Wanted(out, asked.record["subject"], responses, queries, features, asked.record["seed"])


def _train(wanted: Wanted, encoder: str, recipe: Recipe, name: str, device: torch.device, progress: Progress) -> None:
    one = plan(wanted, encoder, recipe)
    with working_on(wanted.out):
        tables = Tables([one], encoder, recipe, device, scratch=wanted.out.parent)

        def report(course: Any) -> None:
            progress(len(course.history), course.epochs, _words(recipe))

        outcome = train_stack([one], tables, encoder, recipe, name, report=report)[wanted.out]
    progress(recipe.epochs, recipe.epochs, _words(recipe))  # it may have ended earlier
    if isinstance(outcome, AlignvisError):
        raise outcome


def _words(recipe: Recipe) -> str:
    return f"training on {recipe.window if recipe.window != 'all' else 'all'} s, {recipe.band} Hz"


def _check(out: Path, record: dict[str, Any], run: Path, recipe: Recipe) -> None:
    """Make sure that a run that is there is of this recipe and these tables."""
    other = read_record(out)
    same: Sequence[bool] = (
        read_recipe(out, other) == recipe,
        [table["fingerprint"] for table in inputs_of(other)] == [table["fingerprint"] for table in inputs_of(record)],
        [store.fingerprint(stated_path(run, table)) for table in inputs_of(record)]
        == [table["fingerprint"] for table in inputs_of(record)],
    )
    if not all(same):
        raise AlignvisError(
            f"{out} is there already and was trained by another recipe or on other tables than {run}; remove it, "
            "then explain again with: alignvis explain --retrain"
        )
