"""What is here, and the whole way at once: `list`, `check`, `demo`."""

from functools import partial
from pathlib import Path

import click

from alignvis.cli.options import FOLDER
from alignvis.errors import AlignvisError
from alignvis.terminal import Screen


@click.command()
@click.option("--fast", is_flag=True, help="Fewer pictures and trials: in half the time.")
@click.option("--out", type=FOLDER, help="Folder for everything that it makes.  [default: demo, or demo-fast]")
@click.pass_obj
def demo(screen: Screen, fast: bool, out: Path | None) -> None:
    """Go the whole way on a simulated subject; nothing is downloaded."""
    from alignvis.demo import run_demo
    from alignvis.memory import keep_freed_memory

    keep_freed_memory()
    result = run_demo(out or Path("demo-fast" if fast else "demo"), fast=fast, say=screen.say, progress=screen.bar())
    screen.result(result, result["text"])


@click.command(name="list")
@click.argument("what", type=click.Choice(["encoders", "brain-encoders", "recipes"]), default="encoders")
@click.argument("word", default="")
@click.pass_obj
def list_(screen: Screen, what: str, word: str) -> None:
    """List image encoders, brain encoders or recipes.

    With WORD only those whose name has it. Of an image encoder: its id, the length of its embedding, whether people's
    judgements went into it, and its weights; encoders that share a file need it once.
    """
    from alignvis.listing import brain_encoders, image_encoders, recipes

    images = partial(image_encoders, screen.root / "weights")
    rows = {"encoders": images, "brain-encoders": brain_encoders, "recipes": recipes}[what]()
    named = [(row, text) for row, text in rows if word.lower() in row.get("id", row.get("name")).lower()]
    if not named:
        raise AlignvisError(f"none of the {what} has {word!r} in its name; alignvis list {what} shows them all")
    for row, text in named:
        screen.result(row, text)


@click.command()
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path))
@click.pass_obj
def check(screen: Screen, paths: tuple[Path, ...]) -> None:
    """Say what PATHS hold, if they are whole, what fits what.

    Without PATHS: all tables and runs in ROOT.
    """
    from alignvis.check import check_all

    bad = 0
    for row, text in check_all(screen.root, paths):
        bad += not row["whole"]
        screen.result(row, text)
    if bad:
        raise AlignvisError(f"{bad} of these cannot be used; what to do is said beside each")
