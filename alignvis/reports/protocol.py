"""How the numbers came about: who was recorded, what was learned, what was asked, and what nothing had seen before."""

from collections.abc import Sequence
from dataclasses import asdict, fields
from typing import Any

from alignvis.recipe import RECIPES, Recipe
from alignvis.reports.entries import Entry, cited, marked
from alignvis.reports.html import Html, code, described, element, join, paragraph
from alignvis.reports.numbers import count, number, plain
from alignvis.spans import spans

DEFAULT = "alignvis"  # the published recipe


def protocol(kinds: Sequence[Sequence[Entry]]) -> list[Html]:
    """One list of facts for each kind of runs that may be compared."""
    parts: list[Html] = []
    for entries in kinds:
        if len(kinds) > 1:
            parts.append(element("h3", named(entries)))
        parts.append(described([*_brain(entries), *_learning(entries), *_asking(entries)]))
    if len(kinds) > 1:
        parts.insert(0, paragraph("Numbers of different protocols are not compared with each other.", kind="note"))
    return parts


def named(entries: Sequence[Entry]) -> str:
    """What a kind of runs is called where there are several."""
    record = entries[0].record
    asked = entries[0].scores
    among = f", {asked['gallery']} pictures, {count(asked['repetitions'], 'repetition')}" if asked else ", not scored"
    way = ", subjects left out" if record["protocol"] == "leave-out" else ""
    return f"{record['dataset']}{way}, {record['recipe']['name']}{among}"


def modality(entry: Entry) -> str:
    """What was recorded, from what the tables say; "brain responses" if they do not."""
    shape, dataset = entry.record["shape"], entry.record["dataset"].lower()
    for word, kind in (("eeg", "EEG"), ("meg", "MEG"), ("nsd", "fMRI"), ("fmri", "fMRI")):
        if word in dataset:
            return kind
    return "fMRI" if shape["times"] == 1 else "brain"


def changed(recipe: dict[str, Any], base: Recipe) -> list[tuple[str, Any, Any]]:
    """Entries of a recipe as stored that differ from a known one: name, value here, value there."""
    known = asdict(base)
    return [(key, value, known.get(key)) for key, value in recipe.items() if key != "name" and known.get(key) != value]


def _one(entries: Sequence[Entry], values: Sequence[Any]) -> Html:
    """One value if all runs share it, otherwise each with its runs."""
    shared: dict[str, list[Entry]] = {}
    for entry, value in zip(entries, values, strict=True):
        shared.setdefault(str(value), []).append(entry)
    if len(shared) == 1:
        return join(*shared)
    return join(*(join(value, " ", cited(runs)) for value, runs in shared.items()), between="; ")


def _brain(entries: Sequence[Entry]) -> list[tuple[object, object]]:
    record = entries[0].record
    subjects = sorted({entry.record["subject"] for entry in entries})
    simulated = "; SIMULATED, no one was recorded" if record["simulated"] else ""
    rows: list[tuple[object, object]] = [
        ("Dataset", f"{record['dataset']} ({modality(entries[0])}{simulated})"),
        ("Subjects", f"{count(len(subjects), 'subject')} (number{'s' * (len(subjects) > 1)} {spans(subjects)})"),
        ("Channels", _one(entries, [_channels(entry) for entry in entries])),
        ("Time", _one(entries, [_time(entry) for entry in entries])),
    ]
    header = entries[0].responses
    if header is not None:
        rows.append(("Unit", header.get("unit", "not stated")))
    return rows


def _channels(entry: Entry) -> str:
    names, times = entry.record["channels"], entry.record["shape"]["times"]
    if times == 1 or len(names) > 30:
        return f"{len(names):,} {'voxels' if modality(entry) == 'fMRI' else 'channels'}"
    return f"{len(names)}: {', '.join(names)}"


def _time(entry: Entry) -> str:
    times, about = entry.record["shape"]["times"], entry.record["recording"]
    first, rate = number(about.get("first")), number(about.get("sfreq"))
    if times == 1:
        return "one value a picture and voxel"
    if first is None or not rate:
        return f"{times} samples"
    last = first + times / rate
    return f"{1000 * first:.0f} to {1000 * last:.0f} ms after the picture came on, {times} samples at {rate:g} Hz"


def _learning(entries: Sequence[Entry]) -> list[tuple[object, object]]:
    record = entries[0].record
    groups = {entry.group: entry for entry in entries}
    encoders = list(dict.fromkeys(entry.record["encoder"] for entry in entries))
    features = list({entry.group[1:]: marked(entry) for entry in groups.values()}.values())
    seeds = sorted({entry.record["seed"] for entry in entries})
    others = "all the others of the pool, never the subject asked" if record["protocol"] == "leave-out" else "itself"
    return [
        ("Brain encoder", ", ".join(encoders)),
        ("Image embeddings", join(*features, between=", ")),
        ("Trained on", f"each subject's decoder on {others}"),
        ("Training pictures", _one(entries, [f"{len(entry.record['split']['train']):,}" for entry in entries])),
        ("Held out for choices", _one(entries, [_held_out(entry) for entry in entries])),
        ("Recipe", _recipe(record["recipe"])),
        (
            "Seeds",
            f"{count(len(seeds), 'seed')} (number{'s' * (len(seeds) > 1)} "
            f"{spans(seeds) if min(seeds) >= 0 else ', '.join(map(str, seeds))})",
        ),
    ]


def _held_out(entry: Entry) -> str:
    whole = entry.record["recipe"].get("validation")
    what = {"concept": "whole concepts", "image": "single pictures"}.get(str(whole), str(whole))
    return f"{len(entry.record['split']['validation']):,} training pictures ({what}); the epoch was chosen on them"


def _recipe(recipe: dict[str, Any]) -> Html:
    helps = {entry.name: entry.metadata["help"] for entry in fields(Recipe)}
    differs = changed(recipe, RECIPES[DEFAULT])
    if not differs:
        return join(code(recipe["name"]), ": every entry as published")
    lines = []
    for key, here, there in differs:
        usual = "" if there is None else f" (published: {there})"
        lines.append(element("li", code(key), f" {here}{usual}. ", element("small", helps.get(key, ""))))
    return join(code(recipe["name"]), f"; {count(len(differs), 'entry').replace('entrys', 'entries')} that ",
                "differ from the published recipe:", element("ul", *lines))  # fmt: skip


def _asking(entries: Sequence[Entry]) -> list[tuple[object, object]]:
    scored = [entry for entry in entries if entry.scores]
    if not scored:
        return [("Test", "not scored yet")]
    scores = scored[0].scores or {}
    rows: list[tuple[object, object]] = [
        ("Test responses", f"{scores['n']:,}, each the mean of {averaged(scores)}"),
        ("Gallery", f"{scores['gallery']:,} pictures, {scores.get('galleries', 'test images')}; "
                    f"chance {100 * scores['top1_chance']:.3g} % for the right one first"),
        ("Leakage guard", _one(scored, [_guard(entry) for entry in scored])),
    ]  # fmt: skip
    reliability = [number((entry.scores or {}).get("reliability")) for entry in scored]
    if any(value is not None for value in reliability):
        shown = [value for value in reliability if value is not None]
        span = plain(min(shown)) if min(shown) == max(shown) else f"{plain(min(shown))} to {plain(max(shown))}"
        rows.append(("Reliability", f"{span} (split halves of the test repetitions, Spearman–Brown corrected)"))
    return rows


def averaged(scores: dict[str, Any]) -> str:
    """How many responses to a test picture were averaged; of some datasets it is not the same number for each."""
    trials = scores.get("trials")
    if not isinstance(trials, dict):
        return count(scores["repetitions"], "repetition")
    if trials.get("min") == trials.get("max"):
        return f"{plain(trials.get('min'))} trials"
    return f"{plain(trials.get('min'))} to {plain(trials.get('max'))} trials ({plain(trials.get('mean'))} on average)"


def _guard(entry: Entry) -> str:
    """What `eval` proved before it scored: it refuses otherwise."""
    leakage = (entry.scores or {}).get("leakage")
    split = entry.record["split"]
    learned = f"{len(split['train']) + len(split['validation']):,}"
    if not isinstance(leakage, dict):
        return f"none of the test pictures is among the {learned} trained or validated on; eval refuses otherwise"
    shared = [
        f"{plain(leakage.get(key))} {what}"
        for key, what in (
            ("shared_images", "image ids"), ("shared_pictures", "identical files"), ("shared_concepts", "concepts"),
        )
        if number(leakage.get(key)) is not None
    ]  # fmt: skip
    return f"shared between the test and the {learned} pictures trained or validated on: {', '.join(shared) or 'none'}"
