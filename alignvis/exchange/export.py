"""Tables as plain .npy files, for people who leave: nothing of this package is needed to read them."""

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alignvis import store
from alignvis.errors import AlignvisError
from alignvis.progress import Progress, silent

CHUNK = 2**22  # bytes copied in one go
INFO = "info.json"
LAYOUTS = ("npy", "alignvis")
SESSIONS = ("train.session", "test.session")


@dataclass(frozen=True)
class _Plan:
    """The files of an export: arrays by path below the folder, and the bytes of info.json, if there is to be one."""

    arrays: Mapping[str, NDArray]
    info: bytes | None


def export_table(
    table: Path, out: Path, *, layout: str, overwrite: bool = False, progress: Progress = silent
) -> dict[str, Any]:
    """Write a table for other programs.

    Args:
        table: a features or responses table.
        out: a folder, made if need be. Other files in it are left alone.
        layout: "alignvis": of features, ``<image's folder>/<picture>_<encoder>.npy``, one vector (dim,) float32 each.
            "npy": of features, ``embeddings.npy`` (images, dim) and the same of every other vector; of responses,
            ``train.npy`` and ``test.npy`` (images, repetitions, channels, times), ``train.session.npy`` and
            ``test.session.npy`` (images, repetitions); and ``info.json`` with all that the header says: image ids in
            the order of the rows, channels, times in seconds.
        overwrite: replace files of these names that are something else.
        progress: counts files, or bytes of large ones.

    Returns:
        "out", "layout", "table" ("features" or "responses"), "files" (how many it is), "bytes", "kept" (whether all
        were there already).

    Raises:
        AlignvisError: when the table is damaged or of another kind, when an image id would lead out of the folder, when
            other files are in the way, or when the disk is full. Nothing is left behind then.
    """
    table, out = Path(table), Path(out)
    if layout not in LAYOUTS:
        raise AlignvisError(f"{layout!r} is no layout to export to; there are: {', '.join(LAYOUTS)}")
    document = store.read_document(table)
    kind = document.get("table")
    if layout == "alignvis" and kind != "features":
        raise AlignvisError(f"{table} is a {kind!r} table, and AlignVis keeps only features as trees; choose npy")
    plan = _tree(table) if layout == "alignvis" else _arrays(table, document)
    there = [name for name in plan.arrays if os.path.lexists(out / name)]
    there += [INFO] if plan.info is not None and os.path.lexists(out / INFO) else []
    other = next((name for name in there if not _same(out / name, name, plan)), None)
    if other is not None and not overwrite:
        raise AlignvisError(
            f"{out / other} is there and is not of this table; name another folder, or replace it with --overwrite"
        )
    count = len(plan.arrays) + (plan.info is not None)
    kept = other is None and len(there) == count
    if not kept:
        _put(out, plan, set() if other is not None else set(there), progress)
    size = sum((out / name).stat().st_size for name in plan.arrays)
    return {"out": str(out), "layout": layout, "table": kind, "files": count, "bytes": size, "kept": kept}


# --- what is written -------------------------------------------------------------------------------------------------


def _tree(table: Path) -> _Plan:
    features = store.load_features(table)
    encoder = features.document["encoder"]
    if "gallery" in features.document:
        raise AlignvisError(f"{table} holds {features.document['gallery']}, which are of no picture; choose npy")
    arrays: dict[str, NDArray] = {}
    for image, embedding in zip(features.images, features.embeddings, strict=True):
        name = f"{image.removesuffix(PurePosixPath(image).suffix)}_{encoder}.npy"
        _check_place(table, image, encoder)
        if name in arrays:
            raise AlignvisError(
                f"{table} has two images that differ in the suffix alone ({image} is one), and a file can stand for one"
            )
        arrays[name] = embedding
    return _Plan(arrays, None)


def _arrays(table: Path, document: Mapping[str, Any]) -> _Plan:
    kind = document.get("table")
    info = {key: value for key, value in document.items() if key != "version"}
    if kind == "features":
        store.load_features(table)  # which checks it
        _, found = store.read_table(table, "features", {})
        wanted = store.vectors(found)
    elif kind == "responses":
        responses = store.load_responses(table)
        _, found = store.read_table(table, "responses", {})
        wanted = ["train", "test", *SESSIONS]
        sfreq, tmin = document.get("sfreq"), document.get("tmin")
        if isinstance(sfreq, int | float) and isinstance(tmin, int | float) and sfreq > 0:
            info.setdefault("times", [tmin + sample / sfreq for sample in range(responses.train.shape[3])])
    else:
        raise AlignvisError(f"{table} is a {kind!r} table; features and responses are exported")
    for name in wanted:
        _check_place(table, name, name)
    arrays = {f"{name}.npy": found[name] for name in wanted}
    described = {
        name: {"shape": list(array.shape), "dtype": array.dtype.name, "axes": _axes(name)}
        for name, array in arrays.items()
    }
    return _Plan(arrays, _json(table, {"files": described, **info}))


def _json(table: Path, info: Mapping[str, Any]) -> bytes:
    try:
        return (json.dumps(info, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()
    except ValueError as error:  # not a number, or half a character
        raise AlignvisError(f"{table} has a header that JSON cannot hold ({error}); make it again") from error


def _axes(name: str) -> list[str]:
    if name.removesuffix(".npy") in SESSIONS:
        return ["image", "repetition"]
    return ["image", "repetition", "channel", "time"] if name in ("train.npy", "test.npy") else ["image", "dim"]


def _check_place(table: Path, path: str, name: str) -> None:
    """Refuse a path or a name whose file would not lie in the folder, under the name that it should have."""
    parts = path.split("/")
    forbidden = {"\\", "\0", *(letter for letter in path + name if "\ud800" <= letter <= "\udfff")}
    if {"", ".", ".."} & set(parts) or forbidden & set(path + name) or ":" in parts[0] or "/" in name or not name:
        raise AlignvisError(
            f"{table} names {path[:200]!r} and {name[:80]!r}; no file in the folder can have such a name, so it is not "
            "exported"
        )


# --- how -------------------------------------------------------------------------------------------------------------


def _put(out: Path, plan: _Plan, there: set[str], progress: Progress) -> None:
    """Write all files aside, and give them their names when all are whole; what is there already is left alone."""
    made = [each for each in reversed([out, *out.parents]) if not each.exists()]  # folders, the outer ones first
    moved: list[tuple[Path, Path | None]] = []  # what has got its name, and where what it replaces waits
    names = [name for name in plan.arrays if name not in there]
    total = sum(plan.arrays[name].nbytes for name in names)
    done = 0
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out, prefix=".export.") as folder:
            aside = Path(folder)
            try:
                for number, name in enumerate(names):
                    with open(aside / str(number), "wb") as file:
                        for piece in _pieces(plan.arrays[name]):
                            file.write(piece)
                            done += len(piece)
                            progress(min(done, total), total, "writing .npy files")
                if plan.info is not None:
                    (aside / INFO).write_bytes(plan.info)
                    names = [*names, INFO]
                for number, name in enumerate(names):
                    folder_of = (out / name).parent
                    made += [each for each in reversed([folder_of, *folder_of.parents]) if not each.exists()]
                    folder_of.mkdir(parents=True, exist_ok=True)
                    _move(aside / (INFO if name == INFO else str(number)), out / name, aside / f"{number}.old", moved)
            except BaseException:
                for path, old in reversed(moved):
                    path.unlink(missing_ok=True)
                    if old is not None:
                        os.replace(old, path)
                raise
    except BaseException as error:
        for made_here in reversed(made):
            with suppress(OSError):  # others put something there in the meantime
                made_here.rmdir()
        if isinstance(error, OSError):
            raise AlignvisError(
                f"{error.filename or out} could not be written ({error.strerror}); nothing was changed"
            ) from error
        raise


def _move(source: Path, target: Path, old: Path, moved: list[tuple[Path, Path | None]]) -> None:
    replaced = os.path.lexists(target)
    if replaced:
        os.replace(target, old)
    moved.append((target, old if replaced else None))
    os.replace(source, target)


def _pieces(array: NDArray) -> Iterator[bytes]:
    """A .npy file, some bytes at a time."""
    head = BytesIO()
    np.lib.format.write_array_header_1_0(head, np.lib.format.header_data_from_array_1_0(array))
    yield head.getvalue()
    rows = max(1, CHUNK // max(1, array[:1].nbytes))
    for start in range(0, len(array), rows):
        yield array[start : start + rows].tobytes()


def _same(path: Path, name: str, plan: _Plan) -> bool:
    """Tell whether a file holds what would be written in its place."""
    if not path.is_file():
        return False
    if name == INFO:
        return path.read_bytes() == plan.info
    with open(path, "rb") as file:
        return all(file.read(len(piece)) == piece for piece in _pieces(plan.arrays[name])) and not file.read(1)
