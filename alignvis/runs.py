"""A run on disk: written whole or not at all, each claim in it traceable to its files."""

import difflib
import fnmatch
import json
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from shlex import quote
from types import NoneType
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from alignvis import files, store
from alignvis.decoder import Decoder
from alignvis.errors import AlignvisError
from alignvis.recipe import LATER, Recipe
from alignvis.retrieval import MEASURES
from alignvis.store import Features

NUMBER = (int, float)
LARGEST = 2**31  # channels, times or numbers of an embedding
NEAR = 3  # names of runs in a sentence, of many
TABLE = {"path": str, "fingerprint": str}
RECORD = {  # what the record of a run must hold for it to be scored and listed
    **{key: str for key in ("dataset", "encoder", "features", "protocol", "weights_sha256")},
    **{key: int for key in ("version", "subject", "seed")},
    **{key: bool for key in ("simulated", "aligned")},
    "twin": (str, NoneType),
    "shape": {"channels": int, "times": int, "dim": int},
    "recording": dict,
    "channels": [str],
    "trained_on": [int],
    "recipe": {"name": str},
    "inputs": {"responses": [TABLE], "features": TABLE, "queries": {"path": str, "fingerprint": (str, NoneType)}},
    "split": {"train": [str], "validation": [str]},
    "history": [{"epoch": int, "best": bool, "held_out_top1": NUMBER}],
    "seconds": NUMBER,
}
DIRECTION = {key: NUMBER for key in MEASURES}
INTERVALS = {f"{key}_interval": [NUMBER] if key.startswith("top") else (list, NoneType) for key in MEASURES}
MEASURED = {**DIRECTION, **INTERVALS, "ranks": [int]}
SCORES = {
    **{key: str for key in ("dataset", "encoder", "features", "protocol", "recipe", "validation", "weights_sha256")},
    **{key: str for key in ("target", "galleries", "queries_fingerprint", "similarity_sha256", "images_sha256")},
    **{key: int for key in ("n", "gallery", "repetitions", "subject", "seed", "answers")},
    **{key: bool for key in ("simulated", "aligned")},
    "trained_on": [int],
    **MEASURED,
    **{f"{key}_chance": NUMBER for key in DIRECTION},
    **{key: dict for key in ("n_way", "n_way_interval")},
    "image_to_brain": MEASURED,
    "transductive": {"csls": {"top1": NUMBER, "top5": NUMBER}, "one_to_one": (dict, NoneType)},
    "leakage": {key: int for key in ("train", "validation", "test", "shared_images", "shared_concepts")},
    "reliability": (*NUMBER, NoneType),
    **{key: (dict, NoneType) for key in ("trials", "subset_galleries", "class_centres")},
}
WITHIN_SCORES = {  # what those hold that need not be there
    "trials": {"min": NUMBER, "max": NUMBER, "mean": NUMBER},
    "subset_galleries": {
        **{"chance": NUMBER, **{key: int for key in ("size", "draws")}},
        **{way: {"top1": NUMBER, "top1_sd": NUMBER} for way in ("brain_to_image", "image_to_brain")},
    },
    "class_centres": {
        **{**MEASURED, **{f"{key}_chance": NUMBER for key in DIRECTION}},
        **{"gallery": int, "table": str},
    },
}
SHARED = ("dataset", "simulated", "subject", "encoder", "features", "aligned", "seed", "protocol", "trained_on")


def run_name(
    dataset: str,
    subject: int,
    features: Features,
    encoder: str,
    recipe_name: str,
    seed: int,
    trained_on: Sequence[int] = (),
) -> str:
    """The folder of a run, from what tells it apart from others; ``trained_on`` if it is not the subject itself."""
    image_encoder = features.document["encoder"]
    for name, said_by in ((dataset, "the responses' dataset"), (image_encoder, features.path)):
        if not re.fullmatch(r"\w[\w.+-]{0,99}", name):
            raise AlignvisError(f"{said_by} is called {name!r}, which cannot be part of a folder's name; make it again")
    others = "-from-" + "-".join(f"{number:02d}" for number in trained_on) if trained_on else ""
    return "_".join([dataset, f"sub-{subject:02d}{others}", image_encoder, encoder, recipe_name, f"seed-{seed}"])


def all_runs(root: Path) -> list[Path]:
    """List the whole runs in a root, by name."""
    return sorted(path.parent for path in (root / "runs").glob("*/record.json") if path.parent.suffix != ".partial")


def matching_runs(root: Path, word: str | Path) -> list[Path]:
    """The whole runs that a word names: a folder, a name in ``root/runs``, or a pattern of names like "*_nice_*".

    A pattern behind a folder is of the names in that folder. Empty if nothing is named.
    """
    word = Path(word)
    if (word / "record.json").is_file():
        return [word] if word.resolve().suffix != ".partial" else []
    return [run for run in _beside(root, word) if fnmatch.fnmatchcase(run.name, word.name)]


def named_runs(root: Path, words: Sequence[str | Path] = ()) -> list[Path]:
    """The folders of runs that words name, each once: as `matching_runs`, or a part that a single name has.

    No words name all whole runs. A folder that is no run is handed back, for `read_record` to say what it lacks.

    Raises:
        AlignvisError: when a word names no run, or is a part of several names.
    """
    found = [run for word in map(Path, words) for run in matching_runs(root, word) or [_by_part(root, word)]]
    return list({run.resolve(): run for run in (found if words else all_runs(root))}.values())


def named_run(root: Path, word: str | Path) -> Path:
    """The folder of the one run that a word names, as `named_runs`.

    Raises:
        AlignvisError: when it names no run, or several.
    """
    found = named_runs(root, [word])
    if len(found) > 1:
        raise AlignvisError(f"{str(word)!r} names {_some([run.name for run in found])}; name one")
    return found[0]


def _beside(root: Path, word: Path) -> list[Path]:
    """The whole runs among which a word is looked for: those of its own folder if it has one, else of the root's."""
    folder = word.parent if len(word.parts) > 1 else root / "runs"
    return sorted(path.parent for path in folder.glob("*/record.json") if path.parent.suffix != ".partial")


def _by_part(root: Path, word: Path) -> Path:
    runs = _beside(root, word)
    having = [run for run in runs if word.name in run.name]
    if len(having) == 1:
        return having[0]
    if word.is_dir():
        return word
    if having:
        raise AlignvisError(
            f"{word.name!r} is a part of the names of {_some([run.name for run in having])}; give a part that only one "
            f"has, or, where several runs may be named, the pattern '*{word.name}*'"
        )
    raise AlignvisError(_no_run(word, word.parent if len(word.parts) > 1 else root / "runs", runs))


def _no_run(word: Path, folder: Path, runs: Sequence[Path]) -> str:
    if not runs:
        return f"there is no run {word}, and no other in {folder}; make one with: alignvis train --subject 1"
    near = difflib.get_close_matches(word.name, [run.name for run in runs], n=NEAR, cutoff=0)
    return (
        f"there is no run {word}; of the {len(runs)} in {folder} the nearest {'are' if len(near) > 1 else 'is'} "
        f"{', '.join(near)}; a part of a name that no other has is enough"
    )


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - NEAR} more" if len(names) > NEAR else ""
    return f"{len(names)} runs ({', '.join(names[:NEAR])}{more})"


def read_record(run: Path) -> dict[str, Any]:
    """Read what a run says of itself; a folder that is not a whole run is refused with a sentence."""
    if not run.is_dir():
        raise AlignvisError(_no_run(run, run.parent, _beside(Path(), run) if len(run.parts) > 1 else []))
    if not (run / "record.json").is_file():
        raise AlignvisError(f"{run} is not a run: it has no record.json; name a folder that `alignvis train` made")
    record = files.read_json(run / "record.json")
    wrong = [key for key, pattern in RECORD.items() if not files.fits(record, {key: pattern})]
    if "history" not in wrong and not any(row["best"] for row in record["history"]):
        wrong.append("history")
    shape = record["shape"] if "shape" not in wrong else {}
    if "shape" not in wrong and shape.keys() != RECORD["shape"].keys():
        wrong.append("shape")
    wrong += [key for key, size in shape.items() if not 0 < size < LARGEST]
    if "version" not in wrong and record["version"] < 1:
        wrong.append("version")
    if wrong:
        raise AlignvisError(
            f"{run / 'record.json'} does not state {', '.join(wrong)} as a run's record does; "
            "if it is of an earlier alignvis, train it again with --overwrite"
        )
    if record["version"] > store.VERSION:
        raise AlignvisError(
            f"{run} was written by a newer alignvis (format version {record['version']}); update alignvis"
        )
    return record


def score_again(run: Path) -> str:
    """What to do where the scores of a run cannot be believed, as the end of a sentence."""
    return f"score it again with: alignvis eval {quote(str(run))} --overwrite"


def read_scores(run: Path, record: dict[str, Any]) -> dict[str, Any]:
    """Read the scores of a run; what `evaluate_run` did not write for these weights is refused with a sentence."""
    again = score_again(run)
    scores = files.read_json(run / "scores.json", again)
    wrong = [key for key, pattern in SCORES.items() if not files.fits(scores, {key: pattern})]
    if not wrong:
        wrong = [key for key, pattern in WITHIN_SCORES.items() if scores[key] and not files.fits(scores[key], pattern)]
        wrong += [key for key in DIRECTION if not _possible(key, scores[key], scores["gallery"])]
        wrong += [key for key in ("n", "gallery") if scores[key] < 1]
        wrong += ["seed"] * ("seeds" in scores)  # that is what a committee has
        wrong += ["ranks"] * (not _ranked(scores["ranks"], scores["n"], scores["gallery"]))
        wrong += ["image_to_brain"] * (not _ranked(scores["image_to_brain"]["ranks"], scores["gallery"], scores["n"]))
        wrong = wrong or _impossible(scores)
    if wrong or scores["weights_sha256"] != record["weights_sha256"]:
        more = f" and {len(wrong) - 4} more" if len(wrong) > 4 else ""
        what = f"do not state {', '.join(wrong[:4])}{more}" if wrong else "are of other weights"
        raise AlignvisError(f"the scores in {run} {what}; score it again with: alignvis eval --overwrite")
    recipe = record["recipe"]
    stated = {key: record[key] for key in SHARED} | {"recipe": recipe["name"]}
    stated |= {key: recipe[key] for key in ("target", "validation") if key in recipe}
    other = [key for key, value in stated.items() if scores[key] != value]
    if other:
        raise AlignvisError(f"the scores in {run} state another {', '.join(other)} than its record; {again}")
    return scores


def _impossible(scores: dict[str, Any]) -> list[str]:
    """What cannot be, of the parts of scores that do not follow from the similarities stored beside them."""
    centres, small, wrong = scores["class_centres"], scores["subset_galleries"], []
    if centres:
        within = all(_possible(key, centres[key], centres["gallery"]) for key in DIRECTION)
        whole = centres["gallery"] <= scores["n"] and _ranked(centres["ranks"], scores["n"], centres["gallery"])
        wrong += ["class_centres"] * (not within or not whole)
    if small:
        shares = [small[way][key] for way in ("brain_to_image", "image_to_brain") for key in ("top1", "top1_sd")]
        drawn = 1 < small["size"] <= scores["gallery"] and small["draws"] > 0
        known = drawn and abs(small["chance"] - 1 / small["size"]) < 1e-9
        wrong += ["subset_galleries"] * (not known or not all(0 <= share <= 1 for share in shares))
    trials, reliability = scores["trials"], scores["reliability"]
    wrong += ["trials"] * (bool(trials) and not 1 <= trials["min"] <= trials["mean"] <= trials["max"])
    wrong += ["repetitions"] * (scores["repetitions"] < 1)
    return wrong + ["reliability"] * (reliability is not None and not -1e6 < reliability <= 1)


def _ranked(ranks: Sequence[int], queries: int, gallery: int) -> bool:
    """Whether these are ranks of so many queries among so many."""
    return len(ranks) == queries and min(ranks, default=0) >= 1 and max(ranks) <= gallery


def _possible(key: str, value: float, gallery: int) -> bool:
    return 1 <= value <= gallery if key == "median_rank" else 0 <= value <= 1


def read_recipe(run: Path, record: dict[str, Any]) -> Recipe:
    """The recipe that a run was trained by."""
    known = {entry.name: entry.type for entry in fields(Recipe)}
    stated = {key: value for key, value in record["recipe"].items() if key != "name"}
    try:
        differing = stated.keys() ^ known.keys()
        if stated.keys() - known.keys() or differing - set(LATER):
            raise AlignvisError(f"it differs in {', '.join(sorted(differing))}")
        return Recipe(**stated)
    except (AlignvisError, TypeError, AttributeError) as error:
        raise AlignvisError(
            f"{run / 'record.json'} does not state a recipe of this alignvis ({error}); train again"
        ) from error


def write_run(
    out: Path, record: dict[str, Any], state: dict[str, torch.Tensor], overwrite: bool = False
) -> dict[str, Any]:
    """Write a run's folder, whole or not at all, and return its record, completed.

    Args:
        state: of the decoder, on the CPU.
        overwrite: replace a run that is there, once the new one is whole.
    """
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        about = {"table": "weights", "encoder": record["encoder"]}
        save_tensors(state, partial / "weights.safetensors", about)
        record = record | {"weights_sha256": store.fingerprint(partial / "weights.safetensors")}
        files.write_json(partial / "record.json", record)
        _put(partial, out, overwrite)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return record


def _put(partial: Path, out: Path, overwrite: bool) -> None:
    """Give a whole run its name; the one that had it is only removed once the new one is there."""
    old = out.with_name(out.name + ".old.partial")
    if overwrite and os.path.lexists(out):
        shutil.rmtree(old, ignore_errors=True)
        os.rename(out, old)
    try:
        os.rename(partial, out)
    except BaseException:
        if os.path.lexists(old) and not os.path.lexists(out):
            os.rename(old, out)
        raise
    if old.is_symlink() or old.is_file():
        old.unlink()
    shutil.rmtree(old, ignore_errors=True)


@contextmanager
def working_on(out: Path) -> Iterator[None]:
    """Keep other processes from training or scoring this run.

    Raises:
        AlignvisError: when another process is at work on it.
    """
    lock = out.with_name(f".{out.name}.lock")
    lock.parent.mkdir(parents=True, exist_ok=True)
    files.hold(lock)
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)  # before it is released: who opened it meanwhile sees that it is gone
        files.release(lock)


def load_decoder(run: Path, record: dict[str, Any]) -> Decoder:
    """Build a run's decoder with its trained weights, on the CPU."""
    path = run / "weights.safetensors"
    recipe = read_recipe(run, record)
    try:
        decoder = Decoder(record["encoder"], **record["shape"], recipe=recipe)
        decoder.load_state_dict(load_file(path))
        if store.fingerprint(path) != record["weights_sha256"]:
            raise RuntimeError("the record states other ones")
    except (SafetensorError, OSError, RuntimeError, MemoryError, ValueError, TypeError, OverflowError) as error:
        reason = str(error).partition("\n")[0]
        raise AlignvisError(
            f"{path} does not hold the weights of this run's {record['encoder']} ({reason}); train again"
        ) from error
    return decoder


def inputs_of(record: dict[str, Any]) -> list[dict[str, Any]]:
    """The tables that a run was trained on."""
    return [*record["inputs"]["responses"], record["inputs"]["features"]]


def stated_path(run: Path, table: dict[str, Any]) -> Path:
    """Where a table lies that a record names: its path there begins at the run's folder."""
    return Path(os.path.normpath(run / table["path"]))


def changed_inputs(run: Path, record: dict[str, Any]) -> list[Path]:
    """Find the tables that a run was trained on or is asked about and that have changed, or gone, since."""
    tables = {stated_path(run, table): table["fingerprint"] for table in inputs_of(record)}
    queries = record["inputs"]["queries"]
    if queries["fingerprint"]:
        tables[stated_path(run, queries)] = queries["fingerprint"]
    return [path for path, known in tables.items() if not path.is_file() or store.fingerprint(path) != known]


def save_tensors(tensors: dict[str, torch.Tensor], path: Path, document: dict[str, Any]) -> None:
    """Write tensors with a document in the header, whole or not at all."""
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    with files.whole_file(path) as partial:
        save_file(
            tensors, partial, {"alignvis": json.dumps({"version": store.VERSION, **document}, ensure_ascii=False)}
        )
