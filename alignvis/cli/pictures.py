"""Pictures to features, and how human these are: `extract`, `score`."""

from pathlib import Path
from typing import Any

import click

from alignvis.cli.options import DEVICE, FOLDER
from alignvis.errors import AlignvisError
from alignvis.spans import spans
from alignvis.terminal import Layers, Lengths, Screen


def _image_sets(folder: Path) -> list[Path]:
    """Every folder that holds something, without hidden ones, and every brick of NSD."""
    folders = [path for path in folder.glob("[!.]*") if path.is_dir() and any(path.iterdir())]
    return sorted([*folders, *folder.glob("[!.]*.hdf5")])


def _subjects(root: Path) -> str:
    """Whom there are responses of, as they are typed; 1 where there are none yet."""
    found = [path.stem.removeprefix("sub-") for path in (root / "responses").glob("*/sub-*.safetensors")]
    return spans(int(number) for number in found if number.isdecimal()) or "1"


def _told(row: dict[str, Any]) -> str:
    text = f"{'kept' if row['kept'] else 'wrote'} {row['table']}: {row['images']} images x {row['dim']}"
    text += f", {len(row['layers'])} layers" if row["layers"] else ""
    text += f", blurs of {', '.join(f'{sigma:g}' for sigma in row['blur'])} pixels" if row["blur"] else ""
    near = row["bf16_cosine"]
    return text if near is None else f"{text}, smallest cosine to fp32 in a sample {near:.5f}"


@click.command()
@click.option(
    "--images",
    type=click.Path(path_type=Path),
    help="Folder of pictures, or NSD's nsd_stimuli.hdf5.  [default: every one in ROOT/images]",
)
@click.option(
    "--encoder",
    "encoders",
    multiple=True,
    metavar="ID",
    help="Image encoder, any number of times; see `alignvis list`.  [default: dreamsim_synclr_vitb16 and its twin]",
)
@click.option("--weights", type=click.Path(path_type=Path), help="File or folder to take the weights from.")
@click.option("--offline", is_flag=True, help="Never download weights.")
@click.option(
    "--layers",
    type=Layers(),
    default=(),
    help="Numbers of layers to keep too, like 4,8,12, or all: class token and mean patch token of each.",
)
@click.option(
    "--blur",
    type=Lengths(),
    default=(),
    help="Embed blurred pictures too: SDs of Gaussians in pixels of the encoder's input, like 0,1,3,9.",
)
@click.option("--batch", type=click.IntRange(1), default=32, show_default=True, help="Pictures a step.")
@click.option("--workers", type=click.IntRange(1), help="Processes that decode.  [default: one per core]")
@click.option("--precision", type=click.Choice(["fp32", "bf16"]), default="fp32", show_default=True)
@click.option(
    "--shown-in",
    type=click.Path(dir_okay=False, path_type=Path),
    multiple=True,
    help="Responses table, any number of times: embed only the images that these name.",
)
@click.option("--skip-bad", is_flag=True, help="Leave broken pictures out and list them, instead of stopping.")
@click.option("--overwrite", is_flag=True, help="Replace features tables that are there.")
@DEVICE
@click.pass_obj
def extract(
    screen: Screen,
    images: Path | None,
    encoders: tuple[str, ...],
    weights: Path | None,
    offline: bool,
    layers: tuple[int, ...] | str,
    blur: tuple[float, ...],
    batch: int,
    workers: int | None,
    precision: str,
    shown_in: tuple[Path, ...],
    skip_bad: bool,
    overwrite: bool,
    device: str,
) -> None:
    """Embed pictures once: one features table an encoder.

    Every picture is decoded once, whatever the number of encoders, layers and blurs. An interrupted call is continued
    by the next. On several GPUs or machines that share the folders: `torchrun --nproc-per-node N -m alignvis extract`.
    """
    from alignvis.finding import images_of
    from alignvis.images import catalogue
    from alignvis.images.extract import extract
    from alignvis.memory import keep_freed_memory

    keep_freed_memory()
    ids = tuple(dict.fromkeys(encoders)) or catalogue.DEFAULT
    folders = [images] if images else _image_sets(screen.root / "images")
    if not folders:
        raise AlignvisError(
            f"there are no pictures in {screen.root / 'images'}; put an image set there, or name one with --images"
        )
    if offline and weights is None:
        catalogue.require(ids, screen.root / "weights")
    where = {"given": weights, "download": not offline, "shelf": catalogue.Shelf(), "progress": screen.bar()}
    loaded = [catalogue.load(id, screen.root / "weights", **where) for id in ids]
    for encoder in loaded:
        if encoder.row.warning:
            screen.say(f"note: {encoder.row.id}: {encoder.row.warning}")
    only = sorted({image for path in shown_in for image in images_of(path)}) or None
    for folder in folders:
        name = folder.stem if folder.is_file() else folder.resolve().name
        out = screen.root / "features" / name
        made = extract(
            folder,
            loaded,
            out,
            only=only,
            layers=layers,
            blur=blur,
            batch=batch,
            workers=workers,
            device=device,
            precision=precision,
            skip_bad=skip_bad,
            overwrite=overwrite,
            progress=screen.bar(),
        )
        for row in made:
            for picture in row["skipped"]:
                screen.say(f"note: {picture} is broken and was left out of {row['table']}")
            screen.result(row, _told(row))
    if not images:
        screen.following(f"train --subject {_subjects(screen.root)}")


@click.command()
@click.argument("features", nargs=-1, type=click.Path(path_type=Path))
@click.option("--things", type=FOLDER, help="Folder with the human data on THINGS.  [default: ROOT/things]")
@click.option("--triplets", type=click.Path(path_type=Path), help="Choices of people to take instead of that folder's.")
@click.option("--target", default="embeddings", show_default=True, help="Tensor to take, like layer.6.patches.")
@click.option(
    "--picture",
    type=click.Path(dir_okay=False, path_type=Path),
    help="New file to draw into.  [default: ROOT/alignment.png, or alignment-TARGET.png, drawn anew each time]",
)
@click.pass_obj
def score(
    screen: Screen,
    features: tuple[Path, ...],
    things: Path | None,
    triplets: Path | None,
    target: str,
    picture: Path | None,
) -> None:
    """Say how human embeddings are: FEATURES tables against what people judged alike.

    Without FEATURES: all tables in ROOT. Beside each stands what was decoded through it in the runs found in ROOT, and
    a picture shows one against the other.
    """
    if picture is not None and picture.exists():
        raise AlignvisError(f"{picture} is there already; name a new file, or move it away")
    from alignvis.figures.alignment import draw_alignment
    from alignvis.human_scores import alignment_table, score_tables

    broken: list[AlignvisError] = []
    asked = {"target": target, "broken": broken.append, "progress": screen.bar()}
    rows = score_tables(screen.root, features, things, triplets, **asked)
    if screen.as_json:
        for row in rows:
            screen.result(row, "")
    elif rows:
        click.echo(alignment_table(rows))
    others = sorted({other for row in rows for other in row["other_targets"]})
    if any(row["retrieval"] for row in rows):
        name = "alignment.png" if target == "embeddings" else f"alignment-{target}.png"
        draw_alignment(rows, picture or screen.root / name)
        screen.say(f"drew {picture or screen.root / name}")
    elif rows:
        screen.say(f"no run that learned {target} of these tables has a score yet, so nothing was drawn")
    if others:
        screen.say(f"other runs learned {', '.join(others)} of them: alignvis score --target {others[0]}")
    for error in broken[1:]:
        screen.say(f"note: {error}")
    if broken:
        raise broken[0]
