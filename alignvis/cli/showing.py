"""What single pictures were taken for: `show`."""

from pathlib import Path

import click

from alignvis.errors import AlignvisError
from alignvis.terminal import Screen

HOW_MANY = click.IntRange(0, 100)


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("twin", type=click.Path(path_type=Path), required=False)
@click.option(
    "--query", "queries", multiple=True, metavar="ID", help="Test picture, any number of times; part of its id will do."
)
@click.option("--best", type=HOW_MANY, default=2, show_default=True, help="Pictures that RUN ranked best.")
@click.option("--median", type=HOW_MANY, default=2, show_default=True, help="Pictures of median rank.")
@click.option("--worst", type=HOW_MANY, default=2, show_default=True, help="Pictures that RUN ranked worst.")
@click.option("--top", type=click.IntRange(1, 20), default=5, show_default=True, help="Answers a picture.")
@click.option(
    "--images",
    type=click.Path(path_type=Path),
    help="Folder of pictures, or NSD's nsd_stimuli.hdf5.  [default: of RUN's image set in ROOT/images]",
)
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File to draw into, .png, .svg or .pdf.  [default: ROOT/results/show_RUN.png]",
)
@click.option("--overwrite", is_flag=True, help="Replace a file that is there.")
@click.pass_obj
def show(
    screen: Screen,
    run: Path,
    twin: Path | None,
    queries: tuple[str, ...],
    best: int,
    median: int,
    worst: int,
    top: int,
    images: Path | None,
    out: Path | None,
    overwrite: bool,
) -> None:
    """Show what RUN took test pictures for, beside its TWIN.

    RUN is a folder, a name in ROOT/runs or a part that only one name has; so is TWIN, which is found by itself: the
    same run on the image encoder's unaligned, or aligned, twin. Pictures are chosen by rank, or by --query. Both runs
    need scores and are of one subject.
    """
    from alignvis.figures.retrievals import draw_retrievals
    from alignvis.figures.style import format_of, save
    from alignvis.runs import named_run
    from alignvis.showing import image_folder, looking
    from alignvis.showing import show as choose
    from alignvis.twins import twin_run

    run = named_run(screen.root, run)
    out = out or screen.root / "results" / f"show_{run.resolve().name}.png"
    format_of(out)
    if out.exists() and not overwrite:
        raise AlignvisError(f"{out} is there and was kept; choose another --out, or replace it with --overwrite")
    other = named_run(screen.root, twin) if twin else twin_run(run)
    if other is None:
        screen.say(
            f"note: {run} has no twin in {screen.root / 'runs'}, so it is shown alone; name a run to show beside it"
        )
    elif not twin and not (other / "scores.json").is_file():
        screen.say(f"note: its twin has no scores yet, so {run} is shown alone; make them with: alignvis eval {other}")
        other = None
    showing = choose([run, other] if other else [run], queries=queries, best=best, median=median, worst=worst, top=top)
    with looking(images or image_folder(screen.root, run)) as look:
        figure = draw_retrievals(showing, look, screen.bar())
    save(figure, out)
    screen.result({**showing.as_json(), "figure": str(out)}, _told(showing.as_json(), out))


def _told(shown: dict, out: Path) -> str:
    lines = [
        f"wrote {out}: {len(shown['rows'])} of {shown['n']} test pictures, rank of the right one of {shown['gallery']}"
    ]
    for row in shown["rows"]:
        ranks = ", ".join(
            f"{answer['rank']} ({about['features']})"
            for answer, about in zip(row["answers"], shown["runs"], strict=True)
        )
        lines.append(f"  {row['why']:<6}  {row['image']}: {ranks}")
    if any(about["simulated"] for about in shown["runs"]):
        lines.append("The brain is SIMULATED.")
    return "\n".join(lines)
