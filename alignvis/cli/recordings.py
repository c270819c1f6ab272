"""Recordings to responses: `simulate`, `prepare`."""

from pathlib import Path
from typing import Any

import click

from alignvis.cli.options import FOLDER, NUMBERS
from alignvis.terminal import Screen


@click.command()
@click.argument("dataset", type=click.Choice(["things-eeg2"]))
@click.option("--out", type=FOLDER, required=True, help="New folder for raw/ and images/.")
@click.option("--subject", type=NUMBERS, default="1", show_default=True, help="Subjects, like 1 or 1-3.")
@click.option(
    "--concepts", type=click.IntRange(4), default=80, show_default=True, help="Training concepts, 10 images each."
)
@click.option("--test", type=click.IntRange(2), default=100, show_default=True, help="Test images, one a concept.")
@click.option(
    "--test-repetitions", type=click.IntRange(1), default=2, show_default=True, help="Of each test image, a session."
)
@click.option(
    "--noise", type=click.FloatRange(0, min_open=True), default=1.5, show_default=True, help="SD of the EEG noise, uV."
)
@click.option(
    "--amplitude", type=click.FloatRange(0), default=2.0, show_default=True, help="Of the response to a factor, uV."
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--overwrite", is_flag=True, help="Replace an earlier simulation that was made otherwise.")
@click.pass_obj
def simulate(screen: Screen, dataset: str, out: Path, subject: tuple[int, ...], **sizes: Any) -> None:
    """Write a fake dataset in the published layout.

    With drawn pictures, and the known ceiling beside the data.
    """
    from alignvis.recordings.simulate import simulate_things_eeg2

    made = simulate_things_eeg2(out, subjects=subject, progress=screen.bar(), **sizes)
    screen.result(made, f"wrote a simulated {dataset} to {out}: subjects {', '.join(map(str, subject))}")
    screen.following(f"prepare {dataset} --raw {out / 'raw'} --subject {subject[0]}", out)


@click.command()
@click.argument("dataset", type=click.Choice(["things-eeg2"]))
@click.option(
    "--raw",
    type=FOLDER,
    required=True,
    help="Folder that holds sub-01, sub-02 ...: raw or published preprocessed files.",
)
@click.option("--subject", type=NUMBERS, required=True, help="Subjects, like 1 or 1-10.")
@click.option(
    "--images", type=FOLDER, help="Folder with image_metadata.npy and the pictures.  [default: ROOT/images/DATASET]"
)
@click.option("--sessions", type=NUMBERS, default="1-4", show_default=True)
@click.option(
    "--channels", default="all", show_default=True, help="all (63), occipital (the 17), or names like O1,Oz,O2."
)
@click.option(
    "--sfreq",
    type=click.FloatRange(0, min_open=True),
    default=250.0,
    show_default=True,
    help="Sampling rate to keep, Hz.",
)
@click.option(
    "--repetitions",
    type=(int, int),
    metavar="TRAIN TEST",
    help="Trials to keep of each image in a session.  [default: 2 20, as published]",
)
@click.option("--float32", is_flag=True, help="Store 32 instead of 16 bits a value.")
@click.option("--overwrite", is_flag=True, help="Replace a responses table that is there.")
@click.pass_obj
def prepare(
    screen: Screen,
    dataset: str,
    raw: Path,
    subject: tuple[int, ...],
    images: Path | None,
    sessions: tuple[int, ...],
    channels: str,
    sfreq: float,
    repetitions: tuple[int, int] | None,
    float32: bool,
    overwrite: bool,
) -> None:
    """Turn raw recordings into one responses table a subject."""
    from alignvis.recordings.things_eeg2 import dataset_name, prepare

    for number in subject:
        name = dataset_name(raw, number)
        made = prepare(
            raw,
            subject=number,
            images=images or screen.root / "images" / name,
            out=screen.root / "responses" / name / f"sub-{number:02d}.safetensors",
            sessions=sessions,
            channels=channels,
            sfreq=sfreq,
            repetitions=repetitions,
            dtype="float32" if float32 else "float16",
            overwrite=overwrite,
            progress=screen.bar(),
        )
        for warning in made["warnings"]:
            screen.say(f"note: {warning}")
        screen.result(made, f"{'kept' if made['kept'] else 'wrote'} {made['path']}")
    # Drawn pictures say nothing through real weights, and those of these two need no download.
    screen.following("extract --encoder lowlevel --encoder untrained_vit" if "simulated" in name else "extract")
