"""Fills a responses table block by block: in bounded memory, checked, and continued after an interruption."""

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import alignvis
from alignvis import store
from alignvis.errors import AlignvisError
from alignvis.files import stamp
from alignvis.progress import Progress
from alignvis.recordings.sources import hashing, sha256s

PARTS = ("train", "test")
CHECKPOINT = 5.0  # seconds of work that a killed process loses at most


@dataclass(frozen=True)
class Block:
    """Some responses that are read together.

    Attributes:
        part: "train" or "test".
        rows, slots: (responses,) the image and the repetition of the table that each response becomes.
        where: whatever the reader needs to find them.
        text: what is being done, for the progress bar.
    """

    part: str
    rows: NDArray[np.int64]
    slots: NDArray[np.int64]
    where: Any
    text: str


def about(dataset: str, subject: int, unit: str, simulated: bool, asked: Mapping[str, Any]) -> dict[str, Any]:
    """What the header of every responses table says first."""
    return {
        "version": store.VERSION,
        "table": "responses",
        "dataset": dataset,
        "subject": subject,
        "unit": unit,
        "simulated": simulated,
        "asked": dict(asked),
        "versions": {"alignvis": alignvis.__version__, "numpy": np.__version__},
    }


def fill(
    out: Path,
    document: Mapping[str, Any],
    sessions: Mapping[str, NDArray[np.uint8]],
    shape: tuple[int, int],
    blocks: Sequence[Block],
    read: Callable[[Block], NDArray[np.floating]],
    *,
    dtype: str,
    sources: Sequence[Path],
    progress: Progress,
    beside: Mapping[str, NDArray[np.uint8]] | None = None,
) -> None:
    """Fill and name a responses table.

    The same call after an interruption goes on with the first block that is not on the disk, unless a source was
    touched in the meantime.

    Args:
        document: the header, complete; `describe` lists the sources in it.
        sessions: by part, (images, repetitions), the session of each response; 0 where there is none to name.
        shape: (channels, times) of a response.
        blocks: together, every response of both parts once.
        read: the values of a block, (responses, channels, times).
        dtype: "float16" or "float32".
        sources: the files that the values come from; their digests are kept in the table.
        beside: further tensors of the table, complete.

    Raises:
        AlignvisError: when a value is not finite or too large for the dtype, or whatever `read` raises; nothing is kept
            then.
    """
    layout = {part: (dtype, (*sessions[part].shape, *shape)) for part in PARTS}
    layout |= {f"{part}.session": ("uint8", sessions[part].shape) for part in PARTS}
    layout |= {"sources.sha256": ("uint8", (len(sources), 32)), "sources.stamp": ("int64", (len(sources), 2))}
    layout["blocks.done"] = ("uint8", (len(blocks),))
    layout |= {name: ("uint8", tensor.shape) for name, tensor in (beside or {}).items()}
    table = store.begin(out, layout, document)
    stamps = np.array([stamp(path) for path in sources])
    if (table["sources.stamp"] != stamps).any():
        table["blocks.done"][...] = 0
        table["sources.stamp"][...] = stamps
    for part in PARTS:
        table[f"{part}.session"][...] = sessions[part]
    for name, tensor in (beside or {}).items():
        table[name][...] = tensor

    done, total = 0, sum(len(block.rows) for block in blocks)
    waiting, saved = [], time.monotonic()
    try:
        with hashing(sources) as digests:
            for number, block in enumerate(blocks):
                if not table["blocks.done"][number]:
                    _put(table[block.part], block, read(block), document["channels"], out)
                    waiting.append(number)
                if time.monotonic() - saved > CHECKPOINT:
                    _save(table, waiting)
                    waiting, saved = [], time.monotonic()
                done += len(block.rows)
                progress(done, total, block.text)
            _save(table, waiting)
            table["sources.sha256"][...] = [digest.result() for digest in digests]
        changed = [path for path, before in zip(sources, stamps.tolist(), strict=True) if [*stamp(path)] != before]
        if changed:
            raise AlignvisError(
                f"{changed[0]} changed while it was read, so nothing was kept; prepare again when it is whole"
            )
    except AlignvisError:  # a source will be another one before this can succeed
        store.discard(out)
        raise
    except BaseException:
        _save(table, waiting)
        raise
    for array in table.values():
        array.flush()
    store.commit(out)


def _put(part: np.memmap, block: Block, values: NDArray[np.floating], channels: Sequence[str], out: Path) -> None:
    with np.errstate(over="ignore", invalid="ignore"):  # said below
        values = values.astype(np.float32, copy=False)
    largest = np.abs(values).max(axis=(0, 2), initial=0)
    if not (largest <= np.finfo(part.dtype).max).all():  # false for NaN too
        worst = int(np.argmin(largest <= np.finfo(part.dtype).max))
        raise AlignvisError(
            f"channel {channels[worst]} has the value {largest[worst]:g} among the {block.text}, which the "
            f"{part.dtype} of {out.name} does not hold; mend the file, or choose --float32 if the value is a "
            "number and right"
        )
    if part.dtype == np.float16 and 0 < largest.max() < np.finfo(np.float16).smallest_normal:
        raise AlignvisError(
            f"the largest value among the {block.text} is {largest.max():.3g}, so small that the float16 of {out.name} "
            "would round it away; choose --float32"
        )
    part[block.rows, block.slots] = values


def _save(table: Mapping[str, np.memmap], blocks: Sequence[int]) -> None:
    """Only what is on the disk is called done."""
    for part in PARTS:
        table[part].flush()
        table[f"{part}.session"].flush()
    table["blocks.done"][list(blocks)] = 1
    table["blocks.done"].flush()


# --- what is there ---------------------------------------------------------------------------------------------------


def is_there(out: Path, asked: Mapping[str, Any], overwrite: bool) -> bool:
    """Whether the table to be made is there already: 63 channels must never pass for 17.

    Raises:
        AlignvisError: when one made with other options is there and may not be overwritten.
    """
    if overwrite or not out.exists():
        return False
    there = store.read_document(out, "responses").get("asked")
    if not isinstance(there, dict):
        raise AlignvisError(f"{out} does not say how it was made; --overwrite replaces it, another --root keeps both")
    for option, value in asked.items():
        if there.get(option) != value:
            raise AlignvisError(
                f"{out} was made with {option} {there.get(option)}, and {option} {value} is asked for; "
                "--overwrite replaces it, another --root keeps both"
            )
    return True


def check_sources(out: Path, sources: Sequence[Path]) -> None:
    """A table is kept only if it was made of these very files.

    Raises:
        AlignvisError: when it was made of others, or of what they were before.
    """
    _, arrays = store.read_table(out, "responses", {})
    digests, stamps = (arrays.get(name, np.zeros((0, 0))) for name in ("sources.sha256", "sources.stamp"))
    same = len(digests) == len(stamps) == len(sources)
    for number, path in enumerate(sources):
        if not same or (tuple(stamps[number]) != stamp(path) and (sha256s([path])[0] != digests[number]).any()):
            raise AlignvisError(
                f"{out} was made of other files than those there now ({path} is one that differs); --overwrite "
                "replaces it, another --root keeps both"
            )


def check_dtype(name: str) -> None:
    """Refuse a type of number that tables do not hold."""
    if name not in ("float16", "float32"):
        raise AlignvisError(f"a table holds float16 or float32, not {name!r}")


def check_dataset(name: str) -> None:
    """Refuse a name that is no plain name of a folder."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise AlignvisError(f"{name!r} cannot name a dataset; use letters, digits, hyphens, dots and underscores")


def summary(out: Path, kept: bool, begun: float, warnings: Sequence[str]) -> dict[str, Any]:
    """What every way to make a responses table returns.

    That is its path, dataset, subject, shapes, dtype, unit, samples a second and time of the first, the seconds that it
    took, whether it was there already, and warnings: sentences on what was left out or unexpected.
    """
    table = store.load_responses(out)
    return {
        "path": str(out),
        "dataset": table.document["dataset"],
        "subject": table.document["subject"],
        "train": list(table.train.shape),
        "test": list(table.test.shape),
        "dtype": str(table.train.dtype),
        **{key: table.document.get(key) for key in ("unit", "sfreq", "tmin")},
        "seconds": round(time.monotonic() - begun, 1),
        "kept": kept,
        "warnings": list(warnings),
    }
