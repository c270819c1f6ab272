"""Which run is the same as another but for the human alignment of its image encoder."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from alignvis.errors import AlignvisError
from alignvis.runs import all_runs, read_record

SAME = ("dataset", "protocol", "subject", "trained_on", "encoder", "seed")


def twin_run(run: Path) -> Path | None:
    """Find the run beside this one that differs from it in nothing but the alignment of the image encoder.

    Equal are dataset, protocol, subjects, brain encoder, seed, and the recipe with its name and target; the image
    encoder of one names that of the other as its twin.

    Returns:
        Its folder, or None if there is none; runs that cannot be read are passed over.
    """
    run = Path(run).resolve()
    record = read_record(run)
    for other in all_runs(run.parent.parent):
        if other.resolve() == run:
            continue
        try:
            if _twins(record, read_record(other)):
                return other
        except AlignvisError:
            continue
    return None


def _twins(one: dict[str, Any], other: dict[str, Any]) -> bool:
    related = one["features"] == other["twin"] or other["features"] == one["twin"]
    return related and one["recipe"] == other["recipe"] and all(one[key] == other[key] for key in SAME)


def by_kind(runs: Sequence[Path]) -> list[tuple[list[Path], list[Path]]]:
    """Sort runs into kinds that differ in subject, seed and alignment only: the aligned ones of each, and the others.

    Of one kind are runs of the same dataset, protocol, brain encoder and recipe, through one image encoder or its twin.
    """
    kinds: dict[tuple[Any, ...], tuple[list[Path], list[Path]]] = {}
    records = [read_record(run) for run in runs]
    twins = {record["twin"]: record["features"] for record in records}  # for those that do not name theirs
    for run, record in zip(runs, records, strict=True):
        features = record["features"]
        images = frozenset({features, record["twin"] or twins.get(features, features)})
        key = (record["dataset"], record["protocol"], record["encoder"], record["recipe"]["name"], images)
        kinds.setdefault(key, ([], []))[0 if record["aligned"] else 1].append(run)
    return list(kinds.values())
