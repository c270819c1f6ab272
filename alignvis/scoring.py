"""Which of the test pictures was it? Runs scored by retrieval."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from alignvis import files, store
from alignvis.asking import ask
from alignvis.errors import AlignvisError
from alignvis.progress import Progress, silent
from alignvis.retrieval import ranks, ties, top_k
from alignvis.runs import (
    TOP,
    all_runs,
    changed_inputs,
    read_record,
    read_scores,
    save_tensors,
    stated_path,
    working_on,
)
from alignvis.stats import wilson


def evaluate_run(run: Path, *, device: str = "cpu", progress: Progress = silent) -> dict[str, Any]:
    """Ask of every test response which of the test pictures it was.

    Writes ``scores.json`` and ``similarity.safetensors`` (queries, gallery) into the run's folder.

    Returns:
        The scores: shares in [0, 1] with 95 % Wilson intervals over the test images.

    Raises:
        AlignvisError: when the run is not whole, its tables are gone or have changed since, or a test image was
            trained on.
    """
    run = Path(run)
    read_record(run)  # what is no run is told before it is locked
    with working_on(run):
        return _evaluate(run, device, progress)


def _evaluate(run: Path, device: str, progress: Progress) -> dict[str, Any]:
    asked = ask(run, device=device)
    record, recipe, responses = asked.record, asked.recipe, asked.responses
    similarities = asked.similarities(asked.treated(progress=progress))
    targets = asked.targets
    places = ranks(similarities, targets)
    n, size = similarities.shape
    copied = (
        "dataset",
        "simulated",
        "subject",
        "encoder",
        "features",
        "aligned",
        "twin",
        "seed",
        "protocol",
        "trained_on",
    )
    scores: dict[str, Any] = {key: record[key] for key in (*copied, "weights_sha256")}
    scores |= {"recipe": record["recipe"]["name"], "target": recipe.target, "validation": recipe.validation}
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
    scores["queries_fingerprint"] = store.fingerprint(responses.path)
    ids = {"queries": responses.test_images, "gallery": responses.test_images}
    save_tensors({"similarity": similarities}, run / "similarity.safetensors", {"table": "similarity", **ids})
    scores["similarity_sha256"] = store.fingerprint(run / "similarity.safetensors")
    files.write_json(run / "scores.json", scores)
    return scores


def read_similarity(run: Path, record: dict[str, Any], scores: dict[str, Any]) -> tuple[Tensor, list[str]]:
    """Read the similarities that a run's scores were taken from.

    Returns:
        (queries, gallery) float32, and the ids of the test images, in the order of both: query i is the response to
        picture i.

    Raises:
        AlignvisError: when the file is gone, or is not the one that was scored.
    """
    path, again = run / "similarity.safetensors", f"score it again with: alignvis eval {run} --overwrite"
    if not isinstance(scores.get("similarity_sha256"), str):
        raise AlignvisError(f"the scores in {run} are of an earlier alignvis and name no similarities; {again}")
    if scores["weights_sha256"] != record["weights_sha256"]:
        raise AlignvisError(f"the scores in {run} are of other weights; {again}")
    if not path.is_file():
        raise AlignvisError(f"{path}, which the scores of {run} were taken from, is gone; {again}")
    document, arrays = store.read_table(path, "similarity", {"similarity": ("F32", 2)})
    ids, shape = document["queries"], (scores["n"], scores["gallery"])
    if store.fingerprint(path) != scores["similarity_sha256"] or arrays["similarity"].shape != shape:
        raise AlignvisError(f"{path} is not the file that the scores of {run} were taken from; {again}")
    if ids != document["gallery"] or len(set(ids)) != len(ids) or len(ids) != shape[0] or len(ids) != shape[1]:
        raise AlignvisError(f"{path} does not name one query and one picture a test image; {again}")
    return torch.from_numpy(np.array(arrays["similarity"])), ids


def _raise(error: AlignvisError) -> None:
    raise error


def score_all(
    root: Path,
    runs: Sequence[Path] = (),
    *,
    overwrite: bool = False,
    device: str = "cpu",
    say: Callable[[str], None] = lambda text: None,
    broken: Callable[[AlignvisError], None] = _raise,
    progress: Progress = silent,
) -> list[dict[str, Any]]:
    """Score runs that have no score yet, and read the scores of those that do.

    Args:
        runs: folders of runs, or their names in ``root/runs``; none means all.
        say: told of scores that should not be taken at face value: of tables that have changed since, or of an encoder
            that gives nearly every response the same answer.
        broken: told of each run that cannot be scored; by default the first one ends the call.
    """
    chosen = [run if run.is_dir() or len(run.parts) > 1 else root / "runs" / run for run in runs]
    chosen = list({run.resolve(): run for run in chosen or all_runs(root)}.values())  # none counts twice
    if not chosen:
        raise AlignvisError(f"there are no runs in {root / 'runs'}; make one with: alignvis train --subject 1")
    scores = []
    for done, run in enumerate(chosen, start=1):
        try:
            scores.append({"run": str(run), **_score(run, overwrite, device, say)})
        except AlignvisError as error:
            broken(error)
        progress(done, len(chosen), "scoring runs")
    return scores


def _score(run: Path, overwrite: bool, device: str, say: Callable[[str], None]) -> dict[str, Any]:
    kept = (run / "scores.json").is_file() and not overwrite
    record = read_record(run)
    score = read_scores(run, record) if kept else evaluate_run(run, device=device)
    for table in _changed(run, record, score) if kept else ():
        say(f"note: {table} has changed or gone since {run} was scored; its row is of the earlier table")
    if score["answers"] <= max(1, score["n"] // 20) < score["n"]:
        overfits = len(record["history"]) > 1 and not any(row["best"] for row in record["history"][1:])
        advice = (
            "its held-out loss rose from the second epoch on and only the first was kept: it overfits; more training "
            "images, a lower --rate or a smaller --encoder (eegproject, linear) may help"
            if overfits
            else "it has learned nothing; more steps (--epochs, a smaller --batch) or a higher --rate may help"
        )
        pictures = f"{score['answers']} picture{'s' * (score['answers'] > 1)}"
        say(f"note: {run} named only {pictures} for {score['n']} responses: {advice}")
    return score


def _changed(run: Path, record: dict[str, Any], score: dict[str, Any]) -> list[Path]:
    """Tables that have changed, or gone, since a run was trained and scored."""
    changed, queries = changed_inputs(run, record), stated_path(run, record["inputs"]["queries"])
    known = queries in changed or (queries.is_file() and store.fingerprint(queries) == score["queries_fingerprint"])
    return changed if known else [*changed, queries]
