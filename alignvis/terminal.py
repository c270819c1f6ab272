"""The terminal: where results, news and progress go, how mistakes are shown, how lists of numbers are typed."""

import json
import os
import re
import shlex
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from alignvis.errors import AlignvisError
from alignvis.processes import rank
from alignvis.progress import Progress, silent


@dataclass(frozen=True)
class Screen:
    """Where results and news go: one JSON object a result on stdout if asked for, all else on stderr."""

    root: Path
    as_json: bool
    quiet: bool
    verbose: bool
    bars: dict[str, Any] = field(default_factory=dict)

    def say(self, text: str) -> None:
        if not self.quiet:
            click.echo(pasteable(text, self.root), err=True)

    def detail(self, text: str) -> None:
        if self.verbose:
            click.echo(text, err=True)

    def result(self, value: dict[str, Any], text: str) -> None:
        shown = pasteable(text, self.root)
        click.echo(json.dumps(value, ensure_ascii=False, allow_nan=False, default=str) if self.as_json else shown)

    def bar(self) -> Progress:
        """A progress bar for all that counts on to one total, whose text may change. Of several processes one draws.

        Another total closes the last bar and opens the next. What is done within a second, from now or from the last
        bar's end, has none.
        """
        if self.quiet or rank():
            return silent
        from tqdm import tqdm

        bars, begun = self.bars, time.monotonic()

        def progress(done: int, total: int, text: str, note: str = "") -> None:
            nonlocal begun
            if text not in bars and bars:
                last = next(iter(bars))
                if bars[last].total == total and bars[last].n <= done:  # the next part of the same work
                    bars[text] = bars.pop(last)
                    bars[text].set_description(text, refresh=False)
            if text not in bars:
                self.close()
                waited = max(0.0, 1 - (time.monotonic() - begun))  # a first step may have taken long already
                how = {"file": sys.stderr, "delay": waited, "mininterval": 0.2, "dynamic_ncols": True}
                bars[text] = tqdm(total=total, desc=text, **how)
            bars[text].set_postfix_str(note, refresh=False)
            bars[text].update(done - bars[text].n)
            if done >= total:
                bars.pop(text).close()
                begun = time.monotonic()

        return progress

    def following(self, command: str, root: Path | None = None) -> None:
        """Name the next command, ready to be pasted."""
        if not rank() and not self.quiet:
            click.echo(pasteable(f"next: alignvis {command}", root or self.root), err=True)

    def close(self) -> None:
        """End the bar that is drawn, so that what is said next has a line of its own."""
        while self.bars:
            self.bars.popitem()[1].close()


def pasteable(text: str, root: Path) -> str:
    """Let the commands of alignvis that a sentence names be those of the root at hand, so that they can be pasted."""
    context = click.get_current_context(silent=True)
    if context is None or root == Path("."):
        return text
    names = "|".join(map(re.escape, context.find_root().command.commands))  # type: ignore[attr-defined]
    command, rooted = rf"(?<![\w/.-])alignvis (?=(?:{names})\b)", f"alignvis --root {shlex.quote(str(root))} "
    return re.sub(command, lambda _: rooted, text)  # but not within a path


class Commands(click.Group):
    """Lets the global options stand behind a command's name too, and shows the user's mistakes as sentences."""

    FLAGS = ("--json", "--quiet", "-v", "--verbose")

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        front: list[str] = []
        rest: list[str] = []
        words = iter(args)
        for word in words:
            if word in self.FLAGS or word.startswith("--root="):
                front.append(word)
            elif word == "--root":
                front += [word, *(value for value in [next(words, None)] if value is not None)]
            else:
                rest.append(word)
        return super().parse_args(ctx, front + rest)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except AlignvisError as error:
            root = ctx.obj.root if isinstance(ctx.obj, Screen) else Path(".")
            raise click.ClickException(pasteable(str(error), root)) from error
        except KeyboardInterrupt as error:
            raise click.ClickException("stopped; run the same command again to go on") from error
        except BrokenPipeError:  # whoever read the output has seen enough
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (or closing it at the end would complain)
        except OSError as error:
            if error.filename is None and error.errno is None:
                raise
            raise click.ClickException(f"{error.filename or 'the file system'}: {error.strerror}") from error


class Numbers(click.ParamType):
    """``1``, ``1,3`` or ``1-4``: numbers and ranges with both ends."""

    name = "numbers"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        chosen: list[int] = []
        for part in value.split(","):
            match = re.fullmatch(r"(\d{1,6})(?:-(\d{1,6}))?", part.strip())
            if not match or int(match[2] or match[1]) < int(match[1]):
                self.fail(f"{value!r} is not a number, a list like 1,3 or a range like 1-4", param, ctx)
            chosen += range(int(match[1]), int(match[2] or match[1]) + 1)
        if len(chosen) > 10_000:
            self.fail(f"{value!r} names {len(chosen)} numbers, which is more than anything here has", param, ctx)
        return tuple(dict.fromkeys(chosen))


class Layers(Numbers):
    """Numbers, or the word "all"."""

    name = "numbers|all"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...] | str:
        return value if value == "all" else super().convert(value, param, ctx)


class Lengths(click.ParamType):
    """``0,1.5,3``: numbers from 0 on."""

    name = "lengths"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        if isinstance(value, tuple):
            return value
        if not re.fullmatch(r"(\d+\.?\d*|\.\d+)(,(\d+\.?\d*|\.\d+))*", value):
            self.fail(f"{value!r} is not a list of numbers from 0 on, like 0,1,3,9", param, ctx)
        return tuple(float(part) for part in value.split(","))


class Span(click.ParamType):
    """``-0.2:0.8``: from when to when, s; where nothing is a choice too, also ``none``."""

    name = "start:end"

    def __init__(self, or_none: bool = False) -> None:
        self.or_none = or_none

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[float, float] | None:
        if isinstance(value, tuple) or (self.or_none and value == "none"):
            return None if value == "none" else value
        number = r"(-?(?:\d+\.?\d*|\.\d+))"
        match = re.fullmatch(f"{number}:{number}", value)
        if not match or not float(match[1]) < float(match[2]):
            self.fail(f"{value!r} is no time from when to when, like 0:1 or -0.2:0.8 (seconds)", param, ctx)
        return float(match[1]), float(match[2])
