"""Pictures to features tables, in one pass: every picture decoded once, every encoder fed."""

import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alignvis.device import choose_device
from alignvis.errors import AlignvisError
from alignvis.files import read_json
from alignvis.images.ahead import Pixels, decode_ahead
from alignvis.images.catalogue import ImageEncoder
from alignvis.images.pixels import GEOMETRIES, pictures, read
from alignvis.progress import Progress, silent
from alignvis.store import VERSION, begin, commit, discard, load_features, read_document, read_table

CHECKPOINT = 2.0  # seconds of work that a killed process loses at most
PART = 64  # pictures whose digests are taken in one go
HOW = ("batch", "device", "versions")  # of the document: what moves an embedding by rounding only


@dataclass
class _Table:
    """One encoder's table while it is filled.

    Attributes:
        embeddings: (images, dim) float32, mapped from the unfinished file.
        digests: (images, 32) uint8, mapped likewise; a row that is not zero is done.
        waiting: digests of rows that are computed but not yet on the disk.
    """

    encoder: ImageEncoder
    path: Path
    document: dict[str, Any]
    embeddings: NDArray[np.float32]
    digests: NDArray[np.uint8]
    waiting: list[tuple[slice, NDArray[np.uint8]]] = field(default_factory=list)

    def lacks(self, rows: slice) -> bool:
        return not self.digests[rows].any(axis=1).all()

    def checkpoint(self) -> None:
        """Bring embeddings to the disk, and only then the digests that vouch for them."""
        if self.waiting:
            self.embeddings.flush()
            for rows, digests in self.waiting:
                self.digests[rows] = digests
            self.digests.flush()
            self.waiting.clear()


def extract(
    images: Path,
    encoders: Sequence[ImageEncoder],
    out: Path,
    *,
    batch: int = 32,
    device: str = "cpu",
    precision: Literal["fp32", "bf16"] = "fp32",
    skip_bad: bool = False,
    overwrite: bool = False,
    workers: int | None = None,
    progress: Progress = silent,
) -> list[dict[str, Any]]:
    """Embed every picture below a folder with every encoder, and write ``out/<encoder id>.safetensors``.

    An interrupted call is continued by the next: batches have fixed boundaries, so the file comes out the same to the
    byte. A table that is whole is kept. Either way the pictures behind finished rows are read again and their digests
    compared, because reading costs a hundredth of embedding: in an unfinished table the rows of changed pictures are
    made again, a whole one with changed pictures is refused.

    Args:
        images: the image set; its name is the set's name, and an image's id is its path below it, in the order of
            the bytes of UTF-8.
        batch: pictures per call of an encoder.
        device: a device of torch, or "auto": CUDA where there is one.
        precision: "bf16" lets torch compute in bfloat16 where it deems that safe; embeddings are float32 either way.
        skip_bad: leave out pictures that cannot be read, and list them, instead of stopping at the first.
        overwrite: make tables again that are there.
        workers: threads that decode and resize, which Pillow does in parallel; one per core if not given.
        progress: counts pictures.

    Returns:
        For every encoder, in the order given: "encoder", "table" (path), "images" and "dim" (its size), "kept" (it was
        there), "skipped" (ids of pictures left out).

    Raises:
        AlignvisError: when there are no pictures, or one is broken (what is done stays and is continued), when a table
            of another making is in the way, when the disk has no room, or an encoder yields what is not finite.
    """
    images, out = Path(images), Path(out)
    ids = pictures(images)
    where = choose_device(device)
    names = [encoder.row.id for encoder in encoders]
    if len(set(names)) < len(names) or batch < 1 or (workers or 1) < 1 or precision not in ("fp32", "bf16"):
        raise AlignvisError(
            f"asked for encoders {', '.join(names)}, batch {batch}, precision {precision!r} and {workers} workers; "
            "each encoder may be named once, batch and workers are at least 1, and precision is fp32 or bf16"
        )
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise AlignvisError(f"{out} cannot hold tables ({error.strerror}); choose another folder") from error
    wanted = [
        (encoder, out / f"{encoder.row.id}.safetensors", _document(images, ids, encoder, batch, where, precision))
        for encoder in encoders
    ]
    kept = [path for _, path, document in wanted if not overwrite and _is_there(path, document, skip_bad)]
    tables = _open([each for each in wanted if each[1] not in kept], len(ids))
    pool = ThreadPoolExecutor(workers or os.cpu_count() or 1)
    try:
        _compare(images, ids, tables, kept, pool, progress)
        batches = [slice(start, min(start + batch, len(ids))) for start in range(0, len(ids), batch)]
        work = [(rows, needy) for rows in batches if (needy := [table for table in tables if table.lacks(rows)])]
        jobs = (
            ([images / image for image in ids[rows]], {table.encoder.geometry for table in needy})
            for rows, needy in work
        )
        decoded = decode_ahead(jobs, pool, skip_bad)
        _fill(ids, tables, work, decoded, where, precision, progress)
    finally:
        pool.shutdown(cancel_futures=True)
        for table in tables:
            table.checkpoint()
    _finish(tables, images)
    return [_result(path, path in kept) for _, path, _ in wanted]


# --- which tables ----------------------------------------------------------------------------------------------------


def _document(
    images: Path, ids: list[str], encoder: ImageEncoder, batch: int, device: torch.device, precision: str
) -> dict[str, Any]:
    return {
        "version": VERSION,
        "table": "features",
        "image_set": Path(os.path.abspath(images)).name,
        "simulated": _is_simulated(images / "simulated.json"),
        "encoder": encoder.row.id,
        "aligned": encoder.row.aligned,
        "twin": encoder.row.twin,
        "dim": encoder.row.dim,
        "weights": encoder.provenance,
        "preprocessing": {
            "geometry": encoder.geometry,
            **asdict(GEOMETRIES[encoder.geometry]),
            # mean and std of each network's input; lists, as JSON gives them back
            "statistics": [[list(part) for part in branch.statistics] for branch in encoder.row.branches],
        },
        "precision": precision,
        "batch": batch,
        "device": device.type,
        "versions": {name: version(name) for name in ("alignvis", "torch", "pillow", "numpy")},
        "images": ids,
        "skipped": [],
    }


def _is_simulated(mark: Path) -> bool:
    if not mark.exists():
        return False
    says = read_json(mark)
    return isinstance(says, dict) and says.get("simulated") is True


def _is_there(path: Path, document: dict[str, Any], skip_bad: bool) -> bool:
    """Whether the table to be made is there already; raise if another one is."""
    if not path.exists():
        return False
    table = load_features(path)
    found, skipped = table.document, table.document.get("skipped")
    if skip_bad and isinstance(skipped, list) and all(isinstance(image, str) for image in skipped):
        found = {**found, "images": sorted(table.images + skipped, key=str.encode), "skipped": []}
    differ = [key for key in document if key not in HOW and found.get(key) != document[key]]
    if differ:
        raise AlignvisError(
            f"{path} is a table of another making (it differs in: {', '.join(differ)}); move it away, or ask to "
            "overwrite it"
        )
    return True


def _open(wanted: list[tuple[ImageEncoder, Path, dict[str, Any]]], count: int) -> list[_Table]:
    tables: list[_Table] = []
    try:
        for encoder, path, document in wanted:
            maps = begin(path, _layout(count, document["dim"]), document)
            tables.append(_Table(encoder, path, document, maps["embeddings"], maps["images.sha256"]))
    except AlignvisError:
        # The disk is full; room that holds no work yet is given back.
        for table in tables:
            if not table.digests.any():
                discard(table.path)
        raise
    return tables


def _layout(count: int, dim: int) -> dict[str, tuple[str, tuple[int, ...]]]:
    return {"embeddings": ("<f4", (count, dim)), "images.sha256": ("|u1", (count, 32))}


def _compare(
    images: Path, ids: list[str], tables: list[_Table], kept: list[Path], pool: ThreadPoolExecutor, progress: Progress
) -> None:
    """Compare the pictures behind every finished row with what they were."""
    claims = [(table.path, ids, table.digests) for table in tables]
    for path in kept:
        document, arrays = read_table(path, "features", {"images.sha256": ("U8", 2)})
        claims.append((path, document["images"], arrays["images.sha256"]))
    for path, names, digests in claims:
        if digests.shape != (len(names), 32):
            raise AlignvisError(f"{path} does not have one digest per picture; move it away, or ask to overwrite it")
    done = sorted({names[row] for _, names, digests in claims for row in np.flatnonzero(digests.any(axis=1))})
    parts = [done[start : start + PART] for start in range(0, len(done), PART)]
    now: dict[str, bytes] = {}
    for part, digests in zip(
        parts, pool.map(lambda part: [_digest(images / image) for image in part], parts), strict=True
    ):
        now.update(zip(part, digests, strict=True))
        progress(len(now), len(done), f"checking the pictures of {images.name}")
    for path, names, digests in claims:
        current = np.frombuffer(b"".join(now.get(image, bytes(32)) for image in names), np.uint8).reshape(-1, 32)
        changed = np.flatnonzero(digests.any(axis=1) & (digests != current).any(axis=1))
        if len(changed) and path in kept:
            raise AlignvisError(
                f"{len(changed)} pictures of {images} are not what they were when {path} was made (the first is "
                f"{names[changed[0]]!r}); restore them, or ask to overwrite the table"
            )
        if len(changed):
            digests[changed] = 0
            digests.flush()


def _digest(path: Path) -> bytes:
    try:
        return sha256(read(path)).digest()
    except AlignvisError:
        return bytes(32)  # not what it was; the pass reads it again and says why


# --- the pass --------------------------------------------------------------------------------------------------------


def _fill(
    ids: list[str],
    tables: list[_Table],
    work: list[tuple[slice, list[_Table]]],
    decoded: Iterator[tuple[Pixels, NDArray[np.uint8]]],
    device: torch.device,
    precision: str,
    progress: Progress,
) -> None:
    """Embed each batch for the tables that lack rows of it."""
    for table in tables:
        table.encoder.to(device).eval()
    done = len(ids) - sum(rows.stop - rows.start for rows, _ in work)
    saved = time.monotonic()
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")
    # Convolutions on CUDA use TF32 unless told otherwise, and may differ from call to call.
    exact = torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=precision == "bf16")
    with torch.inference_mode(), autocast, exact:
        for (rows, needy), (pixels, digests) in zip(work, decoded, strict=True):
            inputs = {name: _to_unit(array, device) for name, array in pixels.items()}
            for table in needy:
                table.embeddings[rows] = _embed(table.encoder, inputs, ids[rows])
                table.waiting.append((rows, digests))
            if time.monotonic() - saved > CHECKPOINT:
                for table in tables:
                    table.checkpoint()
                saved = time.monotonic()
            done += rows.stop - rows.start
            progress(done, len(ids), "embedding pictures", ids[rows.stop - 1])


def _to_unit(pixels: NDArray[np.uint8], device: torch.device) -> Tensor:
    """(pictures, rows, columns, 3) uint8 to (pictures, 3, rows, columns) float32 in [0, 1]."""
    return torch.from_numpy(pixels).to(device).permute(0, 3, 1, 2).contiguous().float() / 255


def _embed(encoder: ImageEncoder, inputs: dict[str, Tensor], ids: list[str]) -> NDArray[np.float32]:
    try:
        embeddings = encoder(inputs[encoder.geometry]).float().cpu().numpy()
    except torch.OutOfMemoryError as error:
        raise AlignvisError(
            f"{encoder.row.id} ran out of memory on {len(ids)} pictures at a time; choose a smaller batch"
        ) from error
    assert embeddings.shape == (len(ids), encoder.row.dim), "the catalogue states another size than the encoder yields"
    broken = np.flatnonzero(~np.isfinite(embeddings).all(axis=1))
    if len(broken):
        raise AlignvisError(
            f"{encoder.row.id} yields numbers that are not finite for {ids[broken[0]]!r}; its weights are damaged, or "
            "bf16 does not suit it: fetch the weights again, or use fp32"
        )
    return embeddings


# --- the end ---------------------------------------------------------------------------------------------------------


def _finish(tables: list[_Table], images: Path) -> None:
    """Give the filled tables their names; without the rows of pictures that could not be read."""
    if not all(table.digests.any() for table in tables):
        for table in tables:
            discard(table.path)
        raise AlignvisError(
            f"none of the pictures in {images} can be read, so there is nothing to embed; check the folder"
        )
    for table in tables:
        good = table.digests.any(axis=1)
        if good.all():
            commit(table.path)
        else:
            _commit_good(table, good)


def _commit_good(table: _Table, good: NDArray[np.bool_]) -> None:
    ids = table.document["images"]
    kept, skipped = ([ids[row] for row in np.flatnonzero(rows)] for rows in (good, ~good))
    short = table.path.with_name(table.path.name + ".good")
    maps = begin(
        short, _layout(len(kept), table.document["dim"]), {**table.document, "images": kept, "skipped": skipped}
    )
    for rows in np.array_split(np.arange(len(kept)), -(-len(kept) // 4096)):  # a part at a time bounds memory
        source = np.flatnonzero(good)[rows]
        maps["embeddings"][rows], maps["images.sha256"][rows] = table.embeddings[source], table.digests[source]
    for tensor in maps.values():
        tensor.flush()
    commit(short)
    os.replace(short, table.path)
    discard(table.path)


def _result(path: Path, kept: bool) -> dict[str, Any]:
    document = read_document(path, "features")
    return {
        "encoder": document["encoder"],
        "table": str(path),
        "images": len(document["images"]),
        "dim": document["dim"],
        "kept": kept,
        "skipped": document["skipped"],
    }
