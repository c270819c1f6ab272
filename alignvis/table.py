"""Scores as tables to read: a block a protocol, a row an encoder, features and subject, and one over subjects."""

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from alignvis.intervals import interval
from alignvis.retrieval import MEASURES, TOP
from alignvis.stats import wilson

WIDTH = 110  # of sentences
Score = dict[str, Any]
Subjects = list[list[Score]]  # the seeds of each subject

# what must be equal for two scores to stand in one block: like is compared with like
PROTOCOL = ("dataset", "simulated", "pool", "validation", "n", "gallery", "repetitions")
KIND = ("encoder", "features", "aligned", "recipe", "target")  # what a row is of, beside subject and seeds
TITLES = {key: key for key in (*KIND, "who")} | {"encoder": "brain"}


@dataclass(frozen=True)
class Column:
    """One column: what stands above it, and the cell of a row from all its scores, by subject."""

    title: str
    cell: Callable[[Subjects], str]
    below: Callable[[Subjects], str] | None = None  # what stands under the cell: its interval


def scores_table(scores: Sequence[Score], *, full: bool = False, transductive: bool = False) -> str:
    """Lay out scores, best first, with the protocol above each block and chance below it, and explain it once.

    Args:
        scores: as `scoring.score_all` returns them.
        full: with n-way scores and the other direction, from a picture to the response, each with its interval.
        transductive: with a block of scores that look at the whole test batch.
    """
    blocks: dict[tuple, list[Score]] = {}
    for score in scores:
        blocks.setdefault(protocol(score), []).append(score)
    text = [_block(rows, full, transductive) for rows in blocks.values()]
    return "\n\n".join([*text, _filled(_explained(scores, full))])


def protocol(score: Score) -> tuple:
    """What is equal of scores in one block."""
    pooled = {*score["trained_on"], score["subject"]} if score["protocol"] == "leave-out" else ()
    about = score | {"pool": tuple(sorted(pooled))}
    trials = score["trials"] or {}
    return (*(about[key] for key in PROTOCOL), trials.get("min"), trials.get("max"))


def heading(score: Score, of: str = "") -> str:
    """What a block is of: the protocol of any of its scores."""
    simulated = " (SIMULATED brain)" if score["simulated"] else ""
    pool = protocol(score)[PROTOCOL.index("pool")]
    way = f"trained on the other subjects of {', '.join(map(str, pool))}" if pool else "trained on the same subject"
    return (
        f"{score['dataset']}{simulated}: {score['n']} test responses, each {repetitions(score)}, among "
        f"{score['gallery']} pictures\n{way}; {of}validation by {score['validation']}"
    )


def repetitions(score: Score) -> str:
    """Of what a test response is the mean."""
    count, trials = score["repetitions"], score["trials"]
    if count == 1 and trials:
        low, high = trials["min"], trials["max"]
        return (
            "a single trial"
            if high == 1
            else f"the mean of {low} to {high} trials"
            if low < high
            else (f"the mean of {high} trials")
        )
    return "a single repetition" if count == 1 else f"the mean of {count} repetitions"


def _block(scores: Sequence[Score], full: bool, transductive: bool) -> str:
    differ = [key for key in KIND if key in KIND[:3] or len({score[key] for score in scores}) > 1]
    same = {"recipe": "recipe {}; ", "target": "learned {}; "}
    if scores[0]["target"] == "embeddings":
        same.pop("target")
    of = "".join(text.format(scores[0][key]) for key, text in same.items() if key not in differ)
    lines = [heading(scores[0], of), "", *table(scores, differ, MAIN), _chance(scores[0])]
    if any(score["subset_galleries"] for score in scores):
        small = [score for score in scores if score["subset_galleries"]]
        about = small[0]["subset_galleries"]
        lines += [
            "",
            f"{about['size']}-way, another and easier question: {about['draws']} galleries of {about['size']} ",
        ]
        lines[-1] += "of the pictures drawn, and the responses to these"
        lines += ["", *table(small, differ, SMALL), f"chance: {about['chance']:.2%}"]
    if any(score["class_centres"] for score in scores):
        lines += _centres([score for score in scores if score["class_centres"]], differ)
    if full:
        ways = sorted({int(way) for score in scores for way in score["n_way"]} - {2})
        lines += ["", "each with its interval", "", *table(scores, differ, EVERY), _chance(scores[0])]
        if ways:
            lines += ["", "n-way: the right picture against n - 1 others, mean over all ways to draw these", ""]
            lines += [*table(scores, differ, [_n_way(way) for way in ways]), "chance: one in n"]
        lines += ["", "from a picture to the response, among the responses", ""]
        lines += [*table(list(map(_backwards, scores)), differ, EVERY), _chance(scores[0])]
    if transductive:
        lines += ["", "TRANSDUCTIVE: looks at the whole test batch; not to be compared with the scores above", ""]
        lines += table(scores, differ, WHOLE_BATCH)
    return "\n".join(lines)


def _centres(scores: Sequence[Score], differ: Sequence[str]) -> list[str]:
    one = scores[0]["class_centres"]
    lines = [
        "",
        f"among {one['gallery']} class centres: means over other pictures of the concepts, not the pictures shown",
    ]
    keys = ("gallery", "ranks", *MEASURES, *(f"{key}_chance" for key in MEASURES))
    inner = [score | {key: score["class_centres"][key] for key in keys} for score in scores]
    return [*lines, "", *table(inner, differ, MAIN), _chance(inner[0])]


def table(scores: Sequence[Score], differ: Sequence[str], columns: Sequence[Column]) -> list[str]:
    """Lines of a table: a row a kind of run and subject, best kind first, and one over its subjects.

    Args:
        differ: of `KIND`, what tells rows apart.
        columns: what is said of each.
    """
    groups: dict[tuple, dict[int, list[Score]]] = {}
    for score in scores:
        groups.setdefault(tuple(score[key] for key in differ), {}).setdefault(score["subject"], []).append(score)
    ordered = sorted(groups.items(), key=lambda item: -_value(list(item[1].values()), lambda score: score["top1"]))
    rows = [(*(TITLES[key] for key in differ), "subject", "seeds", *(column.title for column in columns))]
    for key, subjects in ordered:
        label = tuple({True: "yes", False: "no"}.get(value, str(value)) for value in key)
        for subject, seeds in sorted(subjects.items()):
            rows += _rows((*label, str(subject), str(_seeds(seeds))), [seeds], columns)
        if len(subjects) > 1:
            all_of = list(subjects.values())
            counts = sorted({_seeds(seeds) for seeds in all_of})
            seeds = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
            rows += _rows((*label, f"all {len(subjects)}", seeds), all_of, columns)
    return lay_out(rows)


def _rows(label: tuple[str, ...], subjects: Subjects, columns: Sequence[Column]) -> list[tuple[str, ...]]:
    """One row, and a second one where something stands below its cells."""
    rows = [(*label, *(column.cell(subjects) for column in columns))]
    if any(column.below for column in columns):
        below = [column.below(subjects) if column.below else "" for column in columns]
        rows.append((*[""] * len(label), *below))
    return rows


def _backwards(score: Score) -> Score:
    """The other direction of a score: pictures are the queries, and responses the gallery."""
    return score | score["image_to_brain"] | {"n": score["gallery"], "gallery": score["n"]}


def _seeds(scores: Sequence[Score]) -> int:
    """How many seeds the scores of one subject are of; a committee has several in one score."""
    return sum(len(score["seeds"]) if "seeds" in score else 1 for score in scores)


def lay_out(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Columns side by side, with a line below the first row."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    text = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return [text[0], "  ".join("-" * width for width in widths), *text[1:]]


def _chance(score: Score) -> str:
    return (
        f"chance: top-1 {score['top1_chance']:.1%}, top-5 {score['top5_chance']:.1%}, "
        f"median rank {score['median_rank_chance']:g}, MRR {score['mrr_chance']:.3f}, "
        f"2-way {score['pairwise_chance']:.0%}"
    )


def _explained(scores: Sequence[Score], full: bool) -> str:
    """What the columns mean, as far as they are there."""
    subjects = {(protocol(score), *(score[key] for key in KIND)): set() for score in scores}
    for score in scores:
        subjects[(protocol(score), *(score[key] for key in KIND))].add(score["subject"])
    several = any(len(found) > 1 for found in subjects.values())
    others = ", of MRR, 2-way and n-way by their variance, of the median rank by order statistics" if full else ""
    over = "; of 'all': bootstrap over subjects and pictures" if several else ""
    return (
        f"intervals: 95 %, over the test pictures, at the mean over seeds: of top-k Wilson's{others}{over}; seed SD: "
        "of top-1, in points, never in the interval; MRR: mean of one over the rank; 2-way: against one other picture"
    )


def curves_table(curves: Sequence[dict[str, Any]]) -> str:
    """Lay out curves of `repetitions.measure_curve`: one table a kind of run and subject, its seeds averaged."""
    groups: dict[tuple, list[dict[str, Any]]] = {}
    for curve in curves:
        alike = ("dataset", "subject", "protocol", *KIND, "n", "gallery", "simulated")
        groups.setdefault((*(curve[key] for key in alike), tuple(curve["repetitions"])), []).append(curve)
    text = []
    for seeds in groups.values():
        one = seeds[0]
        simulated = " (SIMULATED brain)" if one["simulated"] else ""
        target = f" [{one['target']}]" if one["target"] != "embeddings" else ""
        head = (
            f"{one['dataset']}{simulated}, subject {one['subject']}: {one['encoder']}, {one['features']}{target}, "
            f"recipe {one['recipe']}, mean of {len(seeds)} seed{'s' * (len(seeds) > 1)}; {one['n']} test responses "
            f"among {one['gallery']} pictures"
        )
        text.append("\n".join([head, "", *lay_out(_curve(seeds))]))
    said = (
        "means of so many of the test repetitions, drawn anew for each picture; SD over draws of them; intervals: "
        "95 %, Wilson over the test pictures; reliability: of what the decoder reads, split halves with "
        "Spearman-Brown, of which the root is the highest correlation that can be; chance: top-1 "
        f"{curves[0]['chance']:.1%}"
    )
    return "\n\n".join([*text, _filled(said)])


def _curve(seeds: Sequence[dict[str, Any]]) -> list[tuple[str, ...]]:
    rows = [("repetitions", "draws", "top-1 %", "95 % interval", "SD over draws", "top-5 %", "reliability")]
    counts = seeds[0]["repetitions"]
    for place, count in enumerate(counts):
        top1, top5, spread = (float(np.mean([one[key][place] for one in seeds])) for key in ("top1", "top5", "top1_sd"))
        known = [one["reliability"][place] for one in seeds]
        every = count == counts[-1]
        rows.append(
            (
                str(count),
                "all" if every else str(seeds[0]["draws"]),
                f"{100 * top1:.1f}",
                shown_interval(wilson(top1, seeds[0]["n"])),
                "-" if every else f"{100 * spread:.1f}",
                f"{100 * top5:.1f}",
                "-" if None in known else f"{np.mean(known):.3f}",
            )
        )
    return rows


def _filled(text: str) -> str:
    return textwrap.fill(text, WIDTH, subsequent_indent="  ")


def _of_all(one: Score, rows: Sequence[Score]) -> list[Score]:
    """A committee and what stands beside it; of a single seed the average too, so that each row is of all subjects."""
    averaged = {row["who"] for other in rows for row in other["beside"] if "seeds" in row}
    lacking = averaged - {row["who"] for row in one["beside"]}
    return [one, *one["beside"], *(one["beside"][0] | {"who": who} for who in lacking)]


def committee_table(committees: Sequence[dict[str, Any]], *, full: bool = False) -> str:
    """Lay out what `committee.committees` returns: the committee, and beside it its best member by validation.

    Args:
        full: with the interval of every measure.
    """
    blocks: dict[tuple, list[dict[str, Any]]] = {}
    for one in committees:
        blocks.setdefault(protocol(one), []).append(one)
    text = []
    for rows in blocks.values():
        lines = [heading(rows[0]), ""]
        every = [row for one in rows for row in _of_all(one, rows)]
        lines += table(every, ("who",), MAIN)
        lines += ["", *table(every, ("who",), EVERY)] if full else []
        for one in sorted(rows, key=lambda one: one["subject"]):
            lines.append(f"members, subject {one['subject']}, seeds {', '.join(map(str, one['seeds']))}:")
            for place, member in enumerate(one["members"]):
                of = f" [{member['target']}]" if member["target"] != "embeddings" else ""
                lines.append(
                    f"  {member['encoder']}, {member['features']}{of}, {member['recipe']}: held-out MRR "
                    f"{member['held_out_mrr']:.3f}, of the committee so far {one['held_out_mrr'][place]:.3f}"
                )
            lines.append(f"  chosen among {one['candidates']}, on {one['held_out']} held-out training images a seed")
        text.append("\n".join([*lines, _chance(rows[0])]))
    said = (
        "committee: mean of the similarities of all members and seeds, of which every response's own mean was taken "
        "off and which were divided by their SD; best member: the kind that is best by itself on held-out images, "
        "mean of the scores of its seeds; seeds averaged: these seeds' similarities averaged as a committee's are, "
        "before the pictures are ranked; members are chosen on held-out training images, never on the test; held-out "
        "MRR is what was maximised (the epochs of members were chosen on these images too), so it is optimistic, and "
        "no result"
    )
    return "\n\n".join([*text, _filled(said)])


# --- cells -----------------------------------------------------------------------------------------------------------


def _value(subjects: Subjects, get: Callable[[Score], float]) -> float:
    """Mean over subjects of the mean over seeds."""
    return float(np.mean([np.mean([get(score) for score in seeds]) for seeds in subjects]))


def _share(share: float) -> str:
    return f"{100 * share:.1f}"


def _mean(get: Callable[[Score], float], form: Callable[[float], str] = _share) -> Any:
    return lambda subjects: form(_value(subjects, get))


def seed_spread(subjects: Subjects) -> float | None:
    """Standard deviation of top-1 over seeds, of several subjects that of their mean; none where there is one seed."""
    by_seed = [{score["seed"]: score["top1"] for score in seeds} for seeds in subjects]
    seeds = set.intersection(*(set(found) for found in by_seed))
    if len(seeds) < 2 or any(set(found) != seeds for found in by_seed):
        return None
    return float(np.std([np.mean([found[seed] for found in by_seed]) for seed in sorted(seeds)], ddof=1))


def shown_interval(found: tuple[float, float] | None) -> str:
    return "-" if found is None else f"{100 * found[0]:.1f} to {100 * found[1]:.1f}"


def _spread_cell(subjects: Subjects) -> str:
    spread = seed_spread(subjects)
    return "-" if spread is None else f"{100 * spread:.1f}"


def _draws(way: str) -> tuple[Column, Column]:
    def spread(subjects: Subjects) -> str:
        return f"{100 * _value(subjects, lambda score: score['subset_galleries'][way]['top1_sd']):.1f}"

    title = way.replace("_", " ").replace("to brain", "to response").replace("image", "picture")
    return Column(f"{title}, top-1 %", _mean(lambda score: score["subset_galleries"][way]["top1"])), Column(
        "SD over draws", spread
    )


def _matched(subjects: Subjects) -> str:
    found = [score["transductive"]["one_to_one"] for seeds in subjects for score in seeds]
    if not all(found):
        return "-"
    return _mean(lambda score: score["transductive"]["one_to_one"]["top1"])(subjects)


def _rank(rank: float) -> str:
    return f"{rank:.3g}"


def _mrr(value: float) -> str:
    return f"{value:.3f}"


def _with_interval(
    measure: str, title: str, form: Callable[[float], str] = _share, get: Callable[[Score], float] | None = None
) -> Column:
    """A measure with its interval below it; ``get`` where a score does not hold it by its name."""

    def below(subjects: Subjects) -> str:
        ends = interval(subjects, measure)
        return "-" if ends is None else "–".join(map(form, ends))

    return Column(title, _mean(get or (lambda score: score[measure]), form), below)


def _n_way(ways: int) -> Column:
    return _with_interval(f"{ways}-way", f"{ways}-way %", get=lambda score: score["n_way"][str(ways)])


MAIN = (
    Column("top-1 %", _mean(lambda score: score["top1"])),
    Column("95 % interval", lambda subjects: shown_interval(interval(subjects))),
    Column("seed SD", _spread_cell),
    Column("top-5 %", _mean(lambda score: score["top5"])),
    Column("median rank", _mean(lambda score: score["median_rank"], _rank)),
    Column("MRR", _mean(lambda score: score["mrr"], _mrr)),
    Column("2-way %", _mean(lambda score: score["pairwise"])),
)
EVERY = (
    *(_with_interval(f"top{k}", f"top-{k} %") for k in TOP),
    _with_interval("median_rank", "median rank", _rank),
    _with_interval("mrr", "MRR", _mrr),
    _with_interval("pairwise", "2-way %"),
)
SMALL = (*_draws("brain_to_image"), *_draws("image_to_brain"))
WHOLE_BATCH = (
    Column("CSLS top-1 %", _mean(lambda score: score["transductive"]["csls"]["top1"])),
    Column("CSLS top-5 %", _mean(lambda score: score["transductive"]["csls"]["top5"])),
    Column("one-to-one top-1 %", _matched),
)
