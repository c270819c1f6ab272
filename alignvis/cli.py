"""The commands: thin; heavy imports stay inside them."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import click

from alignvis import __version__
from alignvis.errors import AlignvisError
from alignvis.recipe import Recipe
from alignvis.terminal import Commands, Numbers, Screen

FOLDER = click.Path(file_okay=False, path_type=Path)
NUMBERS = Numbers()


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="alignvis")
@click.option(
    "--root",
    type=FOLDER,
    default=".",
    envvar="ALIGNVIS_ROOT",
    show_default=True,
    show_envvar=True,
    help="Folder that holds images/ responses/ features/ runs/ weights/.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a result on stdout.")
@click.option("--quiet", is_flag=True, help="No progress and no news.")
@click.option("-v", "--verbose", is_flag=True, help="Every epoch.")
@click.pass_context
def main(ctx: click.Context, root: Path, as_json: bool, quiet: bool, verbose: bool) -> None:
    """Which picture was it? Decode vision from EEG, MEG and fMRI with human-aligned image models.

    With a dataset in place: `alignvis prepare things-eeg2 --raw DIR --subject 1`, `alignvis extract`,
    `alignvis train --subject 1`, `alignvis eval`. With nothing at all: `alignvis demo`.
    """
    ctx.obj = Screen(root, as_json, quiet, verbose)
    ctx.call_on_close(ctx.obj.close)


@main.command()
@click.option("--fast", is_flag=True, help="Fewer pictures and trials: half a minute instead of one.")
@click.option("--out", type=FOLDER, help="Folder for everything that it makes.  [default: demo, or demo-fast]")
@click.pass_obj
def demo(screen: Screen, fast: bool, out: Path | None) -> None:
    """Go the whole way on a simulated subject; nothing is downloaded."""
    from alignvis.demo import run_demo
    from alignvis.memory import keep_freed_memory

    keep_freed_memory()
    result = run_demo(out or Path("demo-fast" if fast else "demo"), fast=fast, say=screen.say, progress=screen.bar())
    screen.result(result, result["text"])


@main.command()
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


@main.command()
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
    screen.following("extract")


DEVICE = click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)


def _image_sets(folder: Path) -> list[Path]:
    """Every folder that holds something, without hidden ones."""
    return sorted(path for path in folder.glob("[!.]*") if path.is_dir() and any(path.iterdir()))


@main.command()
@click.option("--images", type=FOLDER, help="Folder of pictures.  [default: every folder in ROOT/images]")
@click.option(
    "--encoder",
    "encoders",
    multiple=True,
    metavar="ID",
    help="Image encoder, any number of times; see `alignvis list`.  [default: dreamsim_synclr_vitb16 and its twin]",
)
@click.option("--weights", type=click.Path(path_type=Path), help="File or folder to take the weights from.")
@click.option("--offline", is_flag=True, help="Never download weights.")
@click.option("--batch", type=click.IntRange(1), default=32, show_default=True, help="Pictures a step.")
@click.option("--precision", type=click.Choice(["fp32", "bf16"]), default="fp32", show_default=True)
@click.option("--skip-bad", is_flag=True, help="Leave broken pictures out and list them, instead of stopping.")
@click.option("--overwrite", is_flag=True, help="Replace features tables that are there.")
@DEVICE
@click.pass_obj
def extract(
    screen: Screen,
    images: Path | None,
    encoders: tuple[str, ...],
    weights: Path | None,
    offline: bool,
    batch: int,
    precision: str,
    skip_bad: bool,
    overwrite: bool,
    device: str,
) -> None:
    """Embed pictures once: one features table an encoder."""
    from alignvis.images import catalogue
    from alignvis.images.extract import extract
    from alignvis.memory import keep_freed_memory

    keep_freed_memory()
    ids = tuple(dict.fromkeys(encoders)) or catalogue.DEFAULT
    folders = [images] if images else _image_sets(screen.root / "images")
    if not folders:
        raise AlignvisError(
            f"there are no pictures in {screen.root / 'images'}; put an image set there, or name one with --images"
        )
    loaded = [
        catalogue.load(id, screen.root / "weights", given=weights, download=not offline, progress=screen.bar())
        for id in ids
    ]
    for encoder in loaded:
        if encoder.row.warning:
            screen.say(f"note: {encoder.row.id}: {encoder.row.warning}")
    for folder in folders:
        out = screen.root / "features" / folder.resolve().name
        made = extract(
            folder,
            loaded,
            out,
            batch=batch,
            device=device,
            precision=precision,
            skip_bad=skip_bad,
            overwrite=overwrite,
            progress=screen.bar(),
        )
        for row in made:
            for picture in row["skipped"]:
                screen.say(f"note: {picture} is broken and was left out of {row['table']}")
            screen.result(
                row, f"{'kept' if row['kept'] else 'wrote'} {row['table']}: {row['images']} images x {row['dim']}"
            )
    if not images:
        screen.following("train --subject 1")


def recipe_options(command: Any) -> Any:
    """One option for every entry of a recipe; what is not given stays as the recipe has it."""
    for entry in reversed(fields(Recipe)):
        about, kind = entry.metadata, type(entry.default)
        name = entry.name.replace("_", "-")
        numbers = {int: click.IntRange, float: click.FloatRange}
        bounds = {"min": about["low"], "min_open": about["positive"]}
        given: Any = numbers[kind](**bounds) if kind in numbers else kind
        given = click.Choice(about["choices"]) if about["choices"] else given
        flag = f"--{name}/--no-{name}" if kind is bool else f"--{name}"
        extra = {} if kind is bool else {"type": given, "show_default": str(entry.default)}
        command = click.option(flag, entry.name, default=None, help=about["help"], **extra)(command)
    return command


@main.command()
@click.option("--subject", type=NUMBERS, required=True, help="Subjects, like 1 or 1-10.")
@click.option("--dataset", help="Folder in ROOT/responses.  [default: every one that has the subject]")
@click.option(
    "--features",
    "wanted",
    multiple=True,
    metavar="ID",
    help="Image encoder whose table to train on, any number of times.  [default: every table that fits]",
)
@click.option(
    "--encoder",
    "encoders",
    multiple=True,
    metavar="ID",
    help="Brain encoder, any number of times; see `alignvis list brain-encoders`.  [default: nice; fMRI: brain-mlp]",
)
@click.option("--recipe", default="alignvis", show_default=True, help="What to do; see `alignvis list recipes`.")
@click.option("--seed", type=NUMBERS, default="0", show_default=True, help="Seeds, like 0 or 0-4.")
@click.option("--leave-out", is_flag=True, help="Train on all subjects given but one, for each of them.")
@click.option(
    "--together", type=click.IntRange(1), help="Runs that step together.  [default: all that fit on a GPU; CPU: 1]"
)
@click.option("--overwrite", is_flag=True, help="Train runs again that are there.")
@DEVICE
@recipe_options
@click.pass_obj
def train(
    screen: Screen,
    subject: tuple[int, ...],
    dataset: str | None,
    wanted: tuple[str, ...],
    encoders: tuple[str, ...],
    recipe: str,
    seed: tuple[int, ...],
    leave_out: bool,
    together: int | None,
    overwrite: bool,
    device: str,
    **changes: Any,
) -> None:
    """Train on every combination of subjects, features, brain encoders and seeds.

    Runs that are there are kept, and a run that was interrupted goes on. On several GPUs or machines that share ROOT:
    `torchrun --nproc-per-node N -m alignvis train ...`. The options from --rate on change single entries of the
    recipe; by default they are as the recipe says, and the defaults shown are those of `alignvis`.
    """
    from alignvis.grid import train_grid
    from alignvis.memory import keep_freed_memory

    keep_freed_memory()
    records = train_grid(
        screen.root,
        subjects=subject,
        dataset=dataset,
        features=wanted,
        encoders=encoders,
        recipe_name=recipe,
        seeds=seed,
        leave_out=leave_out,
        changes={key: value for key, value in changes.items() if value is not None},
        overwrite=overwrite,
        device=device,
        together=together,
        say=screen.say,
        detail=screen.detail,
        progress=screen.bar(),
    )
    for run, record in records:
        best = next(row for row in reversed(record["history"]) if row["best"])
        epochs, held_out = len(record["history"]), len(record["split"]["validation"])
        about = {"run": str(run), "seconds": record["seconds"], "epochs": epochs, "best_epoch": best["epoch"] + 1}
        screen.result(
            about | {"held_out": held_out, **best},
            f"{run}: best epoch {best['epoch'] + 1} of {epochs} by held-out loss, "
            f"held-out top-1 {best['held_out_top1']:.1%} (chance {1 / held_out:.1%})",
        )
    screen.following("eval")


@main.command(name="eval")
@click.argument("runs", nargs=-1, type=click.Path(path_type=Path))
@click.option("--overwrite", is_flag=True, help="Score runs again that have a score.")
@DEVICE
@click.pass_obj
def evaluate(screen: Screen, runs: tuple[Path, ...], overwrite: bool, device: str) -> None:
    """Score RUNS by retrieval of the test images.

    Without RUNS: all in ROOT/runs. Runs that have a score are read.
    """
    from alignvis.scoring import score_all
    from alignvis.table import scores_table

    broken: list[AlignvisError] = []
    scores = score_all(
        screen.root,
        runs,
        overwrite=overwrite,
        device=device,
        say=screen.say,
        broken=broken.append,
        progress=screen.bar(),
    )
    if screen.as_json:
        for score in scores:
            screen.result(score, "")
    elif scores:
        click.echo(scores_table(scores))
    if broken:
        raise AlignvisError(f"{broken[0]}" + (f" (and {len(broken) - 1} more)" if len(broken) > 1 else ""))


@main.command(name="list")
@click.argument("what", type=click.Choice(["encoders", "brain-encoders", "recipes"]), default="encoders")
@click.pass_obj
def list_(screen: Screen, what: str) -> None:
    """List image encoders, brain encoders or recipes."""
    from alignvis.listing import brain_encoders, image_encoders, recipes

    for row, text in {"encoders": image_encoders, "brain-encoders": brain_encoders, "recipes": recipes}[what]():
        screen.result(row, text)


@main.command()
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path))
@click.pass_obj
def check(screen: Screen, paths: tuple[Path, ...]) -> None:
    """Say what PATHS hold, if they are whole, what fits what.

    Without PATHS: all tables and runs in ROOT.
    """
    from alignvis.check import check_all

    bad = 0
    for row, text in check_all(screen.root, paths):
        bad += not row["whole"]
        screen.result(row, text)
    if bad:
        raise AlignvisError(f"{bad} of these cannot be used; what to do is said beside each")
