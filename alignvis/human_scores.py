"""How human the embeddings of features tables are, beside what was decoded through them. Nothing is trained here."""

import os
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alignvis import alignment, store
from alignvis.errors import AlignvisError
from alignvis.finding import holding
from alignvis.human import Human, by_concept, read_human
from alignvis.progress import Progress, silent
from alignvis.runs import all_runs, read_record, read_scores, stated_path
from alignvis.stats import student, wilson

# what must be equal for the scores of two runs to be averaged
ALIKE = (
    "dataset",
    "simulated",
    "brain",
    "recipe",
    "validation",
    "protocol",
    "pool",
    "n",
    "gallery",
    "repetitions",
    "chance",
)
IN_SAMPLE = "gLocal_"  # encoders aligned by people's choices among these very concepts, if of other pictures
ENOUGH = 100  # human choices, for a share of them to be worth ordering by
WIDTH = 110  # of the text
HEAD = ("features", "concepts", "people %", "choices", "48 obj.", "SPoSE", "agree %", "top-1 %", "runs")
PROTOCOLS = {"within": "trained on the same subject", "leave-out": "trained on other subjects"}


def _raise(error: AlignvisError) -> None:
    raise error


def score_tables(
    root: Path,
    paths: Sequence[Path] = (),
    things: Path | None = None,
    triplets: Path | None = None,
    *,
    target: str = "embeddings",
    broken: Callable[[AlignvisError], None] = _raise,
    progress: Progress = silent,
) -> list[dict[str, Any]]:
    """Compare embeddings with people, and put beside each how well brains were read through it.

    Args:
        paths: features tables; none means all in ``root/features``.
        things: folder of the human data; none means ``root/things``. See `alignvis.human` for its files.
        triplets: a file of people's choices to use instead of the folder's.
        target: what of the tables to take, as in `store.load_features`; only runs that learned it are read.
        broken: told of each table that cannot be scored and each run that cannot be read; by default the first one
            ends the call.

    Returns:
        One row a table, for JSON: what the table is (``encoder``, ``target``, ``aligned``, ``twin``, ``dim``,
        ``image_set``, ``in_sample``: whether it was fitted to choices among these concepts, ``simulated``: whether its
        pictures are), the ``concepts`` that it shows and the ``images`` of each
        (``min``, ``max``), and

        - ``people``: share of human triplets answered as people did, by ``cosine`` (ties for people's pair are right)
          and by ``dot`` of the standardised embeddings (ties are wrong);
        - ``objects``: correlation with people's similarity of 48 objects, of the ``cosine`` and of the ``choice``
          probabilities that plain dot products give, Pearson and Spearman;
        - ``surrogate``: against SPoSE, a model fitted to people's choices: Spearman of the cosines with its
          ``cosine`` and ``dot`` similarities, and the share of all triplets with the same odd one (``agreement``);
        - ``retrieval``: scores of runs that learned this of the table, averaged over runs alike; ``unscored`` counts
          the runs that have no score yet, ``other_targets`` names what other runs learned of it;
        - ``missing``: a sentence for each file of human data that is not there.

        What cannot be computed is none.

    Raises:
        AlignvisError: when there is no table, or as `alignvis.human.read_human` does.
    """
    tables = list(paths) or _all_tables(root, target)
    human = read_human(things if things is not None else root / "things", triplets)
    runs = _runs(root, broken)
    rows = []
    for done, path in enumerate(tables):
        try:
            rows.append(_row(path, target, human, runs, _within(progress, done, len(tables))))
        except AlignvisError as error:
            broken(error)
    return rows


def _all_tables(root: Path, target: str) -> list[Path]:
    """Those that hold what is asked for."""
    tables = sorted((root / "features").glob("*/*.safetensors"))
    if not tables:
        raise AlignvisError(f"there are no features in {root / 'features'}; make them with: alignvis extract")
    return tables if target == "embeddings" else holding(tables, target)  # a damaged table is told by its row


def _within(progress: Progress, done: int, total: int) -> Progress:
    """Tell how far a table is as a part of all tables."""

    def part(now: int, of: int, text: str, note: str = "") -> None:
        progress(done * of + now, total * of, f"{text} (table {done + 1} of {total})", note)

    return part


def _row(path: Path, target: str, human: Human, runs: Sequence[dict[str, Any]], progress: Progress) -> dict[str, Any]:
    table = store.load_features(path, target)
    document = table.document
    embedded = by_concept(table, human.concepts)
    same = [run for run in runs if run["features"] == document["encoder"] and run["image_set"] == _image_set(path)]
    mine = [run for run in same if run["target"] == target]
    scored = [run for run in mine if "top1" in run]
    cosines = alignment.cosine(embedded.embeddings)
    return {
        "table": str(path),
        "image_set": _image_set(path),
        "encoder": document["encoder"],
        "target": target,
        "aligned": document["aligned"],
        "twin": document["twin"],
        "dim": table.embeddings.shape[1],
        "in_sample": document["encoder"].startswith(IN_SAMPLE) and document["aligned"],
        "simulated": bool(document.get("simulated", False)),
        "concepts": len(embedded.rows),
        "images": {"min": int(embedded.images.min()), "max": int(embedded.images.max())},
        "people": _people(human, embedded.rows, embedded.embeddings, cosines),
        "objects": _objects(human, embedded.rows, embedded.embeddings),
        "surrogate": _surrogate(human, embedded.rows, cosines, progress),
        "retrieval": _retrieval(scored),
        "unscored": len(mine) - len(scored),
        "other_targets": sorted({run["target"] for run in same} - {target}),
        "missing": human.missing,
    }


def _image_set(table: Path) -> str:
    """The folder that a features table lies in is named after its pictures."""
    return Path(os.path.abspath(table)).parent.name


# --- people ----------------------------------------------------------------------------------------------------------


def _people(
    human: Human, rows: NDArray[np.int64], embeddings: NDArray[np.float64], cosines: NDArray[np.float32]
) -> dict[str, Any] | None:
    if human.triplets is None:
        return None
    place = np.full(len(human.concepts), -1)
    place[rows] = np.arange(len(rows))
    triplets = place[human.triplets]
    triplets = triplets[(triplets >= 0).all(axis=1)]
    about = {"file": human.triplets_from, "n": len(triplets), "of": len(human.triplets)}
    if not len(triplets):
        return about | {"cosine": None, "dot": None}
    dots = alignment.dot(alignment.standardised(embeddings))
    return about | {
        "cosine": alignment.accuracy(alignment.odd_one_out(cosines, triplets, strict=False)),
        "dot": alignment.accuracy(alignment.odd_one_out(dots, triplets, strict=True)),
    }


def _objects(human: Human, rows: NDArray[np.int64], embeddings: NDArray[np.float64]) -> dict[str, Any] | None:
    if human.objects is None or human.dissimilarities is None:
        return None
    here = np.flatnonzero(np.isin(human.objects, rows))
    about: dict[str, Any] = {"n": len(here), "of": len(human.objects), "cosine": None, "choice": None}
    if len(here) < 3:  # a choice takes three
        return about
    shown = embeddings[np.searchsorted(rows, human.objects[here])]
    people = 1 - human.dissimilarities[np.ix_(here, here)]
    for name, found in (
        ("cosine", alignment.cosine(shown)),
        ("choice", alignment.choice_similarity(alignment.dot(shown))),
    ):
        about[name] = {
            "pearson": alignment.correlation(found, people, ranked=False),
            "spearman": alignment.correlation(found, people, ranked=True),
        }
    return about


def _surrogate(
    human: Human, rows: NDArray[np.int64], cosines: NDArray[np.float32], progress: Progress
) -> dict[str, Any] | None:
    if human.spose is None or len(rows) < 3:
        return None
    spose = human.spose[rows]
    dots = alignment.dot(spose)
    return {
        "of": "SPoSE, 66 dimensions: a model fitted to people's choices, not people",
        "cosine": alignment.correlation(cosines, alignment.cosine(spose), ranked=True),
        "dot": alignment.correlation(cosines, dots, ranked=True),
        "agreement": alignment.agreement(cosines, dots, progress),
    }


# --- brains ----------------------------------------------------------------------------------------------------------


def _runs(root: Path, broken: Callable[[AlignvisError], None]) -> list[dict[str, Any]]:
    """Read what every run learned from and, if it was scored, how well it did."""
    found = []
    for run in all_runs(root):
        try:
            record = read_record(run)
            about = {"features": record["features"], "simulated": record["simulated"]}
            about |= {"target": record["recipe"].get("target", "embeddings")}
            about |= {"image_set": stated_path(run, record["inputs"]["features"]).parent.name}
            if (run / "scores.json").is_file():
                score = read_scores(run, record)
                if not 0 <= score["top1"] <= 1 or score["protocol"] not in PROTOCOLS:
                    raise AlignvisError(
                        f"the scores in {run} state a top-1 of {score['top1']} and the protocol {score['protocol']!r}, "
                        "which cannot be; score it again with: alignvis eval --overwrite"
                    )
                about |= {key: score[key] for key in ("dataset", "recipe", "validation", "protocol", "n", "gallery")}
                about |= {key: score[key] for key in ("repetitions", "subject", "seed", "top1", "top1_interval")}
                about |= {"brain": score["encoder"], "chance": score["top1_chance"]}
                pooled = {*score["trained_on"], score["subject"]} if score["protocol"] == "leave-out" else ()
                about |= {"simulated": score["simulated"], "pool": tuple(sorted(pooled))}
            found.append(about)
        except AlignvisError as error:
            broken(error)
    return found


def _retrieval(runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    groups: dict[tuple, list[dict[str, Any]]] = {}
    for run in runs:
        groups.setdefault(tuple(run[key] for key in ALIKE), []).append(run)
    return [dict(zip(ALIKE, key, strict=True)) | _mean(groups[key]) for key in sorted(groups)]


def _mean(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Average over seeds, then over subjects.

    The interval is Student's over subjects, as runs of one subject are no independent answers; of one subject it is
    Wilson's over the test images, which all seeds share.
    """
    subjects: dict[int, list[float]] = {}
    for run in runs:
        subjects.setdefault(run["subject"], []).append(run["top1"])
    means = [float(np.mean(top1)) for top1 in subjects.values()]
    top1, count = float(np.mean(means)), len(means)
    if count == 1:
        interval: list[float] | None = list(wilson(top1, runs[0]["n"]))
    elif len(set(means)) == 1:
        interval = None  # equal subjects do not tell how others differ
    else:
        interval = list(student(means))
    return {
        "top1": top1,
        "interval": interval,
        "interval_over": "test images" if count == 1 else "subjects",
        "runs": len(runs),
        "subjects": sorted(subjects),
        "seeds": sorted({run["seed"] for run in runs}),
    }


# --- to read ---------------------------------------------------------------------------------------------------------


def common_kind(rows: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """The kind of runs that most tables have scores of: like is compared with like. None if no table has any."""
    kinds = [{key: one[key] for key in ALIKE} for row in rows for one in row["retrieval"]]
    return max(kinds, key=kinds.count, default=None)


def retrieval_of(row: dict[str, Any], kind: dict[str, Any] | None) -> dict[str, Any] | None:
    """What a row says of runs of this kind."""
    return next((one for one in row["retrieval"] if {key: one[key] for key in ALIKE} == kind), None)


def alignment_table(rows: Sequence[dict[str, Any]]) -> str:
    """Lay out rows of `score_tables`, most human first, and say below what the columns mean."""
    kind = common_kind(rows)
    lines = [HEAD, *(_cells(row, retrieval_of(row, kind)) for row in sorted(rows, key=_place))]
    widths = [max(len(line[i]) for line in lines) for i in range(len(HEAD))]
    widths[0] = min(widths[0], WIDTH - sum(widths[1:]) - 2 * len(widths[1:]))
    text = ["  ".join("-" * width for width in widths)]
    for place, (name, *numbers) in enumerate(lines):
        if len(name) > widths[0]:  # a name too long for its column has a line of its own
            text.append(name)
            name = ""
        line = "  ".join(cell.ljust(width) for cell, width in zip((name, *numbers), widths, strict=True)).rstrip()
        text.insert(0, line) if place == 0 else text.append(line)
    notes = [textwrap.fill(note, WIDTH, subsequent_indent="  ") for note in _notes(rows, kind)]
    return "\n".join([*text, "", *notes])


def _place(row: dict[str, Any]) -> tuple[float, float]:
    people, model = (row["people"] or {}).get("cosine"), (row["surrogate"] or {"cosine": {}})["cosine"].get("value")
    return (-people["value"] if people and people["n"] >= ENOUGH else 0.0, -model if model is not None else 1.0)


def _cells(row: dict[str, Any], decoded: dict[str, Any] | None) -> tuple[str, ...]:
    people = (row["people"] or {}).get("cosine")
    objects = ((row["objects"] or {}).get("cosine") or {}).get("spearman") or {}
    model = row["surrogate"] or {"cosine": {}, "agreement": None}
    name = row["encoder"] + " *" * row["aligned"] + " (SIMULATED)" * row["simulated"]
    return (
        name,
        str(row["concepts"]),
        _share(people),
        str(people["n"]) if people else "-",
        _number(objects.get("value")),
        _number(model["cosine"].get("value")),
        f"{100 * model['agreement']['value']:.1f}" if model["agreement"] else "-",
        _share(decoded and {"value": decoded["top1"], "interval": decoded["interval"]}),
        str(decoded["runs"]) if decoded else "-",
    )


def _share(score: dict[str, Any] | None) -> str:
    if score is None:
        return "-"
    spread = f" ({100 * score['interval'][0]:.0f}-{100 * score['interval'][1]:.0f})" if score["interval"] else ""
    return f"{100 * score['value']:.1f}{spread}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _notes(rows: Sequence[dict[str, Any]], kind: dict[str, Any] | None) -> list[str]:
    notes = ["*: aligned to human judgements. In brackets: 95 % intervals."]
    notes += [f"of {row['target']}, not of the encoder's end" for row in rows[:1] if row["target"] != "embeddings"]
    files = sorted({row["people"]["file"] for row in rows if row["people"]})
    if files:
        notes.append(
            f"people: human odd-one-out choices ({', '.join(files)}) answered alike by cosine, of those whose three "
            f"concepts are in the table; chance {alignment.CHANCE:.1%}, noise ceiling (Brain-Score) "
            f"{alignment.CEILING:.1%}"
        )
    if any(row["objects"] for row in rows):
        counts = sorted({row["objects"]["n"] for row in rows if row["objects"]})
        span = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
        notes.append(f"48 obj.: Spearman with people's similarity of 48 objects, of which {span} are in the tables")
    if any(row["surrogate"] for row in rows):
        notes.append(
            "SPoSE: a SURROGATE, fitted to people's choices: Spearman of the similarities of all concepts; agree: the "
            f"same odd one in all triplets, chance {alignment.CHANCE:.1%}"
        )
    if kind is not None:
        brain = " (SIMULATED brain)" if kind["simulated"] else ""
        notes.append(
            f"top-1: {kind['dataset']}{brain} through {kind['brain']}, {PROTOCOLS[kind['protocol']]}, recipe "
            f"{kind['recipe']}, validation by {kind['validation']}, among {kind['gallery']} pictures, "
            f"{kind['repetitions']} repetitions; chance {kind['chance']:.1%}; interval over subjects, of one subject "
            "over pictures"
        )
    others = sum(retrieval_of(row, kind) != one for row in rows for one in row["retrieval"])
    if others:
        notes.append(f"scores of {others} other kind{'s' * (others > 1)} of runs are not shown here; --json gives all")
    unscored = sum(row["unscored"] for row in rows)
    if unscored:
        notes.append(f"{unscored} run{'s have' if unscored > 1 else ' has'} no score yet: alignvis eval")
    if any(row["images"]["max"] > 1 for row in rows):
        low, high = min(row["images"]["min"] for row in rows), max(row["images"]["max"] for row in rows)
        span = f"{low}" if low == high else f"{low} to {high}"
        notes.append(f"embeddings are means over {span} images of a concept")
    if any(row["in_sample"] for row in rows):
        notes.append("gLocal was fitted to people's choices among these concepts: its scores are in-sample")
    return notes + [sentence for sentence in dict.fromkeys(line for row in rows for line in row["missing"])]
