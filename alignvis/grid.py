"""Every combination asked for: which tables fit together, which runs are there already, which are still to do."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import isfinite
from pathlib import Path
from typing import Any

from alignvis import store
from alignvis.errors import AlignvisError
from alignvis.progress import Progress, silent
from alignvis.runs import all_runs, changed_inputs, evaluate_run, read_record, read_scores, run_name, train_run
from alignvis.store import Responses
from alignvis.training import RECIPES, Recipe


def choose_recipe(name: str, changes: dict[str, Any]) -> tuple[str, Recipe]:
    """Take a recipe by name and change single numbers of it; the name tells what was changed."""
    if name not in RECIPES:
        raise AlignvisError(f"no recipe is called {name!r}; there are: {', '.join(RECIPES)}")
    for key, value in changes.items():
        if isinstance(value, float) and not isfinite(value):
            raise AlignvisError(f"--{key} {value} is not a number to train with; choose a finite one")
    changes = {key: value for key, value in changes.items() if getattr(RECIPES[name], key) != value}
    return "+".join([name, *(f"{key}-{value}" for key, value in changes.items())]), replace(RECIPES[name], **changes)


def find_responses(root: Path, subject: int, dataset: str | None = None) -> list[Path]:
    """Find a subject's responses tables, of one dataset or of all.

    Raises:
        AlignvisError: when there is none; the sentence names the command that makes one.
    """
    if dataset is not None and Path(dataset).name != dataset:
        raise AlignvisError(
            f"--dataset {dataset!r} is not the name of a folder in {root / 'responses'}; name one without a path"
        )
    found = sorted((root / "responses").glob(f"{dataset or '*'}/sub-{subject:02d}.safetensors"))
    if not found:
        raise AlignvisError(
            f"there are no responses of subject {subject} in {root / 'responses' / (dataset or '')}; "
            f"make them with: alignvis prepare {dataset or 'things-eeg2'} --raw DIR --subject {subject}"
        )
    return found


def find_features(root: Path, responses: Responses, wanted: Sequence[str] = ()) -> list[Path]:
    """Find the features tables that have every image of a recording, by image id.

    Args:
        wanted: image encoders; none means every table that fits.

    Raises:
        AlignvisError: when a wanted encoder has no table that fits, or nothing fits.
    """
    tables = {
        path: store.read_document(path, "features") for path in sorted((root / "features").glob("*/*.safetensors"))
    }
    shown = {*responses.train_images, *responses.test_images}
    fitting = [path for path, document in tables.items() if shown <= set(document.get("images", ()))]
    for encoder in wanted:
        if encoder not in [tables[path]["encoder"] for path in fitting]:
            named = [path for path in tables if tables[path]["encoder"] == encoder]
            if named:  # it is there but does not fit: this says why
                store.rows(
                    store.load_features(named[0]), [*responses.train_images, *responses.test_images], responses.path
                )
            there = sorted({document["encoder"] for document in tables.values()})
            raise AlignvisError(
                f"there are no features of {encoder!r} in {root / 'features'} "
                f"(there are: {', '.join(there) or 'none'}); make them with: alignvis extract --encoder {encoder}"
            )
    if not fitting:
        if tables:
            store.rows(
                store.load_features(next(iter(tables))),
                [*responses.train_images, *responses.test_images],
                responses.path,
            )
        raise AlignvisError(f"there are no features in {root / 'features'}; make them with: alignvis extract")
    return [path for path in fitting if not wanted or tables[path]["encoder"] in wanted]


def train_grid(
    root: Path,
    *,
    subjects: Sequence[int],
    dataset: str | None = None,
    features: Sequence[str] = (),
    encoder: str = "nice",
    recipe_name: str = "alignvis",
    seeds: Sequence[int] = (0,),
    changes: dict[str, Any],
    overwrite: bool = False,
    device: str = "cpu",
    say: Callable[[str], None],
    detail: Callable[[str], None],
    progress: Progress = silent,
) -> list[tuple[Path, dict[str, Any]]]:
    """Train every combination of subjects, features and seeds; runs that are there are kept.

    Returns:
        Every run asked for, its folder and its record.

    Raises:
        AlignvisError: before anything is trained, when a table is missing or a run of that name had other inputs.
    """
    name, recipe = choose_recipe(recipe_name, changes)
    todo: list[tuple[Path, Path, Path, int]] = []
    found: dict[Path, dict[str, Any]] = {}
    for responses_path in [path for subject in subjects for path in find_responses(root, subject, dataset)]:
        responses = store.load_responses(responses_path)
        if responses_path.stem != f"sub-{responses.document['subject']:02d}":
            raise AlignvisError(
                f"{responses_path} holds subject {responses.document['subject']}; give the file its own name back"
            )
        for features_path in find_features(root, responses, features):
            table = store.load_features(features_path)
            for seed in seeds:
                out = root / "runs" / run_name(responses, table, encoder, name, seed)
                if out in found:
                    raise AlignvisError(
                        f"{features_path} is a second table of {table.document['encoder']!r} that fits; keep only one"
                    )
                found[out] = {}
                if not out.exists() or overwrite:
                    todo.append((out, responses_path, features_path, seed))
                    continue
                found[out] = read_record(out)
                stated = {kind: found[out]["inputs"][kind]["fingerprint"] for kind in ("responses", "features")}
                if stated != {
                    "responses": store.fingerprint(responses_path),
                    "features": store.fingerprint(features_path),
                }:
                    raise AlignvisError(
                        f"{out} was trained on other tables than those there now; --overwrite trains it again"
                    )
                say(f"{out} is there already and was kept")
    for place, (out, responses_path, features_path, seed) in enumerate(todo, start=1):

        def report(row: dict[str, Any], out: Path = out, place: int = place) -> None:
            note = f"loss {row['loss']:.3f}, held-out {row['held_out_loss']:.3f}, top-1 {row['held_out_top1']:.1%}"
            progress(row["epoch"] + 1, recipe.epochs, f"run {place} of {len(todo)}", note)
            detail(f"{out.name} epoch {row['epoch'] + 1}: {note}, rate {row['rate']:.2e}")

        found[out] = train_run(
            responses_path,
            features_path,
            out,
            encoder=encoder,
            recipe=recipe,
            recipe_name=name,
            seed=seed,
            device=device,
            overwrite=overwrite,
            report=report,
            progress=progress,
        )
    return list(found.items())


def score_all(
    root: Path,
    runs: Sequence[Path] = (),
    *,
    overwrite: bool = False,
    device: str = "cpu",
    say: Callable[[str], None] = lambda text: None,
    progress: Progress = silent,
) -> list[dict[str, Any]]:
    """Score runs that have no score yet, and read the scores of those that do.

    Args:
        runs: folders of runs, or their names in ``root/runs``; none means all.
        say: told of scores that should not be taken at face value: of tables that have changed since, or of an encoder
            that gives nearly every response the same answer.
    """
    chosen = [run if run.is_dir() else root / "runs" / run for run in runs]
    chosen = chosen or all_runs(root)
    if not chosen:
        raise AlignvisError(f"there are no runs in {root / 'runs'}; make one with: alignvis train --subject 1")
    scores = []
    for done, run in enumerate(chosen, start=1):
        kept = (run / "scores.json").is_file() and not overwrite
        record = read_record(run)
        score = read_scores(run, record) if kept else evaluate_run(run, device=device)
        for table in changed_inputs(run, record) if kept else ():
            say(f"note: {table} has changed or gone since {run} was scored; its row is of the earlier table")
        if score["answers"] <= max(1, score["n"] // 20):
            say(
                f"note: {run} named only {score['answers']} different pictures for {score['n']} responses: "
                "it has learned nothing; more steps (--epochs, a smaller --batch) or a higher --rate may help"
            )
        scores.append({"run": str(run), **score})
        progress(done, len(chosen), "scoring runs")
    return scores
