"""Which of several processes of one command this is, as torchrun says it in the environment."""

import os


def rank() -> int:
    """Number of this process among all, from 0; 0 for a process on its own."""
    return _stated("RANK") if processes() > 1 else 0


def local_rank() -> int:
    """Number of this process among those on its machine, from 0."""
    return _stated("LOCAL_RANK") if processes() > 1 else 0


def processes() -> int:
    """How many processes there are."""
    return max(1, _stated("WORLD_SIZE"))


def _stated(name: str) -> int:
    """A number in the environment; what is none was not meant for us."""
    value = os.environ.get(name, "0")
    return int(value) if value.isdecimal() and len(value) < 10 else 0
