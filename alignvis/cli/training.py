"""Runs: `train`."""

from dataclasses import fields
from typing import Any

import click

from alignvis.cli.options import DEVICE, NUMBERS
from alignvis.recipe import Recipe
from alignvis.terminal import Screen


def recipe_options(command: Any) -> Any:
    """One option for every entry of a recipe; what is not given stays as the recipe has it."""
    for entry in reversed(fields(Recipe)):
        about, kind = entry.metadata, type(entry.default)
        name = entry.name.replace("_", "-")
        numbers = {int: click.IntRange, float: click.FloatRange}
        bounds = {"min": about["low"], "min_open": about["positive"]}
        given: Any = numbers[kind](**bounds) if kind in numbers else kind
        given = click.Choice(about["choices"]) if about["choices"] else given
        flag = f"--{name}/--no-{name}" if kind is bool else f"--{name}"
        extra = {} if kind is bool else {"type": given, "show_default": str(entry.default)}
        command = click.option(flag, entry.name, default=None, help=about["help"], **extra)(command)
    return command


@click.command()
@click.option("--subject", type=NUMBERS, required=True, help="Subjects, like 1 or 1-10.")
@click.option("--dataset", help="Folder in ROOT/responses.  [default: every one that has the subject]")
@click.option(
    "--features",
    "wanted",
    multiple=True,
    metavar="ID",
    help="Image encoder whose table to train on, any number of times.  [default: every table that fits]",
)
@click.option(
    "--encoder",
    "encoders",
    multiple=True,
    metavar="ID",
    help="Brain encoder, any number of times; see `alignvis list brain-encoders`.  [default: nice; fMRI: brain-mlp]",
)
@click.option("--recipe", default="alignvis", show_default=True, help="What to do; see `alignvis list recipes`.")
@click.option("--seed", type=NUMBERS, default="0", show_default=True, help="Seeds, like 0 or 0-4.")
@click.option("--leave-out", is_flag=True, help="Train on all subjects given but one, for each of them.")
@click.option(
    "--together", type=click.IntRange(1), help="Runs that step together.  [default: all that fit on a GPU; CPU: 1]"
)
@click.option("--overwrite", is_flag=True, help="Train runs again that are there.")
@DEVICE
@recipe_options
@click.pass_obj
def train(
    screen: Screen,
    subject: tuple[int, ...],
    dataset: str | None,
    wanted: tuple[str, ...],
    encoders: tuple[str, ...],
    recipe: str,
    seed: tuple[int, ...],
    leave_out: bool,
    together: int | None,
    overwrite: bool,
    device: str,
    **changes: Any,
) -> None:
    """Train on every combination of subjects, features, brain encoders and seeds.

    Runs that are there are kept, and a run that was interrupted goes on. On several GPUs or machines that share ROOT:
    `torchrun --nproc-per-node N -m alignvis train ...`. The options from --rate on change single entries of the
    recipe; by default they are as the recipe says, and the defaults shown are those of `alignvis`.
    """
    from alignvis.grid import train_grid
    from alignvis.memory import keep_freed_memory

    keep_freed_memory()
    records = train_grid(
        screen.root,
        subjects=subject,
        dataset=dataset,
        features=wanted,
        encoders=encoders,
        recipe_name=recipe,
        seeds=seed,
        leave_out=leave_out,
        changes={key: value for key, value in changes.items() if value is not None},
        overwrite=overwrite,
        device=device,
        together=together,
        say=screen.say,
        detail=screen.detail,
        progress=screen.bar(),
    )
    for run, record in records:
        best = next(row for row in reversed(record["history"]) if row["best"])
        epochs, held_out = len(record["history"]), len(record["split"]["validation"])
        about = {"run": str(run), "seconds": record["seconds"], "epochs": epochs, "best_epoch": best["epoch"] + 1}
        screen.result(
            about | {"held_out": held_out, **best},
            f"{run}: best epoch {best['epoch'] + 1} of {epochs} by held-out loss, "
            f"held-out top-1 {best['held_out_top1']:.1%} (chance {1 / held_out:.1%})",
        )
    screen.following("eval")
