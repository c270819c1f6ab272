"""The commands: thin; heavy imports stay inside them."""

from pathlib import Path

import click

from alignvis import __version__
from alignvis.cli import (
    comparison,
    exchange,
    explaining,
    looking,
    pictures,
    recordings,
    reporting,
    representations,
    scores,
    searching,
    showing,
    training,
)
from alignvis.cli.options import FOLDER
from alignvis.terminal import Commands, Screen


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="alignvis")
@click.option(
    "--root",
    type=FOLDER,
    default=".",
    envvar="ALIGNVIS_ROOT",
    show_default=True,
    show_envvar=True,
    help="Folder that holds images/ responses/ features/ runs/ weights/.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a result on stdout.")
@click.option("--quiet", is_flag=True, help="No progress and no news.")
@click.option("-v", "--verbose", is_flag=True, help="Every epoch.")
@click.pass_context
def main(ctx: click.Context, root: Path, as_json: bool, quiet: bool, verbose: bool) -> None:
    """Which picture was it? Decode vision from EEG, MEG and fMRI with human-aligned image models.

    With a dataset in place: `alignvis prepare things-eeg2 --raw DIR --subject 1`, `alignvis extract`,
    `alignvis train --subject 1`, `alignvis eval`. With nothing at all: `alignvis demo`.
    """
    ctx.obj = Screen(root, as_json, quiet, verbose)
    ctx.call_on_close(ctx.obj.close)


for command in (
    looking.demo,
    recordings.simulate,
    recordings.prepare,
    exchange.import_,
    pictures.extract,
    pictures.score,
    training.train,
    scores.evaluate,
    comparison.compare,
    searching.search,
    explaining.explain,
    showing.show,
    reporting.report,
    representations.rsa,
    representations.encode,
    looking.list_,
    looking.check,
    exchange.export,
):
    main.add_command(command)
