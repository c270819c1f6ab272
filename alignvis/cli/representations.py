"""Recordings against embeddings without a decoder: `rsa`, `encode`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from alignvis.cli.options import NUMBERS
from alignvis.errors import AlignvisError
from alignvis.terminal import Screen

if TYPE_CHECKING:
    from alignvis.representations.study import Study

METRICS = click.Choice(["pearson", "cosine", "euclidean"])
SHARED = (
    click.option("--subject", "subjects", type=NUMBERS, required=True, help="Subjects, like 1 or 1-10."),
    click.option("--dataset", help="Folder in ROOT/responses.  [default: the only one with these subjects]"),
    click.option(
        "--features",
        "features",
        multiple=True,
        metavar="ID",
        help="Image encoder, any number of times.  [default: every table that fits, so an aligned one and its twin]",
    ),
    click.option("--target", default="embeddings", show_default=True, help="Tensor to take, like layer.6.patches."),
    click.option("--channels", default="all", show_default=True, help="all, occipital, or names like O1,Oz,O2."),
    click.option("--window", default="all", show_default=True, help="all, or seconds like 0:0.6."),
    click.option(
        "--draws", type=click.IntRange(100, 100_000), default=1000, show_default=True, help="Of the bootstrap."
    ),
    click.option("--permutations", type=click.IntRange(100, 100_000), default=1000, show_default=True),
    click.option("--seed", type=click.IntRange(0, 2**31 - 1), default=0, show_default=True),
    click.option(
        "--out",
        type=click.Path(dir_okay=False, path_type=Path),
        help="Figure to write: .png, .svg or .pdf; the numbers lie beside it.  [default: in ROOT/results]",
    ),
    click.option("--overwrite", is_flag=True, help="Replace a result that is there."),
)


@dataclass(frozen=True)
class Asked:
    """What `SHARED` gives: which tables to open, how often to draw, where the figure will lie."""

    subjects: tuple[int, ...]
    dataset: str | None
    features: tuple[str, ...]
    target: str
    channels: str
    window: str
    draws: int
    permutations: int
    seed: int
    out: Path | None
    overwrite: bool


def _shared(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(SHARED):
        command = option(command)
    return command


@click.command()
@_shared
@click.option("--metric", type=METRICS, default="pearson", show_default=True, help="Of brains, over channels.")
@click.option("--embedding-metric", type=METRICS, default="pearson", show_default=True, help="Of embeddings.")
@click.pass_obj
def rsa(screen: Screen, metric: str, embedding_metric: str, **shared: Any) -> None:
    """Correlate how brains and embeddings tell the test pictures apart, over time.

    Representational similarity analysis on the test images, which have the most repetitions: Spearman's correlation of
    dissimilarity matrices at every time, with noise ceiling, bootstrap interval, and p corrected for all times. Nothing
    is fitted. Nili et al. (2014), doi:10.1371/journal.pcbi.1003553.
    """
    from alignvis import files
    from alignvis.figures.representations import draw_rsa
    from alignvis.figures.style import save
    from alignvis.representations.rsa_analysis import similarity_over_time
    from alignvis.representations.table import rsa_table

    asked = Asked(**shared)
    study = _opened(screen.root, asked)
    figure = _place(screen.root, "rsa", study, asked, [".json"])
    result = similarity_over_time(
        study,
        metric=metric,
        embedding_metric=embedding_metric,
        draws=asked.draws,
        permutations=asked.permutations,
        seed=asked.seed,
        progress=screen.bar(),
    )
    screen.close()
    files.write_json(figure.with_suffix(".json"), result)
    save(draw_rsa(result), figure)
    screen.result({**result, "figure": str(figure)}, rsa_table(result))
    screen.say(f"wrote {figure.with_suffix('.json')} and drew {figure}{_unseen(screen.root, figure, 'rsa')}")
    screen.following(f"encode {_same(asked)}")


@click.command()
@_shared
@click.pass_obj
def encode(screen: Screen, **shared: Any) -> None:
    """Predict responses from embeddings: the way back, channel by channel.

    Ridge regression fitted to the training images, a penalty for each channel and time chosen by cross-validation over
    concepts; predictions are correlated with the mean responses to the test images, beside the noise ceiling.
    """
    from alignvis import files, store
    from alignvis.figures.representations import draw_encoding
    from alignvis.figures.style import save
    from alignvis.memory import keep_freed_memory
    from alignvis.representations.encoding_analysis import as_tensors, maps_document
    from alignvis.representations.encoding_analysis import encode as encoded
    from alignvis.representations.table import encoding_table
    from alignvis.runs import save_tensors

    keep_freed_memory()
    asked = Asked(**shared)
    study = _opened(screen.root, asked)
    figure = _place(screen.root, "encoding", study, asked, [".json", ".safetensors"])
    result, maps = encoded(
        study, draws=asked.draws, permutations=asked.permutations, seed=asked.seed, progress=screen.bar()
    )
    screen.close()
    beside = figure.with_suffix(".safetensors")
    save_tensors(as_tensors(maps), beside, maps_document(result))
    result |= {"maps": beside.name, "maps_sha256": store.fingerprint(beside)}
    files.write_json(figure.with_suffix(".json"), result)
    save(draw_encoding(result, maps), figure)
    screen.result({**result, "figure": str(figure)}, encoding_table(result))
    unseen = _unseen(screen.root, figure, "encoding")
    screen.say(f"wrote {figure.with_suffix('.json')} and its maps {beside}, and drew {figure}{unseen}")
    screen.following("report")


def _opened(root: Path, asked: Asked) -> "Study":
    from alignvis.representations.study import open_study

    return open_study(
        root,
        asked.subjects,
        dataset=asked.dataset,
        features=asked.features,
        target=asked.target,
        channels=asked.channels,
        window=asked.window,
    )


def _place(root: Path, what: str, study: "Study", asked: Asked, beside: Sequence[str]) -> Path:
    """Where the figure will lie; what is there already is told before anything is computed."""
    from alignvis.figures.style import format_of
    from alignvis.representations.study import result_name

    folder = study.responses[0].path.parent.name
    out = asked.out or root / "results" / f"{result_name(what, folder, study.subjects, study.target)}.png"
    format_of(out)
    for path in (out, *(out.with_suffix(ending) for ending in beside)):
        if path.exists() and not asked.overwrite:
            raise AlignvisError(f"{path} is there already; replace it with --overwrite, or choose another --out")
    return out


def _unseen(root: Path, figure: Path, what: str) -> str:
    """What to know of a place where `report` does not look."""
    folder = root / "results"
    if figure.parent.resolve() == folder.resolve() and figure.name.startswith(f"{what}_"):
        return ""
    return f"; `alignvis report` does not show it, as it takes {what}_*.json in {folder} alone"


def _same(asked: Asked) -> str:
    """The same choice again, for the next command."""
    chosen = [f"--subject {','.join(map(str, asked.subjects))}"]
    chosen += [f"--dataset {asked.dataset}"] if asked.dataset else []
    return " ".join([*chosen, *(f"--features {name}" for name in asked.features)])
