"""Scores of runs: `eval`."""

from pathlib import Path

import click

from alignvis.cli.options import DEVICE
from alignvis.errors import AlignvisError
from alignvis.progress import Progress
from alignvis.terminal import Screen


@click.command(name="eval")
@click.argument("runs", nargs=-1, type=click.Path(path_type=Path))
@click.option("--overwrite", is_flag=True, help="Score runs again that have a score.")
@click.option("--full", is_flag=True, help="Show n-way scores too, and those from a picture to the response.")
@click.option("--transductive", is_flag=True, help="Show, apart, scores that look at the whole test batch.")
@click.option("--curve", is_flag=True, help="Score means of 1, 2, 4, ... test repetitions too, of each run.")
@click.option("--draws", type=click.IntRange(1, 10_000), help="Draws of repetitions of --curve.  [default: 20]")
@click.option("--committee", is_flag=True, help="Let runs answer together; members are chosen on training images.")
@DEVICE
@click.pass_obj
def evaluate(
    screen: Screen,
    runs: tuple[Path, ...],
    overwrite: bool,
    full: bool,
    transductive: bool,
    curve: bool,
    draws: int | None,
    committee: bool,
    device: str,
) -> None:
    """Score RUNS by retrieval of the test images.

    RUNS are folders, names in ROOT/runs, parts of a name that no other has, or quoted patterns like "*seed-0"; none
    means all in ROOT/runs. Runs that have a score are read.
    """
    from alignvis.scoring import score_all
    from alignvis.table import scores_table

    if draws and not curve:
        raise click.UsageError("--draws is of the repetitions of --curve; add --curve, or leave it out")
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
        click.echo(scores_table(scores, full=full, transductive=transductive))
    if curve:
        _curves(screen, [Path(score["run"]) for score in scores], draws, overwrite, device, broken)
    if committee and scores:
        try:
            _committees(screen, [Path(score["run"]) for score in scores], full, device)
        except AlignvisError as error:
            broken.append(error)  # the first that was wrong is told first
    if broken:
        raise AlignvisError(f"{broken[0]}" + (f" (and {len(broken) - 1} more)" if len(broken) > 1 else ""))
    both = len({score["aligned"] for score in scores}) > 1
    screen.following("compare" if both else "report")


def _curves(
    screen: Screen, runs: list[Path], draws: int | None, overwrite: bool, device: str, broken: list[AlignvisError]
) -> None:
    from alignvis.repetitions import curve_of
    from alignvis.table import curves_table

    curves = []
    for place, run in enumerate(runs):
        within = _within(screen.bar(), place, len(runs))
        try:
            curves.append(curve_of(run, draws=draws, overwrite=overwrite, device=device, progress=within))
            if screen.as_json:
                screen.result({"run": str(run), "curve": curves[-1]}, "")
        except AlignvisError as error:
            broken.append(error)
        within(1, 1, "")  # a curve that was read has none
    if curves and not screen.as_json:
        click.echo(f"\n{curves_table(curves)}")


def _within(bar: Progress, place: int, runs: int) -> Progress:
    """One bar over all runs, in hundredths of a run, that moves while one of them is read."""

    def progress(done: int, total: int, text: str, note: str = "") -> None:
        part = 100 * done // max(1, total)
        bar(100 * place + part, 100 * runs, "measuring curves, % of a run", f"run {place + 1} of {runs}")

    return progress


def _committees(screen: Screen, runs: list[Path], full: bool, device: str) -> None:
    from alignvis.committee import committees, write_committees
    from alignvis.table import committee_table

    found = committees(runs, device=device, say=screen.say, progress=screen.bar())
    if screen.as_json:
        for one in found:
            screen.result(one, "")
    elif found:
        click.echo(f"\n{committee_table(found, full=full)}")
    place = screen.root / "results" / "committees.json"
    write_committees(place, found)
    screen.say(f"wrote {place}")
