"""How to find the same again: commands, what the tables and weights are known by, versions, seconds."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from alignvis.errors import AlignvisError
from alignvis.explanations.explain import read_explanation
from alignvis.recipe import RECIPES, Recipe
from alignvis.repetitions import read_curve
from alignvis.reports.analyses import Analysis
from alignvis.reports.analyses import command_of as analysis_command
from alignvis.reports.entries import Entry, command
from alignvis.reports.html import Html, code, commands, element, join, paragraph, table
from alignvis.reports.named import command_of
from alignvis.reports.numbers import DASH, number, plain
from alignvis.reports.preparing import extracted, prepared
from alignvis.reports.protocol import changed
from alignvis.runs import inputs_of
from alignvis.spans import spans

SHORT = 16  # digits of a digest that are shown where the whole of it stands in the record


def reproduce(
    entries: Sequence[Entry],
    root: Path,
    twins: Sequence[dict[str, Any]] = (),
    named: Sequence[dict[str, Any]] = (),
    together: bool = False,
    analysed: Sequence[Analysis] = (),
) -> list[Html]:
    """Commands, runs, tables, versions and recipes.

    Args:
        twins, named: comparisons of the page, of aligned encoders with their twins and those asked for by name.
        together: whether it shows committees.
        analysed: its results without a decoder.
    """
    made = [command(root, "compare")] if twins else []
    made += dict.fromkeys(command_of(row, root) for row in named)
    if together:
        made.append(command(root, "eval", "--committee", *(entry.name for entry in entries if entry.scores)))
    again = {one.path.name: analysis_command(one, root) for one in analysed}
    made += [line for line in again.values() if line]
    parts = [element("h3", "Commands"), commands(_commands(entries, root, made))]
    strange = [entry for entry in entries if not _known(entry.record["recipe"])]
    if strange:
        names = ", ".join(dict.fromkeys(entry.record["recipe"]["name"] for entry in strange))
        parts.append(paragraph(
            f"{names} is no recipe of the command line: these runs were trained in Python, by alignvis.train with the "
            "entries below.", kind="note"))  # fmt: skip
    elsewhere = dict.fromkeys(entry.record["features"] for entry in entries if extracted(entry, root) is None)
    if elsewhere:
        parts.append(paragraph(
            f"{', '.join(elsewhere)}: no image encoder of the catalogue. The table"
            f"{'s were' if len(elsewhere) > 1 else ' was'} made elsewhere and written by alignvis.write_features, in "
            "Python; no command makes it again, and its sha256 below says which it was.", kind="note"))  # fmt: skip
    unasked = [name for name, line in again.items() if line is None]
    if unasked:
        parts.append(paragraph(
            f"{', '.join(unasked)} cannot be made by the command line, which does not offer all choices that are "
            "stated there: alignvis.rsa and alignvis.encode do, in Python.", kind="note"))  # fmt: skip
    parts += _besides(entries, analysed)
    if any(entry.record["simulated"] for entry in entries):
        parts.append(paragraph("Simulated data are made again, to the byte, by the same alignvis simulate with the "
                               "same options.", kind="note"))  # fmt: skip
    return [*parts, *_runs(entries), *_tables(entries, analysed), *_versions(entries, analysed), *_recipes(entries)]


# --- commands --------------------------------------------------------------------------------------------------------


def _commands(entries: Sequence[Entry], root: Path, made: Sequence[str]) -> list[str]:
    lines = list(dict.fromkeys(prepared(entry, root) for entry in entries))
    lines += dict.fromkeys(line for entry in entries if (line := extracted(entry, root)))
    lines += _train(entries, root)
    names = [entry.name for entry in entries]
    lines.append(command(root, "eval", *names))
    lines += _beside(entries, root)
    lines += made
    lines.append(command(root, "report", *names))
    return lines


def _beside(entries: Sequence[Entry], root: Path) -> list[str]:
    """The commands that left curves and explanations beside these runs."""
    draws: dict[int, list[str]] = {}
    for entry in entries:
        with suppress(AlignvisError):  # the page has said so
            curve = read_curve(entry.path, entry.record, entry.scores["queries_fingerprint"]) if entry.scores else None
            if curve is not None:
                draws.setdefault(curve["draws"], []).append(entry.name)
    lines = [command(root, "eval", "--curve", "--draws", str(many), *names) for many, names in draws.items()]
    explained: dict[tuple[bool, Any, Any], list[str]] = {}
    for entry in entries:
        if (entry.path / "explain.json").is_file():
            with suppress(AlignvisError):
                found = read_explanation(entry.path)[0]
                about = found.get("occlusion") or {}
                key = found.get("retrained") is not None, number(about.get("width")), number(about.get("step"))
                explained.setdefault(key, []).append(entry.name)
    for (retrained, width, step), names in explained.items():
        words = ["--retrain"] * retrained
        for option, value, usual in (("--width", width, 0.05), ("--step", step, 0.025)):
            words += [option, f"{value:g}"] if value not in (None, usual) else []
        lines.append(command(root, "explain", *words, *names))
    return lines


def _train(entries: Sequence[Entry], root: Path) -> list[str]:
    """One command for all runs that differ in subject, seed and features alone, if they are every combination."""
    groups: dict[str, list[Entry]] = {}
    for entry in entries:
        record = entry.record
        pool = spans([*record["trained_on"], record["subject"]]) if record["protocol"] == "leave-out" else ""
        key = str((record["dataset"], record["encoder"], record["recipe"], pool))
        groups.setdefault(key, []).append(entry)
    lines = []
    for runs in groups.values():
        if not _known(runs[0].record["recipe"]):
            continue
        axes = [list(dict.fromkeys(entry.record[key] for entry in runs)) for key in ("subject", "features", "seed")]
        whole = len(runs) == len(axes[0]) * len(axes[1]) * len(axes[2])
        lines += [_train_line(part, root) for part in ([runs] if whole else [[run] for run in runs])]
    return lines


def _train_line(runs: Sequence[Entry], root: Path) -> str:
    record = runs[0].record
    recipe = record["recipe"]
    base = recipe["name"].partition("+")[0]
    subjects = [entry.record["subject"] for entry in runs]
    if record["protocol"] == "leave-out":
        subjects += record["trained_on"]
    words = ["train", "--dataset", record["dataset"], "--subject", spans(subjects)]
    for features in dict.fromkeys(entry.record["features"] for entry in runs):
        words += ["--features", features]
    words += ["--encoder", record["encoder"], "--recipe", base]
    words += ["--seed", spans([entry.record["seed"] for entry in runs])]
    words += ["--leave-out"] * (record["protocol"] == "leave-out")
    for key, value, _ in changed(recipe, RECIPES[base]) if base in RECIPES else []:
        option = key.replace("_", "-")
        words += (
            [f"--{option}" if value else f"--no-{option}"] if isinstance(value, bool) else [f"--{option}", f"{value}"]
        )
    return command(root, *words)


def _known(recipe: dict[str, Any]) -> bool:
    return recipe["name"].partition("+")[0] in RECIPES


def _besides(entries: Sequence[Entry], analysed: Sequence[Analysis]) -> list[Html]:
    """What results are of that no run is, so that no command above prepares or extracts it."""
    subjects = {subject for one in analysed for subject in one.result["subjects"]}
    subjects -= {subject for entry in entries for subject in (*entry.record["trained_on"], entry.record["subject"])}
    embeddings = list(dict.fromkeys(row["features"] for one in analysed for row in one.result["features"]))
    embeddings = [name for name in embeddings if name not in {entry.record["features"] for entry in entries}]
    more = [f"subject{'s' * (len(subjects) > 1)} {spans(sorted(subjects))}"] if subjects else []
    more += [f"embeddings of {', '.join(embeddings)}"] if embeddings else []
    if not more:
        return []
    return [paragraph(f"Results without a decoder are also of {' and of '.join(more)}, which no run of this page is "
                      "of: prepare and extract these alike.", kind="note")]  # fmt: skip


# --- facts -----------------------------------------------------------------------------------------------------------


def _runs(entries: Sequence[Entry]) -> list[Html]:
    rows = []
    for entry in entries:
        record = entry.record
        best = next((row["epoch"] + 1 for row in reversed(record["history"]) if row["best"]), None)
        number_of = element("span", f"[{entry.number}]", attributes={"id": f"run-{entry.number}"})
        rows.append([
            join(number_of, " ", code(entry.name)), code(record["weights_sha256"][:SHORT]), str(record["seed"]),
            f"{best} of {len(record['history'])}", plain(record["seconds"], 4), str(record.get("device", DASH)),
            str(record.get("threads", DASH)), str(record.get("stack", DASH)),
        ])  # fmt: skip
    head = ("run", "weights, sha256", "seed", "best epoch", "seconds", "device", "threads", "trained together")
    caption = join(element("strong", "Runs."), " Each a folder in ", code("runs/"), " with record.json, which says "
        "this "
                   "and more; digests are cut to 16 digits here and whole there.")  # fmt: skip
    return [element("h3", "Runs"), table(caption, head, rows, names=2)]


def _tables(entries: Sequence[Entry], analysed: Sequence[Analysis]) -> list[Html]:
    found: dict[tuple[str, str], set[int]] = {}
    for entry in entries:
        used = inputs_of(entry.record)
        queries = entry.record["inputs"]["queries"]
        used += [queries] if queries["fingerprint"] else []
        for one in used:
            path = "/".join(part for part in Path(one["path"]).parts if part != "..")
            found.setdefault((path, one["fingerprint"]), set()).add(entry.number)
        if not queries["fingerprint"] and entry.scores:
            path = "/".join(part for part in Path(queries["path"]).parts if part != "..")
            found.setdefault((path, entry.scores["queries_fingerprint"]), set()).add(entry.number)
    rows = [
        [code(path), element("code", digest), spans(sorted(runs)).replace("-", "–").replace(",", ", ")]
        for (path, digest), runs in found.items()
    ]
    others: dict[tuple[str, str], dict[str, None]] = {}
    for one in analysed:
        for table_of in (*one.result["responses"], *one.result["features"]):
            if table_of["fingerprint"] not in {digest for _, digest in found}:
                path = "/".join(Path(table_of["path"]).parts[-3:])  # a result has it as it was opened, a run from ROOT
                others.setdefault((path, table_of["fingerprint"]), {})[one.path.stem] = None
    rows += [[code(path), element("code", digest), ", ".join(names)] for (path, digest), names in others.items()]
    caption = join(element("strong", "Tables."), " sha256 of the whole file, as stated by the records",
                   " and results." if others else ".")  # fmt: skip
    return [
        element("h3", "Tables"),
        table(caption, ("table", "sha256", "runs or results" if others else "runs"), rows, names=3 if others else 2),
    ]


def _versions(entries: Sequence[Entry], analysed: Sequence[Analysis]) -> list[Html]:
    held = [(entry.number, entry.record.get("versions")) for entry in entries]
    held += [(one.path.stem, one.result["versions"]) for one in analysed]
    known = {str(name): None for _, versions in held if isinstance(versions, dict) for name in versions}
    if not known:
        return []
    rows: dict[tuple[str, ...], list[int | str]] = {}
    for made, versions in held:
        row = tuple(str(versions.get(name, DASH)) if isinstance(versions, dict) else DASH for name in known)
        rows.setdefault(row, []).append(made)
    lines = []
    for row, made in rows.items():
        runs = spans([one for one in made if isinstance(one, int)]).replace("-", "–").split(",")
        lines.append([", ".join([*filter(None, runs), *(one for one in made if isinstance(one, str))]), *row])
    caption = join(element("strong", "Versions."), " Of what the runs were trained with",
                   ", and the results made." if analysed else ".")  # fmt: skip
    seconds = [number(entry.record["seconds"]) for entry in entries]
    total = sum(value for value in seconds if value is not None)
    head = ("runs or results" if analysed else "runs", *known)
    return [element("h3", "Versions and time"), table(caption, head, lines, names=1),
            paragraph(f"Training took {total:,.0f} s in all (seconds of runs that were trained together overlap).",
                      kind="note")]  # fmt: skip


def _recipes(entries: Sequence[Entry]) -> list[Html]:
    recipes = list({str(entry.record["recipe"]): entry.record["recipe"] for entry in entries}.values())
    usual, helps = asdict(RECIPES["alignvis"]), {entry.name: entry.metadata["help"] for entry in fields(Recipe)}
    keys = [*dict.fromkeys(key for recipe in recipes for key in recipe if key != "name")]
    rows = []
    for key in keys:
        values = [str(recipe.get(key, DASH)) for recipe in recipes]
        differs = any(recipe.get(key) != usual.get(key) for recipe in recipes)
        cells = [element("strong", value) if differs else value for value in values]
        rows.append([code(key), *cells, helps.get(key, "")])
    caption = join(element("strong", "Recipes."), " Every entry; in bold where one differs from the published recipe.")
    head = ("entry", *(recipe["name"] for recipe in recipes), "what it is")
    return [element("h3", "Recipes"), table(caption, head, rows, names=len(head))]
