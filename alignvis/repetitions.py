"""What repeating a test picture is worth: scores against the repetitions averaged, and how reliable the reading is."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alignvis import files, store
from alignvis.asking import Asked, ask
from alignvis.errors import AlignvisError
from alignvis.progress import Progress, silent
from alignvis.reliability import Correlations, halves, noise_ceiling, of_halves, stepped_up
from alignvis.retrieval import ranks, similarity
from alignvis.runs import read_record, stated_path, working_on
from alignvis.stats import wilson

DRAWS = 20
HALVES = 5  # random cuts into halves for the reliability of a score; the curve has as many as draws
NUMBER = (int, float)
SHARES = ("top1", "top1_low", "top1_high", "top1_sd", "top5", "top5_low", "top5_high", "top5_sd")
CURVE = {
    "repetitions": [int],
    **{key: [NUMBER] for key in SHARES},
    "reliability": list,
    **{key: int for key in ("draws", "seed", "n", "gallery")},
    **{key: NUMBER for key in ("chance", "top5_chance")},
    **{key: str for key in ("dataset", "protocol", "encoder", "features", "recipe", "target")},
    **{"subject": int, "simulated": bool, "aligned": bool},
    **{key: str for key in ("weights_sha256", "queries_fingerprint")},
}


def read_reliably(
    asked: Asked, *, draws: int = HALVES, seed: int = 0, progress: Progress = silent
) -> tuple[Tensor, float | None]:
    """Compare all test responses with the gallery, and say how reliable the brain vectors are that this rests on.

    The repetitions of each image are cut into random halves, both are averaged and read by the decoder, and what is
    read is correlated over images: mean over the vector's numbers and over cuts, stepped up to all repetitions. No
    decoder's answer can correlate with such vectors by more than the root of it (`reliability.noise_ceiling`). The
    table is read once for both.

    Returns:
        (queries, gallery) similarities on the CPU, and a reliability of at most 1; none for a table of one repetition.

    Source: Spearman (1910) and Brown (1910), see `reliability.stepped_up`.
    """
    images, repetitions = asked.responses.test.shape[:2]
    if repetitions < 2 or images < 2:
        return asked.similarities(asked.treated(progress=progress)), None
    rng = np.random.default_rng(seed)
    cuts = np.concatenate([halves(images, repetitions, rng) for _ in range(draws)])
    everything = np.ones((1, images, repetitions), bool)
    found = [Correlations(asked.gallery.shape[1]) for _ in range(draws)]
    whole = torch.empty(images, *(asked.record["shape"][key] for key in ("channels", "times")))
    for rows, means in asked.averages(np.concatenate([cuts, everything]), progress=progress):
        _correlate(found, asked.brain(means[: len(cuts)].flatten(0, 1)).unflatten(0, (len(cuts), len(rows))))
        whole[rows] = means[-1].cpu()
    both = of_halves(found, repetitions)
    return asked.similarities(whole), both[0] if both else None


def measure_curve(
    run: Path, *, draws: int = DRAWS, seed: int = 0, device: str = "cpu", progress: Progress = silent
) -> dict[str, Any]:
    """Score a trained run on the means of 1, 2, 4, ... and all test repetitions, without training anything.

    The repetitions are drawn without replacement, for each image anew. Nested: what a draw averages of two is among
    what it averages of four. Writes ``repetitions.json`` into the run's folder.

    Args:
        draws: of the repetitions; all of them are drawn once.
        seed: of the draws.

    Returns:
        Lists, one entry a number of "repetitions": "top1" and "top5", the mean over draws; "top1_low" and "top1_high",
        its 95 % Wilson interval over images; "top1_sd", the standard deviation over draws; likewise of top5.
        "reliability" of the brain vectors read from so many, and "ceiling", the highest correlation with them that
        there can be; where it is not known, none.

    Raises:
        AlignvisError: as `asking.ask`; and when the table has one response an image, so that none can be left out.
    """
    run = Path(run)
    record = read_record(run)
    if draws < 1:
        raise AlignvisError(f"--draws {draws} draws nothing; choose 1 or more")
    with working_on(run):
        curve = _measure(ask(run, device=device), draws, seed, progress)
        about = {
            key: record[key]
            for key in ("dataset", "simulated", "subject", "protocol", "encoder", "features", "aligned")
        }
        recipe = {"recipe": record["recipe"]["name"], "target": record["recipe"]["target"]}
        curve |= about | recipe | {"run_seed": record["seed"]}
        files.write_json(run / "repetitions.json", curve)
    return curve


def curve_of(
    run: Path,
    *,
    draws: int | None = None,
    overwrite: bool = False,
    device: str = "cpu",
    progress: Progress = silent,
) -> dict[str, Any]:
    """Read the curve of a run if it is there, and still of its weights and test responses; else measure it.

    Args:
        draws: none takes any number that there is, and 20 where there is no curve yet.
        overwrite: measure it in any case.

    Raises:
        AlignvisError: as `measure_curve` and `read_curve`.
    """
    run = Path(run)
    record = read_record(run)
    queries = stated_path(run, record["inputs"]["queries"])
    if not overwrite and queries.is_file():
        curve = read_curve(run, record, store.fingerprint(queries), draws)
        if curve is not None:
            return curve
    return measure_curve(run, draws=draws or DRAWS, device=device, progress=progress)


def read_curve(run: Path, record: dict[str, Any], queries: str, draws: int | None = None) -> dict[str, Any] | None:
    """Read what `measure_curve` wrote of a run, if it did, of these weights and these test responses.

    Args:
        queries: fingerprint of the table of the test responses.
        draws: as many as asked for; none takes any.

    Raises:
        AlignvisError: when the file is there and is no such curve.
    """
    path = run / "repetitions.json"
    if not path.is_file():
        return None
    curve = files.read_json(path)
    wrong = [key for key, pattern in CURVE.items() if not files.fits(curve, {key: pattern})]
    if not wrong:
        count = len(curve["repetitions"])
        wrong = [key for key in (*SHARES, "reliability") if len(curve[key]) != count]
        wrong += [key for key in SHARES if not all(0 <= value <= 1 for value in curve[key])]
        wrong += ["n"] * (curve["n"] < 1) + ["repetitions"] * (count < 1)
        wrong += [] if all(value is None or files.fits(value, NUMBER) for value in curve["reliability"]) else ["it"]
    if wrong:
        raise AlignvisError(
            f"{path} does not state {', '.join(dict.fromkeys(wrong))} as a curve does; measure it again with: alignvis "
            f"eval {run} --curve --overwrite"
        )
    same = (curve["weights_sha256"], curve["queries_fingerprint"]) == (record["weights_sha256"], queries)
    return curve if same and draws in (None, curve["draws"]) else None


def steps(repetitions: int) -> list[int]:
    """1, 2, 4, ... and all."""
    return [*(2**power for power in range((repetitions - 1).bit_length())), repetitions]


def _measure(asked: Asked, draws: int, seed: int, progress: Progress) -> dict[str, Any]:
    n, repetitions = asked.responses.test.shape[:2]
    if repetitions < 2:
        trials = asked.trials
        mean = f", each the mean of {trials['min']} to {trials['max']} trials" if trials else ""
        raise AlignvisError(
            f"{asked.responses.path} has one response a test image{mean}, so {asked.run} has no curve over "
            "repetitions; prepare the recording with its repetitions apart"
        )
    rng, counts = np.random.default_rng(seed), steps(repetitions)
    places = rng.random((draws, n, repetitions)).argsort(axis=2).argsort(axis=2)
    subsets = [*(places < count for count in counts[:-1]), np.ones((1, n, repetitions), bool)]
    cuts = np.stack([halves(n, repetitions, rng) for _ in range(draws)]).reshape(-1, n, repetitions)
    correlated, found = _read(asked, cuts, np.concatenate(subsets), progress)
    curve: dict[str, Any] = {"repetitions": counts, "draws": draws, "seed": seed, "n": n, "gallery": len(asked.gallery)}
    curve |= {key: [] for key in SHARES}
    start = 0
    for part in subsets:
        for k in (1, 5):
            shares = (found[start : start + len(part)] <= k).mean(axis=1)
            share = float(shares.mean())
            low, high = wilson(share, n)
            spread = float(shares.std(ddof=1)) if len(shares) > 1 else 0.0
            for key, value in (("", share), ("_low", low), ("_high", high), ("_sd", spread)):
                curve[f"top{k}{key}"].append(value)
        start += len(part)
    both = of_halves(correlated, repetitions)
    curve["reliability"] = [stepped_up(both[1], count) if both else None for count in counts]
    curve["ceiling"] = [None if value is None else noise_ceiling(value) for value in curve["reliability"]]
    curve |= {"chance": 1 / curve["gallery"], "top5_chance": min(5, curve["gallery"]) / curve["gallery"]}
    curve["weights_sha256"] = asked.record["weights_sha256"]
    return curve | {"queries_fingerprint": store.fingerprint(asked.responses.path)}


def _read(
    asked: Asked, cuts: NDArray[np.bool_], subsets: NDArray[np.bool_], progress: Progress
) -> tuple[list[Correlations], NDArray[np.int64]]:
    """Read the mean of each half, and correlate them, and that of each subset, and rank the right picture.

    Returns:
        One correlation a pair of halves, and (subsets, images) ranks. Brain vectors are not kept.
    """
    found = [Correlations(asked.gallery.shape[1]) for _ in range(len(cuts) // 2)]
    places = np.zeros(subsets.shape[:2], np.int64)
    for rows, means in asked.averages(np.concatenate([cuts, subsets]), progress=progress):
        vectors = asked.brain(means.flatten(0, 1)).unflatten(0, means.shape[:2])
        _correlate(found, vectors[: len(cuts)])
        with torch.inference_mode():
            for subset, read in enumerate(vectors[len(cuts) :]):
                similarities = similarity(read, asked.gallery, asked.recipe.sides, asked.recipe.centre).cpu()
                places[subset, rows] = ranks(similarities, torch.from_numpy(rows)).numpy()
    return found, places


def _correlate(found: Sequence[Correlations], vectors: Tensor) -> None:
    """Take in the brain vectors of halves, (2 x cuts, images, numbers), the two of a cut one after the other."""
    for cut, one in enumerate(found):
        one.add(*vectors[2 * cut : 2 * cut + 2].cpu().numpy())
