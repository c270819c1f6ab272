"""Scores of runs: `eval`."""

from pathlib import Path

import click

from alignvis.cli.options import DEVICE
from alignvis.errors import AlignvisError
from alignvis.terminal import Screen


@click.command(name="eval")
@click.argument("runs", nargs=-1, type=click.Path(path_type=Path))
@click.option("--overwrite", is_flag=True, help="Score runs again that have a score.")
@DEVICE
@click.pass_obj
def evaluate(screen: Screen, runs: tuple[Path, ...], overwrite: bool, device: str) -> None:
    """Score RUNS by retrieval of the test images.

    Without RUNS: all in ROOT/runs. Runs that have a score are read.
    """
    from alignvis.scoring import score_all
    from alignvis.table import scores_table

    broken: list[AlignvisError] = []
    scores = score_all(
        screen.root,
        runs,
        overwrite=overwrite,
        device=device,
        say=screen.say,
        broken=broken.append,
        progress=screen.bar(),
    )
    if screen.as_json:
        for score in scores:
            screen.result(score, "")
    elif scores:
        click.echo(scores_table(scores))
    if broken:
        raise AlignvisError(f"{broken[0]}" + (f" (and {len(broken) - 1} more)" if len(broken) > 1 else ""))
