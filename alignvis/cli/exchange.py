"""Files that other projects wrote, and files for people who leave: `import`, `export`."""

from pathlib import Path
from shlex import quote

import click

from alignvis.cli.options import FOLDER
from alignvis.errors import AlignvisError
from alignvis.terminal import Screen


@click.command(name="import")
@click.argument("paths", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--subject", type=click.IntRange(1, 999), help="Whose recording.  [default: as the path says]")
@click.option(
    "--images",
    type=FOLDER,
    help="Folder with image_metadata.npy or the pictures, which the rows are matched with.  "
    "[default: ROOT/images/things-eeg2 or things-meg]",
)
@click.option("--dataset", help="Of a recording: folder in ROOT/responses.  [default: named by what the file is]")
@click.option("--encoder", help="Of features: the image encoder's id.  [default: as the file says]")
@click.option("--image-set", help="Of features: folder in ROOT/features.  [default: the name of --images]")
@click.option("--float32", is_flag=True, help="Of a recording: store 32 instead of 16 bits a value.")
@click.option("--overwrite", is_flag=True, help="Replace a table that is there.")
@click.pass_obj
def import_(
    screen: Screen,
    paths: tuple[Path, ...],
    subject: int | None,
    images: Path | None,
    dataset: str | None,
    encoder: str | None,
    image_set: str | None,
    float32: bool,
    overwrite: bool,
) -> None:
    """Read recordings and features of other projects.

    PATHS are one recording (a subject's folder or a file in it), or features of one kind (files or a folder). What
    they are is found out from what they hold: recordings as NICE, ATM, AlignVis, UBP, NeuroBridge, SAMGA and ZEISS
    write them; features of AlignVis (trees or WebDataset shards), ATM, NICE, NeuroBridge, UBP and ZEISS.
    """
    from alignvis.exchange.sniff import recognise

    kind, _ = recognise(paths[0])
    if kind == "responses":
        from alignvis.exchange.brains import import_responses

        if len(paths) > 1:
            raise AlignvisError(
                f"{len(paths)} paths are given, and {paths[0]} is a recording, of which one is imported at a time; "
                "give the subject's folder"
            )
        made = import_responses(
            paths[0],
            root=screen.root,
            subject=subject,
            images=images,
            dataset=dataset,
            dtype="float32" if float32 else "float16",
            overwrite=overwrite,
            progress=screen.bar(),
        )
        for note in [*made["warnings"], *made["claims"]]:
            screen.say(f"note: {note}")
        train, test = (" x ".join(map(str, made[part])) for part in ("train", "test"))
        verb = "kept" if made["kept"] else "wrote"
        screen.result(made, f"{verb} {made['path']}: {made['layout']}, train {train}, test {test}")
        screen.following(f"check {quote(str(made['path']))}")
        return
    from alignvis.exchange.features import import_features

    for made in import_features(
        paths,
        root=screen.root,
        images=images,
        encoder=encoder,
        image_set=image_set,
        overwrite=overwrite,
        progress=screen.bar(),
    ):
        for note in made["claims"]:
            screen.say(f"note: {note}")
        verb = "kept" if made["kept"] else "wrote"
        screen.result(made, f"{verb} {made['table']}: {made['layout']}, {made['images']} images x {made['dim']}")
    screen.following("check")


@click.command()
@click.argument("table", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--out", type=FOLDER, required=True, help="New folder.")
@click.option(
    "--as",
    "layout",
    type=click.Choice(["npy", "alignvis"]),
    default="npy",
    show_default=True,
    help="npy: plain arrays and info.json; alignvis: one .npy a picture, as its authors have them (features only).",
)
@click.option("--overwrite", is_flag=True, help="Replace what an earlier export wrote.")
@click.pass_obj
def export(screen: Screen, table: Path, out: Path, layout: str, overwrite: bool) -> None:
    """Write TABLE for other programs."""
    from alignvis.exchange.export import export_table

    made = export_table(table, out, layout=layout, overwrite=overwrite, progress=screen.bar())
    screen.result(made, f"{'kept' if made['kept'] else 'wrote'} {out}: {made['files']} files")
