"""Nearest pictures: `search`."""

from pathlib import Path
from typing import Any

import click

from alignvis.cli.options import DEVICE, FOLDER
from alignvis.terminal import Screen

SHOWN = 5  # queries in the table on the terminal
FILE = click.Path(dir_okay=False, path_type=Path)


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--gallery",
    "galleries",
    multiple=True,
    required=True,
    metavar="FEATURES",
    help="Features table, folder of tables or pattern like 'web/*.safetensors', any number of times.",
)
@click.option("-k", "k", type=click.IntRange(1), default=10, show_default=True, help="Pictures to list a response.")
@click.option("--responses", type=FILE, help="Responses recorded as the run's.  [default: the run's own]")
@click.option(
    "--part", type=click.Choice(["test", "train"]), default="test", show_default=True, help="Of the responses."
)
@click.option("--out", type=FOLDER, help="Folder for the result.  [default: ROOT/results/search_RUN]")
@click.option("--overwrite", is_flag=True, help="Replace a result that is there.")
@DEVICE
@click.pass_obj
def search(
    screen: Screen,
    run: Path,
    galleries: tuple[str, ...],
    k: int,
    responses: Path | None,
    part: str,
    out: Path | None,
    overwrite: bool,
    device: str,
) -> None:
    """Find the pictures of a gallery nearest to each brain response, by what RUN has learned.

    The gallery is any number of features tables by the run's image encoder, of any size: it is read once, in less than
    1 GB of memory, and the lists are exact. Where a response's own picture is in it, its rank is given. An interrupted
    search goes on. On several machines that share the folders: `torchrun --nproc-per-node N -m alignvis search ...`.
    """
    from alignvis.searching.search import read_search, search_gallery

    done = search_gallery(
        screen.root,
        run,
        galleries,
        k=k,
        responses=responses,
        part=part,
        out=out,
        overwrite=overwrite,
        device=device,
        say=screen.say,
        progress=screen.bar(),
    )
    if done is None:  # the first process tells
        return
    where, about = done
    found = read_search(where)[1]
    for note in _notes(about):
        screen.say(note)
    for query, image in enumerate(found["queries"]):
        row = _row(found, query)
        if screen.as_json:
            screen.result({"query": image, **row}, "")
        elif query < SHOWN:
            own = f", its own at {row['rank']} of {about['gallery']:,}" if row["rank"] else ""
            click.echo(f"{image}{own}")
            for name, similarity in list(zip(row["images"], row["similarities"], strict=True))[:3]:
                click.echo(f"    {similarity:7.4f}  {name}")
    if not screen.as_json:
        if len(found["queries"]) > SHOWN:
            click.echo(f"... and {len(found['queries']) - SHOWN} more responses in {where}")
        click.echo(_scores(about))
    screen.say(f"{where}: the {about['k']} nearest of {about['gallery']:,} pictures to {about['n']} responses")


def _row(found: dict[str, Any], query: int) -> dict[str, Any]:
    return {
        "images": [found["images"][place] for place in found["image"][query].tolist()],
        "similarities": found["similarity"][query].tolist(),
        "rank": int(found["rank"][query]) or None,
        "tied": int(found["tied"][query]),
    }


def _notes(about: dict[str, Any]) -> list[str]:
    """What must be known to read the lists."""
    notes = []
    if about["simulated"]:
        notes.append("SIMULATED: responses or pictures were made by a simulator")
    if about["galleries"] != "pictures":
        notes.append(f"note: the gallery holds {about['galleries']}, whose names are those of concepts")
    if about["repeated"]:
        notes.append(f"note: {about['repeated']:,} pictures are named by several tables, and count once")
    if about["seen_in_training"]:
        notes.append(f"note: the run has seen {about['seen_in_training']} of the {about['n']} pictures in training")
    if about["others_seen_in_training"] and about["part"] == "test":
        notes.append(
            f"note: {about['others_seen_in_training']:,} of the gallery's {about['gallery']:,} pictures were seen in "
            "training, so it is no gallery of new pictures; the scores are not those of `eval`"
        )
    if about["equal_in_list"]:
        notes.append(
            f"note: {about['equal_in_list']} pictures in the lists are exactly as similar as the one before them, "
            f"{about['identical_in_list']} of them with an identical vector; the gallery's order decided"
        )
    if about["tied_at_end"]:
        notes.append(
            f"note: in {about['tied_at_end']} lists other pictures are exactly as similar as the last one listed"
        )
    return notes


def _learned(about: dict[str, Any]) -> str:
    """How many of the pictures beside those asked for the run was trained on: they are no new pictures."""
    seen = about["others_seen_in_training"]
    if not seen:
        return "none of them seen in training"
    return f"{'all' if seen == about['others'] else f'{seen:,}'} of them seen in training"


def _scores(about: dict[str, Any]) -> str:
    n, gallery = about["found"], about["gallery"]
    if not n:
        return f"none of the {about['n']} pictures seen is in this gallery, so nothing is scored"
    low, high = about["top1_interval"]
    text = f"top-1 {about['top1']:.1%} ({low:.1%} to {high:.1%}), top-5 {about['top5']:.1%}, "
    text += f"median rank {about['median_rank']:g}; n = {n}, chance {about['top1_chance']:.2g}, "
    text += f"gallery of {gallery:,}"
    if about["others"]:
        text += f", extended by {about['others']:,} other pictures, {_learned(about)}"
    missing = about["n"] - n
    return text + (f"; {missing} responses are not scored, as their pictures are not in it" if missing else "")
