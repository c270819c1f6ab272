"""A run on disk: trained once, scored once, each claim in it traceable to its files."""

import json
import os
import platform
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import NoneType
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

import alignvis
from alignvis import files, store
from alignvis.device import choose_device
from alignvis.encoders import build
from alignvis.errors import AlignvisError
from alignvis.pairs import Pairs, average, split
from alignvis.progress import Progress, silent
from alignvis.retrieval import ranks, similarity, ties, top_k
from alignvis.stats import wilson
from alignvis.store import Features, Responses
from alignvis.training import RECIPES, Recipe, fit

TOP = (1, 3, 5)
NUMBER = (int, float)
TABLE = {"path": str, "fingerprint": str}
RECORD = {  # what the record of a run must hold for it to be scored and listed
    **{key: str for key in ("dataset", "encoder", "features", "weights_sha256")},
    **{key: int for key in ("version", "subject", "seed")},
    **{key: bool for key in ("simulated", "aligned")},
    "twin": (str, NoneType),
    "shape": {"channels": int, "times": int, "dim": int},
    "recipe": {"name": str, "normalisation": str, "validation": str},
    "inputs": {"responses": TABLE, "features": TABLE},
    "split": {"train": [str], "validation": [str]},
    "history": [{"epoch": int, "best": bool, "held_out_top1": NUMBER}],
    "seconds": NUMBER,
}
SCORES = {
    **{key: str for key in ("dataset", "encoder", "features", "recipe", "validation", "weights_sha256")},
    **{key: int for key in ("n", "gallery", "repetitions", "subject", "seed", "answers")},
    **{key: bool for key in ("simulated", "aligned")},
    **{key: NUMBER for key in ("median_rank", "median_rank_chance")},
    **{f"top{k}{what}": NUMBER for k in TOP for what in ("", "_chance")},
    **{f"top{k}_interval": [NUMBER] for k in TOP},
}


def run_name(responses: Responses, features: Features, encoder: str, recipe_name: str, seed: int) -> str:
    """The folder of a run, from what tells it apart from others."""
    about = responses.document
    names = {responses.path: about["dataset"], features.path: features.document["encoder"]}
    for path, name in names.items():
        if not re.fullmatch(r"\w[\w.+-]{0,99}", name):
            raise AlignvisError(f"{path} calls itself {name!r}, which cannot be part of a folder's name; make it again")
    subject, image_encoder = f"sub-{about['subject']:02d}", features.document["encoder"]
    return "_".join([about["dataset"], subject, image_encoder, encoder, recipe_name, f"seed-{seed}"])


def all_runs(root: Path) -> list[Path]:
    """List the whole runs in a root, by name."""
    return sorted(path.parent for path in (root / "runs").glob("*/record.json") if path.parent.suffix != ".partial")


def train_run(
    responses_path: Path,
    features_path: Path,
    out: Path,
    *,
    encoder: str = "nice",
    recipe: Recipe = RECIPES["alignvis"],
    recipe_name: str | None = None,
    seed: int = 0,
    device: str = "cpu",
    overwrite: bool = False,
    report: Callable[[dict[str, Any]], None] = lambda row: None,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Train one brain encoder on one subject's training responses and leave a run folder: whole, or not at all.

    Seeds torch's global generator, since dropout can take no other. The same files, recipe and seed give the same
    bytes on the same CPU with the same number of threads.

    Args:
        responses_path, features_path: the two tables; joined by image id. The test images are not read.
        out: new folder of the run; one that is there is replaced with ``overwrite``, once the new one is whole.
        recipe, recipe_name: what to do, and what it is called in tables: by default its name in `RECIPES`, or "own".
        report: called after each epoch with its row of the history.

    Returns:
        The run's record, as stored in ``record.json``.

    Raises:
        AlignvisError: when the tables do not fit together, there are too few images, or training diverges.
    """
    responses_path, features_path, out = Path(responses_path), Path(features_path), Path(out)
    if out.exists() and not overwrite:
        raise AlignvisError(
            f"{out} exists, and a run never overwrites another unasked; remove it, or ask for --overwrite"
        )
    started, where = time.perf_counter(), choose_device(device)
    recipe_name = recipe_name or next((name for name, known in RECIPES.items() if known == recipe), "own")
    responses, features = store.load_responses(responses_path), store.load_features(features_path)
    order = store.rows(features, responses.train_images, responses.path)
    fitted_rows, held_out_rows = split(responses.train_images, recipe.validation, recipe.share, seed)
    shape = responses.train.shape
    dim = features.embeddings.shape[1]
    network = build(encoder, channels=shape[2], times=shape[3], dim=dim, seed=seed)
    prepared = average(responses, "train", recipe.normalisation, network.prepare, progress)
    pairs = Pairs(prepared, torch.from_numpy(features.embeddings[order])).to(where)
    torch.manual_seed(seed)
    history = fit(network.to(where), pairs[fitted_rows.to(where)], pairs[held_out_rows.to(where)], recipe, seed, report)
    record = {
        "version": store.VERSION,
        "dataset": responses.document["dataset"],
        "simulated": bool(responses.document.get("simulated", False)),
        "subject": responses.document["subject"],
        "encoder": encoder,
        "shape": {"channels": shape[2], "times": shape[3], "dim": dim},
        "features": features.document["encoder"],
        "aligned": features.document["aligned"],
        "twin": features.document["twin"],
        "recipe": {"name": recipe_name, **asdict(recipe)},
        "seed": seed,
        "repetitions": shape[1],
        "inputs": {
            kind: {
                "path": Path(os.path.relpath(table.path, out)).as_posix(),
                "fingerprint": store.fingerprint(table.path),
            }
            for kind, table in (("responses", responses), ("features", features))
        },
        "split": {
            side: [responses.train_images[row] for row in rows.tolist()]
            for side, rows in (("train", fitted_rows), ("validation", held_out_rows))
        },
        "history": history,
        "device": where.type,
        "threads": torch.get_num_threads(),
        "seconds": round(time.perf_counter() - started, 3),
        "versions": {
            "alignvis": alignvis.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
        },
    }
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        _save(network.cpu().state_dict(), partial / "weights.safetensors", {"table": "weights", "encoder": encoder})
        record["weights_sha256"] = store.fingerprint(partial / "weights.safetensors")
        files.write_json(partial / "record.json", record)
        if out.exists():
            shutil.rmtree(out)
        os.rename(partial, out)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return record


def evaluate_run(run: Path, *, device: str = "cpu", progress: Progress = silent) -> dict[str, Any]:
    """Ask of every test response which of the test pictures it was; the only place where test images are read.

    Writes ``scores.json`` and ``similarity.safetensors`` (queries, gallery) into the run's folder.

    Returns:
        The scores: shares in [0, 1] with 95 % Wilson intervals over the test images.

    Raises:
        AlignvisError: when the run is not whole, its tables are gone or have changed since, or a test image was
            trained on.
    """
    run, where = Path(run), choose_device(device)
    record = read_record(run)
    responses = store.load_responses(_input(run, record, "responses"))
    features = store.load_features(_input(run, record, "features"))
    seen = set(record["split"]["train"]) | set(record["split"]["validation"])
    leaked = seen & set(responses.test_images)
    if leaked:
        raise AlignvisError(
            f"{run}: {len(leaked)} test images were used in training (the first is {min(leaked)!r}); "
            "a score on them would not be honest: train again"
        )
    network = load_encoder(run, record)
    gallery = torch.from_numpy(features.embeddings[store.rows(features, responses.test_images, responses.path)])
    queries = average(responses, "test", record["recipe"]["normalisation"], network.prepare, progress)
    network.eval().to(where)
    with torch.inference_mode():
        similarities = similarity(network(queries.to(where)).float(), gallery.to(where)).cpu()
    targets = torch.arange(len(similarities))
    places = ranks(similarities, targets)
    n, size = similarities.shape
    scores: dict[str, Any] = {
        key: record[key]
        for key in ("dataset", "simulated", "subject", "encoder", "features", "aligned", "twin", "seed")
    }
    scores |= {"weights_sha256": record["weights_sha256"]}
    scores |= {"recipe": record["recipe"]["name"], "validation": record["recipe"]["validation"]}
    scores |= {"n": n, "gallery": size, "galleries": "test images", "repetitions": responses.test.shape[1]}
    for k in TOP:
        share = top_k(places, k)
        scores |= {f"top{k}": share, f"top{k}_interval": list(wilson(share, n)), f"top{k}_chance": min(k, size) / size}
    scores |= {
        "median_rank": places.median().item(),
        "median_rank_chance": (size + 1) / 2,
        "ties": ties(similarities, targets),
    }
    scores["answers"] = similarities.argmax(dim=1).unique().numel()  # different pictures named first
    ids = {"queries": responses.test_images, "gallery": responses.test_images}
    _save({"similarity": similarities}, run / "similarity.safetensors", {"table": "similarity", **ids})
    files.write_json(run / "scores.json", scores)
    return scores


def read_record(run: Path) -> dict[str, Any]:
    """Read what a run says of itself; a folder that is not a whole run is refused with a sentence."""
    if not run.is_dir():
        raise AlignvisError(f"there is no run {run}; `alignvis train` makes runs")
    if not (run / "record.json").is_file():
        raise AlignvisError(f"{run} is not a run: it has no record.json; name a folder that `alignvis train` made")
    record = files.read_json(run / "record.json")
    wrong = [key for key, pattern in RECORD.items() if not files.fits(record, {key: pattern})]
    if wrong:
        raise AlignvisError(
            f"{run / 'record.json'} does not state {', '.join(wrong)} as a run's record does; train again"
        )
    if record["version"] > store.VERSION:
        raise AlignvisError(
            f"{run} was written by a newer alignvis (format version {record['version']}); update alignvis"
        )
    return record


def read_scores(run: Path, record: dict[str, Any]) -> dict[str, Any]:
    """Read the scores of a run; what `evaluate_run` did not write for these weights is refused with a sentence."""
    scores = files.read_json(run / "scores.json")
    wrong = [key for key, pattern in SCORES.items() if not files.fits(scores, {key: pattern})]
    if wrong or scores["weights_sha256"] != record["weights_sha256"]:
        what = f"do not state {', '.join(wrong)}" if wrong else "are of other weights"
        raise AlignvisError(f"the scores in {run} {what}; score it again with: alignvis eval --overwrite")
    return scores


def load_encoder(run: Path, record: dict[str, Any]) -> nn.Module:
    """Build a run's brain encoder with its trained weights, on the CPU."""
    path = run / "weights.safetensors"
    try:
        network = build(record["encoder"], **record["shape"])
        network.load_state_dict(load_file(path))
        if store.fingerprint(path) != record["weights_sha256"]:
            raise RuntimeError("the record states other ones")
    except (SafetensorError, OSError, RuntimeError, MemoryError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise AlignvisError(
            f"{path} does not hold the weights of this run's {record['encoder']} ({reason}); train again"
        ) from error
    return network


def changed_inputs(run: Path, record: dict[str, Any]) -> list[Path]:
    """Find the tables that a run was trained on and that have changed, or gone, since."""
    paths = {kind: _path(run, record, kind) for kind in ("responses", "features")}
    return [
        path
        for kind, path in paths.items()
        if not path.is_file() or store.fingerprint(path) != record["inputs"][kind]["fingerprint"]
    ]


def _input(run: Path, record: dict[str, Any], kind: str) -> Path:
    """Find a table that a run was trained on, and make sure that it is still the same."""
    path = _path(run, record, kind)
    store.read_document(path, kind)
    if path in changed_inputs(run, record):
        raise AlignvisError(f"{path} has changed since {run} was trained on it; restore it, or train again")
    return path


def _path(run: Path, record: dict[str, Any], kind: str) -> Path:
    return Path(os.path.normpath(run / record["inputs"][kind]["path"]))


def _save(tensors: dict[str, torch.Tensor], path: Path, document: dict[str, Any]) -> None:
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    with files.whole_file(path) as partial:
        save_file(
            tensors, partial, {"alignvis": json.dumps({"version": store.VERSION, **document}, ensure_ascii=False)}
        )
