"""Recordings to responses: `simulate`, `prepare`."""

from collections.abc import Callable
from pathlib import Path
from shlex import quote
from typing import Any

import click

from alignvis.cli.options import FOLDER, NUMBERS
from alignvis.spans import spans
from alignvis.terminal import Screen, Span

SUBJECTS = click.option("--subject", type=NUMBERS, default="1", show_default=True, help="Subjects, like 1 or 1-3.")
OUT = click.option("--out", type=FOLDER, required=True, help="New folder for raw/ and images/.")
SEED = click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
AGAIN = click.option("--overwrite", is_flag=True, help="Replace an earlier simulation that was made otherwise.")
PREPARED = click.option("--subject", type=NUMBERS, required=True, help="Subjects, like 1 or 1-10.")
FLOAT32 = click.option("--float32", is_flag=True, help="Store 32 instead of 16 bits a value.")
OVERWRITE = click.option("--overwrite", is_flag=True, help="Replace a responses table that is there.")


@click.group()
def simulate() -> None:
    """Write a fake dataset in a published layout.

    With drawn pictures, and the known ceiling beside the data.
    """


@simulate.command(name="things-eeg2")
@OUT
@SUBJECTS
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
@SEED
@AGAIN
@click.pass_obj
def simulate_eeg2(screen: Screen, out: Path, subject: tuple[int, ...], **sizes: Any) -> None:
    """Raw EEG of 63 channels at 1000 Hz, four sessions."""
    from alignvis.recordings.simulate import simulate_things_eeg2

    _simulated(screen, "things-eeg2", simulate_things_eeg2, out, subject, sizes)


@simulate.command(name="things-meg")
@OUT
@SUBJECTS
@SEED
@AGAIN
@click.pass_obj
def simulate_meg(screen: Screen, out: Path, subject: tuple[int, ...], **sizes: Any) -> None:
    """MEG epochs of 271 sensors at 200 Hz, FIF."""
    from alignvis.recordings.simulate_meg import simulate_things_meg

    _simulated(screen, "things-meg", simulate_things_meg, out, subject, sizes)


@simulate.command(name="nsd")
@OUT
@SUBJECTS
@SEED
@AGAIN
@click.pass_obj
def simulate_fmri(screen: Screen, out: Path, subject: tuple[int, ...], **sizes: Any) -> None:
    """fMRI of some voxels, and a brick of scenes."""
    from alignvis.recordings.simulate_nsd import simulate_nsd

    _simulated(screen, "nsd", simulate_nsd, out, subject, sizes)


def _simulated(
    screen: Screen, dataset: str, write: Callable[..., dict[str, Any]], out: Path, subject: tuple[int, ...], sizes: Any
) -> None:
    made = write(out, subjects=subject, progress=screen.bar(), **sizes)
    screen.result(made, f"wrote a simulated {dataset} to {out}: subjects {', '.join(map(str, subject))}")
    screen.following(f"prepare {dataset} --raw {quote(str(out / 'raw'))} --subject {spans(subject)}", out)


@click.group()
def prepare() -> None:
    """Turn recordings into one responses table a subject."""


@prepare.command(name="things-eeg2")
@click.option(
    "--raw",
    type=FOLDER,
    required=True,
    help="Folder that holds sub-01, sub-02 ...: raw or published preprocessed files.",
)
@PREPARED
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
@click.option(
    "--window", type=Span(), default="0:1", show_default=True, help="Seconds after onset; the end is left out."
)
@FLOAT32
@OVERWRITE
@click.pass_obj
def prepare_eeg2(
    screen: Screen, raw: Path, subject: tuple[int, ...], images: Path | None, float32: bool, **options: Any
) -> None:
    """Raw EEG of THINGS-EEG2, or files preprocessed by others.

    63 channels at 1000 Hz, whitened session by session; what was preprocessed already is converted. Data of Gifford et
    al. (2022), doi:10.1016/j.neuroimage.2022.119754.
    """
    from alignvis.recordings.things_eeg2 import dataset_name, prepare

    for number in subject:
        name = dataset_name(raw, number)
        pictures = images or screen.root / "images" / name
        made = prepare(raw, subject=number, images=pictures, **_to(screen, name, number, float32), **options)
        _prepared(screen, made)
    _what_now(screen, name)


@prepare.command(name="things-meg")
@click.option(
    "--raw", type=FOLDER, required=True, help="Folder of the dataset (ds004212), or that of preprocessed_P1-epo.fif."
)
@PREPARED
@click.option("--images", type=FOLDER, help="Folder of the pictures.  [default: ROOT/images/DATASET]")
@click.option("--sessions", type=NUMBERS, help="Like 1-11.  [default: all]")
@click.option(
    "--channels", default="all", show_default=True, help="all (271), occipital, or names like MLO11-1609,MZO01-1609."
)
@click.option(
    "--sfreq",
    type=click.FloatRange(0, min_open=True),
    default=200.0,
    show_default=True,
    help="Sampling rate to keep, Hz.",
)
@click.option("--window", type=Span(), default="0:1", show_default=True, help="Seconds after onset, both ends kept.")
@FLOAT32
@OVERWRITE
@click.pass_obj
def prepare_meg(
    screen: Screen, raw: Path, subject: tuple[int, ...], images: Path | None, float32: bool, **options: Any
) -> None:
    """MEG epochs of THINGS-MEG, as published.

    271 sensors at 200 Hz; training leaves the concepts of the test pictures out. Data of Hebart et al. (2023),
    doi:10.7554/eLife.82580.
    """
    from alignvis.recordings.things_meg import dataset_name, prepare

    for number in subject:
        name = dataset_name(raw, number)
        pictures = images or screen.root / "images" / name
        made = prepare(raw, subject=number, images=pictures, **_to(screen, name, number, float32), **options)
        _prepared(screen, made)
    _what_now(screen, name)


@prepare.command(name="nsd")
@click.option("--raw", type=FOLDER, required=True, help="Folder with subj01_nsdgeneral.hdf5 ... and nsd_expdesign.mat.")
@PREPARED
@click.option("--sessions", type=NUMBERS, help="Like 1-37.  [default: all]")
@click.option(
    "--zscore/--no-zscore",
    default=True,
    show_default=True,
    help="Scale each voxel within each session by its training trials.",
)
@click.option(
    "--repetitions",
    type=(click.IntRange(1), click.IntRange(1)),
    metavar="TRAIN TEST",
    help="Keep so many single trials of each image, and only images that have them.  [default: the mean of all]",
)
@FLOAT32
@OVERWRITE
@click.pass_obj
def prepare_nsd(screen: Screen, raw: Path, subject: tuple[int, ...], float32: bool, **options: Any) -> None:
    """fMRI betas of natural scenes, nsdgeneral region.

    The test pictures are those that all subjects share. Data of Allen et al. (2022), doi:10.1038/s41593-021-00962-x.
    """
    from alignvis.recordings.nsd import dataset_name, prepare

    shown = ""
    for number in subject:
        name = dataset_name(raw, number)
        made = prepare(raw, subject=number, **_to(screen, name, number, float32), **options)
        _prepared(screen, made)
        shown += f" --shown-in {quote(str(made['path']))}"
    pictures, encoders = screen.root / "images" / "nsd_stimuli.hdf5", ""
    if "simulated" in name:
        pictures, encoders = raw.parent / "images" / f"{name}.hdf5", " --encoder lowlevel --encoder untrained_vit"
    screen.following(f"extract --images {quote(str(pictures))}{shown}{encoders}")


@prepare.command(name="mne")
@click.option(
    "--raw",
    type=click.Path(path_type=Path),
    multiple=True,
    required=True,
    help="Recording: BrainVision .vhdr, EDF/BDF, EEGLAB .set, FIF or CTF .ds; once for each, in order.",
)
@click.option(
    "--events",
    type=click.Path(dir_okay=False, path_type=Path),
    multiple=True,
    required=True,
    help="Table with the columns onset (s), image (id) and split (train or test); one a recording, in order.",
)
@click.option(
    "--session",
    type=click.IntRange(1, 255),
    multiple=True,
    help="Number of the session that a recording belongs to; one a recording, in order.  [default: each its own]",
)
@click.option("--subject", type=click.IntRange(1, 999), required=True, help="Whose recordings these are.")
@click.option("--dataset", default="own", show_default=True, help="Name of the folder in ROOT/responses.")
@click.option(
    "--channels", default="all", show_default=True, help="all, a type (eeg, mag, grad, meg), occipital, or names."
)
@click.option(
    "--window", type=Span(), default="0:1", show_default=True, help="Seconds after onset; the end is left out."
)
@click.option(
    "--baseline",
    type=Span(or_none=True),
    default="-0.2:0",
    show_default=True,
    help="Seconds whose mean is taken off, both ends included; or none.",
)
@click.option(
    "--sfreq",
    type=click.FloatRange(0, min_open=True),
    help="Sampling rate to keep, Hz.  [default: 250, or the recording's where that is lower]",
)
@click.option(
    "--whiten/--no-whiten",
    default=None,
    help="Noise normalisation.  [default: where enough training images are repeated]",
)
@click.option(
    "--repetitions",
    type=(click.IntRange(1), click.IntRange(1)),
    metavar="TRAIN TEST",
    help="Trials to keep of each image.  [default: as many as the image with the fewest has]",
)
@FLOAT32
@OVERWRITE
@click.pass_obj
def prepare_mne(
    screen: Screen,
    raw: tuple[Path, ...],
    events: tuple[Path, ...],
    session: tuple[int, ...],
    subject: int,
    dataset: str,
    float32: bool,
    **options: Any,
) -> None:
    """Your own experiment: whatever mne reads.

    A table of events says when which picture was shown.

    An image's id is its path below the folder of pictures, like training_images/00001_aardvark/aardvark_01b.jpg.
    """
    from alignvis.recordings.own import prepare

    where = _to(screen, dataset, subject, float32)
    sessions = session or None
    made = prepare(raw, events=events, sessions=sessions, subject=subject, dataset=dataset, **where, **options)
    _prepared(screen, made)
    _what_now(screen, dataset)


def _to(screen: Screen, dataset: str, subject: int, float32: bool) -> dict[str, Any]:
    """Where a table goes, and how: what every dataset is asked alike."""
    return {
        "out": screen.root / "responses" / dataset / f"sub-{subject:02d}.safetensors",
        "dtype": "float32" if float32 else "float16",
        "progress": screen.bar(),
    }


def _prepared(screen: Screen, made: dict[str, Any]) -> None:
    for warning in made["warnings"]:
        screen.say(f"note: {warning}")
    train, test = (" x ".join(map(str, made[part])) for part in ("train", "test"))
    verb = "kept" if made["kept"] else "wrote"
    at = f" at {made['sfreq']:g} Hz from {made['tmin']:g} s" if made["sfreq"] else ""
    axes = f"images x repetitions x {'channels x times' if at else 'voxels x 1'}"
    screen.result(made, f"{verb} {made['path']}: train {train}, test {test} ({axes}{at}), in {made['unit']}")


def _what_now(screen: Screen, dataset: str) -> None:
    # Drawn pictures say nothing through real weights, and those of these two need no download.
    screen.following("extract --encoder lowlevel --encoder untrained_vit" if "simulated" in dataset else "extract")
