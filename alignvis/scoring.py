"""Which of the test pictures was it? Runs scored by retrieval."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from alignvis import files, store
from alignvis.asking import Asked, ask, prove
from alignvis.errors import AlignvisError
from alignvis.exchange.galleries import CENTRES
from alignvis.intervals import within
from alignvis.pairs import concept
from alignvis.progress import Progress, silent
from alignvis.repetitions import read_reliably
from alignvis.retrieval import MEASURES, N_WAY, chances, n_way, of_places, ranks, subset_galleries, ties
from alignvis.runs import (
    NUMBER,
    changed_inputs,
    named_runs,
    read_record,
    read_scores,
    save_tensors,
    score_again,
    stated_path,
    working_on,
)
from alignvis.transductive import transductive

SUBSET = 300  # pictures of the small galleries of NSD, as MindEye has them
ONE = (  # what no two runs that stand in one table have in common
    *("dataset", "simulated", "subject", "protocol", "trained_on", "encoder", "features", "target", "recipe", "seed"),
    *("validation", "n", "gallery", "repetitions", "images_sha256", "queries_fingerprint"),
)
COPIED = (
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


def evaluate_run(run: Path, *, device: str = "cpu", progress: Progress = silent) -> dict[str, Any]:
    """Ask of every test response which of the test pictures it was.

    Writes ``scores.json`` and ``similarity.safetensors`` (queries, gallery) into the run's folder.

    Returns:
        The scores: shares in [0, 1], and other measures, with 95 % intervals over the test images.

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
    similarities, reliability = read_reliably(asked, progress=progress)
    n, size = similarities.shape
    scores: dict[str, Any] = {key: record[key] for key in (*COPIED, "weights_sha256")}
    scores |= {"recipe": record["recipe"]["name"], "target": recipe.target, "validation": recipe.validation}
    scores |= {"n": n, "gallery": size, "galleries": "test images", "repetitions": responses.test.shape[1]}
    scores |= {"trials": asked.trials, **describe(similarities, responses.test_images)}
    scores["class_centres"] = _among_centres(asked)
    small = responses.document["dataset"].startswith("nsd") and size > SUBSET
    scores["subset_galleries"] = subset_galleries(similarities, SUBSET) if small else None
    scores |= {"leakage": asked.leakage, "reliability": reliability}
    scores["queries_fingerprint"] = store.fingerprint(responses.path)
    ids = {"queries": responses.test_images, "gallery": responses.test_images}
    save_tensors({"similarity": similarities}, run / "similarity.safetensors", {"table": "similarity", **ids})
    scores["similarity_sha256"] = store.fingerprint(run / "similarity.safetensors")
    files.write_json(run / "scores.json", scores)
    return scores


def describe(similarities: Tensor, ids: Sequence[str]) -> dict[str, Any]:
    """Everything that follows from a matrix of similarities alone.

    Args:
        similarities: (pictures, pictures), query i being the response to picture i.
        ids: of the pictures.

    Returns:
        `retrieval.measures`, each with its "..._chance" and its "..._interval" (`intervals.measure_interval`); "ranks",
        one a query, by sorted id; "images_sha256", which says of which images they are; "ties"; "answers": how many
        pictures were named first; "n_way", by n, and "n_way_interval"; "image_to_brain": measures, intervals and ranks
        of the other direction; "transductive".

    Raises:
        AlignvisError: when a similarity is not finite.
    """
    n, size = similarities.shape
    targets = torch.arange(n)
    places = ranks(similarities, targets)
    found = _measured(places, size)
    found |= {f"{key}_chance": value for key, value in chances(size).items()}
    found |= {"ties": ties(similarities, targets), "answers": similarities.argmax(dim=1).unique().numel()}
    asked = [ways for ways in N_WAY if ways < size]  # of all it is top-1
    found["n_way"] = {str(ways): n_way(places, size, ways) for ways in asked}
    ends = within(places.tolist(), size, [f"{ways}-way" for ways in asked])
    found["n_way_interval"] = dict(zip(map(str, asked), ends, strict=True))
    found["image_to_brain"] = _measured(ranks(similarities.T, targets), n)
    for part in (found, found["image_to_brain"]):
        part["ranks"] = _by_id(part["ranks"], ids)
    found["images_sha256"] = sha256("\n".join(sorted(ids)).encode()).hexdigest()
    return found | {"transductive": transductive(similarities, targets)}


def _measured(places: Tensor, gallery: int) -> dict[str, Any]:
    """Measures, the interval of each, and the ranks that they follow from."""
    listed = places.tolist()
    keys = [f"{measure}_interval" for measure in MEASURES]
    ends = dict(zip(keys, within(listed, gallery, MEASURES), strict=True))
    return of_places(places, gallery) | ends | {"ranks": listed}


def _among_centres(asked: Asked) -> dict[str, Any] | None:
    """Score among centres of the test's concepts, where a table of such lies beside the features learned from."""
    path = asked.features.path.with_name(f"{asked.features.path.stem}-centres.safetensors")
    if not path.is_file() or store.read_document(path, "features").get("gallery") != CENTRES:
        return None
    concepts = [concept(image) for image in asked.images]
    names = list(dict.fromkeys(concepts))
    table = store.load_features(path)
    if asked.recipe.target != "embeddings" or not set(names) <= set(table.images):
        return None
    if table.embeddings.shape[1] != asked.record["shape"]["dim"]:
        raise AlignvisError(
            f"{path} holds centres of {table.embeddings.shape[1]} numbers, and {asked.run} learned embeddings of "
            f"{asked.record['shape']['dim']}; make it again of the same encoder, or move it away"
        )
    gallery = asked.image(torch.from_numpy(table.embeddings[store.rows(table, names, asked.responses.path)]))
    targets = torch.tensor([names.index(name) for name in concepts])
    places = ranks(asked.similarities(asked.treated(), gallery), targets)
    table_of = {"table": os.path.relpath(path, asked.run), "table_sha256": store.fingerprint(path)}
    about = {"gallery": len(names), "ranks": _by_id(places.tolist(), asked.images)}
    return table_of | about | _of_centres(about)


def _of_centres(about: dict[str, Any]) -> dict[str, Any]:
    """What follows from "ranks" among a "gallery" of class centres."""
    found = _measured(torch.tensor(about["ranks"]), about["gallery"])
    return found | {f"{key}_chance": value for key, value in chances(about["gallery"]).items()}


def _by_id(places: Sequence[int], images: Sequence[str]) -> list[int]:
    """Ranks in the order of the sorted ids, which is the same for all subjects that saw the same pictures."""
    return [place for _, place in sorted(zip(images, places, strict=True))]


def read_similarity(run: Path, record: dict[str, Any], scores: dict[str, Any]) -> tuple[Tensor, list[str]]:
    """Read the similarities that a run's scores were taken from.

    Returns:
        (queries, gallery) float32, and the ids of the test images, in the order of both: query i is the response to
        picture i.

    Raises:
        AlignvisError: when the file is gone, or is not the one that was scored.
    """
    path, again = run / "similarity.safetensors", score_again(run)
    if not isinstance(scores.get("similarity_sha256"), str):
        raise AlignvisError(f"the scores in {run} are of an earlier alignvis and name no similarities; {again}")
    if scores["weights_sha256"] != record["weights_sha256"]:
        raise AlignvisError(f"the scores in {run} are of other weights; {again}")
    if not path.is_file():
        raise AlignvisError(f"{path}, which the scores of {run} were taken from, is gone; {again}")
    same = store.fingerprint(path) == scores["similarity_sha256"]
    document, arrays = store.read_table(path, "similarity", {"similarity": ("F32", 2)}) if same else ({}, {})
    shape = (scores["n"], scores["gallery"])
    if not same or arrays["similarity"].shape != shape:
        raise AlignvisError(f"{path} is not the file that the scores of {run} were taken from; {again}")
    ids = document["queries"]
    if ids != document["gallery"] or len(set(ids)) != len(ids) or len(ids) != shape[0] or len(ids) != shape[1]:
        raise AlignvisError(f"{path} does not name one query and one picture a test image; {again}")
    return torch.from_numpy(np.array(arrays["similarity"])), ids


def proved_similarity(run: Path, record: dict[str, Any], scores: dict[str, Any]) -> tuple[Tensor, list[str]]:
    """`read_similarity`, and make sure that each score that follows from the similarities is the one stated.

    Raises:
        AlignvisError: as `read_similarity`, and when a score is another one.
    """
    similarities, ids = read_similarity(run, record, scores)
    try:
        wrong = _not_following(scores, similarities, ids)
    except AlignvisError as error:
        raise AlignvisError(f"{run / 'similarity.safetensors'}: {error}") from error
    if wrong:
        more = f" and {len(wrong) - 4} more" if len(wrong) > 4 else ""
        raise AlignvisError(
            f"the scores in {run} do not follow from its similarities ({', '.join(wrong[:4])}{more}); "
            f"{score_again(run)}"
        )
    return similarities, ids


def _not_following(scores: dict[str, Any], similarities: Tensor, ids: Sequence[str]) -> list[str]:
    """Which scores are not those of these similarities: what is stored is believed no more than what is measured."""
    found = describe(similarities, ids)
    if scores["class_centres"]:
        found["class_centres"] = scores["class_centres"] | _of_centres(scores["class_centres"])
    near = 2 / len(ids)  # scores of the whole batch rest on sums, whose last digit is another on another machine
    within = {"transductive": near, "answers": 2}  # of similarities that are equal another may be named elsewhere
    keys = [key for key in found if key != "ties"]
    return [key for key in keys if not _alike(scores[key], found[key], within.get(key, 1e-6))]


def _alike(one: Any, other: Any, within: float) -> bool:
    if isinstance(other, dict):
        same = isinstance(one, dict) and one.keys() == other.keys()
        return same and all(_alike(one[key], other[key], within) for key in other)
    if isinstance(other, list):
        return (
            isinstance(one, list)
            and len(one) == len(other)
            and all(_alike(*pair, within) for pair in zip(one, other, strict=True))
        )
    if isinstance(other, int | float):
        return files.fits(one, NUMBER) and abs(one - other) <= within
    return one == other


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
        runs: folders, names, patterns or parts of names, as `runs.named_runs` has them; none means all.
        say: told, once they are all read, of scores that should not be taken at face value: of tables that have changed
            since, or of an encoder that gives nearly every response the same answer.
        broken: told of each run that cannot be scored, or is there twice; by default the first one ends the call.
    """
    chosen = list(_chosen(root, runs, broken))
    if not chosen and not runs:
        raise AlignvisError(f"there are no runs in {root / 'runs'}; make one with: alignvis train --subject 1")
    scores, notes, asked = [], _Notes({}, {}), {}
    for done, run in enumerate(chosen, start=1):
        try:
            score = {"run": str(run), **_score(run, overwrite, device, notes)}
            refuse_twice(run, score, asked)
            scores.append(score)
        except AlignvisError as error:
            broken(error)
        progress(done, len(chosen), "scoring runs")
    for sentence in notes.sentences():
        say(sentence)
    return scores


def refuse_twice(run: Path, score: dict[str, Any], asked: dict[tuple[str, ...], Path]) -> None:
    """Raise AlignvisError when one of the runs asked before, which are kept in ``asked``, answers the same question."""
    first = asked.setdefault(tuple(str(score[key]) for key in ONE), run)
    if first is not run:
        raise AlignvisError(
            f"{first} and {run} are of the same subject, seed and recipe, so which one counts is not clear; move one "
            "away, or name the runs that are meant"
        )


def _chosen(root: Path, words: Sequence[Path], broken: Callable[[AlignvisError], None]) -> Iterable[Path]:
    """The runs that words name, each once; a word that names none does not keep the others from being scored."""
    if not words:
        return named_runs(root)
    found: dict[Path, Path] = {}
    for word in words:
        try:
            found |= {run.resolve(): run for run in named_runs(root, [word])}
        except AlignvisError as error:
            broken(error)
    return found.values()


@dataclass(frozen=True)
class _Notes:
    """What is to be told of scores: once, however many runs it is about."""

    changed: dict[Path, list[Path]]  # by the table that changed
    same_answer: dict[bool, list[tuple[Path, dict[str, Any]]]]  # by whether they overfit

    def sentences(self) -> Iterator[str]:
        for table, runs in self.changed.items():
            of = "was scored; its row is" if len(runs) == 1 else "were scored; their rows are"
            yield f"note: {table} has changed or gone since {_named(runs)} {of} of the earlier table"
        for overfits, found in self.same_answer.items():
            runs, found_scores = zip(*found, strict=True)
            its, it = ("their", "they overfit") if len(runs) > 1 else ("its", "it overfits")
            advice = (
                f"{its} held-out loss rose from the second epoch on and only the first was kept: {it}; more training "
                "images, a lower --rate or a smaller --encoder (eegproject, linear) may help"
                if overfits
                else "more steps (--epochs, a smaller --batch) or a higher --rate may help"
            )
            yield f"note: {same_answer(runs, found_scores)}; {advice}"


def gives_same_answer(score: dict[str, Any]) -> bool:
    """Whether nearly all responses were given the same few pictures, so that a score says little."""
    return score["answers"] <= max(1, score["n"] // 20) < score["n"]


def same_answer(runs: Sequence[Path], scores: Sequence[dict[str, Any]]) -> str:
    """Say of runs that `gives_same_answer` what that means."""
    most, n, several = max(score["answers"] for score in scores), max(score["n"] for score in scores), len(runs) > 1
    pictures = f"{'at most' if several else 'only'} {most} picture{'s' * (most > 1)}{' each' * several}"
    they = "they have" if several else "it has"
    return f"{_named(runs)} named {pictures} for {n} responses: from response to picture {they} learned nothing"


def _named(runs: Sequence[Path]) -> str:
    return f"{runs[0]}" + (f" and {len(runs) - 1} more run{'s' * (len(runs) > 2)}" if len(runs) > 1 else "")


def _score(run: Path, overwrite: bool, device: str, notes: _Notes) -> dict[str, Any]:
    kept = (run / "scores.json").is_file() and not overwrite
    record = read_record(run)
    score = read_scores(run, record) if kept else evaluate_run(run, device=device)
    if kept:  # a stored score is believed no more than a new one
        features = stated_path(run, record["inputs"]["features"])
        known = features.is_file() and store.fingerprint(features) == record["inputs"]["features"]["fingerprint"]
        leakage = prove(run, record, proved_similarity(run, record, score)[1], features if known else None)
        other = [key for key, count in leakage.items() if count is not None and score["leakage"].get(key) != count]
        if other:
            raise AlignvisError(
                f"the scores in {run} state another leakage ({', '.join(other)}) than its record shows; "
                f"{score_again(run)}"
            )
    for table in _changed(run, record, score) if kept else ():
        notes.changed.setdefault(table, []).append(run)
    if gives_same_answer(score):
        overfits = len(record["history"]) > 1 and not any(row["best"] for row in record["history"][1:])
        notes.same_answer.setdefault(overfits, []).append((run, score))
    return score


def _changed(run: Path, record: dict[str, Any], score: dict[str, Any]) -> list[Path]:
    """Tables that have changed, or gone, since a run was trained and scored."""
    changed, queries = changed_inputs(run, record), stated_path(run, record["inputs"]["queries"])
    known = queries in changed or (queries.is_file() and store.fingerprint(queries) == score["queries_fingerprint"])
    return changed if known else [*changed, queries]
