"""The whole way on a simulated subject: what every command does, one after the other, with nothing downloaded."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from alignvis import files
from alignvis.explanations.explain import explain_run
from alignvis.figures.maps import draw_explanation
from alignvis.figures.retrievals import show_retrievals
from alignvis.figures.style import save
from alignvis.grid import train_grid
from alignvis.images import catalogue
from alignvis.images.extract import extract
from alignvis.progress import Progress, silent
from alignvis.recordings.simulate import IMAGE_SET, simulate_things_eeg2
from alignvis.recordings.things_eeg2 import prepare
from alignvis.reports.writing import write_report
from alignvis.scoring import score_all
from alignvis.table import scores_table

# What half a minute and one minute allow on two cores. A few hundred pictures teach a brain encoder only when the
# brain speaks clearly, so there is little noise, and small batches make more steps.
SIZES: dict[bool, dict[str, Any]] = {
    True: {"concepts": 40, "test": 50, "test_repetitions": 1, "noise": 1.0},
    False: {},  # the simulator's own defaults
}
CHANGES: dict[bool, dict[str, Any]] = {
    True: {"epochs": 15, "batch": 32, "rate": 2e-3},
    False: {"epochs": 25, "batch": 32, "rate": 2e-3},
}
ENCODERS = ("lowlevel", "untrained_vit")


def run_demo(
    out: Path, *, fast: bool = False, say: Callable[[str], None] = lambda text: None, progress: Progress = silent
) -> dict[str, Any]:
    """Simulate, prepare, extract, train, score and explain one subject, and write a page on it.

    Everything is kept in ``out``; a demo that was interrupted goes on, and one that is done is only read.

    Args:
        out: folder that becomes a root: raw/ images/ responses/ features/ runs/.
        fast: fewer pictures, trials and epochs.

    Returns:
        "scores" (one a run), "ceiling" (best that any decoder could do), "picture", "explanation" and "report" (paths),
        "seconds" and "text", the table to read.
    """
    begun = time.perf_counter()
    say(f"1 of 7: simulating one subject's EEG and drawing the pictures that it sees, into {out}")
    simulated = simulate_things_eeg2(out, progress=progress, **SIZES[fast])
    say("2 of 7: preparing the recording: epochs, resampling, whitening of the 17 occipital channels")
    images, responses = out / "images" / IMAGE_SET, out / "responses" / IMAGE_SET / "sub-01.safetensors"
    prepare(Path(simulated["raw"]), subject=1, images=images, out=responses, channels="occipital", progress=progress)
    say(f"3 of 7: embedding the pictures with {' and '.join(ENCODERS)}")
    encoders = [catalogue.load(id, out / "weights", download=False) for id in ENCODERS]
    extract(images, encoders, out / "features" / IMAGE_SET, progress=progress)
    say("4 of 7: training a brain encoder on each")
    runs = train_grid(
        out,
        subjects=[1],
        features=ENCODERS,
        recipe_name="alignvis-fixed",
        changes=CHANGES[fast],
        say=say,
        detail=lambda text: None,
        progress=progress,
    )
    say("5 of 7: asking which of the test pictures it was")
    scores = score_all(out, [run for run, _ in runs], progress=progress)
    picture = out / "retrievals.png"
    show_retrievals([run for run, _ in runs], images, picture)
    say("6 of 7: explaining when, where and in which band the first of both finds them")
    first, explanation = runs[0][0], out / "explanation.png"
    explain_run(first, progress=progress)
    save(draw_explanation([], [first]), explanation)
    say("7 of 7: writing a page on all of it")
    report = write_report(out, [run for run, _ in runs], out / "report.html", overwrite=True, progress=progress)
    ceiling = files.read_json(Path(simulated["raw"]) / "sub-01" / "ceiling.json")
    seconds = time.perf_counter() - begun
    text = (
        f"{scores_table(scores)}\n"
        f"ceiling: top-1 {ceiling['top1']:.1%}, top-5 {ceiling['top5']:.1%}, "
        "for a decoder that knows how this brain was made\n\n"
        "The brain is SIMULATED: these numbers show that the way is whole, and say nothing about people.\n"
        "lowlevel sees colours, edges and places, which this brain answers to; untrained_vit has random weights.\n"
        f"First retrievals: {picture}\nMaps: {explanation}\nA page on all of it: {report['report']}   ({seconds:.0f} s)"
    )
    made = {"picture": str(picture), "explanation": str(explanation), "report": report["report"]}
    return {"scores": scores, "ceiling": ceiling, **made, "seconds": round(seconds, 1), "text": text}
