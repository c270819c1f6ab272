"""One page on runs: `report`."""

from pathlib import Path

import click

from alignvis.terminal import Screen


@click.command()
@click.argument("runs", nargs=-1, type=click.Path(path_type=Path))
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    help="HTML file to write.  [default: ROOT/report.html]",
)
@click.option("--title", default="Which picture was it?", show_default=True, help="The page's title.")
@click.option("--overwrite", is_flag=True, help="Replace a page that is there.")
@click.pass_obj
def report(screen: Screen, runs: tuple[Path, ...], out: Path | None, title: str, overwrite: bool) -> None:
    """Write one HTML page on RUNS, to be read, printed or sent: pictures and all are in the one file.

    RUNS are folders, names in ROOT/runs, parts of a name that no other has, or quoted patterns like "*seed-0"; none
    means all in ROOT/runs. The page shows what `eval`, `explain`, `rsa` and `encode` have left, compares aligned
    encoders with their twins as `compare` does, and says of what is missing which command makes it. The page has no
    script and loads nothing.
    """
    from alignvis.reports.writing import write_report

    out = out or screen.root / "report.html"
    made = write_report(screen.root, runs, out, title=title, overwrite=overwrite, progress=screen.bar())
    if made["unread"]:
        screen.say(f"note: could not read all of {', '.join(made['unread'])}; the page says how to make that again")
    unscored = made["runs"] - made["scored"]
    note = f" ({unscored} without scores)" if unscored else ""
    screen.result(made, f"wrote {made['report']}: {made['runs']} runs{note}, {made['bytes'] / 1e6:.1f} MB")
