"""Which runs stand on which side, and which of one side belongs to which of the other."""

import difflib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import Any

from alignvis.errors import AlignvisError
from alignvis.recipe import Recipe
from alignvis.runs import all_runs, matching_runs, read_recipe, read_record, read_scores

EQUAL = ("dataset", "simulated", "n", "gallery", "galleries", "repetitions")  # of all that is ever compared
FREE = ("features", "encoder", "recipe", "pool")  # one or more of these may be what is compared
SAID = {"encoder": "brain encoder", "pool": "training subjects", "n": "number of test images"}
SHOWN = 3  # of a list, before it is cut short


@dataclass(frozen=True)
class Scored:
    """A run, what it says of itself and how it was scored."""

    run: Path
    record: dict[str, Any]
    scores: dict[str, Any]
    recipe: Recipe

    @property
    def factors(self) -> dict[str, Any]:
        """All that makes two runs alike or not, apart from subject and seed."""
        record, scores = self.record, self.scores
        pooled = {*record["trained_on"], record["subject"]} if record["protocol"] == "leave-out" else ()
        found = {key: record[key] for key in ("dataset", "simulated", "features", "encoder")}
        found |= {key: scores[key] for key in ("n", "gallery", "repetitions")}
        found |= {"galleries": scores.get("galleries", "test images"), "pool": tuple(sorted(pooled))}
        return found | {"recipe": (record["recipe"]["name"], astuple(self.recipe))}

    @property
    def subject_and_seed(self) -> tuple[int, int]:
        return self.record["subject"], self.record["seed"]


@dataclass(frozen=True)
class Group:
    """Pairs of runs that are alike but for what is compared.

    Attributes:
        first, second: the factors of each side.
        differs: the factors in which they are unlike.
        pairs: (first, second), by subject and seed.
        left_out: sentences on runs without a partner.
    """

    first: dict[str, Any]
    second: dict[str, Any]
    differs: tuple[str, ...]
    pairs: list[tuple[Scored, Scored]]
    left_out: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Shelf:
    """The runs of a root: those with scores, and the records of those without."""

    root: Path
    scored: list[Scored]
    unscored: dict[Path, dict[str, Any]]


def read_shelf(root: Path, more: Iterable[Path], broken: Callable[[AlignvisError], None]) -> Shelf:
    """Read the records and scores of all runs in a root, and of more elsewhere."""
    scored, unscored = [], {}
    for run in {run.resolve(): run for run in (*all_runs(root), *more)}.values():  # none counts twice
        try:
            record = read_record(run)
            if (run / "scores.json").is_file():
                scored.append(Scored(run, record, read_scores(run, record), read_recipe(run, record)))
            else:
                unscored[run] = record
        except AlignvisError as error:
            broken(error)
    return Shelf(root, scored, unscored)


def named_folders(root: Path, words: Sequence[str]) -> dict[str, list[Path]]:
    """The run folders that words name: folders themselves, names in ``root/runs`` or patterns of them."""
    return {word: matching_runs(root, word) for word in words}


def kind_of(shelf: Shelf, word: str, folders: Sequence[Path]) -> str:
    """Whether a word names features, a brain encoder or runs.

    Raises:
        AlignvisError: when it names nothing that is there.
    """
    records = [*(one.record for one in shelf.scored), *shelf.unscored.values()]
    for kind in ("features", "encoder"):
        if any(record[kind] == word for record in records):
            return kind
    if folders:
        return "runs"
    features, encoders = (sorted({record[kind] for record in records}) for kind in ("features", "encoder"))
    if not records:
        raise AlignvisError(f"there are no runs in {shelf.root / 'runs'}; make some with: alignvis train --subject 1")
    near = difflib.get_close_matches(word, [*features, *encoders], n=1)
    raise AlignvisError(
        f"no run learned from features, by a brain encoder, or is itself called {word!r}"
        + (f"; did you mean {near[0]}?" if near else "")
        + f" (features: {listed(features)}; brain encoders: {listed(encoders)})"
    )


def belongs(run: Path, record: dict[str, Any], word: str, kind: str, folders: Sequence[Path]) -> bool:
    """Whether a run is among those that a word names."""
    return run.resolve() in {path.resolve() for path in folders} if kind == "runs" else record[kind] == word


def grouped(
    first: Sequence[Scored],
    second: Sequence[Scored],
    may_differ: Sequence[str],
    names: tuple[str, str],
    broken: Callable[[AlignvisError], None],
) -> list[Group]:
    """Form pairs of runs that are equal in all that is not compared.

    Args:
        may_differ: the factors of `FREE` that may be what is compared; all others must be equal.
        names: what the sides are called in sentences.
        broken: told of runs of one side that answer the same question twice.

    Raises:
        AlignvisError: when the sides differ in more than can be said to be compared, or in nothing.
    """
    if not first or not second:
        side, place = (first, 0) if first else (second, 1)
        runs = "runs of {} have no partner and were" if len(side) > 1 else "run of {} has no partner and was"
        why = f"{len(side)} scored {runs.format(names[place])} left out: there is no scored run of {names[1 - place]}"
        return [Group({}, {}, (), [], [why])] if side else []
    differs = _differing(first, second, may_differ, names)
    sides = [_by_key(side, [key for key in (*EQUAL, *FREE) if key not in differs], broken) for side in (first, second)]
    groups = []
    for key in dict.fromkeys([*sides[0], *sides[1]]):
        one, other = (side.get(key, {}) for side in sides)
        about = [next(iter(side.values())).factors if side else {} for side in (one, other)]
        both = sorted(one.keys() & other.keys())
        lonely = [
            (names[side], have, about[side]) for side, have in enumerate((one.keys() - both, other.keys() - both))
        ]
        left_out = [_alone(name, have, where, names) for name, have, where in lonely if have]
        groups.append(Group(about[0], about[1], differs, [(one[pair], other[pair]) for pair in both], left_out))
    return groups


def _differing(
    first: Sequence[Scored], second: Sequence[Scored], may_differ: Sequence[str], names: tuple[str, str]
) -> tuple[str, ...]:
    differs = []
    for key in may_differ:
        one, other = ({run.factors[key] for run in side} for side in (first, second))
        if one & other:
            continue
        if len(one) > 1 or len(other) > 1:
            raise AlignvisError(
                f"{names[0]} has {listed(_shown(one, key))} and {names[1]} has {listed(_shown(other, key))} as "
                f"{SAID.get(key, key)}, so who belongs to whom is not clear; name runs of one each"
            )
        differs.append(key)
    if not differs:
        raise AlignvisError(
            f"{names[0]} and {names[1]} differ in no features, brain encoder, recipe or training subjects, so there is "
            "nothing to compare; name two groups of runs that do"
        )
    return tuple(differs)


def _by_key(
    side: Sequence[Scored], matched: Sequence[str], broken: Callable[[AlignvisError], None]
) -> dict[tuple, dict[tuple[int, int], Scored]]:
    found: dict[tuple, dict[tuple[int, int], list[Scored]]] = {}
    for one in side:
        key = tuple(one.factors[name] for name in matched)
        found.setdefault(key, {}).setdefault(one.subject_and_seed, []).append(one)
    for runs in (runs for pairs in found.values() for runs in pairs.values() if len(runs) > 1):
        broken(
            AlignvisError(
                f"{runs[0].run} and {runs[1].run} are of the same subject, seed and recipe, so which one counts is not "
                "clear; move one away, or name the runs to be compared"
            )
        )
    return {key: {pair: runs[0] for pair, runs in pairs.items() if len(runs) == 1} for key, pairs in found.items()}


def why_unlike(first: Scored, second: Scored, differs: Sequence[str]) -> str | None:
    """Why two runs of one subject and seed may not be compared after all; none if they may."""
    if first.scores["queries_fingerprint"] != second.scores["queries_fingerprint"]:
        return "were asked with different test responses (the recording was prepared anew between them)"
    learned = [sorted(table["fingerprint"] for table in one.record["inputs"]["responses"]) for one in (first, second)]
    if "pool" not in differs and learned[0] != learned[1]:
        return "learned from different recordings (prepared anew between them)"
    split = [sorted(one.record["split"]["train"]) for one in (first, second)]
    if not {"pool", "recipe"} & set(differs) and split[0] != split[1]:
        return "learned from different training images"
    return None


def _alone(name: str, pairs: Iterable[tuple[int, int]], where: dict[str, Any], names: tuple[str, str]) -> str:
    partner = names[1] if name == names[0] else names[0]
    seeds: dict[int, list[int]] = {}
    for subject, seed in sorted(pairs):
        seeds.setdefault(subject, []).append(seed)
    count = sum(map(len, seeds.values()))
    which = [f"subject {subject} seed {', '.join(map(str, numbers))}" for subject, numbers in seeds.items()]
    runs = "runs have no partner in {} and were" if count > 1 else "run has no partner in {} and was"
    return (
        f"{count} scored {runs.format(partner)} left out: "
        f"{listed(which, '; ')} of {name} ({where['dataset']}, {where['encoder']}, {where['recipe'][0]})"
    )


def _shown(values: Iterable[Any], key: str) -> list[str]:
    """Values of a factor as words."""
    if key == "recipe":
        return sorted(name for name, _ in values)
    return sorted(str(value or "the same subject") for value in values)


def listed(words: Sequence[str], between: str = ", ") -> str:
    """A list, cut short when it is long."""
    more = f" and {len(words) - SHOWN} more" if len(words) > SHOWN else ""
    return between.join(words[:SHOWN]) + more
