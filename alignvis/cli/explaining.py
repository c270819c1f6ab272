"""Where, when and in which band a run finds the pictures: `explain`."""

from pathlib import Path
from typing import Any

import click

from alignvis.cli.options import DEVICE
from alignvis.errors import AlignvisError
from alignvis.terminal import Screen

LENGTH = click.FloatRange(min=0, min_open=True)


@click.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--twin/--no-twin", default=True, show_default=True, help="Explain each run's twin too, if it is there.")
@click.option("--retrain", is_flag=True, help="Also train new runs on one window and on one band each.")
@click.option("--width", type=LENGTH, default=0.05, show_default=True, help="Of the windows of time, s.")
@click.option("--step", type=LENGTH, default=0.025, show_default=True, help="From one window to the next, s.")
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Figure, .png, .svg or .pdf.  [default: in ROOT/results, by what is in it: explain_RUN.png]",
)
@click.option(
    "--overwrite", is_flag=True, help="Explain again what is explained, and draw over a figure that is there."
)
@DEVICE
@click.pass_obj
def explain(
    screen: Screen,
    runs: tuple[Path, ...],
    twin: bool,
    retrain: bool,
    width: float,
    step: float,
    out: Path | None,
    overwrite: bool,
    device: str,
) -> None:
    """Explain RUNS: what they lose without a window of time, a group of channels, a band; Grad-CAM; a figure.

    RUNS are folders, names in ROOT/runs, parts of a name that no other has, or quoted patterns like "*seed-0". Aligned
    and unaligned image encoders stand side by side in the figure; runs that differ in seed and subject only are
    averaged. What is explained already is read.
    """
    from alignvis.explanations.explain import explain_run
    from alignvis.explanations.naming import figure_name
    from alignvis.figures import maps, style
    from alignvis.runs import named_runs
    from alignvis.twins import by_kind, twin_run

    chosen = named_runs(screen.root, runs)
    if twin:
        partners = [other for other in map(twin_run, chosen) if other]
        chosen = list({run.resolve(): run for run in [*chosen, *partners]}.values())
    kinds = by_kind(chosen)
    if out and len(kinds) > 1:
        raise AlignvisError(f"these are {len(kinds)} kinds of runs, each with a figure of its own; leave --out out")
    figures = [out or screen.root / "results" / f"{figure_name(screen.root, *kind)}.png" for kind in kinds]
    for figure in figures:
        style.format_of(figure)
    for (aligned, plain), figure in zip(kinds, figures, strict=True):
        for run in (*aligned, *plain):
            options = {"width": width, "step": step, "retrain": retrain, "overwrite": overwrite, "device": device}
            found = explain_run(run, **options, say=screen.say, progress=screen.bar())
            screen.result({"run": str(run), **found}, _told(run, found))
        _compare_seeds(screen, [*aligned, *plain])
        if figure.exists() and not overwrite:
            screen.say(f"{figure} is there already and was kept; --overwrite draws it again")
            continue
        style.save(maps.draw_explanation(aligned, plain), figure)
        screen.say(f"wrote {figure}")


def _compare_seeds(screen: Screen, runs: list[Path]) -> None:
    """Say how far Grad-CAM maps agree that differ in the seed alone."""
    from alignvis.explanations.explain import read_explanation
    from alignvis.explanations.randomised import between

    seeds: dict[tuple[str, int], list[Any]] = {}
    for run in runs:
        found, arrays = read_explanation(run)
        if "gradcam" in arrays:
            seeds.setdefault((found["features"], found["subject"]), []).append(arrays["gradcam"].mean(axis=0))
    for (features, subject), maps in seeds.items():
        if len(maps) > 1:
            screen.say(
                f"maps of {len(maps)} seeds of {features}, subject {subject}, agree by {between(maps):.2f} (Spearman); "
                "they should by more than those of random weights"
            )


def _told(run: Path, found: dict[str, Any]) -> str:
    """The short table of one run."""
    from alignvis.explanations.answers import most_kept, most_lost

    occlusion, gradcam = found["occlusion"], found["gradcam"]
    simulated = "  SIMULATED" if found["simulated"] else ""
    lines = [
        f"{run.name}{simulated}",
        f"  top-1 {found['top1']:.1%} of n = {found['n']}, gallery {found['gallery']} test images, "
        f"{found['repetitions']} repetitions, seed {found['seed']}; intervals are 95 % over images",
        "  what is occluded becomes the mean over the test responses, so only what differs between pictures is lost",
    ]
    if occlusion["windows"]:
        worst, best = most_lost(occlusion["windows"]), most_kept(found["kept"])
        told = f"{_span(worst)}  {_lost(worst)}" if worst else "none: top-1 is no lower without any one of them"
        lines.append(f"  window that costs most    {told}")
        lines.append(
            f"  best window alone         {_span(best)}  top-1 {best['top1']:.1%} {_interval(best['top1_interval'])}"
        )
    else:
        lines.append("  a response has one time, so there are no windows and no bands")
    for best in sorted(found["retrained"] or [], key=lambda row: -row["top1"])[:1]:
        lines.append(
            f"  best window, retrained    {_span(best)}  top-1 {best['top1']:.1%} {_interval(best['top1_interval'])} "
            f"({best['encoder']})"
        )
    lines += [f"  without {row['name']:<17} {'':>14}  {_lost(row)}" for row in occlusion["regions"]]
    for row in found["bands"]:
        text = f"only {row['only_top1']:.1%}, all but {row['without_top1']:.1%}"
        again = "" if row["retrained_top1"] is None else f", retrained {row['retrained_top1']:.1%}"
        span = f"{row['low']:g}-{row['high']:g} Hz"
        lines.append(f"  {row['name']:<25} {span:>14}  top-1 {text}{again}")
    if gradcam:
        shares = ", ".join(f"{name} {share:.0%}" for name, share in gradcam["share_by_region"].items())
        early = gradcam["before_300ms"]
        told = [shares, f"{early:.0%} before 300 ms" if early is not None else "", gradcam["note"]]
        lines.append(
            f"  Grad-CAM                  {'; '.join(filter(None, told)) or 'empty: nothing raised the score'}"
        )
    else:
        lines.append(f"  no Grad-CAM: {found['no_gradcam']}")
    single = found["first_order"]
    shares = ", ".join(f"{name} {share:.0%}" for name, share in single["share_by_region"].items())
    early = "" if single["before_300ms"] is None else f"{single['before_300ms']:.0%} before 300 ms"
    lines.append(
        f"  single samples            {'; '.join(filter(None, (shares, early))) or 'nothing'} (to first order)"
    )
    random = found["randomised"]
    mean = sum(random["correlation"]) / len(random["correlation"])
    lines.append(
        f"  random weights: their {random['what']} maps agree with these by {mean:.2f} "
        "(Spearman; 1: they show the data alone)"
    )
    return "\n".join(lines)


def _span(row: dict[str, Any]) -> str:
    return f"{1000 * row['start']:.0f} to {1000 * row['end']:.0f} ms".rjust(14)


def _lost(row: dict[str, Any]) -> str:
    low, high = row["drop_interval"]
    text = f"top-1 {0.0 - 100 * row['drop']:+.1f} points [{-100 * high:+.1f}, {-100 * low:+.1f}]"
    return f"{text}, similarity {round(-row['similarity_drop'], 3) + 0.0:+.3f}"


def _interval(ends: list[float]) -> str:
    return f"[{ends[0]:.1%}, {ends[1]:.1%}]"
