"""What several commands take."""

from pathlib import Path

import click

from alignvis.terminal import Numbers

FOLDER = click.Path(file_okay=False, path_type=Path)
NUMBERS = Numbers()
DEVICE = click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
