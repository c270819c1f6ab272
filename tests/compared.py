"""Runs to compare, whose similarities are written by hand."""

import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from alignvis import files, store
from alignvis.recipe import Recipe
from alignvis.runs import read_record, save_tensors
from alignvis.scoring import describe, evaluate_run
from alignvis.train_runs import train_run
from tests.tables import planted

RECIPE = Recipe(batch=32, epochs=1, rate=3e-3, schedule="cosine", validation="concept")
IMAGES = 24
FAST = {"resamples": 200, "permutations": 199}


def scored_run(root: Path) -> Path:
    """One run that is really trained and scored; the others are written after it."""
    planted(root, concepts=6, tests=IMAGES, times=60)
    train_run(
        root / "responses/tiny/sub-01.safetensors",
        root / "features/tiny/lowlevel.safetensors",
        root / "runs/one",
        encoder="linear",
        recipe=RECIPE,
        recipe_name="test",
    )
    evaluate_run(root / "runs/one")
    return root / "runs/one"


def similarities(places: np.ndarray) -> np.ndarray:
    """(queries, pictures) in which the right picture of each query has the rank asked for."""
    n = len(places)
    found = np.zeros((n, n), np.float32)
    for row, place in enumerate(places):
        others = [column for column in range(n) if column != row]
        found[row, others[: place - 1]] = 1
        found[row, others[place - 1 :]] = -1
    return found


def places_of(seed: int, ease: float = 0.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.minimum(IMAGES, 1 + np.floor(rng.exponential(3 * np.exp(-ease), IMAGES))).astype(int)


def write(
    root: Path,
    template: Path,
    features: str = "human",
    subject: int = 1,
    seed: int = 0,
    places: np.ndarray | None = None,
    *,
    name: str | None = None,
    images: list[str] | None = None,
    scored: bool = True,
    recipe_name: str = "test",
    recipe: Recipe = RECIPE,
    **changes,
) -> Path:
    """A scored run, whose pictures came at these ranks; ``changes`` go into its record and its scores."""
    run = root / "runs" / (name or f"tiny_sub-{subject:02d}_{features}_{changes.get('encoder', 'linear')}_seed-{seed}")
    shutil.copytree(template, run)
    places = places_of(sum(features.encode()) + 100 * subject + 10 * seed) if places is None else places
    record, scores = read_record(run), files.read_json(run / "scores.json")
    aligned = not features.endswith("_noalign")
    twin = f"{features}_noalign" if aligned else features.removesuffix("_noalign")
    about = {"features": features, "subject": subject, "seed": seed, "aligned": aligned, "twin": twin}
    about |= {"trained_on": [subject], **changes}
    record["inputs"]["responses"][0]["fingerprint"] = f"recording-{about['trained_on']}"
    record |= {key: value for key, value in about.items() if key in record}
    record["recipe"] = {"name": recipe_name, **asdict(recipe)}
    ids = images or store.read_document(run / "similarity.safetensors")["queries"]
    matrix, path = torch.from_numpy(similarities(places)), run / "similarity.safetensors"
    save_tensors({"similarity": matrix}, path, {"table": "similarity", "queries": ids, "gallery": ids})
    scores |= describe(matrix, ids) | {
        "n": len(places),
        "gallery": len(places),
        "queries_fingerprint": f"queries-{subject}",
    }
    scores |= {"similarity_sha256": store.fingerprint(path), "recipe": recipe_name, **about}
    files.write_json(run / "record.json", record)
    (run / "scores.json").unlink()
    if scored:
        files.write_json(run / "scores.json", scores)
    return run


def study(root: Path, template: Path, subjects: int = 3, seeds: int = 2) -> dict[tuple[str, int, int], np.ndarray]:
    """A human-aligned encoder and its twin; returns the ranks, by features, subject and seed."""
    made = {}
    for features, ease in (("human", 0.8), ("human_noalign", 0.0)):
        for subject in range(1, subjects + 1):
            for seed in range(seeds):
                places = places_of(100 * subject + 10 * seed + aligned(features), ease)
                made[features, subject, seed] = places
                write(root, template, features, subject, seed, places)
    return made


def aligned(features: str) -> bool:
    return not features.endswith("_noalign")


def broken_run(run: Path, how: str) -> None:
    path = run / "similarity.safetensors"
    if how == "truncated":
        path.write_bytes(path.read_bytes()[:-50])
    elif how == "gone":
        path.unlink()
    elif how == "another":
        shutil.copy(path.parent.parent / "tiny_sub-02_human_linear_seed-0" / path.name, path)
    elif how == "not finite":
        document = store.read_document(path)
        save_tensors({"similarity": torch.full((IMAGES, IMAGES), torch.nan)}, path, document)
        scores = files.read_json(run / "scores.json") | {"similarity_sha256": store.fingerprint(path)}
        files.write_json(run / "scores.json", scores)
    elif how == "top1":
        files.write_json(run / "scores.json", files.read_json(run / "scores.json") | {"top1": 0.987})
    elif how == "trained again":
        record = files.read_json(run / "record.json") | {"weights_sha256": "0" * 64}
        files.write_json(run / "record.json", record)
    elif how == "weights":
        (run / "weights.safetensors").write_bytes(b"other weights")
    elif how == "record":
        (run / "record.json").write_text("{")
