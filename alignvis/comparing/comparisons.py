"""What is said of each comparison: means, their difference with an interval, tests over subjects and over images."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from shlex import quote
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alignvis import files
from alignvis.comparing.sides import (
    FREE,
    Group,
    Scored,
    Shelf,
    belongs,
    grouped,
    kind_of,
    listed,
    named_folders,
    read_shelf,
    why_unlike,
)
from alignvis.comparing.values import Values, chance_of, metric_of, values_of
from alignvis.errors import AlignvisError
from alignvis.paired import holm, paired_t, permutation, wilcoxon
from alignvis.progress import Progress, silent
from alignvis.scoring import gives_same_answer, same_answer
from alignvis.stats import bootstrap
from alignvis.versions import versions

VERSION = 1
TESTS = ("t", "wilcoxon", "permutation")
# what must be equal for two comparisons to stand in one table, and to be of one family; of each side, and of both
OF_SIDES, OF_BOTH = ("pool", "recipe", "validation"), ("dataset", "simulated", "n", "gallery", "repetitions")


def _raise(error: AlignvisError) -> None:
    raise error


def compare(
    root: Path,
    first: str | None = None,
    second: str | None = None,
    *,
    metric: str = "top1",
    resamples: int = 10_000,
    permutations: int = 10_000,
    seed: int = 0,
    say: Callable[[str], None] = lambda text: None,
    broken: Callable[[AlignvisError], None] = _raise,
    progress: Progress = silent,
) -> list[dict[str, Any]]:
    """Compare scored runs from their stored similarities: like with like, and nothing is trained or encoded again.

    Averages are over seeds first, then over subjects: seeds are no subjects.

    Args:
        root: its ``runs`` are read.
        first, second: each an id of features, of a brain encoder, a run folder, or a name or pattern of runs in
            ``root/runs``. None of both means every human-aligned encoder against its unaligned twin. Runs are pairs if
            all else is equal: dataset, training subjects, brain encoder, features, recipe, repetitions, gallery,
            subject, seed and the test responses themselves.
        metric: a key of `METRICS`: "top1", "top5" (shares), "mrr" or "pairwise".
        resamples, permutations, seed: of the bootstrap, and of the signs drawn for the test over images.
        say: told of what has no partner or no score and was left out, in sentences.
        broken: told of each run that cannot be read or trusted; by default the first one ends the call.

    Returns:
        One JSON-able dict a comparison, shares in [0, 1]:

        - ``first`` and ``second``: what is compared, ``mean`` with its ``interval``; ``differs``: in what they differ;
        - ``difference``: first minus second, with its bootstrap ``interval`` over subjects and images (of one subject:
          over images alone, as ``interval_over`` says), and ``seeds_sd``, its standard deviation over seeds;
        - ``t`` and ``wilcoxon``: over subjects, none with one subject; ``permutation``: over images; each with ``p``
          (two-sided), ``smallest_p`` where there is one, ``p_holm`` and the size of its ``family``;
        - ``subjects``: each one's means and seeds; ``n_subjects``, ``n_images``, ``gallery``, ``repetitions``,
          ``trials`` (least and most that a response is the mean of; none where repetitions are apart), ``chance``,
          ``simulated``; ``runs``: each pair, with fingerprints; ``left_out``: sentences.

    Raises:
        AlignvisError: when there is nothing to compare, or it is not clear what belongs to what.
    """
    chosen = metric_of(metric)
    if (first is None) != (second is None):
        raise AlignvisError(f"{first or second!r} alone cannot be compared; name two, or none for all aligned encoders")
    groups, unscored = _groups(Path(root), first, second, broken)
    values: dict[Path, Values | None] = {}
    wanted = {run.run: run for group in groups for pair in group.pairs for run in pair}
    for done, (path, run) in enumerate(wanted.items(), start=1):
        try:
            values[path] = values_of(run, chosen)
        except AlignvisError as error:
            values[path] = None
            broken(error)
        progress(done, len(wanted), "reading similarities")
    rows = []
    for done, group in enumerate(groups, start=1):
        pairs, left_out = _usable(group, values)
        for sentence in left_out:
            say(f"note: {sentence}")
        if pairs:
            rows.append(_about(group, pairs, metric, left_out))
            rows[-1] |= _statistics(rows[-1], pairs, values, resamples, permutations, seed)
        progress(done, len(groups), "comparing")
    if rows and unscored:
        say(f"note: {_not_scored(unscored)}")
    compared = {pair[side]["run"] for row in rows for pair in row["runs"] for side in ("first", "second")}
    alike = [run for path, run in wanted.items() if str(path) in compared and gives_same_answer(run.scores)]
    if alike:
        say(f"note: {same_answer([one.run for one in alike], [one.scores for one in alike])}")
    if not rows:
        raise AlignvisError(_nothing(Path(root), first, second, unscored, [len(group.pairs) for group in groups]))
    _adjust(rows)
    return rows


# --- who against whom ------------------------------------------------------------------------------------------------


def _groups(
    root: Path, first: str | None, second: str | None, broken: Callable[[AlignvisError], None]
) -> tuple[list[Group], dict[Path, dict[str, Any]]]:
    """The pairs to compare, and the records of the runs that would be among them had they been scored."""
    if first is None or second is None:
        shelf = read_shelf(root, (), broken)
        return _against_twins(shelf, broken)
    if first == second:
        raise AlignvisError(f"{first!r} cannot be compared with itself; name another")
    folders = named_folders(root, (first, second))
    shelf = read_shelf(root, (*folders[first], *folders[second]), broken)
    kinds = {word: kind_of(shelf, word, folders[word]) for word in (first, second)}
    if set(kinds.values()) == {"features", "encoder"}:
        names = sorted(kinds, key=lambda word: kinds[word])
        raise AlignvisError(
            f"{names[1]!r} are features and {names[0]!r} is a brain encoder; compare two of one kind, or groups of runs"
        )
    sides = [
        [one for one in shelf.scored if belongs(one.run, one.record, word, kinds[word], folders[word])]
        for word in (first, second)
    ]
    shared = {one.run for one in sides[0]} & {one.run for one in sides[1]}
    if shared:
        raise AlignvisError(f"{min(shared)} is on both sides; name groups that share no run")
    unscored = {
        run: record
        for run, record in shelf.unscored.items()
        if any(belongs(run, record, word, kinds[word], folders[word]) for word in (first, second))
    }
    same = set(kinds.values())
    may_differ = FREE if "runs" in same else tuple(same)
    return grouped(sides[0], sides[1], may_differ, (first, second), broken), unscored


def _against_twins(
    shelf: Shelf, broken: Callable[[AlignvisError], None]
) -> tuple[list[Group], dict[Path, dict[str, Any]]]:
    records = [*(one.record for one in shelf.scored), *shelf.unscored.values()]
    twins = {(record["features"], record["twin"]) for record in records if record["aligned"] and record["twin"]}
    there = {record["features"] for record in records if record["aligned"]}
    twins |= {(record["twin"], record["features"]) for record in records if record["twin"] in there}
    groups, used = [], {name for pair in twins for name in pair}
    for aligned, plain in sorted(twins):
        sides = [[one for one in shelf.scored if one.record["features"] == name] for name in (aligned, plain)]
        groups += grouped(sides[0], sides[1], ("features",), (aligned, plain), broken)
    return groups, {run: record for run, record in shelf.unscored.items() if record["features"] in used}


def _not_scored(unscored: dict[Path, dict[str, Any]]) -> str:
    names = [run.name for run in unscored]
    count = len(names)
    return (
        f"{count} run{'s have' if count > 1 else ' has'} no score yet and {'were' if count > 1 else 'was'} left out "
        f"({listed(names)}); score {'them' if count > 1 else 'it'} with: alignvis eval"
        + (f" {' '.join(quote(str(run)) for run in unscored)}" if count <= 3 else "")
    )


def _nothing(
    root: Path, first: str | None, second: str | None, unscored: dict[Path, dict[str, Any]], pairs: Sequence[int]
) -> str:
    """Why there is nothing to compare."""
    if sum(pairs):
        return "no pair of runs could be compared: each is damaged or was asked with other responses than its partner"
    if unscored:
        return f"nothing can be compared yet: {_not_scored(unscored)}"
    if first is None:
        return (
            f"no human-aligned encoder and its unaligned twin have scored runs alike in {root / 'runs'}; train both, "
            "or name what to compare: alignvis compare FEATURES FEATURES"
        )
    return (
        f"no run of {first} has a partner in {second} that is equal in all else (dataset, brain encoder, features, "
        "recipe, training subjects, subject, seed); `alignvis eval` lists what is there"
    )


def _usable(group: Group, values: dict[Path, Values | None]) -> tuple[list[tuple[Scored, Scored]], list[str]]:
    """The pairs that were read and are of the same test images, and sentences on the others."""
    usable, left_out = [], list(group.left_out)
    asked: dict[int, str] = {}  # the responses that the seeds of a subject share
    for one, other in group.pairs:
        found = [values[run.run] for run in (one, other)]
        why = "could not be read" if None in found else why_unlike(one, other, group.differs)
        if why is None and {*found[0].images} != {*found[1].images}:
            why = "were asked about different test images"
        responses = one.scores["queries_fingerprint"]
        if why is None and asked.setdefault(one.record["subject"], responses) != responses:
            why = "were asked with other test responses than the first seed of this subject"
        if why is None:
            usable.append((one, other))
        else:
            left_out.append(f"{one.run.name} and {other.run.name} {why}, and were left out")
    return usable, left_out


# --- what is said ----------------------------------------------------------------------------------------------------


def _about(
    group: Group, pairs: Sequence[tuple[Scored, Scored]], metric: str, left_out: Sequence[str]
) -> dict[str, Any]:
    sides = []
    for place, factors in enumerate((group.first, group.second)):
        one = pairs[0][place]
        side = {key: factors[key] for key in ("features", "encoder")} | {"recipe": factors["recipe"][0]}
        side |= {"pool": list(factors["pool"]), "target": one.recipe.target, "validation": one.recipe.validation}
        sides.append(side | {"aligned": one.record["aligned"]})
    shared = {key: group.first[key] for key in ("dataset", "simulated", "n", "gallery", "galleries", "repetitions")}
    return {
        "metric": metric,
        "differs": list(group.differs),
        "first": sides[0],
        "second": sides[1],
        **shared,
        "trials": _trials([one.scores["trials"] for pair in pairs for one in pair]),
        "chance": chance_of(metric, shared["gallery"]),
        "runs": [_pair(one, other) for one, other in pairs],
        "left_out": list(left_out),
        "versions": versions(),
    }


def _trials(found: Sequence[dict[str, Any] | None]) -> dict[str, Any] | None:
    """Of how few and of how many trials a response is the mean, over all runs, where the table has averaged them."""
    known = [one for one in found if one]
    return {"min": min(one["min"] for one in known), "max": max(one["max"] for one in known)} if known else None


def _pair(one: Scored, other: Scored) -> dict[str, Any]:
    subject, seed = one.subject_and_seed
    about = {"subject": subject, "seed": seed, "queries_fingerprint": one.scores["queries_fingerprint"]}
    for name, run in (("first", one), ("second", other)):
        kept = {key: run.scores[key] for key in ("weights_sha256", "similarity_sha256")}
        about[name] = {"run": str(run.run), **kept}
    return about


def _statistics(
    about: dict[str, Any],
    pairs: Sequence[tuple[Scored, Scored]],
    values: dict[Path, Values | None],
    resamples: int,
    permutations: int,
    seed: int,
) -> dict[str, Any]:
    order = list(dict.fromkeys(image for one, _ in pairs for image in values[one.run].images))
    place = {image: column for column, image in enumerate(order)}
    by_subject: dict[int, list[tuple[int, NDArray[np.float64]]]] = {}
    for pair in pairs:
        both = np.full((2, len(order)), np.nan)
        for side, run in enumerate(pair):
            both[side, [place[image] for image in values[run.run].images]] = values[run.run].values
        subject, number = pair[0].subject_and_seed
        by_subject.setdefault(subject, []).append((number, both))
    # (subjects, sides, images), NaN where a subject did not see an image: seeds are averaged first
    means = np.stack([np.mean([both for _, both in seeds], axis=0) for seeds in by_subject.values()])
    differences = means[:, 0] - means[:, 1]
    shared = bool(np.isfinite(differences).all())

    def interval(of: NDArray[np.float64]) -> list[float]:
        crossed_or_nested = of if shared else [row[np.isfinite(row)] for row in of]
        return list(bootstrap(crossed_or_nested, resamples=resamples, seed=seed))

    subjects = [_subject(number, seeds, row) for (number, seeds), row in zip(by_subject.items(), means, strict=True)]
    over_subjects = [one["difference"] for one in subjects]
    spreads = [one["seeds_sd"] for one in subjects if one["seeds_sd"] is not None]
    several = len(subjects) > 1
    sides = {}
    for side, name in enumerate(("first", "second")):
        mean = float(np.mean([one[name] for one in subjects]))
        sides[name] = about[name] | {"mean": mean, "interval": interval(means[:, side])}
    return {
        **sides,
        "difference": float(np.mean(over_subjects)),
        "interval": interval(differences),
        "interval_over": "subjects and images" if several else "images of this subject",
        "bootstrap": {"images": "shared" if shared else "of each subject", "resamples": resamples, "seed": seed},
        "seeds_sd": float(np.sqrt(np.mean(np.square(spreads)))) if spreads else None,
        "t": asdict(paired_t(over_subjects)) if several else None,
        "wilcoxon": asdict(wilcoxon(over_subjects)) if several else None,
        "permutation": asdict(permutation(differences, permutations=permutations, seed=seed)),
        "subjects": subjects,
        "n_subjects": len(subjects),
        "n_images": len(order),
    }


def _subject(
    number: int, seeds: Sequence[tuple[int, NDArray[np.float64]]], means: NDArray[np.float64]
) -> dict[str, Any]:
    first, second = np.nanmean(means, axis=1).tolist()
    each = [float(np.nanmean(both[0] - both[1])) for _, both in seeds]
    return {
        "subject": number,
        "seeds": [seed for seed, _ in seeds],
        "images": int(np.isfinite(means[0]).sum()),
        "first": first,
        "second": second,
        "difference": float(np.nanmean(means[0] - means[1])),
        "seeds_sd": float(np.std(each, ddof=1)) if len(each) > 1 else None,
    }


def block_of(row: dict[str, Any]) -> tuple:
    """What comparisons of one table, and of one family, have in common."""
    return tuple(str(row[side][key]) for side in ("first", "second") for key in OF_SIDES) + tuple(
        row[key] for key in OF_BOTH
    )


def _adjust(rows: Sequence[dict[str, Any]]) -> None:
    """Adjust each test's p over the comparisons of one table: those asked in the same way, at the same time."""
    families: dict[tuple, list[dict[str, Any]]] = {}
    for row in rows:
        families.setdefault(block_of(row), []).append(row)
    for family in families.values():
        for test in TESTS:
            all_of_it = [row[test] for row in family if row[test] is not None]
            having = [found for found in all_of_it if found["p"] is not None]
            for found in all_of_it:
                found |= {"p_holm": None, "family": len(having)}
            for found, p in zip(having, holm([found["p"] for found in having]), strict=True):
                found["p_holm"] = p


def write_comparisons(out: Path, rows: Sequence[dict[str, Any]], notes: Sequence[str]) -> None:
    """Keep comparisons as one JSON document, whole or not at all: ``version``, ``comparisons`` and ``notes``."""
    files.write_json(out, _document(rows, notes))


def same_comparisons(kept: Path, rows: Sequence[dict[str, Any]], notes: Sequence[str]) -> bool:
    """Whether a file holds just what `write_comparisons` would write of these."""
    try:
        return files.read_json(kept) == json.loads(json.dumps(_document(rows, notes)))
    except AlignvisError:
        return False


def _document(rows: Sequence[dict[str, Any]], notes: Sequence[str]) -> dict[str, Any]:
    return {"version": VERSION, "comparisons": list(rows), "notes": list(notes)}
