"""The layouts in which other projects wrote recordings: where each response lies, and which image it answers."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alignvis.errors import AlignvisError
from alignvis.exchange import order
from alignvis.exchange.opened import (
    Part,
    Recording,
    channels_of,
    in_rows,
    numbers,
    put_together,
    read_info,
    shape_of,
    with_keys,
)
from alignvis.exchange.torch_numpy import outline_torch, read_torch
from alignvis.pickles import read_pickled
from alignvis.recordings.layouts import MERGED, clock, merged_sessions

PARTS = ("train", "test")
WHITENED = "noise standard deviations"
ZSCORED = "baseline standard deviations"  # of every derivative of THINGS-MEG
UNKNOWN = "unknown"
SESSIONS = 254
BY_ORDER = "rows are taken to be in the order of {images}, which nothing in the files confirms"
EARLY = "the authors' resampling took each sample 3.5 to 4.5 ms before the time in their files; the table states when"
NO_SESSIONS = "the files do not say in which session a response was recorded; 0 stands for that"

Files = Mapping[str, Path]  # "train", "test" and what else a layout has


def kind_of_ubp(files: Files) -> str:
    """Say whether a file of UBP holds "eeg" or "meg"; no responses are read."""
    content = with_keys(files["train"], outline_torch(files["train"]), "eeg img")
    _, repetitions, channels, _ = numbers(files["train"], content["eeg"], 4).shape
    return channels_of(files["train"], content.get("ch_names"), channels, repetitions == 1)[0]


def kind_of_neurobridge(files: Files) -> str:
    """Say whether files of NeuroBridge hold "eeg" or "meg"."""
    data = numbers(files["train"], read_pickled(files["train"]), 5)
    return channels_of(files["train"], read_info(files["info"]).get("ch_names"), data.shape[3], data.shape[2] == 1)[0]


def open_nice(files: Files, images: Path | None, scratch: Path) -> Recording:
    """NICE, ATM, AlignVis, MB2C, MUSE, and the dataset's authors: a dict, rows by order, repetitions permuted."""
    contents = {
        part: with_keys(files[part], read_pickled(files[part]), "preprocessed_eeg_data ch_names times")
        for part in PARTS
    }
    data = {part: numbers(files[part], contents[part]["preprocessed_eeg_data"], 4) for part in PARTS}
    known = order.tree(files["train"], images, "eeg")
    parts, claims = {}, [BY_ORDER.format(images=images)]
    for part in PARTS:
        ids = order.in_order(files[part], part, known[part], len(data[part]), images)
        parts[part] = in_rows(files[part], data[part], ids, merged_sessions(part, data[part].shape[1]))
    if all(data[part].shape[1] == MERGED[part][0] for part in PARTS):
        claims.append(
            "sessions are those of the published order of merging; of the training images, 1 stands for session 1 or "
            "2, and 3 for session 3 or 4"
        )
    else:
        claims.append(NO_SESSIONS)
    opened = put_together(parts, contents, WHITENED, claims)
    samples = opened.train.data.shape[-1]
    measured = clock(opened.tmin + np.arange(samples) / opened.sfreq, opened.sfreq)
    if (measured.tmin, measured.sfreq) == (opened.tmin, opened.sfreq):
        return opened
    return replace(opened, tmin=measured.tmin, sfreq=measured.sfreq, claims=[*opened.claims, EARLY])


def open_ubp(files: Files, images: Path | None, scratch: Path) -> Recording:
    """UBP, VisualEEGDecoding, CogCapturerPro, Brain-HIVE: a dict of torch.save that names the picture of each row."""
    contents = {part: with_keys(files[part], read_torch(files[part], scratch), "eeg img") for part in PARTS}
    data = {part: numbers(files[part], contents[part]["eeg"], 4) for part in PARTS}
    names, (_, repetitions, channels, _) = contents["train"].get("ch_names"), data["train"].shape
    kind = channels_of(files["train"], names, channels, repetitions == 1)[0]
    parts, claims = {}, []
    for part in PARTS:
        path, content, shape = files[part], contents[part], data[part].shape[:2]
        name = order.eeg_image if kind == "eeg" else order.meg_image
        ids = [name(path, part, image) for image in order.named(path, "img", content["img"], shape)]
        if "text" in content:
            for image, text in zip(ids, order.named(path, "text", content["text"], shape), strict=True):
                if text != order.concept_of(image):
                    raise AlignvisError(f"{path}: text calls the picture {image!r} {str(text)[:80]!r}; make it again")
        parts[part] = in_rows(path, data[part], ids, _sessions(path, content.get("session"), shape))
    if not any(parts[part].sessions.any() for part in PARTS):
        claims.append(NO_SESSIONS)
    unit = ZSCORED
    if kind == "eeg":
        folder = files["train"].parent.parent.name
        unit = WHITENED if folder.endswith("_whiten") and not folder.endswith("no_whiten") else UNKNOWN
        if unit == UNKNOWN:
            claims.append(f"the folder {folder!r} does not say ..._whiten, so the unit of the values is unknown")
    claims += _named(parts, images, kind)
    return put_together(parts, contents, unit, claims)


def open_neurobridge(files: Files, images: Path | None, scratch: Path) -> Recording:
    """NeuroBridge, SAMGA: plain arrays (concepts, images of each, repetitions, channels, times), and info.json."""
    info = read_info(files["info"])
    data = {part: numbers(files[part], read_pickled(files[part]), 5) for part in PARTS}
    opened = _by_concept(files, data, {part: info for part in PARTS}, images)
    normalised = info.get("normalization", "mvnn")
    if opened.kind == "eeg" and normalised != "mvnn":
        claims = [*opened.claims, f"values were normalised by {str(normalised)[:40]!r}, so their unit is unknown"]
        return replace(opened, unit=UNKNOWN, claims=claims)
    return opened


def open_atm_meg(files: Files, images: Path | None, scratch: Path) -> Recording:
    """ATM's THINGS-MEG: as NeuroBridge, in a pickled dict."""
    contents = {part: with_keys(files[part], read_pickled(files[part]), "meg_data ch_names times") for part in PARTS}
    data = {part: numbers(files[part], contents[part]["meg_data"], 5) for part in PARTS}
    return _by_concept(files, data, contents, images)


def open_alignvis_meg(files: Files, images: Path | None, scratch: Path) -> Recording:
    """AlignVis' THINGS-MEG: single trials, each with the path of its picture."""
    contents = {
        part: with_keys(files[part], read_pickled(files[part]), "meg_data meg_labels meg_images") for part in PARTS
    }
    parts, claims = {}, [NO_SESSIONS]
    for part in PARTS:
        path, content = files[part], contents[part]
        data = numbers(path, content["meg_data"], 3)
        names = order.named(path, "meg_images", content["meg_images"], data.shape[:1])
        labels = order.named(path, "meg_labels", content["meg_labels"], data.shape[:1])
        shown: dict[str, list[int]] = {}
        concepts: dict[str, Any] = {}
        for trial, (name, label) in enumerate(zip(names, labels, strict=True)):
            image = order.meg_image(path, part, name)
            shown.setdefault(image, []).append(trial)
            concept = image.partition("/")[0]
            if concepts.setdefault(concept, label) != label:
                raise AlignvisError(
                    f"{path}: meg_labels has both {str(concepts[concept])[:40]} and {str(label)[:40]} for the concept "
                    f"{concept!r}; make it again"
                )
        if len(set(concepts.values())) < len(concepts):
            raise AlignvisError(f"{path}: meg_labels has one label for several of its {len(concepts)} concepts")
        counts = {len(trials) for trials in shown.values()}
        if len(counts) > 1:
            few = min(shown, key=lambda image: len(shown[image]))
            raise AlignvisError(
                f"{path} has between {min(counts)} and {max(counts)} trials of an image ({min(counts)} of {few!r}); "
                "expected as many of each"
            )
        places = np.array(list(shown.values()))
        parts[part] = Part(path, data, places, np.zeros(places.shape, np.uint8), list(shown))
    if parts["test"].places.shape[1] > 1:
        claims.append("the repetitions of an image are in the order of its trials in the file")
    claims += _named(parts, images, "meg")
    return put_together(parts, contents, ZSCORED, claims)


def open_zeiss(files: Files, images: Path | None, scratch: Path) -> Recording:
    """ZEISS: arrays (sessions, conditions, repetitions, channels, times), and the conditions that each session had."""
    meta = read_info(files["meta"])
    known = order.tree(files["train"], images, "eeg")
    parts = {}
    for part in PARTS:
        path = files[part]
        data = numbers(path, read_pickled(path), 5)
        codes = read_pickled(files[f"{part} conditions"])
        if not isinstance(codes, np.ndarray) or codes.dtype.kind not in "iu" or codes.shape != data.shape[:2]:
            raise AlignvisError(
                f"{files[f'{part} conditions']} is {shape_of(codes)}; {path} needs a whole number for each of its "
                f"{data.shape[0]} x {data.shape[1]} sessions and conditions"
            )
        count = len(known[part])
        if data.shape[0] > SESSIONS or data.shape[1] > count:
            raise AlignvisError(
                f"{path} has {data.shape[0]} sessions of {data.shape[1]} conditions, and {images} has {count} {part} "
                "images; give the folder of the images that were shown"
            )
        shown: list[list[tuple[int, int]]] = [[] for _ in range(count)]
        for session, row in enumerate(codes.tolist()):
            for column, code in enumerate(row):
                if not 1 <= code <= count:
                    raise AlignvisError(
                        f"{files[f'{part} conditions']} has the condition {code}, and {images} has {count} {part} "
                        "images; conditions count these from 1"
                    )
                shown[code - 1].append((session, column))
        sizes = {len(places) for places in shown}
        if len(sizes) > 1 or 0 in sizes:
            few = min(range(count), key=lambda image: len(shown[image]))
            raise AlignvisError(
                f"{files[f'{part} conditions']} has the condition {few + 1} {min(sizes)} times and another one "
                f"{max(sizes)} times over the sessions; expected each condition of {images} equally often"
            )
        at = np.array(shown)  # (images, times shown, session and column)
        repetitions = data.shape[2]
        places = (at[..., 0] * data.shape[1] + at[..., 1])[..., None] * repetitions + np.arange(repetitions)
        sessions = np.repeat(at[..., 0] + 1, repetitions, axis=1).astype(np.uint8)
        parts[part] = Part(path, data, places.reshape(count, -1), sessions, known[part])
    claims = [f"conditions are taken to count the images of {images}, which nothing in the files confirms"]
    return put_together(parts, {part: meta for part in PARTS}, WHITENED, claims)


# --- what they share -------------------------------------------------------------------------------------------------


def _by_concept(
    files: Files, data: Mapping[str, NDArray], contents: Mapping[str, Any], images: Path | None
) -> Recording:
    """Put together a recording whose rows are named by nothing but their order: concept after concept."""
    names, (*_, repetitions, channels, _) = contents["train"].get("ch_names"), data["train"].shape
    kind = channels_of(files["train"], names, channels, repetitions == 1)[0]
    known = order.tree(files["train"], images, kind)
    parts = {}
    for part in PARTS:
        concepts, each, repetitions = data[part].shape[:3]
        ids = order.in_order(files[part], part, known[part], concepts * each, images)
        order.check_concepts(files[part], ids, each, images)
        parts[part] = in_rows(files[part], data[part], ids, np.zeros(repetitions, np.uint8))
    claims = [BY_ORDER.format(images=images), NO_SESSIONS]
    return put_together(parts, contents, WHITENED if kind == "eeg" else ZSCORED, claims)


def _named(parts: Mapping[str, Part], images: Path | None, kind: str) -> list[str]:
    """Hold the images that files name against an image folder, if there is one; returns what is to be said."""
    if images is None:
        return ["image names are those in the files; there was no image folder to hold them against"]
    claims = []
    if kind == "eeg":
        known = order.tree(images, images, kind)
        for name, part in parts.items():
            claims += order.check_names(part.path, part.images, images, known[name])
    for name, part in parts.items():
        claims += order.check_pictures(images, name, part.images)
    return claims


def _sessions(path: Path, sessions: Any, shape: tuple[int, int]) -> NDArray[np.uint8]:
    """UBP counts sessions from 0, in floating point."""
    if sessions is None:
        return np.zeros(shape, np.uint8)
    fits = isinstance(sessions, np.ndarray) and sessions.shape == shape and sessions.dtype.kind in "iuf"
    if not fits or not ((sessions >= 0) & (sessions < 255) & (sessions == np.floor(sessions))).all():
        raise AlignvisError(
            f"{path}: session is {shape_of(sessions)} and not a whole number from 0 on for each of the {shape[0]} x "
            f"{shape[1]} responses; make it again"
        )
    return (sessions + 1).astype(np.uint8)
