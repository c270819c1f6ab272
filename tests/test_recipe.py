from dataclasses import fields, replace
from itertools import combinations

import pytest
import torch

from alignvis.errors import AlignvisError
from alignvis.recipe import (
    LONGEST_NAME,
    LOWEST_RATE,
    RECIPES,
    Recipe,
    choose_recipe,
    cosine_rate,
    hertz,
    published_rate,
)

# for each entry a value that is allowed and is nobody's default
OTHER = {
    "rate": 3e-4, "batch": 64, "epochs": 7, "schedule": "plateau", "warmup": 2.5, "decay": 0.0, "clip": 2.0,
    "patience": 4, "loss": "softclip", "temperature": 0.1, "scale": "learned", "scale_rate": 0.01,
    "target": "layer.6.patches", "sides": "image", "centre": False, "projector": 16, "head": False, "parity": True,
    "normalisation": "repetition-centred", "repetitions": "pairs", "channels": "O1,Oz", "window": "0.05:0.6",
    "resample": 9, "smoothing": 5.0, "band": "8:13", "validation": "concept", "share": 0.2,
}  # fmt: skip


def named(schedule: str, **changes) -> Recipe:
    return Recipe(rate=1.0, schedule=schedule, **changes)


def test_the_published_schedule_is_torchs_when_the_loss_is_its_epoch():
    """The published code calls ``CosineAnnealingWarmRestarts(T_0=10, eta_min=1e-7).step(held_out_loss)``."""
    optimizer = torch.optim.AdamW([torch.zeros(1, requires_grad=True)], lr=2e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, T_0=10, eta_min=1e-7)
    optimizer.step()
    for loss in (6.2, 5.0, 4.16, 1.0, 0.3, 12.0):
        schedule.step(loss)
        assert published_rate(0.5, [9.9, loss], Recipe()) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)
    assert published_rate(0.5, [], Recipe()) == 2e-4
    assert published_rate(0.0, [5.0], Recipe()) == pytest.approx((2e-4 + 1e-7) / 2)


def test_the_cosine_falls_from_the_full_rate_to_the_lowest():
    rates = [cosine_rate(i / 100, [3.0], Recipe()) for i in range(101)]
    assert (
        rates[0] == 2e-4 and rates[100] == pytest.approx(LOWEST_RATE) and rates[50] == pytest.approx((2e-4 + 1e-7) / 2)
    )
    assert all(a > b for a, b in zip(rates, rates[1:], strict=False))


def test_the_rate_rises_step_by_step_while_it_warms_up_and_only_then():
    rates = [named("constant", warmup=2).rate_at(step, 40, 4, []) for step in range(11)]
    assert rates == pytest.approx([0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1, 1, 1, 1])
    assert [named("constant", warmup=0.5).rate_at(step, 40, 4, []) for step in range(3)] == [0.5, 1, 1]
    assert [named("constant").rate_at(step, 40, 4, []) for step in (0, 1, 39)] == [1, 1, 1]
    assert named("constant", warmup=0.01).rate_at(0, 40, 4, []) == 1  # shorter than one step


def test_the_schedule_goes_on_under_the_warm_up():
    for step in range(12):
        rising = min(1, (step + 1) / 8)
        plain = named("cosine").rate_at(step, 12, 4, [])
        assert named("cosine", warmup=2).rate_at(step, 12, 4, []) == pytest.approx(rising * plain)
    eighth = (1 + 0.5**0.5) / 2  # cos(pi / 4) is half the root of two
    assert named("cosine").rate_at(3, 12, 4, []) == pytest.approx(eighth, abs=1e-6)  # of all steps, not of an epoch's
    assert named("published", warmup=1).rate_at(1, 12, 4, [5.0]) == pytest.approx(0.25, abs=1e-6)


def test_a_constant_rate_hears_of_nothing():
    assert {named("constant").rate_at(step, 9, 3, losses) for step in range(9) for losses in ([], [7.0] * 50)} == {1.0}


def test_the_plateau_by_hand():
    """Five epochs that are not better halve the rate, and the count begins again; an equal loss is not a better one."""
    losses = [3.0, 2.0, 2.0, 2.5, 2.1, 2.2]
    recipe = named("plateau")
    assert recipe.rate_at(0, 100, 10, []) == recipe.rate_at(0, 100, 10, losses) == 1.0  # four epochs waited
    assert recipe.rate_at(0, 100, 10, [*losses, 2.0]) == 0.5
    assert recipe.rate_at(0, 100, 10, [*losses, 1.9]) == 1.0  # better just in time
    assert recipe.rate_at(0, 100, 10, [*losses, 2.0, 2.0, 2.0, 2.0, 2.0]) == 0.5
    assert recipe.rate_at(0, 100, 10, [*losses, *[2.0] * 6]) == 0.25
    assert recipe.rate_at(0, 100, 10, [*losses, 2.0, 1.0]) == 0.5  # what was halved stays halved
    assert named("plateau").rate_at(0, 100, 10, [1.0] * 500) == LOWEST_RATE


def test_the_plateau_is_torchs():
    """Torch halves when more than ``patience`` epochs were bad, so its patience is one less than our count."""
    optimizer = torch.optim.AdamW([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, factor=0.5, patience=4, threshold=0, threshold_mode="abs", min_lr=LOWEST_RATE
    )
    walk = torch.randn(300, generator=torch.Generator().manual_seed(0)).cumsum(0).tolist()
    for epochs in range(1, len(walk) + 1):
        schedule.step(walk[epochs - 1])
        assert named("plateau").rate_at(0, 1, 1, walk[:epochs]) == optimizer.param_groups[0]["lr"]
    assert optimizer.param_groups[0]["lr"] < 2**-10


def test_the_published_numbers_are_the_recipe():
    published = RECIPES["alignvis"]
    assert (published.rate, published.batch, published.epochs, published.temperature) == (2e-4, 128, 50, 0.04)
    assert (published.decay, published.clip, published.patience, published.share) == (0.1, 1.0, 30, 0.1)
    assert (published.schedule, published.validation, published.warmup) == ("published", "image", 0)
    assert (published.loss, published.scale, published.sides, published.centre) == ("infonce", "fixed", "both", True)
    assert (published.projector, published.head, published.repetitions) == (0, True, "all")
    assert (published.channels, published.window, published.resample, published.smoothing) == ("all", "all", 0, 0)
    assert RECIPES["alignvis-fixed"] == replace(published, schedule="cosine", validation="concept")


@pytest.mark.parametrize("name", ["alignvis", "alignvis-fixed"])
def test_the_published_columns_are_taken(name):
    """Rate, batch, epochs and temperature of one subject, of one left out, and of fMRI."""
    numbers = {
        None: (2e-4, 128, 50, 0.04, "repetition"),
        "leave-out": (1e-4, 512, 150, 0.04, "repetition"),
        "fmri": (1e-4, 128, 50, 0.07, "none"),
    }
    for column, expected in numbers.items():
        full, recipe = choose_recipe(name, {}, column)
        assert full == (f"{name}-{column}" if column else name)
        assert (recipe.rate, recipe.batch, recipe.epochs, recipe.temperature, recipe.normalisation) == expected
        assert recipe.schedule == RECIPES[name].schedule
    assert choose_recipe(name, {}, "leave-out")[1].validation == "concept"  # of others than those who are asked
    assert choose_recipe(name, {}, "fmri")[1].validation == RECIPES[name].validation
    assert choose_recipe(f"{name}-leave-out", {}, "leave-out")[0] == f"{name}-leave-out"


def test_a_change_is_told_from_the_column_that_it_changes():
    assert choose_recipe("alignvis", {"epochs": 150}, "leave-out")[0] == "alignvis-leave-out"
    name, recipe = choose_recipe("alignvis", {"epochs": 50}, "leave-out")
    assert (name, recipe.epochs, recipe.batch) == ("alignvis-leave-out+epochs-50", 50, 512)


def test_a_changed_recipe_has_another_name():
    assert choose_recipe("alignvis", {}) == ("alignvis", RECIPES["alignvis"])
    assert choose_recipe("alignvis", {"epochs": 50})[0] == "alignvis"
    name, recipe = choose_recipe("alignvis-fixed", {"epochs": 3, "validation": "image"})
    assert (name, recipe.epochs, recipe.validation) == ("alignvis-fixed+epochs-3+validation-image", 3, "image")
    with pytest.raises(AlignvisError, match="no recipe is called 'best'; there are: alignvis, alignvis-leave-out"):
        choose_recipe("best", {})


def test_no_two_changes_give_the_same_name_and_every_name_can_be_a_folders():
    """Every one, two and three entries changed, and long lists of channels that differ in their last letter."""
    assert set(OTHER) == {entry.name for entry in fields(Recipe)}
    changes = [dict(some) for count in (1, 2, 3) for some in combinations(OTHER.items(), count)]
    changes += [{"channels": ",".join(["O1"] * 60 + [last])} for last in ("Oz", "O2")]
    changes += [{"window": "0.1:0.5"}, {"window": "-0.1:0.5"}, {"window": "0.1:5"}]
    changes = [change for change in changes if change.get("normalisation") != "mean"]
    found = [choose_recipe("alignvis", change)[0] for change in changes]
    assert len(set(found)) == len(found)
    assert max(map(len, found)) <= LONGEST_NAME
    assert not any(set(name) & set("/:, ") for name in found)


def test_channels_and_a_channel_with_a_hyphen_have_names_of_their_own():
    asked = ("O1,Oz", "O1-Oz", "O1/Oz")
    assert len({choose_recipe("alignvis", {"channels": channels})[0] for channels in asked}) == len(asked)


def test_a_channel_cannot_place_a_run_in_another_folder():
    assert "/" not in choose_recipe("alignvis", {"channels": "A1/A2"})[0]


def test_the_same_changes_have_the_same_name_in_whatever_order_and_kind_of_number():
    changes = [{"epochs": 3, "warmup": 2, "batch": 16}, {"batch": 16, "epochs": 3, "warmup": 2.0}]
    recipes = [choose_recipe("alignvis", change) for change in changes]
    assert recipes[0][1] == recipes[1][1]
    assert recipes[0][0] == recipes[1][0] == "alignvis+batch-16+epochs-3+warmup-2.0"


def test_a_long_name_says_how_many_changes_it_stands_for():
    long = {**OTHER, "channels": ",".join(f"C{i}" for i in range(40))}
    name, recipe = choose_recipe("alignvis-fixed", long)
    assert name.startswith("alignvis-fixed+26-changes-")  # the validation is that of this recipe already
    assert recipe == Recipe(**long)
    assert choose_recipe("alignvis-fixed", long)[0] == name != choose_recipe("alignvis-fixed", {**long, "batch": 65})[0]


@pytest.mark.parametrize("entry", fields(Recipe), ids=lambda entry: entry.name)
def test_what_is_of_the_wrong_kind_is_refused(entry):
    kind = type(entry.default)
    wrong = {
        int: (None, "8", 8.0, True, [8]),
        float: (None, "0.5", True, [0.5]),
        str: (None, 3, True, ["all"]),
        bool: (None, "yes", 0, 1, 1.0),
    }[kind]
    for value in wrong:
        with pytest.raises(AlignvisError, match=f"^--{entry.name.replace('_', '-')} .* is not of the kind of"):
            Recipe(**{entry.name: value})
    if kind is float:
        for value in (float("nan"), float("inf"), -float("inf")):
            with pytest.raises(AlignvisError, match=f"^--{entry.name.replace('_', '-')} .* is not a number"):
                Recipe(**{entry.name: value})


def test_a_whole_number_is_a_number():
    assert Recipe(warmup=2).rate_at(0, 10, 1, []) == 1e-4


@pytest.mark.parametrize(
    "entry", [entry for entry in fields(Recipe) if entry.metadata["choices"]], ids=lambda e: e.name
)
def test_a_word_is_one_of_the_choices(entry):
    for choice in entry.metadata["choices"]:
        assert getattr(Recipe(**{entry.name: choice}), entry.name) == choice
    with pytest.raises(AlignvisError, match=f"--{entry.name} best is none of {', '.join(entry.metadata['choices'])}"):
        Recipe(**{entry.name: "best"})


def test_the_lowest_number_that_makes_sense_is_taken_and_one_below_is_not():
    lowest = {"batch": 2, "epochs": 1, "patience": 1, "projector": 0, "resample": 0}
    lowest |= {"warmup": 0, "decay": 0, "scale_rate": 0, "smoothing": 0}
    for name, value in lowest.items():
        assert getattr(Recipe(**{name: value}), name) == value
        below = value - 1 if type(OTHER[name]) is int else -1e-9
        with pytest.raises(AlignvisError, match=f"--{name.replace('_', '-')} {below} is too low; choose {value} or"):
            Recipe(**{name: below})


@pytest.mark.parametrize("name", ["rate", "temperature", "clip"])
def test_zero_is_refused_where_nothing_could_be_learned(name):
    with pytest.raises(AlignvisError, match=f"--{name} 0 leaves nothing to learn with"):
        Recipe(**{name: 0.0})
    with pytest.raises(AlignvisError, match=f"--{name} -1.0 is too low"):
        Recipe(**{name: -1.0})


@pytest.mark.parametrize("share", [1.0, 1.5])
def test_a_share_leaves_something_on_both_sides(share):
    with pytest.raises(AlignvisError, match=f"--share {share:g} is no share to hold out"):
        Recipe(share=share)


@pytest.mark.parametrize(
    "window", ["", "0.1", "0.1:", "0.5:0.5", "0.6:0.5", "a:b", "0:1:2", "0.1-0.5", "nan:1", "0:nan"]
)
def test_what_is_no_window_is_refused(window):
    with pytest.raises(AlignvisError, match="is no window of time; write one like 0.05:0.6, in seconds"):
        Recipe(window=window)


@pytest.mark.parametrize("band", ["", "8", "8:", "8:8", "13:8", "alpha", "8:13:30", "-1:8", "8-13", "nan:8", "0:nan"])
def test_what_is_no_band_is_refused(band):
    with pytest.raises(AlignvisError, match="is no band of frequencies; write one like 8:13, in hertz"):
        Recipe(band=band)


def test_a_band_has_one_spelling_and_the_recipes_name_says_it():
    assert Recipe(band=" 8.0:13.00").band == Recipe(band="8:13").band == "8:13"
    assert hertz("0.5:4") == (0.5, 4.0) and hertz("all") is None
    assert choose_recipe("alignvis", {"band": "8.0:13"})[0] == "alignvis+band-8-13"


@pytest.mark.parametrize("mixture", ["subset", "pairs"])
def test_a_mean_that_changes_every_step_cannot_be_normalised_beforehand(mixture):
    with pytest.raises(AlignvisError, match=f"--repetitions {mixture} makes a new mean a step"):
        Recipe(normalisation="mean", repetitions=mixture)
    assert Recipe(normalisation="mean", repetitions="all") and Recipe(repetitions=mixture)
