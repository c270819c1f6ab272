"""The nearest pictures to brain recordings, in a gallery of any size."""

import json
import os
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor

from alignvis import files, store
from alignvis.asking import Asked, ask, check_alike
from alignvis.averaging import average
from alignvis.errors import AlignvisError
from alignvis.intervals import within
from alignvis.processes import processes, rank
from alignvis.progress import Progress, silent
from alignvis.retrieval import TOP
from alignvis.runs import named_run, save_tensors
from alignvis.searching.best import Best
from alignvis.searching.nearest import Queries, exact, prepare_queries
from alignvis.searching.parts import WAIT, Search, holding, joined, search_parts
from alignvis.searching.shards import Table, find_tables, names_at, open_tables, vectors_at
from alignvis.stats import wilson
from alignvis.store import Responses

LARGEST = 20_000_000  # pictures in all lists together, which are kept in memory
SEARCH = {
    "search": str,
    "n": int,
    "gallery": int,
    "k": int,
    "found": int,
    "simulated": bool,
    "others_seen_in_training": int,
    "tables": [{"path": str, "fingerprint": str}],
}


def search_gallery(
    root: Path,
    run: Path,
    galleries: Sequence[str | Path],
    *,
    k: int = 10,
    responses: Path | None = None,
    part: str = "test",
    out: Path | None = None,
    overwrite: bool = False,
    device: str = "cpu",
    say: Callable[[str], None] = lambda text: None,
    progress: Progress = silent,
) -> tuple[Path, dict[str, Any]] | None:
    """Find the pictures of a gallery that are most similar to each brain response.

    Several processes, on one machine or on many that share the folder, may be asked for the same: each part of the
    gallery is searched by the process that takes it first. The process of rank 0 waits for the others, does what they
    leave undone, and writes the result, which is the same to the byte however many there were.

    Args:
        run: a run's folder, its name in ``root/runs``, or a part that only one name has.
        galleries: features tables, folders of them, or patterns; any number of rows.
        k: pictures to list for each response.
        responses: a table of responses recorded as those that the run learned from; none means the run's own.
        part: "test" or "train", of that table.
        out: folder for the result; none means ``root/results/search_<run>``.

    Returns:
        The result's folder and what `read_search` reads from it; from a process of another rank than 0, nothing.

    Raises:
        AlignvisError: when the run or a table is not whole, or they do not belong together; when a vector is not
            finite; when the folder holds another search.
    """
    run = named_run(root, run)
    out = out or root / "results" / f"search_{run.resolve().name}"
    if overwrite and processes() > 1:
        raise AlignvisError(f"several processes cannot tell what to overwrite; remove {out}, then search again")
    if k < 1:
        raise AlignvisError(f"the {k} nearest pictures are none; ask for 1 or more")
    paths = find_tables(galleries)
    asked = ask(run, device=device)
    table = asked.responses
    if responses is not None:
        table = store.load_responses(responses)
        check_alike(table, asked.run, asked.record, asked.recipe)
    images = getattr(table, f"{part}_images")
    learned = sorted(_seen(asked).difference(images))
    gallery = open_tables(paths, asked.features, asked.recipe.target, asked.recipe.sides, images + learned, progress)
    own, others = gallery.places[: len(images)], gallery.places[len(images) :]
    tables, left_out = gallery.tables, gallery.left_out
    identity = {
        "weights": asked.record["weights_sha256"],
        "queries": [store.fingerprint(table.path), part, asked.device.type],
        "tables": [[os.path.relpath(one.path, out), *one.stamp, one.shard.rows] for one in tables],
        "k": k,
    }
    digest = sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    if os.path.lexists(out) and not overwrite:
        if rank():
            return None
        found = read_search(out)[0]
        if found["search"] != digest:
            raise AlignvisError(
                f"{out} holds another search (other responses, galleries or k, or tables that have changed since); "
                "choose another --out, or replace it with --overwrite"
            )
        say(f"{out} is there already and was kept")
        return out, found
    size = sum(one.shard.rows for one in tables)
    if len(images) * min(k, size) > LARGEST:
        raise AlignvisError(
            f"{len(images)} responses x {min(k, size)} pictures are more than {LARGEST:,} in all lists together; "
            f"choose -k {LARGEST // len(images)} or less"
        )
    work = files.partial_name(out)
    folder = work / digest[:16]
    folder.mkdir(parents=True, exist_ok=True)
    vectors = _brain(asked, table, part, folder, progress)
    linear = asked.decoder.image if asked.recipe.projector else None
    projector = (linear.weight, linear.bias) if linear is not None else None
    queries = prepare_queries(vectors, asked.recipe.sides, asked.recipe.centre, projector)
    right = _right(queries, tables, own)
    search = Search(queries, images, tables, right, left_out, min(k, size - len(left_out)), folder)
    about = {"version": store.VERSION, "search": digest} | _about(asked, table, part, out)
    about["others_seen_in_training"] = int((others >= 0).sum())
    try:
        search_parts(search, say, progress)
        if not rank():
            _write(search, joined(search), about, out, overwrite, say)
    except (AlignvisError, OSError):
        if rank():  # the first process meets it too, and tells
            return None
        if overwrite or not _done(out, digest):
            raise
        say(f"{out} was written by another process that was asked for the same")
    if rank():
        if out.exists():  # this process came when all was over
            shutil.rmtree(work, ignore_errors=True)
        return None
    shutil.rmtree(work, ignore_errors=True)
    return out, read_search(out)[0]


def _done(out: Path, digest: str) -> bool:
    """Whether a result is there, whole and of this search."""
    with suppress(AlignvisError, OSError):
        return read_search(out)[0]["search"] == digest
    return False


def _brain(asked: Asked, table: Responses, part: str, folder: Path, progress: Progress) -> Tensor:
    """Brain vectors, (queries, shared): computed by one process, by one thread, and read by the others."""
    path, lock = folder / "queries.safetensors", folder / "queries.lock"
    while not path.exists():
        with suppress(files.Busy), holding(lock):
            if not path.exists():
                threads = torch.get_num_threads()
                torch.set_num_threads(1)  # how many there are would show in the last bits
                try:
                    options = {"device": asked.device, "progress": progress}
                    treated = average(table, part, asked.recipe, lambda responses: responses, **options)
                    vectors = asked.brain(treated.cpu()).cpu()
                finally:
                    torch.set_num_threads(threads)
                save_tensors({"vectors": vectors}, path, {"table": "queries"})
        if not path.exists():
            time.sleep(WAIT)
    return load_file(path)["vectors"]


def _right(queries: Queries, tables: list[Table], places: NDArray[np.int64]) -> NDArray[np.float32]:
    """Similarity of each query's own picture; +inf where it is not in the gallery."""
    right = np.full(len(places), np.inf, np.float32)
    there = np.flatnonzero(places >= 0)
    for start in range(0, len(there), 4096):
        some = there[start : start + 4096]
        vectors = torch.from_numpy(vectors_at(tables, places[some].tolist()))
        right[some] = exact(queries, vectors, some, np.arange(len(some)))
    return right


def _seen(asked: Asked) -> set[str]:
    """The pictures that a run has seen in training, or that ended it."""
    return {*asked.record["split"]["train"], *asked.record["split"]["validation"]}


def _about(asked: Asked, table: Responses, part: str, out: Path) -> dict[str, Any]:
    """What the queries are, and by what they were asked."""
    keys = ("dataset", "encoder", "features", "aligned", "twin", "seed", "protocol", "trained_on", "weights_sha256")
    seen, images = _seen(asked), getattr(table, f"{part}_images")
    about = {"run": os.path.relpath(asked.run, out)} | {key: asked.record[key] for key in keys}
    return about | {
        "subject": table.document["subject"],
        "recipe": asked.record["recipe"]["name"],
        "target": asked.recipe.target,
        "sides": asked.recipe.sides,
        "centre": asked.recipe.centre,
        "simulated": bool(asked.record["simulated"] or table.document.get("simulated")),
        "responses": {"path": os.path.relpath(table.path, out), "fingerprint": store.fingerprint(table.path)},
        "part": part,
        "repetitions": getattr(table, part).shape[1],
        "n": len(images),
        "seen_in_training": sum(image in seen for image in images),
        "device": asked.device.type,
    }


def _write(
    search: Search,
    best: Best,
    about: dict[str, Any],
    out: Path,
    overwrite: bool,
    say: Callable[[str], None],
) -> None:
    """Write the result's folder, whole or not at all."""
    begun = time.perf_counter()
    prints = [store.fingerprint(table.path) for table in search.tables]
    if any(files.stamp(table.path) != table.stamp for table in search.tables):
        raise AlignvisError(
            f"a table of the gallery has changed during the search; {out} was not written: search again"
        )
    size = sum(table.stamp[1] for table in search.tables)
    if size > 1e9:
        say(f"fingerprints of {size / 1e9:,.1f} GB of gallery took {time.perf_counter() - begun:.1f} s")
    listed = np.unique(best.rows)
    names = names_at(search.tables, listed)
    there = np.isfinite(search.right)
    places = np.where(there, best.above + best.equal, 0)
    about |= {
        "k": search.k,
        "gallery": search.size,
        "galleries": search.tables[0].about.get("gallery") or "pictures",
        "repeated": len(search.left_out),
        "tables": [
            {"path": os.path.relpath(table.path, out), "fingerprint": digest, "rows": table.shard.rows}
            for table, digest in zip(search.tables, prints, strict=True)
        ],
        "simulated": about["simulated"] or any(table.about.get("simulated") is True for table in search.tables),
        **_scores(places[there], best.equal[there], search),
        "tied_at_end": int((best.tied > 0).sum()),
        "equal_in_list": int((best.scores[:, 1:] == best.scores[:, :-1]).sum()),
        "identical_in_list": _identical(search, best),
    }
    tensors = {
        "similarity": best.scores,
        "image": np.searchsorted(listed, best.rows),
        "row": best.rows,
        "rank": places,
        "tied": best.tied,
    }
    partial = search.folder / f"result-{uuid4().hex}"  # of this process alone, should others write the same
    document = {"table": "search", "queries": search.images, "images": names}
    save_tensors(
        {key: torch.from_numpy(value) for key, value in tensors.items()}, partial / "nearest.safetensors", document
    )
    about["nearest_sha256"] = store.fingerprint(partial / "nearest.safetensors")
    files.write_json(partial / "search.json", about)
    if overwrite and os.path.lexists(out):
        old = search.folder / "old"
        shutil.rmtree(old, ignore_errors=True)
        os.rename(out, old)
    os.rename(partial, out)


def _scores(places: NDArray[np.int64], equal: NDArray[np.int64], search: Search) -> dict[str, Any]:
    """Retrieval scores of the queries whose own picture is in the gallery; ties count against the query."""
    n = len(places)
    scores: dict[str, Any] = {"found": n, "others": search.size - n}
    if n:
        for top in TOP:
            share = float((places <= top).mean())
            scores |= {f"top{top}": share, f"top{top}_interval": list(wilson(share, n))}
            scores[f"top{top}_chance"] = min(top, search.size) / search.size
        scores |= {"median_rank": float(np.median(places)), "median_rank_chance": (search.size + 1) / 2}
        (scores["median_rank_interval"],) = within(places.tolist(), search.size, ["median_rank"])
        scores["ties"] = int((equal > 1).sum())
    return scores


def _identical(search: Search, best: Best) -> int:
    """Count the pictures in lists whose vector is, to the bit, that of one before them in the same list."""
    same = best.scores[:, 1:] == best.scores[:, :-1]
    count = 0
    for query in np.flatnonzero(same.any(axis=1)).tolist():
        equal = np.zeros(best.k, bool)
        equal[1:] |= same[query]
        equal[:-1] |= same[query]
        vectors = vectors_at(search.tables, best.rows[query][equal].tolist())
        count += len(vectors) - len(np.unique(vectors, axis=0))
    return count


def read_search(out: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read a result.

    Returns:
        What ``search.json`` says, and a dict of "queries" (image ids), "images" (ids that the lists name), and arrays:
        "similarity" (queries, k) float32, "image" (queries, k) int64 places in "images", "row" (queries, k) int64 rows
        of the gallery, "rank" (queries,) int64 of the right picture, 0 where it is not in the gallery, and "tied"
        (queries,) int64 pictures beyond the list that are exactly as similar as its last one.

    Raises:
        AlignvisError: when it is not whole.
    """
    about = files.read_json(out / "search.json")
    wrong = [key for key, pattern in SEARCH.items() if not files.fits(about, {key: pattern})]
    path = out / "nearest.safetensors"
    if wrong:
        raise AlignvisError(f"{out / 'search.json'} does not state {', '.join(wrong)} as it should; search again")
    layout = {"similarity": ("F32", 2), "image": ("I64", 2), "row": ("I64", 2), "rank": ("I64", 1), "tied": ("I64", 1)}
    document, arrays = store.read_table(path, "search", layout)
    if store.fingerprint(path) != about.get("nearest_sha256"):
        raise AlignvisError(f"{path} is not the one that {out / 'search.json'} was written with; search again")
    named = {key: document.get(key) for key in ("queries", "images")}
    return about, named | {name: np.asarray(arrays[name]) for name in layout}
