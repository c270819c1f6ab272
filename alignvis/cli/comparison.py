"""Scores against each other: `compare`."""

from pathlib import Path

import click

from alignvis.errors import AlignvisError
from alignvis.terminal import Screen


@click.command()
@click.argument("first", required=False, metavar="[A]")
@click.argument("second", required=False, metavar="[B]")
@click.option(
    "--metric",
    type=click.Choice(["top1", "top5", "mrr", "pairwise"]),
    default="top1",
    show_default=True,
    help="What is compared: shares among the first, mean reciprocal rank, or two-way accuracy.",
)
@click.option("--resamples", type=click.IntRange(100), default=10_000, show_default=True, help="Of the bootstrap.")
@click.option(
    "--permutations", type=click.IntRange(100), default=10_000, show_default=True, help="Signs drawn over images."
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of both.")
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File to keep the result in.  [default: ROOT/results/compare.json, kept as it is if it is there]",
)
@click.option("--overwrite", is_flag=True, help="Replace the result that is there.")
@click.pass_obj
def compare(
    screen: Screen,
    first: str | None,
    second: str | None,
    metric: str,
    resamples: int,
    permutations: int,
    seed: int,
    out: Path | None,
    overwrite: bool,
) -> None:
    """Compare scored runs, pair by pair, with intervals and tests over subjects and over images.

    Without A and B: every human-aligned encoder against its unaligned twin. A and B are each the id of features or of
    a brain encoder, a run's folder, or a name or quoted pattern of runs, like "*_nice_*seed-0". Runs are pairs if they
    are equal in all else. Nothing is trained or encoded again: what `alignvis eval` stored is read.
    """
    if out is not None and out.exists() and not overwrite:
        raise AlignvisError(f"{out} is there already; name a new file, or ask for --overwrite")
    from alignvis.comparing import compare, comparisons_table, same_comparisons, write_comparisons

    notes: list[str] = []
    broken: list[AlignvisError] = []

    def say(note: str) -> None:
        notes.append(note)
        screen.say(note)

    drawn = {"resamples": resamples, "permutations": permutations, "seed": seed}
    hearing = {"say": say, "broken": broken.append, "progress": screen.bar()}
    try:
        rows = compare(screen.root, first, second, metric=metric, **drawn, **hearing)
    except AlignvisError:
        if broken:  # why there is nothing left
            raise broken[0] from None
        raise
    if screen.as_json:
        for row in rows:
            screen.result(row, "")
    else:
        click.echo(comparisons_table(rows))
    place = out or screen.root / "results" / "compare.json"
    told = [*notes, *map(str, broken)]
    if place.exists() and same_comparisons(place, rows, told):
        screen.say(f"the same is in {place}")
    elif place.exists() and not overwrite:
        screen.say(f"{place} differs from this and was kept; --overwrite replaces it, --out names another")
    else:
        write_comparisons(place, rows, told)
        screen.say(f"wrote {place}")
    for error in broken[1:]:
        screen.say(f"note: {error}")
    if broken:
        raise broken[0]
