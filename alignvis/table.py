"""Scores as a table to read: a row an encoder, features and subject, and one over subjects."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from alignvis.stats import student, wilson

# what must be equal for two scores to stand in one table: like is compared with like
PROTOCOL = ("dataset", "simulated", "pool", "recipe", "validation", "n", "gallery", "repetitions")
HEAD = (
    "brain",
    "features",
    "aligned",
    "subject",
    "seeds",
    "top-1 %",
    "95 % interval",
    "top-3 %",
    "top-5 %",
    "median rank",
)


def scores_table(scores: Sequence[dict[str, Any]]) -> str:
    """Lay out scores, best features first, with the protocol above each block and chance below it."""
    blocks: dict[tuple, list[dict[str, Any]]] = {}
    for score in scores:
        pooled = {*score["trained_on"], score["subject"]} if score["protocol"] == "leave-out" else ()
        about = score | {"pool": tuple(sorted(pooled))}
        blocks.setdefault(tuple(about[key] for key in PROTOCOL), []).append(score)
    return "\n\n".join(_block(dict(zip(PROTOCOL, key, strict=True)), rows) for key, rows in blocks.items())


def _block(about: dict[str, Any], scores: Sequence[dict[str, Any]]) -> str:
    groups: dict[tuple, dict[int, list[dict[str, Any]]]] = {}
    for score in scores:
        key = (score["encoder"], score["features"], score["aligned"])
        groups.setdefault(key, {}).setdefault(score["subject"], []).append(score)
    ordered = sorted(groups.items(), key=lambda item: -np.mean([s["top1"] for rows in item[1].values() for s in rows]))
    lines = [HEAD]
    for (encoder, features, aligned), subjects in ordered:
        label = (encoder, features, "yes" if aligned else "no")
        for subject, rows in sorted(subjects.items()):
            lines.append((*label, str(subject), str(len(rows)), *_cells(rows)))
        if len(subjects) > 1:
            lines.append((*label, f"all {len(subjects)}", "", *_over_subjects(list(subjects.values()))))
    widths = [max(len(line[i]) for line in lines) for i in range(len(HEAD))]
    text = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    text.insert(1, "  ".join("-" * width for width in widths))
    simulated = " (SIMULATED brain)" if about["simulated"] else ""
    one = scores[0]
    return "\n".join(
        [
            f"{about['dataset']}{simulated}: {about['n']} test responses, "
            f"each the mean of {about['repetitions']} repetitions, among {about['gallery']} pictures",
            f"{_way(about['pool'])}; recipe {about['recipe']}, validation by {about['validation']}",
            "± SD over seeds ('all': over subjects); intervals: Wilson over images ('all': t over subjects)",
            "",
            *text,
            f"chance: top-1 {one['top1_chance']:.1%}, top-3 {one['top3_chance']:.1%}, top-5 {one['top5_chance']:.1%}, "
            f"median rank {one['median_rank_chance']:g}",
        ]
    )


def _way(pool: Sequence[int]) -> str:
    if not pool:
        return "trained on the same subject"
    return f"trained on the other subjects of {', '.join(map(str, pool))}"


def _cells(rows: Sequence[dict[str, Any]]) -> tuple[str, ...]:
    """One subject: seeds share the images, so the interval is over images at the mean over seeds."""
    top1 = [row["top1"] for row in rows]
    low, high = wilson(float(np.mean(top1)), rows[0]["n"])
    return (
        *_shares(top1, (low, high), [r["top3"] for r in rows], [r["top5"] for r in rows]),
        _rank([r["median_rank"] for r in rows]),
    )


def _over_subjects(subjects: Sequence[Sequence[dict[str, Any]]]) -> tuple[str, ...]:
    means = {
        key: [float(np.mean([row[key] for row in rows])) for rows in subjects]
        for key in ("top1", "top3", "top5", "median_rank")
    }
    count = len(subjects)
    if count < 3 or len(set(means["top1"])) == 1:  # t over two subjects spans everything, over equal ones nothing
        return (*_shares(means["top1"], None, means["top3"], means["top5"]), _rank(means["median_rank"]))
    return (*_shares(means["top1"], student(means["top1"]), means["top3"], means["top5"]), _rank(means["median_rank"]))


def _shares(top1: Sequence[float], interval: tuple[float, float] | None, *others: Sequence[float]) -> tuple[str, ...]:
    text = "-" if interval is None else f"{100 * interval[0]:.1f} to {100 * interval[1]:.1f}"
    return (_spread(top1), text, *(_spread(other) for other in others))


def _spread(shares: Sequence[float]) -> str:
    spread = f" ± {100 * np.std(shares, ddof=1):.1f}" if len(shares) > 1 else ""
    return f"{100 * np.mean(shares):.1f}{spread}"


def _rank(medians: Sequence[float]) -> str:
    return f"{np.mean(medians):.3g}"
