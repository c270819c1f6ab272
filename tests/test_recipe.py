from dataclasses import replace

import pytest
import torch

from alignvis.errors import AlignvisError
from alignvis.recipe import LOWEST_RATE, RECIPES, Recipe, choose_recipe, cosine_rate, published_rate


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


def test_the_published_numbers_are_the_recipe():
    published = RECIPES["alignvis"]
    assert (published.rate, published.batch, published.epochs, published.temperature) == (2e-4, 128, 50, 0.04)
    assert (published.decay, published.clip, published.patience, published.share) == (0.1, 1.0, 30, 0.1)
    assert (published.schedule, published.validation) == ("published", "image")
    assert RECIPES["alignvis-fixed"] == replace(published, schedule="cosine", validation="concept")


def test_a_changed_recipe_has_another_name():
    assert choose_recipe("alignvis", {}) == ("alignvis", RECIPES["alignvis"])
    assert choose_recipe("alignvis", {"epochs": 50})[0] == "alignvis"
    name, recipe = choose_recipe("alignvis-fixed", {"epochs": 3, "validation": "image"})
    assert (name, recipe.epochs, recipe.validation) == ("alignvis-fixed+epochs-3+validation-image", 3, "image")
    with pytest.raises(AlignvisError, match="no recipe is called 'best'; there are: alignvis, alignvis-leave-out"):
        choose_recipe("best", {})
