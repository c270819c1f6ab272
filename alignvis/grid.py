"""Every combination asked for: which runs are there already, which are still to do, and who does them."""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch

from alignvis import store
from alignvis.device import choose_device
from alignvis.errors import AlignvisError
from alignvis.finding import find_features, who_learns_from_whom
from alignvis.plans import Plan, Tables, Wanted, plan, sections
from alignvis.processes import processes, rank
from alignvis.progress import Progress, silent
from alignvis.recipe import Recipe, choose_recipe
from alignvis.runs import inputs_of, read_recipe, read_record, run_name, working_on
from alignvis.train_runs import Outcome, train_stack
from alignvis.training import Course

Kind = tuple[str, str, Recipe]  # brain encoder, name of the recipe, recipe
WAIT = 0.5  # seconds between two looks at what other processes have done


def train_grid(
    root: Path,
    *,
    subjects: Sequence[int],
    dataset: str | None = None,
    features: Sequence[str] = (),
    encoders: Sequence[str] = (),
    recipe_name: str = "alignvis",
    seeds: Sequence[int] = (0,),
    leave_out: bool = False,
    changes: dict[str, Any],
    overwrite: bool = False,
    device: str = "cpu",
    together: int | None = None,
    say: Callable[[str], None],
    detail: Callable[[str], None],
    progress: Progress = silent,
) -> list[tuple[Path, dict[str, Any]]]:
    """Train every combination of subjects, features and seeds; runs that are there are kept.

    Several processes, on one machine or on many that share the folder, may be asked for the same: each run is trained
    by the process that takes it first. The process of rank 0 waits for the others, and does what they leave undone.

    Args:
        encoders: brain encoders; none means nice, or brain-mlp where responses have one time.
        leave_out: train on all subjects but one, for each of them.
        together: runs that step together; none means one on a CPU and all that fit on a GPU.

    Returns:
        Folder and record of every run; from a process of another rank than 0, nothing.

    Raises:
        AlignvisError: before anything is trained, when a table is missing or a run of that name had other inputs;
            afterwards, when a run failed.
    """
    where = choose_device(device)
    choose_recipe(recipe_name, changes)  # what is wrong with it is said before anything is looked for
    if overwrite and processes() > 1:
        raise AlignvisError("several processes cannot tell what to overwrite; remove those runs, then train again")
    asked: dict[Path, tuple[Kind, Wanted]] = {}
    lacking: list[tuple[int, AlignvisError]] = []
    for subject, teachers, queries in who_learns_from_whom(root, subjects, dataset, leave_out):
        tables = tuple(teachers.values())
        first = store.load_responses(tables[0])
        fmri = first.train.shape[-1] == 1
        name, recipe = choose_recipe(recipe_name, changes, "leave-out" if leave_out else "fmri" if fmri else None)
        trained_on = list(teachers) if leave_out else []
        try:
            embeddings = find_features(root, first, features, recipe.target)
        except AlignvisError as error:  # another recording of this subject may have some
            lacking.append((subject, error))
            continue
        for path in embeddings:
            table = store.load_features(path)
            for brain, seed in product(dict.fromkeys(encoders or ("brain-mlp" if fmri else "nice",)), seeds):
                kind = (brain, name, recipe)
                run = run_name(first.document["dataset"], subject, table, brain, name, seed, trained_on)
                out = root / "runs" / run
                if out in asked:
                    raise AlignvisError(
                        f"{path} is a second table of {table.document['encoder']!r} that fits; keep only one"
                    )
                asked[out] = kind, Wanted(out, subject, tables, queries, path, seed)
    for subject, error in lacking:
        if subject not in {wanted.subject for _, wanted in asked.values()}:
            raise error
        if not rank():
            say(f"note: one recording of subject {subject} is left out: {error}")
    todo: dict[Kind, list[Plan]] = {}
    for out, (kind, wanted) in asked.items():
        if out.exists() and not overwrite:
            _check_kept(wanted, kind[2])
            if not rank():
                say(f"{out} is there already and was kept")
        else:
            todo.setdefault(kind, []).append(plan(wanted, kind[0], kind[2]))

    total, outcomes, waiting = sum(map(len, todo.values())), {}, False
    (root / "runs").mkdir(parents=True, exist_ok=True)
    while todo:
        for kind, plans in todo.items():
            about = {"encoder": kind[0], "recipe": kind[2], "device": where, "scratch": root / "runs"}
            shelf = partial(Tables, **about, say=say, progress=progress)
            parts = _my_turn(list(sections(plans, kind[2], where)))
            sizes = [together or (1 if where.type == "cpu" else _fair_share(part)) for part in parts]
            if max(sizes) > 1 and not rank():
                say(_how_cut(parts, sizes))
            for part, size in zip(parts, sizes, strict=True):
                report = _reporter(len(outcomes), total, progress, detail)
                for out, outcome in _train_part(kind, part, shelf, size, overwrite, say, report):
                    outcomes[out] = outcome
        todo = {kind: [one for one in plans if not _is_over(one, outcomes, overwrite)] for kind, plans in todo.items()}
        todo = {kind: plans for kind, plans in todo.items() if plans}
        if rank():
            break
        if todo and not waiting:
            say(f"note: other processes are at work on {sum(map(len, todo.values()))} runs; waiting for them")
            waiting = True
        time.sleep(WAIT if todo else 0)
    failed = [outcome for outcome in outcomes.values() if isinstance(outcome, AlignvisError)]
    if rank():  # an error would end all processes, and the first one will tell
        return []
    if failed:
        more = f"; {len(failed) - 1} more failed" if len(failed) > 1 else ""
        others = f"; {len(outcomes) - len(failed)} others were not disturbed" if len(outcomes) > len(failed) else ""
        raise AlignvisError(f"{failed[0]}{more}{others}")
    return [(out, read_record(out)) for out in asked]


def _how_cut(parts: Sequence[Sequence[Plan]], sizes: Sequence[int]) -> str:
    """Say which stacks the runs are cut into."""
    cuts = zip(parts, sizes, strict=True)
    stacks = Counter(min(size, len(part) - start) for part, size in cuts for start in range(0, len(part), size))
    text = ", ".join(f"{count} of {runs}" for runs, count in sorted(stacks.items(), reverse=True))
    return f"{sum(map(len, parts))} runs step together in stacks: {text}"


def _is_over(one: Plan, outcomes: dict[Path, Outcome], overwrite: bool) -> bool:
    """Trained by this process, or by another one."""
    return one.wanted.out in outcomes or (one.wanted.out.exists() and not overwrite)


def _train_part(
    kind: Kind,
    part: Sequence[Plan],
    shelf: Callable[[Sequence[Plan]], Tables],
    size: int,
    overwrite: bool,
    say: Callable[[str], None],
    report: Callable[[Sequence[Plan], Course], None],
) -> Iterator[tuple[Path, Outcome]]:
    """Train the runs of one part that no other process takes, up to ``size`` together."""
    encoder, name, recipe = kind
    tables = None
    while part:
        try:
            with ExitStack() as held:
                taken = _take(part, size, overwrite, held)
                if not taken:
                    return
                tables = tables or shelf(part)
                outcomes = train_stack(
                    taken, tables, encoder, recipe, name, overwrite=overwrite, report=partial(report, taken)
                )
        except AlignvisError as error:  # of what the part shares, so it is true of all its runs
            outcomes = {one.wanted.out: error for one in part}
        except torch.OutOfMemoryError:
            if len(taken) > 1:
                size = len(taken) // 2
                say(f"note: {len(taken)} runs together do not fit into the device's memory; going on with {size}")
                continue
            text = "a single run does not fit into the device's memory; choose a smaller --batch or --device cpu"
            outcomes = {one.wanted.out: AlignvisError(text) for one in part}
        yield from outcomes.items()
        part = [one for one in part if one.wanted.out not in outcomes]


def _reporter(
    done: int, total: int, progress: Progress, detail: Callable[[str], None]
) -> Callable[[Sequence[Plan], Course], None]:
    """Say how far a run is, in a bar and in lines."""
    first: list[Path] = []

    def report(taken: Sequence[Plan], course: Course) -> None:
        out, row = taken[course.run].wanted.out, course.history[-1]
        first.extend(one.wanted.out for one in taken if one.wanted.out not in first)
        place = done + 1 + first.index(taken[0].wanted.out)
        note = f"loss {row['loss']:.3f}, held-out {row['held_out_loss']:.3f}, top-1 {row['held_out_top1']:.1%}"
        runs = f"run {place}" if len(taken) == 1 else f"runs {place} to {place + len(taken) - 1}"
        progress(row["epoch"] + 1, course.epochs, f"{runs} of {total}", note)
        detail(f"{out.name} epoch {row['epoch'] + 1}: {note}, rate {row['rate']:.2e}")

    return report


def _my_turn(parts: list[list[Plan]]) -> list[list[Plan]]:
    """Ranks begin in different places, so that they rarely want the same; each goes round once."""
    start = len(parts) * rank() // processes()
    return parts[start:] + parts[:start]


def _fair_share(part: Sequence[Plan]) -> int:
    return -(-len(part) // processes())


def _check_kept(wanted: Wanted, recipe: Recipe) -> None:
    """Make sure that a run that is there was trained by this recipe, on the tables that are there now."""
    record = read_record(wanted.out)
    if read_recipe(wanted.out, record) != recipe:
        raise AlignvisError(f"{wanted.out} was trained by another recipe of that name; --overwrite trains it again")
    if [table["fingerprint"] for table in inputs_of(record)] != [store.fingerprint(path) for path in wanted.tables]:
        raise AlignvisError(
            f"{wanted.out} was trained on other tables than those there now; --overwrite trains it again"
        )


def _take(part: Sequence[Plan], size: int, overwrite: bool, held: ExitStack) -> list[Plan]:
    """Take up to so many runs that no other process is at work on and that are not there yet."""
    taken: list[Plan] = []
    for one in part:
        if len(taken) == size:
            break
        with ExitStack() as lock:
            with suppress(AlignvisError):
                lock.enter_context(working_on(one.wanted.out))
                if overwrite or not one.wanted.out.exists():
                    taken.append(one)
                    held.push(lock.pop_all())
    return taken
