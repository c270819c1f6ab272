"""What decides how a run is trained, apart from its data, its encoder and its seed."""

import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from hashlib import sha256
from math import cos, isfinite, pi
from typing import Any

from alignvis.errors import AlignvisError

LOWEST_RATE = 1e-7
PLATEAU = 5  # epochs without a better held-out loss after which the schedule "plateau" halves the rate
HIGHEST = {int: 1_000_000, float: 1e30}  # beyond these no entry means anything
LONGEST_NAME = 120  # characters; a run's folder also names its dataset, its encoders and its seed


def published_rate(progress: float, losses: Sequence[float], recipe: "Recipe") -> float:
    """The published code hands the held-out loss to a cosine of period 10 as if it were the epoch."""
    if not losses:  # the first epoch
        return recipe.rate
    return LOWEST_RATE + (recipe.rate - LOWEST_RATE) * (1 + cos(pi * (losses[-1] % 10) / 10)) / 2


def cosine_rate(progress: float, losses: Sequence[float], recipe: "Recipe") -> float:
    """Half a cosine from the full rate to the lowest, over the whole run."""
    return LOWEST_RATE + (recipe.rate - LOWEST_RATE) * (1 + cos(pi * progress)) / 2


def plateau_rate(progress: float, losses: Sequence[float], recipe: "Recipe") -> float:
    """Half the rate after every `PLATEAU` epochs in which the held-out loss has not become better."""
    best, waited, halvings = float("inf"), 0, 0
    for loss in losses:
        best, waited = (loss, 0) if loss < best else (best, waited + 1)
        if waited == PLATEAU:
            waited, halvings = 0, halvings + 1
    return max(LOWEST_RATE, recipe.rate / 2**halvings)


# (share of all steps that are done, held-out losses of the epochs so far, recipe) -> learning rate
SCHEDULES: dict[str, Callable[[float, Sequence[float], "Recipe"], float]] = {
    "published": published_rate,
    "cosine": cosine_rate,
    "plateau": plateau_rate,
    "constant": lambda progress, losses, recipe: recipe.rate,
}


def option(
    default: Any, text: str, choices: Sequence[str] = (), low: float | None = None, positive: bool = False
) -> Any:
    """One entry of a recipe: its default, what it means, and what it may be. The command line shows the same text."""
    about = {"help": text, "choices": tuple(choices), "low": 0 if positive else low, "positive": positive}
    return field(default=default, metadata=about)


@dataclass(frozen=True)
class Recipe:
    """Everything that decides how a run is trained, apart from its data, its encoder and its seed.

    What each entry means stands beside it. A number below the lowest that makes sense, or a word that is none of the
    choices, raises an AlignvisError.
    """

    rate: float = option(2e-4, "Learning rate at its highest.", positive=True)
    batch: int = option(128, "Images a step: as many candidates as each response is contrasted with.", low=2)
    epochs: int = option(50, "Passes over the training images.", low=1)
    schedule: str = option("published", "How the learning rate changes.", SCHEDULES)
    warmup: float = option(0.0, "Epochs in which the rate rises from nothing, step by step.", low=0)
    decay: float = option(0.1, "Weight decay of AdamW.", low=0)
    clip: float = option(1.0, "Largest norm of the gradient.", positive=True)
    patience: int = option(30, "Epochs without a better held-out loss after which training ends.", low=1)
    loss: str = option("infonce", "Objective.", ("infonce", "softclip"))
    temperature: float = option(0.04, "Of the contrast; where the scale is learned, at the start.", positive=True)
    scale: str = option(
        "fixed", "Scale of the logits: one over the temperature, or learned from there.", ("fixed", "learned")
    )
    scale_rate: float = option(1e-3, "Learning rate of a learned scale, which has no decay.", low=0)
    target: str = option(
        "embeddings",
        "What of the features to learn: embeddings, or a tensor kept beside them, like layer.6.patches or blur.3.",
    )
    sides: str = option("both", "Vectors scaled to length one before the product.", ("both", "image", "none"))
    centre: bool = option(True, "Subtract each vector's own mean first.")
    projector: int = option(
        0, "Dimensions shared by both sides: images get a trained linear map to them; 0 is none.", low=0
    )
    head: bool = option(True, "Keep the published last linear layer of the brain encoder.")
    parity: bool = option(False, "Repeat the published oddities of the brain encoder.")
    normalisation: str = option(
        "repetition",
        "Of responses: each repetition by its uncentred norm (published) or centred norm, their mean, or none.",
        ("repetition", "repetition-centred", "mean", "none"),
    )
    repetitions: str = option(
        "all",
        "Training repetitions: averaged once, a random subset a step, or random mixtures of two.",
        ("all", "subset", "pairs"),
    )
    channels: str = option("all", "Channels: all, occipital (the 17), or names like O1,Oz,O2.")
    window: str = option("all", "Times: all, or seconds like 0.05:0.6 after the image comes on.")
    resample: int = option(0, "Interpolate linearly to so many times; 0 keeps them.", low=0)
    smoothing: float = option(0.0, "Standard deviation of a Gaussian filter over time, ms; 0 is none.", low=0)
    band: str = option("all", "Frequencies: all, or hertz from the lowest to the highest, like 8:13.")
    validation: str = option(
        "image", "What is held out: single images (published), or whole concepts, as in the test.", ("image", "concept")
    )
    share: float = option(0.1, "How much of it is held out.", positive=True)

    def __post_init__(self) -> None:
        for entry in fields(self):
            value, about, kind = getattr(self, entry.name), entry.metadata, type(entry.default)
            name = f"--{entry.name.replace('_', '-')} {value}"
            if type(value) is not kind and (kind, type(value)) != (float, int):
                raise AlignvisError(f"{name} is not of the kind of {entry.default!r}")
            if isinstance(value, float) and not isfinite(value):
                raise AlignvisError(f"{name} is not a number to train with; choose a finite one")
            if kind in HIGHEST and value > HIGHEST[kind]:
                raise AlignvisError(f"{name[:60]} is too high; choose {HIGHEST[kind]:g} or less")
            if kind is float:  # the same number has one spelling, in names and in files
                object.__setattr__(self, entry.name, float(value))
            if about["choices"] and value not in about["choices"]:
                raise AlignvisError(f"{name} is none of {', '.join(about['choices'])}")
            if about["low"] is not None and not isinstance(value, bool) and value < about["low"]:
                raise AlignvisError(f"{name} is too low; choose {about['low']:g} or more")
            if about["positive"] and not value:
                raise AlignvisError(f"--{entry.name} 0 leaves nothing to learn with; choose a positive number")
        if not self.share < 1:
            raise AlignvisError(f"--share {self.share:g} is no share to hold out; choose one between 0 and 1")
        if self.normalisation == "mean" and self.repetitions != "all":
            raise AlignvisError(
                f"--repetitions {self.repetitions} makes a new mean a step, which --normalisation mean cannot know "
                "beforehand; choose --normalisation repetition-centred"
            )
        window = seconds(self.window)
        if window:
            object.__setattr__(self, "window", f"{window[0]}:{window[1]}")
        band = hertz(self.band)
        if band:
            object.__setattr__(self, "band", f"{band[0]:.12g}:{band[1]:.12g}")

    def rate_at(self, step: int, steps: int, epoch_steps: int, losses: Sequence[float]) -> float:
        """Learning rate of one step of ``steps``, after epochs with these held-out losses."""
        rising = min(1.0, (step + 1) / (self.warmup * epoch_steps)) if self.warmup else 1.0
        return rising * SCHEDULES[self.schedule](step / steps, losses, self)


def seconds(window: str) -> tuple[float, float] | None:
    """Read a window like "0.05:0.6"; "all" is None."""
    if window == "all":
        return None
    try:
        start, end = (float(part) + 0.0 for part in window.split(":"))  # no minus before a zero
        if not -1e6 < start < end < 1e6:
            raise ValueError
    except ValueError:
        raise AlignvisError(f"--window {window} is no window of time; write one like 0.05:0.6, in seconds") from None
    return start, end


def hertz(band: str) -> tuple[float, float] | None:
    """Read a band of frequencies like "8:13"; "all" is None."""
    if band == "all":
        return None
    try:
        low, high = (float(part) + 0.0 for part in band.split(":"))
        if not 0 <= low < high < 1e6:
            raise ValueError
    except ValueError:
        raise AlignvisError(f"--band {band} is no band of frequencies; write one like 8:13, in hertz") from None
    return low, high


LATER = ("band",)  # entries that recipes recorded by an earlier alignvis lack; their runs did what the default says
LEAVE_OUT = {"rate": 1e-4, "batch": 512, "epochs": 150, "validation": "concept"}
FMRI = {"rate": 1e-4, "temperature": 0.07, "normalisation": "none"}
PUBLISHED = Recipe()  # what made the published numbers, with the schedule that the published code has
FIXED = Recipe(
    schedule="cosine", validation="concept"
)  # the schedule that it names, and the split that tests the claim
RECIPES: dict[str, Recipe] = {
    "alignvis": PUBLISHED,
    "alignvis-leave-out": replace(PUBLISHED, **LEAVE_OUT),
    "alignvis-fmri": replace(PUBLISHED, **FMRI),
    "alignvis-fixed": FIXED,
    "alignvis-fixed-leave-out": replace(FIXED, **LEAVE_OUT),
    "alignvis-fixed-fmri": replace(FIXED, **FMRI),
}


def choose_recipe(name: str, changes: dict[str, Any], column: str | None = None) -> tuple[str, Recipe]:
    """Take a recipe by name and change entries of it; the name that is returned tells what was changed.

    Args:
        column: "leave-out" or "fmri" takes the recipe's own numbers for that, where it has some.
    """
    if name not in RECIPES:
        raise AlignvisError(f"no recipe is called {name!r}; there are: {', '.join(RECIPES)}")
    if f"{name}-{column}" in RECIPES:
        name = f"{name}-{column}"
    recipe = replace(RECIPES[name], **changes)
    before, after = asdict(RECIPES[name]), asdict(recipe)  # in the order of the entries, however they were given
    changed = {key: str(after[key]) for key in after if after[key] != before[key]}
    words = [f"{key}-{re.sub(r'[^a-zA-Z0-9.+-]', '-', value)}" for key, value in changed.items()]
    full = "+".join([name, *words])
    if len(full) > LONGEST_NAME or re.search(r"[^\w.,]", recipe.channels):  # the record states every entry
        full = f"{name}+{len(words)}-changes-{sha256(str(changed).encode()).hexdigest()[:8]}"
    return full, recipe
