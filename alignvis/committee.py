"""Runs that answer together: members are chosen by how they do on held-out training images, never on the test.

A committee's similarities are the mean of its members', each row brought to mean 0 and standard deviation 1 first, so
that no member counts more because its similarities spread more. Runs that differ in nothing but their seed are averaged
without a choice; which kinds of run (brain encoder, features, target, recipe) take part is a choice.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from alignvis import files, store
from alignvis.averaging import average
from alignvis.device import choose_device
from alignvis.errors import AlignvisError
from alignvis.progress import Progress, silent
from alignvis.retrieval import ranks, similarity
from alignvis.runs import load_decoder, read_recipe, read_record, read_scores, save_tensors, stated_path, working_on
from alignvis.scoring import describe, read_similarity

VERSION = 1
LARGEST = 1000  # held-out images that a choice is made on; of more, evenly spaced ones in the order of their ids
CHUNK = 256  # responses a step of the decoder
KIND = ("encoder", "features", "target", "recipe")
GROUP = ("dataset", "simulated", "subject", "protocol", "trained_on", "n", "gallery", "repetitions", "images_sha256")


@dataclass(frozen=True)
class Candidate:
    """One kind of run, in all its seeds.

    Attributes:
        runs: folder of each seed.
        held_out: of each seed, (subjects, images, images) row-standardised similarities of held-out training images.
    """

    kind: tuple[str, ...]
    runs: dict[int, Path]
    scores: dict[int, dict[str, Any]]
    records: dict[int, dict[str, Any]]
    held_out: dict[int, Tensor]


def standardise(similarities: Tensor) -> Tensor:
    """Bring each row, the last axis, to mean 0 and SD 1, float64; a row of equal numbers becomes 0 and says nothing.

    Source: Montague and Aslam (2001), doi:10.1145/502585.502657, who bring the scores of each query to zero mean and
        unit variance before they are added.
    """
    values = similarities.double()
    centred = values - values.mean(dim=-1, keepdim=True)
    spread = centred.square().mean(dim=-1, keepdim=True).sqrt()
    alike = spread <= 1e-12 * values.abs().amax(dim=-1, keepdim=True)
    return torch.where(alike, 0.0, centred / torch.where(alike, 1.0, spread))


def combine(members: Sequence[Tensor]) -> Tensor:
    """Mean of row-standardised similarities, each (..., queries, pictures) over the same queries and pictures."""
    return torch.stack([standardise(one) for one in members]).mean(dim=0)


def choose(held_out: Sequence[Sequence[Tensor]]) -> tuple[list[int], list[float]]:
    """Take the best candidate, then whichever adds most, as long as one adds anything.

    Args:
        held_out: of each candidate, its standardised similarities on the held-out images of each seed, (subjects,
            images, images); those of one seed are of the same images for all candidates.

    Returns:
        Places of the members in the order they were taken, and the mean reciprocal rank of the committee with each.
        Of candidates that are equally good the first is taken.
    """
    members: list[int] = []
    reached: list[float] = []
    sums = [torch.zeros_like(one) for one in held_out[0]]
    while len(members) < len(held_out):
        found = {
            place: score([total + one for total, one in zip(sums, seeds, strict=True)])
            for place, seeds in enumerate(held_out)
            if place not in members
        }
        best = max(found, key=lambda place: (found[place], -place))
        if reached and found[best] <= reached[-1]:
            break
        members.append(best)
        reached.append(found[best])
        sums = [total + one for total, one in zip(sums, held_out[best], strict=True)]
    return members, reached


def score(seeds: Sequence[Tensor]) -> float:
    """Mean reciprocal rank, over seeds and subjects; image i is the right one of query i."""
    return float(np.mean([_reciprocal(subject) for seed in seeds for subject in seed]))


def _reciprocal(similarities: Tensor) -> float:
    return ranks(similarities, torch.arange(len(similarities))).double().reciprocal().mean().item()


def held_out_similarities(run: Path, *, device: str = "cpu", progress: Progress = silent) -> tuple[Tensor, list[str]]:
    """How similar a run finds the training images that it was not fitted on, as every subject trained on saw them.

    Computed from the training responses, their repetitions averaged, and kept in the run's folder as
    ``validation.safetensors``. The test responses are not read.

    Returns:
        (subjects, images, images) float32, and the image ids: those that training held out, sorted; of more than 1,000
        so many, evenly spaced.

    Raises:
        AlignvisError: when a table that the run was trained on is gone or has changed.
    """
    record, path = read_record(run), run / "validation.safetensors"
    every = sorted(record["split"]["validation"])
    ids = [every[row] for row in np.linspace(0, len(every) - 1, min(LARGEST, len(every))).round().astype(int)]
    inputs = [table["fingerprint"] for table in (*record["inputs"]["responses"], record["inputs"]["features"])]
    about = {"table": "validation", "weights_sha256": record["weights_sha256"], "inputs": inputs, "queries": ids}
    shape = (len(record["inputs"]["responses"]), len(ids), len(ids))
    with suppress(AlignvisError):  # what cannot be read is made again
        document, arrays = store.read_table(path, "validation", {"similarity": ("F32", 3)})
        kept = arrays["similarity"]
        if {key: document.get(key) for key in about} == about and kept.shape == shape and np.isfinite(kept).all():
            return torch.from_numpy(np.array(kept)), ids
    with working_on(run):
        similarities = _held_out(run, record, ids, device, progress)
        save_tensors({"similarity": similarities}, path, about | {"gallery": ids})
    return similarities, ids


def _held_out(run: Path, record: dict[str, Any], ids: list[str], device: str, progress: Progress) -> Tensor:
    where, recipe, decoder = choose_device(device), read_recipe(run, record), load_decoder(run, record)
    decoder.eval().to(where)
    inputs = record["inputs"]
    for table in (*inputs["responses"], inputs["features"]):
        path = stated_path(run, table)
        if not path.is_file() or store.fingerprint(path) != table["fingerprint"]:
            raise AlignvisError(f"{path} has changed or gone since {run} was trained on it; restore it, or train again")
    features = store.load_features(stated_path(run, inputs["features"]), recipe.target)
    found = []
    with torch.inference_mode():
        gallery = torch.from_numpy(features.embeddings[store.rows(features, ids, run / "record.json")])
        gallery = decoder.image(gallery.to(where)).float()
        for table in inputs["responses"]:
            responses = store.load_responses(stated_path(run, table))
            row_of = {image: row for row, image in enumerate(responses.train_images)}
            if not set(ids) <= set(row_of):
                raise AlignvisError(f"{run} held out images that {responses.path} does not have; train again")
            options = {"rows": [row_of[image] for image in ids], "device": where, "progress": progress}
            prepared = average(responses, "train", recipe, decoder.brain.prepare, **options)
            brain = torch.cat([decoder.brain(part.to(where)) for part in prepared.split(CHUNK)]).float()
            found.append(similarity(brain, gallery, recipe.sides, recipe.centre).cpu())
    return torch.stack(found)


def committees(
    runs: Sequence[Path],
    *,
    device: str = "cpu",
    say: Callable[[str], None] = lambda text: None,
    progress: Progress = silent,
) -> list[dict[str, Any]]:
    """Make one committee of the runs of each subject, and score it on the test images.

    Args:
        runs: folders of runs that have been scored.
        say: told which runs could not take part, and why.

    Returns:
        One a subject: the keys of a score that there can be of several runs, "members" (kind, its own "held_out_mrr"),
        "held_out_mrr" (of the committee after each member), "held_out" (images a seed), "candidates" (kinds),
        "seeds", "runs" (folders), and "beside": the scores of the best single kind by validation, its seeds apart
        and, where there are several, their similarities averaged before the pictures are ranked.

    Raises:
        AlignvisError: when no two runs can answer together.
    """
    groups: dict[tuple, list[tuple[Path, dict[str, Any], dict[str, Any]]]] = {}
    for run in runs:
        record = read_record(run)
        scores = read_scores(run, record)
        groups.setdefault(tuple(str(scores[key]) for key in GROUP), []).append((run, record, scores))
    found, asked, every = [], 0, sum(map(len, groups.values()))

    def tick() -> None:
        nonlocal asked
        asked += 1
        progress(asked, every, "asking about held-out training images")

    for group in groups.values():
        candidates = _candidates(group, device, say, tick)
        if sum(len(one.runs) for one in candidates) > 1:
            found.append(_committee(candidates))
    progress(every, every, "asking about held-out training images")  # those that take no part are not asked
    if not found:
        raise AlignvisError(
            "a committee takes two runs at least of the same subject and protocol; train more kinds of runs, or seeds: "
            "alignvis train --seed 0-4"
        )
    return found


def _candidates(
    group: Sequence[tuple[Path, dict[str, Any], dict[str, Any]]],
    device: str,
    say: Callable[[str], None],
    tick: Callable[[], None],
) -> list[Candidate]:
    """The kinds of run of one subject that were held out from the same images, seed by seed."""
    kinds: dict[tuple, Candidate] = {}
    images: dict[tuple, dict[int, frozenset[str]]] = {}
    for run, record, scores in group:
        kind = tuple(scores[key] for key in KIND)
        one = kinds.setdefault(kind, Candidate(kind, {}, {}, {}, {}))
        seed = scores["seed"]
        if seed in one.runs:
            say(f"note: {run} is left out of the committee: {one.runs[seed]} is of the same kind and seed")
            continue
        one.runs[seed], one.scores[seed], one.records[seed] = run, scores, record
        images.setdefault(kind, {})[seed] = frozenset(record["split"]["validation"])
    common = _common([frozenset(found.items()) for found in images.values()])
    taken = []
    for kind, one in kinds.items():
        if not common <= set(images[kind].items()):
            seeds = ", ".join(str(seed) for seed in sorted(dict(common)))
            say(
                f"note: {', '.join(kind)} (subject {next(iter(one.scores.values()))['subject']}) is left out of the "
                f"committee: it was not trained with the seeds {seeds} and the held-out images of the others, so that "
                "no choice between them would be fair"
            )
            continue
        try:
            for seed in dict(common):
                similarities, _ = held_out_similarities(one.runs[seed], device=device)
                one.held_out[seed] = standardise(similarities)
                tick()
        except AlignvisError as error:
            say(f"note: {', '.join(kind)} is left out of the committee: {error}")
            continue
        for seed in sorted(set(one.runs) - set(dict(common))):
            say(f"note: {one.runs[seed]} is left out of the committee: the others have no seed {seed}")
        taken.append(one)
    return sorted(taken, key=lambda one: one.kind)


def _common(found: Sequence[frozenset]) -> frozenset:
    """The seeds, with their held-out images, that most runs can be compared on: kinds times seeds, then most kinds."""

    def kinds(some: frozenset) -> int:
        return sum(some <= one for one in found)

    shared = [one & other for one in found for other in found]
    return max((some for some in shared if some), key=lambda some: (kinds(some) * len(some), kinds(some)))


def _committee(candidates: Sequence[Candidate]) -> dict[str, Any]:
    seeds = sorted(candidates[0].held_out)
    members, reached = choose([[one.held_out[seed] for seed in seeds] for one in candidates])
    chosen = [candidates[place] for place in members]  # from here on nothing is chosen, and the test may be looked at
    alone = {one.kind: score([one.held_out[seed] for seed in seeds]) for one in candidates}
    first = chosen[0].scores[seeds[0]]
    about = {key: first[key] for key in (*GROUP, "validation", "trials", "galleries") if key in first}
    told = [
        dict(zip(KIND, one.kind, strict=True))
        | {"aligned": one.scores[seeds[0]]["aligned"], "held_out_mrr": alone[one.kind]}
        for one in chosen
    ]
    result = about | {"committee": True, "who": "committee", "seed": 0, "seeds": seeds}
    result |= {"members": told, "held_out_mrr": reached, "candidates": len(candidates)}
    result |= {"held_out": chosen[0].held_out[seeds[0]].shape[-1]}
    result |= {"runs": [str(one.runs[seed]) for one in chosen for seed in seeds]}
    similarities, ids = _test(chosen, seeds)
    result |= describe(similarities, ids)
    single = chosen[0]  # the best by itself is taken first
    best = [single.scores[seed] | {"who": "best member"} for seed in seeds]
    if len(seeds) > 1:  # of a committee of one kind this is the committee: a row needs all subjects
        averaged, _ = _test([single], seeds)
        best.append(about | {"who": "best member, seeds averaged", "seed": 0, "seeds": seeds} | describe(averaged, ids))
    return result | {"beside": best}


def write_committees(out: Path, found: Sequence[dict[str, Any]]) -> None:
    """Keep what `committees` returns as one JSON document, in place of an earlier one, as it follows from scores."""
    files.write_json(out, {"version": VERSION, "committees": list(found)})


def _test(members: Sequence[Candidate], seeds: Sequence[int]) -> tuple[Tensor, list[str]]:
    """Test similarities of members that have been chosen, combined; queries in the order of their sorted ids."""
    found: list[Tensor] = []
    names: list[str] = []
    for one in members:
        for seed in seeds:
            similarities, ids = read_similarity(one.runs[seed], one.records[seed], one.scores[seed])
            order = sorted(range(len(ids)), key=ids.__getitem__)
            names = names or [ids[row] for row in order]
            if [ids[row] for row in order] != names:
                raise AlignvisError(f"{one.runs[seed]} was asked about other images than {members[0].runs[seeds[0]]}")
            found.append(similarities[order][:, order])
    return combine(found), names
