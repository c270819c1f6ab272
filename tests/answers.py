"""Scored runs whose answers are written by hand."""

import json
import shutil
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from alignvis import files, store
from alignvis.recipe import Recipe
from alignvis.scoring import evaluate_run
from alignvis.train_runs import train_run
from tests.tables import planted

TESTS = 8


def scored_root(root: Path) -> Path:
    """A root with one scored run, ``runs/one``, on `TESTS` test pictures."""
    planted(root, concepts=12, tests=TESTS, times=60)
    recipe = Recipe(batch=32, epochs=2, rate=3e-3, schedule="cosine", validation="concept")
    responses, features = root / "responses/tiny/sub-01.safetensors", root / "features/tiny/lowlevel.safetensors"
    train_run(responses, features, root / "runs/one", encoder="linear", recipe=recipe, recipe_name="test", seed=3)
    evaluate_run(root / "runs/one")
    return root


def images_of(run: Path) -> list[str]:
    return store.read_document(run / "similarity.safetensors", "similarity")["queries"]


def say(run: Path, similarity: np.ndarray, ids: list[str] | None = None) -> Path:
    """Let a run have answered this: (queries, pictures), in the order of ids."""
    ids = ids or images_of(run)
    document = {"version": 1, "table": "similarity", "queries": ids, "gallery": ids}
    path = run / "similarity.safetensors"
    save_file({"similarity": similarity.astype("f4")}, path, {"alignvis": json.dumps(document)})
    scores = files.read_json(run / "scores.json")
    files.write_json(run / "scores.json", scores | {"similarity_sha256": store.fingerprint(path)})
    return run


def copied(run: Path, to: Path, **changes) -> Path:
    """A copy of a run whose record states something else, and its scores with it."""
    shutil.copytree(run, to)
    files.write_json(to / "record.json", files.read_json(run / "record.json") | changes)
    scores = files.read_json(run / "scores.json")
    same = {key: value for key, value in changes.items() if key in scores and key != "recipe"}  # there it is a name
    files.write_json(to / "scores.json", scores | same)
    return to
