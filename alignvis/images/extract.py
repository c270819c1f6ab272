"""Pictures to features tables, in one pass: every picture decoded once, every encoder fed."""

import shutil
import time
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from alignvis.device import choose_device
from alignvis.errors import AlignvisError
from alignvis.files import Busy
from alignvis.images.ahead import Decoders, decode_ahead, decoders
from alignvis.images.embed import PRECISIONS, Fetch, Pass, Pictures, agreement, inference, to_unit
from alignvis.images.encoder import ImageEncoder
from alignvis.images.making import Making, choose_layers, choose_pictures, is_there, plan
from alignvis.images.parts import Part, claim, compare, cut, folder_of, merge
from alignvis.processes import processes, rank
from alignvis.progress import Progress, silent
from alignvis.store import read_document, read_table

CHECKPOINT = 2.0  # seconds of work that a killed process loses at most
WAIT = 0.2  # seconds between two looks at what other processes have in hand
MERGED = ("images", "skipped")  # of the document: known at the end alone
SAMPLE = 32  # pictures on which bfloat16 is held against float32


def extract(
    images: Path,
    encoders: Sequence[ImageEncoder],
    out: Path,
    *,
    only: Sequence[str] | None = None,
    layers: Collection[int] | Literal["all"] = (),
    blur: Collection[float] = (),
    batch: int = 32,
    device: str = "cpu",
    precision: Literal["fp32", "bf16"] = "fp32",
    skip_bad: bool = False,
    overwrite: bool = False,
    workers: int | None = None,
    progress: Progress = silent,
) -> list[dict[str, Any]]:
    """Embed every picture of a set with every encoder, and write ``out/<encoder id>.safetensors``.

    The work is cut into parts of some hundred pictures. Processes that share the folders (of torchrun, or started by
    hand) each take a part at a time, and what one leaves behind is another's, or the next call's, to finish: batches
    have fixed borders, so the table comes out the same to the byte. A table that is whole is kept. A picture whose
    file was touched since its row was made is read again; if its bytes have changed, the row of an unfinished table is
    made again, and a whole table is refused.

    Args:
        images: the image set, a folder; its name is the set's name, and an image's id is its path below it, in the
            order of the bytes of UTF-8. Or a file of pictures in one array, as NSD has it, see `brick.py`.
        only: ids of the pictures to embed, in any order; all if not given.
        layers: numbers of layers, from 1, whose class token and mean patch token (of a convolutional network: mean over
            the picture) are kept beside the embedding; "all" takes every one that an encoder has.
        blur: standard deviations, pixels of an encoder's input, of Gaussian blurs whose pictures are embedded likewise,
            beside the sharp ones (which 0 stands for).
        batch: pictures per call of an encoder.
        device: a device of torch, or "auto": CUDA where there is one.
        precision: "bf16" multiplies matrices in bfloat16; embeddings are float32 either way. The header says how near
            to float32 that is.
        skip_bad: leave out pictures that cannot be read, and list them, instead of stopping at the first.
        overwrite: make tables again that are there.
        workers: processes that decode and resize; one per core if not given.
        progress: counts pictures.

    Returns:
        For every encoder, in the order given: "encoder", "table" (path), "images" and "dim" (its size), "layers",
        "blur", "kept" (it was there), "skipped" (ids of pictures left out), "bf16_cosine" (smallest of a sample, or
        None). Nothing in processes other than the first, which waits for them and joins the parts.

    Raises:
        AlignvisError: when there are no pictures, or not those asked for, or one is broken (what is done stays and is
            continued), when a table of another making is in the way, when an encoder does not have a layer, when the
            disk has no room, or when an encoder yields what is not finite.
    """
    images, out = Path(images), Path(out)
    ids = choose_pictures(images, only)
    where = choose_device(device)
    if not encoders or not all(isinstance(encoder, ImageEncoder) for encoder in encoders):
        raise AlignvisError("extract takes a list of encoders, which alignvis.load_encoder makes of an id")
    names = [encoder.row.id for encoder in encoders]
    if len(set(names)) < len(names) or batch < 1 or (workers or 1) < 1 or precision not in PRECISIONS:
        raise AlignvisError(
            f"asked for encoders {', '.join(names)}, batch {batch}, precision {precision!r} and {workers} workers; "
            "each encoder may be named once, batch and workers are at least 1, and precision is fp32 or bf16"
        )
    if not all(sigma == 0 or 0.1 <= sigma <= 1000 for sigma in blur):
        raise AlignvisError(f"asked for blurs of {', '.join(map(str, blur))} pixels; each is 0 or from 0.1 to 1000")
    if overwrite and processes() > 1:
        raise AlignvisError("several processes cannot tell what to overwrite; remove those tables, then extract again")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise AlignvisError(f"{out} cannot hold tables ({error.strerror}); choose another folder") from error
    sigmas = sorted({float(f"{sigma:g}") for sigma in blur} - {0.0})  # as many digits as their names have
    chosen = [choose_layers(encoder, layers) for encoder in encoders]
    about = {"sigmas": sigmas, "batch": batch, "device": where.type, "precision": precision, "some": only is not None}
    makings = [
        plan(images, ids, encoder, out, layers=kept, **about) for encoder, kept in zip(encoders, chosen, strict=True)
    ]
    kept = [not overwrite and is_there(making, skip_bad) for making in makings]
    todo = [place for place, there in enumerate(kept) if not there]
    with decoders(workers) as pool, ThreadPoolExecutor() as readers:
        if not rank():
            for making, there in zip(makings, kept, strict=True):
                if there:
                    _check_pictures(images, making.path, readers, progress)
        if todo:
            _check_room([makings[place] for place in todo], out)
            work = _Work(images, [makings[place] for place in todo], batch, skip_bad, readers)
            through = Pass(
                [encoders[place] for place in todo], [chosen[place] for place in todo], sigmas, where, precision
            )
            try:
                _fill(work, through, pool, progress)
            except AlignvisError:
                if rank():  # the first process meets it too, and tells
                    return []
                raise
            if not rank():
                cosines = _agreement(work, through, [encoders[place] for place in todo], pool)
                _merge_all(work, cosines)
    return [] if rank() else [_result(making.path, there) for making, there in zip(makings, kept, strict=True)]


def _merge_all(work: "_Work", more: Sequence[dict[str, Any]]) -> None:
    """Join the parts of every table, of those too that come after one that could not be written."""
    failed = []
    for making, about in zip(work.makings, more, strict=True):
        while not work.is_made(making):
            try:
                merge(making, work.cuts, about)
            except Busy:
                time.sleep(WAIT)
            except AlignvisError as error:
                if not work.is_made(making):  # by another process, which then removed the parts
                    failed.append(error)
                break
    if failed:
        raise failed[0]


# --- what is there ---------------------------------------------------------------------------------------------------


def _check_pictures(images: Path, path: Path, readers: ThreadPoolExecutor, progress: Progress) -> None:
    """Make sure that the pictures behind a whole table are what they were."""
    document, arrays = read_table(path, "features", {"images.sha256": ("U8", 2)})
    ids, digests = document["images"], arrays["images.sha256"]
    stamps = arrays.get("images.stamp", np.zeros((len(ids), 2), np.int64))
    if digests.shape != (len(ids), 32) or stamps.shape != (len(ids), 2):
        raise AlignvisError(
            f"{path} does not have one digest per picture; move it away, or replace it with --overwrite"
        )
    changed = np.flatnonzero(compare(images, ids, digests, stamps, readers, progress)[0])
    if len(changed):
        raise AlignvisError(
            f"{len(changed)} pictures of {images} are not what they were when {path} was made (the first is "
            f"{ids[changed[0]]!r}); restore them, or replace the table with --overwrite"
        )


def _check_room(makings: Sequence[Making], out: Path) -> None:
    """A disk that cannot hold the tables is told of before the work, not after."""
    need = sum(4 * sum(making.sizes.values()) * len(making.images) for making in makings)
    there = [file for making in makings for file in folder_of(making).glob("*")]
    need = 2 * need - sum(file.stat().st_size for file in there)  # parts and table lie side by side for a moment
    free = shutil.disk_usage(out).free
    if need > free:
        raise AlignvisError(
            f"the tables need {need / 1e6:,.1f} MB and {out} has {free / 1e6:,.1f} MB free; free some room or choose "
            "another --root"
        )


def _identity(path: Path) -> tuple[int, int] | None:
    """What is another for every file that takes a name, whatever happens to links and rights; None for no file."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns


def _result(path: Path, kept: bool) -> dict[str, Any]:
    document = read_document(path, "features")
    return {
        "encoder": document["encoder"],
        "table": str(path),
        "images": len(document["images"]),
        "dim": document["dim"],
        "layers": document.get("layers", []),
        "blur": document.get("blur", []),
        "kept": kept,
        "skipped": document["skipped"],
        "bf16_cosine": document.get("bf16_cosine"),
    }


# --- the pass --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Job:
    """A batch: its rows, and the parts that lack them, by the places of their tables."""

    rows: slice
    parts: dict[int, Part]


class _Work:
    """The parts of some tables, taken one after the other as far as no other process has them."""

    def __init__(
        self, images: Path, makings: Sequence[Making], batch: int, skip_bad: bool, readers: ThreadPoolExecutor
    ) -> None:
        self.images, self.makings, self.batch, self.skip_bad, self.readers = images, makings, batch, skip_bad, readers
        self.ids = makings[0].images
        self.before = {making.path: _identity(making.path) for making in makings}
        self.cuts = cut(len(self.ids), batch)
        # Processes begin in different places, so that they rarely want the same.
        start = len(self.cuts) * rank() // processes()
        self.open = self.cuts[start:] + self.cuts[:start]
        self.taken: list[Part] = []
        self.done = 0  # pictures

    def is_made(self, making: Making) -> bool:
        """Whether a table was made, by whichever process, since this one began.

        Raises:
            AlignvisError: when another call put a table of another making there.
        """
        if _identity(making.path) in (None, self.before[making.path]):
            return False
        found = read_document(making.path, "features")
        differ = [key for key, value in making.document.items() if key not in MERGED and found.get(key) != value]
        if differ:
            raise AlignvisError(
                f"another call has put a table of another making at {making.path} in the meantime (it differs in: "
                f"{', '.join(differ)}); move it away, or replace it with --overwrite"
            )
        return True

    def jobs(self) -> Iterator[_Job]:
        """Take parts and give out their batches; what others have in hand stays open."""
        busy = []
        for rows in self.open:
            parts, complete = self._take(rows)
            if not complete:
                busy.append(rows)
            batches = [slice(at, min(at + self.batch, rows.stop)) for at in range(rows.start, rows.stop, self.batch)]
            lacking = [
                _Job(some, {place: part for place, part in parts.items() if part.lacks(some, self.skip_bad)})
                for some in batches
            ]
            for place, part in parts.items():
                part.left = sum(place in job.parts for job in lacking)
                if not part.left:
                    self.finish(part)
            lacking = [job for job in lacking if job.parts]
            if complete:
                self.done += rows.stop - rows.start - sum(job.rows.stop - job.rows.start for job in lacking)
            yield from lacking
        self.open = busy

    def _take(self, rows: slice) -> tuple[dict[int, Part], bool]:
        """Take a part of every table that needs it; False with it when another process has one of them."""
        parts: dict[int, Part] = {}
        complete = True
        for place, making in enumerate(self.makings):
            if self.is_made(making):
                continue
            try:
                part = claim(making, rows, self.images, self.readers, self.skip_bad)
            except Busy:
                complete = False
                if not parts:  # whoever has the first will take the others too
                    break
                continue
            if part is not None and self.is_made(making):  # between the two looks
                part.drop()
            elif part is not None:
                parts[place] = part
                self.taken.append(part)
        return parts, complete

    def put(self, job: _Job, results: Sequence[dict[str, NDArray]], digests: NDArray, stamps: NDArray) -> None:
        for (place, part), tensors in zip(job.parts.items(), results, strict=True):
            self._check_finite(place, job, tensors)
            part.put(job.rows, tensors, digests, stamps)
            if not part.left:
                self.finish(part)
        self.done += job.rows.stop - job.rows.start

    def finish(self, part: Part) -> None:
        part.finish()
        self.taken.remove(part)

    def _check_finite(self, place: int, job: _Job, tensors: dict[str, NDArray]) -> None:
        for name, tensor in tensors.items():
            broken = np.flatnonzero(~np.isfinite(tensor).all(axis=1))
            if len(broken):
                raise AlignvisError(
                    f"{self.makings[place].document['encoder']} yields numbers that are not finite for "
                    f"{self.ids[job.rows][broken[0]]!r} (in {name}); its weights are damaged, or bf16 does not suit "
                    "it: fetch the weights again, or use fp32"
                )


def _fill(work: _Work, through: Pass, pool: Decoders, progress: Progress) -> None:
    """Go round until every part is whole, whoever made it; processes other than the first go round once."""
    text = "embedding pictures"
    try:
        while work.open:
            _round(work, through, pool, text, progress)
            if rank():
                return
            if work.open:
                text = "waiting for other processes"
                progress(work.done, len(work.ids), text)
                time.sleep(WAIT)
    finally:
        for part in list(work.taken):
            part.leave()


def _round(work: _Work, through: Pass, pool: Decoders, text: str, progress: Progress) -> None:
    """Embed each batch of the parts that can be had, for the tables that lack it."""
    queue: deque[_Job] = deque()
    flying: deque[tuple[_Job, list[Fetch], NDArray, NDArray]] = deque()

    def wanted() -> Iterator[tuple[list[Path], set[str]]]:
        for job in work.jobs():
            queue.append(job)
            geometries = {through.encoders[place].geometry for place in job.parts}
            yield [work.images / image for image in work.ids[job.rows]], geometries

    def land() -> None:
        job, results, digests, stamps = flying.popleft()
        work.put(job, [result.wait() for result in results], digests, stamps)
        progress(work.done, len(work.ids), text, work.ids[job.rows.stop - 1])

    saved = time.monotonic()
    try:
        with inference(through.precision):
            for pixels, digests, stamps in decode_ahead(wanted(), pool, work.skip_bad):
                job = queue.popleft()
                inputs = {name: to_unit(array, through.device) for name, array in pixels.items()}
                results = [Fetch(result) for result in through(inputs, list(job.parts))]
                flying.append((job, results, digests, stamps))
                if len(flying) > 1:  # the device works on this batch while the host puts the last one away
                    land()
                if time.monotonic() - saved > CHECKPOINT:
                    for part in work.taken:
                        part.checkpoint()
                    saved = time.monotonic()
    finally:
        while flying:
            land()


def _agreement(work: _Work, through: Pass, encoders: Sequence[ImageEncoder], pool: Decoders) -> list[dict[str, float]]:
    """For each table in bfloat16, how near that is to float32, as its document says it."""
    if through.precision != "bf16":
        return [{} for _ in encoders]
    paths = [work.images / image for image in work.ids[:SAMPLE]]
    ((pixels, digests, _),) = decode_ahead([(paths, {encoder.geometry for encoder in encoders})], pool, True)
    good = digests.any(axis=1)
    if not good.any():
        return [{} for _ in encoders]
    sample: Pictures = {name: to_unit(array[good], through.device) for name, array in pixels.items()}
    return [{"bf16_cosine": round(cosine, 6)} for cosine in agreement(through, encoders, sample)]
