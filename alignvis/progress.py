"""How a long function tells its caller how far it is; the command line turns it into a bar."""

from typing import Protocol


class Progress(Protocol):
    """Called as ``progress(done, total, text, note)``: units done, units in all, what is being done, how it goes."""

    def __call__(self, done: int, total: int, text: str, note: str = "") -> None: ...


def silent(done: int, total: int, text: str, note: str = "") -> None:
    """Say nothing: what a library call does unless it is asked to speak."""
