"""Explain a run: everything that can be said of where, when and in which band it finds the pictures."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alignvis import files, store
from alignvis.asking import Asked, ask
from alignvis.averaging import times_of
from alignvis.errors import AlignvisError
from alignvis.explanations.answers import Answer, answer
from alignvis.explanations.bands import read_bands
from alignvis.explanations.gradcam import gradcam, why_not
from alignvis.explanations.occlusion import (
    Window,
    first_order,
    keep_windows,
    occlude_channels,
    occlude_regions,
    occlude_windows,
    windows,
)
from alignvis.explanations.randomised import randomised
from alignvis.explanations.regions import regions
from alignvis.explanations.retraining import retrained
from alignvis.pairs import concept
from alignvis.progress import Progress, silent
from alignvis.runs import read_record, save_tensors, stated_path, working_on

VERSION = 1
EARLY = 0.3  # s after the picture came on; until then what is seen has not yet been looked at a second time
NUMBER, MAYBE = (int, float), (int, float, NoneType)
LOST = {"top1": NUMBER, "drop": NUMBER, "drop_interval": [NUMBER], "similarity_drop": NUMBER}
SPAN = {"start": NUMBER, "end": NUMBER}
KEPT = {**SPAN, "top1": NUMBER, "top1_interval": [NUMBER]}
EXPLANATION = {  # what explain.json must state to be read
    **{key: str for key in ("dataset", "encoder", "features", "recipe", "weights_sha256", "queries_fingerprint")},
    **{key: int for key in ("version", "subject", "seed", "n", "gallery")},
    **{key: bool for key in ("simulated", "aligned")},
    "maps_sha256": str,
    "channels": [str],
    "times": [NUMBER],
    "top1": NUMBER,
    "top1_interval": [NUMBER],
    "no_gradcam": (str, NoneType),
    "regions": dict,
    "occlusion": {
        "width": NUMBER,
        "step": NUMBER,
        "windows": [{**SPAN, **LOST}],
        "regions": [{"name": str, **LOST}],
        "channels": [NUMBER],
    },
    "kept": [{**KEPT, "similarity": NUMBER}],
    "bands": [
        {"name": str, "low": NUMBER, "high": NUMBER, "retrained_top1": MAYBE}
        | {
            f"{part}_{what}": kind
            for part in ("only", "without")
            for what, kind in (("top1", NUMBER), ("interval", [NUMBER]))
        }
    ],
    "first_order": {"before_300ms": MAYBE, "peak": MAYBE, "share_by_region": dict},
    "randomised": {"seeds": [int], "correlation": [NUMBER], "what": str},
}
GRADCAM = {"channel_axis": bool, "before_300ms": MAYBE, "peak": MAYBE, "share_by_region": dict, "note": str}


@dataclass(frozen=True)
class Question:
    """A run, what its decoder is fed, and what it answers to that.

    Attributes:
        treated: (queries, channels, times), as `Asked.treated` returns them.
        times: (times,) s after the picture came on.
        laid: windows of time, none where a response has a single time.
    """

    asked: Asked
    treated: Tensor
    times: NDArray[np.float64]
    baseline: Answer
    laid: Sequence[Window]


def explain_run(
    run: Path,
    *,
    width: float = 0.05,
    step: float = 0.025,
    retrain: bool = False,
    overwrite: bool = False,
    device: str = "cpu",
    say: Callable[[str], None] = lambda text: None,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Explain a run's answers to the test responses, and write ``explain.json`` and ``explain.safetensors`` beside it.

    Grad-CAM (`gradcam`), occlusion of windows, regions and channels (`occlusion`), accuracy over time and by band
    without retraining (`keep_windows`, `bands`), and how the maps of random weights differ (`randomised`). What is
    there already is read, and what it lacks of ``retrain`` is added to it.

    Args:
        width, step: of the windows, s.
        retrain: also train new runs on one window (side by side, of the same width) and on one band each.
        overwrite: do all of it again; runs that were retrained before are kept.

    Returns:
        What ``explain.json`` states.

    Raises:
        AlignvisError: as `asking.ask`; when the windows do not fit the responses; when what is there already has other
            windows.
    """
    run = Path(run)
    read_record(run)
    with working_on(run):
        found = None
        if (run / "explain.json").is_file() and not overwrite:
            found, _ = read_explanation(run)
            stated = found["occlusion"]
            if found["occlusion"]["windows"] and (stated["width"], stated["step"]) != (width, step):
                raise AlignvisError(
                    f"{run / 'explain.json'} has windows of {stated['width']:g} s, {stated['step']:g} s apart, and "
                    f"{width:g} and {step:g} were asked for; --overwrite explains it again"
                )
            if _outdated(run, found):
                say(f"note: {run.name} was explained on a responses table that has changed or gone since; --overwrite")
            if not retrain or found["retrained"] is not None or len(found["times"]) == 1:
                return found
        asked = ask(run, device=device)
        question = _question(asked, width, step, progress)
        if found is None or found["queries_fingerprint"] != store.fingerprint(asked.responses.path):
            found = _explain(question, width, step, say, progress)
        if retrain and question.laid:
            _retrain(question, found, width, say, progress)
        files.write_json(run / "explain.json", found)
    return found


def read_explanation(run: Path) -> tuple[dict[str, Any], dict[str, NDArray[np.float32]]]:
    """Read what `explain_run` wrote.

    Returns:
        What ``explain.json`` states; and by name "gradcam" (queries, channels or 1, times), if there is one, and what
        the similarity of each query with its own picture lost by occlusion: "first_order" (queries, channels, times)
        of each sample alone, to first order, "windows" (queries, windows), "regions" (queries, regions) and "channels"
        (queries, channels). Queries are in the order of the test images.

    Raises:
        AlignvisError: when there is none, it is of other weights, or the two files do not fit together.
    """
    run = Path(run)
    record, path = read_record(run), run / "explain.json"
    if not path.is_file():
        raise AlignvisError(f"{run} is not explained yet; explain it with: alignvis explain {run.name}")
    found, again = files.read_json(path), "explain it again with: alignvis explain --overwrite"
    wrong = [key for key, pattern in EXPLANATION.items() if not files.fits(found, {key: pattern})]
    for key, pattern in (("gradcam", GRADCAM), ("retrained", [KEPT])):
        if (
            not isinstance(found, dict)
            or key not in found
            or not (found[key] is None or files.fits(found[key], pattern))
        ):
            wrong.append(key)
    if wrong:
        raise AlignvisError(f"{path} does not state {', '.join(wrong)} as it should; {again}")
    if found["version"] > VERSION:
        raise AlignvisError(f"{path} was written by a newer alignvis (version {found['version']}); update alignvis")
    if found["weights_sha256"] != record["weights_sha256"]:
        raise AlignvisError(f"{path} is of other weights than {run} has now; {again}")
    maps = run / "explain.safetensors"
    if not maps.is_file() or store.fingerprint(maps) != found["maps_sha256"]:
        raise AlignvisError(f"{maps} is not the file that {path} was written with; {again}")
    document, arrays = store.read_table(maps, "explanation", {})
    return found, _fitting(path, found, arrays, again)


def by_concept(maps: NDArray[np.floating], queries: Sequence[str]) -> dict[str, NDArray[np.float64]]:
    """Average maps of queries, (queries, ...), over the pictures of each concept; the mean over all is a subject's.

    Args:
        queries: ids of the test images, as the header of ``explain.safetensors`` and `queries_of` state them.
    """
    places: dict[str, list[int]] = {}
    for place, image in enumerate(queries):
        places.setdefault(concept(image), []).append(place)
    return {name: maps[rows].mean(axis=0, dtype=np.float64) for name, rows in places.items()}


def gained(maps: NDArray[np.floating]) -> NDArray[np.float64]:
    """What of a map to first order, (queries, channels, times), is worth something on average; the rest is 0.

    Averaged before it is cut off: chance is worth as much as it costs, and goes.
    """
    return maps.mean(axis=0, dtype=np.float64).clip(min=0)


def queries_of(run: Path) -> list[str]:
    """The test images of an explained run, in the order of its maps."""
    return store.read_document(Path(run) / "explain.safetensors", "explanation")["queries"]


def early_share(profile: NDArray[np.floating], times: NDArray[np.float64]) -> float | None:
    """Share of a profile over time, (times,), none of it negative, that lies before `EARLY`; None of an empty one."""
    total = float(profile.sum())
    return float(profile[times < EARLY - 1e-6].sum()) / total if total > 0 else None


# --- what is written -------------------------------------------------------------------------------------------------


def _question(asked: Asked, width: float, step: float, progress: Progress) -> Question:
    treated = asked.treated(progress=progress)
    laid: Sequence[Window] = []
    if treated.shape[2] == 1:
        first = asked.responses.document.get("tmin")
        times = np.array([first if isinstance(first, int | float) else 0.0], dtype=np.float64)
    else:
        try:
            times = times_of(asked.responses, asked.recipe)
        except AlignvisError as error:
            raise AlignvisError(
                f"{asked.responses.path} does not say when its samples were taken, so nothing can be said about time; "
                "prepare the recording again"
            ) from error
        laid = windows(times, width, step)
    return Question(asked, treated, times, answer(asked, treated), laid)


def _outdated(run: Path, found: dict[str, Any]) -> bool:
    path = stated_path(run, read_record(run)["inputs"]["queries"])
    return not path.is_file() or store.fingerprint(path) != found["queries_fingerprint"]


def _explain(
    question: Question, width: float, step: float, say: Callable[[str], None], progress: Progress
) -> dict[str, Any]:
    """All but what is retrained; writes the maps."""
    asked, treated, baseline = question.asked, question.treated, question.baseline
    record, common = asked.record, {"progress": progress}
    groups = regions(record["channels"])
    lost: dict[str, NDArray[np.float32]] = {}
    lost["first_order"] = maps = first_order(asked, treated, **common)
    what, mapper, reason = "occlusion", first_order, why_not(asked)
    if reason is None:
        lost["gradcam"] = maps = gradcam(asked, treated, **common)
        what, mapper = "gradcam", gradcam
    seeds, correlation = randomised(asked, treated, mapper, maps, **common)
    in_windows, bands, left_out = [], [], {}
    if question.laid:
        in_windows, lost["windows"] = occlude_windows(asked, treated, baseline, question.laid, **common)
        bands, left_out = read_bands(asked, treated, question.times, **common)
    in_regions, lost["regions"] = occlude_regions(asked, treated, baseline, groups, **common)
    channel_top1, lost["channels"] = occlude_channels(asked, treated, baseline, **common)
    for name, why in left_out.items():
        say(f"note: {asked.run.name}: the band {name} was left out: {why}")
    path = asked.run / "explain.safetensors"
    document = {"queries": asked.images, "channels": record["channels"], "times": question.times.tolist()}
    save_tensors(
        {name: torch.from_numpy(array) for name, array in lost.items()}, path, {"table": "explanation", **document}
    )
    return {
        "version": VERSION,
        **{key: record[key] for key in ("dataset", "subject", "simulated", "encoder", "features", "aligned", "seed")},
        "recipe": record["recipe"]["name"],
        "n": len(asked.images),
        "gallery": len(asked.images),
        "repetitions": asked.responses.test.shape[1],
        "channels": record["channels"],
        "times": question.times.tolist(),
        "top1": baseline.top1,
        "top1_interval": baseline.interval,
        "weights_sha256": record["weights_sha256"],
        "queries_fingerprint": store.fingerprint(asked.responses.path),
        "maps_sha256": store.fingerprint(path),
        "gradcam": _about(asked, lost["gradcam"], question.times, groups) if reason is None else None,
        "no_gradcam": reason,
        "first_order": _shares(lost["first_order"].mean(axis=0, dtype=np.float64), question.times, groups),
        "regions": {name: [record["channels"][place] for place in places] for name, places in groups.items()},
        "occlusion": {
            "width": width,
            "step": step,
            "windows": in_windows,
            "regions": in_regions,
            "channels": lost["channels"].mean(axis=0, dtype=np.float64).tolist(),
            "channel_top1": channel_top1,
        },
        "kept": keep_windows(asked, treated, question.laid, **common),
        "retrained": None,
        "bands": bands,
        "bands_left_out": left_out,
        "randomised": {"seeds": seeds, "correlation": correlation, "between_seeds": None, "what": what},
    }


def _about(
    asked: Asked, maps: NDArray[np.float32], times: NDArray[np.float64], groups: Mapping[str, Sequence[int]]
) -> dict[str, Any]:
    """What the mean Grad-CAM map says in numbers; of steps that are no times, nothing about time."""
    mean = maps.mean(axis=0, dtype=np.float64)
    note, by_channel = asked.decoder.brain.centres_note, len(mean) == len(asked.record["channels"]) and len(mean) > 1
    shares = _shares(mean, times, groups if by_channel else {})
    untimed = {"before_300ms": None, "peak": None} if note else {}
    return {"channel_axis": by_channel, **shares, **untimed, "note": note}


def _shares(
    values: NDArray[np.float64], times: NDArray[np.float64], groups: Mapping[str, Sequence[int]]
) -> dict[str, Any]:
    """What a map, (channels or 1, times), says in numbers: where its sums over channels, or times, are positive."""
    course, by_channel = values.sum(axis=0).clip(min=0), values.sum(axis=1).clip(min=0)
    timed, total = len(times) > 1 and course.any(), float(by_channel.sum())
    return {
        "before_300ms": early_share(course, times) if timed else None,
        "peak": float(times[course.argmax()]) if timed else None,
        "share_by_region": {name: float(by_channel[rows].sum()) / total for name, rows in groups.items()}
        if total
        else {},
    }


def _retrain(
    question: Question, found: dict[str, Any], width: float, say: Callable[[str], None], progress: Progress
) -> None:
    """Add what runs say that were trained on one window or one band."""
    asked = question.asked
    beside = windows(question.times, width, width)
    if min(inside.stop - inside.start for *_, inside in beside) < 2 and asked.recipe.normalisation != "none":
        raise AlignvisError(
            f"--width {width:g} leaves a single sample, which cannot be normalised over time; choose twice as much"
        )
    count, seconds = len(beside) + len(found["bands"]), asked.record["seconds"]
    say(f"training {count} runs on parts of the responses; {asked.run.name} itself took {seconds:.0f} s")
    rows = []
    for start, end, _ in beside:
        out, scores = retrained(asked, {"window": f"{start}:{end}"}, progress)
        row = {"start": start, "end": end, "top1": scores["top1"], "top1_interval": scores["top1_interval"]}
        rows.append(row | {"run": out.name, "encoder": scores["encoder"]})
    for row in found["bands"]:
        out, scores = retrained(asked, {"band": f"{row['low']:g}:{row['high']:g}"}, progress)
        row |= {"retrained_top1": scores["top1"], "retrained_interval": scores["top1_interval"], "run": out.name}
    found["retrained"] = rows
    if any(row["encoder"] != asked.record["encoder"] for row in rows):
        say(f"note: {asked.record['encoder']} does not fit windows of {width:g} s; `linear` was trained on them")


def _fitting(
    path: Path, found: dict[str, Any], arrays: Mapping[str, NDArray], again: str
) -> dict[str, NDArray[np.float32]]:
    """The arrays, if their shapes are those that the numbers beside them imply."""
    occlusion, n, channels = found["occlusion"], found["n"], len(found["channels"])
    expected = {"regions": (n, len(occlusion["regions"])), "channels": (n, channels)}
    expected["first_order"] = (n, channels, len(found["times"]))
    if occlusion["windows"]:
        expected["windows"] = (n, len(occlusion["windows"]))
    if found["gradcam"]:
        expected["gradcam"] = (n, channels if found["gradcam"]["channel_axis"] else 1, len(found["times"]))
    shapes = {name: array.shape for name, array in arrays.items()}
    if shapes != expected or len(occlusion["channels"]) != channels:
        raise AlignvisError(f"{path} and the tensors beside it do not fit together; {again}")
    return dict(arrays)
