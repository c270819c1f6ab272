"""What is here, is it whole, does it fit together."""

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from alignvis import store
from alignvis.averaging import average
from alignvis.contents import Row, is_foreign, look
from alignvis.errors import AlignvisError
from alignvis.finding import fit
from alignvis.recipe import Recipe
from alignvis.runs import all_runs, changed_inputs, load_decoder, read_record, read_scores
from alignvis.scoring import proved_similarity


class _Seen:
    """What has been looked at, so that nothing is read again for every table that it may fit."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.shown: dict[Path, tuple[dict[str, Any], set[str]]] = {}  # document and images of every recording

    @cached_property
    def features(self) -> dict[Path, dict[str, Any]]:
        """The documents of all features tables; what is wrong with one is said where it is looked at."""
        found = {}
        for path in sorted((self.root / "features").glob("*/*.safetensors")):
            with suppress(AlignvisError):
                found[path] = store.read_document(path, "features")
        return found


def check_all(root: Path, paths: Sequence[Path] = ()) -> Iterator[Row]:
    """Look at tables, runs and files from outside one by one: say what each holds, or what is wrong and what to do.

    Args:
        paths: tables, run folders, recordings, files of other projects; none means all tables and runs in ``root``.

    Yields:
        A JSON-able row, whose "whole" says whether the file can be used, and its sentence.

    Raises:
        AlignvisError: when there is nothing to look at.
    """
    found = list(paths) or [
        *sorted((root / "responses").glob("*/*.safetensors")),
        *sorted((root / "features").glob("*/*.safetensors")),
        *all_runs(root),
    ]
    if not found:
        raise AlignvisError(
            f"there are no tables and no runs in {root}; `alignvis prepare` and `alignvis extract` make tables"
        )
    within = [sorted(path.rglob("*.safetensors")) if _is_shelf(path) else [path] for path in found]
    found = [path for paths in within for path in paths]
    seen = _Seen(root)
    for path in found:
        try:
            about, text = _look(path, seen)
            yield {"path": str(path), "whole": True, **about}, f"{path}: {text}"
        except AlignvisError as error:
            yield {"path": str(path), "whole": False, "problem": str(error)}, str(error)


def _look(path: Path, seen: _Seen) -> Row:
    if (path / "record.json").is_file() or path.parent == seen.root / "runs":
        return _run(path)
    if path.suffix == ".safetensors" and not is_foreign(path):
        return _table(path, seen)
    if not path.exists():
        raise AlignvisError(f"there is no file {path}")
    return look(path)


def _is_shelf(path: Path) -> bool:
    """A folder that is no run stands for the tables in it."""
    return path.is_dir() and not (path / "record.json").is_file() and any(path.rglob("*.safetensors"))


def _table(path: Path, seen: _Seen) -> Row:
    kind = store.read_document(path).get("table")
    if kind == "responses":
        return _responses(path, seen)
    if kind == "features":
        return _features(path, seen)
    if kind != "similarity":
        raise AlignvisError(f"{path} calls itself a {kind!r} table; tables are features, responses or similarity")
    return {"table": kind}, f"a {kind} table"


def _responses(path: Path, seen: _Seen) -> Row:
    table = store.load_responses(path)
    for part in ("train", "test"):  # reads and checks every value
        average(table, part, Recipe(normalisation="none"), lambda responses: responses[:, 0, 0])
    images = {*table.train_images, *table.test_images}
    seen.shown[path] = table.document, images
    about = {key: table.document.get(key) for key in ("dataset", "subject", "simulated", "sfreq", "unit")}
    about |= {"table": "responses", "train": list(table.train.shape), "test": list(table.test.shape)}
    parts = ", ".join(
        f"{part} {images} images x {repetitions} repetitions"
        for part, (images, repetitions, *_) in (("train", table.train.shape), ("test", table.test.shape))
    )
    simulated = "SIMULATED " if about["simulated"] else ""
    text = f"{simulated}responses of subject {about['subject']} to {about['dataset']}: {parts}, "
    channels, times = table.train.shape[2:]
    at = f" at {about['sfreq']:g} Hz" if isinstance(about["sfreq"], int | float) else ""
    text += f"{channels} channels x {times} times{at}, {about['unit']}"
    fits, text = _features_for(table.document, images, seen, text)
    return about | {"features": fits}, text


def _features_for(document: dict[str, Any], shown: set[str], seen: _Seen, text: str) -> tuple[list[str], str]:
    """Which features tables have all the images of a recording; if none has, how near the nearest comes."""
    fits = [str(path) for path, about in seen.features.items() if fit(document, shown, about)]
    if fits:
        return fits, f"{text}; fits {', '.join(fits)}"
    lacking = {str(path): len(shown - set(about["images"])) for path, about in seen.features.items()}
    lacking = {path: missing for path, missing in lacking.items() if missing}  # the others are simulated, or this is
    if not lacking:
        return [], f"{text}; there are no features yet: alignvis extract"
    nearest = min(lacking, key=lambda path: lacking[path])
    return [], (
        f"{text}; no features table has all its {len(shown):,} images (the nearest, {nearest}, lacks "
        f"{lacking[nearest]:,}): alignvis extract"
    )


def _features(path: Path, seen: _Seen) -> Row:
    table = store.load_features(path)
    _, arrays = store.read_table(path, "features", {})
    beside = store.vectors(arrays)[1:]
    for name in beside:  # reads and checks every value
        store.check_finite(path, table.images, arrays[name])
    rows, dim = table.embeddings.shape
    identical = len(table.embeddings) - len(np.unique(table.embeddings, axis=0))
    fits = [str(other) for other, (shown, images) in seen.shown.items() if fit(shown, images, table.document)]
    about = {
        "table": "features",
        "encoder": table.document["encoder"],
        "images": rows,
        "dim": dim,
        "identical": identical,
        "beside": beside,
        **{key: table.document.get(key) for key in ("precision", "skipped")},
    }
    text = f"features of {about['encoder']}: {rows} images x {dim}"
    text += f", {identical} of them the same as another" if identical else ""
    text += f"; beside them {_shortened(beside)}" if beside else ""
    text += ", in bfloat16" if table.document.get("precision") == "bf16" else ""
    skipped = table.document.get("skipped")
    text += f", {len(skipped)} broken pictures left out" if isinstance(skipped, list) and skipped else ""
    return about | {"fits": fits}, text + (f"; fits {', '.join(fits)}" if fits else "")


def _shortened(beside: Sequence[str]) -> str:
    """Names like "layer.1.class" and "blur.3.layer.1.class", by what they are of."""
    layers = {match[1] for name in beside if (match := re.search(r"layer\.(\d+)", name))}
    parts = sorted({match[1] for name in beside if (match := re.search(r"layer\.\d+\.(\w+)", name))})
    blurs = list(dict.fromkeys(match[1] for name in beside if (match := re.match(r"blur\.([\d.]*\d)", name))))
    others = [name for name in beside if not name.startswith(("layer.", "blur."))]
    kinds = f" ({', '.join(parts)})" if parts else ""
    words = [f"layers {', '.join(sorted(layers, key=int))}{kinds}"] if layers else []
    return "; ".join([*words, *([f"blurs of {', '.join(blurs)} pixels"] if blurs else []), *others])


def _run(path: Path) -> Row:
    record = read_record(path)
    load_decoder(path, record)
    scored = (path / "scores.json").is_file()
    if scored:
        proved_similarity(path, record, read_scores(path, record))
    about = {"table": "run", "encoder": record["encoder"], "features": record["features"], "scored": scored}
    target = record["recipe"]["target"]  # as `load_decoder` has found it
    about |= {
        "target": target,
        "recipe": record["recipe"]["name"],
        "subject": record["subject"],
        "seed": record["seed"],
    }
    of = f"{target} of " if target != "embeddings" else ""
    text = (
        f"a run of {record['encoder']} on {of}{record['features']}, subject {record['subject']}, seed {record['seed']}"
    )
    changed = [str(table) for table in changed_inputs(path, record)]
    text += ", scored" if scored else "; not scored yet: alignvis eval"
    return about | {"changed": changed}, text + (
        f"; since then {', '.join(changed)} changed: train again" if changed else ""
    )
