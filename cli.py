"""`python cli.py` is `alignvis`."""

from alignvis.cli import main

main()
